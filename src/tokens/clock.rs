//! Detects changes of the wall clock.
//!
//! A token's expiry is a time of the wall clock; the cache keeps it as a deadline of the monotonic clock, which costs
//! nothing to compare on every request. When an operator or NTP sets the wall clock, or a suspended machine resumes, the
//! two clocks no longer agree, and the deadlines must be computed anew.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A smaller difference is ignored: the largest delay of a token's expiry.
pub(super) const TOLERANCE: Duration = Duration::from_millis(500);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The monotonic clock of deadlines.
    pub now: Instant,
    /// The wall clock of expiries.
    pub wall: SystemTime,
}

impl Reading {
    /// Reads both clocks; `None` if the thread was interrupted for too long in between.
    pub fn take() -> Option<Self> {
        let (before, wall, now) = (Instant::now(), SystemTime::now(), Instant::now());
        (now.duration_since(before) < TOLERANCE / 10).then_some(Self { now, wall })
    }

    /// The difference of the wall clock at `later` from its expected value.
    fn drift(self, later: Self) -> Duration {
        let elapsed = later.now.saturating_duration_since(self.now);
        match self.wall.checked_add(elapsed) {
            Some(expected) => {
                later.wall.duration_since(expected).unwrap_or_else(|earlier| earlier.duration())
            }
            None => Duration::MAX,
        }
    }
}

/// Detects that the wall clock was set.
#[derive(Debug)]
pub struct ClockWatch {
    state: Mutex<ClockState>,
}

#[derive(Clone, Copy, Debug)]
struct ClockState {
    /// When the clocks last agreed.
    reference: Reading,
    repeat: bool,
}

impl ClockWatch {
    /// Starts with deadlines that were computed at `reference`.
    pub const fn new(reference: Reading) -> Self {
        Self { state: Mutex::new(ClockState { reference, repeat: false }) }
    }

    /// A copy with the same reference.
    pub fn copy(&self) -> Self {
        Self { state: Mutex::new(*self.lock()) }
    }

    /// The adjustment of the wall clock since the deadlines were last recomputed; `None` if they are right. Returns
    /// `Some` once more at the next reading, since an entry may have been stored meanwhile with an outdated deadline.
    pub fn adjustment(&self, reading: Reading) -> Option<Duration> {
        let mut state = self.lock();
        let drift = state.reference.drift(reading);
        if drift > TOLERANCE {
            *state = ClockState { reference: reading, repeat: true };
            return Some(drift);
        }
        mem::take(&mut state.repeat).then_some(drift)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn setting_the_clock_is_noticed_and_passing_time_is_not() {
        let start = Reading { now: Instant::now(), wall: SystemTime::now() };
        let watch = ClockWatch::new(start);
        let at = |now: Duration, wall: Duration| Reading { now: start.now + now, wall: start.wall + wall };
        let year = 365 * 24 * 3600 * SECOND;
        assert_eq!(watch.adjustment(at(SECOND, SECOND)), None);
        assert_eq!(watch.adjustment(at(year, year + SECOND / 4)), None);
        // Forward, reported twice, then right again.
        assert_eq!(watch.adjustment(at(year + SECOND, year + 3601 * SECOND)), Some(3600 * SECOND));
        assert_eq!(watch.adjustment(at(year + SECOND, year + 3601 * SECOND)), Some(Duration::ZERO));
        assert_eq!(watch.adjustment(at(year + 2 * SECOND, year + 3602 * SECOND)), None);
        // Backward.
        assert_eq!(watch.adjustment(at(year + 3 * SECOND, year + SECOND)), Some(3602 * SECOND));
        assert!(watch.copy().adjustment(at(year + 3 * SECOND, year + SECOND)).is_some());
        assert!(watch.adjustment(at(year + 3 * SECOND, year + SECOND)).is_some());
        assert_eq!(watch.adjustment(at(year + 3 * SECOND, year + SECOND)), None);
    }

    #[test]
    fn small_clock_differences_add_up() {
        let start = Reading { now: Instant::now(), wall: SystemTime::now() };
        let watch = ClockWatch::new(start);
        let step = Duration::from_millis(200);
        let noticed = (1..=10_u32).filter(|count| {
            let reading =
                Reading { now: start.now + SECOND * *count, wall: start.wall + (SECOND + step) * *count };
            watch.adjustment(reading).is_some()
        });
        assert!(noticed.count() >= 3);
    }
}
