//! Framing of requests: what the scanner rejects, and how.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{RawClient, Response, TestEnv, WRITER, echo};

const GOOD: &str = "GET /up HTTP/1.1\r\nHost: h\r\n\r\n";

/// A head with a request line and further lines.
fn head(line: &str, fields: &[&str]) -> String {
    format!(
        "{line}\r\nHost: h\r\n{}\r\n",
        fields.iter().map(|field| format!("{field}\r\n")).collect::<String>()
    )
}

/// The last response, after which the connection is closed.
fn last(client: &mut RawClient, to_head: bool) -> Response {
    let response = client.try_response(to_head).expect("a response");
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(client.read_until_close(), b"");
    response
}

fn assert_refused(response: &Response, status: u16, message: &str) {
    assert_eq!(response.status, status);
    assert_eq!(response.text(), format!(r#"{{"message":"{message}"}}"#));
    assert_eq!(response.field("content-type"), Some("application/json"));
    assert_eq!(response.field("cache-control"), Some("no-store"));
    assert!(response.field("x-request-id").is_some_and(|id| id.len() == 32));
    assert!(response.field("date").is_some_and(|date| date.ends_with(" GMT")));
}

#[test]
fn rejected_heads_are_answered_counted_and_logged() {
    let env = TestEnv::start("limits: {header_bytes: 1KiB, header_count: 10, target_bytes: 100}");
    let long = format!("GET /{} HTTP/1.1", "x".repeat(100));
    let field = format!("A: {}", "x".repeat(1100));
    let many: Vec<_> = (0..10).map(|number| format!("A{number}: x")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (name, bytes, status, message, detail) in [
        (
            "a bare LF",
            "GET /up HTTP/1.1\nHost: h\n\n".to_owned(),
            400,
            "Bad Request.",
            "LF without CR in the head",
        ),
        (
            "both framings",
            head("POST /up HTTP/1.1", &["Content-Length: 4", "Transfer-Encoding: chunked"]) + "0\r\n\r\n",
            400,
            "Bad Request.",
            "both Transfer-Encoding and Content-Length",
        ),
        (
            "a fold",
            head("GET /up HTTP/1.1", &["A: b", " c: d"]),
            400,
            "Bad Request.",
            "folded line in the head",
        ),
        (
            "a quote",
            head("GET /up\" HTTP/1.1", &[]),
            400,
            "Bad Request.",
            "character that a target cannot hold",
        ),
        ("a fragment", head("GET /up#x HTTP/1.1", &[]), 400, "Bad Request.", "fragment in the target"),
        ("a version", head("GET /up HTTP/1.2", &[]), 505, "HTTP Version Not Supported.", ""),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505, "HTTP Version Not Supported.", ""),
        ("a long target", head(&long, &[]), 414, "URI Too Long.", ""),
        ("a large head", head("GET /up HTTP/1.1", &[&field]), 431, "Request Header Fields Too Large.", ""),
        ("many fields", head("GET /up HTTP/1.1", &many), 431, "Request Header Fields Too Large.", ""),
    ] {
        let mut client = env.gateway.client();
        let response = last(client.send(&bytes), false);
        assert_refused(&response, status, message);
        let id = response.field("x-request-id").unwrap();
        let line = env.gateway.wait_for_log(|line| line["request_id"] == id);
        assert_eq!(line["status"], status, "{name}");
        assert_eq!(line["route"], "none", "{name}");
        assert_eq!(line["detail"].as_str().unwrap_or_default(), detail, "{name}");
    }
    assert_eq!(env.backend.requests().len(), 0);
    let metrics = env.gateway.metrics();
    for (labels, count) in [
        (r#"route="none",method="GET",status="400",reason="bad_request""#, 4.0),
        (r#"route="none",method="POST",status="400",reason="bad_request""#, 1.0),
        (r#"method="GET",status="505",reason="bad_request""#, 1.0),
        (r#"method="other",status="505",reason="bad_request""#, 1.0),
        (r#"method="GET",status="414",reason="limited""#, 1.0),
        (r#"method="GET",status="431",reason="limited""#, 2.0),
    ] {
        assert_eq!(metrics.metric(&format!("requests_total{{{labels}}}")), count, "{labels}");
    }
    env.gateway.wait_for_metric("client_connections", 0.0);
    assert_eq!(env.gateway.get("/up", None).status, 200);
}

#[test]
fn rejected_head_request_gets_no_body() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    let response = last(client.send("HEAD /up HTTP/1.1\nHost: h\n\n"), true);
    assert_eq!((response.status, response.field("content-length")), (400, Some("26")));
}

/// The preceding request gets its response and the refused one its refusal; later requests are ignored.
#[test]
fn pipelined_requests_before_a_rejected_one_are_answered() {
    let env = TestEnv::start("");
    for pause in [Duration::ZERO, Duration::from_millis(100)] {
        env.backend.answer(move |request| echo(request).after(pause));
        env.backend.forget_requests();
        let mut client = env.gateway.client();
        client.send(format!("{GOOD}GET /up HTTP/1.1\nHost: h\n\n{GOOD}"));
        assert_eq!(client.response().status, 200);
        assert_refused(&last(&mut client, false), 400, "Bad Request.");
        assert_eq!(env.backend.only_request().target, "/up");
        // The same if the refused request arrives while the first one is served.
        env.backend.forget_requests();
        let mut client = env.gateway.client();
        client.send(GOOD);
        thread::sleep(pause / 2);
        client.send("GET /up HTTP/1.1\nHost: h\n\n");
        assert_eq!(client.response().status, 200);
        assert_refused(&last(&mut client, false), 400, "Bad Request.");
        assert_eq!(env.backend.only_request().target, "/up");
    }
}

/// A draining gateway closes after the response that carries `Connection: close`.
#[test]
fn nothing_is_answered_after_the_last_response_of_a_drain() {
    let env = TestEnv::start("");
    env.backend.answer(|request| echo(request).after(Duration::from_millis(300)));
    let mut client = env.gateway.client();
    client.send(GOOD);
    env.backend.wait_for_requests(1);
    client.send("GET /up HTTP/1.1\nHost: h\n\n");
    env.gateway.signal(Signal::TERM);
    assert_eq!(last(&mut client, false).status, 200);
}

#[test]
fn bytes_after_connection_close_are_not_served() {
    let env = TestEnv::start("");
    for request in [
        head("GET /up HTTP/1.1", &["Connection: close"]),
        "GET /up HTTP/1.0\r\nHost: h\r\n\r\n".to_owned(),
        format!(
            "POST /api/v2/items HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{}: {}\r\nContent-Length: 2\r\n\r\nhi",
            WRITER.0, WRITER.1
        ),
    ] {
        env.backend.forget_requests();
        let mut client = env.gateway.client();
        assert_eq!(client.send(format!("{request}{GOOD}")).response().status, 200, "{request}");
        assert_eq!(client.read_until_close(), b"", "{request}");
        assert_eq!(env.backend.requests().len(), 1, "{request}");
    }
}

#[test]
fn fragmented_head_is_served() {
    let env = TestEnv::start("");
    let value = "x".repeat(12_000);
    let request = head("GET /up?q HTTP/1.1", &[&format!("A: {value}")]);
    for length in [1, 7, 4096, 11_000] {
        env.backend.forget_requests();
        let mut client = env.gateway.client();
        let pieces: Vec<_> = request.as_bytes().chunks(length).collect();
        // In pieces of one byte only at the ends, where the line breaks are.
        let (first, rest) = if length == 1 { pieces.split_at(40) } else { pieces.split_at(1) };
        for piece in first {
            client.send(piece);
        }
        client.send(rest.concat());
        assert_eq!(client.response().status, 200, "{length}");
        let received = env.backend.only_request();
        assert_eq!((&*received.target, received.field("a")), ("/up?q", Some(&*value)), "{length}");
        // The connection stays open.
        assert_eq!(client.send(GOOD).response().status, 200, "{length}");
    }
}

#[test]
fn fragmented_bodies_and_pipelined_requests_are_served() {
    let env = TestEnv::start("");
    let fields = [&*format!("{}: {}", WRITER.0, WRITER.1), "Transfer-Encoding: chunked"];
    let request = head("POST /api/v2/items HTTP/1.1", &fields)
        + "5;x=y\r\nhello\r\n1\r\n \r\n00005\r\nworld\r\n0\r\nA: b\r\n\r\n";
    for length in [1, 3, 1000] {
        env.backend.forget_requests();
        let mut client = env.gateway.client();
        for piece in request.as_bytes().chunks(length) {
            client.send(piece);
        }
        assert_eq!(client.response().status, 200);
        assert_eq!(env.backend.only_request().text(), "hello world");
        assert_eq!(client.send(GOOD).response().status, 200);
    }
}

#[test]
fn malformed_body_aborts_the_request_to_the_backend() {
    let env = TestEnv::start("");
    let fields = [&*format!("{}: {}", WRITER.0, WRITER.1), "Transfer-Encoding: chunked"];
    for body in [
        "5\r\nhelloGET / HTTP/1.1\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5 \r\nhello",
        "0\r\nA : b\r\n\r\n",
        "zz\r\n",
    ] {
        env.backend.forget_requests();
        let mut client = env.gateway.client();
        client.send(head("POST /api/v2/items HTTP/1.1", &fields) + body);
        assert_refused(&client.response(), 400, "Bad Request.");
        assert_eq!(client.read_until_close(), b"");
        assert!(env.backend.requests().iter().all(|request| !request.complete), "{body:?}");
    }
    assert_eq!(env.gateway.get("/up", None).status, 200);
}

#[test]
fn stalled_head_is_408() {
    let env = TestEnv::start("limits: {header_timeout: 200ms}");
    for (start, method) in [("GET /up HTTP/1.1\r\nHo", "GET"), ("G", "other"), ("\r\n", "other")] {
        let mut client = env.gateway.client();
        assert_refused(&last(client.send(start), false), 408, "Request Timeout.");
        let metric =
            format!("requests_total{{route=\"none\",method=\"{method}\",status=\"408\",reason=\"limited\"}}");
        assert!(env.gateway.metrics().metric(&metric) >= 1.0, "{start:?}");
    }
    // Also a request that began while the preceding one was served.
    env.backend.answer(|request| echo(request).after(Duration::from_millis(100)));
    let mut client = env.gateway.client();
    client.send(format!("{GOOD}GET /up"));
    assert_eq!(client.response().status, 200);
    assert_refused(&last(&mut client, false), 408, "Request Timeout.");
}

/// A client that is still sending can read an early response.
#[test]
fn response_before_the_end_of_the_body_is_delivered() {
    let env = TestEnv::start("limits: {body: 1MiB}");
    let body = vec![b'x'; 8 * 1024 * 1024];
    for (token, status) in [("7|unknown", 401), ("1|writer", 413)] {
        let mut client = env.gateway.client();
        let fields =
            [&*format!("Authorization: Bearer {token}"), &*format!("Content-Length: {}", body.len())];
        client.send(head("POST /api/v2/items HTTP/1.1", &fields));
        client.send(&body);
        assert_eq!(client.response().status, status);
        assert_eq!(client.read_until_close(), b"");
    }
    assert_eq!(env.backend.requests().len(), 0);
    env.gateway.wait_for_metric("client_connections", 0.0);
}
