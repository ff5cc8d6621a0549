//! Sends a permitted request to the backend and brings the head of its answer.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};

use super::body::{RequestBody, Upload, UploadFault};
use crate::client::pool::{Lease, Pool};
use crate::client::{Received, SendError, tls_fault};
use crate::config::settings::Settings;
use crate::peer::Activity;
use crate::policy::ability::Permit;
use crate::policy::refusal::Refusal;

/// A connection that was used more recently than this is not one that its backend closes for its idleness: no
/// server's keep-alive time-out is that short. The copy that repeating takes is spared then: a fortieth of what a
/// request costs.
const IN_USE: Duration = Duration::from_millis(100);

/// One core's way to the backend.
pub struct Backend {
    settings: Arc<Settings>,
    pool: Rc<Pool<RequestBody>>,
}

/// The backend's answer, and the connection that its body comes over.
pub struct Answered {
    /// The head, and the body to come.
    pub response: Response<Received>,
    /// To be given back when the body is at its end.
    pub lease: Lease<RequestBody>,
}

/// How a request is sent, whichever connection it takes.
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// Its body, where it has one.
    pub upload: Option<&'a Upload>,
    /// Who watches over the time-out.
    pub activity: &'a Activity,
    /// Where the address that it was sent to is noted, `None` inside for a Unix socket.
    pub upstream: &'a Cell<Option<Option<IpAddr>>>,
    /// Whether it may change the protocol. That is the caller's to know, and what a 101 is worth.
    pub may_switch: bool,
}

/// What went wrong with one attempt.
struct Failure {
    refusal: Refusal,
    /// The request, where not a byte of it was sent.
    unsent: Option<Request<RequestBody>>,
    /// Whether the connection ended without an answer, good or bad.
    unanswered: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, unsent: None, unanswered: false }
    }
}

impl Backend {
    /// The backend of `settings`, over `pool`.
    pub const fn new(settings: Arc<Settings>, pool: Rc<Pool<RequestBody>>) -> Self {
        Self { settings, pool }
    }

    /// Its connections.
    pub const fn pool(&self) -> &Rc<Pool<RequestBody>> {
        &self.pool
    }

    /// Forwards `request`, which `permit` allows.
    ///
    /// A kept connection may have been closed by the backend just now. What was not sent at all goes out
    /// once more over a new one; so does what has no body and may be repeated (RFC 9110 section 9.2.2), if the
    /// connection had waited long enough for the backend to have become tired of it.
    ///
    /// The answer is put where it is wanted: it is large, and every function that hands it on copies it.
    ///
    /// # Errors
    /// The refusal that the client is to be answered with; why is in the log.
    pub async fn forward(
        &self,
        permit: Permit,
        request: Request<RequestBody>,
        conditions: Conditions<'_>,
        now: Instant,
        answered: &mut Option<Answered>,
    ) -> Result<(), Refusal> {
        let Permit { .. } = permit;
        let kept = if conditions.may_switch { self.pool.take_http1(now) } else { self.pool.take_idle(now) };
        let Some(lease) = kept else {
            return Box::pin(self.over_new_connection(request, conditions, true, answered)).await;
        };
        if conditions.may_switch {
            lease.may_switch();
        }
        let copy = (lease.waited(now) >= IN_USE && is_repeatable(&request)).then(|| copy(&request));
        let Err(failure) = self.exchange(lease, request, conditions, now, answered).await else {
            return Ok(());
        };
        let Failure { refusal, unsent, unanswered } = failure;
        match unsent.or(copy.filter(|_| unanswered)) {
            Some(request) => Box::pin(self.over_new_connection(request, conditions, false, answered)).await,
            None => Err(refusal),
        }
    }

    /// Over HTTP/2 the backend may say that it did nothing about a request: `once_more` it is sent then, too.
    async fn over_new_connection(
        &self,
        mut request: Request<RequestBody>,
        conditions: Conditions<'_>,
        mut once_more: bool,
        answered: &mut Option<Answered>,
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
            if conditions.may_switch {
                lease.may_switch();
            }
            once_more &= lease.is_stream();
            match self.exchange(lease, request, conditions, Instant::now(), answered).await {
                Ok(()) => return Ok(()),
                Err(Failure { unsent: Some(unsent), .. }) if once_more => request = unsent,
                Err(failure) => return Err(failure.refusal),
            }
            once_more = false;
        }
    }

    /// Sends a request, and waits for the head of its answer. The sweep watches over the time-out: a timer for each
    /// request would be set and taken back for nothing.
    async fn exchange(
        &self,
        mut lease: Lease<RequestBody>,
        request: Request<RequestBody>,
        conditions: Conditions<'_>,
        now: Instant,
        answered: &mut Option<Answered>,
    ) -> Result<(), Failure> {
        let Conditions { upload, activity, upstream, .. } = conditions;
        upstream.set(Some(lease.peer()));
        let (timeout, idle_timeout) = (self.settings.backend.timeout, self.settings.limits.body_idle_timeout);
        activity.wait_until(now + timeout);
        let mut came = None;
        {
            let mut answer = std::pin::pin!(lease.send(request));
            let over = poll_fn(|context| {
                if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                    came = Some(answer);
                    return Poll::Ready(());
                }
                if activity.is_overdue() {
                    match upload.and_then(|upload| upload.extension(timeout, idle_timeout)) {
                        Some(later) => activity.wait_until(later),
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Pending
            });
            over.await;
        }
        activity.wait_no_longer();
        match came {
            Some(Ok(response)) => {
                *answered = Some(Answered { response, lease });
                Ok(())
            }
            Some(Err(SendError { unsent, cause })) => {
                if let Some(fault) = upload.and_then(Upload::fault) {
                    return Err(refusal(fault).into());
                }
                let error: &dyn std::error::Error = &cause;
                if let Some(fault) = tls_fault(&cause) {
                    tracing::warn!(error = fault as &dyn std::error::Error, "no TLS with the backend");
                } else if unsent.is_none() {
                    tracing::debug!(error, "the exchange with the backend broke off");
                }
                Err(Failure { refusal: Refusal::BackendBroken, unsent, unanswered: !cause.is_malformed() })
            }
            None => Err(Refusal::BackendTimeout.into()),
        }
    }
}

/// The refusal for an upload that cannot go on.
pub const fn refusal(fault: UploadFault) -> Refusal {
    match fault {
        UploadFault::TooLarge => Refusal::PayloadTooLarge,
        UploadFault::TimedOut => Refusal::RequestTimeout,
        UploadFault::Broken => Refusal::BadRequest("the body is malformed or cut off"),
    }
}

fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    idempotent && matches!(request.body(), RequestBody::Empty)
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}
