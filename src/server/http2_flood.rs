//! Limits the HTTP/2 frames that a client can send without effect, before h2 reads them.
//!
//! h2 bounds the memory that frames can use, and reads no further requests before responses are written. It does not
//! bound the number of other frames: a client can send pings, settings, priorities, window updates and resets as fast
//! as the network allows. Each of these frames therefore has a cost, and the client's budget grows with time and with
//! the responses that it gets.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2_limits::{ConnectionLimits, RESET_COST};
use super::small_data::SmallData;
use super::transport::RecordedIo;
use crate::policy::refusal::Refusal;

/// The budget gained per second.
const BUDGET_PER_SECOND: u32 = 100;
/// The budget gained per response.
const BUDGET_PER_RESPONSE: u32 = 10;
/// The budget gained per piece of a response: two window updates, of stream and connection, for each started 2 KiB.
const fn budget_per_piece(length: u32) -> u32 {
    2 + length / 1024
}

/// Free space that is required to read directly into h2's buffer, in bytes.
const MIN_DIRECT_READ: usize = 256;

/// RFC 9113 section 3.4.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 section 6.
const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
/// Flag of DATA and HEADERS.
const END_STREAM: u8 = 1;
/// Flag of SETTINGS.
const ACK: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub(super) const END_HEADERS: u8 = 4;
/// RFC 9113 section 7.
pub(super) const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The fields of a frame header (RFC 9113 section 4.1) that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

/// The kind of a piece of the byte stream.
pub(super) enum FramePart {
    /// Part of a frame header, or skipped bytes before the first one.
    Other,
    /// The end of a frame header.
    Header(Frame),
    /// Part of a frame payload.
    Payload,
}

/// Finds the frames in a byte stream that arrives in arbitrary pieces.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; 9],
    /// The number of received bytes of the header.
    received: usize,
    /// The number of bytes before the next header.
    left: u32,
    /// The current frame.
    frame: Option<Frame>,
}

impl Frames {
    /// A stream of frames after `skipped` other bytes.
    pub(super) const fn after(skipped: u32) -> Self {
        Self { header: [0; 9], received: 0, left: skipped, frame: None }
    }

    /// Consumes the first piece of non-empty `bytes`. Returns its length and kind.
    pub(super) fn step(&mut self, bytes: &[u8]) -> (usize, FramePart) {
        if self.left > 0 {
            let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            // At most `left`.
            self.left -= length as u32;
            return (length, if self.frame.is_some() { FramePart::Payload } else { FramePart::Other });
        }
        let length = bytes.len().min(9 - self.received);
        self.header[self.received..self.received + length].copy_from_slice(&bytes[..length]);
        self.received += length;
        if self.received < 9 {
            return (length, FramePart::Other);
        }
        let [long, middle, short, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        let frame = Frame { length: u32::from_be_bytes([0, long, middle, short]), kind, flags, stream };
        self.frame = Some(frame);
        self.left = frame.length;
        self.received = 0;
        (length, FramePart::Header(frame))
    }

    /// Consumes bytes, and calls `each` for every complete frame header.
    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let (length, part) = self.step(bytes);
            if let FramePart::Header(frame) = part {
                each(frame);
            }
            bytes = &bytes[length..];
        }
    }

    /// Whether a frame may begin here.
    pub(super) const fn is_between(&self) -> bool {
        self.left == 0 && self.received == 0
    }
}

/// The remaining budget of a client.
#[derive(Debug)]
struct FrameBudget {
    left: u32,
    max: u32,
    /// The budget gained per request.
    per_request: u32,
    filled: Instant,
}

impl FrameBudget {
    const fn new(limits: &ConnectionLimits, now: Instant) -> Self {
        let ConnectionLimits { budget, budget_per_request, .. } = *limits;
        Self { left: budget, max: budget, per_request: budget_per_request, filled: now }
    }

    fn add(&mut self, worth: u32) {
        self.left = (self.left + worth).min(self.max);
    }

    /// Spends `cost`. Returns whether the budget suffices. Reads the clock only if it is used up.
    fn spend(&mut self, cost: u32, now: impl FnOnce() -> Instant) -> bool {
        if self.left < cost {
            let now = now();
            let waited = now.saturating_duration_since(self.filled).min(Duration::from_secs(60));
            let earned = waited.as_millis() * u128::from(BUDGET_PER_SECOND) / 1000;
            if earned > 0 {
                self.filled = now;
                self.add(u32::try_from(earned).unwrap_or(self.max));
            }
        }
        let enough = self.left >= cost;
        self.left = self.left.saturating_sub(cost);
        enough
    }
}

/// Why no further frame is read. h2 reports all other errors to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameFault {
    #[error("HTTP/2 without initial SETTINGS")]
    NotSettings,
    #[error("too many HTTP/2 frames without effect")]
    Flood,
    #[error("malformed HTTP/2 header block")]
    HeaderBlock,
}

impl FrameFault {
    /// The error code for GOAWAY.
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::NotSettings => PROTOCOL_ERROR,
            Self::Flood => ENHANCE_YOUR_CALM,
            Self::HeaderBlock => COMPRESSION_ERROR,
        }
    }

    /// The refusal for the log.
    pub(super) const fn refusal(self) -> Refusal {
        Refusal::BadRequest(match self {
            Self::NotSettings => "HTTP/2 without initial SETTINGS",
            Self::Flood => "too many HTTP/2 frames without effect",
            Self::HeaderBlock => "malformed HTTP/2 header block",
        })
    }
}

/// The state of a connection that h2 has dropped.
pub(super) struct ReturnedTransport {
    pub(super) recorded: RecordedIo,
    /// The fault of its frames, if that ended it.
    pub(super) fault: Option<FrameFault>,
    /// Whether the written bytes end at a frame boundary.
    pub(super) is_between: bool,
}

/// The place for the state of a dropped [`FrameLimitedIo`].
pub(super) type ReturnSlot = Rc<Cell<Option<ReturnedTransport>>>;

/// A transport that counts frames.
pub(super) struct FrameLimitedIo {
    /// `None` after it has been returned.
    recorded: Option<RecordedIo>,
    fault: Option<FrameFault>,
    received: Frames,
    /// Whether the client's first frame, its SETTINGS, is complete.
    settled: bool,
    /// Whether a HEADERS frame awaits its CONTINUATION frames.
    open: bool,
    sent: Frames,
    budget: FrameBudget,
    small: SmallData,
    returned: ReturnSlot,
}

impl FrameLimitedIo {
    /// A connection before its first read; `returned` gets its transport.
    pub(super) fn new(
        recorded: RecordedIo,
        limits: &ConnectionLimits,
        returned: ReturnSlot,
        now: Instant,
    ) -> Self {
        recorded.downstream.state.begin_http2(now);
        Self {
            recorded: Some(recorded),
            fault: None,
            received: Frames::after(PREFACE.len() as u32),
            settled: false,
            open: false,
            sent: Frames::after(0),
            budget: FrameBudget::new(limits, now),
            small: SmallData::after(PREFACE.len(), limits.streams as usize),
            returned,
        }
    }

    /// Counts received bytes.
    fn count(&mut self, bytes: &[u8]) {
        let Self { received, settled, open, budget, fault, .. } = self;
        let (mut is_first, mut completed) = (received.frame.is_none(), false);
        received.read(bytes, |frame| {
            let Frame { length, kind, flags, .. } = frame;
            let cost = match kind {
                HEADERS | CONTINUATION => {
                    *open = flags & END_HEADERS == 0;
                    completed |= !*open;
                    if kind == HEADERS {
                        budget.add(budget.per_request);
                    }
                    u32::from(kind == CONTINUATION)
                }
                DATA if length > 0 || flags & END_STREAM != 0 => 0,
                RST_STREAM => RESET_COST,
                _ => 1,
            };
            if std::mem::take(&mut is_first) && (kind != SETTINGS || flags & ACK != 0) {
                fault.get_or_insert(FrameFault::NotSettings);
            } else if !budget.spend(cost, Instant::now) {
                fault.get_or_insert(FrameFault::Flood);
            }
        });
        // A frame that arrives in one piece and not at the end of its payload is not DATA, which streams count.
        let is_partial = received.left > 0 && received.frame.is_some_and(|frame| frame.kind != DATA);
        *settled |= received.left == 0 && received.frame.is_some();
        let is_incomplete = !*settled || *open || is_partial;
        if let Some(recorded) = &self.recorded {
            let state = &recorded.downstream.state;
            if !is_incomplete {
                state.set_incomplete_since(None);
            } else if completed || state.incomplete_since().is_none() {
                state.set_incomplete_since(Some(Instant::now()));
            }
        }
    }

    /// Records written bytes.
    fn note(&mut self, bytes: &[u8]) {
        let Self { sent, budget, small, .. } = self;
        sent.read(bytes, |Frame { length, kind, flags, stream }| {
            if kind == DATA {
                budget.add(budget_per_piece(length));
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                budget.add(BUDGET_PER_RESPONSE);
                small.ended(stream);
            }
            if kind == RST_STREAM {
                small.ended(stream);
            }
        });
    }

    /// Records why no further frame is read.
    pub(super) fn fail(&mut self, fault: FrameFault) -> FrameFault {
        *self.fault.get_or_insert(fault)
    }

    fn recorded(&mut self) -> io::Result<&mut RecordedIo> {
        self.recorded.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for FrameLimitedIo {
    fn drop(&mut self) {
        let (fault, is_between) = (self.fault, self.sent.is_between());
        self.returned.set(self.recorded.take().map(|recorded| ReturnedTransport {
            recorded,
            fault,
            is_between,
        }));
    }
}

/// A GOAWAY with the largest stream id, so that the client considers no request unprocessed.
pub(super) fn go_away(error: u32) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[2] = 8;
    frame[3] = GOAWAY;
    frame[9..13].copy_from_slice(&(u32::MAX >> 1).to_be_bytes());
    frame[13..].copy_from_slice(&error.to_be_bytes());
    frame
}

impl FrameLimitedIo {
    /// Reads once. Available bytes for h2 go to `into`, which may be h2's own buffer if `may_pass`; the rest is kept.
    /// Returns whether the client's side has ended.
    fn read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        may_pass: bool,
    ) -> Poll<io::Result<bool>> {
        let start = into.filled().len();
        into.put_slice(self.small.partial());
        let received = into.filled().len();
        let read = Pin::new(self.recorded()?).poll_read(context, into);
        if !matches!(read, Poll::Ready(Ok(()))) {
            into.set_filled(start);
            return read.map_ok(|()| false);
        }
        if into.filled().len() == received {
            self.small.end(&into.filled()[start..]);
            into.set_filled(start);
            return Poll::Ready(Ok(true));
        }
        self.count(&into.filled()[received..]);
        if let Some(fault) = self.fault {
            into.set_filled(start);
            return Poll::Ready(Err(io::Error::other(fault)));
        }
        let passed = self.small.take(&into.filled()[start..], may_pass);
        into.set_filled(start + passed);
        Poll::Ready(Ok(false))
    }
}

impl AsyncRead for FrameLimitedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let downstream = Rc::clone(&this.recorded()?.downstream);
        this.small.read(downstream.take_overhead_read());
        let before = buffer.filled().len();
        while !this.small.give(buffer) {
            let ended = if buffer.remaining() >= MIN_DIRECT_READ {
                ready!(this.read(context, buffer, true))?
            } else {
                // Space for less than a frame header is too small.
                let mut detour = [MaybeUninit::uninit(); MIN_DIRECT_READ];
                ready!(this.read(context, &mut ReadBuf::uninit(&mut detour), false))?
            };
            if ended {
                this.small.give(buffer);
                break;
            }
            if buffer.filled().len() > before {
                break;
            }
            downstream.set_waits_for_reads(this.small.is_waiting());
        }
        downstream.set_waits_for_reads(this.small.is_waiting());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameLimitedIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(this.recorded()?).poll_write(context, buffer))?;
        this.note(&buffer[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(this.recorded()?).poll_write_vectored(context, buffers))?;
        let mut left = written;
        for buffer in buffers {
            let length = left.min(buffer.len());
            this.note(&buffer[..length]);
            left -= length;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.recorded.as_ref().is_some_and(RecordedIo::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().recorded()?).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().recorded()?).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, kind: u8, flags: u8) -> Vec<u8> {
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(vec![0xff; length as usize]);
        bytes
    }

    #[test]
    fn frames_do_not_depend_on_how_bytes_are_divided() {
        let sent =
            [(0, 4, 0), (300, DATA, END_STREAM), (0, DATA, 0), (70_000, HEADERS, END_HEADERS), (4, 3, 0)];
        let mut bytes = PREFACE.to_vec();
        bytes.extend(sent.iter().flat_map(|&(length, kind, flags)| frame(length, kind, flags)));
        for size in [1, 2, 7, 8, 9, 10, 33, bytes.len()] {
            let mut frames = Frames::after(24);
            let mut seen = Vec::new();
            for budget_per_piece in bytes.chunks(size) {
                frames.read(budget_per_piece, |Frame { length, kind, flags, .. }| {
                    seen.push((length, kind, flags))
                });
            }
            assert_eq!(seen, sent, "in pieces of {size}");
            assert!(frames.is_between());
            frames.read(&[0], |_| panic!("a frame"));
            assert!(!frames.is_between());
        }
    }

    #[test]
    fn budget_is_refilled_by_time_and_responses() {
        let start = Instant::now();
        let mut budget = FrameBudget { left: 1000, max: 1000, per_request: 0, filled: start };
        for _ in 0..1000 / RESET_COST {
            assert!(budget.spend(RESET_COST, || unreachable!("the credit is sufficient")));
        }
        assert!(!budget.spend(1, || start));
        assert!(!budget.spend(1, || start + Duration::from_millis(9)));
        assert!(budget.spend(1, || start + Duration::from_millis(10)));
        budget.add(BUDGET_PER_RESPONSE);
        assert!(budget.spend(RESET_COST, || start + Duration::from_millis(10)));
        // An hour earns no more than the maximum credit.
        let later = start + Duration::from_secs(3600);
        assert!(budget.spend(1, || later));
        assert!(budget.spend(999, || later));
        assert!(!budget.spend(1, || later));
    }
}
