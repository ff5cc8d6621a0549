//! The token bucket of one client.

mod shared;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use self::shared::SharedState;
use crate::config::settings::Rate;

pub use self::shared::{ShareKey, SharedBuckets};

/// A token bucket by the generic cell rate algorithm: it holds `burst` requests and refills steadily. Its state is
/// one atomic word, which any number of workers may change at once. The caller passes the time: reading the clock would
/// be four fifths of the cost of a request.
#[derive(Debug)]
pub struct Bucket {
    /// When the bucket is full again, in nanoseconds after `start`. Each request adds `interval`.
    full_at: AtomicI64,
    /// The time in which one request is refilled, in nanoseconds.
    interval: i64,
    /// A request is allowed if the bucket is full within this time, in nanoseconds. [`NEVER`] if replicas share the rate,
    /// so that the question costs other buckets nothing.
    slack: i64,
    rate: Rate,
    start: Instant,
    shared: Option<Box<SharedState>>,
}

/// Less than the negative of any time.
const NEVER: i64 = i64::MIN / 2;

impl Bucket {
    /// Creates a full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        let interval = (1_000_000_000 / i64::from(rate.requests_per_second.get())).max(1);
        let slack = interval.saturating_mul(i64::from(rate.burst.get()) - 1);
        Self { full_at: AtomicI64::new(0), interval, slack, rate, start: now, shared: None }
    }

    /// Creates a full bucket of a rate that replicas share.
    pub fn new_shared(rate: Rate, key: ShareKey, buckets: &Arc<SharedBuckets>, now: Instant) -> Arc<Self> {
        Arc::new_cyclic(|weak| {
            let shared = SharedState::new(rate, key, buckets, weak.clone());
            Self { slack: NEVER, shared: Some(Box::new(shared)), ..Self::new(rate, now) }
        })
    }

    /// The rate at which it refills, and its size.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one request that arrived at `now`.
    ///
    /// # Errors
    /// The time until the bucket has a request, if it is empty.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = self.at(now);
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            if full_at.wrapping_sub(self.slack) > now {
                return self.refuse_or_share(full_at, now, true);
            }
            let next = full_at.max(now).saturating_add(self.interval);
            match self.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => full_at = current,
            }
        }
    }

    /// Whether the bucket has a request at `now`. Takes nothing.
    ///
    /// # Errors
    /// As [`Bucket::take`].
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        let (now, full_at) = (self.at(now), self.full_at.load(Relaxed));
        if full_at.wrapping_sub(self.slack) > now {
            self.refuse_or_share(full_at, now, false)
        } else {
            Ok(())
        }
    }

    /// The requests that the bucket has, and the time until it has one more; `None` if it is full.
    pub(super) fn level(&self, now: Instant) -> (u64, Option<Duration>) {
        let own = (self.interval, self.slack);
        let (interval, slack) = self.shared.as_ref().map_or(own, |shared| shared.interval_and_slack());
        let missing = self.full_at.load(Relaxed).saturating_sub(self.at(now)).max(0);
        let requests = slack.saturating_add(interval).saturating_sub(missing).max(0) / interval.max(1);
        let after_next = slack.saturating_sub(requests.saturating_mul(interval)).max(0);
        let wait = Duration::from_nanos(missing.saturating_sub(after_next).max(0) as u64);
        (requests as u64, (missing > 0).then_some(wait))
    }

    /// Continues [`Bucket::take`] or [`Bucket::check`] for a bucket that is empty or shared.
    #[inline(never)]
    fn refuse_or_share(&self, full_at: i64, now: i64, takes: bool) -> Result<(), Duration> {
        let wait = match &self.shared {
            None => full_at.saturating_sub(self.slack).saturating_sub(now),
            Some(shared) if takes => return shared.take(&self.full_at, now),
            Some(shared) => return shared.check(full_at, now),
        };
        Err(Duration::from_nanos(wait.max(0) as u64))
    }

    /// Whether the bucket is full, and so equal to a new one.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Relaxed) <= self.at(now)
    }

    /// Nanoseconds after `start`. 63 bits last 292 years.
    fn at(&self, now: Instant) -> i64 {
        now.saturating_duration_since(self.start).as_nanos() as i64
    }
}

#[cfg(test)]
mod tests {
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::super::rate;
    use super::*;

    fn take_all(bucket: &Bucket, now: Instant) -> u32 {
        (0..).take_while(|_| bucket.take(now).is_ok()).count() as u32
    }

    #[test]
    fn bucket_allows_a_burst_and_then_the_rate() {
        for (requests_per_second, burst, waits) in [
            // (wait in ms, requests available after it), never more than the burst.
            (10, 1, &[(0, 0), (99, 0), (1, 1), (100, 1), (5000, 1)][..]),
            (10, 3, &[(0, 0), (99, 0), (1, 1), (250, 2), (50, 1), (10_000, 3)]),
            (1, 2, &[(999, 0), (1, 1), (2000, 2), (3_600_000, 2)]),
            (1000, 50, &[(1, 1), (49, 49), (50, 50), (51, 50)]),
        ] {
            let mut now = Instant::now();
            let bucket = Bucket::new(rate(requests_per_second, burst), now);
            assert_eq!(take_all(&bucket, now), burst, "the burst is inclusive");
            for (wait, expected) in waits {
                now += Duration::from_millis(*wait);
                assert_eq!(
                    take_all(&bucket, now),
                    *expected,
                    "{requests_per_second}/{burst} after {wait} ms"
                );
            }
        }
    }

    /// A request that waited for introspection counts by its arrival, and clocks of workers may differ.
    #[test]
    fn clock_that_goes_back_refills_nothing() {
        let now = Instant::now() + Duration::from_secs(100);
        let bucket = Bucket::new(rate(1, 2), now);
        assert_eq!(take_all(&bucket, now + Duration::from_secs(10)), 2);
        for seconds in [9, 1, 0] {
            assert_eq!(take_all(&bucket, now + Duration::from_secs(seconds)), 0);
            assert_eq!(take_all(&bucket, now - Duration::from_secs(seconds)), 0);
        }
        assert_eq!(take_all(&bucket, now + Duration::from_secs(11)), 1);
    }

    #[test]
    fn largest_rate_and_burst_do_not_overflow() {
        for (requests_per_second, burst) in [(1, u32::MAX), (u32::MAX, u32::MAX), (u32::MAX, 1), (1, 1)] {
            let start = Instant::now();
            let bucket = Bucket::new(rate(requests_per_second, burst), start);
            let now = start + Duration::from_secs(100 * 365 * 24 * 3600);
            assert!(bucket.take(now).is_ok());
            assert!(bucket.is_full(now + Duration::from_secs(10)));
        }
    }

    #[test]
    fn empty_bucket_tells_when_it_has_a_request() {
        let now = Instant::now();
        let bucket = Bucket::new(rate(4, 2), now);
        assert_eq!(take_all(&bucket, now), 2);
        let wait = bucket.take(now).unwrap_err();
        assert_eq!((wait, bucket.check(now)), (Duration::from_millis(250), Err(wait)));
        assert!(bucket.check(now + wait - Duration::from_nanos(1)).is_err());
        assert_eq!((bucket.check(now + wait), bucket.take(now + wait)), (Ok(()), Ok(())));
    }

    #[test]
    fn level_is_what_can_be_taken() {
        let now = Instant::now();
        for requests in 0..=5 {
            let bucket = Bucket::new(rate(4, 5), now);
            (0..requests).for_each(|_| bucket.take(now).unwrap());
            let later = now + Duration::from_millis(100);
            let wait = (requests > 0).then_some(Duration::from_millis(150));
            assert_eq!(bucket.level(later), (5 - requests, wait), "{requests}");
            assert_eq!(u64::from(take_all(&bucket, later)), 5 - requests);
        }
    }

    #[test]
    fn only_an_untouched_or_refilled_bucket_is_full() {
        let now = Instant::now();
        let bucket = Bucket::new(rate(10, 5), now);
        assert!(bucket.is_full(now));
        bucket.take(now).unwrap();
        assert!(!bucket.is_full(now + Duration::from_millis(99)));
        assert!(bucket.is_full(now + Duration::from_millis(100)));
    }

    proptest! {
        /// `governor` decides the same about requests whose times do not decrease.
        #[test]
        fn decisions_equal_those_of_governor(
            requests_per_second in 1_u32..2000,
            burst in 1_u32..50,
            waits in prop::collection::vec(0_u64..400_000_000, 1..300),
        ) {
            let clock = governor::clock::FakeRelativeClock::default();
            let rate = rate(requests_per_second, burst);
            let quota = Quota::per_second(rate.requests_per_second).allow_burst(rate.burst);
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let mut now = Instant::now();
            let bucket = Bucket::new(rate, now);
            for wait in waits {
                // Two of three requests follow at once, or nearly so.
                let wait = Duration::from_nanos(if wait % 3 == 0 { wait } else { wait / 1000 % 1000 });
                now += wait;
                clock.advance(wait);
                let allowed = oracle.check().is_ok();
                prop_assert_eq!(bucket.check(now).is_ok(), allowed);
                prop_assert_eq!(bucket.take(now).is_ok(), allowed);
            }
        }
    }
}
