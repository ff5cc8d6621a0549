//! What replicas tell each other. Nothing of it can grant anything: whoever hears it can only forget.

use serde::{Deserialize, Serialize};

use crate::tokens::hash::TokenHash;
use crate::tokens::revocation::Revocation;

/// The longest message that is read, in bytes: an id may be long, if introspection says so.
const LONGEST: usize = 64 * 1024;

/// A revocation on its way to the other replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// The number that the sender has drawn for as long as it runs.
    pub(super) from: u64,
    forget: Forget,
}

/// A [`Revocation`], with hashes for what might tell something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Forget {
    Id(Box<str>),
    NameSha256(Sha256),
    TokenSha256(Sha256),
    All,
    Missed,
}

/// 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Sha256([u8; 32]);

impl From<Sha256> for String {
    fn from(Sha256(bytes): Sha256) -> Self {
        hex::encode(bytes)
    }
}

impl TryFrom<String> for Sha256 {
    type Error = hex::FromHexError;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map(|()| Self(bytes))
    }
}

impl Message {
    /// What is to be said of `revocation`.
    pub(super) fn new(from: u64, revocation: Revocation) -> Self {
        let forget = match revocation {
            Revocation::Id(id) => Forget::Id(id),
            Revocation::Name(name) => Forget::NameSha256(Sha256(*TokenHash::of(&*name).as_bytes())),
            Revocation::HashedName(hash) => Forget::NameSha256(Sha256(hash)),
            Revocation::Token(hash) => Forget::TokenSha256(Sha256(*hash.as_bytes())),
            Revocation::All => Forget::All,
            Revocation::Missed => Forget::Missed,
        };
        Self { from, forget }
    }

    /// What the other one has revoked.
    pub(super) fn revocation(self) -> Revocation {
        match self.forget {
            Forget::Id(id) => Revocation::Id(id),
            Forget::NameSha256(Sha256(hash)) => Revocation::HashedName(hash),
            Forget::TokenSha256(Sha256(hash)) => Revocation::Token(TokenHash::from_bytes(hash)),
            Forget::All => Revocation::All,
            Forget::Missed => Revocation::Missed,
        }
    }

    /// As it travels.
    pub(super) fn to_json(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// The epoch and the message of what came by the channel; none of what no replica has sent.
pub(super) fn read(bytes: &[u8]) -> Option<(u64, Message)> {
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(LONGEST + 1))?).ok()?;
    if text.len() > LONGEST {
        return None;
    }
    let (epoch, message) = text.split_once(' ')?;
    Some((epoch_of(epoch)?, serde_json::from_str(message).ok()?))
}

/// An epoch as Redis writes it.
pub(super) fn epoch_of(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_revocation_travels() {
        let hashed = Revocation::HashedName(*TokenHash::of("scanner").as_bytes());
        for (revocation, heard) in [
            (Revocation::Id("17 \"\u{e9}\"\n".into()), Revocation::Id("17 \"\u{e9}\"\n".into())),
            (Revocation::Name("scanner".into()), hashed.clone()),
            (hashed.clone(), hashed),
            (Revocation::Token(TokenHash::of("17|a")), Revocation::Token(TokenHash::of("17|a"))),
            (Revocation::All, Revocation::All),
            (Revocation::Missed, Revocation::Missed),
        ] {
            let sent = Message::new(7, revocation).to_json().unwrap();
            assert!(!sent.contains("scanner") && !sent.contains('|'), "{sent}");
            let (epoch, message) = read(format!("41 {sent}").as_bytes()).unwrap();
            assert_eq!((epoch, message.from, message.revocation()), (41, 7, heard), "{sent}");
        }
    }

    #[test]
    fn what_no_replica_sends_says_nothing() {
        for text in [
            "",
            "1",
            r#"{"from":1,"forget":"all"}"#,
            r#"-1 {"from":1,"forget":"all"}"#,
            r#"+1 {"from":1,"forget":"all"}"#,
            r#"1  {"from":1,"forget":"all"} x"#,
            r#"99999999999999999999999 {"from":1,"forget":"all"}"#,
            r#"1 {"from":1,"forget":"all","allow":"*"}"#,
            r#"1 {"from":-1,"forget":"all"}"#,
            r#"1 {"forget":"all"}"#,
            r#"1 {"from":1,"forget":"everything"}"#,
            r#"1 {"from":1,"forget":{"id":17}}"#,
            r#"1 {"from":1,"forget":{"id":"1","id":"2"}}"#,
            r#"1 {"from":1,"forget":{"token_sha256":"ab"}}"#,
            r#"1 {"from":1,"forget":{"grant":"17"}}"#,
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        let sized = |length: usize| {
            let message = Message::new(1, Revocation::Id("1".repeat(length - 32).into()));
            format!("1 {}", message.to_json().unwrap())
        };
        assert!(read(sized(LONGEST - 8).as_bytes()).is_some());
        assert!(read(sized(LONGEST + 100).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
        }

        #[test]
        fn ids_arrive_as_they_are(id in ".*", from: u64, epoch: u64) {
            let message = Message::new(from, Revocation::Id(id.clone().into()));
            let sent = format!("{epoch} {}", message.to_json().unwrap());
            let heard = read(sent.as_bytes()).unwrap();
            prop_assert_eq!(heard, (epoch, message));
        }
    }
}
