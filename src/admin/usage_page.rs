//! Usage as a web page.

use std::ops::ControlFlow;

use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use jiff::tz::TimeZone;
use tokio::task::spawn_blocking;

use super::response::{Answer, text};
use super::usage::Asked;
use crate::usage::findings::findings;
use crate::usage::ledger::LedgerError;
use crate::usage::overview::Overview;
use crate::usage::page::{self, View};
use crate::usage::tell::Telling;

/// The page of all tokens, or of the one that is asked for.
pub(super) async fn show(asked: Asked) -> Answer {
    match spawn_blocking(move || draw(&asked)).await {
        Ok(Ok((status, page))) => answer(status, page),
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "usage: the ledger cannot be read");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "The ledger cannot be read: the log says why.")
        }
        // A panic, which has told of itself.
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "Server Error"),
    }
}

/// The page that says why there is no other.
pub(super) fn problem(status: StatusCode, text: &str) -> Answer {
    answer(status, page::problem(text))
}

/// Token by token: what is in memory is what is shown.
fn draw(asked: &Asked) -> Result<(StatusCode, String), LedgerError> {
    let Asked { view, question, rules, now, .. } = asked;
    let since = question.since.map(|since| since.first_day(TimeZone::UTC.to_datetime(*now).date()));
    let telling = Telling::new(view, question, rules, *now)?;
    // One more than is offered tells the page that there are more.
    let tokens = telling.names(page::OFFERED + 1)?;
    let shown = View { question: question.clone(), since, made_at: *now, served: true, tokens };
    let Some(id) = &question.token else {
        let mut overview = Overview::new(question);
        telling.tokens(|token| {
            overview.add(&token, &findings(&token, rules, *now));
            ControlFlow::Continue(())
        })?;
        return Ok((StatusCode::OK, page::overview(&overview, &shown)));
    };
    let mut found = None;
    telling.tokens(|token| {
        found = Some(token);
        ControlFlow::Break(())
    })?;
    Ok(match found {
        Some(token) => (StatusCode::OK, page::token(&token, &findings(&token, rules, *now), &shown)),
        None => (StatusCode::NOT_FOUND, page::unknown_token(id, &shown)),
    })
}

fn answer(status: StatusCode, page: String) -> Answer {
    let mut answer = text("text/html; charset=utf-8", page);
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    // The policy stands in the page, too: without it there is no style, and still no script.
    let policy =
        HeaderValue::try_from(page::policy()).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    fields.insert(CONTENT_SECURITY_POLICY, policy);
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}
