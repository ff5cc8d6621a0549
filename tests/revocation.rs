//! Revocation: who may revoke, what a revocation evicts, and that nothing restores it.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, OPERATED, RawClient, Response, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
fn start(yaml: &str) -> TestEnv {
    TestEnv::start(&format!("{OPERATED}{yaml}"))
}

impl TestEnv {
    fn know_user(&self, token: &str, id: &str, name: &str) {
        self.introspector.set_verdict(token, Verdict::active(&["*"]).named(id, name));
    }

    fn revoke_by(&self, body: &str) -> Response {
        self.operator("POST", "/tokens/revoke", body)
    }

    /// The number of verdicts that revocations have evicted.
    fn revoke(&self, order: &Value) -> u64 {
        let response = self.revoke_by(&order.to_string());
        assert_eq!(response.status, 200, "{order}: {}", response.text());
        assert_eq!(response.field("content-type"), Some("application/json"));
        let answer = response.json();
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        answer["revoked"].as_u64().unwrap()
    }
}

/// The tokens with their ids and names.
const TOKENS: [(&str, &str, &str); 5] = [
    ("17|one", "17", "scanner"),
    ("017|one", "17", "scanner"),
    ("one", "17", "scanner"),
    ("18|two", "18", "scanner"),
    ("19|three", "19", "mobile \"app\"\n"),
];

#[test]
fn revocation_evicts_exactly_the_named_tokens() {
    let env = start("cache: {ttl: 1h}");
    for (token, id, name) in TOKENS {
        env.know_user(token, id, name);
    }
    for (order, forgotten, (by, what)) in [
        (json!({"id": "17"}), [true, true, true, false, false], ("id", "17")),
        (json!({"id": 18}), [false, false, false, true, false], ("id", "18")),
        (json!({"id": "1"}), [false; 5], ("id", "1")),
        (json!({"token": "17|one"}), [true, true, true, false, false], ("token", "17")),
        (json!({"token": "one"}), [true, true, true, false, false], ("token", "17")),
        (json!({"token": "018|never seen"}), [false, false, false, true, false], ("token", "18")),
        (json!({"token": "never seen"}), [false; 5], ("token", "-")),
        (json!({"name": "scanner"}), [true, true, true, true, false], ("name", "scanner")),
        (
            json!({"name": "mobile \"app\"\n"}),
            [false, false, false, false, true],
            ("name", "mobile \"app\"\n"),
        ),
        (json!({"name": "Scanner"}), [false; 5], ("name", "Scanner")),
        (json!({"all": true}), [true; 5], ("all", "-")),
    ] {
        for (token, ..) in TOKENS {
            assert_eq!(env.status(ITEMS, token), 200);
        }
        let lines = env.gateway.logs().len();
        let expected = forgotten.iter().filter(|it| **it).count() as u64;
        assert_eq!(env.revoke(&order), expected, "{order}");
        // Replaying a revocation has no effect.
        assert_eq!(env.revoke(&order), 0, "{order}");
        let before = TOKENS.map(|(token, ..)| env.introspector.calls_for(token));
        for ((token, ..), (forgotten, before)) in TOKENS.iter().zip(forgotten.iter().zip(before)) {
            assert_eq!(env.status(ITEMS, token), 200, "a revoked token is introspected again");
            let asked = env.introspector.calls_for(token) - before;
            assert_eq!(asked, usize::from(*forgotten), "{order}: {token}");
        }
        let audit =
            |line: &Value| line["message"] == "admin" && line["count"] == expected && line["by"] == by;
        env.gateway.wait_for_log(audit);
        let logged = env.gateway.logs()[lines..].join("\n");
        let line =
            logged.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(audit).unwrap();
        assert_eq!(line["what"], what, "{line}");
        assert_eq!(
            (&line["action"], &line["credential"]),
            (&json!("revoke"), &json!("admin token (Bearer)"))
        );
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        let secret = order["token"].as_str().filter(|token| token.contains('|'));
        assert!(secret.is_none_or(|token| !logged.contains(token)), "{logged}");
    }
    assert_eq!(env.gateway.metrics().metric("revocations_total{source=\"admin\"}"), 22.0);
    assert!(!env.gateway.logs().join("\n").contains("an-operators-token"));
}

#[test]
fn malformed_revocation_evicts_nothing() {
    let env = start("cache: {ttl: 1h}");
    env.know_user("17|one", "17", "scanner");
    assert_eq!(env.status(ITEMS, "17|one"), 200);
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "{\"id\":\"17\"",
        r#"{"id":"17"} "#.repeat(2).as_str(),
        r#"{"id":"17","name":"scanner"}"#,
        r#"{"id":"17","id":"18"}"#,
        r#"{"id":""}"#,
        r#"{"id":null}"#,
        r#"{"id":1.5}"#,
        r#"{"id":["17"]}"#,
        r#"{"ID":"17"}"#,
        r#"{"token":""}"#,
        r#"{"name":""}"#,
        r#"{"name":17}"#,
        r#"{"all":false}"#,
        r#"{"all":"true"}"#,
        r#"{"everything":true}"#,
        r#""all""#,
        "\u{feff}{\"all\":true}",
    ] {
        let response = env.revoke_by(body);
        assert_eq!(response.status, 400, "{body}: {}", response.text());
        assert!(
            response.json()["message"].as_str().unwrap().starts_with("The body must be one of"),
            "{body}"
        );
    }
    // A token is rejected in place of an id: it would be logged, and evict nothing.
    for body in [r#"{"id":"17|one"}"#, r#"{"name":"17|one"}"#] {
        let response = env.revoke_by(body);
        assert_eq!(response.status, 400, "{body}: {}", response.text());
        assert!(response.json()["message"].as_str().unwrap().starts_with("That is a token"), "{body}");
    }
    assert!(!env.gateway.logs().join("\n").contains("17|one"));
    assert_eq!(env.status(ITEMS, "17|one"), 200);
    assert_eq!(env.introspector.calls(), 1);
    assert_eq!(env.gateway.metrics().metric("revocations_total{source=\"admin\"}"), 0.0);
}

#[test]
fn revocation_needs_the_admin_token_as_bearer() {
    let env = start("");
    let ask = |method: &str, fields: &[(&str, &str)]| {
        RawClient::connect(env.gateway.admin()).request(method, "/tokens/revoke", fields, br#"{"all":true}"#)
    };
    let basic = "Basic YW55Ym9keTphbi1vcGVyYXRvcnMtdG9rZW4=";
    for (authorization, status) in [
        ("Bearer wrong", 401),
        ("Bearer an-operators-token ", 200),
        (basic, 401),
        ("an-operators-token", 401),
    ] {
        assert_eq!(ask("POST", &[("Authorization", authorization)]).status, status, "{authorization}");
    }
    assert_eq!(ask("POST", &[]).status, 401);
    let response = ask("PUT", &[("Authorization", "Bearer an-operators-token")]);
    assert_eq!((response.status, response.field("allow")), (405, Some("POST")));
    env.gateway
        .wait_for_log(|line| line["message"] == "admin: refused" && line["action"] == "/tokens/revoke");
    // The proxy's listener does not serve the path.
    let fields = [("Authorization", "Bearer an-operators-token")];
    let response = env.gateway.client().request("POST", "/tokens/revoke", &fields, br#"{"all":true}"#);
    assert_eq!(response.status, 403);
}

/// The order in production: the token is deleted and then revoked while a request with it is in flight.
#[test]
fn revocation_discards_an_introspection_in_flight() {
    let env = start("cache: {ttl: 1h, negative_ttl: 1h}\nintrospection:\n  max_concurrent: 64\n");
    env.introspector.delay(Duration::from_millis(2));
    let mut overtaken = 0;
    for round in 0..1000_u32 {
        let token = format!("{round}|deleted");
        env.know_user(&token, &round.to_string(), "scanner");
        overtaken += thread::scope(|scope| {
            let request = scope.spawn(|| {
                let status = env.status(ITEMS, &token);
                (status, Instant::now())
            });
            // Revocation before, during and after the introspection.
            thread::sleep(Duration::from_micros(u64::from(round % 8) * 500));
            env.introspector.deactivate(&token);
            let order = match round % 4 {
                0 => json!({ "id": round.to_string() }),
                1 => json!({ "token": token }),
                2 => json!({"name": "scanner"}),
                _ => json!({"all": true}),
            };
            env.revoke(&order);
            let revoked_at = Instant::now();
            assert_eq!(env.status(ITEMS, &token), 401, "{round}: {order}");
            let (status, ended_at) = request.join().unwrap();
            assert!(
                status == 200 && ended_at < revoked_at + Duration::from_secs(1) || status == 401,
                "{round}"
            );
            u32::from(ended_at > revoked_at)
        });
    }
    assert!(overtaken > 50, "only {overtaken} were in flight");
}

#[test]
fn stale_if_error_does_not_restore_a_revoked_token() {
    let env = start("cache: {ttl: 200ms, stale_if_error: 1h}");
    env.know_user("17|one", "17", "scanner");
    assert_eq!(env.status(ITEMS, "17|one"), 200);
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(250));
    assert_eq!(env.status(ITEMS, "17|one"), 200, "stale");
    assert_eq!(env.revoke(&json!({"id": "17"})), 1);
    assert_eq!(env.status(ITEMS, "17|one"), 503);
    env.introspector.recover();
    assert_eq!(env.status(ITEMS, "17|one"), 200);
}

/// A revocation applies to introspections that began before it, across reloads.
#[test]
fn revocation_applies_across_reloads() {
    let env = start("cache: {ttl: 1h}\n");
    env.know_user("17|one", "17", "scanner");
    assert_eq!(env.status(ITEMS, "17|one"), 200);
    for (from, to) in [("ttl: 1h", "ttl: 2h"), ("ttl: 2h", "ttl: 3h")] {
        env.gateway.edit(from, to);
        assert!(env.gateway.reload());
        assert_eq!(env.revoke(&json!({"id": "17"})), 1, "{to}");
        env.introspector.deactivate("17|one");
        assert_eq!(env.status(ITEMS, "17|one"), 401);
        env.know_user("17|one", "17", "scanner");
        assert_eq!(env.revoke(&json!({"token": "17|one"})), 0);
        assert_eq!(env.status(ITEMS, "17|one"), 200, "revoking a token also evicts an inactive verdict");
    }
}
