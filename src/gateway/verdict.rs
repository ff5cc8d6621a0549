//! Authenticates tokens and authorizes requests by verdicts of introspection.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Gateway;
use crate::limits::failures::FailingClient;
use crate::policy::bearer::Token;
use crate::policy::decision::{NeedsVerdict, Permit};
use crate::policy::network::{ClientAddress, NetworkRule};
use crate::policy::refusal::Refusal;
use crate::response::record::RequestRecord;
use crate::tokens::hash::TokenHash;
use crate::tokens::lookup::{CachedToken, LookupRequest, LookupStats};

/// A request's token, and the requirement on its verdict.
pub(super) struct Authentication<'a> {
    pub(super) token: Token<'a>,
    pub(super) needs_verdict: NeedsVerdict<'a>,
    /// The [oldest acceptable introspection time](Gateway::oldest_introspection).
    pub(super) introspected_since: Option<Instant>,
    pub(super) client: &'a ClientAddress,
}

impl Gateway {
    /// The verdict of an active token, from the cache or introspection.
    pub(super) async fn authenticate(
        &self,
        authentication: &Authentication<'_>,
        record: &mut RequestRecord,
    ) -> Result<Rc<CachedToken>, Refusal> {
        let Authentication { token, introspected_since, .. } = *authentication;
        let introspected_since =
            introspected_since.filter(|_| !self.is_known_to_lack(authentication, record.started()));
        let hash = TokenHash::of(token.as_bytes());
        let local = {
            let (now, trace) = (record.started(), record.trace.as_ref());
            let request = LookupRequest { token, now, introspected_since, trace };
            self.lookup.local_verdict(&hash, &request, &mut record.lookup)
        };
        let cached = match local {
            Some(cached) => cached,
            // Boxed, since this future is rarely needed and would enlarge that of every request.
            None => Box::pin(self.shared_verdict(token, hash, introspected_since, record)).await?,
        };
        record.token = Some(Rc::clone(&cached));
        Ok(cached)
    }

    /// The verdict of a token that is not in the front cache.
    async fn shared_verdict(
        &self,
        token: Token<'_>,
        hash: TokenHash,
        introspected_since: Option<Instant>,
        record: &mut RequestRecord,
    ) -> Result<Rc<CachedToken>, Refusal> {
        let (now, trace) = (record.started(), record.trace.as_ref());
        let request = LookupRequest { token, now, introspected_since, trace };
        let client = self.failing_client(record.client);
        self.lookup.shared_verdict(hash, &request, client, &mut record.lookup).await
    }

    /// The client whose requests with inactive tokens are limited; `None` if they are not.
    pub(super) fn failing_client(&self, address: Option<IpAddr>) -> Option<FailingClient<'_>> {
        self.limiter.failures.as_ref().map(|failures| failures.client(address))
    }

    /// The permit of a request whose token has the required abilities. A newer verdict replaces `cached`.
    pub(super) async fn authorize(
        &self,
        authentication: &Authentication<'_>,
        cached: &mut Rc<CachedToken>,
        record: &mut RequestRecord,
    ) -> Result<Permit, Refusal> {
        let Authentication { needs_verdict, introspected_since, client, .. } = *authentication;
        if cached.is_introspected_since(introspected_since)
            && let Ok(permit) = needs_verdict.authorize(cached.verdict.rights(), client)
        {
            return Ok(permit);
        }
        // Boxed, since this future is rarely needed and would enlarge that of every request.
        Box::pin(self.authorize_anew(authentication, cached, record)).await
    }

    /// Authorizes a request that its cached verdict does not allow, or whose verdict is too old.
    async fn authorize_anew(
        &self,
        authentication: &Authentication<'_>,
        cached: &mut Rc<CachedToken>,
        record: &mut RequestRecord,
    ) -> Result<Permit, Refusal> {
        let Authentication { token, needs_verdict, introspected_since, client } = *authentication;
        let trace = record.trace.as_ref();
        let request = LookupRequest { token, now: record.started(), introspected_since, trace };
        let stats = &mut record.lookup;
        let mut permit =
            self.authorize_or_reintrospect(&request, cached, (needs_verdict, client), stats).await;
        record.token = Some(Rc::clone(cached));
        if permit.is_ok() && !cached.is_introspected_since(introspected_since) {
            // The ability was added, and an introspection that began before this request has reported it.
            let failing = self.failing_client(record.client);
            *cached = self.lookup.verdict(&request, failing, stats).await?;
            record.token = Some(Rc::clone(cached));
            permit = needs_verdict.authorize(cached.verdict.rights(), client);
        }
        permit
    }

    /// The permit of a token with the required abilities. A cached verdict that lacks one, or has the wrong networks, may
    /// be out of date, so the token is introspected once more: the guide's remedy for a 403 is to update the token.
    pub(super) async fn authorize_or_reintrospect(
        &self,
        request: &LookupRequest<'_>,
        cached: &mut Rc<CachedToken>,
        (needs_verdict, client): (NeedsVerdict<'_>, &ClientAddress),
        stats: &mut LookupStats,
    ) -> Result<Permit, Refusal> {
        let denied = match needs_verdict.authorize(cached.verdict.rights(), client) {
            Ok(permit) => return Ok(permit),
            // No verdict changes the networks of the route.
            Err(denied @ Refusal::WrongNetwork(NetworkRule::Route)) => return Err(denied),
            Err(denied) => denied,
        };
        let request = LookupRequest { now: Instant::now(), ..*request };
        match self.lookup.reintrospect(&request, cached, stats).await {
            None => Err(denied),
            Some(Ok(newer)) => {
                *cached = newer;
                needs_verdict.authorize(cached.verdict.rights(), client)
            }
            Some(Err(Refusal::NoVerdict | Refusal::Overloaded))
                if self.lookup.may_serve_stale(cached, Instant::now()) =>
            {
                Err(denied)
            }
            Some(Err(refusal)) => Err(refusal),
        }
    }

    /// Oldest acceptable introspection time for the requirements of a request; `None` if `cache.max_age` does not limit
    /// it. Verdicts of at most the age `least` are always acceptable.
    pub(super) fn oldest_introspection(
        &self,
        needs_verdict: &NeedsVerdict<'_>,
        now: Instant,
        least: Duration,
    ) -> Option<Instant> {
        let cache = &self.settings.cache;
        if cache.max_age.is_empty() {
            return None;
        }
        let max_age = needs_verdict.least(|requirement| cache.max_age(requirement))?;
        now.checked_sub(max_age.max(least))
    }

    /// Whether the cached verdict of a token refuses the request, such as for a missing ability. `cache.max_age` bounds
    /// the age of verdicts that allow a request. A token that is refused must not cost an introspection for each of its
    /// requests: an ability that was added is found by the re-introspection before a 403, once per `negative_ttl`.
    #[cold]
    fn is_known_to_lack(&self, authentication: &Authentication<'_>, now: Instant) -> bool {
        let Authentication { token, needs_verdict, client, .. } = *authentication;
        let known = self.lookup.peek(&TokenHash::of(token.as_bytes()), now);
        let lacks =
            |cached: Rc<CachedToken>| needs_verdict.authorize(cached.verdict.rights(), client).is_err();
        known.is_some_and(|known| known.is_ok_and(lacks))
    }
}
