//! The query parameters of an operation whose values the document lists.

use std::rc::Rc;

use super::object::{Document, Field, Object, text};
use crate::config::language::{Decoder, Node, Value};

/// A query parameter whose values the document lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryParameter {
    /// The name, without a `[]` at its end.
    pub name: String,
    /// The separator of several values in one parameter.
    pub split: Option<&'static str>,
    /// The values, in the order of the document.
    pub values: Vec<String>,
}

/// Reads the parameters of an operation, and those of its path that it does not replace. What is malformed is left out:
/// it decides nothing about who may call the operation.
pub(super) fn query_parameters(
    of_path: Option<&Field>,
    of_operation: Option<&Field>,
    document: &mut Document<'_>,
    decoder: &mut Decoder<'_>,
) -> Vec<QueryParameter> {
    let mut read: Vec<(String, Option<QueryParameter>)> = Vec::new();
    let before = decoder.diagnostics.len();
    for field in [of_operation, of_path].into_iter().flatten() {
        let Value::List(items) = &field.entry.value.value else { continue };
        for item in items {
            let Some(parameter) = object(item, document, decoder) else { continue };
            let string = |name: &str| text(&parameter.get(name)?.entry.value).map(str::to_owned);
            let Some(name) = string("name").filter(|_| string("in").as_deref() == Some("query")) else {
                continue;
            };
            if !read.iter().any(|(known, _)| *known == name) {
                let listed = listed(&name, &parameter, document, decoder);
                read.push((name, listed));
            }
        }
    }
    if !document.is_exhausted() {
        decoder.diagnostics.truncate(before);
    }
    read.into_iter().filter_map(|(_, parameter)| parameter).collect()
}

fn object(node: &Rc<Node>, document: &mut Document<'_>, decoder: &mut Decoder<'_>) -> Option<Object> {
    matches!(node.value, Value::Mapping(_)).then(|| document.object(node, "a mapping", decoder)).flatten()
}

/// The parameter, if its schema or that of its items has an `enum`.
fn listed(
    name: &str,
    parameter: &Object,
    document: &mut Document<'_>,
    decoder: &mut Decoder<'_>,
) -> Option<QueryParameter> {
    let schema = object(&parameter.get("schema")?.entry.value, document, decoder)?;
    let items = schema.get("items").and_then(|items| object(&items.entry.value, document, decoder));
    let field = |name: &str| parameter.get(name).and_then(|field| text(&field.entry.value));
    let style = field("style").unwrap_or("form");
    let is_joined = field("explode").map_or(style != "form", |explode| explode == "false");
    let split = match style {
        _ if items.is_none() || !is_joined => None,
        "spaceDelimited" => Some(" "),
        "pipeDelimited" => Some("|"),
        _ => Some(","),
    };
    let Value::List(values) = &items.as_ref().unwrap_or(&schema).get("enum")?.entry.value.value else {
        return None;
    };
    let values: Vec<String> = values.iter().filter_map(|value| text(value).map(str::to_owned)).collect();
    let name = name.strip_suffix("[]").unwrap_or(name).to_owned();
    (!values.is_empty()).then_some(QueryParameter { name, split, values })
}
