//! A YAML document as a tree of values with their places, built from the events of the parser below `serde_yaml`:
//! decoding loses some places, and ends at errors that events survive (see Cargo.toml). Nesting, aliases and values are
//! bounded.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use serde_yaml::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, ScanError, StructureStyle};
use zeroize::Zeroize;

use super::diagnostics::Diagnostic;
use super::redact::{
    REDACTED, SecretSections, is_plain_key, is_secret_key, is_secret_text, merge, secret_comments,
    secrets_by_line, with_decoration,
};
use super::source::{Source, Span};

/// The deepest nesting, in the file and after aliases are resolved.
const DEEPEST: usize = 64;
/// The most values that all aliases of a file stand for.
const MAX_ALIASED: usize = 10_000;
/// The most keys and values of a file; each takes some 150 bytes of memory. Configurations are too small to have as
/// many; an OpenAPI document of 13 MB has 0.5 to 1 million.
const MAX_VALUES: usize = 4_000_000;

pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
    /// Values in it, itself included, with aliases resolved.
    size: usize,
    /// Levels of nesting, with aliases resolved.
    depth: usize,
}

impl Drop for Node {
    /// It may be a secret. Code that keeps the value has its own copy.
    fn drop(&mut self) {
        if let Value::Scalar { text, .. } = &mut self.value {
            text.zeroize();
        }
    }
}

pub(crate) enum Value {
    Scalar {
        text: Box<str>,
        /// Neither quoted nor a block: may be a number, a boolean or null.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
    /// Invalid and already reported.
    Broken,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) value: Rc<Node>,
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: Box<str>,
    pub(crate) span: Span,
}

impl Node {
    fn new(span: Span, value: Value) -> Self {
        let (mut size, mut depth) = (1_usize, 0);
        let mut add = |child: &Self| {
            size = size.saturating_add(child.size);
            depth = depth.max(child.depth);
        };
        match &value {
            Value::List(items) => items.iter().for_each(|item| add(item)),
            Value::Mapping(entries) => entries.iter().for_each(|entry| add(&entry.value)),
            Value::Scalar { .. } | Value::Broken => {}
        }
        Self { span, value, size, depth: depth + 1 }
    }

    /// The node of a default value.
    pub(crate) fn of_default(value: &serde_json::Value) -> Self {
        let scalar = |text: String, plain| Value::Scalar { text: text.into(), plain };
        let value = match value {
            serde_json::Value::String(text) => scalar(text.clone(), false),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| Rc::new(Self::of_default(item))).collect())
            }
            other => scalar(other.to_string(), true),
        };
        Self::new(Span::default(), value)
    }

    /// The entries of a mapping; empty for other values.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) const fn is_scalar(&self) -> bool {
        matches!(self.value, Value::Scalar { .. })
    }

    /// Whether it is null or empty.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// The entry with the key `name`.
pub(crate) fn find_entry<'node>(entries: &'node [Entry], name: &str) -> Option<&'node Entry> {
    entries.iter().find(|entry| &*entry.key.text == name)
}

/// Parses a source with one document. Returns `None` if its syntax is broken. Adds the secrets that it finds to the
/// source, so that no report shows them.
pub(crate) fn parse(
    source: &mut Source,
    number: usize,
    sections: &SecretSections,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Rc<Node>> {
    let mut builder = Builder::new(number, sections, diagnostics);
    let complete = builder.read(&source.text);
    let Builder { secrets, root, .. } = builder;
    let found = secrets.into_iter().map(|secret| with_decoration(&source.text, secret));
    source.secrets = match complete {
        Some(()) => merge(&source.text, found.chain(secret_comments(&source.text, sections))),
        None => merge(&source.text, found.chain(secrets_by_line(&source.text, sections))),
    };
    complete?;
    let empty = || Rc::new(Node::new(Span { source: number, ..Span::default() }, null()));
    Some(root.unwrap_or_else(empty))
}

fn null() -> Value {
    Value::Scalar { text: "".into(), plain: true }
}

/// A list or mapping whose end has not been parsed.
struct Open {
    span: Span,
    anchor: usize,
    style: StructureStyle,
    /// Whether it is below a key whose values are secret.
    secret: bool,
    children: Children,
}

enum Children {
    List(Vec<Rc<Node>>),
    /// `key` waits for its value; it is `Some(None)` if the key is not text.
    Mapping {
        entries: Vec<Entry>,
        first: HashMap<Box<str>, Span>,
        key: Option<Option<Key>>,
    },
}

struct Builder<'a> {
    source: usize,
    sections: &'a SecretSections,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    aliased: usize,
    /// Keys and values so far; aliases count as one.
    values: usize,
    root: Option<Rc<Node>>,
    secrets: Vec<Range<usize>>,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    fn new(source: usize, sections: &'a SecretSections, diagnostics: &'a mut Vec<Diagnostic>) -> Self {
        let (open, secrets) = (Vec::new(), Vec::new());
        Self {
            source,
            sections,
            open,
            anchors: HashMap::new(),
            aliased: 0,
            values: 0,
            root: None,
            secrets,
            diagnostics,
        }
    }

    /// Reads the whole text. Returns `None` if it recorded an error that ends the reading.
    fn read(&mut self, text: &str) -> Option<()> {
        let options = granit_parser::options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: DEEPEST,
            block_nesting_limit: DEEPEST,
        };
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = match event {
                Ok((event, span)) => {
                    let range = span.byte_range().unwrap_or_default();
                    (event, Span { source: self.source, start: range.start, end: range.end })
                }
                Err(error) => {
                    self.diagnostics.push(syntax_error(&error, self.source, text));
                    return None;
                }
            };
            if matches!(event, Event::DocumentStart(..)) {
                documents += 1;
            }
            if documents > 1 {
                let error = Diagnostic::error("several documents in one file");
                self.diagnostics.push(error.at(span, "the second document starts here"));
                return None;
            }
            self.add_event(event, span);
            if self.values > MAX_VALUES {
                let label = format!("the file has more than {MAX_VALUES} keys and values");
                self.diagnostics.push(Diagnostic::error("too many values").at(span, label));
                return None;
            }
        }
        Some(())
    }

    fn add_event(&mut self, event: Event<'_>, span: Span) {
        if event.tag().is_some() {
            self.diagnostics.push(
                Diagnostic::error("unexpected tag").at(span, "found a tag, expected a value without one"),
            );
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let (is_key, plain) = (self.expects_key(), style == ScalarStyle::Plain);
                let secret = if is_key { self.hides_key(&text) } else { self.is_secret(false) };
                let secret = secret || is_secret_text(&text);
                if secret {
                    self.secrets.push(span.start..span.end);
                }
                // Reports show keys.
                let text = if secret && is_key { REDACTED.into() } else { text.into() };
                self.place(anchor, span, Value::Scalar { text, plain });
            }
            Event::SequenceStart(style, anchor, _) => {
                self.push(span, anchor, style, Children::List(Vec::new()));
            }
            Event::MappingStart(style, anchor, _) => {
                let children = Children::Mapping { entries: Vec::new(), first: HashMap::new(), key: None };
                self.push(span, anchor, style, children);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => {
                let node = self.follow(anchor, span);
                if self.is_secret(false) && !self.expects_key() {
                    self.secrets.push(node.span.start..node.span.end);
                }
                self.add(node);
            }
            Event::UnresolvedAlias(name) => {
                // It may be a secret that begins with `*`.
                let secret = self.is_secret(false);
                let message =
                    if secret { "no such anchor".to_owned() } else { format!("no anchor `&{name}`") };
                if secret {
                    self.secrets.push(span.start..span.end);
                }
                let label = "an anchor must precede its aliases";
                self.diagnostics.push(Diagnostic::error(message).at(span, label));
                self.add(Rc::new(Node::new(span, Value::Broken)));
            }
            _ => {}
        }
    }

    fn push(&mut self, span: Span, anchor: usize, style: StructureStyle, children: Children) {
        // Items of a list at the top are no more likely to be secrets than other values.
        let secret = !self.open.is_empty() && self.is_secret(matches!(children, Children::Mapping { .. }));
        self.open.push(Open { span, anchor, style, secret, children });
    }

    fn close(&mut self, end: Span) {
        let Some(open) = self.open.pop() else { return };
        let (value, first) = match open.children {
            Children::List(items) => {
                let first = items.first().map(|item| item.span);
                (Value::List(items), first)
            }
            Children::Mapping { entries, .. } => {
                let first = entries.first().map(|entry| entry.key.span);
                (Value::Mapping(entries), first)
            }
        };
        // The place of a block is its first child, that of a flow collection the whole of it.
        let span = match (open.style, first) {
            (StructureStyle::Block, Some(first)) => first,
            _ => Span { end: end.end, ..open.span },
        };
        self.place(open.anchor, span, value);
    }

    fn place(&mut self, anchor: usize, span: Span, value: Value) {
        self.values += 1;
        let node = Rc::new(Node::new(span, value));
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.add(node);
    }

    /// Resolves an alias. A node gets its anchor when it is complete, so an alias within its own anchor finds
    /// nothing.
    fn follow(&mut self, anchor: usize, span: Span) -> Rc<Node> {
        let (message, label) = match self.anchors.get(&anchor) {
            None => ("recursive alias", "the value would contain itself".to_owned()),
            Some(node) => {
                self.aliased = self.aliased.saturating_add(node.size);
                if self.aliased > MAX_ALIASED {
                    let label = format!("aliases expand to more than {MAX_ALIASED} values");
                    ("too many aliased values", label)
                } else if self.open.len() + node.depth > DEEPEST {
                    ("aliases nested too deep", format!("deeper than {DEEPEST} levels"))
                } else {
                    return Rc::clone(node);
                }
            }
        };
        // Reported once: an exploding file repeats it thousands of times.
        if !self.diagnostics.iter().any(|diagnostic| diagnostic.message == message) {
            self.diagnostics.push(Diagnostic::error(message).at(span, label));
        }
        Rc::new(Node::new(span, Value::Broken))
    }

    fn add(&mut self, node: Rc<Node>) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.children {
            Children::List(items) => items.push(node),
            Children::Mapping { entries, first, key } => match key.take() {
                Some(None) => {}
                Some(Some(key)) => {
                    if let Some(earlier) = first.get(&key.text) {
                        self.diagnostics.push(
                            Diagnostic::error(format!("duplicate key `{}`", key.text))
                                .at(key.span, "second value")
                                .related(*earlier, "first value"),
                        );
                        return;
                    }
                    first.insert(key.text.clone(), key.span);
                    entries.push(Entry { key, value: node });
                }
                None => {
                    let Value::Scalar { text, .. } = &node.value else {
                        let label = "expected a string";
                        self.diagnostics.push(Diagnostic::error("invalid key").at(node.span, label));
                        *key = Some(None);
                        return;
                    };
                    let span = Span { source: self.source, ..node.span };
                    *key = Some(Some(Key { text: text.clone(), span }));
                }
            },
        }
    }

    /// Whether the next node is a key.
    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { children: Children::Mapping { key: None, .. }, .. }))
    }

    /// The key that waits for its value in an open mapping.
    fn key_at(&self, depth: usize) -> Option<&str> {
        match &self.open.get(depth)?.children {
            Children::Mapping { key: Some(Some(key)), .. } => Some(&key.text),
            _ => None,
        }
    }

    /// Whether the next value is secret.
    fn is_secret(&self, is_mapping: bool) -> bool {
        let Some(open) = self.open.last() else {
            // A file with nothing but a text may be a file with a secret.
            return true;
        };
        let depth = self.open.len() - 1;
        let key = self.key_at(depth);
        open.secret
            || key.is_some_and(is_secret_key)
            || depth == 0 && !is_mapping && key.is_some_and(|key| self.sections.has_secrets(key))
            || depth == 1
                && self
                    .key_at(0)
                    .zip(key)
                    .is_some_and(|(section, key)| self.sections.is_secret_value(section, key))
    }

    /// Whether the text of the next key may be a secret.
    fn hides_key(&self, text: &str) -> bool {
        let in_section = match self.open.len() {
            // As in `token:17ab`.
            1 => text.split([':', '=', ' ']).next().is_some_and(is_secret_key),
            _ => self.key_at(0).is_some_and(|section| self.sections.has_secrets(section)),
        };
        self.open.last().is_some_and(|open| open.secret) || in_section && !is_plain_key(text)
    }
}

fn syntax_error(error: &ScanError, source: usize, text: &str) -> Diagnostic {
    let byte = error.marker().byte_offset().unwrap_or(text.len());
    let span = Span { source, start: byte, end: byte };
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => {
            Diagnostic::error("nested too deep").at(span, format!("deeper than {DEEPEST} levels"))
        }
        kind => {
            let error = Diagnostic::error("not valid YAML").at(span, kind.to_string());
            match text[..byte.min(text.len())].ends_with("$") {
                true => error.hint("put `${…}` in quotes inside `{…}`"),
                false => error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value as Json;

    use super::*;

    fn decode(text: &str) -> Option<Json> {
        let options = serde_yaml::options! {
            strict_booleans: true,
            merge_keys: serde_yaml::MergeKeyPolicy::AsOrdinary,
            with_snippet: false,
        };
        serde_yaml::from_str_with_options(text, options).ok()
    }

    fn json(node: &Node) -> Json {
        match &node.value {
            Value::Scalar { text, plain: true } => decode(text).unwrap(),
            Value::Scalar { text, plain: false } => Json::from(&**text),
            Value::List(items) => items.iter().map(|item| json(item)).collect(),
            Value::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.text.to_string(), json(&entry.value))).collect()
            }
            Value::Broken => panic!("a broken value"),
        }
    }

    #[test]
    fn tree_has_the_values_that_decoding_has() {
        let mut compared = 0;
        for directory in ["config", "tests/config", "tests/config/files", "fuzz/seeds/configuration"] {
            let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
            for path in files.filter(|path| path.extension().is_some_and(|it| it == "yaml")) {
                let Ok(text) = fs::read_to_string(&path) else { continue };
                let (mut source, mut diagnostics) = (Source::of_text("a", text.clone()), Vec::new());
                let tree = parse(&mut source, 0, &SecretSections::NONE, &mut diagnostics);
                let (Some(tree), Some(decoded), true) = (tree, decode(&text), diagnostics.is_empty()) else {
                    continue;
                };
                let read = json(&tree);
                // Secrets in place of keys are not in the tree.
                if !read.to_string().contains(REDACTED) {
                    assert_eq!(read, decoded, "{}", path.display());
                    compared += 1;
                }
            }
        }
        assert!(compared > 100, "{compared}");
    }
}
