//! A limit on connections that the pools of all workers share, and the queue of the requests that wait for one.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::YIELD_INTERVAL;
use super::caller::{CallerAccount, CallerKey, GrantGuard, SharedAccount};
use super::fair_queue::{CallerNumber, Candidate, FairQueue, Full, Ticket, fair_part};

/// The number of accounts above which those without an exchange are dropped.
const MIN_ACCOUNTS: usize = 1024;

/// Wait after which callers with more than their part get no further connections.
const STARVED: Duration = Duration::from_millis(500);

/// Wait after which even clients that make some progress are too slow to keep the connections of others.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// Time for which they get none after that, or after stalled exchanges were ended. A caller that returns its connection after
/// each short request would otherwise find it taken by them.
const BRIEF_CONFINEMENT: Duration = Duration::from_secs(10);

/// The limits of a [`ConnectionBound`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundSettings {
    /// Largest number of connections.
    pub connections: NonZeroUsize,
    /// The part of the exchanges that a caller keeps while others wait, above 0 and at most 1.
    pub max_share: f64,
    /// Longest wait for a connection.
    pub queue_timeout: Duration,
}

impl BoundSettings {
    /// At most `connections` connections, all of them for one caller if need be.
    pub fn of_connections(connections: NonZeroUsize, queue_timeout: Duration) -> Self {
        Self { connections, max_share: 1.0, queue_timeout }
    }
}

/// A limit on connections that the pools of all workers share.
///
/// A request that finds neither an idle connection nor room for a new one waits in a [`FairQueue`]: a free connection goes
/// to the waiting caller that uses the fewest. While nobody waits, a request takes no lock here.
#[derive(Debug)]
pub struct ConnectionBound {
    settings: BoundSettings,
    workers: usize,
    /// The number of connections that may be opened. Sequentially consistent with `waiting`: either the thread that frees a
    /// connection sees the waiting request, or the request sees the connection.
    free: AtomicUsize,
    /// The number of waiting requests.
    waiting: AtomicUsize,
    tunnels: AtomicUsize,
    /// The number of exchanges that a connection serves at a time: 1 over HTTP/1.1.
    exchanges_per_connection: AtomicUsize,
    epoch: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: FairQueue<Waiter>,
    accounts: HashMap<CallerKey, Arc<SharedAccount>>,
    /// The number of accounts at which unused ones are dropped.
    accounts_capacity: usize,
    next_caller: CallerNumber,
    pools: Vec<Arc<PoolSignal>>,
}

/// A caller waits for its part of the connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contention {
    /// The number of connections that each caller may keep.
    pub(super) part: usize,
    /// Whether it has waited for [`LONG_WAIT`].
    pub(super) is_long: bool,
}

/// The part of a worker's pool that others see.
#[derive(Debug, Default)]
pub(super) struct PoolSignal {
    /// The number of its idle connections.
    pub(super) idle: AtomicUsize,
    /// Notified when requests wait.
    pub(super) wake: Notify,
}

/// A waiting request.
#[derive(Debug)]
pub(super) struct Waiter {
    account: Arc<SharedAccount>,
    worker: usize,
    /// Whether it needs a connection of its own, for an upgrade.
    http1_only: bool,
    since: Instant,
    grant: oneshot::Sender<Grant>,
}

/// How a waiting request gets its connection.
#[derive(Debug)]
pub(super) enum Grant {
    /// It may open one.
    Connect(ConnectionPermit, GrantGuard),
    /// Its pool has put one aside under its ticket.
    Returned(GrantGuard),
}

/// The permission to hold one connection open.
#[derive(Debug)]
pub(super) struct ConnectionPermit(Arc<ConnectionBound>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, SeqCst);
        if self.0.waiting() > 0 {
            self.0.grant_free();
        }
    }
}

/// Counts a tunnel until it is dropped.
#[derive(Debug)]
pub struct TunnelPlace(Arc<ConnectionBound>);

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Relaxed);
    }
}

/// A request that left the queue: its ticket, its place in the count of its caller, and the channel for its grant.
pub(super) type Served = (Ticket, GrantGuard, oneshot::Sender<Grant>);

/// The request that receives a connection which a worker no longer uses.
pub(super) enum Next {
    /// A request of the same worker.
    Here(Served),
    /// A request of another worker, which has to open one of its own.
    Elsewhere,
    /// No request that it suits.
    Nobody,
}

impl ConnectionBound {
    /// A bound for the pools of so many workers.
    pub fn new(settings: BoundSettings, workers: usize) -> Arc<Self> {
        let state = State {
            queue: FairQueue::new(),
            accounts: HashMap::new(),
            accounts_capacity: MIN_ACCOUNTS,
            next_caller: 0,
            pools: Vec::new(),
        };
        Arc::new(Self {
            workers,
            free: AtomicUsize::new(settings.connections.get()),
            settings,
            waiting: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
            exchanges_per_connection: AtomicUsize::new(1),
            epoch: Instant::now(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the pool of a worker. Returns its number.
    pub(super) fn register(&self) -> (usize, Arc<PoolSignal>) {
        let signal = Arc::<PoolSignal>::default();
        let pools = &mut self.state().pools;
        pools.push(Arc::clone(&signal));
        ((pools.len() - 1) % self.workers.max(1), signal)
    }

    /// Records the number of exchanges that a new connection serves at a time.
    pub(super) fn set_exchanges_per_connection(&self, exchanges: usize) {
        self.exchanges_per_connection.store(exchanges.max(1), Relaxed);
    }

    /// Largest number of exchanges.
    fn capacity(&self) -> NonZeroUsize {
        let each =
            NonZeroUsize::new(self.exchanges_per_connection.load(Relaxed)).unwrap_or(NonZeroUsize::MIN);
        self.settings.connections.saturating_mul(each)
    }

    /// The number of exchanges that a caller keeps while others wait.
    fn share(&self) -> NonZeroUsize {
        part_of(self.capacity(), self.settings.max_share)
    }

    /// Longest wait for a connection.
    pub(super) const fn queue_timeout(&self) -> Duration {
        self.settings.queue_timeout
    }

    /// The number of waiting requests.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// The account of the caller with this key, for the worker with this number.
    pub(super) fn account(&self, key: CallerKey, worker: usize) -> Rc<CallerAccount> {
        let State { accounts, accounts_capacity, next_caller, .. } = &mut *self.state();
        if accounts.len() >= *accounts_capacity {
            // Each exchange and each cached token holds its account.
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
            *accounts_capacity = (accounts.len() * 2).max(MIN_ACCOUNTS);
            accounts.shrink_to(*accounts_capacity);
        }
        let account = accounts.entry(key).or_insert_with(|| {
            *next_caller += 1;
            Arc::new(SharedAccount::new(*next_caller, self.workers, self.epoch))
        });
        CallerAccount::new(Arc::clone(account), worker)
    }

    /// Whether no connection may be opened.
    pub(super) fn is_full(&self) -> bool {
        self.free.load(SeqCst) == 0
    }

    /// Whether a request of `caller` must wait for its turn, even if there is a free connection.
    pub(super) fn must_wait(&self, caller: Option<&CallerAccount>, now: Instant) -> bool {
        self.waiting() > 0 || caller.is_some_and(|caller| caller.shared.is_confined(now))
    }

    /// The permission to open a connection, if there is one.
    pub(super) fn acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.take_free().then(|| ConnectionPermit(Arc::clone(self)))
    }

    fn take_free(&self) -> bool {
        self.free.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1)).is_ok()
    }

    /// The place of a tunnel; `None` if all tunnels together have the share of one caller already: no tunnel ends because
    /// requests wait.
    pub(super) fn admit_tunnel(self: &Arc<Self>) -> Option<TunnelPlace> {
        let share = part_of(self.settings.connections, self.settings.max_share).get();
        let more = |tunnels: usize| Some(tunnels + 1).filter(|tunnels| *tunnels <= share);
        self.tunnels.fetch_update(Relaxed, Relaxed, more).ok().map(|_| TunnelPlace(Arc::clone(self)))
    }

    /// Adds a request to the queue, and wakes the pools that may have a connection for it. The receiver gets its grant, or
    /// is closed if a full queue drops the request.
    pub(super) fn enqueue(
        &self,
        caller: &CallerAccount,
        worker: usize,
        http1_only: bool,
        since: Instant,
    ) -> Result<(Ticket, oneshot::Receiver<Grant>), Full> {
        let (grant, receiver) = oneshot::channel();
        let account = Arc::clone(&caller.shared);
        let waiter = Waiter { account, worker, http1_only, since, grant };
        let State { queue, pools, .. } = &mut *self.state();
        let is_first = queue.len() == 0;
        let (ticket, _dropped) = queue.push(caller.shared.number, waiter)?;
        self.waiting.store(queue.len(), SeqCst);
        for signal in pools {
            if is_first || signal.idle.load(Relaxed) > 0 {
                signal.wake.notify_one();
            }
        }
        Ok((ticket, receiver))
    }

    /// Removes a request from the queue, if it still waits.
    pub(super) fn cancel(&self, caller: &CallerAccount, ticket: Ticket) {
        let queue = &mut self.state().queue;
        let _given_up = queue.remove(caller.shared.number, ticket);
        self.waiting.store(queue.len(), SeqCst);
    }

    /// The number of connections in use, by which the queue orders callers; `None` for a caller that gets no more.
    fn rank(&self, account: &SharedAccount, now: Instant) -> Option<usize> {
        (!account.is_confined(now)).then(|| account.in_use())
    }

    /// Takes a request out of the queue, and counts it as served.
    fn take(
        &self,
        queue: &mut FairQueue<Waiter>,
        caller: CallerNumber,
        ticket: Ticket,
    ) -> Option<(GrantGuard, Waiter)> {
        let waiter = queue.remove(caller, ticket)?;
        self.waiting.store(queue.len(), SeqCst);
        Some((GrantGuard::new(Arc::clone(&waiter.account)), waiter))
    }

    /// Lets waiting requests open connections, as long as there is room.
    pub(super) fn grant_free(self: &Arc<Self>) {
        let now = Instant::now();
        while !self.is_full() {
            let taken = {
                let queue = &mut self.state().queue;
                let best = queue.best(|waiter| self.rank(&waiter.account, now), |_| true);
                let Some((caller, ticket)) = best.map(|it| (it.caller, it.ticket)) else { return };
                // After a request was found: a thread that looks for a free connection meanwhile must not miss this one.
                if !self.take_free() {
                    return;
                }
                self.take(queue, caller, ticket)
            };
            let Some((guard, waiter)) = taken else {
                self.free.fetch_add(1, SeqCst);
                return;
            };
            // If it has given up meanwhile, dropping the permit considers the next one.
            let _ = waiter.grant.send(Grant::Connect(ConnectionPermit(Arc::clone(self)), guard));
        }
    }

    /// The request that gets a connection of `worker`. `is_stream`: it is a stream of an HTTP/2 connection.
    ///
    /// A request of another worker has to open a new connection, so that one of the same worker with the same number in use
    /// comes first until the other has waited for [`YIELD_INTERVAL`].
    pub(super) fn next(&self, worker: usize, is_stream: bool, now: Instant) -> Next {
        let queue = &mut self.state().queue;
        let rank = |waiter: &Waiter| self.rank(&waiter.account, now);
        let suits = |waiter: &Waiter| !(is_stream && waiter.http1_only);
        let Some(best) = queue.best(rank, suits) else { return Next::Nobody };
        let mut chosen = best;
        if chosen.waiter.worker != worker {
            let local = queue.best(rank, |waiter| suits(waiter) && waiter.worker == worker);
            let may_wait = now.saturating_duration_since(chosen.waiter.since) < YIELD_INTERVAL;
            match local {
                // A slot of a connection is of no use to another worker.
                Some(local) if is_stream || may_wait && local.rank == chosen.rank => chosen = local,
                _ => return Next::Elsewhere,
            }
        }
        let Candidate { caller, ticket, .. } = chosen;
        match self.take(queue, caller, ticket) {
            Some((guard, waiter)) => Next::Here((ticket, guard, waiter.grant)),
            None => Next::Nobody,
        }
    }

    /// Whether a caller waits that has less than an equal part of the connections. If it waits for [`STARVED`], those that
    /// have more get none of the connections that become free.
    pub(super) fn contention(&self, now: Instant) -> Option<Contention> {
        if self.waiting() == 0 {
            return None;
        }
        let State { queue, accounts, .. } = &*self.state();
        let is_present = |account: &Arc<SharedAccount>| account.in_use() > 0 || queue.has(account.number);
        let present = accounts.values().filter(|account| is_present(account)).count();
        let part = fair_part(self.capacity(), self.share(), present);
        let rank = |waiter: &Waiter| self.rank(&waiter.account, now);
        let deprived = queue.heads().filter(|waiter| rank(waiter).is_some_and(|in_use| in_use < part.max(1)));
        let since = deprived.map(|waiter| waiter.since).min()?;
        let waited = now.saturating_duration_since(since);
        if waited >= STARVED {
            confine(accounts, part, now);
        }
        Some(Contention { part, is_long: waited >= LONG_WAIT })
    }

    /// Confines all callers that have more than `part` connections, for a short time.
    pub(super) fn confine_all(&self, part: usize, now: Instant) {
        confine(&self.state().accounts, part, now);
    }
}

fn confine(accounts: &HashMap<CallerKey, Arc<SharedAccount>>, part: usize, now: Instant) {
    for account in accounts.values().filter(|account| account.in_use() > part) {
        account.confine(part, now + BRIEF_CONFINEMENT);
    }
}

/// The part `share` of `count`, rounded down, but at least one.
fn part_of(count: NonZeroUsize, share: f64) -> NonZeroUsize {
    NonZeroUsize::new((count.get() as f64 * share) as usize).unwrap_or(NonZeroUsize::MIN)
}
