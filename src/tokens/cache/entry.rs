//! One entry of the cache: an active verdict with its deadlines.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits::tokens::TokenLimit;
use crate::tokens::clock::Reading;
use crate::tokens::hash::{TokenHash, TokenHashes};
use crate::tokens::introspection::MAX_TEXT;
use crate::tokens::revocation::Subject;
use crate::tokens::verdict::{ALLOCATION, Verdict};

/// Memory of an active entry without the texts of its verdict, in bytes: the entry, moka's nodes and timer, its element in
/// the list of spellings, and its buckets if `rate_limit` is on.
const ENTRY_BYTES: u64 = 704;

/// The largest entry that each worker's front cache may hold: evicted entries stay there until the next sweep, out of reach
/// of `max_bytes`. Those of Stockaj have less than a quarter of it.
const MAX_FRONT_BYTES: u32 = 4096;

/// `expires_after` of a token that does not expire.
const NEVER: u64 = u64::MAX;

/// An active verdict and its deadlines.
#[derive(Debug)]
pub struct CacheEntry {
    /// The introspected verdict.
    pub verdict: Verdict,
    /// The time at which the introspection began.
    pub introspected_at: Instant,
    /// The token's rate limit, looked up by its first request.
    pub limit: OnceLock<TokenLimit>,
    pub(super) hash: TokenHash,
    /// [That of the token's secret](TokenHash::of_secret).
    pub(super) secret: TokenHash,
    /// The [id in its text](crate::tokens::revocation::written_id), if it is not the introspected one.
    written_id: Option<Box<str>>,
    pub(super) fresh_until: Instant,
    /// The token's own expiry on the clock that deadlines use, in nanoseconds after `introspected_at`. It becomes earlier
    /// when the wall clock is set forward.
    expires_after: AtomicU64,
    /// Estimated memory with moka's share, in bytes.
    pub(super) bytes: u32,
    pub(super) generation: AtomicU64,
    pub(super) gone: AtomicBool,
    pub(super) refreshing: AtomicBool,
    /// Milliseconds from `introspected_at` to the latest introspection without a verdict; 0 if there was none.
    pub(super) failed_after: AtomicU64,
}

/// Whether an entry may serve requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It serves.
    Fresh,
    /// It serves, and the token should be introspected in the background.
    Refresh,
    /// It serves if introspection gives no verdict (`stale_if_error`).
    Stale,
    /// It does not serve. The token was active once.
    Outdated,
    /// The token itself has expired.
    Expired,
    /// It was evicted, replaced or revoked.
    Evicted,
}

impl CacheEntry {
    pub(super) fn new(
        TokenHashes { token: hash, secret, written_id }: TokenHashes,
        verdict: Verdict,
        generation: u64,
        introspected_at: Instant,
        fresh_until: Instant,
        expires: Option<Instant>,
    ) -> Self {
        // Revocations and blocks have no longer ones.
        let written_id = written_id.filter(|id| **id != *verdict.id && id.len() <= MAX_TEXT);
        let written_bytes = written_id.as_ref().map_or(0, |id| id.len() + ALLOCATION);
        let bytes = ENTRY_BYTES + (verdict.heap_bytes() + written_bytes) as u64;
        Self {
            verdict,
            introspected_at,
            limit: OnceLock::new(),
            hash,
            secret,
            written_id,
            fresh_until: expires.map_or(fresh_until, |expires| fresh_until.min(expires)),
            expires_after: AtomicU64::new(
                expires.map_or(NEVER, |expires| nanoseconds(introspected_at, expires)),
            ),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            generation: AtomicU64::new(generation),
            gone: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
            failed_after: AtomicU64::new(0),
        }
    }

    /// The hashes of its token, and the id in its text.
    pub(super) fn hashes(&self) -> TokenHashes {
        TokenHashes { token: self.hash, secret: self.secret, written_id: self.written_id.clone() }
    }

    /// The properties by which blocks and revocations select the token.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            hash: &self.hash,
            secret: Some(&self.secret),
            id: Some(&self.verdict.id),
            written_id: self.written_id.as_deref(),
            name: self.verdict.name.as_deref(),
        }
    }

    /// Whether the token's own expiry has passed.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires().is_some_and(|expires| now >= expires)
    }

    /// The token's own expiry on the clock that deadlines use.
    pub(super) fn expires(&self) -> Option<Instant> {
        match self.expires_after.load(Ordering::Relaxed) {
            NEVER => None,
            after => Some(self.introspected_at + Duration::from_nanos(after)),
        }
    }

    /// Shortens the deadline to the expiry by the wall clock, if that is earlier by now. It is never moved back: the
    /// wall clock may be wrong, and the verdict is too old before long.
    pub(super) fn expire_by(&self, reading: Reading) {
        if let Some(expiry) = self.verdict.expires_at {
            let left = expiry.duration_since(reading.wall).unwrap_or_default();
            if let Some(expires) = reading.now.checked_add(left) {
                self.expires_after.fetch_min(nanoseconds(self.introspected_at, expires), Ordering::Relaxed);
            }
        }
    }

    /// Whether a worker may keep it in its front cache.
    pub fn fits_in_front(&self) -> bool {
        self.bytes <= MAX_FRONT_BYTES
    }

    /// Whether it was evicted or replaced, or found to be revoked.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether its introspection began at `since` or later; true for `None`.
    pub fn is_introspected_since(&self, since: Option<Instant>) -> bool {
        since.is_none_or(|since| self.introspected_at >= since)
    }

    /// The time since its introspection began.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.introspected_at)
    }

    /// Claims the refresh of this entry; false if it is claimed already.
    pub fn claim_refresh(&self) -> bool {
        !self.refreshing.swap(true, Ordering::AcqRel)
    }

    /// Releases the refresh, so that a later request may claim it.
    pub fn release_refresh(&self) {
        self.refreshing.store(false, Ordering::Release);
    }

    /// Notes an introspection without a verdict.
    pub fn note_failure(&self, now: Instant) {
        let after = u64::try_from(self.age(now).as_millis()).unwrap_or(u64::MAX).max(1);
        self.failed_after.store(after, Ordering::Relaxed);
    }

    /// Whether an introspection gave no verdict less than `pause` ago.
    pub fn failed_within(&self, pause: Duration, now: Instant) -> bool {
        match self.failed_after.load(Ordering::Relaxed) {
            0 => false,
            after => self.age(now) < Duration::from_millis(after).saturating_add(pause),
        }
    }
}

/// From one moment to a later one, in nanoseconds; at most 584 years.
fn nanoseconds(from: Instant, to: Instant) -> u64 {
    let nanoseconds = to.saturating_duration_since(from).as_nanos();
    u64::try_from(nanoseconds).unwrap_or(u64::MAX).min(NEVER - 1)
}
