//! The sample tokens of the stand-in: one of each kind in the authentication guide.
//!
//! The tokens are public, so that documentation can quote them. They give access only to the memory of the stand-in.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};

/// The expiry of a token, relative to the start of the stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// No expiry, like most Sanctum tokens.
    Never,
    /// After the start.
    After(Duration),
    /// Before the start: the token has expired.
    Before(Duration),
}

/// A token that the stand-in accepts.
#[derive(Clone, Copy, Debug)]
pub struct SampleToken {
    /// The id, which is also the part before the `|`.
    pub id: u32,
    /// The name, by the conventions of the guide.
    pub name: &'static str,
    /// The abilities; `*` for a User token.
    pub abilities: &'static [&'static str],
    /// The expiry.
    pub expiry: Expiry,
    entropy: &'static str,
}

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A User token: every ability, within the user's own permissions.
pub const USER: SampleToken = SampleToken {
    id: 1,
    name: "mobile-app-v2",
    abilities: &["*"],
    expiry: Expiry::Never,
    entropy: "u8jzPde0IgxLd6GncfBAepfJBd0Kh8oOOL8dKLzd",
};

/// An Instance token with every read-only ability of the guide.
pub const READER: SampleToken = SampleToken {
    id: 2,
    name: "reporting-prod",
    abilities: &[
        "items:read",
        "renters:read",
        "rents:read",
        "webhooks:read",
        "notifications:read",
        "instance:read",
    ],
    expiry: Expiry::After(Duration::from_secs(90 * 24 * 60 * 60)),
    entropy: "ocJ2isAjIhKtJ0RlgLKOmxgJTeKdNnFRIBXuDL7D",
};

/// An Instance token of a kiosk.
pub const SCANNER: SampleToken = SampleToken {
    id: 3,
    name: "warehouse-scanner-prod",
    abilities: &["kiosk:scan", "rents:read", "rents:update", "items:read"],
    expiry: Expiry::Never,
    entropy: "xtpYlSXpfKtHF4vUCsMehGAkWvj7FAc9QeWJKY40",
};

/// An Instance token that writes items.
pub const WRITER: SampleToken = SampleToken {
    id: 4,
    name: "inventory-sync-staging",
    abilities: &["items:read", "items:create", "items:update", "items:delete"],
    expiry: Expiry::After(Duration::from_secs(24 * 60 * 60)),
    entropy: "uvSwMFLZDe1f8rESQedUStPKR0CsTy4Qwb8DwkNh",
};

/// An Instance token past its expiry.
pub const EXPIRED: SampleToken = SampleToken {
    id: 5,
    name: "ci-testing",
    abilities: &["items:read"],
    expiry: Expiry::Before(HOUR),
    entropy: "FdnXsiVpzz63FfkCzJr4i0B3JrTAwR4y9ojfljoQ",
};

/// Every sample token.
pub const ALL: [SampleToken; 5] = [USER, READER, SCANNER, WRITER, EXPIRED];

impl SampleToken {
    /// The token as a client sends it, in Sanctum's shape: `{id}|{40 random characters}{their CRC-32}`.
    pub fn plain_text(&self) -> String {
        format!("{}|{}{:08x}", self.id, self.entropy, crc32(self.entropy.as_bytes()))
    }

    /// The expiry as a time, if the stand-in started at `start`.
    pub fn expires_at(&self, start: SystemTime) -> Option<SystemTime> {
        match self.expiry {
            Expiry::Never => None,
            Expiry::After(duration) => start.checked_add(duration),
            Expiry::Before(duration) => start.checked_sub(duration),
        }
    }

    /// The introspection response.
    pub(super) fn introspection(&self, start: SystemTime) -> Value {
        let expires_at = self
            .expires_at(start)
            .and_then(|instant| Timestamp::try_from(instant).ok())
            .map(|instant| format!("{instant:.6}"));
        json!({"id": self.id, "name": self.name, "abilities": self.abilities, "expires_at": expires_at})
    }
}

/// PHP's `crc32b`: CRC-32 with the reflected polynomial of ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_tokens_have_the_format_and_checksum_of_sanctum() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926, "the check value of CRC-32/ISO-HDLC");
        assert_eq!(USER.plain_text(), "1|u8jzPde0IgxLd6GncfBAepfJBd0Kh8oOOL8dKLzd69838e04");
        for token in ALL {
            let text = token.plain_text();
            let (id, secret) = text.split_once('|').unwrap();
            assert_eq!(id, token.id.to_string());
            assert_eq!(secret.len(), 48);
            assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
