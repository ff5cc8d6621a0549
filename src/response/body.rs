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
use crate::downstream::Downstream;
use crate::policy::headers;
use crate::policy::refusal::Reason;
use crate::policy::trusted_fields::TrustedFields;
use crate::response::record::RequestRecord;

/// A response's body. The [`RequestRecord`] ends with it, and the backend's connection is returned to the pool with its last
/// byte.
pub struct ResponseBody {
    source: Source,
    /// `None` for a tunnel, which owns it.
    record: Option<Box<RequestRecord>>,
}

enum Source {
    Own(Bytes),
    Backend(UpstreamBody),
}

struct UpstreamBody {
    /// The backend's connection, returned to the pool at the end of the body; `None` afterwards. Dropping it earlier closes
    /// the connection.
    lease: Option<Lease>,
    /// The request, until its body is sent.
    call: Option<Box<Call<RequestBody>>>,
    idle: IdleTimer,
    /// When the head arrived; `None` as soon as the body had to be waited for.
    arrived_at: Option<Instant>,
    /// Received bytes that were not forwarded yet.
    rest: Bytes,
    /// The fault that ended the body, reported at the next poll so that earlier bytes are sent first.
    fault: Option<ResponseFault>,
}

/// A piece of a body, counted by its stream until it is written.
pub struct BodyPiece {
    bytes: Bytes,
    /// `None` over HTTP/1, where the connection takes the next piece after it has written this one.
    counted: Option<StreamBytes>,
}

struct StreamBytes {
    stream: Rc<Downstream>,
    length: usize,
}

impl BodyPiece {
    const fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, counted: None }
    }

    fn counted(bytes: Bytes, stream: &Rc<Downstream>) -> Self {
        let length = bytes.len();
        stream.hold_response(length);
        Self { bytes, counted: Some(StreamBytes { stream: Rc::clone(stream), length }) }
    }
}

impl Buf for BodyPiece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(StreamBytes { stream, .. }) = &self.counted {
            stream.state.add_progress(count);
        }
    }
}

impl Drop for StreamBytes {
    fn drop(&mut self) {
        self.stream.release_response(self.length);
    }
}

/// Why a response is truncated, so that the client detects an incomplete message.
#[derive(Debug, thiserror::Error)]
pub enum ResponseFault {
    /// The backend sent nothing for `limits.body_idle_timeout`.
    #[error("the backend's response stalled")]
    TimedOut,
    /// The backend's response was truncated or malformed.
    #[error("the backend's response was truncated")]
    Broken(#[source] ExchangeError),
}

impl ResponseBody {
    /// The gateway's own response.
    pub fn own(mut response: Response<Bytes>, mut record: Box<RequestRecord>) -> Response<Self> {
        if record.method == Method::HEAD {
            // No body is sent. hyper does not poll it over HTTP/1 and would send it over HTTP/2.
            record.mark_complete();
            if response.version() == Version::HTTP_2 {
                let length = mem::take(response.body_mut()).len();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
        }
        response.map(|bytes| {
            let mut body = Self { source: Source::Own(bytes), record: Some(record) };
            body.finish_if_complete();
            body
        })
    }

    /// The body of the backend's response over `lease`, with at most `idle_timeout` between two pieces. Meanwhile the rest
    /// of the request's body in `call` is sent.
    pub fn upstream(
        lease: Lease,
        call: Option<Box<Call<RequestBody>>>,
        record: Box<RequestRecord>,
        idle_timeout: Duration,
    ) -> Self {
        let source = UpstreamBody {
            lease: Some(lease),
            call,
            idle: IdleTimer::new(idle_timeout),
            arrived_at: Some(record.response_arrived()),
            rest: Bytes::new(),
            fault: None,
        };
        let mut body = Self { source: Source::Backend(source), record: Some(record) };
        body.finish_if_complete();
        if !body.is_end_stream() {
            // The client may have left no window for the body, which is then never polled.
            body.record_pending_write();
        }
        body
    }

    /// The empty body of a tunnel's 101. The tunnel ends the record.
    pub const fn tunnel() -> Self {
        Self { source: Source::Own(Bytes::new()), record: None }
    }

    fn complete(&mut self) {
        if let Some(record) = &mut self.record {
            record.mark_complete();
        }
    }

    /// Records that a piece waits for the client. Only HTTP/2 streams have their own window, which the connection's
    /// bytes do not show.
    fn record_pending_write(&self) {
        if let Some(stream) = self.record.as_ref().and_then(|record| record.stream()) {
            stream.state.note_write(true, Instant::now);
        }
    }

    fn mark_truncated(&mut self, reason: Reason, detail: &'static str) {
        if let Some(record) = &mut self.record {
            record.mark_truncated(reason, detail);
        }
    }

    /// Ends the record and returns the connection if the body is complete.
    fn finish_if_complete(&mut self) {
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

impl UpstreamBody {
    fn is_at_end(&self) -> bool {
        self.rest.is_empty() && self.lease.as_ref().is_none_or(Lease::is_end_stream)
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.call.take(), self.arrived_at.unwrap_or_else(Instant::now));
        }
    }

    /// The next piece for `stream`, of at most `room` bytes.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        stream: &Rc<Downstream>,
        room: usize,
    ) -> Poll<Option<Result<Frame<BodyPiece>, ResponseFault>>> {
        if self.rest.is_empty() {
            if let Some(lease) = &mut self.lease {
                lease.limit_reads(stream.response_read_room());
            }
            let frame = ready!(self.poll(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => {
                    return Poll::Ready(Some(Ok(other.map_data(BodyPiece::uncounted))));
                }
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(room.min(self.rest.len()));
        stream.set_read_ahead(self.rest.len() + self.lease.as_ref().map_or(0, Lease::read_ahead));
        Poll::Ready(Some(Ok(Frame::data(BodyPiece::counted(piece, stream)))))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
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
                        self.fault = Some(ResponseFault::Broken(error));
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    frame => Poll::Ready(frame.map(|frame| frame.map_err(ResponseFault::Broken))),
                }
            }
            Poll::Pending => {
                self.arrived_at = None;
                self.idle.poll_waiting(context).map(|()| Some(Err(ResponseFault::TimedOut)))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = BodyPiece;
    type Error = ResponseFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BodyPiece>, ResponseFault>>> {
        let this = self.get_mut();
        let stream = this.record.as_ref().and_then(|record| record.stream());
        let frame = match &mut this.source {
            Source::Own(bytes) if bytes.is_empty() => None,
            Source::Own(bytes) => Some(Ok(Frame::data(BodyPiece::uncounted(mem::take(bytes))))),
            Source::Backend(from) => match stream {
                Some(stream) => {
                    // Without room it still waits for its client.
                    let room = ready!(stream.poll_response_room(context));
                    stream.state.note_write(false, Instant::now);
                    ready!(from.poll_piece(context, stream, room))
                }
                None => ready!(from.poll(context))
                    .map(|frame| frame.map(|frame| frame.map_data(BodyPiece::uncounted))),
            },
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.add_sent(data.remaining());
                }
                this.record_pending_write();
                this.finish_if_complete();
            }
            Some(Err(ResponseFault::TimedOut)) => {
                this.mark_truncated(Reason::BackendTimeout, "the backend's response stalled");
            }
            Some(Err(ResponseFault::Broken(_))) => {
                this.mark_truncated(Reason::BackendBroken, "the backend's response was truncated");
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
