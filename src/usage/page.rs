//! The usage web page: one document without scripts, served by the admin listener or written to a file.

mod charts;
mod findings;
mod token;
mod tokens;

use jiff::Timestamp;
use jiff::civil::Date;
use maud::{Markup, html};

use super::overview::{Calls, Overview, TokenName, truncate};
use super::query::ReportQuery;
use super::report::{Finding, TokenUsage};
use crate::page;
use crate::sanitize::sanitize;

/// The style of this page, in addition to the shared style.
const STYLE: &str = include_str!("page/style.css");
/// The periods offered in the form.
const PERIODS: [&str; 5] = ["1d", "7d", "30d", "90d", "365d"];

/// The most tokens offered in the form.
pub const MAX_OFFERED_TOKENS: usize = 500;

/// What a page shows, and how.
#[derive(Clone, Debug)]
pub struct PageContext {
    /// The query that the page answers.
    pub query: ReportQuery,
    /// The first day of the report; `None` if it covers all recorded days.
    pub since: Option<Date>,
    /// When the report was created.
    pub created_at: Timestamp,
    /// Whether the page is served. A page in a file has no links and no form.
    pub served: bool,
    /// The tokens offered in the form, in the order of their ids.
    pub tokens: Vec<TokenName>,
}

/// The Content-Security-Policy for the response: that of the page, plus `frame-ancestors`, which works only as a
/// header field.
pub fn policy() -> String {
    format!("{}; frame-ancestors 'none'", page::policy(STYLE))
}

/// The page of all tokens.
pub fn overview(overview: &Overview, context: &PageContext) -> String {
    let body = html! {
        (context.heading())
        (figures(overview))
        (findings::section(overview, context))
        (charts::abilities(overview))
        (charts::days(&overview.days))
        (charts::denials(overview))
        (tokens::section(overview, context))
    };
    page::page("Token usage", STYLE, &body).into_string()
}

/// The page of one token.
pub fn token(token: &TokenUsage, findings: &[Finding], context: &PageContext) -> String {
    let title = format!("Token {}", truncate(&sanitize(&token.id)));
    page::page(&title, STYLE, &token::body(token, findings, context)).into_string()
}

/// The page for an unknown token id.
pub fn unknown_token(id: &str, context: &PageContext) -> String {
    let body = html! {
        (context.heading())
        p { "No usage of a token with the id " bdi { code { (truncate(&sanitize(id))) } } " is recorded in this period." }
        (context.back())
    };
    page::page("Unknown token", STYLE, &body).into_string()
}

/// An error page.
pub fn problem(text: &str) -> String {
    let body = html! { p { (sanitize(text)) } p { a href="?" { "All tokens" } } };
    page::page("Page not available", STYLE, &body).into_string()
}

impl PageContext {
    /// The period of the report, and the form.
    fn heading(&self) -> Markup {
        let version = env!("CARGO_PKG_VERSION");
        html! {
            p.quiet {
                @match self.since {
                    Some(day) => { "Since " time { (day) } ", by day in UTC" }
                    None => { "All recorded days, in UTC" }
                }
                "; as of " (time(self.created_at)) "; stockaj-gateway " (version)
            }
            @if self.served { (self.form()) }
        }
    }

    fn form(&self) -> Markup {
        let since = self.query.since.map(|since| since.to_string());
        let requested = self.query.token.as_deref();
        // If there are too many tokens for a list, the form has a text field that suggests the first ones.
        let offered = &self.tokens[..self.tokens.len().min(MAX_OFFERED_TOKENS)];
        let all_offered = offered.len() == self.tokens.len()
            && requested.is_none_or(|requested| offered.iter().any(|token| token.id == requested));
        // A period that the form does not offer stays selected.
        let other = since.as_deref().filter(|since| !PERIODS.contains(since));
        html! {
            form method="get" role="search" aria-label="Period and token" {
                label {
                    "Period"
                    select name="since" {
                        option value="" selected[since.is_none()] { "all days" }
                        @for period in PERIODS.into_iter().chain(other) {
                            option value=(period) selected[since.as_deref() == Some(period)] { (days(period)) }
                        }
                    }
                }
                @if all_offered {
                    label {
                        "Token"
                        select name="token" {
                            option value="" selected[requested.is_none()] { "all tokens" }
                            @for token in offered {
                                option value=(token.id) selected[requested == Some(&*token.id)] { (label(token)) }
                            }
                        }
                    }
                } @else {
                    label {
                        "Token id"
                        input name="token" autocomplete="off" spellcheck="false" size="12" list="tokens-by-id"
                            // Rejects complete tokens, which would end up in the address bar and the history.
                            pattern="[^|]*" title="Only the id: the part before the |"
                            value=(sanitize(requested.unwrap_or_default()));
                    }
                    datalist #tokens-by-id {
                        @for token in offered { option value=(token.id) { (label(token)) } }
                    }
                }
                button { "Show" }
            }
        }
    }

    /// A link to the page of all tokens.
    fn back(&self) -> Markup {
        let query = ReportQuery { token: None, page: 0, ..self.query.clone() };
        html! { @if self.served { nav { a href=(link(&query)) { "All tokens" } } } }
    }

    /// The name and id of a token, as a link if the page is served.
    fn token(&self, token: &TokenName) -> Markup {
        let query = ReportQuery { token: Some(token.id.clone()), page: 0, ..self.query.clone() };
        let label = html! {
            @if let Some(name) = &token.name { bdi { (sanitize(name)) } " " bdi.quiet { (sanitize(&token.id)) } }
            @else { bdi { (sanitize(&token.id)) } }
        };
        html! {
            @if self.served && token.is_complete {
                a href=(link(&query)) { (label) }
            } @else {
                (label)
            }
        }
    }
}

/// The label of a token in the form.
fn label(token: &TokenName) -> String {
    match &token.name {
        Some(name) => format!("{} ({})", sanitize(name), token.id),
        None => token.id.clone(),
    }
}

/// The link for a query. It is never empty, since an empty link is the current query.
fn link(query: &ReportQuery) -> String {
    match query.query_string() {
        query if query.is_empty() => "?".to_owned(),
        query => query,
    }
}

/// The label of a period such as `30d`.
fn days(period: &str) -> String {
    match period.trim_end_matches('d') {
        "1" => "today".to_owned(),
        number => format!("last {number} days"),
    }
}

fn figures(overview: &Overview) -> Markup {
    let findings: usize = overview.findings.values().map(|group| group.count).sum();
    html! {
        dl.figures {
            (figure("Tokens", overview.tokens as u64))
            (figure("Requests", overview.calls.all()))
            (figure("Denied", overview.calls.denied))
            (figure("Findings", findings as u64))
        }
    }
}

fn figure(name: &str, number: u64) -> Markup {
    html! { div { dt { (name) } dd { (grouped(number)) } } }
}

/// A table cell with a number.
fn number(number: u64) -> Markup {
    html! { td.number { (grouped(number)) } }
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 token`, `2 tokens`.
fn counted(number: u64, one: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {one}{ending}", grouped(number))
}

/// The share of denied requests, `12 %`; `None` without requests.
fn share(calls: Calls) -> Option<String> {
    let all = calls.all();
    (all > 0).then(|| match calls.denied.saturating_mul(100) / all {
        0 if calls.denied > 0 => "under 1 %".to_owned(),
        percent => format!("{percent} %"),
    })
}

/// A time to the minute, in UTC.
fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M")) } }
}

/// A day in UTC.
fn day(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d")) } }
}

/// Wraps a wide table in a box that scrolls, also by keyboard.
fn scrolling(name: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="group" aria-label=(name) { (table) } }
}

#[cfg(test)]
mod tests;
