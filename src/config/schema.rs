//! The JSON Schema of `gateway.yaml`.

use schemars::generate::SchemaSettings;

use super::written::Gateway;

/// The JSON Schema (draft 7, which every editor reads) of `gateway.yaml`, from the types that decode it.
pub fn schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Gateway>();
    schema.insert("title".to_owned(), "gateway.yaml of stockaj-gateway".into());
    schema.to_value()
}
