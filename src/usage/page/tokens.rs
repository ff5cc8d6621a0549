//! The list of tokens.

use maud::{Markup, html};

use super::super::overview::{Overview, PAGE_SIZE, TokenLine};
use super::super::query::ReportQuery;
use super::{PageContext, grouped, link, number, sanitize, scrolling, time};

pub(super) fn section(overview: &Overview, context: &PageContext) -> Markup {
    html! {
        section aria-labelledby="tokens" {
            h2 #tokens { "Tokens" }
            @if overview.tokens == 0 {
                p { "No tokens are recorded in this period." }
            } @else {
                (scrolling("Tokens", &table(overview, context)))
                (pages(overview, context))
            }
        }
    }
}

fn table(overview: &Overview, context: &PageContext) -> Markup {
    html! {
        table.tokens {
            caption { "Sorted by findings, then by requests" }
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
                @for line in overview.listed_tokens() { (row(line, context)) }
            }
        }
    }
}

fn row(line: &TokenLine, context: &PageContext) -> Markup {
    let [high, medium, low] = line.findings;
    html! {
        tr {
            th scope="row" { (context.token(&line.token)) }
            td { bdi { (sanitize(line.context.as_deref().unwrap_or("–"))) } }
            td.number {
                (line.used) " of "
                @if line.has_wildcard { "all" } @else { (line.granted) }
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

/// The position of the page in the list, and links to the next and previous ones.
fn pages(overview: &Overview, context: &PageContext) -> Markup {
    let (page, pages) = (context.query.page, overview.pages());
    let to = |page| link(&ReportQuery { page, ..context.query.clone() });
    let first = page.saturating_mul(PAGE_SIZE);
    let last = first.saturating_add(PAGE_SIZE).min(overview.tokens);
    html! {
        @if pages > 1 {
            nav.pages aria-label="Parts of the list" {
                @if first < last {
                    span { (grouped(first as u64 + 1)) "–" (grouped(last as u64)) " of " (grouped(overview.tokens as u64)) }
                } @else {
                    span { "The list has only " (grouped(overview.tokens as u64)) " tokens." }
                }
                @if context.served {
                    @if page > 0 { a href=(to((page - 1).min(pages - 1))) rel="prev" { "Previous" } }
                    @if page + 1 < pages { a href=(to(page + 1)) rel="next" { "Next" } }
                }
            }
        }
    }
}
