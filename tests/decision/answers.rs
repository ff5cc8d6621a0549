//! Answers to the byte, over HTTP and by gRPC.

use super::{DECISION, ITEMS, PATH_PREFIX, READER, in_every_style, start};
use crate::support::decision::{Asker, Decision, Style};
use crate::support::{Answer, TestEnv, Verdict};

/// The fields without those that differ from answer to answer.
fn fields(decision: &Decision) -> Vec<(&str, &str)> {
    let varies = ["date", "x-request-id", "content-length"];
    let fields = decision.fields.iter().map(|(name, value)| (&**name, &**value));
    let mut fields: Vec<_> = fields.filter(|(name, _)| !varies.contains(name)).collect();
    fields.sort_unstable();
    fields
}

fn is_grpc(style: Style) -> bool {
    matches!(style, Style::Grpc | Style::GrpcRaw)
}

/// What a hostile client sends beside its token.
const SENT: [(&str, &str); 9] = [
    ("authorization", "bearer   2|reader"),
    ("cookie", "laravel_session=evil"),
    ("remote-user", "evil"),
    ("x-token-id", "evil"),
    ("x-http-method-override", "DELETE"),
    ("x_http_method_override", "DELETE"),
    ("proxy", "evil"),
    ("x-forwarded-host2", "evil"),
    ("accept", "text/html"),
];

#[test]
fn allowing_answer_has_the_fields_that_were_decided_on() {
    in_every_style("identity_headers: [id, abilities]\n", |env, style| {
        let verdict = Verdict::active(&["items:read", "items:create"]).named("17", "scanner");
        env.introspector.set_verdict("3|creator", verdict);
        let mut asker = env.asker(style);
        let mut sent = [&[("authorization", "bearer   3|creator")][..], &SENT[1..]].concat();
        let is_removed = is_grpc(style) || style == Style::PathPrefix;
        if !is_removed {
            let refused = asker.ask("POST", "/api/v2/items?a=b", &sent);
            assert_eq!((refused.status, &*refused.body), (400, r#"{"message":"Bad Request."}"#), "{style:?}");
            sent.retain(|(name, _)| !name.contains('_'));
        }
        let decision = asker.ask("POST", "/api/v2/items?a=b", &sent);
        let mut expected = vec![
            ("authorization", "Bearer 3|creator"),
            ("x-canonical-path", ITEMS),
            ("x-http-method-override", "POST"),
            ("x-token-abilities", "items:create items:read"),
            ("x-token-id", "17"),
        ];
        let removed = ["cookie", "proxy", "remote-user", "x-forwarded-host2", "x_http_method_override"];
        if !is_grpc(style) {
            expected.push(("cache-control", "no-store"));
            if style == Style::PathPrefix {
                let names = removed.join(",");
                assert_eq!(decision.field("x-envoy-auth-headers-to-remove"), Some(&*names));
            }
        }
        expected.sort_unstable();
        let mut found = fields(&decision);
        found.retain(|(name, _)| *name != "x-envoy-auth-headers-to-remove");
        assert_eq!(found, expected, "{style:?}");
        assert_eq!((decision.status, &*decision.body), (200, ""), "{style:?}");
        if is_removed {
            assert_eq!(decision.removed, removed, "{style:?}");
        }
        assert!(env.backend.requests().is_empty());
    });
}

#[test]
fn credentials_of_public_routes_pass_as_sent() {
    in_every_style("", |env, style| {
        let decision = env.asker(style).ask("GET", "/up", &[("authorization", "Basic x"), ("cookie", "a=b")]);
        assert!(decision.is_allowed());
        assert_eq!(decision.removed, [""; 0], "{style:?}");
        let kept = [decision.field("authorization"), decision.field("cookie")];
        // Envoy forwards what it is not told to change.
        assert_eq!(kept, if is_grpc(style) { [None, None] } else { [Some("Basic x"), Some("a=b")] });
    });
    in_every_style("backend:\n  cookies: true\n", |env, style| {
        let decision = env.asker(style).ask("GET", ITEMS, &SENT[..2]);
        assert!(decision.is_allowed());
        assert_eq!(decision.removed, [""; 0], "{style:?}");
    });
}

#[test]
fn refusing_answer_is_the_response_of_the_proxy_listener() {
    let denials = "denials: {required_ability: true, link: https://docs.example/tokens}\n\
                   cors: {origins: [https://shop.example]}\n";
    in_every_style(denials, |env, style| {
        let mut asker = env.asker(style);
        let origin = ("origin", "https://shop.example");
        for (method, target, token, status) in [
            ("GET", ITEMS, None, 401),
            ("GET", ITEMS, Some("5|unknown"), 401),
            ("GET", ITEMS, Some("a b"), 401),
            ("DELETE", "/api/v2/items/5", Some(READER), 403),
            ("DELETE", ITEMS, Some("1|writer"), 403),
            ("GET", "/api/v2/internal", Some("1|writer"), 403),
            ("GET", "/nowhere", Some("1|writer"), 403),
        ] {
            let authorization = token.map(|token| format!("Bearer {token}"));
            let authorization = authorization.iter().map(|value| ("authorization", &**value));
            let sent: Vec<(&str, &str)> = authorization.chain([origin]).collect();
            let decision = asker.ask(method, target, &sent);
            let response = env.gateway.client().request(method, target, &sent, b"");
            assert_eq!((decision.status, response.status), (status, status), "{style:?} {method} {target}");
            assert_eq!(decision.body, response.text());
            let mut expected: Vec<(String, String)> = response.fields.0;
            expected.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
            let lines: Vec<_> = expected.iter().map(|(name, value)| (&**name, &**value)).collect();
            let expected = Decision {
                fields: lines.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
                ..Decision::default()
            };
            assert_eq!(fields(&decision), fields(&expected), "{style:?} {method} {target}");
            assert!(decision.field("x-request-id").is_some());
            assert_eq!(decision.code, is_grpc(style).then_some(if status == 401 { 16 } else { 7 }));
        }
        assert!(env.backend.requests().is_empty());
    });
}

#[test]
fn outage_and_limits_are_visible_as_such() {
    let limit = "rate_limit: {requests_per_second: 1, burst: 1, fields: ietf}\n";
    for (settings, path_prefix) in super::SETTINGS {
        for style in Style::all(path_prefix) {
            let env = start(&format!("{settings}{limit}"));
            let mut asker = env.asker(*style);
            let allowed = asker.ask_with("GET", ITEMS, READER);
            let to_client = if is_grpc(*style) { &allowed.to_client } else { &allowed.fields };
            assert!(to_client.iter().any(|(name, _)| name == "ratelimit-policy"), "{allowed:?}");
            let limited = asker.ask_with("GET", ITEMS, READER);
            assert_eq!((limited.status, &*limited.body), (429, r#"{"message":"Too Many Attempts."}"#));
            assert_eq!(limited.field("retry-after"), Some("1"), "{style:?}");
            assert_eq!(limited.field("x-ratelimit-limit"), Some("1"), "{style:?}");
            assert_eq!(limited.code, is_grpc(*style).then_some(8));
            env.introspector.fail_with(Answer::with(500, &[], ""));
            let outage = asker.ask_with("GET", ITEMS, "7|other");
            assert_eq!((outage.status, &*outage.body), (503, r#"{"message":"Service Unavailable."}"#));
            assert_eq!(outage.field("retry-after"), Some("1"), "{style:?}");
            assert_eq!(outage.code, is_grpc(*style).then_some(14));
        }
    }
}

#[test]
fn status_may_be_in_a_field_instead() {
    for (settings, styles) in
        [(DECISION, &[Style::Forwarded, Style::Original][..]), (PATH_PREFIX, &[Style::PathPrefix])]
    {
        let env = start(&format!("{settings}  answer: header\n"));
        for style in styles {
            let mut asker = env.asker(*style);
            let mut assert_decision = |method: &str, target: &str, token: &str, status: &str, body: &str| {
                let decision = asker.ask_with(method, target, token);
                let found = (decision.status, decision.field("x-decision-status"), &*decision.body);
                assert_eq!(found, (200, Some(status), body), "{style:?} {method} {target}");
                assert_eq!(decision.field("cache-control"), Some("no-store"));
                decision
            };
            assert_decision("GET", ITEMS, READER, "200", "");
            let unauthenticated = r#"{"message":"Unauthenticated."}"#;
            let decision = assert_decision("GET", ITEMS, "9|unknown", "401", unauthenticated);
            assert!(decision.field("www-authenticate").is_some());
            assert_decision("PUT", ITEMS, READER, "403", r#"{"message":"This action is unauthorized."}"#);
            assert_decision("GET", "/api/v2/items/", READER, "400", r#"{"message":"Bad Request."}"#);
        }
        // gRPC has its own place for the status.
        let mut asker = env.asker(Style::Grpc);
        assert_eq!(asker.ask_with("GET", ITEMS, "9|unknown").status, 401);
        assert!(asker.ask_with("GET", ITEMS, READER).is_allowed());
    }
}

#[test]
fn preflights_are_allowed_without_credentials() {
    in_every_style("cors: {origins: [https://shop.example], preflight: answer}\n", |env, style| {
        let mut asker = env.asker(style);
        let preflight =
            |method| [("origin", "https://shop.example"), ("access-control-request-method", method)];
        let with_cookie = [&preflight("GET")[..], &[("cookie", "a=b")]].concat();
        let decision = asker.ask("OPTIONS", ITEMS, &with_cookie);
        assert!(decision.is_allowed(), "{style:?}: {decision:?}");
        assert_eq!(decision.field("cookie"), None);
        if style != Style::Forwarded && style != Style::Original {
            assert_eq!(decision.removed, ["cookie"], "{style:?}");
        }
        assert_eq!(asker.ask("OPTIONS", ITEMS, &preflight("DELETE")).status, 403, "{style:?}");
        assert_eq!(asker.ask("OPTIONS", ITEMS, &[]).status, 401, "{style:?}");
    });
}

#[test]
fn override_is_decided_on_and_answered() {
    in_every_style("backend:\n  method_override: honour\n", |env, style| {
        env.introspector.set_verdict("4|updater", Verdict::active(&["items:update"]));
        let mut asker = env.asker(style);
        let by = |method| [("x-http-method-override", method), ("authorization", "Bearer 4|updater")];
        let decision = asker.ask("POST", "/api/v2/items/5", &by("PUT"));
        assert_eq!((decision.is_allowed(), decision.field("x-http-method-override")), (true, Some("PUT")));
        assert_eq!(asker.ask("POST", "/api/v2/items/5", &by("DELETE")).status, 403, "{style:?}");
        assert_eq!(asker.ask("POST", "/api/v2/items/5", &by("TRACE")).status, 400, "{style:?}");
    });
}

#[test]
fn query_decides_as_on_the_proxy_listener() {
    let rules = "\
abilities:
  routes:
    /api/v2/items:
      GET: items:read
      query:
        include: {split: \",\", values: {renters: renters:read}, others: deny}
        debug: deny
";
    in_every_style(rules, |env, style| {
        let mut asker = env.asker(style);
        for (query, status) in [
            ("", 200),
            ("?page=2", 200),
            ("?include=renters", 403),
            ("?page=1&include=other", 403),
            ("?debug", 403),
            ("?include=renters&include=", 403),
        ] {
            let decision = asker.ask_with("GET", &format!("{ITEMS}{query}"), READER);
            assert_eq!(decision.status, status, "{style:?} {query}");
        }
        // Laravel would read the body first.
        let with_body = [("authorization", "Bearer 2|reader"), ("content-length", "3")];
        if is_grpc(style) {
            assert_eq!(asker.ask("GET", ITEMS, &with_body).status, 400);
            assert_eq!(asker.ask("GET", "/api/v2/items?page=1", &with_body).status, 400);
        }
    });
}

#[test]
fn announced_end_of_a_route_is_for_the_client() {
    let route =
        "abilities:\n  routes:\n    /api/v2/items: {GET: items:read, deprecated: {sunset: 2030-01-02}}\n";
    in_every_style(route, |env, style| {
        let decision = env.asker(style).ask_with("GET", ITEMS, READER);
        let to_client = if is_grpc(style) { &decision.to_client } else { &decision.fields };
        let sunset = ("sunset".to_owned(), "Wed, 02 Jan 2030 00:00:00 GMT".to_owned());
        assert!(decision.is_allowed() && to_client.contains(&sunset), "{style:?}: {decision:?}");
    });
}

#[test]
fn scripts_of_allowed_origins_may_read_the_announced_end_of_a_route() {
    let route = "cors: {origins: [https://shop.example]}\n\
                 abilities:\n  routes:\n    /api/v2/items: {GET: items:read, deprecated: {sunset: 2030-01-02}}\n";
    in_every_style(route, |env, style| {
        for (origin, exposed) in [("https://shop.example", true), ("https://other.example", false)] {
            let sent = [("authorization", "Bearer 2|reader"), ("origin", origin)];
            let decision = env.asker(style).ask("GET", ITEMS, &sent);
            let to_client = if is_grpc(style) { &decision.to_client } else { &decision.fields };
            let has = |name: &str, value: &str| {
                to_client.iter().filter(|line| **line == (name.to_owned(), value.to_owned())).count()
            };
            assert_eq!(has("vary", "Origin"), 1, "{style:?} {origin}: {decision:?}");
            let names = has("access-control-expose-headers", "Sunset");
            assert_eq!(names, usize::from(exposed), "{style:?} {origin}: {decision:?}");
        }
    });
}

#[test]
fn networks_are_compared_with_the_described_client() {
    let rules = "\
abilities:
  routes:
    /api/v2/items: {GET: items:read, from: [192.0.2.0/24]}
    /api/v2/me:    {GET: authenticated, from: [127.0.0.0/8]}
    /up:           {GET: public, from: [127.0.0.0/8]}
";
    in_every_style(rules, |env, style| {
        let mut asker = env.asker(style);
        assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 200, "{style:?}");
        asker.source = Some("198.51.100.1".parse().unwrap());
        assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 403, "{style:?}");
        // An unknown client does not have the proxy's address.
        asker.source = None;
        for target in [ITEMS, "/api/v2/me", "/up"] {
            assert_eq!(asker.ask_with("GET", target, READER).status, 403, "{style:?} {target}");
        }
    });
}

#[test]
fn fields_from_trusted_sources_stay() {
    let env: TestEnv = start(&format!(
        "{DECISION}listen:\n  trusted_proxies: [192.0.2.7]\n  trusted_fields: [Remote-User]\n"
    ));
    let sent = [
        ("authorization", "Bearer 2|reader"),
        ("remote-user", "anna"),
        ("x-forwarded-host", "app.example"),
        ("x-auth-user", "evil"),
    ];
    let mut asker: Asker = env.asker(Style::Grpc);
    assert_eq!(asker.ask("GET", ITEMS, &sent).removed, ["x-auth-user"]);
    asker.source = Some("198.51.100.1".parse().unwrap());
    assert_eq!(asker.ask("GET", ITEMS, &sent).removed, ["remote-user", "x-auth-user", "x-forwarded-host"]);
    asker.source = None;
    assert_eq!(asker.ask("GET", ITEMS, &sent).removed, ["remote-user", "x-auth-user", "x-forwarded-host"]);
}
