//! Turns the outcome of a request into its response.

use std::mem;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::Gateway;
use super::context::Forwarded;
use super::tunnel::{Tunnel, TunnelSlot};
use crate::backend::body::discard;
use crate::backend::response::UpstreamResponse;
use crate::client::recycle;
use crate::downstream::Downstream;
use crate::limits::tokens::TokenRequest;
use crate::policy::bearer::Token;
use crate::policy::deprecation::Deprecation;
use crate::policy::headers::X_REQUEST_ID;
use crate::policy::map::RouteOptions;
use crate::policy::query::QueryCheck;
use crate::policy::refusal::{Reason, Refusal};
use crate::response::body::ResponseBody;
use crate::response::own;
use crate::response::record::RequestRecord;
use crate::tokens::hash::TokenHash;
use crate::tokens::verdict::Verdict;

/// The kind of response to a request that is not refused.
pub(super) enum Outcome<'a> {
    /// The backend's response, the reason for the access log, and the options of the route; the defaults for a preflight
    /// that was forwarded, which is no use of the route.
    Upstream(Reason, &'a RouteOptions),
    /// The gateway's own response to a preflight for this method.
    Preflight(HeaderValue),
}

impl Gateway {
    /// Responds with the backend's response. `options` are those of the route.
    pub(super) fn respond_with_upstream(
        self: &Rc<Self>,
        reason: Reason,
        options: &RouteOptions,
        head: &mut Parts,
        mut record: Box<RequestRecord>,
        forwarded: &mut Forwarded,
        tunnel: &TunnelSlot,
    ) -> Response<ResponseBody> {
        let Forwarded { call, response, upgrade } = forwarded;
        let Some(UpstreamResponse { head: mut response, lease }) = response.take() else {
            return self.respond_with_refusal(&Refusal::InternalError, None, head, record, None);
        };
        if let Some(deprecation) = &options.deprecated {
            let origin = self.settings.cors.allowed(&head.headers);
            self.announce(deprecation, origin, response.headers_mut());
        }
        recycle(mem::take(&mut head.headers));
        // The version of the client's connection, not of the backend's (RFC 9110 section 2.5).
        *response.version_mut() = response_version(head);
        // The backend's own id takes precedence.
        response.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| record.request_id.clone());
        self.add_hsts(record.downstream(), response.headers_mut());
        self.add_rate_limit_fields(&record, head.uri.query(), response.headers_mut());
        record.note_response(response.status(), reason, record.response_arrived());
        if let Some(upgrade) = upgrade.take()
            && response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            // From now on it is a tunnel, which `limits.tunnels_per_token` counts.
            record.in_flight = None;
            if let Some(backend) = lease.into_upgraded() {
                let decided_by = Rc::clone(self);
                tunnel.set(Some(Box::new(Tunnel { upgrade: *upgrade, decided_by, record, backend })));
            }
            return response.map(|()| ResponseBody::tunnel());
        }
        let idle_timeout = self.settings.limits.body_idle_timeout;
        // The request is nearly always complete, and the call is then dropped without a move.
        let call = call.take_if(|call| !call.is_complete()).map(Box::new);
        response.map(|()| ResponseBody::upstream(lease, call, record, idle_timeout))
    }

    /// Announces the end of the route in a response. `origin` is the allowed origin, whose scripts may read that.
    #[cold]
    pub(super) fn announce(
        &self,
        deprecation: &Deprecation,
        origin: Option<&HeaderValue>,
        fields: &mut HeaderMap,
    ) {
        deprecation.announce(fields);
        self.settings.cors.expose_also(origin, deprecation.names(), fields);
    }

    /// Answers a preflight for the method `requested`. `origin` is the allowed origin.
    pub(super) fn respond_to_preflight(
        &self,
        requested: &HeaderValue,
        origin: Option<&HeaderValue>,
        head: &Parts,
        mut record: Box<RequestRecord>,
    ) -> Response<ResponseBody> {
        let mut response = own::preflight(record.request_id.clone());
        self.settings.cors.answer(origin, requested, response.headers_mut());
        self.add_hsts(record.downstream(), response.headers_mut());
        *response.version_mut() = response_version(head);
        record.note_response(response.status(), Reason::Public, Instant::now());
        ResponseBody::own(response, record)
    }

    /// Responds with a refusal. `origin` is the allowed origin, whose scripts may read it; `body` is what is left of the
    /// request's body.
    pub(super) fn respond_with_refusal(
        &self,
        refusal: &Refusal,
        origin: Option<&HeaderValue>,
        head: &Parts,
        mut record: Box<RequestRecord>,
        body: Option<Incoming>,
    ) -> Response<ResponseBody> {
        let version = response_version(head);
        if let Some(body) = body {
            discard_rest(version, body, record.downstream());
        }
        let mut response = self.refusal_response(refusal, origin, head, &mut record);
        let fields = response.headers_mut();
        self.add_hsts(record.downstream(), fields);
        if head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT) {
            // Otherwise hyper waits for a body that the client may never send.
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *response.version_mut() = version;
        record.note_refusal(refusal, response.status(), Instant::now());
        ResponseBody::own(response, record)
    }

    /// The response to a refused request. The gateway sends it to the client, or to the proxy that asked.
    pub(super) fn refusal_response(
        &self,
        refusal: &Refusal,
        origin: Option<&HeaderValue>,
        head: &Parts,
        record: &mut RequestRecord,
    ) -> Response<Bytes> {
        let is_uncovered = matches!(refusal, Refusal::Unmapped | Refusal::MethodNotMapped);
        let is_denied =
            matches!(refusal, Refusal::Denied | Refusal::QueryDenied { .. } | Refusal::WrongNetwork(_));
        if is_uncovered || (is_denied && self.recorder.usage.is_some()) {
            self.attribute_token(&head.headers, record);
        }
        let mut response = own::refuse(refusal, record.request_id.clone());
        let fields = response.headers_mut();
        if let Some(origin) = origin {
            self.settings.cors.expose(origin, fields);
        }
        self.settings.denials.advise(refusal, fields);
        if matches!(refusal, Refusal::TooManyAttempts(_)) {
            self.add_rate_limit_fields(record, head.uri.query(), fields);
        }
        response
    }

    /// Adds RateLimit and RateLimit-Policy to the response to a token with limits, if `rate_limit.fields` is `ietf`.
    /// `query` is the request's.
    pub(super) fn add_rate_limit_fields(
        &self,
        record: &RequestRecord,
        query: Option<&str>,
        fields: &mut HeaderMap,
    ) {
        let Some(tokens) = self.limiter.tokens.as_ref().filter(|tokens| tokens.settings().has_fields) else {
            return;
        };
        let Some((cached, limit)) = record.token.as_ref().and_then(|it| Some((it, it.limit.get()?))) else {
            return;
        };
        let route = record.route_number.and_then(|number| self.settings.abilities.route(number));
        let Verdict { id, abilities, .. } = &cached.verdict;
        let rules = route.and_then(|route| route.options().query.as_deref());
        let request = TokenRequest {
            now: Instant::now(),
            id,
            abilities,
            requirement: route.and_then(|route| route.rule(&record.method)).map(|rule| &rule.requirement),
            query: rules.map(|rules| QueryCheck::new(rules, query, false)),
        };
        limit.fields(tokens, &request).append(fields);
    }

    /// Adds Strict-Transport-Security to a response over TLS (RFC 6797 section 7.2), unless the backend has set it.
    pub fn add_hsts(&self, downstream: &Downstream, fields: &mut HeaderMap) {
        if downstream.encrypted
            && let Some(hsts) = &self.settings.listen.hsts
        {
            fields.entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
    }

    /// Attributes a request that was refused before its introspection to its token, if the verdict is cached. Operators
    /// want to know who probes, but that is not worth an introspection.
    #[cold]
    fn attribute_token(&self, fields: &HeaderMap, record: &mut RequestRecord) {
        if let (None, Ok(token)) =
            (&record.token, Token::from_fields(fields, self.settings.limits.token_bytes))
        {
            let cached = self.lookup.peek(&TokenHash::of(token.as_bytes()), record.started());
            record.token = cached.and_then(Result::ok);
        }
    }
}

/// Reads what is left of the body of an HTTP/2 request, which is not used. hyper handles that of an HTTP/1 request.
pub(super) fn discard_rest(version: Version, body: Incoming, downstream: &Rc<Downstream>) {
    if version == Version::HTTP_2 && !body.is_end_stream() {
        tokio::task::spawn_local(discard(body, Rc::clone(downstream)));
    }
}

/// The version of the response to a request.
pub(super) fn response_version(head: &Parts) -> Version {
    if head.version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 }
}
