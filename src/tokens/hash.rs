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

    /// The hash that spellings of one Sanctum token have in common. The database compares what precedes the first `|` as a
    /// number: `17|secret`, `0017|secret` and `17x|secret` are one token. It is not an identity: which spellings the
    /// introspector takes is its own business, and a bare `secret` has a hash of its own.
    pub fn of_spelling(token: &str) -> Self {
        let Some((id, secret)) = token.split_once('|') else { return Self::of(token) };
        let number = id.trim_start_matches(['+', '0']);
        let end = number.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(number.len());
        let number = if end == 0 { id } else { &number[..end] };
        let mut hash = Sha256::new();
        for part in [number, "|", secret] {
            hash.update(part);
        }
        Self(hash.finalize().into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_token_have_one_hash() {
        let of = TokenHash::of_spelling;
        for same in ["017|x", "00000017|x", "+17|x", "17abc|x", "17.0|x", "017 |x"] {
            assert_eq!(of(same), of("17|x"), "{same}");
        }
        for other in ["18|x", "17|y", "170|x", "x", "|x", "17|x|", "a17|x"] {
            assert_ne!(of(other), of("17|x"), "{other}");
        }
        assert_ne!(of("9c2d|x"), of("8c2d|x"));
        assert_ne!(of("x"), of("|x"));
    }
}
