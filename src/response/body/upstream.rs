//! The body of the backend's response.
//!
//! It is read as its client takes it. If the client does not read, the task of its connection reads ahead of it, so that
//! the end of a small response frees the backend's connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};

use crate::backend::body::RequestBody;
use crate::backend::idle::IdleTimer;
use crate::client::ExchangeError;
use crate::client::call::Call;
use crate::client::pool::Lease;
use crate::downstream::budget::PIECE;
use crate::downstream::{Downstream, UnreadResponse};
use crate::policy::headers;
use crate::policy::trusted_fields::TrustedFields;

/// Least buffer for a part of unknown length that was read ahead, in bytes.
const BLOCK: usize = 4 * 1024;

/// The body of the backend's response.
pub(super) struct UpstreamBody {
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
    /// What was read ahead of the client. It follows `rest`.
    ahead: Option<Box<Ahead>>,
    /// The fault that ended the body. It follows all received bytes.
    fault: Option<ResponseFault>,
    /// Whether the server could send the bytes before the fault.
    fault_is_due: bool,
}

/// The part of a body that was read ahead.
#[derive(Default)]
struct Ahead {
    /// Blocks instead of one buffer, whose growth would leave free memory of several sizes behind.
    blocks: VecDeque<Vec<u8>>,
    trailers: Option<HeaderMap>,
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
    pub(super) const fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, counted: None }
    }

    /// A piece for this client; over HTTP/2 it counts.
    fn new(bytes: Bytes, downstream: &Rc<Downstream>) -> Self {
        if !downstream.is_stream() {
            return Self::uncounted(bytes);
        }
        let length = bytes.len();
        downstream.hold_response(length);
        Self { bytes, counted: Some(StreamBytes { stream: Rc::clone(downstream), length }) }
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

impl UpstreamBody {
    /// See [`ResponseBody::upstream`](super::ResponseBody::upstream).
    pub(super) const fn new(
        lease: Lease,
        call: Option<Box<Call<RequestBody>>>,
        arrived_at: Instant,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            lease: Some(lease),
            call,
            idle: IdleTimer::new(idle_timeout),
            arrived_at: Some(arrived_at),
            rest: Bytes::new(),
            ahead: None,
            fault: None,
            fault_is_due: false,
        }
    }

    /// Whether nothing of it is left to send.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
            && self.ahead.is_none()
            && self.fault.is_none()
            && self.lease.as_ref().is_none_or(Lease::is_end_stream)
    }

    /// The size of what is left to send.
    pub(super) fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.iter().flat_map(|ahead| &ahead.blocks).map(Vec::len).sum::<usize>();
        let held = (self.rest.len() + ahead) as u64;
        let unread = self.lease.as_ref().map_or_else(|| SizeHint::with_exact(0), Lease::size_hint);
        let mut size = SizeHint::new();
        size.set_lower(held + unread.lower());
        if let Some(upper) = unread.upper().filter(|_| self.fault.is_none()) {
            size.set_upper(held + upper);
        }
        size
    }

    /// Returns the connection to the pool at the end of the body.
    pub(super) fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.call.take(), self.arrived_at.unwrap_or_else(Instant::now));
        }
    }

    /// The next piece for this client.
    pub(super) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        downstream: &Rc<Downstream>,
    ) -> Poll<Option<Result<Frame<BodyPiece>, ResponseFault>>> {
        let room = if downstream.is_stream() {
            // Without room it still waits for its client.
            let room = ready!(downstream.poll_response_room(context));
            downstream.state.note_write(false, Instant::now);
            room
        } else {
            PIECE
        };
        if self.rest.is_empty() {
            match ready!(self.poll_next(context, downstream)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other.map_data(BodyPiece::uncounted)))),
                },
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(room.min(self.rest.len()));
        if downstream.is_stream() {
            self.count(downstream);
        }
        Poll::Ready(Some(Ok(Frame::data(BodyPiece::new(piece, downstream)))))
    }

    /// The next frame after `rest`: what was read ahead, or what arrives.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        downstream: &Downstream,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        if let Some(ahead) = &mut self.ahead {
            if let Some(block) = ahead.blocks.pop_front() {
                if ahead.blocks.is_empty() && ahead.trailers.is_none() {
                    self.ahead = None;
                }
                return Poll::Ready(Some(Ok(Frame::data(block.into()))));
            }
            if let Some(trailers) = self.ahead.take().and_then(|ahead| ahead.trailers) {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        if self.fault.is_none() {
            if let Some(lease) = &mut self.lease {
                // Also over HTTP/1: reading ahead may have left a smaller limit.
                lease.limit_reads(downstream.response_read_room());
            }
            match ready!(self.poll_backend(context)) {
                Some(Err(fault)) => self.fail(fault),
                frame => return Poll::Ready(frame),
            }
        }
        self.poll_fault(context, downstream)
    }

    /// The next frame from the backend.
    fn poll_backend(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        match lease.poll_frame(context, self.call.as_deref_mut()) {
            Poll::Ready(mut frame) => {
                self.idle.progressed();
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    headers::prepare_trailers(trailers, &TrustedFields::default());
                }
                Poll::Ready(frame.map(|frame| frame.map_err(ResponseFault::Broken)))
            }
            Poll::Pending => {
                self.arrived_at = None;
                self.idle.poll_waiting(context).map(|()| Some(Err(ResponseFault::TimedOut)))
            }
        }
    }

    /// Ends a body that cannot be completed. The connection is closed at once.
    fn fail(&mut self, fault: ResponseFault) {
        self.fault = Some(fault);
        (self.lease, self.call) = (None, None);
    }

    /// Ready with the fault when the earlier bytes were sent. They would be lost otherwise: hyper drops them with the
    /// connection, and h2 with the stream.
    fn poll_fault(
        &mut self,
        context: &mut Context<'_>,
        downstream: &Downstream,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseFault>>> {
        if !mem::replace(&mut self.fault_is_due, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(downstream.poll_written(context));
        Poll::Ready(self.fault.take().map(Err))
    }

    /// Records the memory of the bytes that wait for the client.
    fn count(&self, downstream: &Downstream) {
        let ahead = self.ahead.iter().flat_map(|ahead| &ahead.blocks).map(Vec::capacity).sum::<usize>();
        downstream.set_read_ahead(self.rest.len() + ahead + self.lease.as_ref().map_or(0, Lease::read_ahead));
    }

    /// Reads what has arrived, if the rest of the body may fit the budget of `downstream`.
    fn read_ahead(&mut self, context: &mut Context<'_>, downstream: &Downstream) {
        while self.lease.is_some() {
            self.count(downstream);
            let spare = self.ahead.as_ref().and_then(|ahead| ahead.blocks.back()).map_or(0, spare);
            let room = downstream.read_ahead_room() + spare;
            let Some(lease) = &mut self.lease else { return };
            // Received bytes are decoded in any case.
            let received = lease.read_ahead();
            let missing = lease.size_hint().lower().saturating_sub(received as u64);
            if missing > room as u64 || room == 0 && received == 0 {
                // The request goes on: the backend may wait for its end.
                if let Err(error) = lease.send_rest(context, self.call.as_deref_mut()) {
                    self.fail(ResponseFault::Broken(error));
                }
                return;
            }
            lease.limit_reads(room.max(1));
            match self.poll_backend(context) {
                Poll::Ready(Some(Ok(frame))) => self.keep(frame),
                Poll::Ready(Some(Err(fault))) => self.fail(fault),
                Poll::Ready(None) => self.end(),
                Poll::Pending => return,
            }
            if self.lease.as_ref().is_some_and(Lease::is_end_stream) {
                self.end();
            }
        }
        self.count(downstream);
    }

    /// Returns the connection to the pool at the end of a body that was read ahead.
    fn end(&mut self) {
        self.arrived_at = None;
        self.give_back();
    }

    /// Keeps a frame that was read ahead.
    fn keep(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if data.len() >= PIECE / 2 && self.rest.is_empty() && self.ahead.is_none() => {
                self.rest = data;
            }
            Ok(data) => {
                let missing = self.lease.as_ref().and_then(|lease| lease.size_hint().exact());
                self.ahead.get_or_insert_default().push(&data, missing);
            }
            Err(other) => {
                if let Ok(trailers) = other.into_trailers() {
                    self.ahead.get_or_insert_default().trailers = Some(trailers);
                }
            }
        }
    }
}

/// The bytes that a block has room for. They count already.
fn spare(block: &Vec<u8>) -> usize {
    block.capacity() - block.len()
}

impl Ahead {
    /// Copies `data`, which would keep the larger buffer that it is a part of. `missing` is the length of what follows, if
    /// known.
    fn push(&mut self, mut data: &[u8], missing: Option<u64>) {
        while !data.is_empty() {
            if self.blocks.back().is_none_or(|block| spare(block) == 0) {
                let follows = missing.map_or(0, |missing| usize::try_from(missing).unwrap_or(PIECE));
                let capacity = match missing {
                    Some(_) => data.len().saturating_add(follows),
                    None => data.len().next_multiple_of(BLOCK),
                };
                self.blocks.push_back(Vec::with_capacity(capacity.min(PIECE)));
            }
            let Some(block) = self.blocks.back_mut() else { return };
            let (fitting, rest) = data.split_at(data.len().min(spare(block)));
            block.extend_from_slice(fitting);
            data = rest;
        }
    }
}

impl UnreadResponse for RefCell<UpstreamBody> {
    fn read_ahead(&self, context: &mut Context<'_>, downstream: &Downstream) {
        self.borrow_mut().read_ahead(context, downstream);
    }
}
