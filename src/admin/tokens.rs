//! `GET /tokens` and `POST /tokens/revoke`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::audit::{Action, Actor, unavailable};
use super::response::{AdminResponse, json, message};
use crate::policy::network::Networks;
use crate::telemetry::lines::AuditPriority;
use crate::tokens::cache::CacheEntry;
use crate::tokens::revocation::Revocation;
use crate::usage::report::compare_ids;

/// The error for a malformed body.
const MALFORMED: &str =
    r#"The body must be one of {"id": "17"}, {"token": "17|…"}, {"name": "…"} and {"all": true}."#;

/// The error for a token in place of an id or a name: it would match nothing, and be published to the other replicas.
pub(super) const IS_TOKEN: &str = r#"That is a token: send it as {"token": "17|…"}."#;

/// The body of `POST /tokens/revoke`: exactly one key.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RevokeRequest {
    Id(Id),
    Token(String),
    Name(String),
    All(bool),
}

/// The contract has a string, Laravel a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    Text(String),
    Number(u64),
}

impl Id {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Text(id) => id,
            Self::Number(id) => id.to_string(),
        }
    }
}

/// Drops cached verdicts before it responds.
pub(super) fn revoke(admin: &Admin, actor: Actor<'_>, body: &Bytes) -> AdminResponse {
    let Ok(request) = serde_json::from_slice::<RevokeRequest>(body) else {
        return message(StatusCode::BAD_REQUEST, MALFORMED);
    };
    // `by` and `what` are logged. They never contain a token.
    let (by, what, revocations) = match request {
        RevokeRequest::Id(id) => {
            let id = id.into_text();
            ("id", id.clone(), vec![Revocation::Id(id.into())])
        }
        RevokeRequest::Token(token) => {
            let revocations = admin.revoker.revocations_of(&token);
            let id = revocations.iter().find_map(|revocation| match revocation {
                Revocation::Id(id) => Some(id.to_string()),
                _ => None,
            });
            let what = if token.is_empty() { String::new() } else { id.unwrap_or_else(|| "-".to_owned()) };
            ("token", what, revocations)
        }
        RevokeRequest::Name(name) => ("name", name.clone(), vec![Revocation::Name(name.into())]),
        RevokeRequest::All(true) => ("all", "-".to_owned(), vec![Revocation::All]),
        RevokeRequest::All(false) => ("all", String::new(), Vec::new()),
    };
    if what.is_empty() {
        return message(StatusCode::BAD_REQUEST, MALFORMED);
    }
    if by != "token" && is_token(&what) {
        return message(StatusCode::BAD_REQUEST, IS_TOKEN);
    }
    let Ok(slot) = admin.audit.reserve(AuditPriority::Change) else { return unavailable() };
    let revoked = admin.revoker.revoke_and_count(revocations);
    actor.record(slot, Action { action: "revoke", subject: Some((by, &what)), count: Some(revoked) });
    json(StatusCode::OK, json!({ "revoked": revoked }).to_string())
}

/// Whether a text has the form of Sanctum's tokens: digits before a `|`.
pub(super) fn is_token(text: &str) -> bool {
    text.split_once('|').is_some_and(|(id, _)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The response to `GET /tokens`.
#[derive(Serialize)]
struct Listing<'a> {
    tokens: Vec<TokenRow<'a>>,
}

/// A token with a cached active verdict.
#[derive(Serialize)]
struct TokenRow<'a> {
    id: &'a str,
    name: Option<&'a str>,
    abilities: Vec<&'a str>,
    context: Option<&'a str>,
    workspace_id: Option<&'a str>,
    /// Null if it may be used from anywhere.
    allowed_from: Option<Vec<String>>,
    created_at: Option<String>,
    expires_at: Option<String>,
    /// Of the latest verdict.
    verdict_age_seconds: f64,
    /// The number of cached verdicts: each spelling of a token has its own.
    verdicts: usize,
}

/// Lists one row per id, in numerical order, other ids last. A row has about 300 bytes.
pub(super) fn list(admin: &Admin, actor: Actor<'_>) -> AdminResponse {
    let Ok(slot) = admin.audit.reserve(AuditPriority::Read) else { return unavailable() };
    let now = Instant::now();
    let mut entries = admin.revoker.entries(now);
    entries.sort_unstable_by(|one, other| {
        compare_ids(&one.verdict.id, &other.verdict.id).then(other.introspected_at.cmp(&one.introspected_at))
    });
    let tokens: Vec<TokenRow<'_>> = entries
        .chunk_by(|one, other| one.verdict.id == other.verdict.id)
        .filter_map(|same| same.first().map(|latest| row(latest, same.len(), now)))
        .collect();
    actor.record(slot, Action { action: "list tokens", subject: None, count: Some(tokens.len()) });
    match serde_json::to_vec(&Listing { tokens }) {
        Ok(listing) => json(StatusCode::OK, listing),
        Err(error) => {
            tracing::error!(%error, "the tokens cannot be listed");
            message(StatusCode::INTERNAL_SERVER_ERROR, "Server Error")
        }
    }
}

fn row(entry: &Arc<CacheEntry>, verdicts: usize, now: Instant) -> TokenRow<'_> {
    let verdict = &entry.verdict;
    let time = |at: SystemTime| Timestamp::try_from(at).ok().map(|at| at.to_string());
    TokenRow {
        id: &verdict.id,
        name: verdict.name.as_deref(),
        abilities: verdict.abilities.names().collect(),
        context: verdict.context.as_deref(),
        workspace_id: verdict.workspace_id.as_deref(),
        allowed_from: verdict.allowed_from.as_ref().map(Networks::texts),
        created_at: verdict.created_at.and_then(time),
        expires_at: verdict.expires_at.and_then(time),
        verdict_age_seconds: entry.age(now).as_secs_f64(),
        verdicts,
    }
}
