//! HTTP/1.1 to an upstream server (RFC 9112), without tasks and channels.
//!
//! A [`Connection`] carries one exchange at a time. Its caller polls its functions for the response: they send what the
//! socket accepts of the request, and then read. An idle connection has no buffer: all connections of a thread read
//! through one. The request stays with its owner, as [`Outgoing`], so that it can be sent again over another connection
//! as long as that is allowed.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod decoder;
mod head;
mod malformed;
mod outgoing;
#[cfg(test)]
mod tests;

use decoder::{Decoded, Decoder};
pub use head::ResponseHead;
use head::end_of_head;
use malformed::MAX_INTERIM;
pub use malformed::{MAX_FIELDS, MAX_HEAD, Malformed};
pub use outgoing::{Outgoing, RequestHead};

/// Largest number of line end bytes before a status line.
const MAX_BLANK: u8 = 8;
/// The size of the thread's read buffer, in bytes: that of a TLS record. The server side takes two such pieces before
/// it waits for its client, so larger ones would let it buffer more.
const READ_BUFFER: usize = 16 * 1024;

thread_local! {
    /// Borrowed only while the socket is read, never while a request body is polled.
    static READ: RefCell<Box<[u8]>> = RefCell::default();
}

/// Why an exchange failed. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    /// The connection ended before the first byte of a response.
    #[error("the connection was closed before a response")]
    Closed,
    /// The connection failed before the first byte of a response.
    #[error("the connection failed before a response: {0}")]
    Unanswered(#[source] io::Error),
    /// The connection ended within a response.
    #[error("the connection was closed within a response")]
    Truncated,
    /// The connection failed within a response.
    #[error("the connection failed within a response: {0}")]
    Io(#[source] io::Error),
    /// The response is not HTTP/1.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The request body failed, or does not match its Content-Length.
    #[error("the request body was truncated")]
    RequestBody,
}

/// An HTTP/1.1 connection to a server.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    /// Received bytes that were not consumed; empty while the connection is idle.
    received: Bytes,
    /// The number of bytes of `received` that were searched for the end of a head.
    searched: usize,
    decoder: Decoder,
    /// The number of interim responses to the request.
    interim: u32,
    /// The number of line end bytes before the status line.
    blank: u8,
    /// Whether anything was received since the request started.
    answered: bool,
    /// Whether the connection can be reused after the last response.
    reusable: bool,
    /// Whether the socket accepts no more bytes. A response may have arrived before.
    send_failed: bool,
    needs_flush: bool,
    /// Largest read, in bytes; at most [`READ_BUFFER`].
    read_limit: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// An HTTP/1.1 connection over an unused stream.
    pub const fn new(stream: S) -> Self {
        Self {
            stream,
            received: Bytes::new(),
            searched: 0,
            decoder: Decoder::Done,
            interim: 0,
            blank: 0,
            answered: false,
            reusable: true,
            send_failed: false,
            needs_flush: false,
            read_limit: READ_BUFFER,
        }
    }

    /// The stream.
    pub const fn stream(&self) -> &S {
        &self.stream
    }

    /// Takes the stream of a connection that has switched protocols, and the bytes received after the head of the
    /// response.
    pub fn into_stream(self) -> (S, Bytes) {
        (self.stream, self.received)
    }

    /// Whether an idle connection can be used: it is open, and received nothing that no request asked for (RFC 9112
    /// section 9.2). Uses only what the runtime's reactor knows, so it costs no system call.
    pub fn is_idle(&mut self) -> bool {
        self.reusable && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether the connection can be reused after the response and `outgoing` have ended.
    pub fn is_reusable<B>(&self, outgoing: Option<&Outgoing<B>>) -> bool {
        self.may_be_reusable() && outgoing.is_none_or(Outgoing::is_complete)
    }

    /// Whether the connection can be reused once the rest of this request was sent.
    pub fn may_be_reusable(&self) -> bool {
        self.reusable && self.decoder.is_done() && self.received.is_empty() && !self.send_failed
    }

    /// Starts another exchange.
    pub fn begin(&mut self) {
        self.interim = 0;
        self.blank = 0;
        self.answered = false;
        self.reusable = false;
        self.read_limit = READ_BUFFER;
    }

    /// Limits further reads to `bytes` each, until the next exchange.
    pub fn limit_reads(&mut self, bytes: usize) {
        self.read_limit = bytes.min(READ_BUFFER);
    }

    /// The number of bytes that were read and not consumed.
    pub const fn read_ahead(&self) -> usize {
        self.received.len()
    }

    /// Sends what the socket accepts of `outgoing`, and waits for the head of the response. 100 (Continue) releases a
    /// body that waits for it; other interim responses are dropped.
    ///
    /// # Errors
    /// [`Http1Error`]. The connection cannot be used afterwards.
    pub fn poll_response<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing<B>,
    ) -> Poll<Result<ResponseHead, Http1Error>> {
        loop {
            self.send(context, outgoing)?;
            while let Some(head) = self.take_head(outgoing.to_head())? {
                if !head.is_interim() {
                    self.decoder = Decoder::new(head.framing);
                    // The bytes after a 101 are not HTTP.
                    self.reusable = head.reusable && head.status != StatusCode::SWITCHING_PROTOCOLS;
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(Malformed::ManyInterim.into()));
                }
                if head.status == StatusCode::CONTINUE {
                    outgoing.release();
                    self.send(context, outgoing)?;
                }
            }
            match ready!(self.poll_read(context)) {
                Ok(0) if self.answered => return Poll::Ready(Err(Http1Error::Truncated)),
                Ok(0) => return Poll::Ready(Err(Http1Error::Closed)),
                Ok(_) => self.answered = true,
                Err(error) if self.answered => return Poll::Ready(Err(Http1Error::Io(error))),
                Err(error) => return Poll::Ready(Err(Http1Error::Unanswered(error))),
            }
        }
    }

    /// The next part of the response body; also sends the rest of `outgoing`. `None` after the last part.
    ///
    /// # Errors
    /// [`Http1Error`]. The connection cannot be used afterwards.
    pub fn poll_frame<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        outgoing: Option<&mut Outgoing<B>>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        if let Some(outgoing) = outgoing {
            self.send(context, outgoing)?;
        }
        loop {
            match self.decoder.decode(&mut self.received).map_err(Http1Error::from)? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(fields) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Decoded::End => return Poll::Ready(None),
                Decoded::Incomplete => {}
            }
            match ready!(self.poll_read(context)) {
                Ok(0) if matches!(self.decoder, Decoder::UntilClose) => {
                    self.decoder = Decoder::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Http1Error::Truncated))),
                Ok(_) => {}
                // Over TLS this includes an end without close_notify, with which an attacker could truncate the body.
                Err(error) => return Poll::Ready(Some(Err(Http1Error::Io(error)))),
            }
        }
    }

    /// Whether the response body has ended.
    pub const fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    /// The number of missing bytes of the response body, if known.
    pub const fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// Sends the rest of `outgoing` after the response has ended.
    ///
    /// # Errors
    /// If the rest cannot be sent.
    pub fn poll_finish<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing<B>,
    ) -> Poll<Result<(), Http1Error>> {
        self.send(context, outgoing)?;
        if self.send_failed {
            return Poll::Ready(Err(Http1Error::Closed));
        }
        if outgoing.is_complete() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends what the socket accepts of `outgoing`. A socket that accepts nothing more is not an error yet: the server
    /// may have responded before it closed.
    ///
    /// # Errors
    /// If the body fails.
    pub fn send<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing<B>,
    ) -> Result<(), Http1Error> {
        if self.send_failed || (outgoing.is_complete() && !self.needs_flush) {
            return Ok(());
        }
        loop {
            outgoing.fill(context).map_err(|()| Http1Error::RequestBody)?;
            let unsent = outgoing.unsent();
            if unsent.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(context, unsent) {
                Poll::Ready(Ok(sent @ 1..)) => {
                    outgoing.advance(sent);
                    self.needs_flush = true;
                }
                Poll::Ready(_) => {
                    self.send_failed = true;
                    return Ok(());
                }
                Poll::Pending => break,
            }
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(_)) => self.send_failed = true,
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// The next head, if it is complete.
    fn take_head(&mut self, to_head: bool) -> Result<Option<ResponseHead>, Malformed> {
        // Some servers send a superfluous empty line after a response without a body.
        while let Some(b'\r' | b'\n') = self.received.first()
            && self.blank < MAX_BLANK
        {
            self.received.advance(1);
            self.blank += 1;
        }
        match self.received.first() {
            None => return Ok(None),
            Some(b'H') => {}
            Some(_) => return Err(Malformed::NoStatusLine),
        }
        let Some(end) = end_of_head(&self.received, self.searched) else {
            self.searched = self.received.len();
            return if self.searched > MAX_HEAD { Err(Malformed::LongHead) } else { Ok(None) };
        };
        self.searched = 0;
        if end > MAX_HEAD {
            return Err(Malformed::LongHead);
        }
        let head = self.received.split_to(end);
        head::parse(&head, to_head).map(Some)
    }

    /// Reads once and appends to `received`. Returns the number of bytes; 0 at the end of the connection.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                *scratch = vec![0; READ_BUFFER].into_boxed_slice();
            }
            let mut buffer = ReadBuf::new(scratch.get_mut(..self.read_limit).unwrap_or_default());
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let filled = buffer.filled();
            if self.received.is_empty() {
                self.received = Bytes::copy_from_slice(filled);
            } else {
                let held = std::mem::take(&mut self.received);
                let mut longer = held.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
                longer.extend_from_slice(filled);
                self.received = longer.freeze();
            }
            Poll::Ready(Ok(filled.len()))
        })
    }
}
