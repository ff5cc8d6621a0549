//! The web page: who uses what, and what to do about it. One document without a script, for browsers and for files.

mod charts;
mod findings;
mod token;
mod tokens;

use jiff::Timestamp;
use jiff::civil::Date;
use maud::{Markup, html};

use super::overview::{Calls, Overview, TokenName, cut};
use super::question::Question;
use super::report::{Finding, TokenUsage};
use crate::page;
use crate::shown::shown;

/// What only this page needs.
const STYLE: &str = include_str!("page/style.css");
/// The periods that a form offers.
const PERIODS: [&str; 5] = ["1d", "7d", "30d", "90d", "365d"];

/// How many tokens a form offers.
pub const OFFERED: usize = 500;

/// What a page is of.
#[derive(Clone, Debug)]
pub struct View {
    /// What was asked.
    pub question: Question,
    /// The first day that it tells of; none: all that is kept.
    pub since: Option<Date>,
    /// When it was made.
    pub made_at: Timestamp,
    /// Whether it is where other questions can be asked: a file has no links and no form.
    pub served: bool,
    /// The tokens that a form offers, by id.
    pub tokens: Vec<TokenName>,
}

/// The Content-Security-Policy to send with a page: what stands in it, and that nobody frames it.
pub fn policy() -> String {
    format!("{}; frame-ancestors 'none'", page::policy(STYLE))
}

/// All tokens.
pub fn overview(overview: &Overview, view: &View) -> String {
    let body = html! {
        (view.heading())
        (figures(overview))
        (findings::section(overview, view))
        (charts::abilities(overview))
        (charts::days(&overview.days))
        (charts::denials(overview))
        (tokens::section(overview, view))
    };
    page::page("Token usage", STYLE, &body).into_string()
}

/// One token.
pub fn token(token: &TokenUsage, findings: &[Finding], view: &View) -> String {
    let title = format!("Token {}", cut(&shown(&token.id)));
    page::page(&title, STYLE, &token::body(token, findings, view)).into_string()
}

/// For an id that nothing is known of.
pub fn unknown_token(id: &str, view: &View) -> String {
    let body = html! {
        (view.heading())
        p { "Nothing is known of a token with the id " bdi { code { (cut(&shown(id))) } } " in this time." }
        (view.back())
    };
    page::page("No such token", STYLE, &body).into_string()
}

/// Instead of a page, why there is none.
pub fn problem(text: &str) -> String {
    let body = html! { p { (shown(text)) } p { a href="?" { "All tokens" } } };
    page::page("No page", STYLE, &body).into_string()
}

impl View {
    /// What it is of, and the form that asks for something else.
    fn heading(&self) -> Markup {
        let version = env!("CARGO_PKG_VERSION");
        html! {
            p.quiet {
                @match self.since {
                    Some(day) => { "Since " time { (day) } ", by day in UTC" }
                    None => { "All days that are kept, in UTC" }
                }
                "; as of " (time(self.made_at)) "; stockaj-gateway " (version)
            }
            @if self.served { (self.form()) }
        }
    }

    fn form(&self) -> Markup {
        let since = self.question.since.map(|since| since.to_string());
        let asked = self.question.token.as_deref();
        // Of very many tokens the first are offered, and every id can be typed.
        let offered = &self.tokens[..self.tokens.len().min(OFFERED)];
        let all_offered = offered.len() == self.tokens.len()
            && asked.is_none_or(|asked| offered.iter().any(|token| token.id == asked));
        // One that was asked by hand stays.
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
                            option value="" selected[asked.is_none()] { "all tokens" }
                            @for token in offered {
                                option value=(token.id) selected[asked == Some(&*token.id)] { (called(token)) }
                            }
                        }
                    }
                } @else {
                    label {
                        "Token id"
                        input name="token" autocomplete="off" spellcheck="false" size="12" list="tokens-by-id"
                            // A whole token would be in the address, and so in the history.
                            pattern="[^|]*" title="The id alone: what stands before the |"
                            value=(shown(asked.unwrap_or_default()));
                    }
                    datalist #tokens-by-id {
                        @for token in offered { option value=(token.id) { (called(token)) } }
                    }
                }
                button { "Show" }
            }
        }
    }

    /// The way back to all tokens.
    fn back(&self) -> Markup {
        let question = Question { token: None, page: 0, ..self.question.clone() };
        html! { @if self.served { nav { a href=(link(&question)) { "All tokens" } } } }
    }

    /// A token's name and id, as the link to its page where there is one.
    fn token(&self, token: &TokenName) -> Markup {
        let question = Question { token: Some(token.id.clone()), page: 0, ..self.question.clone() };
        let called = html! {
            @if let Some(name) = &token.name { bdi { (shown(name)) } " " bdi.quiet { (shown(&token.id)) } }
            @else { bdi { (shown(&token.id)) } }
        };
        html! {
            @if self.served && token.whole {
                a href=(link(&question)) { (called) }
            } @else {
                (called)
            }
        }
    }
}

/// A token as a form offers it.
fn called(token: &TokenName) -> String {
    match &token.name {
        Some(name) => format!("{} ({})", shown(name), token.id),
        None => token.id.clone(),
    }
}

/// Where a question is answered. Never empty: that would be the question of now.
fn link(question: &Question) -> String {
    match question.query() {
        query if query.is_empty() => "?".to_owned(),
        query => query,
    }
}

/// `30d` as people say it.
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

/// A cell with a number.
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

/// A share of two, `12 %`; none where there is nothing to share.
fn share(calls: Calls) -> Option<String> {
    let all = calls.all();
    (all > 0).then(|| match calls.denied.saturating_mul(100) / all {
        0 if calls.denied > 0 => "under 1 %".to_owned(),
        percent => format!("{percent} %"),
    })
}

/// To the minute, in UTC.
fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d %H:%M")) } }
}

/// The day, in UTC.
fn day(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%Y-%m-%d")) } }
}

/// A wide table in a box that scrolls, also by keyboard.
fn scrolling(name: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="group" aria-label=(name) { (table) } }
}

#[cfg(test)]
mod tests;
