//! The shared limits that this replica reports to the others: those of tokens that use more than the floor.

use std::sync::Arc;
use std::time::Instant;

use super::bucket::{Bucket, ShareKey, SharedBuckets};
use super::share::{Change, Grant, Membership, Report, Share, Usage};
use super::tokens::TokenLimits;

/// The most limits that are reported at a time. Others have the floor until there is room.
const MAX_REPORTED: usize = 1024;

/// In what time an emptied bucket shall be full again, in seconds.
const REFILL_SECONDS: f64 = 5.0;

/// A reported limit.
#[derive(Debug)]
struct Entry {
    bucket: Arc<Bucket>,
    share: Share,
    report: Report,
    /// Whether the last report gives the share back.
    is_released: bool,
}

impl Entry {
    fn new(bucket: Arc<Bucket>, share: u32, now: Instant) -> Self {
        // The requests until now are of an unknown time.
        bucket.measure(now);
        let report = Report { held: share, asked: share, want: 0 };
        Self { bucket, share: Share::new(share), report, is_released: false }
    }

    /// Puts the share in force.
    fn apply(&self, replicas: u32, now: Instant) {
        self.bucket.set_share(self.share.held(), replicas, now);
    }
}

/// All reported limits of this replica.
#[derive(Debug)]
pub struct ReportedLimits {
    limits: Arc<TokenLimits>,
    membership: Membership,
    entries: Vec<Entry>,
    /// When the last reports were made.
    reported_at: Instant,
}

impl ReportedLimits {
    /// For a replica that does not know of the others yet.
    pub fn new(limits: Arc<TokenLimits>, now: Instant) -> Self {
        let reported =
            Self { limits, membership: Membership::new(now), entries: Vec::new(), reported_at: now };
        reported.set_base(now);
        reported
    }

    /// Uses `limits` from now on, if they are others.
    pub fn set_limits(&mut self, limits: &Arc<TokenLimits>, now: Instant) {
        if !Arc::ptr_eq(&self.limits, limits) {
            self.limits = Arc::clone(limits);
            // Requests that use the previous buckets end soon.
            self.entries.clear();
            self.set_base(now);
        }
    }

    /// The number of replicas last seen, with this one.
    pub const fn replicas(&self) -> u32 {
        self.membership.replicas()
    }

    /// The number of reported limits.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Prepares for exchanges over a new connection.
    pub fn connect(&mut self, now: Instant) {
        let change = self.membership.connect(now);
        self.change(change, now);
    }

    /// Begins an exchange: measures the use of each limit, and lowers its share if others need it. Returns `false` if it is
    /// too late for that: [`ReportedLimits::connect`] comes first.
    pub fn begin(&mut self, now: Instant) -> bool {
        if !self.membership.begin(now) {
            return false;
        }
        self.add_queued(now);
        let replicas = self.membership.replicas();
        let seconds = now.saturating_duration_since(self.reported_at).as_secs_f64().max(0.001);
        self.reported_at = now;
        for entry in &mut self.entries {
            let used = entry.bucket.measure(now);
            let rate = f64::from(entry.bucket.rate().requests_per_second.get());
            let usage = Usage {
                requests: used.requests,
                allowance: rate * seconds,
                missing: used.missing / REFILL_SECONDS / rate,
            };
            let held = entry.share.held();
            entry.is_released = !entry.share.record(usage);
            entry.report =
                if entry.is_released { entry.share.release(replicas) } else { entry.share.report(replicas) };
            if entry.share.held() != held {
                entry.apply(replicas, now);
            }
        }
        true
    }

    /// The reports of the exchange that has begun.
    pub fn reports(&self) -> impl ExactSizeIterator<Item = (ShareKey, Report)> {
        self.entries.iter().map(|entry| (entry.bucket.share_key(), entry.report))
    }

    /// Ends the exchange that began at `began`: the ledger knew `replicas`, and answered each report with a grant.
    pub fn end(&mut self, began: Instant, replicas: u32, grants: Vec<Grant>, now: Instant) {
        let change = self.membership.exchanged(began, replicas);
        let replicas = self.membership.replicas();
        for (entry, grant) in self.entries.iter_mut().zip(grants) {
            if entry.is_released {
                entry.bucket.end_reports();
                continue;
            }
            let held = entry.share.held();
            entry.share.apply(grant, replicas);
            if entry.share.held() != held {
                entry.apply(replicas, now);
            }
        }
        self.entries.retain(|entry| !entry.is_released);
        self.change(change, now);
    }

    /// Whether another exchange should follow soon.
    pub fn is_unsettled(&self) -> bool {
        self.entries.iter().any(|entry| entry.share.is_unsettled(self.membership.replicas()))
    }

    /// When [`ReportedLimits::check`] is due, if no exchange comes before; `None` if never.
    pub fn due(&self) -> Option<Instant> {
        self.membership.due()
    }

    /// Changes the shares if the last exchange is too long ago. Returns whether this replica counts alone from now on.
    pub fn check(&mut self, now: Instant) -> bool {
        let change = self.membership.check(now);
        self.change(change, now);
        change == Some(Change::Raise)
    }

    fn add_queued(&mut self, now: Instant) {
        let room = MAX_REPORTED.saturating_sub(self.entries.len());
        let Some(shared) = self.shared() else { return };
        let queued = shared.take_queued(room);
        let (base, replicas) = (self.membership.base(), self.membership.replicas());
        self.entries.extend(queued.into_iter().map(|bucket| {
            // Its share may be from before a change of the base.
            bucket.set_share(base, replicas, now);
            Entry::new(bucket, base, now)
        }));
    }

    /// Waits until a limit is to be reported that is not reported yet. Cancel-safe.
    pub fn queued(&self) -> impl Future<Output = ()> + use<> {
        let shared = self.shared().cloned();
        async move {
            match shared {
                Some(shared) => shared.queued().await,
                None => std::future::pending().await,
            }
        }
    }

    fn shared(&self) -> Option<&Arc<SharedBuckets>> {
        self.limits.shared()
    }

    fn change(&mut self, change: Option<Change>, now: Instant) {
        let Some(change) = change else { return };
        self.add_queued(now);
        // Those without room have the base, like all that are not reported.
        for bucket in self.shared().map(|shared| shared.take_queued(usize::MAX)).unwrap_or_default() {
            bucket.end_reports();
        }
        let replicas = self.membership.replicas();
        for entry in &mut self.entries {
            match change {
                Change::Lower => entry.share.lower_to_fair(replicas),
                Change::Raise => entry.share.set_fair(replicas),
                // Each bucket's part of the burst changes.
                Change::Rebase => {}
            }
            entry.apply(replicas, now);
        }
        if change != Change::Lower {
            self.set_base(now);
        }
    }

    fn set_base(&self, now: Instant) {
        self.limits.set_base(self.membership.base(), self.membership.replicas(), now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rate;
    use super::super::share::{LOWER_AFTER, RAISE_AFTER, TOTAL, View, fair, floor};
    use super::super::tokens::{TokenIdentity, TokenRequest};
    use super::*;
    use crate::config::settings::{Allowance, RateLimit};
    use crate::policy::ability::Abilities;

    /// Each token may send 30 requests at once, and 100 a second.
    fn limits() -> Arc<TokenLimits> {
        let default = Allowance { rate: rate(100, 30), in_flight: None, quota: None, has_own_rate: false };
        let settings = RateLimit { shared: true, ..RateLimit::of_each(default) };
        Arc::new(TokenLimits::new(settings, Arc::default(), SharedBuckets::next_from(None)))
    }

    fn take_all(limits: &TokenLimits, id: &str, now: Instant) -> usize {
        let limit = limits.limit(TokenIdentity { id, name: None, workspace_id: None }, now);
        let abilities = Abilities::new(["a"]);
        let request = TokenRequest { now, id, abilities: &abilities, requirement: None, query: None };
        (0..).take_while(|_| limit.take(limits, &request).is_ok()).count()
    }

    fn exchange(reported: &mut ReportedLimits, replicas: u32, share: u32, now: Instant) -> usize {
        assert!(reported.begin(now));
        let view = View { pool: share, wants: vec![] };
        let grants: Vec<_> = reported.reports().map(|_| Grant { share, view: view.clone() }).collect();
        let count = grants.len();
        reported.end(now, replicas, grants, now);
        count
    }

    #[test]
    fn busy_limits_are_reported_and_get_their_grants() {
        let (limits, mut now) = (limits(), Instant::now());
        let mut reported = ReportedLimits::new(Arc::clone(&limits), now);
        assert_eq!(take_all(&limits, "early", now), 30, "the burst is not divided before the first exchange");
        assert_eq!(exchange(&mut reported, 3, TOTAL, now), 1);
        // A third of the burst, and the floor of the rate.
        assert_eq!(take_all(&limits, "busy", now), 10);
        now += Duration::from_millis(100);
        assert_eq!(take_all(&limits, "busy", now), 0);
        assert_eq!(exchange(&mut reported, 3, TOTAL / 2, now), 2);
        now += Duration::from_millis(105);
        // The first report asks for the fair share.
        assert_eq!(take_all(&limits, "busy", now), 3);
        assert_eq!(take_all(&limits, "calm", now), 10);
        let counts: Vec<usize> = (0..20)
            .map(|_| {
                now += Duration::from_millis(150);
                exchange(&mut reported, 3, TOTAL / 2, now)
            })
            .collect();
        assert!(
            counts[0] == 3 && counts[7] == 3 && counts[15] == 0,
            "reported until they are idle: {counts:?}"
        );
    }

    #[test]
    fn every_limit_has_its_fair_share_once_exchanges_fail() {
        let (limits, mut now) = (limits(), Instant::now());
        let mut reported = ReportedLimits::new(Arc::clone(&limits), now);
        exchange(&mut reported, 3, TOTAL, now);
        for id in ["busy", "another", "queued"] {
            take_all(&limits, id, now);
            if id == "another" {
                exchange(&mut reported, 3, TOTAL, now);
                exchange(&mut reported, 3, TOTAL, now);
            }
        }
        now += LOWER_AFTER;
        assert_eq!(reported.due(), Some(now));
        assert!(!reported.check(now));
        now += RAISE_AFTER - LOWER_AFTER;
        assert!(reported.check(now) && reported.due().is_none());
        for id in ["busy", "another", "queued", "new"] {
            take_all(&limits, id, now);
            let allowed = take_all(&limits, id, now + Duration::from_millis(100));
            assert_eq!(allowed, 3, "{id}: a tenth of a third of the rate");
        }
        assert!(!reported.begin(now), "an exchange would be too late");
        reported.connect(now);
        assert!(reported.begin(now));
        let held: Vec<u32> = reported.reports().map(|(_, report)| report.held).collect();
        assert!(held.iter().all(|held| [fair(3), floor(3)].contains(held)), "{held:?}");
    }

    #[test]
    fn reported_limits_are_bounded() {
        let (limits, now) = (limits(), Instant::now());
        let mut reported = ReportedLimits::new(Arc::clone(&limits), now);
        for round in 0..3 {
            for id in 0..1000 {
                take_all(&limits, &format!("{round}-{id}"), now);
            }
            exchange(&mut reported, 1, TOTAL, now);
        }
        assert_eq!(reported.len(), MAX_REPORTED);
    }
}
