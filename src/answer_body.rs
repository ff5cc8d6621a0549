//! The body of an answer on its way to the client: the gateway's own, or the backend's.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::backend::body::RequestBody;
use crate::backend::idle::IdleTimer;
use crate::client::pool::Lease;
use crate::exchange::Exchange;
use crate::policy::headers;
use crate::policy::refusal::Reason;

/// An answer's body. With it ends the [`Exchange`], and with its last byte the use of the connection that
/// it came over.
pub struct AnswerBody {
    source: Source,
    /// None where another goes on with it.
    exchange: Option<Exchange>,
}

enum Source {
    Own(Bytes),
    Backend(FromBackend),
}

struct FromBackend {
    incoming: Incoming,
    /// Given back at the body's end. Where the body does not get there it is dropped, and so closed.
    lease: Option<Lease<RequestBody>>,
    idle: IdleTimer,
}

/// Why the client sees a broken message instead of a short good one.
#[derive(Debug, thiserror::Error)]
pub enum AnswerFault {
    /// Nothing came from the backend for `limits.body_idle_timeout`.
    #[error("the backend's answer stopped")]
    TimedOut,
    /// It broke off or was malformed.
    #[error("the backend's answer broke off")]
    Broken(#[source] hyper::Error),
}

impl AnswerBody {
    /// The gateway's own answer.
    pub fn own(bytes: Bytes, exchange: Exchange) -> Self {
        // To HEAD nothing of it is sent, and hyper asks for nothing.
        let is_head = exchange.method == Method::HEAD;
        let mut body = Self { source: Source::Own(bytes), exchange: Some(exchange) };
        if is_head {
            body.complete();
        }
        body.settle();
        body
    }

    /// The backend's answer, which comes over `lease`. Between two pieces of it `idle_timeout` may pass.
    pub fn backend(
        incoming: Incoming,
        lease: Lease<RequestBody>,
        exchange: Exchange,
        idle_timeout: Duration,
    ) -> Self {
        let lease = Some(lease);
        let source = FromBackend { incoming, lease, idle: IdleTimer::new(idle_timeout) };
        let mut body = Self { source: Source::Backend(source), exchange: Some(exchange) };
        body.settle();
        body
    }

    /// None: a tunnel takes its place, and ends the exchange.
    pub const fn tunnel() -> Self {
        Self { source: Source::Own(Bytes::new()), exchange: None }
    }

    fn complete(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.complete();
        }
    }

    fn broke_off(&mut self, reason: Reason, detail: &'static str) {
        if let Some(exchange) = &mut self.exchange {
            exchange.broke_off(reason, detail);
        }
    }

    /// Ends the exchange, and the use of the connection, as soon as nothing is left to come.
    fn settle(&mut self) {
        match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => self.complete(),
            Source::Backend(from) if from.incoming.is_end_stream() => {
                if let Some(lease) = from.lease.take() {
                    lease.give_back();
                }
                self.complete();
            }
            Source::Own(_) | Source::Backend(_) => {}
        }
    }
}

impl FromBackend {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(mut frame) => {
                self.idle.progressed();
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    headers::prepare_trailers(trailers);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(AnswerFault::Broken)))
            }
            Poll::Pending => self.idle.poll_waiting(context).map(|()| Some(Err(AnswerFault::TimedOut))),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Own(bytes) if bytes.is_empty() => None,
            Source::Own(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Source::Backend(from) => std::task::ready!(from.poll(context)),
        };
        match &frame {
            Some(Ok(_)) => this.settle(),
            Some(Err(AnswerFault::TimedOut)) => {
                this.broke_off(Reason::BackendTimeout, "the backend's answer stopped");
            }
            Some(Err(AnswerFault::Broken(_))) => {
                this.broke_off(Reason::BackendBroken, "the backend's answer broke off");
            }
            None => {
                // Trailers, or their absence, come after what `is_end_stream` can tell.
                if let Source::Backend(FromBackend { lease, .. }) = &mut this.source
                    && let Some(lease) = lease.take()
                {
                    lease.give_back();
                }
                this.complete();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Backend(from) => from.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Backend(from) => from.incoming.size_hint(),
        }
    }
}
