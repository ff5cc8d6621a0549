//! Merges small DATA frames of a client before h2 reads them.
//!
//! h2 stores each DATA frame as an entry of some 300 bytes until its body is read. It closes a connection with
//! ENHANCE_YOUR_CALM if the small frames that wait are together 2 × [`BUDGET`] bytes shorter than [`SMALL_FRAME`] each, or
//! after a hundred empty frames. A client can reach both within the advertised windows; it only needs a slow backend.
//! Therefore, once [`BUDGET`] is spent, the payloads of further small frames wait here, in one buffer per
//! stream, and h2 gets them as larger frames. Flow control counts the same bytes.
//!
//! Only frames that wait are copied. The bytes of a connection whose bodies are read in time pass unchanged.

use tokio::io::ReadBuf;

use crate::downstream::{SMALL_FRAME, frame_overhead};

/// Bytes that small frames may lack before they wait here: half of h2's limit for a connection window of 512 KiB.
const BUDGET: usize = 128 * 1024;
/// Empty frames per connection that h2 gets: half of its limit. Further ones have no effect and are dropped.
const EMPTY: usize = 50;
/// SETTINGS_MAX_FRAME_SIZE, which the gateway leaves at its default.
const LARGEST: usize = 16 * 1024;
/// Largest part of a frame that is not data: the padding and its length (RFC 9113 section 6.1).
const MAX_PADDING: usize = 256;
/// Length of a frame header (RFC 9113 section 4.1).
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Header {
    /// Parses at least nine bytes.
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[long, middle, short, kind, flags, a, b, c, d] = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([0, long, middle, short]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([a & 0x7f, b, c, d]) })
    }

    fn write(self, out: &mut Vec<u8>) {
        let [_, long, middle, short] = (self.length as u32).to_be_bytes();
        out.extend([long, middle, short, self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The waiting data of a stream.
#[derive(Debug)]
struct WaitingStream {
    stream: u32,
    data: Vec<u8>,
    /// Bytes of padding and padding lengths. Flow control counts them, so they are forwarded as padding.
    padding: usize,
}

/// A small frame whose payload is incomplete.
#[derive(Debug)]
struct PartialFrame {
    header: Header,
    payload: Vec<u8>,
}

/// What to do with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkAction {
    /// Forward this many bytes unchanged; the rest is the start of a frame header.
    Pass(usize),
    /// Rewrite it, since a part has to wait.
    Rewrite,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct SmallData {
    /// The overhead of small frames in h2, by h2's own calculation.
    spent: usize,
    /// The contribution of each stream, in any order.
    streams: Vec<(u32, usize)>,
    empty: usize,
    /// Bytes to forward before the next header.
    left: usize,
    /// The start of a header.
    partial: Vec<u8>,
    partial_frame: Option<PartialFrame>,
    waiting: Vec<WaitingStream>,
    /// Streams whose frames may wait: as many as can be open at once. Frames of further streams go to h2, which rejects
    /// them.
    max_waiting: usize,
    /// The next bytes for h2.
    out: Vec<u8>,
    /// The number of those that h2 has read.
    given: usize,
}

impl SmallData {
    /// A connection of at most `max_streams` that starts with `skipped` bytes before its first frame.
    pub(super) const fn after(skipped: usize, max_streams: usize) -> Self {
        Self {
            spent: 0,
            streams: Vec::new(),
            empty: 0,
            left: skipped,
            partial: Vec::new(),
            partial_frame: None,
            waiting: Vec::new(),
            max_waiting: max_streams,
            out: Vec::new(),
            given: 0,
        }
    }

    /// Whether frames wait for bodies to be read.
    pub(super) const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The start of a frame header, which must precede the next chunk.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Records that bodies have read frames with an overhead of `lacked` bytes.
    pub(super) fn read(&mut self, lacked: usize) {
        self.spent = self.spent.saturating_sub(lacked);
        while self.spent <= BUDGET / 2
            && let Some(waiting) = self.waiting.pop()
        {
            self.emit(waiting, 0);
        }
    }

    /// Records that a stream has ended, by its response or a reset: h2 drops its unread frames.
    pub(super) fn ended(&mut self, stream: u32) {
        if self.streams.is_empty() && self.waiting.is_empty() {
            return;
        }
        self.flush(stream, 0);
        self.forget(stream);
    }

    /// Forgets the frames of a stream that h2 drops.
    fn forget(&mut self, stream: u32) {
        self.streams.retain(|(other, _)| *other != stream);
        self.spent = self.spent.min(self.streams.iter().map(|(_, added)| added).sum());
    }

    /// Copies ready bytes to h2's buffer. Returns whether there were any.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let ready = &self.out[self.given..];
        if ready.is_empty() {
            return false;
        }
        let length = ready.len().min(buffer.remaining());
        buffer.put_slice(&ready[..length]);
        self.given += length;
        if self.given == self.out.len() {
            self.out.clear();
            self.given = 0;
        }
        true
    }

    /// Handles the end of the connection, possibly within a header: all waiting data becomes ready.
    pub(super) fn end(&mut self, partial: &[u8]) {
        self.partial.clear();
        self.emit_all();
        if let Some(PartialFrame { header, payload }) = self.partial_frame.take() {
            header.write(&mut self.out);
            self.out.extend_from_slice(&payload);
        }
        self.out.extend_from_slice(partial);
    }

    fn emit_all(&mut self) {
        while let Some(waiting) = self.waiting.pop() {
            self.emit(waiting, 0);
        }
    }

    /// Processes the next chunk, which starts with [`SmallData::partial`]. Returns the number of bytes to forward
    /// unchanged, which is 0 unless `may_pass`. The rest is kept here.
    pub(super) fn take(&mut self, chunk: &[u8], may_pass: bool) -> usize {
        self.partial.clear();
        let chunk_action = if may_pass { self.chunk_action(chunk) } else { ChunkAction::Rewrite };
        match chunk_action {
            ChunkAction::Pass(length) => {
                let mut left = self.left;
                walk(&chunk[..length], &mut left, |header| {
                    self.account(header.stream, header.kind, header.flags, header.length);
                    true
                });
                self.left = left;
                self.partial.extend_from_slice(&chunk[length..]);
                length
            }
            ChunkAction::Rewrite => {
                self.rewrite(chunk);
                0
            }
        }
    }

    fn chunk_action(&self, chunk: &[u8]) -> ChunkAction {
        if self.partial_frame.is_some() {
            return ChunkAction::Rewrite;
        }
        let (mut left, mut spent, mut empty) = (self.left, self.spent, self.empty);
        let passed = walk(chunk, &mut left, |header| {
            if header.kind != DATA || header.has(END_STREAM) {
                return !(matches!(header.kind, DATA | HEADERS | RST_STREAM) && self.waits(header.stream));
            }
            if self.may_wait(header, spent, empty) || self.waits(header.stream) {
                return false;
            }
            spent = (spent + frame_overhead(header.length))
                .saturating_sub(header.length.saturating_sub(SMALL_FRAME));
            empty += usize::from(header.length == 0);
            true
        });
        passed.map_or(ChunkAction::Rewrite, ChunkAction::Pass)
    }

    fn waits(&self, stream: u32) -> bool {
        self.waiting.iter().any(|waiting| waiting.stream == stream)
    }

    /// Whether a DATA frame may have to wait, since it is padded, or small and beyond the budget. The caller checks
    /// END_STREAM.
    fn may_wait(&self, header: Header, spent: usize, empty: usize) -> bool {
        if header.has(PADDED) {
            // The amount of padding is in the payload.
            return header.length < SMALL_FRAME + MAX_PADDING;
        }
        if header.length == 0 {
            return empty >= EMPTY;
        }
        header.length < SMALL_FRAME && spent + frame_overhead(header.length) > BUDGET
    }

    /// Accounts for a frame that h2 gets. Frames that end their stream cost h2 nothing, and a reset drops those that are
    /// not read.
    fn account(&mut self, stream: u32, kind: u8, flags: u8, length: usize) {
        if kind != DATA || flags & END_STREAM != 0 {
            if kind == RST_STREAM && !self.streams.is_empty() {
                self.forget(stream);
            }
            return;
        }
        if length == 0 {
            self.empty += 1;
            return;
        }
        let overhead = frame_overhead(length);
        if overhead == 0 {
            // The data length of a padded frame is unknown, so it does not restore the budget.
            let data = if flags & PADDED == 0 { length } else { SMALL_FRAME };
            self.spent = self.spent.saturating_sub(data - SMALL_FRAME);
            return;
        }
        self.spent += overhead;
        match self.streams.iter_mut().find(|(other, _)| *other == stream) {
            Some((_, added)) => *added += overhead,
            None => self.streams.push((stream, overhead)),
        }
    }

    fn rewrite(&mut self, mut chunk: &[u8]) {
        loop {
            if let Some(partial_frame) = &mut self.partial_frame {
                let missing = partial_frame.header.length - partial_frame.payload.len();
                let (payload, rest) = chunk.split_at(missing.min(chunk.len()));
                partial_frame.payload.extend_from_slice(payload);
                chunk = rest;
                if payload.len() < missing {
                    return;
                }
                if let Some(partial_frame) = self.partial_frame.take() {
                    self.complete(partial_frame);
                }
                continue;
            }
            let (passed, rest) = chunk.split_at(self.left.min(chunk.len()));
            self.out.extend_from_slice(passed);
            self.left -= passed.len();
            chunk = rest;
            let Some(header) = Header::read(chunk) else {
                self.partial.extend_from_slice(chunk);
                return;
            };
            chunk = &chunk[HEADER..];
            self.begin(header);
        }
    }

    /// Handles the start of a frame.
    fn begin(&mut self, header: Header) {
        let Header { kind, stream, length, .. } = header;
        let waits = self.waits(stream);
        if kind == DATA {
            let may_be_small =
                length < SMALL_FRAME || header.has(PADDED) && length < SMALL_FRAME + MAX_PADDING;
            if !header.has(END_STREAM) && !header.has(PADDED) && length == 0 && (waits || self.empty >= EMPTY)
            {
                return;
            }
            if may_be_small && (waits || !header.has(END_STREAM) && self.may_wait(header, self.spent, 0)) {
                self.partial_frame = Some(PartialFrame { header, payload: Vec::with_capacity(length) });
                return;
            }
            if waits && !header.has(PADDED) && self.prepend(header) {
                return;
            }
        }
        if waits && matches!(kind, DATA | HEADERS | RST_STREAM) {
            self.flush(stream, 0);
        }
        self.account(stream, kind, header.flags, length);
        header.write(&mut self.out);
        self.left = length;
    }

    /// Merges the waiting data of a stream with a large frame of it, if they fit into one frame.
    fn prepend(&mut self, header: Header) -> bool {
        let Some(at) = self.waiting.iter().position(|it| it.stream == header.stream) else { return false };
        let length = header.length + self.waiting[at].data.len();
        if length > LARGEST || self.waiting[at].padding > 0 {
            return false;
        }
        let WaitingStream { data, .. } = self.waiting.swap_remove(at);
        self.account(header.stream, DATA, header.flags, length);
        Header { length, ..header }.write(&mut self.out);
        self.out.extend_from_slice(&data);
        self.left = header.length;
        true
    }

    /// Handles the end of a small frame whose payload arrived in parts.
    fn complete(&mut self, partial_frame: PartialFrame) {
        let PartialFrame { header, payload } = partial_frame;
        let Header { stream, flags, .. } = header;
        let (data, padding) = match payload.split_first() {
            Some((length, rest)) if header.has(PADDED) => match rest.len().checked_sub((*length).into()) {
                Some(data) => (&rest[..data], rest.len() - data + 1),
                // Malformed: h2 reports it.
                None => return self.pass(header, &payload, 0),
            },
            // Empty, and also malformed.
            None if header.has(PADDED) => return self.pass(header, &payload, 0),
            _ => (&payload[..], 0),
        };
        let waits = self.waits(stream);
        if data.is_empty() && !(waits && header.has(END_STREAM))
            || !waits && self.spent + frame_overhead(data.len()) <= BUDGET
        {
            return self.pass(header, &payload, data.len());
        }
        let at = self.waiting.iter().position(|it| it.stream == stream).unwrap_or_else(|| {
            self.waiting.push(WaitingStream {
                stream,
                data: Vec::with_capacity(2 * SMALL_FRAME),
                padding: 0,
            });
            self.waiting.len() - 1
        });
        let waiting = &mut self.waiting[at];
        waiting.data.extend_from_slice(data);
        waiting.padding += padding;
        if flags & END_STREAM != 0 || waiting.data.len() >= SMALL_FRAME {
            self.flush(stream, flags & END_STREAM);
        } else if self.waiting.len() > self.max_waiting {
            self.emit_all();
        }
    }

    /// Forwards such a frame unchanged, after the waiting data of its stream.
    fn pass(&mut self, header: Header, payload: &[u8], data: usize) {
        self.flush(header.stream, 0);
        self.account(header.stream, DATA, header.flags & !PADDED, data);
        header.write(&mut self.out);
        self.out.extend_from_slice(payload);
    }

    /// Forwards the waiting data of a stream. The last frame has these flags.
    fn flush(&mut self, stream: u32, flags: u8) {
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.stream == stream) {
            let waiting = self.waiting.swap_remove(at);
            self.emit(waiting, flags);
        }
    }

    /// Writes the data in as many frames as its padding requires.
    fn emit(&mut self, waiting: WaitingStream, flags: u8) {
        let WaitingStream { stream, data, mut padding } = waiting;
        let frames = padding.div_ceil(MAX_PADDING).max(1);
        let mut rest = &data[..];
        for after in (0..frames).rev() {
            let (piece, further) = rest.split_at(rest.len().div_ceil(after + 1));
            rest = further;
            let padded = padding.min(MAX_PADDING);
            padding -= padded;
            let flags = if after == 0 { flags } else { 0 };
            self.account(stream, DATA, flags, piece.len());
            let padded_flag = if padded > 0 { PADDED } else { 0 };
            let length = piece.len() + padded;
            Header { length, kind: DATA, flags: flags | padded_flag, stream }.write(&mut self.out);
            if padded > 0 {
                self.out.push((padded - 1) as u8);
            }
            self.out.extend_from_slice(piece);
            self.out.resize(self.out.len() + padded.saturating_sub(1), 0);
        }
    }
}

/// Calls `each` for every complete frame header, the first of which is `left` bytes after the start. Returns the length
/// before an incomplete header, or `None` as soon as `each` returns false.
fn walk(bytes: &[u8], left: &mut usize, mut each: impl FnMut(Header) -> bool) -> Option<usize> {
    let mut at = 0;
    loop {
        let skipped = (*left).min(bytes.len() - at);
        at += skipped;
        *left -= skipped;
        let Some(header) = Header::read(&bytes[at..]) else { return Some(at) };
        if !each(header) {
            return None;
        }
        at += HEADER;
        *left = header.length;
    }
}

#[cfg(test)]
mod tests;
