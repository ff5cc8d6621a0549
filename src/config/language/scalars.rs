//! Scalars with a meaning: durations, sizes, numbers, switches, words and text.

use std::num::NonZeroU64;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Decoder, listed, nearest};
use super::document::Node;

/// Matches strings that read the environment: no schema can know their values.
pub(crate) const FROM_ENVIRONMENT: &str = r"\$\{";

/// Implements `JsonSchema` for a type whose schema stands in place of a reference to it.
macro_rules! leaf_schema {
    ($type:ty, $schema:expr) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}
pub(crate) use leaf_schema;

/// A duration, zero included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period(pub(crate) Duration);

/// A duration of more than zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Duration);

const DURATION: &str = "a duration such as `250ms`, `2s`, `5m`, `1h` or `90d`";
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("the unit is missing")]
    NoUnit,
    #[error("the value must not be negative")]
    Negative,
    #[error("use a smaller unit instead of a fraction")]
    Fraction,
    #[error("the unit is unknown")]
    Unit,
    #[error("the value must be a number with a unit")]
    Shape,
    #[error("the value is too large")]
    TooMuch,
}

/// A whole number and its unit.
fn number_and_unit(text: &str) -> Result<(u64, &str), UnitError> {
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
        return Err(UnitError::Negative);
    }
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    match unit {
        _ if number.is_empty() => Err(UnitError::Shape),
        "" => Err(UnitError::NoUnit),
        unit if unit.starts_with('.') => Err(UnitError::Fraction),
        unit => Ok((number.parse().map_err(|_| UnitError::TooMuch)?, unit)),
    }
}

/// Reads `250ms`, `2s`, `5m`, `1h` or `90d`; at most ten years.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = number_and_unit(text)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(UnitError::Unit),
    };
    let duration = Duration::from_millis(number.checked_mul(milliseconds).ok_or(UnitError::TooMuch)?);
    if duration > LONGEST { Err(UnitError::TooMuch) } else { Ok(duration) }
}

/// Reads a duration as the configuration does; `None` if it has none.
pub fn duration(text: &str) -> Option<Duration> {
    parse_duration(text).ok()
}

/// Reads `512B`, `64KiB`, `10MiB` or `1GiB` as bytes; at most 1024 GiB.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    // A number without a unit is a number of bytes.
    let (number, unit) = match number_and_unit(text) {
        Err(UnitError::NoUnit) => (text.parse().map_err(|_| UnitError::TooMuch)?, "B"),
        other => other?,
    };
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(UnitError::Unit),
    };
    number.checked_mul(bytes).filter(|&size| size <= 1 << 40).ok_or(UnitError::TooMuch)
}

fn decode_duration(node: &Node, decoder: &mut Decoder<'_>) -> Option<Duration> {
    let scalar = decoder.scalar(node, DURATION)?;
    let text = scalar.text.as_ref();
    let error = match parse_duration(text) {
        Ok(duration) => return Some(duration),
        Err(error) => error,
    };
    let hint = match error {
        UnitError::NoUnit if decoder.may_show(node) => format!("add a unit: `{text}s` or `{text}ms`"),
        UnitError::NoUnit => "add a unit".to_owned(),
        UnitError::TooMuch => "use at most ten years".to_owned(),
        UnitError::Unit => "use one number and one unit: `ms`, `s`, `m`, `h` or `d`".to_owned(),
        other => other.to_string(),
    };
    decoder.mismatch_with(node, "invalid duration", DURATION, Some(hint))
}

impl Decode for Period {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        decode_duration(node, decoder).map(Self)
    }
}

impl Decode for Timeout {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let duration = decode_duration(node, decoder)?;
        if duration.is_zero() {
            return decoder.mismatch(node, "invalid timeout", "a duration of more than zero");
        }
        Some(Self(duration))
    }
}

leaf_schema!(
    Period,
    json_schema!({"type": "string", "pattern": format!(r"^[0-9]+(ms|s|m|h|d)$|{FROM_ENVIRONMENT}")})
);

leaf_schema!(
    Timeout,
    json_schema!({"type": "string", "pattern": format!(r"^0*[1-9][0-9]*(ms|s|m|h|d)$|{FROM_ENVIRONMENT}")})
);

/// A number of bytes, at least one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl Size {
    /// The size as a length in memory.
    pub(crate) fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

fn size_hint(error: UnitError) -> String {
    match error {
        UnitError::Unit => "use one of the units `B`, `KiB`, `MiB` and `GiB`".to_owned(),
        other => other.to_string(),
    }
}

impl Decode for Size {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const SIZE: &str = "a size such as `64KiB`, or a number of bytes";
        let scalar = decoder.scalar(node, SIZE)?;
        let text = scalar.text.as_ref();
        let hint = match parse_size(text) {
            Ok(0) => "use a size of at least one byte".to_owned(),
            Ok(size) => return Some(Self(size)),
            Err(error) => size_hint(error),
        };
        decoder.mismatch_with(node, "invalid size", SIZE, Some(hint))
    }
}

leaf_schema!(
    Size,
    json_schema!({"anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": format!(r"^0*[1-9][0-9]*(B|KiB|MiB|GiB)?$|{FROM_ENVIRONMENT}")},
    ]})
);

/// A number of bytes per second; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteRate(pub(crate) Option<NonZeroU64>);

impl Decode for ByteRate {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const RATE: &str = "a number of bytes per second such as `1KiB`, or 0";
        let scalar = decoder.scalar(node, RATE)?;
        let hint = match parse_size(scalar.text.as_ref()) {
            Ok(rate) => return Some(Self(NonZeroU64::new(rate))),
            Err(error) => size_hint(error),
        };
        decoder.mismatch_with(node, "invalid rate", RATE, Some(hint))
    }
}

leaf_schema!(
    ByteRate,
    json_schema!({"anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": format!(r"^[0-9]+(B|KiB|MiB|GiB)?$|{FROM_ENVIRONMENT}")},
    ]})
);

/// The maximum of a [`Whole`] that is bounded only by its type.
pub(crate) const ANY: u32 = u32::MAX;

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<const LEAST: u32, const MOST: u32>(pub(crate) u32);

impl<const LEAST: u32, const MOST: u32> Whole<LEAST, MOST> {
    /// The number as a count of things in memory.
    pub(crate) fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Like [`count`](Self::count); `None` if it is 0.
    pub(crate) fn positive_count(self) -> Option<usize> {
        Some(self.count()).filter(|&count| count != 0)
    }
}

impl<const LEAST: u32, const MOST: u32> Decode for Whole<LEAST, MOST> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let expected = format!("a whole number from {LEAST} to {MOST}");
        let scalar = decoder.scalar(node, &expected)?;
        let number = scalar.text.parse::<u32>().ok().filter(|number| (LEAST..=MOST).contains(number));
        match number.filter(|_| !scalar.string) {
            Some(number) => Some(Self(number)),
            None => {
                let hint = (scalar.string && number.is_some()).then(|| "remove the quotes".to_owned());
                decoder.mismatch_with(node, "invalid number", expected, hint)
            }
        }
    }
}

impl<const LEAST: u32, const MOST: u32> JsonSchema for Whole<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Whole{LEAST}To{MOST}").into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"], "minimum": LEAST, "maximum": MOST, "pattern": FROM_ENVIRONMENT,
        })
    }
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio(pub(crate) f64);

impl Decode for Ratio {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const RATIO: &str = "a number from 0 to 1 such as `0.25`";
        let scalar = decoder.scalar(node, RATIO)?;
        // Digits and a point: `inf`, `nan` and exponents are numbers to Rust as well.
        let plain = scalar.text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number = scalar.text.parse::<f64>().ok().filter(|number| plain && (0.0..=1.0).contains(number));
        match number.filter(|_| !scalar.string) {
            Some(number) => Some(Self(number)),
            None => {
                let hint = (scalar.string && number.is_some()).then(|| "remove the quotes".to_owned());
                decoder.mismatch_with(node, "invalid number", RATIO, hint)
            }
        }
    }
}

leaf_schema!(
    Ratio,
    json_schema!({"type": ["number", "string"], "minimum": 0, "maximum": 1, "pattern": FROM_ENVIRONMENT})
);

/// `true` or `false`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnOff(pub(crate) bool);

impl Decode for OnOff {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const SWITCH: &str = "`true` or `false`";
        let scalar = decoder.scalar(node, SWITCH)?;
        match scalar.text.as_ref() {
            "true" | "True" | "TRUE" if !scalar.string => Some(Self(true)),
            "false" | "False" | "FALSE" if !scalar.string => Some(Self(false)),
            _ => decoder.mismatch(node, "invalid boolean", SWITCH),
        }
    }
}

leaf_schema!(OnOff, json_schema!({"type": ["boolean", "string"], "pattern": FROM_ENVIRONMENT}));

/// Reads one of `words`.
pub(crate) fn decode_word<T: Copy>(node: &Node, decoder: &mut Decoder<'_>, words: &[(&str, T)]) -> Option<T> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let expected = listed(&names);
    let text = decoder.string(node, &expected)?;
    if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
        return Some(*value);
    }
    // The word that is nearest to a secret shows most of it.
    let near = decoder.may_show(node).then(|| nearest(&text, names)).flatten();
    let near = near.map(|near| format!("did you mean `{near}`?"));
    decoder.mismatch_with(node, "invalid value", expected, near)
}

/// Implements `Decode` and `JsonSchema` for a type whose values are written as words.
macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl $crate::config::language::Decode for $type {
            fn decode(
                node: &$crate::config::language::Node,
                decoder: &mut $crate::config::language::Decoder<'_>,
            ) -> Option<Self> {
                $crate::config::language::scalars::decode_word(node, decoder, &[$(($word, $value)),*])
            }
        }

        $crate::config::language::leaf_schema!($type, schemars::json_schema!({
            "anyOf": [
                {"enum": [$($word),*]},
                {"type": "string", "pattern": $crate::config::language::FROM_ENVIRONMENT},
            ],
        }));
    };
}
pub(crate) use words;

/// Text that is not empty.
#[derive(Clone, Debug)]
pub(crate) struct Text(pub(crate) Box<str>);

impl Decode for Text {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, "text")?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return decoder.mismatch(node, "invalid text", "one non-empty line of text");
        }
        Some(Self(text.into()))
    }
}

leaf_schema!(Text, json_schema!({"type": "string", "minLength": 1}));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_number_and_a_unit() {
        let table = [
            ("250ms", Ok(Duration::from_millis(250))),
            ("0s", Ok(Duration::ZERO)),
            ("2s", Ok(Duration::from_secs(2))),
            ("5m", Ok(Duration::from_secs(300))),
            ("1h", Ok(Duration::from_secs(3600))),
            ("90d", Ok(Duration::from_secs(90 * 86_400))),
            ("3650d", Ok(LONGEST)),
            ("3651d", Err(UnitError::TooMuch)),
            ("99999999999999999999s", Err(UnitError::TooMuch)),
            ("18446744073709551615h", Err(UnitError::TooMuch)),
            ("2", Err(UnitError::NoUnit)),
            ("-2s", Err(UnitError::Negative)),
            ("1.5s", Err(UnitError::Fraction)),
            ("2 s", Err(UnitError::Unit)),
            ("2S", Err(UnitError::Unit)),
            ("1h30m", Err(UnitError::Unit)),
            ("", Err(UnitError::Shape)),
            ("s", Err(UnitError::Shape)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        let table = [
            ("512B", Ok(512)),
            ("64KiB", Ok(65_536)),
            ("10MiB", Ok(10_485_760)),
            ("1024GiB", Ok(1 << 40)),
            ("1025GiB", Err(UnitError::TooMuch)),
            ("64KB", Err(UnitError::Unit)),
            ("64", Ok(64)),
            ("-1KiB", Err(UnitError::Negative)),
            ("KiB", Err(UnitError::Shape)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in "[0-9.smhdKMGiB-]{0,30}|\\PC{0,30}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }

        #[test]
        fn durations_up_to_ten_years_are_read(seconds in 0_u64..=LONGEST.as_secs()) {
            prop_assert_eq!(parse_duration(&format!("{seconds}s")), Ok(Duration::from_secs(seconds)));
            let days = seconds / 86_400;
            prop_assert_eq!(parse_duration(&format!("{days}d")), Ok(Duration::from_secs(days * 86_400)));
        }
    }
}
