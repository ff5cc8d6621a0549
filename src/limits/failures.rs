//! `limits.failures_per_address`: requests with inactive tokens, by client address.
//!
//! A request whose token is not known reserves one before it causes an introspection, so that a burst of different
//! tokens cannot exceed the limit before the first of them is found to be inactive. The reservation is given back if the
//! token is active, or if there is no verdict.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::addresses::MAX_ADDRESSES;
use super::bucket::Bucket;
use super::exceeded;
use super::table::Table;
use crate::config::settings::Rate;
use crate::policy::client::ClientNetwork;
use crate::policy::refusal::{Exceeded, Limit};

/// `limits.failures_per_address`, shared by all workers.
#[derive(Debug)]
pub struct FailureLimits {
    rate: Rate,
    /// By client; `None` for all clients without a known address, which share one.
    accounts: Table<Option<ClientNetwork>, Arc<FailureAccount>>,
}

/// The failures of one client.
#[derive(Debug)]
struct FailureAccount {
    bucket: Bucket,
    /// Never more than the bucket has.
    reserved: Mutex<u32>,
}

/// The client whose failures count.
#[derive(Clone, Copy, Debug)]
pub struct FailingClient<'a> {
    limits: &'a FailureLimits,
    address: Option<IpAddr>,
}

/// A failure that is counted when this is dropped, unless it is [released](Self::release): whoever abandons an
/// introspection has still caused it.
#[must_use]
#[derive(Debug)]
pub struct Reservation(Option<Arc<FailureAccount>>);

impl FailureLimits {
    /// Limits each client to `rate`.
    pub fn new(rate: Rate) -> Self {
        Self { rate, accounts: Table::new(MAX_ADDRESSES) }
    }

    /// The rate of each client.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// The client with this address.
    pub const fn client(&self, address: Option<IpAddr>) -> FailingClient<'_> {
        FailingClient { limits: self, address }
    }
}

impl FailingClient<'_> {
    /// Reserves one failure at `now`.
    ///
    /// # Errors
    /// [`Exceeded`] if the client has no failure left that is not reserved.
    pub fn reserve(self, now: Instant) -> Result<Reservation, Exceeded> {
        let Self { limits: FailureLimits { rate, accounts }, address } = self;
        let new = || Arc::new(FailureAccount { bucket: Bucket::new(*rate, now), reserved: Mutex::default() });
        let is_idle = |account: &Arc<FailureAccount>| account.is_idle(now);
        let account = accounts.with(address.map(ClientNetwork::from), new, is_idle, Arc::clone);
        match account.reserve(now) {
            Ok(()) => Ok(Reservation(Some(account))),
            Err(wait) => Err(exceeded(Limit::FailuresPerAddress, rate.burst, wait, SystemTime::now())),
        }
    }

    /// Counts one failure at `now`.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub fn count(self, now: Instant) -> Result<(), Exceeded> {
        self.reserve(now)?.settle(true, now);
        Ok(())
    }
}

impl FailureAccount {
    fn reserve(&self, now: Instant) -> Result<(), Duration> {
        let mut reserved = self.lock();
        let (left, wait) = self.bucket.level(now);
        if u64::from(*reserved) >= left {
            return Err(wait.unwrap_or_default());
        }
        *reserved += 1;
        Ok(())
    }

    /// Ends a reservation, and counts it if `failed`.
    fn settle(&self, failed: bool, now: Instant) {
        let mut reserved = self.lock();
        // The bucket has at least what is reserved, unless other threads have read the clock later.
        if failed && self.bucket.take(now).is_err() {
            let _ = self.bucket.take(Instant::now());
        }
        *reserved = reserved.saturating_sub(1);
    }

    fn is_idle(&self, now: Instant) -> bool {
        *self.lock() == 0 && self.bucket.is_full(now)
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Gives the failure back: there was none.
    pub fn release(mut self) {
        self.settle(false, Instant::now());
    }

    fn settle(&mut self, failed: bool, now: Instant) {
        if let Some(account) = self.0.take() {
            account.settle(failed, now);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle(true, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rate;
    use super::*;

    fn limits(failures: u32) -> FailureLimits {
        FailureLimits::new(rate(failures, failures))
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn count_all(limits: &FailureLimits, address: Option<IpAddr>, now: Instant) -> usize {
        (0..100).take_while(|_| limits.client(address).count(now).is_ok()).count()
    }

    #[test]
    fn each_client_has_its_own_failures_and_unknown_ones_share_theirs() {
        let (limits, now) = (limits(3), Instant::now());
        for (client, expected) in [
            (address("192.0.2.1"), 3),
            (address("::ffff:192.0.2.1"), 0),
            (address("192.0.2.2"), 3),
            (address("2001:db8::1"), 3),
            (address("2001:db8::2"), 0),
            (address("2001:db8::ffff:ffff:ffff:ffff"), 0),
            (address("2001:db8:0:1::1"), 3),
            (None, 3),
            (None, 0),
        ] {
            assert_eq!(count_all(&limits, client, now), expected, "{client:?}");
        }
    }

    #[test]
    fn reservations_count_until_they_are_released() {
        let (limits, now) = (limits(3), Instant::now());
        let client = limits.client(address("192.0.2.1"));
        let reserve = || client.reserve(now);
        let (first, second, third) = (reserve().unwrap(), reserve().unwrap(), reserve().unwrap());
        let exceeded = reserve().unwrap_err();
        assert_eq!(
            (exceeded.limit, exceeded.allowed, exceeded.retry_after),
            (Limit::FailuresPerAddress, 3, 1)
        );
        first.release();
        let fourth = reserve().unwrap();
        assert!(reserve().is_err());
        second.release();
        third.release();
        fourth.release();
        assert_eq!(count_all(&limits, address("192.0.2.1"), now), 3, "nothing has been counted");
    }

    #[test]
    fn dropped_reservation_is_a_failure() {
        let (limits, now) = (limits(1), Instant::now());
        let client = limits.client(None);
        drop(client.reserve(now).unwrap());
        assert!(client.reserve(now).is_err());
        assert!(client.reserve(Instant::now() + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn reservation_of_a_client_survives_a_flood_of_addresses() {
        let (limits, now) = (limits(1), Instant::now());
        let held = limits.client(address("192.0.2.1")).reserve(now).unwrap();
        for number in 0..300_000_u32 {
            let network = IpAddr::from([0x2001, 0xdb8, (number >> 16) as u16, number as u16, 0, 0, 0, 1]);
            let _ = limits.client(Some(network)).count(now);
            assert!(number % 10_000 != 0 || limits.accounts.len() <= MAX_ADDRESSES);
        }
        held.release();
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Reserve,
        /// Of the oldest reservation.
        Release,
        /// The same.
        Fail,
        Count,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Reserve),
            2 => Just(Step::Release),
            2 => Just(Step::Fail),
            2 => Just(Step::Count),
            2 => (0_u64..700).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// However reservations and releases follow each other, no more failures than the limit allows happen in any
        /// time, and there are never more reservations than failures left.
        #[test]
        fn failures_in_any_time_are_at_most_those_allowed(
            per_second in 1_u32..8,
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let account = |now| FailureAccount {
                bucket: Bucket::new(rate(per_second, per_second), now),
                reserved: Mutex::default(),
            };
            let start = Instant::now();
            let (account, mut now) = (account(start), start);
            let (mut reserved, mut failures) = (0_u32, Vec::new());
            for step in steps {
                match step {
                    Step::Reserve => reserved += u32::from(account.reserve(now).is_ok()),
                    Step::Count => {
                        if account.reserve(now).is_ok() {
                            account.settle(true, now);
                            failures.push(now);
                        }
                    }
                    Step::Release if reserved > 0 => {
                        account.settle(false, now);
                        reserved -= 1;
                    }
                    Step::Fail if reserved > 0 => {
                        account.settle(true, now);
                        failures.push(now);
                        reserved -= 1;
                    }
                    Step::Release | Step::Fail => {}
                    Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                }
                prop_assert_eq!(*account.lock(), reserved);
                prop_assert!(u64::from(reserved) <= account.bucket.level(now).0);
                prop_assert!(reserved <= per_second);
            }
            for (first, from) in failures.iter().enumerate() {
                for (last, to) in failures.iter().enumerate().skip(first) {
                    let refilled = (*to - *from).as_secs_f64() * f64::from(per_second);
                    let count = (last - first + 1) as f64;
                    prop_assert!(count <= f64::from(per_second) + refilled + 1e-3, "{count} in {:?}", *to - *from);
                }
            }
        }
    }
}
