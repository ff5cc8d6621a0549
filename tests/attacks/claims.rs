//! Tokens that the introspector calls active and that are not for this service, over HTTP/1.1 and HTTP/2.

use serde_json::{Value, json};

use super::{PART_OF_EVERY_TOKEN, assert_refused};
use crate::support::http2::Http2Client;
use crate::support::{Answer, Introspector, Response, TestEnv, Verdict};

pub(super) const EXPECT: &str = "  expect: {aud: [api, 'https://api.example'], iss: 'https://auth.example', token_type: Bearer, client_id: [sync]}\n";

/// Name, members that replace those of a token for this service, and the reason; `None` if the token is accepted.
pub(super) fn rows() -> Vec<(&'static str, Value, Option<&'static str>)> {
    const CLAIM: Option<&str> = Some("unexpected_claim");
    const EARLY: Option<&str> = Some("not_yet_valid");
    vec![
        ("for this service", json!({}), None),
        ("for this service among others", json!({"aud": ["payroll", "https://api.example"]}), None),
        ("type in upper case", json!({"token_type": "BEARER"}), None),
        ("valid since 1970", json!({"nbf": 0}), None),
        ("for another service", json!({"aud": "payroll"}), CLAIM),
        ("for several other services", json!({"aud": ["payroll", "api2", "ap", "API"]}), CLAIM),
        ("for no service", json!({"aud": []}), CLAIM),
        ("audience null", json!({"aud": null}), CLAIM),
        ("audience in an object", json!({"aud": {"0": "api"}}), CLAIM),
        ("audience in a nested list", json!({"aud": [["api"]]}), CLAIM),
        ("audience beside a number", json!({"aud": ["api", 1]}), CLAIM),
        ("two audiences in one string", json!({"aud": "payroll api"}), CLAIM),
        ("audience with a slash", json!({"aud": "https://api.example/"}), CLAIM),
        ("audience with a NUL", json!({"aud": "api\u{0}"}), CLAIM),
        ("audience that begins as ours", json!({"aud": "https://api.example.evil.example"}), CLAIM),
        ("of another issuer", json!({"iss": "https://auth.example.evil.example"}), CLAIM),
        ("issuer in a list", json!({"iss": ["https://auth.example"]}), CLAIM),
        ("of another client", json!({"client_id": "sync2"}), CLAIM),
        ("of several clients", json!({"client_id": ["sync"]}), CLAIM),
        ("of another type", json!({"token_type": "DPoP"}), CLAIM),
        ("type null", json!({"token_type": null}), CLAIM),
        ("claims in a JWT's member", json!({"aud": null, "token_introspection": {"aud": "api"}}), CLAIM),
        ("for another service, with every ability", json!({"aud": "payroll", "scope": "*"}), CLAIM),
        ("for another service, without abilities", json!({"aud": "payroll", "scope": null}), CLAIM),
        ("valid in the year 2999", json!({"nbf": 32_472_144_000_u64}), EARLY),
        ("valid never", json!({"nbf": u64::MAX}), EARLY),
        ("nbf in a string", json!({"nbf": "32472144000"}), Some("no_verdict")),
        ("nbf in a list", json!({"nbf": [0]}), Some("no_verdict")),
    ]
}

/// The introspector's answer about the token of a row.
pub(super) fn answer(number: usize, members: &Value) -> Answer {
    let mut answer = json!({
        "active": true, "scope": "items:read", "jti": number.to_string(), "aud": "api", "iss": "https://auth.example",
        "token_type": "bearer", "client_id": "sync",
    });
    answer.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    Answer::json(200, &answer)
}

#[test]
fn tokens_for_other_services_are_refused_over_both_versions() {
    let introspector = Introspector::start_rfc7662("gateway", "s3cret").with_lines(EXPECT);
    let mut tokens = Vec::new();
    for (number, (name, members, reason)) in rows().into_iter().enumerate() {
        let answer = answer(number, &members);
        for version in ["1", "2"] {
            let token = format!("{number}|{PART_OF_EVERY_TOKEN}{version}");
            introspector.set_verdict(&token, Verdict::Answer(answer.clone()));
        }
        tokens.push((name, reason, number));
    }
    let env: TestEnv = TestEnv::builder().introspector(introspector).yaml("listen:\n  h2c: true\n").start();
    let mut over_http2 = Http2Client::connect(env.gateway.address());
    let mut over_http1 = env.gateway.client();
    for (name, reason, number) in tokens {
        let token = |version: &str| format!("{number}|{PART_OF_EVERY_TOKEN}{version}");
        let responses: [Response; 4] = [
            over_http1.get("/api/v2/items", Some(&token("1"))),
            over_http1.get("/api/v2/items", Some(&token("1"))),
            over_http2.get("/api/v2/items", Some(&token("2"))),
            over_http2.get("/api/v2/items", Some(&token("2"))),
        ];
        for response in &responses {
            match reason {
                None => assert_eq!(response.status, 200, "`{name}`"),
                Some("no_verdict") => assert_refused(response, 503, name),
                Some(_) => assert_refused(response, 401, name),
            }
        }
        let arrived = env.backend.take_requests().len();
        assert_eq!(arrived, if reason.is_none() { 4 } else { 0 }, "`{name}`");
        // The second request is decided by the cached verdict.
        let calls = env.introspector.calls_for(&token("1"));
        assert_eq!(calls, if reason == Some("no_verdict") { 2 } else { 1 }, "`{name}`");
    }
    for (reason, count) in [("unexpected_claim", 20.0 * 4.0), ("not_yet_valid", 2.0 * 4.0)] {
        env.gateway.wait_for_metric(&format!("requests_total{{reason=\"{reason}\",status=\"401\"}}"), count);
    }
    assert!(env.gateway.logs().iter().all(|line| !line.contains(PART_OF_EVERY_TOKEN)));
}
