//! A leased connection, or a stream of one, for one request.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::Response;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

use super::{ConnectionPermit, ConnectionUser, ExchangeGuard, OpenGuard, Pool, TunnelPlace};
use crate::client::call::{Call, RequestSource};
use crate::client::connect::ClientStream;
use crate::client::error::{CollectError, ExchangeError};
use crate::client::http1;
use crate::client::http2::{self, Http2};
use crate::client::response_stream;

/// An HTTP/1.1 connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) http1: http1::Connection<ClientStream>,
    pub(super) address: Option<IpAddr>,
    /// How long the server keeps it idle, if announced.
    pub(super) idle_timeout: Option<Duration>,
    /// Its slots in the count of open connections and in the limit.
    pub(super) counted: (OpenGuard, Option<ConnectionPermit>),
}

/// A request on an HTTP/2 connection. Its slot is free when it and the task that sends its body have ended.
pub(in crate::client) struct Slot {
    connection: Rc<Http2>,
    pool: Rc<Pool>,
}

impl Slot {
    pub(super) fn new(connection: Rc<Http2>, pool: &Rc<Pool>) -> Rc<Self> {
        connection.enter();
        Rc::new(Self { connection, pool: Rc::clone(pool) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let now = Instant::now();
        self.connection.leave(now);
        if self.pool.should_yield(now) {
            self.connection.retire();
        }
        if self.connection.retired()
            && let Some(http2_pool) = &self.pool.http2
        {
            http2_pool.connections.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, &self.connection));
        }
        self.pool.offer_streams(now);
    }
}

pub(super) enum Leased {
    Http1(Box<Connection>),
    Http2(Stream),
}

/// A stream of a connection. Dropping it early resets it.
pub(super) struct Stream {
    slot: Rc<Slot>,
    /// The task that sends the request body.
    upload: Option<JoinHandle<()>>,
    /// The response body, once its head was received.
    received: Option<Box<response_stream::ResponseStream>>,
}

impl Stream {
    pub(super) const fn new(slot: Rc<Slot>) -> Self {
        Self { slot, upload: None, received: None }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// A connection, or a stream of one, for one request and then the body of its response.
///
/// Dropping it closes it; [`Lease::give_back`] returns it to the pool.
pub struct Lease {
    /// Counts as a connection of its user, if the pool has a bound. Dropped first, so that the request which gets the
    /// connection sees the new number.
    exchange: Option<ExchangeGuard>,
    leased: Leased,
    pool: Rc<Pool>,
    is_last: bool,
    /// Whether another request has returned it.
    is_kept: bool,
    /// The place of the tunnel that it may become.
    tunnel: Option<TunnelPlace>,
}

impl Lease {
    pub(super) fn new(leased: Leased, pool: &Rc<Pool>) -> Self {
        Self { leased, pool: Rc::clone(pool), is_last: false, is_kept: false, exchange: None, tunnel: None }
    }

    /// Counts it as a connection of `user`.
    pub(super) fn begin_exchange(&mut self, user: ConnectionUser<'_>, now: Instant) {
        self.exchange = Some(ExchangeGuard::new(&self.pool.exchanges, user, now));
    }

    /// Like [`begin_exchange`](Self::begin_exchange), for a connection that another request has returned.
    pub(super) fn for_user(mut self, user: Option<ConnectionUser<'_>>) -> Self {
        self.is_kept = true;
        if let Some(user) = user {
            self.begin_exchange(user, Instant::now());
        }
        self
    }

    /// Whether another request has returned it, so that its server may have closed it.
    pub const fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Keeps the place of a tunnel for as long as the connection is in use.
    pub fn set_tunnel(&mut self, place: Option<TunnelPlace>) {
        self.tunnel = place;
    }

    /// The remote address; `None` for a Unix socket.
    pub fn remote_address(&self) -> Option<IpAddr> {
        match &self.leased {
            Leased::Http1(connection) => connection.address,
            Leased::Http2(stream) => stream.slot.connection.remote_address(),
        }
    }

    /// Sends `request`, with the body of `call`, and waits for the head of the response. The body may still be
    /// incomplete then: [`Lease::poll_frame`] continues to send it.
    ///
    /// # Errors
    /// [`ExchangeError`]; [`Call::may_repeat`] says whether the request may be sent again, over another connection.
    pub async fn send<B>(
        &mut self,
        request: &impl RequestSource,
        call: &mut Call<B>,
    ) -> Result<Response<()>, ExchangeError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        match &mut self.leased {
            Leased::Http1(connection) => {
                let reader = call.reader();
                let outgoing = call.begin(request.http1());
                connection.http1.begin();
                let response = poll_fn(|context| {
                    if let Some(stream) = &reader {
                        connection.http1.limit_reads(stream.response_read_room());
                    }
                    connection.http1.poll_response(context, outgoing)
                });
                let head = response.await?;
                if let Some(stream) = &reader {
                    stream.set_read_ahead(connection.http1.read_ahead());
                }
                connection.idle_timeout = head.idle_timeout.or(connection.idle_timeout);
                Ok(head.into_response())
            }
            // Boxed because it would enlarge the future of every request.
            Leased::Http2(Stream { slot, upload, received }) => {
                let sent = http2::send(&slot.connection, Rc::clone(slot), upload, request, call);
                let (response, body) = Box::pin(sent).await?.into_parts();
                *received = Some(body);
                Ok(Response::from_parts(response, ()))
            }
        }
    }

    /// The next part of the response body; also sends the rest of the request. `None` after the last part.
    pub fn poll_frame<B>(
        &mut self,
        context: &mut Context<'_>,
        call: Option<&mut Call<B>>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match &mut self.leased {
            Leased::Http1(connection) => {
                let frame = ready!(connection.http1.poll_frame(context, call.and_then(Call::outgoing)));
                Poll::Ready(frame.map(|frame| frame.map_err(ExchangeError::Http1)))
            }
            Leased::Http2(Stream { received: Some(received), .. }) => received.poll_frame(context),
            Leased::Http2(_) => Poll::Ready(None),
        }
    }

    /// Sends what the connection accepts of the rest of the request, without reading.
    ///
    /// # Errors
    /// [`ExchangeError`]. The connection cannot be used afterwards.
    pub fn send_rest<B>(
        &mut self,
        context: &mut Context<'_>,
        call: Option<&mut Call<B>>,
    ) -> Result<(), ExchangeError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match (&mut self.leased, call.and_then(Call::outgoing)) {
            (Leased::Http1(connection), Some(outgoing)) => {
                connection.http1.send(context, outgoing).map_err(ExchangeError::Http1)
            }
            // Over HTTP/2, a task sends it.
            (Leased::Http1(_) | Leased::Http2(_), _) => Ok(()),
        }
    }

    /// Limits further reads to `bytes` each, over HTTP/1.1. HTTP/2 has its window.
    pub fn limit_reads(&mut self, bytes: usize) {
        if let Leased::Http1(connection) = &mut self.leased {
            connection.http1.limit_reads(bytes);
        }
    }

    /// The number of bytes that were read and not yet returned by [`Lease::poll_frame`], over HTTP/1.1.
    pub fn read_ahead(&self) -> usize {
        match &self.leased {
            Leased::Http1(connection) => connection.http1.read_ahead(),
            Leased::Http2(_) => 0,
        }
    }

    /// Whether the response body has ended.
    pub fn is_end_stream(&self) -> bool {
        match &self.leased {
            Leased::Http1(connection) => connection.http1.is_end_stream(),
            Leased::Http2(stream) => stream.received.as_ref().is_none_or(|body| body.is_end_stream()),
        }
    }

    /// The size of the rest of the response body.
    pub fn size_hint(&self) -> SizeHint {
        match &self.leased {
            Leased::Http1(connection) => {
                connection.http1.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Leased::Http2(stream) => {
                stream.received.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
            }
        }
    }

    /// Reads the whole response body, of at most `most` bytes, and returns the connection to the pool.
    ///
    /// # Errors
    /// If the body is longer, or truncated.
    pub async fn collect<B>(mut self, mut call: Call<B>, most: usize) -> Result<Vec<u8>, CollectError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let mut whole = Vec::new();
        while let Some(frame) = poll_fn(|context| self.poll_frame(context, Some(&mut call))).await {
            let Ok(data) = frame?.into_data() else { continue };
            if whole.len() + data.len() > most {
                return Err(CollectError::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
        self.give_back(Some(Box::new(call)), Instant::now());
        Ok(whole)
    }

    /// Whether the server has already closed an idle connection, which the runtime may not know yet. Costs a system
    /// call, for requests that must not be repeated.
    pub fn has_ended(&self) -> bool {
        match &self.leased {
            Leased::Http1(connection) => connection.http1.stream().has_input(),
            Leased::Http2(_) => false,
        }
    }

    /// Whether it is a stream of a shared connection.
    pub const fn is_stream(&self) -> bool {
        matches!(self.leased, Leased::Http2(_))
    }

    /// Closes the connection after this request.
    pub const fn close_afterwards(&mut self) {
        self.is_last = true;
    }

    /// Returns an unused connection to the pool.
    pub(super) fn keep_unused(self) {
        if let Leased::Http1(connection) = self.leased {
            self.pool.keep(connection, Instant::now());
        }
    }

    /// Takes over a connection that has switched protocols; `None` for a stream.
    pub fn into_upgraded(self) -> Option<Upgraded> {
        let Self { leased: Leased::Http1(connection), exchange, tunnel, .. } = self else { return None };
        let Connection { http1, counted, .. } = *connection;
        let (stream, early) = http1.into_stream();
        if let Some(exchange) = &exchange {
            exchange.detach();
        }
        Some(Upgraded { stream, early, _counted: counted, _exchange: exchange, _tunnel: tunnel })
    }

    /// Returns the connection to the pool once its request has ended: the response has ended, and `call` may take the
    /// idle timeout to finish.
    pub fn give_back<B>(self, mut call: Option<Box<Call<B>>>, now: Instant)
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let Self { leased, pool, is_last, exchange, .. } = self;
        let mut connection = match leased {
            Leased::Http1(connection) => connection,
            Leased::Http2(stream) => return stream.end(&pool, is_last, exchange),
        };
        if is_last || !connection.http1.may_be_reusable() {
            return;
        }
        if call.as_ref().is_none_or(|call| call.is_complete()) {
            drop(exchange);
            pool.keep(connection, now);
            return;
        }
        if let Some(exchange) = &exchange {
            exchange.detach();
        }
        tokio::task::spawn_local(async move {
            let Some(outgoing) = call.as_deref_mut().and_then(Call::outgoing) else { return };
            let finished = poll_fn(|context| connection.http1.poll_finish(context, outgoing));
            if let Some(Ok(())) = pool.finish(finished).await
                && connection.http1.is_reusable(Some(outgoing))
            {
                drop(exchange);
                pool.keep(connection, Instant::now());
            }
        });
    }
}

impl Stream {
    /// Ends a stream whose response is complete. The rest of the request body may be sent, unless it `is_last`.
    fn end(mut self, pool: &Rc<Pool>, is_last: bool, exchange: Option<ExchangeGuard>) {
        if is_last || self.upload.as_ref().is_none_or(JoinHandle::is_finished) {
            // Before the stream, whose slot then goes to the next request.
            drop(exchange);
            return;
        }
        if let Some(exchange) = &exchange {
            exchange.detach();
        }
        let pool = Rc::clone(pool);
        tokio::task::spawn_local(async move {
            let _exchange = exchange;
            if let Some(upload) = &mut self.upload {
                let _ = pool.finish(upload).await;
            }
        });
    }
}

/// A connection that has switched protocols (RFC 9110 section 7.8). It counts as open until it is dropped.
pub struct Upgraded {
    stream: ClientStream,
    /// Bytes received after the head of the response.
    early: Bytes,
    // Dropped before the permit, so that the next request sees the caller's new number.
    _exchange: Option<ExchangeGuard>,
    _tunnel: Option<TunnelPlace>,
    _counted: (OpenGuard, Option<ConnectionPermit>),
}

impl AsyncRead for Upgraded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let length = this.early.len().min(buffer.remaining());
        buffer.put_slice(&this.early[..length]);
        this.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
