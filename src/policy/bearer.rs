//! Extracts the bearer token from the Authorization field.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::framing::is_token_byte;
use super::refusal::Refusal;

/// A bearer token as the client sent it: visible ASCII without a comma. `Debug` does not show it.
///
/// It borrows the received bytes, which belong to hyper: they are freed with the request's fields, not zeroed. The same
/// holds for what hyper writes to the backend and to the introspector. Every copy that the gateway makes is zeroed when
/// dropped: at the end of the request, its tunnel, or the introspection that the request started. Only the SHA-256 is
/// kept.
///
/// The syntax is wider than RFC 6750's `b64token`, which excludes the `|` of Sanctum's tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    secret: &'a [u8],
    field: &'a HeaderValue,
}

/// The spelling of the scheme in forwarded fields.
const SCHEME: &[u8] = b"Bearer ";

impl<'a> Token<'a> {
    /// Extracts the token from a request's fields.
    ///
    /// # Errors
    /// [`Refusal::MissingToken`] without Bearer credentials; [`Refusal::MalformedToken`] for anything but one well-formed
    /// token of at most `longest` bytes.
    pub fn from_fields(fields: &'a HeaderMap, longest: usize) -> Result<Self, Refusal> {
        let mut values = fields.get_all(AUTHORIZATION).iter();
        let field = values.next().ok_or(Refusal::MissingToken)?;
        if values.next().is_some() {
            return Err(Refusal::MalformedToken);
        }
        let rest = after_scheme(field.as_bytes()).ok_or(Refusal::MissingToken)?;
        let token = rest.trim_ascii_start();
        // Other white space fails one of the next two checks: it is part of the token, or no space precedes the token.
        let separated =
            rest.len() > token.len() && rest[..rest.len() - token.len()].iter().all(|&byte| byte == b' ');
        if !separated || token.is_empty() || token.len() > longest || !are_token_bytes(token) {
            return Err(Refusal::MalformedToken);
        }
        Ok(Self { secret: token, field })
    }

    /// The token itself, which is secret.
    pub fn secret(&self) -> &'a str {
        // Cannot fail: the token is ASCII.
        std::str::from_utf8(self.secret).unwrap_or_default()
    }

    /// The token as bytes, for hashing.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.secret
    }

    /// The Authorization field to forward: `Bearer`, one space, the token. It is marked as sensitive. Copies nothing if
    /// the client used the same spelling.
    pub fn authorization(&self) -> HeaderValue {
        let sent = self.field.as_bytes();
        let mut value = if sent.len() == SCHEME.len() + self.secret.len() && sent.starts_with(SCHEME) {
            self.field.clone()
        } else {
            let field = Zeroizing::new([SCHEME, self.secret].concat());
            HeaderValue::from_maybe_shared(Bytes::from_owner(field)).unwrap_or_else(|_| self.field.clone())
        };
        value.set_sensitive(true);
        value
    }
}

/// A token that outlives its request, such as that of a tunnel. Zeroed when dropped.
pub struct KeptToken(HeaderValue);

impl KeptToken {
    /// Copies a [forwarded Authorization field](Token::authorization).
    pub fn new(authorization: &HeaderValue) -> Self {
        let copy = Zeroizing::new(authorization.as_bytes().to_vec());
        let mut field =
            HeaderValue::from_maybe_shared(Bytes::from_owner(copy)).unwrap_or_else(|_| authorization.clone());
        field.set_sensitive(true);
        Self(field)
    }

    /// The token.
    pub fn token(&self) -> Token<'_> {
        let secret = self.0.as_bytes().get(SCHEME.len()..).unwrap_or_default();
        Token { secret, field: &self.0 }
    }
}

/// Refuses several Authorization fields on a `public` route. They are forwarded unchanged there, and two parsers could
/// read different ones.
///
/// # Errors
/// [`Refusal::BadRequest`]
pub fn at_most_one(fields: &HeaderMap) -> Result<(), Refusal> {
    match fields.get_all(AUTHORIZATION).iter().nth(1) {
        Some(_) => Err(Refusal::BadRequest("several Authorization fields")),
        None => Ok(()),
    }
}

/// The text after the scheme, if the scheme is `Bearer` (RFC 9110 section 11.4).
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer".len())?;
    let ends = rest.first().is_none_or(|&byte| !is_token_byte(byte));
    (ends && scheme.eq_ignore_ascii_case(b"Bearer")).then_some(rest)
}

/// Whether all bytes are visible ASCII other than a comma. Without an early return, so that the compiler vectorizes it.
fn are_token_bytes(bytes: &[u8]) -> bool {
    let mut odd = false;
    for &byte in bytes {
        odd |= !byte.is_ascii_graphic() | (byte == b',');
    }
    !odd
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(values: &[&[u8]]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn exactly_one_well_formed_token_is_accepted() {
        const LONGEST: usize = 12;
        let missing = Err(Refusal::MissingToken);
        let malformed = Err(Refusal::MalformedToken);
        for (values, expected) in [
            (&[][..], missing.clone()),
            (&[&b"Bearer 17|abc"[..]], Ok("17|abc")),
            (&[b"bearer 17|abc"], Ok("17|abc")),
            (&[b"BEARER 17|abc"], Ok("17|abc")),
            (&[b"bEaReR    17|abc"], Ok("17|abc")),
            (&[b"Bearer !\"#$%&'()*+-"], Ok("!\"#$%&'()*+-")),
            (&[b"Bearer ~"], Ok("~")),
            (&[b"Bearer 123456789012"], Ok("123456789012")),
            (&[b"Bearer 1234567890123"], malformed.clone()),
            // No Bearer credentials.
            (&[b""], missing.clone()),
            (&[b"Basic dTpw"], missing.clone()),
            (&[b"Bear er"], missing.clone()),
            (&[b"Bearers abc"], missing.clone()),
            (&[b"Bearer17|abc"], missing.clone()),
            (&[b"Token Bearer abc"], missing.clone()),
            (&[b"17|abc"], missing.clone()),
            // Not exactly one well-formed token.
            (&[b"Bearer"], malformed.clone()),
            (&[b"Bearer "], malformed.clone()),
            (&[b"Bearer   "], malformed.clone()),
            (&[b"Bearer\tabc"], malformed.clone()),
            (&[b"Bearer \tabc"], malformed.clone()),
            (&[b"Bearer \t"], malformed.clone()),
            (&[b"Bearer abc "], malformed.clone()),
            (&[b"Bearer abc\t"], malformed.clone()),
            (&[b"Bearer abc def"], malformed.clone()),
            (&[b"Bearer abc,def"], malformed.clone()),
            (&[b"Bearer ,abc"], malformed.clone()),
            (&[b"Bearer a, Bearer b"], malformed.clone()),
            (&[b"Bearer Bearer b"], malformed.clone()),
            (&[b"Bearer, abc"], malformed.clone()),
            (&[b"Bearer=abc"], malformed.clone()),
            (&[b"Bearer \xc3\xa9"], malformed.clone()),
            (&[b"Bearer \xff"], malformed.clone()),
            (&[b"Bearer abc", b"Bearer abc"], malformed.clone()),
            (&[b"Bearer abc", b"Basic dTpw"], malformed.clone()),
            (&[b"Basic dTpw", b"Bearer abc"], malformed.clone()),
        ] {
            let fields = fields(values);
            let shown: Vec<_> = values.iter().map(|value| value.escape_ascii().to_string()).collect();
            assert_eq!(
                Token::from_fields(&fields, LONGEST).map(|token| token.secret()),
                expected,
                "{shown:?}"
            );
        }
    }

    #[test]
    fn token_is_forwarded_in_one_spelling() {
        for value in [&b"Bearer 17|abc"[..], b"bearer 17|abc", b"Bearer    17|abc", b"BEARER  17|abc"] {
            let fields = fields(&[value]);
            let sent = Token::from_fields(&fields, 99).unwrap().authorization();
            assert_eq!(sent, "Bearer 17|abc");
            assert!(sent.is_sensitive());
        }
    }

    #[test]
    fn kept_token_equals_the_original() {
        let fields = fields(&[b"bearer  17|abc"]);
        let kept = KeptToken::new(&Token::from_fields(&fields, 99).unwrap().authorization());
        assert_eq!(kept.token().secret(), "17|abc");
        assert_eq!(kept.token().authorization(), "Bearer 17|abc");
        assert!(kept.token().authorization().is_sensitive());
    }

    #[test]
    fn second_authorization_field_is_refused_on_public_routes() {
        assert_eq!(at_most_one(&fields(&[])), Ok(()));
        assert_eq!(at_most_one(&fields(&[b"Basic dTpw, Bearer x"])), Ok(()));
        let refusal = at_most_one(&fields(&[b"Bearer a", b"Bearer a"])).unwrap_err();
        assert!(matches!(refusal, Refusal::BadRequest(_)));
    }

    proptest! {
        #[test]
        fn debug_hides_the_token(secret in "[!-+\\--~]{1,40}") {
            let fields = fields(&[format!("Bearer {secret}").as_bytes()]);
            let token = Token::from_fields(&fields, 40).unwrap();
            prop_assert_eq!(token.secret(), &secret);
            prop_assert_eq!(format!("{token:?} {token:#?}"), "Token(…) Token(…)");
        }

        #[test]
        fn accepted_token_is_the_text_after_the_scheme(value in "(?i:bearer)?[ -~]{0,30}") {
            let fields = fields(&[value.as_bytes()]);
            if let Ok(token) = Token::from_fields(&fields, 30) {
                let (scheme, rest) = value.split_once(' ').unwrap();
                prop_assert!(scheme.eq_ignore_ascii_case("bearer"));
                prop_assert_eq!(rest.trim_start_matches(' '), token.secret());
                prop_assert!(!token.secret().contains([' ', ',']));
            }
        }
    }
}
