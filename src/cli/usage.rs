//! `usage`: who uses what.

mod csv;
mod tables;

use std::io::{self, Write};
use std::panic;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ask_admin::{AdminError, ask_with_token};
use super::{ConfigArgument, Exit, output, print_json, read_report, report, show};
use crate::config;
use crate::config::settings::{Admin, FindingRules, ListenAddress, Usage};
use crate::shown::shown;
use crate::usage::add::AddError;
use crate::usage::ledger::{LedgerError, contained};
use crate::usage::message::View as LedgerView;
use crate::usage::overview::Overview;
use crate::usage::page::{self, View};
use crate::usage::question::{Question, Since};
use crate::usage::report::Report;
use crate::usage::source::Source;
use crate::usage::tell::Telling;

/// Print who uses what, and what to do about it
///
/// From the configuration's ledger, by way of its gateway while one runs; or from files alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only of the token with this id
    #[arg(long, value_name = "ID")]
    token: Option<String>,
    /// Only of the last days, such as 30d [default: all that are kept]
    #[arg(long, value_name = "DAYS")]
    since: Option<Since>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: UsageFormat,
    /// Reports of other replicas to add, as `--format json` prints them; without --config only these
    #[arg(long, value_name = "FILE", num_args = 1..)]
    add: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum UsageFormat {
    /// Aligned columns for people
    #[default]
    Table,
    /// JSON for programs, and for --add
    Json,
    /// A row for each token, ability, route, method and verdict, for spreadsheets
    Csv,
    /// A web page in one file
    Html,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("{}: no usage is kept: there is no `usage`", .0.display())]
    NotKept(PathBuf),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("a gateway holds the ledger, and does not tell of it: {address}: {source}")]
    Admin { address: ListenAddress, source: AdminError },
    #[error("{address}: the answer is no report: {source}")]
    Answer { address: ListenAddress, source: serde_json::Error },
    #[error("{}: {source}", file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("{}:{}:{}: no report of usage: {source}", file.display(), source.line(), source.column())]
    NoReport { file: PathBuf, source: serde_json::Error },
    #[error("{}: {source}", file.display())]
    Add { file: PathBuf, source: AddError },
    #[error("nothing is known of a token with the id `{0}` in this time")]
    UnknownToken(String),
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let made_at = Timestamp::now();
        let own = match self.own(made_at) {
            Ok(own) => own,
            Err(exit) => return exit,
        };
        match self.sum(own, made_at) {
            Ok(report) => output(Exit::Fine, |out| self.print(&report, made_at, out)),
            Err(error) => {
                report(format_args!("error: {error}"));
                Exit::Wrong
            }
        }
    }

    fn question(&self) -> Question {
        Question { since: self.since, token: self.token.clone(), page: 0 }
    }

    /// The report of the configuration's ledger; none where only files were named. What is wrong has been told.
    fn own(&self, now: Timestamp) -> Result<Option<Own>, Exit> {
        if !self.add.is_empty() && !self.config.is_named() {
            return Ok(None);
        }
        kept(&self.config.path(), &self.question(), now).map(Some)
    }

    /// The own report and those of the files, with their findings.
    fn sum(&self, own: Option<Own>, now: Timestamp) -> Result<Report, UsageError> {
        let (mut sum, rules) = match own {
            Some(Own { report, rules }) => (Some(report), rules),
            None => (None, FindingRules::default()),
        };
        for file in &self.add {
            let report = self.read_file(file, now)?;
            match &mut sum {
                None => sum = Some(report),
                Some(sum) => add(sum, report, file)?,
            }
        }
        let mut sum = sum.unwrap_or_default();
        if let Some(token) = &self.token {
            sum.tokens.retain(|it| it.id == *token);
            if sum.tokens.is_empty() {
                return Err(UsageError::UnknownToken(shown(token)));
            }
        }
        if self.add.is_empty() {
            sum.findings.retain(|finding| self.token.as_ref().is_none_or(|token| *token == finding.token));
        } else {
            sum.assess(&rules, now);
        }
        Ok(sum)
    }

    /// A file's report.
    fn read_file(&self, file: &Path, now: Timestamp) -> Result<Report, UsageError> {
        let text = read_report(file).map_err(|source| UsageError::File { file: file.to_owned(), source })?;
        let read: Report = serde_json::from_slice(&text)
            .map_err(|source| UsageError::NoReport { file: file.to_owned(), source })?;
        let asked = self.since.map(|since| since.first_day(TimeZone::UTC.to_datetime(now).date()));
        if asked.is_some() && asked != read.since {
            let days = read.since.map_or("all days".to_owned(), |day| format!("the days since {day}"));
            report(format_args!("warning: {}: it tells of {days}, and all of it is added", file.display()));
        }
        Ok(read)
    }

    fn print(&self, report: &Report, made_at: Timestamp, output: &mut dyn Write) -> io::Result<()> {
        match (self.format, report.tokens.as_slice()) {
            (UsageFormat::Table, [token]) if self.token.is_some() => {
                tables::token(token, &report.findings, output)
            }
            (UsageFormat::Table, _) => tables::all(report, output),
            (UsageFormat::Json, _) => print_json(report, output),
            (UsageFormat::Csv, _) => csv::write(report, output),
            (UsageFormat::Html, tokens) => {
                let question = self.question();
                let view = View { since: report.since, made_at, served: false, question, tokens: Vec::new() };
                writeln!(
                    output,
                    "{}",
                    match tokens {
                        [token] if self.token.is_some() => page::token(token, &report.findings, &view),
                        _ => page::overview(&Overview::of(report, &view.question), &view),
                    }
                )
            }
        }
    }
}

/// The report of a configuration's ledger, by way of its gateway while one runs. What is wrong has been told.
pub(super) fn kept(file: &Path, question: &Question, now: Timestamp) -> Result<Own, Exit> {
    let mistaken = |mistakes| {
        show(&mistakes);
        Exit::Wrong
    };
    let wrong = |error| {
        report(format_args!("error: {error}"));
        Exit::Wrong
    };
    let Some(usage) = config::load_usage(file).map_err(mistaken)? else {
        return Err(wrong(UsageError::NotKept(file.to_owned())));
    };
    let kept = match read(&usage, question, now) {
        Err(LedgerError::InUse { .. }) => {
            let admin = config::load_admin(file).map_err(mistaken)?;
            ask(&admin, question).map_err(wrong)?
        }
        other => other.map_err(|error| wrong(error.into()))?,
    };
    Ok(Own { report: kept, rules: usage.findings })
}

/// A configuration's own report, and what it takes for a finding.
pub(super) struct Own {
    pub(super) report: Report,
    rules: FindingRules,
}

/// Reads the ledger of a gateway that does not run.
fn read(usage: &Usage, question: &Question, now: Timestamp) -> Result<Report, LedgerError> {
    let hook = panic::take_hook();
    // That the file is damaged is told by the error, and to people.
    panic::set_hook(Box::new(|_| {}));
    let report = contained(&usage.path, || {
        let view = LedgerView { source: Some(Source::open(&usage.path)?), unwritten: None };
        Telling::new(&view, question, &usage.findings, now)?.report()
    });
    panic::set_hook(hook);
    report
}

/// Asks the gateway that holds the ledger.
fn ask(admin: &Admin, question: &Question) -> Result<Report, UsageError> {
    let request = Request::get(format!("/usage{}", question.query()));
    let answer = ask_with_token(admin, request, Bytes::new())
        .map_err(|source| UsageError::Admin { address: admin.address.clone(), source })?;
    serde_json::from_slice(answer.body())
        .map_err(|source| UsageError::Answer { address: admin.address.clone(), source })
}

/// Adds a file's report. A ledger that is in the sum already counts once.
fn add(sum: &mut Report, report: Report, file: &Path) -> Result<(), UsageError> {
    match sum.add(report) {
        Ok(()) => Ok(()),
        Err(AddError::Twice(ledger)) => {
            super::report(format_args!(
                "warning: {}: left out, since the ledger {} is added already",
                file.display(),
                shown(&ledger)
            ));
            Ok(())
        }
        Err(source) => Err(UsageError::Add { file: file.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::usage::ledger::Ledger;

    #[test]
    fn a_damaged_ledger_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.redb");
        drop(Ledger::open(&path).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let written: Vec<usize> = (0..whole.len()).filter(|index| whole[*index] != 0).collect();
        let usage = Usage {
            path,
            flush_interval: Duration::from_secs(10),
            retention: Duration::from_secs(1),
            max_size: 1 << 30,
            findings: FindingRules::default(),
        };
        let mut random = fastrand::Rng::with_seed(3);
        let mut damaged = 0;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..8) {
                bytes[written[random.usize(..written.len())]] = random.u8(..);
            }
            std::fs::write(&usage.path, &bytes).unwrap();
            let told = read(&usage, &Question::default(), Timestamp::now());
            damaged += usize::from(matches!(told, Err(LedgerError::Damaged { .. })));
        }
        assert!(damaged > 0, "the library panics at none of these any more");
    }
}
