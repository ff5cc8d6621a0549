//! The query of `GET /usage`, and the ledger that answers it.

use bytes::Bytes;
use http::{Request, StatusCode};
use jiff::Timestamp;

use super::Admin;
use super::audit::{Action, Actor};
use super::tokens::is_token;
use crate::config::settings::FindingRules;
use crate::telemetry::lines::AuditPriority;
use crate::usage::message::{NoView, Turn, View};
use crate::usage::question::Question;

/// A valid query, of which the audit log has a line.
pub(super) struct UsageQuery {
    pub(super) view: View,
    pub(super) question: Question,
    pub(super) rules: FindingRules,
    pub(super) now: Timestamp,
    #[expect(dead_code, reason = "bounds the reports in progress until this one is written")]
    pub(super) turn: Turn,
}

/// Parses the query, opens the ledger and writes the audit line.
///
/// # Errors
/// The status and the message of the response.
pub(super) async fn open(
    admin: &Admin,
    actor: Actor<'_>,
    request: &Request<Bytes>,
) -> Result<UsageQuery, (StatusCode, String)> {
    let question = Question::parse(request.uri().query().unwrap_or_default())
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    if question.token.as_deref().is_some_and(is_token) {
        let text = "That is a token: send its id instead, the part before the `|`.";
        return Err((StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let (view, turn) = admin.usage.view().await.map_err(|error| match error {
        NoView::NotKept => (StatusCode::NOT_FOUND, error.to_string()),
        NoView::Busy => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let slot = admin
        .audit
        .reserve(AuditPriority::Read)
        .map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable.".to_owned()))?;
    let (action, subject) = match question.token.as_deref() {
        // An unknown id may be a token that was pasted in the wrong place.
        Some(id) if !view.knows(id) => ("show usage of an unknown token", None),
        id => ("show usage", id.map(|id| ("id", id))),
    };
    actor.record(slot, Action { action, subject, count: None });
    let rules = admin.settings.load().usage.as_ref().map(|usage| usage.findings.clone()).unwrap_or_default();
    Ok(UsageQuery { view, question, rules, now: Timestamp::now(), turn })
}
