//! The audit log: a line for every action that needs a credential.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use super::response::{AdminResponse, message};
use crate::telemetry::lines::AUDIT;
use crate::telemetry::lines::AuditSlot;

/// The longest logged subject, in characters.
const MAX_SUBJECT: usize = 256;
/// The shortest interval between two lines about rejected attempts.
const REJECTION_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// The paths that a line about rejected attempts may contain: those that need a credential.
const PATHS: [&str; 7] =
    ["/tokens", "/tokens/revoke", "/tokens/block", "/config", "/usage", "/unmapped", "/webhook"];

/// The authenticated sender of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Actor<'a> {
    /// The kind of the credential and its scheme; never the credential itself.
    pub(super) credential: &'static str,
    /// An address and a port, or `unix`.
    pub(super) client: &'a str,
    /// The `X-Request-Id` of the response.
    pub(super) request_id: &'a HeaderValue,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    pub(super) action: &'static str,
    /// The property that selects the tokens, and its value; never a token.
    pub(super) subject: Option<(&'static str, &'a str)>,
    /// The number of affected tokens or listed items; `None` if the action has no count.
    pub(super) count: Option<usize>,
}

impl Actor<'_> {
    /// Writes the audit line. The slot is reserved before the action is carried out, so that no action lacks its line.
    pub(super) fn record(self, _slot: AuditSlot, action: Action<'_>) {
        let Self { credential, client, request_id } = self;
        let request_id = request_id.to_str().ok();
        let Action { action, subject, count } = action;
        let (by, what) = subject.unzip();
        let what = what.map(|what| match what.char_indices().nth(MAX_SUBJECT) {
            Some((end, _)) => &what[..end],
            None => what,
        });
        tracing::info!(target: AUDIT, action, credential, client, request_id, by, what, count, "admin");
    }
}

/// The response if the audit log has no room for the action's line. The action is not carried out.
pub(super) fn unavailable() -> AdminResponse {
    let mut response = message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable.");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// Counts requests without valid credentials. Logs them once a second at most, so that they cannot fill the log.
#[derive(Debug, Default)]
pub struct RejectedAttempts(Mutex<Attempts>);

#[derive(Debug, Default)]
struct Attempts {
    logged_at: Option<Instant>,
    /// Since the last line.
    count: u64,
}

impl RejectedAttempts {
    /// Counts an attempt of `client` at `path`, and logs the count if the interval has passed.
    pub(super) fn record(&self, path: &str, client: &str, now: Instant) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.count += 1;
        let elapsed = attempts.logged_at.map(|at| now.saturating_duration_since(at));
        if elapsed.is_some_and(|elapsed| elapsed < REJECTION_LOG_INTERVAL) {
            return;
        }
        let count = std::mem::take(&mut attempts.count);
        attempts.logged_at = Some(now);
        drop(attempts);
        // The client chooses any other path. It may contain a token that was pasted in the wrong place.
        let action = PATHS.into_iter().find(|known| *known == path).unwrap_or("another path");
        tracing::warn!(action, client, count, "admin: refused");
    }
}
