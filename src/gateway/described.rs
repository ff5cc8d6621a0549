//! Answers proxies that describe a request, and forward it themselves if the gateway allows it.
//!
//! The described request goes through the phases of [`Gateway::answer`] up to the limit. It has no body here, and opens no
//! tunnel.

use std::mem;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::context::{ReadRequest, begin_record};
use super::respond::{discard_rest, response_version};
use super::{AllowedRequest, Gateway};
use crate::catch_panic::CatchPanic;
use crate::config::settings::AnswerStyle;
use crate::downstream::Downstream;
use crate::downstream::state::Shutdown;
use crate::policy::deprecation::Deprecation;
use crate::policy::described::{DescriptionError, DescriptionStyle, check_spellings, describe};
use crate::policy::grant::{
    Grant, GrantedRequest, X_CANONICAL_PATH, X_DECISION_STATUS, X_ENVOY_AUTH_HEADERS_TO_REMOVE,
};
use crate::policy::headers::Credentials;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::target::OTHER;
use crate::policy::{client, cors};
use crate::response::body::ResponseBody;
use crate::response::own;
use crate::response::record::RequestRecord;

mod check;
mod messages;

/// The reason of a refusal, for the log. The proxy forwards the path as its client sent it.
const NOT_CANONICAL: &str = "path that is not canonical";
/// Likewise.
const UNTRUSTED_PEER: &str = "peer that is not in decision.trusted_proxies";

/// A described request.
struct DescribedRequest<'a> {
    head: &'a Parts,
    /// Whether it has a body, as far as that is described.
    has_body: bool,
    /// Whether a trusted proxy sent it to the proxy that describes it.
    trusted: bool,
}

/// A described request that is allowed.
struct DescribedGrant<'a> {
    /// The canonical path.
    path: HeaderValue,
    grant: Grant,
    /// The reason for the access log.
    reason: Reason,
    /// The announced end of the route, and the allowed origin, whose scripts may read that.
    deprecation: Option<(&'a Deprecation, Option<&'a HeaderValue>)>,
}

/// The properties of a proxy's own request that determine the form of the answer.
#[derive(Clone, Copy)]
struct AnswerForm {
    version: Version,
    is_head: bool,
    /// Whether the connection ends with the answer.
    closes: bool,
}

impl AnswerForm {
    fn of(head: &Parts) -> Self {
        // With `Expect`, hyper would wait for a body that the proxy may never send.
        let closes = head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT);
        Self { version: response_version(head), is_head: head.method == Method::HEAD, closes }
    }

    fn send(self, mut response: Response<Bytes>, record: Box<RequestRecord>) -> Response<ResponseBody> {
        if self.closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *response.version_mut() = self.version;
        ResponseBody::own_to(self.is_head, response, record)
    }
}

impl Gateway {
    /// Answers one request of a proxy on the decision listener.
    pub async fn answer_proxy(
        self: &Rc<Self>,
        downstream: &Rc<Downstream>,
        head: &mut Parts,
        body: Incoming,
    ) -> Response<ResponseBody> {
        if !self.settings.decision.trusts(downstream.address) {
            return self.reject_peer(downstream, head, body);
        }
        if check::is_grpc(head) {
            return self.answer_grpc(downstream, head, body).await;
        }
        self.answer_description(downstream, head, body).await
    }

    /// Answers an untrusted peer, and ends its connection, which would take one from others.
    fn reject_peer(
        &self,
        downstream: &Rc<Downstream>,
        head: &Parts,
        body: Incoming,
    ) -> Response<ResponseBody> {
        let peer = downstream.address.map(tracing::field::display);
        tracing::warn!(peer, "request for a decision rejected: the peer is not in decision.trusted_proxies");
        downstream.connection().unwrap_or(downstream).state.request_shutdown(Shutdown::Announced);
        let mut record = begin_record(self, downstream, head, false);
        discard_rest(head.version, body, downstream);
        let response = own::refuse(&Refusal::Denied, record.request_id.clone());
        record.note_refusal(&Refusal::Denied, response.status(), Instant::now());
        record.note_detail(UNTRUSTED_PEER);
        AnswerForm::of(head).send(response, record)
    }

    /// Decides on the request that the head describes.
    async fn answer_description(
        &self,
        downstream: &Rc<Downstream>,
        head: &mut Parts,
        body: Incoming,
    ) -> Response<ResponseBody> {
        let form = AnswerForm::of(head);
        let has_body = !body.is_end_stream();
        let described = self.describe(downstream, head);
        // Proxies pass on the trace context of their clients.
        let mut record = begin_record(self, downstream, head, false);
        discard_rest(form.version, body, downstream);
        // Never the proxy's own address: a route's `from` may include it.
        let reported = client::reported(&head.headers, |address| self.forwards_for(address));
        record.client = reported.nearest;
        record.has_unknown_client = reported.is_unknown;
        let decided = match described {
            Ok(()) => {
                // The address from which the client's request came to the proxy is not described.
                let described = DescribedRequest { head, has_body, trusted: false };
                self.decide_described(&described, &mut record).await
            }
            Err(refusal) => {
                record.method = OTHER;
                Err(refusal)
            }
        };
        let mut response = match decided {
            Ok(allowed) => self.allow(allowed, head.uri.query(), &mut record),
            Err(refusal) => self.deny(&refusal, head, &mut record),
        };
        if self.settings.decision.answer == AnswerStyle::Header {
            let status = mem::replace(response.status_mut(), StatusCode::OK);
            response.headers_mut().insert(X_DECISION_STATUS, status.as_u16().into());
        }
        form.send(response, record)
    }

    /// Turns the head of a proxy's request into that of the described request.
    fn describe(&self, downstream: &Downstream, head: &mut Parts) -> Result<(), Refusal> {
        self.translate(head)?;
        let described = describe(head, &self.settings.decision.style, &self.settings.limits.bounds());
        if let Err(DescriptionError::Incomplete(why)) = described {
            warn_of_description(downstream, why);
        }
        described?;
        match self.settings.decision.style {
            // Envoy removes such fields.
            DescriptionStyle::PathPrefix(_) => Ok(()),
            DescriptionStyle::Forwarded => {
                check_spellings(&head.headers, &self.settings.listen.trusted_fields)
            }
        }
    }

    /// Whether a proxy with this address reports its clients by X-Forwarded-For.
    fn forwards_for(&self, address: IpAddr) -> bool {
        self.settings.decision.trusts(Some(address)) || self.settings.listen.trusts(address)
    }

    /// Takes a described request through the phases up to the limit.
    async fn decide_described(
        &self,
        described: &DescribedRequest<'_>,
        record: &mut RequestRecord,
    ) -> Result<DescribedGrant<'_>, Refusal> {
        let decided = CatchPanic(pin!(self.decide_on(described, record))).await;
        decided.unwrap_or(Err(Refusal::InternalError))
    }

    async fn decide_on(
        &self,
        described: &DescribedRequest<'_>,
        record: &mut RequestRecord,
    ) -> Result<DescribedGrant<'_>, Refusal> {
        let DescribedRequest { head, has_body, .. } = *described;
        let target = self.read_target(head, true)?;
        if !target.path.is_borrowed() {
            return Err(Refusal::BadRequest(NOT_CANONICAL));
        }
        self.admit(head, record)?;
        let client = record.client_address();
        let request =
            ReadRequest { head, target, has_body, client, expects_continue: false, handshake: None };
        let requested = cors::requested_method(&head.method, &head.headers);
        let (permit, credentials, reason, deprecation) = if let Some(requested) = requested {
            let permit = self.permit_preflight(&request, requested, record)?;
            (permit, Credentials::None, Reason::Public, None)
        } else {
            let AllowedRequest { permit, caller, options, .. } =
                self.decide_in_mode(&request, record).await?;
            let (_, credentials, reason) = self.credentials(caller)?;
            let deprecation = options.deprecated.as_deref();
            let deprecation = deprecation.map(|it| (it, self.settings.cors.allowed(&head.headers)));
            (permit, credentials, reason, deprecation)
        };
        let granted = GrantedRequest {
            fields: &head.headers,
            method: &head.method,
            decided: &record.method,
            trusted: described.trusted,
            trusted_fields: &self.settings.listen.trusted_fields,
        };
        let grant = Grant::new(permit, &granted, &credentials);
        let path = HeaderValue::from_str(request.target.path.as_str());
        let path = path.map_err(|_| Refusal::InternalError)?;
        Ok(DescribedGrant { path, grant, reason, deprecation })
    }

    /// The answer that allows a request.
    fn allow(
        &self,
        allowed: DescribedGrant<'_>,
        query: Option<&str>,
        record: &mut RequestRecord,
    ) -> Response<Bytes> {
        let DescribedGrant { path, grant, reason, deprecation } = allowed;
        let mut response = own::allow(record.request_id.clone());
        let fields = response.headers_mut();
        fields.insert(X_CANONICAL_PATH, path);
        if matches!(self.settings.decision.style, DescriptionStyle::PathPrefix(_))
            && let Some(names) = grant.removed_names()
        {
            fields.insert(X_ENVOY_AUTH_HEADERS_TO_REMOVE, names);
        }
        fields.extend(grant.set.into_iter().chain(grant.kept));
        self.add_rate_limit_fields(record, query, fields);
        if let Some((deprecation, origin)) = deprecation {
            self.announce(deprecation, origin, fields);
        }
        record.note_response(StatusCode::OK, reason, Instant::now());
        response
    }

    /// The answer that refuses a request, for its client.
    fn deny(&self, refusal: &Refusal, head: &Parts, record: &mut RequestRecord) -> Response<Bytes> {
        let origin = self.settings.cors.allowed(&head.headers);
        let response = self.refusal_response(refusal, origin, head, record);
        record.note_refusal(refusal, response.status(), Instant::now());
        response
    }
}

fn warn_of_description(downstream: &Downstream, why: &'static str) {
    let peer = downstream.address.map(tracing::field::display);
    tracing::warn!(peer, why, "request for a decision rejected: its description is incomplete or ambiguous");
}

/// The fields of a described request that its record contains.
fn note_described(record: &mut RequestRecord, head: &Parts, trusted_id: Option<&HeaderValue>) {
    record.method.clone_from(&head.method);
    if let Some(id) = trusted_id {
        record.request_id.clone_from(id);
    }
    record.note_head(head);
    record.note_scheme(&head.headers);
    if let Some(trace) = &record.trace {
        trace.note_host(head);
    }
}

/// The names and values of fields in the order of a message.
fn lines(fields: &HeaderMap) -> impl Iterator<Item = (&str, &HeaderValue)> {
    fields.iter().map(|(name, value)| (name.as_str(), value))
}
