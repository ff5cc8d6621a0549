//! What Stockaj tells by itself: signed webhooks on the admin listener.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::support::{Gateway, Introspector, RawClient, Response, Upstream, Verdict};

const ITEMS: &str = "/api/v2/items";
const SECRET: &str = "a-secret-between-two";
const DELETED: &str = r#"{"event":"token.deleted","data":{"id":17}}"#;

struct Setting {
    gateway: Gateway,
    introspector: Introspector,
    _upstream: Upstream,
}

fn setting(yaml: &str) -> Setting {
    let upstream = Upstream::start();
    let introspector = Introspector::start();
    introspector.know("17|one", Verdict::active(&["*"]).named("17", "scanner"));
    introspector.know("18|two", Verdict::active(&["*"]).named("18", "scanner"));
    let builder = Gateway::builder().backend(&upstream).introspector(&introspector);
    let gateway = builder.yaml(yaml).yaml("cache: {ttl: 1h}\n").start();
    Setting { gateway, introspector, _upstream: upstream }
}

fn sign(secret: &str, body: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Setting {
    fn send(&self, fields: &[(&str, &str)], body: &str) -> Response {
        RawClient::connect(self.gateway.admin()).request("POST", "/webhook", fields, body.as_bytes())
    }

    fn tell(&self, secret: &str, event: &str, body: &str) -> Response {
        self.send(&[("X-Stockaj-Signature", &sign(secret, body)), ("X-Stockaj-Event", event)], body)
    }

    /// How many introspections a request with each token costs.
    fn asked(&self) -> [usize; 2] {
        ["17|one", "18|two"].map(|token| {
            let before = self.introspector.calls_for(token);
            assert_eq!(self.gateway.get(ITEMS, Some(token)).status, 200);
            self.introspector.calls_for(token) - before
        })
    }

    fn counted(&self) -> [f64; 3] {
        ["forgotten", "ignored", "refused"]
            .map(|outcome| self.gateway.metrics().metric(&format!("webhooks_total{{outcome=\"{outcome}\"}}")))
    }
}

#[test]
fn signed_webhook_evicts_its_token() {
    let setting = setting(&format!("webhook: {{secret: {SECRET}}}\n"));
    setting.asked();
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
        let answer = setting.tell(SECRET, event, body);
        let said = answer.json()["message"].as_str().unwrap().to_owned();
        assert_eq!((answer.status, &*said), (status, message), "{event} {body}");
        assert_eq!(setting.asked(), asked, "{event} {body}");
    }
    assert_eq!(setting.counted(), [3.0, 3.0, 7.0]);
    assert_eq!(setting.gateway.metrics().metric("revocations_total{source=\"webhook\"}"), 3.0);
    let line = setting.gateway.wait_for_log(|line| line["message"] == "admin" && line["what"] == "17");
    assert_eq!(
        (line["action"].as_str(), line["credential"].as_str(), line["by"].as_str()),
        (Some("webhook"), Some("webhook signature"), Some("id"))
    );
    // A replay harms nothing.
    for _ in 0..3 {
        assert_eq!(setting.tell(SECRET, "token.deleted", DELETED).status, 200);
    }
    assert_eq!(setting.asked(), [1, 0]);
}

#[test]
fn unsigned_webhook_is_not_parsed() {
    let setting = setting(&format!("webhook: {{secret: {SECRET}}}\nadmin:\n  token: an-operators-token\n"));
    setting.asked();
    let good = sign(SECRET, DELETED);
    let cut = &good[..63];
    let other = sign(SECRET, &format!("{DELETED} "));
    let stranger = sign("another secret", DELETED);
    let prefixed = format!("sha256={good}");
    let (zeros, no_digits) = ("0".repeat(64), "g".repeat(64));
    let event = ("X-Stockaj-Event", "token.deleted");
    let signature = |value| ("X-Stockaj-Signature", value);
    let operator = ("Authorization", "Bearer an-operators-token");
    for fields in [
        &[event][..],
        &[event, operator],
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
        let answer = setting.send(fields, DELETED);
        assert_eq!((answer.status, answer.text()), (401, r#"{"message":"Unauthenticated."}"#), "{fields:?}");
    }
    // Which event is not known where two are named.
    let twice = [event, ("X-Stockaj-Event", "item.deleted"), signature(&good)];
    assert_eq!(setting.send(&twice, DELETED).json()["message"], "Ignored.");
    let big = "x".repeat(64 * 1024 + 1);
    assert_eq!(setting.tell(SECRET, "token.deleted", &big).status, 413);
    let mut client = RawClient::connect(setting.gateway.admin());
    let answer = client.request("GET", "/webhook", &[event, signature(&good)], b"");
    assert_eq!((answer.status, answer.field("allow")), (405, Some("POST")));
    assert_eq!(setting.asked(), [0, 0]);
    assert_eq!(setting.counted(), [0.0, 1.0, 12.0]);
    // A line for the first of them, and one a second at most for the others.
    let is_refused = |line: &Value| line["message"] == "admin: refused" && line["action"] == "/webhook";
    let line = setting.gateway.wait_for_log(is_refused);
    assert_eq!(line["count"], 1, "{line}");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    // Upper case is the same number.
    assert_eq!(setting.send(&[event, signature(&good.to_uppercase())], DELETED).status, 200);
    assert_eq!(setting.asked(), [1, 0]);
    assert!(!setting.gateway.logs().join("\n").contains(SECRET));
}

#[test]
fn wrong_webhook_signatures_are_throttled_and_valid_ones_never() {
    let setting = setting(&format!("webhook: {{secret: {SECRET}}}\n"));
    let mut throttled = 0;
    for number in 0..40 {
        let answer =
            setting.tell("the secret of a stranger", "token.deleted", &format!("{{\"id\":{number}}}"));
        match answer.status {
            401 => assert_eq!(answer.text(), r#"{"message":"Unauthenticated."}"#),
            429 => {
                throttled += 1;
                assert_eq!(answer.text(), r#"{"message":"Too Many Attempts."}"#);
                assert_eq!(answer.field("retry-after"), Some("1"));
            }
            other => panic!("{other}"),
        }
        assert_eq!(setting.tell(SECRET, "token.deleted", DELETED).status, 200);
    }
    assert!(throttled > 0);
    assert_eq!(setting.send(&[], DELETED).status, 401, "no signature is no guess");
}

#[test]
fn without_a_secret_there_is_no_webhook_endpoint() {
    let with_operator = setting("admin:\n  token: an-operators-token\n");
    assert_eq!(
        with_operator.tell("", "token.deleted", DELETED).status,
        404,
        "it is no matter of a signature"
    );
    let setting = setting("");
    assert_eq!(setting.tell("", "token.deleted", DELETED).status, 404);
    assert_eq!(
        setting.gateway.client().request("POST", "/webhook", &[], b"").status,
        401,
        "nor at the proxy"
    );
}

#[test]
fn webhook_events_and_id_pointer_are_configurable() {
    let yaml =
        format!("webhook: {{secret: {SECRET}, events: api_token.revoked, id: /payload/tokens/0/the~1id}}\n");
    let setting = setting(&yaml);
    setting.asked();
    let body = r#"{"payload":{"tokens":[{"the/id":17},{"the/id":18}]}}"#;
    assert_eq!(setting.tell(SECRET, "token.deleted", body).json()["message"], "Ignored.");
    assert_eq!(setting.tell(SECRET, "api_token.revoked", body).json()["message"], "Forgotten.");
    assert_eq!(setting.asked(), [1, 0]);
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
    let setting = setting(&format!("webhook: {{secret_file: {old}}}\n"));
    let statuses = || {
        ["the-old-webhook-secret", "the-new-webhook-secret"]
            .map(|it| setting.tell(it, "token.deleted", DELETED).status)
    };
    assert_eq!(statuses(), [200, 401]);
    setting.gateway.edit(&format!("secret_file: {old}"), &format!("secret_file: [{old}, {new}]"));
    assert!(setting.gateway.reload());
    assert_eq!(statuses(), [200, 200]);
    setting.gateway.edit(&format!("[{old}, {new}]"), &new);
    assert!(setting.gateway.reload());
    assert_eq!(statuses(), [401, 200]);
}
