//! How replicas divide a limit. Pure: no clock, no I/O.
//!
//! A *share* is a part of the configured rate, in millionths. Replicas that report a limit divide it by max-min
//! fairness; each of the others has a small *floor* reserved, so that it can start at once.
//!
//! A ledger in Redis records the share that each replica holds, and grants more only from what nobody holds. A replica
//! lowers its share before it reports the lower one. So the shares in force never exceed [`TOTAL`], whatever the delays
//! of messages, and however old a replica's view of the others is: the view only decides what it asks for.
//!
//! A grant is a lease. A replica that cannot renew it lowers its share to the *fair* one, [`TOTAL`] divided by the
//! number of replicas, before the lease ends, and raises a share below the fair one only after the others have lowered
//! theirs.

use std::time::{Duration, Instant};

/// The whole limit.
pub const TOTAL: u32 = 1_000_000;
/// The sum of the floors of all replicas.
pub const FLOORS: u32 = 50_000;
/// A replica lowers its share only if that changes it by more than this, so that noise causes no exchange.
const TOLERANCE: u32 = 20_000;
/// A share that is further from its target is exchanged again soon.
const UNSETTLED: u32 = 100_000;
/// The most replicas that can share a limit.
pub const MAX_REPLICAS: u32 = 1000;

/// How often a replica exchanges reports with the ledger.
pub const INTERVAL: Duration = Duration::from_millis(150);
/// The interval after an exchange that left something to settle.
pub const SOON: Duration = Duration::from_millis(25);
/// An exchange that takes longer has failed.
pub const TIMEOUT: Duration = Duration::from_millis(200);
/// After this time without an exchange, the ledger reserves the fair share for a replica, so that the others lower
/// theirs before [`RAISE_AFTER`].
pub const SUSPECT_AFTER: Duration = Duration::from_millis(300);
/// This long after the beginning of the last exchange, a replica has lowered its shares to the fair ones. Longer than
/// [`INTERVAL`] and [`TIMEOUT`] together.
pub const LOWER_AFTER: Duration = Duration::from_millis(400);
/// How long the ledger counts a share that is not renewed: longer than its replica uses it.
pub const LEASE: Duration = Duration::from_millis(500);
/// This long after the beginning of the last attempt at an exchange, of which the ledger may know, a replica raises its
/// shares to the fair ones. Longer than [`SUSPECT_AFTER`] and [`LOWER_AFTER`] together: another replica may have had its
/// last exchange just before the ledger suspected this one.
pub const RAISE_AFTER: Duration = Duration::from_millis(750);
/// After this time without an exchange, a replica does not count any more.
pub const GONE_AFTER: Duration = Duration::from_secs(5);

/// The share of each of `replicas` if they do not know of each other's use.
pub const fn fair(replicas: u32) -> u32 {
    TOTAL / at_least_one(replicas)
}

/// The share of a replica that does not report a limit.
pub const fn floor(replicas: u32) -> u32 {
    FLOORS / at_least_one(replicas)
}

const fn at_least_one(replicas: u32) -> u32 {
    if replicas == 0 { 1 } else { replicas }
}

/// The max-min fair part of `pool` for a replica that wants `own`, beside others that want `others`. None gets less than
/// it wants while another has more than it. What nobody wants is divided equally. The parts of all replicas add up to
/// at most `pool`.
pub fn max_min(own: u32, others: &[u32], pool: u32) -> u32 {
    let mut wants: Vec<u32> = others.iter().copied().chain([own]).collect();
    wants.sort_unstable();
    let count = wants.len() as u32;
    let mut left = pool;
    for (want, rest) in wants.into_iter().zip((1..=count).rev()) {
        let level = left / rest;
        if want > level {
            return own.min(level);
        }
        left -= want;
    }
    own.saturating_add(left / count)
}

/// What the ledger knows of the others' use of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The part of the limit that the reporting replicas divide.
    pub pool: u32,
    /// What the others want.
    pub wants: Vec<u32>,
}

/// The answer of the ledger to a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The granted share.
    pub share: u32,
    pub view: View,
}

/// A report of one limit to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The share in force.
    pub held: u32,
    /// The share to hold.
    pub asked: u32,
    /// The share that the demand needs, for the others to know.
    pub want: u32,
}

/// The use of a limit since the last report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// The number of requests, also of refused ones.
    pub requests: u32,
    /// What the whole limit would have allowed in that time, in requests.
    pub allowance: f64,
    /// What would refill the bucket, in requests per second, as a part of the configured rate.
    pub missing: f64,
}

/// The share of this replica of one limit that it reports.
#[derive(Clone, Debug)]
pub struct Share {
    held: u32,
    demand: f64,
    want: u32,
    idle_reports: u8,
    view: Option<View>,
    asked: u32,
}

/// An interval with so many requests, or of which so many were expected, counts half in the average demand. If there are
/// more, they are less noise, and count more.
const HALF_WEIGHT: f64 = 4.0;
/// An interval weighs at least as if this many requests had been expected.
const MIN_COUNT: f64 = 0.3;
/// The demand may grow by this factor until the next report.
const HEADROOM: f64 = 1.1;
/// A limit is reported until it was idle this often.
const IDLE_REPORTS: u8 = 10;

impl Share {
    /// A limit that has not been reported, with the share in force.
    pub const fn new(held: u32) -> Self {
        Self { held, demand: 0.0, want: 0, idle_reports: 0, view: None, asked: held }
    }

    /// The share in force.
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// Records the use of an interval. Returns `false` if the limit need not be reported any more.
    pub fn record(&mut self, usage: Usage) -> bool {
        let requests = f64::from(usage.requests);
        let latest = (requests / usage.allowance).min(1.0);
        let is_rise = requests >= HALF_WEIGHT;
        let count = (self.demand * usage.allowance).max(if is_rise { requests } else { MIN_COUNT });
        let weight = count / (count + HALF_WEIGHT);
        self.demand = self.demand * (1.0 - weight) + latest * weight;
        // A rise that is no noise counts at once.
        let demand = if is_rise { self.demand.max(latest) } else { self.demand };
        let demand = demand * HEADROOM + usage.missing;
        self.want = (demand * f64::from(TOTAL)).clamp(0.0, f64::from(TOTAL)) as u32;
        let is_idle = usage.requests == 0;
        self.idle_reports =
            if is_idle { self.idle_reports.saturating_add(1) } else { self.idle_reports.saturating_sub(2) };
        self.idle_reports < IDLE_REPORTS
    }

    /// The next report. The share in force, [`Share::held`], is lowered by it, never raised.
    pub fn report(&mut self, replicas: u32) -> Report {
        let target = self.target(replicas);
        let is_close = target < self.held && self.held - target <= TOLERANCE;
        self.asked = if is_close { self.held } else { target };
        self.held = self.held.min(self.asked);
        Report { held: self.held, asked: self.asked, want: self.want }
    }

    fn target(&self, replicas: u32) -> u32 {
        let target = match &self.view {
            Some(view) => max_min(self.want, &view.wants, view.pool),
            // The ledger grants less if the others hold more.
            None => self.want.max(fair(replicas)),
        };
        target.clamp(floor(replicas), TOTAL)
    }

    /// Applies the answer to the last report. It grants at most what was asked, whatever it says.
    pub fn apply(&mut self, grant: Grant, replicas: u32) {
        self.held = grant.share.clamp(floor(replicas).min(self.asked), self.asked);
        self.view = Some(grant.view);
    }

    /// Whether another exchange should follow soon: others wait for a part of this share, or this waits for theirs.
    pub fn is_unsettled(&self, replicas: u32) -> bool {
        self.target(replicas).abs_diff(self.held) > UNSETTLED
    }

    /// Gives back all but the floor in the next report, the last one.
    pub fn release(&mut self, replicas: u32) -> Report {
        (self.held, self.want, self.view) = (self.held.min(floor(replicas)), 0, None);
        self.asked = self.held;
        Report { held: self.held, asked: self.asked, want: 0 }
    }

    /// Lowers a share above the fair one, because the lease ends.
    pub fn lower_to_fair(&mut self, replicas: u32) {
        self.held = self.held.min(fair(replicas));
        self.view = None;
    }

    /// Sets the fair share.
    pub fn set_fair(&mut self, replicas: u32) {
        self.held = fair(replicas);
        self.view = None;
    }
}

/// Whether this replica knows of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has just started.
    Joining,
    /// It exchanges reports.
    Connected,
    /// It could not renew its leases.
    Lowered,
    /// It counts alone, with the fair share of each limit.
    Alone,
}

/// A change of the shares in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// [`Share::lower_to_fair`] for each reported limit.
    Lower,
    /// [`Share::set_fair`] for each reported limit, and [`Membership::base`] for all others.
    Raise,
    /// [`Membership::base`] for all limits that are not reported.
    Rebase,
}

/// The replicas that this one has seen, and when.
#[derive(Clone, Debug)]
pub struct Membership {
    replicas: u32,
    state: State,
    /// The beginning of the last exchange.
    exchanged_at: Instant,
    /// The beginning of the last attempt.
    attempted_at: Instant,
}

impl Membership {
    /// A replica that has not seen another one. Until [`RAISE_AFTER`] it waits for the first exchange.
    pub const fn new(now: Instant) -> Self {
        Self { replicas: 1, state: State::Joining, exchanged_at: now, attempted_at: now }
    }

    /// The number of replicas last seen, with this one.
    pub const fn replicas(&self) -> u32 {
        self.replicas
    }

    /// The share of limits that are not reported.
    pub const fn base(&self) -> u32 {
        match self.state {
            State::Joining => floor(MAX_REPLICAS),
            State::Connected | State::Lowered => floor(self.replicas),
            State::Alone => fair(self.replicas),
        }
    }

    /// Prepares for exchanges over a new connection. The ledger will count the floor for limits that are not reported.
    pub fn connect(&mut self, now: Instant) -> Option<Change> {
        let before = self.state;
        if matches!(before, State::Lowered | State::Alone) {
            self.state = State::Connected;
            // If no exchange follows, the shares become fair again.
            (self.exchanged_at, self.attempted_at) = (now, now);
        }
        (before == State::Alone).then_some(Change::Rebase)
    }

    /// Begins an exchange. Returns `false` if its answer could be too late: [`Membership::connect`] comes first.
    pub fn begin(&mut self, now: Instant) -> bool {
        let may_begin = matches!(self.state, State::Joining | State::Connected);
        if may_begin {
            self.attempted_at = now;
        }
        may_begin
    }

    /// Records an exchange that began at `began`, in which the ledger knew `replicas`.
    pub fn exchanged(&mut self, began: Instant, replicas: u32) -> Option<Change> {
        let before = self.base();
        self.exchanged_at = began;
        self.state = State::Connected;
        let replicas = std::mem::replace(&mut self.replicas, replicas.clamp(1, MAX_REPLICAS));
        (self.replicas != replicas || self.base() != before).then_some(Change::Rebase)
    }

    /// The change that is due because the last exchange is too long ago.
    pub fn check(&mut self, now: Instant) -> Option<Change> {
        if self.due().is_none_or(|due| now < due) {
            return None;
        }
        if self.state == State::Connected && now < self.attempted_at + RAISE_AFTER {
            self.state = State::Lowered;
            return Some(Change::Lower);
        }
        self.state = State::Alone;
        Some(Change::Raise)
    }

    /// When [`Membership::check`] has something to do, if no exchange comes before; `None` if never.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Connected => Some(self.exchanged_at + LOWER_AFTER),
            State::Joining | State::Lowered => Some(self.attempted_at + RAISE_AFTER),
            State::Alone => None,
        }
    }
}

#[cfg(test)]
mod tests;
