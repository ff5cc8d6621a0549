//! What one caller has left.

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

/// The moment that was passed to [`Bucket::take`]: to read the system's clock would be four fifths of what a
/// request costs here.
#[derive(Debug)]
struct Passed;

impl Clock for Passed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(NOW.get())
    }
}

/// Holds as many requests as the burst and gets new ones steadily: the generic cell rate algorithm, in one
/// word that any number of cores may change at once.
#[derive(Debug)]
pub struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Passed, NoOpMiddleware<Nanos>>,
    rate: Rate,
    since: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        NOW.set(0);
        let quota = Quota::per_second(rate.requests_per_second).allow_burst(rate.burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, Passed), rate, since: now }
    }

    /// Takes one request that came at `now`.
    ///
    /// # Errors
    /// Where none is left.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        self.pass(now);
        self.limiter.check().map_err(|until| {
            let wait = until.wait_time_from(Passed.now());
            exceeded(self.rate, wait, SystemTime::now())
        })
    }

    /// Whether it was full, and so no more than a new one; it is empty then.
    pub(super) fn drain_if_full(&self, now: Instant) -> bool {
        self.pass(now);
        matches!(self.limiter.check_n(self.rate.burst), Ok(Ok(())))
    }

    fn pass(&self, now: Instant) {
        // 584 years fit.
        NOW.set(now.saturating_duration_since(self.since).as_nanos() as u64);
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

    fn taken(bucket: &Bucket, now: Instant) -> u32 {
        (0..).take_while(|_| bucket.take(now).is_ok()).count() as u32
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        for (requests_per_second, burst, waits) in [
            // After each wait so many are there: never more than the burst.
            (10, 1, &[(0, 0), (99, 0), (1, 1), (100, 1), (5000, 1)][..]),
            (10, 3, &[(0, 0), (99, 0), (1, 1), (250, 2), (50, 1), (10_000, 3)]),
            (1, 2, &[(999, 0), (1, 1), (2000, 2), (3_600_000, 2)]),
            (1000, 50, &[(1, 1), (49, 49), (50, 50), (51, 50)]),
        ] {
            let mut now = Instant::now();
            let bucket = Bucket::new(rate(requests_per_second, burst), now);
            assert_eq!(taken(&bucket, now), burst, "the burst is inclusive");
            for (wait, expected) in waits {
                now += Duration::from_millis(*wait);
                assert_eq!(taken(&bucket, now), *expected, "{requests_per_second}/{burst} after {wait} ms");
            }
        }
    }

    /// A request that waited for its verdict is judged by when it came, and a core's clock may be behind.
    #[test]
    fn time_that_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(100);
        let bucket = Bucket::new(rate(1, 2), now);
        assert_eq!(taken(&bucket, now + Duration::from_secs(10)), 2);
        for seconds in [9, 1, 0] {
            assert_eq!(taken(&bucket, now + Duration::from_secs(seconds)), 0);
            assert_eq!(taken(&bucket, now - Duration::from_secs(seconds)), 0);
        }
        assert_eq!(taken(&bucket, now + Duration::from_secs(11)), 1);
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
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
    fn what_is_said_of_the_next_try() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        for (wait, retry_after) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            let said = exceeded(rate(1, 7), Duration::from_millis(wait), now);
            assert_eq!(said, Exceeded { limit: 7, retry_after, resets_at: 1_700_000_000 + retry_after });
        }
        let now = Instant::now();
        let bucket = Bucket::new(rate(1, 2), now);
        assert_eq!(taken(&bucket, now), 2);
        let refused = bucket.take(now).unwrap_err();
        assert_eq!((refused.limit, refused.retry_after), (2, 1));
        let then = now + Duration::from_secs(refused.retry_after);
        assert!(bucket.take(then).is_ok(), "it is there when it was said to be");
    }

    #[test]
    fn only_a_full_bucket_can_go() {
        let now = Instant::now();
        let bucket = Bucket::new(rate(10, 5), now);
        bucket.take(now).unwrap();
        assert!(!bucket.drain_if_full(now));
        assert_eq!(taken(&bucket, now), 4, "asking takes nothing");
        assert!(!bucket.drain_if_full(now + Duration::from_millis(499)));
        assert!(bucket.drain_if_full(now + Duration::from_millis(500)));
    }
}
