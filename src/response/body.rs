//! The body of a response to the client: the gateway's own, or the backend's.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Response, Version};
use hyper::body::{Body, Frame, SizeHint};

use crate::backend::body::{RequestBody, UploadFault};
use crate::client::call::Call;
use crate::client::pool::Lease;
use crate::policy::refusal::Reason;
use crate::response::record::{RequestRecord, TOO_SLOW};

mod upstream;

use upstream::UpstreamBody;
pub use upstream::{BodyPiece, ResponseFault};

/// Bytes of a response that an HTTP/1 connection takes before it may wait for its client. It buffers twice as many.
const SMALL: u64 = 8 * 1024;

/// A response's body. The [`RequestRecord`] ends with it, and the backend's connection is returned to the pool with its last
/// byte.
pub struct ResponseBody {
    source: Source,
    /// `None` for a tunnel, which owns it.
    record: Option<Box<RequestRecord>>,
}

enum Source {
    Own(Bytes),
    /// A message of the gateway, and the trailers that follow it.
    Message(Box<(Bytes, HeaderMap)>),
    Backend(UpstreamBody),
    /// A body of the backend that may be read ahead. Few bodies are: most are complete with their first piece.
    Shared(Rc<RefCell<UpstreamBody>>),
}

impl ResponseBody {
    /// The gateway's own response.
    pub fn own(response: Response<Bytes>, record: Box<RequestRecord>) -> Response<Self> {
        let is_to_head = record.method == Method::HEAD;
        Self::own_to(is_to_head, response, record)
    }

    /// The gateway's own response to a request that is a HEAD, or not. The record may be of another request, which a proxy
    /// describes.
    pub fn own_to(
        is_head: bool,
        mut response: Response<Bytes>,
        mut record: Box<RequestRecord>,
    ) -> Response<Self> {
        if is_head {
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

    /// A message of the gateway that `trailers` follow, over HTTP/2.
    pub fn message(
        response: Response<Bytes>,
        trailers: HeaderMap,
        record: Box<RequestRecord>,
    ) -> Response<Self> {
        response.map(|bytes| {
            let source = Source::Message(Box::new((bytes, trailers)));
            Self { source, record: Some(record) }
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
        let source = UpstreamBody::new(lease, call, record.response_arrived(), idle_timeout);
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

    /// Records a response that the backend, or the client by its request's body, has broken.
    fn mark_broken(&mut self) {
        let fault = self.record.as_ref().and_then(|record| record.upload_fault());
        let (reason, detail) = match fault {
            None => (Reason::BackendBroken, "the backend's response was truncated"),
            Some(UploadFault::TooLarge) => (Reason::Limited, "the request body is too large"),
            Some(UploadFault::TimedOut) => (Reason::Limited, "the request body did not arrive in time"),
            Some(UploadFault::TooSlow) => (Reason::Limited, TOO_SLOW),
            Some(UploadFault::Broken) => (Reason::ClientGone, "the request body is malformed or truncated"),
        };
        self.mark_truncated(reason, detail);
    }

    /// Ends the record and returns the connection if the body is complete.
    fn finish_if_complete(&mut self) {
        match &mut self.source {
            Source::Own(bytes) if bytes.is_empty() => self.complete(),
            Source::Message(rest) if rest.1.is_empty() => self.complete(),
            Source::Backend(from) if from.is_at_end() => {
                from.give_back();
                self.complete();
            }
            Source::Shared(from) if from.borrow().is_at_end() => {
                from.borrow_mut().give_back();
                self.complete();
            }
            Source::Own(_) | Source::Message(_) | Source::Backend(_) | Source::Shared(_) => {}
        }
    }

    /// Lets the connection's task read an incomplete body ahead when its client does not read.
    fn share(&mut self) {
        let (Source::Backend(from), Some(record)) = (&self.source, &self.record) else { return };
        if from.is_at_end() || record.stream().is_none() && record.sent() < SMALL {
            return;
        }
        if let Source::Backend(from) = mem::replace(&mut self.source, Source::Own(Bytes::new())) {
            let from = Rc::new(RefCell::new(from));
            let unread: Weak<RefCell<UpstreamBody>> = Rc::downgrade(&from);
            record.downstream().set_unread(unread);
            self.source = Source::Shared(from);
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
        let downstream = this.record.as_ref().map(|record| record.downstream());
        let frame = match (&mut this.source, downstream) {
            (Source::Own(bytes), _) if !bytes.is_empty() => {
                Some(Ok(Frame::data(BodyPiece::uncounted(mem::take(bytes)))))
            }
            (Source::Backend(from), Some(downstream)) => ready!(from.poll_piece(context, downstream)),
            (Source::Shared(from), Some(downstream)) => {
                ready!(from.borrow_mut().poll_piece(context, downstream))
            }
            (Source::Message(rest), _) if !rest.0.is_empty() => {
                Some(Ok(Frame::data(BodyPiece::uncounted(mem::take(&mut rest.0)))))
            }
            (Source::Message(rest), _) if !rest.1.is_empty() => {
                Some(Ok(Frame::trailers(mem::take(&mut rest.1))))
            }
            (Source::Own(_) | Source::Message(_) | Source::Backend(_) | Source::Shared(_), _) => None,
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.add_sent(data.remaining());
                }
                this.record_pending_write();
                this.finish_if_complete();
                this.share();
            }
            Some(Err(ResponseFault::TimedOut)) => {
                this.mark_truncated(Reason::BackendTimeout, "the backend's response stalled");
            }
            Some(Err(ResponseFault::Broken(_))) => this.mark_broken(),
            None => {
                // `is_end_stream` does not know about trailers.
                match &mut this.source {
                    Source::Backend(from) => from.give_back(),
                    Source::Shared(from) => from.borrow_mut().give_back(),
                    Source::Own(_) | Source::Message(_) => {}
                }
                this.complete();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::Message(rest) => rest.1.is_empty(),
            Source::Backend(from) => from.is_at_end(),
            Source::Shared(from) => from.borrow().is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Message(_) => SizeHint::default(),
            Source::Backend(from) => from.size_hint(),
            Source::Shared(from) => from.borrow().size_hint(),
        }
    }
}
