//! Looks up the verdict of a token: in the worker's front cache, in the cache that all workers share, at the
//! introspector.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::introspect::completed;
use super::cache::{CacheEntry, Feedback, Freshness, Inactivity, IntrospectionResult, TokenCache};
use super::hash::TokenHash;
use super::introspection_limiter::IntrospectionLimiter;
use super::introspector::Introspector;
use super::verdict::Verdict;
use crate::client::pool::CallerAccount;
use crate::config::settings::IntrospectionStyle;
use crate::limits::failures::FailingClient;
use crate::policy::bearer::Token;
use crate::policy::identity::{Described, Identity, IdentityHeader};
use crate::policy::refusal::Refusal;
use crate::telemetry::access::TokenFields;
use crate::telemetry::metrics::{LookupResult, WorkerMetrics};
use crate::telemetry::spans::Trace;

mod introspect;

/// Slots of the front cache of one worker; a power of two.
const FRONT_SLOTS: usize = 1024;

/// One hit in this many is reported to moka, whose bookkeeping of a hit costs 130 ns on one worker and 800 ns if two workers
/// do it at once.
const HITS_PER_TOUCH: u32 = 64;

/// Pause after an introspection without a verdict, in which `stale_if_error` serves without another attempt.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// The state that all workers share.
pub struct SharedVerdicts {
    /// The verdicts.
    pub cache: TokenCache,
    /// The bound on concurrent introspections.
    pub introspections: IntrospectionLimiter,
}

/// A cache entry in use by one worker, behind an `Rc`: a clone takes no atomic instruction.
#[derive(Debug)]
pub struct CachedToken {
    entry: Arc<CacheEntry>,
    hash: TokenHash,
    hits: Cell<u32>,
    identity: OnceCell<Identity>,
    /// The token's fields of access lines, encoded by the first line.
    pub logged: OnceCell<TokenFields>,
    /// The account of its holder in the queue for the backend, set by the first request.
    pub account: OnceCell<Rc<CallerAccount>>,
    /// The index of the token's usage counters in this worker's table. Only `usage` interprets it.
    pub usage_slot: Cell<u64>,
}

impl CachedToken {
    /// The identity fields for the backend. The first request writes them; later ones clone them without an atomic
    /// instruction.
    ///
    /// # Errors
    /// As [`Identity::new`].
    pub fn identity(&self, wanted: &[IdentityHeader]) -> Result<Identity, Refusal> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity.clone());
        }
        let Verdict { id, name, abilities, workspace_id, .. } = &self.verdict;
        let described =
            Described { id, name: name.as_deref(), abilities, workspace_id: workspace_id.as_deref() };
        let identity = Identity::new(wanted, described)?;
        Ok(self.identity.get_or_init(|| identity).clone())
    }
}

impl std::ops::Deref for CachedToken {
    type Target = CacheEntry;

    fn deref(&self) -> &CacheEntry {
        &self.entry
    }
}

/// A request for the verdict of a token.
#[derive(Clone, Copy)]
pub struct LookupRequest<'a> {
    /// The token.
    pub token: Token<'a>,
    /// The time of the request.
    pub now: Instant,
    /// The introspection of an active verdict began at this time or later; `None` if any will do.
    pub introspected_since: Option<Instant>,
    /// The trace of the request, of which an introspection is a part.
    pub trace: Option<&'a Rc<Trace>>,
}

/// How the token of one request was looked up.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookupStats {
    /// Time spent waiting for a verdict.
    pub waited: Duration,
    /// The result of the cache lookup.
    pub cache: Option<LookupResult>,
}

/// Looks up verdicts for one worker.
pub struct Lookup {
    shared: Arc<SharedVerdicts>,
    front: RefCell<Box<[Option<Rc<CachedToken>>]>>,
    introspector: Introspector,
    metrics: WorkerMetrics,
    logged_at: Cell<Option<Instant>>,
}

impl Lookup {
    /// A lookup with an empty front cache.
    pub fn new(shared: Arc<SharedVerdicts>, introspector: Introspector, metrics: WorkerMetrics) -> Rc<Self> {
        let front = RefCell::new(vec![None; FRONT_SLOTS].into_boxed_slice());
        Rc::new(Self { shared, front, introspector, metrics, logged_at: Cell::new(None) })
    }

    /// The introspector.
    pub const fn introspector(&self) -> &Introspector {
        &self.introspector
    }

    /// The verdict of a token: from the front cache, the shared cache, or introspection. An inactive token counts as a
    /// failure of `client`.
    ///
    /// # Errors
    /// As [`Lookup::get_or_introspect`].
    pub async fn verdict(
        self: &Rc<Self>,
        request: &LookupRequest<'_>,
        client: Option<FailingClient<'_>>,
        stats: &mut LookupStats,
    ) -> Result<Rc<CachedToken>, Refusal> {
        let hash = TokenHash::of(request.token.as_bytes());
        match self.local_verdict(&hash, request, stats) {
            Some(cached) => Ok(cached),
            None => Box::pin(self.shared_verdict(hash, request, client, stats)).await,
        }
    }

    /// The verdict of a token, if it is in the front cache.
    pub fn local_verdict(
        self: &Rc<Self>,
        hash: &TokenHash,
        request: &LookupRequest<'_>,
        stats: &mut LookupStats,
    ) -> Option<Rc<CachedToken>> {
        let cached = self.get_local(hash, request)?;
        stats.cache = Some(LookupResult::Hit);
        Some(cached)
    }

    /// The verdict of a token that is not in the front cache. Its future is rarely needed, and too large to be a part of
    /// that of every request.
    ///
    /// # Errors
    /// As [`Lookup::get_or_introspect`].
    pub async fn shared_verdict(
        self: &Rc<Self>,
        hash: TokenHash,
        request: &LookupRequest<'_>,
        client: Option<FailingClient<'_>>,
        stats: &mut LookupStats,
    ) -> Result<Rc<CachedToken>, Refusal> {
        let now = Instant::now();
        let request = LookupRequest { now, ..*request };
        let verdict = self.get_or_introspect(hash, &request, client, stats).await;
        stats.waited += now.elapsed();
        verdict
    }

    /// The verdict in the front cache, if it is usable and was introspected in time. Serves almost every request, without
    /// waiting.
    pub fn get_local(
        self: &Rc<Self>,
        hash: &TokenHash,
        request: &LookupRequest<'_>,
    ) -> Option<Rc<CachedToken>> {
        let cached =
            self.in_front(hash).filter(|cached| cached.is_introspected_since(request.introspected_since))?;
        match self.shared.cache.freshness(&cached, request.now) {
            Freshness::Fresh => {}
            Freshness::Refresh => self.refresh(request.token, &cached),
            Freshness::Stale | Freshness::Outdated | Freshness::Expired | Freshness::Evicted => return None,
        }
        self.metrics.cache_lookup(LookupResult::Hit);
        Some(cached)
    }

    /// Whether the verdict is fresh. Does not count as a cache lookup.
    pub fn is_fresh(&self, cached: &Rc<CachedToken>, now: Instant) -> bool {
        self.shared.cache.freshness(cached, now) == Freshness::Fresh
    }

    /// The cached verdict of a token; `None` if there is none that is usable. Does not introspect and does not count as a
    /// cache lookup.
    ///
    /// # Errors
    /// Inside, a refusal as [`Refusal::is_inactive_token`] if the cache has that.
    pub fn peek(&self, hash: &TokenHash, now: Instant) -> Option<Result<Rc<CachedToken>, Refusal>> {
        let cache = &self.shared.cache;
        if let Some(cached) = self.in_front(hash).filter(|cached| self.is_usable(cached, now)) {
            return Some(Ok(cached));
        }
        let known = cache.active(hash).map(|entry| (cache.freshness(&entry, now), entry));
        match known {
            Some((Freshness::Fresh | Freshness::Refresh, entry)) => Some(Ok(self.keep_local(*hash, entry))),
            Some((Freshness::Expired, _)) => Some(Err(Refusal::ExpiredToken)),
            Some((Freshness::Stale | Freshness::Outdated, _)) => None,
            Some((Freshness::Evicted, _)) | None => cache.inactive(hash).map(|why| Err(refusal(why))),
        }
    }

    /// Whether the verdict may serve a request without introspection.
    pub fn is_usable(&self, cached: &Rc<CachedToken>, now: Instant) -> bool {
        matches!(self.shared.cache.freshness(cached, now), Freshness::Fresh | Freshness::Refresh)
    }

    /// Whether a revocation has named the token of `cached` since its introspection, even if a newer introspection reports
    /// it as active.
    pub fn was_named_in_revocation(&self, cached: &Rc<CachedToken>) -> bool {
        self.shared.cache.was_named_in_revocation(cached)
    }

    /// Introspects a token again because its cached verdict `old` lacks an ability; at most once per token and
    /// `negative_ttl`. `None` if `old` is younger than that.
    ///
    /// # Errors
    /// As [`Lookup::get_or_introspect`].
    pub async fn reintrospect(
        self: &Rc<Self>,
        request: &LookupRequest<'_>,
        old: &Rc<CachedToken>,
        stats: &mut LookupStats,
    ) -> Option<Result<Rc<CachedToken>, Refusal>> {
        let cache = &self.shared.cache;
        let pause = cache.settings().negative_ttl;
        if old.age(request.now) <= pause {
            return None;
        }
        let id = &old.verdict.id;
        let begun = Instant::now();
        let outcome = if cache.claim_feedback(id, Feedback::Forbidden) {
            let request = LookupRequest { introspected_since: None, ..*request };
            // The cache lookup of the request has been noted.
            // A known token is no failure of its client.
            let stats = &mut LookupStats::default();
            match self.outcome(old.hash, Some(id), &request, None, stats).await {
                Ok(outcome) => outcome,
                Err(refusal) => return Some(Err(refusal)),
            }
        } else if let Some(in_flight) = cache.find_in_flight(&old.hash) {
            // This introspection began after that of `old`.
            completed(in_flight).await.map_or(IntrospectionResult::Overloaded, |completed| completed.outcome)
        } else {
            return old.failed_within(pause, request.now).then_some(Err(Refusal::NoVerdict));
        };
        stats.waited += begun.elapsed();
        let refused = match outcome {
            IntrospectionResult::Active(entry) if entry.is_expired(Instant::now()) => {
                return Some(Err(Refusal::ExpiredToken));
            }
            IntrospectionResult::Active(entry) if !cache.is_revoked(&entry) => {
                return Some(Ok(self.keep_local(old.hash, entry)));
            }
            IntrospectionResult::Inactive(why) => return Some(Err(refusal(why))),
            IntrospectionResult::Active(_) | IntrospectionResult::NoVerdict(_) => Refusal::NoVerdict,
            IntrospectionResult::Overloaded => Refusal::Overloaded,
        };
        old.note_failure(Instant::now());
        Some(Err(refused))
    }

    /// Whether `stale_if_error` lets the verdict serve after an introspection without a verdict.
    pub fn may_serve_stale(&self, cached: &Rc<CachedToken>, now: Instant) -> bool {
        let freshness = self.shared.cache.freshness(cached, now);
        !self.shared.cache.settings().stale_if_error.is_zero()
            && matches!(freshness, Freshness::Fresh | Freshness::Refresh | Freshness::Stale)
    }

    /// Whether the block list has the token of `cached`.
    pub fn is_blocked(&self, cached: &Rc<CachedToken>) -> bool {
        self.shared.cache.blocks_entry(cached)
    }

    /// Whether any token is blocked.
    pub fn has_blocks(&self) -> bool {
        !self.shared.cache.blocks().is_empty()
    }

    /// The number of [additions](super::blocklist::BlockList::additions) to the block list.
    pub fn block_additions(&self) -> u64 {
        self.shared.cache.blocks().additions()
    }

    /// Whether the text of a token shows that it is blocked.
    fn blocks_text(&self, token: &str) -> bool {
        let blocks = self.shared.cache.blocks();
        !blocks.is_empty() && blocks.blocks_text(token, self.shows_id(), Timestamp::now())
    }

    /// Whether tokens begin with their id: those of the `bearer` style are Sanctum's.
    fn shows_id(&self) -> bool {
        matches!(self.introspector.settings().style, IntrospectionStyle::Bearer)
    }

    /// Drops the verdicts of a token, in every spelling, because the backend answered 401; at most once per token and
    /// `negative_ttl`.
    pub fn invalidate(&self, cached: &Rc<CachedToken>) {
        if self.shared.cache.claim_feedback(&cached.verdict.id, Feedback::Unauthenticated) {
            self.shared.cache.forget_token(cached);
        }
    }

    /// Drops entries that were evicted from the shared cache. `cache.max_bytes` does not count their memory any more.
    pub fn sweep(&self) {
        for slot in &mut *self.front.borrow_mut() {
            slot.take_if(|cached| cached.is_gone());
        }
    }

    fn slot(hash: &TokenHash) -> usize {
        let [low, high, ..] = *hash.as_bytes();
        usize::from(u16::from_le_bytes([low, high])) & (FRONT_SLOTS - 1)
    }

    fn in_front(&self, hash: &TokenHash) -> Option<Rc<CachedToken>> {
        let front = self.front.borrow();
        let cached = front.get(Self::slot(hash))?.as_ref().filter(|cached| cached.hash == *hash)?;
        cached.hits.set(cached.hits.get().wrapping_add(1));
        if cached.hits.get() % HITS_PER_TOUCH == 0 {
            self.shared.cache.active(hash);
        }
        Some(Rc::clone(cached))
    }

    fn keep_local(&self, hash: TokenHash, entry: Arc<CacheEntry>) -> Rc<CachedToken> {
        let cached = Rc::new(CachedToken {
            entry,
            hash,
            hits: Cell::new(0),
            identity: OnceCell::new(),
            logged: OnceCell::new(),
            account: OnceCell::new(),
            usage_slot: Cell::new(0),
        });
        if cached.fits_in_front()
            && let Some(slot) = self.front.borrow_mut().get_mut(Self::slot(&hash))
        {
            *slot = Some(Rc::clone(&cached));
        }
        cached
    }

    /// The verdict in the shared cache, or else that of an introspection. `introspected_since` holds for stale verdicts,
    /// too.
    ///
    /// A token that is known to be active, even by a verdict that is too old or was evicted, is introspected whatever else
    /// `client` sends. Every other one is a failure of `client`, unless introspection reports it as active or gives no
    /// verdict.
    ///
    /// # Errors
    /// As [`Refusal::is_inactive_token`] by the verdict; [`Refusal::NoVerdict`] and [`Refusal::Overloaded`] if there is
    /// none; [`Refusal::TooManyAttempts`] if `client` has had too many failures.
    async fn get_or_introspect(
        self: &Rc<Self>,
        hash: TokenHash,
        request: &LookupRequest<'_>,
        client: Option<FailingClient<'_>>,
        stats: &mut LookupStats,
    ) -> Result<Rc<CachedToken>, Refusal> {
        let LookupRequest { token, now, introspected_since, .. } = *request;
        let cache = &self.shared.cache;
        let generation = cache.generation();
        let known = cache.active(&hash).map(|entry| {
            let freshness = cache.freshness(&entry, now);
            (entry, freshness)
        });
        let known = match known {
            Some((entry, Freshness::Fresh | Freshness::Refresh | Freshness::Stale))
                if !entry.is_introspected_since(introspected_since) =>
            {
                Some(entry)
            }
            Some((entry, freshness @ (Freshness::Fresh | Freshness::Refresh))) => {
                self.count(LookupResult::Hit, stats);
                let cached = self.keep_local(hash, entry);
                if freshness == Freshness::Refresh {
                    self.refresh(token, &cached);
                }
                return Ok(cached);
            }
            Some((entry, Freshness::Expired)) => {
                let why = cache.store_inactive(entry.subject(), Inactivity::Expired, generation);
                self.count(LookupResult::NegativeHit, stats);
                return Err(failed(client, refusal(why)));
            }
            Some((entry, Freshness::Stale)) => {
                if entry.failed_within(OUTAGE_PAUSE, now) {
                    self.count(LookupResult::Stale, stats);
                    return Ok(self.keep_local(hash, entry));
                }
                Some(entry)
            }
            Some((entry, Freshness::Outdated)) => Some(entry),
            Some((entry, Freshness::Evicted)) => Some(entry).filter(|entry| cache.is_known(entry, now)),
            None => None,
        };
        // Blocks first: shadow mode may forward inactive tokens, and no blocked ones.
        let why = if self.blocks_text(token.secret()) {
            Some(Inactivity::Blocked)
        } else if known.as_ref().is_none_or(|entry| entry.is_gone()) {
            cache.inactive(&hash)
        } else {
            None
        };
        if let Some(why) = why {
            self.count(LookupResult::NegativeHit, stats);
            return Err(failed(client, refusal(why)));
        }
        let id = known.as_ref().map(|entry| &entry.verdict.id);
        let client = client.filter(|_| known.is_none());
        let outcome = self.outcome(hash, id, request, client, stats).await?;
        let now = Instant::now();
        let refused = match outcome {
            IntrospectionResult::Active(entry) if entry.is_expired(now) => return Err(Refusal::ExpiredToken),
            IntrospectionResult::Active(entry) => return Ok(self.keep_local(hash, entry)),
            IntrospectionResult::Inactive(why) => return Err(refusal(why)),
            IntrospectionResult::NoVerdict(_) => Refusal::NoVerdict,
            IntrospectionResult::Overloaded => Refusal::Overloaded,
        };
        match known {
            Some(entry)
                if entry.is_introspected_since(introspected_since)
                    && cache.freshness(&entry, now) == Freshness::Stale =>
            {
                entry.note_failure(now);
                self.count(LookupResult::Stale, stats);
                Ok(self.keep_local(hash, entry))
            }
            _ => Err(refused),
        }
    }

    /// Counts the result of a cache lookup, and notes it for the request.
    fn count(&self, result: LookupResult, stats: &mut LookupStats) {
        self.metrics.cache_lookup(result);
        stats.cache = Some(result);
    }
}

/// The refusal of a request with an inactive token: `why`, or that its client has had too many of them.
fn failed(client: Option<FailingClient<'_>>, why: Refusal) -> Refusal {
    let counted = client.map_or(Ok(()), |client| client.count(Instant::now()));
    counted.map_or_else(Refusal::TooManyAttempts, |()| why)
}

const fn refusal(why: Inactivity) -> Refusal {
    match why {
        Inactivity::Inactive => Refusal::InactiveToken,
        Inactivity::Expired => Refusal::ExpiredToken,
        Inactivity::NotYetValid => Refusal::NotYetValid,
        Inactivity::UnexpectedClaim(claim) => Refusal::UnexpectedClaim(claim),
        Inactivity::Blocked => Refusal::Blocked,
    }
}

#[cfg(test)]
mod tests;
