//! Requests that shadow mode forwards, logs and counts, and those that it still refuses.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::{CREATOR, MAP, READER, USER, send, start, start_with};
use crate::support::{Answer, BINARY, Verdict};

#[test]
fn shadow_mode_forwards_logs_and_counts_denied_requests() {
    // In global shadow mode or that of the route: the status, and the route under which a would-be refusal is counted.
    for (mode, rows) in [
        (
            "shadow",
            &[
                ("GET", "/up", None, 200, ""),
                ("GET", "/items", Some(READER), 200, ""),
                ("GET", "/items", Some(CREATOR), 200, "/items"),
                ("HEAD", "/items", Some(CREATOR), 200, "/items"),
                ("PUT", "/items", Some(READER), 200, "/items"),
                ("GET", "/closed", Some(USER), 200, "/closed"),
                ("GET", "/nowhere?a=b", Some(READER), 200, "unmapped"),
                ("GET", "/me", Some(READER), 200, ""),
                ("GET", "/strict", Some(READER), 200, ""),
                ("GET", "/strict", Some(CREATOR), 403, ""),
                ("POST", "/strict", Some(READER), 403, ""),
                ("GET", "/tried", Some(CREATOR), 200, "/tried"),
            ][..],
        ),
        (
            "enforce",
            &[
                ("GET", "/items", Some(READER), 200, ""),
                ("GET", "/items", Some(CREATOR), 403, ""),
                ("PUT", "/items", Some(READER), 403, ""),
                ("GET", "/closed", Some(USER), 403, ""),
                ("GET", "/nowhere", Some(READER), 403, ""),
                ("GET", "/strict", Some(CREATOR), 403, ""),
                ("GET", "/tried", Some(READER), 200, ""),
                ("GET", "/tried", Some(CREATOR), 200, "/tried"),
                ("PUT", "/tried", Some(CREATOR), 200, "/tried"),
            ],
        ),
    ] {
        let env = start(&format!("mode: {mode}\n{MAP}"));
        let mut client = env.gateway.client();
        for (method, target, token, status, route) in rows {
            let context = format!("{mode}: {method} {target} by {token:?}");
            let labels =
                format!("{{change=\"would_deny\",map=\"enforced\",method=\"{method}\",route=\"{route}\"}}");
            let (before, all) = (env.shadow_total(&labels), env.shadow_total(""));
            assert_eq!(send(&mut client, method, target, *token).status, *status, "{context}");
            let arrived = env.backend.take_requests();
            assert_eq!(arrived.len(), usize::from(*status == 200), "{context}");
            if let [request] = &arrived[..] {
                assert_eq!((&*request.method, &*request.target), (*method, *target), "{context}");
                assert_eq!(request.bearer(), *token, "{context}");
            }
            let counted = f64::from(u8::from(!route.is_empty()));
            assert_eq!(env.shadow_total(""), all + counted, "{context}");
            assert_eq!(env.shadow_total(&labels), before + counted, "{context}");
        }
        let would_deny = rows.iter().filter(|row| !row.4.is_empty()).count();
        env.shadow_line(would_deny);
        let refused = rows.iter().filter(|row| row.3 == 403).count();
        env.gateway.wait_for_metric("requests_total{status=\"403\"}", refused as f64);
        let metrics = env.gateway.metrics();
        assert_eq!(
            metrics.metric("requests_total{reason=\"denied\"}"),
            f64::from(u8::from(mode == "enforce"))
        );
        assert_eq!(metrics.metric("shadow_mode"), 1.0);
    }
}

#[test]
fn shadow_access_line_names_the_token_and_the_rule() {
    let env = start(&format!("mode: shadow\nlog: {{access_sample: 1000}}\n{MAP}"));
    let mut client = env.gateway.client();
    for (count, (method, target, rule)) in [
        ("GET", "/items", "items:read (missing_ability)"),
        ("GET", "/closed", "deny (denied)"),
        ("PUT", "/items", "enforced without PUT (method_not_mapped)"),
        ("GET", "/nowhere", "enforced without a route (unmapped)"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(send(&mut client, method, target, Some(CREATOR)).status, 200);
        let line = env.shadow_line(count + 1);
        let told = line["shadow_rule"].as_str().unwrap();
        assert!(told.starts_with("enforced") && told.ends_with(rule), "{told}");
        assert!(rule.starts_with("enforced") || told.contains("gateway.yaml:"), "{told}");
        assert_eq!(line["shadow"], "would_deny");
        assert_eq!((&line["token_id"], &line["token_name"]), (&"2".into(), &"creator-prod".into()));
        assert_eq!((&line["reason"], &line["status"]), (&"allowed".into(), &200.into()));
    }
    assert_eq!(env.introspector.calls(), 1, "one introspection for all requests");
}

#[test]
fn shadow_denials_are_logged_once_a_second_without_an_access_log() {
    let env = start(&format!("mode: shadow\nlog: {{access: false}}\n{MAP}"));
    let mut client = env.gateway.client();
    for _ in 0..10 {
        assert_eq!(send(&mut client, "GET", "/items", Some(CREATOR)).status, 200);
    }
    let line = env.gateway.wait_for_log(|line| line["shadow"] == "would_deny");
    assert_eq!((&line["level"], &line["token_name"]), (&"INFO".into(), &"creator-prod".into()));
    assert!(line["shadow_rule"].as_str().unwrap().contains("items:read"), "{line}");
    let lines = env.gateway.logs().iter().filter(|line| line.contains("would_deny")).count();
    assert!(lines < 10, "{lines}");
    assert_eq!(env.shadow_total("{change=\"would_deny\"}"), 10.0);
}

/// Requests without an active token, with the status they get if tokens are required.
const STRANGERS: [(&[(&str, &str)], u16); 8] = [
    (&[], 401),
    (&[("Cookie", "laravel_session=1")], 401),
    (&[("Authorization", "Basic YTpi")], 401),
    (&[("Authorization", "Bearer")], 401),
    (&[("Authorization", "Bearer 1|reader,2|creator")], 401),
    (&[("Authorization", "Bearer 9|unknown")], 401),
    (&[("Authorization", "Bearer 4|expired")], 401),
    (&[("Authorization", "Bearer 1|reader"), ("Authorization", "Bearer 3|user")], 401),
];

#[test]
fn shadow_mode_requires_an_active_token() {
    let env = start(&format!("mode: shadow\n{MAP}"));
    let mut client = env.gateway.client();
    for target in ["/items", "/me", "/closed", "/nowhere", "/strict", "/tried"] {
        for (fields, status) in STRANGERS {
            // Enforced denials are not introspected, so their tokens are unknown.
            let response = client.request("GET", target, fields, b"");
            assert_eq!(response.status, status, "{target} {fields:?}");
            assert!(response.field("www-authenticate").is_some());
        }
    }
    assert!(env.backend.requests().is_empty());
    assert_eq!(env.shadow_total(""), 0.0);
}

#[test]
fn shadow_authentication_forwards_unauthenticated_requests() {
    for (cookies, yaml) in [(false, ""), (true, "backend:\n  cookies: true\n")] {
        let env = start(&format!(
            "mode: shadow\nshadow_authentication: true\nidentity_headers: [id, name, abilities]\n{MAP}{yaml}"
        ));
        let mut client = env.gateway.client();
        let mut forwarded = 0.0;
        for target in ["/items", "/me", "/closed", "/nowhere", "/tried", "/strict"] {
            for (sent, refused) in STRANGERS {
                let context = format!("{target} {sent:?}");
                let ambiguous = sent.len() > 1;
                let passes = target != "/strict" && !ambiguous;
                let forged = [("X-Token-Id", "3"), ("X_Token_Abilities", "*"), ("Cookie", "session=1")];
                let response = client.request("GET", target, &[sent, &forged].concat(), b"");
                let expected = match (target, sent) {
                    _ if passes => 200,
                    _ => refused,
                };
                assert_eq!(response.status, expected, "{context}");
                let arrived = env.backend.take_requests();
                assert_eq!(arrived.len(), usize::from(passes), "{context}");
                for request in arrived {
                    forwarded += 1.0;
                    let authorization = sent.iter().find(|(name, _)| *name == "Authorization");
                    assert_eq!(request.field("authorization"), authorization.map(|it| it.1), "{context}");
                    let told: Vec<_> = request.fields.0.iter().map(|(name, _)| name.to_lowercase()).collect();
                    assert!(!told.iter().any(|name| name.contains("token")), "{context}: {told:?}");
                    assert_eq!(told.iter().any(|name| name == "cookie"), cookies, "{context}");
                }
            }
        }
        assert_eq!(env.shadow_total("{change=\"would_deny\",map=\"enforced\"}"), forwarded);
        env.gateway.wait_for_metric("requests_total{status=\"200\",reason=\"allowed\"}", forwarded);
        // A request with an active token is forwarded as before.
        assert_eq!(send(&mut client, "GET", "/closed", Some(READER)).status, 200);
        let request = env.backend.only_request();
        assert_eq!((request.bearer(), request.field("x-token-name")), (Some(READER), Some("reader-prod")));
    }
}

#[test]
fn shadow_mode_sends_identity_headers_and_no_cookies() {
    let env = start(&format!("mode: shadow\nidentity_headers: [id, abilities]\n{MAP}"));
    let mut client = env.gateway.client();
    let token = format!("bearer   {CREATOR}");
    for target in ["/items", "/closed", "/nowhere"] {
        let sent = [
            ("Authorization", &*token),
            ("Cookie", "laravel_session=1"),
            ("X-Token-Id", "3"),
            ("X-Token-Abilities", "*"),
        ];
        assert_eq!(client.request("GET", target, &sent, b"").status, 200);
        let request = env.backend.take_requests().pop().unwrap();
        assert_eq!(request.field("authorization"), Some("Bearer 2|creator"), "{target}");
        assert_eq!(request.field("x-token-id"), Some("2"), "{target}");
        assert_eq!(request.field("x-token-abilities"), Some("items:create"), "{target}");
        assert_eq!(request.field("cookie"), None, "{target}");
    }
}

#[test]
fn shadow_mode_enforces_everything_but_the_map() {
    let yaml = "mode: shadow\nshadow_authentication: true\nlimits: {body: 10B}\n\
        rate_limit: {requests_per_second: 1, burst: 3}\n";
    let env = start(&format!("{yaml}{MAP}"));
    for (request, status) in [
        ("GET /items/../closed HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /items%2fall HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET //items HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("get /items HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("TRACE /items HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /items HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /items HTTP/1.1\r\n\r\n", 400),
        ("GET /index.php/items HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "POST /items HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST /items HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nabcd", 400),
        ("POST /items HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /up HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
        ("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nabcdefghijk", 413),
    ] {
        let mut client = env.gateway.client();
        assert_eq!(client.send(request).response().status, status, "{request}");
    }
    assert!(env.backend.requests().is_empty());
    let mut client = env.gateway.client();
    let statuses: Vec<u16> =
        (0..4).map(|_| send(&mut client, "GET", "/closed", Some(CREATOR)).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    for target in ["/items", "/closed", "/nowhere"] {
        assert_eq!(send(&mut client, "GET", target, Some("7|new")).status, 503, "{target}");
    }
}

/// A verdict that denies is introspected again. If that fails the response is 503, since the 403 may be outdated;
/// shadow mode has no such 403.
#[test]
fn shadow_mode_forwards_a_denied_token_if_its_renewed_introspection_fails() {
    for (mode, expected) in [("enforce", 503), ("shadow", 200)] {
        let env = start(&format!("mode: {mode}\ncache: {{ttl: 1h, negative_ttl: 50ms}}\n{MAP}"));
        let mut client = env.gateway.client();
        assert_eq!(send(&mut client, "GET", "/items", Some(READER)).status, 200);
        env.introspector.fail_with(Answer::message(500, "Server Error"));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(send(&mut client, "POST", "/items", Some(READER)).status, expected, "{mode}");
        assert_eq!(env.introspector.calls(), 2, "the token was introspected");
        assert_eq!(env.shadow_total("{change=\"would_deny\"}"), f64::from(u8::from(expected == 200)));
    }
}

#[test]
fn shadow_mode_forwards_the_identity_of_the_renewed_verdict() {
    let env = start(&format!(
        "mode: shadow\nidentity_headers: [abilities]\ncache: {{ttl: 1h, negative_ttl: 50ms}}\n{MAP}"
    ));
    let mut client = env.gateway.client();
    assert_eq!(send(&mut client, "GET", "/me", Some(CREATOR)).status, 200);
    env.introspector.set_verdict(CREATOR, Verdict::active(&["kiosk:scan"]));
    thread::sleep(Duration::from_millis(100));
    env.backend.forget_requests();
    assert_eq!(send(&mut client, "GET", "/items", Some(CREATOR)).status, 200);
    assert_eq!(env.backend.only_request().field("x-token-abilities"), Some("kiosk:scan"));
    env.introspector.deactivate(CREATOR);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(
        send(&mut client, "GET", "/items", Some(CREATOR)).status,
        401,
        "revoked during the introspection"
    );
}

const ORIGIN: (&str, &str) = ("Origin", "https://shop.example");

#[test]
fn shadow_mode_forwards_preflights_of_forwarded_requests() {
    let env = start_with(
        &format!("mode: shadow\n{MAP}    /quiet: {{GET: items:read, OPTIONS: deny, mode: enforce}}\n"),
        "routes: {/items: {GET: items:read}}\n",
    );
    let mut client = env.gateway.client();
    for (target, method, status, enforced, candidate) in [
        ("/items", "GET", 200, 0.0, 0.0),
        ("/items", "POST", 200, 0.0, 1.0),
        ("/items", "PUT", 200, 1.0, 1.0),
        ("/closed", "GET", 200, 1.0, 1.0),
        ("/nowhere", "DELETE", 200, 1.0, 1.0),
        ("/strict", "GET", 200, 0.0, 1.0),
        ("/strict", "PUT", 403, 0.0, 0.0),
        ("/quiet", "GET", 403, 0.0, 0.0),
        ("/items", "PURGE", 403, 0.0, 0.0),
        ("/items", "get", 403, 0.0, 0.0),
    ] {
        let count =
            |map| env.shadow_total(&format!("{{change=\"would_deny\",map=\"{map}\",method=\"OPTIONS\"}}"));
        let before = (count("enforced"), count("candidate"));
        let fields = [ORIGIN, ("Access-Control-Request-Method", method), ("Cookie", "a=b")];
        assert_eq!(client.request("OPTIONS", target, &fields, b"").status, status, "{method} {target}");
        let arrived = env.backend.take_requests();
        assert_eq!(arrived.len(), usize::from(status == 200), "{method} {target}");
        assert!(arrived.iter().all(|it| it.field("cookie").is_none()), "{method} {target}");
        let after = (count("enforced"), count("candidate"));
        assert_eq!((after.0 - before.0, after.1 - before.1), (enforced, candidate), "{method} {target}");
    }
    assert_eq!(client.request("OPTIONS", "/items", &[ORIGIN], b"").status, 401, "not a preflight");
}

#[test]
fn reload_applies_and_logs_a_changed_mode() {
    let env = start("mode: shadow\nabilities: {routes: {/items: {GET: items:read}}}\n");
    let told =
        |line: &Value| line["message"].as_str().is_some_and(|it| it.contains("ability map is not enforced"));
    env.gateway.wait_for_log(|line| line["level"] == "WARN" && told(line));
    let mut client = env.gateway.client();
    let mut get = |status| assert_eq!(send(&mut client, "GET", "/items", Some(CREATOR)).status, status);
    get(200);
    assert_eq!(env.gateway.metrics().metric("shadow_mode"), 1.0);
    env.gateway.edit("mode: shadow", "mode: enforce");
    assert!(env.gateway.reload());
    get(403);
    assert_eq!(env.gateway.metrics().metric("shadow_mode"), 0.0);
    env.gateway.edit("mode: enforce", "mode: shadow");
    assert!(env.gateway.reload());
    get(200);
    assert_eq!(env.shadow_total("{change=\"would_deny\"}"), 2.0);
}

/// These commands read only the map and its mode, whatever else is wrong or missing.
#[test]
fn commands_mark_rules_that_are_not_enforced() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    for (mode, routes, explained) in [
        ("shadow", ["GET", "POST"].as_slice(), true),
        ("enforce", &[], false),
        ("${NOT_SET}", &[], false),
        ("nonsense", &[], false),
    ] {
        let map =
            "abilities: {routes: {/items: {GET: items:read, POST: items:create}, /up: {GET: public}}}\n";
        std::fs::write(&file, format!("mode: {mode}\n{map}")).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = std::process::Command::new(BINARY);
            let output = command.args(arguments).arg("--config").arg(&file).output().unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
        };
        let (code, table) = run(&["routes"]);
        assert_eq!(code, 0, "{mode}");
        let marked: Vec<_> = table.lines().filter(|line| line.ends_with("(shadow: not enforced)")).collect();
        assert_eq!(marked.len(), if routes.is_empty() { 0 } else { routes.len() + 1 }, "{table}");
        let (code, text) = run(&["explain", "POST", "/items", "--abilities", "items:read"]);
        assert_eq!((code, text.contains("\nmode         shadow: ")), (1, explained), "{mode}: {text}");
    }
}
