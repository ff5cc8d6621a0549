//! Shadow mode: what is forwarded all the same, what is told of it, and that a candidate map changes no answer.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::env::TestEnvBuilder;
use crate::support::{Answer, BINARY, Builder, RawClient, Response, TestEnv, Verdict};

const READER: &str = "1|reader";
const CREATOR: &str = "2|creator";
const USER: &str = "3|user";
const EXPIRED: &str = "4|expired";
const UNKNOWN: &str = "9|unknown";

/// A gateway whose introspector knows the tokens above.
fn start(yaml: &str) -> TestEnv {
    builder().yaml(yaml).start()
}

/// The same with a candidate map.
fn start_with(yaml: &str, candidate: &str) -> TestEnv {
    builder().yaml(yaml).configure(|gateway| with_candidate(gateway, candidate)).start()
}

fn with_candidate(gateway: Builder, candidate: &str) -> Builder {
    gateway.file("candidate.yaml", candidate).yaml("shadow: candidate.yaml\n")
}

fn builder() -> TestEnvBuilder {
    let expired = Verdict::active(&["*"]).expiring("2001-01-01T00:00:00Z");
    TestEnv::builder()
        .verdict(READER, Verdict::active(&["items:read"]).named(1, "reader-prod"))
        .verdict(CREATOR, Verdict::active(&["items:create"]).named(2, "creator-prod"))
        .verdict(USER, Verdict::active(&["*"]).named(3, "user"))
        .verdict(EXPIRED, expired)
}

impl TestEnv {
    fn candidate(&self) -> PathBuf {
        self.gateway.directory().join("candidate.yaml")
    }

    /// What is counted of shadow mode: all of it, or what has these labels.
    fn shadow_total(&self, labels: &str) -> f64 {
        self.gateway.metrics().metric(&format!("shadow_total{labels}"))
    }

    /// The last access line that tells of shadow mode, once there are `count` of them.
    fn shadow_line(&self, count: usize) -> Value {
        let told = |line: &Value| line["message"] == "request" && line.get("shadow").is_some();
        let all = || -> Vec<Value> {
            let lines = self.gateway.logs();
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(told).collect()
        };
        for _ in 0..1000 {
            if all().len() >= count {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let lines = all();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines[count - 1].clone()
    }
}

fn send(client: &mut RawClient, method: &str, target: &str, token: Option<&str>) -> Response {
    let authorization = token.map(|token| ("Authorization", format!("Bearer {token}")));
    let fields: Vec<_> = authorization.iter().map(|(name, value)| (*name, &**value)).collect();
    client.request(method, target, &fields, b"")
}

/// A map of every kind of rule.
const MAP: &str = "\
abilities:
  routes:
    /up:     {GET: public}
    /items:  {GET: items:read, POST: items:create}
    /closed: {GET: deny}
    /me:     {GET: authenticated}
    /strict: {GET: items:read, mode: enforce}
    /tried:  {GET: items:read, mode: shadow}
";

#[test]
fn shadow_mode_forwards_logs_and_counts_denied_requests() {
    // In the global mode, or the route's; which status, and counted under which route where it would be refused.
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
    assert_eq!(env.introspector.calls(), 1, "one verdict for all");
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

/// Requests without a good token, with what they are answered where tokens are asked for.
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
            // What is enforced spends no introspection on what nobody may, and so cannot tell.
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
        // And who has a good one goes on as ever.
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

/// A verdict that denies is asked for once more. Where nobody answers it is 503, for the 403 might be wrong by now; in
/// shadow mode there is no 403.
#[test]
fn shadow_mode_forwards_a_denied_token_if_its_renewed_introspection_fails() {
    for (mode, expected) in [("enforce", 503), ("shadow", 200)] {
        let env = start(&format!("mode: {mode}\ncache: {{ttl: 1h, negative_ttl: 50ms}}\n{MAP}"));
        let mut client = env.gateway.client();
        assert_eq!(send(&mut client, "GET", "/items", Some(READER)).status, 200);
        env.introspector.fail_with(Answer::message(500, "Server Error"));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(send(&mut client, "POST", "/items", Some(READER)).status, expected, "{mode}");
        assert_eq!(env.introspector.calls(), 2, "it was asked for");
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
    env.introspector.know(CREATOR, Verdict::active(&["kiosk:scan"]));
    thread::sleep(Duration::from_millis(100));
    env.backend.forget_requests();
    assert_eq!(send(&mut client, "GET", "/items", Some(CREATOR)).status, 200);
    assert_eq!(env.backend.only_request().field("x-token-abilities"), Some("kiosk:scan"));
    env.introspector.forget(CREATOR);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(send(&mut client, "GET", "/items", Some(CREATOR)).status, 401, "revoked meanwhile");
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
    assert_eq!(client.request("OPTIONS", "/items", &[ORIGIN], b"").status, 401, "no preflight");
}

/// What of each rule the candidate makes.
const CANDIDATE: &str = "\
routes:
  /up:       {GET: items:read}
  /items:    {GET: items:create, POST: public, PUT: items:read}
  /closed:   {GET: authenticated, mode: shadow}
  /me:       {GET: deny}
  /strict:   {GET: items:read}
  /new/{id}: {GET: items:read}
  /open:     {GET: public}
";

#[test]
fn candidate_map_is_logged_and_changes_no_response() {
    let env = builder().yaml(MAP).configure(|gateway| with_candidate(gateway.one_core(), CANDIDATE)).start();
    let mut client = env.gateway.client();
    let (deny, allow) = (Some("would_deny"), Some("would_allow"));
    for (method, target, token, status, change, route) in [
        // Nothing is known of the token yet, and it is not asked for: the enforced route is public.
        ("GET", "/up", Some(READER), 200, None, ""),
        ("GET", "/up", Some(CREATOR), 200, None, ""),
        ("GET", "/up", None, 200, deny, "/up"),
        ("GET", "/items", Some(READER), 200, deny, "/items"),
        ("GET", "/items", Some(USER), 200, None, ""),
        ("GET", "/items", Some(CREATOR), 403, allow, "/items"),
        ("GET", "/items", Some(UNKNOWN), 401, None, ""),
        ("GET", "/items", None, 401, None, ""),
        ("POST", "/items", None, 401, allow, "/items"),
        ("POST", "/items", Some(UNKNOWN), 401, allow, "/items"),
        ("POST", "/items", Some(EXPIRED), 401, allow, "/items"),
        ("POST", "/items", Some(READER), 403, allow, "/items"),
        ("POST", "/items", Some(CREATOR), 200, None, ""),
        ("PUT", "/items", Some(READER), 403, allow, "/items"),
        ("PUT", "/items", Some(CREATOR), 403, None, ""),
        ("PUT", "/items", Some(UNKNOWN), 403, None, ""),
        ("PUT", "/items", None, 401, None, ""),
        ("GET", "/closed", Some(READER), 403, allow, "/closed"),
        ("GET", "/closed", Some("8|nobody"), 403, None, ""),
        ("GET", "/me", Some(READER), 200, deny, "/me"),
        ("GET", "/strict", Some(READER), 200, None, ""),
        ("GET", "/strict", Some(CREATOR), 403, None, ""),
        ("GET", "/new/5", Some(READER), 403, allow, "/new/{id}"),
        ("GET", "/new/5", Some(CREATOR), 403, None, ""),
        ("GET", "/open", Some(UNKNOWN), 403, allow, "/open"),
        ("GET", "/open", None, 401, allow, "/open"),
        ("GET", "/nowhere", Some(READER), 403, None, ""),
        // `/tried` forwards what it would refuse, and the candidate has no such route.
        ("GET", "/tried", Some(READER), 200, deny, "/tried"),
        // Known by now.
        ("GET", "/up", Some(READER), 200, None, ""),
        ("GET", "/up", Some(CREATOR), 200, deny, "/up"),
        ("GET", "/up", Some(UNKNOWN), 200, deny, "/up"),
        ("GET", "/up", Some("a,b"), 200, deny, "/up"),
    ] {
        let context = format!("{method} {target} by {token:?}");
        let change_word = change.unwrap_or("none");
        let labels =
            format!("{{change=\"{change_word}\",map=\"candidate\",method=\"{method}\",route=\"{route}\"}}");
        let (before, all) = (env.shadow_total(&labels), env.shadow_total(""));
        let calls = env.introspector.calls();
        assert_eq!(send(&mut client, method, target, token).status, status, "{context}");
        if status == 200 && target == "/up" {
            assert_eq!(env.introspector.calls(), calls, "{context}: a public request asks nobody");
        }
        let arrived = env.backend.take_requests();
        assert_eq!(arrived.len(), usize::from(status == 200), "{context}");
        let counted = f64::from(u8::from(change.is_some()));
        assert_eq!(env.shadow_total(""), all + counted, "{context}");
        assert_eq!(env.shadow_total(&labels), before + counted, "{context}");
    }
    let metrics = env.gateway.metrics();
    assert_eq!(metrics.metric("shadow_mode"), 1.0, "/tried");
    assert_eq!(metrics.metric("shadow_total{map=\"enforced\"}"), 0.0);
}

/// The shipped map, with one ability misspelled in one rule.
fn misspelled() -> String {
    let map = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/stockaj.yaml")).unwrap();
    let wrong = map.replacen("POST: items:create", "POST: items:craete", 1);
    assert_ne!(map, wrong);
    wrong
}

/// What a client sees of an answer, but for what is another in every answer.
fn seen(response: &Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut fields = response.fields.0.clone();
    fields.retain(|(name, _)| !["date", "x-request-id"].contains(&&*name.to_lowercase()));
    (response.status, fields, response.body.clone())
}

#[test]
fn candidate_map_names_the_tokens_it_would_deny() {
    let alone = builder().configure(Builder::shipped_map).start();
    let beside = builder().configure(|gateway| with_candidate(gateway.shipped_map(), &misspelled())).start();
    let all = ["items:read", "items:create", "rents:read", "kiosk:scan"];
    for env in [&alone, &beside] {
        for (number, abilities) in
            [&all[..], &all[..1], &["items:read", "items:create"], &[]].iter().enumerate()
        {
            let name = format!("integration-{number}");
            let token = format!("{number}|secret");
            env.introspector.know(&token, Verdict::active(abilities).named(number, &name));
        }
        env.backend.answer(|_| Answer::json(200, &serde_json::json!({"data": []})));
    }
    let tokens: Vec<String> = (0..4).map(|number| format!("{number}|secret")).collect();
    let tokens = tokens.iter().map(|it| Some(&**it)).chain([None, Some(UNKNOWN), Some(USER), Some("a,b")]);
    let (mut one, mut other) = (alone.gateway.client(), beside.gateway.client());
    for token in tokens {
        for target in
            ["/api/v2/items", "/api/v2/items/5", "/api/v2/rents", "/api/v2/kiosk/scan", "/nowhere", "/"]
        {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
                let context = format!("{method} {target} by {token:?}");
                let answers = [&mut one, &mut other].map(|client| {
                    let field = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
                    let field = field.unwrap_or_default();
                    client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
                    seen(&client.try_response(method == "HEAD").unwrap())
                });
                assert_eq!(answers[0], answers[1], "{context}");
                let arrived = [&alone, &beside].map(|env| {
                    let requests = env.backend.take_requests();
                    requests.into_iter().map(|it| (it.method, it.target)).collect::<Vec<_>>()
                });
                assert_eq!(arrived[0], arrived[1], "{context}");
            }
        }
    }
    assert_eq!(alone.introspector.calls(), beside.introspector.calls());
    assert_eq!(beside.shadow_total(""), 2.0, "the user's `*` has any ability, however it is spelled");
    let labels = "{change=\"would_deny\",map=\"candidate\",method=\"POST\",route=\"/api/v2/items\"}";
    assert_eq!(beside.shadow_total(labels), 2.0);
    beside.shadow_line(2);
    for name in ["integration-0", "integration-2"] {
        let line =
            beside.gateway.wait_for_log(|line| line["token_name"] == name && line.get("shadow").is_some());
        let rule = line["shadow_rule"].as_str().unwrap();
        assert!(rule.starts_with("candidate ") && rule.contains("candidate.yaml:"), "{line}");
        assert!(rule.ends_with("items:craete (missing_ability)"), "{line}");
    }
    // And the mistake is told before that.
    beside.gateway.wait_for_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.contains("candidate.yaml:") && it.contains("items:craete"))
    });
}

#[test]
fn changed_candidate_map_is_reloaded_and_an_invalid_one_rejected() {
    let env = start_with(MAP, "routes: {/items: {GET: items:read}}\n");
    let mut client = env.gateway.client();
    let denied = "{change=\"would_deny\"}";
    let mut get = || assert_eq!(send(&mut client, "GET", "/items", Some(READER)).status, 200);
    get();
    assert_eq!(env.shadow_total(denied), 0.0);
    std::fs::write(env.candidate(), "routes: {/items: {GTE: items:read}}\n").unwrap();
    assert!(!env.gateway.reload());
    env.gateway.wait_for_log(|line| {
        line["level"] == "ERROR" && line["message"].as_str().is_some_and(|it| it.contains("GTE"))
    });
    get();
    assert_eq!(env.shadow_total(denied), 0.0, "by the one before");
    assert_eq!(env.gateway.metrics().metric("config_reload_success"), 0.0);
    let reloads = env.gateway.reloads().len();
    std::fs::write(env.candidate(), "routes: {/items: {GET: items:create}}\n").unwrap();
    assert!(env.gateway.wait_for_reload(reloads), "it is watched");
    get();
    assert_eq!(env.shadow_total(denied), 1.0);
    env.gateway.edit("shadow: ", "# ");
    assert!(env.gateway.reload());
    get();
    assert_eq!(env.shadow_total(denied), 1.0, "without a candidate nothing is told");
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

/// They read only the map, and its mode, whatever else is wrong or not set.
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
