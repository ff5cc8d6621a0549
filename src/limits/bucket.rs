//! The token bucket of one client.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use crate::config::settings::Rate;
use crate::policy::refusal::Exceeded;

/// A token bucket by the generic cell rate algorithm: it holds `burst` requests and refills steadily. Its state is
/// one atomic word, which any number of workers may change at once.
#[derive(Debug)]
pub struct Bucket {
    /// When the bucket is full again, in nanoseconds after `start`. Each request adds `interval`.
    full_at: AtomicU64,
    /// The time in which one request is refilled, in nanoseconds.
    interval: AtomicU64,
    /// A request is allowed if the bucket is full within this time, in nanoseconds.
    slack: AtomicU64,
    rate: Rate,
    start: Instant,
}

impl Bucket {
    /// Creates a full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        let interval = (1_000_000_000 / u64::from(rate.requests_per_second.get())).max(1);
        let slack = interval.saturating_mul(u64::from(rate.burst.get()) - 1);
        Self { full_at: AtomicU64::new(0), interval: interval.into(), slack: slack.into(), rate, start: now }
    }

    /// Takes one request that arrived at `now`.
    ///
    /// # Errors
    /// [`Exceeded`] if the bucket is empty.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        let now = self.at(now);
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let allowed_at = full_at.saturating_sub(self.slack.load(Relaxed));
            if allowed_at > now {
                return Err(exceeded(self.rate, Duration::from_nanos(allowed_at - now), SystemTime::now()));
            }
            let next = full_at.max(now).saturating_add(self.interval.load(Relaxed));
            match self.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => full_at = current,
            }
        }
    }

    /// Returns whether the bucket was full, and so equal to a new one. If so, the bucket is empty afterwards.
    pub(super) fn drain_if_full(&self, now: Instant) -> bool {
        let now = self.at(now);
        let span = self.slack.load(Relaxed).saturating_add(self.interval.load(Relaxed));
        let drained = |full_at| (full_at <= now).then(|| now.saturating_add(span));
        self.full_at.fetch_update(Relaxed, Relaxed, drained).is_ok()
    }

    /// Nanoseconds after `start`. 64 bits last 584 years.
    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_nanos() as u64
    }
}

fn exceeded(rate: Rate, wait: Duration, now: SystemTime) -> Exceeded {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let retry_after = seconds.max(1);
    let epoch = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Exceeded { limit: rate.burst.get(), retry_after, resets_at: epoch + retry_after }
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
            let now = now + Duration::from_secs(10);
            assert!(bucket.drain_if_full(now));
            assert!(bucket.take(now).is_err());
        }
    }

    #[test]
    fn retry_after_is_rounded_up_and_sufficient() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        for (wait, retry_after) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            let found = exceeded(rate(1, 7), Duration::from_millis(wait), now);
            assert_eq!(found, Exceeded { limit: 7, retry_after, resets_at: 1_700_000_000 + retry_after });
        }
        let now = Instant::now();
        let bucket = Bucket::new(rate(1, 2), now);
        assert_eq!(take_all(&bucket, now), 2);
        let refused = bucket.take(now).unwrap_err();
        assert_eq!((refused.limit, refused.retry_after), (2, 1));
        let then = now + Duration::from_secs(refused.retry_after);
        assert!(bucket.take(then).is_ok(), "a request is available after retry_after");
    }

    #[test]
    fn only_a_full_bucket_is_drained() {
        let now = Instant::now();
        let bucket = Bucket::new(rate(10, 5), now);
        bucket.take(now).unwrap();
        assert!(!bucket.drain_if_full(now));
        assert_eq!(take_all(&bucket, now), 4, "the check takes nothing");
        assert!(!bucket.drain_if_full(now + Duration::from_millis(499)));
        assert!(bucket.drain_if_full(now + Duration::from_millis(500)));
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
                prop_assert_eq!(bucket.take(now).is_ok(), oracle.check().is_ok());
            }
        }
    }
}
