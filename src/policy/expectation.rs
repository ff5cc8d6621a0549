//! The Expect field (RFC 9110 section 10.1.1).

use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Version};

use super::refusal::Refusal;

/// The only defined expectation.
pub const CONTINUE: HeaderValue = HeaderValue::from_static("100-continue");

/// Whether the client waits for 100 (Continue) before it sends its body.
///
/// # Errors
/// [`Refusal::BadRequest`] for any other expectation, or more than one. A 400 serves as well as the 417 of RFC 9110
/// section 15.5.18, since clients send no other expectation.
pub fn waits(version: Version, fields: &HeaderMap) -> Result<bool, Refusal> {
    let Some(expected) = fields.get(EXPECT) else { return Ok(false) };
    if version < Version::HTTP_11 {
        // RFC 9110 section 10.1.1: the expectation of an HTTP/1.0 client is ignored, since it does not know the 100.
        return Ok(false);
    }
    let is_only = fields.get_all(EXPECT).iter().nth(1).is_none();
    if is_only && expected.as_bytes().eq_ignore_ascii_case(CONTINUE.as_bytes()) {
        Ok(true)
    } else {
        Err(Refusal::BadRequest("Expect other than `100-continue`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_100_continue_is_accepted() {
        let refused = Err(Refusal::BadRequest("Expect other than `100-continue`"));
        for (version, lines, expected) in [
            (Version::HTTP_11, &[][..], Ok(false)),
            (Version::HTTP_11, &["100-continue"], Ok(true)),
            (Version::HTTP_11, &["100-Continue"], Ok(true)),
            (Version::HTTP_2, &["100-continue"], Ok(true)),
            (Version::HTTP_10, &["100-continue"], Ok(false)),
            (Version::HTTP_10, &["evil"], Ok(false)),
            (Version::HTTP_11, &[""], refused.clone()),
            (Version::HTTP_11, &["evil"], refused.clone()),
            (Version::HTTP_11, &["100-continue;q=1"], refused.clone()),
            (Version::HTTP_11, &["100-continue, evil"], refused.clone()),
            (Version::HTTP_11, &["100-continue, 100-continue"], refused.clone()),
            (Version::HTTP_11, &["100-continue", "100-continue"], refused.clone()),
            (Version::HTTP_11, &["100-continue", "evil"], refused.clone()),
        ] {
            let fields = lines.iter().map(|line| (EXPECT, HeaderValue::from_static(line))).collect();
            assert_eq!(waits(version, &fields), expected, "{version:?} {lines:?}");
        }
    }
}
