//! `deprecated` of a route: the fields of its responses, and the findings about tokens that call it.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::http2::Http2Client;
use crate::support::http2_upstream::{Http2Upstream, Reply};
use crate::support::{Answer, BINARY, OPERATED, RawClient, Response, TestEnv};

const MAP: &str = "\
listen:
  h2c: true
abilities:
  routes:
    /old:
      GET: items:read
      POST: items:create
      deprecated: {since: 2026-01-01, sunset: 2026-12-31, link: 'https://docs.example/v2'}
    /older: {GET: public, deprecated: {sunset: 2020-12-31}}
    /new: {GET: items:read}
";

const DEPRECATION: &str = "deprecation: @1767225600";
const SUNSET: &str = "sunset: Thu, 31 Dec 2026 00:00:00 GMT";
const LINK: &str = "link: <https://docs.example/v2>; rel=\"deprecation\"";

fn start(yaml: &str) -> TestEnv {
    TestEnv::builder().yaml(&format!("{MAP}{yaml}")).token("2|reader", &["items:read"]).start()
}

/// The lines of a response that announce something, in their order.
fn announced(response: &Response) -> Vec<String> {
    let names = ["deprecation", "sunset", "link", "access-control-expose-headers", "vary"];
    let lines = response.fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let lines = lines.filter(|(name, _)| names.contains(&&**name));
    lines.map(|(name, value)| format!("{name}: {value}")).collect()
}

#[test]
fn responses_of_a_deprecated_route_announce_its_end() {
    let env = start("");
    let mut http2 = Http2Client::connect(env.gateway.address());
    for (target, expected) in [
        ("/old", &[DEPRECATION, SUNSET, LINK][..]),
        ("/older", &["sunset: Thu, 31 Dec 2020 00:00:00 GMT"]),
        ("/new", &[]),
    ] {
        assert_eq!(announced(&env.gateway.get(target, Some("2|reader"))), expected, "{target}");
        assert_eq!(announced(&http2.get(target, Some("2|reader"))), expected, "{target} over HTTP/2");
    }
    // Whatever the backend answers.
    env.backend.answer(|_| Answer::message(404, "Not Found."));
    assert_eq!(announced(&env.gateway.get("/old", Some("2|reader"))), [DEPRECATION, SUNSET, LINK]);
}

#[test]
fn fields_that_the_backend_announces_take_precedence() {
    let env = start("");
    env.backend.answer(|_| {
        let fields = [("Deprecation", "@1"), ("Link", "</a?page=2>; rel=\"next\"")];
        Answer::with(200, &fields, "")
    });
    let mut lines = announced(&env.gateway.get("/old", Some("2|reader")));
    lines.sort();
    assert_eq!(lines, ["deprecation: @1", "link: </a?page=2>; rel=\"next\"", LINK, SUNSET]);
    assert_eq!(announced(&env.gateway.get("/new", Some("2|reader"))).len(), 2, "as the backend sends them");
}

#[test]
fn refusals_and_preflights_announce_nothing() {
    let env = start("");
    let mut http2 = Http2Client::connect(env.gateway.address());
    let preflight = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "GET")];
    assert_eq!(announced(&env.gateway.client().request("OPTIONS", "/old", &preflight, b"")), [""; 0]);
    for (method, token, status) in [
        ("GET", None, 401),
        ("GET", Some("9|unknown"), 401),
        ("POST", Some("2|reader"), 403),
        ("DELETE", Some("2|reader"), 403),
    ] {
        let authorization = token.map(|token| format!("Bearer {token}")).unwrap_or_default();
        let fields = [("authorization", &*authorization)];
        let fields = if token.is_some() { &fields[..] } else { &[] };
        let one = env.gateway.client().request(method, "/old", fields, b"");
        let other = http2.request(method, "/old", fields, b"").answer();
        for response in [one, other] {
            assert_eq!((response.status, announced(&response)), (status, vec![]), "{method} {token:?}");
        }
    }
    env.backend.answer(|_| Answer::raw("HTTP/1.1 malformed\r\n\r\n"));
    let response = env.gateway.get("/old", Some("2|reader"));
    assert_eq!((response.status, announced(&response)), (502, vec![]));
}

#[test]
fn scripts_of_allowed_origins_may_read_what_is_announced() {
    let env = start("cors: {origins: [https://shop.example]}\n");
    env.backend.answer(|_| Answer::with(200, &[("Access-Control-Expose-Headers", "X-Total")], ""));
    let get = |target: &str, origin: &str| {
        let fields = [("Authorization", "Bearer 2|reader"), ("Origin", origin)];
        announced(&env.gateway.client().request("GET", target, &fields, b""))
    };
    let exposed = "access-control-expose-headers: X-Total";
    let names = "access-control-expose-headers: Deprecation, Sunset, Link";
    let mut lines = get("/old", "https://shop.example");
    lines.sort();
    assert_eq!(lines, [names, exposed, DEPRECATION, LINK, SUNSET, "vary: Origin"]);
    let mut lines = get("/old", "https://other.example");
    lines.sort();
    assert_eq!(lines, [exposed, DEPRECATION, LINK, SUNSET, "vary: Origin"]);
    assert_eq!(get("/new", "https://shop.example"), [exposed]);
}

/// A cache could otherwise give the response of one origin to scripts of another.
#[test]
fn responses_vary_once_with_origins_that_expose_the_fields_differently() {
    const NAMES: &str = "Sunset";
    for (origins, origin, backend, exposed, vary) in [
        ("[https://shop.example]", Some("https://shop.example"), &[][..], true, &["Origin"][..]),
        ("[https://shop.example]", Some("https://other.example"), &[], false, &["Origin"]),
        ("[https://shop.example]", Some("null"), &[], false, &["Origin"]),
        ("[https://shop.example]", None, &[], false, &["Origin"]),
        ("[https://shop.example]", None, &["Accept"], false, &["Accept", "Origin"]),
        ("[https://shop.example]", None, &["Original"], false, &["Original", "Origin"]),
        ("[https://shop.example]", Some("https://shop.example"), &["Origin"], true, &["Origin"]),
        (
            "[https://shop.example]",
            Some("https://other.example"),
            &["Accept, ORIGIN"],
            false,
            &["Accept, ORIGIN"],
        ),
        ("[https://shop.example]", None, &["Accept", "origin"], false, &["Accept", "origin"]),
        ("[https://shop.example]", None, &["*"], false, &["*"]),
        // The same for every origin, and without one.
        ("['*']", Some("https://shop.example"), &[], true, &[]),
        ("['*']", None, &[], true, &[]),
        ("[]", Some("https://shop.example"), &[], false, &[]),
    ] {
        let env = start(&format!("cors: {{origins: {origins}}}\n"));
        let fields: Vec<(&str, &str)> = backend.iter().map(|value| ("Vary", *value)).collect();
        env.backend.answer(move |_| Answer::with(200, &fields, ""));
        let origin: Vec<(&str, &str)> = origin.iter().map(|origin| ("origin", *origin)).collect();
        let mut http2 = Http2Client::connect(env.gateway.address());
        for response in [
            env.gateway.client().request("GET", "/older", &origin, b""),
            http2.request("GET", "/older", &origin, b"").answer(),
        ] {
            let values = |name: &str| {
                let lines = response.fields.0.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
                lines.map(|(_, value)| value.clone()).collect::<Vec<String>>()
            };
            assert_eq!(values("vary"), vary, "{origins} {origin:?} {backend:?}");
            let names: &[&str] = if exposed { &[NAMES] } else { &[] };
            assert_eq!(values("access-control-expose-headers"), names, "{origins} {origin:?}");
        }
    }
}

#[test]
fn http2_backend_and_reload_are_announced_alike() {
    let backend = Http2Upstream::start();
    backend.answer(|_| Reply::new(200, "").field("link", "</2>; rel=next"));
    let env = TestEnv::builder().backend(backend).yaml(MAP).token("2|reader", &["items:read"]).start();
    let mut lines = announced(&env.gateway.get("/old", Some("2|reader")));
    lines.sort();
    assert_eq!(lines, [DEPRECATION, "link: </2>; rel=next", LINK, SUNSET]);
    env.gateway.edit("sunset: 2026-12-31", "sunset: 2027-12-31");
    assert!(env.gateway.reload());
    let lines = announced(&env.gateway.get("/old", Some("2|reader")));
    assert!(lines.contains(&"sunset: Fri, 31 Dec 2027 00:00:00 GMT".to_owned()), "{lines:?}");
}

#[test]
fn ledger_finds_tokens_that_call_deprecated_routes() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("usage.redb");
    let usage = format!(
        "{OPERATED}usage: {{path: {}, flush_interval: 100ms, findings: {{least_age: 0s, naming: false}}}}\n",
        ledger.display()
    );
    let env = start(&usage);
    for target in ["/old", "/old", "/new", "/older"] {
        assert_eq!(env.gateway.get(target, Some("2|reader")).status, 200);
    }
    let operator = [("Authorization", "Bearer an-operators-token"), ("Accept", "application/json")];
    let answer = RawClient::connect(env.gateway.admin()).request("GET", "/usage", &operator, b"");
    let report: Value = answer.json();
    let found = |report: &Value| {
        let findings = report["findings"].as_array().unwrap().iter();
        let found: Vec<Value> = findings.filter(|it| it["kind"] == "deprecated_route").cloned().collect();
        assert_eq!(found.len(), 1, "{report}");
        found[0].clone()
    };
    let finding = found(&report);
    assert!(finding["evidence"].as_str().unwrap().starts_with("2 requests of GET /old, the last on "));
    let advice = finding["advice"].as_str().unwrap();
    assert!(
        advice.contains("/old ends on 2026-12-31 (https://docs.example/v2)") || advice.contains("/old may")
    );
    let page = [("Authorization", "Bearer an-operators-token"), ("Accept", "text/html")];
    let page = RawClient::connect(env.gateway.admin()).request("GET", "/usage", &page, b"");
    assert!(page.text().contains("Calls deprecated routes"));
    // The command reads the same ledger without the gateway.
    let config = env.gateway.directory().join("gateway.yaml");
    let copy = directory.path().join("gateway.yaml");
    fs::copy(config, &copy).unwrap();
    drop(env);
    let output =
        Command::new(BINARY).args(["usage", "--format", "json", "--config"]).arg(&copy).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = found(&serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!(again, finding);
}
