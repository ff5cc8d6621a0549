//! `diff`: the requests that a change of the map newly allows or denies.

mod usage;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anstyle::{AnsiColor, Color, Style};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use self::usage::Affected;
use super::routes::{deprecation_json, requirement_json};
use super::usage::load_report;
use super::{ConfigArgument, Exit, Format, output, report, show};
use crate::config::{self, LoadedAbilities};
use crate::policy::deprecation::Deprecation;
use crate::policy::difference::{
    Callers, Change, ComparedMap, Difference, OptionsChange, QueryChange, difference,
};
use crate::policy::network::Networks;
use crate::policy::shadow::Mode;
use crate::usage::query::{ReportQuery, Since};
use crate::usage::report::Report;

/// Show what a change of the map newly allows or denies; exit 1 if it changes a decision
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The current map: a map file or a gateway.yaml
    old: PathBuf,
    /// The changed map: a map file or a gateway.yaml
    new: PathBuf,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Also count the recorded calls whose decision would change, by token; FILE is the output of `usage --format json`
    #[arg(long, value_name = "FILE")]
    usage: Option<PathBuf>,
    /// The same for the last days, such as 30d, of the ledger of --config
    #[arg(long, value_name = "DAYS", conflicts_with = "usage")]
    since: Option<Since>,
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let (Some(old), Some(new)) = (load(&self.old), load(&self.new)) else { return Exit::Usage };
        let Ok(usage) = self.recorded() else { return Exit::Usage };
        let difference = match difference(&old.map, &new.map) {
            Ok(difference) => difference,
            Err(too_many) => {
                report(format_args!("error: the maps differ, and {too_many}"));
                return Exit::Failure;
            }
        };
        let affected = usage.as_ref().map(|usage| usage::affected(&old.map, &new.map, &difference, usage));
        let exit = if difference.is_empty() { Exit::Success } else { Exit::Failure };
        output(exit, |out| match self.format {
            Format::Table => table(&difference, affected.as_ref(), out),
            Format::Json => json(&difference, affected.as_ref(), out),
        })
    }
}

impl Arguments {
    /// The recorded usage, if the arguments select one. An error has been reported.
    fn recorded(&self) -> Result<Option<Report>, Exit> {
        if let Some(since) = self.since {
            let report_query = ReportQuery { since: Some(since), ..ReportQuery::default() };
            return load_report(&self.config, &report_query, Timestamp::now())
                .map(|local| Some(local.report));
        }
        self.usage.as_deref().map(usage::read).transpose().map_err(|error| {
            report(format_args!("error: {error}"));
            Exit::Usage
        })
    }
}

/// Loads a map; `None` if it has errors, which have been reported.
fn load(path: &Path) -> Option<LoadedAbilities> {
    match config::load_abilities(path) {
        Ok(loaded) => Some(loaded),
        Err(mistakes) => {
            show(&mistakes);
            None
        }
    }
}

const HEADING: Style = Style::new().bold();

/// Writes the newly denied requests, then the newly allowed ones. A change that does both is in both sections.
fn table(
    difference: &Difference<'_>,
    affected: Option<&Affected<'_>>,
    output: &mut dyn Write,
) -> io::Result<()> {
    let denied = section(difference, |it| it.denied.as_ref());
    let allowed = section(difference, |it| it.allowed.as_ref());
    let queries_denied = queries(difference, |it| it.denied.as_ref());
    let queries_allowed = queries(difference, |it| it.allowed.as_ref());
    for (title, colour, changes, queries) in [
        ("Newly denied", AnsiColor::Red, &denied, queries_denied),
        ("Newly allowed", AnsiColor::Yellow, &allowed, queries_allowed),
    ] {
        if !changes.is_empty() || !queries.is_empty() {
            let style = HEADING.fg_color(Some(Color::Ansi(colour)));
            writeln!(output, "{style}{title}{style:#}")?;
        }
        for (Change { methods, path, sample, old, new, .. }, callers) in changes {
            let methods: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
            writeln!(output, "  {} {path}: {callers}", methods.join(" "))?;
            let example = if path == sample { String::new() } else { format!("; such as {sample}") };
            writeln!(output, "    {old} -> {new}{example}")?;
        }
        for (QueryChange { path, subject, requirements: (old, new), .. }, callers) in queries {
            writeln!(output, "  {path} query {subject}: {callers}")?;
            writeln!(output, "    {old} -> {new}")?;
        }
    }
    if !difference.options.is_empty() {
        writeln!(output, "{HEADING}Options{HEADING:#}")?;
    }
    for change in &difference.options {
        let OptionsChange { path, body: (body, body_now), mode: (mode, mode_now), .. } = change;
        let OptionsChange { timeout, from, deprecated, .. } = change;
        if body != body_now {
            let bound = |body: &Option<u64>| body.map_or("limits.body".to_owned(), super::units::size);
            writeln!(output, "  {path}: body {} -> {}", bound(body), bound(body_now))?;
        }
        if mode != mode_now {
            writeln!(output, "  {path}: mode {} -> {}", mode.as_str(), mode_now.as_str())?;
        }
        let (timeout, timeout_now) = timeout;
        if timeout != timeout_now {
            let limit =
                |it: &Option<Duration>| it.map_or("backend.timeout".to_owned(), super::units::duration);
            writeln!(output, "  {path}: timeout {} -> {}", limit(timeout), limit(timeout_now))?;
        }
        let (from, from_now) = from;
        if from != from_now {
            let networks = |from: &Option<Networks>| {
                from.as_ref().map_or("anywhere".to_owned(), |networks| format!("[{networks}]"))
            };
            writeln!(output, "  {path}: from {} -> {}", networks(from), networks(from_now))?;
        }
        if deprecated.0 != deprecated.1 {
            let text =
                |it: &Option<Arc<Deprecation>>| it.as_ref().map_or("no".to_owned(), ToString::to_string);
            writeln!(output, "  {path}: deprecated {} -> {}", text(&deprecated.0), text(&deprecated.1))?;
        }
    }
    if difference.is_empty() {
        writeln!(output, "no difference")?;
    }
    affected.map_or(Ok(()), |affected| affected.print(output))
}

fn section<'a, 'map>(
    difference: &'a Difference<'map>,
    callers: impl Fn(&'a Change<'map>) -> Option<&'a Callers>,
) -> Vec<(&'a Change<'map>, &'a Callers)> {
    difference.changes.iter().filter_map(|change| Some((change, callers(change)?))).collect()
}

fn queries<'a>(
    difference: &'a Difference<'_>,
    callers: impl Fn(&'a QueryChange) -> Option<&'a Callers>,
) -> Vec<(&'a QueryChange, &'a Callers)> {
    difference.queries.iter().filter_map(|change| Some((change, callers(change)?))).collect()
}

#[derive(Serialize)]
struct Printed<'a> {
    changed: bool,
    changes: Vec<PrintedChange<'a>>,
    queries: Vec<PrintedQuery<'a>>,
    options: Vec<PrintedOptions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Affected<'a>>,
}

#[derive(Serialize)]
struct PrintedChange<'a> {
    methods: Vec<&'a str>,
    path: &'a str,
    sample: &'a str,
    old: PrintedSide<'a>,
    new: PrintedSide<'a>,
    denied: Option<PrintedCallers<'a>>,
    allowed: Option<PrintedCallers<'a>>,
}

#[derive(Serialize)]
struct PrintedQuery<'a> {
    path: &'a str,
    parameter: &'a str,
    old: &'a str,
    new: &'a str,
    denied: Option<PrintedCallers<'a>>,
    allowed: Option<PrintedCallers<'a>>,
}

#[derive(Serialize)]
struct PrintedSide<'a> {
    route: Option<&'a str>,
    /// Null if the requests are denied: by `deny`, or because the map lacks the path or the method.
    requirement: Option<Value>,
    place: Option<String>,
}

#[derive(Serialize)]
struct PrintedCallers<'a> {
    without_token: bool,
    abilities: &'a [Vec<Box<str>>],
    text: String,
}

#[derive(Serialize)]
struct PrintedOptions<'a> {
    path: &'a str,
    old: PrintedOption,
    new: PrintedOption,
}

#[derive(Serialize)]
struct PrintedOption {
    body: Option<u64>,
    mode: &'static str,
    timeout: Option<String>,
    from: Option<Vec<String>>,
    deprecated: Option<Value>,
}

fn json(
    difference: &Difference<'_>,
    affected: Option<&Affected<'_>>,
    output: &mut dyn Write,
) -> io::Result<()> {
    let changes = difference.changes.iter().map(|change| PrintedChange {
        methods: change.methods.iter().map(|method| method.as_str()).collect(),
        path: &change.path,
        sample: &change.sample,
        old: side(&change.old),
        new: side(&change.new),
        denied: change.denied.as_ref().map(callers),
        allowed: change.allowed.as_ref().map(callers),
    });
    let options = difference.options.iter().map(|change| {
        let OptionsChange { path, body, mode, timeout, from, deprecated } = change;
        PrintedOptions {
            path,
            old: option(body.0, mode.0, timeout.0, &from.0, deprecated.0.as_deref()),
            new: option(body.1, mode.1, timeout.1, &from.1, deprecated.1.as_deref()),
        }
    });
    let queries = difference.queries.iter().map(|change| PrintedQuery {
        path: &change.path,
        parameter: &change.subject,
        old: &change.requirements.0,
        new: &change.requirements.1,
        denied: change.denied.as_ref().map(callers),
        allowed: change.allowed.as_ref().map(callers),
    });
    let printed = Printed {
        changed: !difference.is_empty(),
        changes: changes.collect(),
        queries: queries.collect(),
        options: options.collect(),
        usage: affected,
    };
    serde_json::to_writer_pretty(&mut *output, &printed)?;
    writeln!(output)
}

fn option(
    body: Option<u64>,
    mode: Mode,
    timeout: Option<Duration>,
    from: &Option<Networks>,
    deprecated: Option<&Deprecation>,
) -> PrintedOption {
    PrintedOption {
        body,
        mode: mode.as_str(),
        timeout: timeout.map(super::units::duration),
        from: from.as_ref().map(Networks::texts),
        deprecated: deprecated.map(deprecation_json),
    }
}

fn side<'a>(side: &ComparedMap<'a>) -> PrintedSide<'a> {
    PrintedSide {
        route: side.template(),
        requirement: side.requirement().map(requirement_json),
        place: side
            .rule()
            .and_then(|rule| rule.place.as_ref())
            .map(|place| format!("{}:{}", place.file, place.line)),
    }
}

fn callers(callers: &Callers) -> PrintedCallers<'_> {
    PrintedCallers {
        without_token: callers.without_token,
        abilities: &callers.abilities,
        text: callers.to_string(),
    }
}
