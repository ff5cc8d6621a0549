//! Paths, path items and operations.

use std::rc::Rc;

use http::Method;

use super::object::{Document, Field, Object, entry, merged};
use super::parameters::query_parameters;
use super::security::{Schemes, weight};
use super::servers::base_path;
use super::{Operation, Security};
use crate::config::language::{Decoder, Diagnostic, Entry, Key, Node, Value, nearest};

/// The most operations of a document: many paths may refer to one path item.
const MAX_OPERATIONS: usize = 50_000;

/// The fields of a path item that are methods which the gateway serves.
const METHODS: [(&str, Method); 7] = [
    ("get", Method::GET),
    ("head", Method::HEAD),
    ("post", Method::POST),
    ("put", Method::PUT),
    ("patch", Method::PATCH),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
];
/// The fields that are methods which the gateway does not serve.
const NOT_SERVED: [&str; 3] = ["trace", "connect", "query"];
/// The other fields of a path item.
const BESIDE_METHODS: [&str; 5] = ["$ref", "summary", "description", "servers", "parameters"];

/// Reads the operations of a document.
pub(super) struct Reader<'node> {
    document: Document<'node>,
    schemes: Schemes<'node>,
    /// The path in front of all paths, unless a path item or an operation has servers of its own.
    prefix: String,
    /// Whether the command line has a prefix, which replaces servers.
    is_prefix_given: bool,
    /// The requirement of operations without their own `security`.
    default: Security,
    pub(super) operations: Vec<Operation>,
    pub(super) has_callbacks: bool,
    is_full: bool,
}

impl<'node> Reader<'node> {
    pub(super) fn new(root: &'node Rc<Node>, prefix: Option<&str>, decoder: &mut Decoder<'_>) -> Self {
        let mut document = Document::new(root);
        let mut schemes = Schemes::new(root);
        // An empty list at the root may be incomplete (OpenAPI 3.1.1 section 4.8.1).
        let is_said = |entry: &&Entry| !matches!(&entry.value.value, Value::List(items) if items.is_empty());
        let default = entry(root, "security").filter(is_said).map(|Entry { key, value }| {
            decoder.within(key, |decoder| schemes.security(value, &mut document, decoder))
        });
        let servers = || entry(root, "servers").map(|servers| base_path(servers, decoder));
        let base = prefix.map(|prefix| prefix.trim_end_matches('/').to_owned()).or_else(servers);
        Self {
            document,
            schemes,
            prefix: base.unwrap_or_default(),
            is_prefix_given: prefix.is_some(),
            default: default.unwrap_or(Security::Unspecified),
            operations: Vec::new(),
            has_callbacks: false,
            is_full: false,
        }
    }

    /// Reads the `paths` of the document.
    pub(super) fn paths(&mut self, paths: &Rc<Node>, decoder: &mut Decoder<'_>) {
        let Some(paths) = self.document.object(paths, "a mapping of paths", decoder) else { return };
        for Field { entry, .. } in paths.fields() {
            let Entry { key, value } = entry;
            if &*key.text == "$ref" {
                continue;
            }
            decoder.within(key, |decoder| {
                if key.text.starts_with("x-") {
                    if merged(value)
                        .iter()
                        .any(|field| METHODS.iter().any(|(name, _)| *name == &*field.key.text))
                    {
                        let label = "paths in extensions are not supported";
                        decoder.record(Diagnostic::warning("ignored").at(key.span, label));
                    }
                } else if !key.text.starts_with('/') {
                    decoder.record(Diagnostic::error("invalid path").at(key.span, "a path starts with `/`"));
                } else if let Some(item) = self.document.object(value, "a mapping of methods", decoder) {
                    self.path_item(&key.text, &item, decoder);
                }
            });
        }
    }

    fn path_item(&mut self, path: &str, item: &Object, decoder: &mut Decoder<'_>) {
        let prefix = match item.get("servers").filter(|_| !self.is_prefix_given) {
            Some(servers) => base_path(&servers.entry, decoder),
            None => self.prefix.clone(),
        };
        for (name, method) in &METHODS {
            if let Some(field) = item.get(name) {
                decoder.within(&field.entry.key, |decoder| {
                    let parameters = item.get("parameters");
                    self.operation(method, (&prefix, path), parameters, field, decoder);
                });
            }
        }
        for Field { entry, .. } in item.fields() {
            let name = &*entry.key.text;
            let is_known = METHODS.iter().any(|(known, _)| *known == name) || BESIDE_METHODS.contains(&name);
            if !is_known {
                decoder.within(&entry.key, |decoder| report_left_out(entry, decoder));
            }
        }
    }

    fn operation(
        &mut self,
        method: &Method,
        (prefix, path): (&str, &str),
        parameters: Option<&Field>,
        field: &Field,
        decoder: &mut Decoder<'_>,
    ) {
        let Entry { key, value } = &field.entry;
        if self.operations.len() == MAX_OPERATIONS {
            if !std::mem::replace(&mut self.is_full, true) {
                let label = format!("the document has more than {MAX_OPERATIONS} operations");
                decoder.record(Diagnostic::error("too many operations").at(key.span, label));
            }
            return;
        }
        let Some(operation) = self.document.object(value, "an operation", decoder) else { return };
        let Some(security) = self.security(field, &operation, decoder) else { return };
        let own = operation.get("servers").filter(|_| !self.is_prefix_given);
        let prefix =
            own.map(|servers| base_path(&servers.entry, decoder)).unwrap_or_else(|| prefix.to_owned());
        self.has_callbacks |= operation.get("callbacks").is_some();
        let own = operation.get("parameters");
        let parameters = query_parameters(parameters, own, &mut self.document, decoder);
        for Field { entry, .. } in operation.fields() {
            report_unknown(&entry.key, decoder);
        }
        self.operations.push(Operation {
            method: method.clone(),
            path: prefix + path,
            security,
            parameters,
            place: decoder.place(key.span),
        });
    }

    /// The credentials that an operation requires. Returns `None` if it recorded an error.
    fn security(&mut self, field: &Field, operation: &Object, decoder: &mut Decoder<'_>) -> Option<Security> {
        let Some(own) = operation.get("security") else {
            self.document.count(weight(&self.default), &field.entry.value, decoder)?;
            return Some(match self.default.clone() {
                Security::Public if field.is_contested => Security::Malformed,
                default => default,
            });
        };
        decoder.within(&own.entry.key, |decoder| {
            let security = self.schemes.security(&own.entry.value, &mut self.document, decoder);
            if own.is_beside_reference && !own.is_contested {
                let label = "OpenAPI does not define fields next to a `$ref`: other tools may ignore it";
                decoder
                    .record(Diagnostic::warning("`security` next to a `$ref`").at(own.entry.key.span, label));
            }
            // An operation is not public if programs disagree about its security.
            let is_doubtful = field.is_contested || own.is_beside_reference;
            Some(if is_doubtful && security == Security::Public { Security::Malformed } else { security })
        })
    }
}

/// Reports a field of an operation that resembles a field of another object, or one that is read.
fn report_unknown(key: &Key, decoder: &mut Decoder<'_>) {
    let name = &*key.text;
    let is_foreign = name == "paths" || METHODS.iter().any(|(method, _)| *method == name);
    let near = nearest(name, ["security", "servers"]).filter(|near| *near != name);
    if is_foreign || near.is_some() {
        let warning = Diagnostic::warning("unknown field").at(key.span, "not a field of an operation");
        decoder.record_within(key, warning.suggest(near));
    }
}

/// Reports a field of a path item that is not read.
fn report_left_out(Entry { key, value }: &Entry, decoder: &mut Decoder<'_>) {
    let name = &*key.text;
    if name.starts_with("x-") {
        if merged(value).iter().any(|field| &*field.key.text == "responses") {
            let label = "operations in extensions are not supported";
            decoder.record(Diagnostic::warning("ignored").at(key.span, label));
        }
        return;
    }
    if name == "additionalOperations" {
        for Entry { key, .. } in merged(value) {
            let known = METHODS.iter().find(|(_, method)| method.as_str().eq_ignore_ascii_case(&key.text));
            let warning = Diagnostic::warning("ignored");
            let warning = match known {
                Some((known, _)) => {
                    warning.at(key.span, "not allowed here").hint(format!("write it as `{known}`"))
                }
                None => warning.at(key.span, format!("the gateway does not serve {}", key.text)),
            };
            decoder.record_within(key, warning);
        }
        return;
    }
    let warning = Diagnostic::warning("ignored");
    decoder.record(if NOT_SERVED.contains(&name) {
        warning.at(key.span, format!("the gateway does not serve {}", name.to_ascii_uppercase()))
    } else if name == "security" {
        warning.at(key.span, "paths do not have `security`").hint("set `security` in each operation")
    } else {
        let known = METHODS.iter().map(|(known, _)| *known);
        warning.at(key.span, "not a method").suggest(nearest(name, known))
    });
}
