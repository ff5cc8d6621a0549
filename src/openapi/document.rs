//! Reads OpenAPI documents (3.0, 3.1 and 3.2): the operations of an API, and the credentials that each requires.
//!
//! Reads only the fields that decide who may call an operation, and listed values of query parameters. Unknown content in them is an error, a warning or a
//! note.

mod object;
mod operations;
mod parameters;
mod security;
mod servers;

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use http::Method;

use self::object::{entry, merged, text};
use self::operations::Reader;
use crate::config::language::{Decoder, Diagnostic, Entry, Node, Report, Source, Span, Value, nearest};
use crate::config::sections::SECRETS;
use crate::policy::source_location::SourceLocation;

pub use self::parameters::QueryParameter;

/// The largest document, in bytes. Public ones have up to 13 MB.
const MAX_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The fields of a document's root.
const ROOT_FIELDS: [&str; 10] = [
    "openapi",
    "$self",
    "info",
    "jsonSchemaDialect",
    "servers",
    "paths",
    "webhooks",
    "components",
    "security",
    "tags",
];

/// A valid OpenAPI document.
#[derive(Debug)]
pub struct LoadedDescription {
    /// The API that it describes.
    pub description: Description,
    /// Warnings and notes about it.
    pub warnings: Report,
}

/// An API.
#[derive(Debug)]
pub struct Description {
    /// Its title and version.
    pub title: String,
    /// Its operations, in the order of the document.
    pub operations: Vec<Operation>,
    /// Whether it has webhooks or callbacks: requests that the API sends, not requests that it serves.
    pub sends_requests: bool,
}

/// A method of a path.
#[derive(Debug)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path as the gateway receives it, with the path of the server: `/api/v2/items/{id}`.
    pub path: String,
    /// The credentials that it requires.
    pub security: Security,
    /// The parameters of its query whose values the document lists.
    pub parameters: Vec<QueryParameter>,
    /// Its place in the document.
    pub place: Option<SourceLocation>,
}

/// Which credentials an operation requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// The document does not specify it.
    Unspecified,
    /// The specification is malformed or contradictory.
    Malformed,
    /// No credentials: every alternative is empty.
    Public,
    /// Credentials without scopes.
    Credentials,
    /// All scopes of one of these sets, none of which contains another.
    Scopes(Vec<BTreeSet<String>>),
    /// Some alternatives need credentials and one needs none. Holds the scopes of the former, as in `Scopes`; empty
    /// if they name none.
    Optional(Vec<BTreeSet<String>>),
}

/// Loads an OpenAPI document. `prefix` replaces the path of its servers.
///
/// # Errors
/// A report of everything that makes its operations or their requirements uncertain.
pub fn load_description(path: &Path, prefix: Option<&str>) -> Result<LoadedDescription, Report> {
    let mut decoder = Decoder::new(&|_| None, &SECRETS);
    let description = match Source::read(path, MAX_DOCUMENT_BYTES) {
        Ok(source) => decoder.parse(source).and_then(|tree| read(&tree, prefix, &mut decoder)),
        Err(error) => decoder.reject(Diagnostic::error(format!("cannot read `{}`: {error}", path.display()))),
    };
    let (description, warnings) = decoder.finish(path, description)?;
    Ok(LoadedDescription { description, warnings })
}

fn read(root: &Rc<Node>, prefix: Option<&str>, decoder: &mut Decoder<'_>) -> Option<Description> {
    check_version(root, decoder)?;
    check_fields(root, decoder);
    let has_webhooks = entry(root, "webhooks").is_some_and(|webhooks| !merged(&webhooks.value).is_empty());
    let Some(Entry { key, value: paths }) = entry(root, "paths") else {
        decoder.missing(root, "paths");
        return None;
    };
    let errors = decoder.error_count();
    let mut reader = Reader::new(root, prefix, decoder);
    decoder.within(key, |decoder| reader.paths(paths, decoder));
    let Reader { operations, has_callbacks, .. } = reader;
    if operations.is_empty() && decoder.error_count() == errors {
        let error =
            Diagnostic::error("no operations").at(key.span, "expected at least one path with a method");
        decoder.record_within(key, error);
    }
    Some(Description { title: title(root), operations, sends_requests: has_webhooks || has_callbacks })
}

/// Checks that this is an OpenAPI document of a known version. Returns `None` if it recorded an error.
fn check_version(root: &Node, decoder: &mut Decoder<'_>) -> Option<()> {
    const HINT: &str = "an OpenAPI document starts with `openapi: 3.1.0` or a similar version";
    /// Keys of other kinds of files, with descriptions and hints.
    const OTHERS: [(&str, &str, &str); 7] = [
        (
            "swagger",
            "a Swagger 2.0 document, which is not supported",
            "convert it to OpenAPI 3 first; most API tools can",
        ),
        (
            "asyncapi",
            "an AsyncAPI document, which is not supported",
            "AsyncAPI describes messages, not HTTP requests",
        ),
        ("arazzo", "an Arazzo document", "pass the OpenAPI document that it refers to"),
        ("overlay", "an OpenAPI overlay", "apply it to its OpenAPI document first, and pass the result"),
        ("swaggerVersion", "a Swagger 1 document, which is not supported", "convert it to OpenAPI 3 first"),
        ("routes", "a map file", "`openapi DOCUMENT --config MAP` compares a document with a map"),
        ("abilities", "a gateway.yaml", "`openapi DOCUMENT --config MAP` compares a document with a map"),
    ];
    if !matches!(root.value, Value::Mapping(_)) {
        return decoder.mismatch_with(root, "not an OpenAPI document", "a mapping", Some(HINT.to_owned()));
    }
    let Some(version) = entry(root, "openapi") else {
        let other = OTHERS.iter().find_map(|(name, what, help)| Some((entry(root, name)?, what, help)));
        let error = Diagnostic::error("not an OpenAPI document");
        return decoder.reject(match other {
            Some((found, what, help)) => error.at(found.key.span, format!("this is {what}")).hint(*help),
            None => error.at(start_of(root), "expected the key `openapi` here").hint(HINT),
        });
    };
    let found = text(&version.value).unwrap_or_default();
    let is_known = |known: &str| {
        found.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
    };
    if ["3.0", "3.1", "3.2"].into_iter().any(is_known) {
        return Some(());
    }
    decoder.within(&version.key, |decoder| {
        let expected = "3.0, 3.1 or 3.2, such as `3.1.0`";
        let hint = found.starts_with("2.").then(|| "convert the document to OpenAPI 3 first".to_owned());
        decoder.mismatch_with(&version.value, "unsupported version", expected, hint)
    })
}

/// Reports fields of the root that are not read: unknown ones, and paths in extensions.
fn check_fields(root: &Node, decoder: &mut Decoder<'_>) {
    for Entry { key, value } in merged(root) {
        let name = &*key.text;
        if name.starts_with("x-") {
            if merged(value).iter().any(|entry| entry.key.text.starts_with('/')) {
                let warning =
                    Diagnostic::warning("ignored").at(key.span, "paths in extensions are not supported");
                decoder.record_within(key, warning);
            }
        } else if !ROOT_FIELDS.contains(&name) && !matches!(name, "externalDocs" | "<<") {
            let warning = Diagnostic::warning("unknown field").at(key.span, "not a field of OpenAPI 3");
            decoder.record_within(key, warning.suggest(nearest(name, ROOT_FIELDS)));
        }
    }
}

fn start_of(node: &Node) -> Span {
    Span { end: node.span.start, ..node.span }
}

/// Title and version on one line, such as `Stockaj API 2.0`.
fn title(root: &Node) -> String {
    let info = entry(root, "info").map(|entry| &entry.value);
    let of = |name| info.and_then(|info| entry(info, name)).and_then(|entry| text(&entry.value));
    let words = [of("title"), of("version")].into_iter().flatten();
    words.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
