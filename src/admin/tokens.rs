//! What can be ordered about tokens.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::answer::{Answer, json, message};
use super::audit::{Action, Caller};
use crate::tokens::revocation::Revocation;

/// What is wrong with an order that is none.
const NO_ORDER: &str =
    r#"The body must be one of {"id": "17"}, {"token": "17|…"}, {"name": "…"} and {"all": true}."#;

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
    let revoked = admin.revoker.revoke(revocations);
    caller.did(Action { action: "revoke", subject: Some((by, &what)), count: Some(revoked) });
    json(StatusCode::OK, json!({ "revoked": revoked }).to_string())
}
