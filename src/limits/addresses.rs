//! Limits by the client's address: IPv4 by the address, IPv6 by the /64 that one client is given.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use super::bucket::Bucket;
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
pub struct Addresses {
    rate: Rate,
    buckets: Table<Origin, Bucket>,
}

impl Addresses {
    /// So many requests from one address.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Table::new(MOST_ADDRESSES) }
    }

    /// Takes one request that came from an address at `now`.
    ///
    /// # Errors
    /// Where none is left.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Exceeded> {
        let new = || Bucket::new(self.rate, now);
        let is_idle = |bucket: &Bucket| bucket.drain_if_full(now);
        self.buckets.with(address.into(), new, is_idle, |bucket| bucket.take(now))
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

    /// From now on at most so many; what is open stays.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
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

    use super::super::rate;
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

    fn addresses(requests: u32) -> Addresses {
        Addresses::new(rate(requests, requests))
    }

    fn taken(addresses: &Addresses, text: &str, now: Instant) -> usize {
        (0..).take_while(|_| addresses.take(address(text), now).is_ok()).count()
    }

    #[test]
    fn each_address_has_its_own_requests() {
        let (addresses, now) = (addresses(3), Instant::now());
        for (text, expected) in [
            ("192.0.2.1", 3),
            ("::ffff:192.0.2.1", 0),
            ("192.0.2.2", 3),
            ("2001:db8::1", 3),
            ("2001:db8::2", 0),
            ("2001:db8:0:1::1", 3),
        ] {
            assert_eq!(taken(&addresses, text, now), expected, "{text}");
        }
        let later = now + Duration::from_millis(334);
        assert_eq!((taken(&addresses, "192.0.2.1", later), taken(&addresses, "192.0.2.2", later)), (1, 1));
    }

    #[test]
    fn a_flood_of_addresses_gives_nobody_more() {
        let (addresses, mut now) = (addresses(10), Instant::now());
        assert_eq!(taken(&addresses, "192.0.2.1", now), 10);
        for number in 0..40_000 {
            addresses.take(network(number), now).unwrap();
            // 200,000 in a second.
            now += Duration::from_micros(5);
        }
        assert_eq!(taken(&addresses, "192.0.2.1", now), 2, "a fifth of a second has passed");
    }

    #[test]
    fn a_flood_of_addresses_takes_a_bounded_memory() {
        let (addresses, mut now) = (addresses(10), Instant::now());
        for number in 0..200_000 {
            addresses.take(network(number), now).unwrap();
        }
        assert!(addresses.buckets.len() <= MOST_ADDRESSES);
        for number in 0..100_000 {
            addresses.take(network(number), now).unwrap();
            now += Duration::from_millis(1);
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
