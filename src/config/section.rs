//! The sections of `gateway.yaml`, from one definition of each.

use super::decode::{Decode, Decoder};

/// The documentation of an item as the schema's description.
pub(super) fn description(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").replace("  ", " ")
}

/// A section of the configuration: one definition of a struct, of its decoder, of its defaults and of its
/// schema. A field without a default is required, unless its type says what its absence means.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident { $( $(#[doc = $doc:literal])* $field:ident: $type:ty $(= $default:tt)?, )* }
        $(exclusive { $one:ident, $other:ident })?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug)]
        pub(super) struct $name { $( $(#[doc = $doc])* pub(super) $field: $type, )* }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: &$crate::config::tree::Node,
                decoder: &mut $crate::config::decode::Decoder<'_>,
            ) -> Option<Self> {
                let entries = decoder.mapping(node, "a mapping")?;
                decoder.refuse_unknown(entries, &[$(stringify!($field)),*]);
                $(decoder.refuse_both(entries, stringify!($one), stringify!($other));)?
                $(
                    let name = stringify!($field);
                    let $field = match entries.iter().find(|entry| &*entry.key.text == name) {
                        Some(entry) => decoder.within(&entry.key, |decoder| {
                            <$type as $crate::config::decode::Decode>::decode(&entry.value, decoder)
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

            fn absent(decoder: &mut $crate::config::decode::Decoder<'_>) -> Option<Self> {
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
                    let about = $crate::config::section::description(&[$($doc),*]);
                    property.insert("description".to_owned(), about.into());
                    section!(@schema property, required, stringify!($field), $type $(, $default)?);
                    properties.insert(stringify!($field).to_owned(), property.to_value());
                )*
                #[allow(unused_mut)]
                let mut schema = schemars::json_schema!({
                    "type": "object",
                    "description": $crate::config::section::description(&[$($about),*]),
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
        let node = $crate::config::tree::Node::of_default(&serde_json::json!($default));
        <$type as $crate::config::decode::Decode>::decode(&node, $decoder)
    }};
    (@absent $decoder:ident, $type:ty) => {
        <$type as $crate::config::decode::Decode>::absent($decoder)
    };
    (@schema $property:ident, $required:ident, $name:expr, $type:ty, $default:tt) => {
        $property.insert("default".to_owned(), serde_json::json!($default));
    };
    (@schema $property:ident, $required:ident, $name:expr, $type:ty) => {
        if $crate::config::section::is_required::<$type>() {
            $required.push($name);
        }
    };
}
pub(super) use section;

/// Whether a key of this type may not be left out.
pub(super) fn is_required<T: Decode>() -> bool {
    T::absent(&mut Decoder::new(&|_| None)).is_none()
}
