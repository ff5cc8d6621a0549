//! The timestamp of a line: RFC 3339 in UTC with microseconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-30T03:04:50.123456Z`
pub(super) const LENGTH: usize = 27;

/// The length of the part that changes once per second: `2026-11-30T03:04:50`.
const SECONDS: usize = 19;

/// Formats timestamps. Date and time are formatted only when the second changes.
#[derive(Debug)]
pub(super) struct Timestamp {
    second: u64,
    text: [u8; LENGTH],
}

impl Default for Timestamp {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000000Z" }
    }
}

impl Timestamp {
    /// The text of a time. For a clock before 1970 or after 9999, the last valid time.
    pub(super) fn at(&mut self, time: SystemTime) -> &[u8; LENGTH] {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if second != self.second
            && let Ok(seconds) = i64::try_from(second)
            && let Ok(time) = jiff::Timestamp::from_second(seconds)
            && let Some(text) = time.to_string().as_bytes().get(..SECONDS)
        {
            self.second = second;
            self.text[..SECONDS].copy_from_slice(text);
        }
        let mut micros = since.subsec_micros();
        for digit in self.text[SECONDS + 1..LENGTH - 1].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc_3339_with_microseconds() {
        let mut timestamp = Timestamp::default();
        for (seconds, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (1_796_007_890, 123_456, "2026-11-30T03:04:50.123456Z"),
            (1_796_007_890, 7, "2026-11-30T03:04:50.000007Z"),
            (1_796_007_891, 999_999, "2026-11-30T03:04:51.999999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, micros * 1000);
            assert_eq!(std::str::from_utf8(timestamp.at(time)).unwrap(), expected);
        }
    }
}
