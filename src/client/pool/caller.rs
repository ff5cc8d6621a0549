//! Who uses the connections of a bounded pool.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

use super::fair_queue::CallerNumber;
use crate::policy::client::ClientNetwork;

/// The party whose requests share a part of the connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum CallerKey {
    /// The holder of the token with this introspected id.
    Token(Box<str>),
    /// The client at an address, on public routes; `None` for a Unix socket.
    Client(Option<ClientNetwork>),
}

/// A count that one worker changes and others read. It has its cache line to itself.
#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerCount(AtomicUsize);

/// The exchanges of one caller over all workers.
#[derive(Debug)]
pub(super) struct SharedAccount {
    pub(super) number: CallerNumber,
    in_use: Box<[WorkerCount]>,
    /// Connections that were granted to waiting requests which have not taken them yet.
    granted: AtomicUsize,
    /// Exchanges that are about to end, because the queue reclaims their connections.
    ending: AtomicUsize,
    /// Until when it is confined, in milliseconds since `epoch`; 0 if it never was.
    confined_until: AtomicU64,
    /// The number of connections that it may use while it is confined.
    confined_to: AtomicUsize,
    epoch: Instant,
}

impl SharedAccount {
    pub(super) fn new(number: CallerNumber, workers: usize, epoch: Instant) -> Self {
        Self {
            number,
            in_use: (0..workers.max(1)).map(|_| WorkerCount::default()).collect(),
            granted: AtomicUsize::new(0),
            ending: AtomicUsize::new(0),
            confined_until: AtomicU64::new(0),
            confined_to: AtomicUsize::new(0),
            epoch,
        }
    }

    /// The number of connections that it uses, or is about to use.
    pub(super) fn in_use(&self) -> usize {
        let used: usize = self.in_use.iter().map(|WorkerCount(count)| count.load(Relaxed)).sum();
        used + self.granted.load(Relaxed)
    }

    /// The number of its exchanges that are not about to end.
    pub(super) fn staying(&self) -> usize {
        self.in_use().saturating_sub(self.ending.load(SeqCst))
    }

    /// Whether it gets no further connection at `now`, although there may be one.
    pub(super) fn is_confined(&self, now: Instant) -> bool {
        let until = self.confined_until.load(Relaxed);
        until > 0 && self.millis(now) < until && self.in_use() >= self.confined_to.load(Relaxed)
    }

    /// Confines it to `part` connections, but at least one, until `until`.
    pub(super) fn confine(&self, part: usize, until: Instant) {
        self.confined_to.store(part.max(1), Relaxed);
        self.confined_until.fetch_max(self.millis(until), Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// The account of a caller, in one worker. Behind an `Rc`, so that a request clones it without an atomic instruction.
#[derive(Debug)]
pub struct CallerAccount {
    pub(super) shared: Arc<SharedAccount>,
    /// The number of the worker's pool.
    worker: usize,
}

impl CallerAccount {
    pub(super) fn new(shared: Arc<SharedAccount>, worker: usize) -> Rc<Self> {
        Rc::new(Self { shared, worker })
    }

    pub(super) fn begin(&self) {
        if let Some(WorkerCount(count)) = self.shared.in_use.get(self.worker) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn end(&self) {
        if let Some(WorkerCount(count)) = self.shared.in_use.get(self.worker) {
            count.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn begin_to_end(&self) {
        self.shared.ending.fetch_add(1, SeqCst);
    }

    pub(super) fn has_ended(&self) {
        self.shared.ending.fetch_sub(1, SeqCst);
    }
}

/// Counts a connection that was granted to a waiting request, until the request has taken it or has given up.
#[derive(Debug)]
pub(super) struct GrantGuard(Arc<SharedAccount>);

impl GrantGuard {
    pub(super) fn new(account: Arc<SharedAccount>) -> Self {
        account.granted.fetch_add(1, Relaxed);
        Self(account)
    }
}

impl Drop for GrantGuard {
    fn drop(&mut self) {
        self.0.granted.fetch_sub(1, Relaxed);
    }
}

/// Number of clients whose accounts a worker finds without a lock; a power of two.
const CLIENTS: usize = 64;

/// The latest accounts of clients on public routes, by a hash of their address.
#[derive(Debug)]
pub(super) struct ClientAccounts(RefCell<Box<[Option<ClientAccount>]>>);

#[derive(Debug)]
struct ClientAccount {
    client: Option<ClientNetwork>,
    account: Rc<CallerAccount>,
}

impl Default for ClientAccounts {
    fn default() -> Self {
        Self(RefCell::new((0..CLIENTS).map(|_| None).collect()))
    }
}

impl ClientAccounts {
    /// The account of `client`, or `new()`, which replaces one with the same hash.
    pub(super) fn get(
        &self,
        client: Option<ClientNetwork>,
        new: impl FnOnce() -> Rc<CallerAccount>,
    ) -> Rc<CallerAccount> {
        let bits = match client {
            None => 0,
            Some(ClientNetwork::V4(address)) => u64::from(address.to_bits()),
            Some(ClientNetwork::V6(network)) => network,
        };
        // A collision costs a lock, so that a client gains nothing by one.
        let place = (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize;
        let mut accounts = self.0.borrow_mut();
        let Some(slot) = accounts.get_mut(place) else { return new() };
        match slot {
            Some(kept) if kept.client == client => Rc::clone(&kept.account),
            slot => {
                let account = new();
                *slot = Some(ClientAccount { client, account: Rc::clone(&account) });
                account
            }
        }
    }
}
