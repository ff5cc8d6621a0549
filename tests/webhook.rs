//! Signed webhooks of Stockaj on the admin listener.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::support::{OPERATED, OPERATOR, Response, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
const SECRET: &str = "a-secret-between-two";
const DELETED: &str = r#"{"event":"token.deleted","data":{"id":17}}"#;

fn start(yaml: &str) -> TestEnv {
    let scanner = |id| Verdict::active(&["*"]).named(id, "scanner");
    let builder = TestEnv::builder().verdict("17|one", scanner("17")).verdict("18|two", scanner("18"));
    builder.yaml(yaml).yaml("cache: {ttl: 1h}\n").start()
}

fn sign(secret: &str, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TestEnv {
    fn send_webhook(&self, fields: &[(&str, &str)], body: &str) -> Response {
        self.gateway.admin_request("POST", "/webhook", fields, body)
    }

    fn signed_webhook(&self, secret: &str, event: &str, body: &str) -> Response {
        self.send_webhook(&[("X-Stockaj-Signature", &sign(secret, body)), ("X-Stockaj-Event", event)], body)
    }

    /// The number of introspections that a request with each token causes.
    fn introspections_of_each(&self) -> [usize; 2] {
        ["17|one", "18|two"].map(|token| {
            let before = self.introspector.calls_for(token);
            assert_eq!(self.gateway.get(ITEMS, Some(token)).status, 200);
            self.introspector.calls_for(token) - before
        })
    }

    fn webhooks_total(&self) -> [f64; 3] {
        ["forgotten", "ignored", "refused"]
            .map(|outcome| self.gateway.metrics().metric(&format!("webhooks_total{{outcome=\"{outcome}\"}}")))
    }
}

#[test]
fn signed_webhook_evicts_its_token() {
    let env = start(&format!("webhook: {{secret: {SECRET}}}\n"));
    env.introspections_of_each();
    for (event, body, status, message, asked) in [
        ("token.deleted", DELETED, 200, "Forgotten.", [1, 0]),
        ("token.updated", r#"{"data":{"id":"18"}}"#, 200, "Forgotten.", [0, 1]),
        ("token.deleted", r#"{ "data" : { "id" : 99 } }"#, 200, "Forgotten.", [0, 0]),
        ("item.deleted", DELETED, 200, "Ignored.", [0, 0]),
        ("token.created", DELETED, 200, "Ignored.", [0, 0]),
        ("TOKEN.DELETED", DELETED, 200, "Ignored.", [0, 0]),
        ("token.deleted", "{}", 422, "No id at `/data/id`.", [0, 0]),
        ("token.deleted", r#"{"data":{"id":null}}"#, 422, "No id at `/data/id`.", [0, 0]),
        ("token.deleted", r#"{"data":{"id":1.5}}"#, 422, "No id at `/data/id`.", [0, 0]),
        ("token.deleted", r#"{"data":{"id":""}}"#, 422, "No id at `/data/id`.", [0, 0]),
        ("token.deleted", r#"{"data":[{"id":17}]}"#, 422, "No id at `/data/id`.", [0, 0]),
        ("token.deleted", "not JSON", 422, "No id at `/data/id`.", [0, 0]),
        ("token.deleted", "", 422, "No id at `/data/id`.", [0, 0]),
    ] {
        let answer = env.signed_webhook(SECRET, event, body);
        let said = answer.json()["message"].as_str().unwrap().to_owned();
        assert_eq!((answer.status, &*said), (status, message), "{event} {body}");
        assert_eq!(env.introspections_of_each(), asked, "{event} {body}");
    }
    assert_eq!(env.webhooks_total(), [3.0, 3.0, 7.0]);
    assert_eq!(env.gateway.metrics().metric("revocations_total{source=\"webhook\"}"), 3.0);
    let line = env.gateway.wait_for_log(|line| line["message"] == "admin" && line["what"] == "17");
    assert_eq!(
        (line["action"].as_str(), line["credential"].as_str(), line["by"].as_str()),
        (Some("webhook"), Some("webhook signature"), Some("id"))
    );
    // Replaying a webhook has no effect.
    for _ in 0..3 {
        assert_eq!(env.signed_webhook(SECRET, "token.deleted", DELETED).status, 200);
    }
    assert_eq!(env.introspections_of_each(), [1, 0]);
}

#[test]
fn unsigned_webhook_is_not_parsed() {
    let env = start(&format!("webhook: {{secret: {SECRET}}}\n{OPERATED}"));
    env.introspections_of_each();
    let good = sign(SECRET, DELETED);
    let cut = &good[..63];
    let other = sign(SECRET, &format!("{DELETED} "));
    let stranger = sign("another secret", DELETED);
    let prefixed = format!("sha256={good}");
    let (zeros, no_digits) = ("0".repeat(64), "g".repeat(64));
    let event = ("X-Stockaj-Event", "token.deleted");
    let signature = |value| ("X-Stockaj-Signature", value);
    for fields in [
        &[event][..],
        &[event, OPERATOR],
        &[event, signature("")],
        &[event, signature(cut)],
        &[event, signature(&other)],
        &[event, signature(&stranger)],
        &[event, signature(&prefixed)],
        &[event, signature(&good), signature(&good)],
        &[event, signature(&good), signature(&stranger)],
        &[event, signature(&zeros)],
        &[event, signature(&no_digits)],
        &[event, ("X-Signature", &good)],
    ] {
        let answer = env.send_webhook(fields, DELETED);
        assert_eq!((answer.status, answer.text()), (401, r#"{"message":"Unauthenticated."}"#), "{fields:?}");
    }
    // Two event fields are ambiguous, so the event is unknown.
    let twice = [event, ("X-Stockaj-Event", "item.deleted"), signature(&good)];
    assert_eq!(env.send_webhook(&twice, DELETED).json()["message"], "Ignored.");
    let big = "x".repeat(64 * 1024 + 1);
    assert_eq!(env.signed_webhook(SECRET, "token.deleted", &big).status, 413);
    let answer = env.gateway.admin_request("GET", "/webhook", &[event, signature(&good)], "");
    assert_eq!((answer.status, answer.field("allow")), (405, Some("POST")));
    assert_eq!(env.introspections_of_each(), [0, 0]);
    assert_eq!(env.webhooks_total(), [0.0, 1.0, 12.0]);
    // The first refusal is logged immediately, further ones at most once a second.
    let is_refused = |line: &Value| line["message"] == "admin: refused" && line["action"] == "/webhook";
    let line = env.gateway.wait_for_log(is_refused);
    assert_eq!(line["count"], 1, "{line}");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    // A signature in upper-case hex is equal.
    assert_eq!(env.send_webhook(&[event, signature(&good.to_uppercase())], DELETED).status, 200);
    assert_eq!(env.introspections_of_each(), [1, 0]);
    assert!(!env.gateway.logs().join("\n").contains(SECRET));
}

#[test]
fn wrong_webhook_signatures_are_throttled_and_valid_ones_never() {
    let env = start(&format!("webhook: {{secret: {SECRET}}}\n"));
    let mut throttled = 0;
    for number in 0..40 {
        let answer =
            env.signed_webhook("the secret of a stranger", "token.deleted", &format!("{{\"id\":{number}}}"));
        match answer.status {
            401 => assert_eq!(answer.text(), r#"{"message":"Unauthenticated."}"#),
            429 => {
                throttled += 1;
                assert_eq!(answer.text(), r#"{"message":"Too Many Attempts."}"#);
                assert_eq!(answer.field("retry-after"), Some("1"));
            }
            other => panic!("{other}"),
        }
        assert_eq!(env.signed_webhook(SECRET, "token.deleted", DELETED).status, 200);
    }
    assert!(throttled > 0);
    assert_eq!(env.send_webhook(&[], DELETED).status, 401, "a missing signature is not an attempt");
}

#[test]
fn without_a_secret_there_is_no_webhook_endpoint() {
    let with_operator = start(OPERATED);
    assert_eq!(
        with_operator.signed_webhook("", "token.deleted", DELETED).status,
        404,
        "404 whatever the signature"
    );
    let env = start("");
    assert_eq!(env.signed_webhook("", "token.deleted", DELETED).status, 404);
    assert_eq!(
        env.gateway.client().request("POST", "/webhook", &[], b"").status,
        401,
        "not served by the proxy either"
    );
}

#[test]
fn webhook_events_and_id_pointer_are_configurable() {
    let yaml =
        format!("webhook: {{secret: {SECRET}, events: api_token.revoked, id: /payload/tokens/0/the~1id}}\n");
    let env = start(&yaml);
    env.introspections_of_each();
    let body = r#"{"payload":{"tokens":[{"the/id":17},{"the/id":18}]}}"#;
    assert_eq!(env.signed_webhook(SECRET, "token.deleted", body).json()["message"], "Ignored.");
    assert_eq!(env.signed_webhook(SECRET, "api_token.revoked", body).json()["message"], "Forgotten.");
    assert_eq!(env.introspections_of_each(), [1, 0]);
}

#[test]
fn secret_rotation_loses_no_webhook() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, secret: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("{secret}\n")).unwrap();
        path.display().to_string()
    };
    let (old, new) = (file("old", "the-old-webhook-secret"), file("new", "the-new-webhook-secret"));
    let env = start(&format!("webhook: {{secret_file: {old}}}\n"));
    let statuses = || {
        ["the-old-webhook-secret", "the-new-webhook-secret"]
            .map(|it| env.signed_webhook(it, "token.deleted", DELETED).status)
    };
    assert_eq!(statuses(), [200, 401]);
    env.gateway.edit(&format!("secret_file: {old}"), &format!("secret_file: [{old}, {new}]"));
    assert!(env.gateway.reload());
    assert_eq!(statuses(), [200, 200]);
    env.gateway.edit(&format!("[{old}, {new}]"), &new);
    assert!(env.gateway.reload());
    assert_eq!(statuses(), [401, 200]);
}
