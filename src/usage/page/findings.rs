//! What there is to do, the most severe first.

use maud::{Markup, html};

use super::super::overview::{FindingLine, Group, Overview};
use super::super::report::{FindingKind, Severity};
use super::{View, counted, scrolling, shown, time};

/// Lists up to this length are open.
const OPEN: usize = 5;

pub(super) fn section(overview: &Overview, view: &View) -> Markup {
    html! {
        section aria-labelledby="findings" {
            h2 #findings { "What to do" }
            @if overview.findings.is_empty() {
                p { "Nothing: every token has what it needs, and no more." }
            }
            @for ((severity, kind), group) in &overview.findings {
                (of_kind(*severity, *kind, group, view))
            }
        }
    }
}

fn of_kind(severity: Severity, kind: FindingKind, group: &Group, view: &View) -> Markup {
    let title = title(kind);
    let hidden = group.count - group.first.len();
    html! {
        details.findings open[severity == Severity::High || group.count <= OPEN] {
            summary {
                h3 { (tag(severity)) " " (title) }
                span.quiet { (counted(group.count as u64, "token")) }
            }
            (scrolling(title, &table(title, &group.first, view)))
            @if hidden > 0 {
                p.quiet { "And " (counted(hidden as u64, "more token")) ": in the list below, or by " code { "usage --format csv" } "." }
            }
        }
    }
}

fn table(title: &str, lines: &[FindingLine], view: &View) -> Markup {
    html! {
        table {
            caption.aside { (title) }
            thead { tr { th scope="col" { "Token" } th scope="col" { "Seen" } th scope="col" { "Abilities" } th scope="col" { "What to do" } } }
            tbody {
                @for line in lines {
                    tr {
                        th scope="row" { (view.token(&line.token)) }
                        td { (seen(line)) }
                        td { (abilities(line)) }
                        td { (shown(&line.advice)) }
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
                h3 { (tag(*severity)) " " (title(*kind)) }
                p { (seen(line)) }
                p { (shown(&line.advice)) }
                @if !line.abilities.is_empty() { p { (abilities(line)) } }
            }
        }
    }
}

fn seen(line: &FindingLine) -> Markup {
    html! {
        (shown(&line.evidence))
        @if let Some(since) = line.since { " " span.quiet { "Since " (time(since)) "." } }
    }
}

fn abilities(line: &FindingLine) -> Markup {
    html! {
        @for (index, ability) in line.abilities.iter().enumerate() {
            @if index > 0 { ", " }
            bdi { code { (shown(ability)) } }
        }
        @if line.more > 0 { " and " (line.more) " more" }
    }
}

/// How soon, in a word.
fn tag(severity: Severity) -> Markup {
    match severity {
        Severity::High => html! { span.tag.bad { "today" } },
        Severity::Medium => html! { span.tag.warn { "this month" } },
        Severity::Low => html! { span.tag { "next rotation" } },
    }
}

/// Of a list of tokens that have it.
const fn title(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::RepeatedDenials => "Denied again and again",
        FindingKind::PlainHttp => "Sent over plain HTTP",
        FindingKind::Wildcard => "May do everything",
        FindingKind::ManyAddresses => "Used from many places",
        FindingKind::UnusedAbilities => "Abilities that are never used",
        FindingKind::NoExpiry => "Never expires",
        FindingKind::OldToken => "Due for rotation",
        FindingKind::Silent => "Not used any more",
        FindingKind::Naming => "Name without purpose or environment",
    }
}
