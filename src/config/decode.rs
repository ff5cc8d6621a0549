//! From the tree to the types of [`super::written`], collecting every mistake on the way.

use std::borrow::Cow;
use std::fmt::Display;
use std::mem;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use schemars::JsonSchema;

use super::interpolate::{Environment, InterpolationError, interpolate};
use super::redact::{merged, with_decoration};
use super::report::{Mistake, Severity};
use super::source::{Source, Span};
use super::tree::{Entry, Key, Node, Value, parse};
use crate::policy::map::Place;

/// A type that can stand in a configuration: read from a tree, and described by the schema.
pub(super) trait Decode: JsonSchema + Sized {
    /// Reads a node. None: at least one mistake was recorded.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// What an absent key means; none: it is required.
    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        None
    }
}

/// A value and its place; a key of this type is required.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// One, or a list of at least one.
#[derive(Debug)]
pub(super) struct OneOrMore<T>(pub(super) Vec<T>);

/// Values under names of the operator's own.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<(Key, T)>);

/// A scalar after interpolation.
pub(super) struct Scalar<'a> {
    pub(super) text: Cow<'a, str>,
    /// Written as a string that nothing was put into.
    pub(super) string: bool,
}

pub(super) struct Decoder<'a> {
    environment: &'a Environment<'a>,
    pub(super) sources: Vec<Source>,
    pub(super) mistakes: Vec<Mistake>,
    /// Every file that was read or named.
    pub(super) files: Vec<PathBuf>,
    path: Vec<Step>,
}

/// A key on the way to a value, and of a list that is told by number, which item.
struct Step {
    key: Key,
    item: Option<usize>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(environment: &'a Environment<'a>) -> Self {
        Self { environment, sources: Vec::new(), mistakes: Vec::new(), files: Vec::new(), path: Vec::new() }
    }

    /// Reads the value of a key, which mistakes in it will name.
    pub(super) fn within<T>(&mut self, key: &Key, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Step { key: key.clone(), item: None });
        let result = read(self);
        self.path.pop();
        result
    }

    /// Reads an item of the list that is being read, whose number mistakes in it will name.
    fn within_item<T>(&mut self, number: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        self.number_item(Some(number));
        let result = read(self);
        self.number_item(None);
        result
    }

    fn number_item(&mut self, number: Option<usize>) {
        if let Some(step) = self.path.last_mut() {
            step.item = number;
        }
    }

    /// The path of the key that is being read, such as `backend.url`.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for Step { key, item } in &self.path {
            join(&mut path, &key.text);
            if let Some(number) = item {
                path += &format!("[{number}]");
            }
        }
        path
    }

    /// Reads another file's values, whose keys stand at its top.
    pub(super) fn at_top<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let path = std::mem::take(&mut self.path);
        let result = read(self);
        self.path = path;
        result
    }

    /// The tree of a file, which the node names, or the command line.
    pub(super) fn read_tree(&mut self, path: &Path, named_by: Option<&Node>) -> Option<Rc<Node>> {
        let source = match Source::read(path) {
            Ok(source) => source,
            Err(error) => {
                let mistake = match named_by {
                    Some(node) => Mistake::error("cannot read the file").at(node.span, error.to_string()),
                    None => Mistake::error(format!("cannot read `{}`: {error}", path.display())),
                };
                self.record(mistake);
                return None;
            }
        };
        self.parse(source)
    }

    /// The tree of a source that was read already.
    pub(super) fn parse(&mut self, mut source: Source) -> Option<Rc<Node>> {
        let tree = parse(&mut source, self.sources.len(), &mut self.mistakes);
        self.sources.push(source);
        tree
    }

    /// A place as the ability map keeps it.
    pub(super) fn place(&self, span: Span) -> Option<Place> {
        let source = self.sources.get(span.source)?;
        let (line, column) = source.position(span.start);
        Some(Place { file: source.name.clone(), line, column })
    }

    /// How many errors there are, warnings not counted.
    pub(super) fn mistakes_so_far(&self) -> usize {
        self.mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).count()
    }

    /// Records a mistake about the key that is being read.
    pub(super) fn record(&mut self, mistake: Mistake) {
        let path = self.path();
        self.mistakes.push(if path.is_empty() { mistake } else { mistake.of(path) });
    }

    /// Records that a value is not what it should be: `expected` completes 'found …, expected …'.
    pub(super) fn mismatch(&mut self, node: &Node, message: &'static str, expected: impl Display) {
        self.mismatch_with(node, message, expected, None);
    }

    /// The same with a hint.
    pub(super) fn mismatch_with(
        &mut self,
        node: &Node,
        message: &'static str,
        expected: impl Display,
        hint: Option<String>,
    ) {
        if matches!(node.value, Value::Broken) {
            return;
        }
        let label = format!("found {}, expected {expected}", self.describe(node));
        let mut mistake = Mistake::error(message).at(node.span, label);
        if let Some(hint) = hint {
            mistake = mistake.hint(hint);
        }
        self.record(mistake);
    }

    /// The same as a warning.
    pub(super) fn warn_mismatch(&mut self, node: &Node, message: &'static str, expected: impl Display) {
        let label = format!("found {}, expected {expected}", self.describe(node));
        self.record(Mistake::warning(message).at(node.span, label));
    }

    /// A value in words. Nothing that is secret or came from the environment is shown.
    fn describe(&self, node: &Node) -> String {
        let secret = self.is_secret(node);
        match &node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Broken => "something broken".to_owned(),
            Value::Scalar { .. } if node.is_null() => "nothing".to_owned(),
            Value::Scalar { text, plain } => {
                let kind = match plain.then(|| plain_kind(text)).flatten() {
                    Some(kind) => kind,
                    None if text.is_empty() => return "empty text".to_owned(),
                    None => "",
                };
                match (secret, text.chars().count() <= 60 && !text.contains('\n')) {
                    (true, _) if kind.is_empty() => "text".to_owned(),
                    (true, _) => kind.trim().replacen("the", "a", 1),
                    (false, true) => format!("{kind}`{text}`"),
                    (false, false) => "long text".to_owned(),
                }
            }
        }
    }

    pub(super) fn is_secret(&self, node: &Node) -> bool {
        self.sources.get(node.span.source).is_some_and(|source| source.is_secret(node.span))
    }

    /// Whether a value may be shown: it is not secret, and nothing in it came from the environment.
    pub(super) fn may_show(&self, node: &Node) -> bool {
        !self.is_secret(node) && matches!(&node.value, Value::Scalar { text, .. } if !text.contains("${"))
    }

    /// The same for every value in it.
    pub(super) fn may_show_all(&self, node: &Node) -> bool {
        match &node.value {
            Value::Scalar { .. } => self.may_show(node),
            Value::List(items) => items.iter().all(|item| self.may_show_all(item)),
            Value::Mapping(entries) => entries.iter().all(|entry| self.may_show_all(&entry.value)),
            Value::Broken => true,
        }
    }

    /// Keeps a value out of every report.
    pub(super) fn hide(&mut self, node: &Node) {
        if let Some(source) = self.sources.get_mut(node.span.source) {
            let secret = with_decoration(&source.text, node.span.start..node.span.end);
            let secrets = mem::take(&mut source.secrets);
            source.secrets = merged(&source.text, secrets.into_iter().chain([secret]));
        }
    }

    /// What relative paths in a value are relative to.
    pub(super) fn directory(&self, node: &Node) -> PathBuf {
        self.sources.get(node.span.source).map(|source| source.directory.clone()).unwrap_or_default()
    }

    /// A scalar with the environment put in; anything else is a mistake.
    pub(super) fn scalar<'node>(&mut self, node: &'node Node, expected: &str) -> Option<Scalar<'node>> {
        let Value::Scalar { text, plain } = &node.value else {
            self.mismatch(node, "wrong type", expected);
            return None;
        };
        match interpolate(text, self.environment) {
            Ok(found) => Some(Scalar { string: !(*plain || found.changed), text: found.text }),
            Err(error) => {
                let hint = "`${NAME:-default}` gives a default, `$${` is a literal `${`";
                // A secret may hold a `${` by itself: what follows is then a part of it.
                let label = match &error {
                    InterpolationError::Unset(name)
                        if **text == format!("${{{name}}}")
                            && (is_usual_name(name) || !self.is_secret(node)) =>
                    {
                        error.to_string()
                    }
                    InterpolationError::Unset(_) | InterpolationError::Name(_) if self.is_secret(node) => {
                        "what is in its `${…}` is not set in the environment".to_owned()
                    }
                    _ => error.to_string(),
                };
                self.record(Mistake::error("cannot read the environment").at(node.span, label).hint(hint));
                None
            }
        }
    }

    /// A string: a plain number, boolean or null is a mistake.
    pub(super) fn string<'node>(&mut self, node: &'node Node, expected: &str) -> Option<Cow<'node, str>> {
        if let Value::Scalar { text, plain: true } = &node.value
            && (node.is_null() || plain_kind(text).is_some())
        {
            let hint = (!node.is_null()).then(|| "quotes make it text".to_owned());
            self.mismatch_with(node, "wrong type", expected, hint);
            return None;
        }
        Some(self.scalar(node, expected)?.text)
    }

    /// The entries of a mapping.
    pub(super) fn mapping<'node>(&mut self, node: &'node Node, expected: &str) -> Option<&'node [Entry]> {
        let Value::Mapping(entries) = &node.value else {
            let hint = node.is_null().then(|| "without the key its defaults hold".to_owned());
            self.mismatch_with(node, "wrong type", expected, hint.filter(|_| !self.path.is_empty()));
            return None;
        };
        Some(entries)
    }

    /// The items of a list.
    pub(super) fn list<'node>(&mut self, node: &'node Node, expected: &str) -> Option<&'node [Rc<Node>]> {
        let Value::List(items) = &node.value else {
            self.mismatch(node, "wrong type", expected);
            return None;
        };
        Some(items)
    }

    /// Records each key that is not among `known`.
    pub(super) fn refuse_unknown(&mut self, entries: &[Entry], known: &[&str]) {
        for Entry { key, .. } in entries {
            if known.contains(&&*key.text) {
                continue;
            }
            let hint = match nearest(&key.text, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys are {}", listed(known)),
            };
            let mistake = Mistake::error("unknown key").at(key.span, "not a key of this section").hint(hint);
            self.within(key, |decoder| decoder.record(mistake));
        }
    }

    /// Records that two keys are there of which only one may be.
    pub(super) fn refuse_both(&mut self, entries: &[Entry], first: &str, second: &str) {
        let find = |name: &str| entries.iter().find(|entry| &*entry.key.text == name);
        if let (Some(first), Some(second)) = (find(first), find(second)) {
            let mistake = Mistake::error(format!("`{}` and `{}` together", first.key.text, second.key.text))
                .at(second.key.span, "expected only one of them")
                .see(first.key.span, "the other one");
            self.record(mistake);
        }
    }

    /// Records that a required key is absent.
    pub(super) fn missing(&mut self, node: &Node, name: &str) {
        let span = match self.path.last() {
            Some(Step { key, item: None }) => key.span,
            _ => Span { end: node.span.start, ..node.span },
        };
        let key = Key { text: name.into(), span };
        let mistake = Mistake::error("missing").at(span, format!("expected the key `{name}` in here"));
        self.within(&key, |decoder| decoder.record(mistake));
    }
}

/// Whether an environment variable has a name as usual, such as `ADMIN_TOKEN`.
fn is_usual_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Adds a key to a path, quoted where it is not a plain word.
pub(super) fn join(path: &mut String, key: &str) {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match (path.is_empty(), plain) {
        (true, true) => path.push_str(key),
        (false, true) => *path += &format!(".{key}"),
        (true, false) => *path += &format!("\"{key}\""),
        (false, false) => *path += &format!(".\"{key}\""),
    }
}

/// What a plain scalar is in YAML's core schema, but for strings and null.
fn plain_kind(text: &str) -> Option<&'static str> {
    if matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE") {
        return Some("the boolean ");
    }
    if text.parse::<i128>().is_ok() {
        return Some("the number ");
    }
    let number = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
    (number && text.parse::<f64>().is_ok()).then_some("the number ")
}

/// The candidate that differs from `word` by few enough edits to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let furthest = (word.chars().count() / 3).clamp(1, 3);
    let folded = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let folded_candidate = candidate.to_ascii_lowercase().replace('-', "_");
            (strsim::osa_distance(&folded, &folded_candidate), candidate)
        })
        .filter(|&(distance, _)| distance <= furthest)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Such as `` `a`, `b` or `c` ``.
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        all => all.concat(),
    }
}

impl<T: Decode> Decode for Spanned<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(Self { value: T::decode(node, decoder)?, span: node.span })
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if node.is_null() { Some(None) } else { T::decode(node, decoder).map(Some) }
    }

    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(None)
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let items = decoder.list(node, "a list")?;
        let read: Vec<Option<T>> = items.iter().map(|item| T::decode(item, decoder)).collect();
        read.into_iter().collect()
    }
}

impl<T: Decode> Decode for OneOrMore<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return T::decode(node, decoder).map(|one| Self(vec![one]));
        };
        if items.is_empty() {
            decoder.mismatch(node, "an empty list", "one, or a list of them");
            return None;
        }
        let numbered = items.iter().enumerate();
        let read: Vec<Option<T>> = numbered
            .map(|(number, item)| decoder.within_item(number, |decoder| T::decode(item, decoder)))
            .collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

impl<T: Decode> Decode for Named<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let entries = decoder.mapping(node, "a mapping")?;
        let read: Vec<Option<(Key, T)>> = entries
            .iter()
            .map(|Entry { key, value }| {
                let value = decoder.within(key, |decoder| T::decode(value, decoder))?;
                Some((key.clone(), value))
            })
            .collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }

    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let values = generator.subschema_for::<T>();
        schemars::json_schema!({"type": "object", "additionalProperties": values})
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}
