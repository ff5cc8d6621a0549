//! A request that may be sent over more than one connection, until there is a response.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Body;
use tokio::sync::Notify;

use super::error::ExchangeError;
use super::http1::{Outgoing, RequestHead};
use crate::downstream::Downstream;

/// The head of a request, encoded anew for each connection.
pub trait RequestSource {
    /// Its method.
    fn method(&self) -> &Method;

    /// Its head, encoded for a connection of HTTP/1.1.
    fn http1(&self) -> RequestHead;

    /// Its head for HTTP/2, without the fields that concern a connection.
    ///
    /// # Errors
    /// [`Unwritable`] if it has no such form.
    fn http2(&self) -> Result<Request<()>, Unwritable>;
}

/// A request that HTTP/2 cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a target that HTTP/2 cannot express")]
pub struct Unwritable;

/// A request of the gateway itself, sent unchanged.
impl RequestSource for Request<()> {
    fn method(&self) -> &Method {
        self.method()
    }

    fn http1(&self) -> RequestHead {
        let target = self.uri().path_and_query().map_or("/", |target| target.as_str());
        let mut head = RequestHead::new(self.method(), [target]);
        head.fields(self.headers());
        head
    }

    fn http2(&self) -> Result<Request<()>, Unwritable> {
        Ok(self.clone())
    }
}

/// The body of a request, and the progress of sending it.
pub struct Call<B> {
    /// `None` once a connection has started to send it.
    body: Option<B>,
    /// `None` until an HTTP/1.1 connection has started to send it.
    outgoing: Option<Outgoing<B>>,
    has_body: bool,
    idempotent: bool,
    /// Whether an HTTP/2 connection may have sent a part of it.
    streamed: bool,
    on_continue: Option<Arc<Notify>>,
    reader: Option<Rc<Downstream>>,
}

impl<B: Body<Data = Bytes> + Unpin> Call<B> {
    /// An unsent request with this method and body.
    pub fn new(method: &Method, body: B) -> Self {
        Self {
            has_body: !body.is_end_stream(),
            idempotent: method.is_idempotent(),
            body: Some(body),
            outgoing: None,
            streamed: false,
            on_continue: None,
            reader: None,
        }
    }

    /// Sets the client's HTTP/2 stream for the response, whose budget limits reading.
    pub fn set_reader(&mut self, stream: Option<&Rc<Downstream>>) {
        self.reader = stream.map(Rc::clone);
    }

    /// See [`Call::set_reader`].
    pub(super) fn reader(&self) -> Option<Rc<Downstream>> {
        self.reader.clone()
    }

    /// Notifies `requested` when the server sends 100 (Continue).
    pub fn on_continue(&mut self, requested: Option<Arc<Notify>>) {
        self.on_continue = requested;
    }

    /// Whether the request may be sent again after `error` (RFC 9110 section 9.2.2): if nothing of it was sent, the
    /// server did not process it, or it is idempotent, has no body, and no byte of a response was received.
    pub fn may_repeat(&self, error: &ExchangeError) -> bool {
        let is_unsent = match &self.outgoing {
            Some(outgoing) => outgoing.is_unsent(),
            None => !self.streamed,
        };
        is_unsent || !self.has_body && error.is_unprocessed() || self.is_repeatable() && error.is_unanswered()
    }

    /// Whether it may be sent again as long as no byte of a response was received.
    pub const fn is_repeatable(&self) -> bool {
        !self.has_body && self.idempotent
    }

    /// Whether all of it was sent.
    pub fn is_complete(&self) -> bool {
        self.outgoing.as_ref().is_none_or(Outgoing::is_complete)
    }

    /// The handle that an HTTP/2 connection notifies on 100 (Continue).
    pub(super) const fn continues(&mut self) -> Option<Arc<Notify>> {
        self.on_continue.take()
    }

    /// Takes the body for an HTTP/2 connection, which may send it from now on.
    pub(super) fn stream(&mut self) -> Option<B> {
        self.streamed = true;
        self.body.take()
    }

    /// Puts back an empty body, so that the request can be sent again.
    pub(super) fn take_back(&mut self, body: B) {
        self.body = Some(body);
    }

    /// The part that an HTTP/1.1 connection is still sending.
    pub(super) const fn outgoing(&mut self) -> Option<&mut Outgoing<B>> {
        self.outgoing.as_mut()
    }

    /// Starts to send it over an HTTP/1.1 connection.
    pub(super) fn begin(&mut self, head: RequestHead) -> &mut Outgoing<B> {
        let begun = match self.outgoing.take().filter(Outgoing::is_unsent) {
            Some(mut unsent) => {
                unsent.restart(head);
                unsent
            }
            None => {
                let mut begun = Outgoing::new(head, self.body.take());
                if let Some(asked) = self.on_continue.take() {
                    begun.on_continue(asked);
                }
                begun
            }
        };
        self.outgoing.insert(begun)
    }
}
