//! W3C Trace Context: parses and writes `traceparent`.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::field_values::only;

/// `traceparent`
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The sender may have recorded the trace (section 3.2.2.5.1).
const SAMPLED: u8 = 1;
/// The trace's id is random (Level 2, section 2.2.2.5.2). The flag is propagated.
const RANDOM: u8 = 2;

/// The length of `traceparent` in version 00, in bytes.
const LENGTH: usize = 55;

/// A trace and its current span, the parent of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The id of the trace; not 0.
    pub trace: u128,
    /// The id of the span; not 0.
    pub span: u64,
    flags: u8,
}

impl TraceContext {
    /// A new trace. The ids must not be 0.
    pub const fn new(trace: u128, span: u64, sampled: bool) -> Self {
        Self { trace, span, flags: sampled as u8 }
    }

    /// Parses `traceparent` (section 3.2). `None` if the field is missing, malformed or repeated; `tracestate` must be
    /// ignored then.
    pub fn read(fields: &HeaderMap) -> Option<Self> {
        let (text, rest) = only(fields, &TRACEPARENT)?.as_bytes().split_first_chunk::<LENGTH>()?;
        if [2, 35, 52].iter().any(|&place| text[place] != b'-') {
            return None;
        }
        // Later versions may have more fields after another dash.
        let fits = match hexadecimal(&text[..2])? {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let trace = hexadecimal(&text[3..35]).filter(|&trace| trace != 0)?;
        let span = u64::try_from(hexadecimal(&text[36..52])?).ok().filter(|&span| span != 0)?;
        let flags = u8::try_from(hexadecimal(&text[53..])?).ok()? & (SAMPLED | RANDOM);
        fits.then_some(Self { trace, span, flags })
    }

    /// Whether the `sampled` flag is set.
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The known flags.
    pub const fn flags(self) -> u8 {
        self.flags
    }

    /// The same trace with another current span.
    pub const fn below(self, span: u64, sampled: bool) -> Self {
        Self { span, flags: self.flags & RANDOM | sampled as u8, ..self }
    }

    /// The value of `traceparent`.
    pub fn field(self) -> HeaderValue {
        let Self { trace, span, flags } = self;
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hexadecimal(&mut text[3..35], trace);
        write_hexadecimal(&mut text[36..52], span.into());
        write_hexadecimal(&mut text[53..], flags.into());
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("00"))
    }
}

/// Parses hexadecimal digits in lower case (section 3.2.2).
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn write_hexadecimal(text: &mut [u8], number: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (place, byte) in text.iter_mut().rev().enumerate() {
        *byte = DIGITS[(number >> (4 * place) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Option<TraceContext> {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(TRACEPARENT, line.parse().unwrap());
        }
        TraceContext::read(&fields)
    }

    #[test]
    fn traceparent_is_parsed_or_ignored() {
        let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        let known = |flags| Some(TraceContext { trace, span: 0x00f0_67aa_0ba9_02b7, flags });
        for (line, expected) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", known(1)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", known(0)),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", known(3)),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02", known(2)),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", known(1)),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", None),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01", None),
            ("", None),
        ] {
            assert_eq!(read(&[line]), expected, "{line}");
        }
        let line = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!((read(&[]), read(&[line, line])), (None, None), "a repeated field is ambiguous");
        assert_eq!(known(3).unwrap().below(1, false), TraceContext { trace, span: 1, flags: 2 });
    }

    proptest! {
        #[test]
        fn field_and_read_are_inverse(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let context = TraceContext::new(trace, span, sampled);
            prop_assert_eq!(read(&[context.field().to_str().unwrap()]), Some(context));
            prop_assert_eq!(context.is_sampled(), sampled);
        }

        #[test]
        fn read_never_panics(line in "[0-9a-f-]{0,60}") {
            let _ = read(&[&line]);
        }
    }
}
