//! Errors, warnings and notes about files, and the reports that show them.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::redact::REDACTED;
use super::source::{Source, Span};
use crate::policy::source_location::SourceLocation;

/// The most findings that a report shows: a file that is no configuration has thousands.
const MOST_SHOWN: usize = 1000;

/// The longest line that is shown, in bytes: each finding copies its line, and documents without line breaks have one.
const LONGEST_SHOWN: usize = 16 * 1024;

/// How severe a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The gateway rejects the file.
    Error,
    /// Probably an error.
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

/// An error, a warning or a note.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Diagnostic {
    pub(crate) severity: Severity,
    /// The path of the key, such as `backend.url`; empty if it is about no key.
    pub(crate) path: String,
    pub(crate) message: Cow<'static, str>,
    /// The place, and a label for it: what was found and what is expected.
    place: Option<(Span, Cow<'static, str>)>,
    related: Option<(Span, Cow<'static, str>)>,
    hint: Option<Cow<'static, str>>,
}

impl Diagnostic {
    fn new(severity: Severity, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self { severity, path: String::new(), message, place: None, related: None, hint: None }
    }

    pub(crate) fn error(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Error, message)
    }

    pub(crate) fn warning(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Warning, message)
    }

    pub(crate) fn note(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Severity::Note, message)
    }

    /// Sets the path of the key.
    pub(crate) fn key(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the place and its label.
    pub(crate) fn at(mut self, span: Span, label: impl Into<Cow<'static, str>>) -> Self {
        self.place = Some((span, label.into()));
        self
    }

    /// Sets a second place and its label.
    pub(crate) fn related(mut self, span: Span, label: impl Into<Cow<'static, str>>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    /// Sets the hint at a correction.
    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Suggests the word that was probably meant, if there is one.
    pub(crate) fn suggest(self, near: Option<&str>) -> Self {
        match near {
            Some(near) => self.hint(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    fn title(&self) -> Cow<'_, str> {
        if self.path.is_empty() {
            Cow::Borrowed(&self.message)
        } else {
            Cow::Owned(format!("`{}`: {}", self.path, self.message))
        }
    }
}

/// A failed test case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The request, the expected and the actual decision.
    pub message: String,
    /// The reason of the actual decision.
    pub why: String,
    /// The place of the rule that decided, and a description of it.
    pub rule: Option<(SourceLocation, String)>,
    /// A hint at a correction.
    pub hint: Option<String>,
}

/// A finding as data. It has nothing of the file's text but what the message quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// The file, as it was named.
    pub file: &'a str,
    /// Line and column, both from 1, the column in characters; `None` if it is about the whole file.
    pub position: Option<(usize, usize)>,
    /// Its severity.
    pub severity: Severity,
    /// The path of the key, such as `backend.url`; `None` if it is about no key.
    pub key: Option<&'a str>,
    /// What is wrong, what was found and what is expected.
    pub message: String,
    /// A hint at a correction.
    pub help: Option<&'a str>,
}

/// The findings about a file and the files that it includes.
#[derive(Debug)]
pub struct Report {
    /// The file as it was named.
    name: String,
    sources: Vec<Source>,
    diagnostics: Vec<Diagnostic>,
    /// Every file that was read or that is named.
    files: Vec<PathBuf>,
    /// Places of keys whose values only a start of the gateway can validate.
    places: Vec<(String, Span)>,
}

impl Report {
    pub(crate) fn new(
        name: String,
        sources: Vec<Source>,
        mut diagnostics: Vec<Diagnostic>,
        files: Vec<PathBuf>,
    ) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|(span, _)| *span));
        // A value with several aliases is decoded several times.
        diagnostics.dedup();
        Self { name, sources, diagnostics, files, places: Vec::new() }
    }

    /// A report of one error that is in no file.
    pub fn of_error(name: String, message: String, help: &'static str) -> Self {
        Self::new(name, Vec::new(), vec![Diagnostic::error(message).hint(help)], Vec::new())
    }

    /// Every file that was read or that is named, the file itself first. The report stays the same until one changes.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(crate) fn with_places(self, places: Vec<(String, Span)>) -> Self {
        Self { places, ..self }
    }

    /// Adds that the value of `key`, such as `listen.tls`, cannot be used, as the start of the gateway has shown.
    /// `help` says what to do.
    pub fn refuse(&mut self, key: &str, reason: String, help: Option<&'static str>) {
        let place = self.places.iter().find(|(name, _)| name == key);
        let diagnostic = match place {
            Some((_, span)) => Diagnostic::error("cannot be used").at(*span, reason),
            None => Diagnostic::error(reason),
        };
        let diagnostic = diagnostic.key(key);
        self.diagnostics.push(match help {
            Some(help) => diagnostic.hint(help),
            None => diagnostic,
        });
    }

    /// Adds a failed step of a probe, and how to correct it.
    pub fn fail_probe(&mut self, key: Option<&'static str>, message: String, help: String) {
        let error = Diagnostic::error(message).hint(help);
        self.diagnostics.push(match key {
            Some(key) => error.key(key),
            None => error,
        });
    }

    /// Adds a failed test case.
    pub(crate) fn fail(&mut self, span: Span, failure: Failure) {
        let mut error = Diagnostic::error(failure.message).at(span, failure.why);
        if let Some((place, about)) = failure.rule
            && let Some(span) = self.word_at(&place)
        {
            error = error.related(span, about);
        }
        if let Some(hint) = failure.hint {
            error = error.hint(hint);
        }
        self.diagnostics.push(error);
    }

    /// Adds a warning about a place in one of the files, and the reason for it.
    pub fn warn(&mut self, place: Option<&SourceLocation>, message: String, why: String) {
        let warning = Diagnostic::warning(message);
        self.diagnostics.push(match place.and_then(|place| self.word_at(place)) {
            Some(span) => warning.at(span, why),
            None => warning.hint(why),
        });
    }

    /// The word that starts at a place in one of the sources.
    fn word_at(&self, place: &SourceLocation) -> Option<Span> {
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

    /// The report without its findings.
    pub fn without_findings(self) -> Self {
        Self { diagnostics: Vec::new(), ..self }
    }

    /// Whether there are no findings.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// The number of findings with this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// The report as text: each finding with its line and a caret, then the summary. Optionally with ANSI colours.
    pub fn render(&self, coloured: bool) -> String {
        let mut text = String::new();
        for finding in self.findings(coloured).take(MOST_SHOWN) {
            text.push_str(&finding);
            text.push_str("\n\n");
        }
        if self.diagnostics.len() > MOST_SHOWN {
            text += &format!("the first {MOST_SHOWN} of ");
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// Each finding with its line and a caret.
    pub fn findings(&self, coloured: bool) -> impl Iterator<Item = String> {
        let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
        self.diagnostics.iter().map(move |diagnostic| self.render_one(diagnostic, &renderer))
    }

    fn render_one(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let mut group = Group::with_title(level.primary_title(diagnostic.title()));
        if let Some((span, label)) = &diagnostic.place {
            group = self.add_line(group, *span, visible(label), AnnotationKind::Primary);
        }
        if let Some((span, label)) = &diagnostic.related {
            group = self.add_line(group, *span, visible(label), AnnotationKind::Context);
        }
        if let Some(hint) = &diagnostic.hint {
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

    /// The findings as data, in the order of their places.
    pub fn list(&self) -> impl Iterator<Item = Finding<'_>> {
        let place = |span: Span| {
            let source = self.sources.get(span.source)?;
            let (line, column) = source.position(span.start);
            Some((&*source.name, line, column))
        };
        self.diagnostics.iter().map(move |diagnostic| {
            let mut message = diagnostic.message.clone().into_owned();
            let mut found = None;
            if let Some((span, label)) = &diagnostic.place {
                message += &format!(": {label}");
                found = place(*span);
            }
            if let Some((span, label)) = &diagnostic.related
                && let Some((file, line, column)) = place(*span)
            {
                message += &format!(" ({label}: {file}:{line}:{column})");
            }
            Finding {
                file: found.map_or(&*self.name, |(file, ..)| file),
                position: found.map(|(_, line, column)| (line, column)),
                severity: diagnostic.severity,
                key: Some(&*diagnostic.path).filter(|path| !path.is_empty()),
                message,
                help: diagnostic.hint.as_deref(),
            }
        })
    }

    /// The findings as lines for logs: `file:line:column: error: key: message; label; hint`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.diagnostics.iter().map(|diagnostic| {
            let mut line = String::new();
            let place = diagnostic.place.as_ref();
            if let Some((source, span, label)) =
                place.and_then(|(span, label)| Some((self.sources.get(span.source)?, span, label)))
            {
                let (number, column) = source.position(span.start);
                line = format!("{}:{number}:{column}: ", source.name);
                line += &format!("{}: {}; {label}", diagnostic.severity.word(), diagnostic.title());
            } else {
                line += &format!("{}: {}", diagnostic.severity.word(), diagnostic.title());
            }
            if let Some(hint) = &diagnostic.hint {
                line += "; ";
                line += hint;
            }
            line
        })
    }

    /// Such as `2 errors and 1 warning in gateway.yaml`.
    pub fn summary(&self) -> String {
        let kinds = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")];
        let counts: Vec<String> = kinds
            .iter()
            .filter_map(|&(severity, noun)| match self.count(severity) {
                0 => None,
                1 => Some(format!("1 {noun}")),
                count => Some(format!("{count} {noun}s")),
            })
            .collect();
        let counts = match counts.as_slice() {
            [] => "no errors".to_owned(),
            [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            all => all.concat(),
        };
        format!("{counts} in {}", self.name)
    }
}

impl Display for Report {
    /// Without colours.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

/// Replaces control characters, which terminals interpret.
fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The line on which a span starts, with secrets replaced, and the range of the span in it.
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
