//! The request that the backend gets: a message of our own, written anew for each connection that it is sent over.

use std::sync::Once;

use http::{HeaderMap, HeaderName, Method, Request, Uri};

use crate::client::call::{RequestSource, Unwritable};
use crate::client::http1::RequestHead;
use crate::policy::headers::{Dropped, UpstreamFields};

/// A target as the backend gets it: its prefix, the canonical path, and the query byte for byte.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTarget<'a> {
    /// `backend.url`'s path, without a `/` at its end.
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

/// A client's request as the backend gets it.
#[derive(Debug)]
pub struct UpstreamRequest<'a> {
    /// Its method, as the client sent it.
    pub method: &'a Method,
    /// Its target.
    pub target: UpstreamTarget<'a>,
    /// Its fields.
    pub fields: UpstreamFields<'a>,
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
