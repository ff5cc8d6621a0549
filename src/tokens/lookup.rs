//! One core's way to a verdict: its front cache, the cache of all cores, the introspector.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use super::cache::{
    Boarding, Entry, Feedback, Flight, Inactivity, Landed, Outcome, Publisher, Standing, TokenCache,
};
use super::hash::TokenHash;
use super::introspection::{Answer, NoVerdict};
use super::introspector::Introspector;
use super::revocation::Subject;
use super::turns::{Turn, Turns};
use super::verdict::Verdict;
use crate::policy::bearer::Token;
use crate::policy::identity::{Described, Identity, IdentityHeader};
use crate::policy::refusal::Refusal;
use crate::telemetry::access::TokenFields;
use crate::telemetry::metrics::{CoreMetrics, IntrospectionOutcome, LookupResult, Phase};
use crate::telemetry::spans::Trace;

/// How many verdicts one core keeps at hand; a power of two.
const FRONT_SLOTS: usize = 1024;

/// One hit in this many tells moka that the token is in use: moka's own bookkeeping of a hit costs 130 ns
/// on one core and 800 ns when two cores do it at once.
const HITS_PER_TOUCH: u32 = 64;

/// After an introspection without a verdict, `stale_if_error` serves this long without trying again.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// How often an introspection is repeated that a revocation overtook.
const ATTEMPTS: usize = 3;

/// What all cores share.
pub struct Shared {
    /// The verdicts.
    pub cache: TokenCache,
    /// The bound on introspections.
    pub turns: Turns,
}

/// An entry that one core holds. Cloned without an atomic instruction.
pub type Held = Rc<HeldEntry>;

/// See [`Held`].
#[derive(Debug)]
pub struct HeldEntry {
    entry: Arc<Entry>,
    hash: TokenHash,
    hits: Cell<u32>,
    identity: OnceCell<Identity>,
    /// The token's fields in access lines, once there was one.
    pub logged: OnceCell<TokenFields>,
    /// Where this core counts what the token does; it means nothing here.
    pub usage_slot: Cell<u64>,
}

impl HeldEntry {
    /// The wanted fields that tell the backend of the token: written at the first request, and cloned without
    /// an instruction that another core waits for.
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

impl std::ops::Deref for HeldEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

/// One core's way to a verdict.
pub struct Lookup {
    shared: Arc<Shared>,
    front: RefCell<Box<[Option<Held>]>>,
    introspector: Introspector,
    metrics: CoreMetrics,
    complained_at: Cell<Option<Instant>>,
}

impl Lookup {
    /// A way through `shared` to `introspector`.
    pub fn new(shared: Arc<Shared>, introspector: Introspector, metrics: CoreMetrics) -> Rc<Self> {
        let front = RefCell::new(vec![None; FRONT_SLOTS].into_boxed_slice());
        Rc::new(Self { shared, front, introspector, metrics, complained_at: Cell::new(None) })
    }

    /// The way to the introspector.
    pub const fn introspector(&self) -> &Introspector {
        &self.introspector
    }

    /// Who a token is, where this core knows by what was asked at `since` or later: what almost every request is served
    /// by. Waits for nothing.
    pub fn at_hand(
        self: &Rc<Self>,
        hash: &TokenHash,
        token: Token<'_>,
        now: Instant,
        since: Option<Instant>,
    ) -> Option<Held> {
        let held = self.in_front(hash).filter(|held| held.is_since(since))?;
        match self.shared.cache.standing(&held, now) {
            Standing::Fresh => {}
            Standing::Refresh => self.refresh(token, &held),
            Standing::Stale | Standing::Old | Standing::Expired | Standing::Gone => return None,
        }
        self.metrics.cache_lookup(LookupResult::Hit);
        Some(held)
    }

    /// Whether nothing needs to be asked about `held`, which this lookup gave, for it to be believed. Counts as no look
    /// into the cache.
    pub fn is_fresh(&self, held: &Held, now: Instant) -> bool {
        self.shared.cache.standing(held, now) == Standing::Fresh
    }

    /// Who a token is, where that is known: it asks nobody and counts as no look into the cache.
    ///
    /// # Errors
    /// [`Refusal::InactiveToken`] and [`Refusal::ExpiredToken`], inside.
    pub fn known(&self, hash: &TokenHash, now: Instant) -> Option<Result<Held, Refusal>> {
        let cache = &self.shared.cache;
        if let Some(held) = self.in_front(hash).filter(|held| self.is_believed(held, now)) {
            return Some(Ok(held));
        }
        let known = cache.active(hash).map(|entry| (cache.standing(&entry, now), entry));
        match known {
            Some((Standing::Fresh | Standing::Refresh, entry)) => Some(Ok(self.keep_at_hand(*hash, entry))),
            Some((Standing::Expired, _)) => Some(Err(Refusal::ExpiredToken)),
            Some((Standing::Stale | Standing::Old, _)) => None,
            Some((Standing::Gone, _)) | None => cache.inactive(hash).map(|why| Err(refusal(why))),
        }
    }

    /// Whether a request may be served by `held`, which this lookup gave, without a question.
    pub fn is_believed(&self, held: &Held, now: Instant) -> bool {
        matches!(self.shared.cache.standing(held, now), Standing::Fresh | Standing::Refresh)
    }

    /// Whether somebody has revoked the token of `held`. That introspection might say otherwise by now does not matter.
    pub fn was_revoked(&self, held: &Held) -> bool {
        self.shared.cache.was_revoked(held)
    }

    /// Who `token` is by now, asked again because the verdict `old` denied it an ability. At most once per
    /// token and `negative_ttl`: none where `old` is younger than that.
    ///
    /// # Errors
    /// As [`Lookup::look_further`].
    pub async fn ask_again(
        self: &Rc<Self>,
        token: Token<'_>,
        old: &Held,
        now: Instant,
        trace: Option<&Rc<Trace>>,
    ) -> Option<Result<Held, Refusal>> {
        let cache = &self.shared.cache;
        let pause = cache.settings().negative_ttl;
        if old.age(now) <= pause {
            return None;
        }
        let id = &old.verdict.id;
        let outcome = if cache.heed(id, Feedback::Forbidden) {
            self.outcome(token, old.hash, Some(id), None, trace, &mut None).await
        } else if let Some(flight) = cache.under_way(&old.hash) {
            // Somebody else is asking just now, and will know more than `old` does.
            landed(flight).await.map_or(Outcome::Overloaded, |landed| landed.outcome)
        } else {
            return old.failed_within(pause, now).then_some(Err(Refusal::NoVerdict));
        };
        let refused = match outcome {
            Outcome::Active(entry) if entry.is_expired(Instant::now()) => {
                return Some(Err(Refusal::ExpiredToken));
            }
            Outcome::Active(entry) if !cache.is_revoked(&entry) => {
                return Some(Ok(self.keep_at_hand(old.hash, entry)));
            }
            Outcome::Inactive(why) => return Some(Err(refusal(why))),
            Outcome::Active(_) | Outcome::NoVerdict(_) => Refusal::NoVerdict,
            Outcome::Overloaded => Refusal::Overloaded,
        };
        old.note_failure(Instant::now());
        Some(Err(refused))
    }

    /// Whether `stale_if_error` lets `held` serve where asking again brought no verdict.
    pub fn may_serve_stale(&self, held: &Held, now: Instant) -> bool {
        let standing = self.shared.cache.standing(held, now);
        !self.shared.cache.settings().stale_if_error.is_zero()
            && matches!(standing, Standing::Fresh | Standing::Refresh | Standing::Stale)
    }

    /// Drops the verdicts of a token that the backend contradicted with a 401, in every spelling; at most once per token
    /// and `negative_ttl`.
    pub fn contradicted(&self, held: &Held) {
        if self.shared.cache.heed(&held.verdict.id, Feedback::Unauthenticated) {
            self.shared.cache.forget_token(held);
        }
    }

    /// Lets go of entries that have left the cache: their memory counts towards `cache.max_bytes` no more.
    pub fn sweep(&self) {
        for slot in &mut *self.front.borrow_mut() {
            slot.take_if(|held| held.is_gone());
        }
    }

    fn slot(hash: &TokenHash) -> usize {
        let [low, high, ..] = *hash.as_bytes();
        usize::from(u16::from_le_bytes([low, high])) & (FRONT_SLOTS - 1)
    }

    fn in_front(&self, hash: &TokenHash) -> Option<Held> {
        let front = self.front.borrow();
        let held = front.get(Self::slot(hash))?.as_ref().filter(|held| held.hash == *hash)?;
        held.hits.set(held.hits.get().wrapping_add(1));
        if held.hits.get() % HITS_PER_TOUCH == 0 {
            self.shared.cache.active(hash);
        }
        Some(Rc::clone(held))
    }

    fn keep_at_hand(&self, hash: TokenHash, entry: Arc<Entry>) -> Held {
        let held = Rc::new(HeldEntry {
            entry,
            hash,
            hits: Cell::new(0),
            identity: OnceCell::new(),
            logged: OnceCell::new(),
            usage_slot: Cell::new(0),
        });
        if held.fits_in_front()
            && let Some(slot) = self.front.borrow_mut().get_mut(Self::slot(&hash))
        {
            *slot = Some(Rc::clone(&held));
        }
        held
    }

    /// Who a token is, from what all cores know, or else from the introspector; active by what was asked at `since` or
    /// later, also where `stale_if_error` has to do. `noted` gets how the cache answered.
    ///
    /// # Errors
    /// [`Refusal::InactiveToken`] and [`Refusal::ExpiredToken`] as introspection says;
    /// [`Refusal::NoVerdict`] and [`Refusal::Overloaded`] where it says nothing.
    pub async fn look_further(
        self: &Rc<Self>,
        hash: TokenHash,
        token: Token<'_>,
        now: Instant,
        since: Option<Instant>,
        trace: Option<&Rc<Trace>>,
        noted: &mut Option<LookupResult>,
    ) -> Result<Held, Refusal> {
        let cache = &self.shared.cache;
        let generation = cache.generation();
        let known = cache.active(&hash).map(|entry| {
            let standing = cache.standing(&entry, now);
            (entry, standing)
        });
        let fallback = match known {
            Some((entry, Standing::Fresh | Standing::Refresh | Standing::Stale))
                if !entry.is_since(since) =>
            {
                Some(entry)
            }
            Some((entry, standing @ (Standing::Fresh | Standing::Refresh))) => {
                self.count(LookupResult::Hit, noted);
                let held = self.keep_at_hand(hash, entry);
                if standing == Standing::Refresh {
                    self.refresh(token, &held);
                }
                return Ok(held);
            }
            Some((_, Standing::Expired)) => {
                cache.store_inactive(hash, Inactivity::Expired, generation);
                self.count(LookupResult::NegativeHit, noted);
                return Err(Refusal::ExpiredToken);
            }
            Some((entry, Standing::Stale)) => {
                if entry.failed_within(OUTAGE_PAUSE, now) {
                    self.count(LookupResult::Stale, noted);
                    return Ok(self.keep_at_hand(hash, entry));
                }
                Some(entry)
            }
            Some((entry, Standing::Old)) => Some(entry),
            Some((_, Standing::Gone)) | None => None,
        };
        if fallback.is_none()
            && let Some(why) = cache.inactive(&hash)
        {
            self.count(LookupResult::NegativeHit, noted);
            return Err(refusal(why));
        }
        let id = fallback.as_ref().map(|entry| &entry.verdict.id);
        let outcome = self.outcome(token, hash, id, since, trace, noted).await;
        let now = Instant::now();
        let refused = match outcome {
            Outcome::Active(entry) if entry.is_expired(now) => return Err(Refusal::ExpiredToken),
            Outcome::Active(entry) => return Ok(self.keep_at_hand(hash, entry)),
            Outcome::Inactive(why) => return Err(refusal(why)),
            Outcome::NoVerdict(_) => Refusal::NoVerdict,
            Outcome::Overloaded => Refusal::Overloaded,
        };
        match fallback {
            Some(entry) if entry.is_since(since) && cache.standing(&entry, now) == Standing::Stale => {
                entry.note_failure(now);
                self.count(LookupResult::Stale, noted);
                Ok(self.keep_at_hand(hash, entry))
            }
            _ => Err(refused),
        }
    }

    /// Asks again in the background, if there is a turn for it, so that no request has to wait.
    fn refresh(self: &Rc<Self>, token: Token<'_>, held: &Held) {
        if held.failed_within(OUTAGE_PAUSE, Instant::now()) || !held.claim_refresh() {
            return;
        }
        let Boarding::Started(_, publisher) = self.shared.cache.board(held.hash) else {
            held.release_refresh();
            return;
        };
        let (this, held) = (Rc::clone(self), Rc::clone(held));
        let token = Zeroizing::new(token.secret().to_owned());
        let spelling = TokenHash::of_spelling(&token);
        let landing = Landing::new(&self.shared, held.hash, publisher);
        tokio::task::spawn_local(async move {
            let landed = match this.shared.turns.try_now(spelling, Arc::clone(&held.verdict.id)) {
                Some(turn) => this.introspect(&token, held.hash, turn, None).await,
                None => Landed::overloaded(),
            };
            if matches!(landed.outcome, Outcome::NoVerdict(_) | Outcome::Overloaded) {
                held.note_failure(Instant::now());
                held.release_refresh();
            }
            landing.publish(landed);
        });
    }

    /// Joins the introspection of this token that is under way on any core, or starts one.
    ///
    /// It runs as a task of its own: a client that leaves takes nobody's answer with it. It is part of the `trace` of
    /// whoever starts it. `id` is the token's id if it had an active verdict before.
    fn board(
        self: &Rc<Self>,
        token: Token<'_>,
        hash: TokenHash,
        id: Option<&Arc<str>>,
        trace: Option<&Rc<Trace>>,
        noted: &mut Option<LookupResult>,
    ) -> Flight {
        let (flight, publisher) = match self.shared.cache.board(hash) {
            Boarding::Joined(flight) => {
                self.count(LookupResult::Coalesced, noted);
                return flight;
            }
            Boarding::Started(flight, publisher) => (flight, publisher),
        };
        self.count(LookupResult::Miss, noted);
        let this = Rc::clone(self);
        let trace = trace.map(Rc::clone);
        let token = Zeroizing::new(token.secret().to_owned());
        let (spelling, id) = (TokenHash::of_spelling(&token), id.map(Arc::clone));
        let landing = Landing::new(&self.shared, hash, publisher);
        tokio::task::spawn_local(async move {
            let landed = match this.wait_for_turn(&hash, &landing.publisher, spelling, id).await {
                Some(turn) => this.introspect(&token, hash, turn, trace.as_deref()).await,
                None => Landed::overloaded(),
            };
            landing.publish(landed);
        });
        flight
    }

    /// What an introspection of the token comes to, be it under way or not. One that began before `since` is good for
    /// 'inactive' only.
    async fn outcome(
        self: &Rc<Self>,
        token: Token<'_>,
        hash: TokenHash,
        id: Option<&Arc<str>>,
        since: Option<Instant>,
        trace: Option<&Rc<Trace>>,
        noted: &mut Option<LookupResult>,
    ) -> Outcome {
        for _ in 0..ATTEMPTS {
            match landed(self.board(token, hash, id, trace, noted)).await {
                Some(Landed { outcome: outcome @ Outcome::Inactive(_), .. }) => return outcome,
                // The next one begins now.
                Some(Landed { asked_at, .. }) if since.is_some_and(|since| asked_at < since) => {}
                // It may have been revoked between landing and our waking.
                Some(Landed { outcome: Outcome::Active(entry), .. })
                    if self.shared.cache.is_revoked(&entry) => {}
                Some(landed) => return landed.outcome,
                // The core that asked ended before it had an answer: ask from this one.
                None => {}
            }
        }
        Outcome::Overloaded
    }

    async fn wait_for_turn(
        &self,
        hash: &TokenHash,
        publisher: &Publisher,
        spelling: TokenHash,
        id: Option<Arc<str>>,
    ) -> Option<Turn<'_>> {
        let turn = async {
            let mut turn = std::pin::pin!(self.shared.turns.wait(spelling, id));
            loop {
                tokio::select! {
                    biased;
                    turn = &mut turn => return turn,
                    () = publisher.closed() => {
                        if self.shared.cache.land_if_abandoned(hash, publisher) {
                            return None;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(self.introspector.settings().timeout, turn).await.ok().flatten()
    }

    async fn introspect(
        &self,
        token: &str,
        hash: TokenHash,
        _turn: Turn<'_>,
        trace: Option<&Trace>,
    ) -> Landed {
        let cache = &self.shared.cache;
        for _ in 0..ATTEMPTS {
            let generation = cache.generation();
            let asked_at = Instant::now();
            let in_flight = self.metrics.metrics().introspection_started();
            let answer = self.introspector.ask(token, &hash, trace).await;
            drop(in_flight);
            let now = Instant::now();
            self.metrics.phase(Phase::Introspection, now.duration_since(asked_at));
            match answer {
                Answer::Active(verdict) => {
                    self.metrics.introspection(IntrospectionOutcome::Active);
                    let subject =
                        Subject { hash: &hash, id: Some(&verdict.id), name: verdict.name.as_deref() };
                    if !cache.is_overtaken(generation, subject) {
                        let wall = SystemTime::now();
                        let outcome = cache.store(hash, verdict, generation, asked_at, now, wall);
                        return Landed { outcome, asked_at };
                    }
                }
                Answer::Inactive => {
                    self.metrics.introspection(IntrospectionOutcome::Inactive);
                    if !cache.is_overtaken(generation, Subject { hash: &hash, id: None, name: None }) {
                        let outcome = cache.store_inactive(hash, Inactivity::Inactive, generation);
                        return Landed { outcome, asked_at };
                    }
                }
                Answer::NoVerdict(why) => {
                    self.metrics.introspection(IntrospectionOutcome::NoVerdict);
                    self.complain(&why, now);
                    return Landed { outcome: Outcome::NoVerdict(Arc::new(why)), asked_at };
                }
            }
        }
        Landed::overloaded()
    }

    /// Counts how the cache answered, and notes it for the request.
    fn count(&self, result: LookupResult, noted: &mut Option<LookupResult>) {
        self.metrics.cache_lookup(result);
        *noted = Some(result);
    }

    /// Logs why there is no verdict, once a second at most: an outage concerns every request.
    fn complain(&self, why: &NoVerdict, now: Instant) {
        let pause = Duration::from_secs(1);
        if self.complained_at.get().is_some_and(|at| now.duration_since(at) < pause) {
            return;
        }
        self.complained_at.set(Some(now));
        let error: &dyn std::error::Error = why;
        if why.is_misconfiguration() {
            tracing::error!(error, "the introspector refused the gateway's own credential");
        } else {
            tracing::warn!(error, "introspection gave no verdict");
        }
    }
}

/// What a flight came to; none where it ended without an outcome.
async fn landed(mut flight: Flight) -> Option<Landed> {
    flight.wait_for(Option::is_some).await.ok()?.clone()
}

impl Landed {
    fn overloaded() -> Self {
        Self { outcome: Outcome::Overloaded, asked_at: Instant::now() }
    }
}

/// Removes a flight when it ends, also by a panic or the end of its runtime: nobody waits in vain. Made
/// before the flight's task, which may be dropped before it ever runs.
struct Landing {
    shared: Arc<Shared>,
    hash: TokenHash,
    publisher: Publisher,
}

impl Landing {
    fn new(shared: &Arc<Shared>, hash: TokenHash, publisher: Publisher) -> Self {
        Self { shared: Arc::clone(shared), hash, publisher }
    }

    /// In this order: whoever comes in between finds the answer in the cache.
    fn publish(self, landed: Landed) {
        self.shared.cache.land(&self.hash, &self.publisher);
        self.publisher.send_replace(Some(landed));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.cache.land(&self.hash, &self.publisher);
    }
}

const fn refusal(why: Inactivity) -> Refusal {
    match why {
        Inactivity::Inactive => Refusal::InactiveToken,
        Inactivity::Expired => Refusal::ExpiredToken,
    }
}

#[cfg(test)]
mod tests;
