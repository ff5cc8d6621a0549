//! Limits the body bytes that the streams of one HTTP/2 connection buffer, in each direction.
//!
//! **Responses.** h2 accepts a piece of a response even if the client does not read. A stream therefore reads from its
//! backend only as much as it may buffer: [`PIECE`] while all streams of the connection together buffer less than
//! [`SHARED`], and [`LEAST`] if it buffers nothing. A stream without room waits for its own pieces only, so that a stream
//! whose client does not open its window cannot block others.
//!
//! If a client does not read, a response is read ahead, since its end frees the backend's connection: up to [`STREAM`], of
//! which hyper buffers one [`PIECE`] or more over HTTP/1, and over HTTP/2 while all streams together buffer less than
//! [`READ_AHEAD`]. That is more than [`SHARED`], so that the beginnings of responses do not prevent their ends.
//!
//! **Requests.** The window of the connection limits the bytes in h2. [`UPLOADS`] limits the frames that streams have taken
//! from h2 for backends that do not read. h2 hands out whole frames, so a stream may have to wait for another, as it does
//! if uploads use up the window. `backend.timeout` ends stalled uploads.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::Downstream;

/// Largest piece of a response that a stream reads and hands to h2, in bytes: one frame.
pub const PIECE: usize = 16 * 1024;
/// Bytes that a stream which buffers nothing may always read.
const LEAST: usize = 2 * 1024;
/// Limit of the buffered response of a stream, or of an HTTP/1 connection, in bytes.
const STREAM: usize = 64 * 1024;
/// Buffered responses of all streams of a connection above which each stream may read [`LEAST`] only, in bytes.
const SHARED: usize = 256 * 1024;
/// Buffered responses of all streams of a connection up to which they are read ahead, in bytes: 100 of 9 KiB.
const READ_AHEAD: usize = 960 * 1024;
/// Limit of the frames that all streams of a connection have taken for their backends, in bytes.
const UPLOADS: usize = 192 * 1024;

/// The buffered response bytes of a stream, or of all streams of a connection.
#[derive(Debug, Default)]
pub(super) struct ResponseBudget {
    /// Bytes that were read from backends and not yet written to the client's connection.
    held: Cell<usize>,
    /// The part of `held` that a stream has not handed to h2 yet.
    ahead: Cell<usize>,
    /// The task of a stream that waits for room.
    waiting: RefCell<Option<Waker>>,
}

impl Downstream {
    /// Bytes that a stream may read from its backend at a time.
    pub fn response_read_room(&self) -> usize {
        if self.may_share() { PIECE } else { LEAST }
    }

    /// Bytes that a stream may hand to h2 now.
    pub fn poll_response_room(&self, context: &Context<'_>) -> Poll<usize> {
        let ResponseBudget { held, ahead, waiting } = &self.responses;
        let with_h2 = held.get() - ahead.get();
        if with_h2 + PIECE <= STREAM && (ahead.get() > 0 || self.may_share()) {
            return Poll::Ready(PIECE);
        }
        if with_h2 == 0 {
            return Poll::Ready(LEAST);
        }
        *waiting.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Bytes that may be read ahead now.
    pub fn read_ahead_room(&self) -> usize {
        let held = self.responses.held.get();
        match &self.connection {
            Some(connection) => {
                let shared = connection.responses.held.get();
                STREAM.saturating_sub(held).min(READ_AHEAD.saturating_sub(shared))
            }
            None => (STREAM - PIECE).saturating_sub(held),
        }
    }

    /// Ready when nothing that was handed over waits for the client.
    pub fn poll_written(&self, context: &Context<'_>) -> Poll<()> {
        let ResponseBudget { held, ahead, waiting } = &self.responses;
        if !self.is_stream() {
            return self.state.poll_unblocked();
        }
        if held.get() == ahead.get() {
            return Poll::Ready(());
        }
        self.state.note_write(true, Instant::now);
        *waiting.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    fn may_share(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.responses.held.get() + PIECE <= SHARED)
    }

    /// Sets the number of bytes that were read and not handed to h2 yet.
    pub fn set_read_ahead(&self, bytes: usize) {
        let before = self.responses.ahead.replace(bytes);
        if bytes != before {
            self.change_held(|held| (held + bytes).saturating_sub(before));
        }
    }

    /// Notes that `bytes` were handed to h2.
    pub fn hold_response(&self, bytes: usize) {
        self.change_held(|held| held + bytes);
    }

    /// Notes that `bytes` were written or dropped.
    pub fn release_response(&self, bytes: usize) {
        self.change_held(|held| held.saturating_sub(bytes));
        if let Some(waiting) = self.responses.waiting.take() {
            waiting.wake();
        }
    }

    fn change_held(&self, change: impl Fn(usize) -> usize) {
        self.responses.held.set(change(self.responses.held.get()));
        if let Some(connection) = &self.connection {
            let held = &connection.responses.held;
            held.set(change(held.get()));
        }
    }

    /// The upload budget of a stream's connection.
    pub fn uploads(&self) -> Option<Arc<UploadBudget>> {
        self.connection.as_ref().map(|connection| Arc::clone(connection.uploads.get_or_init(Arc::default)))
    }
}

/// The frames that all streams of a connection have taken for their backends.
#[derive(Debug, Default)]
pub struct UploadBudget {
    held: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl UploadBudget {
    /// Ready when another frame may be taken.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.held.load(Ordering::Relaxed) < UPLOADS {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Counts `data` for as long as any of it is held.
    pub fn hold(self: &Arc<Self>, data: Bytes) -> Bytes {
        if data.is_empty() {
            return data;
        }
        self.held.fetch_add(data.len(), Ordering::Relaxed);
        Bytes::from_owner(TakenBytes { data, budget: Arc::clone(self) })
    }
}

/// A frame that was taken for a backend.
struct TakenBytes {
    data: Bytes,
    budget: Arc<UploadBudget>,
}

impl AsRef<[u8]> for TakenBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for TakenBytes {
    fn drop(&mut self) {
        let Self { data, budget } = self;
        let before = budget.held.fetch_sub(data.len(), Ordering::Relaxed);
        // Below the limit no stream waits.
        if before >= UPLOADS {
            let mut waiting = budget.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    fn connection() -> Rc<Downstream> {
        Rc::new(Downstream::new(None, false, false, Instant::now()))
    }

    fn room(stream: &Downstream) -> Poll<usize> {
        stream.poll_response_room(&Context::from_waker(Waker::noop()))
    }

    fn held(connection: &Downstream) -> usize {
        connection.responses.held.get()
    }

    #[test]
    fn stream_that_holds_nothing_always_has_room() {
        let connection = connection();
        let streams: Vec<_> = (0..100).map(|_| Downstream::stream(&connection, Instant::now())).collect();
        for stream in &streams {
            while let Poll::Ready(bytes) = room(stream) {
                stream.hold_response(bytes);
            }
            assert!(stream.responses.held.get() >= LEAST);
        }
        assert!(held(&connection) <= SHARED + streams.len() * LEAST, "{}", held(&connection));
        let last = &streams[99];
        last.release_response(LEAST);
        assert_eq!(room(last), Poll::Ready(LEAST));
        // Streams that have ended make room for all.
        for stream in &streams[..16] {
            stream.release_response(stream.responses.held.get());
        }
        assert_eq!(room(last), Poll::Ready(PIECE));
    }

    #[test]
    fn stream_holds_no_more_than_its_part() {
        let connection = connection();
        let stream = Downstream::stream(&connection, Instant::now());
        while let Poll::Ready(bytes) = room(&stream) {
            stream.hold_response(bytes);
        }
        assert_eq!(held(&connection), STREAM);
    }

    #[test]
    fn frames_read_ahead_are_held_until_the_stream_ends() {
        let connection = connection();
        let stream = Downstream::stream(&connection, Instant::now());
        stream.set_read_ahead(5000);
        assert_eq!(held(&connection), 5000);
        stream.hold_response(2000);
        stream.set_read_ahead(3000);
        assert_eq!(held(&connection), 5000);
        stream.release_response(2000);
        assert_eq!(held(&connection), 3000);
        drop(stream);
        assert_eq!(held(&connection), 0);
    }

    #[test]
    fn read_ahead_ends_at_the_budget_of_stream_and_connection() {
        let connection = connection();
        let streams: Vec<_> = (0..100).map(|_| Downstream::stream(&connection, Instant::now())).collect();
        for stream in &streams {
            stream.hold_response(LEAST);
            let room = stream.read_ahead_room();
            assert!(room <= STREAM - LEAST);
            stream.set_read_ahead(room);
        }
        // A stream that finds no room for more may still hold what it has read anyway.
        assert!((READ_AHEAD..READ_AHEAD + 100 * LEAST).contains(&held(&connection)), "{}", held(&connection));
        assert_eq!(streams[0].read_ahead_room(), 0);
        // A response of 9 KiB on each of 100 streams fits.
        streams.iter().for_each(|stream| stream.set_read_ahead(7 * 1024));
        assert!(streams.iter().all(|stream| stream.read_ahead_room() > 0));
    }

    #[test]
    fn http1_connection_reads_ahead_what_hyper_does_not_buffer() {
        let connection = connection();
        assert_eq!(connection.read_ahead_room(), STREAM - PIECE);
        connection.set_read_ahead(STREAM);
        assert_eq!(connection.read_ahead_room(), 0);
    }

    #[test]
    fn frames_are_counted_until_their_last_byte_is_dropped() {
        let stream = Downstream::stream(&connection(), Instant::now());
        let uploads = stream.uploads().unwrap();
        let context = Context::from_waker(Waker::noop());
        let mut frames = Vec::new();
        while uploads.poll_room(&context).is_ready() {
            frames.push(uploads.hold(Bytes::from_static(&[0; PIECE])));
        }
        assert_eq!(frames.len(), UPLOADS / PIECE);
        let rest = frames.pop().unwrap().split_off(PIECE - 1);
        assert!(uploads.poll_room(&context).is_pending());
        drop(rest);
        assert!(uploads.poll_room(&context).is_ready());
    }
}
