//! From the Authorization fields to one token.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::refusal::Refusal;

/// A bearer token as the caller sent it: visible ASCII, no comma. `Debug` shows nothing of it.
///
/// Wider than RFC 6750's `b64token`, which would refuse each Sanctum token for its `|`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    secret: &'a str,
    field: &'a HeaderValue,
}

impl<'a> Token<'a> {
    /// The token of a request's fields.
    ///
    /// # Errors
    /// [`Refusal::MissingToken`] where there are no Bearer credentials at all, [`Refusal::MalformedToken`]
    /// where there is anything but one well-formed token of at most `longest` bytes.
    pub fn from_fields(fields: &'a HeaderMap, longest: usize) -> Result<Self, Refusal> {
        let mut values = fields.get_all(AUTHORIZATION).iter();
        let field = values.next().ok_or(Refusal::MissingToken)?;
        if values.next().is_some() {
            return Err(Refusal::MalformedToken);
        }
        let rest = after_scheme(field.as_bytes()).ok_or(Refusal::MissingToken)?;
        let token = rest.trim_ascii_start();
        // White space other than spaces is refused as a part of the token, or for want of a space.
        let separated =
            rest.len() > token.len() && rest[..rest.len() - token.len()].iter().all(|&byte| byte == b' ');
        if !separated
            || token.is_empty()
            || token.len() > longest
            || !token.iter().all(|&byte| is_token_byte(byte))
        {
            return Err(Refusal::MalformedToken);
        }
        let secret = std::str::from_utf8(token).map_err(|_| Refusal::MalformedToken)?;
        Ok(Self { secret, field })
    }

    /// The token itself: a secret.
    pub const fn secret(&self) -> &'a str {
        self.secret
    }

    /// The Authorization field to send on: `Bearer`, one space, the token that was decided on. Marked as
    /// sensitive. Copies nothing where the caller spelled it so.
    pub fn authorization(&self) -> HeaderValue {
        const SPELLING: &[u8] = b"Bearer ";
        let sent = self.field.as_bytes();
        let mut value = if sent.len() == SPELLING.len() + self.secret.len() && sent.starts_with(SPELLING) {
            self.field.clone()
        } else {
            HeaderValue::try_from(format!("Bearer {}", self.secret)).unwrap_or_else(|_| self.field.clone())
        };
        value.set_sensitive(true);
        value
    }
}

/// Refuses several Authorization fields where no token is asked for: what passes on a `public` route passes
/// as it came, and two parsers could read two of them differently.
///
/// # Errors
/// [`Refusal::BadRequest`]
pub fn at_most_one(fields: &HeaderMap) -> Result<(), Refusal> {
    match fields.get_all(AUTHORIZATION).iter().nth(1) {
        Some(_) => Err(Refusal::BadRequest("several Authorization fields")),
        None => Ok(()),
    }
}

/// What follows the scheme `Bearer`, if that is the scheme (RFC 9110 section 11.4).
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer".len())?;
    let ends = rest.first().is_none_or(|&byte| !is_scheme_byte(byte));
    (ends && scheme.eq_ignore_ascii_case(b"Bearer")).then_some(rest)
}

/// RFC 9110 section 5.6.2, `tchar`.
const fn is_scheme_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b','
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(…)")
    }
}
