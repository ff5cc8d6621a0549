//! The verdicts of all tokens, shared by all workers.
//!
//! moka owns the entries and evicts them. It applies expiry late, and an `invalidate` can lose against a concurrent
//! insertion. Each entry therefore has its own deadlines, generation and eviction flag, and every use checks
//! [`TokenCache::freshness`], also of entries in a worker's front cache.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use tokio::sync::watch;

pub use self::entry::{CacheEntry, Freshness};
pub use self::in_flight::{Completed, InFlight, IntrospectionResult, Join, Publisher};
use self::inactive::InactiveEntry;
pub use self::inactive::Inactivity;
use self::spellings::Spellings;
use super::blocklist::BlockList;
use super::clock::{ClockWatch, Reading, TOLERANCE};
use super::hash::{TokenHash, TokenHashes};
use super::revocation::{Revocation, Revocations, Subject};
use super::verdict::Verdict;
use crate::config::settings;

mod entry;
mod in_flight;
mod inactive;
mod spellings;

/// Memory of a token in [`TokenCache::claim_feedback`], in bytes.
const FEEDBACK_BYTES: u64 = 288;

/// Time for which an entry is kept after it was fresh, so that the limiter of introspections knows its token. It serves
/// no request in that time, except under `stale_if_error`.
const KEPT_WHEN_OUTDATED: Duration = Duration::from_secs(600);

/// An event that casts doubt on a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feedback {
    /// 401: the backend does not know the token any more.
    Unauthenticated,
    /// 403 by the gateway, on a verdict that may be out of date.
    Forbidden,
}

/// Called with the cause when an entry leaves the cache.
pub type OnEviction = Box<dyn Fn(RemovalCause) + Send + Sync>;

/// The verdicts of all workers.
pub struct TokenCache {
    active: moka::sync::Cache<TokenHash, Arc<CacheEntry>>,
    inactive: moka::sync::Cache<TokenHash, Arc<InactiveEntry>>,
    /// By the hash of the introspected id: its other spellings are no further reason to introspect.
    feedback: moka::sync::Cache<(TokenHash, Feedback), ()>,
    spellings: Arc<Spellings>,
    clock: ClockWatch,
    /// Those of the process: a revocation concerns what is in flight in the caches of earlier configurations, too.
    revocations: Arc<Revocations>,
    /// The block list of the process.
    blocks: Arc<BlockList>,
    /// Whether the cache of a newer configuration has copied the entries, so that revocations here concern it, too.
    has_successor: AtomicBool,
    in_flight: Mutex<HashMap<TokenHash, Publisher>>,
    settings: settings::Cache,
}

struct UntilForgotten {
    keep: Duration,
}

impl UntilForgotten {
    fn left(&self, entry: &CacheEntry, now: Instant) -> Duration {
        let until = entry.fresh_until + self.keep;
        entry.expires().map_or(until, |expires| until.min(expires)).saturating_duration_since(now)
    }
}

impl Expiry<TokenHash, Arc<CacheEntry>> for UntilForgotten {
    fn expire_after_create(&self, _: &TokenHash, entry: &Arc<CacheEntry>, now: Instant) -> Option<Duration> {
        Some(self.left(entry, now))
    }

    // Without this a replaced entry would keep the deadline of the one it replaced.
    fn expire_after_update(
        &self,
        _: &TokenHash,
        entry: &Arc<CacheEntry>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.left(entry, now))
    }
}

/// How `max_tokens` and a number of bytes bound entries together. moka knows one bound, the sum of all weights.
/// An entry weighs its bytes, but at least an equal share of all memory: then `max_tokens` entries fill the cache, however
/// small they are.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    weight: u64,
    share: u32,
}

impl Capacity {
    fn new(max_tokens: u64, max_bytes: u64) -> Self {
        let share = (max_bytes / max_tokens.max(1)).max(1);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Self { weight: max_tokens.saturating_mul(share.into()).min(max_bytes), share }
    }
}

impl TokenCache {
    /// An empty cache, for which `revocations` and `blocks` hold.
    pub fn new(
        settings: &settings::Cache,
        revocations: Arc<Revocations>,
        blocks: Arc<BlockList>,
        on_eviction: OnEviction,
    ) -> Self {
        let keep = settings.stale_if_error.max(KEPT_WHEN_OUTDATED);
        let spellings = Arc::new(Spellings::default());
        let known = Arc::clone(&spellings);
        let Capacity { weight, share } = Capacity::new(settings.max_tokens, settings.max_bytes);
        let active = moka::sync::Cache::builder()
            .max_capacity(weight)
            .weigher(move |_, entry: &Arc<CacheEntry>| entry.bytes.max(share))
            .expire_after(UntilForgotten { keep })
            .eviction_listener(move |_, entry: Arc<CacheEntry>, cause| {
                entry.gone.store(true, Ordering::Release);
                known.remove(&entry);
                on_eviction(cause);
            })
            .build();
        // A cache of its own: a flood of random tokens evicts other random tokens and nothing else.
        let Capacity { weight, share } = Capacity::new(settings.max_tokens, settings.max_bytes / 16 * 3);
        let inactive = moka::sync::Cache::builder()
            .max_capacity(weight)
            .weigher(move |_, entry: &Arc<InactiveEntry>| entry.bytes().max(share))
            .time_to_live(settings.negative_ttl)
            .build();
        // The latest is always kept, whatever others do: it would be acted upon again at once.
        let feedback = moka::sync::Cache::builder()
            .max_capacity((settings.max_bytes / 16 / FEEDBACK_BYTES).clamp(1, settings.max_tokens.max(1)))
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(settings.negative_ttl)
            .build();
        let clock = ClockWatch::new(Reading { now: Instant::now(), wall: SystemTime::now() });
        Self {
            active,
            inactive,
            feedback,
            spellings,
            clock,
            revocations,
            blocks,
            has_successor: AtomicBool::new(false),
            in_flight: Mutex::default(),
            settings: settings.clone(),
        }
    }

    /// A cache with other settings and copies of the entries. A verdict's rate limit is looked up anew, and no verdict
    /// serves for longer than the settings of its time or these allow; none serves at all unless `keeps_verdicts`.
    pub fn next_from(
        &self,
        settings: &settings::Cache,
        keeps_verdicts: bool,
        on_eviction: OnEviction,
    ) -> Self {
        let mut next =
            Self::new(settings, Arc::clone(&self.revocations), Arc::clone(&self.blocks), on_eviction);
        // The copied deadlines were computed by this clock.
        next.clock = self.clock.copy();
        // Before any copy: an entry that is forgotten from here on is either copied as such or forgotten in both caches.
        self.has_successor.store(true, Ordering::SeqCst);
        for (_, entry) in &self.active {
            let is_gone = entry.gone.load(Ordering::SeqCst);
            let CacheEntry { verdict, introspected_at, .. } = &*entry;
            let generation = entry.generation.load(Ordering::Relaxed);
            let fresh_until = entry.fresh_until.min(*introspected_at + jittered(settings.ttl));
            let copy = CacheEntry::new(
                entry.hashes(),
                verdict.clone(),
                generation,
                *introspected_at,
                fresh_until,
                entry.expires(),
            );
            copy.failed_after.store(entry.failed_after.load(Ordering::Relaxed), Ordering::Relaxed);
            copy.gone.store(is_gone || !keeps_verdicts, Ordering::SeqCst);
            next.insert(&Arc::new(copy));
        }
        next
    }

    /// The settings of this cache.
    pub const fn settings(&self) -> &settings::Cache {
        &self.settings
    }

    /// The revocations of the process.
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The block list of the process.
    pub const fn blocks(&self) -> &Arc<BlockList> {
        &self.blocks
    }

    /// The number of the latest revocation, to be noted when an introspection begins.
    pub fn generation(&self) -> u64 {
        self.revocations.generation()
    }

    /// The entry of a token, whatever its freshness. Counts as a use in moka's eviction policy.
    pub fn active(&self, hash: &TokenHash) -> Option<Arc<CacheEntry>> {
        self.active.get(hash)
    }

    /// Whether `feedback` on the token with this id is to be acted upon: once per `negative_ttl`, however it is spelled.
    pub fn claim_feedback(&self, id: &str, feedback: Feedback) -> bool {
        self.feedback.entry((TokenHash::of(id), feedback)).or_insert(()).is_fresh()
    }

    /// Whether `entry` may serve requests at `now`.
    pub fn freshness(&self, entry: &CacheEntry, now: Instant) -> Freshness {
        if entry.gone.load(Ordering::Acquire) || self.is_revoked(entry) {
            return Freshness::Evicted;
        }
        if entry.is_expired(now) {
            return Freshness::Expired;
        }
        if now < entry.fresh_until {
            // In the last fifth of its TTL a token in use is introspected again, before the entry expires. That cannot
            // make it outlive the token.
            let life = entry.fresh_until.saturating_duration_since(entry.introspected_at);
            let refresh = now + life / 5 >= entry.fresh_until
                && entry.expires().is_none_or(|expires| entry.fresh_until < expires)
                && !entry.refreshing.load(Ordering::Relaxed);
            return if refresh { Freshness::Refresh } else { Freshness::Fresh };
        }
        if now < entry.fresh_until + self.settings.stale_if_error {
            Freshness::Stale
        } else {
            Freshness::Outdated
        }
    }

    /// Whether a revocation concerned `entry` after its introspection began.
    pub fn is_revoked(&self, entry: &CacheEntry) -> bool {
        let checked = entry.generation.load(Ordering::Relaxed);
        let generation = self.revocations.generation();
        if checked == generation {
            return false;
        }
        if self.revocations.is_revoked_since(checked, entry.subject()) {
            entry.gone.store(true, Ordering::Release);
            return true;
        }
        entry.generation.fetch_max(generation, Ordering::Relaxed);
        false
    }

    /// Whether a revocation has named the token of `entry` since its introspection.
    pub fn was_named_in_revocation(&self, entry: &CacheEntry) -> bool {
        self.revocations.is_named_since(entry.generation.load(Ordering::Relaxed), entry.subject())
    }

    /// Whether the token of an entry that no longer serves is still known as one that was active: it was evicted without a
    /// revocation that selects it.
    pub fn is_known(&self, entry: &CacheEntry, now: Instant) -> bool {
        let generation = entry.generation.load(Ordering::Relaxed);
        !entry.is_expired(now) && !self.revocations.is_selected_since(generation, entry.subject())
    }

    /// Joins the introspection of a token that is in flight, or registers a new one.
    pub fn join(&self, hash: TokenHash) -> Join {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(publisher) = in_flight.get(&hash) {
            return Join::Joined(publisher.subscribe());
        }
        let (sender, flight) = watch::channel(None);
        let publisher = Arc::new(sender);
        in_flight.insert(hash, Arc::clone(&publisher));
        Join::Started(flight, publisher)
    }

    /// The introspection of a token that is in flight, if there is one.
    pub fn find_in_flight(&self, hash: &TokenHash) -> Option<InFlight> {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.get(hash).map(|publisher| publisher.subscribe())
    }

    /// Removes the introspection of `publisher`: the next lookup starts another. Keeps a newer introspection of the same
    /// token, which starts if this one was abandoned.
    pub fn complete(&self, hash: &TokenHash, publisher: &Publisher) {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if in_flight.get(hash).is_some_and(|current| Arc::ptr_eq(current, publisher)) {
            in_flight.remove(hash);
        }
    }

    /// Removes an introspection that waits for a permit, unless a request still waits for it.
    pub fn complete_if_abandoned(&self, hash: &TokenHash, publisher: &Publisher) -> bool {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let abandoned = publisher.receiver_count() == 0;
        if abandoned {
            in_flight.remove(hash);
        }
        abandoned
    }

    /// Whether the token was revoked since its introspection began at `generation`, so that the outcome is not used.
    pub fn is_overtaken(&self, generation: u64, subject: Subject<'_>) -> bool {
        self.revocations.is_revoked_since(generation, subject)
    }

    /// Stores an active verdict and returns the outcome, which is inactive if the block list has the token.
    /// `introspected_at` and `generation` were read before the introspection was sent; `wall` is the wall clock's reading
    /// at `now`.
    pub fn store(
        &self,
        token: TokenHashes,
        verdict: Verdict,
        generation: u64,
        introspected_at: Instant,
        now: Instant,
        wall: SystemTime,
    ) -> IntrospectionResult {
        let TokenHashes { token: hash, secret, written_id } = &token;
        let subject = Subject {
            hash,
            secret: Some(secret),
            id: Some(&verdict.id),
            written_id: written_id.as_deref(),
            name: verdict.name.as_deref(),
        };
        // A block that is added after this also raises the generation.
        if let Some(blocked) = self.blocked_entry(subject, generation) {
            return IntrospectionResult::Inactive(self.insert_inactive(hash, blocked));
        }
        let expires = match verdict.expires_at {
            None => None,
            Some(at) => match at.duration_since(wall) {
                Ok(left) if !left.is_zero() => now.checked_add(left),
                // An expired token is cached like any inactive one.
                _ => {
                    let why = self.store_inactive(subject, Inactivity::Expired, generation);
                    return IntrospectionResult::Inactive(why);
                }
            },
        };
        let mut verdict = verdict;
        if let Some(latest) = self.spellings.latest(&verdict.id) {
            verdict.share(&latest.verdict);
        }
        let fresh_until = introspected_at + jittered(self.settings.ttl);
        let entry =
            Arc::new(CacheEntry::new(token, verdict, generation, introspected_at, fresh_until, expires));
        self.inactive.invalidate(&entry.hash);
        self.insert(&entry);
        IntrospectionResult::Active(entry)
    }

    /// Inserts an entry, and evicts the oldest spelling of its token if there are too many.
    fn insert(&self, entry: &Arc<CacheEntry>) {
        let oldest = self.spellings.add(entry);
        self.active.insert(entry.hash, Arc::clone(entry));
        if let Some(oldest) = oldest {
            oldest.gone.store(true, Ordering::SeqCst);
            self.active.invalidate(&oldest.hash);
        }
    }

    /// Compares the clocks, and limits every token to its expiry by the wall clock if that was set. To be called about
    /// once a second: a token is refused within that time of its expiry. Returns by how much the clock was set,
    /// once.
    pub fn follow_wall_clock(&self, reading: Reading) -> Option<Duration> {
        let adjustment = self.clock.adjustment(reading)?;
        for (_, entry) in &self.active {
            entry.expire_by(reading);
        }
        (adjustment > TOLERANCE).then_some(adjustment)
    }

    /// Whether the block list has a token, by what is known of it.
    fn is_blocked(&self, token: Subject<'_>) -> bool {
        !self.blocks.is_empty() && self.blocks.blocks_token(token, Timestamp::now())
    }

    /// Whether the block list has the token of `entry`.
    pub fn blocks_entry(&self, entry: &CacheEntry) -> bool {
        self.is_blocked(entry.subject())
    }

    /// Forgets the verdict of one spelling of a token, also in a successor.
    pub fn forget_entry(&self, hash: &TokenHash) {
        if let Some(entry) = self.active.remove(hash) {
            entry.gone.store(true, Ordering::SeqCst);
        }
        if self.has_successor.load(Ordering::SeqCst) {
            self.revocations.add(Revocation::Token(*hash));
        }
    }

    /// Forgets the verdicts of a token in every spelling.
    pub fn forget_token(&self, entry: &CacheEntry) {
        for spelling in self.spellings.of(&entry.verdict.id) {
            self.forget_entry(&spelling.hash);
        }
        self.forget_entry(&entry.hash);
    }

    /// Forgets every verdict that `revocation` names, in all workers and in flight, and returns the number of entries. A
    /// revocation in [`TokenCache::revocations`] alone has the same effect, but neither counts nor removes the entries.
    ///
    /// The tokens of [`Revocation::All`] remain [known](Self::is_known).
    pub fn revoke(&self, revocation: Revocation) -> usize {
        self.revocations.add(revocation.clone());
        let mut revoked = 0;
        for (hash, entry) in &self.active {
            if revocation.concerns(entry.subject()) {
                revoked += usize::from(!entry.gone.swap(true, Ordering::AcqRel));
                if revocation != Revocation::All {
                    self.active.invalidate(&*hash);
                }
            }
        }
        revoked
    }

    /// The spellings that a revocation of `token` names: itself, and all others with the same id.
    pub fn revocations_of(&self, token: &str) -> Vec<Revocation> {
        let known = self.active.get(&TokenHash::of(token));
        Revocation::of_token(token, known.as_ref().map(|entry| &*entry.verdict.id))
    }

    /// All active verdicts that are usable at `now`, in no order.
    pub fn entries(&self, now: Instant) -> Vec<Arc<CacheEntry>> {
        let is_usable = |entry: &CacheEntry| match self.freshness(entry, now) {
            Freshness::Fresh | Freshness::Refresh | Freshness::Stale => true,
            // See KEPT_WHEN_OUTDATED.
            Freshness::Outdated | Freshness::Expired | Freshness::Evicted => false,
        };
        self.active.iter().map(|(_, entry)| entry).filter(|entry| is_usable(entry)).collect()
    }

    /// The numbers of active and inactive entries.
    pub fn sizes(&self) -> (u64, u64) {
        (self.active.entry_count(), self.inactive.entry_count())
    }

    /// Runs moka's pending maintenance: evicts entries that expired or exceed the bound.
    pub fn maintain(&self) {
        self.active.run_pending_tasks();
        self.inactive.run_pending_tasks();
    }
}

/// `ttl` minus a random tenth at most, so that tokens that were first seen together do not expire together.
fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 - 0.1 * fastrand::f64())
}

#[cfg(test)]
mod tests;
