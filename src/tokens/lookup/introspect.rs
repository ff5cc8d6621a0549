//! Introspections on behalf of a lookup: joined, limited, repeated after a revocation, and published to all workers.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use zeroize::Zeroizing;

use super::{CachedToken, Lookup, LookupRequest, LookupStats, OUTAGE_PAUSE, SharedVerdicts};
use crate::limits::failures::FailingClient;
use crate::policy::bearer::Token;
use crate::policy::refusal::Refusal;
use crate::telemetry::metrics::{IntrospectionOutcome, LookupResult, TimedPhase};
use crate::telemetry::spans::Trace;
use crate::tokens::cache::{Completed, InFlight, Inactivity, IntrospectionResult, Join, Publisher};
use crate::tokens::hash::{TokenHash, TokenHashes};
use crate::tokens::introspection::{Inactive, IntrospectionResponse, Mismatch, NoVerdict};
use crate::tokens::introspection_limiter::IntrospectionPermit;
use crate::tokens::revocation::{self, Subject};

/// Attempts at an introspection if revocations arrive while it runs.
const ATTEMPTS: usize = 3;

impl Lookup {
    /// Introspects in the background, if the limiter permits it at once, so that no request has to wait.
    pub(super) fn refresh(self: &Rc<Self>, token: Token<'_>, cached: &Rc<CachedToken>) {
        if cached.failed_within(OUTAGE_PAUSE, Instant::now()) || !cached.claim_refresh() {
            return;
        }
        let Join::Started(_, publisher) = self.shared.cache.join(cached.hash) else {
            cached.release_refresh();
            return;
        };
        let (this, cached) = (Rc::clone(self), Rc::clone(cached));
        let token = Zeroizing::new(token.secret().to_owned());
        let spelling = TokenHash::of_spelling(&token);
        let completion = Completion::new(&self.shared, cached.hash, publisher);
        tokio::task::spawn_local(async move {
            let completed =
                match this.shared.introspections.try_acquire(spelling, Arc::clone(&cached.verdict.id)) {
                    Some(permit) => this.introspect(&token, cached.hash, permit, None).await,
                    None => Completed::overloaded(),
                };
            if matches!(
                completed.outcome,
                IntrospectionResult::NoVerdict(_) | IntrospectionResult::Overloaded
            ) {
                cached.note_failure(Instant::now());
                cached.release_refresh();
            }
            completion.publish(completed);
        });
    }

    /// Joins the introspection of this token that is in flight on any worker, or starts one.
    ///
    /// An introspection is a task of its own, so that a client that leaves does not cancel it for others. It is part of
    /// the trace of the request that starts it. `id` is the token's id if it had an active verdict before.
    ///
    /// The task counts a failure of `client` if this starts one: a client that leaves has caused it all the same. A request
    /// that joins an introspection causes none, so it reserves nothing: many first requests with one token may be
    /// active.
    ///
    /// # Errors
    /// [`Refusal::TooManyAttempts`] if `client` has had too many failures to start one.
    pub(super) fn join(
        self: &Rc<Self>,
        hash: TokenHash,
        id: Option<&Arc<str>>,
        request: &LookupRequest<'_>,
        client: Option<FailingClient<'_>>,
        stats: &mut LookupStats,
    ) -> Result<Waiting, Refusal> {
        let cache = &self.shared.cache;
        let mut reservation = None;
        if let Some(client) = client {
            if let Some(in_flight) = cache.find_in_flight(&hash) {
                self.count(LookupResult::Coalesced, stats);
                return Ok(Waiting { in_flight, is_started: false });
            }
            reservation = Some(client.reserve(Instant::now()).map_err(Refusal::TooManyAttempts)?);
        }
        let (in_flight, publisher) = match cache.join(hash) {
            Join::Joined(in_flight) => {
                if let Some(reservation) = reservation {
                    reservation.release();
                }
                self.count(LookupResult::Coalesced, stats);
                return Ok(Waiting { in_flight, is_started: false });
            }
            Join::Started(in_flight, publisher) => (in_flight, publisher),
        };
        self.count(LookupResult::Miss, stats);
        let this = Rc::clone(self);
        let trace = request.trace.map(Rc::clone);
        let token = Zeroizing::new(request.token.secret().to_owned());
        let (spelling, id) = (TokenHash::of_spelling(&token), id.map(Arc::clone));
        let completion = Completion::new(&self.shared, hash, publisher);
        tokio::task::spawn_local(async move {
            let completed = match this.acquire_permit(&hash, &completion.publisher, spelling, id).await {
                Some(permit) => this.introspect(&token, hash, permit, trace.as_deref()).await,
                None => Completed::overloaded(),
            };
            // Settled before the request knows the outcome.
            match reservation {
                Some(reservation) if !matches!(completed.outcome, IntrospectionResult::Inactive(_)) => {
                    reservation.release();
                }
                failed => drop(failed),
            }
            completion.publish(completed);
        });
        Ok(Waiting { in_flight, is_started: true })
    }

    /// The outcome of an introspection, which this joins or starts. If it began too early, only `Inactive` counts, as a
    /// failure of `client`.
    ///
    /// # Errors
    /// [`Refusal::TooManyAttempts`] if `client` has had too many failures.
    pub(super) async fn outcome(
        self: &Rc<Self>,
        hash: TokenHash,
        id: Option<&Arc<str>>,
        request: &LookupRequest<'_>,
        client: Option<FailingClient<'_>>,
        stats: &mut LookupStats,
    ) -> Result<IntrospectionResult, Refusal> {
        for _ in 0..ATTEMPTS {
            let Waiting { in_flight, is_started } = self.join(hash, id, request, client, stats)?;
            match completed(in_flight).await {
                Some(Completed { outcome: outcome @ IntrospectionResult::Inactive(_), .. }) => {
                    if let Some(client) = client.filter(|_| !is_started) {
                        client.count(Instant::now()).map_err(Refusal::TooManyAttempts)?;
                    }
                    return Ok(outcome);
                }
                // It began too early. The next one begins now.
                Some(Completed { introspected_at, .. })
                    if request
                        .introspected_since
                        .is_some_and(|introspected_since| introspected_at < introspected_since) => {}
                // A revocation may have arrived since the introspection completed.
                Some(Completed { outcome: IntrospectionResult::Active(entry), .. })
                    if self.shared.cache.is_revoked(&entry) => {}
                Some(completed) => return Ok(completed.outcome),
                // The worker that introspected has ended without an outcome.
                None => {}
            }
        }
        Ok(IntrospectionResult::Overloaded)
    }

    async fn acquire_permit(
        &self,
        hash: &TokenHash,
        publisher: &Publisher,
        spelling: TokenHash,
        id: Option<Arc<str>>,
    ) -> Option<IntrospectionPermit<'_>> {
        let permit = async {
            let mut permit = std::pin::pin!(self.shared.introspections.acquire(spelling, id));
            loop {
                tokio::select! {
                    biased;
                    permit = &mut permit => return permit,
                    () = publisher.closed() => {
                        if self.shared.cache.complete_if_abandoned(hash, publisher) {
                            return None;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(self.introspector.settings().timeout, permit).await.ok().flatten()
    }

    async fn introspect(
        &self,
        token: &str,
        hash: TokenHash,
        _permit: IntrospectionPermit<'_>,
        trace: Option<&Trace>,
    ) -> Completed {
        let cache = &self.shared.cache;
        let secret = TokenHash::of_secret(token);
        let written_id = revocation::written_id(token).filter(|_| self.shows_id());
        for _ in 0..ATTEMPTS {
            let generation = cache.generation();
            let introspected_at = Instant::now();
            // Also in a later attempt: a block is a reason for it.
            if self.blocks_text(token) {
                let outcome = IntrospectionResult::Inactive(Inactivity::Blocked);
                return Completed { outcome, introspected_at };
            }
            let in_flight = self.metrics.metrics().introspection_started();
            let answer = self.introspector.introspect(token, &hash, trace).await;
            drop(in_flight);
            let now = Instant::now();
            self.metrics.phase(TimedPhase::Introspection, now.duration_since(introspected_at));
            match answer {
                IntrospectionResponse::Active(verdict) => {
                    self.metrics.introspection(IntrospectionOutcome::Active);
                    let subject = Subject {
                        hash: &hash,
                        secret: Some(&secret),
                        id: Some(&verdict.id),
                        written_id,
                        name: verdict.name.as_deref(),
                    };
                    if !cache.is_overtaken(generation, subject) {
                        let wall = SystemTime::now();
                        let outcome = cache.store(
                            TokenHashes { token: hash, secret, written_id: written_id.map(Box::from) },
                            verdict,
                            generation,
                            introspected_at,
                            now,
                            wall,
                        );
                        return Completed { outcome, introspected_at };
                    }
                }
                IntrospectionResponse::Inactive { why, id, name } => {
                    self.metrics.introspection(IntrospectionOutcome::Inactive);
                    let (id, name) = (Some(&*id), name.as_deref());
                    let subject = Subject { hash: &hash, secret: Some(&secret), id, written_id, name };
                    if !cache.is_overtaken(generation, subject) {
                        let why = match why {
                            Inactive::Reported => {
                                cache.store_inactive(subject, Inactivity::Inactive, generation)
                            }
                            Inactive::NotYetValid(from) => {
                                cache.store_not_yet_valid(subject, from, generation)
                            }
                            Inactive::UnexpectedClaim(Mismatch { claim, .. }) => {
                                cache.store_inactive(subject, Inactivity::UnexpectedClaim(claim), generation)
                            }
                        };
                        return Completed { outcome: IntrospectionResult::Inactive(why), introspected_at };
                    }
                }
                IntrospectionResponse::NoVerdict(why) => {
                    self.metrics.introspection(IntrospectionOutcome::NoVerdict);
                    self.log_no_verdict(&why, now);
                    return Completed {
                        outcome: IntrospectionResult::NoVerdict(Arc::new(why)),
                        introspected_at,
                    };
                }
            }
        }
        Completed::overloaded()
    }

    /// Logs why there is no verdict, at most once a second: an outage affects every request.
    fn log_no_verdict(&self, why: &NoVerdict, now: Instant) {
        let pause = Duration::from_secs(1);
        if self.logged_at.get().is_some_and(|at| now.duration_since(at) < pause) {
            return;
        }
        self.logged_at.set(Some(now));
        let error: &dyn std::error::Error = why;
        if why.is_misconfiguration() {
            tracing::error!(error, "the introspector refused the gateway's own credential");
        } else {
            tracing::warn!(error, "introspection gave no verdict");
        }
    }
}

/// An introspection that a request waits for.
pub(super) struct Waiting {
    pub(super) in_flight: InFlight,
    /// Whether the request has started it, so that its task counts a failure.
    is_started: bool,
}

/// The result of an introspection in flight; `None` if its worker ended before it.
pub(super) async fn completed(mut in_flight: InFlight) -> Option<Completed> {
    in_flight.wait_for(Option::is_some).await.ok()?.clone()
}

impl Completed {
    fn overloaded() -> Self {
        Self { outcome: IntrospectionResult::Overloaded, introspected_at: Instant::now() }
    }
}

/// Completes an introspection when dropped, also by a panic or the end of its runtime, so that no request waits for it in
/// vain. Created before the task, which may be dropped before it runs.
struct Completion {
    shared: Arc<SharedVerdicts>,
    hash: TokenHash,
    publisher: Publisher,
}

impl Completion {
    fn new(shared: &Arc<SharedVerdicts>, hash: TokenHash, publisher: Publisher) -> Self {
        Self { shared: Arc::clone(shared), hash, publisher }
    }

    /// First the cache, then the waiting requests: a request that arrives in between finds the verdict in the cache.
    fn publish(self, completed: Completed) {
        self.shared.cache.complete(&self.hash, &self.publisher);
        self.publisher.send_replace(Some(completed));
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.shared.cache.complete(&self.hash, &self.publisher);
    }
}
