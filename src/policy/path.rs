//! From a request's target to the one path that is matched and forwarded.

use std::borrow::Cow;

use super::refusal::Refusal;

/// A path in its one spelling: what the map matches is what the backend is sent, byte for byte.
///
/// Segments are separated by single `/`, none is `.` or `..`, and there is no `/` at the end but in the path
/// `/` itself. Unreserved characters (RFC 3986 section 2.3) stand for themselves, every other `%XX` as it was
/// sent in upper case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

/// A refusal's text, for the log.
type Why = &'static str;

const DOT_SEGMENT: Why = "dot segment in the path";
const EMPTY_SEGMENT: Why = "empty segment in the path";
const FRONT_CONTROLLER: Why = "path names the backend's front controller";
const NOT_ABSOLUTE: Why = "path does not begin with a slash";

impl<'a> CanonicalPath<'a> {
    /// The canonical form of a raw path (the target without its query).
    ///
    /// Allocates only where the form differs from what was sent, or for a `%25`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] where two parsers could read it differently.
    pub fn new(raw: &'a str) -> Result<Self, Refusal> {
        canonical(raw).map(Self).map_err(Refusal::BadRequest)
    }

    /// The target `*` of a server-wide OPTIONS (RFC 9112 section 3.2.4): a path that no route matches.
    pub(super) const fn asterisk() -> CanonicalPath<'static> {
        CanonicalPath(Cow::Borrowed("*"))
    }

    /// Whether this is the target `*`, before which no prefix may be put.
    pub fn is_asterisk(&self) -> bool {
        self.0 == "*"
    }

    /// The path itself, beginning with `/` unless it [is `*`](Self::is_asterisk).
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the raw path was canonical already, so that the target can be forwarded as it came.
    pub const fn is_borrowed(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }
}

/// What a byte of a raw path means.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Plain = 0,
    Percent = 1,
    Refused = 2,
}

/// RFC 3986's `pchar` but `;`, and `/`. Beside these, `|`, `[` and `]` pass: browsers send them as they are and
/// nobody reads them as anything else. All other bytes are refused rather than mended, as RFC 9112 section 3.2
/// asks for: raw bytes beyond ASCII too, for which each parser has a character set of its own.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Refused; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'%' => Class::Percent,
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
            | b'|' | b'[' | b']' => Class::Plain,
            other if is_unreserved(other) => Class::Plain,
            _ => Class::Refused,
        };
        byte += 1;
    }
    classes
};

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn canonical(raw: &str) -> Result<Cow<'_, str>, Why> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(NOT_ABSOLUTE);
    }
    let mut seen = 0;
    let mut suspicious = false;
    let mut previous = 0;
    for &byte in bytes {
        seen |= CLASSES[usize::from(byte)] as u8;
        // An empty segment, or one that begins with a dot.
        suspicious |= previous == b'/' && (byte == b'/' || byte == b'.');
        previous = byte;
    }
    if seen & Class::Refused as u8 != 0 {
        return Err(refused_byte(bytes));
    }
    let path = if seen & Class::Percent as u8 == 0 {
        Cow::Borrowed(raw)
    } else {
        suspicious = true;
        decode_unreserved(raw)?
    };
    if suspicious {
        check_segments(path.as_bytes())?;
    }
    if names_front_controller(path.as_bytes()) {
        return Err(FRONT_CONTROLLER);
    }
    match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => Ok(Cow::Owned(shorter.to_owned())),
        _ => Ok(path),
    }
}

fn refused_byte(path: &[u8]) -> Why {
    match path.iter().find(|&&byte| CLASSES[usize::from(byte)] == Class::Refused) {
        Some(b'\\') => "backslash in the path",
        Some(b';') => "path parameter",
        Some(b'#') => "fragment in the target",
        Some(b'?') => "query in the path",
        Some(byte) if !byte.is_ascii() => "raw byte beyond ASCII in the path",
        _ => "character that a path cannot hold",
    }
}

/// Refuses dot segments and empty ones but for one at the end, which is the trailing slash.
fn check_segments(path: &[u8]) -> Result<(), Why> {
    let mut segments = path[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => return Err(DOT_SEGMENT),
            b"" if segments.peek().is_some() => return Err(EMPTY_SEGMENT),
            _ => {}
        }
    }
    Ok(())
}

/// Laravel's front controller answers for any path behind it, also glued: `/index.phpapi/v2/items`.
fn names_front_controller(path: &[u8]) -> bool {
    const NAME: &[u8] = b"index.php";
    path.get(1..=NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME))
}

/// Checks every `%XX`, decodes the unreserved characters and raises the hex digits of the others.
fn decode_unreserved(raw: &str) -> Result<Cow<'_, str>, Why> {
    let bytes = raw.as_bytes();
    let mut decoded: Option<String> = None;
    let mut copied = 0;
    let mut nested = false;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            at += 1;
            continue;
        }
        let byte = percent(bytes, at)?;
        match byte {
            b'/' | b'\\' => return Err("encoded separator in the path"),
            0..0x20 | 0x7f => return Err("encoded control character in the path"),
            0x80.. => {
                let end = utf8_end(bytes, at, byte)?;
                if raw[at..end].bytes().any(|digit| digit.is_ascii_lowercase()) {
                    let text = decoded.get_or_insert_default();
                    text.push_str(&raw[copied..at]);
                    text.extend(raw[at..end].chars().map(|digit| digit.to_ascii_uppercase()));
                    copied = end;
                }
                at = end;
                continue;
            }
            b'%' => nested = true,
            _ => {}
        }
        let end = at + 3;
        let unreserved = is_unreserved(byte);
        if unreserved || raw[at..end].bytes().any(|digit| digit.is_ascii_lowercase()) {
            let text = decoded.get_or_insert_default();
            text.push_str(&raw[copied..at]);
            if unreserved {
                text.push(char::from(byte));
            } else {
                text.extend(raw[at..end].chars().map(|digit| digit.to_ascii_uppercase()));
            }
            copied = end;
        }
        at = end;
    }
    let path = match decoded {
        None => Cow::Borrowed(raw),
        Some(mut text) => {
            text.push_str(&raw[copied..]);
            Cow::Owned(text)
        }
    };
    if nested {
        check_nested(&path)?;
    }
    Ok(path)
}

/// The bytes that a segment of a canonical path stands for.
pub(super) fn decoded(segment: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *segment.get(at)?;
        let (byte, length) = percent(segment, at).map_or((byte, 1), |byte| (byte, 3));
        at += length;
        Some(byte)
    })
}

/// The byte that the `%XX` at `at` stands for.
fn percent(bytes: &[u8], at: usize) -> Result<u8, Why> {
    let digit = |offset: usize| bytes.get(at + offset).and_then(|&digit| hex(digit));
    match (bytes.get(at), digit(1), digit(2)) {
        (Some(b'%'), Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err("percent sign without two hex digits"),
    }
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Where the encoded UTF-8 character that begins at `at` with the byte `lead` ends.
fn utf8_end(bytes: &[u8], at: usize, lead: u8) -> Result<usize, Why> {
    const NOT_UTF8: Why = "path is not UTF-8 once decoded";
    let length = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(NOT_UTF8),
    };
    let mut character = [lead; 4];
    for (index, byte) in character.iter_mut().enumerate().take(length).skip(1) {
        *byte = percent(bytes, at + 3 * index).map_err(|_| NOT_UTF8)?;
    }
    match std::str::from_utf8(&character[..length]) {
        Ok(text) if text.chars().any(char::is_control) => Err("encoded control character in the path"),
        Ok(_) => Ok(at + 3 * length),
        Err(_) => Err(NOT_UTF8),
    }
}

/// Refuses what a backend that decodes more than once could read as a separator, a control character, a dot
/// segment or its front controller.
///
/// Decodes to the end in one pass: each time the last three bytes are a `%XX` they become its byte, which may
/// complete another. None of the bytes looked for can be a part of a `%XX`, so what any number of decodings
/// would show is there at the end too.
fn check_nested(path: &str) -> Result<(), Why> {
    let mut decoded: Vec<u8> = Vec::with_capacity(path.len());
    for &byte in path.as_bytes() {
        decoded.push(byte);
        while let Some(start) = decoded.len().checked_sub(3)
            && let Ok(byte) = percent(&decoded, start)
        {
            decoded.truncate(start);
            if byte == b'/' || byte == b'\\' || byte.is_ascii_control() {
                return Err("separator or control character in the path, encoded more than once");
            }
            decoded.push(byte);
        }
    }
    if names_front_controller(&decoded) {
        return Err(FRONT_CONTROLLER);
    }
    check_segments(&decoded)
}
