//! The time that retention goes by: the system's clock, unless that has jumped.
//!
//! Days are forgotten by date, so that a clock that jumps years ahead for a moment would empty the ledger. Time is
//! therefore also measured by the monotonic clock. When the system's clock is more than a day ahead of that, nothing
//! is forgotten on its account until it has kept its new course for a day. What was measured is kept in the ledger,
//! since the monotonic clock does not survive a restart.

use std::time::{Duration, Instant, SystemTime};

use super::pending::milliseconds;

/// How far the system's clock may be from the measured time.
const TOLERANCE: i64 = 24 * 60 * 60 * 1000;
/// How long the system's clock must keep its course before it is the measured time.
const GRACE: i64 = 24 * 60 * 60 * 1000;
/// The most that may pass between two measurements. A monotonic clock that claims more has jumped as well.
const LONGEST_STEP: Duration = Duration::from_secs(60 * 60);

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the system's clock, which can be set.
    pub wall: SystemTime,
    /// By the clock that cannot.
    pub monotonic: Instant,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

/// What a ledger keeps of its [`RetentionClock`], in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRecord {
    /// The measured time, since 1970.
    pub expected: i64,
    /// By how much the system's clock was ahead of that.
    pub ahead: i64,
    /// For how long it has been ahead by about as much.
    pub steady: i64,
}

impl ClockRecord {
    /// Three numbers of eight bytes.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.expected, self.ahead, self.steady]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// `None` if it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let mut numbers =
            bytes.chunks_exact(8).filter_map(|it| Some(i64::from_be_bytes(it.try_into().ok()?)));
        Some(Self { expected: numbers.next()?, ahead: numbers.next()?, steady: numbers.next()? })
    }
}

/// Measures time for retention.
#[derive(Clone, Copy, Debug)]
pub struct RetentionClock {
    record: ClockRecord,
    /// When it was measured last; `None` in another process.
    at: Option<Instant>,
}

/// What retention goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionTime {
    /// The time, in milliseconds since 1970: never later than the system's clock says.
    pub now: i64,
    /// By how much the system's clock has jumped ahead, if nothing is forgotten on its account.
    pub jump: Option<Duration>,
}

impl RetentionClock {
    /// The clock of a ledger with this record. One without a record goes by the end of the newest day that it has
    /// (milliseconds since 1970), and an empty one by the system's clock.
    pub fn new(record: Option<ClockRecord>, newest_day_end: Option<i64>, now: Moment) -> Self {
        let wall = milliseconds(now.wall);
        let record = record.unwrap_or_else(|| {
            let expected = newest_day_end.map_or(wall, |end| end.min(wall));
            ClockRecord { expected, ahead: wall.saturating_sub(expected), steady: 0 }
        });
        Self { record, at: None }
    }

    /// Measures up to `now`. `interval` is how often this is called.
    pub fn advance(&mut self, now: Moment, interval: Duration) -> RetentionTime {
        let longest = LONGEST_STEP.max(interval.saturating_mul(2));
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

    /// Whether the system's clock is behind the measured time and has not kept that course for [`GRACE`].
    pub const fn is_behind(&self) -> bool {
        self.record.ahead < -TOLERANCE
    }

    /// What the ledger has to keep.
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

    /// Both clocks of a machine.
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

        /// Lets so many milliseconds pass, measured every 30 minutes and at their end.
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
    fn ordinary_time_is_the_time_of_the_system() {
        let mut machine = Machine::new();
        assert_eq!(machine.pass(0), at(START));
        assert_eq!(machine.pass(100 * DAY), at(START + 100 * DAY));
        // Corrections, summer time, a laptop that slept, a gateway that was stopped for some hours.
        for correction in [3000, -3000, HOUR, -HOUR, 8 * HOUR, 8 * HOUR] {
            machine.wall += correction;
            assert_eq!(machine.pass(HOUR).jump, None, "{correction}");
            machine.restart();
            assert_eq!(machine.pass(HOUR), at(machine.wall), "{correction}");
        }
    }

    #[test]
    fn jump_ahead_forgets_nothing_until_it_has_lasted_for_a_day() {
        for jump in [25 * HOUR, 30 * DAY, 20 * 365 * DAY] {
            let mut machine = Machine::new();
            machine.pass(0);
            machine.wall += jump;
            let time = machine.pass(2500);
            assert_eq!(time.now, START + 2500);
            assert_eq!(time.jump, Some(Duration::from_millis(jump.unsigned_abs())));
            assert_eq!(machine.pass(23 * HOUR).now, START + 2500 + 23 * HOUR);
            // Later than that it is the time.
            assert_eq!(machine.pass(HOUR), at(machine.wall));
        }
    }

    #[test]
    fn jump_that_is_taken_back_leaves_no_trace() {
        let mut machine = Machine::new();
        machine.pass(0);
        machine.wall += 20 * 365 * DAY;
        assert!(machine.pass(2500).jump.is_some());
        machine.wall -= 20 * 365 * DAY;
        assert_eq!(machine.pass(HOUR), at(machine.wall));
        // The next one has its own day of grace.
        machine.wall += 40 * DAY;
        assert!(machine.pass(23 * HOUR).jump.is_some());
        machine.wall += 40 * DAY;
        assert!(machine.pass(23 * HOUR).jump.is_some(), "it has not kept its course");
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
    fn gateway_that_was_stopped_for_long_needs_a_day_of_running_in_all() {
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
    fn monotonic_clock_that_jumps_as_well_is_not_believed() {
        let mut machine = Machine::new();
        machine.pass(0);
        machine.wall += 20 * 365 * DAY;
        machine.monotonic += Duration::from_secs(20 * 365 * 24 * 60 * 60);
        let time = machine.pass(2500);
        assert!(time.jump.is_some() && time.now < START + 2 * HOUR, "{time:?}");
    }

    #[test]
    fn clock_that_is_behind_is_believed() {
        let mut machine = Machine::new();
        machine.pass(0);
        machine.wall = HOUR;
        assert_eq!(machine.pass(HOUR), at(2 * HOUR));
        machine.wall = START + 2 * HOUR;
        assert_eq!(machine.pass(HOUR), at(START + 3 * HOUR), "nothing has jumped ahead of what was measured");
    }

    #[test]
    fn ledger_without_a_record_goes_by_its_newest_day() {
        let now = moment(START, Instant::now());
        for (newest, expected) in [(None, None), (Some(START), None), (Some(START - DAY), None)] {
            assert_eq!(RetentionClock::new(None, newest, now).advance(now, INTERVAL).jump, expected);
        }
        let time = RetentionClock::new(None, Some(START - 60 * DAY), now).advance(now, INTERVAL);
        assert_eq!(time.now, START - 60 * DAY);
        // Days that a wrong clock has dated in the future.
        assert_eq!(
            RetentionClock::new(None, Some(START + 9000 * DAY), now).advance(now, INTERVAL),
            at(START)
        );
        assert_eq!(ClockRecord::from_bytes(b"damaged"), None);
    }
}
