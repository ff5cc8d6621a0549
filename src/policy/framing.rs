//! Where one HTTP/1 message ends and the next begins, read in the one way that every parser would.
//!
//! hyper mends much by itself and tells nobody: it drops a Content-Length beside a Transfer-Encoding, merges
//! equal Content-Lengths, and takes a bare LF for the end of a line. What protects the backend is that every
//! message is written anew. What protects whatever stands in front of the gateway, and may read the same bytes
//! differently (request smuggling, RFC 9112 section 11.2), is that such bytes are refused. So the
//! [`Scanner`] looks at every byte of a head, and at the framing of every body, before hyper has them.

use http::Version;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use memchr::memchr;

use super::refusal::Refusal;
use super::upgrade;

/// What a client may send in one head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a head, its last empty line included. Also of a body's chunk extensions and trailers.
    pub head: usize,
    /// Fields of a head.
    pub fields: usize,
    /// Bytes of a target.
    pub target: usize,
}

/// What was found in the bytes that have come.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned {
    /// How many of them may go on. What follows is the beginning of a head, or comes [too soon](Scanner::awaits): it
    /// is to be held, and given to the scanner again in front of what comes after it.
    pub clear: usize,
    /// Why nothing that follows may go on.
    pub fault: Option<Fault>,
}

/// What keeps a connection from going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A message that is refused before anybody has seen any of it.
    Head(Refusal),
    /// A body that breaks off, of a message whose head was passed on.
    Body(&'static str),
}

/// Follows the messages of one client's connection. After a fault it is of no more use.
#[derive(Debug)]
pub struct Scanner {
    bounds: Bounds,
    state: State,
    messages: u64,
    /// Of the last of them.
    version: Version,
}

#[derive(Debug)]
enum State {
    Head(Head),
    /// Bytes of a body of known length.
    Length {
        left: u64,
        last: bool,
    },
    Chunked(Chunked),
    /// The message before may change the protocol: what follows is a head only if it does not.
    Awaiting {
        last: bool,
    },
    /// The client said that the message before was its last one: what it sends yet is nobody's business.
    Over,
}

/// A head of which lines have come.
#[derive(Debug, Default)]
struct Head {
    /// Where the line begins that is to be read next.
    line: usize,
    /// Up to where its end was looked for.
    searched: usize,
    /// An empty line stood before the request line (RFC 9112 section 2.2).
    preceded: bool,
    fields: usize,
    /// The request line's, once that has come.
    version: Option<Version>,
    length: Option<u64>,
    chunked: bool,
    /// How many options Connection has.
    options: usize,
    close: bool,
    keep_alive: bool,
    /// Whether another protocol is asked for.
    upgrade: bool,
}

#[derive(Debug)]
struct Chunked {
    at: ChunkedAt,
    /// Of extensions and trailers.
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

/// A fault's text, for the log.
type Why = &'static str;

pub(super) const SEVERAL_LENGTHS: Refusal = bad("several Content-Length fields");
/// The most options in all Connection fields of one message, counting empty ones.
pub(super) const MOST_CONNECTION_OPTIONS: usize = 100;
pub(super) const TOO_MANY_CONNECTION_OPTIONS: Why = "more than 100 options in Connection";
const BARE_CR: Why = "CR without LF, or a control character, in the head";
const BARE_LF: Why = "LF without CR in the head";
const ODD_TARGET: Why = "character that a target cannot hold";

const fn bad(why: Why) -> Refusal {
    Refusal::BadRequest(why)
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// Where in a target a byte may stand: what the `http` crate takes. A `?` begins a query, and may be in one.
/// Raw bytes beyond ASCII are refused, since each parser has a character set of its own for them.
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

/// Whether a token (RFC 9110 section 5.6.2) may hold this.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// How many of the first `bytes` are of a kind.
#[inline]
fn span(bytes: &[u8], is_of_kind: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !is_of_kind(byte)).unwrap_or(bytes.len())
}

/// How many control characters there are but tabs. In pieces that a byte can count, so that the compiler takes
/// sixteen at a time.
fn count_controls(bytes: &[u8]) -> usize {
    let in_piece = |piece: &[u8]| {
        piece
            .iter()
            .fold(0_u8, |count, &byte| count + u8::from((byte < 0x20) & (byte != b'\t') | (byte == 0x7f)))
    };
    bytes.chunks(128).map(|piece| usize::from(in_piece(piece))).sum()
}

/// The method of a head of which at least the beginning has come.
pub fn method(head: &[u8]) -> Option<&[u8]> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let end = span(head, is_token_byte);
    (head.get(end) == Some(&b' ')).then_some(&head[..end])
}

impl Scanner {
    /// Of a connection over which nothing has come yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: State::Head(Head::default()), messages: 0, version: Version::HTTP_11 }
    }

    /// Looks at bytes. They begin where what was clear the last time ended.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut clear = 0;
        loop {
            let rest = &bytes[clear..];
            if rest.is_empty() {
                return Scanned { clear, fault: None };
            }
            let step = match &mut self.state {
                State::Head(head) => match head.read(rest, &self.bounds) {
                    Ok(None) => return Scanned { clear, fault: None },
                    Ok(Some(step)) => {
                        self.messages += 1;
                        self.version = head.version.unwrap_or(Version::HTTP_11);
                        step
                    }
                    Err(refusal) => return Scanned { clear, fault: Some(Fault::Head(refusal)) },
                },
                State::Length { left, last } => {
                    let taken = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= taken;
                    // At most the length of `rest`.
                    let taken = taken as usize;
                    if *left > 0 {
                        return Scanned { clear: clear + taken, fault: None };
                    }
                    Step { taken, next: after(*last) }
                }
                State::Chunked(chunked) => match chunked.read(rest, &self.bounds) {
                    Ok((taken, true)) => Step { taken, next: after(chunked.last) },
                    Ok((taken, false)) => return Scanned { clear: clear + taken, fault: None },
                    Err((taken, why)) => {
                        return Scanned { clear: clear + taken, fault: Some(Fault::Body(why)) };
                    }
                },
                State::Awaiting { .. } | State::Over => return Scanned { clear, fault: None },
            };
            clear += step.taken;
            self.state = step.next;
        }
    }

    /// How many messages have begun whose heads went on.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether the last of them is of HTTP/1.0, whose clients take the connection's close for an answer's end.
    pub fn is_http_1_0(&self) -> bool {
        self.version == Version::HTTP_10
    }

    /// Whether a body has begun whose end has not come.
    pub const fn is_mid_body(&self) -> bool {
        matches!(self.state, State::Length { .. } | State::Chunked(_))
    }

    /// Whether nothing that follows can be read before the last message is answered.
    pub const fn awaits(&self) -> bool {
        matches!(self.state, State::Awaiting { .. })
    }

    /// Goes on after a message that was [awaited](Self::awaits) and changed nothing.
    pub fn go_on(&mut self) {
        if let State::Awaiting { last } = self.state {
            self.state = after(last);
        }
    }

    /// Whether what follows is to be thrown away, since the client's last message is complete.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

struct Step {
    taken: usize,
    next: State,
}

fn after(last: bool) -> State {
    if last { State::Over } else { State::Head(Head::default()) }
}

impl Head {
    /// Reads on in a head, which begins at the first of `bytes`. None: its end has not come.
    fn read(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<Option<Step>, Refusal> {
        while let Some(offset) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + offset;
            // Checked ahead of what the line says, so that the bound is one for well-formed heads too.
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
                // Every line ends with two; more would be in a value (RFC 9110 section 5.5).
                if count_controls(&bytes[..self.line]) != 2 * (self.fields + 2 + usize::from(self.preceded)) {
                    return Err(bad(BARE_CR));
                }
                let next = self.body(version)?;
                return Ok(Some(Step { taken: self.line, next }));
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

    /// The refusal of a head that is beyond its bound: by its target, if that alone is too long. Whatever has come
    /// beyond the bound does not count, so that it is the same in pieces.
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
        // Names of these four lengths are looked at closer.
        match name.len() {
            7 if name.eq_ignore_ascii_case(UPGRADE.as_str().as_bytes()) => {
                self.upgrade |= upgrade::names_websocket(value);
            }
            10 if name.eq_ignore_ascii_case(CONNECTION.as_str().as_bytes()) => {
                for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.options += 1;
                    if self.options > MOST_CONNECTION_OPTIONS {
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

    /// What follows the head, which is complete.
    fn body(&self, version: Version) -> Result<State, Refusal> {
        let is_http_1_0 = version == Version::HTTP_10;
        // RFC 9112 section 9.3
        let last = self.close || is_http_1_0 && !self.keep_alive;
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("both Transfer-Encoding and Content-Length")),
            // RFC 9112 section 6.1: the framing of such a message is faulty.
            (true, None) if is_http_1_0 => Err(bad("Transfer-Encoding in HTTP/1.0")),
            (true, None) => {
                let at = ChunkedAt::Size { digits: 0, size: 0 };
                Ok(State::Chunked(Chunked { at, spent: 0, trailers: 0, last }))
            }
            (false, Some(left)) if left > 0 => Ok(State::Length { left, last }),
            (false, _) if self.upgrade && !is_http_1_0 => Ok(State::Awaiting { last }),
            (false, _) => Ok(after(last)),
        }
    }
}

/// What is wrong with a line that does not begin with a name and a colon.
fn not_a_field(line: &[u8]) -> Why {
    let Some(colon) = memchr(b':', line) else { return "line without a colon in the head" };
    match (line[..colon].first(), line[..colon].last()) {
        (Some(b' ' | b'\t'), _) => "folded line in the head",
        (_, Some(b' ' | b'\t')) => "white space before a colon in the head",
        _ => "malformed field name",
    }
}

/// How many of the first `bytes` are a target.
fn target(bytes: &[u8]) -> usize {
    let path = span(bytes, |byte| TARGET[usize::from(byte)] & IN_PATH != 0);
    let query = match bytes.get(path) {
        Some(b'?') => span(&bytes[path..], |byte| TARGET[usize::from(byte)] & IN_QUERY != 0),
        _ => 0,
    };
    path + query
}

/// Checks a target that did not come in a line: as long as it may be, and of characters that it may hold.
pub(super) fn check_target(bytes: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
    if target(bytes) != bytes.len() {
        return Err(bad(ODD_TARGET));
    }
    if bytes.len() > bounds.target { Err(Refusal::UriTooLong) } else { Ok(()) }
}

/// `method SP request-target SP HTTP-version` (RFC 9112 section 3), with one space each: the version.
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
    // Absolute, `*`, or what hyper would refuse with an empty answer. An authority is refused later.
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

/// Without the optional white space of RFC 9110 section 5.6.3: spaces and tabs, nothing else.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits alone, and no zero before others, which some parsers take for an octal number.
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

/// Of chunk extensions and trailers, in bytes, however large a head may be: hyper takes no more extensions.
const MOST_SPENT: usize = 16 * 1024 - 1;

impl Chunked {
    /// Reads on in a chunked body (RFC 9112 section 7.1): how many of `bytes` are its, and whether it is at its
    /// end with them.
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
            if self.spent > bounds.head.min(MOST_SPENT) {
                return Err("chunk extensions or trailers are too large");
            }
        }
        match (self.at, byte) {
            (Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                // Fifteen digits are a petabyte, and cannot overflow.
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
