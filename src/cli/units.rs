//! Sizes and durations in the syntax of the configuration.

use std::time::Duration;

/// A number of bytes in the syntax of the configuration.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// A duration in the syntax of the configuration.
pub(super) fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(24 * 60 * 60 * 1000, "d"), (60 * 60 * 1000, "h"), (60 * 1000, "m"), (1000, "s")];
    let unit =
        units.into_iter().find(|(unit, _)| milliseconds >= *unit && milliseconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{milliseconds}ms"), |(unit, name)| format!("{}{name}", milliseconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_unit_that_divides_a_value_is_used() {
        for (bytes, text) in
            [(1, "1B"), (1023, "1023B"), (1024, "1KiB"), (1 << 40, "1024GiB"), (5 << 19, "2560KiB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (milliseconds, text) in [
            (1, "1ms"),
            (1500, "1500ms"),
            (90_000, "90s"),
            (120_000, "2m"),
            (3_600_000, "1h"),
            (172_800_000, "2d"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
