//! `/tokens/block`: lists, adds and removes blocks.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::Admin;
use super::audit::{Action, Actor, unavailable};
use super::response::{AdminResponse, json, message};
use super::tokens::{IS_TOKEN, Id, is_token};
use crate::config::parse_duration;
use crate::telemetry::lines::AuditPriority;
use crate::tokens::blocker::Blocker;
use crate::tokens::blocklist::ListedBlock;
use crate::tokens::blocklist::record::{Block, BlockSource, BlockSubject, reason};

/// The error for a malformed body of a block.
const MALFORMED: &str = "The body must have one of `id`, `name` and `token`, and may have `for`, a duration such as \
                         \"1h\", and `reason`.";

/// The error for a malformed body of an unblock.
const MALFORMED_REMOVAL: &str = "The body must have one of `id`, `name`, `token`, and the first 16 digits or more of \
                                 `token_sha256` or `name_sha256`.";

/// The error for blocks of gateway.yaml.
const CONFIGURED: &str = "gateway.yaml blocks it: remove it from `blocked` there.";

/// The error if the change was made and its file cannot be written.
const UNSAVED: &str = "It takes effect now, but not after a restart: the file of `blocked.path` cannot be written. The log \
                       has the cause. The gateway tries again every 5 s.";

/// Digits of a hash in lists: enough to select it.
const SHOWN_DIGITS: usize = 16;

/// The body of `POST /tokens/block`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockRequest {
    id: Option<Id>,
    name: Option<String>,
    token: Option<String>,
    r#for: Option<String>,
    reason: Option<String>,
}

/// The body of `DELETE /tokens/block`: exactly one key.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum UnblockRequest {
    Id(Id),
    Name(String),
    Token(String),
    TokenSha256(String),
    NameSha256(String),
}

/// The tokens that a request names, and what its audit line says about them: never a token.
struct Named {
    subject: BlockSubject,
    by: &'static str,
    what: String,
    name: Option<Box<str>>,
}

impl Named {
    /// # Errors
    /// The message of a 400.
    fn new(
        id: Option<Id>,
        name: Option<String>,
        token: Option<String>,
        malformed: &'static str,
    ) -> Result<Self, &'static str> {
        let (by, what, subject, name) = match (id.map(Id::into_text), name, token) {
            (Some(text), None, None) | (None, Some(text), None) if is_token(&text) => return Err(IS_TOKEN),
            (Some(id), None, None) => {
                let subject = BlockSubject::of_id(&id).ok_or("The id is empty or longer than 255 bytes.")?;
                ("id", id, subject, None)
            }
            (None, Some(name), None) => {
                let subject =
                    BlockSubject::of_name(&name).ok_or("The name is empty or longer than 255 characters.")?;
                ("name", name.clone(), subject, Some(name.into()))
            }
            (None, None, Some(token)) => {
                let subject = BlockSubject::of_token(&token).ok_or("The token is empty.")?;
                ("token", shown_hash(&subject), subject, None)
            }
            _ => return Err(malformed),
        };
        Ok(Self { subject, by, what, name })
    }
}

/// Blocks tokens, writes the block to the file, and then responds.
pub(super) async fn block(admin: &Admin, actor: Actor<'_>, body: &Bytes) -> AdminResponse {
    let (named, block) = match read_block(body) {
        Ok(read) => read,
        Err(error) => return message(StatusCode::BAD_REQUEST, error),
    };
    let Ok(slot) = admin.audit.reserve(AuditPriority::Change) else { return unavailable() };
    let Named { subject, by, what, .. } = named;
    let listed = ListedBlock { subject: subject.clone(), block: block.clone() };
    if let Err(full) = admin.blocker.block(subject, block) {
        return message(StatusCode::INSUFFICIENT_STORAGE, &format!("{full}. Nothing was changed."));
    }
    actor.record(slot, Action { action: "block", subject: Some((by, &what)), count: Some(1) });
    match save(&admin.blocker).await {
        Ok(()) => json(StatusCode::OK, json!({ "blocked": row(&listed) }).to_string()),
        Err(response) => *response,
    }
}

fn read_block(body: &Bytes) -> Result<(Named, Block), &'static str> {
    let request: BlockRequest = serde_json::from_slice(body).map_err(|_| MALFORMED)?;
    let BlockRequest { id, name, token, r#for: duration, reason: text } = request;
    let named = Named::new(id, name, token, MALFORMED)?;
    let created_at = Timestamp::now();
    let until = match duration {
        None => None,
        Some(text) => {
            let duration = parse_duration(&text).filter(|duration| !duration.is_zero());
            let duration = duration
                .ok_or("`for` must be a duration such as \"250ms\", \"2s\", \"5m\", \"1h\" or \"90d\".")?;
            Some(created_at.checked_add(duration).map_err(|_| "`for` is too long.")?)
        }
    };
    let reason = match text {
        Some(text) => Some(reason(&text).ok_or("The reason is longer than 255 characters.")?),
        None => None,
    };
    let block = Block { name: named.name.clone(), until, reason, created_at, source: BlockSource::Admin };
    Ok((named, block))
}

/// Removes blocks, writes that to the file, and then responds.
pub(super) async fn unblock(admin: &Admin, actor: Actor<'_>, body: &Bytes) -> AdminResponse {
    let (by, what, selection) = match read_unblock(body) {
        Ok(read) => read,
        Err(error) => return message(StatusCode::BAD_REQUEST, error),
    };
    let Ok(slot) = admin.audit.reserve(AuditPriority::Change) else { return unavailable() };
    let selects = |subject: &BlockSubject| selection.selects(subject);
    let removed = admin.blocker.unblock(selects);
    actor.record(slot, Action { action: "unblock", subject: Some((by, &what)), count: Some(removed) });
    if removed > 0
        && let Err(response) = save(&admin.blocker).await
    {
        return *response;
    }
    if admin.blocker.is_configured(selects) {
        return message(StatusCode::CONFLICT, CONFIGURED);
    }
    json(StatusCode::OK, json!({ "unblocked": removed }).to_string())
}

/// The blocks that a request selects.
enum Selection {
    One(BlockSubject),
    /// Blocks by token whose hash begins with these digits.
    TokenDigits(String),
    /// Blocks by name whose hash begins with these digits.
    NameDigits(String),
}

impl Selection {
    fn selects(&self, subject: &BlockSubject) -> bool {
        match (self, subject) {
            (Self::One(one), _) => one == subject,
            (Self::TokenDigits(digits), BlockSubject::Token(hash))
            | (Self::NameDigits(digits), BlockSubject::Name(hash)) => String::from(*hash).starts_with(digits),
            _ => false,
        }
    }
}

fn read_unblock(body: &Bytes) -> Result<(&'static str, String, Selection), &'static str> {
    let digits = |text: String| {
        let is_hash =
            (SHOWN_DIGITS..=64).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_hexdigit());
        if is_hash { Ok(text.to_ascii_lowercase()) } else { Err(MALFORMED_REMOVAL) }
    };
    let named = match serde_json::from_slice(body).map_err(|_| MALFORMED_REMOVAL)? {
        UnblockRequest::Id(id) => Named::new(Some(id), None, None, MALFORMED_REMOVAL)?,
        UnblockRequest::Name(name) => Named::new(None, Some(name), None, MALFORMED_REMOVAL)?,
        UnblockRequest::Token(token) => Named::new(None, None, Some(token), MALFORMED_REMOVAL)?,
        UnblockRequest::TokenSha256(text) => {
            let digits = digits(text)?;
            return Ok(("token_sha256", digits.clone(), Selection::TokenDigits(digits)));
        }
        UnblockRequest::NameSha256(text) => {
            let digits = digits(text)?;
            return Ok(("name_sha256", digits.clone(), Selection::NameDigits(digits)));
        }
    };
    Ok((named.by, named.what, Selection::One(named.subject)))
}

/// Lists all blocks, those of the configuration first.
pub(super) fn list(admin: &Admin, actor: Actor<'_>) -> AdminResponse {
    let Ok(slot) = admin.audit.reserve(AuditPriority::Read) else { return unavailable() };
    let blocks = admin.blocker.list();
    actor.record(slot, Action { action: "list blocks", subject: None, count: Some(blocks.len()) });
    let rows: Vec<Value> = blocks.iter().map(row).collect();
    json(StatusCode::OK, json!({ "blocked": rows }).to_string())
}

/// A block in a response.
fn row(ListedBlock { subject, block }: &ListedBlock) -> Value {
    #[derive(Serialize)]
    struct Row<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        name_sha256: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_sha256: Option<String>,
        until: Option<Timestamp>,
        reason: Option<&'a str>,
        created_at: Option<Timestamp>,
        source: BlockSource,
    }
    let Block { name, until, reason, created_at, source } = block;
    let shown = || Some(shown_hash(subject));
    let is_configured = *source == BlockSource::Configuration;
    let row = Row {
        id: if let BlockSubject::Id(id) = subject { Some(id) } else { None },
        name: name.as_deref(),
        name_sha256: if matches!(subject, BlockSubject::Name(_)) && name.is_none() { shown() } else { None },
        token_sha256: if matches!(subject, BlockSubject::Token(_)) { shown() } else { None },
        until: *until,
        reason: reason.as_deref(),
        created_at: (!is_configured).then_some(*created_at),
        source: *source,
    };
    serde_json::to_value(row).unwrap_or_default()
}

/// The first digits of the hash of a subject.
fn shown_hash(subject: &BlockSubject) -> String {
    let (BlockSubject::Name(hash) | BlockSubject::Token(hash)) = subject else { return String::new() };
    let mut digits = String::from(*hash);
    digits.truncate(SHOWN_DIGITS);
    digits
}

/// Writes the file on another thread, since it waits for the disk.
///
/// # Errors
/// The response if it cannot be written.
async fn save(blocker: &Arc<Blocker>) -> Result<(), Box<AdminResponse>> {
    let blocker = Arc::clone(blocker);
    match spawn_blocking(move || blocker.save()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Box::new(message(StatusCode::INTERNAL_SERVER_ERROR, UNSAVED))),
    }
}
