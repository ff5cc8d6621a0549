//! The effective configuration: written values after interpolation, and the defaults of absent keys.

use serde_json::{Map, Value as Json};

use super::decode::Decoder;
use super::document::{Entry, Node, Value};
use super::redact::{REDACTED, is_secret_text};

/// A document as JSON, by the schema of its file, which has every key and its default. Redacts values that the schema
/// marks as `writeOnly` and those that look like secrets, such as a URL with credentials.
pub(crate) fn effective(tree: &Node, schema: &Json, decoder: &mut Decoder<'_>) -> Json {
    let definitions = schema.get("definitions").unwrap_or(&Json::Null);
    Reader { definitions, decoder }.value(Some(tree), schema)
}

struct Reader<'schema, 'decoder, 'environment> {
    definitions: &'schema Json,
    decoder: &'decoder mut Decoder<'environment>,
}

impl<'schema> Reader<'schema, '_, '_> {
    fn value(&mut self, node: Option<&Node>, schema: &'schema Json) -> Json {
        let Some(node) = node else { return self.absent(schema) };
        let schema = self.resolve(schema, node);
        match &node.value {
            Value::Scalar { .. } => self.scalar(node, schema),
            Value::List(items) => {
                let one = schema.get("items").unwrap_or(&Json::Null);
                items.iter().map(|item| self.value(Some(item), one)).collect()
            }
            Value::Mapping(entries) => self.mapping(entries, schema),
            Value::Broken => Json::Null,
        }
    }

    /// The value of an absent key: its default, or the defaults of its section, or null.
    fn absent(&mut self, schema: &'schema Json) -> Json {
        if let Some(default) = schema.get("default") {
            return default.clone();
        }
        let section = self.referred(schema).unwrap_or(schema);
        if section.get("type").and_then(Json::as_str) == Some("object") {
            return self.mapping(&[], section);
        }
        Json::Null
    }

    fn mapping(&mut self, entries: &[Entry], schema: &'schema Json) -> Json {
        let mut shown = Map::new();
        // Other mappings than sections, such as routes, have no defaults.
        let is_section = schema.get("description").is_some();
        let properties = schema.get("properties").and_then(Json::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            let entry = entries.iter().find(|entry| *entry.key.text == **name);
            if entry.is_some() || is_section {
                shown.insert(name.clone(), self.value(entry.map(|entry| &*entry.value), schema));
            }
        }
        let patterns = schema.get("patternProperties").and_then(Json::as_object);
        let other = patterns.and_then(|patterns| patterns.values().next());
        let other = other.or_else(|| schema.get("additionalProperties")).unwrap_or(&Json::Null);
        for Entry { key, value } in entries {
            if !shown.contains_key(&*key.text) {
                shown.insert(key.text.to_string(), self.value(Some(value), other));
            }
        }
        Json::Object(shown)
    }

    fn scalar(&mut self, node: &Node, schema: &Json) -> Json {
        if schema.get("writeOnly") == Some(&Json::Bool(true)) || self.decoder.is_secret(node) {
            return REDACTED.into();
        }
        let Some(scalar) = self.decoder.scalar(node, "a value") else { return Json::Null };
        if is_secret_text(&scalar.text) {
            return REDACTED.into();
        }
        if scalar.string {
            return scalar.text.into_owned().into();
        }
        // A number, a boolean or null, unless it is text without quotes.
        let plain = serde_json::from_str::<Json>(&scalar.text).ok().filter(|value| !value.is_string());
        plain.unwrap_or_else(|| scalar.text.into_owned().into())
    }

    /// The definition that a schema refers to.
    fn referred(&self, schema: &'schema Json) -> Option<&'schema Json> {
        let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref"))?.as_str()?;
        self.definitions.get(reference.strip_prefix("#/definitions/")?)
    }

    /// The schema of `node`; of several alternatives the one for its type.
    fn resolve(&self, schema: &'schema Json, node: &Node) -> &'schema Json {
        let schema = self.referred(schema).unwrap_or(schema);
        let Some(choices) = schema.get("anyOf").and_then(Json::as_array) else { return schema };
        let kind = match &node.value {
            Value::Mapping(_) => "object",
            Value::List(_) => "array",
            Value::Scalar { .. } | Value::Broken => "string",
        };
        let choices = choices.iter().map(|choice| self.referred(choice).unwrap_or(choice));
        let of_kind = |choice: &&Json| choice.get("type").and_then(Json::as_str) == Some(kind);
        let mut nested = choices.clone().filter(|choice| choice.get("anyOf").is_some());
        match choices.clone().find(of_kind) {
            Some(choice) => choice,
            None => nested.next().map_or(schema, |choice| self.resolve(choice, node)),
        }
    }
}
