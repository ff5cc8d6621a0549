//! The values of a line's fields: escaped, bounded, and never the start of another line.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::net::IpAddr;

/// The end of a truncated value.
const CUT: &str = "…";

/// Appends a string that needs no escapes, in quotes.
#[inline]
pub(super) fn plain(buffer: &mut Vec<u8>, text: &[u8]) {
    buffer.push(b'"');
    buffer.extend_from_slice(text);
    buffer.push(b'"');
}

/// Appends a string in quotes, escaped as JSON. DEL and the C1 controls are escaped as well, so that no value controls
/// a terminal.
pub(super) fn text(buffer: &mut Vec<u8>, text: &str) {
    buffer.push(b'"');
    escape(buffer, text);
    buffer.push(b'"');
}

/// Like [`text`], for at most `most` bytes.
pub(super) fn bounded_text(buffer: &mut Vec<u8>, text: &str, most: usize) {
    if text.len() <= most && is_plain_ascii(text.as_bytes()) {
        return plain(buffer, text.as_bytes());
    }
    buffer.push(b'"');
    let end = text.floor_char_boundary(most);
    escape(buffer, &text[..end]);
    if end < text.len() {
        escape(buffer, CUT);
    }
    buffer.push(b'"');
}

/// Like [`bounded_text`], for bytes. Invalid UTF-8 becomes U+FFFD.
pub(super) fn bounded_bytes(buffer: &mut Vec<u8>, bytes: &[u8], most: usize) {
    if bytes.len() <= most && is_plain_ascii(bytes) {
        return plain(buffer, bytes);
    }
    buffer.push(b'"');
    let shown = bytes.get(..most).unwrap_or(bytes);
    let mut chunks = shown.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        escape(buffer, chunk.valid());
        // Truncating within a character is not an error.
        let is_cut = chunks.peek().is_none() && shown.len() < bytes.len();
        if !chunk.invalid().is_empty() && !is_cut {
            escape(buffer, "\u{fffd}");
        }
    }
    if shown.len() < bytes.len() {
        escape(buffer, CUT);
    }
    buffer.push(b'"');
}

/// Like [`bounded_text`], for the `Display` form of a value.
pub(super) fn bounded_display(buffer: &mut Vec<u8>, value: &dyn Display, most: usize) {
    buffer.push(b'"');
    let mut bounded = Bounded { buffer, left: most, is_cut: false };
    // Writing to memory does not fail; a value whose `Display` fails is truncated.
    let _ = write!(bounded, "{value}");
    buffer.push(b'"');
}

struct Bounded<'a> {
    buffer: &'a mut Vec<u8>,
    left: usize,
    is_cut: bool,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut {
            return Ok(());
        }
        let end = text.floor_char_boundary(self.left);
        escape(self.buffer, &text[..end]);
        self.left -= end;
        if end < text.len() {
            self.is_cut = true;
            escape(self.buffer, CUT);
        }
        Ok(())
    }
}

/// Whether text is ASCII with nothing to escape, as nearly every value is. Without a branch per byte, so that the
/// compiler compares 16 bytes at once.
fn is_plain_ascii(bytes: &[u8]) -> bool {
    let is_special = |byte: u8| !matches!(byte, 0x20..0x7f) | (byte == b'"') | (byte == b'\\');
    let (chunks, rest) = bytes.as_chunks::<16>();
    let has_special = |chunk: &[u8; 16]| chunk.iter().fold(false, |found, byte| found | is_special(*byte));
    let mut last = [b' '; 16];
    last[..rest.len()].copy_from_slice(rest);
    !chunks.iter().any(has_special) && !has_special(&last)
}

fn escape(buffer: &mut Vec<u8>, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (index, byte) in bytes.iter().enumerate() {
        let (escaped, length) = match *byte {
            b'"' | b'\\' | ..0x20 | 0x7f => (*byte, 1),
            // UTF-8 encodes the C1 controls as 0xC2 followed by their code.
            0xc2 if bytes.get(index + 1).is_some_and(|next| *next < 0xa0) => (bytes[index + 1], 2),
            _ => continue,
        };
        buffer.extend_from_slice(&bytes[plain..index]);
        plain = index + length;
        match escaped {
            b'"' | b'\\' => buffer.extend_from_slice(&[b'\\', escaped]),
            b'\n' => buffer.extend_from_slice(b"\\n"),
            b'\r' => buffer.extend_from_slice(b"\\r"),
            b'\t' => buffer.extend_from_slice(b"\\t"),
            _ => {
                let digits = [DIGITS[usize::from(escaped >> 4)], DIGITS[usize::from(escaped & 15)]];
                buffer.extend_from_slice(b"\\u00");
                buffer.extend_from_slice(&digits);
            }
        }
    }
    buffer.extend_from_slice(&bytes[plain..]);
}

/// Appends a number in decimal.
#[inline]
pub(super) fn number(buffer: &mut Vec<u8>, number: u64) {
    match number {
        0..10 => buffer.push(digit(number)),
        10..100 => buffer.extend_from_slice(&[digit(number / 10), digit(number % 10)]),
        100..1000 => buffer.extend_from_slice(&three_digits(number)),
        _ => long_number(buffer, number),
    }
}

fn long_number(buffer: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] = digit(number % 10);
        number /= 10;
    }
    buffer.extend_from_slice(&digits[start..]);
}

const fn digit(value: u64) -> u8 {
    b'0' + value as u8
}

/// The digits of a number below 1000.
const fn three_digits(number: u64) -> [u8; 3] {
    [digit(number / 100), digit(number / 10 % 10), digit(number % 10)]
}

/// Appends an address in its `Display` form.
pub(super) fn address(buffer: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            number(buffer, first.into());
            for octet in rest {
                buffer.push(b'.');
                number(buffer, octet.into());
            }
        }
        // Writing to memory does not fail.
        IpAddr::V6(address) => drop(write!(buffer, "{address}")),
    }
}

/// Appends an address with a port in the `Display` form of [`std::net::SocketAddr`].
pub(super) fn socket_address(buffer: &mut Vec<u8>, ip: IpAddr, port: u16) {
    if ip.is_ipv4() {
        address(buffer, ip);
    } else {
        buffer.push(b'[');
        address(buffer, ip);
        buffer.push(b']');
    }
    buffer.push(b':');
    number(buffer, port.into());
}

/// Appends a duration in milliseconds with three decimals.
pub(super) fn milliseconds(buffer: &mut Vec<u8>, duration: std::time::Duration) {
    let micros = u64::from(duration.subsec_micros());
    number(buffer, duration.as_secs().saturating_mul(1000).saturating_add(micros / 1000));
    let [first, second, third] = three_digits(micros % 1000);
    buffer.extend_from_slice(&[b'.', first, second, third]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut buffer = Vec::new();
        write(&mut buffer);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn every_control_is_escaped() {
        for code in (0..0x20).chain(0x7f..0xa0).chain([0x22, 0x5c]) {
            let char = char::from_u32(code).unwrap();
            let json = written(|buffer| text(buffer, &format!("a{char}b")));
            assert!(json.starts_with("\"a\\") && json.is_ascii(), "{code:x}: {json}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), format!("a{char}b"), "{code:x}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        for (value, most, expected) in [
            ("abc", 3, "\"abc\""),
            ("abcd", 3, "\"abc…\""),
            ("aé", 2, "\"a…\""),
            ("aé", 3, "\"aé\""),
            ("", 0, "\"\""),
            ("a", 0, "\"…\""),
        ] {
            assert_eq!(written(|buffer| bounded_text(buffer, value, most)), expected);
            assert_eq!(written(|buffer| bounded_bytes(buffer, value.as_bytes(), most)), expected);
            assert_eq!(written(|buffer| bounded_display(buffer, &value, most)), expected);
        }
        let pieces = format_args!("{}{}{}", "ab", "cd", "ef");
        assert_eq!(written(|buffer| bounded_display(buffer, &pieces, 3)), "\"abc…\"");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        for (bytes, expected) in [
            (&b"a\xffb"[..], "\"a\u{fffd}b\""),
            (b"\xc3", "\"\u{fffd}\""),
            (b"\xc2\x9b2J", "\"\\u009b2J\""),
            (b"\x9b2J", "\"\u{fffd}2J\""),
        ] {
            assert_eq!(written(|buffer| bounded_bytes(buffer, bytes, 9)), expected);
        }
    }

    #[test]
    fn numbers_and_durations_are_formatted() {
        for value in [0, 7, 10, 65_535, u64::MAX] {
            assert_eq!(written(|buffer| number(buffer, value)), value.to_string());
        }
        for (micros, expected) in [(0, "0.000"), (5, "0.005"), (1_234, "1.234"), (60_000_000, "60000.000")] {
            assert_eq!(written(|buffer| milliseconds(buffer, Duration::from_micros(micros))), expected);
        }
        let longest = written(|buffer| milliseconds(buffer, Duration::MAX));
        assert!(serde_json::from_str::<f64>(&longest).is_ok(), "{longest}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_becomes_one_json_string(value in "\\PC{0,20}|[\\x00-\\u{ff}]{0,20}") {
            let json = written(|buffer| text(buffer, &value));
            prop_assert!(!json.chars().any(char::is_control));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
        }

        #[test]
        fn plain_text_is_written_like_escaped_text(value in "[ -~]{0,40}|[\\x1f-\u{a0}]{0,40}") {
            let escaped = written(|buffer| text(buffer, &value));
            prop_assert_eq!(&written(|buffer| bounded_text(buffer, &value, 400)), &escaped);
            prop_assert_eq!(&written(|buffer| bounded_bytes(buffer, value.as_bytes(), 400)), &escaped);
        }

        #[test]
        fn arbitrary_bytes_become_one_json_string(bytes: Vec<u8>, most in 0_usize..40) {
            let json = written(|buffer| bounded_bytes(buffer, &bytes, most));
            let read: String = serde_json::from_str(&json).unwrap();
            prop_assert!(read.chars().count() <= most + 1);
            prop_assert!(!json.chars().any(char::is_control));
        }
    }
}
