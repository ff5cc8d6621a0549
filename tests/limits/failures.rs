//! `limits.failures_per_address`: which requests count, for whom, and who is never refused.

use std::thread;
use std::time::{Duration, Instant};

use super::assert_too_often;
use crate::support::http2::Http2Client;
use crate::support::{Answer, OPERATED, PATIENCE, RawClient, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
/// Refills so slowly that a test does not notice.
const ONE: &str = "limits: {failures_per_address: 1}\ncache: {negative_ttl: 1h}\n";

/// An environment in which `1|reader` has been active before.
fn start(yaml: &str) -> TestEnv {
    let env = TestEnv::builder().token("1|reader", &["items:read"]).yaml(yaml).start();
    assert_eq!(env.status(ITEMS, "1|reader"), 200);
    env
}

/// Sends requests with unknown tokens until one is refused with 429.
fn exhaust(client: &mut RawClient) {
    let spent = (0..200).any(|number| client.get(ITEMS, Some(&format!("{number}|guessed"))).status == 429);
    assert!(spent, "never refused");
}

/// Sends requests with `token` until one is not refused with 429, and returns its status.
fn status_once_refilled(client: &mut RawClient, token: &str) -> u16 {
    let end = Instant::now() + PATIENCE;
    loop {
        match client.get(ITEMS, Some(token)).status {
            429 => assert!(Instant::now() < end, "{token}: never refilled"),
            status => return status,
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn request_with_an_inactive_token_over_the_limit_is_429_without_an_introspection() {
    let env = start(ONE);
    let mut client = env.gateway.client();
    exhaust(&mut client);
    let calls = env.introspector.calls();
    let response = client.get(ITEMS, Some("999|guessed"));
    assert_too_often(&response, "1");
    assert_eq!(env.introspector.calls(), calls);
    let line = env.gateway.wait_for_log(|line| line["status"] == 429);
    let fields = ["reason", "limit", "route"].map(|name| line[name].as_str().unwrap());
    assert_eq!(fields, ["limited", "failures_per_address", ITEMS], "{line}");
    assert_eq!(
        RawClient::connect_from("127.0.0.2", env.gateway.address()).get(ITEMS, Some("5|x")).status,
        401
    );
}

#[test]
fn cached_inactive_tokens_count_as_well() {
    let env = start(ONE);
    env.introspector.set_verdict("2|past", Verdict::active(&["*"]).expiring("2001-01-01T00:00:00Z"));
    let mut client = env.gateway.client();
    for token in ["7|unknown", "2|past"] {
        assert_eq!(status_once_refilled(&mut client, token), 401, "{token}");
        let spent = (0..200).any(|_| client.get(ITEMS, Some(token)).status == 429);
        assert!(spent, "{token}: never refused");
        assert_eq!(env.introspector.calls_for(token), 1);
    }
}

#[test]
fn known_active_token_is_never_limited() {
    // Fresh, stale in an outage, and too old for its route.
    let yaml = "limits: {failures_per_address: 1}\ncache: {ttl: 150ms, stale_if_error: 1h, negative_ttl: 1h, max_age: {items:update: 0s}}\n";
    let env = start(yaml);
    env.introspector.set_verdict("3|editor", Verdict::active(&["items:update"]));
    let mut client = env.gateway.client();
    let edit = |client: &mut RawClient| {
        client.request("PATCH", "/api/v2/items/5", &[("Authorization", "Bearer 3|editor")], b"{}").status
    };
    assert_eq!(edit(&mut client), 200);
    for round in 0..4 {
        exhaust(&mut client);
        if round == 3 {
            env.introspector.fail_with(Answer::message(500, "Server Error"));
        }
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200, "round {round}");
        assert_eq!(edit(&mut client), if round == 3 { 503 } else { 200 }, "round {round}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn outdated_verdict_is_known_and_introspected_again() {
    let env = start("limits: {failures_per_address: 1}\ncache: {ttl: 50ms, negative_ttl: 1h}\n");
    let mut client = env.gateway.client();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(80));
        exhaust(&mut client);
        let calls = env.introspector.calls_for("1|reader");
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
        assert_eq!(env.introspector.calls_for("1|reader"), calls + 1);
    }
    // Found to be inactive, it is like any other from then on.
    env.introspector.deactivate("1|reader");
    thread::sleep(Duration::from_millis(80));
    exhaust(&mut client);
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 401);
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 429);
}

/// The verdicts are gone and the tokens are known: all are introspected again, whoever shares their address.
#[test]
fn tokens_are_known_after_a_revocation_of_all_and_after_a_reload_of_the_introspection() {
    let env = start(&format!("{ONE}{OPERATED}"));
    let mut client = env.gateway.client();
    let mut round = 0;
    let mut is_known = |env: &TestEnv, client: &mut RawClient, what: &str| {
        exhaust(client);
        round += 1;
        assert_eq!(env.introspector.calls_for("1|reader"), round, "{what}");
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200, "{what}");
        assert_eq!(
            env.introspector.calls_for("1|reader"),
            round + 1,
            "{what}: not served by the old verdict"
        );
    };
    for what in ["revoke --all", "revoke --all again"] {
        assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"all":true}"#).json()["revoked"], 1, "{what}");
        is_known(&env, &mut client, what);
    }
    env.gateway.edit("introspection:\n", "introspection:\n  response: {context: /data/context}\n");
    assert!(env.gateway.reload());
    is_known(&env, &mut env.gateway.client(), "reload");
    let mut client = env.gateway.client();
    // Not one that a revocation names, nor one that was found to be inactive since.
    assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"id":"1"}"#).json()["revoked"], 1);
    exhaust(&mut client);
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 429);
    assert_eq!(status_once_refilled(&mut client, "1|reader"), 200);
    assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"all":true}"#).json()["revoked"], 1);
    env.introspector.deactivate("1|reader");
    exhaust(&mut client);
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 401);
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 429);
}

#[test]
fn first_requests_of_active_tokens_and_missing_verdicts_do_not_count() {
    let env = start(ONE);
    let mut client = env.gateway.client();
    for number in 0..20 {
        let token = format!("{number}|active");
        env.introspector.set_verdict(&token, Verdict::active(&["items:read"]));
        assert_eq!(client.get(ITEMS, Some(&token)).status, 200);
    }
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    for number in 0..20 {
        assert_eq!(client.get(ITEMS, Some(&format!("{number}|failing"))).status, 503);
    }
    env.introspector.recover();
    for _ in 0..5 {
        assert_eq!(client.get(ITEMS, None).status, 401);
        assert_eq!(client.get(ITEMS, Some("two words")).status, 401);
        assert_eq!(client.get("/up", Some("1|guessed")).status, 200);
        assert_eq!(client.get("/nowhere", Some("1|guessed")).status, 403);
    }
    assert_eq!(client.get(ITEMS, Some("1|guessed")).status, 401, "the first failure");
    exhaust(&mut client);
}

#[test]
fn parallel_first_requests_of_an_active_token_share_a_reservation() {
    let env = start(ONE);
    env.introspector.set_verdict("8|new", Verdict::active(&["items:read"]));
    env.introspector.delay(Duration::from_millis(300));
    thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| assert_eq!(env.status(ITEMS, "8|new"), 200));
        }
    });
    assert_eq!(env.introspector.calls_for("8|new"), 1);
}

#[test]
fn parallel_requests_with_one_inactive_token_all_count() {
    let env = start("limits: {failures_per_address: 3}\ncache: {negative_ttl: 1h}\n");
    env.introspector.delay(Duration::from_millis(500));
    let statuses: Vec<u16> = thread::scope(|scope| {
        let requests: Vec<_> = (0..20).map(|_| scope.spawn(|| env.status(ITEMS, "9|guessed"))).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    let count = |wanted: u16| statuses.iter().filter(|&&status| status == wanted).count();
    // The rate may refill some of them while the requests arrive.
    assert!((3..=8).contains(&count(401)) && count(401) + count(429) == 20, "{statuses:?}");
    assert_eq!(env.introspector.calls_for("9|guessed"), 1);
}

#[test]
fn client_address_is_chosen_by_trusted_proxies_only_and_ipv6_counts_by_64() {
    let yaml = "listen:\n  trusted_proxies: [127.0.0.1]\n";
    let env = start(&format!("{ONE}{yaml}"));
    let mut number = 0;
    let mut fails = |client: &mut RawClient, forwarded: &str| {
        number += 1;
        let token = format!("Bearer {number}|guessed");
        let fields = [("Authorization", &*token), ("X-Forwarded-For", forwarded)];
        client.request("GET", ITEMS, &fields, b"").status
    };
    let mut proxy = env.gateway.client();
    for client in ["198.51.100.7", "198.51.100.8", "2001:db8:7::1", "2001:db8:8::1"] {
        assert_eq!(fails(&mut proxy, client), 401, "{client}");
    }
    let is_limited = |fails: &mut dyn FnMut(usize) -> u16| (0..40).map(fails).any(|status| status == 429);
    assert!(is_limited(&mut |host| fails(&mut proxy, &format!("2001:db8:7::{host:x}:1"))));
    assert!(is_limited(&mut |other| fails(&mut proxy, &format!("203.0.113.{other}, 198.51.100.7"))));
    // An untrusted peer is the client itself, whatever it claims.
    let mut untrusted = RawClient::connect_from("127.0.0.2", env.gateway.address());
    assert!(is_limited(&mut |other| fails(&mut untrusted, &format!("203.0.113.{other}"))));
}

#[test]
fn clients_of_a_unix_socket_share_their_failures() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gateway.sock");
    let _env = TestEnv::builder()
        .token("1|reader", &["items:read"])
        .configure(|builder| builder.listening_at(&socket).yaml(ONE))
        .start();
    let mut clients: Vec<_> = (0..2).map(|_| RawClient::connect_unix(&socket)).collect();
    assert_eq!(clients[0].get(ITEMS, Some("1|reader")).status, 200);
    exhaust(&mut clients[0]);
    exhaust(&mut clients[1]);
    assert_eq!(clients[1].get(ITEMS, Some("1|reader")).status, 200);
}

#[test]
fn reload_applies_another_limit_and_keeps_known_tokens() {
    let env = start(ONE);
    let mut client = env.gateway.client();
    exhaust(&mut client);
    env.gateway.edit("failures_per_address: 1", "failures_per_address: 1000000");
    assert!(env.gateway.reload());
    let mut client = env.gateway.client();
    for number in 0..20 {
        assert_eq!(client.get(ITEMS, Some(&format!("{number}|reloaded"))).status, 401);
    }
    env.gateway.edit("failures_per_address: 1000000", "failures_per_address: 1");
    assert!(env.gateway.reload());
    let mut client = env.gateway.client();
    let calls = env.introspector.calls_for("1|reader");
    exhaust(&mut client);
    assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
    assert_eq!(env.introspector.calls_for("1|reader"), calls);
    env.gateway.edit("failures_per_address: 1", "failures_per_address: 0");
    assert!(env.gateway.reload());
    let mut client = env.gateway.client();
    for number in 0..20 {
        assert_eq!(client.get(ITEMS, Some(&format!("{number}|unlimited"))).status, 401);
    }
}

#[test]
fn shadow_mode_and_candidate_maps_enforce_the_limit() {
    let yaml = "mode: shadow\nshadow_authentication: true\nshadow: candidate.yaml\nlisten:\n  h2c: true\n";
    let env = TestEnv::builder()
        .token("1|reader", &["items:read"])
        .configure(|builder| {
            builder
                .file("candidate.yaml", "routes: {/api/v2/internal: {GET: items:read}}\n")
                .yaml(&format!("{ONE}{yaml}"))
        })
        .start();
    assert_eq!(env.status(ITEMS, "1|reader"), 200);
    for target in [ITEMS, "/api/v2/internal"] {
        let mut client = env.gateway.client();
        let mut over_http2 = Http2Client::connect(env.gateway.address());
        let mut statuses = Vec::new();
        let calls = env.introspector.calls();
        for number in 0..10 {
            let token = format!("{number}|{}", target.len());
            statuses.push(client.get(target, Some(&token)).status);
            statuses.push(over_http2.get(target, Some(&format!("{token}-2"))).status);
        }
        let refused = statuses.iter().filter(|&&status| status == 429).count();
        assert!(refused >= 12, "{target}: {statuses:?}");
        assert!(env.introspector.calls() - calls <= 20 - refused, "{target}");
        assert_eq!(client.get(ITEMS, Some("1|reader")).status, 200);
    }
}

#[test]
fn evaluation_of_a_candidate_map_causes_no_introspection_over_the_limit() {
    let env = TestEnv::builder()
        .token("1|reader", &["items:read"])
        .configure(|builder| {
            builder
                .file("candidate.yaml", "routes: {/api/v2/internal: {GET: items:read}}\n")
                .yaml(&format!("{ONE}shadow: candidate.yaml\n"))
        })
        .start();
    let mut client = env.gateway.client();
    for number in 0..50 {
        assert_eq!(client.get("/api/v2/internal", Some(&format!("{number}|guessed"))).status, 403);
    }
    assert!((1..10).contains(&env.introspector.calls()), "{} introspections", env.introspector.calls());
    assert_eq!(client.get(ITEMS, Some("60|guessed")).status, 429);
}
