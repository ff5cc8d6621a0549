//! What is wrong with a configuration, and how people are told.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::cases::Check;
use super::redact::REDACTED;
use super::source::{Source, Span};
use crate::policy::map::Place;

/// How many findings a report shows: nobody reads more, and a file that is no configuration has thousands.
const MOST_SHOWN: usize = 1000;

/// The longest line that is shown, in bytes. A document without line breaks would be copied for each finding.
const LONGEST_SHOWN: usize = 16 * 1024;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mistake {
    pub(super) severity: Severity,
    /// The key's path, such as `backend.url`; empty where it is about a whole file.
    pub(super) path: String,
    pub(super) message: Cow<'static, str>,
    /// Where it is, and what was found and expected there.
    place: Option<(Span, Cow<'static, str>)>,
    related: Option<(Span, Cow<'static, str>)>,
    hint: Option<Cow<'static, str>>,
}

impl Mistake {
    fn new(severity: Severity, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self { severity, path: String::new(), message, place: None, related: None, hint: None }
    }

    pub(super) fn error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Error, message)
    }

    pub(super) fn warning(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Warning, message)
    }

    pub(super) fn note(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Note, message)
    }

    /// The key that it is about.
    pub(super) fn of(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Where it is, and what to say there.
    pub(super) fn at(mut self, span: Span, label: impl Into<Cow<'static, str>>) -> Self {
        self.place = Some((span, label.into()));
        self
    }

    /// A second place that belongs to it.
    pub(super) fn see(mut self, span: Span, label: impl Into<Cow<'static, str>>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    /// What would put it right.
    pub(super) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn title(&self) -> Cow<'_, str> {
        if self.path.is_empty() {
            Cow::Borrowed(&self.message)
        } else {
            Cow::Owned(format!("`{}`: {}", self.path, self.message))
        }
    }
}

/// What became of a check that did not become what it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which request, what was expected and what came.
    pub message: String,
    /// Why it came.
    pub why: String,
    /// The place of the rule that decided, and what it asks for.
    pub rule: Option<(Place, String)>,
    /// What would do.
    pub hint: Option<String>,
}

/// One finding, for programs. It shows nothing of the file's text but what the message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// The file that it is about, as it was named.
    pub file: &'a str,
    /// Line and column, both from 1, the column in characters; `None` if it is about the whole file.
    pub position: Option<(usize, usize)>,
    /// How much it weighs.
    pub severity: Severity,
    /// The path of the key, such as `backend.url`; `None` if it is about no key.
    pub key: Option<&'a str>,
    /// What is wrong, what was found and what is expected.
    pub message: String,
    /// What would put it right.
    pub help: Option<&'a str>,
}

/// Everything that was found in a configuration, each with its place.
#[derive(Debug)]
pub struct Report {
    /// The configuration as it was named.
    name: String,
    sources: Vec<Source>,
    mistakes: Vec<Mistake>,
    /// Every file that was read or named.
    files: Vec<PathBuf>,
    /// Where keys are whose values only a start can judge.
    places: Vec<(String, Span)>,
}

impl Report {
    pub(super) fn new(name: String, sources: Vec<Source>, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.place.as_ref().map(|(span, _)| *span));
        // What stands behind several aliases is wrong once.
        mistakes.dedup();
        Self { name, sources, mistakes, files: Vec::new(), places: Vec::new() }
    }

    pub(super) fn with_files(self, files: Vec<PathBuf>) -> Self {
        Self { files, ..self }
    }

    /// Every file that was read or that is named, the configuration itself first: what has to change before another
    /// report can come of it.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(super) fn with_places(self, places: Vec<(String, Span)>) -> Self {
        Self { places, ..self }
    }

    /// Adds what a start found: that the value of `key`, such as `listen.tls`, cannot be used.
    pub fn refuse(&mut self, key: &str, reason: String) {
        let place = self.places.iter().find(|(name, _)| name == key);
        let mistake = match place {
            Some((_, span)) => Mistake::error("cannot be used").at(*span, reason),
            None => Mistake::error(reason),
        };
        self.mistakes.push(mistake.of(key));
    }

    /// Adds that a check failed.
    pub fn fail(&mut self, check: &Check, failure: Failure) {
        let mut mistake = Mistake::error(failure.message).at(check.span, failure.why);
        if let Some((place, about)) = failure.rule
            && let Some(span) = self.word_at(&place)
        {
            mistake = mistake.see(span, about);
        }
        if let Some(hint) = failure.hint {
            mistake = mistake.hint(hint);
        }
        self.mistakes.push(mistake);
    }

    /// Adds a warning about a place in what was read, and why it is given.
    pub fn warn(&mut self, place: Option<&Place>, message: String, why: String) {
        let mistake = Mistake::warning(message);
        self.mistakes.push(match place.and_then(|place| self.word_at(place)) {
            Some(span) => mistake.at(span, why),
            None => mistake.hint(why),
        });
    }

    /// The word that begins at a place in one of the sources.
    fn word_at(&self, place: &Place) -> Option<Span> {
        let number = self.sources.iter().position(|source| source.name == place.file)?;
        let source = self.sources.get(number)?;
        let start = source.offset(place.line, place.column)?;
        let word = source.text.get(start..)?;
        let length = match word.strip_prefix(['"', '\'']) {
            Some(quoted) => quoted.find(['"', '\'', '\n']).map_or(1, |end| end + 2),
            None => word.bytes().take_while(u8::is_ascii_alphanumeric).count(),
        };
        Some(Span { source: number, start, end: start + length })
    }

    /// The same sources, of which nothing is said yet.
    pub fn without_findings(self) -> Self {
        Self { mistakes: Vec::new(), ..self }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// How many findings of this weight there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.mistakes.iter().filter(|mistake| mistake.severity == severity).count()
    }

    /// For people: each finding with its line and a caret, then how many there are. Plain text, or with
    /// ANSI colours.
    pub fn render(&self, coloured: bool) -> String {
        let mut text = String::new();
        for finding in self.findings(coloured).take(MOST_SHOWN) {
            text.push_str(&finding);
            text.push_str("\n\n");
        }
        if self.mistakes.len() > MOST_SHOWN {
            text += &format!("the first {MOST_SHOWN} of ");
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// Each finding with its line and a caret.
    pub fn findings(&self, coloured: bool) -> impl Iterator<Item = String> {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        self.mistakes.iter().map(move |mistake| self.render_one(mistake, &renderer))
    }

    fn render_one(&self, mistake: &Mistake, renderer: &Renderer) -> String {
        let level = match mistake.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let mut group = Group::with_title(level.primary_title(mistake.title()));
        if let Some((span, label)) = &mistake.place {
            group = self.add_line(group, *span, visible(label), AnnotationKind::Primary);
        }
        if let Some((span, label)) = &mistake.related {
            group = self.add_line(group, *span, visible(label), AnnotationKind::Context);
        }
        if let Some(hint) = &mistake.hint {
            group = group.element(Level::HELP.message(visible(hint)));
        }
        // In titles and lines the renderer shows C0 controls as pictures, but lets C1 through.
        renderer.render(&[group]).replace(|character| matches!(character, '\u{80}'..='\u{9f}'), "\u{fffd}")
    }

    fn add_line<'a>(
        &'a self,
        group: Group<'a>,
        span: Span,
        label: String,
        kind: AnnotationKind,
    ) -> Group<'a> {
        let Some(source) = self.sources.get(span.source) else { return group };
        let (number, column) = source.position(span.start);
        if source.line_around(span.start).len() > LONGEST_SHOWN {
            let origin = Origin::path(&*source.name).line(number).char_column(column);
            return group.element(origin).element(Level::NOTE.message(label));
        }
        let (line, range) = shown_line(source, span);
        if line.is_empty() {
            return group.element(Origin::path(&*source.name)).element(Level::NOTE.message(label));
        }
        group.element(
            Snippet::source(line)
                .line_start(number)
                .path(&*source.name)
                .annotation(kind.span(range).label(label)),
        )
    }

    /// The findings in the order of their places.
    pub fn list(&self) -> impl Iterator<Item = Finding<'_>> {
        let place = |span: Span| {
            let source = self.sources.get(span.source)?;
            let (line, column) = source.position(span.start);
            Some((&*source.name, line, column))
        };
        self.mistakes.iter().map(move |mistake| {
            let mut message = mistake.message.clone().into_owned();
            let mut found = None;
            if let Some((span, label)) = &mistake.place {
                message += &format!(": {label}");
                found = place(*span);
            }
            if let Some((span, label)) = &mistake.related
                && let Some((file, line, column)) = place(*span)
            {
                message += &format!(" ({label}: {file}:{line}:{column})");
            }
            Finding {
                file: found.map_or(&*self.name, |(file, ..)| file),
                position: found.map(|(_, line, column)| (line, column)),
                severity: mistake.severity,
                key: Some(&*mistake.path).filter(|path| !path.is_empty()),
                message,
                help: mistake.hint.as_deref(),
            }
        })
    }

    /// One line a finding, for logs: `file:line:column: error: key: message; label; hint`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.mistakes.iter().map(|mistake| {
            let mut line = String::new();
            let place = mistake.place.as_ref();
            if let Some((source, span, label)) =
                place.and_then(|(span, label)| Some((self.sources.get(span.source)?, span, label)))
            {
                let (number, column) = source.position(span.start);
                line = format!("{}:{number}:{column}: ", source.name);
                line += &format!("{}: {}; {label}", mistake.severity.word(), mistake.title());
            } else {
                line += &format!("{}: {}", mistake.severity.word(), mistake.title());
            }
            if let Some(hint) = &mistake.hint {
                line += "; ";
                line += hint;
            }
            line
        })
    }

    /// Such as `2 mistakes and 1 warning in gateway.yaml`.
    pub fn summary(&self) -> String {
        let kinds = [(Severity::Error, "mistake"), (Severity::Warning, "warning"), (Severity::Note, "note")];
        let counts: Vec<String> = kinds
            .iter()
            .filter_map(|&(severity, noun)| match self.count(severity) {
                0 => None,
                1 => Some(format!("1 {noun}")),
                count => Some(format!("{count} {noun}s")),
            })
            .collect();
        let counts = match counts.as_slice() {
            [] => "no mistakes".to_owned(),
            [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            all => all.concat(),
        };
        format!("{counts} in {}", self.name)
    }
}

impl Display for Report {
    /// The plain form for people.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

/// A text without what a terminal would obey.
fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The line on which a span starts, secrets replaced, and the span in it.
fn shown_line(source: &Source, span: Span) -> (String, std::ops::Range<usize>) {
    let text = source.text.as_str();
    let floor = |byte: usize| {
        let mut byte = byte.min(text.len());
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        byte
    };
    let at = floor(span.start);
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let (start, end) = (at, floor(span.end).clamp(at, line_end));

    let mut line = String::new();
    let (mut shown_start, mut shown_end) = (None, None);
    let mut byte = line_start;
    let mut secrets: Vec<_> = source.secrets.iter().collect();
    secrets.sort_by_key(|secret| secret.start);
    for secret in secrets.into_iter().filter(|secret| secret.start < line_end && line_start < secret.end) {
        let (from, to) = (floor(secret.start).max(byte), floor(secret.end).min(line_end));
        if from >= to {
            continue;
        }
        let offset = line.len();
        line.push_str(&text[byte..from]);
        if (byte..from).contains(&start) {
            shown_start.get_or_insert(offset + start - byte);
        }
        if (byte..=from).contains(&end) {
            shown_end.get_or_insert(offset + end - byte);
        }
        if (from..to).contains(&start) {
            shown_start.get_or_insert(line.len());
        }
        line.push_str(REDACTED);
        if (from + 1..=to).contains(&end) {
            shown_end.get_or_insert(line.len());
        }
        byte = to;
    }
    let offset = line.len();
    line.push_str(text[byte..line_end].trim_end_matches('\r'));
    let shown_start = shown_start.unwrap_or(offset + start.saturating_sub(byte)).min(line.len());
    let shown_end = shown_end.unwrap_or(offset + end.saturating_sub(byte)).clamp(shown_start, line.len());
    (line, shown_start..shown_end)
}
