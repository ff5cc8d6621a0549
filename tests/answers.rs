//! Every response that the gateway itself generates, byte by byte.

use crate::support::{Answer, RawClient, Response, TestEnv, Verdict};

const NO_TOKEN: &str = r#"Bearer realm="stockaj""#;
const INVALID: &str = r#"Bearer realm="stockaj", error="invalid_token""#;
const INSUFFICIENT: &str = r#"Bearer realm="stockaj", error="insufficient_scope""#;

const READER: (&str, &str) = ("Authorization", "Bearer 1|reader");

/// Asserts the fields that all of the gateway's own responses share, and this one's status, message and challenge.
fn assert_answer(response: &Response, status: u16, message: &str, challenge: Option<&str>, context: &str) {
    let body = format!(r#"{{"message":"{message}"}}"#);
    assert_eq!((response.status, response.text()), (status, &*body), "{context}");
    assert_common(response, challenge, context);
    assert_eq!(response.field("content-length"), Some(&*body.len().to_string()), "{context}");
}

fn assert_common(response: &Response, challenge: Option<&str>, context: &str) {
    assert_eq!(response.field("content-type"), Some("application/json"), "{context}");
    assert_eq!(response.field("cache-control"), Some("no-store"), "{context}");
    assert_eq!(response.field("www-authenticate"), challenge, "{context}");
    assert!(response.field("x-request-id").is_some_and(|id| !id.is_empty()), "{context}");
    assert_eq!(response.field("retry-after").is_some(), response.status == 503, "{context}");
}

fn start(yaml: &str) -> TestEnv {
    let past = Verdict::active(&["items:read"]).expiring("2001-01-01T00:00:00.000000Z");
    TestEnv::builder().token("1|reader", &["items:read"]).verdict("2|past", past).yaml(yaml).start()
}

#[test]
fn unauthenticated_request_is_401() {
    let env = start("");
    let long = format!("Bearer {}", "x".repeat(1025));
    let mut client = env.gateway.client();
    let mut count = 0.0;
    for (reason, challenge, fields) in [
        ("missing_token", NO_TOKEN, &[][..]),
        ("missing_token", NO_TOKEN, &[("Authorization", "Basic dXNlcjpwYXNz")]),
        ("malformed_token", INVALID, &[("Authorization", "Bearer")]),
        ("malformed_token", INVALID, &[("Authorization", "Bearer 1|reader more")]),
        ("malformed_token", INVALID, &[("Authorization", "Bearer 1|reader,")]),
        ("malformed_token", INVALID, &[("Authorization", "Bearer 1|réader")]),
        ("malformed_token", INVALID, &[("Authorization", &*long)]),
        ("malformed_token", INVALID, &[READER, READER]),
        ("malformed_token", INVALID, &[READER, ("Authorization", "Basic dXNlcjpwYXNz")]),
        ("inactive_token", INVALID, &[("Authorization", "Bearer 7|unknown")]),
        ("expired_token", INVALID, &[("Authorization", "Bearer 2|past")]),
    ] {
        for _ in 0..2 {
            let response = client.request("GET", "/api/v2/items", fields, b"");
            assert_answer(
                &response,
                401,
                "Unauthenticated.",
                Some(challenge),
                &format!("{reason}: {fields:?}"),
            );
            count += 1.0;
        }
        let seen =
            env.gateway.metrics().metric(&format!("requests_total{{reason=\"{reason}\",status=\"401\"}}"));
        assert!(seen >= 2.0, "{reason} was counted {seen} times");
    }
    for target in ["/api/v2/nowhere", "/api/v2/internal", "/"] {
        let response = client.get(target, None);
        assert_answer(&response, 401, "Unauthenticated.", Some(NO_TOKEN), target);
        count += 1.0;
    }
    env.gateway.wait_for_metric("requests_total{status=\"401\"}", count);
    assert_eq!(env.backend.requests().len(), 0);
}

#[test]
fn missing_ability_is_403() {
    let env = start("");
    let mut client = env.gateway.client();
    for (request, reason, scope) in [
        ("POST /api/v2/items", "missing_ability", Some("items:create")),
        ("DELETE /api/v2/items/5", "missing_ability", Some("items:delete")),
        ("POST /api/v2/exports", "missing_ability", Some("items:read rents:read")),
        ("GET /api/v2/internal", "denied", None),
        ("DELETE /api/v2/items", "method_not_mapped", None),
        ("OPTIONS /api/v2/items", "method_not_mapped", None),
        ("GET /api/v2/nowhere", "unmapped", None),
        ("GET /api/v2/reports", "unmapped", None),
        ("GET /", "unmapped", None),
    ] {
        let (method, target) = request.split_once(' ').unwrap();
        let challenge = match scope {
            Some(scope) => format!("{INSUFFICIENT}, scope=\"{scope}\""),
            None => INSUFFICIENT.to_owned(),
        };
        let before = env.gateway.metrics().metric(&format!("requests_total{{reason=\"{reason}\"}}"));
        let response = client.request(method, target, &[READER], b"");
        assert_answer(&response, 403, "This action is unauthorized.", Some(&challenge), request);
        env.gateway.wait_for_metric(&format!("requests_total{{reason=\"{reason}\"}}"), before + 1.0);
    }
    assert_eq!(env.backend.requests().len(), 0);
}

#[test]
fn ambiguous_requests_are_400() {
    let env = start("");
    for request in [
        "GET /api/v2/items HTTP/1.1\r\nAuthorization: Bearer 1|reader\r\n\r\n",
        "GET /api/v2/items HTTP/1.1\r\nHost: a\r\nHost: b\r\nAuthorization: Bearer 1|reader\r\n\r\n",
        "GET /index.php/api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n",
        "GET /%69ndex.phpapi/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n",
        "BREW /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n",
        "get /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n",
        "GET /up HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    ] {
        let response = env.gateway.client().send(request).response();
        assert_answer(&response, 400, "Bad Request.", None, request);
    }
    assert_eq!(env.backend.requests().len(), 0);
    assert_eq!(env.introspector.calls(), 0);
    env.gateway.wait_for_metric("requests_total{reason=\"bad_request\",status=\"400\"}", 7.0);
}

#[test]
fn body_over_its_limit_is_413_and_target_414() {
    let env = start("limits: {body: 10, target_bytes: 100}");
    let mut client = env.gateway.client();
    env.introspector.set_verdict("3|writer", Verdict::active(&["*"]));
    let writer = ("Authorization", "Bearer 3|writer");
    let inclusive = client.request("POST", "/api/v2/items", &[writer], b"0123456789");
    assert_eq!(inclusive.status, 200, "{}", inclusive.text());
    let response = env.gateway.client().request("POST", "/api/v2/items", &[writer], b"0123456789a");
    assert_answer(&response, 413, "Payload Too Large.", None, "Content-Length");
    let head = "POST /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 3|writer\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut chunked = env.gateway.client();
    let response = chunked.send(head).send("b\r\n0123456789a\r\n0\r\n\r\n").response();
    assert_answer(&response, 413, "Payload Too Large.", None, "chunked");
    let target = format!("/api/v2/items?{}", "x".repeat(100));
    let response = env.gateway.get(&target, Some("1|reader"));
    assert_answer(&response, 414, "URI Too Long.", None, "target");
    let complete = env.backend.requests().iter().filter(|request| request.complete).count();
    assert_eq!(complete, 1, "the backend received only the request within the limits");
}

#[test]
fn failed_backend_is_502_or_504() {
    let mut env = start("backend:\n  timeout: 200ms\n");
    let garbage = || Answer::raw("nothing that HTTP would say\r\n\r\n").then_close();
    for (status, message, reason, answer) in [
        (502, "Bad Gateway.", "backend_broken", Answer::close()),
        (502, "Bad Gateway.", "backend_broken", garbage()),
        (502, "Bad Gateway.", "backend_broken", Answer::raw("HTTP/1.1 200 OK\r\nX: y").then_close()),
        (504, "Gateway Timeout.", "backend_timeout", Answer::hang()),
    ] {
        let context = format!("{answer:?}");
        let before = env.gateway.metrics().metric(&format!("requests_total{{reason=\"{reason}\"}}"));
        env.backend.answer(move |_| answer.clone());
        assert_answer(&env.gateway.get("/api/v2/items", Some("1|reader")), status, message, None, &context);
        env.gateway.wait_for_metric(&format!("requests_total{{reason=\"{reason}\"}}"), before + 1.0);
    }
    env.backend.stop();
    let refused = env.gateway.get("/api/v2/items", Some("1|reader"));
    assert_answer(&refused, 502, "Bad Gateway.", None, "refused");
    env.gateway.wait_for_metric("requests_total{reason=\"backend_unreachable\",status=\"502\"}", 1.0);
    env.backend.answer(crate::support::echo);
    env.backend.resume();
    assert_eq!(
        env.gateway.get("/api/v2/items", Some("1|reader")).status,
        200,
        "the gateway recovers without a restart"
    );
}

#[test]
fn failed_introspection_is_503_and_never_401() {
    let mut env = start("introspection:\n  timeout: 200ms\n");
    let json = |status, body: &str| Answer::with(status, &[("Content-Type", "application/json")], body);
    let active = r#"{"data":{"id":1,"name":"n","abilities":["*"],"expires_at":null}}"#;
    let mut number = 0;
    for outage in [
        json(500, r#"{"message":"Server Error"}"#),
        json(403, "{}"),
        json(429, "{}"),
        json(201, active),
        Answer::with(302, &[("Location", "/login")], ""),
        Answer::close(),
        Answer::hang(),
        Answer::raw("garbage\r\n\r\n").then_close(),
        json(200, "garbage"),
        json(200, r#"{"data":{"id":1}}"#),
        json(200, r#"{"data":{"id":1,"abilities":{"0":["*"]}}}"#),
        json(200, r#"{"data":{"id":1,"abilities":["*",1]}}"#),
        json(200, r#"{"data":{"id":1,"abilities":["*"],"expires_at":"soon"}}"#),
        json(200, &format!("{}{}", " ".repeat(2 * 1024 * 1024), active)),
    ] {
        let context = format!("{outage:?}").chars().take(200).collect::<String>();
        env.introspector.fail_with(outage);
        number += 1;
        let response = env.gateway.get("/api/v2/items", Some(&format!("{number}|token")));
        assert_answer(&response, 503, "Service Unavailable.", None, &context);
    }
    env.introspector.stop();
    let response = env.gateway.get("/api/v2/items", Some("1|reader"));
    assert_answer(&response, 503, "Service Unavailable.", None, "refused");
    env.gateway
        .wait_for_metric("requests_total{reason=\"no_verdict\",status=\"503\"}", f64::from(number) + 1.0);
    assert_eq!(env.gateway.get("/up", None).status, 200, "public routes are not introspected");
    env.introspector.resume();
    env.introspector.recover();
    assert_eq!(
        env.gateway.get("/api/v2/items", Some("1|reader")).status,
        200,
        "the gateway recovers without a restart"
    );
}

#[test]
fn null_abilities_permit_nothing() {
    let env = start("");
    let body = r#"{"data":{"id":4,"name":"n","abilities":null,"expires_at":null}}"#;
    env.introspector.set_verdict("4|none", Verdict::Answer(Answer::with(200, &[], body)));
    let response = env.gateway.get("/api/v2/items", Some("4|none"));
    let challenge = format!("{INSUFFICIENT}, scope=\"items:read\"");
    assert_answer(&response, 403, "This action is unauthorized.", Some(&challenge), "null");
    assert_eq!(
        env.gateway.get("/api/v2/me", Some("4|none")).status,
        200,
        "`authenticated` requires no ability"
    );
}

#[test]
fn response_to_head_has_the_fields_of_get_and_no_body() {
    let env = start("backend:\n  timeout: 200ms\n");
    env.backend.answer(|_| Answer::close());
    env.introspector.set_verdict("5|none", Verdict::Answer(Answer::message(500, "Server Error")));
    for (target, token) in [
        ("/api/v2/items", None),
        ("/api/v2/items", Some("9|unknown")),
        ("/api/v2/internal", Some("1|reader")),
        ("/api/v2/items", Some("1|reader")),
        ("/api/v2/items", Some("5|none")),
        ("/index.php", None),
    ] {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let mut client = env.gateway.client();
        let get = client.request("GET", target, &fields, b"");
        let head = client.request("HEAD", target, &fields, b"");
        let comparable = |response: &Response| -> Vec<(String, String)> {
            let varies = |name: &str| ["date", "x-request-id"].contains(&name);
            let fields =
                response.fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
            fields.filter(|(name, _)| !varies(name)).collect()
        };
        assert_eq!(head.status, get.status, "{target}");
        assert_eq!(comparable(&head), comparable(&get), "{target}");
        assert_eq!(client.get(target, token).status, get.status, "the connection closed after HEAD {target}");
    }
}

#[test]
fn rejected_heads_are_counted_by_reason() {
    let env = start("");
    let mut client = env.gateway.client();
    assert_eq!(client.request("HEAD", "/api/v2/items", &[], b"").status, 401);
    assert_eq!(client.request("HEAD", "/api/v2/nowhere", &[READER], b"").status, 403);
    env.gateway.wait_for_metric("requests_total{method=\"HEAD\",reason=\"missing_token\"}", 1.0);
    env.gateway.wait_for_metric("requests_total{method=\"HEAD\",reason=\"unmapped\"}", 1.0);
}

#[test]
fn responses_of_the_backend_are_forwarded() {
    let env = start("");
    let mut client = env.gateway.client();
    for (status, body) in
        [(200, "{ \"data\" : [] }"), (404, "{\"message\":\"Record not found.\"}"), (422, "{}"), (500, "oops")]
    {
        env.backend.answer(move |_| Answer::with(status, &[("X-Own", "1"), ("X-Own", "2")], body));
        let response = client.get("/api/v2/items?page=2&x=%2F", Some("1|reader"));
        assert_eq!((response.status, response.text()), (status, body));
        assert_eq!(response.fields.all("x-own").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(env.backend.requests().last().unwrap().target, "/api/v2/items?page=2&x=%2F");
    }
    assert_eq!(env.introspector.calls_for("1|reader"), 1, "one introspection serves all requests");
}

#[test]
fn head_over_its_limit_is_431() {
    let env = start("");
    let mut client: RawClient = env.gateway.client();
    client.send(format!("GET /up HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(64 * 1024)));
    let response = client.response();
    assert_answer(&response, 431, "Request Header Fields Too Large.", None, "head");
    assert_eq!(client.read_until_close(), b"");
    assert_eq!(env.backend.requests().len(), 0);
}
