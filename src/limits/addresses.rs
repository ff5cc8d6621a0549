//! Limits by client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::bucket::Bucket;
use super::exceeded;
use super::table::Table;
use crate::config::settings::Rate;
use crate::policy::client::ClientNetwork;
use crate::policy::refusal::{Exceeded, Limit};

/// The number of addresses tracked at a time, some 6 MiB for requests and 10 MiB for failures. If there are more, some
/// of them get a full bucket again.
pub(super) const MAX_ADDRESSES: usize = 65_536;

/// `limits.requests_per_address`, shared by all workers.
#[derive(Debug)]
pub struct AddressLimits {
    rate: Rate,
    buckets: Table<ClientNetwork, Bucket>,
}

impl AddressLimits {
    /// Limits each address to `rate`.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Table::new(MAX_ADDRESSES) }
    }

    /// The rate of each address.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one request that arrived from `address` at `now`.
    ///
    /// # Errors
    /// [`Exceeded`] if the bucket of the address is empty.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Exceeded> {
        let new = || Bucket::new(self.rate, now);
        let is_idle = |bucket: &Bucket| bucket.is_full(now);
        let taken = self.buckets.with(address.into(), new, is_idle, |bucket| bucket.take(now));
        taken.map_err(|wait| exceeded(Limit::RequestsPerAddress, self.rate.burst, wait, SystemTime::now()))
    }
}

/// `limits.connections_per_address`: counts the open connections of each address.
#[derive(Debug)]
pub struct AddressConnections {
    max: usize,
    /// The strong count of each `Arc`, less the one in this map, is the number of open connections.
    counters: HashMap<ClientNetwork, Arc<()>>,
    capacity: usize,
}

/// Counts as a connection of its address until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard(#[expect(dead_code, reason = "its reference count is read")] Arc<()>);

/// The number of addresses above which those without a connection are dropped.
const MIN_CAPACITY: usize = 1024;

impl AddressConnections {
    /// Allows `max` open connections per address.
    pub fn new(max: usize) -> Self {
        Self { max, counters: HashMap::new(), capacity: MIN_CAPACITY }
    }

    /// Changes the maximum. Open connections stay.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Counts one more connection of `address`. Returns `None` if the address has the maximum already.
    pub fn admit(&mut self, address: IpAddr) -> Option<ConnectionGuard> {
        if self.counters.len() >= self.capacity {
            self.counters.retain(|_, counter| Arc::strong_count(counter) > 1);
            // At most one entry per open connection is left, and `limits.connections` bounds those.
            self.capacity = (self.counters.len() * 2).max(MIN_CAPACITY);
            self.counters.shrink_to(self.capacity);
        }
        let counter = self.counters.entry(address.into()).or_default();
        (Arc::strong_count(counter) - 1 < self.max).then(|| ConnectionGuard(Arc::clone(counter)))
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

    fn addresses(requests: u32) -> AddressLimits {
        AddressLimits::new(rate(requests, requests))
    }

    fn take_all(addresses: &AddressLimits, text: &str, now: Instant) -> usize {
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
            assert_eq!(take_all(&addresses, text, now), expected, "{text}");
        }
        let later = now + Duration::from_millis(334);
        assert_eq!(
            (take_all(&addresses, "192.0.2.1", later), take_all(&addresses, "192.0.2.2", later)),
            (1, 1)
        );
    }

    #[test]
    fn flood_of_addresses_does_not_refill_a_bucket() {
        let (addresses, mut now) = (addresses(10), Instant::now());
        assert_eq!(take_all(&addresses, "192.0.2.1", now), 10);
        for number in 0..40_000 {
            addresses.take(network(number), now).unwrap();
            // 200,000 requests per second.
            now += Duration::from_micros(5);
        }
        assert_eq!(take_all(&addresses, "192.0.2.1", now), 2, "a fifth of a second has passed");
    }

    #[test]
    fn flood_of_addresses_uses_bounded_memory() {
        let (addresses, mut now) = (addresses(10), Instant::now());
        for number in 0..200_000 {
            addresses.take(network(number), now).unwrap();
        }
        assert!(addresses.buckets.len() <= MAX_ADDRESSES);
        for number in 0..100_000 {
            addresses.take(network(number), now).unwrap();
            now += Duration::from_millis(1);
        }
        assert!(addresses.buckets.len() < 5000, "{}", addresses.buckets.len());
    }

    #[test]
    fn connections_count_until_they_are_closed() {
        let mut connections = AddressConnections::new(2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let held: Vec<_> = (0..2).map(|_| connections.admit(one).unwrap()).collect();
        assert!(connections.admit(one).is_none());
        assert!(connections.admit(one).is_none(), "a refused connection does not count");
        assert!(connections.admit(other).is_some());
        drop(held);
        let _held = (connections.admit(one).unwrap(), connections.admit(one).unwrap());
        assert!(connections.admit(one).is_none());
        let (first, second) = (address("2001:db8::1"), address("2001:db8::2"));
        let _held = (connections.admit(first).unwrap(), connections.admit(second).unwrap());
        assert!(connections.admit(first).is_none(), "both are in one network");
    }

    #[test]
    fn addresses_without_a_connection_are_dropped() {
        let mut connections = AddressConnections::new(1);
        let held: Vec<_> = (0..5000).map(|number| connections.admit(network(number)).unwrap()).collect();
        for number in 5000..200_000 {
            assert!(connections.admit(network(number)).is_some());
        }
        assert!(connections.counters.len() <= 12_000, "{}", connections.counters.len());
        assert!((0..5000).all(|number| connections.admit(network(number)).is_none()));
        drop(held);
        for number in 200_000..220_000 {
            drop(connections.admit(network(number)));
        }
        assert!(connections.counters.len() <= 2 * MIN_CAPACITY, "{}", connections.counters.len());
    }
}
