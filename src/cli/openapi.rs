//! `openapi`: drafts a map from an OpenAPI document, or compares a map with the document.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::routes::{query_json, requirement_json};
use super::table::{self, Align};
use super::{ConfigArgument, Exit, Format, output, report, show};
use crate::cases::json::place_value;
use crate::config::{LARGEST as LARGEST_MAP, load_abilities};
use crate::openapi::document::{LoadedDescription, load_description};
use crate::openapi::draft::{Draft, Note, draft, written};
use crate::openapi::drift::{Drift, DriftKind, Finding, drift};
use crate::openapi::ignore::{IgnoredPath, IgnoredPaths};
use crate::policy::source_location::SourceLocation;
use crate::sanitize::sanitize;

/// Draft a map file from an OpenAPI document, or compare the document with a map
///
/// A drafted rule requires the scopes of its operation. An operation without scopes gets the ability of Stockaj's naming
/// convention and a comment: review these.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The OpenAPI document, version 3.0, 3.1 or 3.2, as YAML or JSON; at most 64 MiB
    file: PathBuf,
    /// Compare with this gateway.yaml or map file instead of drafting one; exit 1 if they differ
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare with the default gateway.yaml, which the other commands use without `--config`
    #[arg(long, conflicts_with = "config")]
    check: bool,
    /// The path in front of the document's paths, such as /api/v2 [default: the path of its first server]
    #[arg(long, value_name = "PATH", value_parser = parse_prefix)]
    prefix: Option<String>,
    /// Ignore this path, with its prefix: /api/v2/status, or /internal/* for all paths below; may be repeated
    #[arg(long, value_name = "PATH")]
    ignore: Vec<IgnoredPath>,
    /// The output format; the table of a draft is a map file
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn parse_prefix(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.starts_with('/') { Ok(text.to_owned()) } else { Err("a path starts with `/`") }
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let loaded = match load_description(&self.file, self.prefix.as_deref()) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Failure;
            }
        };
        match (&self.config, self.check) {
            (Some(map), _) => self.compare(loaded, map),
            (None, true) => match ConfigArgument::from_environment().path() {
                Ok(path) => self.compare(loaded, &path),
                Err(mistakes) => {
                    show(&mistakes);
                    Exit::Failure
                }
            },
            (None, false) => self.draft(loaded),
        }
    }

    fn draft(&self, loaded: LoadedDescription) -> Exit {
        let LoadedDescription { mut description, mut warnings } = loaded;
        let mut ignored = IgnoredPaths::new(&self.ignore);
        description.operations.retain(|operation| !ignored.contains(&operation.path));
        let draft = draft(&description);
        for Note { place, message, why } in &draft.notes {
            warnings.warn(place.as_ref(), message.clone(), why.clone());
        }
        show(&warnings);
        report_unknown(&ignored);
        if let Format::Json = self.format {
            return output(Exit::Success, |out| writeln!(out, "{:#}", draft_value(&draft)));
        }
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        let title = &description.title;
        let title = if title.is_empty() { String::new() } else { format!(" ({title})") };
        let text = written(&draft, &format!("{file}{title}"), description.sends_requests);
        if text.len() as u64 > LARGEST_MAP {
            report(format_args!(
                "warning: the draft is larger than {} MiB, which is more than a map file may have; remove what clients \
                 do not need, for example with `--ignore`",
                LARGEST_MAP >> 20
            ));
        }
        output(Exit::Success, |out| out.write_all(text.as_bytes()))
    }

    fn compare(&self, loaded: LoadedDescription, map: &Path) -> Exit {
        show(&loaded.warnings);
        let map = match load_abilities(map) {
            Ok(loaded) => loaded.map,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Failure;
            }
        };
        let mut ignored = IgnoredPaths::new(&self.ignore);
        let Drift { findings, ignored: left_out } = drift(&loaded.description, &map, &mut ignored);
        report_unknown(&ignored);
        let count = |kind| findings.iter().filter(|finding| finding.kind == kind).count();
        let [no_rule, no_operation, differs, covered] =
            [DriftKind::NoRule, DriftKind::NoOperation, DriftKind::Differs, DriftKind::Covered].map(count);
        let has_drifted = no_rule + no_operation + differs > 0;
        let exit = output(if has_drifted { Exit::Failure } else { Exit::Success }, |out| match self.format {
            Format::Table => print(&findings, out),
            Format::Json => {
                let values: Vec<Value> = findings.iter().map(finding_value).collect();
                writeln!(out, "{:#}", Value::Array(values))
            }
        });
        let ignored = if ignored.is_empty() { String::new() } else { format!("; ignored: {left_out}") };
        report(format_args!(
            "operations: {}, without a rule: {no_rule}, with another rule: {differs}, covered by a wider route: {covered}; \
             rules without an operation: {no_operation}{ignored}",
            loaded.description.operations.len()
        ));
        exit
    }
}

/// Reports ignored paths that neither the document nor the map has.
fn report_unknown(ignored: &IgnoredPaths) {
    for (path, near) in ignored.unknown() {
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{}`?", sanitize(near)));
        report(format_args!("warning: `--ignore {}` matches no path{near}", sanitize(path)));
    }
}

/// Writes a row for each finding.
fn print(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let place = |place: &Option<SourceLocation>| place.as_ref().map(|it| format!("{}:{}", it.file, it.line));
    let rows: Vec<[String; 6]> = findings
        .iter()
        .map(|finding| {
            let required = match (&finding.requirement, &finding.covered_by) {
                (Some(requirement), Some(route)) => format!("{requirement} by {route}"),
                (requirement, _) => requirement.clone().unwrap_or_else(|| "-".to_owned()),
            };
            let places = [place(&finding.operation), place(&finding.rule)];
            [
                finding.kind.as_str().to_owned(),
                finding.method.to_string(),
                sanitize(&finding.path),
                sanitize(finding.declared.as_deref().unwrap_or("-")),
                sanitize(&required),
                sanitize(&places.into_iter().flatten().collect::<Vec<_>>().join(", ")),
            ]
        })
        .collect();
    let left = |name| (name, Align::Left);
    table::write(["DRIFT", "METHOD", "PATH", "DOCUMENT", "MAP", "WHERE"].map(left), &rows, output)
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.as_str().replace(' ', "_"),
        "method": finding.method.as_str(),
        "path": finding.path,
        "document": finding.declared,
        "map": finding.requirement,
        "covered_by": finding.covered_by,
        "operation": place_value(finding.operation.as_ref()),
        "rule": place_value(finding.rule.as_ref()),
    })
}

fn draft_value(draft: &Draft) -> Value {
    let rules = draft.routes.iter().flat_map(|route| {
        route.rules().map(|(method, rule)| {
            let mut value = json!({
                "path": route.template,
                "method": method.as_str(),
                "requirement": requirement_json(&rule.requirement),
                "comment": rule.comment,
            });
            if let Some(query) = route.query_rules() {
                value["query"] = query_json(&query);
            }
            value
        })
    });
    Value::Array(rules.collect())
}
