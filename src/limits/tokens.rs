//! `rate_limit`: how often one token may come, however it is spelled and whichever core serves it.

use std::sync::Arc;
use std::time::Instant;

use super::bucket::Bucket;
use super::table::Table;
use crate::config::settings::RateLimit;
use crate::policy::refusal::Exceeded;

/// The buckets of all tokens.
///
/// A verdict keeps the buckets of its token, so that a request neither hashes nor locks: 16 ns, against 90 to
/// 190 in a keyed table, and again twice that when two cores are at it. Here they are kept
/// for the verdicts that come later or from other spellings; a bucket that no verdict holds goes when it has
/// filled up again.
#[derive(Debug)]
pub struct Tokens {
    settings: RateLimit,
    buckets: Table<Key, Arc<Bucket>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    id: Box<str>,
    /// Of the bucket that `by_name` adds.
    name: Option<Box<str>>,
}

/// What limits one token.
#[derive(Debug)]
pub struct TokenLimit {
    own: Arc<Bucket>,
    /// A name can be chosen and changed by the token's owner. Whatever it is, its bucket comes on top.
    by_name: Option<Arc<Bucket>>,
}

impl TokenLimit {
    /// Takes one request that came at `now`.
    ///
    /// # Errors
    /// Where none is left.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        if let Some(bucket) = &self.by_name {
            bucket.take(now)?;
        }
        self.own.take(now)
    }
}

impl Tokens {
    /// Limits as configured.
    pub fn new(settings: RateLimit) -> Self {
        Self { settings, buckets: Table::new(usize::MAX) }
    }

    /// What limits the token of this id and name, as introspection says them.
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

    fn tokens() -> Tokens {
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
        Tokens::new(settings)
    }

    fn taken(limit: &TokenLimit, now: Instant) -> usize {
        (0..).take_while(|_| limit.take(now).is_ok()).count()
    }

    #[test]
    fn a_name_lowers_and_an_id_does_both() {
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
            assert_eq!(taken(&limit, now), at_once, "{id} {name:?}");
            assert_eq!(taken(&limit, now + Duration::from_secs(1)), in_a_second, "{id} {name:?}");
        }
    }

    #[test]
    fn one_id_has_one_bucket_whatever_its_names() {
        let (tokens, now) = (tokens(), Instant::now());
        let limit = |id, name| tokens.limit(id, name, now);
        let (one, other) = (limit("1", None), limit("1", Some("renamed")));
        for _ in 0..10 {
            one.take(now).unwrap();
            other.take(now).unwrap();
        }
        let again = limit("1", Some("again"));
        assert_eq!((taken(&one, now), taken(&other, now), taken(&again, now)), (0, 0, 0));
        assert_eq!(taken(&limit("2", None), now), 20, "of another token");
        // Nor does a name that was lowered, and left, give anything back.
        let (named, plain) = (limit("3", Some("slow")), limit("3", None));
        assert_eq!((taken(&named, now), taken(&plain, now)), (5, 15));
    }

    #[test]
    fn a_bucket_outlives_its_verdict_until_it_is_full() {
        let (tokens, mut now) = (tokens(), Instant::now());
        let in_all = |id, now| taken(&tokens.limit(id, None, now), now);
        assert_eq!(in_all("1", now), 20);
        let held = tokens.limit("2", None, now);
        let flood = |ids: std::ops::Range<u32>, now| {
            for id in ids {
                drop(tokens.limit(&format!("flood-{id}"), None, now));
            }
            tokens.buckets.len()
        };
        assert!(flood(0..50_000, now) < 3000);
        assert_eq!(in_all("1", now), 0, "it is not full yet");
        now += Duration::from_secs(1);
        assert_eq!(in_all("1", now), 10);
        now += Duration::from_secs(100);
        assert!(flood(50_000..100_000, now) < 3000);
        assert_eq!(taken(&held, now), 20);
        assert_eq!(in_all("2", now), 0, "a bucket that is held is the only one of its token");
    }

    #[test]
    fn cores_share_a_bucket() {
        let tokens = Tokens::new(RateLimit {
            default: rate(1, 1000),
            by_name: Default::default(),
            by_id: Default::default(),
        });
        let now = Instant::now();
        let counts = std::thread::scope(|scope| {
            let core = || {
                let limit = tokens.limit("1", None, now);
                (0..1000).filter(|_| limit.take(now).is_ok()).count()
            };
            let cores: Vec<_> = (0..4).map(|_| scope.spawn(core)).collect();
            cores.into_iter().map(|core| core.join().unwrap()).sum::<usize>()
        });
        assert_eq!(counts, 1000);
    }
}
