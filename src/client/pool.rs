//! The keep-alive pool of one worker.
//!
//! hyper-util's pooling client is shared by all threads and costs a lock and an allocation per request. Here every
//! worker has its own connections, so that taking and returning one is a pop and a push. An HTTP/2 connection has
//! several concurrent requests, so taking it is opening a stream.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::connect::{Addresses, ClientStream, Connector};
use super::error::LeaseError;
use super::http1;
use super::http2::Http2;
use super::tls::OfferedProtocols;
use crate::policy::client::ClientNetwork;

mod addresses;
mod bound;
mod caller;
mod exchanges;
mod fair_queue;
mod lease;
#[cfg(test)]
mod tests;
mod waiting;

pub use self::bound::{BoundSettings, ConnectionBound, TunnelPlace};
use self::bound::{ConnectionPermit, PoolSignal};
pub use self::caller::CallerAccount;
use self::caller::{CallerKey, ClientAccounts};
pub use self::exchanges::ConnectionUser;
use self::exchanges::{ExchangeGuard, Exchanges};
use self::fair_queue::Ticket;
use self::lease::{Connection, Leased, Slot, Stream};
pub use self::lease::{Lease, Upgraded};
use self::waiting::Place;

/// How long a busy worker keeps a connection while another one waits, before it closes the connection for it. A longer
/// time saves connecting, a shorter one saves waiting.
const YIELD_INTERVAL: Duration = Duration::from_millis(50);

/// How many HTTP/2 connections that end before use a request waits for. A restarting backend ends one; one that ends
/// every connection would otherwise be retried without limit.
const MAX_ENDED_CONNECTIONS: usize = 3;

/// The numbers of open connections of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections with a request.
    pub active: usize,
    /// Connections without one.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
}

/// The connections of one worker to one destination.
pub struct Pool {
    connector: Arc<Connector>,
    idle: RefCell<Vec<IdleConnection>>,
    open: Rc<Cell<usize>>,
    idle_timeout: Duration,
    bound: Option<Arc<ConnectionBound>>,
    /// Its number among the pools of the bound.
    number: usize,
    signal: Arc<PoolSignal>,
    /// The exchanges of users, if there is a bound.
    exchanges: Rc<Exchanges>,
    clients: ClientAccounts,
    /// Connections that were granted to waiting requests, by their tickets.
    granted: RefCell<HashMap<Ticket, Lease>>,
    /// The number of this worker's requests that wait for a connection within the limit.
    waiting: Cell<usize>,
    yielded_at: Cell<Option<Instant>>,
    /// Time limit of an HTTP/2 connection attempt.
    timeout: Duration,
    http2: Option<Box<Http2Pool>>,
    /// The addresses of the destination's name at the last lookup by the sweep; empty before.
    addresses: RefCell<Addresses>,
    is_resolving: Cell<bool>,
    resolved_at: Cell<Option<Instant>>,
    /// Whether a task frees connections while requests wait.
    is_attended: Cell<bool>,
}

/// HTTP/2 connections, if enabled.
struct Http2Pool {
    /// How long a connection may be silent while a response is awaited, before it is pinged.
    silence: Duration,
    connections: RefCell<Vec<Rc<Http2>>>,
    /// The connection attempt that all requests wait for.
    attempt: RefCell<Option<Rc<ConnectionAttempt>>>,
    /// Whether the server last chose HTTP/1.1, where requests do not wait for each other.
    declined: Cell<bool>,
}

/// A connection attempt and its result.
#[derive(Default)]
struct ConnectionAttempt {
    outcome: RefCell<Option<Result<(), Arc<LeaseError>>>>,
    done: Notify,
}

struct IdleConnection {
    connection: Box<Connection>,
    since: Instant,
}

impl IdleConnection {
    /// Whether it is alive and within its idle timeout: the configured one, and the one that its server announced.
    fn is_usable(&mut self, now: Instant, idle_timeout: Duration) -> bool {
        let idle_timeout = self.connection.idle_timeout.map_or(idle_timeout, |it| it.min(idle_timeout));
        now.saturating_duration_since(self.since) < idle_timeout && self.connection.http1.is_idle()
    }
}

impl Pool {
    /// An empty pool. A connection is not reused after it was idle for `idle_timeout`, or for the time that its server
    /// announced.
    ///
    /// HTTP/2 is used if `connector` [enables it](Connector::with_http2) and the server agrees.
    pub fn new(
        connector: Arc<Connector>,
        idle_timeout: Duration,
        bound: Option<Arc<ConnectionBound>>,
        timeout: Duration,
    ) -> Rc<Self> {
        let http2 = connector.http2().map(|silence| {
            Box::new(Http2Pool {
                silence,
                connections: RefCell::default(),
                attempt: RefCell::default(),
                declined: Cell::new(false),
            })
        });
        let (number, signal) = bound.as_ref().map(|bound| bound.register()).unwrap_or_default();
        let exchanges = Rc::new(Exchanges::new(bound.clone()));
        Rc::new(Self {
            connector,
            idle: RefCell::default(),
            open: Rc::default(),
            idle_timeout,
            bound,
            number,
            signal,
            exchanges,
            clients: ClientAccounts::default(),
            granted: RefCell::default(),
            waiting: Cell::new(0),
            yielded_at: Cell::new(None),
            timeout,
            http2,
            addresses: RefCell::default(),
            is_resolving: Cell::new(false),
            resolved_at: Cell::new(None),
            is_attended: Cell::new(false),
        })
    }

    /// The most recently used idle HTTP/1.1 connection that is alive.
    ///
    /// In a pool with a bound, `user` takes it; it waits for its turn instead while others wait.
    pub fn take_http1(self: &Rc<Self>, now: Instant, user: Option<ConnectionUser<'_>>) -> Option<Lease> {
        if self.must_wait(user, now) {
            return None;
        }
        self.pop_http1(now).map(|kept| self.lease(Leased::Http1(kept.connection), user, now))
    }

    /// Like [`take_http1`](Self::take_http1), or a stream of an HTTP/2 connection with a free slot.
    pub fn take_idle(self: &Rc<Self>, now: Instant, user: Option<ConnectionUser<'_>>) -> Option<Lease> {
        if self.must_wait(user, now) {
            return None;
        }
        let leased = match self.pop_http1(now) {
            Some(kept) => Leased::Http1(kept.connection),
            None => Leased::Http2(self.stream(self.http2_with_room(now)?)),
        };
        Some(self.lease(leased, user, now))
    }

    fn lease(self: &Rc<Self>, leased: Leased, user: Option<ConnectionUser<'_>>, now: Instant) -> Lease {
        let mut lease = Lease::new(leased, self);
        if self.bound.is_some()
            && let Some(user) = user
        {
            lease.begin_exchange(user, now);
        }
        lease
    }

    fn must_wait(&self, user: Option<ConnectionUser<'_>>, now: Instant) -> bool {
        let caller = user.map(|user| &**user.caller);
        self.bound.as_ref().is_some_and(|bound| bound.must_wait(caller, now))
    }

    fn pop_http1(&self, now: Instant) -> Option<IdleConnection> {
        let mut idle = self.idle.borrow_mut();
        let mut usable = None;
        while let Some(mut kept) = idle.pop() {
            if kept.is_usable(now, self.idle_timeout) {
                usable = Some(kept);
                break;
            }
        }
        self.signal.idle.store(idle.len(), Relaxed);
        usable
    }

    /// An HTTP/2 connection with a free slot.
    fn http2_with_room(&self, now: Instant) -> Option<Rc<Http2>> {
        let http2_pool = self.http2.as_deref()?;
        let connections = http2_pool.connections.borrow();
        let fits = |connection: &&Rc<Http2>| {
            let idle = connection.idle_since().map(|since| now.saturating_duration_since(since));
            connection.has_room() && idle.is_none_or(|idle| idle < self.idle_timeout)
        };
        connections.iter().find(fits).map(Rc::clone)
    }

    fn stream(self: &Rc<Self>, connection: Rc<Http2>) -> Stream {
        Stream::new(Slot::new(connection, self))
    }

    /// The account of the holder of the token with this id; `None` if the pool has no bound.
    pub fn token_account(&self, id: &str) -> Option<Rc<CallerAccount>> {
        let bound = self.bound.as_ref()?;
        Some(bound.account(CallerKey::Token(id.into()), self.number))
    }

    /// The account of the client at `address`, `None` being a Unix socket; `None` if the pool has no bound.
    pub fn client_account(&self, address: Option<IpAddr>) -> Option<Rc<CallerAccount>> {
        let bound = self.bound.as_ref()?;
        let client = address.map(ClientNetwork::from);
        Some(self.clients.get(client, || bound.account(CallerKey::Client(client), self.number)))
    }

    /// Whether callers matter: the pool has a bound.
    pub const fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    /// The place of a tunnel in a pool with a bound.
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`] if tunnels have their share of the connections.
    pub fn admit_tunnel(&self) -> Result<Option<TunnelPlace>, LeaseError> {
        let Some(bound) = &self.bound else { return Ok(None) };
        bound.admit_tunnel().map(Some).ok_or(LeaseError::Exhausted)
    }

    /// A new connection within the limit, or a stream of one that several requests have waited for.
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`] when the bound leaves none for as long as its queue's time limit; otherwise what went
    /// wrong with connecting.
    pub async fn connect(self: &Rc<Self>, user: Option<ConnectionUser<'_>>) -> Result<Lease, LeaseError> {
        let Some(http2_pool) = self.http2.as_deref() else {
            return self.connect_own(OfferedProtocols::Http1, user).await;
        };
        let begun = Instant::now();
        let mut ended = 0;
        loop {
            let now = Instant::now();
            if let Some(lease) = self.take_idle(now, user) {
                return Ok(lease);
            }
            let is_full = self.bound.as_ref().is_some_and(|bound| bound.is_full());
            if http2_pool.declined.get() || is_full || self.must_wait(user, now) {
                return self.connect_own(OfferedProtocols::Any, user).await;
            }
            if begun.elapsed() >= self.timeout {
                return Err(LeaseError::Exhausted);
            }
            let error = match self.attempt(http2_pool).outcome().await {
                Ok(()) if http2_pool.declined.get() || http2_pool.has_usable() => continue,
                Ok(()) => LeaseError::Http2Ended,
                Err(error) if matches!(*error, LeaseError::Http2Ended) => LeaseError::Http2Ended,
                Err(error) => return Err(LeaseError::Joint(error)),
            };
            ended += 1;
            if ended == MAX_ENDED_CONNECTIONS {
                return Err(error);
            }
        }
    }

    /// A new HTTP/1.1 connection within the limit: HTTP/2 has no upgrades.
    ///
    /// # Errors
    /// Like [`Pool::connect`].
    pub async fn connect_http1(
        self: &Rc<Self>,
        user: Option<ConnectionUser<'_>>,
    ) -> Result<Lease, LeaseError> {
        self.connect_own(OfferedProtocols::Http1, user).await
    }

    /// The current connection attempt, or a new one. It is a task of its own, since the first request that waits for it
    /// may be dropped before the others.
    fn attempt(self: &Rc<Self>, http2_pool: &Http2Pool) -> Rc<ConnectionAttempt> {
        let mut attempt = http2_pool.attempt.borrow_mut();
        if let Some(attempt) = &*attempt {
            return Rc::clone(attempt);
        }
        let begun = Rc::new(ConnectionAttempt::default());
        *attempt = Some(Rc::clone(&begun));
        let (pool, ended) = (Rc::clone(self), Rc::clone(&begun));
        tokio::task::spawn_local(async move {
            let outcome = match pool.connect_own(OfferedProtocols::Any, None).await {
                Ok(lease) => {
                    lease.keep_unused();
                    Ok(())
                }
                Err(error) => Err(Arc::new(error)),
            };
            if let Some(http2_pool) = &pool.http2 {
                http2_pool.attempt.take();
            }
            *ended.outcome.borrow_mut() = Some(outcome);
            ended.done.notify_waiters();
        });
        begun
    }

    /// A new connection for one request, within the limit, or one that another request has returned.
    async fn connect_own(
        self: &Rc<Self>,
        protocol: OfferedProtocols,
        user: Option<ConnectionUser<'_>>,
    ) -> Result<Lease, LeaseError> {
        let (permit, _granted) = match &self.bound {
            None => (None, None),
            Some(bound) => match self.wait_for_place(bound, protocol, user).await? {
                Place::Permit(permit, guard) => (Some(permit), guard),
                Place::Returned(lease, _granted) => return Ok(lease.for_user(user)),
            },
        };
        let stream = self.connector.connect(protocol).await?;
        self.add_address(stream.remote_address());
        self.attend_waiting();
        let leased = match &self.http2 {
            Some(http2_pool) if protocol == OfferedProtocols::Any => {
                if stream.may_speak_http2() {
                    self.start_http2(http2_pool, stream, permit).await?
                } else {
                    if !http2_pool.declined.replace(true) {
                        tracing::warn!("the backend chose HTTP/1.1 although `backend.http2` is true");
                    }
                    if let Some(bound) = &self.bound {
                        bound.set_exchanges_per_connection(1);
                    }
                    self.start_http1(stream, permit)
                }
            }
            _ => self.start_http1(stream, permit),
        };
        Ok(self.lease(leased, user, Instant::now()))
    }

    async fn start_http2(
        self: &Rc<Self>,
        http2_pool: &Http2Pool,
        stream: ClientStream,
        permit: Option<ConnectionPermit>,
    ) -> Result<Leased, LeaseError> {
        let counted = (OpenGuard::new(&self.open), permit);
        let connection = Rc::new(Http2::begin(stream, http2_pool.silence, self.timeout, counted).await?);
        http2_pool.declined.set(false);
        if connection.is_usable() && !connection.has_room() {
            return Err(LeaseError::Http2NoStreams);
        }
        http2_pool.connections.borrow_mut().push(Rc::clone(&connection));
        if let Some(bound) = &self.bound {
            bound.set_exchanges_per_connection(connection.max_streams());
        }
        let stream = self.stream(connection);
        self.offer_streams(Instant::now());
        Ok(Leased::Http2(stream))
    }

    fn start_http1(&self, stream: ClientStream, permit: Option<ConnectionPermit>) -> Leased {
        Leased::Http1(Box::new(Connection {
            address: stream.remote_address(),
            http1: http1::Connection::new(stream),
            idle_timeout: None,
            counted: (OpenGuard::new(&self.open), permit),
        }))
    }

    /// Closes an idle HTTP/2 connection, to make room for one of HTTP/1.1. Spares a new connection, which waiting requests
    /// have yet to use.
    fn close_idle_http2(&self, now: Instant) {
        let Some(http2_pool) = &self.http2 else { return };
        let mut connections = http2_pool.connections.borrow_mut();
        let is_idle = |connection: &Rc<Http2>| {
            connection
                .idle_since()
                .is_some_and(|since| now.saturating_duration_since(since) >= YIELD_INTERVAL)
        };
        if let Some(idle) = connections.iter().position(is_idle) {
            connections.remove(idle);
        }
    }

    /// Closes an HTTP/2 connection without a request.
    fn close_http2(&self, connection: &Rc<Http2>) {
        connection.retire();
        if let Some(http2_pool) = &self.http2 {
            http2_pool.connections.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, connection));
        }
    }

    /// Closes connections that are dead or were idle for too long. Must be called about once per second.
    pub fn sweep(self: &Rc<Self>, now: Instant) {
        if self.open.get() > 0 {
            self.resolve_again(now);
        }
        self.exchanges.sample(now);
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|kept| kept.is_usable(now, self.idle_timeout));
        self.signal.idle.store(idle.len(), Relaxed);
        drop(idle);
        if let Some(http2_pool) = &self.http2 {
            http2_pool.connections.borrow_mut().retain(|connection| {
                let kept = |since| {
                    now.saturating_duration_since(since) < self.idle_timeout && !self.other_workers_wait()
                };
                connection.is_usable() && connection.idle_since().is_none_or(kept)
            });
        }
    }

    /// The current number of connections.
    pub fn stats(&self) -> PoolStats {
        let mut idle = self.idle.borrow().len();
        if let Some(http2_pool) = &self.http2 {
            let connections = http2_pool.connections.borrow();
            idle += connections.iter().filter(|connection| connection.idle_since().is_some()).count();
        }
        PoolStats { active: self.open.get().saturating_sub(idle), idle, waiting: self.waiting.get() }
    }

    /// Keeps a connection without a request, or passes it to a waiting one.
    fn keep(self: &Rc<Self>, connection: Box<Connection>, now: Instant) {
        if self.has_moved(connection.address) {
            return;
        }
        if let Some(connection) = self.offer(connection, now) {
            self.keep_idle(connection, now);
        }
    }

    fn keep_idle(&self, connection: Box<Connection>, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.push(IdleConnection { connection, since });
        self.signal.idle.store(idle.len(), Relaxed);
    }

    /// Whether another worker waits for a connection.
    fn other_workers_wait(&self) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.waiting() > self.waiting.get())
    }

    /// Whether to close a reusable connection so that another worker can open one: this worker would otherwise never
    /// stop using it.
    fn should_yield(&self, now: Instant) -> bool {
        let should_yield = self.other_workers_wait()
            && self.yielded_at.get().is_none_or(|at| now.duration_since(at) >= YIELD_INTERVAL);
        if should_yield {
            self.yielded_at.set(Some(now));
        }
        should_yield
    }
}

impl Http2Pool {
    fn has_usable(&self) -> bool {
        self.connections.borrow().iter().any(|connection| connection.is_usable())
    }
}

impl ConnectionAttempt {
    async fn outcome(&self) -> Result<(), Arc<LeaseError>> {
        loop {
            let done = self.done.notified();
            if let Some(outcome) = &*self.outcome.borrow() {
                return outcome.clone();
            }
            done.await;
        }
    }
}

#[derive(Debug)]
struct OpenGuard(Rc<Cell<usize>>);

impl OpenGuard {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
