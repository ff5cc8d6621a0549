//! The requests of a worker that wait for a connection within the bound.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::bound::{ConnectionBound, ConnectionPermit, Grant, Next, Served};
use super::caller::{CallerAccount, CallerKey, GrantGuard};
use super::exchanges::ConnectionUser;
use super::fair_queue::Ticket;
use super::lease::{Connection, Lease, Leased};
use super::{IdleConnection, Pool, YIELD_INTERVAL};
use crate::client::error::LeaseError;
use crate::client::tls::OfferedProtocols;

/// Pause between two attempts to free connections while requests wait.
const ATTEND_INTERVAL: Duration = Duration::from_millis(100);

/// A place within the bound.
pub(super) enum Place {
    /// The request opens a connection.
    Permit(ConnectionPermit, Option<GrantGuard>),
    /// The request takes one that another has returned.
    Returned(Lease, GrantGuard),
}

/// Takes a request out of the queue when it is granted a connection or gives up.
struct WaitGuard<'a> {
    pool: &'a Rc<Pool>,
    bound: &'a Arc<ConnectionBound>,
    caller: &'a CallerAccount,
    ticket: Ticket,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let Self { pool, bound, caller, ticket } = self;
        pool.waiting.set(pool.waiting.get() - 1);
        bound.cancel(caller, *ticket);
        let unused = pool.granted.borrow_mut().remove(ticket);
        if let Some(unused) = unused {
            unused.keep_unused();
        }
    }
}

impl Pool {
    /// Room for a connection at once if nobody waits, or when it is this request's turn.
    pub(super) async fn wait_for_place(
        self: &Rc<Self>,
        bound: &Arc<ConnectionBound>,
        protocol: OfferedProtocols,
        user: Option<ConnectionUser<'_>>,
    ) -> Result<Place, LeaseError> {
        let begun = Instant::now();
        if !self.must_wait(user, begun)
            && let Some(permit) = bound.acquire()
        {
            let guard = user.map(|user| GrantGuard::new(Arc::clone(&user.caller.shared)));
            return Ok(Place::Permit(permit, guard));
        }
        let nobody;
        let caller = match user {
            Some(user) => user.caller,
            None => {
                nobody = bound.account(CallerKey::Client(None), self.number);
                &nobody
            }
        };
        let http1_only = protocol == OfferedProtocols::Http1;
        let queued = bound.enqueue(caller, self.number, http1_only, begun);
        let (ticket, mut granted) = queued.map_err(|_| LeaseError::Exhausted)?;
        self.waiting.set(self.waiting.get() + 1);
        let waiting = WaitGuard { pool: self, bound, caller, ticket };
        // It may be its turn already.
        self.offer_idle(begun);
        bound.grant_free();
        let wait = async {
            loop {
                tokio::select! {
                    biased;
                    grant = &mut granted => return grant.map_err(|_| LeaseError::Exhausted),
                    () = sleep(YIELD_INTERVAL), if http1_only && self.http2.is_some() => {
                        self.close_idle_http2(Instant::now());
                    }
                }
            }
        };
        let grant = timeout(bound.queue_timeout(), wait).await.unwrap_or(Err(LeaseError::Exhausted));
        if let Some(user) = user {
            user.downstream.state.note_queued(begun.elapsed());
        }
        let grant = grant?;
        let lease = self.granted.borrow_mut().remove(&ticket);
        drop(waiting);
        match (grant, lease) {
            (Grant::Connect(permit, guard), _) => Ok(Place::Permit(permit, Some(guard))),
            (Grant::Returned(guard), Some(lease)) => Ok(Place::Returned(lease, guard)),
            (Grant::Returned(_), None) => Err(LeaseError::Exhausted),
        }
    }

    /// Passes a connection without a request to the waiting one whose turn it is. If that is one of another worker, closes
    /// the connection, which makes room for it. Returns the connection if nobody waits for it.
    pub(super) fn offer(
        self: &Rc<Self>,
        connection: Box<Connection>,
        now: Instant,
    ) -> Option<Box<Connection>> {
        let Some(bound) = self.bound.as_ref().filter(|bound| bound.waiting() > 0) else {
            return Some(connection);
        };
        match bound.next(self.number, false, now) {
            Next::Nobody => Some(connection),
            Next::Elsewhere => None,
            Next::Here(waiting) => {
                self.hand_over(Leased::Http1(connection), waiting);
                None
            }
        }
    }

    fn hand_over(self: &Rc<Self>, leased: Leased, (ticket, guard, grant): Served) {
        self.granted.borrow_mut().insert(ticket, Lease::new(leased, self));
        // The request receives it, or its `WaitGuard` takes the connection back.
        let _ = grant.send(Grant::Returned(guard));
    }

    /// Offers idle connections to waiting requests.
    pub(super) fn offer_idle(self: &Rc<Self>, now: Instant) {
        while let Some(IdleConnection { connection, since }) = self.pop_http1(now) {
            if let Some(connection) = self.offer(connection, now) {
                self.keep_idle(connection, since);
                break;
            }
        }
        self.offer_streams(now);
    }

    /// Offers free slots of HTTP/2 connections to waiting requests. Closes an idle connection, now and then, for those of
    /// other workers.
    pub(super) fn offer_streams(self: &Rc<Self>, now: Instant) {
        let Some(bound) = self.bound.as_ref().filter(|bound| bound.waiting() > 0) else { return };
        while let Some(connection) = self.http2_with_room(now) {
            match bound.next(self.number, true, now) {
                Next::Nobody => break,
                Next::Elsewhere => {
                    if connection.idle_since().is_some() && self.should_yield(now) {
                        self.close_http2(&connection);
                    }
                    break;
                }
                Next::Here(waiting) => self.hand_over(Leased::Http2(self.stream(connection)), waiting),
            }
        }
    }

    /// Starts the task that frees connections while requests of any worker wait, with the pool's first connection.
    pub(super) fn attend_waiting(self: &Rc<Self>) {
        if self.bound.is_none() || self.is_attended.replace(true) {
            return;
        }
        let (pool, signal) = (Rc::downgrade(self), Arc::clone(&self.signal));
        tokio::task::spawn_local(async move {
            loop {
                signal.wake.notified().await;
                loop {
                    let Some(pool) = pool.upgrade() else { return };
                    let Some(bound) = pool.bound.as_ref().filter(|bound| bound.waiting() > 0) else { break };
                    let now = Instant::now();
                    pool.offer_idle(now);
                    bound.grant_free();
                    if let Some(contention) = bound.contention(now)
                        && pool.exchanges.reclaim(contention, now)
                    {
                        bound.confine_all(contention.part, now);
                    }
                    drop(pool);
                    tokio::select! {
                        () = sleep(ATTEND_INTERVAL) => {}
                        () = signal.wake.notified() => {}
                    }
                }
            }
        });
    }

    /// Waits until the rest of a request was sent after its response is complete: for at most the idle timeout, and not
    /// while others wait for a connection.
    pub(super) async fn finish<T>(&self, finished: impl Future<Output = T>) -> Option<T> {
        let mut finished = std::pin::pin!(finished);
        let begun = Instant::now();
        while begun.elapsed() < self.idle_timeout {
            let pause = match &self.bound {
                Some(_) => ATTEND_INTERVAL.min(self.idle_timeout),
                None => self.idle_timeout,
            };
            if let Ok(finished) = timeout(pause, &mut finished).await {
                return Some(finished);
            }
            if self.bound.as_ref().is_some_and(|bound| bound.waiting() > 0) {
                break;
            }
        }
        None
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Its task ends.
        self.signal.wake.notify_one();
    }
}
