//! Streams a report from the ledger, as JSON token by token or as a whole.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use jiff::Timestamp;

use super::findings::{findings, sort};
use super::ledger::LedgerError;
use super::message::LedgerView;
use super::overview::TokenName;
use super::query::ReportQuery;
use super::read::{LedgerQuery, Snapshot, date};
use super::record::token_key;
use super::report::{Finding, Report, TokenUsage, deprecated_routes};
use crate::config::settings::FindingRules;
use crate::sanitize::sanitize;

/// A report failed.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The output cannot be written, for example because the client has disconnected.
    #[error("the report cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// A report at one moment.
pub struct ReportStream<'a> {
    view: &'a LedgerView,
    snapshot: Option<Snapshot>,
    query: LedgerQuery,
    rules: &'a FindingRules,
    now: Timestamp,
}

impl<'a> ReportStream<'a> {
    /// Opens a view of the ledger for `query`. `rules` determine the findings.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn new(
        view: &'a LedgerView,
        query: &ReportQuery,
        rules: &'a FindingRules,
        now: Timestamp,
    ) -> Result<Self, LedgerError> {
        let snapshot = view.source.as_ref().map(|source| source.snapshot()).transpose()?;
        Ok(Self { view, snapshot, query: LedgerQuery::new(query, now), rules, now })
    }

    /// Visits each token until `visit` breaks.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn tokens(&self, visit: impl FnMut(TokenUsage) -> ControlFlow<()>) -> Result<(), LedgerError> {
        let unwritten = self.view.unwritten.as_ref();
        match &self.snapshot {
            Some(snapshot) => snapshot.tokens(&self.query, unwritten, visit),
            None => {
                super::read::unwritten_tokens(&self.query, unwritten, visit);
                Ok(())
            }
        }
    }

    /// The first `max` tokens by id, for the form of the page.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn names(&self, max: usize) -> Result<Vec<TokenName>, LedgerError> {
        let mut names = BTreeMap::<Vec<u8>, TokenName>::new();
        if let Some(snapshot) = &self.snapshot {
            snapshot.names(&mut names, max)?;
        }
        for (id, token) in self.view.unwritten.iter().flat_map(|it| it.pending.tokens()).take(max) {
            names.insert(token_key(id), TokenName::of(id, token.token.name.as_deref()));
        }
        // Ids that are changed for display cannot be sent back by the form.
        Ok(names
            .into_values()
            .filter(|name| name.is_complete && sanitize(&name.id) == name.id)
            .take(max)
            .collect())
    }

    /// The complete report.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn report(&self) -> Result<Report, LedgerError> {
        let mut report = self.empty_report();
        self.tokens(|token| {
            report.tokens.push(token);
            ControlFlow::Continue(())
        })?;
        report.assess(self.rules, self.now);
        Ok(report)
    }

    /// Writes the report as JSON, with one token in memory at a time. It has at most [`MAX_FINDINGS`] findings.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read or `output` cannot be written.
    pub fn write_json(&self, output: &mut dyn Write) -> Result<(), ReportError> {
        // Serialises a report without tokens, and inserts the tokens into its text.
        let empty_report = serde_json::to_string(&self.empty_report()).map_err(io::Error::from)?;
        let before = empty_report.split_once("\"tokens\":[]").map_or("{", |(before, _)| before);
        write!(output, "{before}\"tokens\":[")?;
        let (mut found, mut omitted) = (Vec::new(), 0);
        let mut written = Ok(());
        let mut separator = "";
        self.tokens(|token| {
            written = output
                .write_all(separator.as_bytes())
                .and_then(|()| serde_json::to_writer(&mut *output, &token).map_err(io::Error::from));
            separator = ",\n";
            found.extend(findings(&token, self.rules, self.now));
            if found.len() >= 2 * MAX_FINDINGS {
                omitted += keep_most_severe(&mut found);
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        omitted += keep_most_severe(&mut found);
        write!(output, "],\"findings\":")?;
        serde_json::to_writer(&mut *output, &found).map_err(io::Error::from)?;
        if omitted > 0 {
            write!(output, ",\"findings_left_off\":{omitted}")?;
        }
        write!(output, "}}")?;
        output.flush()?;
        Ok(())
    }

    fn empty_report(&self) -> Report {
        Report {
            ledgers: self.snapshot.iter().filter_map(|it| it.id().map(str::to_owned)).collect(),
            since: self.query.since.map(date),
            deprecated_routes: self.rules.deprecated.as_deref().map(deprecated_routes),
            ..Report::default()
        }
    }
}

/// The most findings in JSON, some 30 MB. The most severe ones are kept.
pub const MAX_FINDINGS: usize = 50_000;

/// Sorts and truncates the findings. Returns how many were removed.
fn keep_most_severe(found: &mut Vec<Finding>) -> usize {
    sort(found);
    let omitted = found.len().saturating_sub(MAX_FINDINGS);
    found.truncate(MAX_FINDINGS);
    omitted
}
