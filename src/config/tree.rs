//! YAML as a tree in which every value knows its place: granit's events, bounded.

use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StructureStyle};
use zeroize::Zeroize;

use super::redact::{
    REDACTED, by_line, has_secret_url, has_secrets, in_comments, is_plain_key, is_secret_text, merged,
    names_secret, with_decoration,
};
use super::report::Mistake;
use super::source::{Source, Span};

/// How deep values may be nested, in the file and after aliases are followed.
const DEEPEST: usize = 64;
/// How many values all aliases of a file may stand for together.
const MOST_ALIASED: usize = 10_000;
/// How many keys and values a file may have; each takes some 150 bytes of memory. A configuration is too small to have as
/// many; an OpenAPI document of 13 MB has 0.5 to 1 million.
const MOST_VALUES: usize = 4_000_000;

pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
    /// Values in it, itself included, aliases followed.
    size: usize,
    /// Levels of nesting in it, aliases followed.
    depth: usize,
}

impl Drop for Node {
    /// It may be a secret; who keeps it has a copy.
    fn drop(&mut self) {
        if let Value::Scalar { text, .. } = &mut self.value {
            text.zeroize();
        }
    }
}

pub(super) enum Value {
    Scalar {
        text: Box<str>,
        /// Neither quoted nor a block: may be a number, a boolean or null.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
    /// Wrong, and reported already.
    Broken,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) value: Rc<Node>,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: Box<str>,
    pub(super) span: Span,
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

    /// A default, as if it had been written.
    pub(super) fn of_default(value: &serde_json::Value) -> Self {
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

    pub(super) const fn is_scalar(&self) -> bool {
        matches!(self.value, Value::Scalar { .. })
    }

    /// Whether it is null, or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// The tree of a source that holds one document; none where its syntax is broken. Adds the secrets that it
/// finds to the source, so that reports keep them.
pub(super) fn parse(source: &mut Source, number: usize, mistakes: &mut Vec<Mistake>) -> Option<Rc<Node>> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
    };
    let mut builder = Builder::new(number, mistakes);
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(&source.text, options) {
        let (event, span) = match event {
            Ok((event, span)) => {
                let range = span.byte_range().unwrap_or_default();
                (event, Span { source: number, start: range.start, end: range.end })
            }
            Err(error) => {
                builder.mistakes.push(syntax_mistake(&error, number, &source.text));
                let secrets = mem::take(&mut builder.secrets);
                source.secrets = secrets_of_broken(&source.text, secrets);
                return None;
            }
        };
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
        }
        if documents > 1 {
            builder.mistakes.push(
                Mistake::error("several documents in one file").at(span, "a second document starts here"),
            );
            let secrets = mem::take(&mut builder.secrets);
            source.secrets = secrets_of_broken(&source.text, secrets);
            return None;
        }
        builder.take(event, span);
        if builder.values > MOST_VALUES {
            let label = format!("more than {MOST_VALUES} keys and values up to here");
            builder.mistakes.push(Mistake::error("too many values").at(span, label));
            let secrets = builder.secrets;
            source.secrets = secrets_of_broken(&source.text, secrets);
            return None;
        }
    }
    let secrets = builder.secrets.into_iter().map(|secret| with_decoration(&source.text, secret));
    source.secrets = merged(&source.text, secrets.chain(in_comments(&source.text)));
    let nothing = || Rc::new(Node::new(Span { source: number, ..Span::default() }, null()));
    Some(builder.root.unwrap_or_else(nothing))
}

/// The secrets of a file that is not read to its end: those found so far, and those that its lines show.
fn secrets_of_broken(text: &str, found: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let found = found.into_iter().map(|secret| with_decoration(text, secret));
    merged(text, found.chain(by_line(text)))
}

fn null() -> Value {
    Value::Scalar { text: "".into(), plain: true }
}

/// A list or mapping whose end has not come yet.
struct Open {
    span: Span,
    anchor: usize,
    style: StructureStyle,
    /// Whether it stands under a key whose values are secret.
    secret: bool,
    children: Children,
}

enum Children {
    List(Vec<Rc<Node>>),
    /// Its `key` is the one whose value comes next; within it none where that key is not text.
    Mapping {
        entries: Vec<Entry>,
        first: HashMap<Box<str>, Span>,
        key: Option<Option<Key>>,
    },
}

struct Builder<'a> {
    source: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    aliased: usize,
    /// Keys and values so far, aliases not followed.
    values: usize,
    root: Option<Rc<Node>>,
    secrets: Vec<Range<usize>>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Builder<'a> {
    fn new(source: usize, mistakes: &'a mut Vec<Mistake>) -> Self {
        let (open, secrets) = (Vec::new(), Vec::new());
        Self { source, open, anchors: HashMap::new(), aliased: 0, values: 0, root: None, secrets, mistakes }
    }

    fn take(&mut self, event: Event<'_>, span: Span) {
        if event.tag().is_some() {
            self.mistakes.push(Mistake::error("a tag").at(span, "found a tag, expected a value without one"));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let (is_key, plain) = (self.expects_key(), style == ScalarStyle::Plain);
                let secret = if is_key { self.hides_key(&text) } else { self.is_secret(false) };
                let secret = secret || is_secret_text(&text);
                if secret {
                    self.secrets.push(span.start..span.end);
                }
                // Reports name keys.
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
                // A secret that begins with `*`.
                let secret = self.is_secret(false);
                let message =
                    if secret { "no such anchor".to_owned() } else { format!("no anchor `&{name}`") };
                if secret {
                    self.secrets.push(span.start..span.end);
                }
                let label = "an alias must follow its anchor";
                self.mistakes.push(Mistake::error(message).at(span, label));
                self.add(Rc::new(Node::new(span, Value::Broken)));
            }
            _ => {}
        }
    }

    fn push(&mut self, span: Span, anchor: usize, style: StructureStyle, children: Children) {
        // What is in a list at the top is no more likely a secret than anything else.
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
        // A block is pointed at by its first child, a flow collection as a whole.
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

    /// What an alias stands for. A node gets its anchor when it is complete, so an alias to one that is
    /// still open finds nothing.
    fn follow(&mut self, anchor: usize, span: Span) -> Rc<Node> {
        let (message, label) = match self.anchors.get(&anchor) {
            None => ("an alias inside its own anchor", "this would contain itself".to_owned()),
            Some(node) => {
                self.aliased = self.aliased.saturating_add(node.size);
                if self.aliased > MOST_ALIASED {
                    let label = format!("more than {MOST_ALIASED} values by alias up to here");
                    ("the aliases explode", label)
                } else if self.open.len() + node.depth > DEEPEST {
                    ("the aliases nest too deep", format!("deeper than {DEEPEST} levels"))
                } else {
                    return Rc::clone(node);
                }
            }
        };
        // Once is enough: an exploding file repeats it thousands of times.
        if !self.mistakes.iter().any(|mistake| mistake.message == message) {
            self.mistakes.push(Mistake::error(message).at(span, label));
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
                        self.mistakes.push(
                            Mistake::error(format!("duplicate key `{}`", key.text))
                                .at(key.span, "given again here")
                                .see(*earlier, "given first here"),
                        );
                        return;
                    }
                    first.insert(key.text.clone(), key.span);
                    entries.push(Entry { key, value: node });
                }
                None => {
                    let Value::Scalar { text, .. } = &node.value else {
                        let label = "expected a key that is text";
                        self.mistakes.push(Mistake::error("not a key").at(node.span, label));
                        *key = Some(None);
                        return;
                    };
                    let span = Span { source: self.source, ..node.span };
                    *key = Some(Some(Key { text: text.clone(), span }));
                }
            },
        }
    }

    /// Whether the next node is a mapping's key.
    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { children: Children::Mapping { key: None, .. }, .. }))
    }

    /// The key whose value comes next in an open mapping.
    fn key_at(&self, depth: usize) -> Option<&str> {
        match &self.open.get(depth)?.children {
            Children::Mapping { key: Some(Some(key)), .. } => Some(&key.text),
            _ => None,
        }
    }

    /// Whether the next value, which is a mapping or not, is secret.
    fn is_secret(&self, is_mapping: bool) -> bool {
        let Some(open) = self.open.last() else {
            // A file that holds nothing but a text may be the file of a secret.
            return true;
        };
        let depth = self.open.len() - 1;
        let key = self.key_at(depth);
        open.secret
            || key.is_some_and(names_secret)
            || depth == 0 && !is_mapping && key.is_some_and(has_secrets)
            || depth == 1
                && self.key_at(0).zip(key).is_some_and(|(section, key)| has_secret_url(section, key))
    }

    /// Whether the next key, whose text this is, may be a secret.
    fn hides_key(&self, text: &str) -> bool {
        let in_section = match self.open.len() {
            // As in `token:17ab`.
            1 => text.split([':', '=', ' ']).next().is_some_and(names_secret),
            _ => self.key_at(0).is_some_and(has_secrets),
        };
        self.open.last().is_some_and(|open| open.secret) || in_section && !is_plain_key(text)
    }
}

fn syntax_mistake(error: &ScanError, source: usize, text: &str) -> Mistake {
    let byte = error.marker().byte_offset().unwrap_or(text.len());
    let span = Span { source, start: byte, end: byte };
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => {
            Mistake::error("nested too deep").at(span, format!("deeper than {DEEPEST} levels"))
        }
        kind => {
            let mistake = Mistake::error("not valid YAML").at(span, kind.to_string());
            match text[..byte.min(text.len())].ends_with("$") {
                true => mistake.hint("between braces `${…}` must be in quotes"),
                false => mistake,
            }
        }
    }
}
