//! JSON Schemas of the files that people write.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

use super::written::Gateway;

/// The JSON Schema (draft 7, which every editor reads) of `gateway.yaml`, from the types that decode it.
pub fn schema() -> serde_json::Value {
    schema_of::<Gateway>("gateway.yaml of stockaj-gateway")
}

/// The schema of a file.
pub(super) fn schema_of<T: JsonSchema>(title: &str) -> serde_json::Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}
