//! The request path, from top to bottom: read, route, authenticate, authorize, limit, forward, respond.
//!
//! [`Gateway::answer`] is the outer function: it alone turns a refusal into a response. Inside, each phase needs the
//! result of the one before, and forwarding needs the [`Permit`] that only a decision makes.
//!
//! [`Gateway::answer_proxy`] takes a request that another proxy describes through the same phases up to the limit. Its
//! last phase consumes the permit for the answer to that proxy.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, EXPECT, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::backend::body::RequestBody;
use crate::backend::forward::{Backend, UpstreamExchange, upload_refusal};
use crate::backend::request::{ForwardPlan, UpstreamRequest};
use crate::catch_panic::CatchPanic;
use crate::client::call::Call;
use crate::client::pool::{CallerAccount, ConnectionUser};
use crate::config::settings::Settings;
use crate::downstream::Downstream;
use crate::limits::Limiter;
use crate::limits::tokens::TokenRequest;
use crate::limits::tunnels::{Holder, TunnelGuard};
use crate::policy::ability::Requirement;
use crate::policy::bearer::{self, Token};
use crate::policy::cors;
use crate::policy::decision::{NextStep, Permit, Routed};
use crate::policy::expectation;
use crate::policy::headers::Credentials;
use crate::policy::http2;
use crate::policy::map::{RouteMatch, RouteOptions};
use crate::policy::mask::mask;
use crate::policy::method;
use crate::policy::query::QueryCheck;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::singleton;
use crate::policy::target::{Target, add_missing_host};
use crate::policy::upgrade::Handshake;
use crate::response::body::ResponseBody;
use crate::response::record::{MissingRule, Recorder, RequestRecord};
use crate::telemetry::metrics::{RouteLabel, RouteNumbers, TimedPhase};
use crate::tokens::lookup::{CachedToken, Lookup};
use crate::tokens::verdict::Verdict;

mod context;
mod described;
mod preflight;
mod respond;
mod shadow;
pub mod tunnel;
mod verdict;

use self::context::{Forwarded, ReadRequest, RequestContext};
use self::respond::Outcome;
use self::tunnel::{TunnelSlot, UpgradeRequest};
use self::verdict::Authentication;

/// The gateway of one worker.
pub struct Gateway {
    settings: Arc<Settings>,
    routes: RouteNumbers,
    lookup: Rc<Lookup>,
    backend: Backend,
    limiter: Arc<Limiter>,
    recorder: Rc<Recorder>,
}

/// The decision on a request that is allowed.
struct AllowedRequest<'a> {
    permit: Permit,
    caller: Caller,
    /// The options of the route.
    options: &'a RouteOptions,
    /// Counts the tunnel, if the request asks for one.
    tunnel: Option<Box<TunnelGuard>>,
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

    /// Answers one request. If the response is a 101, `tunnel` contains the tunnel that the connection becomes.
    ///
    /// `head` is a reference, since this future would contain a second copy of a head that it owned.
    pub async fn answer(
        self: &Rc<Self>,
        downstream: &Rc<Downstream>,
        head: &mut Parts,
        body: Incoming,
        tunnel: &TunnelSlot,
    ) -> Response<ResponseBody> {
        let mut context = RequestContext::new(self, downstream, head, body);
        let origin = self.settings.cors.allowed(&head.headers);
        let served = CatchPanic(pin!(self.serve(head, &mut context))).await;
        match served.unwrap_or(Err(Refusal::InternalError)) {
            Ok(Outcome::Upstream(reason, options)) => {
                let forwarded = &mut context.forwarded;
                self.respond_with_upstream(reason, options, head, context.record, forwarded, tunnel)
            }
            Ok(Outcome::Preflight(method)) => {
                self.respond_to_preflight(&method, origin, head, context.record)
            }
            Err(refusal) => self.respond_with_refusal(&refusal, origin, head, context.record, context.body),
        }
    }

    /// Takes a request through the phases up to the head of the response, which `context` receives.
    async fn serve(
        &self,
        head: &mut Parts,
        context: &mut RequestContext<'_>,
    ) -> Result<Outcome<'_>, Refusal> {
        let request = self.read(head, context)?;
        if let Some(requested) = cors::requested_method(&request.head.method, &request.head.headers) {
            return Box::pin(self.serve_preflight(&request, requested, context)).await;
        }
        let decided = self.decide_in_mode(&request, &mut context.record).await;
        let AllowedRequest { permit, caller, options, tunnel } = decided?;
        if let Some(tunnel) = tunnel {
            let read = (&request.head.headers, &request.target, request.client);
            context.forwarded.upgrade = Some(Box::new(UpgradeRequest::new(self, read, &caller, tunnel)));
        }
        if self.backend.is_bounded() {
            context.account = self.account(&caller, context.record.client);
        }
        let (cached, credentials, reason) = self.credentials(caller)?;
        let status = self.forward(permit, &request, credentials, options, context).await?;
        if status == StatusCode::UNAUTHORIZED
            && let Some(cached) = cached
        {
            self.lookup.invalidate(&cached);
        }
        Ok(Outcome::Upstream(reason, options))
    }

    /// Reads the request: an unambiguous message with a canonical target. Applies the limit of its address.
    fn read<'a>(
        &self,
        head: &'a mut Parts,
        context: &mut RequestContext<'_>,
    ) -> Result<ReadRequest<'a>, Refusal> {
        self.translate(head)?;
        let head = &*head;
        let target = self.read_target(head, context.downstream.trusted)?;
        let has_body = context.body.as_ref().is_some_and(|body| !body.is_end_stream());
        let (mut expects_continue, mut handshake) = (false, None);
        // Few requests have either field, and one pass over the names costs less than two lookups.
        if head.headers.keys().any(|name| *name == EXPECT || *name == UPGRADE) {
            expects_continue = expectation::waits(head.version, &head.headers)?;
            handshake = Handshake::begun(&head.method, head.version, &head.headers, has_body)?;
        }
        self.admit(head, &mut context.record)?;
        let client = context.record.client_address();
        Ok(ReadRequest { head, target, has_body, client, expects_continue, handshake })
    }

    /// Gives a head of another version the form of HTTP/1.1.
    #[inline]
    fn translate(&self, head: &mut Parts) -> Result<(), Refusal> {
        let Settings { limits, backend, .. } = &*self.settings;
        if head.version == Version::HTTP_2 {
            http2::translate(head, &limits.bounds())?;
        }
        if head.version == Version::HTTP_10 {
            add_missing_host(&head.uri, &mut head.headers, &backend.authority);
        }
        Ok(())
    }

    /// Checks the fields, and reads the canonical target. `trusted`: whether the peer may set forwarding fields.
    #[inline]
    fn read_target<'a>(&self, head: &'a Parts, trusted: bool) -> Result<Target<'a>, Refusal> {
        let Settings { listen, abilities, .. } = &*self.settings;
        singleton::check(&head.headers)?;
        if trusted {
            listen.trusted_fields.check_lines(&head.headers)?;
        }
        let target = Target::read(&head.method, &head.uri, &head.headers)?;
        abilities.check_path(&target.path)?;
        Ok(target)
    }

    /// Records a method override, and applies the limit of the client's address.
    #[inline]
    fn admit(&self, head: &Parts, record: &mut RequestRecord) -> Result<(), Refusal> {
        let setting = self.settings.backend.method_override;
        if let Some(method) = method::overriding(&head.method, &head.headers, setting)? {
            record.method = method;
        }
        if let (Some(addresses), Some(address)) = (&self.limiter.addresses, record.client) {
            addresses.take(address, record.started()).map_err(Refusal::TooManyAttempts)?;
        }
        Ok(())
    }

    /// The decision on a request, also by shadow mode and the candidate map.
    #[inline]
    async fn decide_in_mode(
        &self,
        request: &ReadRequest<'_>,
        record: &mut RequestRecord,
    ) -> Result<AllowedRequest<'_>, Refusal> {
        let decided = self.decide(request, record).await;
        match &self.settings.shadow {
            None => decided,
            Some(shadow) => Box::pin(self.decide_in_shadow(shadow, request, record, decided)).await,
        }
    }

    /// Drives the [decision](crate::policy::decision) on a request, then the limit of its token. A request that no token
    /// could make, or without a well-formed token, is refused before an introspection. The networks of a route that is
    /// not public are checked after the abilities, so they do not save one.
    async fn decide(
        &self,
        request: &ReadRequest<'_>,
        record: &mut RequestRecord,
    ) -> Result<AllowedRequest<'_>, Refusal> {
        let (routed, options) = self.route(request, record);
        let fields = &request.head.headers;
        let needs_token = match routed.next() {
            NextStep::Public(permit) => {
                bearer::at_most_one(fields)?;
                let tunnel = self.count_tunnel(request, None, record)?;
                return Ok(AllowedRequest { permit, caller: Caller::Public, options, tunnel });
            }
            NextStep::NeedsToken(needs_token) => needs_token,
            NextStep::Refused(refusal) => return Err(refusal),
        };
        let token = Token::from_fields(fields, self.settings.limits.token_bytes);
        let (token, needs_verdict) = needs_token.with_token(token)?;
        let introspected_since = self.oldest_introspection(&needs_verdict, record.started(), Duration::ZERO);
        let client = &request.client;
        let authentication = Authentication { token, needs_verdict, introspected_since, client };
        let mut cached = self.authenticate(&authentication, record).await?;
        let permit = self.authorize(&authentication, &mut cached, record).await?;
        let (requirement, query) = (needs_verdict.requirement(), needs_verdict.query());
        if let Some(query) = &query {
            record.note_query(query);
        }
        let tunnel = self.limit(request, &cached, (Some(requirement), query), record)?;
        let caller = Caller::Token(cached, token.authorization());
        Ok(AllowedRequest { permit, caller, options, tunnel })
    }

    /// Looks up the route and its options, and records it.
    fn route<'gateway: 'a, 'a>(
        &'gateway self,
        request: &'a ReadRequest<'_>,
        record: &mut RequestRecord,
    ) -> (Routed<'a>, &'gateway RouteOptions) {
        let map = &self.settings.abilities;
        let found = map.find(&record.method, &request.target.path);
        let options = map.options(&found);
        self.record_route(&found, &request.target, record);
        (Routed::with_options(map, (found, options), request.route_inputs()), options)
    }

    /// The label of the route with this number in metrics.
    fn route_label(&self, number: Option<usize>) -> RouteLabel {
        number.map_or(RouteLabel::Unmapped, |number| self.routes.label(number))
    }

    fn record_route(&self, found: &RouteMatch<'_>, target: &Target<'_>, record: &mut RequestRecord) {
        record.route_number = found.route();
        record.route = self.route_label(record.route_number);
        if !matches!(found, RouteMatch::Rule { .. }) && !target.path.is_asterisk() {
            let path = record.route_number.is_none().then(|| mask(target.path.as_str()).into());
            record.uncovered = Some(Box::new(MissingRule { path, method: Some(record.method.clone()) }));
        }
    }

    /// Records the age of the verdict, and applies the token's limits. The record counts the request as in flight.
    fn limit(
        &self,
        request: &ReadRequest<'_>,
        cached: &CachedToken,
        (requirement, query): (Option<&Requirement>, Option<QueryCheck<'_>>),
        record: &mut RequestRecord,
    ) -> Result<Option<Box<TunnelGuard>>, Refusal> {
        let started = record.started();
        self.recorder.metrics.verdict_served(cached.age(started));
        // First, since dropping the guard undoes it.
        let tunnel = self.count_tunnel(request, Some(cached), record)?;
        if let Some(tokens) = &self.limiter.tokens {
            let Verdict { id, abilities, .. } = &cached.verdict;
            let limit = cached.limit.get_or_init(|| tokens.limit(cached.verdict.identity(), started));
            let request = TokenRequest { now: started, id, abilities, requirement, query };
            record.in_flight = limit.take(tokens, &request).map_err(Refusal::TooManyAttempts)?;
        }
        Ok(tunnel)
    }

    /// Counts a request for a tunnel; `None` for other requests. `cached` is the token of a route that is not public.
    fn count_tunnel(
        &self,
        request: &ReadRequest<'_>,
        cached: Option<&CachedToken>,
        record: &RequestRecord,
    ) -> Result<Option<Box<TunnelGuard>>, Refusal> {
        if request.handshake.is_none() {
            return Ok(None);
        }
        let holder = match cached {
            Some(cached) => Some(Holder::Token((*cached.verdict.id).into())),
            None => record.client.map(|address| Holder::Address(address.into())),
        };
        let guard = self.limiter.tunnels.open(holder, &self.settings.limits);
        guard.map(|guard| Some(Box::new(guard))).map_err(Refusal::TooManyAttempts)
    }

    /// The caller's cached token, the credentials of the upstream request, and the reason for the access log.
    fn credentials(&self, caller: Caller) -> Result<(Option<Rc<CachedToken>>, Credentials, Reason), Refusal> {
        let cookies = self.settings.backend.cookies;
        Ok(match caller {
            Caller::Public => (None, Credentials::AsSent, Reason::Public),
            Caller::Token(cached, authorization) => {
                let wanted = &self.settings.identity_headers;
                let identity = if wanted.is_empty() { None } else { Some(cached.identity(wanted)?) };
                let credentials = Credentials::Token { authorization, identity, cookies };
                (Some(cached), credentials, Reason::Allowed)
            }
            Caller::Unauthenticated(_) => (None, Credentials::Unauthenticated { cookies }, Reason::Allowed),
        })
    }

    /// The account of the caller in the queue for the backend. `address` is the client's.
    fn account(&self, caller: &Caller, address: Option<IpAddr>) -> Option<Rc<CallerAccount>> {
        let Caller::Token(cached, _) = caller else { return self.backend.client_account(address) };
        if let Some(account) = cached.account.get() {
            return Some(Rc::clone(account));
        }
        let account = self.backend.token_account(&cached.verdict.id)?;
        Some(Rc::clone(cached.account.get_or_init(|| account)))
    }

    /// Forwards the request as a new message, and validates the head of the response.
    async fn forward(
        &self,
        permit: Permit,
        request: &ReadRequest<'_>,
        credentials: Credentials,
        options: &RouteOptions,
        context: &mut RequestContext<'_>,
    ) -> Result<StatusCode, Refusal> {
        let Settings { listen, limits, backend, .. } = &*self.settings;
        let RequestContext { downstream, body, record, account, forwarded } = context;
        let Forwarded { call, response, .. } = forwarded;
        let record = &mut **record;
        let body_limit = options.body.unwrap_or(limits.body);
        let (mut body, upload) =
            RequestBody::new(body, downstream, body_limit, limits, &listen.trusted_fields)
                .map_err(upload_refusal)?;
        let expects_continue = request.expects_continue && upload.is_some();
        let on_continue = if expects_continue { body.wait_for_continue() } else { None };
        record.upload = upload;
        let plan = ForwardPlan {
            head: request.head,
            target: &request.target,
            method: &record.method,
            downstream,
            request_id: &record.request_id,
            credentials,
            trace: record.trace.as_ref().and_then(|trace| trace.mark_request(Instant::now())),
            chunked: record.upload.is_some() && !request.head.headers.contains_key(CONTENT_LENGTH),
            expects_continue,
            is_upgrade: request.handshake.is_some(),
        };
        let upstream_request = UpstreamRequest::new(&self.settings, plan)?;
        let call = call.insert(Call::new(&request.head.method, body));
        call.on_continue(on_continue);
        call.set_reader(record.stream());
        let sent_at = Instant::now();
        let mut exchange = UpstreamExchange {
            request: &upstream_request,
            call,
            upload: record.upload.as_deref(),
            timeout: options.timeout.unwrap_or(backend.timeout),
            state: &downstream.state,
            address: None,
            response,
            user: account.as_ref().map(|caller| ConnectionUser { caller, downstream }),
            queued: None,
            tunnel: None,
        };
        let sent = self.backend.forward(permit, &mut exchange, sent_at).await;
        let queued = exchange.queued;
        record.upstream = exchange.address;
        record.note_upstream_response(sent_at, Instant::now());
        if let Some(queued) = queued {
            self.recorder.metrics.phase(TimedPhase::Queue, queued);
        }
        sent?;
        let response = response.as_mut().ok_or(Refusal::InternalError)?;
        record.upstream_status = Some(response.head.status());
        response.validate(request.handshake.as_ref())?;
        response.settle_upload(record.upload.as_deref(), request.head.version);
        Ok(response.head.status())
    }
}

#[cfg(test)]
mod tests;
