//! Connections that are closed because there are too many: counted, logged, and answered if possible.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::raw_response;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::target::OTHER;
use crate::response::own;
use crate::response::record::new_request_id;
use crate::telemetry::metrics::{RouteLabel, WorkerMetrics};

/// Shortest pause between two log lines.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// There are as many connections as are allowed.
#[derive(Debug)]
pub(super) struct TooManyConnections;

/// Counts and logs the rejected connections of one thread.
pub(super) struct RejectedConnections {
    metrics: WorkerMetrics,
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl RejectedConnections {
    /// `metrics` are those of the thread that rejects.
    pub(super) const fn new(metrics: WorkerMetrics) -> Self {
        Self { metrics, unlogged: 0, logged_at: None }
    }

    /// Counts a rejected connection as one refused request, and logs the number of rejected ones at most once a second.
    pub(super) fn count(&mut self, now: Instant) {
        let (route, status) = (RouteLabel::None, StatusCode::SERVICE_UNAVAILABLE);
        self.metrics.request(route, &OTHER, status, Reason::Overloaded, Duration::ZERO);
        self.unlogged += 1;
        if self.logged_at.is_none_or(|at| now.duration_since(at) >= LOG_PAUSE) {
            self.logged_at = Some(now);
            tracing::warn!(
                connections = std::mem::take(&mut self.unlogged),
                "connections rejected: too many are open"
            );
        }
    }
}

/// The response on a rejected connection.
pub(super) fn overload_response() -> Vec<u8> {
    raw_response::encode(&own::refuse(&Refusal::Overloaded, new_request_id()), false)
}
