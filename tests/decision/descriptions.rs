//! Descriptions that are incomplete, ambiguous or not canonical.

use super::{DECISION, ITEMS, PATH_PREFIX, READER, in_every_style, start};
use crate::log_floods::assert_throttled;
use crate::support::decision::{CHECK, Style, call, called, over_http};
use crate::support::http2::Http2Client;
use crate::support::{RawClient, Response, TestEnv};

const TOKEN: (&str, &str) = ("Authorization", "Bearer 2|reader");
const FORWARDED: [(&str, &str); 4] = [
    ("X-Forwarded-Method", "GET"),
    ("X-Forwarded-Uri", ITEMS),
    ("X-Forwarded-Host", "stockaj.example"),
    ("X-Forwarded-Proto", "https"),
];
const ORIGINAL: [(&str, &str); 2] = [("X-Original-Method", "GET"), ("X-Original-URI", ITEMS)];
const BAD: &str = r#"{"message":"Bad Request."}"#;

impl TestEnv {
    fn ask(&self, fields: &[(&str, &str)]) -> Response {
        RawClient::connect(self.decision()).request("GET", "/auth", &[fields, &[TOKEN]].concat(), b"")
    }

    /// The reason in the last warning about a description.
    fn last_warning(&self) -> Option<String> {
        let lines = self.gateway.logs().into_iter().rev();
        let mut lines = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
        let warning = "request for a decision rejected: its description is incomplete or ambiguous";
        lines.find(|line| line["message"] == warning).map(|line| line["why"].as_str().unwrap().to_owned())
    }

    fn assert_incomplete(&self, fields: &[(&str, &str)], why: &str) {
        let response = self.ask(fields);
        assert_eq!((response.status, response.text()), (400, BAD), "{fields:?}");
        self.gateway.wait_for_log(|line| line["why"] == why && line["peer"] == "127.0.0.1");
        assert_eq!(self.last_warning().as_deref(), Some(why), "{fields:?}");
    }
}

#[test]
fn description_with_a_missing_or_repeated_field_is_400_and_names_it() {
    for set in [&FORWARDED[..], &ORIGINAL[..]] {
        // One gateway for each set, since warnings are throttled.
        let env = start(DECISION);
        assert_eq!(env.ask(set).status, 200);
        for (number, (name, value)) in set.iter().enumerate() {
            let mut without = set.to_vec();
            without.remove(number);
            env.assert_incomplete(&without, &format!("no {name}"));
            let twice = [set, &[(*name, *value)]].concat();
            env.assert_incomplete(&twice, &format!("several {name} fields"));
        }
    }
}

#[test]
fn description_that_mixes_two_sets_of_fields_is_400() {
    let env = start(DECISION);
    let mixed = "both X-Forwarded-Method or -Uri and X-Original-Method or -URI";
    env.assert_incomplete(&[FORWARDED[0], ORIGINAL[1]], mixed);
    env.assert_incomplete(&[&ORIGINAL[..], &[("x-forwarded-uri", "/up")]].concat(), mixed);
    env.assert_incomplete(&[&FORWARDED[..], &[("x-original-uri", "/up")]].concat(), mixed);
    let neither = "neither X-Forwarded-Method and X-Forwarded-Uri nor X-Original-Method and X-Original-URI";
    env.assert_incomplete(&[], neither);
    // nginx sets these for the backend, too.
    assert_eq!(env.ask(&[&ORIGINAL[..], &FORWARDED[2..]].concat()).status, 200);
    // A spelling with an underscore is another field.
    env.assert_incomplete(&[ORIGINAL[0], ("X_Original_URI", ITEMS)], "no X-Original-URI");
    assert!(env.backend.requests().is_empty());
}

#[test]
fn warnings_about_descriptions_are_throttled() {
    let env = start(DECISION);
    let text = "its description is incomplete or ambiguous";
    let incomplete = |count: usize| {
        let mut client = RawClient::connect(env.decision());
        (0..count).for_each(|_| assert_eq!(client.request("GET", "/auth", &[TOKEN], b"").status, 400));
    };
    assert_throttled(&env.gateway, text, 200, || incomplete(200), || incomplete(1));
}

#[test]
fn warnings_about_calls_are_throttled() {
    let env = start(DECISION);
    let text = "its description is incomplete or ambiguous";
    let malformed = |count: usize| {
        let mut client = Http2Client::connect(env.decision());
        (0..count).for_each(|_| assert_eq!(called(&call(&mut client, CHECK, b"")).code, Some(3)));
    };
    assert_throttled(&env.gateway, text, 200, || malformed(200), || malformed(1));
}

#[test]
fn warnings_about_untrusted_peers_are_throttled() {
    let env = start(&DECISION.replace("127.0.0.0/8", "127.0.0.2"));
    let refused = || assert_eq!(RawClient::connect(env.decision()).get("/auth", None).status, 403);
    let text = "the peer is not in decision.trusted_proxies";
    assert_throttled(&env.gateway, text, 200, || (0..200).for_each(|_| refused()), refused);
}

/// Host is a field of the description, too.
#[test]
fn missing_or_repeated_host_is_400_and_named() {
    for (settings, target) in [(DECISION, "/auth"), (PATH_PREFIX, "/decision/up")] {
        let env = start(settings);
        let fields = "X-Original-Method: GET\r\nX-Original-URI: /up\r\n";
        for (host, why) in [("", "no Host"), ("Host: a\r\nHost: a\r\n", "several Host fields")] {
            let mut client = RawClient::connect(env.decision());
            client.send(format!("GET {target} HTTP/1.1\r\n{host}{fields}\r\n"));
            let response = client.response();
            assert_eq!((response.status, response.text()), (400, BAD), "{why}");
            env.gateway.wait_for_log(|line| line["why"] == why && line["peer"] == "127.0.0.1");
        }
    }
}

#[test]
fn request_outside_the_path_prefix_is_400() {
    let env = start(PATH_PREFIX);
    let get = |target: &str| RawClient::connect(env.decision()).get(target, Some(READER)).status;
    assert_eq!(get("/decision/api/v2/items"), 200);
    for target in
        ["/api/v2/items", "/decision", "/decisions/api/v2/items", "http://stockaj.example/decision/up"]
    {
        assert_eq!(get(target), 400, "{target}");
    }
    env.gateway.wait_for_log(|line| line["why"] == "no path below decision.path_prefix");
    // The fields of the other style mean nothing here.
    let fields = [("x-forwarded-uri", "/up"), ("x-forwarded-method", "GET")];
    let response = RawClient::connect(env.decision()).request("GET", "/decision/api/v2/items", &fields, b"");
    assert_eq!(response.status, 401);
}

#[test]
fn path_that_is_not_canonical_is_400() {
    in_every_style("", |env, style| {
        let mut asker = env.asker(style);
        for target in [
            "/api/v2/items/",
            "/api/v2/%69tems",
            "/api/v2/items/%7ea",
            "/api/v2/items/%c3%a9",
            "/api//v2/items",
            "/api/v2/./items",
            "/api/v2/x/../items",
            "/api/v2/items%2F5",
            "/api/v2/items;x",
            "/index.php/api/v2/items",
        ] {
            let decision = asker.ask_with("GET", target, READER);
            assert_eq!((decision.status, &*decision.body), (400, BAD), "{style:?} {target}");
        }
        for target in ["/api/v2/items", "/api/v2/items/%C3%A9", "/api/v2/items?a=%2F/../b", "/api/v2/items?"]
        {
            let decision = asker.ask_with("GET", target, READER);
            assert!(decision.is_allowed(), "{style:?} {target}: {decision:?}");
            let path = target.split('?').next();
            assert_eq!(decision.field("x-canonical-path"), path, "{style:?}");
        }
    });
}

#[test]
fn ambiguous_requests_are_400_as_on_the_proxy_listener() {
    in_every_style("", |env, style| {
        let mut asker = env.asker(style);
        for (method, target) in
            [("TRACE", ITEMS), ("get", ITEMS), ("GET", "*"), ("GET", "http://stockaj.example/up")]
        {
            let decision = asker.ask_with(method, target, READER);
            assert!(!decision.is_allowed(), "{style:?} {method} {target}: {decision:?}");
        }
        let mut asker = env.asker(style);
        let twice = [("content-type", "a"), ("content-type", "b"), ("authorization", "Bearer 2|reader")];
        let decision = asker.ask("GET", ITEMS, &twice);
        // Envoy joins the lines in `headers`.
        assert_eq!(decision.status, if style == Style::Grpc { 200 } else { 400 }, "{style:?}");
        let two_tokens = [("authorization", "Bearer 2|reader"), ("authorization", "Bearer 1|writer")];
        assert_eq!(asker.ask("GET", ITEMS, &two_tokens).status, 401, "{style:?}");
        let public = asker.ask("GET", "/up", &two_tokens);
        assert!(matches!(public.status, 400) || style == Style::Grpc, "{style:?}: {public:?}");
    });
}

#[test]
fn described_head_is_answered_with_a_body() {
    let env = start(DECISION);
    let mut client = RawClient::connect(env.decision());
    let head = [("X-Original-Method", "HEAD"), ("X-Original-URI", ITEMS)];
    let response = client.request("GET", "/auth", &head, b"");
    assert_eq!((response.status, response.text()), (401, r#"{"message":"Unauthenticated."}"#));
    // A proxy may ask by HEAD.
    let response = client.request("HEAD", "/auth", &ORIGINAL, b"");
    assert_eq!((response.status, response.field("content-length")), (401, Some("30")));
    assert_eq!(client.request("GET", "/auth", &[&ORIGINAL[..], &[TOKEN]].concat(), b"").status, 200);
}

#[test]
fn body_of_a_proxys_request_is_not_read() {
    let env = start(DECISION);
    let mut client = RawClient::connect(env.decision());
    let fields = [&ORIGINAL[..], &[TOKEN]].concat();
    assert_eq!(client.request("POST", "/auth", &fields, b"a=b").status, 200);
    let expecting = [&fields[..], &[("Expect", "100-continue"), ("Content-Length", "3")]].concat();
    let response = RawClient::connect(env.decision()).request("POST", "/auth", &expecting, b"");
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
}

#[test]
fn http2_without_tls_is_accepted() {
    let env = start(DECISION);
    let mut client = Http2Client::connect(env.decision());
    let fields = [
        ("x-original-method", "POST"),
        ("x-original-uri", ITEMS),
        ("authorization", "Bearer 1|writer"),
        // Of the client. A call of gRPC always has status 200.
        ("content-type", "application/grpc"),
    ];
    let allowed = over_http(client.request("GET", "/auth", &fields, b"").answer());
    assert_eq!((allowed.status, allowed.field("x-http-method-override")), (200, Some("POST")));
    let denied = client.request("POST", "/auth", &[fields[0], fields[1], fields[3]], b"abc").answer();
    assert_eq!((denied.status, denied.text()), (401, r#"{"message":"Unauthenticated."}"#));
}
