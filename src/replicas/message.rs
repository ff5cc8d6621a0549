//! The messages between replicas. A message can revoke, block, or remove a block that a replica made; none can grant.

use serde::{Deserialize, Serialize};

use crate::tokens::blocklist::record::BlockRecord;
use crate::tokens::hash::TokenHash;
use crate::tokens::revocation::Revocation;

/// The longest message that is read, in bytes. Introspected ids may be long.
const MAX_BYTES: usize = 64 * 1024;

/// A revocation or a change of the block list, for other replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// The random number of the sending process.
    pub(super) from: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget: Option<WireRevocation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<BlockRecord>,
}

/// What a message tells other replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Revocation(Revocation),
    Block(BlockRecord),
}

/// A [`Revocation`] with hashes instead of names and tokens, which must not be readable in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireRevocation {
    Id(Box<str>),
    NameSha256(Sha256),
    TokenSha256(Sha256),
    SecretSha256(Sha256),
    All,
    Missed,
}

/// Serialised as 64 hexadecimal digits.
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
    /// The message for `revocation`.
    pub(super) fn new(from: u64, revocation: Revocation) -> Self {
        let forget = match revocation {
            Revocation::Id(id) => WireRevocation::Id(id),
            Revocation::Name(name) => WireRevocation::NameSha256(Sha256(*TokenHash::of(&*name).as_bytes())),
            Revocation::HashedName(hash) => WireRevocation::NameSha256(Sha256(hash)),
            Revocation::Token(hash) => WireRevocation::TokenSha256(Sha256(*hash.as_bytes())),
            Revocation::Secret(hash) => WireRevocation::SecretSha256(Sha256(*hash.as_bytes())),
            Revocation::All => WireRevocation::All,
            Revocation::Missed => WireRevocation::Missed,
        };
        Self { from, forget: Some(forget), block: None }
    }

    /// The message for a change of the block list.
    pub(super) fn of_block(from: u64, record: &BlockRecord) -> Self {
        Self { from, forget: None, block: Some(record.without_name()) }
    }

    /// What the message tells; `None` unless that is one thing.
    fn content(self) -> Option<Content> {
        let forget = match (self.forget, self.block) {
            (Some(forget), None) => forget,
            (None, Some(record)) => return Some(Content::Block(record)),
            (None, None) | (Some(_), Some(_)) => return None,
        };
        Some(Content::Revocation(match forget {
            WireRevocation::Id(id) => Revocation::Id(id),
            WireRevocation::NameSha256(Sha256(hash)) => Revocation::HashedName(hash),
            WireRevocation::TokenSha256(Sha256(hash)) => Revocation::Token(TokenHash::from_bytes(hash)),
            WireRevocation::SecretSha256(Sha256(hash)) => Revocation::Secret(TokenHash::from_bytes(hash)),
            WireRevocation::All => Revocation::All,
            WireRevocation::Missed => Revocation::Missed,
        }))
    }

    /// Serialises the message; `None` on an error.
    pub(super) fn to_json(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// Parses a published payload: the epoch, a space, the message as JSON. Returns the epoch, the sender and the content, or
/// `None` for anything else.
pub(super) fn parse(bytes: &[u8]) -> Option<(u64, u64, Content)> {
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(MAX_BYTES + 1))?).ok()?;
    if text.len() > MAX_BYTES {
        return None;
    }
    let (epoch, message) = text.split_once(' ')?;
    let message: Message = serde_json::from_str(message).ok()?;
    Some((parse_epoch(epoch)?, message.from, message.content()?))
}

/// Parses an epoch in the format of Redis.
pub(super) fn parse_epoch(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokens::blocklist::record::{Block, BlockSource, BlockSubject, BlockVersion};

    #[test]
    fn every_revocation_can_be_sent_and_parsed() {
        let hashed = Revocation::HashedName(*TokenHash::of("scanner").as_bytes());
        for (revocation, received) in [
            (Revocation::Id("17 \"\u{e9}\"\n".into()), Revocation::Id("17 \"\u{e9}\"\n".into())),
            (Revocation::Name("scanner".into()), hashed.clone()),
            (hashed.clone(), hashed),
            (Revocation::Token(TokenHash::of("17|a")), Revocation::Token(TokenHash::of("17|a"))),
            (Revocation::Secret(TokenHash::of("a")), Revocation::Secret(TokenHash::of("a"))),
            (Revocation::All, Revocation::All),
            (Revocation::Missed, Revocation::Missed),
        ] {
            let sent = Message::new(7, revocation).to_json().unwrap();
            assert!(!sent.contains("scanner") && !sent.contains('|'), "{sent}");
            let parsed = parse(format!("41 {sent}").as_bytes());
            assert_eq!(parsed, Some((41, 7, Content::Revocation(received))), "{sent}");
        }
    }

    #[test]
    fn change_of_the_block_list_is_received_without_its_name() {
        let subject = BlockSubject::of_name("scanner").unwrap();
        let version = BlockVersion { at: 1, by: 2 };
        let block = Block {
            name: Some("scanner".into()),
            until: None,
            reason: Some("leaked".into()),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            source: BlockSource::Admin,
        };
        for block in [Some(block), None] {
            let record = BlockRecord { subject: subject.clone(), version, block };
            let sent = Message::of_block(7, &record).to_json().unwrap();
            assert!(!sent.contains("scanner"), "{sent}");
            let parsed = parse(format!("41 {sent}").as_bytes());
            assert_eq!(parsed, Some((41, 7, Content::Block(record.without_name()))), "{sent}");
        }
    }

    #[test]
    fn malformed_messages_are_rejected() {
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
            r#"1 {"from":1,"block":{"id":"17"}}"#,
            r#"1 {"from":1,"block":{"id":"17","version":"1-2"}}"#,
            r#"1 {"from":1,"block":{"version":"0000000000000001-0000000000000002"}}"#,
            r#"1 {"from":1,"forget":"all","block":{"id":"17","version":"0000000000000001-0000000000000002"}}"#,
            r#"1 {"from":1,"block":{"id":"17","allow":true,"version":"0000000000000001-0000000000000002"}}"#,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let sized = |length: usize| {
            let message = Message::new(1, Revocation::Id("1".repeat(length - 32).into()));
            format!("1 {}", message.to_json().unwrap())
        };
        assert!(parse(sized(MAX_BYTES - 8).as_bytes()).is_some());
        assert!(parse(sized(MAX_BYTES + 100).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn ids_are_received_unchanged(id in ".*", from: u64, epoch: u64) {
            let revocation = Revocation::Id(id.into());
            let message = Message::new(from, revocation.clone());
            let sent = format!("{epoch} {}", message.to_json().unwrap());
            let received = parse(sent.as_bytes()).unwrap();
            prop_assert_eq!(received, (epoch, from, Content::Revocation(revocation)));
        }
    }
}
