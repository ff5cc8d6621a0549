//! A client connection on which hyper sees only messages that every parser reads in the same way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::{Zeroize, Zeroizing};

use super::transport::{ClientEnd, RecordedIo};
use crate::downstream::state::Shutdown;
use crate::policy::framing::{self, Bounds, FramingFault, Scanner};
use crate::policy::refusal::Refusal;

/// Largest number of bytes kept until their meaning is known, in addition to one read.
const MAX_BUFFER: usize = 16 * 1024;

/// A transport whose bytes the scanner has checked. A head that is refused never reaches the reader: for it the
/// connection ends after the previous message, and [`ScannedIo::refused`] has the reason.
pub(super) struct ScannedIo {
    recorded: RecordedIo,
    scanner: Scanner,
    /// Bytes of a head that is incomplete, unread or refused, or bytes that arrived too early. They may contain a
    /// token.
    buffered: Zeroizing<Vec<u8>>,
    /// The number of them that may be read.
    clear: usize,
    fault: Option<FramingFault>,
    /// Whether the reader saw an end before the refused message. If not, hyper closed the connection itself, and no
    /// further response may follow.
    ended: bool,
}

/// The error of reading a malformed body.
#[derive(Debug, thiserror::Error)]
#[error("malformed body: {0}")]
struct MalformedBody(&'static str);

impl ScannedIo {
    pub(super) fn new(recorded: RecordedIo, bounds: Bounds) -> Self {
        let scanner = Scanner::new(bounds);
        Self { recorded, scanner, buffered: Zeroizing::default(), clear: 0, fault: None, ended: false }
    }

    /// Why the message after the last one that was read is refused, if it is.
    pub(super) fn refused(&self) -> Option<Refusal> {
        match &self.fault {
            Some(FramingFault::Head(refusal)) if self.ended => Some(refusal.clone()),
            Some(FramingFault::Head(_) | FramingFault::Body(_)) | None => None,
        }
    }

    /// The method of the refused or incomplete message, if it is known.
    pub(super) fn method(&self) -> Option<Method> {
        let unread = self.buffered.get(self.clear..).unwrap_or_default();
        framing::method(unread).and_then(|method| Method::from_bytes(method).ok())
    }

    /// Closes the connection so that its client detects the truncated response. In HTTP/1.1 the framing shows it, in
    /// TLS the missing alert; HTTP/1.0 without TLS needs a reset.
    pub(super) fn break_off(self) {
        if self.scanner.is_http_1_0() {
            self.recorded.transport.reset();
        }
    }

    /// Whether a message whose head was forwarded is being served.
    fn is_serving(&self) -> bool {
        self.recorded.downstream.state.requests_served() < self.scanner.messages()
    }

    /// Whether a body is incomplete.
    pub(super) const fn is_mid_body(&self) -> bool {
        self.scanner.is_mid_body()
    }

    /// Whether the last message that was read may have switched the protocol.
    pub(super) const fn may_switch(&self) -> bool {
        self.scanner.awaits()
    }

    /// The transport, and the bytes received after the last message.
    pub(super) fn into_parts(self) -> (RecordedIo, Zeroizing<Vec<u8>>) {
        (self.recorded, self.buffered)
    }

    /// The transport, for a response after its reader has ended.
    pub(super) fn into_transport(self) -> RecordedIo {
        self.recorded
    }

    /// Checks whether the client has ended its side. A client may do so after its last request and still wait for the
    /// response.
    fn check_client_end(&mut self, context: &mut Context<'_>) {
        if !self.is_serving() {
            return;
        }
        let mid_body = self.is_mid_body();
        let end = self.recorded.transport.client_end(context, mid_body);
        let state = &self.recorded.downstream.state;
        match end {
            ClientEnd::Finished if !mid_body => state.note_client_end(Instant::now),
            // The reader of an incomplete body reports it.
            ClientEnd::Open | ClientEnd::Finished => {}
            ClientEnd::Gone => state.request_shutdown(Shutdown::Immediate),
        }
    }

    /// Makes the readable part of the new bytes in `buffer`, which follow the first `before`, available to the reader.
    fn scan_in_place(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let received = &buffer.filled()[before..];
        if self.buffered.is_empty() {
            let framing::Scan { clear, fault } = self.scanner.scan(received);
            append_buffered(&mut self.buffered, &received[clear..]);
            buffer.set_filled(before + clear);
            self.fault = fault;
        } else {
            append_buffered(&mut self.buffered, received);
            buffer.set_filled(before);
            self.scan_buffered();
        }
        self.note_head();
    }

    fn scan_buffered(&mut self) {
        let framing::Scan { clear, fault } = self.scanner.scan(&self.buffered);
        self.clear = clear;
        self.fault = fault;
    }

    fn note_head(&mut self) {
        if self.scanner.is_over() {
            self.buffered.truncate(self.clear);
        }
        self.recorded
            .downstream
            .state
            .set_head_begun(self.buffered.len() > self.clear && self.fault.is_none());
    }

    /// Copies kept bytes that may be read.
    fn read_buffered(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.clear.min(buffer.remaining());
        buffer.put_slice(&self.buffered[..length]);
        self.buffered.drain(..length);
        self.clear -= length;
        if self.buffered.is_empty() {
            self.buffered.zeroize();
        }
    }
}

/// Appends to the kept bytes. If they need more space they are copied here, since a growing vector would leave a copy
/// in memory.
fn append_buffered(buffered: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    if buffered.capacity() - buffered.len() < bytes.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * (buffered.len() + bytes.len())));
        larger.extend_from_slice(buffered);
        *buffered = larger;
    }
    buffered.extend_from_slice(bytes);
}

impl AsyncRead for ScannedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.clear > 0 {
                this.read_buffered(buffer);
                return Poll::Ready(Ok(()));
            }
            match &this.fault {
                None if !this.scanner.awaits() => {}
                // The bytes after the message do not belong to another protocol.
                None if !this.is_serving() => {
                    this.scanner.go_on();
                    this.scan_buffered();
                    this.note_head();
                    continue;
                }
                None => {
                    this.recorded.downstream.state.wake_when_served();
                    if this.buffered.len() >= MAX_BUFFER {
                        return Poll::Pending;
                    }
                }
                Some(FramingFault::Body(why)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, MalformedBody(why))));
                }
                // An end now would abort the response to the current request.
                Some(FramingFault::Head(_)) if this.is_serving() => {
                    this.recorded.downstream.state.wake_when_served();
                    return Poll::Pending;
                }
                Some(FramingFault::Head(_)) => {
                    this.ended = true;
                    return Poll::Ready(Ok(()));
                }
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.recorded).poll_read(context, buffer))?;
            if buffer.filled().len() == before {
                if this.is_serving() && !this.is_mid_body() {
                    // Likewise: a client may end its side after its last request and wait for the response.
                    let state = &this.recorded.downstream.state;
                    state.note_client_end(Instant::now);
                    state.wake_when_served();
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            }
            this.recorded.downstream.state.received(Instant::now);
            this.scan_in_place(buffer, before);
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for ScannedIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().recorded).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().recorded).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.recorded.is_write_vectored()
    }

    /// hyper calls this whenever the connection's task is polled, even if there is nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.recorded.downstream.state.watches_end() {
            this.check_client_end(context);
        }
        Pin::new(&mut this.recorded).poll_flush(context)
    }

    /// Keeps the connection open if the gateway still has to send a response.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused().is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.recorded).poll_shutdown(context)
    }
}
