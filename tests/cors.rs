//! CORS: preflights, and which origins can read the gateway's own responses.

use crate::support::{Answer, RawClient, Response, TestEnv, WRITER};

const ITEMS: &str = "/api/v2/items";
const SHOP: &str = "https://shop.example";
const ORIGIN: (&str, &str) = ("Origin", SHOP);
const EXPOSED: &str = "WWW-Authenticate, X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit-Policy, RateLimit";

/// A browser's preflight for a request with a token.
fn preflight(client: &mut RawClient, target: &str, method: &str, others: &[(&str, &str)]) -> Response {
    let asked =
        [("Access-Control-Request-Method", method), ("Access-Control-Request-Headers", "authorization")];
    client.request("OPTIONS", target, &[&[ORIGIN][..], &asked, others].concat(), b"")
}

/// The field names that browsers may read, sorted.
fn cors_fields(response: &Response) -> Vec<String> {
    let fields = response.fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut cors_fields: Vec<_> = fields
        .filter(|(name, _)| name.starts_with("access-control-") || name == "vary")
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    cors_fields.sort();
    cors_fields
}

#[test]
fn preflight_is_forwarded_without_token_cookie_or_identity() {
    for yaml in ["", "cors: {origins: [https://shop.example]}\n"] {
        let env = TestEnv::start(yaml);
        let fields = [("Access-Control-Allow-Origin", SHOP), ("Access-Control-Allow-Methods", "*")];
        env.backend.answer(move |_| Answer::with(204, &fields, ""));
        let mut client = env.gateway.client();
        let sent = [
            ("Authorization", "Bearer 1|writer"),
            ("Authorization", "Bearer 2|other"),
            ("Cookie", "session=1"),
            ("PHP-Auth-Digest", "Bearer 1|writer"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("Connection", "Origin, Access-Control-Request-Method"),
            ("Content-Length", "0"),
        ];
        let response = preflight(&mut client, "/api/v2/items/?a=%2F", "POST", &sent);
        assert_eq!(response.status, 204, "{}", response.text());
        let expected =
            ["access-control-allow-methods: *", "access-control-allow-origin: https://shop.example"];
        assert_eq!(cors_fields(&response), expected, "as the backend responds");
        let request = env.backend.only_request();
        assert_eq!((&*request.method, &*request.target), ("OPTIONS", "/api/v2/items?a=%2F"));
        assert_eq!(request.field("origin"), Some(SHOP), "a preflight whatever Connection names");
        assert_eq!(request.field("access-control-request-method"), Some("POST"));
        for name in ["authorization", "cookie", "php-auth-digest", "x-http-method-override"] {
            assert_eq!(request.field(name), None, "{name}");
        }
        assert_eq!(env.introspector.calls(), 0);
        let counted =
            "requests_total{method=\"OPTIONS\",reason=\"public\",route=\"/api/v2/items\",status=\"204\"}";
        env.gateway.wait_for_metric(counted, 1.0);
    }
}

#[test]
fn preflight_is_forwarded_if_some_token_may_send_its_request() {
    for yaml in ["", "cors: {origins: [https://shop.example], headers: [Authorization], preflight: answer}\n"]
    {
        let env = TestEnv::start(yaml);
        let mut client = env.gateway.client();
        for (target, method, allowed) in [
            ("/up", "GET", true),
            (ITEMS, "GET", true),
            (ITEMS, "POST", true),
            ("/api/v2/items/5", "DELETE", true),
            (ITEMS, "DELETE", false),
            (ITEMS, "get", false),
            (ITEMS, "PURGE", false),
            ("/api/v2/items/5", "POST", false),
            ("/api/v2/internal", "GET", false),
            ("/api/v2/nowhere", "GET", false),
        ] {
            let response = preflight(&mut client, target, method, &[]);
            let expected = match (allowed, yaml) {
                (true, "") => 200,
                (true, _) => 204,
                (false, _) => 403,
            };
            assert_eq!(response.status, expected, "{method} {target}");
        }
        let asked = ("Access-Control-Request-Method", "GET");
        for (method, fields) in [
            ("OPTIONS", &[][..]),
            ("OPTIONS", &[ORIGIN]),
            ("OPTIONS", &[asked]),
            ("GET", &[ORIGIN, asked]),
            ("POST", &[ORIGIN, asked]),
        ] {
            let response = client.request(method, ITEMS, fields, b"");
            assert_eq!(response.status, 401, "{method} {fields:?}");
        }
        for fields in [[ORIGIN, asked, asked], [ORIGIN, ORIGIN, asked]] {
            assert_eq!(client.request("OPTIONS", ITEMS, &fields, b"").status, 400, "{fields:?}");
        }
        assert_eq!(client.request("OPTIONS", ITEMS, &[WRITER, ORIGIN], b"").status, 403, "not in the map");
        let body = client.request("OPTIONS", ITEMS, &[ORIGIN, asked], b"some");
        assert_eq!(body.status, 400);
        let forwarded = if yaml.is_empty() { 4 } else { 0 };
        assert_eq!(env.backend.requests().len(), forwarded, "{yaml}");
        env.gateway.wait_for_metric("requests_total{method=\"OPTIONS\",reason=\"public\"}", 4.0);
        env.gateway.wait_for_metric("requests_total{method=\"OPTIONS\",reason=\"denied\"}", 1.0);
    }
}

#[test]
fn preflight_for_an_unmapped_path_is_permitted_with_unmapped_authenticated() {
    let env = TestEnv::start(
        "abilities: {unmapped: authenticated, routes: {/closed: {GET: authenticated, OPTIONS: deny}}}\n",
    );
    let mut client = env.gateway.client();
    for (target, method, status) in [
        ("/anywhere", "GET", 200),
        ("/anywhere", "FOO", 403),
        ("/closed", "GET", 403),
        ("/closed", "POST", 403),
        ("*", "GET", 403),
    ] {
        assert_eq!(preflight(&mut client, target, method, &[]).status, status, "{method} {target}");
    }
    assert_eq!(env.backend.requests().len(), 1);
}

#[test]
fn preflight_for_an_overridden_post_is_permitted() {
    for (mode, status) in [("pin", 403), ("honour", 200)] {
        let env = TestEnv::start(&format!("backend:\n  method_override: {mode}\n"));
        let response = preflight(&mut env.gateway.client(), "/api/v2/items/5", "POST", &[]);
        assert_eq!(response.status, status, "{mode}");
    }
}

#[test]
fn preflight_answer_is_sent_by_the_gateway_as_configured() {
    let yaml = "\
cors:
  origins: [https://shop.example, http://localhost:3000]
  headers: [Authorization, Content-Type]
  methods: [GET, POST, PUT]
  credentials: true
  max_age: 1h
  preflight: answer
";
    let env = TestEnv::start(yaml);
    let mut client = env.gateway.client();
    let response = preflight(&mut client, ITEMS, "POST", &[WRITER]);
    assert_eq!((response.status, response.text()), (204, ""));
    let expected = [
        "access-control-allow-credentials: true",
        "access-control-allow-headers: Authorization, Content-Type",
        "access-control-allow-methods: GET, POST, PUT",
        "access-control-allow-origin: https://shop.example",
        "access-control-max-age: 3600",
        "vary: Origin",
    ];
    assert_eq!(cors_fields(&response), expected);
    assert_eq!(response.field("cache-control"), Some("no-store"));
    assert!(response.field("x-request-id").is_some());
    for name in ["content-length", "transfer-encoding", "content-type"] {
        assert_eq!(response.field(name), None, "{name} of a 204");
    }
    for origin in ["https://evil.example", "https://shop.example.evil", "HTTPS://shop.example", "null", "*"] {
        let asked = [("Origin", origin), ("Access-Control-Request-Method", "GET")];
        let response = client.request("OPTIONS", ITEMS, &asked, b"");
        assert_eq!(
            (response.status, cors_fields(&response)),
            (204, vec!["vary: Origin".to_owned()]),
            "{origin}"
        );
    }
    assert_eq!((env.backend.requests().len(), env.introspector.calls()), (0, 0));
    let line = env.gateway.wait_for_log(|line| line["method"] == "OPTIONS");
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(204), Some("public")));
}

#[test]
fn wildcard_origin_matches_every_origin() {
    let env = TestEnv::start(
        "cors: {origins: [\"*\"], headers: [Authorization], preflight: answer, max_age: 0s}\n",
    );
    let mut client = env.gateway.client();
    let response = preflight(&mut client, ITEMS, "GET", &[]);
    let expected = [
        "access-control-allow-headers: Authorization",
        "access-control-allow-methods: GET",
        "access-control-allow-origin: *",
        "access-control-max-age: 0",
    ];
    assert_eq!(cors_fields(&response), expected);
    let asked = [("Origin", "null"), ("Access-Control-Request-Method", "GET")];
    assert_eq!(cors_fields(&client.request("OPTIONS", ITEMS, &asked, b"")), [""; 0]);
    let refused = client.request("GET", ITEMS, &[ORIGIN], b"");
    let exposed = format!("access-control-expose-headers: {EXPOSED}");
    assert_eq!(
        (refused.status, cors_fields(&refused)),
        (401, vec!["access-control-allow-origin: *".to_owned(), exposed])
    );
}

/// Requests that the gateway itself responds to, by status.
fn refusals(env: &mut TestEnv, origin: &[(&str, &str)]) -> Vec<Response> {
    let mut client = env.gateway.client();
    let mut ask = |method: &str, target: &str, fields: &[(&str, &str)], body: &str| {
        client.request(method, target, &[fields, origin].concat(), body.as_bytes())
    };
    let none = ("Authorization", "Bearer 2|unknown");
    let mut refusals = vec![
        ask("GET", "/api/v2/items/..", &[WRITER], ""),
        ask("GET", ITEMS, &[], ""),
        ask("GET", ITEMS, &[none], ""),
        ask("DELETE", ITEMS, &[WRITER], ""),
        ask("POST", ITEMS, &[WRITER], "much too much"),
    ];
    env.backend.stop();
    refusals.push(client.request("GET", ITEMS, &[&[WRITER], origin].concat(), b""));
    env.introspector.stop();
    let unknown = ("Authorization", "Bearer 3|new");
    refusals.push(client.request("GET", ITEMS, &[&[unknown], origin].concat(), b""));
    refusals
}

#[test]
fn own_responses_are_readable_by_allowed_origins_only() {
    let yaml = "cors: {origins: [http://localhost:3000, https://shop.example], credentials: true}\nlimits: {body: 5}\n";
    let statuses = [400, 401, 401, 403, 413, 502, 503];
    let exposed = format!("access-control-expose-headers: {EXPOSED}");
    let read = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: https://shop.example",
        &exposed,
        "vary: Origin",
    ];
    for (yaml, origin, expected) in [
        (yaml, &[ORIGIN][..], &read[..]),
        (yaml, &[], &[]),
        (yaml, &[("Origin", "https://evil.example")], &[]),
        (yaml, &[("Origin", "null")], &[]),
        (yaml, &[ORIGIN, ORIGIN], &[]),
        ("limits: {body: 5}\n", &[ORIGIN], &[]),
    ] {
        let mut env = TestEnv::start(yaml);
        for (response, status) in refusals(&mut env, origin).iter().zip(statuses) {
            // Two Origin fields get 400 before any other check.
            assert_eq!(response.status, if origin.len() > 1 { 400 } else { status });
            assert_eq!(cors_fields(response), expected, "{status} {origin:?}");
        }
    }
}

#[test]
fn cors_fields_of_backend_responses_are_unchanged() {
    let env = TestEnv::start("cors: {origins: [https://shop.example]}\n");
    let mut client = env.gateway.client();
    for (status, fields) in [
        (200, &[][..]),
        (403, &[]),
        (200, &[("Access-Control-Allow-Origin", "https://other.example"), ("Vary", "Accept")]),
    ] {
        env.backend.answer(move |_| Answer::with(status, fields, "{}"));
        let response = client.request("GET", ITEMS, &[WRITER, ORIGIN], b"");
        let mut expected: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
        expected.sort();
        assert_eq!((response.status, cors_fields(&response)), (status, expected));
    }
    assert_eq!(env.backend.requests()[0].field("origin"), Some(SHOP));
}
