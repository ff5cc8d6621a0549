//! The time that retention uses: the system clock, unless it has jumped.
//!
//! Days are dropped by date, so that a clock that jumps years ahead for a moment would empty the ledger. Therefore
//! the monotonic clock measures the time as well. If the system clock is more than a day ahead of the measured time,
//! retention ignores it until it has kept its new course for a day. The ledger stores the measurement, since the
//! monotonic clock does not survive a restart.

use std::time::{Duration, Instant, SystemTime};

use super::pending::milliseconds;

/// The tolerated difference between the system clock and the measured time, in milliseconds.
const TOLERANCE: i64 = 24 * 60 * 60 * 1000;
/// How long the system clock must keep its course before the measured time is set to it, in milliseconds.
const GRACE: i64 = 24 * 60 * 60 * 1000;
/// The longest time between two measurements. If the monotonic clock shows more, it has jumped as well.
const MAX_STEP: Duration = Duration::from_secs(60 * 60);

/// An instant by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the system clock, which can be set.
    pub wall: SystemTime,
    /// By the monotonic clock, which cannot be set.
    pub monotonic: Instant,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

/// The stored state of a [`RetentionClock`], in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRecord {
    /// The measured time since 1970.
    pub expected: i64,
    /// How far the system clock was ahead of it.
    pub ahead: i64,
    /// How long it has been ahead by about that much.
    pub steady: i64,
}

impl ClockRecord {
    /// Three big-endian numbers of 8 bytes.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.expected, self.ahead, self.steady]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Returns `None` if the record is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let mut numbers =
            bytes.chunks_exact(8).filter_map(|it| Some(i64::from_be_bytes(it.try_into().ok()?)));
        Some(Self { expected: numbers.next()?, ahead: numbers.next()?, steady: numbers.next()? })
    }
}

/// Measures the time for retention.
#[derive(Clone, Copy, Debug)]
pub struct RetentionClock {
    record: ClockRecord,
    /// The last measurement; `None` before the first one of this process.
    at: Option<Instant>,
}

/// The time that retention uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionTime {
    /// Milliseconds since 1970, never later than the system clock.
    pub now: i64,
    /// How far the system clock has jumped ahead, while retention ignores it; `None` without a jump.
    pub jump: Option<Duration>,
}

impl RetentionClock {
    /// The clock of a ledger with this record. A ledger without a record starts at the end of its newest day, in
    /// milliseconds since 1970, and an empty one at the system time.
    pub fn new(record: Option<ClockRecord>, newest_day_end: Option<i64>, now: Moment) -> Self {
        let wall = milliseconds(now.wall);
        let record = record.unwrap_or_else(|| {
            let expected = newest_day_end.map_or(wall, |end| end.min(wall));
            ClockRecord { expected, ahead: wall.saturating_sub(expected), steady: 0 }
        });
        Self { record, at: None }
    }

    /// Measures the time up to `now`. Call it every `interval`.
    pub fn advance(&mut self, now: Moment, interval: Duration) -> RetentionTime {
        let longest = MAX_STEP.max(interval.saturating_mul(2));
        let step =
            self.at.map_or(Duration::ZERO, |at| now.monotonic.saturating_duration_since(at)).min(longest);
        self.at = Some(now.monotonic);
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        let wall = milliseconds(now.wall);
        let record = &mut self.record;
        record.expected = record.expected.saturating_add(step);
        let ahead = wall.saturating_sub(record.expected);
        if ahead.saturating_sub(record.ahead).saturating_abs() <= TOLERANCE {
            record.steady = record.steady.saturating_add(step);
        } else {
            (record.ahead, record.steady) = (ahead, 0);
        }
        if record.steady >= GRACE {
            *record = ClockRecord { expected: wall, ahead: 0, steady: 0 };
        }
        let ahead = wall.saturating_sub(record.expected);
        if ahead > TOLERANCE {
            let jump = Duration::from_millis(ahead.unsigned_abs());
            RetentionTime { now: record.expected, jump: Some(jump) }
        } else {
            RetentionTime { now: wall, jump: None }
        }
    }

    /// Whether the system clock is behind the measured time, and has not kept that course for [`GRACE`] yet.
    pub const fn is_behind(&self) -> bool {
        self.record.ahead < -TOLERANCE
    }

    /// The state to store in the ledger.
    pub const fn record(&self) -> ClockRecord {
        self.record
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: i64 = 60 * 60 * 1000;
    const DAY: i64 = 24 * HOUR;
    const START: i64 = 20_000 * DAY;
    const INTERVAL: Duration = Duration::from_secs(10);

    /// A simulated machine with both clocks.
    struct Machine {
        wall: i64,
        monotonic: Instant,
        clock: RetentionClock,
    }

    fn moment(wall: i64, monotonic: Instant) -> Moment {
        Moment { wall: UNIX_EPOCH + Duration::from_millis(wall.unsigned_abs()), monotonic }
    }

    impl Machine {
        fn new() -> Self {
            let monotonic = Instant::now();
            let clock = RetentionClock::new(None, None, moment(START, monotonic));
            Self { wall: START, monotonic, clock }
        }

        /// Advances both clocks by `milliseconds`, with a measurement every 30 minutes and at the end.
        fn pass(&mut self, mut milliseconds: i64) -> RetentionTime {
            loop {
                let step = milliseconds.min(HOUR / 2);
                self.wall += step;
                self.monotonic += Duration::from_millis(step.unsigned_abs());
                milliseconds -= step;
                let time = self.clock.advance(moment(self.wall, self.monotonic), INTERVAL);
                if milliseconds == 0 {
                    return time;
                }
            }
        }

        fn restart(&mut self) {
            let record = ClockRecord::from_bytes(&self.clock.record().to_bytes());
            self.monotonic = Instant::now();
            self.clock = RetentionClock::new(record, Some(0), moment(self.wall, self.monotonic));
        }
    }

    const fn at(now: i64) -> RetentionTime {
        RetentionTime { now, jump: None }
    }

    #[test]
    fn without_jumps_retention_uses_the_system_clock() {
        let mut machine = Machine::new();
        assert_eq!(machine.pass(0), at(START));
        assert_eq!(machine.pass(100 * DAY), at(START + 100 * DAY));
        // Corrections, daylight saving time, a suspended laptop, a gateway that was stopped for some hours.
        for correction in [3000, -3000, HOUR, -HOUR, 8 * HOUR, 8 * HOUR] {
            machine.wall += correction;
            assert_eq!(machine.pass(HOUR).jump, None, "{correction}");
            machine.restart();
            assert_eq!(machine.pass(HOUR), at(machine.wall), "{correction}");
        }
    }

    #[test]
    fn jump_ahead_is_ignored_until_it_has_lasted_for_a_day() {
        for jump in [25 * HOUR, 30 * DAY, 20 * 365 * DAY] {
            let mut machine = Machine::new();
            machine.pass(0);
            machine.wall += jump;
            let time = machine.pass(2500);
            assert_eq!(time.now, START + 2500);
            assert_eq!(time.jump, Some(Duration::from_millis(jump.unsigned_abs())));
            assert_eq!(machine.pass(23 * HOUR).now, START + 2500 + 23 * HOUR);
            // After a full day the new time is accepted.
            assert_eq!(machine.pass(HOUR), at(machine.wall));
        }
    }

    #[test]
    fn reverted_jump_has_no_effect() {
        let mut machine = Machine::new();
        machine.pass(0);
        machine.wall += 20 * 365 * DAY;
        assert!(machine.pass(2500).jump.is_some());
        machine.wall -= 20 * 365 * DAY;
        assert_eq!(machine.pass(HOUR), at(machine.wall));
        // The next jump has its own day of grace.
        machine.wall += 40 * DAY;
        assert!(machine.pass(23 * HOUR).jump.is_some());
        machine.wall += 40 * DAY;
        assert!(machine.pass(23 * HOUR).jump.is_some(), "the new time has not been stable for a day");
    }

    #[test]
    fn jumps_in_small_steps_and_restarts_do_not_add_up() {
        let mut machine = Machine::new();
        machine.pass(0);
        for _ in 0..50 {
            machine.wall += 20 * HOUR;
            machine.restart();
            machine.pass(1000);
        }
        let time = machine.pass(1000);
        assert!(time.jump.is_some() && time.now < START + DAY, "{time:?}");
    }

    #[test]
    fn gateway_stopped_for_weeks_accepts_the_time_after_a_day_of_running_in_total() {
        let mut machine = Machine::new();
        machine.pass(HOUR);
        machine.wall += 40 * DAY;
        for run in 0..3 {
            machine.restart();
            let time = machine.pass(7 * HOUR);
            assert!(time.jump.is_some() && time.now < START + 2 * DAY, "{run}: {time:?}");
        }
        machine.restart();
        assert_eq!(machine.pass(7 * HOUR), at(machine.wall));
    }

    #[test]
    fn jump_of_both_clocks_is_ignored() {
        let mut machine = Machine::new();
        machine.pass(0);
        machine.wall += 20 * 365 * DAY;
        machine.monotonic += Duration::from_secs(20 * 365 * 24 * 60 * 60);
        let time = machine.pass(2500);
        assert!(time.jump.is_some() && time.now < START + 2 * HOUR, "{time:?}");
    }

    #[test]
    fn clock_that_is_behind_is_used() {
        let mut machine = Machine::new();
        machine.pass(0);
        machine.wall = HOUR;
        assert_eq!(machine.pass(HOUR), at(2 * HOUR));
        machine.wall = START + 2 * HOUR;
        assert_eq!(
            machine.pass(HOUR),
            at(START + 3 * HOUR),
            "the corrected time is not ahead of any measurement"
        );
    }

    #[test]
    fn ledger_without_a_record_starts_at_its_newest_day() {
        let now = moment(START, Instant::now());
        for (newest, expected) in [(None, None), (Some(START), None), (Some(START - DAY), None)] {
            assert_eq!(RetentionClock::new(None, newest, now).advance(now, INTERVAL).jump, expected);
        }
        let time = RetentionClock::new(None, Some(START - 60 * DAY), now).advance(now, INTERVAL);
        assert_eq!(time.now, START - 60 * DAY);
        // Days dated in the future by a wrong clock.
        assert_eq!(
            RetentionClock::new(None, Some(START + 9000 * DAY), now).advance(now, INTERVAL),
            at(START)
        );
        assert_eq!(ClockRecord::from_bytes(b"damaged"), None);
    }
}
