//! Introspection: how often a token is introspected, and how long its verdict is used.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::{Answer, Introspector, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";

/// An environment whose introspector accepts `1|reader`.
fn start(yaml: &str) -> TestEnv {
    TestEnv::builder().token("1|reader", &["items:read"]).yaml(yaml).start()
}

fn seconds_from_now(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

#[test]
fn thousand_first_requests_cause_one_introspection() {
    let TestEnv { gateway, backend, introspector } = start("");
    introspector.delay(Duration::from_millis(300));
    thread::scope(|scope| {
        for _ in 0..1000 {
            scope.spawn(|| assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200));
        }
    });
    assert_eq!(introspector.calls(), 1);
    assert_eq!(backend.requests().len(), 1000);
}

#[test]
fn client_disconnect_does_not_cancel_a_shared_introspection() {
    let TestEnv { gateway, backend: _backend, introspector } = start("");
    introspector.delay(Duration::from_millis(300));
    thread::scope(|scope| {
        let mut first = gateway.client();
        first.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n"));
        introspector.wait_for_calls(1);
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200));
        }
        drop(first);
    });
    assert_eq!(introspector.calls(), 1);
}

#[test]
fn token_is_rejected_after_its_expiry() {
    let TestEnv { gateway, backend, introspector } = start("");
    let expiry = seconds_from_now(2);
    introspector.set_verdict("2|brief", Verdict::active(&["items:read"]).expiring(expiry));
    assert_eq!(gateway.get(ITEMS, Some("2|brief")).status, 200);
    let mut client = gateway.client();
    while seconds_from_now(0) < expiry {
        client.get(ITEMS, Some("2|brief"));
    }
    backend.forget_requests();
    assert_eq!(client.get(ITEMS, Some("2|brief")).status, 401);
    assert_eq!(backend.requests().len(), 0);
    assert!(gateway.metrics().metric("requests_total{reason=\"expired_token\"}") >= 1.0);
}

#[test]
fn inactive_tokens_are_cached_and_evict_no_active_one() {
    let TestEnv { gateway, backend, introspector } = start("cache: {max_tokens: 100, negative_ttl: 60s}");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    let mut client = gateway.client();
    for number in 0..1000 {
        assert_eq!(client.get(ITEMS, Some(&format!("{number}|unknown"))).status, 401);
    }
    for _ in 0..10 {
        assert_eq!(client.get(ITEMS, Some("999|unknown")).status, 401);
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
    }
    assert_eq!((introspector.calls_for("999|unknown"), introspector.calls_for("1|reader")), (1, 1));
    assert_eq!(backend.requests().len(), 11);
}

#[test]
fn concurrent_introspections_are_limited() {
    let TestEnv { gateway, backend: _backend, introspector } = start("introspection:\n  max_concurrent: 4\n");
    introspector.delay(Duration::from_millis(20));
    thread::scope(|scope| {
        for number in 0..40 {
            let (gateway, introspector) = (&gateway, &introspector);
            scope.spawn(move || {
                let token = format!("{number}|t");
                introspector.set_verdict(&token, Verdict::active(&["items:read"]));
                assert_eq!(gateway.get(ITEMS, Some(&token)).status, 200);
            });
        }
    });
    assert_eq!(introspector.calls(), 40);
    assert!(introspector.most_concurrent() <= 4, "{}", introspector.most_concurrent());
}

#[test]
fn verdict_is_introspected_again_after_its_ttl() {
    let TestEnv { gateway, backend: _backend, introspector } = start("cache: {ttl: 100ms}");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    introspector.deactivate("1|reader");
    thread::sleep(Duration::from_millis(150));
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 401);
}

#[test]
fn stale_if_error_serves_cached_tokens_only_and_within_its_duration() {
    let TestEnv { gateway, backend: _backend, introspector } =
        start("cache: {ttl: 50ms, stale_if_error: 600ms}");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    assert_eq!(gateway.get(ITEMS, Some("2|unknown")).status, 503);
    assert!(gateway.metrics().metric("token_cache_lookups_total{result=\"stale\"}") >= 1.0);
    thread::sleep(Duration::from_millis(700));
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 503);
    introspector.recover();
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
}

#[test]
fn introspector_outage_is_503_until_it_recovers() {
    let TestEnv { gateway, backend, mut introspector } = start("cache: {ttl: 50ms}");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    introspector.stop();
    thread::sleep(Duration::from_millis(100));
    for token in ["1|reader", "2|unknown", "1|reader"] {
        let answer = gateway.get(ITEMS, Some(token));
        assert_eq!(answer.status, 503, "{token}");
        assert!(answer.field("Retry-After").is_some());
    }
    assert_eq!(backend.requests().len(), 1);
    introspector.resume();
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    assert_eq!(gateway.get(ITEMS, Some("2|unknown")).status, 401);
}

#[test]
fn stale_verdicts_are_counted_and_the_introspector_probed_once_a_second() {
    let TestEnv { gateway, backend: _backend, introspector } =
        start("cache: {ttl: 50ms, stale_if_error: 1h}");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(100));
    let mut client = gateway.client();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
    }
    let probes = 2 + began.elapsed().as_secs() as usize;
    assert!(introspector.calls() <= 1 + probes, "{} calls", introspector.calls());
    assert_eq!(gateway.metrics().metric("token_cache_lookups_total{result=\"stale\"}"), 20.0);
    introspector.recover();
    introspector.deactivate("1|reader");
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 401, "a new verdict replaces the stale one");
}

#[test]
fn steady_traffic_never_waits_for_a_refresh() {
    let TestEnv { gateway, backend: _backend, introspector } = start("cache: {ttl: 2s}");
    let mut client = gateway.client();
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
    introspector.delay(Duration::from_millis(100));
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
        thread::sleep(Duration::from_millis(2));
    }
    let lookups =
        |result: &str| gateway.metrics().metric(&format!("token_cache_lookups_total{{result=\"{result}\"}}"));
    assert_eq!((lookups("miss"), lookups("coalesced")), (1.0, 0.0), "only the first request waited");
    assert!((3..=5).contains(&introspector.calls()), "{} calls", introspector.calls());
}

#[test]
fn flood_of_unknown_tokens_leaves_a_quarter_of_introspections_to_known_ones() {
    let yaml = "introspection:\n  max_concurrent: 8\n  timeout: 10s\ncache: {ttl: 50ms}\n";
    let TestEnv { gateway, backend: _backend, introspector } = start(yaml);
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    introspector.delay(Duration::from_millis(300));
    thread::scope(|scope| {
        for number in 0..48 {
            let gateway = &gateway;
            scope.spawn(move || {
                assert_eq!(gateway.get(ITEMS, Some(&format!("{number}|unknown"))).status, 401);
            });
        }
        introspector.wait_for_calls(1 + 6 + 6);
        assert_eq!(introspector.most_concurrent(), 6);
        assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
        assert!(introspector.calls() < 1 + 48, "the request did not wait for the flood");
    });
    assert_eq!((introspector.most_concurrent(), introspector.calls()), (7, 2 + 48));
}

#[test]
fn backend_401_evicts_the_verdict_once_per_negative_ttl() {
    let TestEnv { gateway, backend, introspector } = start("cache: {negative_ttl: 60s}");
    backend.answer(|_| Answer::message(401, "Unauthenticated."));
    for _ in 0..5 {
        assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 401);
    }
    assert_eq!(introspector.calls_for("1|reader"), 2);
}

#[test]
fn denial_by_an_old_verdict_is_introspected_again() {
    let TestEnv { gateway, backend, introspector } = start("cache: {negative_ttl: 500ms}");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    introspector.set_verdict("1|reader", Verdict::active(&["items:read", "items:create"]));
    let create = || {
        let fields = [("Authorization", "Bearer 1|reader")];
        gateway.client().request("POST", ITEMS, &fields, b"{}").status
    };
    assert_eq!(create(), 403, "the verdict is younger than negative_ttl");
    thread::sleep(Duration::from_millis(550));
    assert_eq!(create(), 200);
    assert_eq!((introspector.calls(), backend.requests().len()), (2, 2));
}

#[test]
fn rfc_7662_introspection_works() {
    let verdict = Verdict::active(&["items:read", "rents:read"]).expiring(seconds_from_now(60));
    let introspector = Introspector::start_rfc7662("gateway", "s3cret");
    let env = TestEnv::builder().introspector(introspector).verdict("1|a+b/c=", verdict).start();
    assert_eq!(env.gateway.get(ITEMS, Some("1|a+b/c=")).status, 200);
    assert_eq!(
        env.gateway
            .client()
            .request("POST", "/api/v2/exports", &[("Authorization", "bearer 1|a+b/c=")], b"")
            .status,
        200
    );
    assert_eq!(env.gateway.get(ITEMS, Some("2|unknown")).status, 401);
    assert_eq!(env.introspector.calls(), 2);
}

#[test]
fn token_that_expires_in_the_year_9999_is_served() {
    let TestEnv { gateway, backend: _backend, introspector } = start("");
    for (number, expiry) in [
        json!("9999-12-31T23:59:59Z"),
        json!("9999-12-31T23:59:59.000000Z"),
        json!(253_402_300_799_u64),
        json!(u64::MAX),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("9{number}|never");
        introspector.set_verdict(&token, Verdict::active(&["items:read"]).expiring(expiry.clone()));
        assert_eq!(gateway.get(ITEMS, Some(&token)).status, 200, "{expiry}");
    }
    introspector.set_verdict("8|past", Verdict::active(&["items:read"]).expiring(-1));
    assert_eq!(gateway.get(ITEMS, Some("8|past")).status, 401);
}

#[test]
fn abilities_are_the_values_of_an_object_and_json_strings_are_logged() {
    let TestEnv { gateway, backend, introspector } = start("");
    let answers = |abilities: serde_json::Value| {
        let data = json!({"data": {"id": 5, "name": "holes", "abilities": abilities, "expires_at": null}});
        Verdict::Answer(Answer::json(200, &data))
    };
    introspector.set_verdict("5|holes", answers(json!({"0": "kiosk:scan", "2": "items:read"})));
    assert_eq!(gateway.get(ITEMS, Some("5|holes")).status, 200);
    assert_eq!(backend.requests().len(), 1);
    introspector.set_verdict("6|encoded", answers(json!("[\"items:read\"]")));
    assert_eq!(gateway.get(ITEMS, Some("6|encoded")).status, 503);
    let line = gateway.wait_for_log(|line| line["message"] == "introspection gave no verdict");
    assert!(line["error"].as_str().unwrap().contains("are JSON inside a string"), "{line}");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn introspected_name_over_its_limit_is_no_verdict_and_logged() {
    let TestEnv { gateway, backend, introspector } = start("");
    introspector.set_verdict("7|long", Verdict::active(&["items:read"]).named(7, &"n".repeat(60_000)));
    assert_eq!(gateway.get(ITEMS, Some("7|long")).status, 503);
    let line = gateway.wait_for_log(|line| line["message"] == "introspection gave no verdict");
    assert!(line["error"].as_str().unwrap().contains("the token's name"), "{line}");
    assert_eq!(backend.requests().len(), 0);
}
