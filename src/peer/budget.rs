//! How much the streams of one HTTP/2 connection make the gateway hold, in either direction.
//!
//! **Responses.** h2 takes a piece of a response whether or not its client reads, so a stream reads from its backend
//! only as much as it may hold: [`PIECE`] as long as all streams of the connection together hold less than [`SHARED`],
//! and [`LEAST`] if it holds nothing else. A stream that waits for room thus waits for its own pieces only, never for
//! another stream: one whose window its client does not open cannot stop one that could send.
//!
//! **Requests.** What h2 holds is bounded by the window of the connection. Beyond that, the frames that were taken for
//! backends which do not read are bounded by [`UPLOADS`]. h2 hands out whole frames, so a stream may have to wait for
//! another here, as it does when uploads have used up the window. `backend.timeout` ends what does not move.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::Peer;

/// The most of a response that a stream reads, and hands on, at a time, in bytes: a frame.
pub const PIECE: usize = 16 * 1024;
/// What a stream may read that holds nothing, in bytes, whatever the others hold.
const LEAST: usize = 2 * 1024;
/// What a stream may hold of its response, in bytes.
const STREAM: usize = 64 * 1024;
/// What all streams of a connection may hold before each is down to [`LEAST`], in bytes.
const SHARED: usize = 256 * 1024;
/// What all streams of a connection may hold of frames that were taken for their backends, in bytes.
const UPLOADS: usize = 256 * 1024;

/// What is held of a stream's response, or by all streams of a connection.
#[derive(Debug, Default)]
pub(super) struct ResponseBudget {
    /// Read from backends, and not yet written to the client's connection, in bytes.
    held: Cell<usize>,
    /// Of a stream: the part of it that h2 does not have yet.
    ahead: Cell<usize>,
    /// Of a stream: its task, if it waits for room.
    waiting: RefCell<Option<Waker>>,
}

impl Peer {
    /// How much a stream may read from its backend at a time, in bytes.
    pub fn response_read_room(&self) -> usize {
        if self.may_share() { PIECE } else { LEAST }
    }

    /// How much of its response a stream may hand on now, in bytes.
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

    fn may_share(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.responses.held.get() + PIECE <= SHARED)
    }

    /// Notes how much was read ahead of what was handed on.
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

    /// Of a stream: the bound on frames that were taken for backends.
    pub fn uploads(&self) -> Option<Arc<UploadBudget>> {
        self.connection.as_ref().map(|connection| Arc::clone(connection.uploads.get_or_init(Arc::default)))
    }
}

/// What all streams of a connection hold of frames that were taken for their backends.
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
        Bytes::from_owner(Taken { data, budget: Arc::clone(self) })
    }
}

/// A frame that was taken for a backend.
struct Taken {
    data: Bytes,
    budget: Arc<UploadBudget>,
}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Self { data, budget } = self;
        let before = budget.held.fetch_sub(data.len(), Ordering::Relaxed);
        // Streams wait only from there on.
        if before >= UPLOADS {
            let mut waiting = budget.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use super::*;

    fn connection() -> Rc<Peer> {
        Rc::new(Peer::new(None, false, false, Instant::now()))
    }

    fn room(stream: &Peer) -> Poll<usize> {
        stream.poll_response_room(&Context::from_waker(Waker::noop()))
    }

    fn held(connection: &Peer) -> usize {
        connection.responses.held.get()
    }

    #[test]
    fn stream_that_holds_nothing_always_has_room() {
        let connection = connection();
        let streams: Vec<_> = (0..100).map(|_| Peer::stream(&connection, Instant::now())).collect();
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
        // Two who have gone make room for all.
        for stream in &streams[..16] {
            stream.release_response(stream.responses.held.get());
        }
        assert_eq!(room(last), Poll::Ready(PIECE));
    }

    #[test]
    fn stream_holds_no_more_than_its_part() {
        let connection = connection();
        let stream = Peer::stream(&connection, Instant::now());
        while let Poll::Ready(bytes) = room(&stream) {
            stream.hold_response(bytes);
        }
        assert_eq!(held(&connection), STREAM);
    }

    #[test]
    fn what_was_read_ahead_is_held_until_the_stream_ends() {
        let connection = connection();
        let stream = Peer::stream(&connection, Instant::now());
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
    fn frames_are_counted_until_their_last_byte_is_dropped() {
        let stream = Peer::stream(&connection(), Instant::now());
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
