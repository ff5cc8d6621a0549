//! What stands for a token wherever one is kept.

use sha2::{Digest, Sha256};

/// SHA-256 of a token as it was sent: the only form in which tokens are kept. Several spellings of one
/// token have several hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of `token`.
    pub fn of(token: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(token.as_ref()).into())
    }

    /// The hash of the part that Sanctum looks for: what follows the first `|`, or the whole token without one. All
    /// spellings of one token (`17|secret`, `0017|secret`, `secret`) have this hash in common. It is not an identity:
    /// `18|secret` has it, too.
    pub fn of_secret(token: &str) -> Self {
        Self::of(token.split_once('|').map_or(token, |(_id, secret)| secret))
    }

    /// From the 32 bytes themselves.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
