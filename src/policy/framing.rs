//! The framing of HTTP/1 messages: accepts only bytes that every parser frames in the same way.
//!
//! hyper silently repairs malformed framing: it drops a Content-Length next to a Transfer-Encoding, merges equal
//! Content-Lengths, and accepts a bare LF as a line end. The backend is safe all the same, since the gateway writes
//! every message anew. A proxy in front of the gateway is not: it may frame the same bytes differently (request
//! smuggling, RFC 9112 section 11.2). So the [`Scanner`] checks every byte of a head, and the framing of every body,
//! before hyper reads them, and refuses such bytes.

use http::Version;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use memchr::memchr;

use super::refusal::Refusal;
use super::upgrade;

/// The limits of a message's head and trailers.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The largest head in bytes, with its final empty line. Also the limit for the chunk extensions and trailers of a
    /// body together.
    pub head: usize,
    /// The largest number of fields of a head.
    pub fields: usize,
    /// The longest target in bytes.
    pub target: usize,
}

/// The result of a scan.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// How many bytes may be passed on. The bytes after them belong to an incomplete head, or arrived
    /// [too early](Scanner::awaits). The caller keeps them and scans them again, followed by the next bytes.
    pub clear: usize,
    /// Why none of the following bytes may be passed on.
    pub fault: Option<FramingFault>,
}

/// The error that ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FramingFault {
    /// A head is refused. None of its bytes have been passed on.
    Head(Refusal),
    /// A body is malformed. The head of its message has been passed on.
    Body(&'static str),
}

/// Scans the messages of one client connection. Must not be used after a fault.
#[derive(Debug)]
pub struct Scanner {
    bounds: Bounds,
    state: ScanState,
    messages: u64,
    /// Of the last message.
    version: Version,
}

#[derive(Debug)]
enum ScanState {
    Head(Head),
    /// In a body with Content-Length.
    Length {
        left: u64,
        last: bool,
    },
    Chunked(Chunked),
    /// The last message may change the protocol. The following bytes are a head only if it does not.
    Awaiting {
        last: bool,
    },
    /// The client has announced that the last message is its last one. Further bytes are ignored.
    Over,
}

/// The progress in a head.
#[derive(Debug, Default)]
struct Head {
    /// The start of the next line.
    line: usize,
    /// The end of the bytes that have been searched for a line end.
    searched: usize,
    /// Whether an empty line precedes the request line (RFC 9112 section 2.2).
    preceded: bool,
    fields: usize,
    /// `None` until the request line is complete.
    version: Option<Version>,
    length: Option<u64>,
    chunked: bool,
    /// The number of options in Connection fields.
    options: usize,
    close: bool,
    keep_alive: bool,
    /// Whether an Upgrade field names WebSocket.
    upgrade: bool,
}

#[derive(Debug)]
struct Chunked {
    at: ChunkedAt,
    /// The bytes of chunk extensions and trailers.
    spent: usize,
    trailers: usize,
    last: bool,
}

#[derive(Clone, Copy, Debug)]
enum ChunkedAt {
    Size { digits: u8, size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// The reason of a refusal or a fault, for the log.
type Why = &'static str;

pub(super) const SEVERAL_LENGTHS: Refusal = bad("several Content-Length fields");
/// The largest number of options in all Connection fields of a message, including empty ones.
pub(super) const MAX_CONNECTION_OPTIONS: usize = 100;
pub(super) const TOO_MANY_CONNECTION_OPTIONS: Why = "more than 100 options in Connection";
const BARE_CR: Why = "CR without LF, or a control character, in the head";
const BARE_LF: Why = "LF without CR in the head";
const ODD_TARGET: Why = "character that a target cannot hold";

const fn bad(why: Why) -> Refusal {
    Refusal::BadRequest(why)
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// The parts of a target in which a byte is allowed, as the `http` crate has them. A `?` begins the query and is allowed
/// in it. Raw bytes beyond ASCII are refused, since parsers assume different character sets for them.
const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = match byte as u8 {
            b'"' | b'#' | b'<' | b'>' => 0,
            b'?' | b'^' | b'`' | b'{' | b'}' => IN_QUERY,
            _ => IN_PATH | IN_QUERY,
        };
        byte += 1;
    }
    table
};

/// RFC 9110 section 5.6.2, `tchar`.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = matches!(
            byte as u8,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`'
                | b'|' | b'~'
        );
        byte += 1;
    }
    table
};

/// Whether a byte is allowed in a token (RFC 9110 section 5.6.2).
pub(super) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// The length of the longest prefix whose bytes all match.
#[inline]
fn span(bytes: &[u8], matches: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !matches(byte)).unwrap_or(bytes.len())
}

/// Counts control characters other than tabs. Each piece is short enough for a counter of one byte, so that the compiler
/// vectorizes the loop.
fn count_controls(bytes: &[u8]) -> usize {
    let in_piece = |piece: &[u8]| {
        piece
            .iter()
            .fold(0_u8, |count, &byte| count + u8::from((byte < 0x20) & (byte != b'\t') | (byte == 0x7f)))
    };
    bytes.chunks(128).map(|piece| usize::from(in_piece(piece))).sum()
}

/// The method of a complete or incomplete head; `None` until the method is complete, or if it is malformed.
pub fn method(head: &[u8]) -> Option<&[u8]> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let end = span(head, is_token_byte);
    (head.get(end) == Some(&b' ')).then_some(&head[..end])
}

impl Scanner {
    /// A scanner for a new connection.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: ScanState::Head(Head::default()), messages: 0, version: Version::HTTP_11 }
    }

    /// Scans bytes that begin where the last [`clear`](Scan::clear) ones ended.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut clear = 0;
        loop {
            let rest = &bytes[clear..];
            if rest.is_empty() {
                return Scan { clear, fault: None };
            }
            let step = match &mut self.state {
                ScanState::Head(head) => match head.read(rest, &self.bounds) {
                    Ok(None) => return Scan { clear, fault: None },
                    Ok(Some(step)) => {
                        self.messages += 1;
                        self.version = head.version.unwrap_or(Version::HTTP_11);
                        step
                    }
                    Err(refusal) => return Scan { clear, fault: Some(FramingFault::Head(refusal)) },
                },
                ScanState::Length { left, last } => {
                    let taken = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= taken;
                    // At most the length of `rest`.
                    let taken = taken as usize;
                    if *left > 0 {
                        return Scan { clear: clear + taken, fault: None };
                    }
                    ScanStep { taken, next: after(*last) }
                }
                ScanState::Chunked(chunked) => match chunked.read(rest, &self.bounds) {
                    Ok((taken, true)) => ScanStep { taken, next: after(chunked.last) },
                    Ok((taken, false)) => return Scan { clear: clear + taken, fault: None },
                    Err((taken, why)) => {
                        return Scan { clear: clear + taken, fault: Some(FramingFault::Body(why)) };
                    }
                },
                ScanState::Awaiting { .. } | ScanState::Over => return Scan { clear, fault: None },
            };
            clear += step.taken;
            self.state = step.next;
        }
    }

    /// The number of messages whose heads have been passed on.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether the last of these messages is HTTP/1.0. Such a client takes the close of the connection as the end of a
    /// response.
    pub fn is_http_1_0(&self) -> bool {
        self.version == Version::HTTP_10
    }

    /// Whether a body is incomplete.
    pub const fn is_mid_body(&self) -> bool {
        matches!(self.state, ScanState::Length { .. } | ScanState::Chunked(_))
    }

    /// Whether the following bytes cannot be scanned before the response to the last message, which may change the
    /// protocol.
    pub const fn awaits(&self) -> bool {
        matches!(self.state, ScanState::Awaiting { .. })
    }

    /// Continues after a message that was [awaited](Self::awaits) and did not change the protocol.
    pub fn go_on(&mut self) {
        if let ScanState::Awaiting { last } = self.state {
            self.state = after(last);
        }
    }

    /// Whether further bytes are to be discarded, since the client's last message is complete.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, ScanState::Over)
    }
}

struct ScanStep {
    taken: usize,
    next: ScanState,
}

fn after(last: bool) -> ScanState {
    if last { ScanState::Over } else { ScanState::Head(Head::default()) }
}

impl Head {
    /// Continues to scan a head that begins at the start of `bytes`. `None` if it is incomplete.
    fn read(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<Option<ScanStep>, Refusal> {
        while let Some(offset) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + offset;
            // Checked before the line itself, so that the limit holds for well-formed heads, too.
            if end + 1 > bounds.head {
                return Err(self.too_large(bytes, bounds));
            }
            let Some(line) = bytes[self.line..end].strip_suffix(b"\r") else { return Err(bad(BARE_LF)) };
            self.line = end + 1;
            self.searched = end + 1;
            let Some(version) = self.version else {
                if line.is_empty() && !self.preceded {
                    self.preceded = true;
                } else {
                    self.version = Some(request_line(line, bounds)?);
                }
                continue;
            };
            if line.is_empty() {
                // Every line ends with two control characters. Any other is in a value (RFC 9110 section 5.5).
                if count_controls(&bytes[..self.line]) != 2 * (self.fields + 2 + usize::from(self.preceded)) {
                    return Err(bad(BARE_CR));
                }
                let next = self.body(version)?;
                return Ok(Some(ScanStep { taken: self.line, next }));
            }
            self.fields += 1;
            if self.fields > bounds.fields {
                return Err(Refusal::HeaderFieldsTooLarge);
            }
            self.field(line)?;
        }
        self.searched = bytes.len();
        if bytes.len() >= bounds.head {
            return Err(self.too_large(bytes, bounds));
        }
        Ok(None)
    }

    /// The refusal of a head over its limit. If its target alone is over the target's limit, that one counts. Bytes after
    /// the limit are ignored, so that the result does not depend on how the bytes are divided.
    fn too_large(&self, bytes: &[u8], bounds: &Bounds) -> Refusal {
        if self.version.is_none() {
            let line = bytes.get(self.line..bounds.head.min(bytes.len())).unwrap_or_default();
            let target =
                line.iter().position(|&byte| byte == b' ').map_or(&[][..], |space| &line[space + 1..]);
            let length = target.iter().position(|&byte| byte <= b' ').unwrap_or(target.len());
            if length > bounds.target {
                return Refusal::UriTooLong;
            }
        }
        Refusal::HeaderFieldsTooLarge
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let colon = span(line, is_token_byte);
        if colon == 0 || line.get(colon) != Some(&b':') {
            return Err(bad(not_a_field(line)));
        }
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // Comparing lengths first skips most names.
        match name.len() {
            7 if name.eq_ignore_ascii_case(UPGRADE.as_str().as_bytes()) => {
                self.upgrade |= upgrade::names_websocket(value);
            }
            10 if name.eq_ignore_ascii_case(CONNECTION.as_str().as_bytes()) => {
                for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.options += 1;
                    if self.options > MAX_CONNECTION_OPTIONS {
                        return Err(bad(TOO_MANY_CONNECTION_OPTIONS));
                    }
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes()) => {
                if self.length.is_some() {
                    return Err(SEVERAL_LENGTHS);
                }
                self.length = Some(content_length(value)?);
            }
            17 if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_str().as_bytes()) => {
                if self.chunked || !trim(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("Transfer-Encoding other than `chunked`"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The state after the complete head.
    fn body(&self, version: Version) -> Result<ScanState, Refusal> {
        let is_http_1_0 = version == Version::HTTP_10;
        // RFC 9112 section 9.3
        let last = self.close || is_http_1_0 && !self.keep_alive;
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("both Transfer-Encoding and Content-Length")),
            // RFC 9112 section 6.1: such a message must be treated as if its framing were faulty.
            (true, None) if is_http_1_0 => Err(bad("Transfer-Encoding in HTTP/1.0")),
            (true, None) => {
                let at = ChunkedAt::Size { digits: 0, size: 0 };
                Ok(ScanState::Chunked(Chunked { at, spent: 0, trailers: 0, last }))
            }
            (false, Some(left)) if left > 0 => Ok(ScanState::Length { left, last }),
            (false, _) if self.upgrade && !is_http_1_0 => Ok(ScanState::Awaiting { last }),
            (false, _) => Ok(after(last)),
        }
    }
}

/// The reason why a line is no field.
fn not_a_field(line: &[u8]) -> Why {
    let Some(colon) = memchr(b':', line) else { return "line without a colon in the head" };
    match (line[..colon].first(), line[..colon].last()) {
        (Some(b' ' | b'\t'), _) => "folded line in the head",
        (_, Some(b' ' | b'\t')) => "white space before a colon in the head",
        _ => "malformed field name",
    }
}

/// The length of the target at the start of `bytes`.
fn target(bytes: &[u8]) -> usize {
    let path = span(bytes, |byte| TARGET[usize::from(byte)] & IN_PATH != 0);
    let query = match bytes.get(path) {
        Some(b'?') => span(&bytes[path..], |byte| TARGET[usize::from(byte)] & IN_QUERY != 0),
        _ => 0,
    };
    path + query
}

/// Checks the characters and the length of a target that is not part of a request line.
pub(super) fn check_target(bytes: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
    if target(bytes) != bytes.len() {
        return Err(bad(ODD_TARGET));
    }
    if bytes.len() > bounds.target { Err(Refusal::UriTooLong) } else { Ok(()) }
}

/// Checks `method SP request-target SP HTTP-version` (RFC 9112 section 3), with single spaces. Returns the version.
fn request_line(line: &[u8], bounds: &Bounds) -> Result<Version, Refusal> {
    const MALFORMED: Refusal = bad("malformed request line");
    let method = span(line, is_token_byte);
    if method == 0 || line.get(method) != Some(&b' ') {
        return Err(MALFORMED);
    }
    let rest = &line[method + 1..];
    let (target, end) = rest.split_at(target(rest));
    let version = match end {
        [b' ', version @ ..] if !target.is_empty() => version,
        [] => return Err(MALFORMED),
        [b'#', ..] => return Err(bad("fragment in the target")),
        _ => return Err(bad(ODD_TARGET)),
    };
    if target.len() > bounds.target {
        return Err(Refusal::UriTooLong);
    }
    // Absolute targets and `*` pass. hyper would reject others with an empty response. `Target::read` refuses an
    // authority.
    if target[0] != b'/' && http::Uri::try_from(target).is_err() {
        return Err(bad("malformed target"));
    }
    match version {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Refusal::VersionNotSupported)
        }
        _ => Err(MALFORMED),
    }
}

/// Removes optional white space (RFC 9110 section 5.6.3): only spaces and tabs.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Parses digits without a leading zero, which some parsers take for an octal number.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    const ODD: Refusal = bad("malformed Content-Length");
    let digits = trim(value);
    if digits.is_empty() || digits.len() > 18 || digits.len() > 1 && digits[0] == b'0' {
        return Err(ODD);
    }
    digits.iter().try_fold(0, |length, digit| {
        digit.is_ascii_digit().then(|| length * 10 + u64::from(digit - b'0')).ok_or(ODD)
    })
}

/// The limit for chunk extensions and trailers in bytes if the limit for heads is larger: hyper accepts no more
/// extensions.
const MAX_SPENT: usize = 16 * 1024 - 1;

impl Chunked {
    /// Continues to scan a chunked body (RFC 9112 section 7.1). Returns how many bytes belong to it, and whether it ends
    /// with them.
    fn read(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<(usize, bool), (usize, Why)> {
        let mut index = 0;
        while let Some(&byte) = bytes.get(index) {
            if let ChunkedAt::Data { left } = &mut self.at {
                let here = u64::try_from(bytes.len() - index).unwrap_or(u64::MAX).min(*left);
                *left -= here;
                // At most the length of `bytes`.
                index += here as usize;
                if *left == 0 {
                    self.at = ChunkedAt::DataCr;
                }
                continue;
            }
            self.at = self.step(byte, bounds).map_err(|why| (index, why))?;
            index += 1;
            if matches!(self.at, ChunkedAt::EndLf) && byte == b'\n' {
                return Ok((index, true));
            }
        }
        Ok((index, false))
    }

    fn step(&mut self, byte: u8, bounds: &Bounds) -> Result<ChunkedAt, Why> {
        use ChunkedAt::{
            Data, DataCr, DataLf, EndLf, Extension, Size, SizeLf, Trailer, TrailerLf, TrailerName,
            TrailerValue,
        };
        let is_text = byte >= 0x20 && byte != 0x7f || byte == b'\t';
        if matches!(self.at, Extension { .. } | Trailer | TrailerName | TrailerValue | TrailerLf | EndLf) {
            self.spent += 1;
            if self.spent > bounds.head.min(MAX_SPENT) {
                return Err("chunk extensions or trailers are too large");
            }
        }
        match (self.at, byte) {
            (Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                // Fifteen digits, over a thousand terabytes, cannot overflow.
                if digits == 15 {
                    return Err("chunk size of too many digits");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Ok(Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
            }
            (Size { digits: 1.., size }, b';') => Ok(Extension { size }),
            (Size { digits: 1.., size } | Extension { size }, b'\r') => Ok(SizeLf { size }),
            (Size { .. }, _) => Err("malformed chunk size"),
            (Extension { .. }, _) if is_text => Ok(self.at),
            (Extension { .. }, _) => Err("control character in a chunk extension"),
            (SizeLf { size: 0 }, b'\n') => Ok(Trailer),
            (SizeLf { size }, b'\n') => Ok(Data { left: size }),
            (DataCr, b'\r') => Ok(DataLf),
            (DataLf, b'\n') => Ok(Size { digits: 0, size: 0 }),
            (Trailer, b'\r') => Ok(EndLf),
            (Trailer, b' ' | b'\t') => Err("folded line in the trailers"),
            (Trailer | TrailerName, _) if is_token_byte(byte) => Ok(TrailerName),
            (TrailerName, b':') => Ok(TrailerValue),
            (TrailerValue, b'\r') => Ok(TrailerLf),
            (TrailerValue, _) if is_text => Ok(TrailerValue),
            (TrailerLf, b'\n') => {
                self.trailers += 1;
                if self.trailers > bounds.fields { Err("too many trailers") } else { Ok(Trailer) }
            }
            (EndLf, b'\n') => Ok(EndLf),
            (Trailer | TrailerName | TrailerValue, _) => Err("malformed trailer"),
            (Data { .. } | SizeLf { .. } | DataCr | DataLf | TrailerLf | EndLf, _) => {
                Err("chunk without its CRLF")
            }
        }
    }
}

#[cfg(test)]
mod tests;
