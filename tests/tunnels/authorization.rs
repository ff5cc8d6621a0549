//! How tokens, revocations and reloads close open tunnels.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{assert_tunnel_works, handshake, start};
use crate::support::manual_backend::{BackendConnection, ManualBackend};
use crate::support::{Answer, RawClient, TestEnv, Verdict};

fn in_seconds(seconds: f64) -> f64 {
    (SystemTime::now() + Duration::from_secs_f64(seconds)).duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The tunnel stays open until the map is enforced or the token has expired.
#[test]
fn tunnel_permitted_by_shadow_mode_stays_open() {
    for authentication in [false, true] {
        let mut env = start(&format!("mode: shadow\nshadow_authentication: {authentication}\n"));
        let end = in_seconds(1.5);
        env.introspector.set_verdict("3|short", Verdict::active(&["items:create"]).expiring(end));
        let mut tunnels =
            vec![env.tunnel("/events", Some("2|creator")), env.tunnel("/nowhere", Some("1|reader"))];
        let (mut expiring, backend) = env.tunnel("/nowhere", Some("3|short"));
        if authentication {
            tunnels.push(env.tunnel("/events", None));
            tunnels.push(env.tunnel("/nowhere", Some("9|unknown")));
            thread::sleep(Duration::from_millis(3000));
            tunnels.push((expiring, backend));
        } else {
            assert_eq!(expiring.read_until_close(), b"", "closes when its token expires");
        }
        // The tunnels have been reauthorized meanwhile.
        for (client, backend) in &mut tunnels {
            assert_tunnel_works(client, backend);
        }
        env.gateway.edit("mode: shadow", "mode: enforce");
        assert!(env.gateway.reload());
        for (mut client, _backend) in tunnels {
            assert_eq!(client.read_until_close(), b"");
        }
    }
}

/// Asserts that the tunnel closes after `change` within 5 s, as documented.
fn closes_within_5_s(client: &mut RawClient, backend: &mut BackendConnection, what: &str) -> Duration {
    let began = Instant::now();
    assert_eq!(client.read_until_close(), b"", "{what}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{what}: {took:?}");
    assert!(backend.until_close() < Duration::from_secs(1), "{what}");
    took
}

#[test]
fn tunnel_closes_when_its_token_becomes_inactive() {
    type Change = fn(&TestEnv<ManualBackend>);
    let networks = "cache: {ttl: 1s}\nintrospection:\n  response: {allowed_from: /data/allowed_from}\n";
    let cases: [(&str, &str, &str, Change); 6] = [
        ("expired", "cache: {ttl: 1h}\n", "expired_token", |_| {}),
        ("unknown by now", "cache: {ttl: 1s}\n", "inactive_token", |env| {
            env.introspector.deactivate("1|reader")
        }),
        ("without the ability", "cache: {ttl: 1s}\n", "missing_ability", |env| {
            env.introspector.set_verdict("1|reader", Verdict::active(&["items:create"]));
        }),
        ("from a wrong network", networks, "wrong_network", |env| {
            let verdict = Verdict::active(&["items:read"]);
            env.introspector.set_verdict("1|reader", verdict.restricted_to(vec!["10.0.0.0/8"]));
        }),
        ("without a verdict", "cache: {ttl: 1s}\n", "no_verdict", |env| {
            env.introspector.fail_with(Answer::message(500, "Server Error"));
        }),
        ("with an introspector that hangs", "cache: {ttl: 1s}\n", "no_verdict", |env| {
            env.introspector.fail_with(Answer::hang());
        }),
    ];
    thread::scope(|scope| {
        for (what, yaml, reason, change) in cases {
            scope.spawn(move || {
                let mut env = start(yaml);
                if what == "expired" {
                    let verdict = Verdict::active(&["items:read"]).expiring(in_seconds(2.5).round());
                    env.introspector.set_verdict("1|reader", verdict);
                }
                let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
                assert_tunnel_works(&mut client, &mut backend);
                change(&env);
                closes_within_5_s(&mut client, &mut backend, what);
                let line = env.tunnel_line();
                assert_eq!(line["reason"], reason, "{what}");
                let detail = match reason {
                    "wrong_network" => "127.0.0.1 is outside the token's networks 10.0.0.0/8",
                    _ => "the request of the tunnel would be refused now",
                };
                assert_eq!(line["detail"], detail);
                let closed = |line: &serde_json::Value| {
                    line["message"] == "tunnel closed: its request would be refused now"
                        && line["reason"] == reason
                };
                assert_eq!(env.gateway.wait_for_log(closed)["request_id"], line["request_id"]);
                let metric = format!("requests_total{{status=\"101\",reason=\"{reason}\"}}");
                env.gateway.wait_for_metric(&metric, 1.0);
                env.gateway.wait_for_metric("tunnels_open", 0.0);
            });
        }
    });
}

/// The tunnel closes although introspection would still call the token active.
#[test]
fn revocation_closes_the_tunnels_of_a_token() {
    let mut env = start("cache: {ttl: 1h}\nadmin:\n  token: an-operators-token\n");
    env.introspector.set_verdict("3|other", Verdict::active(&["items:read"]));
    let (mut revoked, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut other, mut other_backend) = env.tunnel("/events", Some("3|other"));
    assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"token":"1|reader"}"#).status, 200);
    closes_within_5_s(&mut revoked, &mut backend, "revoked");
    let line = env.tunnel_line();
    assert_eq!(
        (&line["reason"], &line["detail"]),
        (&"inactive_token".into(), &"the tunnel's token was revoked".into())
    );
    assert_tunnel_works(&mut other, &mut other_backend);
    let (mut again, mut backend) = env.tunnel("/events", Some("1|reader"));
    assert_tunnel_works(&mut again, &mut backend);
}

/// The tunnel closes although introspection would still call the token active, and its token cannot open another.
#[test]
fn block_closes_the_tunnels_of_a_token() {
    let mut env = start("cache: {ttl: 1h}\nadmin:\n  token: an-operators-token\n");
    for (number, body) in
        [r#"{"token":"1|reader"}"#, r#"{"id":"1"}"#, r#"{"name":"test"}"#].iter().enumerate()
    {
        let (mut blocked, mut backend) = env.tunnel("/events", Some("1|reader"));
        assert_tunnel_works(&mut blocked, &mut backend);
        assert_eq!(env.operator("POST", "/tokens/block", body).status, 200);
        closes_within_5_s(&mut blocked, &mut backend, body);
        env.gateway.wait_for_metric("requests_total{status=\"101\",reason=\"blocked\"}", (number + 1) as f64);
        assert_eq!(env.tunnel_line()["reason"], "blocked");
        assert_eq!(env.status("/events", "1|reader"), 401);
        assert_eq!(env.operator("DELETE", "/tokens/block", body).status, 200);
    }
    let (mut configured, mut backend) = env.tunnel("/events", Some("1|reader"));
    env.gateway.edit("  path: blocked.json\n", "  path: blocked.json\n  ids: [1]\n");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut configured, &mut backend, "configured");
}

/// Shadow mode opens tunnels without an active token. Those of other tokens stay open.
#[test]
fn block_closes_the_tunnels_of_an_inactive_token_in_shadow_mode() {
    let yaml = "mode: shadow\nshadow_authentication: true\ncache: {ttl: 1h, negative_ttl: 1h}\n\
                admin:\n  token: an-operators-token\n";
    let mut env = start(yaml);
    let expired = Verdict::active(&["*"]).named("expired-id", "till").expiring("2001-01-01T00:00:00Z");
    env.introspector.set_verdict("expired", expired);
    let mut kept = [None, Some("8|other")]
        .map(|token| (token, env.tunnel("/events", token), env.tunnel("/nowhere", token)));
    for (token, body, reason) in [
        ("9|unknown", r#"{"id":"9"}"#, "blocked"),
        ("9|unknown", r#"{"token":"9|unknown"}"#, "blocked"),
        ("expired", r#"{"id":"expired-id"}"#, "blocked"),
        ("expired", r#"{"name":"till"}"#, "blocked"),
        // It may contain a blocked token.
        ("8|other, Bearer 9|unknown", r#"{"id":"9"}"#, "malformed_token"),
    ] {
        let mut tunnels = ["/events", "/nowhere"].map(|target| env.tunnel(target, Some(token)));
        for (client, backend) in &mut tunnels {
            assert_tunnel_works(client, backend);
        }
        let closed = format!("requests_total{{status=\"101\",reason=\"{reason}\"}}");
        let before = env.gateway.metrics().metric(&closed);
        assert_eq!(env.operator("POST", "/tokens/block", body).status, 200);
        for (client, backend) in &mut tunnels {
            closes_within_5_s(client, backend, body);
        }
        env.gateway.wait_for_metric(&closed, before + 2.0);
        assert_eq!(env.status("/events", token), 401, "{body}");
        for (token, on_route, on_none) in &mut kept {
            for (client, backend) in [on_route, on_none] {
                assert_tunnel_works(client, backend);
                assert!(env.introspector.calls_for(token.unwrap_or("none")) <= 10);
            }
        }
        assert_eq!(env.operator("DELETE", "/tokens/block", body).status, 200);
    }
}

/// A verdict introspected before a revocation does not override it, even if it arrives during reauthorization.
#[test]
fn revocation_during_introspection_closes_the_tunnel() {
    let yaml = "cache: {ttl: 1h, max_age: {items:read: 0s}}\nadmin:\n  token: an-operators-token\n";
    let mut env = start(yaml);
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let calls = env.introspector.calls();
    env.introspector.delay(Duration::from_millis(500));
    env.introspector.wait_for_calls(calls + 1);
    assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"id":"1"}"#).status, 200);
    closes_within_5_s(&mut client, &mut backend, "revoked");
    assert_eq!(env.tunnel_line()["detail"], "the tunnel's token was revoked");
}

#[test]
fn tunnel_stays_open_while_its_request_is_permitted() {
    let yaml = "cache: {ttl: 1s, stale_if_error: 1h}\n";
    let mut env = start(yaml);
    let began = Instant::now();
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut guest, mut guests) = env.tunnel("/open", None);
    let (mut other, mut others) = env.tunnel("/open", Some("9|unknown"));
    // Introspected again with the same result, then with more abilities, then without a response.
    thread::sleep(Duration::from_millis(1500));
    assert_tunnel_works(&mut client, &mut backend);
    env.introspector.set_verdict("1|reader", Verdict::active(&["*"]));
    thread::sleep(Duration::from_millis(1500));
    assert_tunnel_works(&mut client, &mut backend);
    let calls = env.introspector.calls_for("1|reader") as f64;
    let lives = began.elapsed().as_secs_f64();
    assert!(
        (3.0..=2.0 * lives + 2.0).contains(&calls),
        "{calls} introspections in {lives} s of a ttl of 1 s"
    );
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(2500));
    assert_tunnel_works(&mut client, &mut backend);
    assert_tunnel_works(&mut guest, &mut guests);
    assert_tunnel_works(&mut other, &mut others);
    assert_eq!(env.introspector.calls_for("9|unknown"), 0);
    assert_eq!(env.gateway.metrics().metric("tunnels_open"), 3.0);
}

#[test]
fn tunnels_of_one_token_share_an_introspection() {
    let mut env = start("cache: {ttl: 1s}\n");
    let began = Instant::now();
    let mut tunnels: Vec<_> = (0..20).map(|_| env.tunnel("/events", Some("1|reader"))).collect();
    thread::sleep(Duration::from_millis(3000));
    for (client, backend) in &mut tunnels {
        assert_tunnel_works(client, backend);
    }
    let calls = env.introspector.calls_for("1|reader") as f64;
    let lives = began.elapsed().as_secs_f64();
    assert!(calls <= 2.0 * lives + 2.0, "{calls} introspections for 20 tunnels in {lives} s of a ttl of 1 s");
}

#[test]
fn reloaded_map_decides_open_tunnels() {
    let mut env = start("");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut guest, mut guests) = env.tunnel("/open", None);
    env.gateway.edit("/api/v2/items: {", "/api/v2/items/{id}: {");
    assert!(env.gateway.reload());
    thread::sleep(Duration::from_millis(1500));
    assert_tunnel_works(&mut client, &mut backend);
    assert_tunnel_works(&mut guest, &mut guests);
    env.gateway.edit("/events:       {GET: items:read}", "/events:       {GET: items:create}");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut client, &mut backend, "another requirement");
    assert_tunnel_works(&mut guest, &mut guests);
    env.gateway.edit("/open:         {GET: public}", "/open:         {GET: authenticated}");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut guest, &mut guests, "not public any more");
}

#[test]
fn rules_for_the_query_decide_tunnels_when_they_open_and_after_a_reload() {
    let mut env = start("");
    env.gateway.edit(
        "{GET: items:read}",
        "{GET: items:read, query: {channel: {values: {items: public, renters: renters:read}}}}",
    );
    assert!(env.gateway.reload());
    for (target, status) in [
        ("/events?channel=renters", 403),
        ("/events?channel=items&channel=renters", 403),
        ("/events?channel[=items", 400),
    ] {
        let mut client = env.gateway.client();
        client.send(handshake(target, Some("1|reader")));
        assert_eq!(client.response().status, status, "{target}");
    }
    let (mut client, mut backend) = env.tunnel("/events?channel=items", Some("1|reader"));
    let (mut plain, mut plains) = env.tunnel("/events", Some("1|reader"));
    thread::sleep(Duration::from_millis(1500));
    assert_tunnel_works(&mut client, &mut backend);
    env.gateway.edit("items: public", "items: renters:read");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut client, &mut backend, "another requirement of the query");
    assert_tunnel_works(&mut plain, &mut plains);
}

/// The line and the ledger name the rule of the reloaded map. That of the handshake may have another one with the same
/// number.
#[test]
fn closed_tunnel_is_recorded_under_the_rule_that_closed_it() {
    let usage = "usage: {path: usage.redb, flush_interval: 100ms}\nadmin:\n  token: an-operators-token\n";
    for (first, second, reason, counted, detail) in [
        (
            "GET: items:read, query: {channel: {values: {items: kiosk:scan, renters: renters:read}}}",
            "GET: items:read, query: {a: deny, channel: {values: {items: variants:read}}}",
            "query_denied",
            "variants:read",
            "query channel=items",
        ),
        ("GET: items:read", "GET: items:create", "missing_ability", "items:create", "would be refused now"),
        (
            "GET: items:read, from: [127.0.0.0/8]",
            "GET: items:read, from: [10.0.0.0/8]",
            "wrong_network",
            "items:read",
            "10.0.0.0/8",
        ),
    ] {
        let mut env = start(usage);
        env.introspector.set_verdict("1|reader", Verdict::active(&["items:read", "kiosk:scan"]));
        env.gateway.edit("/events:       {GET: items:read}", &format!("/events: {{{first}}}"));
        assert!(env.gateway.reload());
        let (mut client, mut backend) = env.tunnel("/events?channel=items", Some("1|reader"));
        env.gateway.edit(&format!("/events: {{{first}}}"), &format!("/events: {{{second}}}"));
        assert!(env.gateway.reload());
        closes_within_5_s(&mut client, &mut backend, second);
        let line = env.tunnel_line();
        assert_eq!(line["reason"], reason, "{line}");
        assert!(line["detail"].as_str().unwrap().contains(detail), "{line}");
        assert!(reason == "wrong_network" || line["required"] == counted, "{line}");
        let counts = || {
            let report = env.operator("GET", "/usage", "").json();
            let rows = report["tokens"][0]["usage"].as_array().cloned().unwrap_or_default();
            let text = |row: &serde_json::Value| {
                ["ability", "verdict"].map(|name| row[name].as_str().unwrap().to_owned()).join(" ")
            };
            rows.iter().map(text).collect::<Vec<_>>()
        };
        let end = Instant::now() + Duration::from_secs(5);
        while counts() != [format!("{counted} denied")] {
            assert!(Instant::now() < end, "{second}: {:?}", counts());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// In shadow mode the map of the handshake has another route with the number of the one that closes the tunnel.
#[test]
fn closed_tunnel_counts_for_the_route_that_closed_it() {
    let mut env = start("mode: shadow\n");
    env.gateway.edit("/events:       {GET: items:read}", "/{any}: {POST: items:create}");
    assert!(env.gateway.reload());
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    env.gateway.edit("/{any}: {POST: items:create}", "/events: {GET: items:create}");
    env.gateway.edit("mode: shadow", "mode: enforce");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut client, &mut backend, "a route of its own");
    let line = env.tunnel_line();
    assert_eq!((&line["route"], &line["shadow"]), (&"/events".into(), &serde_json::Value::Null), "{line}");
    env.gateway.wait_for_metric("requests_total{route=\"/events\",reason=\"missing_ability\"}", 1.0);
}

#[test]
fn shadow_mode_keeps_a_tunnel_outside_the_networks_of_its_route_while_its_token_is_active() {
    let mut env = start("mode: shadow\ncache: {ttl: 1s}\n");
    let restricted = "{GET: public, from: [10.0.0.0/8], query: {more: items:read}}";
    env.gateway.edit("/open:         {GET: public}", &format!("/open:         {restricted}"));
    assert!(env.gateway.reload());
    let (mut client, mut backend) = env.tunnel("/open?more", Some("1|reader"));
    thread::sleep(Duration::from_millis(1500));
    assert_tunnel_works(&mut client, &mut backend);
    env.introspector.deactivate("1|reader");
    closes_within_5_s(&mut client, &mut backend, "an inactive token on a public route");
}

#[test]
fn networks_decide_tunnels_when_they_open_and_after_a_reload() {
    let mut env = start("");
    env.gateway.edit("{GET: items:read}", "{GET: items:read, from: [127.0.0.0/8]}");
    env.gateway.edit("/open:         {GET: public}", "/open:         {GET: public, from: [127.0.0.0/8]}");
    assert!(env.gateway.reload());
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut public, mut publics) = env.tunnel("/open", None);
    thread::sleep(Duration::from_millis(1500));
    assert_tunnel_works(&mut client, &mut backend);
    env.gateway.edit("{GET: items:read, from: [127.0.0.0/8]}", "{GET: items:read, from: [10.0.0.0/8]}");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut client, &mut backend, "other networks of the route");
    assert_tunnel_works(&mut public, &mut publics);
    env.gateway.edit("{GET: public, from: [127.0.0.0/8]}", "{GET: public, from: [10.0.0.0/8]}");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut public, &mut publics, "other networks of the public route");
    for target in ["/events", "/open"] {
        let mut client = env.gateway.client();
        client.send(handshake(target, Some("1|reader")));
        assert_eq!(client.response().status, 403, "{target}");
    }
}
