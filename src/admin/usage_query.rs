//! The query of `GET /usage`, and the ledger that answers it.

use bytes::Bytes;
use http::{Request, StatusCode};
use jiff::Timestamp;

use super::Admin;
use super::audit::{Action, Actor};
use super::tokens::is_token;
use crate::config::settings::FindingRules;
use crate::telemetry::lines::AuditPriority;
use crate::usage::message::{LedgerView, ReportPermit, ViewError};
use crate::usage::query::ReportQuery;

/// A valid query, of which the audit log has a line.
pub(super) struct UsageQuery {
    pub(super) view: LedgerView,
    pub(super) report_query: ReportQuery,
    pub(super) rules: FindingRules,
    pub(super) now: Timestamp,
    #[expect(dead_code, reason = "bounds the reports in progress until this one is written")]
    pub(super) permit: ReportPermit,
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
    let report_query = ReportQuery::parse(request.uri().query().unwrap_or_default())
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    if report_query.token.as_deref().is_some_and(is_token) {
        let text = "That is a token: send its id instead, the part before the `|`.";
        return Err((StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let (view, permit) = admin.usage.view().await.map_err(|error| match error {
        ViewError::NotConfigured => (StatusCode::NOT_FOUND, error.to_string()),
        ViewError::Busy => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let slot = admin
        .audit
        .reserve(AuditPriority::Read)
        .map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable.".to_owned()))?;
    let (action, subject) = match report_query.token.as_deref() {
        // An unknown id may be a token that was pasted in the wrong place.
        Some(id) if !view.has_token(id) => ("show usage of an unknown token", None),
        id => ("show usage", id.map(|id| ("id", id))),
    };
    actor.record(slot, Action { action, subject, count: None });
    let rules = admin.settings.load().usage.as_ref().map(|usage| usage.findings.clone()).unwrap_or_default();
    Ok(UsageQuery { view, report_query, rules, now: Timestamp::now(), permit })
}
