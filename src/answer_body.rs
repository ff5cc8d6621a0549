//! The body of a response to the client: the gateway's own, or the backend's.

use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::{Method, Response, Version};
use hyper::body::{Body, Frame, SizeHint};

use crate::backend::body::RequestBody;
use crate::backend::idle::IdleTimer;
use crate::client::ExchangeError;
use crate::client::call::Call;
use crate::client::pool::Lease;
use crate::exchange::Exchange;
use crate::peer::Peer;
use crate::policy::headers;
use crate::policy::refusal::Reason;
use crate::policy::trusted_fields::TrustedFields;

/// A response's body. The [`Exchange`] ends with it, and the backend's connection is returned to the pool with its last
/// byte.
pub struct AnswerBody {
    source: Source,
    /// `None` for a tunnel, which owns it.
    exchange: Option<Box<Exchange>>,
}

enum Source {
    Own(Bytes),
    Backend(FromBackend),
}

struct FromBackend {
    /// The backend's connection, returned to the pool at the end of the body; `None` afterwards. Dropping it earlier closes
    /// the connection.
    lease: Option<Lease>,
    /// The request, until its body is sent.
    call: Option<Box<Call<RequestBody>>>,
    idle: IdleTimer,
    /// When the head arrived; `None` as soon as the body had to be waited for.
    came_at: Option<Instant>,
    /// Received bytes that were not handed on yet.
    rest: Bytes,
    /// The fault that ended the body, reported at the next poll so that earlier bytes are sent first.
    fault: Option<AnswerFault>,
}

/// A piece of a body, counted by its stream until it is written.
pub struct Piece {
    bytes: Bytes,
    /// `None` over HTTP/1, where the connection takes the next piece after it has written this one.
    _counted: Option<Counted>,
}

struct Counted {
    stream: Rc<Peer>,
    length: usize,
}

impl Piece {
    const fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, _counted: None }
    }

    fn counted(bytes: Bytes, stream: &Rc<Peer>) -> Self {
        let length = bytes.len();
        stream.hold_response(length);
        Self { bytes, _counted: Some(Counted { stream: Rc::clone(stream), length }) }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.stream.release_response(self.length);
    }
}

/// Why a response is broken off, so that the client sees an incomplete message.
#[derive(Debug, thiserror::Error)]
pub enum AnswerFault {
    /// The backend sent nothing for `limits.body_idle_timeout`.
    #[error("the backend's answer stopped")]
    TimedOut,
    /// The backend's response broke off or was malformed.
    #[error("the backend's answer broke off")]
    Broken(#[source] ExchangeError),
}

impl AnswerBody {
    /// The gateway's own response.
    pub fn own(mut response: Response<Bytes>, mut exchange: Box<Exchange>) -> Response<Self> {
        if exchange.method == Method::HEAD {
            // No body is sent. hyper does not poll it over HTTP/1 and would send it over HTTP/2.
            exchange.complete();
            if response.version() == Version::HTTP_2 {
                let length = mem::take(response.body_mut()).len();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
        }
        response.map(|bytes| {
            let mut body = Self { source: Source::Own(bytes), exchange: Some(exchange) };
            body.settle();
            body
        })
    }

    /// The body of the backend's response over `lease`, with at most `idle_timeout` between two pieces. Meanwhile the rest
    /// of the request's body in `call` is sent.
    pub fn backend(
        lease: Lease,
        call: Option<Box<Call<RequestBody>>>,
        exchange: Box<Exchange>,
        idle_timeout: Duration,
    ) -> Self {
        let source = FromBackend {
            lease: Some(lease),
            call,
            idle: IdleTimer::new(idle_timeout),
            came_at: Some(exchange.answer_came()),
            rest: Bytes::new(),
            fault: None,
        };
        let mut body = Self { source: Source::Backend(source), exchange: Some(exchange) };
        body.settle();
        body
    }

    /// The empty body of a tunnel's 101. The tunnel ends the exchange.
    pub const fn tunnel() -> Self {
        Self { source: Source::Own(Bytes::new()), exchange: None }
    }

    fn complete(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.complete();
        }
    }

    /// Notes that a piece waits for the client. Only a stream of HTTP/2 has a window of its own, of which the
    /// connection's bytes do not tell.
    fn waits_for_client(&self) {
        if let Some(stream) = self.exchange.as_ref().and_then(|exchange| exchange.stream()) {
            stream.activity.wrote(true, Instant::now);
        }
    }

    fn broke_off(&mut self, reason: Reason, detail: &'static str) {
        if let Some(exchange) = &mut self.exchange {
            exchange.broke_off(reason, detail);
        }
    }

    /// Ends the exchange and returns the connection if the body is complete.
    fn settle(&mut self) {
        match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => self.complete(),
            Source::Backend(from) if from.is_at_end() => {
                from.give_back();
                self.complete();
            }
            Source::Own(_) | Source::Backend(_) => {}
        }
    }
}

impl FromBackend {
    fn is_at_end(&self) -> bool {
        self.rest.is_empty() && self.lease.as_ref().is_none_or(Lease::is_end_stream)
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.call.take(), self.came_at.unwrap_or_else(Instant::now));
        }
    }

    /// The next piece for `stream`, of at most `room` bytes.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        stream: &Rc<Peer>,
        room: usize,
    ) -> Poll<Option<Result<Frame<Piece>, AnswerFault>>> {
        if self.rest.is_empty() {
            if let Some(lease) = &mut self.lease {
                lease.limit_reads(stream.response_read_room());
            }
            let frame = ready!(self.poll(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => {
                    return Poll::Ready(Some(Ok(other.map_data(Piece::uncounted))));
                }
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(room.min(self.rest.len()));
        stream.set_read_ahead(self.rest.len() + self.lease.as_ref().map_or(0, Lease::read_ahead));
        Poll::Ready(Some(Ok(Frame::data(Piece::counted(piece, stream)))))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        match lease.poll_frame(context, self.call.as_deref_mut()) {
            Poll::Ready(mut frame) => {
                self.idle.progressed();
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    headers::prepare_trailers(trailers, &TrustedFields::default());
                }
                match frame {
                    Some(Err(error)) => {
                        self.fault = Some(AnswerFault::Broken(error));
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    frame => Poll::Ready(frame.map(|frame| frame.map_err(AnswerFault::Broken))),
                }
            }
            Poll::Pending => {
                self.came_at = None;
                self.idle.poll_waiting(context).map(|()| Some(Err(AnswerFault::TimedOut)))
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Piece;
    type Error = AnswerFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, AnswerFault>>> {
        let this = self.get_mut();
        let stream = this.exchange.as_ref().and_then(|exchange| exchange.stream());
        let frame = match &mut this.source {
            Source::Own(bytes) if bytes.is_empty() => None,
            Source::Own(bytes) => Some(Ok(Frame::data(Piece::uncounted(mem::take(bytes))))),
            Source::Backend(from) => match stream {
                Some(stream) => {
                    // Without room it still waits for its client.
                    let room = ready!(stream.poll_response_room(context));
                    stream.activity.wrote(false, Instant::now);
                    ready!(from.poll_piece(context, stream, room))
                }
                None => ready!(from.poll(context))
                    .map(|frame| frame.map(|frame| frame.map_data(Piece::uncounted))),
            },
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(exchange), Some(data)) = (&mut this.exchange, frame.data_ref()) {
                    exchange.sent(data.remaining());
                }
                this.waits_for_client();
                this.settle();
            }
            Some(Err(AnswerFault::TimedOut)) => {
                this.broke_off(Reason::BackendTimeout, "the backend's answer stopped");
            }
            Some(Err(AnswerFault::Broken(_))) => {
                this.broke_off(Reason::BackendBroken, "the backend's answer broke off");
            }
            None => {
                // `is_end_stream` does not know about trailers.
                if let Source::Backend(from) = &mut this.source {
                    from.give_back();
                }
                this.complete();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Backend(from) => from.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Backend(from) => {
                from.lease.as_ref().map_or_else(|| SizeHint::with_exact(0), Lease::size_hint)
            }
        }
    }
}
