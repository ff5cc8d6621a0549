//! What introspection said about a token.

use std::sync::Arc;
use std::time::SystemTime;

use crate::policy::ability::Abilities;

/// An active token, as the introspector described it. It is what the cache holds; what it allows is decided
/// anew for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The introspected id: what limits, reports and revocation know the token by, however it was spelled.
    /// Where the introspector named none, the hex of the token's SHA-256.
    pub id: Arc<str>,
    /// The name that its owner gave it.
    pub name: Option<Arc<str>>,
    /// What it may do.
    pub abilities: Abilities,
    /// From when on it is no longer valid; none: it does not expire.
    pub expires_at: Option<SystemTime>,
    /// User or instance, in the introspector's words.
    pub context: Option<Arc<str>>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// The workspace that it belongs to.
    pub workspace_id: Option<Arc<str>>,
}

impl Verdict {
    /// Whether the token's own expiry has been reached.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }
}
