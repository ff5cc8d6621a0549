//! Decodes a document into types, and collects every error on the way.

use std::borrow::Cow;
use std::fmt::Display;
use std::mem;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use schemars::JsonSchema;

use super::diagnostics::{Diagnostic, Report, Severity};
use super::document::{Entry, Key, Node, Value, find_entry, parse};
use super::interpolate::{Environment, InterpolationError, interpolate};
use super::redact::{SecretSections, merge, with_decoration};
use super::source::{LARGEST, Source, Span};
use crate::policy::source_location::SourceLocation;

/// A type that can be decoded, and that describes its values in the schema.
pub(crate) trait Decode: JsonSchema + Sized {
    /// Decodes a node. Returns `None` if it recorded an error.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// The value of an absent key; `None` if the key is required.
    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        None
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// One value, or a list of at least one.
#[derive(Debug)]
pub(crate) struct OneOrMore<T>(pub(crate) Vec<T>);

/// A mapping with arbitrary keys.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(Key, T)>);

/// A scalar after interpolation.
pub(crate) struct Scalar<'a> {
    pub(crate) text: Cow<'a, str>,
    /// Whether it is a string, quoted or a block, into which nothing was interpolated.
    pub(crate) string: bool,
}

pub(crate) struct Decoder<'a> {
    environment: &'a Environment<'a>,
    sections: &'a SecretSections,
    pub(crate) sources: Vec<Source>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Every file that was read or that is named.
    pub(crate) files: Vec<PathBuf>,
    path: Vec<PathStep>,
}

/// A key on the path to a value, and the number of an item if the value is a list with numbered items.
struct PathStep {
    key: Key,
    item: Option<usize>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(environment: &'a Environment<'a>, sections: &'a SecretSections) -> Self {
        let (sources, diagnostics, files, path) = Default::default();
        Self { environment, sections, sources, diagnostics, files, path }
    }

    /// Ends the decoding of the file at `path`, whose `value` is `None` if an error was recorded. Returns the value and a
    /// report of warnings and notes, or a report with all errors.
    pub(crate) fn finish<T>(self, path: &Path, value: Option<T>) -> Result<(T, Report), Report> {
        let is_valid = self.error_count() == 0;
        let report = Report::new(path.display().to_string(), self.sources, self.diagnostics, self.files);
        match value {
            Some(value) if is_valid => Ok((value, report)),
            _ => Err(report),
        }
    }

    /// Decodes the value of a key, which errors in it name.
    pub(crate) fn within<T>(&mut self, key: &Key, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(PathStep { key: key.clone(), item: None });
        let result = read(self);
        self.path.pop();
        result
    }

    /// Decodes an item of a list, whose number errors in it name.
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

    /// The path of the key that is being decoded, such as `backend.url`.
    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        for PathStep { key, item } in &self.path {
            join(&mut path, &key.text);
            if let Some(number) = item {
                path += &format!("[{number}]");
            }
        }
        path
    }

    /// Decodes another file, whose keys have paths of their own.
    pub(crate) fn at_top<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let path = mem::take(&mut self.path);
        let result = read(self);
        self.path = path;
        result
    }

    /// Reads and parses the file that is decoded.
    pub(crate) fn read_file(&mut self, path: &Path) -> Option<Rc<Node>> {
        self.files.push(path.to_owned());
        self.read_tree(path, None)
    }

    /// Reads and parses a file that a node names.
    pub(crate) fn read_included(&mut self, path: &Path, named_by: &Node) -> Option<Rc<Node>> {
        self.read_tree(path, Some(named_by))
    }

    fn read_tree(&mut self, path: &Path, named_by: Option<&Node>) -> Option<Rc<Node>> {
        let source = match Source::read(path, LARGEST) {
            Ok(source) => source,
            Err(error) => {
                return self.reject(match named_by {
                    Some(node) => Diagnostic::error("cannot read the file").at(node.span, error.to_string()),
                    None => Diagnostic::error(format!("cannot read `{}`: {error}", path.display())),
                });
            }
        };
        self.parse(source)
    }

    /// Parses a source.
    pub(crate) fn parse(&mut self, mut source: Source) -> Option<Rc<Node>> {
        let tree = parse(&mut source, self.sources.len(), self.sections, &mut self.diagnostics);
        self.sources.push(source);
        tree
    }

    /// The start of a span as file, line and column.
    pub(crate) fn place(&self, span: Span) -> Option<SourceLocation> {
        let source = self.sources.get(span.source)?;
        let (line, column) = source.position(span.start);
        Some(SourceLocation { file: source.name.clone(), line, column })
    }

    /// How many errors were recorded.
    pub(crate) fn error_count(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// Records a finding about the key that is being decoded; at the top, about the key that it names itself.
    pub(crate) fn record(&mut self, diagnostic: Diagnostic) {
        let path = self.path();
        self.diagnostics.push(if path.is_empty() { diagnostic } else { diagnostic.key(path) });
    }

    /// Records a finding about a key within the one that is being decoded.
    pub(crate) fn record_within(&mut self, key: &Key, diagnostic: Diagnostic) {
        self.within(key, |decoder| decoder.record(diagnostic));
    }

    /// Records an error and returns `None`.
    pub(crate) fn reject<T>(&mut self, error: Diagnostic) -> Option<T> {
        self.record(error);
        None
    }

    /// Rejects a value: `expected` completes 'found …, expected …'.
    pub(crate) fn mismatch<T>(
        &mut self,
        node: &Node,
        message: &'static str,
        expected: impl Display,
    ) -> Option<T> {
        self.mismatch_with(node, message, expected, None)
    }

    /// Like [`mismatch`](Self::mismatch), with a hint.
    pub(crate) fn mismatch_with<T>(
        &mut self,
        node: &Node,
        message: &'static str,
        expected: impl Display,
        hint: Option<String>,
    ) -> Option<T> {
        if matches!(node.value, Value::Broken) {
            return None;
        }
        let label = format!("found {}, expected {expected}", self.describe(node));
        let error = Diagnostic::error(message).at(node.span, label);
        self.reject(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }

    /// Like [`mismatch`](Self::mismatch), as a warning.
    pub(crate) fn warn_mismatch(&mut self, node: &Node, message: &'static str, expected: impl Display) {
        let label = format!("found {}, expected {expected}", self.describe(node));
        self.record(Diagnostic::warning(message).at(node.span, label));
    }

    /// Describes a value. Shows nothing that is secret or comes from the environment.
    fn describe(&self, node: &Node) -> String {
        let secret = self.is_secret(node);
        match &node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Broken => "an invalid value".to_owned(),
            Value::Scalar { .. } if node.is_null() => "nothing".to_owned(),
            Value::Scalar { text, plain } => {
                let kind = match plain.then(|| plain_kind(text)).flatten() {
                    Some(kind) => kind,
                    None if text.is_empty() => return "an empty text".to_owned(),
                    None => "",
                };
                match (secret, text.chars().count() <= 60 && !text.contains('\n')) {
                    (true, _) if kind.is_empty() => "text".to_owned(),
                    (true, _) => kind.trim().replacen("the", "a", 1),
                    (false, true) => format!("{kind}`{text}`"),
                    (false, false) => "a long text".to_owned(),
                }
            }
        }
    }

    pub(crate) fn is_secret(&self, node: &Node) -> bool {
        self.sources.get(node.span.source).is_some_and(|source| source.is_secret(node.span))
    }

    /// Whether a value may be shown: it is not secret and reads nothing from the environment.
    pub(crate) fn may_show(&self, node: &Node) -> bool {
        !self.is_secret(node) && matches!(&node.value, Value::Scalar { text, .. } if !text.contains("${"))
    }

    /// Whether every value in a node may be shown.
    pub(crate) fn may_show_all(&self, node: &Node) -> bool {
        match &node.value {
            Value::Scalar { .. } => self.may_show(node),
            Value::List(items) => items.iter().all(|item| self.may_show_all(item)),
            Value::Mapping(entries) => entries.iter().all(|entry| self.may_show_all(&entry.value)),
            Value::Broken => true,
        }
    }

    /// Keeps a value out of every report.
    pub(crate) fn hide(&mut self, node: &Node) {
        if let Some(source) = self.sources.get_mut(node.span.source) {
            let secret = with_decoration(&source.text, node.span.start..node.span.end);
            let secrets = mem::take(&mut source.secrets);
            source.secrets = merge(&source.text, secrets.into_iter().chain([secret]));
        }
    }

    /// The directory that relative paths in a value are relative to.
    pub(crate) fn directory(&self, node: &Node) -> PathBuf {
        self.sources.get(node.span.source).map(|source| source.directory.clone()).unwrap_or_default()
    }

    /// A scalar after interpolation; anything else is an error.
    pub(crate) fn scalar<'node>(&mut self, node: &'node Node, expected: &str) -> Option<Scalar<'node>> {
        let Value::Scalar { text, plain } = &node.value else {
            return self.mismatch(node, "wrong type", expected);
        };
        match interpolate(text, self.environment) {
            Ok(found) => Some(Scalar { string: !(*plain || found.changed), text: found.text }),
            Err(error) => {
                let hint = "write `${NAME:-default}` for a default, or `$${` for a literal `${`";
                // A `${` in a secret may be a part of it, and so is what follows.
                let label = match &error {
                    InterpolationError::Unset(name)
                        if **text == format!("${{{name}}}")
                            && (is_usual_name(name) || !self.is_secret(node)) =>
                    {
                        error.to_string()
                    }
                    InterpolationError::Unset(_) | InterpolationError::Name(_) if self.is_secret(node) => {
                        "the variable in `${…}` is not set in the environment".to_owned()
                    }
                    _ => error.to_string(),
                };
                self.reject(Diagnostic::error("cannot resolve `${…}`").at(node.span, label).hint(hint))
            }
        }
    }

    /// A string: a plain number, boolean or null is an error.
    pub(crate) fn string<'node>(&mut self, node: &'node Node, expected: &str) -> Option<Cow<'node, str>> {
        if let Value::Scalar { text, plain: true } = &node.value
            && (node.is_null() || plain_kind(text).is_some())
        {
            let hint = (!node.is_null()).then(|| "put the value in quotes".to_owned());
            return self.mismatch_with(node, "wrong type", expected, hint);
        }
        Some(self.scalar(node, expected)?.text)
    }

    /// The entries of a mapping.
    pub(crate) fn mapping<'node>(&mut self, node: &'node Node, expected: &str) -> Option<&'node [Entry]> {
        let Value::Mapping(entries) = &node.value else {
            let hint = node.is_null().then(|| "remove the key to use the defaults".to_owned());
            return self.mismatch_with(node, "wrong type", expected, hint.filter(|_| !self.path.is_empty()));
        };
        Some(entries)
    }

    /// The items of a list.
    pub(crate) fn list<'node>(&mut self, node: &'node Node, expected: &str) -> Option<&'node [Rc<Node>]> {
        let Value::List(items) = &node.value else {
            return self.mismatch(node, "wrong type", expected);
        };
        Some(items)
    }

    /// Records an error for each key that is not among `known`.
    pub(crate) fn reject_unknown(&mut self, entries: &[Entry], known: &[&str]) {
        for Entry { key, .. } in entries {
            if known.contains(&&*key.text) {
                continue;
            }
            let hint = match nearest(&key.text, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("expected {}", listed(known)),
            };
            let error =
                Diagnostic::error("unknown key").at(key.span, "this section has no such key").hint(hint);
            self.record_within(key, error);
        }
    }

    /// Records an error if both keys are present.
    pub(crate) fn reject_both(&mut self, entries: &[Entry], first: &str, second: &str) {
        if let (Some(first), Some(second)) = (find_entry(entries, first), find_entry(entries, second)) {
            let error = Diagnostic::error(format!("`{}` and `{}` together", first.key.text, second.key.text))
                .at(second.key.span, "expected only one of the two")
                .related(first.key.span, "the other key");
            self.record(error);
        }
    }

    /// Records that the required key `name` is absent.
    pub(crate) fn missing(&mut self, node: &Node, name: &str) {
        let span = match self.path.last() {
            Some(PathStep { key, item: None }) => key.span,
            _ => Span { end: node.span.start, ..node.span },
        };
        let key = Key { text: name.into(), span };
        let error = Diagnostic::error("missing key").at(span, format!("expected the key `{name}` here"));
        self.record_within(&key, error);
    }
}

/// Whether a name is a usual one for an environment variable, such as `ADMIN_TOKEN`.
fn is_usual_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Appends a key to a path; quotes it unless it is a plain word.
pub(crate) fn join(path: &mut String, key: &str) {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match (path.is_empty(), plain) {
        (true, true) => path.push_str(key),
        (false, true) => *path += &format!(".{key}"),
        (true, false) => *path += &format!("\"{key}\""),
        (false, false) => *path += &format!(".\"{key}\""),
    }
}

/// The type of a plain scalar in YAML's core schema; `None` for strings and null.
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

/// The candidate that `word` is probably a misspelling of.
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

/// Lists words: `` `a`, `b` or `c` ``.
pub(crate) fn listed(words: &[&str]) -> String {
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
            return decoder.mismatch(node, "an empty list", "one value or a list of values");
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
