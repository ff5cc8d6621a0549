//! `rate_limit.quota`: the requests of a token in an hour, a day or a month of UTC.
//!
//! The counts belong to the process. `usage::quota` reads them from a file at the start and writes them to it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use crate::config::settings::QuotaPeriod;

/// The most tokens with a count of their own, 37 MiB. If more are in use in one window, those with the lowest counts
/// start again.
pub const MAX_TOKENS: usize = 262_144;
/// The number of tokens before the first sweep.
const MIN_CAPACITY: usize = 1024;
/// The seconds of an hour.
const HOUR: u64 = 60 * 60;
/// Bits of a count. The others hold the hour at which its window began, up to the year 3883.
const COUNT_BITS: u32 = 40;
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;
const MAX_HOUR: u64 = (1 << (64 - COUNT_BITS)) - 1;

/// A window of a quota, in hours since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first hour.
    pub start: u64,
    /// The hour after the last one.
    pub end: u64,
}

impl Window {
    /// The window at `now`.
    pub fn at(period: QuotaPeriod, now: SystemTime) -> Self {
        let hour = hours(now);
        match period {
            QuotaPeriod::Hour => Self { start: hour, end: hour + 1 },
            QuotaPeriod::Day => Self { start: hour - hour % 24, end: hour - hour % 24 + 24 },
            // The clamped hour is a valid time.
            QuotaPeriod::Month => month(hour).unwrap_or(Self { start: 0, end: MAX_HOUR }),
        }
    }

    /// Its length.
    pub const fn length(self) -> Duration {
        Duration::from_secs((self.end - self.start) * HOUR)
    }

    /// The time until its end.
    pub fn left(self, now: SystemTime) -> Duration {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(self.end * HOUR);
        end.duration_since(now).unwrap_or_default()
    }
}

/// The hour of a time, since the Unix epoch.
fn hours(now: SystemTime) -> u64 {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The month after the last one must fit, too.
    (seconds / HOUR).min(MAX_HOUR - 31 * 24)
}

fn month(hour: u64) -> Option<Window> {
    let second = i64::try_from(hour * HOUR).ok()?;
    let date = TimeZone::UTC.to_datetime(Timestamp::from_second(second).ok()?).date();
    let first_day = (hour / 24).checked_sub(u64::try_from(date.day() - 1).ok()?)?;
    let days = u64::try_from(date.days_in_month()).ok()?;
    Some(Window { start: first_day * 24, end: (first_day + days) * 24 })
}

/// The requests since the start of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The first hour of the window.
    pub start: u64,
    /// The number of requests.
    pub count: u64,
}

impl Used {
    /// As one number, for memory and file. 0 is no request.
    pub const fn pack(self) -> u64 {
        self.start << COUNT_BITS | self.count
    }

    /// From one number.
    pub const fn unpack(packed: u64) -> Self {
        Self { start: packed >> COUNT_BITS, count: packed & MAX_COUNT }
    }

    /// The requests that count in `window`: those of an earlier window do not. A count is never lost because the clock was
    /// set back, because two workers disagree about the end of a window, or because the new window is longer.
    pub const fn within(self, window: Window) -> Self {
        if self.start == window.end {
            // Another clock is already in the next window.
            self
        } else if self.start < window.start {
            Self { start: window.start, count: 0 }
        } else {
            Self { start: window.start, ..self }
        }
    }

    const fn plus(self, count: u64) -> Self {
        let count = self.count.saturating_add(count);
        Self { count: if count > MAX_COUNT { MAX_COUNT } else { count }, ..self }
    }
}

/// The quota of a token is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// Counts the requests of a token. Any number of workers may change it at once.
#[derive(Debug, Default)]
pub struct QuotaCounter {
    used: AtomicU64,
    /// The number that the file has.
    written: AtomicU64,
}

impl QuotaCounter {
    /// The requests that count in `window`.
    pub fn used(&self, window: Window) -> Used {
        Used::unpack(self.used.load(Relaxed)).within(window)
    }

    /// Whether `max` allow a further request. Takes nothing.
    ///
    /// # Errors
    /// If they do not.
    pub fn check(&self, window: Window, max: NonZeroU32) -> Result<(), Exhausted> {
        let packed = self.used.load(Relaxed);
        let used = Used::unpack(packed).within(window);
        if used.count < u64::from(max.get()) {
            return Ok(());
        }
        // A count that began while the clock was ahead ends with this window, too.
        let _ = self.used.compare_exchange(packed, used.pack(), Relaxed, Relaxed);
        Err(Exhausted)
    }

    /// Takes one request of `max`.
    ///
    /// # Errors
    /// If all were taken.
    pub fn take(&self, window: Window, max: NonZeroU32) -> Result<(), Exhausted> {
        let next = |packed| {
            let used = Used::unpack(packed).within(window);
            (used.count < u64::from(max.get())).then(|| used.plus(1).pack())
        };
        self.used.fetch_update(Relaxed, Relaxed, next).map(drop).map_err(|_| Exhausted)
    }

    /// Adds the requests that the file has: to those since the start of the process, or, if it was read before, to
    /// whichever are more.
    fn merge(&self, filed: Used, window: Window, is_first: bool) {
        let filed = filed.within(window);
        let next = |packed| {
            let used = Used::unpack(packed).within(window);
            let merged = if is_first { used.plus(filed.count).count } else { used.count.max(filed.count) };
            Some(Used { count: merged, ..used }.pack())
        };
        let _ = self.used.fetch_update(Relaxed, Relaxed, next);
    }
}

/// The hash of an introspected id: of one length, and no name of anybody in the file.
pub type QuotaKey = [u8; 32];

/// The counts of all tokens.
#[derive(Debug, Default)]
pub struct QuotaCounts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    counters: HashMap<QuotaKey, Arc<QuotaCounter>>,
    capacity: usize,
    /// Tokens whose count was dropped, and is still in the file.
    dropped: Vec<QuotaKey>,
}

/// What the file does not have yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Counts that have changed, [packed](Used::pack).
    pub changed: Vec<(QuotaKey, u64)>,
    /// Tokens whose count was dropped because there were too many.
    pub dropped: Vec<QuotaKey>,
}

impl QuotaCounts {
    /// The counter of the token with this id.
    pub fn of(&self, id: &str, window: Window) -> Arc<QuotaCounter> {
        self.state().counter(Sha256::digest(id).into(), window)
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.state().counters.len()
    }

    /// Merges the counts of a file. If `is_first`, the process has not read one before.
    pub fn merge(&self, rows: impl Iterator<Item = (QuotaKey, u64)>, window: Window, is_first: bool) {
        let mut state = self.state();
        for (key, packed) in rows {
            let filed = Used::unpack(packed);
            if filed.within(window).count > 0 {
                let counter = state.counter(key, window);
                counter.merge(filed, window, is_first);
            }
        }
    }

    /// What the file does not have yet; everything if it is `new`.
    pub fn take_changes(&self, is_new: bool) -> Changes {
        let mut state = self.state();
        let dropped = std::mem::take(&mut state.dropped);
        let changed = state.counters.iter().filter_map(|(key, counter)| {
            let used = counter.used.load(Relaxed);
            let is_changed = used != counter.written.load(Relaxed) || (is_new && used > 0);
            is_changed.then_some((*key, used))
        });
        Changes { changed: changed.collect(), dropped }
    }

    /// Notes that the file has `changes`.
    pub fn mark_written(&self, changes: &Changes) {
        let state = self.state();
        for (key, packed) in &changes.changed {
            if let Some(counter) = state.counters.get(key) {
                counter.written.store(*packed, Relaxed);
            }
        }
    }

    /// Takes back changes that could not be written.
    pub fn restore(&self, changes: Changes) {
        self.state().dropped.extend(changes.dropped);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn counter(&mut self, key: QuotaKey, window: Window) -> Arc<QuotaCounter> {
        if let Some(counter) = self.counters.get(&key) {
            return Arc::clone(counter);
        }
        if self.counters.len() >= self.capacity.max(MIN_CAPACITY) {
            self.sweep(window, MAX_TOKENS);
        }
        Arc::clone(self.counters.entry(key).or_default())
    }

    /// Drops what no verdict holds: counts of earlier windows, and if there are still `max`, the lower half.
    fn sweep(&mut self, window: Window, max: usize) {
        let is_held = |counter: &Arc<QuotaCounter>| Arc::strong_count(counter) > 1;
        self.counters.retain(|_, counter| is_held(counter) || counter.used(window).count > 0);
        if self.counters.len() >= max {
            let idle = self.counters.iter().filter(|(_, counter)| !is_held(counter));
            let mut idle: Vec<_> = idle.map(|(key, counter)| (counter.used(window).count, *key)).collect();
            idle.sort_unstable();
            for (_, key) in &idle[..idle.len().div_ceil(2)] {
                self.counters.remove(key);
                self.dropped.push(*key);
            }
        }
        self.capacity = (self.counters.len() * 2).clamp(MIN_CAPACITY, max.max(MIN_CAPACITY));
        // If verdicts hold more, which `cache.max_tokens` bounds, the next sweep is not at once.
        self.capacity = self.capacity.max(self.counters.len() + MIN_CAPACITY);
    }
}

#[cfg(test)]
mod tests;
