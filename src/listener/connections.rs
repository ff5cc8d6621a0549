//! The live connections of a listener that answers short requests, such as the admin listener: bounded, and open to
//! newcomers whatever others do.
//!
//! When every place is taken, a newcomer gets the place of a connection without a complete request head, or else of
//! one whose anonymous request takes long: the oldest such connection of the address that has the most of them. A
//! connection keeps its place for a moment in which an honest client sends its request and reads the response.
//! A request with credentials is never interrupted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a connection keeps its place without a complete request head.
const HEAD_GRACE: Duration = Duration::from_millis(100);
/// How long an anonymous request keeps its place, from its head to the end of its response.
const REQUEST_GRACE: Duration = Duration::from_millis(500);

/// At most this part of all connections makes room at once, so that a flood does not cost a search for each newcomer.
const PART: usize = 32;

/// The connections that are open now.
#[derive(Debug)]
pub struct Connections {
    /// How many there may be.
    most: usize,
    live: Mutex<Live>,
    /// A place became free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// By number, which rises with time.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    /// `None` for a Unix socket.
    network: Option<IpAddr>,
    phase: Phase,
    /// When the phase began.
    since: Instant,
    evicted: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Without a complete request head.
    Waiting,
    /// With a request, and without credentials so far.
    Anonymous,
    /// With a request whose credentials are good.
    Authenticated,
}

impl Phase {
    /// How long it keeps a place that others wait for; `None` for as long as it takes.
    const fn grace(self) -> Option<Duration> {
        match self {
            Self::Waiting => Some(HEAD_GRACE),
            Self::Anonymous => Some(REQUEST_GRACE),
            Self::Authenticated => None,
        }
    }
}

impl Connections {
    /// At most so many at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, live: Mutex::default(), freed: Notify::new() })
    }

    /// A place for a new connection from `address`, `None` for a Unix socket. Waits while every place is taken and
    /// none may be taken away; only one caller may wait at a time.
    pub async fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Place {
        let network = address.map(network);
        if self.is_full() {
            // Requests that have arrived are read before their connections are judged.
            tokio::task::yield_now().await;
        }
        loop {
            match self.try_admit(network, Instant::now()) {
                Ok(place) => return place,
                Err(Some(at)) => {
                    let _ = tokio::time::timeout_at(at.into(), self.freed.notified()).await;
                }
                Err(None) => self.freed.notified().await,
            }
        }
    }

    /// # Errors
    /// When the next connection can be made to leave, if one can.
    fn try_admit(self: &Arc<Self>, network: Option<IpAddr>, now: Instant) -> Result<Place, Option<Instant>> {
        let mut live = self.live();
        if live.connections.len() >= self.most {
            let chosen = live.choose(now, (self.most / PART).max(1));
            if chosen.is_empty() {
                return Err(live.next_choice());
            }
            for number in chosen {
                if let Some(connection) = live.connections.remove(&number) {
                    connection.evicted.notify_one();
                }
            }
        }
        let number = live.next;
        live.next += 1;
        let evicted = Arc::<Notify>::default();
        let connection =
            Connection { network, phase: Phase::Waiting, since: now, evicted: Arc::clone(&evicted) };
        live.connections.insert(number, connection);
        Ok(Place { number, evicted, connections: Arc::clone(self) })
    }

    fn is_full(&self) -> bool {
        self.live().connections.len() >= self.most
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// The connections that have to make room, `most` of them at most and all in the same phase.
    fn choose(&self, now: Instant, most: usize) -> Vec<u64> {
        let mut by_network = HashMap::<Option<IpAddr>, usize>::new();
        for connection in self.connections.values() {
            *by_network.entry(connection.network).or_default() += 1;
        }
        let overdue = self.connections.iter().filter(|(_, it)| it.keeps_until().is_some_and(|at| at <= now));
        let mut overdue: Vec<(Phase, Reverse<usize>, u64)> = overdue
            .map(|(number, it)| {
                (it.phase, Reverse(by_network.get(&it.network).copied().unwrap_or_default()), *number)
            })
            .collect();
        overdue.sort_unstable();
        let first = overdue.first().map(|(phase, ..)| *phase);
        let alike = overdue.into_iter().take_while(|(phase, ..)| Some(*phase) == first);
        alike.take(most).map(|(.., number)| number).collect()
    }

    /// When there is one next.
    fn next_choice(&self) -> Option<Instant> {
        self.connections.values().filter_map(Connection::keeps_until).min()
    }
}

impl Connection {
    fn keeps_until(&self) -> Option<Instant> {
        self.phase.grace().map(|grace| self.since + grace)
    }
}

/// IPv6 hosts have 2^64 addresses, so that their network stands for them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// The place of one connection, for as long as it lives.
#[derive(Debug)]
pub struct Place {
    number: u64,
    evicted: Arc<Notify>,
    connections: Arc<Connections>,
}

impl Place {
    /// Notes that the head of a request has come.
    pub fn request_began(&self) {
        self.set(Phase::Anonymous);
    }

    /// Notes that the request has good credentials: it is not interrupted from here on.
    pub fn authenticated(&self) {
        self.set(Phase::Authenticated);
    }

    /// Completes when a newcomer has got the place: the connection is to be closed.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn set(&self, phase: Phase) {
        if let Some(connection) = self.connections.live().connections.get_mut(&self.number) {
            connection.phase = phase;
            connection.since = Instant::now();
        }
    }
}

impl Drop for Place {
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

    fn is_evicted(place: &Place) -> bool {
        !place.connections.live().connections.contains_key(&place.number)
    }

    /// Whether a newcomer gets a place after so many milliseconds; which of the others lost theirs.
    fn after(connections: &Arc<Connections>, milliseconds: u64, others: &[&Place]) -> (bool, Vec<usize>) {
        let now = Instant::now() + Duration::from_millis(milliseconds);
        let admitted = connections.try_admit(address(9), now);
        let lost = others.iter().enumerate().filter(|(_, place)| is_evicted(place));
        (admitted.is_ok(), lost.map(|(index, _)| index).collect())
    }

    #[test]
    fn finished_connection_leaves_its_place_to_others() {
        let connections = Connections::new(2);
        let busy = connections.try_admit(address(1), Instant::now()).unwrap();
        busy.request_began();
        for _ in 0..100 {
            drop(connections.try_admit(address(2), Instant::now()).unwrap());
        }
        assert!(!is_evicted(&busy));
    }

    #[test]
    fn waiting_connections_leave_first_and_authenticated_ones_never() {
        let connections = Connections::new(3);
        let admit = || connections.try_admit(address(1), Instant::now()).unwrap();
        let (authenticated, anonymous, waiting) = (admit(), admit(), admit());
        authenticated.request_began();
        authenticated.authenticated();
        anonymous.request_began();
        let all = [&authenticated, &anonymous, &waiting];
        assert_eq!(after(&connections, 10, &all), (false, vec![]), "each had its chance");
        assert_eq!(after(&connections, 110, &all), (true, vec![2]));
        let newcomer = connections.try_admit(address(9), Instant::now()).unwrap();
        newcomer.authenticated();
        assert_eq!(after(&connections, 110, &all), (false, vec![2]), "an answer is under way");
        assert_eq!(after(&connections, 600, &all), (true, vec![1, 2]));
        let other = connections.try_admit(address(9), Instant::now()).unwrap();
        other.authenticated();
        assert_eq!(after(&connections, 3_600_000, &all), (false, vec![1, 2]));
        assert_eq!(connections.live().next_choice(), None);
    }

    #[test]
    fn address_with_most_connections_makes_room() {
        let connections = Connections::new(4);
        let admit = |address| connections.try_admit(address, Instant::now()).unwrap();
        let v6 = |text: &str| Some(network(text.parse().unwrap()));
        let (old, first, second, unix) =
            (admit(address(1)), admit(v6("2001:db8::1")), admit(v6("2001:db8::ffff")), admit(None));
        assert_eq!(after(&connections, 110, &[&old, &first, &second, &unix]), (true, vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn newcomer_waits_until_a_place_is_free() {
        let connections = Connections::new(1);
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
