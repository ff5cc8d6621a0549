//! Stockaj's webhook, which reports a changed or deleted token.

use std::time::Instant;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;
use sha2::Sha256;

use super::Admin;
use super::audit::{Action, Actor, unavailable};
use super::response::{AdminResponse, message};
use crate::config::settings::Webhook;
use crate::telemetry::lines::AuditPriority;
use crate::telemetry::metrics::{RevocationSource, WebhookOutcome};
use crate::tokens::introspection::identifier;
use crate::tokens::revocation::Revocation;

/// HMAC-SHA256 of the raw body, in hexadecimal digits.
const SIGNATURE: &str = "x-stockaj-signature";
const EVENT: &str = "x-stockaj-event";

/// Drops the cached verdict of the token that a signed webhook names.
///
/// The signature does not cover the event's name. A captured body can therefore be replayed, also under another name.
/// The only effect is one more introspection.
pub(super) fn receive(
    admin: &Admin,
    webhook: &Webhook,
    actor: Actor<'_>,
    fields: &HeaderMap,
    body: &Bytes,
) -> AdminResponse {
    let client = actor.client;
    let outcome = |outcome| admin.metrics.webhook(outcome);
    if !is_signed(webhook, fields, body) {
        outcome(WebhookOutcome::Refused);
        let now = Instant::now();
        admin.refused.record("/webhook", client, now);
        let rejection = message(StatusCode::UNAUTHORIZED, "Unauthenticated.");
        return match fields.contains_key(SIGNATURE) {
            true => admin.throttle.limit(client, now, rejection),
            false => rejection,
        };
    }
    let event = single_value(fields, EVENT);
    if !event.is_some_and(|event| webhook.events.iter().any(|known| known.as_bytes() == event)) {
        outcome(WebhookOutcome::Ignored);
        return message(StatusCode::OK, "Ignored.");
    }
    let document = serde_json::from_slice::<Value>(body).ok();
    let Some(id) = document.as_ref().and_then(|document| webhook.id.find(document)).and_then(identifier)
    else {
        outcome(WebhookOutcome::Refused);
        let pointer = webhook.id.to_string();
        tracing::warn!(client, pointer, "signed webhook without a token id at the pointer `webhook.id`");
        return message(StatusCode::UNPROCESSABLE_ENTITY, &format!("No id at `{pointer}`."));
    };
    let Ok(slot) = admin.audit.reserve(AuditPriority::Webhook) else {
        outcome(WebhookOutcome::Refused);
        return unavailable();
    };
    admin.revoker.revoke(vec![Revocation::Id((*id).into())], RevocationSource::Webhook);
    outcome(WebhookOutcome::Forgotten);
    actor.record(slot, Action { action: "webhook", subject: Some(("id", &id)), count: None });
    message(StatusCode::OK, "Forgotten.")
}

fn is_signed(webhook: &Webhook, fields: &HeaderMap, body: &Bytes) -> bool {
    let mut signature = [0; 32];
    let decoded = single_value(fields, SIGNATURE).map(|digits| hex::decode_to_slice(digits, &mut signature));
    let Some(Ok(())) = decoded else { return false };
    // Every secret is tried, so that the duration does not reveal which one matched.
    webhook.secrets.iter().fold(false, |signed, secret| {
        let mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes());
        signed | mac.is_ok_and(|mac| mac.chain_update(body).verify_slice(&signature).is_ok())
    })
}

/// The value of a field that occurs exactly once.
fn single_value<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = fields.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::config::settings::JsonPointer;

    /// RFC 4231 section 4.
    #[test]
    fn signatures_match_the_vectors_of_rfc_4231() {
        for (key, data, hex) in [
            (
                "Jefe",
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                "\u{b}".repeat(20).as_str(),
                "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
        ] {
            let webhook = Webhook {
                secrets: [SecretString::from("another"), SecretString::from(key.to_owned())].into(),
                events: Box::default(),
                id: JsonPointer(Box::default()),
            };
            let signed = |value: &str| {
                let mut fields = HeaderMap::new();
                fields.insert(SIGNATURE, value.parse().unwrap());
                is_signed(&webhook, &fields, &Bytes::from(data.to_owned()))
            };
            assert!(signed(hex), "{data}");
            assert!(signed(&hex.to_uppercase()));
            assert!(!signed(&hex[..62]) && !signed(&format!("{hex}00")) && !signed(&format!("sha256={hex}")));
            for position in 0..64 {
                let mut other = hex.to_owned().into_bytes();
                other[position] = if other[position] == b'0' { b'1' } else { b'0' };
                assert!(!signed(std::str::from_utf8(&other).unwrap()), "{position}");
            }
        }
    }
}
