//! A bucket whose rate replicas share: its share can be changed, and it is reported once it is less than half full.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::super::share::{MAX_REPLICAS, TOTAL, fair, floor};
use super::Bucket;
use crate::config::settings::Rate;

/// The most buckets that wait to be reported. Others wait with them once there is room.
const MAX_QUEUED: usize = 1024;

/// The name of a shared limit between replicas: a hash of what it limits.
pub type ShareKey = [u8; 16];

/// The state that all shared buckets have in common.
#[derive(Debug)]
pub struct SharedBuckets {
    /// The share of buckets that are not reported, and in the upper half the number of replicas.
    base: AtomicU64,
    /// The buckets to report.
    queue: Mutex<Vec<Arc<Bucket>>>,
    is_queued: Notify,
}

impl SharedBuckets {
    /// For buckets of which this replica has the same share as of those `before`; `None` if it does not know of the others.
    pub fn next_from(before: Option<&Self>) -> Self {
        let (share, replicas) = before.map_or((floor(MAX_REPLICAS), 1), Self::base);
        let buckets = Self { base: AtomicU64::new(0), queue: Mutex::default(), is_queued: Notify::new() };
        buckets.set_base(share, replicas);
        buckets
    }

    /// The share of buckets that are not reported, and the number of replicas.
    pub fn base(&self) -> (u32, u32) {
        let base = self.base.load(SeqCst);
        (base as u32, (base >> 32) as u32)
    }

    /// Sets [`SharedBuckets::base`] for new buckets.
    pub fn set_base(&self, share: u32, replicas: u32) {
        self.base.store(u64::from(replicas) << 32 | u64::from(share), SeqCst);
    }

    /// Waits until a bucket is queued. Cancel-safe.
    pub async fn queued(&self) {
        self.is_queued.notified().await;
    }

    /// Takes up to `max` buckets that are to be reported.
    pub fn take_queued(&self, max: usize) -> Vec<Arc<Bucket>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.len().min(max);
        queue.drain(..count).collect()
    }
}

/// The state of a bucket's share.
#[derive(Debug)]
pub(super) struct SharedState {
    key: ShareKey,
    /// See [`Dimensions`].
    interval: AtomicI64,
    slack: AtomicI64,
    share: AtomicU32,
    replicas: AtomicU32,
    /// Requests since the last [`Bucket::measure`], also refused ones.
    requests: AtomicU32,
    /// Whether the bucket is queued or reported.
    is_reported: AtomicBool,
    bucket: Weak<Bucket>,
    buckets: Arc<SharedBuckets>,
}

impl SharedState {
    pub(super) fn new(rate: Rate, key: ShareKey, buckets: &Arc<SharedBuckets>, bucket: Weak<Bucket>) -> Self {
        let (share, replicas) = buckets.base();
        let Dimensions { interval, slack } = Dimensions::new(rate, share, replicas);
        Self {
            key,
            interval: interval.into(),
            slack: slack.into(),
            share: share.into(),
            replicas: replicas.into(),
            requests: AtomicU32::new(0),
            is_reported: AtomicBool::new(false),
            bucket,
            buckets: Arc::clone(buckets),
        }
    }

    /// As [`Bucket::take`].
    pub(super) fn take(&self, full_at: &AtomicI64, now: i64) -> Result<(), Duration> {
        let mut current = full_at.load(Relaxed);
        loop {
            self.check(current, now)?;
            let Dimensions { interval, slack } = self.dimensions();
            let next = current.max(now).saturating_add(interval);
            match full_at.compare_exchange_weak(current, next, Relaxed, Relaxed) {
                Ok(_) => {
                    self.requests.fetch_add(1, Relaxed);
                    // Less than half full.
                    if next - now > (slack.saturating_add(interval)) / 2 {
                        self.queue();
                    }
                    return Ok(());
                }
                Err(other) => current = other,
            }
        }
    }

    /// As [`Bucket::check`]. Counts a request that is refused.
    pub(super) fn check(&self, full_at: i64, now: i64) -> Result<(), Duration> {
        let allowed_at = full_at.saturating_sub(self.slack.load(Relaxed));
        if allowed_at <= now {
            return Ok(());
        }
        self.requests.fetch_add(1, Relaxed);
        self.queue();
        // A small share will have grown to the fair one by then, if it is needed.
        let fair = fair(self.replicas.load(Relaxed));
        let growth = (f64::from(self.share.load(Relaxed)) / f64::from(fair)).min(1.0);
        Err(Duration::from_nanos((allowed_at - now) as u64).mul_f64(growth))
    }

    /// What [`Bucket`] has as `interval` and `slack` if its rate is not shared.
    pub(super) fn interval_and_slack(&self) -> (i64, i64) {
        let Dimensions { interval, slack } = self.dimensions();
        (interval, slack)
    }

    fn dimensions(&self) -> Dimensions {
        Dimensions { interval: self.interval.load(Relaxed), slack: self.slack.load(Relaxed) }
    }

    fn queue(&self) {
        if self.is_reported.load(Relaxed) || self.is_reported.swap(true, Relaxed) {
            return;
        }
        let Some(bucket) = self.bucket.upgrade() else { return };
        let mut queue = self.buckets.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < MAX_QUEUED {
            queue.push(bucket);
            self.buckets.is_queued.notify_one();
        } else {
            self.is_reported.store(false, Relaxed);
        }
    }
}

/// The use of a shared bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketUse {
    /// Requests since the last time, also refused ones.
    pub requests: u32,
    /// What would fill the bucket, in requests.
    pub missing: f64,
}

/// What a share makes of a bucket.
#[derive(Clone, Copy, Debug)]
struct Dimensions {
    /// The time in which one request is refilled, in nanoseconds.
    interval: i64,
    /// A request is allowed if the bucket is full within this time, in nanoseconds.
    slack: i64,
}

impl Dimensions {
    /// The rate is multiplied with `share`, and the burst is divided by the number of replicas, so that they do not have
    /// more bursts than one. A bucket holds at least one request.
    fn new(rate: Rate, share: u32, replicas: u32) -> Self {
        let per_second = u64::from(rate.requests_per_second.get()) * u64::from(share.max(1));
        let interval = (1_000_000_000 * u64::from(TOTAL)).div_ceil(per_second);
        let burst = u64::from(rate.burst.get()) * u64::from(TOTAL) / u64::from(replicas.max(1));
        let spare = u128::from(burst.saturating_sub(TOTAL.into())) * u128::from(interval) / u128::from(TOTAL);
        Self { interval: interval as i64, slack: i64::try_from(spare).unwrap_or(i64::MAX / 2) }
    }

    /// The time in which an empty bucket becomes full.
    const fn span(self) -> i64 {
        self.slack.saturating_add(self.interval)
    }
}

impl Bucket {
    /// Changes the share of this replica. The requests in the bucket stay, as far as it can hold them: so all replicas
    /// together never have more than the burst, however shares move between them.
    ///
    /// A request that is taken at the same time may cost its price before the change.
    pub fn set_share(&self, share: u32, replicas: u32, now: Instant) {
        let Some(shared) = &self.shared else { return };
        let now = self.at(now);
        let (before, after) = (shared.dimensions(), Dimensions::new(self.rate, share, replicas));
        let set = || {
            shared.interval.store(after.interval, Relaxed);
            shared.slack.store(after.slack, Relaxed);
            shared.share.store(share, Relaxed);
            shared.replicas.store(replicas, Relaxed);
        };
        let convert = || {
            let _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
                let stock = before.span().saturating_sub(full_at.saturating_sub(now).max(0)).max(0);
                let stock = i128::from(stock) * i128::from(after.interval) / i128::from(before.interval);
                let stock = i64::try_from(stock).unwrap_or(i64::MAX).min(after.span());
                Some(now.saturating_add(after.span() - stock))
            });
        };
        // In the order in which the bucket seems to hold less in between, not more.
        if after.interval < before.interval {
            set();
            convert();
        } else {
            convert();
            set();
        }
    }

    /// The use of a shared bucket since the last time.
    pub fn measure(&self, now: Instant) -> BucketUse {
        let Some(shared) = &self.shared else { return BucketUse { requests: 0, missing: 0.0 } };
        let missing = self.full_at.load(Relaxed).saturating_sub(self.at(now)).max(0);
        BucketUse {
            requests: shared.requests.swap(0, Relaxed),
            missing: missing as f64 / shared.interval.load(Relaxed) as f64,
        }
    }

    /// The key of a shared bucket.
    pub fn share_key(&self) -> ShareKey {
        self.shared.as_ref().map(|shared| shared.key).unwrap_or_default()
    }

    /// Whether the bucket is queued or reported.
    pub fn is_reported(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_reported.load(Relaxed))
    }

    /// The bucket is not reported any more, until it is less than half full again.
    pub fn end_reports(&self) {
        if let Some(shared) = &self.shared {
            shared.is_reported.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::rate;
    use super::*;

    fn buckets(share: u32, replicas: u32) -> Arc<SharedBuckets> {
        let buckets = SharedBuckets::next_from(None);
        buckets.set_base(share, replicas);
        Arc::new(buckets)
    }

    fn take_all(bucket: &Bucket, now: Instant) -> usize {
        (0..).take_while(|_| bucket.take(now).is_ok()).count()
    }

    #[test]
    fn share_divides_the_rate_and_the_number_of_replicas_divides_the_burst() {
        for (share, replicas, burst, in_a_second) in [
            (TOTAL, 1, 30, 30),
            (TOTAL, 3, 10, 10),
            (TOTAL / 4, 1, 30, 25),
            (TOTAL / 20, 3, 10, 5),
            (TOTAL / 100, 1000, 1, 1),
        ] {
            let now = Instant::now();
            let bucket = Bucket::new_shared(rate(100, 30), [0; 16], &buckets(share, replicas), now);
            assert_eq!(take_all(&bucket, now), burst, "{share} {replicas}");
            assert_eq!(take_all(&bucket, now + Duration::from_secs(1)), in_a_second, "{share} {replicas}");
        }
    }

    #[test]
    fn requests_in_a_bucket_stay_when_its_share_changes() {
        let mut now = Instant::now();
        let bucket = Bucket::new_shared(rate(100, 30), [0; 16], &buckets(TOTAL, 1), now);
        for _ in 0..20 {
            bucket.take(now).unwrap();
        }
        for share in [TOTAL / 10, TOTAL, TOTAL / 1000, TOTAL / 2, TOTAL / 10] {
            bucket.set_share(share, 1, now);
        }
        // A tenth of a second refills one request.
        now += Duration::from_millis(105);
        assert!((10..=11).contains(&take_all(&bucket, now)));
        bucket.set_share(TOTAL, 1, now);
        assert_eq!(take_all(&bucket, now), 0);
        assert_eq!(take_all(&bucket, now + Duration::from_millis(105)), 10);
        // A full bucket that shrinks and grows is not full again.
        now += Duration::from_secs(10);
        bucket.set_share(TOTAL, 3, now);
        bucket.set_share(TOTAL, 1, now);
        assert_eq!(take_all(&bucket, now), 10);
    }

    #[test]
    fn bucket_less_than_half_full_is_queued_once() {
        let (now, buckets) = (Instant::now(), buckets(TOTAL, 1));
        let bucket = Bucket::new_shared(rate(100, 30), [7; 16], &buckets, now);
        for _ in 0..14 {
            bucket.take(now).unwrap();
        }
        assert!(buckets.take_queued(9).is_empty() && !bucket.is_reported());
        assert_eq!(take_all(&bucket, now), 16);
        let queued = buckets.take_queued(9);
        assert_eq!(queued.iter().map(|it| it.share_key()).collect::<Vec<_>>(), [[7; 16]]);
        assert!(bucket.take(now).is_err() && bucket.is_reported() && buckets.take_queued(9).is_empty());
        assert_eq!(bucket.measure(now), BucketUse { requests: 32, missing: 30.0 });
        assert_eq!(bucket.measure(now + Duration::from_secs(1)), BucketUse { requests: 0, missing: 0.0 });
        bucket.end_reports();
        assert!(bucket.take(now).is_err());
        assert_eq!(buckets.take_queued(9).len(), 1);
    }

    #[test]
    fn queue_is_bounded_and_a_bucket_without_room_is_queued_later() {
        let (now, shared) = (Instant::now(), buckets(TOTAL, 1));
        let bucket = || Bucket::new_shared(rate(1, 1), [0; 16], &shared, now);
        let all: Vec<_> = (0..MAX_QUEUED + 1).map(|_| bucket()).collect();
        for bucket in &all {
            take_all(bucket, now);
        }
        assert_eq!(shared.take_queued(usize::MAX).len(), MAX_QUEUED);
        assert!(all[MAX_QUEUED].take(now).is_err());
        assert_eq!(shared.take_queued(usize::MAX).len(), 1);
    }

    #[test]
    fn retry_after_of_a_small_share_is_that_of_a_fair_one() {
        let now = Instant::now();
        let bucket = Bucket::new_shared(rate(1, 1), [0; 16], &buckets(TOTAL / 60, 3), now);
        assert_eq!(take_all(&bucket, now), 1);
        let wait = bucket.take(now).unwrap_err();
        assert!((3.0..3.01).contains(&wait.as_secs_f64()), "{wait:?}");
    }

    proptest! {
        /// Replicas whose shares add up to the limit allow no more than one bucket would, but for one request each.
        #[test]
        fn buckets_of_all_replicas_allow_the_burst_and_the_rate(
            requests_per_second in 1_u32..500,
            burst in 3_u32..60,
            steps in prop::collection::vec((0_u64..300, 0_usize..3, 0_u32..40, 1..TOTAL, any::<u32>()), 1..60),
        ) {
            let start = Instant::now();
            let shared = buckets(TOTAL / 3, 3);
            let rate = rate(requests_per_second, burst);
            let buckets: Vec<_> =
                (0..3).map(|_| Bucket::new_shared(rate, [0; 16], &shared, start)).collect();
            let (mut now, mut allowed) = (start, 0_u32);
            for (wait, number, requests, first, second) in steps {
                now += Duration::from_millis(wait);
                allowed += (0..requests).filter(|_| buckets[number].take(now).is_ok()).count() as u32;
                let second = second % (TOTAL - first) + 1;
                let shares = [first, second, (TOTAL - first - second).max(1)];
                for (bucket, share) in buckets.iter().zip(shares) {
                    bucket.set_share(share, 3, now);
                }
                let most = f64::from(burst) + (now - start).as_secs_f64() * f64::from(requests_per_second);
                prop_assert!(f64::from(allowed) <= most + 0.01, "{allowed} {most}");
            }
        }
    }
}
