//! OpenAPI documents: which operations there are, and what each asks of its caller.
//!
//! OpenAPI 3.0 and 3.1, and of Swagger 2.0 what is alike. Only what says who may call is read; the rest may be
//! as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use http::Method;
use percent_encoding::percent_decode_str;

use super::decode::{Decoder, nearest};
use super::load::report;
use super::report::{Mistake, Report, Severity};
use super::source::{Source, Span};
use super::tree::{Entry, Key, Node, Value};
use crate::policy::map::Place;

/// How many operations a document may have: many paths may refer to one path item.
const MOST_OPERATIONS: usize = 10_000;
/// How many references may be followed from one.
const MOST_REFERENCES: usize = 16;
/// How many keys may be looked at for the path items of a document: with references they may be more than it has.
const MOST_LOOKED_AT: usize = 2_000_000;
/// How many scopes and alternatives one operation may ask for: every one that says nothing of its own has a copy.
const MOST_SCOPES: usize = 100;
/// The longest address of a server, in bytes: its variables' defaults may name variables.
const LONGEST_URL: usize = 8 * 1024;

/// A path item's keys for methods that are served.
const METHODS: [(&str, Method); 7] = [
    ("get", Method::GET),
    ("head", Method::HEAD),
    ("post", Method::POST),
    ("put", Method::PUT),
    ("patch", Method::PATCH),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
];
/// Those for methods that are not.
const NOT_SERVED: [&str; 3] = ["trace", "connect", "query"];
/// A path item's other keys.
const BESIDE_METHODS: [&str; 6] =
    ["$ref", "summary", "description", "servers", "parameters", "additionalOperations"];

/// An OpenAPI document, read.
#[derive(Debug)]
pub struct LoadedDescription {
    /// What it says.
    pub description: Description,
    /// Warnings about it.
    pub warnings: Report,
}

/// What an API is like.
#[derive(Debug)]
pub struct Description {
    /// What it is called, and its version.
    pub title: String,
    /// Its operations, in the order of the document.
    pub operations: Vec<Operation>,
}

/// A method of a path.
#[derive(Debug)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path behind the gateway, that of the server in front: `/api/v2/items/{id}`.
    pub path: String,
    /// What it asks of its caller.
    pub security: Security,
    /// Where it is written.
    pub place: Option<Place>,
}

/// What an operation asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// The document does not say.
    Unsaid,
    /// Nothing.
    Public,
    /// Credentials, of which it does not say what they must be good for.
    Credentials,
    /// Every scope of one of these, none of which contains another.
    Scopes(Vec<BTreeSet<String>>),
}

/// Reads an OpenAPI document. `prefix` stands in front of its paths, instead of that of its servers.
///
/// # Errors
/// Every mistake in it that concerns who may call.
pub fn load_description(path: &Path, prefix: Option<&str>) -> Result<LoadedDescription, Report> {
    // What looks like a variable is an example there, and nobody's secret.
    let mut decoder = Decoder::new(&|_| None);
    let description = match Source::read_document(path) {
        Ok(source) => decoder.parse(source).and_then(|tree| read(&tree, prefix, &mut decoder)),
        Err(error) => {
            decoder.record(Mistake::error(format!("cannot read `{}`: {error}", path.display())));
            None
        }
    };
    let (report, _) = report(path, decoder);
    match description {
        Some(description) if report.count(Severity::Error) == 0 => {
            Ok(LoadedDescription { description, warnings: report })
        }
        _ => Err(report),
    }
}

fn read(root: &Rc<Node>, prefix: Option<&str>, decoder: &mut Decoder<'_>) -> Option<Description> {
    check_version(root, decoder)?;
    let Some(Entry { key, value: paths }) = entry(root, "paths") else {
        if entry(root, "webhooks").is_none() && entry(root, "components").is_none() {
            decoder.missing(root, "paths");
        }
        return Some(Description { title: title(root), operations: Vec::new() });
    };
    let mut reader = Reader {
        root,
        prefix: match prefix {
            Some(prefix) => prefix.trim_end_matches('/').to_owned(),
            None => base_path(root, decoder),
        },
        given: prefix.is_some(),
        // An empty list, or none, is no statement: it may be incomplete (OpenAPI 3.1.1 section 4.8.1).
        global: entry(root, "security")
            .filter(|entry| !matches!(&entry.value.value, Value::List(items) if items.is_empty()))
            .map(|entry| security(&entry.value, decoder)),
        schemes: schemes(root),
        operations: Vec::new(),
        looked_at: 0,
        too_many: false,
    };
    decoder.within(key, |decoder| reader.paths(paths, decoder));
    Some(Description { title: title(root), operations: reader.operations })
}

/// None: it is no such document, and that was recorded.
fn check_version(root: &Node, decoder: &mut Decoder<'_>) -> Option<()> {
    const HINT: &str = "an OpenAPI document begins with `openapi: 3.1.0` or `openapi: 3.0.3`";
    if !matches!(root.value, Value::Mapping(_)) {
        decoder.mismatch_with(root, "not an OpenAPI document", "a mapping", Some(HINT.to_owned()));
        return None;
    }
    let (version, known) = match (entry(root, "openapi"), entry(root, "swagger")) {
        (Some(version), _) => (version, &["3.0", "3.1"][..]),
        (None, Some(version)) => (version, &["2.0"][..]),
        (None, None) => {
            let hint = match entry(root, "routes").or(entry(root, "abilities")) {
                Some(_) => "this is a map: `openapi DOCUMENT --config MAP` compares the two",
                None => HINT,
            };
            let label = "expected the key `openapi` in here";
            decoder.record(Mistake::error("not an OpenAPI document").at(start_of(root), label).hint(hint));
            return None;
        }
    };
    let text = text(&version.value).unwrap_or_default();
    if known.iter().any(|known| text == *known || text.starts_with(&format!("{known}."))) {
        return Some(());
    }
    decoder.within(&version.key, |decoder| {
        let hint = Some("versions are 3.0 and 3.1, and `swagger: '2.0'`".to_owned());
        decoder.mismatch_with(&version.value, "a version that is not known", "one that is", hint);
    });
    None
}

fn start_of(node: &Node) -> Span {
    Span { end: node.span.start, ..node.span }
}

fn entry<'node>(node: &'node Node, name: &str) -> Option<&'node Entry> {
    match &node.value {
        Value::Mapping(entries) => entries.iter().find(|entry| &*entry.key.text == name),
        _ => None,
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// Such as `Stockaj API 2.0`, on one line.
fn title(root: &Node) -> String {
    let info = entry(root, "info").map(|entry| &entry.value);
    let of = |name| info.and_then(|info| entry(info, name)).and_then(|entry| text(&entry.value));
    let words = [of("title"), of("version")].into_iter().flatten();
    words.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names of the security schemes; none where the document has no such section.
fn schemes(root: &Node) -> Option<BTreeSet<&str>> {
    let components = entry(root, "components").and_then(|it| entry(&it.value, "securitySchemes"));
    let Value::Mapping(entries) = &components.or_else(|| entry(root, "securityDefinitions"))?.value.value
    else {
        return None;
    };
    Some(entries.iter().map(|entry| &*entry.key.text).collect())
}

/// The path that servers have in front of all paths: that of the first one.
fn base_path(node: &Node, decoder: &mut Decoder<'_>) -> String {
    if let Some(base) = entry(node, "basePath").and_then(|entry| text(&entry.value)) {
        return base.trim_end_matches('/').to_owned();
    }
    let Some(Entry { key, value }) = entry(node, "servers") else { return String::new() };
    decoder.within(key, |decoder| {
        let servers = decoder.list(value, "a list of servers").unwrap_or_default();
        let mut paths: Vec<(String, &Node)> = Vec::new();
        for server in servers {
            if let Some(url) = entry(server, "url").and_then(|entry| text(&entry.value)) {
                match with_defaults(url, server) {
                    Some(url) => paths.push((path_of_url(&url), server)),
                    None => decoder.record(
                        Mistake::error("too long")
                            .at(server.span, format!("its URL has at most {LONGEST_URL} bytes")),
                    ),
                }
            } else {
                decoder.missing(server, "url");
            }
        }
        let Some((first, _)) = paths.first() else { return String::new() };
        if let Some((_, other)) = paths.iter().find(|(path, _)| path != first) {
            let mistake = Mistake::warning("servers with different paths")
                .at(other.span, format!("this one is not looked at; the first one's path is `{first}`"))
                .hint("`--prefix PATH` takes another one");
            decoder.record(mistake);
        }
        first.clone()
    })
}

/// A server's URL with the defaults of its variables; none where that is too long.
fn with_defaults(url: &str, server: &Node) -> Option<String> {
    let variables = entry(server, "variables").map(|entry| &entry.value.value);
    let mut url = url.to_owned();
    let entries = if let Some(Value::Mapping(entries)) = variables { &entries[..] } else { &[] };
    for variable in entries {
        let Some(default) = entry(&variable.value, "default").and_then(|entry| text(&entry.value)) else {
            continue;
        };
        let name = format!("{{{}}}", variable.key.text);
        if url.len().saturating_add(url.matches(&name).count().saturating_mul(default.len())) > LONGEST_URL {
            return None;
        }
        url = url.replace(&name, default);
    }
    (url.len() <= LONGEST_URL).then_some(url)
}

/// The path of a URL that may be relative, without a slash at its end.
fn path_of_url(url: &str) -> String {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |start| &rest[start..]),
        None => url.trim_start_matches('.'),
    };
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

struct Reader<'node> {
    root: &'node Rc<Node>,
    prefix: String,
    /// Whether the prefix is the caller's, whatever servers say.
    given: bool,
    global: Option<Security>,
    schemes: Option<BTreeSet<&'node str>>,
    operations: Vec<Operation>,
    /// Keys, so far.
    looked_at: usize,
    too_many: bool,
}

impl Reader<'_> {
    fn paths(&mut self, paths: &Node, decoder: &mut Decoder<'_>) {
        for Entry { key, value } in decoder.mapping(paths, "a mapping of paths").unwrap_or_default() {
            if key.text.starts_with("x-") {
                continue;
            }
            decoder.within(key, |decoder| {
                if !key.text.starts_with('/') {
                    decoder.record(Mistake::error("not a path").at(key.span, "a path begins with `/`"));
                } else if let Some(item) = self.path_item(value, decoder) {
                    self.operations_of(&key.text, &item, decoder);
                }
            });
        }
    }

    /// A path item's entries by their keys, references followed: what stands beside one counts.
    fn path_item(&mut self, node: &Rc<Node>, decoder: &mut Decoder<'_>) -> Option<BTreeMap<Box<str>, Entry>> {
        let mut found = BTreeMap::new();
        let mut node = Rc::clone(node);
        for _ in 0..MOST_REFERENCES {
            self.look_at(&node, decoder)?;
            for entry in decoder.mapping(&node, "a mapping of methods")? {
                found.entry(entry.key.text.clone()).or_insert_with(|| entry.clone());
            }
            let Some(reference) = entry(&node, "$ref").map(|entry| Rc::clone(&entry.value)) else {
                return Some(found);
            };
            node = self.follow(&reference, decoder)?;
        }
        let label = format!("more than {MOST_REFERENCES} references from here");
        decoder.record(Mistake::error("references without an end").at(start_of(&node), label));
        None
    }

    /// None: that is one too many, and that was recorded.
    fn look_at(&mut self, node: &Node, decoder: &mut Decoder<'_>) -> Option<()> {
        let keys = if let Value::Mapping(entries) = &node.value { entries.len() } else { 1 };
        self.looked_at = self.looked_at.saturating_add(keys);
        if self.looked_at <= MOST_LOOKED_AT {
            return Some(());
        }
        if !std::mem::replace(&mut self.too_many, true) {
            let label = format!("more than {MOST_LOOKED_AT} keys up to here, references followed");
            decoder.record(Mistake::error("too many references").at(start_of(node), label));
        }
        None
    }

    /// What a reference refers to, by a JSON Pointer (RFC 6901) in this document.
    fn follow(&mut self, reference: &Node, decoder: &mut Decoder<'_>) -> Option<Rc<Node>> {
        let written = text(reference).unwrap_or_default();
        let Some(pointer) = written.strip_prefix('#') else {
            let mistake = Mistake::error("a reference to another document")
                .at(reference.span, "expected one that begins with `#/`")
                .hint("make one document of them all first, with any tool that bundles");
            decoder.record(mistake);
            return None;
        };
        let mut node = Rc::clone(self.root);
        for step in pointer.split('/').skip(1) {
            let step = percent_decode_str(step).decode_utf8_lossy().replace("~1", "/").replace("~0", "~");
            self.look_at(&node, decoder)?;
            let next = match &node.value {
                Value::List(items) => {
                    step.parse().ok().and_then(|index: usize| items.get(index)).map(Rc::clone)
                }
                _ => entry(&node, &step).map(|entry| Rc::clone(&entry.value)),
            };
            let Some(next) = next else {
                decoder.record(
                    Mistake::error("a reference to nothing").at(reference.span, "there is no such place"),
                );
                return None;
            };
            node = next;
        }
        Some(node)
    }

    fn operations_of(&mut self, path: &str, item: &BTreeMap<Box<str>, Entry>, decoder: &mut Decoder<'_>) {
        for (method, operation) in
            METHODS.iter().filter_map(|(name, method)| Some((method, item.get(*name)?)))
        {
            decoder.within(&operation.key, |decoder| self.operation(path, item, method, operation, decoder));
        }
        for Entry { key, .. } in item.values() {
            let name = &*key.text;
            let is_known = METHODS.iter().any(|(known, _)| *known == name) || BESIDE_METHODS.contains(&name);
            if is_known || name.starts_with("x-") {
                continue;
            }
            let mut mistake = Mistake::warning("left out");
            if NOT_SERVED.contains(&name) {
                mistake = mistake.at(key.span, format!("{} is not served", name.to_ascii_uppercase()));
            } else {
                mistake = mistake.at(key.span, "not a method");
                if let Some(near) = nearest(name, METHODS.iter().map(|(known, _)| *known)) {
                    mistake = mistake.hint(format!("did you mean `{near}`?"));
                }
            }
            decoder.within(key, |decoder| decoder.record(mistake));
        }
    }

    fn operation(
        &mut self,
        path: &str,
        item: &BTreeMap<Box<str>, Entry>,
        method: &Method,
        Entry { key, value }: &Entry,
        decoder: &mut Decoder<'_>,
    ) {
        if self.operations.len() == MOST_OPERATIONS {
            if !std::mem::replace(&mut self.too_many, true) {
                let label = format!("more than {MOST_OPERATIONS} operations up to here");
                decoder.record(Mistake::error("too many operations").at(key.span, label));
            }
            return;
        }
        if decoder.mapping(value, "an operation").is_none() {
            return;
        }
        let security = match entry(value, "security") {
            Some(Entry { key, value }) => decoder.within(key, |decoder| {
                self.warn_of_schemes(value, decoder);
                security(value, decoder)
            }),
            None => self.global.clone().unwrap_or(Security::Unsaid),
        };
        // The innermost servers count.
        let own = entry(value, "servers").is_some().then(|| base_path(value, decoder));
        let prefix = own.or_else(|| {
            let servers = item.get("servers")?;
            let key = Key { text: "servers".into(), span: servers.key.span };
            let holder =
                Node::mapping(servers.key.span, vec![Entry { key, value: Rc::clone(&servers.value) }]);
            Some(base_path(&holder, decoder))
        });
        let prefix = prefix.filter(|_| !self.given).unwrap_or_else(|| self.prefix.clone());
        let operation = Operation {
            method: method.clone(),
            path: prefix + path,
            security,
            place: decoder.place(key.span),
        };
        self.operations.push(operation);
    }

    /// A scheme that is not among the document's is probably misspelled.
    fn warn_of_schemes(&self, alternatives: &Node, decoder: &mut Decoder<'_>) {
        let (Some(schemes), Value::List(alternatives)) = (&self.schemes, &alternatives.value) else { return };
        for alternative in alternatives {
            let Value::Mapping(entries) = &alternative.value else { continue };
            for Entry { key, .. } in entries.iter().filter(|entry| !schemes.contains(&*entry.key.text)) {
                let mut mistake = Mistake::warning("unknown security scheme")
                    .at(key.span, "not one of `components.securitySchemes`");
                if let Some(near) = nearest(&key.text, schemes.iter().copied()) {
                    mistake = mistake.hint(format!("did you mean `{near}`?"));
                }
                decoder.record(mistake);
            }
        }
    }
}

/// What a `security` asks for: a list of alternatives, each of which names schemes and their scopes.
fn security(node: &Node, decoder: &mut Decoder<'_>) -> Security {
    let Some(alternatives) = decoder.list(node, "a list of alternatives") else { return Security::Unsaid };
    let mut scopes = Vec::new();
    let mut is_public = alternatives.is_empty();
    let size = |alternative: &Rc<Node>| {
        let Value::Mapping(schemes) = &alternative.value else { return 1 };
        let scopes = schemes.iter().map(|scheme| match &scheme.value.value {
            Value::List(scopes) => scopes.len(),
            _ => 0,
        });
        scopes.sum::<usize>().max(1)
    };
    if alternatives.iter().map(size).sum::<usize>() > MOST_SCOPES {
        let label = format!("more than {MOST_SCOPES} scopes and alternatives");
        decoder.record(Mistake::error("too many scopes").at(start_of(node), label));
        return Security::Unsaid;
    }
    for alternative in alternatives {
        let Some(schemes) = decoder.mapping(alternative, "a mapping of security schemes") else { continue };
        is_public |= schemes.is_empty();
        let mut wanted = BTreeSet::new();
        for Entry { key, value } in schemes {
            decoder.within(key, |decoder| {
                for scope in decoder.list(value, "a list of scopes").unwrap_or_default() {
                    match text(scope) {
                        Some(text) => drop(wanted.insert(text.to_owned())),
                        None => decoder.mismatch(scope, "wrong type", "a scope"),
                    }
                }
            });
        }
        scopes.push(wanted);
    }
    if is_public {
        return Security::Public;
    }
    // An alternative without scopes says nothing of what its credentials must be good for.
    scopes.retain(|wanted| !wanted.is_empty());
    let least: Vec<BTreeSet<String>> = scopes
        .iter()
        .enumerate()
        .filter(|(index, wanted)| {
            let is_covered = |(other, it): (usize, &BTreeSet<String>)| {
                it.is_subset(wanted) && (it.len() < wanted.len() || other < *index)
            };
            !scopes.iter().enumerate().any(is_covered)
        })
        .map(|(_, wanted)| wanted.clone())
        .collect();
    if least.is_empty() { Security::Credentials } else { Security::Scopes(least) }
}

#[cfg(test)]
mod tests;
