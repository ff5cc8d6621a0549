//! Builds the upstream request, anew for each connection that it is sent over.

use std::sync::Once;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::client::call::{RequestSource, Unwritable};
use crate::client::http1::RequestHead;
use crate::config::settings::{BackendHost, Settings};
use crate::downstream::Downstream;
use crate::policy::headers::{Credentials, Dropped, Forwarding, TraceFields, UpstreamFields};
use crate::policy::refusal::Refusal;
use crate::policy::target::Target;

/// The target of the upstream request: the prefix, the canonical path, and the unchanged query.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTarget<'a> {
    /// The path of `backend.url`, without a trailing `/`.
    pub prefix: &'a str,
    /// The canonical path.
    pub path: &'a str,
    /// The query, without its `?`.
    pub query: Option<&'a str>,
}

impl<'a> UpstreamTarget<'a> {
    fn pieces(&self) -> [&'a str; 4] {
        let (mark, query) = self.query.map_or(("", ""), |query| ("?", query));
        [self.prefix, self.path, mark, query]
    }
}

/// The parts of a request that is to be forwarded.
pub struct ForwardPlan<'a> {
    /// The client's head.
    pub head: &'a Parts,
    /// The canonical target.
    pub target: &'a Target<'a>,
    /// The method of the decision, after an override.
    pub method: &'a Method,
    /// The client's connection.
    pub downstream: &'a Downstream,
    /// The request id.
    pub request_id: &'a HeaderValue,
    /// The credentials of the upstream request.
    pub credentials: Credentials,
    /// The fields of the request's trace.
    pub trace: Option<TraceFields>,
    /// Whether there is a body without Content-Length.
    pub chunked: bool,
    /// Whether the client waits for 100 (Continue).
    pub expects_continue: bool,
    /// Whether the request is a WebSocket handshake.
    pub is_upgrade: bool,
}

/// The upstream request.
#[derive(Debug)]
pub struct UpstreamRequest<'a> {
    /// Its method, as the client sent it.
    pub method: &'a Method,
    /// Its target.
    pub target: UpstreamTarget<'a>,
    /// Its fields.
    pub fields: UpstreamFields<'a>,
    /// Its id, for the log.
    pub request_id: &'a HeaderValue,
    /// Whether it requests an upgrade. The caller validates the 101.
    pub is_upgrade: bool,
}

impl<'a> UpstreamRequest<'a> {
    /// The upstream request of `plan`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] if Connection names too many fields.
    pub fn new(settings: &'a Settings, plan: ForwardPlan<'a>) -> Result<Self, Refusal> {
        let Settings { listen, backend, .. } = settings;
        let ForwardPlan { head, target, downstream, request_id, is_upgrade, .. } = plan;
        let forwarding = Forwarding {
            method: &head.method,
            decided: plan.method,
            version: head.version,
            client: &downstream.address_field,
            encrypted: downstream.encrypted,
            trusted: downstream.trusted,
            trusted_fields: &listen.trusted_fields,
            request_id,
            host: match backend.host {
                BackendHost::Preserve => None,
                BackendHost::Backend => Some(&backend.authority),
            },
            credentials: plan.credentials,
            trace: plan.trace,
            chunked: plan.chunked,
            expects_continue: plan.expects_continue,
            upgrades: is_upgrade,
        };
        let target = UpstreamTarget {
            prefix: if target.path.is_asterisk() { "" } else { &backend.path_prefix },
            path: target.path.as_str(),
            query: target.query,
        };
        let fields = UpstreamFields::new(&head.headers, forwarding)?;
        Ok(Self { method: &head.method, target, fields, request_id, is_upgrade })
    }
}

impl RequestSource for UpstreamRequest<'_> {
    fn method(&self) -> &Method {
        self.method
    }

    fn http1(&self) -> RequestHead {
        let mut head = RequestHead::new(self.method, self.target.pieces());
        warn(&self.fields.write(&mut head));
        head
    }

    fn http2(&self) -> Result<Request<()>, Unwritable> {
        let mut fields = HeaderMap::with_capacity(24);
        warn(&self.fields.write(&mut fields));
        let mut request = Request::new(());
        request.method_mut().clone_from(self.method);
        *request.uri_mut() = Uri::try_from(self.target.pieces().concat()).map_err(|_| Unwritable)?;
        *request.headers_mut() = fields;
        Ok(request)
    }
}

fn warn(dropped: &Dropped) {
    if dropped.untrusted {
        warn_of_distrust();
    }
    if let Some(name) = &dropped.unlisted {
        warn_of_unlisted(name);
    }
}

/// Warns once of forwarding or identity fields from a peer that is not trusted. If that is an ingress, the backend
/// builds its links for the wrong scheme and host.
#[cold]
fn warn_of_distrust() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "dropped X-Forwarded-* or the like from a peer that is not in listen.trusted_proxies (logged once)"
        );
    });
}

/// Warns once of an identity field that a trusted proxy set and the configuration does not accept.
#[cold]
fn warn_of_unlisted(name: &HeaderName) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            field = name.as_str(),
            "dropped an identity field from a trusted proxy: listen.trusted_fields does not name it (logged once)"
        );
    });
}
