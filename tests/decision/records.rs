//! Limits, metrics, log, ledger, shadow mode, revocation and outages.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DECISION, ITEMS, READER, in_every_style, start};
use crate::support::decision::{CHECK, Style, call, called, frame, message};
use crate::support::http2::Http2Client;
use crate::support::{Answer, OPERATED, TestEnv, Verdict};

#[test]
fn decisions_have_metrics_of_their_own() {
    let env = start(DECISION);
    for style in [Style::Forwarded, Style::Grpc] {
        let mut asker = env.asker(style);
        assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 200);
        assert_eq!(asker.ask_with("PUT", "/api/v2/items/5", READER).status, 403);
        assert_eq!(asker.ask_with("GET", "/nowhere", READER).status, 403);
        assert_eq!(asker.ask_with("GET", "/a//b", READER).status, 400);
    }
    assert_eq!(env.status(ITEMS, READER), 200);
    let described = r#"requests_total{listener="decision"}"#;
    env.gateway.wait_for_metric(described, 8.0);
    for labels in [
        r#"route="/api/v2/items",method="GET",status="200",reason="allowed""#,
        r#"route="/api/v2/items/{id}",method="PUT",status="403",reason="missing_ability""#,
        r#"route="unmapped",method="GET",status="403",reason="unmapped""#,
        r#"route="none",method="GET",status="400",reason="bad_request""#,
    ] {
        let name = format!("requests_total{{{labels},listener=\"decision\"}}");
        env.gateway.wait_for_metric(&name, 2.0);
    }
    // The series of the proxy listener have no such label.
    let metrics = env.gateway.metrics().0;
    let proxied =
        "requests_total{route=\"/api/v2/items\",method=\"GET\",status=\"200\",reason=\"allowed\"} 1\n";
    assert!(metrics.contains(proxied), "{metrics}");
    let duration = r#"request_duration_seconds_count{route="/api/v2/items",listener="decision"}"#;
    assert_eq!(env.gateway.metrics().metric(duration), 2.0);
}

#[test]
fn decisions_have_access_lines() {
    in_every_style("", |env, style| {
        let sent = [("authorization", "Bearer 2|reader"), ("user-agent", "scanner/1")];
        let decision = env.asker(style).ask("DELETE", "/api/v2/items/5", &sent);
        let id = decision.field("x-request-id").unwrap().to_owned();
        let line = env.gateway.wait_for_log(|line| line["request_id"] == id.as_str());
        for (field, expected) in [
            ("listener", "decision"),
            ("client", "192.0.2.7"),
            ("host", "stockaj.example"),
            ("user_agent", "scanner/1"),
            ("method", "DELETE"),
            ("route", "/api/v2/items/{id}"),
            ("reason", "missing_ability"),
            ("required", "items:delete"),
            ("protocol", "HTTP/1.1"),
        ] {
            assert_eq!(line[field], expected, "{style:?}: {line}");
        }
        assert_eq!(line["status"], 403);
        assert!(line["upstream_address"].is_null() && line["token_id"].is_string(), "{line}");
        assert!(!env.gateway.logs().iter().any(|line| line.contains(READER)), "a token in the log");
    });
}

/// The version of a client's request is in calls only.
#[test]
fn protocol_of_a_call_is_that_of_the_described_request() {
    let env = start(DECISION);
    for (protocol, expected) in [
        ("HTTP/1.0", "HTTP/1.0".into()),
        ("HTTP/1.1", "HTTP/1.1".into()),
        ("HTTP/2", "HTTP/2.0".into()),
        ("HTTP/3", "HTTP/3.0".into()),
        ("", Value::Null),
        ("HTTP/9", Value::Null),
    ] {
        for (number, method) in ["GET", "TRACE"].into_iter().enumerate() {
            let id = format!("version-{number}-{protocol}");
            let field = |name: &str, value: &str| message(3, [message(1, name), message(2, value)].concat());
            let http = [message(2, method), message(4, "/up"), message(5, "a"), message(10, protocol)];
            let http = [http.concat(), field("x-request-id", &id)].concat();
            let body = frame(&message(1, message(4, message(2, http))));
            let response = call(&mut Http2Client::connect(env.decision()), CHECK, &body);
            assert_eq!(called(&response).is_allowed(), method == "GET");
            let line = env.gateway.wait_for_log(|line| line["request_id"] == id.as_str());
            assert_eq!(line["protocol"], expected, "{protocol}: {line}");
        }
    }
}

#[test]
fn trusted_request_id_is_that_of_the_proxy() {
    in_every_style("", |env, style| {
        let id = format!("of-the-proxy-{}", style as u8);
        env.asker(style).ask("GET", "/up", &[("x-request-id", &id)]);
        let line = env.gateway.wait_for_log(|line| line["request_id"] == id.as_str());
        assert_eq!((&line["route"], &line["reason"]), (&"/up".into(), &"public".into()));
    });
}

#[test]
fn decisions_and_requests_share_one_cache_and_one_limit() {
    in_every_style("rate_limit: {requests_per_second: 1, burst: 3}\n", |env, style| {
        let token = format!("6|shared{}", style as u8);
        env.introspector.set_verdict(&token, Verdict::active(&["items:read"]).named(style as u8, "shared"));
        let mut asker = env.asker(style);
        assert_eq!(asker.ask_with("GET", ITEMS, &token).status, 200);
        assert_eq!(env.status(ITEMS, &token), 200);
        assert_eq!(asker.ask_with("GET", ITEMS, &token).status, 200);
        assert_eq!([asker.ask_with("GET", ITEMS, &token).status, env.status(ITEMS, &token)], [429, 429]);
        assert_eq!(env.introspector.calls_for(&token), 1, "{style:?}");
    });
}

#[test]
fn revoked_token_is_refused_at_once() {
    in_every_style(&format!("{OPERATED}cache: {{ttl: 1h}}\n"), |env, style| {
        let token = format!("7|revoked{}", style as u8);
        env.introspector.set_verdict(&token, Verdict::active(&["items:read"]));
        let mut asker = env.asker(style);
        assert!(asker.ask_with("GET", ITEMS, &token).is_allowed());
        env.introspector.deactivate(&token);
        assert!(asker.ask_with("GET", ITEMS, &token).is_allowed(), "the verdict is cached");
        let body = serde_json::json!({"token": token}).to_string();
        let revoked = Instant::now();
        assert_eq!(env.operator("POST", "/tokens/revoke", &body).status, 200);
        assert_eq!(asker.ask_with("GET", ITEMS, &token).status, 401, "{style:?}");
        assert!(revoked.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn outage_refuses_and_ends() {
    in_every_style("cache: {ttl: 1h}\n", |env, style| {
        let mut asker = env.asker(style);
        assert!(asker.ask_with("GET", ITEMS, READER).is_allowed());
        env.introspector.fail_with(Answer::with(500, &[], ""));
        assert!(asker.ask_with("GET", ITEMS, READER).is_allowed(), "the verdict is cached");
        let token = format!("8|new{}", style as u8);
        env.introspector.set_verdict(&token, Verdict::active(&["items:read"]));
        let decision = asker.ask_with("GET", ITEMS, &token);
        assert_eq!((decision.status, decision.is_allowed()), (503, false), "{style:?}");
        env.introspector.recover();
        let end = Instant::now() + Duration::from_secs(5);
        while !asker.ask_with("GET", ITEMS, &token).is_allowed() {
            assert!(Instant::now() < end, "{style:?}");
        }
    });
}

#[test]
fn ability_that_was_added_is_found_before_a_403() {
    in_every_style("cache: {ttl: 1h, negative_ttl: 0s}\n", |env, style| {
        let token = format!("9|added{}", style as u8);
        env.introspector.set_verdict(&token, Verdict::active(&["rents:read"]));
        let mut asker = env.asker(style);
        assert_eq!(asker.ask_with("GET", ITEMS, &token).status, 403);
        env.introspector.set_verdict(&token, Verdict::active(&["items:read"]));
        assert!(asker.ask_with("GET", ITEMS, &token).is_allowed(), "{style:?}");
    });
}

#[test]
fn shadow_mode_allows_and_counts() {
    let mut env: TestEnv = start(&format!("{DECISION}mode: shadow\n"));
    for style in [Style::Forwarded, Style::GrpcRaw] {
        let mut asker = env.asker(style);
        let decision = asker.ask_with("DELETE", "/api/v2/items/5", READER);
        assert!(decision.is_allowed(), "{style:?}: {decision:?}");
        assert_eq!(decision.field("authorization"), Some("Bearer 2|reader"));
        assert_eq!(asker.ask("GET", ITEMS, &[]).status, 401, "{style:?}");
        assert_eq!(asker.ask_with("GET", "/api/v2/items/", READER).status, 400, "{style:?}");
    }
    env.gateway.wait_for_metric(r#"shadow_total{change="would_deny",route="/api/v2/items/{id}"}"#, 2.0);
    env.gateway.wait_for_log(|line| line["shadow"] == "would_deny" && line["listener"] == "decision");

    env = TestEnv::builder()
        .token(READER, &["items:read"])
        .configure(|gateway| gateway.file("candidate.yaml", "routes: {/api/v2/items: {GET: deny}}\n"))
        .yaml(&format!("{DECISION}shadow: candidate.yaml\n"))
        .start();
    for style in [Style::Original, Style::Grpc] {
        assert!(env.asker(style).ask_with("GET", ITEMS, READER).is_allowed());
    }
    let counted = r#"shadow_total{change="would_deny",route="/api/v2/items",map="candidate"}"#;
    env.gateway.wait_for_metric(counted, 2.0);
}

#[test]
fn ledger_counts_decisions_as_usage() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("usage.redb");
    let yaml = format!("usage: {{path: {}, flush_interval: 200ms}}\n", file.display());
    let env = start(&format!("{DECISION}{OPERATED}{yaml}"));
    env.introspector.set_verdict(READER, Verdict::active(&["items:read"]).named("17", "scanner"));
    for style in [Style::Forwarded, Style::Original, Style::Grpc] {
        let mut asker = env.asker(style);
        assert!(asker.ask_with("GET", ITEMS, READER).is_allowed());
        assert_eq!(asker.ask_with("PUT", "/api/v2/items/5", READER).status, 403);
    }
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let report = env.operator("GET", "/usage", "").text().to_owned();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_default();
        let count = |verdict: &str| {
            let usage = report["tokens"][0]["usage"].as_array().cloned().unwrap_or_default();
            usage
                .iter()
                .filter(|row| row["verdict"] == verdict)
                .filter_map(|row| row["count"].as_u64())
                .sum::<u64>()
        };
        if (count("allowed"), count("denied")) == (3, 3) {
            break;
        }
        assert!(Instant::now() < end, "{report}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
