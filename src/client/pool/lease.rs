//! What a pool lends: a connection, or a stream of one, for one request.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Body;
use hyper::client::conn::http1::SendRequest;
use tokio::task::{AbortHandle, JoinHandle};

use super::Pool;
use crate::client::fault::{ExchangeError, SendError};
use crate::client::http2::{self, Http2};
use crate::client::received::Received;

/// One connection; closed at once when it is dropped.
pub(super) struct Connection<B> {
    pub(super) sender: SendRequest<B>,
    pub(super) peer: Option<IpAddr>,
    pub(super) task: AbortHandle,
    /// Whether it goes on when hyper is done with it: as a tunnel.
    pub(super) may_switch: Rc<Cell<bool>>,
}

impl<B> Drop for Connection<B> {
    /// Letting go of the sender is not enough: hyper keeps a connection, and with it the client's, for as
    /// long as the other side takes nothing of a request's body.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that goes, or may go, over a connection of HTTP/2. Its place is free again when it and the task that sends
/// its body have ended.
pub(in crate::client) struct Slot<B> {
    connection: Rc<Http2>,
    pool: Rc<Pool<B>>,
}

impl<B> Slot<B> {
    pub(super) fn new(connection: Rc<Http2>, pool: &Rc<Pool<B>>) -> Rc<Self> {
        connection.enter();
        Rc::new(Self { connection, pool: Rc::clone(pool) })
    }
}

impl<B> Drop for Slot<B> {
    fn drop(&mut self) {
        let now = Instant::now();
        self.connection.leave(now);
        if self.pool.yields(now) {
            self.connection.retire();
        }
        if self.connection.retired()
            && let Some(shared) = &self.pool.http2
        {
            shared.connections.borrow_mut().retain(|kept| !Rc::ptr_eq(kept, &self.connection));
        }
        if self.pool.waiting.get() > 0 {
            self.pool.returned.notify_one();
        }
    }
}

pub(super) enum Leased<B> {
    Http1(Connection<B>),
    Http2(Stream<B>),
}

/// A stream of a connection: reset when it is dropped before its end.
pub(super) struct Stream<B> {
    pub(super) slot: Rc<Slot<B>>,
    /// Sends the request's body.
    pub(super) upload: Option<JoinHandle<()>>,
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// A connection that is ready for one request, or a stream of one.
///
/// Dropping it closes it; [`Lease::give_back`] keeps it.
pub struct Lease<B> {
    pub(super) leased: Leased<B>,
    pub(super) pool: Rc<Pool<B>>,
    pub(super) since: Option<Instant>,
    pub(super) is_last: bool,
}

impl<B> Lease<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// How long the connection waited for this request. Zero where it is new.
    pub fn waited(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The address at the other end; `None` for a Unix socket.
    pub fn peer(&self) -> Option<IpAddr> {
        match &self.leased {
            Leased::Http1(connection) => connection.peer,
            Leased::Http2(stream) => stream.slot.connection.peer(),
        }
    }

    /// Sends `request`, and waits for the head of the answer.
    ///
    /// # Errors
    /// Hands the request back where not a byte of it was sent, or where the other side says that it did nothing
    /// about it and it has no body.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Received>, SendError<B>> {
        match &mut self.leased {
            Leased::Http1(connection) => match connection.sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(Received::Http1)),
                Err(mut error) => {
                    let unsent = error.take_message();
                    Err(SendError { unsent, cause: ExchangeError::Http1(error.into_error()) })
                }
            },
            // Boxed: it would make the future of every request larger.
            Leased::Http2(Stream { slot, upload }) => {
                Box::pin(http2::send(&slot.connection, Rc::clone(slot), upload, request)).await
            }
        }
    }

    /// Has the connection count until it is dropped, although hyper may be done with it before: its next request may
    /// make a tunnel of it.
    pub fn may_switch(&self) {
        if let Leased::Http1(connection) = &self.leased {
            connection.may_switch.set(true);
        }
    }

    /// Whether it is one of several streams of its connection.
    pub const fn is_stream(&self) -> bool {
        matches!(self.leased, Leased::Http2(_))
    }

    /// Makes this request the connection's last: it is not kept.
    pub const fn close_afterwards(&mut self) {
        self.is_last = true;
    }

    /// Keeps a connection that is still to carry its first request.
    pub(super) async fn keep_unused(self) {
        if let Leased::Http1(mut connection) = self.leased
            && connection.sender.ready().await.is_ok()
        {
            self.pool.keep(connection);
        }
    }

    /// Keeps the connection for another request, as soon as it has finished with this one.
    pub fn give_back(self) {
        let Self { leased, pool, is_last, .. } = self;
        let mut connection = match leased {
            Leased::Http1(connection) => connection,
            Leased::Http2(stream) => return stream.end(pool.idle_timeout, is_last),
        };
        if is_last || connection.sender.is_closed() {
            return;
        }
        connection.may_switch.set(false);
        if connection.sender.is_ready() {
            pool.keep(connection);
            return;
        }
        // The answer came before the request's body was at its end, or hyper has yet to notice that both are.
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = tokio::time::timeout(pool.idle_timeout, connection.sender.ready()).await {
                pool.keep(connection);
            }
        });
    }
}

impl<B: 'static> Stream<B> {
    /// Ends it: the answer is complete. What is left of the request's body has `patience`, unless it `is_last`.
    fn end(mut self, patience: Duration, is_last: bool) {
        if is_last || self.upload.as_ref().is_none_or(JoinHandle::is_finished) {
            return;
        }
        tokio::task::spawn_local(async move {
            if let Some(upload) = &mut self.upload {
                let _ = tokio::time::timeout(patience, upload).await;
            }
        });
    }
}
