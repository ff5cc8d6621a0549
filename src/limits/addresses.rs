//! Limits by the client's address: IPv4 by the address, IPv6 by the /64 that one client is given.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use governor::clock::Clock;

use super::bucket::{Bucket, Monotonic};
use super::table::Table;
use crate::config::settings::Rate;
use crate::policy::refusal::Exceeded;

/// How many addresses are told apart at a time; some 6 MiB. Beyond it, some of them start anew.
const MOST_ADDRESSES: usize = 65_536;

/// Whom an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4(Ipv4Addr),
    /// The upper half.
    V6(u64),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// `limits.requests_per_address`, for all cores.
#[derive(Debug)]
pub struct Addresses<C: Clock = Monotonic> {
    rate: Rate,
    clock: C,
    buckets: Table<Origin, Bucket<C>>,
}

impl Addresses {
    /// So many requests from one address.
    pub fn new(rate: Rate) -> Self {
        Self::with_clock(rate, Monotonic::default())
    }
}

impl<C: Clock + Clone> Addresses<C> {
    fn with_clock(rate: Rate, clock: C) -> Self {
        Self { rate, clock, buckets: Table::new(Bucket::drain_if_full, MOST_ADDRESSES) }
    }

    /// Takes one request of an address.
    ///
    /// # Errors
    /// Where none is left.
    pub fn take(&self, address: IpAddr) -> Result<(), Exceeded> {
        let new = || Bucket::new(self.rate, self.clock.clone());
        self.buckets.with(address.into(), new, Bucket::take)
    }
}

/// `limits.connections_per_address`, for the one thread that accepts.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    /// Each connection of an address holds a share of what is kept for the address.
    shares: HashMap<Origin, Arc<()>>,
    room: usize,
}

/// Counts as a connection of its address until it is dropped, wherever that is.
#[derive(Debug)]
pub struct Share(#[expect(dead_code, reason = "held, not read")] Arc<()>);

/// How many addresses are kept before those without a connection go.
const LEAST_ROOM: usize = 1024;

impl Connections {
    /// At most so many connections of one address at a time.
    pub fn new(most: usize) -> Self {
        Self { most, shares: HashMap::new(), room: LEAST_ROOM }
    }

    /// Counts one more connection of an address; none where it has as many as it may.
    pub fn admit(&mut self, address: IpAddr) -> Option<Share> {
        if self.shares.len() >= self.room {
            self.shares.retain(|_, share| Arc::strong_count(share) > 1);
            // So many at most as there are connections, of which there is a bound.
            self.room = (self.shares.len() * 2).max(LEAST_ROOM);
            self.shares.shrink_to(self.room);
        }
        let share = self.shares.entry(address.into()).or_default();
        (Arc::strong_count(share) - 1 < self.most).then(|| Share(Arc::clone(share)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The `number`th of many networks.
    fn network(number: u32) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, (number >> 16) as u16, number as u16, 0, 0, 0, 1])
    }

    #[test]
    fn whose_an_address_is() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::192.0.2.1", "192.0.2.1", false),
        ] {
            assert_eq!(Origin::from(address(one)) == Origin::from(address(other)), same, "{one} {other}");
        }
    }

    fn addresses(requests: u32) -> (Addresses<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let requests = requests.try_into().unwrap();
        let rate = Rate { requests_per_second: requests, burst: requests };
        (Addresses::with_clock(rate, clock.clone()), clock)
    }

    #[test]
    fn each_address_has_its_own_requests() {
        let (addresses, clock) = addresses(3);
        let taken = |text| (0..).take_while(|_| addresses.take(address(text)).is_ok()).count();
        assert_eq!((taken("192.0.2.1"), taken("::ffff:192.0.2.1"), taken("192.0.2.2")), (3, 0, 3));
        assert_eq!((taken("2001:db8::1"), taken("2001:db8::2"), taken("2001:db8:0:1::1")), (3, 0, 3));
        clock.advance(Duration::from_millis(334));
        assert_eq!((taken("192.0.2.1"), taken("192.0.2.2")), (1, 1));
    }

    #[test]
    fn a_flood_of_addresses_gives_nobody_more() {
        let (addresses, clock) = addresses(10);
        let one = address("192.0.2.1");
        let taken = || (0..).take_while(|_| addresses.take(one).is_ok()).count();
        assert_eq!(taken(), 10);
        for number in 0..40_000 {
            addresses.take(network(number)).unwrap();
            // 200,000 in a second.
            clock.advance(Duration::from_micros(5));
        }
        assert_eq!(taken(), 2, "a fifth of a second has passed");
    }

    #[test]
    fn a_flood_of_addresses_takes_a_bounded_memory() {
        let (addresses, clock) = addresses(10);
        for number in 0..200_000 {
            addresses.take(network(number)).unwrap();
        }
        assert!(addresses.buckets.len() <= MOST_ADDRESSES);
        for number in 0..100_000 {
            addresses.take(network(number)).unwrap();
            clock.advance(Duration::from_millis(1));
        }
        assert!(addresses.buckets.len() < 5000, "{}", addresses.buckets.len());
    }

    #[test]
    fn connections_count_until_they_end() {
        let mut connections = Connections::new(2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let held: Vec<_> = (0..2).map(|_| connections.admit(one).unwrap()).collect();
        assert!(connections.admit(one).is_none());
        assert!(connections.admit(one).is_none(), "being turned away counts nothing");
        assert!(connections.admit(other).is_some());
        drop(held);
        let _held = (connections.admit(one).unwrap(), connections.admit(one).unwrap());
        assert!(connections.admit(one).is_none());
        let (first, second) = (address("2001:db8::1"), address("2001:db8::2"));
        let _held = (connections.admit(first).unwrap(), connections.admit(second).unwrap());
        assert!(connections.admit(first).is_none(), "of one network");
    }

    #[test]
    fn addresses_without_a_connection_are_forgotten() {
        let mut connections = Connections::new(1);
        let held: Vec<_> = (0..5000).map(|number| connections.admit(network(number)).unwrap()).collect();
        for number in 5000..200_000 {
            assert!(connections.admit(network(number)).is_some());
        }
        assert!(connections.shares.len() <= 12_000, "{}", connections.shares.len());
        assert!((0..5000).all(|number| connections.admit(network(number)).is_none()));
        drop(held);
        for number in 200_000..220_000 {
            drop(connections.admit(network(number)));
        }
        assert!(connections.shares.len() <= 2 * LEAST_ROOM, "{}", connections.shares.len());
    }
}
