//! The list of tokens.

use maud::{Markup, html};

use super::super::overview::{Overview, PART, TokenLine};
use super::super::question::Question;
use super::{View, grouped, link, number, scrolling, shown, time};

pub(super) fn section(overview: &Overview, view: &View) -> Markup {
    html! {
        section aria-labelledby="tokens" {
            h2 #tokens { "Tokens" }
            @if overview.tokens == 0 {
                p { "No token was seen." }
            } @else {
                (scrolling("Tokens", &table(overview, view)))
                (parts(overview, view))
            }
        }
    }
}

fn table(overview: &Overview, view: &View) -> Markup {
    html! {
        table.tokens {
            caption { "Those with most to do first, then the busiest" }
            thead {
                tr {
                    th scope="col" { "Token" }
                    th scope="col" { "Context" }
                    th.number scope="col" { "Abilities used" }
                    th.number scope="col" { "Requests" }
                    th.number scope="col" { "Denied" }
                    th.number scope="col" { "Addresses" }
                    th scope="col" { "Last used" }
                    th scope="col" { "Findings" }
                }
            }
            tbody {
                @for line in overview.shown() { (row(line, view)) }
            }
        }
    }
}

fn row(line: &TokenLine, view: &View) -> Markup {
    let [high, medium, low] = line.findings;
    html! {
        tr {
            th scope="row" { (view.token(&line.token)) }
            td { bdi { (shown(line.context.as_deref().unwrap_or("–"))) } }
            td.number {
                (line.used) " of "
                @if line.everything { "all" } @else { (line.granted) }
            }
            (number(line.calls.all()))
            (number(line.calls.denied))
            (number(line.addresses))
            td { @match line.last_seen { Some(at) => (time(at)), None => "–" } }
            td.tags {
                @if high > 0 { span.tag.bad { (high) " today" } " " }
                @if medium > 0 { span.tag.warn { (medium) " this month" } " " }
                @if low > 0 { span.tag { (low) " next rotation" } }
                @if high + medium + low == 0 { "none" }
            }
        }
    }
}

/// Which part this is, and the ways to the others.
fn parts(overview: &Overview, view: &View) -> Markup {
    let (page, parts) = (view.question.page, overview.parts());
    let to = |page| link(&Question { page, ..view.question.clone() });
    let first = page.saturating_mul(PART);
    let last = first.saturating_add(PART).min(overview.tokens);
    html! {
        @if parts > 1 {
            nav.parts aria-label="Parts of the list" {
                @if first < last {
                    span { (grouped(first as u64 + 1)) "–" (grouped(last as u64)) " of " (grouped(overview.tokens as u64)) }
                } @else {
                    span { "The list of " (grouped(overview.tokens as u64)) " tokens ends before." }
                }
                @if view.served {
                    @if page > 0 { a href=(to((page - 1).min(parts - 1))) rel="prev" { "Previous" } }
                    @if page + 1 < parts { a href=(to(page + 1)) rel="next" { "Next" } }
                }
            }
        }
    }
}
