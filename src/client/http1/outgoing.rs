//! A request that is being sent: its encoded head and its body.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use hyper::body::{Body, Frame};
use tokio::sync::Notify;

use crate::policy::headers::FieldSink;

/// Largest part of a body that is copied to the send buffer, in bytes. A longer part is sent without a copy, after the
/// buffer.
const COPIED: usize = 4 * 1024;
/// The body is polled while fewer bytes than this are queued.
const QUEUED: usize = 8 * 1024;
/// Largest capacity of a head buffer that is kept for the next request, in bytes.
const KEPT: usize = 16 * 1024;

thread_local! {
    /// The buffer in which heads are encoded. Most are sent immediately, so that one is enough.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How the end of a request body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// By its length; this many bytes are missing.
    Length(u64),
    /// By the last chunk.
    Chunked,
}

/// The encoded head of a request.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Vec<u8>,
    to_head: bool,
    encoding: Encoding,
    /// The trailer fields that the Trailer field announces.
    announced: Vec<HeaderName>,
}

impl RequestHead {
    /// Starts a head with its request line. The parts of `target` are written unchanged.
    pub fn new<'a>(method: &Method, target: impl IntoIterator<Item = &'a str>) -> Self {
        let mut bytes = BUFFER.take();
        bytes.extend_from_slice(method.as_str().as_bytes());
        bytes.push(b' ');
        target.into_iter().for_each(|piece| bytes.extend_from_slice(piece.as_bytes()));
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        Self { bytes, to_head: *method == Method::HEAD, encoding: Encoding::Length(0), announced: Vec::new() }
    }

    /// Adds all of `fields`.
    pub fn fields(&mut self, fields: &HeaderMap) {
        for (name, value) in fields {
            self.field(name, value);
        }
    }

    /// Sets the length of a body that has no Content-Length.
    pub fn announce_length(&mut self, length: u64) {
        self.field(&CONTENT_LENGTH, &length.into());
    }

    fn end(mut self) -> Self {
        self.bytes.extend_from_slice(b"\r\n");
        self
    }
}

impl FieldSink for RequestHead {
    /// Adds a field. Content-Length and Transfer-Encoding determine the encoding of the body.
    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        if *name == CONTENT_LENGTH {
            let digits = std::str::from_utf8(value.as_bytes()).ok();
            self.encoding = Encoding::Length(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0));
        } else if *name == TRANSFER_ENCODING {
            self.encoding = Encoding::Chunked;
        } else if *name == TRAILER {
            let names = value.as_bytes().split(|&byte| byte == b',');
            self.announced.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
        }
        self.bytes.extend_from_slice(name.as_str().as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// A request that is being sent. It can be sent over another connection as long as [nothing of it was
/// sent](Outgoing::is_unsent).
#[derive(Debug)]
pub struct Outgoing<B> {
    /// The encoded head, and following parts of the body.
    encoded: Vec<u8>,
    /// The number of sent bytes of `encoded`.
    sent: usize,
    /// The length of the head at the start of `encoded`, until something is sent.
    head: usize,
    /// A long part of the body, which follows `encoded`.
    part: Bytes,
    /// Whether `part` is followed by the end of a chunk.
    ends_chunk: bool,
    /// `None` after the end of the body.
    body: Option<B>,
    encoding: Encoding,
    any_sent: bool,
    to_head: bool,
    /// The trailer fields that are sent. Others are dropped, as most recipients do.
    announced: Vec<HeaderName>,
    /// Notified when the server sends 100 (Continue).
    on_continue: Option<Arc<Notify>>,
}

impl<B> Drop for Outgoing<B> {
    fn drop(&mut self) {
        recycle(&mut self.encoded);
    }
}

/// Keeps a buffer for the next head.
fn recycle(buffer: &mut Vec<u8>) {
    if (1..=KEPT).contains(&buffer.capacity()) {
        buffer.clear();
        BUFFER.set(std::mem::take(buffer));
    }
}

impl<B> Outgoing<B> {
    /// Whether nothing of it was sent, so that the server cannot have processed it.
    pub const fn is_unsent(&self) -> bool {
        !self.any_sent
    }

    /// Whether all of it was sent.
    pub const fn is_complete(&self) -> bool {
        self.body.is_none() && self.sent == self.encoded.len() && self.part.is_empty()
    }

    /// Whether it is a HEAD request, whose response has no body.
    pub const fn to_head(&self) -> bool {
        self.to_head
    }

    /// Notifies `notify` when the server sends 100 (Continue).
    pub fn on_continue(&mut self, notify: Arc<Notify>) {
        self.on_continue = Some(notify);
    }

    /// Handles 100 (Continue).
    pub(super) fn release(&self) {
        if let Some(notify) = &self.on_continue {
            notify.notify_one();
        }
    }

    /// The next bytes to send.
    pub(super) fn unsent(&self) -> &[u8] {
        match self.encoded.get(self.sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &self.part,
        }
    }

    /// Records that `length` bytes of [`Outgoing::unsent`] were sent.
    pub(super) fn advance(&mut self, length: usize) {
        self.any_sent = true;
        if self.sent < self.encoded.len() {
            self.sent += length;
            if self.sent == self.encoded.len() {
                self.encoded.clear();
                self.sent = 0;
            }
        } else {
            self.part.advance(length);
            if self.part.is_empty() {
                // An empty `Bytes` would still keep the allocation.
                self.part = Bytes::new();
                if std::mem::take(&mut self.ends_chunk) {
                    self.encoded.extend_from_slice(b"\r\n");
                }
            }
        }
    }

    /// Replaces the head of a request of which nothing was sent.
    pub fn restart(&mut self, head: RequestHead) {
        // The body encoding stays: it counts what was read from the body and follows the head.
        let RequestHead { bytes: mut encoded, to_head, .. } = head.end();
        let length = encoded.len();
        encoded.extend_from_slice(self.encoded.get(self.head..).unwrap_or_default());
        recycle(&mut std::mem::replace(&mut self.encoded, encoded));
        (self.head, self.to_head, self.sent) = (length, to_head, 0);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Outgoing<B> {
    /// A request with this head and this body.
    pub fn new(head: RequestHead, body: Option<B>) -> Self {
        let RequestHead { bytes: encoded, to_head, encoding, announced } = head.end();
        let body = body.filter(|body| !body.is_end_stream());
        Self {
            head: encoded.len(),
            encoded,
            sent: 0,
            part: Bytes::new(),
            ends_chunk: false,
            body,
            encoding,
            any_sent: false,
            to_head,
            announced,
            on_continue: None,
        }
    }

    /// Polls the body while little is queued.
    ///
    /// # Errors
    /// If the body fails, or does not match its Content-Length.
    pub(super) fn fill(&mut self, context: &mut Context<'_>) -> Result<(), ()> {
        while self.part.is_empty()
            && self.encoded.len() - self.sent < QUEUED
            && let Some(body) = &mut self.body
        {
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.encode(frame)?,
                Poll::Ready(Some(Err(_))) => return Err(()),
                Poll::Ready(None) => self.end(None)?,
                Poll::Pending => return Ok(()),
            }
            // The end of an unsent chunk precedes the last chunk.
            if self.part.is_empty() || !self.ends_chunk {
                self.end_if_over()?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, frame: Frame<Bytes>) -> Result<(), ()> {
        let data = match frame.into_data() {
            Ok(data) => data,
            // Trailers end the body.
            Err(frame) => return self.end(frame.into_trailers().ok().as_ref()),
        };
        if data.is_empty() {
            // An empty chunk would mark the end.
            return Ok(());
        }
        let is_chunked = match &mut self.encoding {
            Encoding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(())?;
                false
            }
            Encoding::Chunked => {
                push_hex(&mut self.encoded, data.len());
                self.encoded.extend_from_slice(b"\r\n");
                true
            }
        };
        if data.len() <= COPIED {
            self.encoded.extend_from_slice(&data);
            if is_chunked {
                self.encoded.extend_from_slice(b"\r\n");
            }
        } else {
            (self.part, self.ends_chunk) = (data, is_chunked);
        }
        Ok(())
    }

    /// Ends the body without polling it, if it knows that it has ended: its last part and the last chunk are sent
    /// together.
    fn end_if_over(&mut self) -> Result<(), ()> {
        if self.body.as_ref().is_some_and(|body| body.is_end_stream()) { self.end(None) } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), ()> {
        self.body = None;
        match self.encoding {
            Encoding::Length(0) => Ok(()),
            Encoding::Length(_) => Err(()),
            Encoding::Chunked => {
                self.encoded.extend_from_slice(b"0\r\n");
                let trailers = trailers.into_iter().flatten();
                for (name, value) in trailers.filter(|(name, _)| self.announced.contains(name)) {
                    self.encoded.extend_from_slice(name.as_str().as_bytes());
                    self.encoded.extend_from_slice(b": ");
                    self.encoded.extend_from_slice(value.as_bytes());
                    self.encoded.extend_from_slice(b"\r\n");
                }
                self.encoded.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// Appends a chunk size.
fn push_hex(bytes: &mut Vec<u8>, number: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        bytes.push(DIGITS[number >> (4 * place) & 0xf]);
    }
}
