//! The header blocks in a client's HTTP/2 frames, and heads of which h2 would drop a part.
//!
//! hyper does not tell which request a head becomes. Therefore h2 gets such a head separately: first everything before
//! it, until h2 asks for more and every earlier request has been dispatched; then the last byte of the head, after
//! which the next request is the one with this head; then the rest.

use std::cell::Cell;

use super::http2_flood::{CONTINUATION, END_HEADERS, Frame, HEADERS};
use crate::policy::hpack::{Malformed, Scanner};

/// Flags of HEADERS (RFC 9113 section 6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest frame that h2 accepts: SETTINGS_MAX_FRAME_SIZE is left at its default.
const MAX_FRAME: u32 = 16_384;

/// Finds the header blocks of a connection.
#[derive(Debug, Default)]
pub(super) struct HeaderBlocks {
    scanner: Scanner,
    /// Whether the current frame is part of a block that h2 decodes.
    is_read: bool,
    /// Whether a block awaits its CONTINUATION.
    is_open: bool,
    ends: bool,
    flags: u8,
    stream: u32,
    /// The bytes before the block fragment: the padding length and the priority.
    prefix: [u8; 6],
    prefix_length: usize,
    prefix_came: usize,
    /// Remaining bytes of the fragment, which the padding follows.
    left: u32,
}

impl HeaderBlocks {
    /// Handles the start of a frame.
    pub(super) fn begin(&mut self, frame: Frame) {
        let Frame { length, kind, flags, stream } = frame;
        // If h2 finds an error it ends the connection, and nothing has to be read.
        let continues = kind == CONTINUATION && self.is_open && stream == self.stream;
        self.is_read = (kind == HEADERS || continues) && length <= MAX_FRAME;
        self.ends = flags & END_HEADERS != 0;
        self.is_open = self.is_read && !self.ends;
        self.left = length;
        (self.prefix_length, self.prefix_came) = (0, 0);
        if kind == HEADERS {
            (self.flags, self.stream) = (flags, stream);
            let padding = usize::from(flags & PADDED != 0);
            self.prefix_length = padding + if flags & PRIORITY != 0 { 5 } else { 0 };
        }
    }

    /// Consumes bytes of the current frame.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        if !self.is_read {
            return Ok(());
        }
        if self.prefix_came < self.prefix_length {
            let (prefix, rest) = bytes.split_at(bytes.len().min(self.prefix_length - self.prefix_came));
            self.prefix[self.prefix_came..self.prefix_came + prefix.len()].copy_from_slice(prefix);
            self.prefix_came += prefix.len();
            bytes = rest;
            if self.prefix_came < self.prefix_length {
                return Ok(());
            }
            self.end_prefix();
            if !self.is_read {
                return Ok(());
            }
        }
        let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        // At most `left`.
        self.left -= length as u32;
        self.scanner.read(&bytes[..length])
    }

    fn end_prefix(&mut self) {
        let padding = if self.flags & PADDED != 0 { u32::from(self.prefix[0]) } else { 0 };
        // At most 6.
        match self.left.checked_sub(self.prefix_length as u32 + padding) {
            Some(left) => self.left = left,
            None => self.is_read = false,
        }
        if self.flags & PRIORITY != 0
            && let [.., first, second, third, fourth, _weight] = self.prefix[..self.prefix_length]
        {
            let dependency = u32::from_be_bytes([first, second, third, fourth]) & (u32::MAX >> 1);
            // h2 resets such a stream and does not decode its block.
            self.is_read &= dependency != self.stream;
        }
    }

    /// Handles the end of a frame. Returns what h2 would drop of a head, if the head is complete.
    pub(super) fn end(&mut self) -> Result<Option<&'static str>, Malformed> {
        if self.is_read && self.ends { self.scanner.end() } else { Ok(None) }
    }
}

/// The progress of h2 with a head of which it would drop a part.
#[derive(Clone, Copy, Debug, Default)]
enum Progress {
    /// No such head.
    #[default]
    None,
    /// h2 got everything before its last byte.
    Before(&'static str),
    /// h2 has asked for more.
    Drained(&'static str),
    /// All requests before it were dispatched.
    Next(&'static str),
    /// h2 got the last byte.
    Passed(&'static str),
}

/// The state of such a head, shared by a connection's frames, its requests and its task.
#[derive(Debug, Default)]
pub(super) struct LossyHead(Cell<Progress>);

impl LossyHead {
    /// Records a head of which h2 would drop a part.
    pub(super) fn found(&self, why: &'static str) {
        self.0.set(Progress::Before(why));
    }

    /// What h2 may read when it asks for more.
    pub(super) fn take_readable(&self) -> Readable {
        match self.0.get() {
            Progress::None => Readable::All,
            Progress::Before(why) => {
                self.0.set(Progress::Drained(why));
                Readable::Nothing
            }
            Progress::Next(why) => {
                self.0.set(Progress::Passed(why));
                Readable::Byte
            }
            Progress::Drained(_) | Progress::Passed(_) => Readable::Nothing,
        }
    }

    /// What was dropped of the head of the request that is being dispatched.
    pub(super) fn dropped(&self) -> Option<&'static str> {
        match self.0.get() {
            Progress::Passed(why) => Some(why),
            Progress::None | Progress::Before(_) | Progress::Drained(_) | Progress::Next(_) => None,
        }
    }

    /// Records that the connection waits: every request that h2 has read was dispatched. Returns whether to poll it
    /// again.
    pub(super) fn record_dispatched(&self) -> bool {
        let (next, polls_again) = match self.0.get() {
            Progress::Drained(why) => (Progress::Next(why), true),
            Progress::Passed(_) => (Progress::None, true),
            step @ (Progress::None | Progress::Before(_) | Progress::Next(_)) => (step, false),
        };
        self.0.set(next);
        polls_again
    }
}

/// See [`LossyHead::take_readable`].
pub(super) enum Readable {
    All,
    Nothing,
    /// The last byte of the head.
    Byte,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::hpack::Malformed;

    const PATH: &[u8] = b"\x04\x04/a#b";
    const FOUND: Result<Option<&str>, Malformed> = Ok(Some("fragment in the target"));

    fn read(
        blocks: &mut HeaderBlocks,
        kind: u8,
        flags: u8,
        payload: &[u8],
    ) -> Result<Option<&'static str>, Malformed> {
        let length = u32::try_from(payload.len()).unwrap();
        blocks.begin(Frame { length, kind, flags, stream: 3 });
        for piece in payload.chunks(2) {
            blocks.read(piece)?;
        }
        blocks.end()
    }

    #[test]
    fn padding_and_priority_are_not_part_of_a_header_block() {
        for (flags, prefix, padding) in [
            (0, &[][..], 0),
            (PADDED, &[3], 3),
            (PADDED, &[0], 0),
            (PRIORITY, &[0, 0, 0, 1, 9], 0),
            (PRIORITY | PADDED, &[2, 0x80, 0, 0, 1, 9], 2),
        ] {
            let payload = [prefix, PATH, &vec![0xff; padding]].concat();
            let mut blocks = HeaderBlocks::default();
            assert_eq!(read(&mut blocks, HEADERS, flags | END_HEADERS, &payload), FOUND, "{flags:x}");
        }
        // h2 does not decode the block of a stream that depends on itself.
        let mut blocks = HeaderBlocks::default();
        let payload = [&[0, 0, 0, 3, 9], PATH].concat();
        assert_eq!(read(&mut blocks, HEADERS, PRIORITY | END_HEADERS, &payload), Ok(None));
        assert_eq!(read(&mut blocks, HEADERS, END_HEADERS, b"\x04\x02/a"), Ok(None));
        // h2 closes the connection if the padding is longer than the frame.
        assert_eq!(read(&mut blocks, HEADERS, PADDED | END_HEADERS, &[&[9], PATH].concat()), Ok(None));
    }

    #[test]
    fn header_block_continues_in_continuation_frames() {
        for cut in 0..=PATH.len() {
            let mut blocks = HeaderBlocks::default();
            assert_eq!(read(&mut blocks, HEADERS, 0, &PATH[..cut]), Ok(None));
            assert_eq!(read(&mut blocks, CONTINUATION, 0, &[]), Ok(None));
            assert_eq!(read(&mut blocks, CONTINUATION, END_HEADERS, &PATH[cut..]), FOUND, "{cut}");
            // No stream is open any more.
            assert_eq!(read(&mut blocks, CONTINUATION, END_HEADERS, PATH), Ok(None));
        }
    }
}
