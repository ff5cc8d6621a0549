//! `rate_limit`: the request rate of a token and its requests in flight, in all its spellings and on all workers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::bucket::Bucket;
use super::counter::{CountGuard, Counter};
use super::exceeded;
use super::table::Table;
use crate::config::settings::RateLimit;
use crate::policy::refusal::{Exceeded, Limit};

/// The limits of all tokens.
///
/// A cached verdict holds the limits of its token, so that a request neither hashes nor locks: 16 ns, against 90 to
/// 190 ns in a keyed table, and twice that when two workers contend. The tables here keep buckets and counters for later
/// verdicts and for other spellings of a token. A bucket that no verdict holds is dropped once it is full.
#[derive(Debug)]
pub struct TokenLimits {
    settings: RateLimit,
    buckets: Table<Key, Arc<Bucket>>,
    in_flight: Arc<InFlightCounts>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    id: Box<str>,
    /// Set for the bucket that `by_name` adds.
    name: Option<Box<str>>,
}

/// The requests in flight of each token, by its id. They belong to the process: a reload that changes the limit counts
/// the requests of earlier configurations.
#[derive(Debug)]
pub struct InFlightCounts(Table<Box<str>, Arc<Counter>>);

impl Default for InFlightCounts {
    fn default() -> Self {
        Self(Table::new(usize::MAX))
    }
}

impl InFlightCounts {
    fn of(&self, id: &str) -> Arc<Counter> {
        // The cached verdicts of a token and its requests in flight hold its counter.
        let is_idle = |counter: &Arc<Counter>| Arc::strong_count(counter) == 1;
        self.0.with(id.into(), Arc::default, is_idle, Arc::clone)
    }
}

/// The limits of one token.
#[derive(Debug)]
pub struct TokenLimit {
    own: Arc<Bucket>,
    /// `None` if the token has its own bucket only, which most have.
    further: Option<Box<FurtherLimits>>,
}

/// The limits of a token in addition to its own bucket.
#[derive(Debug)]
struct FurtherLimits {
    /// The owner of the token can change its name, so a name may only lower the limit.
    by_name: Option<Arc<Bucket>>,
    in_flight: Option<InFlightLimit>,
}

#[derive(Debug)]
struct InFlightLimit {
    count: Arc<Counter>,
    max: NonZeroU32,
}

impl TokenLimit {
    /// Takes one request that arrived at `now`. A tunnel does not count as in flight. The guard counts the request until
    /// it is dropped; `None` if `in_flight` is off.
    ///
    /// # Errors
    /// The first of its limits that is exceeded. The others are not reduced then, unless two requests contend for the
    /// last one.
    pub fn take(&self, now: Instant, is_tunnel: bool) -> Result<Option<CountGuard>, Exceeded> {
        let own = |wait| refuse(Limit::RequestsPerSecond, &self.own, wait);
        let Some(further) = &self.further else { return self.own.take(now).map(|()| None).map_err(own) };
        let by_name = further.by_name.as_deref();
        let check = |limit, bucket: &Bucket| bucket.check(now).map_err(|wait| refuse(limit, bucket, wait));
        if let Some(bucket) = by_name {
            check(Limit::ByName, bucket)?;
        }
        check(Limit::RequestsPerSecond, &self.own)?;
        let guard = match &further.in_flight {
            Some(limit) if !is_tunnel => Some(limit.admit()?),
            _ => None,
        };
        if let Some(bucket) = by_name {
            bucket.take(now).map_err(|wait| refuse(Limit::ByName, bucket, wait))?;
        }
        self.own.take(now).map(|()| guard).map_err(own)
    }
}

impl InFlightLimit {
    fn admit(&self) -> Result<CountGuard, Exceeded> {
        let refuse = || exceeded(Limit::InFlight, self.max, Duration::ZERO, SystemTime::now());
        self.count.admit(self.max).ok_or_else(refuse)
    }
}

#[cold]
fn refuse(limit: Limit, bucket: &Bucket, wait: Duration) -> Exceeded {
    exceeded(limit, bucket.rate().burst, wait, SystemTime::now())
}

impl TokenLimits {
    /// Creates the table for `settings`.
    pub fn new(settings: RateLimit, in_flight: Arc<InFlightCounts>) -> Self {
        Self { settings, buckets: Table::new(usize::MAX), in_flight }
    }

    /// The settings.
    pub const fn settings(&self) -> &RateLimit {
        &self.settings
    }

    /// The limit of the token with this introspected id and name.
    pub fn limit(&self, id: &str, name: Option<&str>, now: Instant) -> TokenLimit {
        let RateLimit { default, by_name, by_id } = &self.settings;
        let allowance = *by_id.get(id).unwrap_or(default);
        let bucket = |name: Option<&str>, rate| {
            let key = Key { id: id.into(), name: name.map(Into::into) };
            let is_idle = |it: &Arc<Bucket>| Arc::strong_count(it) == 1 && it.is_full(now);
            self.buckets.with(key, || Arc::new(Bucket::new(rate, now)), is_idle, Arc::clone)
        };
        let lowered = name.and_then(|name| by_name.get(name)).map(|by_name| allowance.min(*by_name));
        let rate = lowered.map(|lowered| lowered.rate).filter(|rate| *rate != allowance.rate);
        let further = FurtherLimits {
            by_name: rate.map(|rate| bucket(name, rate)),
            in_flight: lowered
                .unwrap_or(allowance)
                .in_flight
                .map(|max| InFlightLimit { count: self.in_flight.of(id), max }),
        };
        let is_used = further.by_name.is_some() || further.in_flight.is_some();
        TokenLimit { own: bucket(None, allowance.rate), further: is_used.then(|| Box::new(further)) }
    }
}

#[cfg(test)]
mod tests;
