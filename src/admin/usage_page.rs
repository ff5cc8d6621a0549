//! The usage ledger as a web page.

use std::ops::ControlFlow;

use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use jiff::tz::TimeZone;
use tokio::task::spawn_blocking;

use super::response::{AdminResponse, text};
use super::usage_query::UsageQuery;
use crate::usage::findings::findings;
use crate::usage::ledger::LedgerError;
use crate::usage::overview::Overview;
use crate::usage::page::{self, PageContext};
use crate::usage::report_stream::ReportStream;

/// The page of all tokens, or of the token in the query.
pub(super) async fn show(query: UsageQuery) -> AdminResponse {
    match spawn_blocking(move || render(&query)).await {
        Ok(Ok((status, page))) => respond(status, page),
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "usage: the ledger cannot be read");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "The ledger cannot be read: the log says why.")
        }
        // The task panicked. The panic hook has logged it.
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "Server Error"),
    }
}

/// An error page.
pub(super) fn problem(status: StatusCode, text: &str) -> AdminResponse {
    respond(status, page::problem(text))
}

/// Renders token by token, so that memory holds only what the page shows.
fn render(query: &UsageQuery) -> Result<(StatusCode, String), LedgerError> {
    let UsageQuery { view, report_query, rules, now, .. } = query;
    let since = report_query.since.map(|since| since.first_day(TimeZone::UTC.to_datetime(*now).date()));
    let stream = ReportStream::new(view, report_query, rules, *now)?;
    // One more than the page offers shows it that there are more.
    let tokens = stream.names(page::MAX_OFFERED_TOKENS + 1)?;
    let context = PageContext { query: report_query.clone(), since, created_at: *now, served: true, tokens };
    let Some(id) = &report_query.token else {
        let mut overview = Overview::new(report_query);
        stream.tokens(|token| {
            overview.add(&token, &findings(&token, rules, *now));
            ControlFlow::Continue(())
        })?;
        return Ok((StatusCode::OK, page::overview(&overview, &context)));
    };
    let mut found = None;
    stream.tokens(|token| {
        found = Some(token);
        ControlFlow::Break(())
    })?;
    Ok(match found {
        Some(token) => (StatusCode::OK, page::token(&token, &findings(&token, rules, *now), &context)),
        None => (StatusCode::NOT_FOUND, page::unknown_token(id, &context)),
    })
}

fn respond(status: StatusCode, page: String) -> AdminResponse {
    let mut response = text("text/html; charset=utf-8", page);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    // The page itself contains the policy, too. The fallback blocks styles, and scripts as well.
    let policy =
        HeaderValue::try_from(page::policy()).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    fields.insert(CONTENT_SECURITY_POLICY, policy);
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
