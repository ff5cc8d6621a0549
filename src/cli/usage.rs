//! `usage`: prints the recorded usage of tokens and the findings about it.

mod csv;
mod tables;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::admin_client::{AdminError, send_authenticated};
use super::{ConfigArgument, Exit, output, print_json, read_report, report, show};
use crate::config;
use crate::config::settings::{Admin, DeprecatedRoutes, FindingRules, ListenAddress, Usage};
use crate::policy::deprecation::Deprecation;
use crate::sanitize::sanitize;
use crate::usage::add::AddError;
use crate::usage::ledger::{LedgerError, catch_panics};
use crate::usage::message::LedgerView;
use crate::usage::overview::Overview;
use crate::usage::page::{self, PageContext};
use crate::usage::query::{ReportQuery, Since};
use crate::usage::report::{DeprecatedRoute, Report, deprecated_routes};
use crate::usage::report_stream::ReportStream;
use crate::usage::source::Source;

/// Print which tokens use which abilities and routes, with findings and advice
///
/// Reads the ledger of the configuration, through the gateway while it runs, and the files of `--add`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only the token with this id
    #[arg(long, value_name = "ID")]
    token: Option<String>,
    /// Only the last days, such as 30d [default: all recorded days]
    #[arg(long, value_name = "DAYS")]
    since: Option<Since>,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: UsageFormat,
    /// Add the reports of other replicas, the output of `--format json`; without --config, only these are read
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

/// The warning if neither a map nor a report names the deprecated routes.
const MISSING_ROUTES: &str = "warning: the findings about deprecated routes are missing: no map without errors names the \
                              routes, nor does a report in `deprecated_routes`\n\
                              help: correct the map of the configuration; `stockaj-gateway check` lists its errors";

#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("{}: no usage is recorded: `usage` is not set", .0.display())]
    NotRecorded(PathBuf),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the gateway that holds the ledger did not send its report: {address}: {source}")]
    Admin { address: ListenAddress, source: AdminError },
    #[error("{address}: the response is not a usage report: {source}")]
    Response { address: ListenAddress, source: serde_json::Error },
    #[error("{}: {source}", file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("{}:{}:{}: not a usage report: {source}", file.display(), source.line(), source.column())]
    NotReport { file: PathBuf, source: serde_json::Error },
    #[error("{}: the dates or the link of `{}` in `deprecated_routes` are invalid", file.display(), sanitize(route))]
    DeprecatedRoute { file: PathBuf, route: String },
    #[error("{}: {source}", file.display())]
    Add { file: PathBuf, source: AddError },
    #[error("no usage of a token with the id `{0}` is recorded in this period")]
    UnknownToken(String),
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let created_at = Timestamp::now();
        let local = match self.local(created_at) {
            Ok(local) => local,
            Err(exit) => return exit,
        };
        match self.merge(local, created_at) {
            Ok(report) => output(Exit::Success, |out| self.print(&report, created_at, out)),
            Err(error) => {
                report(format_args!("error: {error}"));
                Exit::Failure
            }
        }
    }

    fn report_query(&self) -> ReportQuery {
        ReportQuery { since: self.since, token: self.token.clone(), page: 0 }
    }

    /// The report of the configuration's ledger; `None` if the arguments name only files. An error has been reported.
    fn local(&self, now: Timestamp) -> Result<Option<LocalReport>, Exit> {
        if !self.add.is_empty() && !self.config.is_named() {
            return Ok(None);
        }
        load_report(&self.config, &self.report_query(), now).map(Some)
    }

    /// Adds the reports of the files and computes the findings.
    fn merge(&self, local: Option<LocalReport>, now: Timestamp) -> Result<Report, UsageError> {
        let (mut sum, mut rules) = match local {
            Some(LocalReport { report, rules }) => (Some(report), rules),
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
                return Err(UsageError::UnknownToken(sanitize(token)));
            }
        }
        if self.add.is_empty() {
            sum.findings.retain(|finding| self.token.as_ref().is_none_or(|token| *token == finding.token));
        } else {
            // The map of the configuration, if it is known, else those of the reports.
            match &rules.deprecated {
                Some(routes) => sum.deprecated_routes = Some(deprecated_routes(routes)),
                None => rules.deprecated = sum.deprecated_routes.as_ref().map(|it| parsed(it).into()),
            }
            sum.assess(&rules, now);
        }
        if sum.deprecated_routes.is_none() {
            report(MISSING_ROUTES);
        }
        Ok(sum)
    }

    fn read_file(&self, file: &Path, now: Timestamp) -> Result<Report, UsageError> {
        let text = read_report(file).map_err(|source| UsageError::File { file: file.to_owned(), source })?;
        let read: Report = serde_json::from_slice(&text)
            .map_err(|source| UsageError::NotReport { file: file.to_owned(), source })?;
        let invalid = read
            .deprecated_routes
            .iter()
            .flatten()
            .find(|(_, end)| parse(end).is_none())
            .map(|(route, _)| route);
        if let Some(route) = invalid {
            return Err(UsageError::DeprecatedRoute { file: file.to_owned(), route: route.clone() });
        }
        let since = self.since.map(|since| since.first_day(TimeZone::UTC.to_datetime(now).date()));
        if since.is_some() && since != read.since {
            let days = read.since.map_or("all days".to_owned(), |day| format!("the days since {day}"));
            report(format_args!("warning: {}: it covers {days}, and all of them are added", file.display()));
        }
        Ok(read)
    }

    fn print(&self, report: &Report, created_at: Timestamp, output: &mut dyn Write) -> io::Result<()> {
        match (self.format, report.tokens.as_slice()) {
            (UsageFormat::Table, [token]) if self.token.is_some() => {
                tables::token(token, &report.findings, output)
            }
            (UsageFormat::Table, _) => tables::all(report, output),
            (UsageFormat::Json, _) => print_json(report, output),
            (UsageFormat::Csv, _) => csv::write(report, output),
            (UsageFormat::Html, tokens) => {
                let report_query = self.report_query();
                let context = PageContext {
                    since: report.since,
                    created_at,
                    served: false,
                    query: report_query,
                    tokens: Vec::new(),
                };
                writeln!(
                    output,
                    "{}",
                    match tokens {
                        [token] if self.token.is_some() => page::token(token, &report.findings, &context),
                        _ => page::overview(&Overview::of(report, &context.query), &context),
                    }
                )
            }
        }
    }
}

/// The deprecated routes of a report that is not from a map. Each entry is valid.
fn parsed(routes: &BTreeMap<String, DeprecatedRoute>) -> DeprecatedRoutes {
    routes.iter().filter_map(|(route, end)| Some((route.as_str().into(), parse(end)?.into()))).collect()
}

fn parse(DeprecatedRoute { since, sunset, link }: &DeprecatedRoute) -> Option<Deprecation> {
    config::parse_deprecation(since.as_deref(), sunset.as_deref(), link.as_deref())
}

/// The report of a configuration's ledger, through its gateway while that runs. An error has been reported.
pub(super) fn load_report(
    config: &ConfigArgument,
    report_query: &ReportQuery,
    now: Timestamp,
) -> Result<LocalReport, Exit> {
    let invalid = |mistakes| {
        show(&mistakes);
        Exit::Failure
    };
    let file = &config.path().map_err(invalid)?;
    let fail = |error| {
        report(format_args!("error: {error}"));
        Exit::Failure
    };
    let Some(usage) = config::load_usage(file).map_err(invalid)? else {
        return Err(fail(UsageError::NotRecorded(file.to_owned())));
    };
    let report = match read(&usage, report_query, now) {
        Err(LedgerError::InUse { .. }) => {
            let admin = config::load_admin(file).map_err(invalid)?;
            fetch(&admin, report_query).map_err(fail)?
        }
        other => other.map_err(|error| fail(error.into()))?,
    };
    Ok(LocalReport { report, rules: usage.findings })
}

/// The report of the configuration's ledger, and the configuration's rules for findings.
pub(super) struct LocalReport {
    pub(super) report: Report,
    rules: FindingRules,
}

/// Reads the ledger of a gateway that is not running.
fn read(usage: &Usage, report_query: &ReportQuery, now: Timestamp) -> Result<Report, LedgerError> {
    let hook = panic::take_hook();
    // The library panics on a damaged file. The error reports that; a panic message would confuse.
    panic::set_hook(Box::new(|_| {}));
    let report = catch_panics(&usage.path, || {
        let view = LedgerView { source: Some(Source::open(&usage.path)?), unwritten: None };
        ReportStream::new(&view, report_query, &usage.findings, now)?.report()
    });
    panic::set_hook(hook);
    report
}

/// Requests the report from the gateway that holds the ledger.
fn fetch(admin: &Admin, report_query: &ReportQuery) -> Result<Report, UsageError> {
    let request = Request::get(format!("/usage{}", report_query.query_string()));
    let response = send_authenticated(admin, request, Bytes::new())
        .map_err(|source| UsageError::Admin { address: admin.address.clone(), source })?;
    serde_json::from_slice(response.body())
        .map_err(|source| UsageError::Response { address: admin.address.clone(), source })
}

/// Adds a file's report. Skips it if the sum already contains its ledger.
fn add(sum: &mut Report, report: Report, file: &Path) -> Result<(), UsageError> {
    match sum.add(report) {
        Ok(()) => Ok(()),
        Err(AddError::Duplicate(ledger)) => {
            super::report(format_args!(
                "warning: {}: skipped, since the ledger {} is already included",
                file.display(),
                sanitize(&ledger)
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
    fn damaged_ledger_is_an_error() {
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
            let result = read(&usage, &ReportQuery::default(), Timestamp::now());
            damaged += usize::from(matches!(result, Err(LedgerError::Damaged { .. })));
        }
        assert!(damaged > 0, "the library panics on none of these files");
    }
}
