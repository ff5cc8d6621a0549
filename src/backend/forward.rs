//! Sends a permitted request to the backend and receives the head of the response.

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::body::{RequestBody, Upload, UploadFault};
use super::request::UpstreamRequest;
use super::response::UpstreamResponse;
use crate::client::call::Call;
use crate::client::pool::{CallerAccount, ConnectionUser, Lease, Pool, PoolStats, TunnelPlace};
use crate::client::{ExchangeError, tls_fault};
use crate::config::settings::Settings;
use crate::downstream::state::ConnectionState;
use crate::policy::decision::Permit;
use crate::policy::refusal::Refusal;

/// The backend of one worker.
pub struct Backend {
    settings: Arc<Settings>,
    pool: Rc<Pool>,
}

/// One request to the backend, and the place of its response.
pub struct UpstreamExchange<'a> {
    /// The request.
    pub request: &'a UpstreamRequest<'a>,
    /// Its body, and how far it was sent.
    pub call: &'a mut Call<RequestBody>,
    /// The progress of the body; `None` if there is none.
    pub upload: Option<&'a Upload>,
    /// Longest time from the end of the request body to the head of the response.
    pub timeout: Duration,
    /// The state of the client's connection, by which the sweep enforces the time limit.
    pub state: &'a ConnectionState,
    /// Receives the address that the request was sent to; inside, `None` for a Unix socket.
    pub address: Option<Option<IpAddr>>,
    /// Receives the response: it is large, and returning it would copy it.
    pub response: &'a mut Option<UpstreamResponse>,
    /// The user of the connection; `None` if `backend.max_connections` is not set.
    pub user: Option<ConnectionUser<'a>>,
    /// Receives the time for which the request has waited for a connection, if it had to.
    pub queued: Option<Duration>,
    /// The place of the tunnel that it may become.
    pub tunnel: Option<TunnelPlace>,
}

/// The failure of one attempt.
struct Failure {
    refusal: Refusal,
    /// Whether the request may be sent once more.
    may_repeat: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, may_repeat: false }
    }
}

impl Backend {
    /// The backend of `settings`, over `pool`.
    pub const fn new(settings: Arc<Settings>, pool: Rc<Pool>) -> Self {
        Self { settings, pool }
    }

    /// The same backend and connections with other settings. The connections themselves are not accessible: a request
    /// reaches the backend by [`forward`](Self::forward) only, which takes a permit.
    ///
    /// ```compile_fail,E0616
    /// fn pool(backend: &stockaj_gateway::internals::backend::forward::Backend) {
    ///     let pool = &backend.pool;
    /// }
    /// ```
    pub fn with_settings(&self, settings: Arc<Settings>) -> Self {
        Self { settings, pool: Rc::clone(&self.pool) }
    }

    /// The account of the holder of the token with this id; `None` if `backend.max_connections` is not set.
    pub fn token_account(&self, id: &str) -> Option<Rc<CallerAccount>> {
        self.pool.token_account(id)
    }

    /// The account of the client at `address`; `None` if `backend.max_connections` is not set.
    pub fn client_account(&self, address: Option<IpAddr>) -> Option<Rc<CallerAccount>> {
        self.pool.client_account(address)
    }

    /// Whether `backend.max_connections` is set, so that the user of each connection matters.
    pub fn is_bounded(&self) -> bool {
        self.pool.is_bounded()
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }

    /// The numbers of active and idle connections.
    pub fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// Forwards a request as `permit` allows, and waits for the head of the response.
    ///
    /// The backend may close a kept connection at any time. The request is then sent once more over a new one, if
    /// [that is allowed](Call::may_repeat).
    ///
    /// # Errors
    /// The refusal for the client. The log has the cause.
    pub async fn forward(
        &self,
        permit: Permit,
        exchange: &mut UpstreamExchange<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Permit { .. } = permit;
        if exchange.request.is_upgrade {
            exchange.tunnel = self.pool.admit_tunnel().map_err(|_| Refusal::Overloaded)?;
        }
        let Some(lease) = self.take_idle(exchange, now) else {
            return Box::pin(self.over_new_connection(exchange, true)).await;
        };
        match self.attempt(lease, exchange, now).await {
            Ok(()) => Ok(()),
            Err(Failure { may_repeat: true, .. }) => {
                Box::pin(self.over_new_connection(exchange, false)).await
            }
            Err(failure) => Err(failure.refusal),
        }
    }

    /// A kept connection. For a request that must not be sent twice, one that the server has not closed.
    fn take_idle(&self, exchange: &UpstreamExchange<'_>, now: Instant) -> Option<Lease> {
        loop {
            let kept = if exchange.request.is_upgrade {
                self.pool.take_http1(now, exchange.user)
            } else {
                self.pool.take_idle(now, exchange.user)
            };
            match kept {
                Some(lease) if !exchange.call.is_repeatable() && lease.has_ended() => drop(lease),
                kept => return kept,
            }
        }
    }

    /// If `once_more`, a request that an HTTP/2 backend has not processed (GOAWAY, REFUSED_STREAM) is sent again.
    async fn over_new_connection(
        &self,
        exchange: &mut UpstreamExchange<'_>,
        mut once_more: bool,
    ) -> Result<(), Refusal> {
        loop {
            let lease = if exchange.request.is_upgrade {
                self.pool.connect_http1(exchange.user).await
            } else {
                self.pool.connect(exchange.user).await
            };
            exchange.queued = exchange.state.take_queued();
            let lease = lease.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection to the backend");
                if error.is_exhausted() { Refusal::Overloaded } else { Refusal::BackendUnreachable }
            })?;
            if lease.is_kept() && !exchange.call.is_repeatable() && lease.has_ended() {
                continue;
            }
            once_more &= lease.is_stream() || lease.is_kept();
            match self.attempt(lease, exchange, Instant::now()).await {
                Ok(()) => return Ok(()),
                Err(Failure { may_repeat: true, .. }) if once_more => once_more = false,
                Err(failure) => return Err(failure.refusal),
            }
        }
    }

    /// Sends a request and waits for the head of the response. The sweep enforces the time limit, which costs less than a
    /// timer per request.
    async fn attempt(
        &self,
        mut lease: Lease,
        exchange: &mut UpstreamExchange<'_>,
        now: Instant,
    ) -> Result<(), Failure> {
        let UpstreamExchange { request, call, upload, timeout, state, address, response, tunnel, .. } =
            exchange;
        *address = Some(lease.remote_address());
        let (timeout, idle_timeout) = (*timeout, self.settings.limits.body_idle_timeout);
        state.set_deadline(now + timeout);
        let mut received = None;
        {
            let mut sending = std::pin::pin!(lease.send(*request, call));
            let over = poll_fn(|context| {
                // First, since a response that arrives now would keep the connection for as long as its client stalls.
                if state.is_reclaimed() {
                    return Poll::Ready(());
                }
                if let Poll::Ready(head) = sending.as_mut().poll(context) {
                    received = Some(head);
                    return Poll::Ready(());
                }
                if state.is_overdue() {
                    match upload.and_then(|upload| upload.extension(timeout, idle_timeout)) {
                        Some(later) => state.set_deadline(later),
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Pending
            });
            over.await;
        }
        state.clear_deadline();
        match received {
            Some(Ok(head)) => {
                if request.is_upgrade {
                    lease.set_tunnel(tunnel.take());
                }
                **response = Some(UpstreamResponse { head, lease });
                Ok(())
            }
            Some(Err(cause)) => Err(failure(exchange, &cause)),
            None if state.is_reclaimed() => Err(Refusal::Overloaded.into()),
            None => Err(Refusal::BackendTimeout.into()),
        }
    }
}

/// The failure of an exchange that was cut off by `cause`. Logs the cause.
#[cold]
fn failure(exchange: &UpstreamExchange<'_>, cause: &ExchangeError) -> Failure {
    if let Some(fault) = exchange.upload.and_then(Upload::fault) {
        return upload_refusal(fault).into();
    }
    let error: &dyn std::error::Error = cause;
    let may_repeat = exchange.call.may_repeat(cause);
    if let Some(fault) = tls_fault(cause) {
        tracing::warn!(error = fault as &dyn std::error::Error, "no TLS with the backend");
    } else if cause.is_malformed() {
        let request_id = exchange.request.request_id.to_str().unwrap_or_default();
        tracing::warn!(error, request_id, "malformed response of the backend");
    } else if !may_repeat {
        tracing::debug!(error, "the exchange with the backend was cut off");
    }
    Failure { refusal: Refusal::BackendBroken, may_repeat }
}

/// The refusal for a failed upload.
pub const fn upload_refusal(fault: UploadFault) -> Refusal {
    match fault {
        UploadFault::TooLarge => Refusal::PayloadTooLarge,
        UploadFault::TimedOut | UploadFault::TooSlow => Refusal::RequestTimeout,
        UploadFault::Broken => Refusal::BadRequest("the body is malformed or cut off"),
    }
}
