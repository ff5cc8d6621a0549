//! What is known of tokens, and what can be ordered about them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::audit::{Action, Caller, unavailable};
use super::response::{Answer, json, message};
use crate::telemetry::lines::AuditPriority;
use crate::tokens::cache::Entry;
use crate::tokens::revocation::Revocation;
use crate::usage::report::by_id;

/// What is wrong with an order that is none.
const NO_ORDER: &str =
    r#"The body must be one of {"id": "17"}, {"token": "17|…"}, {"name": "…"} and {"all": true}."#;

/// What is wrong with an order that has a token where none belongs: it would forget nothing, and be told to others.
const A_TOKEN: &str = r#"That is a token: send it as {"token": "17|…"}."#;

/// The body of `POST /tokens/revoke`: one key, and nothing beside it.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Id(Id),
    Token(String),
    Name(String),
    All(bool),
}

/// As Laravel and as the contract write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(u64),
}

/// Forgets verdicts. They are gone before this is answered.
pub(super) fn revoke(admin: &Admin, caller: Caller<'_>, body: &Bytes) -> Answer {
    let Ok(order) = serde_json::from_slice::<Order>(body) else {
        return message(StatusCode::BAD_REQUEST, NO_ORDER);
    };
    // What is said of it in the log is never a token.
    let (by, what, revocations) = match order {
        Order::Id(id) => {
            let id = match id {
                Id::Text(id) => id,
                Id::Number(id) => id.to_string(),
            };
            ("id", id.clone(), vec![Revocation::Id(id.into())])
        }
        Order::Token(token) => {
            let revocations = admin.revoker.revocations_of(&token);
            let id = revocations.iter().find_map(|revocation| match revocation {
                Revocation::Id(id) => Some(id.to_string()),
                _ => None,
            });
            let what = if token.is_empty() { String::new() } else { id.unwrap_or_else(|| "-".to_owned()) };
            ("token", what, revocations)
        }
        Order::Name(name) => ("name", name.clone(), vec![Revocation::Name(name.into())]),
        Order::All(true) => ("all", "-".to_owned(), vec![Revocation::All]),
        Order::All(false) => ("all", String::new(), Vec::new()),
    };
    if what.is_empty() {
        return message(StatusCode::BAD_REQUEST, NO_ORDER);
    }
    if by != "token" && is_token(&what) {
        return message(StatusCode::BAD_REQUEST, A_TOKEN);
    }
    let Ok(slot) = admin.audit.reserve(AuditPriority::Change) else { return unavailable() };
    let revoked = admin.revoker.revoke(revocations);
    caller.did(slot, Action { action: "revoke", subject: Some((by, &what)), count: Some(revoked) });
    json(StatusCode::OK, json!({ "revoked": revoked }).to_string())
}

/// Whether a text looks as Sanctum's tokens do.
pub(super) fn is_token(text: &str) -> bool {
    text.split_once('|').is_some_and(|(id, _)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The answer to `GET /tokens`.
#[derive(Serialize)]
struct Listing<'a> {
    tokens: Vec<Row<'a>>,
}

/// A token that introspection told of, and whose verdict is in the cache.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: Option<&'a str>,
    abilities: Vec<&'a str>,
    context: Option<&'a str>,
    workspace_id: Option<&'a str>,
    created_at: Option<String>,
    expires_at: Option<String>,
    /// Of the latest verdict.
    verdict_age_seconds: f64,
    /// How many verdicts there are: each spelling of a token has its own.
    verdicts: usize,
}

/// One row for each id, numbers first and in their order. Some 300 bytes a token.
pub(super) fn list(admin: &Admin, caller: Caller<'_>) -> Answer {
    let Ok(slot) = admin.audit.reserve(AuditPriority::Read) else { return unavailable() };
    let mut entries = admin.revoker.entries();
    entries.sort_unstable_by(|one, other| {
        by_id(&one.verdict.id, &other.verdict.id).then(other.asked_at.cmp(&one.asked_at))
    });
    let now = Instant::now();
    let tokens: Vec<Row<'_>> = entries
        .chunk_by(|one, other| one.verdict.id == other.verdict.id)
        .filter_map(|same| same.first().map(|latest| row(latest, same.len(), now)))
        .collect();
    caller.did(slot, Action { action: "list tokens", subject: None, count: Some(tokens.len()) });
    match serde_json::to_vec(&Listing { tokens }) {
        Ok(listing) => json(StatusCode::OK, listing),
        Err(error) => {
            tracing::error!(%error, "the tokens cannot be listed");
            message(StatusCode::INTERNAL_SERVER_ERROR, "Server Error")
        }
    }
}

fn row(entry: &Arc<Entry>, verdicts: usize, now: Instant) -> Row<'_> {
    let verdict = &entry.verdict;
    let time = |at: SystemTime| Timestamp::try_from(at).ok().map(|at| at.to_string());
    Row {
        id: &verdict.id,
        name: verdict.name.as_deref(),
        abilities: verdict.abilities.names().collect(),
        context: verdict.context.as_deref(),
        workspace_id: verdict.workspace_id.as_deref(),
        created_at: verdict.created_at.and_then(time),
        expires_at: verdict.expires_at.and_then(time),
        verdict_age_seconds: entry.age(now).as_secs_f64(),
        verdicts,
    }
}
