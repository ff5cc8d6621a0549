//! What introspection said of each token, for all cores.
//!
//! moka owns the verdicts and decides which to evict. What it cannot promise is checked at every use
//! instead: it applies expiry in its own time, and an `invalidate` loses against an insertion that runs
//! beside it. So each entry carries its own deadlines, its generation and a flag that it is gone; whoever
//! holds one, a core's front cache included, asks [`TokenCache::standing`] before believing it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use tokio::sync::watch;

use self::spellings::Spellings;
use super::clock::{ClockWatch, Reading, TOLERANCE};
use super::hash::TokenHash;
use super::introspection::NoVerdict;
use super::revocation::{Revocation, Revocations, Subject};
use super::verdict::Verdict;
use crate::config::settings;
use crate::limits::tokens::TokenLimit;

mod spellings;

/// What an active entry takes beside its verdict's texts, in bytes: the entry, moka's nodes and timer, its place in the
/// list of spellings, its buckets if `rate_limit` is on.
const ENTRY_BYTES: u64 = 640;

/// What an inactive entry takes.
const INACTIVE_BYTES: u64 = 288;

/// What a token takes for which [`TokenCache::heed`] was asked.
const FEEDBACK_BYTES: u64 = 288;

/// The largest entry that each core's front cache may hold: evicted entries stay there until the next sweep, out of reach
/// of `max_bytes`. Those of Stockaj have less than a quarter of it.
const MOST_FRONT_BYTES: u32 = 4096;

/// `expires_after` of a token that does not expire.
const NEVER: u64 = u64::MAX;

/// How long after its freshness an entry is kept, so that its token counts as known. It serves no request
/// in that time, except as `stale_if_error` allows.
const REMEMBERED: Duration = Duration::from_secs(600);

/// An active verdict and how far it may be believed.
#[derive(Debug)]
pub struct Entry {
    /// What introspection said.
    pub verdict: Verdict,
    /// When the introspection began.
    pub asked_at: Instant,
    /// How often the token may come, once it was asked for.
    pub limit: OnceLock<TokenLimit>,
    hash: TokenHash,
    fresh_until: Instant,
    /// The token's own expiry on the clock that deadlines use, in nanoseconds after `asked_at`. It becomes earlier when the
    /// wall clock is set forward.
    expires_after: AtomicU64,
    /// About how many bytes it takes in memory, with what moka needs for it.
    bytes: u32,
    generation: AtomicU64,
    gone: AtomicBool,
    refreshing: AtomicBool,
    /// Milliseconds after `asked_at` of the latest asking that brought no verdict; 0: none.
    failed_after: AtomicU64,
}

/// How far an entry may be believed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Believe it.
    Fresh,
    /// Believe it, and ask again in the background.
    Refresh,
    /// Ask again; while nobody answers, believe it.
    Stale,
    /// Ask again; it only tells that the token was active once.
    Old,
    /// The token itself has expired.
    Expired,
    /// Evicted, replaced or revoked: it says nothing.
    Gone,
}

impl Entry {
    fn new(
        hash: TokenHash,
        verdict: Verdict,
        generation: u64,
        asked_at: Instant,
        fresh_until: Instant,
        expires: Option<Instant>,
    ) -> Self {
        let bytes = ENTRY_BYTES + verdict.heap_bytes() as u64;
        Self {
            verdict,
            asked_at,
            limit: OnceLock::new(),
            hash,
            fresh_until: expires.map_or(fresh_until, |expires| fresh_until.min(expires)),
            expires_after: AtomicU64::new(expires.map_or(NEVER, |expires| nanoseconds(asked_at, expires))),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            generation: AtomicU64::new(generation),
            gone: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
            failed_after: AtomicU64::new(0),
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject { hash: &self.hash, id: Some(&self.verdict.id), name: self.verdict.name.as_deref() }
    }

    /// Whether the token's own expiry has passed.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires().is_some_and(|expires| now >= expires)
    }

    /// The token's own expiry on the clock that deadlines use.
    fn expires(&self) -> Option<Instant> {
        match self.expires_after.load(Ordering::Relaxed) {
            NEVER => None,
            after => Some(self.asked_at + Duration::from_nanos(after)),
        }
    }

    /// Moves the deadline forward to the expiry by the wall clock, if that is earlier by now. It is never moved back: the
    /// wall clock may be wrong, and the verdict is too old before long.
    fn expire_by(&self, reading: Reading) {
        if let Some(expiry) = self.verdict.expires_at {
            let left = expiry.duration_since(reading.wall).unwrap_or_default();
            if let Some(expires) = reading.now.checked_add(left) {
                self.expires_after.fetch_min(nanoseconds(self.asked_at, expires), Ordering::Relaxed);
            }
        }
    }

    /// Whether a core may keep it in its front cache.
    pub fn fits_in_front(&self) -> bool {
        self.bytes <= MOST_FRONT_BYTES
    }

    /// Whether it was evicted, replaced or revoked, as far as anybody has noticed.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether it was asked for at `since` or later, where that matters.
    pub fn is_since(&self, since: Option<Instant>) -> bool {
        since.is_none_or(|since| self.asked_at >= since)
    }

    /// How long ago the verdict was asked for.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked_at)
    }

    /// Takes on the refresh of this entry; false where somebody has already.
    pub fn claim_refresh(&self) -> bool {
        !self.refreshing.swap(true, Ordering::AcqRel)
    }

    /// Lays the refresh down again, so that a later request may take it on.
    pub fn release_refresh(&self) {
        self.refreshing.store(false, Ordering::Release);
    }

    /// Notes that asking again brought no verdict.
    pub fn note_failure(&self, now: Instant) {
        let after = u64::try_from(self.age(now).as_millis()).unwrap_or(u64::MAX).max(1);
        self.failed_after.store(after, Ordering::Relaxed);
    }

    /// Whether asking again brought no verdict less than `pause` ago.
    pub fn failed_within(&self, pause: Duration, now: Instant) -> bool {
        match self.failed_after.load(Ordering::Relaxed) {
            0 => false,
            after => self.age(now) < Duration::from_millis(after).saturating_add(pause),
        }
    }
}

/// What an introspection came to, for all who waited for it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Active, and now in the cache.
    Active(Arc<Entry>),
    /// Not active.
    Inactive(Inactivity),
    /// No verdict.
    NoVerdict(Arc<NoVerdict>),
    /// It never had its turn.
    Overloaded,
}

/// What an introspection came to, and when it had begun.
#[derive(Clone, Debug)]
pub struct Landed {
    /// What it came to.
    pub outcome: Outcome,
    /// When it was asked. Where it never was: when that was given up.
    pub asked_at: Instant,
}

/// An introspection under way, shared by all who wait for its token.
pub type Flight = watch::Receiver<Option<Landed>>;

/// Who publishes what an introspection comes to.
pub type Publisher = Arc<watch::Sender<Option<Landed>>>;

/// Who starts an introspection and who joins one.
#[derive(Debug)]
pub enum Boarding {
    /// One is under way.
    Joined(Flight),
    /// There is none: the caller runs it, calls [`TokenCache::land`], whatever happens, and publishes.
    Started(Flight, Publisher),
}

/// Why a token is not active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inactivity {
    /// Unknown or revoked.
    Inactive,
    /// Past its own expiry.
    Expired,
}

/// What the backend's answer said about a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feedback {
    /// 401: the backend does not know the token any more.
    Unauthenticated,
    /// 403 by the gateway, on a verdict that may be out of date.
    Forbidden,
}

/// Why an entry left the cache: the `cause` of the evictions metric.
pub type OnEviction = Box<dyn Fn(RemovalCause) + Send + Sync>;

/// The verdicts of all cores.
pub struct TokenCache {
    active: moka::sync::Cache<TokenHash, Arc<Entry>>,
    inactive: moka::sync::Cache<TokenHash, (u64, Inactivity)>,
    /// By the hash of the introspected id: its other spellings are no further reason to introspect.
    feedback: moka::sync::Cache<(TokenHash, Feedback), ()>,
    spellings: Arc<Spellings>,
    clock: ClockWatch,
    /// Those of the process: a revocation concerns what is in flight in the caches of earlier configurations, too.
    revocations: Arc<Revocations>,
    /// Whether another goes on from this one, so that what is heard here concerns it, too.
    succeeded: AtomicBool,
    flights: Mutex<HashMap<TokenHash, Publisher>>,
    settings: settings::Cache,
}

struct UntilForgotten {
    keep: Duration,
}

impl UntilForgotten {
    fn left(&self, entry: &Entry, now: Instant) -> Duration {
        let until = entry.fresh_until + self.keep;
        entry.expires().map_or(until, |expires| until.min(expires)).saturating_duration_since(now)
    }
}

impl Expiry<TokenHash, Arc<Entry>> for UntilForgotten {
    fn expire_after_create(&self, _: &TokenHash, entry: &Arc<Entry>, now: Instant) -> Option<Duration> {
        Some(self.left(entry, now))
    }

    // Without this a replaced entry would keep the deadline of the one it replaced.
    fn expire_after_update(
        &self,
        _: &TokenHash,
        entry: &Arc<Entry>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.left(entry, now))
    }
}

/// How `max_tokens` and `max_bytes` bound the active entries together. moka knows one bound, the sum of all weights.
/// An entry weighs its bytes, but at least an equal share of all memory: then `max_tokens` entries fill the cache, however
/// small they are.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    weight: u64,
    share: u32,
}

impl Capacity {
    fn new(settings: &settings::Cache) -> Self {
        let share = (settings.max_bytes / settings.max_tokens.max(1)).max(1);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Self { weight: settings.max_tokens.saturating_mul(share.into()).min(settings.max_bytes), share }
    }
}

/// How many entries of `bytes` bytes the given part of `max_bytes` holds, up to `max_tokens`.
fn entries(settings: &settings::Cache, sixteenths: u64, bytes: u64) -> u64 {
    (settings.max_bytes / 16 * sixteenths / bytes).clamp(1, settings.max_tokens.max(1))
}

/// From one moment to a later one, in nanoseconds; at most 584 years.
fn nanoseconds(from: Instant, to: Instant) -> u64 {
    let nanoseconds = to.saturating_duration_since(from).as_nanos();
    u64::try_from(nanoseconds).unwrap_or(u64::MAX).min(NEVER - 1)
}

impl TokenCache {
    /// An empty cache, for which `revocations` hold.
    pub fn new(settings: &settings::Cache, revocations: Arc<Revocations>, on_eviction: OnEviction) -> Self {
        let keep = settings.stale_if_error.max(REMEMBERED);
        let spellings = Arc::new(Spellings::default());
        let known = Arc::clone(&spellings);
        let Capacity { weight, share } = Capacity::new(settings);
        let active = moka::sync::Cache::builder()
            .max_capacity(weight)
            .weigher(move |_, entry: &Arc<Entry>| entry.bytes.max(share))
            .expire_after(UntilForgotten { keep })
            .eviction_listener(move |_, entry: Arc<Entry>, cause| {
                entry.gone.store(true, Ordering::Release);
                known.remove(&entry);
                on_eviction(cause);
            })
            .build();
        // A cache of its own: a flood of random tokens evicts other random tokens and nothing else.
        let inactive = moka::sync::Cache::builder()
            .max_capacity(entries(settings, 3, INACTIVE_BYTES))
            .time_to_live(settings.negative_ttl)
            .build();
        // The latest is always kept, whatever others do: it would be acted upon again at once.
        let feedback = moka::sync::Cache::builder()
            .max_capacity(entries(settings, 1, FEEDBACK_BYTES))
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
            succeeded: AtomicBool::new(false),
            flights: Mutex::default(),
            settings: settings.clone(),
        }
    }

    /// A cache of other settings that goes on from what is known now. A verdict's own limit is found anew, and
    /// none is believed for longer than by the settings of its time or by these.
    pub fn succeed(&self, settings: &settings::Cache, on_eviction: OnEviction) -> Self {
        let mut next = Self::new(settings, Arc::clone(&self.revocations), on_eviction);
        // Of the deadlines that are copied.
        next.clock = self.clock.copy();
        // Before anything is copied: whoever forgets an entry from here on either is seen here or sees this.
        self.succeeded.store(true, Ordering::SeqCst);
        for (hash, entry) in &self.active {
            if entry.gone.load(Ordering::SeqCst) {
                continue;
            }
            let Entry { verdict, asked_at, .. } = &*entry;
            let generation = entry.generation.load(Ordering::Relaxed);
            let fresh_until = entry.fresh_until.min(*asked_at + jittered(settings.ttl));
            let copy =
                Entry::new(*hash, verdict.clone(), generation, *asked_at, fresh_until, entry.expires());
            copy.failed_after.store(entry.failed_after.load(Ordering::Relaxed), Ordering::Relaxed);
            next.insert(&Arc::new(copy));
        }
        next
    }

    /// How this cache was configured.
    pub const fn settings(&self) -> &settings::Cache {
        &self.settings
    }

    /// What was revoked, whoever believes what.
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The number of the latest revocation, to be noted when an introspection begins.
    pub fn generation(&self) -> u64 {
        self.revocations.generation()
    }

    /// The entry of a token, whatever its standing. Tells moka that the token is in use.
    pub fn active(&self, hash: &TokenHash) -> Option<Arc<Entry>> {
        self.active.get(hash)
    }

    /// Whether it was found less than `negative_ttl` ago that the token is not active, and why.
    pub fn inactive(&self, hash: &TokenHash) -> Option<Inactivity> {
        let (generation, inactivity) = self.inactive.get(hash)?;
        let subject = Subject { hash, id: None, name: None };
        (!self.revocations.since(generation, subject)).then_some(inactivity)
    }

    /// Whether `feedback` on the token with this id is to be acted upon: once per `negative_ttl`, however it is spelled.
    pub fn heed(&self, id: &str, feedback: Feedback) -> bool {
        self.feedback.entry((TokenHash::of(id), feedback)).or_insert(()).is_fresh()
    }

    /// How far `entry` may be believed at `now`.
    pub fn standing(&self, entry: &Entry, now: Instant) -> Standing {
        if entry.gone.load(Ordering::Acquire) || self.is_revoked(entry) {
            return Standing::Gone;
        }
        if entry.is_expired(now) {
            return Standing::Expired;
        }
        if now < entry.fresh_until {
            // The last fifth of its life: long enough to ask again before it ends, if it is in use at all.
            // No answer can make it outlive the token.
            let life = entry.fresh_until.saturating_duration_since(entry.asked_at);
            let refresh = now + life / 5 >= entry.fresh_until
                && entry.expires().is_none_or(|expires| entry.fresh_until < expires)
                && !entry.refreshing.load(Ordering::Relaxed);
            return if refresh { Standing::Refresh } else { Standing::Fresh };
        }
        if now < entry.fresh_until + self.settings.stale_if_error { Standing::Stale } else { Standing::Old }
    }

    /// Whether a revocation concerned `entry` after its introspection began.
    pub fn is_revoked(&self, entry: &Entry) -> bool {
        let checked = entry.generation.load(Ordering::Relaxed);
        let generation = self.revocations.generation();
        if checked == generation {
            return false;
        }
        if self.revocations.since(checked, entry.subject()) {
            entry.gone.store(true, Ordering::Release);
            return true;
        }
        entry.generation.fetch_max(generation, Ordering::Relaxed);
        false
    }

    /// Whether somebody has revoked the token of `entry` since it was asked for.
    pub fn was_revoked(&self, entry: &Entry) -> bool {
        self.revocations.named_since(entry.generation.load(Ordering::Relaxed), entry.subject())
    }

    /// Joins the introspection of a token that is under way, or starts one.
    pub fn board(&self, hash: TokenHash) -> Boarding {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(publisher) = flights.get(&hash) {
            return Boarding::Joined(publisher.subscribe());
        }
        let (sender, flight) = watch::channel(None);
        let publisher = Arc::new(sender);
        flights.insert(hash, Arc::clone(&publisher));
        Boarding::Started(flight, publisher)
    }

    /// The introspection of a token that is under way, if there is one.
    pub fn under_way(&self, hash: &TokenHash) -> Option<Flight> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(hash).map(|publisher| publisher.subscribe())
    }

    /// Ends the introspection that `publisher` speaks for: the next who asks starts another. One that was
    /// abandoned may have a successor, which stays.
    pub fn land(&self, hash: &TokenHash, publisher: &Publisher) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(hash).is_some_and(|current| Arc::ptr_eq(current, publisher)) {
            flights.remove(hash);
        }
    }

    /// Ends an introspection that waits for its turn, unless somebody still waits for it.
    pub fn land_if_abandoned(&self, hash: &TokenHash, publisher: &Publisher) -> bool {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let abandoned = publisher.receiver_count() == 0;
        if abandoned {
            flights.remove(hash);
        }
        abandoned
    }

    /// Whether an introspection that began at `generation` is worth nothing, as its token was revoked since.
    pub fn is_overtaken(&self, generation: u64, subject: Subject<'_>) -> bool {
        self.revocations.since(generation, subject)
    }

    /// Keeps what introspection said, and says what that comes to. `asked_at` and `generation` are of the
    /// moment before the question was sent, `wall` is the wall clock's reading of `now`.
    pub fn store(
        &self,
        hash: TokenHash,
        verdict: Verdict,
        generation: u64,
        asked_at: Instant,
        now: Instant,
        wall: SystemTime,
    ) -> Outcome {
        let expires = match verdict.expires_at {
            None => None,
            Some(at) => match at.duration_since(wall) {
                Ok(left) if !left.is_zero() => now.checked_add(left),
                // The token is at its end: as inactive as any unknown one, and remembered as briefly.
                _ => return self.store_inactive(hash, Inactivity::Expired, generation),
            },
        };
        let mut verdict = verdict;
        if let Some(latest) = self.spellings.latest(&verdict.id) {
            verdict.share(&latest.verdict);
        }
        let fresh_until = asked_at + jittered(self.settings.ttl);
        let entry = Arc::new(Entry::new(hash, verdict, generation, asked_at, fresh_until, expires));
        self.inactive.invalidate(&hash);
        self.insert(&entry);
        Outcome::Active(entry)
    }

    /// Inserts an entry. The oldest spelling of its token leaves if there are too many.
    fn insert(&self, entry: &Arc<Entry>) {
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

    /// Keeps that a token is not active, by an introspection begun at `generation`.
    pub fn store_inactive(&self, hash: TokenHash, why: Inactivity, generation: u64) -> Outcome {
        self.forget_entry(&hash);
        self.inactive.insert(hash, (generation, why));
        Outcome::Inactive(why)
    }

    /// Forgets the verdict of one token, as it was sent; where another cache goes on from this one, there too.
    pub fn forget_entry(&self, hash: &TokenHash) {
        if let Some(entry) = self.active.remove(hash) {
            entry.gone.store(true, Ordering::SeqCst);
        }
        if self.succeeded.load(Ordering::SeqCst) {
            self.revocations.note(Revocation::Token(*hash));
        }
    }

    /// Forgets the verdicts of a token in every spelling.
    pub fn forget_token(&self, entry: &Entry) {
        for spelling in self.spellings.of(&entry.verdict.id) {
            self.forget_entry(&spelling.hash);
        }
        self.forget_entry(&entry.hash);
    }

    /// Forgets every verdict that `revocation` concerns, here, in every core and in flight; says how many
    /// entries that were. To note it in [`TokenCache::revocations`] does the same, but for their number and their room.
    pub fn revoke(&self, revocation: Revocation) -> usize {
        self.revocations.note(revocation.clone());
        let mut revoked = 0;
        for (hash, entry) in &self.active {
            if revocation.concerns(entry.subject()) {
                entry.gone.store(true, Ordering::Release);
                self.active.invalidate(&*hash);
                revoked += 1;
            }
        }
        revoked
    }

    /// What forgetting `token` comes to: it, and every other spelling with the same id.
    pub fn revocations_of(&self, token: &str) -> Vec<Revocation> {
        let known = self.active.get(&TokenHash::of(token));
        Revocation::of_token(token, known.as_ref().map(|entry| &*entry.verdict.id))
    }

    /// Every active verdict that is believed now, in no order.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let gone = |entry: &Entry| entry.gone.load(Ordering::Acquire) || self.is_revoked(entry);
        self.active.iter().map(|(_, entry)| entry).filter(|entry| !gone(entry)).collect()
    }

    /// How many entries there are now: active, inactive.
    pub fn sizes(&self) -> (u64, u64) {
        (self.active.entry_count(), self.inactive.entry_count())
    }

    /// Does what moka puts off: evicts what is expired or too much.
    pub fn maintain(&self) {
        self.active.run_pending_tasks();
        self.inactive.run_pending_tasks();
    }
}

/// `ttl` less up to a tenth, so that tokens that were first seen together do not expire together.
fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(1.0 - 0.1 * fastrand::f64())
}

#[cfg(test)]
mod tests;
