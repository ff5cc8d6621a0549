//! A report from the ledger, token by token: as JSON that need not be held in memory, or as a whole.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use jiff::Timestamp;

use super::findings::{findings, sort};
use super::ledger::LedgerError;
use super::message::View;
use super::overview::TokenName;
use super::question::Question;
use super::read::{Query, Snapshot, date};
use super::record::token_key;
use super::report::{Finding, Report, TokenUsage};
use crate::config::settings::FindingRules;
use crate::shown::shown;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It cannot be written to where it should go: its reader has left.
    #[error("the report cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// What there is to tell, at one moment.
pub struct Telling<'a> {
    view: &'a View,
    snapshot: Option<Snapshot>,
    query: Query,
    rules: &'a FindingRules,
    now: Timestamp,
}

impl<'a> Telling<'a> {
    /// The answer to a question. `rules` say what is a finding.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn new(
        view: &'a View,
        question: &Question,
        rules: &'a FindingRules,
        now: Timestamp,
    ) -> Result<Self, LedgerError> {
        let snapshot = view.source.as_ref().map(|source| source.snapshot()).transpose()?;
        Ok(Self { view, snapshot, query: Query::of(question, now), rules, now })
    }

    /// Tells of each token, until `tell` breaks.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn tokens(&self, tell: impl FnMut(TokenUsage) -> ControlFlow<()>) -> Result<(), LedgerError> {
        let unwritten = self.view.unwritten.as_ref();
        match &self.snapshot {
            Some(snapshot) => snapshot.tokens(&self.query, unwritten, tell),
            None => {
                super::read::unwritten_tokens(&self.query, unwritten, tell);
                Ok(())
            }
        }
    }

    /// The first `most` tokens, by id: what a form can offer.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn names(&self, most: usize) -> Result<Vec<TokenName>, LedgerError> {
        let mut names = BTreeMap::<Vec<u8>, TokenName>::new();
        if let Some(snapshot) = &self.snapshot {
            snapshot.names(&mut names, most)?;
        }
        for (id, token) in self.view.unwritten.iter().flat_map(|it| it.pending.tokens()).take(most) {
            names.insert(token_key(id), TokenName::of(id, token.token.name.as_deref()));
        }
        // An id that is not shown as it is cannot be sent back.
        Ok(names.into_values().filter(|name| name.whole && shown(&name.id) == name.id).take(most).collect())
    }

    /// All of it, in memory.
    ///
    /// # Errors
    /// Where the ledger cannot be read.
    pub fn report(&self) -> Result<Report, LedgerError> {
        let mut report = self.frame();
        self.tokens(|token| {
            report.tokens.push(token);
            ControlFlow::Continue(())
        })?;
        report.assess(self.rules, self.now);
        Ok(report)
    }

    /// All of it as JSON: no more than one token is in memory at a time, and so many findings as [`MOST_FINDINGS`].
    ///
    /// # Errors
    /// Where the ledger cannot be read, or `output` takes no more.
    pub fn write_json(&self, output: &mut dyn Write) -> Result<(), TellError> {
        // The frame's own text, opened where the tokens belong.
        let frame = serde_json::to_string(&self.frame()).map_err(io::Error::from)?;
        let before = frame.split_once("\"tokens\":[]").map_or("{", |(before, _)| before);
        write!(output, "{before}\"tokens\":[")?;
        let (mut found, mut left_off) = (Vec::new(), 0);
        let mut written = Ok(());
        let mut separator = "";
        self.tokens(|token| {
            written = output
                .write_all(separator.as_bytes())
                .and_then(|()| serde_json::to_writer(&mut *output, &token).map_err(io::Error::from));
            separator = ",\n";
            found.extend(findings(&token, self.rules, self.now));
            if found.len() >= 2 * MOST_FINDINGS {
                left_off += keep_most_severe(&mut found);
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        left_off += keep_most_severe(&mut found);
        write!(output, "],\"findings\":")?;
        serde_json::to_writer(&mut *output, &found).map_err(io::Error::from)?;
        if left_off > 0 {
            write!(output, ",\"findings_left_off\":{left_off}")?;
        }
        write!(output, "}}")?;
        output.flush()?;
        Ok(())
    }

    fn frame(&self) -> Report {
        Report {
            ledgers: self.snapshot.iter().filter_map(|it| it.id().map(str::to_owned)).collect(),
            since: self.query.since.map(date),
            ..Report::default()
        }
    }
}

/// How many findings are told as JSON, the most severe: some 30 MB.
pub const MOST_FINDINGS: usize = 50_000;

/// Sorts them, and says how many of them went.
fn keep_most_severe(found: &mut Vec<Finding>) -> usize {
    sort(found);
    let left_off = found.len().saturating_sub(MOST_FINDINGS);
    found.truncate(MOST_FINDINGS);
    left_off
}
