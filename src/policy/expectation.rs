//! What a request expects before it sends its body (RFC 9110 section 10.1.1).

use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Version};

use super::refusal::Refusal;

/// The one expectation that there is, as the backend gets it.
pub const CONTINUE: HeaderValue = HeaderValue::from_static("100-continue");

/// Whether a request of `version` waits for a 100 before it sends its body.
///
/// # Errors
/// [`Refusal::BadRequest`] for any other expectation, or more than one. RFC 9110 has 417 for it, which nobody has
/// a use for that a 400 would not serve (section 15.5): clients have sent nothing but this one for decades.
pub fn waits(version: Version, fields: &HeaderMap) -> Result<bool, Refusal> {
    let Some(expected) = fields.get(EXPECT) else { return Ok(false) };
    if version < Version::HTTP_11 {
        // Such a client would not understand the 100.
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
    fn one_expectation_is_met_and_no_other() {
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
