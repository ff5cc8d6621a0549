//! `openapi`: a map from an OpenAPI document, or the two compared.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::routes::written as requirement_value;
use super::table::{self, Side};
use super::{ConfigArgument, Exit, Format, output, report, show};
use crate::cases::json::place_value;
use crate::config::{LoadedDescription, load_abilities, load_description};
use crate::openapi::draft::{Draft, Note, draft, written};
use crate::openapi::drift::{Finding, Kind, drift};
use crate::policy::map::Place;
use crate::shown::shown;

/// Draft a map from an OpenAPI document, or tell how the two have drifted apart
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// An OpenAPI document, 3.0 or 3.1, as YAML or JSON
    file: PathBuf,
    /// Compare with this gateway.yaml or map file instead of drafting one; exit 1 when they have drifted apart
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare with the gateway.yaml that the other commands take without being told
    #[arg(long, conflicts_with = "config")]
    check: bool,
    /// What stands in front of the document's paths, such as /api/v2 [default: the path of its servers]
    #[arg(long, value_name = "PATH", value_parser = parse_prefix)]
    prefix: Option<String>,
    /// How it is printed; a draft is a map file unless it is json
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn parse_prefix(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.starts_with('/') { Ok(text.to_owned()) } else { Err("a path begins with `/`") }
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let loaded = match load_description(&self.file, self.prefix.as_deref()) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Wrong;
            }
        };
        match (&self.config, self.check) {
            (Some(map), _) => self.compare(loaded, map),
            (None, true) => self.compare(loaded, &ConfigArgument::usual().path()),
            (None, false) => self.draft(loaded),
        }
    }

    fn draft(&self, loaded: LoadedDescription) -> Exit {
        let LoadedDescription { description, mut warnings } = loaded;
        let draft = draft(&description);
        for Note { place, message, why } in &draft.notes {
            warnings.warn(place.as_ref(), message.clone(), why.clone());
        }
        show(&warnings);
        output(Exit::Fine, |out| match self.format {
            Format::Table => {
                let file = self.file.file_name().unwrap_or_default().to_string_lossy();
                let title = if description.title.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", description.title)
                };
                out.write_all(written(&draft, &format!("{file}{title}")).as_bytes())
            }
            Format::Json => writeln!(out, "{:#}", draft_value(&draft)),
        })
    }

    fn compare(&self, loaded: LoadedDescription, map: &Path) -> Exit {
        show(&loaded.warnings);
        let map = match load_abilities(map) {
            Ok(loaded) => loaded.map,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Wrong;
            }
        };
        let findings = drift(&loaded.description, &map);
        let count = |kind| findings.iter().filter(|finding| finding.kind == kind).count();
        let [no_rule, no_operation, differs, covered] =
            [Kind::NoRule, Kind::NoOperation, Kind::Differs, Kind::Covered].map(count);
        let has_drifted = no_rule + no_operation + differs > 0;
        let exit = output(if has_drifted { Exit::Wrong } else { Exit::Fine }, |out| match self.format {
            Format::Table => print(&findings, out),
            Format::Json => {
                let values: Vec<Value> = findings.iter().map(finding_value).collect();
                writeln!(out, "{:#}", Value::Array(values))
            }
        });
        report(format_args!(
            "operations: {}, without a rule: {no_rule}, with another rule: {differs}, covered by a wider route: {covered}; \
             rules without an operation: {no_operation}",
            loaded.description.operations.len()
        ));
        exit
    }
}

/// A row for each finding; nothing without any.
fn print(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let place = |place: &Option<Place>| place.as_ref().map(|it| format!("{}:{}", it.file, it.line));
    let rows: Vec<[String; 6]> = findings
        .iter()
        .map(|finding| {
            let asks = match (&finding.requirement, &finding.covered_by) {
                (Some(requirement), Some(route)) => format!("{requirement} by {route}"),
                (requirement, _) => requirement.clone().unwrap_or_else(|| "-".to_owned()),
            };
            let places = [place(&finding.operation), place(&finding.rule)];
            [
                finding.kind.as_str().to_owned(),
                finding.method.to_string(),
                shown(&finding.path),
                shown(finding.said.as_deref().unwrap_or("-")),
                shown(&asks),
                shown(&places.into_iter().flatten().collect::<Vec<_>>().join(", ")),
            ]
        })
        .collect();
    let left = |name| (name, Side::Left);
    table::write(["DRIFT", "METHOD", "PATH", "DOCUMENT", "MAP", "WHERE"].map(left), &rows, output)
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.as_str().replace(' ', "_"),
        "method": finding.method.as_str(),
        "path": finding.path,
        "document": finding.said,
        "map": finding.requirement,
        "covered_by": finding.covered_by,
        "operation": place_value(finding.operation.as_ref()),
        "rule": place_value(finding.rule.as_ref()),
    })
}

fn draft_value(draft: &Draft) -> Value {
    let rules = draft.routes.iter().flat_map(|route| {
        route.rules().map(|(method, rule)| {
            json!({
                "path": route.template,
                "method": method.as_str(),
                "requirement": requirement_value(&rule.requirement),
                "comment": rule.comment,
            })
        })
    });
    Value::Array(rules.collect())
}
