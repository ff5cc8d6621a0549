//! The findings, most severe first.

use maud::{Markup, html};

use super::super::overview::{FindingGroup, FindingLine, Overview};
use super::super::report::{FindingKind, Severity};
use super::{PageContext, counted, day, sanitize, scrolling};

/// Lists up to this length are expanded if their severity is medium.
const MAX_EXPANDED: usize = 5;

const fn is_expanded(severity: Severity, count: usize) -> bool {
    match severity {
        Severity::High => true,
        Severity::Medium => count <= MAX_EXPANDED,
        Severity::Low => false,
    }
}

pub(super) fn section(overview: &Overview, context: &PageContext) -> Markup {
    html! {
        section aria-labelledby="findings" {
            h2 #findings { "What to do" }
            @if overview.findings.is_empty() {
                p { "No findings." }
            }
            @for (severity, kind, group) in overview.groups() {
                (of_kind(severity, kind, group, context))
            }
        }
    }
}

fn of_kind(severity: Severity, kind: FindingKind, group: &FindingGroup, context: &PageContext) -> Markup {
    let title = kind.title();
    let hidden = group.count - group.first.len();
    html! {
        details.findings open[is_expanded(severity, group.count)] {
            summary {
                h3 { (tag(severity)) " " (title) }
                span.quiet { (counted(group.count as u64, "token")) }
            }
            (scrolling(title, &table(title, group, context)))
            @if hidden > 0 {
                p.quiet { (counted(hidden as u64, "more token")) " in the list below and in " code { "usage --format csv" } "." }
            }
        }
    }
}

fn table(title: &str, group: &FindingGroup, context: &PageContext) -> Markup {
    // If all severities are equal, the title shows them.
    let mut severities = group.first.keys().map(|(severity, _)| severity);
    let differs = severities.next().is_some_and(|first| severities.any(|other| other != first));
    html! {
        // In narrow windows the cells are stacked by CSS, so the roles must be explicit.
        table role="table" {
            caption.aside { (title) }
            thead role="rowgroup" {
                tr role="row" {
                    th scope="col" role="columnheader" { "Token" }
                    th scope="col" role="columnheader" { "Seen" }
                    th scope="col" role="columnheader" { "Abilities" }
                    th scope="col" role="columnheader" { "What to do" }
                }
            }
            tbody role="rowgroup" {
                @for ((severity, _), line) in &group.first {
                    tr role="row" {
                        th scope="row" role="rowheader" {
                            (context.token(&line.token))
                            @if differs { " " (tag(*severity)) }
                        }
                        td role="cell" { (evidence(line)) }
                        td role="cell" { (abilities(line)) }
                        td role="cell" { (sanitize(&line.advice)) }
                    }
                }
            }
        }
    }
}

/// The findings of one token.
pub(super) fn list(lines: &[(Severity, FindingKind, FindingLine)]) -> Markup {
    html! {
        @for (severity, kind, line) in lines {
            div.finding {
                h3 { (tag(*severity)) " " (kind.title()) }
                p { (evidence(line)) }
                p { (sanitize(&line.advice)) }
                @if !line.abilities.is_empty() { p { (abilities(line)) } }
            }
        }
    }
}

fn evidence(line: &FindingLine) -> Markup {
    html! {
        (sanitize(&line.evidence))
        @if let Some(since) = line.since { " " span.quiet { "Since " (day(since)) "." } }
    }
}

fn abilities(line: &FindingLine) -> Markup {
    html! {
        @if line.abilities.is_empty() { "–" }
        @for (index, ability) in line.abilities.iter().enumerate() {
            @if index > 0 { ", " }
            bdi { code { (sanitize(ability)) } }
        }
        @if line.more > 0 { " and " (line.more) " more" }
    }
}

/// The severity as a deadline.
fn tag(severity: Severity) -> Markup {
    match severity {
        Severity::High => html! { span.tag.bad { "today" } },
        Severity::Medium => html! { span.tag.warn { "this month" } },
        Severity::Low => html! { span.tag { "next rotation" } },
    }
}
