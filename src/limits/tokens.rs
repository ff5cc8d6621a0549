//! `rate_limit`: the limits of a token, in all its spellings and on all workers.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use super::bucket::{Bucket, ShareKey, SharedBuckets};
use super::counter::{CountGuard, Counter};
use super::exceeded;
use super::fields::{PolicyItem, RateLimitFields};
use super::quota::{QuotaCounter, QuotaCounts, Window};
use super::table::Table;
use crate::config::settings::{Allowance, QuotaPeriod, Rate, RateLimit};
use crate::policy::ability::{Abilities, Requirement};
use crate::policy::query::QueryCheck;
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
    counts: Arc<TokenCounts>,
    /// Set if replicas share the rates.
    shared: Option<Arc<SharedBuckets>>,
}

/// The holder of a bucket.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// All tokens of the workspace with this id.
    Workspace(Box<str>),
    /// The token with this id, for requests by this ability.
    Ability { id: Box<str>, ability: Box<str> },
    /// The token with this id, while it has this name.
    Name { id: Box<str>, name: Box<str> },
    /// The token with this id.
    Token(Box<str>),
}

impl Key {
    /// The name of the bucket between replicas, which does not tell whose it is.
    fn share_key(&self) -> ShareKey {
        let (kind, first, second): (u8, &str, &str) = match self {
            Self::Workspace(id) => (0, id, ""),
            Self::Ability { id, ability } => (1, id, ability),
            Self::Name { id, name } => (2, id, name),
            Self::Token(id) => (3, id, ""),
        };
        let mut hash = Sha256::new();
        hash.update([kind]);
        hash.update((first.len() as u64).to_le_bytes());
        hash.update(first);
        hash.update(second);
        let mut key = ShareKey::default();
        key.copy_from_slice(&hash.finalize()[..16]);
        key
    }
}

/// What is counted of each token, by its id. The counts belong to the process: a reload that changes a limit counts the
/// requests of earlier configurations.
#[derive(Debug)]
pub struct TokenCounts {
    in_flight: Table<Box<str>, Arc<Counter>>,
    pub(super) quotas: Arc<QuotaCounts>,
}

impl Default for TokenCounts {
    fn default() -> Self {
        Self { in_flight: Table::new(usize::MAX), quotas: Arc::default() }
    }
}

impl TokenCounts {
    fn in_flight(&self, id: &str) -> Arc<Counter> {
        // The cached verdicts of a token and its requests in flight hold its counter.
        let is_idle = |counter: &Arc<Counter>| Arc::strong_count(counter) == 1;
        self.in_flight.with(id.into(), Arc::default, is_idle, Arc::clone)
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
    /// `None` without `by_workspace`, and if the token has no workspace or a rate of its own.
    workspace: Option<Arc<Bucket>>,
    /// One for each ability of `by_ability`, in its order, created by the first request by this ability.
    abilities: Box<[OnceLock<Arc<Bucket>>]>,
    /// The owner of the token can change its name, so a name may only lower the limit.
    by_name: Option<Arc<Bucket>>,
    in_flight: Option<InFlightLimit>,
    quota: Option<QuotaLimit>,
}

/// A token, as introspected.
#[derive(Clone, Copy, Debug)]
pub struct TokenIdentity<'a> {
    /// The id.
    pub id: &'a str,
    /// The name, which its owner chose.
    pub name: Option<&'a str>,
    /// The workspace.
    pub workspace_id: Option<&'a str>,
}

/// A request of a token, as far as limits depend on it.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// When it arrived.
    pub now: Instant,
    /// The token's id.
    pub id: &'a str,
    /// The token's abilities.
    pub abilities: &'a Abilities,
    /// The requirement of its rule; `None` if shadow mode forwards a request without one.
    pub requirement: Option<&'a Requirement>,
    /// The rules for its query; `None` if its route has none.
    pub query: Option<QueryCheck<'a>>,
}

impl TokenRequest<'_> {
    /// Whether `ability` is one of those by which the token satisfies the requirements of the method and of the query.
    fn needs(&self, ability: &str) -> bool {
        let Self { abilities, requirement, query, .. } = self;
        requirement.is_some_and(|it| it.is_satisfied_through(ability, abilities))
            || query.is_some_and(|query| query.is_satisfied_through(ability, abilities))
    }
}

#[derive(Debug)]
struct QuotaLimit {
    counter: Arc<QuotaCounter>,
    max: NonZeroU32,
    period: QuotaPeriod,
}

#[derive(Debug)]
struct InFlightLimit {
    count: Arc<Counter>,
    max: NonZeroU32,
}

impl TokenLimit {
    /// Takes one request. `tokens` made this limit. The guard counts the request as in flight until it is dropped; `None`
    /// if `in_flight` is off.
    ///
    /// # Errors
    /// The first of its limits that is exceeded. The others are not reduced then, unless two requests contend for the
    /// last one.
    pub fn take(
        &self,
        tokens: &TokenLimits,
        request: &TokenRequest<'_>,
    ) -> Result<Option<CountGuard>, Exceeded> {
        let now = request.now;
        let Some(further) = &self.further else {
            let taken = self.own.take(now).map(|()| None);
            return taken.map_err(|wait| refuse(Limit::RequestsPerSecond, &self.own, wait));
        };
        let quota = further.quota.as_ref().map(|quota| (quota, SystemTime::now()));
        if let Some((quota, wall)) = quota {
            quota.counter.check(quota.window(wall), quota.max).map_err(|_| quota.refuse(wall))?;
        }
        for (limit, _, bucket) in self.buckets(further, tokens, request) {
            bucket.check(now).map_err(|wait| refuse(limit, bucket, wait))?;
        }
        let guard = further.in_flight.as_ref().map(InFlightLimit::admit).transpose()?;
        for (limit, _, bucket) in self.buckets(further, tokens, request) {
            bucket.take(now).map_err(|wait| refuse(limit, bucket, wait))?;
        }
        if let Some((quota, wall)) = quota {
            quota.counter.take(quota.window(wall), quota.max).map_err(|_| quota.refuse(wall))?;
        }
        Ok(guard)
    }

    /// The fields that tell a client what its limits are and what is left of them.
    pub fn fields(&self, tokens: &TokenLimits, request: &TokenRequest<'_>) -> RateLimitFields {
        let mut fields = RateLimitFields::default();
        let further = self.further.as_deref();
        if let Some(quota) = further.and_then(|further| further.quota.as_ref()) {
            let now = SystemTime::now();
            let window = quota.window(now);
            fields.push(&PolicyItem {
                limit: Limit::Quota,
                ability: None,
                allowed: quota.max,
                window: Some(window.length()),
                remaining: u64::from(quota.max.get()).saturating_sub(quota.counter.used(window).count),
                reset: Some(window.left(now)),
            });
        }
        let mut push = |limit, ability, bucket: &Bucket| {
            let (remaining, reset) = bucket.level(request.now);
            let Rate { requests_per_second, burst } = bucket.rate();
            let window = f64::from(burst.get()) / f64::from(requests_per_second.get());
            let window = Some(Duration::from_secs_f64(window));
            fields.push(&PolicyItem { limit, ability, allowed: burst, window, remaining, reset });
        };
        match further {
            Some(further) => {
                for (limit, ability, bucket) in self.buckets(further, tokens, request) {
                    push(limit, ability, bucket);
                }
            }
            None => push(Limit::RequestsPerSecond, None, &self.own),
        }
        if let Some(InFlightLimit { count, max }) = further.and_then(|further| further.in_flight.as_ref()) {
            fields.push(&PolicyItem {
                limit: Limit::InFlight,
                ability: None,
                allowed: *max,
                window: None,
                remaining: u64::from(max.get().saturating_sub(count.count())),
                reset: None,
            });
        }
        fields
    }

    /// The buckets of a request, in the order in which they are checked. Those of `by_ability` with their ability.
    fn buckets<'a>(
        &'a self,
        further: &'a FurtherLimits,
        tokens: &'a TokenLimits,
        request: &'a TokenRequest<'_>,
    ) -> impl Iterator<Item = (Limit, Option<&'a str>, &'a Bucket)> {
        let workspace = further.workspace.iter().map(|bucket| (Limit::ByWorkspace, None, bucket));
        let by_ability = tokens.settings.by_ability.iter().zip(&further.abilities);
        let by_ability = by_ability.filter(|((ability, _), _)| request.needs(ability));
        let by_ability = by_ability.map(|((ability, rate), bucket)| {
            let key = || Key::Ability { id: request.id.into(), ability: ability.clone() };
            let bucket = bucket.get_or_init(|| tokens.bucket(key(), *rate, request.now));
            (Limit::ByAbility, Some(&**ability), bucket)
        });
        let by_name = further.by_name.iter().map(|bucket| (Limit::ByName, None, bucket));
        let own = [(Limit::RequestsPerSecond, None, &self.own)];
        let buckets = workspace.chain(by_ability).chain(by_name).chain(own);
        buckets.map(|(limit, ability, bucket)| (limit, ability, &**bucket))
    }
}

impl QuotaLimit {
    fn window(&self, now: SystemTime) -> Window {
        Window::at(self.period, now)
    }

    #[cold]
    fn refuse(&self, now: SystemTime) -> Exceeded {
        exceeded(Limit::Quota, self.max, self.window(now).left(now), now)
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
    pub fn new(settings: RateLimit, counts: Arc<TokenCounts>, shared: SharedBuckets) -> Self {
        let shared = settings.shared.then(|| Arc::new(shared));
        Self { settings, buckets: Table::new(usize::MAX), counts, shared }
    }

    /// What the shared buckets have in common; `None` if replicas do not share the rates.
    pub const fn shared(&self) -> Option<&Arc<SharedBuckets>> {
        self.shared.as_ref()
    }

    /// Sets the share of each bucket that is not reported, and the number of replicas.
    pub fn set_base(&self, share: u32, replicas: u32, now: Instant) {
        let Some(shared) = &self.shared else { return };
        // First for buckets that are created from now on.
        shared.set_base(share, replicas);
        self.buckets.for_each(|bucket| {
            if !bucket.is_reported() {
                bucket.set_share(share, replicas, now);
            }
        });
    }

    /// The settings.
    pub const fn settings(&self) -> &RateLimit {
        &self.settings
    }

    /// The limit of a token.
    pub fn limit(&self, token: TokenIdentity<'_>, now: Instant) -> TokenLimit {
        let RateLimit { default, by_name, by_id, by_ability, by_workspace, quota_period, .. } =
            &self.settings;
        let TokenIdentity { id, name, workspace_id } = token;
        let own = by_id.get(id).unwrap_or(default);
        let lowered = name.and_then(|name| Some((name, own.min(*by_name.get(name)?))));
        let Allowance { in_flight, quota, .. } = lowered.map_or(*own, |(_, lowered)| lowered);
        let lowered = lowered.filter(|(_, lowered)| lowered.rate != own.rate);
        let workspace_id = workspace_id.filter(|_| *by_workspace && !own.has_own_rate);
        let further = FurtherLimits {
            workspace: workspace_id.map(|id| self.bucket(Key::Workspace(id.into()), default.rate, now)),
            abilities: by_ability.iter().map(|_| OnceLock::new()).collect(),
            by_name: lowered.map(|(name, lowered)| {
                self.bucket(Key::Name { id: id.into(), name: name.into() }, lowered.rate, now)
            }),
            in_flight: in_flight.map(|max| InFlightLimit { count: self.counts.in_flight(id), max }),
            quota: quota.zip(*quota_period).map(|(max, period)| {
                let window = Window::at(period, SystemTime::now());
                QuotaLimit { counter: self.counts.quotas.of(id, window), max, period }
            }),
        };
        let is_used = further.workspace.is_some()
            || !further.abilities.is_empty()
            || further.by_name.is_some()
            || further.in_flight.is_some()
            || further.quota.is_some();
        TokenLimit {
            own: self.bucket(Key::Token(id.into()), own.rate, now),
            further: is_used.then(|| Box::new(further)),
        }
    }

    fn bucket(&self, key: Key, rate: Rate, now: Instant) -> Arc<Bucket> {
        let is_idle = |it: &Arc<Bucket>| Arc::strong_count(it) == 1 && it.is_full(now);
        let shared = self.shared.as_ref().map(|shared| (key.share_key(), shared));
        let new = || match shared {
            Some((share_key, shared)) => Bucket::new_shared(rate, share_key, shared, now),
            None => Arc::new(Bucket::new(rate, now)),
        };
        self.buckets.with(key, new, is_idle, Arc::clone)
    }
}

#[cfg(test)]
mod tests;
