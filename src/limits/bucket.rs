//! The token bucket of one client.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::config::settings::Rate;
use crate::policy::refusal::Exceeded;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Returns the instant that was passed to [`Bucket::take`]. Reading the system clock would be four fifths of the cost
/// of a check.
#[derive(Debug)]
struct PassedClock;

impl Clock for PassedClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(NOW.get())
    }
}

/// A token bucket by the generic cell rate algorithm: it holds `burst` requests and refills steadily. Its state is
/// one atomic word, which any number of workers may change at once.
#[derive(Debug)]
pub struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, PassedClock, NoOpMiddleware<Nanos>>,
    rate: Rate,
    start: Instant,
}

impl Bucket {
    /// Creates a full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        NOW.set(0);
        let quota = Quota::per_second(rate.requests_per_second).allow_burst(rate.burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, PassedClock), rate, start: now }
    }

    /// Takes one request that arrived at `now`.
    ///
    /// # Errors
    /// [`Exceeded`] if the bucket is empty.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        self.set_clock(now);
        self.limiter.check().map_err(|until| {
            let wait = until.wait_time_from(PassedClock.now());
            exceeded(self.rate, wait, SystemTime::now())
        })
    }

    /// Returns whether the bucket was full, and so equal to a new one. If so, the bucket is empty afterwards.
    pub(super) fn drain_if_full(&self, now: Instant) -> bool {
        self.set_clock(now);
        matches!(self.limiter.check_n(self.rate.burst), Ok(Ok(())))
    }

    fn set_clock(&self, now: Instant) {
        // 64 bits of nanoseconds last 584 years.
        NOW.set(now.saturating_duration_since(self.start).as_nanos() as u64);
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
}
