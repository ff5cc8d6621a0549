//! A block, and its form in the file and in Redis.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sanitize::sanitize;
use crate::tokens::hash::TokenHash;
use crate::tokens::introspection::{MAX_NAME, MAX_TEXT};
use crate::tokens::revocation::Revocation;

/// Longest reason of a block, in characters.
pub const MAX_REASON: usize = 255;

/// The tokens that a block refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockSubject {
    /// The token with this introspected id.
    Id(Box<str>),
    /// Every token whose name has this SHA-256.
    Name(TokenHash),
    /// The token whose [secret](TokenHash::of_secret) has this SHA-256, in every spelling.
    Token(TokenHash),
}

/// What a block selects its tokens by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// [`BlockSubject::Id`]
    Id,
    /// [`BlockSubject::Name`]
    Name,
    /// [`BlockSubject::Token`]
    Token,
}

impl BlockSubject {
    /// The token with this id; `None` if no token can have it.
    pub fn of_id(id: &str) -> Option<Self> {
        (!id.is_empty() && id.len() <= MAX_TEXT).then(|| Self::Id(id.into()))
    }

    /// The tokens with this name; `None` if no token can have it.
    pub fn of_name(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.chars().nth(MAX_NAME).is_none();
        fits.then(|| Self::Name(TokenHash::of(name)))
    }

    /// This token, in every spelling; `None` if the token or its secret is empty.
    pub fn of_token(token: &str) -> Option<Self> {
        let hash = TokenHash::of_secret(token);
        (hash != TokenHash::of("")).then_some(Self::Token(hash))
    }

    /// The revocation of the cached verdicts of these tokens.
    pub fn revocation(&self) -> Revocation {
        match self {
            Self::Id(id) => Revocation::Id(id.clone()),
            Self::Name(hash) => Revocation::HashedName(*hash.as_bytes()),
            Self::Token(hash) => Revocation::Secret(*hash),
        }
    }

    /// What it selects its tokens by.
    pub const fn kind(&self) -> BlockKind {
        match self {
            Self::Id(_) => BlockKind::Id,
            Self::Name(_) => BlockKind::Name,
            Self::Token(_) => BlockKind::Token,
        }
    }
}

/// Orders the changes of one block: the latest wins on every replica. In text, 16 hexadecimal digits of each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlockVersion {
    /// The time of the change, in milliseconds since 1970.
    pub at: u64,
    /// The random number of the process that made it.
    pub by: u64,
}

impl fmt::Display for BlockVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}-{:016x}", self.at, self.by)
    }
}

impl FromStr for BlockVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| -> Option<u64> {
            let is_canonical =
                digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            is_canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let numbers = text.split_once('-').and_then(|(at, by)| number(at).zip(number(by)));
        let (at, by) =
            numbers.ok_or("`version` must be two numbers of 16 hexadecimal digits, with a `-` between")?;
        Ok(Self { at, by })
    }
}

impl From<BlockVersion> for String {
    fn from(version: BlockVersion) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for BlockVersion {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Who made a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockSource {
    /// The admin listener of this gateway.
    Admin,
    /// `blocked` in gateway.yaml.
    Configuration,
    /// Another replica, through Redis.
    Replica,
}

/// A block in force, or one that has ended and is not removed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The name of the tokens; `None` for other subjects, and if another replica made the block.
    pub name: Option<Box<str>>,
    /// The end; `None` for a block that lasts until it is removed.
    pub until: Option<Timestamp>,
    /// The reason, for people.
    pub reason: Option<Box<str>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub source: BlockSource,
}

impl Block {
    /// Whether it refuses tokens at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// The latest change of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "StoredRecord", try_from = "StoredRecord")]
pub struct BlockRecord {
    /// The blocked tokens.
    pub subject: BlockSubject,
    /// The version of the change.
    pub version: BlockVersion,
    /// The block; `None` if it was removed or has ended.
    pub block: Option<Block>,
}

impl BlockRecord {
    /// The record without the name of the tokens, which must not be readable in Redis.
    pub fn without_name(&self) -> Self {
        let mut record = self.clone();
        if let Some(block) = &mut record.block {
            block.name = None;
        }
        record
    }
}

/// The reason of a block, without characters that a terminal would interpret; `None` if it is too long.
pub fn reason(text: &str) -> Option<Box<str>> {
    text.chars().nth(MAX_REASON).is_none().then(|| sanitize(text).into())
}

/// A [`BlockRecord`] in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name_sha256: Option<TokenHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_sha256: Option<TokenHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Box<str>>,
    /// Absent if the block was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<BlockSource>,
    version: BlockVersion,
}

impl From<BlockRecord> for StoredRecord {
    fn from(BlockRecord { subject, version, block }: BlockRecord) -> Self {
        let (mut id, mut name_sha256, mut token_sha256) = (None, None, None);
        let block_name = block.as_ref().and_then(|block| block.name.clone());
        match subject {
            BlockSubject::Id(text) => id = Some(text),
            BlockSubject::Name(_) if block_name.is_some() => {}
            BlockSubject::Name(hash) => name_sha256 = Some(hash),
            BlockSubject::Token(hash) => token_sha256 = Some(hash),
        }
        let (created_at, source) = block.as_ref().map(|block| (block.created_at, block.source)).unzip();
        let (until, reason) = block.map(|block| (block.until, block.reason)).unzip();
        Self {
            id,
            name: block_name,
            name_sha256,
            token_sha256,
            until: until.flatten(),
            reason: reason.flatten(),
            created_at,
            source,
            version,
        }
    }
}

impl TryFrom<StoredRecord> for BlockRecord {
    type Error = &'static str;

    fn try_from(stored: StoredRecord) -> Result<Self, Self::Error> {
        let StoredRecord {
            id,
            name,
            name_sha256,
            token_sha256,
            until,
            reason: text,
            created_at,
            source,
            version,
        } = stored;
        let subject = match (id, &name, name_sha256, token_sha256) {
            (Some(id), None, None, None) => BlockSubject::of_id(&id).ok_or("`id` is empty or too long")?,
            (None, Some(name), None, None) => {
                BlockSubject::of_name(name).ok_or("`name` is empty or too long")?
            }
            (None, None, Some(hash), None) => BlockSubject::Name(hash),
            (None, None, None, Some(hash)) => BlockSubject::Token(hash),
            _ => return Err("a block needs one of `id`, `name`, `name_sha256` and `token_sha256`"),
        };
        let block = match (created_at, source) {
            (Some(created_at), Some(source)) => {
                let reason = match text {
                    Some(text) => Some(reason(&text).ok_or("`reason` is too long")?),
                    None => None,
                };
                Some(Block { name, until, reason, created_at, source })
            }
            (None, None) if until.is_none() && text.is_none() && name.is_none() => None,
            _ => return Err("a block needs `created_at` and `source`"),
        };
        Ok(Self { subject, version, block })
    }
}
