//! The networks of routes and tokens: `from`, and `introspection.response.allowed_from`.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Answer, BINARY, Gateway, Introspector, OPERATED, RawClient, Response, TestEnv, Upstream, Verdict,
};

const READER: &str = "1|reader";
const OFFICE: &str = "2|office";
const ITEMS: &str = "/api/v2/items";
const REPORTS: &str = "/api/v2/reports";
const REFUSED: &str = r#"{"message":"This action is unauthorized."}"#;

const MAP: &str = "\
abilities:
  routes:
    /up:            {GET: public}
    /status:        {GET: public, from: [10.0.0.0/8]}
    /api/v2/items:  {GET: items:read, POST: items:create}
    /api/v2/reports:
      GET: items:read
      POST: items:create
      from: [10.0.0.0/8, 'fd00::/8']
introspection:
  response: {allowed_from: /data/allowed_from}
listen:
  trusted_proxies: [127.0.0.1]
";

fn reader() -> Verdict {
    Verdict::active(&["items:read"]).named(1, "reader-prod")
}

fn office(networks: impl Into<Value>) -> Verdict {
    Verdict::active(&["items:read"]).named(2, "office-prod").restricted_to(networks)
}

fn start(yaml: &str) -> TestEnv {
    TestEnv::builder()
        .verdict(READER, reader())
        .verdict(OFFICE, office(json!(["10.1.0.0/16", "192.0.2.7"])))
        .yaml(&format!("{MAP}{yaml}"))
        .start()
}

impl TestEnv {
    /// Sends a request whose client has this address behind a trusted proxy.
    fn get_from(&self, client: &str, target: &str, token: &str) -> Response {
        let authorization = format!("Bearer {token}");
        let fields = [("Authorization", &*authorization), ("X-Forwarded-For", client)];
        self.gateway.client().request("GET", target, &fields, b"")
    }

    fn refused_line(&self) -> Value {
        self.gateway.wait_for_log(|line| line["message"] == "request" && line["reason"] == "wrong_network")
    }
}

#[test]
fn request_from_outside_the_networks_of_its_route_is_refused_logged_and_counted() {
    let env = start("denials: {required_ability: true}\n");
    let response = env.get_from("203.0.113.9", REPORTS, READER);
    assert_eq!((response.status, response.text()), (403, REFUSED));
    let challenge = r#"Bearer realm="stockaj", error="insufficient_scope""#;
    assert_eq!(response.field("www-authenticate"), Some(challenge));
    assert_eq!(response.field("x-required-ability"), None);
    let line = env.refused_line();
    assert_eq!((&line["client"], &line["token_id"]), (&json!("203.0.113.9"), &json!("1")));
    let detail = line["detail"].as_str().unwrap();
    let rule = "203.0.113.9 is outside the route's networks 10.0.0.0/8, fd00::/8 (";
    assert!(detail.starts_with(rule) && detail.contains("gateway.yaml:"), "{detail}");
    assert_eq!(line.get("required"), None, "{line}");
    let metric =
        "requests_total{method=\"GET\",reason=\"wrong_network\",route=\"/api/v2/reports\",status=\"403\"}";
    assert_eq!(env.gateway.metrics().metric(metric), 1.0);
    for (client, status) in [("10.1.2.3", 200), ("fd00::1", 200), ("::ffff:10.1.2.3", 200), ("fe80::1", 403)]
    {
        assert_eq!(env.get_from(client, REPORTS, READER).status, status, "{client}");
    }
    assert_eq!(env.get_from("203.0.113.9", ITEMS, READER).status, 200);
}

#[test]
fn public_route_has_networks_too_and_its_outsiders_cause_no_introspection() {
    let env = start("");
    for (client, status) in [("10.1.2.3", 200), ("203.0.113.9", 403)] {
        assert_eq!(env.get_from(client, "/status", READER).status, status, "{client}");
        assert_eq!(env.get_from(client, "/up", READER).status, 200, "{client}");
    }
    assert_eq!(env.introspector.calls(), 0);
}

#[test]
fn token_is_refused_outside_its_networks_on_every_route() {
    let env = start("");
    for (client, target, status) in [
        ("10.1.2.3", ITEMS, 200),
        ("192.0.2.7", ITEMS, 200),
        ("::ffff:192.0.2.7", ITEMS, 200),
        ("192.0.2.8", ITEMS, 403),
        ("10.2.2.3", ITEMS, 403),
        ("10.1.2.3", REPORTS, 200),
        ("10.2.2.3", REPORTS, 403),
        ("192.0.2.7", REPORTS, 403),
        // Public routes read no token.
        ("203.0.113.9", "/up", 200),
    ] {
        let response = env.get_from(client, target, OFFICE);
        assert_eq!(response.status, status, "{client} {target}");
        assert!(status == 200 || response.text() == REFUSED, "{}", response.text());
    }
    let detail = "192.0.2.8 is outside the token's networks 10.1.0.0/16, 192.0.2.7";
    let line = env.gateway.wait_for_log(|line| line["detail"] == detail);
    assert_eq!(line["token_name"], "office-prod");
}

#[test]
fn list_of_a_token_is_a_list_or_null_and_anything_else_no_verdict() {
    for (networks, status, why) in [
        (Value::Null, 200, ""),
        (json!(["127.0.0.1"]), 200, ""),
        (json!(["127.0.0.1/8"]), 200, ""),
        (json!([]), 403, ""),
        (json!(["10.0.0.0/8"]), 403, ""),
        (json!("127.0.0.1"), 503, "the networks in the introspector's response are a string"),
        (json!({"0": "127.0.0.1"}), 503, "the networks in the introspector's response are an object"),
        (json!(["127.0.0.1", 7]), 503, "network 1 in the introspector's response (a number)"),
        (json!(["127.0.0.1", "office"]), 503, "network 1 in the introspector's response (a string)"),
        (json!(vec!["127.0.0.1"; 257]), 503, "longer than 256 networks"),
    ] {
        let env = start("");
        env.introspector.set_verdict(OFFICE, office(networks.clone()));
        assert_eq!(env.status(ITEMS, OFFICE), status, "{networks}");
        if status == 503 {
            let line = env.gateway.wait_for_log(|line| line.to_string().contains(why));
            assert!(!line.to_string().contains("office\""), "{line}");
        }
    }
}

#[test]
fn network_that_is_added_to_a_token_is_found_by_one_introspection() {
    let env = start("cache: {ttl: 60s, negative_ttl: 200ms}\n");
    assert_eq!(env.get_from("10.1.2.3", ITEMS, OFFICE).status, 200);
    thread::sleep(Duration::from_millis(250));
    for _ in 0..3 {
        assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 403);
    }
    assert_eq!(env.introspector.calls_for(OFFICE), 2, "once per negative_ttl");
    env.introspector.set_verdict(OFFICE, office(json!(["203.0.113.0/24"])));
    thread::sleep(Duration::from_millis(250));
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 200);
    assert_eq!(env.introspector.calls_for(OFFICE), 3);
    // The new verdict applies everywhere.
    assert_eq!(env.get_from("10.1.2.3", ITEMS, OFFICE).status, 403);
}

#[test]
fn networks_of_a_route_cause_no_further_introspection() {
    let env = start("cache: {ttl: 60s, negative_ttl: 1ms}\n");
    for _ in 0..3 {
        assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 403);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(env.introspector.calls_for(READER), 1);
    // A 401 and a missing ability come first.
    assert_eq!(env.get_from("203.0.113.9", REPORTS, "9|unknown").status, 401);
    let authorization = format!("Bearer {READER}");
    let fields = [("Authorization", &*authorization), ("X-Forwarded-For", "203.0.113.9")];
    let response = env.gateway.client().request("POST", REPORTS, &fields, b"");
    let challenge = r#"Bearer realm="stockaj", error="insufficient_scope", scope="items:create""#;
    assert_eq!((response.status, response.field("www-authenticate")), (403, Some(challenge)));
}

#[test]
fn wrong_network_without_a_fresh_verdict_is_503() {
    let env = start("cache: {ttl: 60s, negative_ttl: 1ms}\n");
    assert_eq!(env.get_from("10.1.2.3", ITEMS, OFFICE).status, 200);
    thread::sleep(Duration::from_millis(20));
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 503);
    assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 503, "never introspected");
    assert_eq!(env.get_from("10.1.2.3", ITEMS, OFFICE).status, 200);
}

#[test]
fn client_of_a_unix_socket_has_no_address_and_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("front.sock");
    let (backend, introspector) = (Upstream::start(), Introspector::start());
    introspector.set_verdict(READER, reader());
    introspector.set_verdict(OFFICE, office(json!(["0.0.0.0/0", "::/0"])));
    let map = MAP.split("listen:").next().unwrap();
    let builder = Gateway::builder().backend(&backend).introspector(&introspector);
    let gateway = builder.yaml(map).listening_at(&socket).start();
    let fields = |token: &str| format!("Bearer {token}");
    for (target, token, status) in [
        (ITEMS, READER, 200),
        ("/up", READER, 200),
        (REPORTS, READER, 403),
        ("/status", READER, 403),
        (ITEMS, OFFICE, 403),
    ] {
        let authorization = fields(token);
        // An address in a field of an untrusted peer counts for nothing.
        let fields = [("Authorization", &*authorization), ("X-Forwarded-For", "10.1.2.3")];
        let response = RawClient::connect_unix(&socket).request("GET", target, &fields, b"");
        assert_eq!(response.status, status, "{target} {token}");
    }
    let detail = "an unknown address is outside the token's networks 0.0.0.0/0, ::/0";
    gateway.wait_for_log(|line| line["detail"] == detail);
}

#[test]
fn address_of_a_proxy_header_counts() {
    let proxied = MAP.replace("listen:\n", "listen:\n  proxy_protocol: true\n");
    let env = TestEnv::builder().verdict(READER, reader()).yaml(&proxied).start();
    let request = format!("GET {REPORTS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {READER}\r\n");
    let v1 = |client: &str| {
        let family = if client.contains(':') { "TCP6" } else { "TCP4" };
        format!("PROXY {family} {client} {client} 4711 443\r\n").into_bytes()
    };
    let v2 = |client: [u8; 4]| {
        let addresses = [&client[..], &[127, 0, 0, 1, 0x12, 0x34, 1, 187]].concat();
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
    };
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let spoofed = "X-Forwarded-For: 10.1.2.3\r\n";
    for (header, lines, status) in [
        (v1("10.1.2.3"), "", 200),
        (v1("::ffff:10.1.2.3"), "", 200),
        (v1("fd00::1"), "", 200),
        (v1("203.0.113.9"), "", 403),
        (v1("203.0.113.9"), spoofed, 403),
        (v2([10, 1, 2, 3]), "", 200),
        (v2([203, 0, 113, 9]), "", 403),
        (v2([203, 0, 113, 9]), spoofed, 403),
        // Connections of the proxy itself, whose fields any client may have sent.
        (b"PROXY UNKNOWN\r\n".to_vec(), spoofed, 403),
        (local, spoofed, 403),
    ] {
        let shown = String::from_utf8_lossy(&header).into_owned();
        let mut client = env.gateway.client();
        client.send([&header, request.as_bytes(), lines.as_bytes(), b"\r\n"].concat());
        assert_eq!(client.response().status, status, "{shown:?} {lines}");
    }
}

#[test]
fn preflight_from_outside_the_networks_of_its_route_is_refused() {
    for preflight in ["forward", "answer"] {
        let env = start(&format!("cors: {{origins: ['https://shop.example'], preflight: {preflight}}}\n"));
        let status = |client: &str, target: &str, method: &str| {
            let fields = [
                ("Origin", "https://shop.example"),
                ("Access-Control-Request-Method", method),
                ("X-Forwarded-For", client),
            ];
            env.gateway.client().request("OPTIONS", target, &fields, b"").status
        };
        let permitted = if preflight == "answer" { 204 } else { 200 };
        for (client, target, method, expected) in [
            ("10.1.2.3", REPORTS, "GET", permitted),
            ("203.0.113.9", REPORTS, "GET", 403),
            ("203.0.113.9", REPORTS, "POST", 403),
            ("203.0.113.9", "/status", "GET", 403),
            ("10.1.2.3", "/status", "GET", permitted),
            ("203.0.113.9", ITEMS, "GET", permitted),
        ] {
            assert_eq!(status(client, target, method), expected, "{preflight} {client} {method} {target}");
        }
        assert_eq!(env.refused_line()["token_id"], Value::Null);
    }
}

#[test]
fn shadow_mode_forwards_requests_from_wrong_networks_and_reports_them() {
    let env = start("mode: shadow\nshadow_authentication: true\n");
    assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 200);
    let line = env.gateway.wait_for_log(|line| line["shadow"] == "would_deny");
    let rule = line["shadow_rule"].as_str().unwrap();
    assert!(
        rule.starts_with("enforced ") && rule.ends_with(" from 10.0.0.0/8, fd00::/8 (wrong_network)"),
        "{rule}"
    );
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 200);
    let rule = "enforced the token's networks (wrong_network)";
    env.gateway.wait_for_log(|line| line["shadow_rule"] == rule);
    // A public route requires no token, not even an active one.
    assert_eq!(env.get_from("203.0.113.9", "/status", "9|unknown").status, 200);
    assert_eq!(env.get_from("203.0.113.9", REPORTS, "9|unknown").status, 200);
    assert_eq!(env.get_from("10.1.2.3", REPORTS, OFFICE).status, 200);
    let metrics = env.gateway.metrics();
    assert_eq!(metrics.metric("shadow_total{change=\"would_deny\"}"), 4.0);
}

#[test]
fn shadow_mode_of_the_map_does_not_lift_the_networks_of_a_token() {
    let env = start("mode: shadow\n");
    for (client, target, token, status) in [
        ("203.0.113.9", REPORTS, READER, 200),
        ("203.0.113.9", "/nowhere", READER, 200),
        ("203.0.113.9", ITEMS, OFFICE, 403),
        // Also if the map refuses the request for another reason.
        ("203.0.113.9", REPORTS, OFFICE, 403),
        ("203.0.113.9", "/nowhere", OFFICE, 403),
        ("10.1.2.3", "/nowhere", OFFICE, 200),
        ("10.1.2.3", ITEMS, OFFICE, 200),
        ("192.0.2.7", REPORTS, OFFICE, 200),
        ("203.0.113.9", REPORTS, "9|unknown", 401),
    ] {
        assert_eq!(env.get_from(client, target, token).status, status, "{client} {target} {token}");
    }
    let line = env.refused_line();
    assert_eq!(line["detail"], "203.0.113.9 is outside the token's networks 10.1.0.0/16, 192.0.2.7");
}

#[test]
fn shadow_mode_decides_from_outside_the_networks_of_a_route_as_from_inside() {
    let map = "\
mode: shadow
abilities:
  routes:
    /open:
      GET: public
      from: [10.0.0.0/8]
      query: {debug: deny, more: items:create, other: items:read}
introspection:
  response: {allowed_from: /data/allowed_from}
listen:
  trusted_proxies: [127.0.0.1]
";
    let env = TestEnv::builder()
        .verdict(READER, reader())
        .verdict(OFFICE, office(json!(["198.51.100.0/24"])))
        .yaml(map)
        .start();
    let status = |client: &str, target: &str, token: Option<&str>| {
        let authorization = format!("Bearer {}", token.unwrap_or_default());
        let fields = [("X-Forwarded-For", client), ("Authorization", &*authorization)];
        env.gateway.client().request("GET", target, &fields[..1 + usize::from(token.is_some())], b"").status
    };
    for (target, token, expected) in [
        ("/open", None, 200),
        ("/open?debug", None, 200),
        ("/open?more", None, 401),
        ("/open?m[ore", None, 400),
        ("/open", Some("9|unknown"), 200),
        ("/open?debug", Some("9|unknown"), 401),
        ("/open?more", Some("9|unknown"), 401),
        ("/open?more", Some(READER), 200),
        ("/open?other", Some(READER), 200),
        ("/open?debug", Some(READER), 200),
        // The networks of the token stay.
        ("/open?other", Some(OFFICE), 403),
        ("/open?more", Some(OFFICE), 403),
        ("/open?debug", Some(OFFICE), 403),
        ("/open", Some(OFFICE), 200),
    ] {
        for client in ["10.1.2.3", "203.0.113.9"] {
            assert_eq!(status(client, target, token), expected, "{target} from {client} by {token:?}");
        }
    }
    let preflight = |client: &str, target: &str| {
        let fields = [
            ("Origin", "https://shop.example"),
            ("Access-Control-Request-Method", "GET"),
            ("X-Forwarded-For", client),
        ];
        env.gateway.client().request("OPTIONS", target, &fields, b"").status
    };
    for (target, expected) in [("/open", 200), ("/open?debug", 200), ("/open?m[ore", 400)] {
        for client in ["10.1.2.3", "203.0.113.9"] {
            assert_eq!(preflight(client, target), expected, "{target} from {client}");
        }
    }
}

#[test]
fn candidate_map_is_evaluated_with_the_address_of_the_client() {
    let candidate = "\
routes:
  /api/v2/items:   {GET: items:read, from: [10.0.0.0/8]}
  /api/v2/reports: {GET: items:read}
";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), candidate).unwrap();
    let env = start(&format!("shadow: {}\n", file.path().display()));
    assert_eq!(env.get_from("10.1.2.3", ITEMS, READER).status, 200);
    assert_eq!(env.gateway.metrics().metric("shadow_total"), 0.0);
    assert_eq!(env.get_from("203.0.113.9", ITEMS, READER).status, 200);
    let line = env.gateway.wait_for_log(|line| line["shadow"] == "would_deny");
    let rule = line["shadow_rule"].as_str().unwrap();
    assert!(rule.starts_with("candidate ") && rule.ends_with(" from 10.0.0.0/8 (wrong_network)"), "{rule}");
    // Refused by the enforced map, and not by the candidate.
    assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 403);
    let line = env.gateway.wait_for_log(|line| line["shadow"] == "would_allow");
    assert_eq!((&line["reason"], &line["route"]), (&json!("wrong_network"), &json!(REPORTS)));
    // The token's networks apply to the candidate, too.
    assert_eq!(env.get_from("192.0.2.7", REPORTS, OFFICE).status, 403);
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 403);
    assert_eq!(env.gateway.metrics().metric("shadow_total"), 3.0);
}

#[test]
fn reload_applies_networks_to_the_next_request() {
    let env = start("cache: {ttl: 1h}\n");
    assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 403);
    env.gateway.edit("from: [10.0.0.0/8, 'fd00::/8']", "from: [203.0.113.0/24]");
    assert!(env.gateway.reload());
    assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 200);
    assert_eq!(env.get_from("10.1.2.3", REPORTS, READER).status, 403);
    // A verdict that was read with another pointer is not used.
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 403);
    env.gateway.edit("  response: {allowed_from: /data/allowed_from}", "  response: {}");
    assert!(env.gateway.reload());
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 200);
    env.gateway.edit("  response: {}", "  response: {allowed_from: /data/allowed_from}");
    assert!(env.gateway.reload());
    assert_eq!(env.get_from("203.0.113.9", ITEMS, OFFICE).status, 403);
    // A bad list keeps the configuration.
    env.gateway.edit("from: [203.0.113.0/24]", "from: [203.0.113.0/33]");
    assert!(!env.gateway.reload());
    assert_eq!(env.get_from("203.0.113.9", REPORTS, READER).status, 200);
}

#[test]
fn token_used_from_a_wrong_network_is_a_finding_and_counts_as_denied() {
    let yaml = format!("{OPERATED}usage:\n  path: usage.redb\n  findings: {{least_age: 0s}}\n");
    for mode in ["enforce", "shadow"] {
        let authentication = mode == "shadow";
        let env = start(&format!("{yaml}mode: {mode}\nshadow_authentication: {authentication}\n"));
        assert_eq!(env.get_from("10.1.2.3", ITEMS, OFFICE).status, 200);
        for target in [ITEMS, REPORTS, ITEMS] {
            let status = if mode == "shadow" { 200 } else { 403 };
            assert_eq!(env.get_from("203.0.113.9", target, OFFICE).status, status);
        }
        let response = env.gateway.admin_request(
            "GET",
            "/usage",
            &[("Authorization", "Bearer an-operators-token"), ("Accept", "application/json")],
            "",
        );
        let report = response.json();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["kind"] == "wrong_network").unwrap();
        assert_eq!((&finding["severity"], &finding["token"]), (&json!("medium"), &json!("2")));
        let evidence = finding["evidence"].as_str().unwrap();
        let expected = "3 requests from outside the networks of the token or of the route, the last on ";
        assert!(evidence.starts_with(expected), "{evidence}");
        assert!(findings.iter().all(|finding| finding["kind"] != "repeated_denials"), "{findings:?}");
        let token = &report["tokens"][0];
        let day = token["days"].as_object().unwrap().values().next().unwrap();
        assert_eq!(
            (&day["allowed"], &day["denied"], &day["wrong_network"]),
            (&json!(1), &json!(3), &json!(3))
        );
    }
}

#[test]
fn token_on_a_public_route_from_a_wrong_network_is_named_without_an_introspection() {
    let env = start(&format!("{OPERATED}usage:\n  path: usage.redb\n  findings: {{least_age: 0s}}\n"));
    assert_eq!(env.get_from("10.1.2.3", ITEMS, OFFICE).status, 200);
    assert_eq!(env.get_from("203.0.113.9", "/status", OFFICE).status, 403);
    assert_eq!(env.refused_line()["token_id"], "2");
    assert_eq!(env.introspector.calls(), 1);
}

#[test]
fn networks_of_tokens_are_listed() {
    let env = start(OPERATED);
    env.introspector.set_verdict("3|nowhere", office(json!([])).named(3, "nowhere"));
    let many = json!(["10.0.0.0/8", "::ffff:192.0.2.7", "fd00::1/8"]);
    env.introspector.set_verdict("4|many", office(many).named(4, "many"));
    for token in [READER, OFFICE, "3|nowhere", "4|many"] {
        env.status(ITEMS, token);
    }
    let listed = env.operator("GET", "/tokens", "").json();
    let networks: Vec<&Value> =
        listed["tokens"].as_array().unwrap().iter().map(|token| &token["allowed_from"]).collect();
    let expected = [
        json!(null),
        json!(["10.1.0.0/16", "192.0.2.7"]),
        json!([]),
        json!(["10.0.0.0/8", "192.0.2.7", "fd00::/8"]),
    ];
    assert_eq!(networks, expected.iter().collect::<Vec<_>>());
    let (code, stdout, _) = env.tokens_command(&["list"], "");
    assert_eq!(code, 0);
    for (line, text) in stdout.lines().skip(1).zip([
        "  anywhere  ",
        "  10.1.0.0/16,192.0.2.7  ",
        "  nowhere  ",
        "  10.0.0.0/8,192.0.2.7 and 1 more  ",
    ]) {
        assert!(line.contains(text), "{stdout}");
    }
}

#[test]
fn commands_show_and_check_networks() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let old = file("old.yaml", "routes: {/items: {GET: items:read}, /status: {GET: public, from: [::1]}}\n");
    let route = "/items: {GET: items:read, from: [10.1.2.3/8, '::1']}";
    let new = file("new.yaml", &format!("routes: {{{route}, /status: {{GET: public, from: [::1]}}}}\n"));
    let run = |arguments: &[&str]| {
        let output = Command::new(BINARY).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, _) = run(&["routes", "--config", &new]);
    assert!(code == 0 && stdout.contains("items:read  from [10.0.0.0/8, ::1]\n"), "{stdout}");
    let (code, stdout, _) = run(&["diff", &old, &new]);
    assert_eq!((code, &*stdout), (1, "Options\n  /items: from anywhere -> [10.0.0.0/8, ::1]\n"));
    let (code, stdout, _) = run(&["diff", &new, &old, "--format", "json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &json["options"][0]["old"]["from"]), (1, &json!(["10.0.0.0/8", "::1"])));
    assert_eq!(json["options"][0]["new"]["from"], Value::Null);
    assert_eq!(run(&["diff", &new, &new]).0, 0);

    let explain = |more: &[&str]| {
        let common = ["explain", "GET", "/items", "--config", &new, "--abilities", "items:read"];
        run(&[&common[..], more].concat())
    };
    for (more, code, line) in [
        (&["--from", "10.1.2.3"][..], 0, "verdict      allowed (allowed)"),
        (&["--from", "::ffff:10.1.2.3"], 0, "from         10.0.0.0/8, ::1 (new.yaml:1)"),
        (&["--from", "203.0.113.9"], 1, "verdict      denied with 403 (wrong_network)"),
        (&[], 1, "advice       give the client's address with `--from`: an unknown address is refused"),
        (
            &["--from", "::1", "--allowed-from", "10.0.0.0/8,192.0.2.0/24"],
            1,
            "token from   10.0.0.0/8, 192.0.2.0/24",
        ),
        (
            &["--from", "::1", "--allowed-from", ""],
            1,
            "denied by    ::1 is outside the token's networks, an empty list",
        ),
    ] {
        let (exit, stdout, stderr) = explain(more);
        let has_line = stdout
            .lines()
            .any(|it| it.replace(&directory.path().display().to_string(), "").replace("(/", "(") == line);
        assert!(exit == code && has_line, "{more:?}: {line}\n{stdout}{stderr}");
    }
    for (more, error) in [
        (&["--from", "office"][..], "not an address"),
        (&["--from", "10.0.0.0/8"], "not an address"),
        (&["--allowed-from", "010.0.0.0/8"], "not a network"),
    ] {
        let (exit, _, stderr) = explain(more);
        assert!(exit == 2 && stderr.contains(error), "{more:?}: {stderr}");
    }
}

#[test]
fn explain_introspects_the_networks_of_a_token() {
    let introspector = Introspector::start();
    introspector.set_verdict(OFFICE, office(json!(["10.0.0.0/8"])));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let pointer = "  response: {allowed_from: /data/allowed_from}\n";
    let map = "abilities: {routes: {/items: {GET: items:read}}}\n";
    fs::write(&file, format!("{}{pointer}{map}", introspector.yaml())).unwrap();
    for (client, code, line) in [
        ("10.1.2.3", 0, "verdict      allowed (allowed)"),
        ("203.0.113.9", 1, "denied by    203.0.113.9 is outside the token's networks 10.0.0.0/8"),
    ] {
        let input = tempfile::NamedTempFile::new().unwrap();
        fs::write(input.path(), OFFICE).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["explain", "GET", "/items", "--token-stdin", "--from", client, "--config"]).arg(&file);
        let output = command.stdin(fs::File::open(input.path()).unwrap()).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stdout}");
        assert!(stdout.lines().any(|it| it == line), "{line}\n{stdout}");
    }
}
