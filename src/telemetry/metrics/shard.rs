//! The counters of one worker: written by that worker only, read by scrapes.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};
use std::time::Duration;

use http::{Method, StatusCode};

use super::{ConnectionUse, HandshakeFailure, LookupResult, TimedPhase};
use crate::policy::refusal::Reason;

/// Adds without a locked instruction. Correct only if one thread writes.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Like [`add`].
pub(super) fn add_signed(gauge: &AtomicI64, change: i64) {
    gauge.store(gauge.load(Relaxed).wrapping_add(change), Relaxed);
}

/// A duration in nanoseconds, at most 584 years.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The counters of one worker that belong to no route. Aligned so that no two workers write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    pub(super) phases: [Histogram; TimedPhase::ALL.len()],
    pub(super) cache_lookups: [AtomicU64; LookupResult::ALL.len()],
    pub(super) handshake_failures: [AtomicU64; HandshakeFailure::ALL.len()],
    pub(super) client_connections: [AtomicI64; ConnectionUse::ALL.len()],
    pub(super) backend_connections: [AtomicI64; ConnectionUse::ALL.len()],
    pub(super) tunnels: AtomicI64,
    pub(super) queue_length: AtomicI64,
    /// Age of the oldest verdict used, in nanoseconds: in this window and in the one before.
    pub(super) oldest_verdicts: [AtomicU64; 2],
}

/// The upper bounds of a histogram's buckets, inclusive, in nanoseconds.
pub(super) const BOUNDS: [u64; 15] = [
    25_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];

/// A histogram of nanoseconds. Its count is the sum of its buckets, so that the two always agree.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; the last bucket is unbounded.
    pub(super) buckets: [AtomicU64; BOUNDS.len() + 1],
    pub(super) sum: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, nanoseconds: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < nanoseconds);
        add(&self.buckets[bucket], 1);
        add(&self.sum, nanoseconds);
    }
}

/// The counters of one route on one worker.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct RouteShard {
    pub(super) duration: Histogram,
    slots: [Slot; SLOTS],
    /// By reason, for requests without a slot.
    overflow: [AtomicU64; Reason::ALL.len()],
}

/// The number of combinations of method, status and reason per route. Further ones are counted together.
const SLOTS: usize = 64;

#[derive(Debug, Default)]
struct Slot {
    /// A [`Key`]; 0 if free.
    key: AtomicU32,
    count: AtomicU64,
}

/// The labels of methods, by number.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", OTHER];

/// The label of values that are counted together.
const OTHER: &str = "other";

/// The label of a method.
pub(super) fn method_word(method: &Method) -> &'static str {
    METHODS[method_number(method) as usize]
}

fn method_number(method: &Method) -> u32 {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        _ => 7,
    }
}

/// Method, status and reason in one number above 0: a status is at least 100.
#[derive(Clone, Copy)]
struct Key(u32);

impl Key {
    fn new(method: &Method, status: StatusCode, reason: Reason) -> Self {
        Self(u32::from(status.as_u16()) << 8 | (reason as u32) << 3 | method_number(method))
    }

    fn method(self) -> &'static str {
        METHODS[(self.0 & 7) as usize]
    }

    fn reason(self) -> &'static str {
        Reason::ALL.get((self.0 >> 3 & 31) as usize).map_or(OTHER, |reason| reason.as_str())
    }

    fn status(self) -> u32 {
        self.0 >> 8
    }

    /// The first slot of the probe sequence.
    fn home(self) -> usize {
        (self.0.wrapping_mul(0x9E37_79B1) >> (32 - SLOTS.trailing_zeros())) as usize
    }
}

impl Default for RouteShard {
    fn default() -> Self {
        Self {
            duration: Histogram::default(),
            slots: std::array::from_fn(|_| Slot::default()),
            overflow: Default::default(),
        }
    }
}

impl RouteShard {
    pub(super) fn request(&self, method: &Method, status: StatusCode, reason: Reason, nanoseconds: u64) {
        self.duration.observe(nanoseconds);
        let key = Key::new(method, status, reason);
        for step in 0..SLOTS {
            let slot = &self.slots[(key.home() + step) % SLOTS];
            let taken = slot.key.load(Relaxed);
            if taken == 0 {
                slot.key.store(key.0, Relaxed);
            }
            if taken == 0 || taken == key.0 {
                return add(&slot.count, 1);
            }
        }
        add(&self.overflow[reason as usize], 1);
    }

    /// Calls `each` with every combination seen so far and its count.
    pub(super) fn for_each(&self, mut each: impl FnMut(RequestLabels, u64)) {
        for slot in &self.slots {
            let key = Key(slot.key.load(Relaxed));
            if key.0 != 0 {
                let labels =
                    RequestLabels { method: key.method(), status: Some(key.status()), reason: key.reason() };
                each(labels, slot.count.load(Relaxed));
            }
        }
        for (reason, count) in Reason::ALL.iter().zip(&self.overflow) {
            let count = count.load(Relaxed);
            if count > 0 {
                each(RequestLabels { method: OTHER, status: None, reason: reason.as_str() }, count);
            }
        }
    }
}

/// The labels of a request beside its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RequestLabels {
    pub(super) method: &'static str,
    /// `None` if counted together.
    pub(super) status: Option<u32>,
    pub(super) reason: &'static str,
}

impl RequestLabels {
    pub(super) fn status_text(self) -> String {
        self.status.map_or_else(|| OTHER.to_owned(), |status| status.to_string())
    }
}
