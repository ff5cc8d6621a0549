//! `rate_limit`: the request rate of a token, in all its spellings and on all workers.

use std::sync::Arc;
use std::time::Instant;

use super::bucket::Bucket;
use super::table::Table;
use crate::config::settings::RateLimit;
use crate::policy::refusal::Exceeded;

/// The buckets of all tokens.
///
/// A cached verdict holds the buckets of its token, so that a request neither hashes nor locks: 16 ns, against 90 to
/// 190 ns in a keyed table, and twice that when two workers contend. This table keeps the buckets for later verdicts
/// and for other spellings of a token. A bucket that no verdict holds is dropped once it is full.
#[derive(Debug)]
pub struct TokenLimits {
    settings: RateLimit,
    buckets: Table<Key, Arc<Bucket>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    id: Box<str>,
    /// Set for the bucket that `by_name` adds.
    name: Option<Box<str>>,
}

/// The limit of one token.
#[derive(Debug)]
pub struct TokenLimit {
    own: Arc<Bucket>,
    /// A second bucket, in addition to `own`: the owner of the token can change its name, so a name may only lower
    /// the limit.
    by_name: Option<Arc<Bucket>>,
}

impl TokenLimit {
    /// Takes one request that arrived at `now`.
    ///
    /// # Errors
    /// [`Exceeded`] if a bucket is empty.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        if let Some(bucket) = &self.by_name {
            bucket.take(now)?;
        }
        self.own.take(now)
    }
}

impl TokenLimits {
    /// Creates the table for `settings`.
    pub fn new(settings: RateLimit) -> Self {
        Self { settings, buckets: Table::new(usize::MAX) }
    }

    /// The limit of the token with this introspected id and name.
    pub fn limit(&self, id: &str, name: Option<&str>, now: Instant) -> TokenLimit {
        let RateLimit { default, by_name, by_id } = &self.settings;
        let own = *by_id.get(id).unwrap_or(default);
        let bucket = |name: Option<&str>, rate| {
            let key = Key { id: id.into(), name: name.map(Into::into) };
            let is_idle = |it: &Arc<Bucket>| Arc::strong_count(it) == 1 && it.drain_if_full(now);
            self.buckets.with(key, || Arc::new(Bucket::new(rate, now)), is_idle, Arc::clone)
        };
        let lowered = name.and_then(|name| by_name.get(name)).map(|rate| own.min(*rate));
        TokenLimit {
            own: bucket(None, own),
            by_name: lowered.filter(|rate| *rate != own).map(|rate| bucket(name, rate)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rate;
    use super::*;

    fn tokens() -> TokenLimits {
        let settings = RateLimit {
            default: rate(10, 20),
            by_name: [
                ("slow", rate(2, 5)),
                ("greedy", rate(1000, 1000)),
                ("calm", rate(2, 1000)),
                ("bursting", rate(99, 3)),
            ]
            .map(|(name, rate)| (name.into(), rate))
            .into(),
            by_id: [("7", rate(100, 200)), ("8", rate(1, 1))].map(|(id, rate)| (id.into(), rate)).into(),
        };
        TokenLimits::new(settings)
    }

    fn take_all(limit: &TokenLimit, now: Instant) -> usize {
        (0..).take_while(|_| limit.take(now).is_ok()).count()
    }

    #[test]
    fn by_name_lowers_a_limit_and_by_id_replaces_it() {
        for (id, name, at_once, in_a_second) in [
            ("1", None, 20, 10),
            ("1", Some("unknown"), 20, 10),
            ("1", Some("slow"), 5, 2),
            ("1", Some("greedy"), 20, 10),
            ("1", Some("calm"), 20, 2),
            ("1", Some("bursting"), 3, 3),
            ("7", None, 200, 100),
            ("7", Some("slow"), 5, 2),
            ("7", Some("greedy"), 200, 100),
            ("8", None, 1, 1),
            ("8", Some("greedy"), 1, 1),
            ("8", Some("slow"), 1, 1),
        ] {
            let now = Instant::now();
            let limit = tokens().limit(id, name, now);
            assert_eq!(take_all(&limit, now), at_once, "{id} {name:?}");
            assert_eq!(take_all(&limit, now + Duration::from_secs(1)), in_a_second, "{id} {name:?}");
        }
    }

    #[test]
    fn tokens_with_one_id_share_a_bucket_whatever_their_names() {
        let (tokens, now) = (tokens(), Instant::now());
        let limit = |id, name| tokens.limit(id, name, now);
        let (one, other) = (limit("1", None), limit("1", Some("renamed")));
        for _ in 0..10 {
            one.take(now).unwrap();
            other.take(now).unwrap();
        }
        let third = limit("1", Some("again"));
        assert_eq!((take_all(&one, now), take_all(&other, now), take_all(&third, now)), (0, 0, 0));
        assert_eq!(take_all(&limit("2", None), now), 20, "another token has its own bucket");
        // Renaming a token does not reset its limit.
        let (named, plain) = (limit("3", Some("slow")), limit("3", None));
        assert_eq!((take_all(&named, now), take_all(&plain, now)), (5, 15));
    }

    #[test]
    fn bucket_outlives_its_verdict_until_it_is_full() {
        let (tokens, mut now) = (tokens(), Instant::now());
        let take_all_of = |id, now| take_all(&tokens.limit(id, None, now), now);
        assert_eq!(take_all_of("1", now), 20);
        let held = tokens.limit("2", None, now);
        let flood = |ids: std::ops::Range<u32>, now| {
            for id in ids {
                drop(tokens.limit(&format!("flood-{id}"), None, now));
            }
            tokens.buckets.len()
        };
        assert!(flood(0..50_000, now) < 3000);
        assert_eq!(take_all_of("1", now), 0, "a bucket that is not full is kept");
        now += Duration::from_secs(1);
        assert_eq!(take_all_of("1", now), 10);
        now += Duration::from_secs(100);
        assert!(flood(50_000..100_000, now) < 3000);
        assert_eq!(take_all(&held, now), 20);
        assert_eq!(take_all_of("2", now), 0, "a bucket in use is never replaced");
    }

    #[test]
    fn threads_share_a_bucket() {
        let tokens = TokenLimits::new(RateLimit {
            default: rate(1, 1000),
            by_name: Default::default(),
            by_id: Default::default(),
        });
        let now = Instant::now();
        let counts = std::thread::scope(|scope| {
            let worker = || {
                let limit = tokens.limit("1", None, now);
                (0..1000).filter(|_| limit.take(now).is_ok()).count()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
        });
        assert_eq!(counts, 1000);
    }
}
