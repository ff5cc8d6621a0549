//! Files that `check` validates, told apart by their content.

use std::path::Path;

use super::cases::{LoadedTests, PolicyTest, compile_tests};
use super::decode::{Decoder, nearest};
use super::load::{Loaded, LoadedAbilities, abilities_of, report, settings};
use super::report::{Mistake, Report};
use super::schema::schema_of;
use super::source::Span;
use super::tree::{Entry, Node, Value};
use super::written::{Gateway, MapFile};

/// A file without errors.
#[derive(Debug)]
pub enum Checked {
    /// A gateway.yaml.
    Gateway(Box<Loaded>),
    /// A map file.
    Map(Box<LoadedAbilities>),
    /// A policy test file.
    Tests(Box<LoadedTests>),
}

/// How the kind of a file is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is a gateway.yaml.
    Gateway,
    /// By its keys; a gateway.yaml if they do not tell.
    GatewayOrOther,
    /// By its keys; an error if they do not tell.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gateway,
    Map,
    Tests,
}

/// Reads a gateway.yaml, a map file or a policy test file, with the process's environment.
///
/// # Errors
/// Every mistake in it.
pub fn load_checked(path: &Path, expect: Expect) -> Result<Checked, Report> {
    let environment = |name: &str| std::env::var(name).ok();
    let mut decoder = Decoder::new(&environment);
    decoder.files.push(path.to_owned());
    let tree = decoder.read_tree(path, None);
    let kind = match (expect, tree.as_deref()) {
        (Expect::Gateway, _) | (Expect::GatewayOrOther, None) => Ok(Kind::Gateway),
        (Expect::GatewayOrOther, Some(tree)) => Ok(kind_of(tree).unwrap_or(Kind::Gateway)),
        // What is wrong with the syntax was recorded.
        (Expect::Any, None) => return Err(report(path, decoder).0),
        (Expect::Any, Some(tree)) => kind_of(tree),
    };
    match kind {
        Ok(Kind::Gateway) => settings(path, tree, decoder).map(Box::new).map(Checked::Gateway),
        Ok(Kind::Map) => abilities_of(path, tree, decoder).map(Box::new).map(Checked::Map),
        Ok(Kind::Tests) => compile_tests(path, tree, decoder).map(Box::new).map(Checked::Tests),
        Err(mistake) => {
            decoder.record(*mistake);
            Err(report(path, decoder).0)
        }
    }
}

/// The kind of file that the keys at the top of `tree` belong to.
fn kind_of(tree: &Node) -> Result<Kind, Box<Mistake>> {
    const HINT: &str = "a gateway.yaml has `abilities`, a map file `routes`, a policy test file `map` and `cases` or `table`";
    let start = Span { end: tree.span.start, ..tree.span };
    let Value::Mapping(entries) = &tree.value else {
        let mistake = Mistake::error("unknown kind of file").at(start, "expected a mapping");
        return Err(Box::new(mistake.hint(HINT)));
    };
    let kinds = [
        (Kind::Gateway, "a gateway.yaml", keys(&schema_of::<Gateway>(""))),
        (Kind::Map, "a map file", keys(&schema_of::<MapFile>(""))),
        (Kind::Tests, "a policy test file", keys(&schema_of::<PolicyTest>(""))),
    ];
    let find = |keys: &[String]| entries.iter().find(|entry| keys.iter().any(|key| **key == *entry.key.text));
    let found: Vec<_> =
        kinds.iter().filter_map(|(kind, name, keys)| Some((*kind, *name, find(keys)?))).collect();
    match found.as_slice() {
        [(kind, ..)] => Ok(*kind),
        [(_, one, first), (_, other, second), ..] => {
            let message = "keys of different kinds of files";
            let label = |entry: &Entry, name| format!("`{}` belongs to {name}", entry.key.text);
            let mistake = Mistake::error(message).at(second.key.span, label(second, other));
            Err(Box::new(mistake.see(first.key.span, label(first, one)).hint(HINT)))
        }
        [] => {
            let known = || kinds.iter().flat_map(|(.., keys)| keys.iter().map(String::as_str));
            let near = entries.iter().find_map(|entry| Some((entry, nearest(&entry.key.text, known())?)));
            let foreign = entries.iter().find(|entry| matches!(&*entry.key.text, "openapi" | "swagger"));
            let mistake = Mistake::error("unknown kind of file");
            Err(Box::new(match (foreign, near) {
                (Some(entry), _) => mistake
                    .at(entry.key.span, "this is an OpenAPI document")
                    .hint("`stockaj-gateway openapi FILE` reads it"),
                (None, Some((entry, near))) => {
                    let label = "not a key of any file that `check` validates";
                    mistake.at(entry.key.span, label).hint(format!("did you mean `{near}`?"))
                }
                (None, None) => {
                    mistake.at(start, "none of its keys belongs to a file that `check` validates").hint(HINT)
                }
            }))
        }
    }
}

/// The keys that a schema names.
fn keys(schema: &serde_json::Value) -> Vec<String> {
    let properties = schema.get("properties").and_then(serde_json::Value::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}
