//! From the Authorization fields to one token.

use http::HeaderMap;

use super::refusal::Refusal;

/// A bearer token as the caller sent it: visible ASCII, no comma. `Debug` shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a>(&'a str);

impl<'a> Token<'a> {
    /// The token of a request's fields.
    ///
    /// # Errors
    /// [`Refusal::MissingToken`] where there are no Bearer credentials at all, [`Refusal::MalformedToken`]
    /// where there is anything but one well-formed token of at most `longest` bytes.
    pub fn from_fields(fields: &'a HeaderMap, longest: usize) -> Result<Self, Refusal> {
        let _ = (fields, longest);
        Err(Refusal::MissingToken)
    }

    /// The token itself: a secret.
    pub const fn secret(&self) -> &'a str {
        self.0
    }
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(…)")
    }
}
