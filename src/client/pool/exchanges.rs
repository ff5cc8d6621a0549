//! The exchanges of a bounded pool, and which of them end so that others get their share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::Pool;
use super::caller::CallerAccount;
use crate::downstream::Downstream;
use crate::downstream::state::ConnectionState;

/// How long a client stalls before its exchange may be ended.
const STALL: Duration = Duration::from_secs(1);

/// Time for which a caller whose stalled exchanges had to be ended gets no more connections than it could keep then.
const CONFINEMENT: Duration = Duration::from_secs(60);

/// Bytes per second below which an exchange that waits for its client is stalled.
const STALLED_RATE: u64 = 1024;

/// The user of a connection: the caller by whose number of connections the queue decides, and its client's connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionUser<'a> {
    /// The caller.
    pub caller: &'a Rc<CallerAccount>,
    /// The client's connection, or its HTTP/2 stream.
    pub downstream: &'a Rc<Downstream>,
}

/// The exchanges of one worker's pool.
#[derive(Debug, Default)]
pub(super) struct Exchanges(RefCell<Slab<Exchange>>);

#[derive(Debug)]
struct Exchange {
    caller: Rc<CallerAccount>,
    downstream: Rc<Downstream>,
    sample: Cell<Sample>,
    phase: Cell<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its client's connection serves it.
    Served,
    /// It no longer depends on the client's connection: a tunnel, or the rest of an upload after the response.
    Detached,
    /// It was told to end.
    Ending,
}

/// The progress of an exchange at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    bytes: u64,
}

/// An exchange, until it is dropped with its connection.
pub(super) struct ExchangeGuard {
    pool: Rc<Pool>,
    key: usize,
}

impl ExchangeGuard {
    /// Begins an exchange of `user`.
    pub(super) fn new(pool: &Rc<Pool>, user: ConnectionUser<'_>, now: Instant) -> Self {
        let ConnectionUser { caller, downstream } = user;
        caller.begin();
        downstream.state.begin_exchange();
        let exchange = Exchange {
            caller: Rc::clone(caller),
            downstream: Rc::clone(downstream),
            sample: Cell::new(Sample { at: now, bytes: downstream.state.progress() }),
            phase: Cell::new(Phase::Served),
        };
        let key = pool.exchanges.0.borrow_mut().insert(exchange);
        Self { pool: Rc::clone(pool), key }
    }

    /// Records that the exchange no longer depends on the client's connection.
    pub(super) fn detach(&self) {
        if let Some(exchange) = self.pool.exchanges.0.borrow().get(self.key)
            && exchange.phase.get() == Phase::Served
        {
            exchange.phase.set(Phase::Detached);
        }
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let Self { pool, key } = self;
        let Some(exchange) = pool.exchanges.0.borrow_mut().try_remove(*key) else { return };
        exchange.caller.end();
        if exchange.phase.get() == Phase::Ending {
            exchange.caller.has_ended();
        }
        if let Some(bound) = &pool.bound
            && bound.waiting() > 0
        {
            // It may have been its number of connections that a waiting request of the same caller waited for.
            bound.grant_free();
        }
    }
}

impl Exchanges {
    /// Takes samples of the progress of all exchanges. Must be called about once per second.
    pub(super) fn sample(&self, now: Instant) {
        for (_, exchange) in &*self.0.borrow() {
            exchange.is_stalled(now);
        }
    }

    /// Ends stalled exchanges of callers that have more than `part` connections. Returns whether there were any.
    pub(super) fn reclaim(&self, part: usize, now: Instant) -> bool {
        let mut any = false;
        for (_, exchange) in &*self.0.borrow() {
            let Exchange { caller, downstream, phase, .. } = exchange;
            if exchange.is_stalled(now) && phase.get() == Phase::Served && caller.shared.staying() > part {
                phase.set(Phase::Ending);
                caller.begin_to_end();
                caller.shared.confine(part, now + CONFINEMENT);
                downstream.state.reclaim();
                any = true;
            }
        }
        any
    }
}

impl Exchange {
    /// Whether the client has neither read nor sent enough for [`STALL`] although the exchange waits for it.
    fn is_stalled(&self, now: Instant) -> bool {
        let state = &self.downstream.state;
        let (sample, is_stalled) = judge(self.sample.get(), Self::waits(state), state.progress(), now);
        self.sample.set(sample);
        is_stalled
    }

    fn waits(state: &ConnectionState) -> bool {
        state.blocked_since().is_some() || state.awaits_body()
    }
}

/// Whether an exchange is stalled, and the sample to compare with next. `waits`: it waits for its client, which has moved
/// `bytes` so far.
fn judge(sample: Sample, waits: bool, bytes: u64, now: Instant) -> (Sample, bool) {
    let elapsed = now.saturating_duration_since(sample.at);
    let moved = bytes.saturating_sub(sample.bytes);
    let enough = (STALLED_RATE as f64 * elapsed.as_secs_f64()) as u64;
    if !waits || moved > enough {
        return (Sample { at: now, bytes }, false);
    }
    (sample, elapsed >= STALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 100 ms: the bytes that the client moves in each, and whether the exchange waits for it.
    fn stalled_after(steps: impl IntoIterator<Item = (u64, bool)>) -> Option<usize> {
        let start = Instant::now();
        let (mut sample, mut bytes) = (Sample { at: start, bytes: 0 }, 0);
        for (number, (moved, waits)) in steps.into_iter().enumerate() {
            bytes += moved;
            let now = start + Duration::from_millis(100) * (number as u32 + 1);
            let is_stalled;
            (sample, is_stalled) = judge(sample, waits, bytes, now);
            if is_stalled {
                return Some(number + 1);
            }
        }
        None
    }

    #[test]
    fn client_that_moves_too_little_is_stalled_after_a_second() {
        for (steps, expected) in [
            (vec![(0, true); 50], Some(10)),
            (vec![(1, true); 50], Some(10)),
            (vec![(100, true); 50], Some(10)),
            (vec![(110, true); 50], None),
            (vec![(100_000, true); 50], None),
            // The backend is slow, not the client.
            (vec![(0, false); 50], None),
            // A large piece buys no long pause.
            ([vec![(1_000_000, true); 5], vec![(0, true); 50]].concat(), Some(15)),
            ([vec![(0, true); 9], vec![(2000, true)], vec![(0, true); 50]].concat(), Some(20)),
            ([vec![(0, false); 30], vec![(0, true); 50]].concat(), Some(40)),
        ] {
            assert_eq!(stalled_after(steps.iter().copied()), expected, "{steps:?}");
        }
    }
}
