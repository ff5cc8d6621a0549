//! What one caller has left.

use std::time::{Duration, Instant, SystemTime};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::config::settings::Rate;
use crate::policy::refusal::Exceeded;

/// The system's monotonic clock, from a beginning of its own.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        // 584 years fit.
        Nanos::from(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Holds as many requests as the burst and gets new ones steadily: the generic cell rate algorithm, in one
/// word that any number of cores may change at once.
#[derive(Debug)]
pub struct Bucket<C: Clock = Monotonic> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    rate: Rate,
}

impl<C: Clock> Bucket<C> {
    /// A full bucket.
    pub fn new(rate: Rate, clock: C) -> Self {
        let quota = Quota::per_second(rate.requests_per_second).allow_burst(rate.burst);
        Self { limiter: RateLimiter::direct_with_clock(quota, clock), rate }
    }

    /// Takes one request.
    ///
    /// # Errors
    /// Where none is left.
    pub fn take(&self) -> Result<(), Exceeded> {
        self.limiter.check().map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            exceeded(self.rate, wait, SystemTime::now())
        })
    }

    /// Whether it was full, and so no more than a new one; it is empty then.
    pub(super) fn drain_if_full(&self) -> bool {
        matches!(self.limiter.check_n(self.rate.burst), Ok(Ok(())))
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
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(requests_per_second: u32, burst: u32) -> Rate {
        Rate {
            requests_per_second: requests_per_second.try_into().unwrap(),
            burst: burst.try_into().unwrap(),
        }
    }

    fn taken(bucket: &Bucket<FakeRelativeClock>) -> u32 {
        (0..).take_while(|_| bucket.take().is_ok()).count() as u32
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        const MILLISECOND: Duration = Duration::from_millis(1);
        for (requests_per_second, burst, waits) in [
            // After each wait so many are there: never more than the burst.
            (10, 1, &[(0, 0), (99, 0), (1, 1), (100, 1), (5000, 1)][..]),
            (10, 3, &[(0, 0), (99, 0), (1, 1), (250, 2), (50, 1), (10_000, 3)]),
            (1, 2, &[(999, 0), (1, 1), (2000, 2), (3_600_000, 2)]),
            (1000, 50, &[(1, 1), (49, 49), (50, 50), (51, 50)]),
        ] {
            let clock = FakeRelativeClock::default();
            let bucket = Bucket::new(rate(requests_per_second, burst), clock.clone());
            assert_eq!(taken(&bucket), burst, "the burst is inclusive");
            for (wait, expected) in waits {
                clock.advance(*wait * MILLISECOND);
                assert_eq!(taken(&bucket), *expected, "{requests_per_second}/{burst} after {wait} ms");
            }
        }
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        for (requests_per_second, burst) in [(1, u32::MAX), (u32::MAX, u32::MAX), (u32::MAX, 1), (1, 1)] {
            let clock = FakeRelativeClock::default();
            clock.advance(Duration::from_secs(100 * 365 * 24 * 3600));
            let bucket = Bucket::new(rate(requests_per_second, burst), clock.clone());
            assert!(bucket.take().is_ok());
            clock.advance(Duration::from_secs(10));
            assert!(bucket.drain_if_full());
            assert!(bucket.take().is_err());
        }
    }

    #[test]
    fn what_is_said_of_the_next_try() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        for (wait, retry_after) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            let said = exceeded(rate(1, 7), Duration::from_millis(wait), now);
            assert_eq!(said, Exceeded { limit: 7, retry_after, resets_at: 1_700_000_000 + retry_after });
        }
        let clock = FakeRelativeClock::default();
        let bucket = Bucket::new(rate(1, 2), clock.clone());
        assert_eq!(taken(&bucket), 2);
        let refused = bucket.take().unwrap_err();
        assert_eq!((refused.limit, refused.retry_after), (2, 1));
        clock.advance(Duration::from_secs(refused.retry_after));
        assert!(bucket.take().is_ok(), "it is there when it was said to be");
    }

    #[test]
    fn only_a_full_bucket_can_go() {
        let clock = FakeRelativeClock::default();
        let bucket = Bucket::new(rate(10, 5), clock.clone());
        bucket.take().unwrap();
        assert!(!bucket.drain_if_full());
        assert_eq!(taken(&bucket), 4, "asking takes nothing");
        clock.advance(Duration::from_millis(499));
        assert!(!bucket.drain_if_full());
        clock.advance(Duration::from_millis(1));
        assert!(bucket.drain_if_full());
    }
}
