//! Sections: mappings with fixed keys, from one definition each. Also the schemas of whole files.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

use super::decode::{Decode, Decoder};
use super::redact::SecretSections;

/// Turns the lines of a documentation comment into a description for the schema.
pub(crate) fn description(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").replace("  ", " ")
}

/// Defines the struct of a section with its decoder, its defaults and its schema. A field without a default is
/// required, unless its type has a value for an absent key. Of two `exclusive` keys only one may be present.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident { $( $(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:tt)?, )* }
        $(exclusive { $one:ident, $other:ident })?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug)]
        pub(crate) struct $name { $( $(#[doc = $doc])* $field: $type, )* }

        impl $crate::config::language::Decode for $name {
            fn decode(
                node: &$crate::config::language::Node,
                decoder: &mut $crate::config::language::Decoder<'_>,
            ) -> Option<Self> {
                let entries = decoder.mapping(node, "a mapping")?;
                decoder.reject_unknown(entries, &[$(stringify!($field)),*]);
                $(decoder.reject_both(entries, stringify!($one), stringify!($other));)?
                $(
                    let name = stringify!($field);
                    let $field = match $crate::config::language::find_entry(entries, name) {
                        Some(entry) => decoder.within(&entry.key, |decoder| {
                            <$type as $crate::config::language::Decode>::decode(&entry.value, decoder)
                        }),
                        None => {
                            let value: Option<$type> = section!(@absent decoder, $type $(, $default)?);
                            if value.is_none() {
                                decoder.missing(node, name);
                            }
                            value
                        }
                    };
                )*
                Some(Self { $( $field: $field?, )* })
            }

            fn absent(decoder: &mut $crate::config::language::Decoder<'_>) -> Option<Self> {
                Some(Self { $( $field: section!(@absent decoder, $type $(, $default)?)?, )* })
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut properties = serde_json::Map::new();
                #[allow(unused_mut)]
                let mut required: Vec<&str> = Vec::new();
                $(
                    let mut property = generator.subschema_for::<$type>();
                    let about = $crate::config::language::section::description(&[$($doc),*]);
                    property.insert("description".to_owned(), about.into());
                    section!(@schema property, required, stringify!($field), $type $(, $default)?);
                    properties.insert(stringify!($field).to_owned(), property.to_value());
                )*
                #[allow(unused_mut)]
                let mut schema = schemars::json_schema!({
                    "type": "object",
                    "description": $crate::config::language::section::description(&[$($about),*]),
                    "properties": properties,
                    "additionalProperties": false,
                });
                if !required.is_empty() {
                    schema.insert("required".to_owned(), required.into());
                }
                $(schema.insert(
                    "not".to_owned(),
                    serde_json::json!({"required": [stringify!($one), stringify!($other)]}),
                );)?
                schema
            }
        }
    };
    (@absent $decoder:ident, $type:ty, $default:tt) => {{
        let node = $crate::config::language::Node::of_default(&serde_json::json!($default));
        <$type as $crate::config::language::Decode>::decode(&node, $decoder)
    }};
    (@absent $decoder:ident, $type:ty) => {
        <$type as $crate::config::language::Decode>::absent($decoder)
    };
    (@schema $property:ident, $required:ident, $name:expr, $type:ty, $default:tt) => {
        $property.insert("default".to_owned(), serde_json::json!($default));
    };
    (@schema $property:ident, $required:ident, $name:expr, $type:ty) => {
        if $crate::config::language::section::is_required::<$type>() {
            $required.push($name);
        }
    };
}
pub(crate) use section;

/// Whether a key of this type is required.
pub(crate) fn is_required<T: Decode>() -> bool {
    T::absent(&mut Decoder::new(&|_| None, &SecretSections::NONE)).is_none()
}

/// The JSON Schema of a kind of file, in draft 7, which every editor supports.
///
/// `id` names the schema. It is a URN, because no server is sure to have the schema of this version.
pub(crate) fn schema_of<T: JsonSchema>(id: &str, title: &str) -> serde_json::Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    schema.insert("$id".to_owned(), format!("urn:stockaj-gateway:schema:{id}").into());
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}
