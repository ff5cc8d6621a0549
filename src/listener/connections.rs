//! Connection slots of a listener that serves short requests, such as the admin listener. Their number is bounded,
//! and new connections get one even during a flood.
//!
//! If every slot is taken, a new connection evicts one without a complete request head, or else one whose anonymous
//! request takes too long: the oldest such connection of the address with the most connections. Each connection keeps
//! its slot for a grace period that suffices for an honest client. A request with valid credentials is never
//! interrupted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a connection without a complete request head cannot be evicted.
const HEAD_GRACE: Duration = Duration::from_millis(100);
/// How long an anonymous request cannot be evicted, from its head to the end of its response.
const REQUEST_GRACE: Duration = Duration::from_millis(500);

/// One eviction frees at most 1/32 of all slots, so that a flood does not cost a search per connection.
const MAX_EVICTED_PART: usize = 32;

/// The slots of a listener, and the open connections in them.
#[derive(Debug)]
pub struct ConnectionSlots {
    /// The number of slots.
    max: usize,
    live: Mutex<Live>,
    /// Notified when a slot becomes free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// By number. Numbers rise with time.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    /// `None` for a Unix socket.
    network: Option<IpAddr>,
    phase: SlotPhase,
    /// The start of the phase.
    phase_start: Instant,
    evicted: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SlotPhase {
    /// No complete request head yet.
    Waiting,
    /// A request without verified credentials.
    Anonymous,
    /// A request with valid credentials.
    Authenticated,
}

impl SlotPhase {
    /// How long a connection in this phase cannot be evicted; `None` if it is never evicted.
    const fn grace(self) -> Option<Duration> {
        match self {
            Self::Waiting => Some(HEAD_GRACE),
            Self::Anonymous => Some(REQUEST_GRACE),
            Self::Authenticated => None,
        }
    }
}

impl ConnectionSlots {
    /// Creates `max` slots.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, live: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a slot for a new connection from `address`, which is `None` for a Unix socket. Waits while every slot is
    /// taken and no connection can be evicted. Only one caller may wait at a time, since a freed slot wakes one.
    pub async fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> ConnectionSlot {
        let network = address.map(network);
        if self.is_full() {
            // Lets the connections read requests that have arrived, which changes their phase.
            tokio::task::yield_now().await;
        }
        loop {
            match self.try_admit(network, Instant::now()) {
                Ok(slot) => return slot,
                Err(Some(at)) => {
                    let _ = tokio::time::timeout_at(at.into(), self.freed.notified()).await;
                }
                Err(None) => self.freed.notified().await,
            }
        }
    }

    /// Takes a slot if one is free or a connection can be evicted.
    ///
    /// # Errors
    /// Returns when the next connection can be evicted, or `None` if none ever can.
    fn try_admit(
        self: &Arc<Self>,
        network: Option<IpAddr>,
        now: Instant,
    ) -> Result<ConnectionSlot, Option<Instant>> {
        let mut live = self.live();
        if live.connections.len() >= self.max {
            let victims = live.victims(now, (self.max / MAX_EVICTED_PART).max(1));
            if victims.is_empty() {
                return Err(live.next_expiry());
            }
            for number in victims {
                if let Some(connection) = live.connections.remove(&number) {
                    connection.evicted.notify_one();
                }
            }
        }
        let number = live.next;
        live.next += 1;
        let evicted = Arc::<Notify>::default();
        let connection = Connection {
            network,
            phase: SlotPhase::Waiting,
            phase_start: now,
            evicted: Arc::clone(&evicted),
        };
        live.connections.insert(number, connection);
        Ok(ConnectionSlot { number, evicted, connections: Arc::clone(self) })
    }

    fn is_full(&self) -> bool {
        self.live().connections.len() >= self.max
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// The connections to evict, at most `max` and all in the same phase.
    fn victims(&self, now: Instant, max: usize) -> Vec<u64> {
        let mut by_network = HashMap::<Option<IpAddr>, usize>::new();
        for connection in self.connections.values() {
            *by_network.entry(connection.network).or_default() += 1;
        }
        let overdue = self.connections.iter().filter(|(_, it)| it.grace_end().is_some_and(|at| at <= now));
        let mut overdue: Vec<(SlotPhase, Reverse<usize>, u64)> = overdue
            .map(|(number, it)| {
                (it.phase, Reverse(by_network.get(&it.network).copied().unwrap_or_default()), *number)
            })
            .collect();
        overdue.sort_unstable();
        let first = overdue.first().map(|(phase, ..)| *phase);
        let same_phase = overdue.into_iter().take_while(|(phase, ..)| Some(*phase) == first);
        same_phase.take(max).map(|(.., number)| number).collect()
    }

    /// When the next connection can be evicted.
    fn next_expiry(&self) -> Option<Instant> {
        self.connections.values().filter_map(Connection::grace_end).min()
    }
}

impl Connection {
    fn grace_end(&self) -> Option<Instant> {
        self.phase.grace().map(|grace| self.phase_start + grace)
    }
}

/// An IPv6 host may use all 2^64 addresses of its network, so the network stands for it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// The slot of one connection. Dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionSlot {
    number: u64,
    evicted: Arc<Notify>,
    connections: Arc<ConnectionSlots>,
}

impl ConnectionSlot {
    /// Records that the head of a request is complete.
    pub fn start_request(&self) {
        self.set(SlotPhase::Anonymous);
    }

    /// Records that the request has valid credentials. The connection is not evicted from now on.
    pub fn authenticated(&self) {
        self.set(SlotPhase::Authenticated);
    }

    /// Completes when the connection is evicted. The caller must close it.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn set(&self, phase: SlotPhase) {
        if let Some(connection) = self.connections.live().connections.get_mut(&self.number) {
            connection.phase = phase;
            connection.phase_start = Instant::now();
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        if self.connections.live().connections.remove(&self.number).is_some() {
            self.connections.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        !slot.connections.live().connections.contains_key(&slot.number)
    }

    /// Whether a new connection gets a slot after `milliseconds`, and the indices of the evicted ones among `others`.
    fn after(
        connections: &Arc<ConnectionSlots>,
        milliseconds: u64,
        others: &[&ConnectionSlot],
    ) -> (bool, Vec<usize>) {
        let now = Instant::now() + Duration::from_millis(milliseconds);
        let admitted = connections.try_admit(address(9), now);
        let lost = others.iter().enumerate().filter(|(_, slot)| is_evicted(slot));
        (admitted.is_ok(), lost.map(|(index, _)| index).collect())
    }

    #[test]
    fn finished_connection_frees_its_slot() {
        let connections = ConnectionSlots::new(2);
        let busy = connections.try_admit(address(1), Instant::now()).unwrap();
        busy.start_request();
        for _ in 0..100 {
            drop(connections.try_admit(address(2), Instant::now()).unwrap());
        }
        assert!(!is_evicted(&busy));
    }

    #[test]
    fn waiting_connections_are_evicted_first_and_authenticated_ones_never() {
        let connections = ConnectionSlots::new(3);
        let admit = || connections.try_admit(address(1), Instant::now()).unwrap();
        let (authenticated, anonymous, waiting) = (admit(), admit(), admit());
        authenticated.start_request();
        authenticated.authenticated();
        anonymous.start_request();
        let all = [&authenticated, &anonymous, &waiting];
        assert_eq!(after(&connections, 10, &all), (false, vec![]), "within the grace period");
        assert_eq!(after(&connections, 110, &all), (true, vec![2]));
        let newcomer = connections.try_admit(address(9), Instant::now()).unwrap();
        newcomer.authenticated();
        assert_eq!(
            after(&connections, 110, &all),
            (false, vec![2]),
            "the anonymous request is within its grace period"
        );
        assert_eq!(after(&connections, 600, &all), (true, vec![1, 2]));
        let other = connections.try_admit(address(9), Instant::now()).unwrap();
        other.authenticated();
        assert_eq!(after(&connections, 3_600_000, &all), (false, vec![1, 2]));
        assert_eq!(connections.live().next_expiry(), None);
    }

    #[test]
    fn address_with_most_connections_is_evicted() {
        let connections = ConnectionSlots::new(4);
        let admit = |address| connections.try_admit(address, Instant::now()).unwrap();
        let v6 = |text: &str| Some(network(text.parse().unwrap()));
        let (old, first, second, unix) =
            (admit(address(1)), admit(v6("2001:db8::1")), admit(v6("2001:db8::ffff")), admit(None));
        assert_eq!(after(&connections, 110, &[&old, &first, &second, &unix]), (true, vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn new_connection_waits_until_a_slot_is_free() {
        let connections = ConnectionSlots::new(1);
        let busy = connections.admit(None).await;
        busy.authenticated();
        let other = Arc::clone(&connections);
        let newcomer = tokio::spawn(async move { other.admit(address(1)).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!newcomer.is_finished());
        drop(busy);
        let newcomer = newcomer.await.unwrap();
        drop(connections.live());
        assert!(!is_evicted(&newcomer));
    }
}
