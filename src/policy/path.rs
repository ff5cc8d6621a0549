//! Canonicalises the path of a request for matching and forwarding.

use std::borrow::Cow;

use super::refusal::Refusal;

/// A path in its canonical spelling. The gateway matches and forwards the same bytes.
///
/// Single `/` separate the segments, no segment is `.` or `..`, and only the path `/` ends with `/`. Unreserved
/// characters (RFC 3986 section 2.3) are decoded. Other `%XX` are kept, with hex digits in upper case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath<'a> {
    text: Cow<'a, str>,
    names_front_controller: bool,
}

/// The reason of a refusal, for the log.
type Why = &'static str;

const DOT_SEGMENT: Why = "dot segment in the path";
const EMPTY_SEGMENT: Why = "empty segment in the path";
const NOT_ABSOLUTE: Why = "path does not begin with a slash";

impl<'a> CanonicalPath<'a> {
    /// Canonicalises a raw path, the target without its query.
    ///
    /// Allocates only if the canonical form differs from `raw`, or for a `%25`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] if two parsers could read the path differently.
    pub fn new(raw: &'a str) -> Result<Self, Refusal> {
        canonical(raw).map_err(Refusal::BadRequest)
    }

    /// The target `*` of a server-wide OPTIONS (RFC 9112 section 3.2.4). No route matches it.
    pub(super) const fn asterisk() -> CanonicalPath<'static> {
        CanonicalPath { text: Cow::Borrowed("*"), names_front_controller: false }
    }

    /// Copies the text.
    pub fn into_owned(self) -> CanonicalPath<'static> {
        let Self { text, names_front_controller } = self;
        CanonicalPath { text: Cow::Owned(text.into_owned()), names_front_controller }
    }

    /// Whether this is the target `*`, which must not get a path prefix.
    pub fn is_asterisk(&self) -> bool {
        self.text == "*"
    }

    /// The path. It begins with `/` unless it [is `*`](Self::is_asterisk).
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a segment begins with `index.php`, in any case and with any number of encodings.
    ///
    /// Laravel's front controller handles any path after it, also without a separator (`/index.phpapi/v2/items`) and in
    /// the subdirectory of an application. So the request is refused unless the route
    /// [has the segment as a literal](super::map::AbilityMap::check_path).
    pub const fn names_front_controller(&self) -> bool {
        self.names_front_controller
    }

    /// Whether the raw path was canonical, so that the target can be forwarded unchanged.
    pub const fn is_borrowed(&self) -> bool {
        matches!(self.text, Cow::Borrowed(_))
    }
}

/// The class of a byte in a raw path.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Plain = 0,
    Percent = 1,
    Refused = 2,
    /// A path without one has neither a dot segment nor `index.php`.
    Dot = 4,
}

/// The accepted bytes: `/` and RFC 3986's `pchar` without `;`, and also `|`, `[` and `]`, which browsers send unencoded
/// and no parser gives another meaning. All other bytes are refused rather than repaired (RFC 9112 section 3.2). So are
/// raw bytes beyond ASCII, for which parsers assume different character sets.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Refused; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'%' => Class::Percent,
            b'.' => Class::Dot,
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

fn canonical(raw: &str) -> Result<CanonicalPath<'_>, Why> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(NOT_ABSOLUTE);
    }
    let mut seen = 0;
    let mut has_empty_segment = false;
    let mut previous = 0;
    for &byte in bytes {
        seen |= CLASSES[usize::from(byte)] as u8;
        has_empty_segment |= previous == b'/' && byte == b'/';
        previous = byte;
    }
    if seen & Class::Refused as u8 != 0 {
        return Err(refused_byte(bytes));
    }
    let (mut text, mut names_front_controller) =
        if seen & Class::Percent as u8 == 0 { (Cow::Borrowed(raw), false) } else { decode_unreserved(raw)? };
    if has_empty_segment || seen & (Class::Percent as u8 | Class::Dot as u8) != 0 {
        names_front_controller |= check_segments(text.as_bytes())?;
    }
    if let Some(shorter) = text.strip_suffix('/')
        && !shorter.is_empty()
    {
        text = Cow::Owned(shorter.to_owned());
    }
    Ok(CanonicalPath { text, names_front_controller })
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

/// Refuses dot segments, and empty segments except the last, which is a trailing slash. Returns whether a segment names
/// the front controller.
fn check_segments(path: &[u8]) -> Result<bool, Why> {
    let mut names_front_controller = false;
    let mut segments = path[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => return Err(DOT_SEGMENT),
            b"" if segments.peek().is_some() => return Err(EMPTY_SEGMENT),
            _ => names_front_controller |= begins_with_front_controller(segment),
        }
    }
    Ok(names_front_controller)
}

fn begins_with_front_controller(segment: &[u8]) -> bool {
    const NAME: &[u8] = b"index.php";
    segment.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME))
}

/// Whether a segment of a canonical path names the front controller after any number of decodings.
pub(super) fn is_front_controller(segment: &[u8]) -> bool {
    begins_with_front_controller(segment)
        || decode_fully(segment, |_| Ok(())).is_ok_and(|decoded| begins_with_front_controller(&decoded))
}

/// Checks every `%XX`, decodes unreserved characters and converts the hex digits of others to upper case. Returns whether
/// further decoding would reveal the name of the front controller.
fn decode_unreserved(raw: &str) -> Result<(Cow<'_, str>, bool), Why> {
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
    let names_front_controller = nested && check_nested(&path)?;
    Ok((path, names_front_controller))
}

/// The percent-decoded bytes of a segment of a canonical path.
pub fn decoded(segment: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *segment.get(at)?;
        let (byte, length) = percent(segment, at).map_or((byte, 1), |byte| (byte, 3));
        at += length;
        Some(byte)
    })
}

/// Decodes the `%XX` at `at`.
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

/// The end of the percent-encoded UTF-8 character that begins at `at` with the byte `lead`.
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

/// Refuses a path in which a backend that decodes more than once could find a separator, a control character or a dot
/// segment. Returns whether it could find the name of the front controller.
fn check_nested(path: &str) -> Result<bool, Why> {
    let decoded = decode_fully(path.as_bytes(), |byte| {
        if byte == b'/' || byte == b'\\' || byte.is_ascii_control() {
            return Err("separator or control character in the path, encoded more than once");
        }
        Ok(())
    })?;
    check_segments(&decoded)
}

/// Decodes a path until no `%XX` is left, in one pass: whenever the last three bytes are a `%XX`, the decoded byte
/// replaces them and may complete another `%XX`. `check` is called with each decoded byte.
///
/// The final form is sufficient for the callers: no byte that they search for can be part of a `%XX`, so what an
/// intermediate decoding would show is still there at the end.
fn decode_fully(path: &[u8], check: impl Fn(u8) -> Result<(), Why>) -> Result<Vec<u8>, Why> {
    let mut decoded: Vec<u8> = Vec::with_capacity(path.len());
    for &byte in path {
        decoded.push(byte);
        while let Some(start) = decoded.len().checked_sub(3)
            && let Ok(byte) = percent(&decoded, start)
        {
            decoded.truncate(start);
            check(byte)?;
            decoded.push(byte);
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests;
