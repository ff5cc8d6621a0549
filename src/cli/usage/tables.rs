//! Usage as tables, followed by the findings with advice.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::super::table::Align::{Left, Right};
use super::super::table::write;
use crate::sanitize::sanitize;
use crate::usage::overview::{Calls, TokenLine};
use crate::usage::report::{Finding, FindingKind, Report, Severity, TokenUsage, UsageRow, Verdict};

const BOLD: Style = Style::new().bold();

/// Writes a row for each token, then the findings.
pub(super) fn all(report: &Report, output: &mut dyn Write) -> io::Result<()> {
    let mut findings = std::collections::HashMap::<&str, [usize; 3]>::new();
    for finding in &report.findings {
        let counts = findings.entry(&finding.token).or_default();
        counts[finding.severity as usize] += 1;
    }
    let rows: Vec<[String; 7]> = report
        .tokens
        .iter()
        .map(|token| row(token, findings.get(&*token.id).copied().unwrap_or_default()))
        .collect();
    let columns = [
        ("ID", Left),
        ("NAME", Left),
        ("ABILITIES USED", Left),
        ("REQUESTS", Right),
        ("DENIED", Right),
        ("LAST USED", Left),
        ("FINDINGS", Left),
    ];
    write(columns, &rows, output)?;
    advice(&report.findings, output)
}

fn row(token: &TokenUsage, findings: [usize; 3]) -> [String; 7] {
    let line = TokenLine::of(token, &[]);
    let granted = if line.has_wildcard { "all".to_owned() } else { line.granted.to_string() };
    [
        sanitize(&token.id),
        name(token.name.as_deref()),
        format!("{} of {granted}", line.used),
        line.calls.all().to_string(),
        line.calls.denied.to_string(),
        minute(token.last_seen),
        counts(findings),
    ]
}

/// `1 high, 2 low`
fn counts(findings: [usize; 3]) -> String {
    let named = findings.into_iter().zip(["high", "medium", "low"]).filter(|(count, _)| *count > 0);
    let named: Vec<String> = named.map(|(count, name)| format!("{count} {name}")).collect();
    if named.is_empty() { "-".to_owned() } else { named.join(", ") }
}

/// Writes the properties of one token, its usage and its findings.
pub(super) fn token(token: &TokenUsage, findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    let Calls { allowed, denied } = Calls::of(token);
    let abilities =
        if token.abilities.is_empty() { "-".to_owned() } else { sanitize(&token.abilities.join(" ")) };
    for (key, value) in [
        ("token", sanitize(&token.id)),
        ("name", name(token.name.as_deref())),
        ("context", name(token.context.as_deref())),
        ("abilities", abilities),
        ("created", minute(token.created_at)),
        ("expires", minute(token.expires_at)),
        ("first used", minute(token.first_seen)),
        ("last used", minute(token.last_seen)),
        ("addresses", token.addresses.to_string()),
        ("requests", format!("{allowed} allowed, {denied} denied")),
    ] {
        writeln!(output, "{BOLD}{key:10}{BOLD:#}  {value}")?;
    }
    writeln!(output)?;
    let rows: Vec<[String; 7]> = token.usage.iter().map(usage).collect();
    let columns = [
        ("ABILITY", Left),
        ("ROUTE", Left),
        ("METHODS", Left),
        ("VERDICT", Left),
        ("REQUESTS", Right),
        ("FIRST DAY", Left),
        ("LAST DAY", Left),
    ];
    write(columns, &rows, output)?;
    advice(findings, output)
}

fn usage(row: &UsageRow) -> [String; 7] {
    let methods: Vec<&str> = row.methods.keys().map(String::as_str).collect();
    let verdict = match row.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
    };
    let day = |day: Option<&jiff::civil::Date>| day.map_or("-".to_owned(), ToString::to_string);
    [
        name(row.ability.as_deref()),
        match &row.parameter {
            Some(parameter) => sanitize(&format!("{} query {parameter}", row.route)),
            None => sanitize(&row.route),
        },
        sanitize(&methods.join(" ")),
        verdict.to_owned(),
        row.count.to_string(),
        day(row.days.keys().next()),
        day(row.days.keys().next_back()),
    ]
}

/// Writes the findings grouped by kind, the most severe kind first.
fn advice(findings: &[Finding], output: &mut dyn Write) -> io::Result<()> {
    let mut kinds = BTreeMap::<FindingKind, Vec<&Finding>>::new();
    for finding in findings {
        kinds.entry(finding.kind).or_default().push(finding);
    }
    let mut kinds: Vec<(FindingKind, Vec<&Finding>)> = kinds.into_iter().collect();
    // Within a kind, the findings keep the order of the report: the most severe first.
    kinds.sort_by_key(|(kind, findings)| (findings.iter().map(|it| it.severity).min(), *kind));
    for (kind, findings) in kinds {
        match findings.as_slice() {
            [finding] => {
                write!(output, "\n{}: ", severity(finding.severity))?;
                entry(finding, "  ", output)?;
            }
            findings => {
                let Some(worst) = findings.iter().map(|it| it.severity).min() else { continue };
                let count = findings.len();
                writeln!(output, "\n{}: {}: {count} tokens", severity(worst), kind.title())?;
                for finding in findings {
                    write!(output, "  ")?;
                    if finding.severity != worst {
                        write!(output, "{}: ", severity(finding.severity))?;
                    }
                    entry(finding, "    ", output)?;
                }
            }
        }
    }
    Ok(())
}

/// Writes the token of a finding, the evidence and the advice.
fn entry(finding: &Finding, indent: &str, output: &mut dyn Write) -> io::Result<()> {
    let (id, name) = (sanitize(&finding.token), sanitize(finding.name.as_deref().unwrap_or_default()));
    let token = format!("{id} {name}");
    writeln!(output, "{}: {}", token.trim_end(), sanitize(&finding.evidence))?;
    writeln!(output, "{indent}{}", sanitize(&finding.advice))
}

fn severity(severity: Severity) -> String {
    let style = match severity {
        Severity::High => AnsiColor::Red.on_default().bold(),
        Severity::Medium => AnsiColor::Yellow.on_default().bold(),
        Severity::Low => BOLD,
    };
    format!("{style}{}{style:#}", severity.as_str())
}

fn name(name: Option<&str>) -> String {
    name.map_or("-".to_owned(), sanitize)
}

/// A time in UTC, to the minute.
fn minute(at: Option<Timestamp>) -> String {
    at.map_or("-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}
