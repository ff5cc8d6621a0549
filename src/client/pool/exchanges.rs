//! The exchanges of a bounded pool, and which of them end so that others get their share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::bound::{ConnectionBound, Contention};
use super::caller::CallerAccount;
use crate::downstream::Downstream;

/// How long a client stalls before its exchange may be ended.
const STALL: Duration = Duration::from_secs(1);

/// Time for which a caller whose stalled exchanges had to be ended gets no more connections than it could keep then.
const CONFINEMENT: Duration = Duration::from_secs(60);

/// Bytes per second below which an exchange that waits for its client is stalled.
const STALLED_RATE: u64 = 1024;

/// Bytes per second below which such an exchange is too slow when another caller has [waited for long](Contention).
const SLOW_RATE: u64 = 64 * 1024;

/// The user of a connection: the caller by whose number of connections the queue decides, and its client's connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionUser<'a> {
    /// The caller.
    pub caller: &'a Rc<CallerAccount>,
    /// The client's connection, or its HTTP/2 stream.
    pub downstream: &'a Rc<Downstream>,
}

/// The exchanges of one worker's pool.
#[derive(Debug)]
pub(super) struct Exchanges {
    exchanges: RefCell<Slab<Exchange>>,
    bound: Option<Arc<ConnectionBound>>,
}

#[derive(Debug)]
struct Exchange {
    caller: Rc<CallerAccount>,
    downstream: Rc<Downstream>,
    pace: Cell<Pace>,
    phase: Cell<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its client's connection serves it.
    Served,
    /// It no longer depends on the client's connection: a tunnel, or the rest of an upload after the response.
    Detached,
    /// It is about to end, because the queue reclaims its connection.
    Ending,
}

/// The bytes that a client had moved at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    bytes: u64,
}

/// The pace of an exchange's client.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The last time at which the client had moved enough not to be stalled.
    moving: Sample,
    /// The beginning of the present window of [`STALL`].
    window: Sample,
    /// Bytes per second in the last complete window.
    rate: Option<u64>,
    /// Whether the exchange waits for its client.
    waits: bool,
}

/// An exchange, until it is dropped with its connection.
pub(super) struct ExchangeGuard {
    // Not the pool: a tunnel may outlive it by hours.
    all: Rc<Exchanges>,
    key: usize,
}

impl ExchangeGuard {
    /// Begins an exchange of `user`.
    pub(super) fn new(all: &Rc<Exchanges>, user: ConnectionUser<'_>, now: Instant) -> Self {
        let ConnectionUser { caller, downstream } = user;
        caller.begin();
        downstream.state.begin_exchange();
        let exchange = Exchange {
            caller: Rc::clone(caller),
            downstream: Rc::clone(downstream),
            pace: Cell::new(Pace::new(Sample { at: now, bytes: downstream.state.progress() })),
            phase: Cell::new(Phase::Served),
        };
        let key = all.exchanges.borrow_mut().insert(exchange);
        Self { all: Rc::clone(all), key }
    }

    /// Records that the exchange no longer depends on the client's connection.
    pub(super) fn detach(&self) {
        if let Some(exchange) = self.all.exchanges.borrow().get(self.key)
            && exchange.phase.get() == Phase::Served
        {
            exchange.phase.set(Phase::Detached);
        }
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let Self { all, key } = self;
        let Some(exchange) = all.exchanges.borrow_mut().try_remove(*key) else { return };
        exchange.caller.end();
        if exchange.phase.get() == Phase::Ending {
            exchange.caller.has_ended();
        }
        if let Some(bound) = &all.bound
            && bound.waiting() > 0
        {
            // It may have been its number of connections that a waiting request of the same caller waited for.
            bound.grant_free();
        }
    }
}

impl Exchanges {
    pub(super) fn new(bound: Option<Arc<ConnectionBound>>) -> Self {
        Self { exchanges: RefCell::default(), bound }
    }

    /// Takes samples of the progress of all exchanges. Must be called about once per second.
    pub(super) fn sample(&self, now: Instant) {
        for (_, exchange) in &*self.exchanges.borrow() {
            exchange.update(now);
        }
    }

    /// Ends exchanges of callers that have more than their part if their clients are stalled, or too slow. Returns whether
    /// there were any.
    pub(super) fn reclaim(&self, Contention { part, is_long }: Contention, now: Instant) -> bool {
        let mut any = false;
        for (_, exchange) in &*self.exchanges.borrow() {
            let Exchange { caller, downstream, phase, .. } = exchange;
            let pace = exchange.update(now);
            let ends = pace.is_stalled(now) || is_long && pace.is_slow();
            if ends && phase.get() == Phase::Served && caller.shared.staying() > part {
                caller.begin_to_end();
                if caller.shared.staying() < part {
                    // Another worker has ended one at the same time.
                    caller.has_ended();
                    continue;
                }
                phase.set(Phase::Ending);
                caller.shared.confine(part, now + CONFINEMENT);
                downstream.state.reclaim();
                any = true;
            }
        }
        any
    }
}

impl Exchange {
    fn update(&self, now: Instant) -> Pace {
        let state = &self.downstream.state;
        let waits_since = state.blocked_since().or(state.awaits_body_since());
        let mut pace = self.pace.get();
        pace.update(waits_since, Sample { at: now, bytes: state.progress() });
        self.pace.set(pace);
        pace
    }
}

impl Pace {
    const fn new(begin: Sample) -> Self {
        Self { moving: begin, window: begin, rate: None, waits: false }
    }

    /// Records what the client has moved so far, and since when the exchange waits for it. Each byte may begin a new wait,
    /// so that only the first counts until it does not wait at all.
    fn update(&mut self, waits_since: Option<Instant>, sample: Sample) {
        match waits_since {
            Some(since) if !self.waits => self.moving = Sample { at: since, ..sample },
            Some(_) if !sample.exceeds(self.moving, STALLED_RATE) => {}
            _ => self.moving = sample,
        }
        self.waits = waits_since.is_some();
        let elapsed = sample.at.saturating_duration_since(self.window.at);
        if elapsed >= STALL {
            let moved = sample.bytes.saturating_sub(self.window.bytes);
            self.rate = Some((moved as f64 / elapsed.as_secs_f64()) as u64);
            self.window = sample;
        }
    }

    /// Whether the client has neither read nor sent enough for [`STALL`], although the exchange waited for it.
    fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moving.at) >= STALL
    }

    /// Whether the exchange waits for a slow client.
    fn is_slow(&self) -> bool {
        self.waits && self.rate.is_some_and(|rate| rate < SLOW_RATE)
    }
}

impl Sample {
    /// Whether more than `rate` bytes per second were moved since `earlier`.
    fn exceeds(self, earlier: Self, rate: u64) -> bool {
        let elapsed = self.at.saturating_duration_since(earlier.at);
        self.bytes.saturating_sub(earlier.bytes) > (rate as f64 * elapsed.as_secs_f64()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 100 ms: the bytes that the client moves in each, and whether the exchange waits for it.
    fn stalled_after(steps: impl IntoIterator<Item = (u64, bool)>) -> Option<usize> {
        find(steps, |pace, now| pace.is_stalled(now))
    }

    fn find(
        steps: impl IntoIterator<Item = (u64, bool)>,
        wanted: impl Fn(&Pace, Instant) -> bool,
    ) -> Option<usize> {
        let start = Instant::now();
        let (mut pace, mut bytes) = (Pace::new(Sample { at: start, bytes: 0 }), 0);
        for (number, (moved, waits)) in steps.into_iter().enumerate() {
            bytes += moved;
            let now = start + Duration::from_millis(100) * (number as u32 + 1);
            pace.update(waits.then_some(now), Sample { at: now, bytes });
            if wanted(&pace, now) {
                return Some(number + 1);
            }
        }
        None
    }

    #[test]
    fn client_is_slow_by_its_last_second() {
        for (steps, expected) in [
            (vec![(6000, true); 50], Some(10)),
            (vec![(7000, true); 50], None),
            (vec![(0, false); 50], None),
            ([vec![(7000, true); 10], vec![(200, true); 50]].concat(), Some(20)),
        ] {
            assert_eq!(find(steps.iter().copied(), |pace, _| pace.is_slow()), expected, "{steps:?}");
        }
    }

    #[test]
    fn client_that_moves_too_little_is_stalled_after_a_second() {
        for (steps, expected) in [
            (vec![(0, true); 50], Some(11)),
            (vec![(1, true); 50], Some(11)),
            (vec![(100, true); 50], Some(11)),
            (vec![(110, true); 50], None),
            (vec![(100_000, true); 50], None),
            // The backend is slow, not the client.
            (vec![(0, false); 50], None),
            // A large piece buys no long pause.
            ([vec![(1_000_000, true); 5], vec![(0, true); 50]].concat(), Some(15)),
            ([vec![(0, true); 10], vec![(2000, true)], vec![(0, true); 50]].concat(), Some(21)),
            ([vec![(0, false); 30], vec![(0, true); 50]].concat(), Some(41)),
            // Several short waits are not one wait of a second.
            ([(0, false), (0, true)].repeat(50), None),
        ] {
            assert_eq!(stalled_after(steps.iter().copied()), expected, "{steps:?}");
        }
    }
}
