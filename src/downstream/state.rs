//! The phase of a connection, and how its end is requested.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// Waiting for the first byte of a request.
    Idle,
    /// Waiting for the rest of a request's head.
    Head,
    /// Serving a request.
    Serving,
}

/// Time for which a request is served without progress after its client has ended its side of the connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// The phase of a connection, and when it began. The sweep of its worker enforces time limits by it, so that no request
/// sets a timer.
#[derive(Debug)]
pub struct ConnectionState {
    phase: Cell<ConnectionPhase>,
    /// When the phase began.
    since: Cell<Instant>,
    /// When a head arrived as a whole.
    arrived_at: Cell<Option<Instant>>,
    /// Since when the client has not read.
    blocked_since: Cell<Option<Instant>>,
    /// Since when nothing was sent to a client that has ended its side.
    quiet_since: Cell<Option<Instant>>,
    shutdown: Cell<Shutdown>,
    /// Whether nothing is read while a request is served.
    unread: Cell<bool>,
    /// Whether the task checks for the client's end.
    watches_end: Cell<bool>,
    /// The number of finished requests.
    served: Cell<u64>,
    deadline: Cell<Option<Instant>>,
    /// Whether the deadline has passed.
    overdue: Cell<bool>,
    /// Whether a part of the next head has arrived.
    head_begun: Cell<bool>,
    wake_when_served: Cell<bool>,
    wake_when_written: Cell<bool>,
    /// The number of open HTTP/2 streams.
    streams: Cell<usize>,
    /// Since when a part of a head is awaited, over HTTP/2.
    incomplete_since: Cell<Option<Instant>>,
    /// Bytes of bodies that the client has read or sent.
    progress: Cell<u64>,
    /// Since when a request's body waits for the client.
    awaits_body_since: Cell<Option<Instant>>,
    /// Whether the exchange ends so that others get a connection to the backend.
    reclaimed: Cell<bool>,
    /// How long the request has waited for a connection to the backend.
    queued: Cell<Option<Duration>>,
    /// Wakes the connection's task.
    waker: RefCell<Option<Waker>>,
}

/// Whether and how a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// It does not end.
    None,
    /// After the next response, which announces it: a request may be in transit.
    Announced,
    /// After the request in service.
    Graceful,
    /// At once, with a 408: the request's head did not arrive in time.
    HeaderTimeout,
    /// At once.
    Immediate,
}

impl ConnectionState {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Cell::new(ConnectionPhase::Idle),
            since: Cell::new(now),
            arrived_at: Cell::new(None),
            blocked_since: Cell::new(None),
            quiet_since: Cell::new(None),
            shutdown: Cell::new(Shutdown::None),
            unread: Cell::new(false),
            watches_end: Cell::new(false),
            served: Cell::new(0),
            deadline: Cell::new(None),
            overdue: Cell::new(false),
            head_begun: Cell::new(false),
            wake_when_served: Cell::new(false),
            wake_when_written: Cell::new(false),
            streams: Cell::new(0),
            incomplete_since: Cell::new(None),
            progress: Cell::new(0),
            awaits_body_since: Cell::new(None),
            reclaimed: Cell::new(false),
            queued: Cell::new(None),
            waker: RefCell::default(),
        }
    }

    /// The phase, and when it began.
    pub fn phase(&self) -> (ConnectionPhase, Instant) {
        (self.phase.get(), self.since.get())
    }

    /// Since when the client has not read what was sent to it; `None` if it reads.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since.get()
    }

    /// Records that bytes arrived. `now` is called only if they begin a request.
    pub fn received(&self, now: impl FnOnce() -> Instant) {
        let arrived_at = (self.phase.get() == ConnectionPhase::Idle).then(now);
        self.arrived_at.set(arrived_at);
        if let Some(now) = arrived_at {
            self.enter(ConnectionPhase::Head, now);
        }
    }

    /// The arrival time of a head that arrived as a whole, which saves a clock read. `None` at the second call.
    pub const fn take_arrival(&self) -> Option<Instant> {
        self.arrived_at.replace(None)
    }

    /// Records whether the client reads what is sent.
    pub fn note_write(&self, blocked: bool, now: impl FnOnce() -> Instant) {
        if !blocked {
            if self.blocked_since.take().is_some() && self.wake_when_written.take() {
                self.wake();
            }
            if self.quiet_since.get().is_some() {
                self.quiet_since.set(Some(now()));
            }
        } else if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(now()));
        }
    }

    /// Ready if the client reads what is sent. Otherwise wakes the connection's task when it does.
    pub fn poll_unblocked(&self) -> Poll<()> {
        if self.blocked_since.get().is_none() {
            return Poll::Ready(());
        }
        self.wake_when_written.set(true);
        Poll::Pending
    }

    /// Sets whether the connection is not read while a request is served, so that its task has to check for the client's
    /// end by other means.
    pub fn set_unread_while_serving(&self, unread: bool) {
        self.unread.set(unread);
    }

    /// For the sweep: makes the connection's task check for the client's end until the request is over. Most requests end
    /// before a sweep and cost nothing.
    pub fn watch_end(&self) {
        if self.unread.get() && self.quiet_since.get().is_none() {
            self.watches_end.set(true);
            self.wake();
        }
    }

    /// Whether the connection's task checks for the client's end.
    pub const fn watches_end(&self) -> bool {
        self.watches_end.get()
    }

    /// Records that the client has ended its side while its request is served: it has left, or sends nothing more.
    pub fn note_client_end(&self, now: impl FnOnce() -> Instant) {
        if self.quiet_since.get().is_none() {
            self.quiet_since.set(Some(now()));
        }
    }

    /// Whether a client that has ended its side counts as gone: for a while nothing was sent to it, and nothing waits to be
    /// sent. Only sending could show that it is still there.
    pub fn client_has_left(&self, now: Instant) -> bool {
        let quiet = self.quiet_since.get().map(|at| now.saturating_duration_since(at));
        quiet.is_some_and(|quiet| quiet >= PATIENCE) && self.blocked_since.get().is_none()
    }

    /// Records that a request's head is complete.
    pub fn begin_request(&self, now: Instant) {
        self.reclaimed.set(false);
        self.enter(ConnectionPhase::Serving, now);
    }

    /// Records that a request has ended.
    pub fn end_request(&self, now: Instant) {
        self.served.set(self.served.get() + 1);
        self.enter(if self.head_begun.get() { ConnectionPhase::Head } else { ConnectionPhase::Idle }, now);
        if self.wake_when_served.take() {
            self.wake();
        }
    }

    pub(super) fn begin_stream(&self, now: Instant) -> bool {
        let others = self.streams.replace(self.streams.get() + 1);
        if others == 0 {
            self.enter(ConnectionPhase::Serving, now);
        }
        others == 0
    }

    pub(super) fn end_stream(&self, now: Instant) -> bool {
        let others = self.streams.get().saturating_sub(1);
        self.streams.set(others);
        if others == 0 {
            self.enter(ConnectionPhase::Idle, now);
        }
        others == 0
    }

    /// Records that the connection is HTTP/2 and awaits its preface. Its streams have their own state.
    pub fn begin_http2(&self, now: Instant) {
        self.enter(ConnectionPhase::Idle, now);
        self.set_incomplete_since(Some(now));
    }

    /// HTTP/2 only: the start of an incomplete sequence that other streams cannot interleave, such as a header block.
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.incomplete_since.get()
    }

    /// See [`ConnectionState::incomplete_since`].
    pub fn set_incomplete_since(&self, since: Option<Instant>) {
        self.incomplete_since.set(since);
    }

    /// Sets a deadline, which replaces the previous one. When it passes, the sweep records it and wakes the
    /// connection's task.
    pub fn set_deadline(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
        self.overdue.set(false);
    }

    /// Removes the deadline.
    pub fn clear_deadline(&self) {
        self.deadline.set(None);
    }

    /// Whether the deadline has passed.
    pub fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// For the sweep: records that a deadline has passed.
    pub fn check_deadline(&self, now: Instant) {
        if self.deadline.get().is_some_and(|deadline| deadline <= now) {
            self.deadline.set(None);
            self.overdue.set(true);
            self.wake();
        }
    }

    /// Records that the client has read or sent `bytes`.
    pub fn add_progress(&self, bytes: usize) {
        self.progress.set(self.progress.get().wrapping_add(bytes as u64));
    }

    /// The bytes that the client has read or sent.
    pub const fn progress(&self) -> u64 {
        self.progress.get()
    }

    /// Records since when a request's body waits for the client.
    pub fn set_awaits_body_since(&self, since: Option<Instant>) {
        self.awaits_body_since.set(since);
    }

    /// Since when a request's body waits for the client; `None` if it does not.
    pub const fn awaits_body_since(&self) -> Option<Instant> {
        self.awaits_body_since.get()
    }

    /// Records that an exchange with the backend begins.
    pub fn begin_exchange(&self) {
        self.awaits_body_since.set(None);
        self.reclaimed.set(false);
    }

    /// Ends an exchange whose client stalls, so that others get a connection to the backend: with a refusal while the
    /// response is awaited, otherwise by closing.
    pub fn reclaim(&self) {
        self.reclaimed.set(true);
        if self.deadline.get().is_some() {
            self.wake();
        } else {
            self.request_shutdown(Shutdown::Immediate);
        }
    }

    /// Whether the exchange ends so that others get a connection to the backend.
    pub const fn is_reclaimed(&self) -> bool {
        self.reclaimed.get()
    }

    /// Records how long the request has waited for a connection to the backend.
    pub fn note_queued(&self, waited: Duration) {
        self.queued.set(Some(waited));
    }

    /// How long the request has waited for a connection to the backend. `None` at the second call.
    pub const fn take_queued(&self) -> Option<Duration> {
        self.queued.replace(None)
    }

    /// The number of requests that have ended.
    pub fn requests_served(&self) -> u64 {
        self.served.get()
    }

    /// Whether a part of the next request's head has arrived while this one is served.
    pub fn set_head_begun(&self, begun: bool) {
        self.head_begun.set(begun);
    }

    /// Wakes the connection's task when the request in service is over.
    pub fn wake_when_served(&self) {
        self.wake_when_served.set(true);
    }

    /// Wakes its task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn enter(&self, phase: ConnectionPhase, now: Instant) {
        self.phase.set(phase);
        self.since.set(now);
        self.watches_end.set(false);
    }

    /// Requests the connection's end, and wakes its task.
    pub fn request_shutdown(&self, shutdown: Shutdown) {
        if shutdown > self.shutdown.get() {
            self.shutdown.set(shutdown);
            self.wake();
        }
    }

    /// Whether and how its end was requested.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.get()
    }

    /// Sets the task that drives the connection.
    pub fn set_waker(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}
