//! The page of one token.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::super::overview::{Calls, FindingLine, used_abilities};
use super::super::report::{Finding, TokenUsage, UsageRow, Verdict};
use super::{PageContext, charts, figure, findings, grouped, number, sanitize, scrolling, time};

/// The most rows of a table: several times as many as the map of the guide has.
const MAX_ROWS: usize = 500;

pub(super) fn body(token: &TokenUsage, findings: &[Finding], context: &PageContext) -> Markup {
    let calls = Calls::of(token);
    let lines: Vec<_> = findings
        .iter()
        .take(MAX_ROWS)
        .map(|finding| (finding.severity, finding.kind, FindingLine::of(finding)))
        .collect();
    let days: BTreeMap<_, _> = token
        .days
        .iter()
        .map(|(date, day)| (*date, Calls { allowed: day.allowed, denied: day.denied }))
        .collect();
    html! {
        (context.back())
        (context.heading())
        (facts(token))
        dl.figures {
            (figure("Requests", calls.all()))
            (figure("Denied", calls.denied))
            (figure("Addresses", token.addresses))
            (figure("Findings", findings.len() as u64))
        }
        section aria-labelledby="findings" {
            h2 #findings { "What to do" }
            @if lines.is_empty() { p { "Nothing." } }
            (findings::list(&lines))
        }
        (abilities(token))
        (charts::days(&days))
        (rows(token))
    }
}

fn facts(token: &TokenUsage) -> Markup {
    let texts = [("Name", &token.name), ("Context", &token.context), ("Workspace", &token.workspace_id)];
    let times = [
        ("Created", token.created_at),
        ("Expires", token.expires_at),
        ("First used", token.first_seen),
        ("Last used", token.last_seen),
    ];
    html! {
        dl.facts {
            @for (name, text) in texts {
                @if let Some(text) = text { div { dt { (name) } dd { bdi { (sanitize(text)) } } } }
            }
            @for (name, at) in times {
                @if let Some(at) = at { div { dt { (name) } dd { (time(at)) } } }
            }
            @if token.expires_at.is_none() { div { dt { "Expires" } dd { "never" } } }
        }
    }
}

/// The abilities of the token, whether it uses them, and the missing abilities that it tried to use.
fn abilities(token: &TokenUsage) -> Markup {
    let mut calls = BTreeMap::<&str, Calls>::new();
    for row in &token.usage {
        if let Some(ability) = &row.ability {
            calls.entry(ability).or_default().add(row.verdict, row.count);
        }
    }
    let used = used_abilities(token);
    let has_wildcard = token.abilities.iter().any(|name| name == "*");
    let granted: BTreeSet<&str> =
        token.abilities.iter().map(String::as_str).filter(|name| *name != "*").collect();
    let names: BTreeSet<&str> = granted.iter().chain(calls.keys()).copied().collect();
    html! {
        section aria-labelledby="abilities" {
            h2 #abilities { "Abilities" }
            @if has_wildcard { p { code { "*" } " grants every ability." } }
            @if names.is_empty() { p { "No ability was used." } }
            @if !names.is_empty() {
                (scrolling("Abilities", &html! {
                    table {
                        caption.aside { "Abilities, and whether they are used" }
                        thead { tr { th scope="col" { "Ability" } th scope="col" { "State" } th.number scope="col" { "Allowed" } th.number scope="col" { "Denied" } } }
                        tbody {
                            @for name in names.iter().take(MAX_ROWS) {
                                @let calls = calls.get(name).copied().unwrap_or_default();
                                tr {
                                    th scope="row" { bdi { code { (sanitize(name)) } } }
                                    td { (state(has_wildcard || granted.contains(name), used.contains(name))) }
                                    (number(calls.allowed))
                                    (number(calls.denied))
                                }
                            }
                        }
                    }
                }))
                (omitted_rows(names.len()))
            }
        }
    }
}

fn state(granted: bool, used: bool) -> Markup {
    match (granted, used) {
        (true, true) => html! { span.tag.good { "used" } },
        (true, false) => html! { span.tag.warn { "never used" } },
        (false, true) => html! { span.tag { "used before" } },
        (false, false) => html! { span.tag.bad { "missing" } },
    }
}

fn rows(token: &TokenUsage) -> Markup {
    let mut rows: Vec<&UsageRow> = token.usage.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    html! {
        section aria-labelledby="routes" {
            h2 #routes { "Routes" }
            @if rows.is_empty() { p { "No requests." } }
            @if !rows.is_empty() {
                (scrolling("Routes", &html! {
                    table {
                        caption.aside { "Requests by route, most first" }
                        thead {
                            tr {
                                th scope="col" { "Route" }
                                th scope="col" { "Methods" }
                                th scope="col" { "Ability" }
                                th scope="col" { "Verdict" }
                                th.number scope="col" { "Requests" }
                                th scope="col" { "First day" }
                                th scope="col" { "Last day" }
                            }
                        }
                        tbody { @for row in rows.iter().take(MAX_ROWS) { (route(row)) } }
                    }
                }))
                (omitted_rows(rows.len()))
            }
        }
    }
}

fn route(row: &UsageRow) -> Markup {
    let methods: Vec<&str> = row.methods.keys().map(String::as_str).collect();
    html! {
        tr {
            th scope="row" {
                bdi { code { (sanitize(&row.route)) } }
                @if let Some(parameter) = &row.parameter { " " span.quiet { "query " (sanitize(parameter)) } }
            }
            td { (sanitize(&methods.join(" "))) }
            td { (charts::ability(row.ability.as_deref())) }
            td {
                @match row.verdict {
                    Verdict::Allowed => span.tag.good { "allowed" },
                    Verdict::Denied => span.tag.bad { "denied" },
                }
                @if row.shadow > 0 { " " span.quiet { (grouped(row.shadow)) " decided differently by shadow rules" } }
            }
            (number(row.count))
            td { @if let Some(day) = row.days.keys().next() { (day) } }
            td { @if let Some(day) = row.days.keys().next_back() { (day) } }
        }
    }
}

fn omitted_rows(rows: usize) -> Markup {
    html! {
        @if rows > MAX_ROWS {
            p.quiet { (grouped((rows - MAX_ROWS) as u64)) " more rows in " code { "usage --format csv" } "." }
        }
    }
}
