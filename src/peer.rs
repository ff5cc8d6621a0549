//! A client's connection: its address, its TLS, and what it is doing.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use http::HeaderValue;

pub mod budget;

use budget::{ResponseBudget, UploadBudget};

/// A client's connection, or one stream of an HTTP/2 connection.
#[derive(Debug)]
pub struct Peer {
    /// The client's address; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// The address as in X-Forwarded-For: `unknown` (RFC 7239 section 6.2) for a Unix socket.
    pub address_field: HeaderValue,
    /// Whether the address is in `listen.trusted_proxies`.
    pub trusted: bool,
    /// Whether the connection is TLS.
    pub encrypted: bool,
    /// The version of TLS, such as `1.3`; `None` without TLS.
    pub tls_version: Option<&'static str>,
    /// The subject of the client's certificate.
    pub subject: Option<Rc<str>>,
    /// The connection's fields of access lines, encoded by the first line.
    pub logged: OnceCell<Box<[u8]>>,
    /// The connection's phase and time limits.
    pub activity: Activity,
    /// The connection of a stream.
    connection: Option<Rc<Self>>,
    /// The streams of a connection, and some that have ended.
    streams: RefCell<Vec<Weak<Self>>>,
    /// Of a connection: what small DATA frames lacked that bodies have read since it was last taken.
    overhead_read: Cell<usize>,
    /// Of a connection: whether its task is to be woken when bodies read.
    waits_for_reads: Cell<bool>,
    responses: ResponseBudget,
    /// Of a connection of HTTP/2 with a request that has a body.
    uploads: OnceCell<Arc<UploadBudget>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Of a response that came to no body.
        self.set_read_ahead(0);
    }
}

/// A DATA frame with less data than this is small: h2 bounds how many of them wait to be read.
pub const SMALL: usize = 256;

/// What a DATA frame of this length lacks; an empty one is bounded otherwise.
pub const fn overhead(length: usize) -> usize {
    if length == 0 { 0 } else { SMALL.saturating_sub(length) }
}

impl Peer {
    /// A client that has just connected.
    pub fn new(address: Option<IpAddr>, trusted: bool, encrypted: bool, now: Instant) -> Self {
        let address = address.map(|address| address.to_canonical());
        let field = address.and_then(|address| HeaderValue::try_from(address.to_string()).ok());
        Self {
            address,
            address_field: field.unwrap_or(HeaderValue::from_static("unknown")),
            trusted,
            encrypted,
            tls_version: None,
            subject: None,
            logged: OnceCell::new(),
            activity: Activity::new(now),
            connection: None,
            streams: RefCell::default(),
            overhead_read: Cell::new(0),
            waits_for_reads: Cell::new(false),
            responses: ResponseBudget::default(),
            uploads: OnceCell::new(),
        }
    }

    /// A new stream of `connection`.
    pub fn stream(connection: &Rc<Self>, now: Instant) -> Rc<Self> {
        let stream = Rc::new(Self {
            address: connection.address,
            address_field: connection.address_field.clone(),
            trusted: connection.trusted,
            encrypted: connection.encrypted,
            tls_version: connection.tls_version,
            subject: connection.subject.clone(),
            logged: OnceCell::new(),
            activity: Activity::new(now),
            connection: Some(Rc::clone(connection)),
            streams: RefCell::default(),
            overhead_read: Cell::new(0),
            waits_for_reads: Cell::new(false),
            responses: ResponseBudget::default(),
            uploads: OnceCell::new(),
        });
        let mut streams = connection.streams.borrow_mut();
        // Now and then, so that as many are looked at as have ended.
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Rc::downgrade(&stream));
        stream
    }

    /// Whether it is a stream, which a client can leave unread while it reads others.
    pub const fn is_stream(&self) -> bool {
        self.connection.is_some()
    }

    /// The connection of a stream.
    pub const fn connection(&self) -> Option<&Rc<Self>> {
        self.connection.as_ref()
    }

    /// A body has read the data of one frame of this connection.
    pub fn data_read(&self, length: usize) {
        let lacked = overhead(length);
        if lacked > 0 {
            self.overhead_read.set(self.overhead_read.get().saturating_add(lacked));
            if self.waits_for_reads.get() {
                self.activity.wake();
            }
        }
    }

    /// What [`Peer::data_read`] has noted since the last call.
    pub const fn take_overhead_read(&self) -> usize {
        self.overhead_read.replace(0)
    }

    /// Whether the connection's task is to be woken when bodies read.
    pub fn wait_for_reads(&self, waits: bool) {
        self.waits_for_reads.set(waits);
    }

    /// Calls a function with each stream that is being served.
    pub fn for_each_stream(&self, mut act: impl FnMut(&Self)) {
        self.streams.borrow().iter().filter_map(Weak::upgrade).for_each(|stream| act(&stream));
    }

    /// Notes that a request's head is complete. Returns whether its connection has no other request.
    pub fn serving(&self, now: Instant) -> bool {
        self.activity.serving(now);
        self.connection.as_ref().is_none_or(|connection| connection.activity.stream_began(now))
    }

    /// Notes that a request is over. Returns whether its connection has no other request.
    pub fn served(&self, now: Instant) -> bool {
        self.activity.served(now);
        self.connection.as_ref().is_none_or(|connection| connection.activity.stream_ended(now))
    }
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the first byte of a request.
    Idle,
    /// Waiting for the rest of a request's head.
    Head,
    /// Serving a request.
    Serving,
}

/// Time for which a request is served without progress after its client has ended its side of the connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// The phase of a connection, and its begin. The sweep of its worker enforces time limits by it, so that no request sets a
/// timer.
#[derive(Debug)]
pub struct Activity {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    came_at: Cell<Option<Instant>>,
    blocked_since: Cell<Option<Instant>>,
    finished_at: Cell<Option<Instant>>,
    ending: Cell<Ending>,
    unread: Cell<bool>,
    watches_end: Cell<bool>,
    served: Cell<u64>,
    deadline: Cell<Option<Instant>>,
    overdue: Cell<bool>,
    head_begun: Cell<bool>,
    wake_when_served: Cell<bool>,
    streams: Cell<usize>,
    incomplete_since: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

/// Whether and how a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It does not end.
    Not,
    /// After the next response, which announces it: a request may be in transit.
    Announced,
    /// After the request in service.
    Soon,
    /// At once, with a 408: the request's head did not arrive in time.
    TimedOut,
    /// At once.
    Now,
}

impl Activity {
    fn new(now: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            came_at: Cell::new(None),
            blocked_since: Cell::new(None),
            finished_at: Cell::new(None),
            ending: Cell::new(Ending::Not),
            unread: Cell::new(false),
            watches_end: Cell::new(false),
            served: Cell::new(0),
            deadline: Cell::new(None),
            overdue: Cell::new(false),
            head_begun: Cell::new(false),
            wake_when_served: Cell::new(false),
            streams: Cell::new(0),
            incomplete_since: Cell::new(None),
            waker: RefCell::default(),
        }
    }

    /// The phase, and its begin.
    pub fn phase(&self) -> (Phase, Instant) {
        (self.phase.get(), self.since.get())
    }

    /// Since when the client has not read what was sent to it; `None` if it reads.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since.get()
    }

    /// Notes that bytes arrived. `now` is called only if they begin a request.
    pub fn received(&self, now: impl FnOnce() -> Instant) {
        let came_at = (self.phase.get() == Phase::Idle).then(now);
        self.came_at.set(came_at);
        if let Some(now) = came_at {
            self.enter(Phase::Head, now);
        }
    }

    /// The arrival time of a head that arrived as a whole, which saves a clock read. `None` at the second call.
    pub const fn take_came_at(&self) -> Option<Instant> {
        self.came_at.replace(None)
    }

    /// Notes whether the client takes what is sent.
    pub fn wrote(&self, blocked: bool, now: impl FnOnce() -> Instant) {
        if !blocked {
            self.blocked_since.set(None);
            if self.finished_at.get().is_some() {
                self.finished_at.set(Some(now()));
            }
        } else if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(now()));
        }
    }

    /// Sets whether the connection is not read while a request is served, so that its task has to check for the client's
    /// end by other means.
    pub fn unread_while_serving(&self, unread: bool) {
        self.unread.set(unread);
    }

    /// For the sweep: makes the connection's task check for the client's end until the request is over. Most requests end
    /// before a sweep and cost nothing.
    pub fn watch_end(&self) {
        if self.unread.get() && self.finished_at.get().is_none() {
            self.watches_end.set(true);
            self.wake();
        }
    }

    /// Whether the connection's task checks for the client's end.
    pub const fn watches_end(&self) -> bool {
        self.watches_end.get()
    }

    /// Notes that the client has ended its side while its request is served: it has left, or sends nothing more.
    pub fn finished(&self, now: impl FnOnce() -> Instant) {
        if self.finished_at.get().is_none() {
            self.finished_at.set(Some(now()));
        }
    }

    /// Whether a client that has ended its side counts as gone: for a while nothing was sent to it, and nothing waits to be
    /// sent. Only sending could show that it is still there.
    pub fn has_left(&self, now: Instant) -> bool {
        let quiet = self.finished_at.get().map(|at| now.saturating_duration_since(at));
        quiet.is_some_and(|quiet| quiet >= PATIENCE) && self.blocked_since.get().is_none()
    }

    /// Notes that a request's head is complete.
    pub fn serving(&self, now: Instant) {
        self.enter(Phase::Serving, now);
    }

    /// Notes that a request is over.
    pub fn served(&self, now: Instant) {
        self.served.set(self.served.get() + 1);
        self.enter(if self.head_begun.get() { Phase::Head } else { Phase::Idle }, now);
        if self.wake_when_served.take() {
            self.wake();
        }
    }

    fn stream_began(&self, now: Instant) -> bool {
        let others = self.streams.replace(self.streams.get() + 1);
        if others == 0 {
            self.enter(Phase::Serving, now);
        }
        others == 0
    }

    fn stream_ended(&self, now: Instant) -> bool {
        let others = self.streams.get().saturating_sub(1);
        self.streams.set(others);
        if others == 0 {
            self.enter(Phase::Idle, now);
        }
        others == 0
    }

    /// Notes that the connection is HTTP/2 and waits for its preface. Its streams have their own activity.
    pub fn speaks_http2(&self, now: Instant) {
        self.enter(Phase::Idle, now);
        self.incomplete(Some(now));
    }

    /// Of HTTP/2: since when the end is awaited of what other streams cannot overtake, as the fields of a request.
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.incomplete_since.get()
    }

    /// See [`Activity::incomplete_since`].
    pub fn incomplete(&self, since: Option<Instant>) {
        self.incomplete_since.set(since);
    }

    /// Sets a deadline, which replaces the one before. When it passes, the sweep notes it and wakes the connection's task.
    pub fn wait_until(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
        self.overdue.set(false);
    }

    /// Removes the deadline.
    pub fn wait_no_longer(&self) {
        self.deadline.set(None);
    }

    /// Whether the deadline has passed.
    pub fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// For the sweep: notes a deadline that has passed.
    pub fn note_deadline(&self, now: Instant) {
        if self.deadline.get().is_some_and(|deadline| deadline <= now) {
            self.deadline.set(None);
            self.overdue.set(true);
            self.wake();
        }
    }

    /// The number of requests that are over.
    pub fn count_served(&self) -> u64 {
        self.served.get()
    }

    /// Whether a part of the next request's head has arrived while this one is served.
    pub fn head_begun(&self, begun: bool) {
        self.head_begun.set(begun);
    }

    /// Wakes the connection's task when the request in service is over.
    pub fn wake_when_served(&self) {
        self.wake_when_served.set(true);
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn enter(&self, phase: Phase, now: Instant) {
        self.phase.set(phase);
        self.since.set(now);
        self.watches_end.set(false);
    }

    /// Requests the connection's end, and wakes its task.
    pub fn end(&self, ending: Ending) {
        if ending > self.ending.get() {
            self.ending.set(ending);
            self.wake();
        }
    }

    /// Whether and how its end was requested.
    pub fn ending(&self) -> Ending {
        self.ending.get()
    }

    /// Sets the task that drives the connection.
    pub fn driven_by(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}
