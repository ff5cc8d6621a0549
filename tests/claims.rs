//! `introspection.expect` and `nbf`: tokens for other services, and tokens before their time.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Answer, Introspector, OPERATED, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";

fn active(claims: &Value) -> Verdict {
    let mut answer = json!({"active": true, "scope": "items:read", "jti": "17"});
    answer.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    Verdict::Answer(Answer::json(200, &answer))
}

fn start(lines: &str, yaml: &str) -> TestEnv {
    let introspector = Introspector::start_rfc7662("gateway", "s3cret").with_lines(lines);
    TestEnv::builder().introspector(introspector).yaml(yaml).start()
}

fn seconds_from_now(seconds: f64) -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + seconds
}

#[test]
fn token_for_another_service_is_401_and_the_log_says_which_claim() {
    let env = start("  expect: {aud: [api, legacy], iss: https://auth.example}\n", "");
    let set = |token: &str, claims: Value| env.introspector.set_verdict(token, active(&claims));
    set("1|ours", json!({"aud": "api", "iss": "https://auth.example"}));
    set("1|payroll", json!({"aud": "payroll", "iss": "https://auth.example"}));
    assert_eq!(env.gateway.get(ITEMS, Some("1|ours")).status, 200);
    let response = env.gateway.get(ITEMS, Some("1|payroll"));
    assert_eq!((response.status, response.text()), (401, r#"{"message":"Unauthenticated."}"#));
    let challenge = r#"Bearer realm="stockaj", error="invalid_token""#;
    assert_eq!(response.field("www-authenticate"), Some(challenge));
    let line = env.gateway.wait_for_log(|line| line["status"] == 401);
    let fields = ["reason", "claim", "expected", "cache"].map(|name| line[name].as_str().unwrap());
    assert_eq!(fields, ["unexpected_claim", "aud", "api or legacy", "miss"], "{line}");
    assert!(!line.to_string().contains("payroll"), "{line}");
    assert_eq!(env.backend.requests().len(), 1);
    let outcome = |outcome: &str| format!("introspections_total{{outcome=\"{outcome}\"}}");
    assert_eq!(env.gateway.metrics().metric(&outcome("inactive")), 1.0);
}

#[test]
fn mismatch_is_cached_for_negative_ttl() {
    let env = start("  expect: {aud: api}\n", "cache: {negative_ttl: 400ms}");
    env.introspector.set_verdict("1|t", active(&json!({"aud": "payroll"})));
    let mut client = env.gateway.client();
    for _ in 0..5 {
        assert_eq!(client.get(ITEMS, Some("1|t")).status, 401);
    }
    assert_eq!(env.introspector.calls(), 1);
    env.introspector.set_verdict("1|t", active(&json!({"aud": "api"})));
    thread::sleep(Duration::from_millis(450));
    assert_eq!(client.get(ITEMS, Some("1|t")).status, 200);
    assert_eq!(env.introspector.calls(), 2);
}

#[test]
fn token_works_from_its_nbf_on_however_long_negative_ttl_is() {
    let env = start("  expect: {aud: api}\n", "cache: {negative_ttl: 1h}");
    let nbf = seconds_from_now(1.5);
    env.introspector.set_verdict("1|early", active(&json!({"aud": "api", "nbf": nbf})));
    let mut client = env.gateway.client();
    let mut refused = 0;
    while client.get(ITEMS, Some("1|early")).status == 401 {
        refused += 1;
        assert!(seconds_from_now(0.0) < nbf + 1.0, "still refused");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(refused > 0 && seconds_from_now(0.0) >= nbf);
    assert_eq!(env.introspector.calls(), 2, "one before `nbf`, one after it");
    assert_eq!(env.gateway.metrics().metric("requests_total{reason=\"not_yet_valid\"}"), f64::from(refused));
}

#[test]
fn changed_expectation_applies_to_cached_verdicts_after_a_reload() {
    let env = start("  expect: {aud: api}\n", "cache: {ttl: 1h, negative_ttl: 1h}");
    env.introspector.set_verdict("1|t", active(&json!({"aud": ["api", "v2"]})));
    let mut client = env.gateway.client();
    let mut previous = "api";
    for (audience, status) in [("v2", 200), ("payroll", 401), ("api", 200)] {
        env.gateway.edit(&format!("{{aud: {previous}}}"), &format!("{{aud: {audience}}}"));
        assert!(env.gateway.reload());
        previous = audience;
        let end = Instant::now() + Duration::from_secs(5);
        while client.get(ITEMS, Some("1|t")).status != status {
            assert!(Instant::now() < end, "not {status} after the reload");
        }
    }
}

#[test]
fn shadow_mode_refuses_tokens_for_other_services() {
    let env = start("  expect: {aud: api}\n", "mode: shadow\n");
    env.introspector.set_verdict("1|t", active(&json!({"aud": "payroll"})));
    assert_eq!(env.gateway.get(ITEMS, Some("1|t")).status, 401);
    assert_eq!(env.backend.requests().len(), 0);
}

/// The id and the name of such tokens are known, whatever else their introspection says.
#[test]
fn blocked_token_for_another_service_or_before_its_nbf_is_refused_as_blocked() {
    for mode in ["enforce", "shadow"] {
        let yaml = format!(
            "{OPERATED}cache: {{negative_ttl: 1h}}\nmode: {mode}\nshadow_authentication: {}\n",
            mode == "shadow"
        );
        let env = start("  expect: {aud: api}\n", &yaml);
        let set = |token: &str, claims: Value| env.introspector.set_verdict(token, active(&claims));
        set("payroll", json!({"aud": "payroll", "jti": "t-1", "client_id": "one"}));
        set(
            "early",
            json!({"aud": "api", "nbf": seconds_from_now(3600.0), "jti": "t-2", "client_id": "two"}),
        );
        let ended = json!({"active": false, "jti": "t-3", "client_id": "three"});
        env.introspector.set_verdict("ended", Verdict::Answer(Answer::json(200, &ended)));
        let unblocked = if mode == "shadow" { 200 } else { 401 };
        let mut refused = 0.0;
        for (token, id, name) in
            [("payroll", "t-1", "one"), ("early", "t-2", "two"), ("ended", "t-3", "three")]
        {
            for body in [json!({ "id": id }), json!({ "name": name })] {
                assert_eq!(env.status(ITEMS, token), unblocked, "{mode}: {token}");
                assert_eq!(env.operator("POST", "/tokens/block", &body.to_string()).status, 200);
                let calls = env.introspector.calls_for(token);
                for _ in 0..3 {
                    assert_eq!(env.status(ITEMS, token), 401, "{mode}: {token} after {body}");
                }
                assert_eq!(env.introspector.calls_for(token), calls + 1, "once per negative_ttl");
                refused += 3.0;
                let metrics = env.gateway.metrics();
                assert_eq!(metrics.metric("requests_total{reason=\"blocked\"}"), refused, "{mode}: {token}");
                assert_eq!(env.operator("DELETE", "/tokens/block", &body.to_string()).status, 200);
            }
        }
    }
}

#[test]
fn signed_introspection_response_is_no_verdict_and_never_requested() {
    let env = start("  expect: {aud: api}\n", "");
    let body = json!({"active": true, "scope": "items:read", "aud": "api"}).to_string();
    let signed = Answer::with(200, &[("Content-Type", "application/token-introspection+jwt")], body);
    env.introspector.set_verdict("1|t", Verdict::Answer(signed));
    assert_eq!(env.gateway.get(ITEMS, Some("1|t")).status, 503);
    let line = env.gateway.wait_for_log(|line| line["message"] == "introspection gave no verdict");
    assert!(line["error"].as_str().unwrap().contains("is signed"), "{line}");
    for request in env.introspector.requests() {
        assert_eq!(request.field("accept"), Some("application/json"));
    }
}
