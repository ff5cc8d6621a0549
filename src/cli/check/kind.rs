//! The kinds of files that `check` validates, distinguished by their keys.

use std::path::Path;

use crate::cases::{LoadedTests, compile_tests, tests_schema};
use crate::config::ability_map::{self, LoadedAbilities};
use crate::config::gateway::{self, Loaded};
use crate::config::language::{Decoder, Diagnostic, Entry, Node, Report, Span, Value, nearest};
use crate::config::sections::SECRETS;

/// A valid file.
#[derive(Debug)]
pub(super) enum Checked {
    /// A gateway.yaml.
    Gateway(Box<Loaded>),
    /// A map file.
    Map(Box<LoadedAbilities>),
    /// A policy test file.
    Tests(Box<LoadedTests>),
}

/// How to determine the kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// It is a gateway.yaml.
    Gateway,
    /// By its keys; a gateway.yaml if they are inconclusive.
    GatewayOrOther,
    /// By its keys; an error if they are inconclusive.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Gateway,
    Map,
    Tests,
}

/// Loads a gateway.yaml, a map file or a policy test file, with the environment of the process.
pub(super) fn load_checked(path: &Path, expect: Expect) -> Result<Checked, Report> {
    let environment = |name: &str| std::env::var(name).ok();
    let mut decoder = Decoder::new(&environment, &SECRETS);
    let tree = decoder.read_file(path);
    let kind = match (expect, tree.as_deref()) {
        (Expect::Gateway, _) | (Expect::GatewayOrOther, None) => Ok(FileKind::Gateway),
        (Expect::GatewayOrOther, Some(tree)) => Ok(kind_of(tree).unwrap_or(FileKind::Gateway)),
        (Expect::Any, None) => return decoder.finish(path, None).map(|(checked, _)| checked),
        (Expect::Any, Some(tree)) => kind_of(tree),
    };
    match kind {
        Ok(FileKind::Gateway) => {
            gateway::compile_document(path, tree, decoder).map(Box::new).map(Checked::Gateway)
        }
        Ok(FileKind::Map) => {
            ability_map::compile_document(path, tree, decoder).map(Box::new).map(Checked::Map)
        }
        Ok(FileKind::Tests) => compile_tests(path, tree, decoder).map(Box::new).map(Checked::Tests),
        Err(error) => {
            decoder.record(*error);
            decoder.finish(path, None).map(|(checked, _)| checked)
        }
    }
}

/// Determines the kind of a file by the keys at its top.
fn kind_of(tree: &Node) -> Result<FileKind, Box<Diagnostic>> {
    const HINT: &str = "a gateway.yaml has `abilities`, a map file `routes`, a policy test file `map` and `cases` or `table`";
    let start = Span { end: tree.span.start, ..tree.span };
    let Value::Mapping(entries) = &tree.value else {
        let error = Diagnostic::error("unknown kind of file").at(start, "expected a mapping");
        return Err(Box::new(error.hint(HINT)));
    };
    let kinds = [
        (FileKind::Gateway, "a gateway.yaml", keys(&gateway::schema())),
        (FileKind::Map, "a map file", keys(&ability_map::map_schema())),
        (FileKind::Tests, "a policy test file", keys(&tests_schema())),
    ];
    let find = |keys: &[String]| entries.iter().find(|entry| keys.iter().any(|key| **key == *entry.key.text));
    let found: Vec<_> =
        kinds.iter().filter_map(|(kind, name, keys)| Some((*kind, *name, find(keys)?))).collect();
    match found.as_slice() {
        [(kind, ..)] => Ok(*kind),
        [(_, one, first), (_, other, second), ..] => {
            let message = "keys of different kinds of files";
            let label = |entry: &Entry, name| format!("`{}` belongs to {name}", entry.key.text);
            let error = Diagnostic::error(message).at(second.key.span, label(second, other));
            Err(Box::new(error.related(first.key.span, label(first, one)).hint(HINT)))
        }
        [] => {
            let known = || kinds.iter().flat_map(|(.., keys)| keys.iter().map(String::as_str));
            let near = entries.iter().find_map(|entry| Some((entry, nearest(&entry.key.text, known())?)));
            let foreign = entries.iter().find(|entry| matches!(&*entry.key.text, "openapi" | "swagger"));
            let error = Diagnostic::error("unknown kind of file");
            Err(Box::new(match (foreign, near) {
                (Some(entry), _) => error
                    .at(entry.key.span, "this is an OpenAPI document")
                    .hint("use `stockaj-gateway openapi FILE`"),
                (None, Some((entry, near))) => {
                    let label = "no file that `check` validates has this key";
                    error.at(entry.key.span, label).hint(format!("did you mean `{near}`?"))
                }
                (None, None) => {
                    error.at(start, "no file that `check` validates has one of these keys").hint(HINT)
                }
            }))
        }
    }
}

/// The keys of a schema.
fn keys(schema: &serde_json::Value) -> Vec<String> {
    let properties = schema.get("properties").and_then(serde_json::Value::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}
