//! Sends a permitted request to the backend and receives the head of the response.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderValue, Response};

use super::body::{RequestBody, Upload, UploadFault};
use super::request::UpstreamRequest;
use crate::client::call::Call;
use crate::client::pool::{Census, Lease, Pool};
use crate::client::tls_fault;
use crate::config::settings::Settings;
use crate::downstream::state::ConnectionState;
use crate::policy::decision::Permit;
use crate::policy::refusal::Refusal;

/// The backend of one worker.
pub struct Backend {
    settings: Arc<Settings>,
    pool: Rc<Pool>,
}

/// The head of the backend's response, and the connection of its body.
pub struct UpstreamResponse {
    /// The head.
    pub response: Response<()>,
    /// The connection; to be returned to the pool at the end of the body.
    pub lease: Lease,
}

/// The parameters of forwarding.
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// The progress of the body; `None` if there is none.
    pub upload: Option<&'a Upload>,
    /// The connection's state, by which the sweep enforces the time limit.
    pub state: &'a ConnectionState,
    /// Receives the address that the request was sent to; inside, `None` for a Unix socket.
    pub upstream: &'a Cell<Option<Option<IpAddr>>>,
    /// Whether the request asks for an upgrade. The caller validates the 101.
    pub may_switch: bool,
    /// For the log.
    pub request_id: &'a HeaderValue,
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
    /// fn pool(backend: &stockaj_gateway::backend::forward::Backend) {
    ///     let pool = &backend.pool;
    /// }
    /// ```
    pub fn with_settings(&self, settings: Arc<Settings>) -> Self {
        Self { settings, pool: Rc::clone(&self.pool) }
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
    }

    /// The numbers of active and idle connections.
    pub fn census(&self) -> Census {
        self.pool.census()
    }

    /// Forwards `request`, with the body of `call`, as `permit` allows.
    ///
    /// The backend may close a kept connection at any time. The request is then sent once more over a new one, if
    /// [that is allowed](Call::may_repeat).
    ///
    /// The response is written to `answered`: it is large, and returning it would copy it.
    ///
    /// # Errors
    /// The refusal for the client. The log has the cause.
    pub async fn forward(
        &self,
        permit: Permit,
        request: &UpstreamRequest<'_>,
        call: &mut Call<RequestBody>,
        conditions: Conditions<'_>,
        now: Instant,
        answered: &mut Option<UpstreamResponse>,
    ) -> Result<(), Refusal> {
        let Permit { .. } = permit;
        let Some(lease) = self.take_idle(call, conditions, now) else {
            return Box::pin(self.over_new_connection(request, call, conditions, true, answered)).await;
        };
        match self.exchange(lease, request, call, conditions, now, answered).await {
            Ok(()) => Ok(()),
            Err(Failure { may_repeat: true, .. }) => {
                Box::pin(self.over_new_connection(request, call, conditions, false, answered)).await
            }
            Err(failure) => Err(failure.refusal),
        }
    }

    /// A kept connection. For a request that must not be sent twice, one that the server has not closed.
    fn take_idle(&self, call: &Call<RequestBody>, conditions: Conditions<'_>, now: Instant) -> Option<Lease> {
        loop {
            let kept =
                if conditions.may_switch { self.pool.take_http1(now) } else { self.pool.take_idle(now) };
            match kept {
                Some(lease) if !call.is_repeatable() && lease.has_ended() => drop(lease),
                kept => return kept,
            }
        }
    }

    /// If `once_more`, a request that an HTTP/2 backend has not processed (GOAWAY, REFUSED_STREAM) is sent again.
    async fn over_new_connection(
        &self,
        request: &UpstreamRequest<'_>,
        call: &mut Call<RequestBody>,
        conditions: Conditions<'_>,
        mut once_more: bool,
        answered: &mut Option<UpstreamResponse>,
    ) -> Result<(), Refusal> {
        loop {
            let lease = if conditions.may_switch {
                self.pool.connect_http1().await
            } else {
                self.pool.connect().await
            };
            let lease = lease.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection to the backend");
                if error.is_exhausted() { Refusal::Overloaded } else { Refusal::BackendUnreachable }
            })?;
            once_more &= lease.is_stream();
            match self.exchange(lease, request, call, conditions, Instant::now(), answered).await {
                Ok(()) => return Ok(()),
                Err(Failure { may_repeat: true, .. }) if once_more => once_more = false,
                Err(failure) => return Err(failure.refusal),
            }
        }
    }

    /// Sends a request and waits for the head of the response. The sweep enforces the time limit, which costs less than a
    /// timer per request.
    async fn exchange(
        &self,
        mut lease: Lease,
        request: &UpstreamRequest<'_>,
        call: &mut Call<RequestBody>,
        conditions: Conditions<'_>,
        now: Instant,
        answered: &mut Option<UpstreamResponse>,
    ) -> Result<(), Failure> {
        let Conditions { upload, state, upstream, .. } = conditions;
        upstream.set(Some(lease.remote_address()));
        let (timeout, idle_timeout) = (self.settings.backend.timeout, self.settings.limits.body_idle_timeout);
        state.set_deadline(now + timeout);
        let mut came = None;
        {
            let mut answer = std::pin::pin!(lease.send(request, call));
            let over = poll_fn(|context| {
                if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                    came = Some(answer);
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
        match came {
            Some(Ok(response)) => {
                *answered = Some(UpstreamResponse { response, lease });
                Ok(())
            }
            Some(Err(cause)) => {
                if let Some(fault) = upload.and_then(Upload::fault) {
                    return Err(refusal(fault).into());
                }
                let error: &dyn std::error::Error = &cause;
                let may_repeat = call.may_repeat(&cause);
                if let Some(fault) = tls_fault(&cause) {
                    tracing::warn!(error = fault as &dyn std::error::Error, "no TLS with the backend");
                } else if cause.is_malformed() {
                    tracing::warn!(
                        error,
                        request_id = conditions.request_id.to_str().unwrap_or_default(),
                        "malformed response of the backend"
                    );
                } else if !may_repeat {
                    tracing::debug!(error, "the exchange with the backend was cut off");
                }
                Err(Failure { refusal: Refusal::BackendBroken, may_repeat })
            }
            None => Err(Refusal::BackendTimeout.into()),
        }
    }
}

/// The refusal for a failed upload.
pub const fn refusal(fault: UploadFault) -> Refusal {
    match fault {
        UploadFault::TooLarge => Refusal::PayloadTooLarge,
        UploadFault::TimedOut => Refusal::RequestTimeout,
        UploadFault::Broken => Refusal::BadRequest("the body is malformed or cut off"),
    }
}
