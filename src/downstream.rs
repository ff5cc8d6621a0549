//! A client connection: its address, TLS and state.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use http::HeaderValue;

pub mod budget;
pub mod state;

use budget::{ResponseBudget, UploadBudget};
use state::ConnectionState;

/// The listener that accepted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientListener {
    /// `listen.address`: the clients' requests are forwarded.
    Proxy,
    /// `decision.address`: the clients are proxies, which describe requests.
    Decision,
}

/// A client's connection, or one stream of an HTTP/2 connection.
#[derive(Debug)]
pub struct Downstream {
    /// The listener that accepted the connection.
    pub listener: ClientListener,
    /// The client's address; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether `address` is a proxy whose PROXY header does not say the address of its client.
    pub has_unknown_client: bool,
    /// The address as in X-Forwarded-For: `unknown` (RFC 7239 section 6.2) for a Unix socket.
    pub address_field: HeaderValue,
    /// Whether the address is in `listen.trusted_proxies`; on the decision listener, in `decision.trusted_proxies`.
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
    pub state: ConnectionState,
    /// The connection of a stream.
    connection: Option<Rc<Self>>,
    /// The streams of a connection, and some that have ended.
    streams: RefCell<Vec<Weak<Self>>>,
    /// For connections: the overhead of small DATA frames that bodies have read since it was last taken.
    overhead_read: Cell<usize>,
    /// For connections: whether its task must be woken when bodies are read.
    waits_for_reads: Cell<bool>,
    responses: ResponseBudget,
    /// The response in service, if it is incomplete.
    unread: RefCell<Option<Weak<dyn UnreadResponse>>>,
    /// For HTTP/2 connections with a request that has a body.
    uploads: OnceCell<Arc<UploadBudget>>,
}

/// An incomplete response, which is read ahead of a client that does not read. The layer of responses is above this one.
pub trait UnreadResponse {
    /// Reads what has arrived from the backend, within the budget of its connection or stream.
    fn read_ahead(&self, context: &mut Context<'_>, downstream: &Downstream);
}

impl Drop for Downstream {
    fn drop(&mut self) {
        // A response may have been dropped before its body was sent.
        self.set_read_ahead(0);
    }
}

/// A DATA frame with less data is small: h2 limits the number of small frames that wait to be read.
pub const SMALL_FRAME: usize = 256;

/// The number of bytes by which a DATA frame is shorter than that; 0 for empty frames, which have another limit.
pub const fn frame_overhead(length: usize) -> usize {
    if length == 0 { 0 } else { SMALL_FRAME.saturating_sub(length) }
}

impl Downstream {
    /// A client that has just connected to the proxy listener.
    pub fn new(address: Option<IpAddr>, trusted: bool, encrypted: bool, now: Instant) -> Self {
        let address = address.map(|address| address.to_canonical());
        let field = address.and_then(|address| HeaderValue::try_from(address.to_string()).ok());
        Self {
            listener: ClientListener::Proxy,
            address,
            has_unknown_client: false,
            address_field: field.unwrap_or(HeaderValue::from_static("unknown")),
            trusted,
            encrypted,
            tls_version: None,
            subject: None,
            logged: OnceCell::new(),
            state: ConnectionState::new(now),
            connection: None,
            streams: RefCell::default(),
            overhead_read: Cell::new(0),
            waits_for_reads: Cell::new(false),
            responses: ResponseBudget::default(),
            unread: RefCell::default(),
            uploads: OnceCell::new(),
        }
    }

    /// A new stream of `connection`.
    pub fn stream(connection: &Rc<Self>, now: Instant) -> Rc<Self> {
        let stream = Rc::new(Self {
            listener: connection.listener,
            address: connection.address,
            has_unknown_client: connection.has_unknown_client,
            address_field: connection.address_field.clone(),
            trusted: connection.trusted,
            encrypted: connection.encrypted,
            tls_version: connection.tls_version,
            subject: connection.subject.clone(),
            logged: OnceCell::new(),
            state: ConnectionState::new(now),
            connection: Some(Rc::clone(connection)),
            streams: RefCell::default(),
            overhead_read: Cell::new(0),
            waits_for_reads: Cell::new(false),
            responses: ResponseBudget::default(),
            unread: RefCell::default(),
            uploads: OnceCell::new(),
        });
        let mut streams = connection.streams.borrow_mut();
        // Only when the vector is full, so that the cost per stream is constant.
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

    /// Records that a body has read the data of one frame of this connection.
    pub fn data_read(&self, length: usize) {
        let lacked = frame_overhead(length);
        if lacked > 0 {
            self.overhead_read.set(self.overhead_read.get().saturating_add(lacked));
            if self.waits_for_reads.get() {
                self.state.wake();
            }
        }
    }

    /// The overhead that [`Downstream::data_read`] has recorded since the last call.
    pub const fn take_overhead_read(&self) -> usize {
        self.overhead_read.replace(0)
    }

    /// Sets whether the connection's task must be woken when bodies are read.
    pub fn set_waits_for_reads(&self, waits: bool) {
        self.waits_for_reads.set(waits);
    }

    /// Calls a function with each stream that is being served.
    pub fn for_each_stream(&self, mut act: impl FnMut(&Self)) {
        self.streams.borrow().iter().filter_map(Weak::upgrade).for_each(|stream| act(&stream));
    }

    /// Sets the incomplete response, which replaces the previous one.
    pub fn set_unread(&self, response: Weak<dyn UnreadResponse>) {
        self.unread.replace(Some(response));
    }

    /// Reads the response in service ahead, if its client does not read. For the task that sends it, after each poll.
    pub fn read_ahead(&self, context: &mut Context<'_>) {
        if self.state.blocked_since().is_none() {
            return;
        }
        let response = self.unread.borrow().as_ref().and_then(Weak::upgrade);
        if let Some(response) = response {
            response.read_ahead(context, self);
        }
    }

    /// Records that a request's head is complete. Returns whether its connection has no other request.
    pub fn begin_request(&self, now: Instant) -> bool {
        self.state.begin_request(now);
        self.connection.as_ref().is_none_or(|connection| connection.state.begin_stream(now))
    }

    /// Records that a request has ended. Returns whether its connection has no other request.
    pub fn end_request(&self, now: Instant) -> bool {
        self.unread.take();
        self.state.end_request(now);
        self.connection.as_ref().is_none_or(|connection| connection.state.end_stream(now))
    }
}
