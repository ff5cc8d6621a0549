//! The request path, from top to bottom.
//!
//! [`Gateway::answer`] is the outer function: it alone turns a refusal into a response. Inside, each step needs the result
//! of the one before, and forwarding needs the [`Permit`] that only a decision makes.

use std::cell::Cell;
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, STRICT_TRANSPORT_SECURITY, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::backend::body::{self, RequestBody, Upload};
use crate::backend::forward::{self, Backend, Conditions, UpstreamResponse};
use crate::backend::request::{UpstreamRequest, UpstreamTarget};
use crate::catch_panic::{CatchPanic, Panicked};
use crate::client::call::Call;
use crate::client::recycle;
use crate::config::settings::{BackendHost, Settings};
use crate::downstream::Downstream;
use crate::limits::Limiter;
use crate::policy::ability::Requirement;
use crate::policy::bearer::{self, KeptToken, Token};
use crate::policy::client;
use crate::policy::cors::{self, Preflight};
use crate::policy::decision::{self, NeedsVerdict, Permit, Step};
use crate::policy::expectation;
use crate::policy::headers::{self, Credentials, Forwarding, UpstreamFields, X_REQUEST_ID};
use crate::policy::http2;
use crate::policy::identity::Identity;
use crate::policy::map::Found;
use crate::policy::mask::mask;
use crate::policy::method;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::singleton;
use crate::policy::target::{Target, add_missing_host};
use crate::policy::upgrade::Handshake;
use crate::response::body::ResponseBody;
use crate::response::own;
use crate::response::record::{MissingRule, Recorder, RequestRecord, TokenLookup, new_request_id};
use crate::telemetry::metrics::{LookupResult, RouteLabel, RouteNumbers};
use crate::telemetry::spans::Trace;
use crate::tokens::hash::TokenHash;
use crate::tokens::lookup::{CachedToken, Lookup};

mod shadow;
pub mod tunnel;

use tunnel::{Switch, Tunnel, UpgradeRequest};

/// The gateway of one worker.
pub struct Gateway {
    settings: Arc<Settings>,
    routes: RouteNumbers,
    lookup: Rc<Lookup>,
    backend: Backend,
    limiter: Arc<Limiter>,
    recorder: Rc<Recorder>,
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The decision on a request that is allowed.
struct Decision {
    permit: Permit,
    caller: Caller,
    /// Limit of the request's body, in bytes.
    body_limit: u64,
}

/// The caller of a request that is allowed.
enum Caller {
    /// Any caller: the route is public.
    Public,
    /// The holder of a token with this verdict, and the Authorization field for the backend.
    Token(Rc<CachedToken>, HeaderValue),
    /// An unauthenticated request that shadow mode forwards; holds the refusal that it would have got.
    Unauthenticated(Refusal),
}

/// How a request is forwarded.
struct ForwardPlan<'a> {
    permit: Permit,
    target: &'a Target<'a>,
    credentials: Credentials,
    body_limit: u64,
    /// Whether the client waits for a 100 (Continue) before it sends the body.
    waits: bool,
    /// The handshake, if the request asks for a tunnel.
    handshake: Option<Handshake>,
}

/// The results of forwarding a request. Filled in place: moving its large values is measurably slow.
#[derive(Default)]
struct Forwarded {
    /// The request, of which the body may still be in transit.
    call: Option<Call<RequestBody>>,
    /// The backend's response.
    answered: Option<UpstreamResponse>,
    /// The data for later decisions on the tunnel, if the request asks for one.
    tunnel: Option<Box<UpgradeRequest>>,
}

/// The kind of response to a request that is not refused.
enum Outcome {
    /// The backend's response.
    Backend,
    /// The gateway's own response to a preflight for this method.
    Preflight(HeaderValue),
}

impl Gateway {
    /// A gateway. `routes` numbers the routes of the settings' map.
    pub const fn new(
        settings: Arc<Settings>,
        routes: RouteNumbers,
        lookup: Rc<Lookup>,
        backend: Backend,
        limiter: Arc<Limiter>,
        recorder: Rc<Recorder>,
    ) -> Self {
        Self { settings, routes, lookup, backend, limiter, recorder }
    }

    /// The lookup of verdicts.
    pub const fn lookup(&self) -> &Rc<Lookup> {
        &self.lookup
    }

    /// The backend.
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The recorder of requests.
    pub const fn recorder(&self) -> &Rc<Recorder> {
        &self.recorder
    }

    /// The configuration.
    pub const fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Answers one request. If the response is a 101, `switch` contains the [`Tunnel`] that its connection becomes.
    pub async fn answer(
        self: &Rc<Self>,
        downstream: &Rc<Downstream>,
        request: Request<Incoming>,
        switch: &Switch,
    ) -> Response<ResponseBody> {
        let now = downstream.state.take_arrival().unwrap_or_else(Instant::now);
        // By reference from here on: a request is large, and each move copies it.
        let (mut head, body) = request.into_parts();
        let mut body = Some(body);
        let id = request_id(downstream, &head.headers);
        let version = if head.version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut record =
            RequestRecord::new(&self.recorder, &self.settings, downstream, &head.method, id, now);
        if let Some(tracer) = &self.recorder.tracer {
            record.trace = Some(Trace::begin(tracer, &head, downstream.trusted, now));
        }
        if downstream.trusted
            && let Some(address) = downstream.address
        {
            let trusts = |address| self.settings.listen.trusts(address);
            record.client = Some(client::address(&head.headers, address, trusts));
        }
        record.note_head(&head);
        record.note_scheme(&head.headers);
        let reader = self.settings.cors.allowed(&head.headers);
        // The response, too.
        let mut forwarded = Forwarded::default();
        let served = self.serve(downstream, &mut head, &mut body, &mut record, &mut forwarded);
        let served = CatchPanic(pin!(served)).await;
        if let Ok(Ok((Outcome::Backend, reason))) = &served
            && let Forwarded { call, answered, tunnel } = &mut forwarded
            && let Some(UpstreamResponse { mut response, lease }) = answered.take()
        {
            recycle(mem::take(&mut head.headers));
            // The version of the client's connection, not of the backend's (RFC 9110 section 2.5).
            *response.version_mut() = version;
            // The backend's own id takes precedence.
            response.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| record.request_id.clone());
            self.add_hsts(downstream, response.headers_mut());
            record.note_response(response.status(), *reason, record.response_arrived());
            if let Some(asked) = tunnel.take()
                && response.status() == StatusCode::SWITCHING_PROTOCOLS
            {
                if let Some(backend) = lease.into_upgraded() {
                    let decided_by = Rc::clone(self);
                    switch.set(Some(Box::new(Tunnel { asked: *asked, decided_by, record, backend })));
                }
                return response.map(|()| ResponseBody::tunnel());
            }
            let idle_timeout = self.settings.limits.body_idle_timeout;
            // The request is nearly always complete, and the call is then dropped without a move.
            let call = call.take_if(|call| !call.is_complete()).map(Box::new);
            return response.map(|()| ResponseBody::backend(lease, call, record, idle_timeout));
        }
        let refusal = match served {
            Ok(Ok((Outcome::Preflight(asked), reason))) => {
                let mut response = own::preflight(record.request_id.clone());
                self.settings.cors.answer(reader, &asked, response.headers_mut());
                self.add_hsts(downstream, response.headers_mut());
                *response.version_mut() = version;
                record.note_response(response.status(), reason, Instant::now());
                return ResponseBody::own(response, record);
            }
            Ok(Err(refusal)) => {
                if version == Version::HTTP_2
                    && let Some(body) = body.filter(|body| !body.is_end_stream())
                {
                    tokio::task::spawn_local(body::throw_away(body, Rc::clone(downstream)));
                }
                refusal
            }
            Ok(Ok((Outcome::Backend, _))) | Err(Panicked) => Refusal::InternalError,
        };
        let is_uncovered = matches!(refusal, Refusal::Unmapped | Refusal::MethodNotMapped);
        if is_uncovered || (matches!(refusal, Refusal::Denied) && self.recorder.usage.is_some()) {
            self.attribute_token(&head.headers, &mut record);
        }
        let mut response = own::refuse(&refusal, record.request_id.clone());
        if let Some(reader) = reader {
            self.settings.cors.expose(reader, response.headers_mut());
        }
        self.settings.denials.advise(&refusal, response.headers_mut());
        self.add_hsts(downstream, response.headers_mut());
        if head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT) {
            // Otherwise hyper waits for a body that the client may never send.
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        *response.version_mut() = version;
        record.note_refusal(&refusal, response.status(), Instant::now());
        ResponseBody::own(response, record)
    }

    /// Adds Strict-Transport-Security to a response over TLS (RFC 6797 section 7.2), unless the backend has set it.
    pub fn add_hsts(&self, downstream: &Downstream, fields: &mut HeaderMap) {
        if downstream.encrypted
            && let Some(hsts) = &self.settings.listen.hsts
        {
            fields.entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
    }

    /// Decides on a request and forwards it; the results are in `forwarded`.
    async fn serve(
        &self,
        downstream: &Rc<Downstream>,
        head: &mut Parts,
        body: &mut Option<Incoming>,
        record: &mut RequestRecord,
        forwarded: &mut Forwarded,
    ) -> Result<(Outcome, Reason), Refusal> {
        if head.version == Version::HTTP_2 {
            http2::translate(head, &self.settings.limits.bounds())?;
        }
        if head.version == Version::HTTP_10 {
            add_missing_host(&head.uri, &mut head.headers, &self.settings.backend.authority);
        }
        singleton::check(&head.headers)?;
        if downstream.trusted {
            self.settings.listen.trusted_fields.check_lines(&head.headers)?;
        }
        let target = Target::read(&head.method, &head.uri, &head.headers)?;
        self.settings.abilities.check_path(&target.path)?;
        let has_body = body.as_ref().is_some_and(|body| !body.is_end_stream());
        let (mut waits, mut handshake) = (false, None);
        // Few requests have either field, and one pass over the names costs less than two lookups.
        if head.headers.keys().any(|name| *name == EXPECT || *name == UPGRADE) {
            waits = expectation::waits(head.version, &head.headers)?;
            handshake = Handshake::begun(&head.method, head.version, &head.headers, has_body)?;
        }
        let setting = self.settings.backend.method_override;
        if let Some(method) = method::overriding(&head.method, &head.headers, setting)? {
            record.method = method;
        }
        if let (Some(addresses), Some(address)) = (&self.limiter.addresses, record.client) {
            addresses.take(address, record.started()).map_err(Refusal::TooManyAttempts)?;
        }
        if let Some(asked) = cors::requested_method(&head.method, &head.headers) {
            let asked = asked.clone();
            if has_body {
                return Err(Refusal::BadRequest("CORS preflight with a body"));
            }
            let permit = self.decide_preflight(&target, &asked, record)?;
            let served = match self.settings.cors.preflight {
                Preflight::Answer => Outcome::Preflight(asked),
                Preflight::Forward => {
                    let (credentials, target) = (Credentials::None, &target);
                    let plan =
                        ForwardPlan { permit, target, credentials, body_limit: 0, waits, handshake: None };
                    Box::pin(self.forward(downstream, head, body, plan, record, forwarded)).await?;
                    Outcome::Backend
                }
            };
            return Ok((served, Reason::Public));
        }
        let mut decided = self.decide(&head.headers, &target, record).await;
        if let Some(shadow) = &self.settings.shadow {
            let fields = &head.headers;
            decided = Box::pin(self.decide_in_shadow(shadow, fields, &target, record, decided)).await;
        }
        let Decision { permit, caller, body_limit } = decided?;
        if handshake.is_some() {
            let kept = match &caller {
                Caller::Token(caller, field) => Some((KeptToken::new(field), Rc::clone(caller))),
                Caller::Public | Caller::Unauthenticated(_) => None,
            };
            forwarded.tunnel =
                Some(Box::new(UpgradeRequest { path: target.path.clone().into_owned(), caller: kept }));
        }
        let cookies = self.settings.backend.cookies;
        let (caller, credentials, reason) = match caller {
            Caller::Public => (None, Credentials::AsSent, Reason::Public),
            Caller::Token(caller, authorization) => {
                let identity = self.identity(&caller)?;
                (Some(caller), Credentials::Token { authorization, identity, cookies }, Reason::Allowed)
            }
            Caller::Unauthenticated(_) => (None, Credentials::Unproved { cookies }, Reason::Allowed),
        };
        let plan = ForwardPlan { permit, target: &target, credentials, body_limit, waits, handshake };
        let status = self.forward(downstream, head, body, plan, record, forwarded).await?;
        if let Some(caller) = caller
            && status == StatusCode::UNAUTHORIZED
        {
            self.lookup.invalidate(&caller);
        }
        Ok((Outcome::Backend, reason))
    }

    /// Decides on a CORS preflight by the request that it announces, without credentials.
    fn decide_preflight(
        &self,
        target: &Target<'_>,
        asked: &HeaderValue,
        record: &mut RequestRecord,
    ) -> Result<Permit, Refusal> {
        let Settings { abilities, backend, .. } = &*self.settings;
        let (found, permit) = cors::decide(abilities, &target.path, asked, backend.method_override);
        self.note_route(&found, target, record);
        let permit = match &self.settings.shadow {
            None => permit,
            Some(shadow) => self.decide_preflight_in_shadow(shadow, target, asked, record, &found, permit),
        };
        if let Some(uncovered) = &mut record.uncovered {
            // After a preflight that is forwarded, its request counts.
            uncovered.method = cors::supported_method(&target.path, asked).filter(|_| permit.is_err());
        }
        permit
    }

    /// Drives the [decision](decision) of a request, then the limits of its token. No introspection is spent on a
    /// request that is refused by its route or its credentials.
    async fn decide(
        &self,
        fields: &HeaderMap,
        target: &Target<'_>,
        record: &mut RequestRecord,
    ) -> Result<Decision, Refusal> {
        let routed = decision::route(&self.settings.abilities, &record.method, &target.path);
        self.note_route(routed.found(), target, record);
        let body_limit = self.body_limit(routed.found());
        let needs_token = match routed.next() {
            Step::Public(permit) => {
                bearer::at_most_one(fields)?;
                return Ok(Decision { permit, caller: Caller::Public, body_limit });
            }
            Step::NeedsToken(needs_token) => needs_token,
        };
        let token = Token::from_fields(fields, self.settings.limits.token_bytes);
        let (token, needs_verdict) = needs_token.with_token(token)?;
        let started = record.started();
        let oldest = self.oldest_acceptable(needs_verdict.requirement(), started, Duration::ZERO);
        let is_denied = oldest.is_some() && self.is_known_to_lack(token, needs_verdict, started);
        let since = if is_denied { None } else { oldest };
        let mut caller =
            self.verdict(token, started, since, record.trace.as_ref(), &mut record.lookup).await?;
        record.caller = Some(Rc::clone(&caller));
        let trace = record.trace.as_ref();
        let permit = self.authorize(token, &mut caller, needs_verdict, trace, &mut record.lookup).await;
        let mut permit = permit.inspect_err(|_| record.caller = Some(Rc::clone(&caller)))?;
        if is_denied && !caller.is_introspected_since(oldest) {
            // The ability was added, and an introspection that began before this request has reported it.
            caller = self.verdict(token, started, oldest, trace, &mut record.lookup).await?;
            record.caller = Some(Rc::clone(&caller));
            permit = needs_verdict.authorize(&caller.verdict.abilities)?;
        }
        self.admit(permit, caller, token, body_limit, started)
    }

    /// Applies the token's rate limit.
    fn admit(
        &self,
        permit: Permit,
        caller: Rc<CachedToken>,
        token: Token<'_>,
        body_limit: u64,
        started: Instant,
    ) -> Result<Decision, Refusal> {
        self.recorder.metrics.verdict_served(caller.age(started));
        if let Some(tokens) = &self.limiter.tokens {
            let verdict = &caller.verdict;
            let limit = || tokens.limit(&verdict.id, verdict.name.as_deref(), started);
            caller.limit.get_or_init(limit).take(started).map_err(Refusal::TooManyAttempts)?;
        }
        Ok(Decision { permit, caller: Caller::Token(caller, token.authorization()), body_limit })
    }

    /// Limit of the request's body by its route or `limits.body`, in bytes.
    fn body_limit(&self, found: &Found<'_>) -> u64 {
        self.settings.abilities.options(found).body.unwrap_or(self.settings.limits.body)
    }

    /// Oldest acceptable introspection time for `requirement`; `None` if `cache.max_age` does not limit it. Verdicts of at
    /// most the age `least` are always acceptable.
    fn oldest_acceptable(&self, requirement: &Requirement, now: Instant, least: Duration) -> Option<Instant> {
        let max_age = self.settings.cache.max_age(requirement)?;
        now.checked_sub(max_age.max(least))
    }

    /// Whether the cached verdict of a token lacks a required ability. `cache.max_age` bounds the age of verdicts that
    /// allow a request. A token without the ability must not cost an introspection for each of its requests: an ability
    /// that was added is found by the re-introspection before a 403, once per `negative_ttl`.
    #[cold]
    fn is_known_to_lack(&self, token: Token<'_>, needs_verdict: NeedsVerdict<'_>, now: Instant) -> bool {
        let known = self.lookup.peek(&TokenHash::of(token.as_bytes()), now);
        let lacks = |held: Rc<CachedToken>| needs_verdict.authorize(&held.verdict.abilities).is_err();
        known.is_some_and(|known| known.is_ok_and(lacks))
    }

    fn note_route(&self, found: &Found<'_>, target: &Target<'_>, record: &mut RequestRecord) {
        record.route_number = found.route();
        record.route = record.route_number.map_or(RouteLabel::Unmapped, |route| self.routes.label(route));
        if !matches!(found, Found::Rule { .. }) && !target.path.is_asterisk() {
            let path = record.route_number.is_none().then(|| mask(target.path.as_str()).into());
            record.uncovered = Some(Box::new(MissingRule { path, method: Some(record.method.clone()) }));
        }
    }

    /// Attributes a request that was refused before its introspection to its token, if the verdict is cached. Operators
    /// want to know who probes, but that is not worth an introspection.
    #[cold]
    fn attribute_token(&self, fields: &HeaderMap, record: &mut RequestRecord) {
        if let (None, Ok(token)) =
            (&record.caller, Token::from_fields(fields, self.settings.limits.token_bytes))
        {
            let known = self.lookup.peek(&TokenHash::of(token.as_bytes()), record.started());
            record.caller = known.and_then(Result::ok);
        }
    }

    /// The verdict of a token, from the cache or introspection. An active verdict's introspection began at `since` or later.
    async fn verdict(
        &self,
        token: Token<'_>,
        now: Instant,
        since: Option<Instant>,
        trace: Option<&Rc<Trace>>,
        lookup: &mut TokenLookup,
    ) -> Result<Rc<CachedToken>, Refusal> {
        let hash = TokenHash::of(token.as_bytes());
        if let Some(caller) = self.lookup.get_local(&hash, token, now, since) {
            lookup.cache = Some(LookupResult::Hit);
            return Ok(caller);
        }
        let asked = Instant::now();
        // Boxed, since this future is rarely needed and would enlarge that of every request.
        let verdict =
            Box::pin(self.lookup.get_or_introspect(hash, token, asked, since, trace, &mut lookup.cache))
                .await;
        lookup.waited += asked.elapsed();
        verdict
    }

    /// The permit of a caller with the required abilities. A cached verdict that lacks one may be out of date, so the
    /// token is introspected once more: the guide's remedy for a 403 is to update the token.
    async fn authorize(
        &self,
        token: Token<'_>,
        caller: &mut Rc<CachedToken>,
        needs_verdict: NeedsVerdict<'_>,
        trace: Option<&Rc<Trace>>,
        lookup: &mut TokenLookup,
    ) -> Result<Permit, Refusal> {
        let denied = match needs_verdict.authorize(&caller.verdict.abilities) {
            Ok(permit) => return Ok(permit),
            Err(denied) => denied,
        };
        let asked = Instant::now();
        let again = Box::pin(self.lookup.reintrospect(token, caller, asked, trace)).await;
        lookup.waited += asked.elapsed();
        match again {
            None => Err(denied),
            Some(Ok(newer)) => {
                *caller = newer;
                needs_verdict.authorize(&caller.verdict.abilities)
            }
            Some(Err(Refusal::NoVerdict | Refusal::Overloaded))
                if self.lookup.may_serve_stale(caller, Instant::now()) =>
            {
                Err(denied)
            }
            Some(Err(refusal)) => Err(refusal),
        }
    }

    /// The identity fields for the backend.
    fn identity(&self, caller: &Rc<CachedToken>) -> Result<Option<Identity>, Refusal> {
        let wanted = &self.settings.identity_headers;
        if wanted.is_empty() { Ok(None) } else { caller.identity(wanted).map(Some) }
    }

    /// Forwards the request as a new message and validates the head of the response.
    async fn forward(
        &self,
        downstream: &Downstream,
        head: &Parts,
        incoming: &mut Option<Incoming>,
        plan: ForwardPlan<'_>,
        record: &mut RequestRecord,
        forwarded: &mut Forwarded,
    ) -> Result<StatusCode, Refusal> {
        let Settings { listen, limits, backend, .. } = &*self.settings;
        let ForwardPlan { permit, target, credentials, body_limit, waits, handshake } = plan;
        let (mut body, upload) = RequestBody::new(
            incoming,
            downstream,
            body_limit,
            limits.body_idle_timeout,
            &listen.trusted_fields,
        )
        .map_err(forward::refusal)?;
        let expects_continue = waits && upload.is_some();
        let forwarding = Forwarding {
            method: &head.method,
            decided: &record.method,
            version: head.version,
            client: &downstream.address_field,
            encrypted: downstream.encrypted,
            trusted: downstream.trusted,
            trusted_fields: &listen.trusted_fields,
            request_id: &record.request_id,
            host: match backend.host {
                BackendHost::Preserve => None,
                BackendHost::Backend => Some(&backend.authority),
            },
            credentials,
            trace: record.trace.as_ref().and_then(|trace| trace.mark_request(Instant::now())),
            chunked: upload.is_some() && !head.headers.contains_key(CONTENT_LENGTH),
            expects_continue,
            upgrades: handshake.is_some(),
        };
        let request = UpstreamRequest {
            method: &head.method,
            target: UpstreamTarget {
                prefix: if target.path.is_asterisk() { "" } else { &backend.path_prefix },
                path: target.path.as_str(),
                query: target.query,
            },
            fields: UpstreamFields::new(&head.headers, forwarding)?,
        };
        let on_continue = if expects_continue { body.wait_for_continue() } else { None };
        let Forwarded { call, answered, .. } = forwarded;
        let call = call.insert(Call::new(&head.method, body));
        if let Some(asked) = on_continue {
            call.on_continue(asked);
        }
        if let Some(stream) = record.stream() {
            call.answers(stream);
        }
        let asked = Instant::now();
        record.upload = upload;
        let upstream = Cell::new(None);
        let conditions = Conditions {
            upload: record.upload.as_deref(),
            state: &downstream.state,
            upstream: &upstream,
            may_switch: handshake.is_some(),
            request_id: &record.request_id,
        };
        let sent = self.backend.forward(permit, &request, call, conditions, asked, answered).await;
        record.upstream = upstream.get();
        record.note_upstream_response(asked, Instant::now());
        sent?;
        let UpstreamResponse { response, lease } = answered.as_mut().ok_or(Refusal::InternalError)?;
        let status = response.status();
        record.upstream_status = Some(status);
        let fields = response.headers_mut();
        let switches = match (status, &handshake) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(handshake)) => {
                handshake.check(fields).map(|()| Some(handshake))
            }
            (StatusCode::SWITCHING_PROTOCOLS, None) => Err("101 that was not asked for"),
            _ => Ok(None),
        };
        let prepared = switches.and_then(|switches| {
            headers::prepare_answer(status, fields)?;
            if let Some(handshake) = switches {
                handshake.confirm(fields);
            }
            Ok(())
        });
        prepared.map_err(|why| {
            tracing::warn!(why, "the backend's answer is ambiguous");
            Refusal::BackendBroken
        })?;
        if record.upload.as_deref().is_some_and(Upload::answered) {
            // The client may or may not send the body that the backend did not ask for.
            lease.close_afterwards();
            if head.version == Version::HTTP_11 {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
        }
        Ok(status)
    }
}

/// The id that a trusted peer sent, or a new one.
fn request_id(downstream: &Downstream, fields: &HeaderMap) -> HeaderValue {
    if downstream.trusted
        && let Some(id) = headers::trusted_request_id(fields)
    {
        return id.clone();
    }
    new_request_id()
}

#[cfg(test)]
mod tests;
