//! Who did what: a line for every action that needs a credential.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use super::response::{Answer, message};
use crate::telemetry::lines::AuditSlot;
use crate::telemetry::log::AUDIT;

/// The longest subject that a line names, in characters.
const LONGEST_SUBJECT: usize = 256;
/// How often refused attempts are worth a line.
const PAUSE: Duration = Duration::from_secs(1);
/// What needs a credential: the paths that a line names.
const PATHS: [&str; 6] = ["/tokens", "/tokens/revoke", "/config", "/usage", "/unmapped", "/webhook"];

/// Who asks: what they showed, and from where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    /// The credential, and how it came; never what it is.
    pub(super) credential: &'static str,
    /// An address and a port, or `unix`.
    pub(super) client: &'a str,
    /// The `X-Request-Id` of the answer.
    pub(super) request_id: &'a HeaderValue,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    /// A word.
    pub(super) action: &'static str,
    /// By which property the tokens were named that it concerns, and that property; never a token.
    pub(super) subject: Option<(&'static str, &'a str)>,
    /// How many it has concerned; none where that is not counted.
    pub(super) count: Option<usize>,
}

impl Caller<'_> {
    /// Writes the line. Its place is reserved before the action is carried out: an action without a line must not be.
    pub(super) fn did(self, _slot: AuditSlot, action: Action<'_>) {
        let Self { credential, client, request_id } = self;
        let request_id = request_id.to_str().ok();
        let Action { action, subject, count } = action;
        let (by, what) = subject.unzip();
        let what = what.map(|what| match what.char_indices().nth(LONGEST_SUBJECT) {
            Some((end, _)) => &what[..end],
            None => what,
        });
        tracing::info!(target: AUDIT, action, credential, client, request_id, by, what, count, "admin");
    }
}

/// Answers an action that is not carried out since the log cannot take its line.
pub(super) fn unavailable() -> Answer {
    let mut answer = message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable.");
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    answer
}

/// Attempts without a good credential. Whoever knocks without end does not fill the log.
#[derive(Debug, Default)]
pub struct Refused(Mutex<Attempts>);

#[derive(Debug, Default)]
struct Attempts {
    told_at: Option<Instant>,
    untold: u64,
}

impl Refused {
    /// Notes an attempt by `client` at `path`, and writes a line of it and those before, once a second at most.
    pub(super) fn note(&self, path: &str, client: &str, now: Instant) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.untold += 1;
        if attempts.told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return;
        }
        let count = std::mem::take(&mut attempts.untold);
        attempts.told_at = Some(now);
        drop(attempts);
        // Another path is the stranger's choice, and can be a token that was pasted in the wrong place.
        let action = PATHS.into_iter().find(|known| *known == path).unwrap_or("another path");
        tracing::warn!(action, client, count, "admin: refused");
    }
}
