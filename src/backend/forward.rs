//! Sends a permitted request to the backend and brings the head of its answer.

use std::future::poll_fn;
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

    /// Forwards `request`, which `permit` allows. Whether it `may_switch` the protocol is the caller's to know, and
    /// what a 101 is worth.
    ///
    /// A kept connection may have been closed by the backend just now. What was not sent at all goes out
    /// once more over a new one; so does what has no body and may be repeated (RFC 9110 section 9.2.2), if the
    /// connection had waited long enough for the backend to have become tired of it.
    ///
    /// # Errors
    /// The refusal that the client is to be answered with; why is in the log.
    pub async fn forward(
        &self,
        permit: Permit,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
        activity: &Activity,
        now: Instant,
        may_switch: bool,
    ) -> Result<Answered, Refusal> {
        let Permit { .. } = permit;
        let kept = if may_switch { self.pool.take_http1(now) } else { self.pool.take_idle(now) };
        let Some(mut lease) = kept else {
            return Box::pin(self.over_new_connection(request, upload, activity, may_switch, true)).await;
        };
        if may_switch {
            lease.may_switch();
        }
        let copy = (lease.waited(now) >= IN_USE && is_repeatable(&request)).then(|| copy(&request));
        let answer = lease.send(request);
        match self.head(answer, upload, activity, now).await {
            Ok(response) => Ok(Answered { response, lease }),
            Err(Failure { refusal, unsent, unanswered }) => {
                drop(lease);
                match unsent.or(copy.filter(|_| unanswered)) {
                    Some(request) => {
                        let again = self.over_new_connection(request, upload, activity, may_switch, false);
                        Box::pin(again).await
                    }
                    None => Err(refusal),
                }
            }
        }
    }

    /// Over HTTP/2 the backend may say that it did nothing about a request: `once_more` it is sent then, too.
    async fn over_new_connection(
        &self,
        mut request: Request<RequestBody>,
        upload: Option<&Upload>,
        activity: &Activity,
        may_switch: bool,
        mut once_more: bool,
    ) -> Result<Answered, Refusal> {
        loop {
            let lease = if may_switch { self.pool.connect_http1().await } else { self.pool.connect().await };
            let mut lease = lease.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection to the backend");
                if error.is_exhausted() { Refusal::Overloaded } else { Refusal::BackendUnreachable }
            })?;
            if may_switch {
                lease.may_switch();
            }
            once_more &= lease.is_stream();
            let answer = lease.send(request);
            match self.head(answer, upload, activity, Instant::now()).await {
                Ok(response) => return Ok(Answered { response, lease }),
                Err(Failure { unsent: Some(unsent), .. }) if once_more => request = unsent,
                Err(failure) => return Err(failure.refusal),
            }
            once_more = false;
        }
    }

    /// Waits for the head of an answer. The sweep watches over the time-out: a timer for each request would be
    /// set and taken back for nothing.
    async fn head(
        &self,
        answer: impl Future<Output = Result<Response<Received>, SendError<RequestBody>>>,
        upload: Option<&Upload>,
        activity: &Activity,
        now: Instant,
    ) -> Result<Response<Received>, Failure> {
        let (timeout, idle_timeout) = (self.settings.backend.timeout, self.settings.limits.body_idle_timeout);
        let mut answer = std::pin::pin!(answer);
        activity.wait_until(now + timeout);
        let answer = poll_fn(|context| {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            if activity.is_overdue() {
                match upload.and_then(|upload| upload.extension(timeout, idle_timeout)) {
                    Some(later) => activity.wait_until(later),
                    None => return Poll::Ready(None),
                }
            }
            Poll::Pending
        });
        let answer = answer.await;
        activity.wait_no_longer();
        match answer {
            Some(Ok(response)) => Ok(response),
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
