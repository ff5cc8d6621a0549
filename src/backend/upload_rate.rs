//! The least rate of an upload (`limits.body_rate`), as a credit of waiting time.
//!
//! Waiting for the client uses the credit up, and every byte earns the time that it may take. A client whose credit is used
//! up is too slow. Apache's `mod_reqtimeout` extends its time limit in the same way, but without a maximum: a burst would
//! then pay for hours.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// The credit at the beginning, unless the longest pause is shorter.
const GRACE: Duration = Duration::from_secs(5);

const NANOSECONDS: u128 = 1_000_000_000;

/// The credit of one upload.
#[derive(Debug)]
pub struct UploadRate {
    /// In bytes per second.
    rate: NonZeroU64,
    /// The credit, in nanoseconds times `rate`, so that no fraction of a byte is lost.
    left: u128,
    /// The largest credit.
    most: u128,
    /// Since when the client is awaited.
    awaited_since: Option<Instant>,
}

impl UploadRate {
    /// At least `rate` bytes per second. The credit is at most `longest_pause`.
    pub fn new(rate: NonZeroU64, longest_pause: Duration) -> Self {
        let credit = |time: Duration| time.as_nanos() * u128::from(rate.get());
        Self {
            rate,
            left: credit(GRACE.min(longest_pause)),
            most: credit(longest_pause),
            awaited_since: None,
        }
    }

    /// Begins a wait for the client, unless one has begun. Returns the time after which it is too slow, from the beginning
    /// of the wait.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.awaited_since.get_or_insert(now);
        let nanoseconds = self.left.div_ceil(u128::from(self.rate.get()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Whether the wait has lasted longer than the credit.
    pub fn is_too_slow(&self, now: Instant) -> bool {
        self.used(now) >= self.left.max(1)
    }

    /// Ends a wait: the client has sent this number of bytes, or it does not have to send now.
    pub fn received(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if self.awaited_since.is_some() {
            self.left = self.left.saturating_sub(self.used(now()));
            self.awaited_since = None;
        }
        self.left = (self.left + bytes as u128 * NANOSECONDS).min(self.most);
    }

    /// The credit that the wait has used.
    fn used(&self, now: Instant) -> u128 {
        let waited = self.awaited_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        waited.as_nanos() * u128::from(self.rate.get())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 1024;
    const PAUSE: Duration = Duration::from_secs(30);

    /// The number of pieces, each after a wait, until the client is too slow; `None` if it never is.
    fn pieces(pieces: impl IntoIterator<Item = (Duration, usize)>) -> Option<usize> {
        let mut rate = UploadRate::new(NonZeroU64::new(RATE).unwrap(), PAUSE);
        let mut now = Instant::now();
        for (number, (wait, bytes)) in pieces.into_iter().enumerate() {
            let longest = rate.wait(now);
            assert!(!rate.is_too_slow(now));
            now += wait;
            if rate.is_too_slow(now) {
                assert!(wait >= longest);
                return Some(number);
            }
            assert!(wait <= longest);
            rate.received(bytes, || now);
        }
        None
    }

    fn every(milliseconds: u64, bytes: usize) -> impl Iterator<Item = (Duration, usize)> {
        std::iter::repeat_n((Duration::from_millis(milliseconds), bytes), 100_000)
    }

    #[test]
    fn one_byte_a_second_lasts_five_seconds() {
        assert_eq!(pieces(every(1000, 1)), Some(5));
        assert_eq!(pieces(every(100, 1)), Some(50));
        // The pause at the beginning.
        assert_eq!(pieces(every(5001, 1 << 20)), Some(0));
    }

    #[test]
    fn upload_at_the_rate_is_never_too_slow() {
        assert_eq!(pieces(every(1000, 1024)), None);
        assert_eq!(pieces(every(1, 2)), None);
        assert_eq!(pieces(every(4999, 1024 * 5)), None);
    }

    #[test]
    fn bursts_just_below_the_rate_are_too_slow_in_the_end() {
        // 5 s of grace, of which each second uses 1 s - 1000/1024 s.
        assert_eq!(pieces(every(1000, 1000)), Some(171));
    }

    #[test]
    fn burst_pays_for_no_more_than_the_longest_pause() {
        let burst = [(Duration::ZERO, 1 << 30)];
        assert_eq!(pieces(burst.into_iter().chain(every(29_999, 1))), Some(2));
        assert_eq!(pieces(burst.into_iter().chain(every(1000, 1))), Some(31));
    }

    #[test]
    fn time_in_which_nothing_is_awaited_does_not_count() {
        let mut rate = UploadRate::new(NonZeroU64::MIN, PAUSE);
        let began = Instant::now();
        rate.wait(began);
        rate.received(0, || began + Duration::from_secs(3));
        let later = began + Duration::from_secs(3600);
        assert!(!rate.is_too_slow(later));
        assert_eq!(rate.wait(later), Duration::from_secs(2));
        assert!(rate.is_too_slow(later + Duration::from_secs(2)));
    }

    #[test]
    fn highest_rate_does_not_overflow() {
        let longest = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        let mut rate = UploadRate::new(NonZeroU64::new(1 << 40).unwrap(), longest);
        let now = Instant::now();
        rate.received(usize::MAX, || now);
        assert_eq!(rate.wait(now), GRACE + Duration::from_secs(1 << 24));
    }

    proptest! {
        /// The naive model looks at every part of the upload: too slow is a part in which the client was awaited for longer
        /// than its bytes may take, and the longest pause; from the beginning on, and the grace period.
        #[test]
        fn credit_agrees_with_a_look_at_every_part(
            schedule in proptest::collection::vec((0_u64..12_000, 0_usize..20_000), 1..40),
        ) {
            let used = |part: &[(u64, usize)]| part.iter().map(|(wait, _)| i128::from(*wait) * i128::from(RATE)).sum::<i128>();
            let earned = |part: &[(u64, usize)]| part.iter().map(|(_, bytes)| *bytes as i128 * 1000).sum::<i128>();
            let credit = |time: Duration| i128::try_from(time.as_millis()).unwrap() * i128::from(RATE);
            let expected = (0..schedule.len()).find(|&last| {
                (0..=last).any(|first| {
                    let allowed = credit(if first == 0 { GRACE } else { PAUSE }) + earned(&schedule[first..last]);
                    used(&schedule[first..=last]) >= allowed.max(1)
                })
            });
            let found = pieces(schedule.iter().map(|(wait, bytes)| (Duration::from_millis(*wait), *bytes)));
            prop_assert_eq!(found, expected);
        }
    }
}
