//! The hash that represents a token.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 of a token as received, the only form in which tokens are stored. Spellings of one token have different
/// hashes. Serialised as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TokenHash([u8; 32]);

/// The hashes of one token, and the id that its text shows.
#[derive(Clone, Debug)]
pub struct TokenHashes {
    /// Of the token as received.
    pub token: TokenHash,
    /// [Of its secret](TokenHash::of_secret).
    pub secret: TokenHash,
    /// The [id in its text](super::revocation::written_id), if its introspector's tokens have one.
    pub written_id: Option<Box<str>>,
}

impl TokenHashes {
    /// The hashes of `token`, without an id.
    pub fn of(token: &str) -> Self {
        Self { token: TokenHash::of(token), secret: TokenHash::of_secret(token), written_id: None }
    }
}

impl TokenHash {
    /// The hash of `token`.
    pub fn of(token: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(token.as_ref()).into())
    }

    /// The hash that spellings of one Sanctum token share. The database compares the part before the first `|` as a
    /// number: `17|secret`, `0017|secret` and `17x|secret` are one token. It does not identify a token: the
    /// introspector decides which spellings it accepts, and a bare `secret` has another hash.
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

    /// The hash of a token's secret: of what follows the first `|`, or of the whole token without one. It identifies a
    /// Sanctum token in every spelling, also without its id: Sanctum's database has this hash.
    pub fn of_secret(token: &str) -> Self {
        Self::of(token.split_once('|').map_or(token, |(_, secret)| secret))
    }

    /// Creates it from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<TokenHash> for String {
    fn from(TokenHash(bytes): TokenHash) -> Self {
        hex::encode(bytes)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = hex::FromHexError;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map(|()| Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_the_same_in_every_spelling() {
        let of = TokenHash::of_secret;
        for same in ["017|x", "+17|x", "18|x", "|x", "x"] {
            assert_eq!(of(same), of("17|x"), "{same}");
        }
        for other in ["17|y", "17|x|", "17|x|x", "17x", ""] {
            assert_ne!(of(other), of("17|x"), "{other}");
        }
    }

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
