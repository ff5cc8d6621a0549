//! The request path, from top to bottom.
//!
//! [`Gateway::answer`] is the outer function: it alone turns a refusal into an answer. Inside it, a request
//! goes from its target to a decision, each step needing what the one before it found, and forwarding needs
//! the [`Permit`] that only a decision holds.

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

use crate::answer;
use crate::answer_body::AnswerBody;
use crate::backend::body::{self, RequestBody, Upload};
use crate::backend::forward::{self, Answered, Backend, Conditions};
use crate::backend::request::{UpstreamRequest, UpstreamTarget};
use crate::client::call::Call;
use crate::client::recycle;
use crate::config::settings::{BackendHost, Settings};
use crate::contain::{Contained, Panicked};
use crate::exchange::{Exchange, NotCovered, Recorder, TokenLookup, new_request_id};
use crate::limits::Limiter;
use crate::peer::Peer;
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
use crate::telemetry::metrics::{LookupResult, RouteLabel, RouteNumbers};
use crate::telemetry::spans::Trace;
use crate::tokens::hash::TokenHash;
use crate::tokens::lookup::{Held, Lookup};

mod shadow;
pub mod tunnel;

use tunnel::{Asked, Switch, Tunnel};

/// One core's gateway.
pub struct Gateway {
    settings: Arc<Settings>,
    routes: RouteNumbers,
    lookup: Rc<Lookup>,
    backend: Backend,
    limiter: Arc<Limiter>,
    recorder: Rc<Recorder>,
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What allows a request.
struct Decision {
    permit: Permit,
    caller: Caller,
    /// The most that the request's body may have, in bytes.
    body_limit: u64,
}

/// In whose name a request goes on.
enum Caller {
    /// Whoever it is: the route is public.
    Anybody,
    /// That of a token with this verdict, and the Authorization field that says so.
    Token(Held, HeaderValue),
    /// Somebody who would be refused so, if that were not forgiven in shadow mode.
    Stranger(Refusal),
}

/// What is decided about a request that is forwarded.
struct Onward<'a> {
    permit: Permit,
    target: &'a Target<'a>,
    credentials: Credentials,
    body_limit: u64,
    /// Whether its body waits for a 100.
    waits: bool,
    /// What it begins, if it is to become a tunnel.
    handshake: Option<Handshake>,
}

/// What comes of forwarding a request. Filled in place: moving its large values is measurably slow.
#[derive(Default)]
struct Forwarded {
    /// The request, whose body may still be on its way.
    call: Option<Call<RequestBody>>,
    /// The backend's response.
    answered: Option<Answered>,
    /// What a tunnel is decided by, if the request asks for one.
    tunnel: Option<Box<Asked>>,
}

/// What a request that is not refused is answered with.
enum Served {
    /// The backend's answer.
    Backend,
    /// What a preflight that asks about this method is told.
    Preflight(HeaderValue),
}

impl Gateway {
    /// The gateway of one core. `routes` numbers the routes of the settings' map.
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

    /// The way to verdicts.
    pub const fn lookup(&self) -> &Rc<Lookup> {
        &self.lookup
    }

    /// The way to the backend.
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Where requests are recorded.
    pub const fn recorder(&self) -> &Rc<Recorder> {
        &self.recorder
    }

    /// The configuration.
    pub const fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Answers one request, whatever it is. Where the answer is a 101 there is a [`Tunnel`] in `switch` afterwards, which
    /// its connection is to become.
    pub async fn answer(
        self: &Rc<Self>,
        peer: &Rc<Peer>,
        request: Request<Incoming>,
        switch: &Switch,
    ) -> Response<AnswerBody> {
        let now = peer.activity.take_came_at().unwrap_or_else(Instant::now);
        // From here on by reference: a request is large, and every step it is moved through copies it.
        let (mut head, body) = request.into_parts();
        let mut body = Some(body);
        let id = request_id(peer, &head.headers);
        let version = if head.version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut exchange = Exchange::new(&self.recorder, &self.settings, peer, &head.method, id, now);
        if let Some(tracer) = &self.recorder.tracer {
            exchange.trace = Some(Trace::begin(tracer, &head, peer.trusted, now));
        }
        if peer.trusted
            && let Some(address) = peer.address
        {
            let trusts = |address| self.settings.listen.trusts(address);
            exchange.client = Some(client::address(&head.headers, address, trusts));
        }
        exchange.note_head(&head);
        exchange.note_scheme(&head.headers);
        let reader = self.settings.cors.allowed(&head.headers);
        // The answer too, once it has come.
        let mut forwarded = Forwarded::default();
        let served = self.serve(peer, &mut head, &mut body, &mut exchange, &mut forwarded);
        let served = Contained(pin!(served)).await;
        if let Ok(Ok((Served::Backend, reason))) = &served
            && let Forwarded { call, answered, tunnel } = &mut forwarded
            && let Some(Answered { mut response, lease }) = answered.take()
        {
            recycle(mem::take(&mut head.headers));
            // The client's, whatever the backend speaks (RFC 9110 section 2.5).
            *response.version_mut() = version;
            // A backend that chose an id keeps it.
            response.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| exchange.request_id.clone());
            self.pin_https(peer, response.headers_mut());
            exchange.answered(response.status(), *reason, exchange.answer_came());
            if let Some(asked) = tunnel.take()
                && response.status() == StatusCode::SWITCHING_PROTOCOLS
            {
                if let Some(backend) = lease.into_upgraded() {
                    let decided_by = Rc::clone(self);
                    switch.set(Some(Box::new(Tunnel { asked: *asked, decided_by, exchange, backend })));
                }
                return response.map(|()| AnswerBody::tunnel());
            }
            let idle_timeout = self.settings.limits.body_idle_timeout;
            // Nearly always there is nothing left to send, and the call is dropped where it is.
            let call = call.take_if(|call| !call.is_complete()).map(Box::new);
            return response.map(|()| AnswerBody::backend(lease, call, exchange, idle_timeout));
        }
        let refusal = match served {
            Ok(Ok((Served::Preflight(asked), reason))) => {
                let mut response = answer::preflight(exchange.request_id.clone());
                self.settings.cors.answer(reader, &asked, response.headers_mut());
                self.pin_https(peer, response.headers_mut());
                *response.version_mut() = version;
                exchange.answered(response.status(), reason, Instant::now());
                return AnswerBody::own(response, exchange);
            }
            Ok(Err(refusal)) => {
                if version == Version::HTTP_2
                    && let Some(body) = body.filter(|body| !body.is_end_stream())
                {
                    tokio::task::spawn_local(body::throw_away(body, Rc::clone(peer)));
                }
                refusal
            }
            Ok(Ok((Served::Backend, _))) | Err(Panicked) => Refusal::InternalError,
        };
        let is_uncovered = matches!(refusal, Refusal::Unmapped | Refusal::MethodNotMapped);
        if is_uncovered || (matches!(refusal, Refusal::Denied) && self.recorder.usage.is_some()) {
            self.note_holder(&head.headers, &mut exchange);
        }
        let mut response = answer::refuse(&refusal, exchange.request_id.clone());
        if let Some(reader) = reader {
            self.settings.cors.expose(reader, response.headers_mut());
        }
        self.settings.denials.advise(&refusal, response.headers_mut());
        self.pin_https(peer, response.headers_mut());
        if head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT) {
            // A body that may never come would be waited for.
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        *response.version_mut() = version;
        exchange.refused(&refusal, response.status(), Instant::now());
        AnswerBody::own(response, exchange)
    }

    /// Tells a browser to come by https only (RFC 6797 section 7.2: over https alone), unless the backend has said
    /// for how long.
    pub fn pin_https(&self, peer: &Peer, fields: &mut HeaderMap) {
        if peer.encrypted
            && let Some(hsts) = &self.settings.listen.hsts
        {
            fields.entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
    }

    /// Decides on a request and forwards it. What comes of that is in `forwarded`.
    async fn serve(
        &self,
        peer: &Rc<Peer>,
        head: &mut Parts,
        body: &mut Option<Incoming>,
        exchange: &mut Exchange,
        forwarded: &mut Forwarded,
    ) -> Result<(Served, Reason), Refusal> {
        if head.version == Version::HTTP_2 {
            http2::translate(head, &self.settings.limits.bounds())?;
        }
        if head.version == Version::HTTP_10 {
            add_missing_host(&head.uri, &mut head.headers, &self.settings.backend.authority);
        }
        singleton::check(&head.headers)?;
        if peer.trusted {
            self.settings.listen.trusted_fields.check_lines(&head.headers)?;
        }
        let target = Target::read(&head.method, &head.uri, &head.headers)?;
        self.settings.abilities.check_path(&target.path)?;
        let has_body = body.as_ref().is_some_and(|body| !body.is_end_stream());
        let (mut waits, mut handshake) = (false, None);
        // Few have either, and one look at the names costs less than two lookups.
        if head.headers.keys().any(|name| *name == EXPECT || *name == UPGRADE) {
            waits = expectation::waits(head.version, &head.headers)?;
            handshake = Handshake::begun(&head.method, head.version, &head.headers, has_body)?;
        }
        let setting = self.settings.backend.method_override;
        if let Some(method) = method::overriding(&head.method, &head.headers, setting)? {
            exchange.method = method;
        }
        if let (Some(addresses), Some(address)) = (&self.limiter.addresses, exchange.client) {
            addresses.take(address, exchange.started()).map_err(Refusal::TooManyAttempts)?;
        }
        if let Some(asked) = cors::requested_method(&head.method, &head.headers) {
            let asked = asked.clone();
            if has_body {
                return Err(Refusal::BadRequest("CORS preflight with a body"));
            }
            let permit = self.decide_preflight(&target, &asked, exchange)?;
            let served = match self.settings.cors.preflight {
                Preflight::Answer => Served::Preflight(asked),
                Preflight::Forward => {
                    let (credentials, target) = (Credentials::None, &target);
                    let onward =
                        Onward { permit, target, credentials, body_limit: 0, waits, handshake: None };
                    Box::pin(self.forward(peer, head, body, onward, exchange, forwarded)).await?;
                    Served::Backend
                }
            };
            return Ok((served, Reason::Public));
        }
        let mut decided = self.decide(&head.headers, &target, exchange).await;
        if let Some(shadow) = &self.settings.shadow {
            let fields = &head.headers;
            decided = Box::pin(self.decide_in_shadow(shadow, fields, &target, exchange, decided)).await;
        }
        let Decision { permit, caller, body_limit } = decided?;
        if handshake.is_some() {
            let kept = match &caller {
                Caller::Token(caller, field) => Some((KeptToken::new(field), Rc::clone(caller))),
                Caller::Anybody | Caller::Stranger(_) => None,
            };
            forwarded.tunnel = Some(Box::new(Asked { path: target.path.clone().into_owned(), caller: kept }));
        }
        let cookies = self.settings.backend.cookies;
        let (caller, credentials, reason) = match caller {
            Caller::Anybody => (None, Credentials::AsSent, Reason::Public),
            Caller::Token(caller, authorization) => {
                let identity = self.identity(&caller)?;
                (Some(caller), Credentials::Token { authorization, identity, cookies }, Reason::Allowed)
            }
            Caller::Stranger(_) => (None, Credentials::Unproved { cookies }, Reason::Allowed),
        };
        let onward = Onward { permit, target: &target, credentials, body_limit, waits, handshake };
        let status = self.forward(peer, head, body, onward, exchange, forwarded).await?;
        if let Some(caller) = caller
            && status == StatusCode::UNAUTHORIZED
        {
            self.lookup.contradicted(&caller);
        }
        Ok((Served::Backend, reason))
    }

    /// Whether a CORS preflight may go on: by the request that it asks about, and without any credentials.
    fn decide_preflight(
        &self,
        target: &Target<'_>,
        asked: &HeaderValue,
        exchange: &mut Exchange,
    ) -> Result<Permit, Refusal> {
        let Settings { abilities, backend, .. } = &*self.settings;
        let (found, permit) = cors::decide(abilities, &target.path, asked, backend.method_override);
        self.note_route(&found, target, exchange);
        let permit = match &self.settings.shadow {
            None => permit,
            Some(shadow) => self.decide_preflight_in_shadow(shadow, target, asked, exchange, &found, permit),
        };
        if let Some(uncovered) = &mut exchange.uncovered {
            // A preflight that goes on is followed by its request, which then counts.
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
        exchange: &mut Exchange,
    ) -> Result<Decision, Refusal> {
        let routed = decision::route(&self.settings.abilities, &exchange.method, &target.path);
        self.note_route(routed.found(), target, exchange);
        let body_limit = self.body_limit(routed.found());
        let needs_token = match routed.next() {
            Step::Public(permit) => {
                bearer::at_most_one(fields)?;
                return Ok(Decision { permit, caller: Caller::Anybody, body_limit });
            }
            Step::NeedsToken(needs_token) => needs_token,
        };
        let token = Token::from_fields(fields, self.settings.limits.token_bytes);
        let (token, needs_verdict) = needs_token.with_token(token)?;
        let started = exchange.started();
        let oldest = self.since(needs_verdict.requirement(), started, Duration::ZERO);
        let is_denied = oldest.is_some() && self.is_known_to_lack(token, needs_verdict, started);
        let since = if is_denied { None } else { oldest };
        let mut caller =
            self.verdict(token, started, since, exchange.trace.as_ref(), &mut exchange.lookup).await?;
        exchange.caller = Some(Rc::clone(&caller));
        let trace = exchange.trace.as_ref();
        let permit = self.authorize(token, &mut caller, needs_verdict, trace, &mut exchange.lookup).await;
        let mut permit = permit.inspect_err(|_| exchange.caller = Some(Rc::clone(&caller)))?;
        if is_denied && !caller.is_since(oldest) {
            // The ability was added meanwhile, and an introspection that began before this request has found out.
            caller = self.verdict(token, started, oldest, trace, &mut exchange.lookup).await?;
            exchange.caller = Some(Rc::clone(&caller));
            permit = needs_verdict.authorize(&caller.verdict.abilities)?;
        }
        self.admit(permit, caller, token, body_limit, started)
    }

    /// Lets a token's request through, within its limit.
    fn admit(
        &self,
        permit: Permit,
        caller: Held,
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

    /// The most that the body of a request may have of which the map says `found`, in bytes.
    fn body_limit(&self, found: &Found<'_>) -> u64 {
        self.settings.abilities.options(found).body.unwrap_or(self.settings.limits.body)
    }

    /// When a verdict must have been asked for, at the earliest, that is to allow what `requirement` asks for at `now`:
    /// none where `cache.max_age` says nothing of it. `least` is an age that may be too old for nothing.
    fn since(&self, requirement: &Requirement, now: Instant, least: Duration) -> Option<Instant> {
        let max_age = self.settings.cache.max_age(requirement)?;
        now.checked_sub(max_age.max(least))
    }

    /// Whether the cached verdict of a token lacks a required ability. `cache.max_age` bounds the age of verdicts that
    /// allow a request. A token without the ability must not cost an introspection for each of its requests: an ability
    /// that was added is found by the re-introspection before a 403, once per `negative_ttl`.
    #[cold]
    fn is_known_to_lack(&self, token: Token<'_>, needs_verdict: NeedsVerdict<'_>, now: Instant) -> bool {
        let known = self.lookup.known(&TokenHash::of(token.as_bytes()), now);
        let lacks = |held: Held| needs_verdict.authorize(&held.verdict.abilities).is_err();
        known.is_some_and(|known| known.is_ok_and(lacks))
    }

    fn note_route(&self, found: &Found<'_>, target: &Target<'_>, exchange: &mut Exchange) {
        exchange.route_number = found.route();
        exchange.route = exchange.route_number.map_or(RouteLabel::Unmapped, |route| self.routes.label(route));
        if !matches!(found, Found::Rule { .. }) && !target.path.is_asterisk() {
            let path = exchange.route_number.is_none().then(|| mask(target.path.as_str()).into());
            exchange.uncovered = Some(Box::new(NotCovered { path, method: Some(exchange.method.clone()) }));
        }
    }

    /// Notes whose request was refused before anybody had asked about its token, where that is known: who probes is worth
    /// knowing, but no introspection.
    #[cold]
    fn note_holder(&self, fields: &HeaderMap, exchange: &mut Exchange) {
        if let (None, Ok(token)) =
            (&exchange.caller, Token::from_fields(fields, self.settings.limits.token_bytes))
        {
            let known = self.lookup.known(&TokenHash::of(token.as_bytes()), exchange.started());
            exchange.caller = known.and_then(Result::ok);
        }
    }

    /// Who the token is, as introspection says, or has said at `since` or later.
    async fn verdict(
        &self,
        token: Token<'_>,
        now: Instant,
        since: Option<Instant>,
        trace: Option<&Rc<Trace>>,
        lookup: &mut TokenLookup,
    ) -> Result<Held, Refusal> {
        let hash = TokenHash::of(token.as_bytes());
        if let Some(caller) = self.lookup.at_hand(&hash, token, now, since) {
            lookup.cache = Some(LookupResult::Hit);
            return Ok(caller);
        }
        let asked = Instant::now();
        // Boxed, as all that is seldom waited for: it would make the future of every request larger.
        let verdict =
            Box::pin(self.lookup.look_further(hash, token, asked, since, trace, &mut lookup.cache)).await;
        lookup.waited += asked.elapsed();
        verdict
    }

    /// The permit of a caller with the required abilities. A cached verdict that lacks one may be out of date, so the
    /// token is introspected once more: the guide's remedy for a 403 is to update the token.
    async fn authorize(
        &self,
        token: Token<'_>,
        caller: &mut Held,
        needs_verdict: NeedsVerdict<'_>,
        trace: Option<&Rc<Trace>>,
        lookup: &mut TokenLookup,
    ) -> Result<Permit, Refusal> {
        let denied = match needs_verdict.authorize(&caller.verdict.abilities) {
            Ok(permit) => return Ok(permit),
            Err(denied) => denied,
        };
        let asked = Instant::now();
        let again = Box::pin(self.lookup.ask_again(token, caller, asked, trace)).await;
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

    /// What the backend is told of the caller.
    fn identity(&self, caller: &Held) -> Result<Option<Identity>, Refusal> {
        let wanted = &self.settings.identity_headers;
        if wanted.is_empty() { Ok(None) } else { caller.identity(wanted).map(Some) }
    }

    /// Sends the request on, as its permit allows, as a message of our own.
    async fn forward(
        &self,
        peer: &Peer,
        head: &Parts,
        incoming: &mut Option<Incoming>,
        onward: Onward<'_>,
        exchange: &mut Exchange,
        forwarded: &mut Forwarded,
    ) -> Result<StatusCode, Refusal> {
        let Settings { listen, limits, backend, .. } = &*self.settings;
        let Onward { permit, target, credentials, body_limit, waits, handshake } = onward;
        let (mut body, upload) =
            RequestBody::new(incoming, peer, body_limit, limits.body_idle_timeout, &listen.trusted_fields)
                .map_err(forward::refusal)?;
        let expects_continue = waits && upload.is_some();
        let forwarding = Forwarding {
            method: &head.method,
            decided: &exchange.method,
            version: head.version,
            client: &peer.address_field,
            encrypted: peer.encrypted,
            trusted: peer.trusted,
            trusted_fields: &listen.trusted_fields,
            request_id: &exchange.request_id,
            host: match backend.host {
                BackendHost::Preserve => None,
                BackendHost::Backend => Some(&backend.authority),
            },
            credentials,
            trace: exchange.trace.as_ref().and_then(|trace| trace.mark_request(Instant::now())),
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
        if let Some(stream) = exchange.stream() {
            call.answers(stream);
        }
        let asked = Instant::now();
        exchange.upload = upload;
        let upstream = Cell::new(None);
        let conditions = Conditions {
            upload: exchange.upload.as_deref(),
            activity: &peer.activity,
            upstream: &upstream,
            may_switch: handshake.is_some(),
            request_id: &exchange.request_id,
        };
        let sent = self.backend.forward(permit, &request, call, conditions, asked, answered).await;
        exchange.upstream = upstream.get();
        exchange.backend_answered(asked, Instant::now());
        sent?;
        let Answered { response, lease } = answered.as_mut().ok_or(Refusal::InternalError)?;
        let status = response.status();
        exchange.upstream_status = Some(status);
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
        if exchange.upload.as_deref().is_some_and(Upload::answered) {
            // Neither side can tell whether the body that was not asked for will come.
            lease.close_afterwards();
            if head.version == Version::HTTP_11 {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
        }
        Ok(status)
    }
}

/// The request's id: a trusted peer's, or one of our own.
fn request_id(peer: &Peer, fields: &HeaderMap) -> HeaderValue {
    if peer.trusted
        && let Some(id) = headers::trusted_request_id(fields)
    {
        return id.clone();
    }
    new_request_id()
}

#[cfg(test)]
mod tests;
