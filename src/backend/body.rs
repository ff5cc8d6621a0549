//! The body of a request to the backend: streamed, limited in size, and limited in idle time.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;

use super::idle::IdleTimer;
use super::upload_rate::UploadRate;
use crate::config::settings::Limits;
use crate::downstream::Downstream;
use crate::downstream::budget::UploadBudget;
use crate::policy::headers;
use crate::policy::trusted_fields::TrustedFields;

/// Longest wait for a 100 (Continue), which older backends never send (RFC 9110 section 10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// What ended an upload before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    /// It exceeds the route's `body` or `limits.body`.
    #[error("the request body is too large")]
    TooLarge,
    /// The client sent nothing for `limits.body_idle_timeout`.
    #[error("the request body did not arrive in time")]
    TimedOut,
    /// It arrived more slowly than `limits.body_rate`.
    #[error("the request body arrived too slowly")]
    TooSlow,
    /// It is malformed or incomplete.
    #[error("the request body is malformed or truncated")]
    Broken,
}

/// The progress of an upload.
#[derive(Debug, Default)]
pub struct Upload {
    ended_at: Cell<Option<Instant>>,
    fault: Cell<Option<UploadFault>>,
    /// Whether the backend accepted a piece since the last call of [`Upload::extension`].
    taken: Cell<bool>,
    /// Since when the backend waits for the next piece from the client.
    awaited_since: Cell<Option<Instant>>,
    hold: Cell<Hold>,
    forwarded: Cell<u64>,
}

/// Whether a body waits for a 100 (Continue).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    /// It does not.
    #[default]
    None,
    /// It waits.
    Held,
    /// It is never sent, because the backend has responded without it.
    Unwanted,
}

impl Upload {
    /// The new deadline for a response, when the present one has passed: `timeout` begins when the backend has the whole
    /// request. `None` if it has passed indeed, or if the backend took nothing although the client sent. If the client
    /// sends nothing, [`UploadFault::TimedOut`] ends the upload after `idle_timeout`.
    pub fn extension(&self, timeout: Duration, idle_timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        let deadline = match (self.ended_at.get(), self.awaited_since.get()) {
            (Some(ended), _) => ended + timeout,
            (None, _) if self.taken.replace(false) => now + timeout,
            (None, Some(since)) => since + idle_timeout + timeout,
            (None, None) => now,
        };
        Some(deadline).filter(|deadline| *deadline > now)
    }

    /// Records that the backend has responded. Returns whether the body still waited for a 100 (Continue) and is not
    /// sent.
    pub fn mark_answered(&self) -> bool {
        let held = self.hold.get() != Hold::None;
        if held {
            self.hold.set(Hold::Unwanted);
        }
        held
    }

    /// Bytes that the backend's connection has taken.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.get()
    }

    /// The fault that ended the upload.
    pub fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }
}

/// A request's body.
pub enum RequestBody {
    /// No body.
    Empty,
    /// A body that the client sends.
    Streaming(Box<Streaming>),
}

/// See [`RequestBody::Streaming`].
pub struct Streaming {
    incoming: Incoming,
    /// The client's connection, or its stream.
    downstream: Rc<Downstream>,
    /// The limit of bytes for backends that do not read, over HTTP/2.
    budget: Option<Arc<UploadBudget>>,
    upload: Rc<Upload>,
    left: u64,
    idle: IdleTimer,
    /// `None` without `limits.body_rate`.
    rate: Option<UploadRate>,
    /// Ready when a body that [waits](Hold::Held) may be sent.
    may_send: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Fields that are dropped from the trailers.
    trusted_fields: TrustedFields,
}

impl RequestBody {
    /// Takes the body `incoming` of `downstream` and limits it to `limit` bytes and by `limits`; the [`Upload`] is `None` if
    /// there is no body. `trusted_fields` are dropped from the trailers.
    ///
    /// # Errors
    /// [`UploadFault::TooLarge`] by its Content-Length.
    pub fn new(
        incoming: &mut Option<Incoming>,
        downstream: &Rc<Downstream>,
        limit: u64,
        limits: &Limits,
        trusted_fields: &TrustedFields,
    ) -> Result<(Self, Option<Rc<Upload>>), UploadFault> {
        if incoming.as_ref().is_some_and(|incoming| incoming.size_hint().lower() > limit) {
            return Err(UploadFault::TooLarge);
        }
        let Some(incoming) = incoming.take().filter(|incoming| !incoming.is_end_stream()) else {
            return Ok((Self::Empty, None));
        };
        let upload = Rc::new(Upload::default());
        let streaming = Streaming {
            incoming,
            downstream: Rc::clone(downstream),
            budget: downstream.uploads(),
            upload: Rc::clone(&upload),
            left: limit,
            idle: IdleTimer::new(limits.body_idle_timeout),
            rate: limits.body_rate.map(|rate| UploadRate::new(rate, limits.body_idle_timeout)),
            may_send: None,
            trusted_fields: trusted_fields.clone(),
        };
        Ok((Self::Streaming(Box::new(streaming)), Some(upload)))
    }
}

/// Longest time for which the body of a refused request is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads and discards the body of a refused HTTP/2 request. After an immediate reset, clients that are still sending (curl
/// before 8, httpx) lose the response, although RFC 9113 section 8.1 asks them to read it.
pub async fn discard(mut incoming: Incoming, downstream: Rc<Downstream>) {
    let rest = async {
        while let Some(Ok(frame)) = incoming.frame().await {
            if let (Some(data), Some(connection)) = (frame.data_ref(), downstream.connection()) {
                connection.data_read(data.len());
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}

impl RequestBody {
    /// Delays the body until the returned value is notified of a 100 (Continue), for at most [`CONTINUE_TIMEOUT`]. `None`
    /// if there is no body.
    pub fn wait_for_continue(&mut self) -> Option<Arc<Notify>> {
        let Self::Streaming(streaming) = self else { return None };
        let may_send = Arc::new(Notify::new());
        let permission = Arc::clone(&may_send);
        streaming.upload.hold.set(Hold::Held);
        streaming.may_send = Some(Box::pin(async move {
            let _ = tokio::time::timeout(CONTINUE_TIMEOUT, permission.notified()).await;
        }));
        Some(may_send)
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        if let Some(may_send) = &mut self.may_send {
            if self.upload.hold.get() == Hold::Unwanted {
                return Poll::Pending;
            }
            ready!(may_send.as_mut().poll(context));
            self.may_send = None;
            self.upload.hold.set(Hold::None);
        }
        if let Some(budget) = &self.budget
            && budget.poll_room(context).is_pending()
        {
            // Backends that do not read keep the client from sending.
            self.stop_waiting(0);
            self.note_not_awaited();
            return Poll::Pending;
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let (state, since) = (&self.downstream.state, self.upload.awaited_since.get());
                if since.is_none() || state.awaits_body_since() != since {
                    let now = Some(Instant::now());
                    self.upload.awaited_since.set(now);
                    state.set_awaits_body_since(now);
                }
                return self.poll_waiting(context).map(|fault| Some(Err(self.fail(fault))));
            }
        };
        let received = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        self.stop_waiting(received);
        self.note_not_awaited();
        self.upload.awaited_since.set(None);
        self.upload.taken.set(true);
        match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::prepare_trailers(trailers, &self.trusted_fields);
                }
                if let Some(data) = frame.data_ref() {
                    if let Some(connection) = self.downstream.connection() {
                        connection.data_read(data.len());
                    }
                    self.downstream.state.add_progress(data.len());
                    match self.left.checked_sub(data.len() as u64) {
                        Some(left) => {
                            self.left = left;
                            self.upload.forwarded.set(self.upload.forwarded.get() + data.len() as u64);
                        }
                        None => return Poll::Ready(Some(Err(self.fail(UploadFault::TooLarge)))),
                    }
                }
                if self.incoming.is_end_stream() {
                    self.upload.ended_at.set(Some(Instant::now()));
                }
                Poll::Ready(Some(Ok(match &self.budget {
                    Some(budget) => frame.map_data(|data| budget.hold(data)),
                    None => frame,
                })))
            }
            Some(Err(_)) => Poll::Ready(Some(Err(self.fail(UploadFault::Broken)))),
            None => {
                self.upload.ended_at.set(Some(Instant::now()));
                Poll::Ready(None)
            }
        }
    }

    /// Ready with the fault of a client that has been awaited for too long.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<UploadFault> {
        let Some(rate) = &mut self.rate else {
            return self.idle.poll_waiting(context).map(|()| UploadFault::TimedOut);
        };
        let longest = rate.wait(Instant::now());
        ready!(self.idle.poll_waiting_for(longest, context));
        let is_slow = rate.is_too_slow(Instant::now());
        Poll::Ready(if is_slow { UploadFault::TooSlow } else { UploadFault::TimedOut })
    }

    /// Records that the client has sent this number of bytes of data, or that it is not awaited.
    fn stop_waiting(&mut self, received: usize) {
        self.idle.progressed();
        if let Some(rate) = &mut self.rate {
            rate.received(received, Instant::now);
        }
    }

    /// Records that nothing is awaited from the client. On a connection whose next request has begun, that may be the next
    /// body, which this one leaves alone.
    fn note_not_awaited(&self) {
        let state = &self.downstream.state;
        if state.awaits_body_since() == self.upload.awaited_since.get() {
            state.set_awaits_body_since(None);
        }
    }

    fn fail(&self, fault: UploadFault) -> UploadFault {
        self.upload.fault.set(Some(fault));
        fault
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.incoming.size_hint(),
        }
    }
}
