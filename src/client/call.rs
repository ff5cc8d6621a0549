//! A request that may be sent over more than one connection, until one of them brings a response.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Uri};
use hyper::body::Body;
use tokio::sync::Notify;

use super::fault::ExchangeError;
use super::http1::{Outgoing, RequestHead};

/// A request and what became of it so far.
pub struct Call<B> {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its fields.
    pub fields: HeaderMap,
    /// As long as no connection has begun to send it.
    body: Option<B>,
    /// After a connection of HTTP/1.1 has begun to send it.
    outgoing: Option<Outgoing<B>>,
    has_body: bool,
    /// The length of its body, if that is known beforehand.
    length: Option<u64>,
    /// Whether a connection of HTTP/2 may have sent any of it.
    streamed: bool,
    on_continue: Option<Arc<Notify>>,
}

impl<B: Body<Data = Bytes> + Unpin> Call<B> {
    /// A request that was not sent.
    pub fn new(request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        let (has_body, length) = (!body.is_end_stream(), body.size_hint().exact());
        Self {
            method: head.method,
            uri: head.uri,
            fields: head.headers,
            body: Some(body),
            outgoing: None,
            has_body,
            length,
            streamed: false,
            on_continue: None,
        }
    }

    /// Has `asked` told when the server sends 100 (Continue).
    pub fn on_continue(&mut self, asked: Arc<Notify>) {
        self.on_continue = Some(asked);
    }

    /// Whether it may be sent again after `error` (RFC 9110 section 9.2.2): if nothing of it was sent, if the server
    /// said that it did nothing about it, or if it is idempotent, has no body, and no byte of a response came.
    pub fn may_repeat(&self, error: &ExchangeError) -> bool {
        let is_unsent = match &self.outgoing {
            Some(outgoing) => outgoing.is_unsent(),
            None => !self.streamed,
        };
        is_unsent
            || !self.has_body
                && (error.is_unprocessed() || self.method.is_idempotent() && error.is_unanswered())
    }

    /// Whether it may be sent again as long as no byte of a response has come.
    pub fn is_repeatable(&self) -> bool {
        !self.has_body && self.method.is_idempotent()
    }

    /// Whether all of it was sent.
    pub fn is_complete(&self) -> bool {
        self.outgoing.as_ref().is_none_or(Outgoing::is_complete)
    }

    /// What a connection of HTTP/2 is to be told when the server sends 100 (Continue).
    pub(super) const fn continues(&mut self) -> Option<Arc<Notify>> {
        self.on_continue.take()
    }

    /// The head and the body, for a connection of HTTP/2, which may send them from now on. The head of a request without
    /// a body is copied, so that it can be sent again.
    pub(super) fn stream(&mut self) -> Option<(Request<()>, B)> {
        let body = self.body.take()?;
        self.streamed = true;
        let mut request = Request::new(());
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        *request.headers_mut() =
            if self.has_body { std::mem::take(&mut self.fields) } else { self.fields.clone() };
        Some((request, body))
    }

    /// Takes back the body of a request that has none: it can be sent again.
    pub(super) fn take_back(&mut self, body: B) {
        self.body = Some(body);
    }

    /// What a connection of HTTP/1.1 sends of it.
    pub(super) const fn outgoing(&mut self) -> Option<&mut Outgoing<B>> {
        self.outgoing.as_mut()
    }

    /// Encodes it for a connection of HTTP/1.1.
    pub(super) fn encode(&mut self) -> &mut Outgoing<B> {
        let Self { method, uri, fields, body, outgoing, has_body, length, on_continue, .. } = self;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut head = RequestHead::new(method, [target]);
        head.fields(fields);
        if let Some(length) = *length
            && *has_body
            && !fields.contains_key(CONTENT_LENGTH)
            && !fields.contains_key(TRANSFER_ENCODING)
        {
            head.announce_length(length);
        }
        let begun = match outgoing.take().filter(Outgoing::is_unsent) {
            Some(mut unsent) => {
                unsent.restart(head);
                unsent
            }
            None => {
                let mut begun = Outgoing::new(head, body.take());
                if let Some(asked) = on_continue.take() {
                    begun.on_continue(asked);
                }
                begun
            }
        };
        outgoing.insert(begun)
    }
}
