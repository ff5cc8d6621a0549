//! Request ids, and the access line of a request.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::http2::Http2Client;
use crate::support::{Answer, Authority, RawClient, TestEnv, Verdict, WRITER};

const ITEMS: &str = "/api/v2/items";

#[test]
fn request_id_is_on_every_answer() {
    let env = TestEnv::start(
        "listen:\n  h2c: true\ncors: {origins: ['https://shop.example']}\nlimits: {header_bytes: 4KiB}",
    );
    let preflight = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "GET")];
    let mut client = env.gateway.client();
    for (method, target, fields, status) in [
        ("GET", ITEMS, &[WRITER][..], 200),
        ("HEAD", ITEMS, &[WRITER], 200),
        ("POST", ITEMS, &[WRITER], 200),
        ("GET", "/up", &[], 200),
        ("OPTIONS", ITEMS, &preflight, 200),
        ("GET", ITEMS, &[], 401),
        ("DELETE", ITEMS, &[WRITER], 403),
        ("GET", "/nowhere", &[WRITER], 403),
        ("GET", "//nowhere", &[WRITER], 400),
    ] {
        env.backend.forget_requests();
        let response = client.request(method, target, fields, b"");
        assert_eq!(response.status, status, "{method} {target}");
        let id = response.field("x-request-id").unwrap_or_else(|| panic!("{method} {target}: no request id"));
        assert_eq!(id.len(), 32, "{method} {target}: {id}");
        let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
        assert_eq!(line["status"], status, "{line}");
        if status == 200 {
            assert_eq!(env.backend.only_request().field("x-request-id"), Some(id), "{method} {target}");
        }
    }
    for request in [
        "GET /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
        "GET /up HTTP/2.5\r\nHost: a\r\n\r\n".to_owned(),
        format!("GET /up HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "a".repeat(5000)),
    ] {
        let response = RawClient::connect(env.gateway.address()).send(&request).response();
        let id = response.field("x-request-id").unwrap_or_else(|| panic!("{request}: no request id"));
        let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
        assert_eq!(line["bytes_out"], response.body.len(), "{line}");
    }
    let mut client = Http2Client::connect(env.gateway.address());
    for (path, token, status) in [(ITEMS, Some("1|writer"), 200), (ITEMS, None, 401)] {
        let response = client.get(path, token);
        assert_eq!(response.status, status);
        assert_eq!(response.field("x-request-id").map(str::len), Some(32), "{path}");
    }
}

#[test]
fn request_id_is_on_every_answer_of_the_admin_listener_and_in_its_audit_lines() {
    let env = TestEnv::start("admin:\n  token: of-the-administrator\n");
    let token = ("Authorization", "Bearer of-the-administrator");
    let mut ids = Vec::new();
    for (method, path, fields, body, status, action) in [
        ("GET", "/healthz", &[][..], "", 200, None),
        ("GET", "/readyz", &[], "", 200, None),
        ("GET", "/metrics", &[], "", 200, None),
        ("DELETE", "/metrics", &[], "", 405, None),
        ("GET", "/usage", &[], "", 401, None),
        ("POST", "/webhook", &[], "", 404, None),
        ("GET", "/", &[token], "", 302, None),
        ("GET", "/nowhere", &[token], "", 404, None),
        ("GET", "/tokens", &[token], "", 200, Some("list tokens")),
        ("POST", "/tokens/revoke", &[token], r#"{"id":"17"}"#, 200, Some("revoke")),
        ("POST", "/tokens/revoke", &[token, ("X-Request-Id", "of-the-client")], "?", 400, None),
    ] {
        let mut client = RawClient::connect(env.gateway.admin());
        let response = client.request(method, path, fields, body.as_bytes());
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        let id = response
            .field("x-request-id")
            .unwrap_or_else(|| panic!("{method} {path}: no request id"))
            .to_owned();
        assert_eq!(id.len(), 32, "{method} {path}: {id}");
        assert!(!ids.contains(&id), "{method} {path}: {id} again");
        if let Some(action) = action {
            let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
            assert_eq!((&line["message"], &line["action"]), (&"admin".into(), &action.into()), "{line}");
        }
        ids.push(id);
    }
}

#[test]
fn request_id_of_the_backend_stays() {
    let env = TestEnv::start("");
    for ids in [&["of-the-backend"][..], &["one", "two"]] {
        let fields: Vec<_> = ids.iter().map(|id| ("X-Request-Id", *id)).collect();
        env.backend.answer(move |_| Answer::with(200, &fields, "body"));
        let response = env.gateway.client().request("GET", "/up", &[], b"");
        assert_eq!(response.fields.all("x-request-id").collect::<Vec<_>>(), ids);
    }
}

#[test]
fn unmapped_method_is_reported_with_its_route() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for method in ["DELETE", "OPTIONS", "PUT"] {
        let response = client.request(method, ITEMS, &[WRITER], b"");
        assert_eq!(
            (response.status, response.text()),
            (403, r#"{"message":"This action is unauthorized."}"#)
        );
        let challenge = r#"Bearer realm="stockaj", error="insufficient_scope""#;
        assert_eq!(response.field("www-authenticate"), Some(challenge));
        let line = env.gateway.wait_for_log(|line| line["method"] == method);
        assert_eq!((&line["reason"], &line["route"]), (&"method_not_mapped".into(), &ITEMS.into()), "{line}");
        let metric = format!(
            "requests_total{{method=\"{method}\",reason=\"method_not_mapped\",route=\"{ITEMS}\",status=\"403\"}}"
        );
        env.gateway.wait_for_metric(&metric, 1.0);
    }
    // Without a token the reason is the missing token, and the route is still known.
    assert_eq!(client.request("PATCH", ITEMS, &[], b"").status, 401);
    let line = env.gateway.wait_for_log(|line| line["method"] == "PATCH");
    assert_eq!((&line["reason"], &line["route"]), (&"missing_token".into(), &ITEMS.into()), "{line}");
    assert_eq!(env.gateway.metrics().metric("requests_total{route=\"unmapped\"}"), 0.0);
}

#[test]
fn access_line_names_client_target_and_backend() {
    let env = TestEnv::start("listen:\n  h2c: true");
    env.backend.answer(|_| Answer::with(201, &[], "created"));
    let fields = [WRITER, ("User-Agent", "scanner/1.2 \"x\"")];
    env.gateway.client().request("POST", ITEMS, &fields, b"body");
    let line = env.gateway.wait_for_log(|line| line["status"] == 201);
    let upstream = env.backend.address().to_string();
    for (name, expected) in [
        ("protocol", json!("HTTP/1.1")),
        ("host", json!("stockaj.example")),
        ("user_agent", json!("scanner/1.2 \"x\"")),
        ("bytes_in", json!(4)),
        ("bytes_out", json!(7)),
        ("upstream_address", json!(upstream)),
        ("upstream_status", json!(201)),
        ("cache", json!("miss")),
    ] {
        assert_eq!(line[name], expected, "{name}: {line}");
    }
    for name in ["duration_ms", "introspection_duration_ms", "upstream_duration_ms"] {
        assert!(line[name].as_f64().is_some_and(|duration| duration > 0.0), "{name}: {line}");
    }
    for name in ["tls_version", "client_request_id", "path", "required", "missing", "shadow", "detail"] {
        assert_eq!(line.get(name), None, "{line}");
    }
    // The log has no field under its name of an earlier version.
    for name in ["duration", "introspection_duration", "backend_duration"] {
        assert_eq!(line.get(name), None, "{line}");
    }

    let mut client = Http2Client::connect(env.gateway.address());
    client.request("DELETE", "/api/v2/items/7", &[("authorization", WRITER.1)], b"");
    let line = env.gateway.wait_for_log(|line| line["method"] == "DELETE");
    assert_eq!((&line["protocol"], &line["cache"]), (&"HTTP/2.0".into(), &"hit".into()), "{line}");
    assert_eq!(line["host"], "stockaj.example", "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&0.into(), &7.into()), "{line}");

    env.gateway.client().send("GET /up HTTP/1.0\r\nHost: a\r\n\r\n").response();
    let line = env.gateway.wait_for_log(|line| line["protocol"] == "HTTP/1.0");
    assert_eq!(line.get("cache"), None, "a public route needs no lookup: {line}");
}

#[test]
fn access_line_has_the_tls_version() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).start();
    assert_eq!(env.gateway.get("/up", None).status, 200);
    let line = env.gateway.wait_for_log(|line| line["route"] == "/up");
    assert_eq!(line["tls_version"], "1.3", "{line}");
}

#[test]
fn cache_result_of_each_request_is_logged() {
    let env = TestEnv::start("cache: {negative_ttl: 60s}");
    let mut client = env.gateway.client();
    for (token, expected) in
        [("1|writer", "miss"), ("1|writer", "hit"), ("2|unknown", "miss"), ("2|unknown", "negative_hit")]
    {
        let response = client.get(ITEMS, Some(token));
        let id = response.field("x-request-id").unwrap();
        let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
        assert_eq!(line["cache"], expected, "{token}: {line}");
    }
}

#[test]
fn upstream_status_stays_if_the_gateway_rejects_the_answer() {
    let mut env = TestEnv::start("");
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    env.backend.answer(|_| Answer::raw(SWITCHED).then_close());
    assert_eq!(env.gateway.get("/up", None).status, 502);
    let line = env.gateway.wait_for_log(|line| line["status"] == 502);
    assert_eq!(
        (&line["reason"], &line["upstream_status"]),
        (&"backend_broken".into(), &101.into()),
        "{line}"
    );
    env.backend.stop();
    assert_eq!(env.gateway.get("/up", None).status, 502);
    let line = env.gateway.wait_for_log(|line| line["reason"] == "backend_unreachable");
    assert_eq!((line.get("upstream_status"), line.get("upstream_address")), (None, None), "{line}");
}

#[test]
fn request_id_of_an_untrusted_client_is_logged_and_not_forwarded() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    let longest = "x".repeat(128);
    let too_long = "x".repeat(129);
    for (sent, logged) in [
        ("order-17", Some("order-17")),
        (r#"a"b\c<>|"#, Some(r#"a"b\c<>|"#)),
        (&longest, Some(&*longest)),
        (&too_long, None),
        ("a b", None),
        ("17|Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq", Some("(hidden: it may hold a token)")),
    ] {
        env.backend.forget_requests();
        let response = client.request("GET", "/up", &[("X-Request-Id", sent)], b"");
        let id = response.field("x-request-id").unwrap();
        assert_eq!(id.len(), 32, "{sent}: {id}");
        assert_eq!(env.backend.only_request().field("x-request-id"), Some(id), "{sent}");
        let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
        assert_eq!(line["client_request_id"].as_str(), logged, "{sent}: {line}");
    }
    let refused = client.request("GET", ITEMS, &[("X-Request-Id", "order-18")], b"");
    assert_eq!(refused.status, 401);
    let line = env.gateway.wait_for_log(|line| line["client_request_id"] == "order-18");
    assert_eq!(line["request_id"].as_str(), refused.field("x-request-id"), "{line}");
}

#[test]
fn request_id_of_a_trusted_proxy_is_used() {
    let env = TestEnv::start("listen:\n  trusted_proxies: [127.0.0.1]");
    let response = env.gateway.client().request("GET", "/up", &[("X-Request-Id", "edge-17")], b"");
    assert_eq!(response.field("x-request-id"), Some("edge-17"));
    let line = env.gateway.wait_for_log(|line| line["request_id"] == "edge-17");
    assert_eq!(line.get("client_request_id"), None, "{line}");
}

const RULES: &str = "\
abilities:
  routes:
    /one:  {GET: items:read}
    /both: {GET: {all: [items:read, items:update]}}
    /any:  {GET: {any: [rents:read, rents:update]}}
    /deny: {GET: deny}
";

#[test]
fn denied_request_names_the_requirement_and_the_missing_abilities() {
    for (mode, status) in [("enforce", 403), ("shadow", 200)] {
        let env = TestEnv::start(&format!("mode: {mode}\n{RULES}"));
        env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]));
        env.introspector.set_verdict("3|nothing", Verdict::active(&[]));
        let mut client = env.gateway.client();
        for (target, token, required, missing) in [
            ("/both", "2|reader", "{all: [items:read, items:update]}", json!(["items:update"])),
            (
                "/both",
                "3|nothing",
                "{all: [items:read, items:update]}",
                json!(["items:read", "items:update"]),
            ),
            ("/any", "2|reader", "{any: [rents:read, rents:update]}", json!(["rents:read", "rents:update"])),
            ("/one", "3|nothing", "items:read", json!(["items:read"])),
            ("/deny", "2|reader", "deny", Value::Null),
        ] {
            let response = client.get(target, Some(token));
            assert_eq!(response.status, status, "{mode}: {target}");
            let id = response.field("x-request-id").unwrap();
            let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
            assert_eq!((&line["required"], &line["missing"]), (&json!(required), &missing), "{mode}: {line}");
        }
        let allowed = client.get("/one", Some("2|reader"));
        let id = allowed.field("x-request-id").unwrap();
        let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
        assert_eq!((line.get("required"), line.get("missing")), (None, None), "{line}");
    }
}

#[test]
fn unmapped_request_has_its_masked_path() {
    for mode in ["enforce", "shadow"] {
        let env = TestEnv::start(&format!("mode: {mode}\n{RULES}"));
        let mut client = env.gateway.client();
        for (target, token, path) in [
            ("/api/v2/parts/17?secret=1", Some("1|writer"), "/api/v2/parts/{id}"),
            ("/login/17%7CQz7mXw4LkP9vTs2RbN6y", None, "/login/{id}"),
            ("/a/../b", None, ""),
        ] {
            let response = client.get(target, token);
            let id = response.field("x-request-id").unwrap();
            let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
            assert_eq!(line["path"].as_str().unwrap_or_default(), path, "{mode}: {line}");
        }
        client.get("/one", Some("1|writer"));
        let line = env.gateway.wait_for_log(|line| line["route"] == "/one");
        assert_eq!(line.get("path"), None, "{line}");
    }
}

#[test]
fn started_and_reloaded_name_the_configuration() {
    let env = TestEnv::start(&format!("mode: enforce\n{RULES}"));
    let file = env.gateway.directory().join("gateway.yaml").display().to_string();
    let is_of = |line: &Value, message: &str, mode: &str| {
        line["message"] == message
            && line["version"] == env!("CARGO_PKG_VERSION")
            && line["config"] == *file
            && line["routes"] == 4
            && line["mode"] == mode
    };
    env.gateway.wait_for_log(|line| is_of(line, "started", "enforce"));
    env.gateway.edit("mode: enforce", "mode: shadow");
    assert!(env.gateway.reload());
    env.gateway.wait_for_log(|line| is_of(line, "configuration reloaded", "shadow"));
}
