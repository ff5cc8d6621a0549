//! Streamed bodies: events, `Expect`, early responses, and clients that disconnect.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::manual_backend::{BackendConnection, ManualBackend};
use crate::support::{Answer, Authority, RawClient, Request, TestEnv};

const ITEMS: &str = "/api/v2/items";
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";

/// A gateway before a backend that the test drives.
fn start(tls: bool, yaml: &str) -> TestEnv<ManualBackend> {
    let builder =
        TestEnv::builder().backend(ManualBackend::start()).token("2|reader", &["items:read"]).yaml(yaml);
    let builder = if tls { builder.tls(&Arc::new(Authority::new())) } else { builder };
    builder.start()
}

impl TestEnv<ManualBackend> {
    /// Sends a request and accepts it at the backend.
    fn begin(&mut self, request: &str) -> (RawClient, BackendConnection, Request) {
        let mut client = self.gateway.client();
        client.send(request);
        let (held, request) = self.backend.request();
        (client, held, request)
    }
}

fn get(version: &str) -> String {
    format!("GET {ITEMS} HTTP/{version}\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n")
}

fn post(token: &str, fields: &str) -> String {
    format!("POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{fields}\r\n")
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}

#[test]
fn each_event_is_forwarded_at_once() {
    for tls in [false, true] {
        let mut env = start(tls, "limits: {body_idle_timeout: 2s}\nbackend:\n  timeout: 500ms\n");
        let (mut client, mut backend, _) = env.begin(&get("1.1"));
        let head = text(client_sees(&mut client, || {
            backend.send(EVENTS);
        }));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        // Longer than any timeout except the idle one.
        for number in 0..8 {
            thread::sleep(Duration::from_millis(400));
            let event = format!("data: {number}\n\n");
            let came = client_sees(&mut client, || {
                backend.send(format!("{:x}\r\n{event}\r\n", event.len()));
            });
            assert_eq!(text(came), format!("{:X}\r\n{event}\r\n", event.len()));
        }
        backend.send("0\r\n\r\n");
        assert_eq!(text(client.read_some()), "0\r\n\r\n");
    }
}

/// The bytes that the client receives within 300 ms of `act`.
fn client_sees(client: &mut RawClient, act: impl FnOnce()) -> Vec<u8> {
    act();
    let began = Instant::now();
    let came = client.read_some();
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    came
}

#[test]
fn half_closed_client_is_served_while_its_response_flows() {
    for (tls, version) in [(false, "1.1"), (false, "1.0"), (true, "1.1")] {
        let mut env = start(tls, "");
        let (mut client, mut backend, _) = env.begin(&get(version));
        client.finish_sending();
        thread::sleep(Duration::from_millis(600));
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(500));
            backend.send("x");
        }
        assert_eq!(client.response().text(), "xxxxxxxx", "TLS {tls}, HTTP/{version}");
        assert_eq!(text(client.read_until_close()), "");
        env.gateway.wait_for_metric("requests_total{reason=\"allowed\",status=\"200\"}", 1.0);
        env.gateway.wait_for_metric("client_connections", 0.0);
    }
}

#[test]
fn requests_before_a_half_close_are_answered() {
    let env = TestEnv::start("");
    env.backend.answer(|request| {
        Answer::with(200, &[], format!("{} {}", request.target, request.text()))
            .after(Duration::from_millis(300))
    });
    let two = format!("{}{}", get("1.1"), get("1.1").replace(ITEMS, "/up"));
    for (sent, expected) in [
        (get("1.1"), &[format!("{ITEMS} ")][..]),
        (two, &[format!("{ITEMS} "), "/up ".to_owned()]),
        (post("1|writer", "Content-Length: 4\r\n") + "body", &[format!("{ITEMS} body")]),
        (
            post("1|writer", "Transfer-Encoding: chunked\r\n") + "4\r\nbody\r\n0\r\n\r\n",
            &[format!("{ITEMS} body")],
        ),
        // An incomplete second request gets no response.
        (get("1.1") + "GET /up HT", &[format!("{ITEMS} ")]),
    ] {
        let mut client = env.gateway.client();
        client.send(&sent).finish();
        for expected in expected {
            let response = client.response();
            assert_eq!((response.status, response.text()), (200, expected.as_str()), "{sent}");
        }
        assert_eq!(text(client.read_until_close()), "", "{sent}");
    }
    env.gateway.wait_for_metric("requests_total{status=\"200\"}", 6.0);
}

#[test]
fn truncated_request_body_is_never_complete() {
    let env = TestEnv::start("");
    for body in ["Content-Length: 8\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut client = env.gateway.client();
        let head = post("1|writer", "");
        client.send(head.trim_end().to_owned() + "\r\n" + body).finish();
        let said = text(client.read_until_close());
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
    }
    assert!(env.backend.requests().iter().all(|request| !request.complete));
}

#[test]
fn client_disconnect_aborts_the_backend_request() {
    type Act = fn(&mut BackendConnection);
    let cases: [(&str, String, Act); 6] = [
        ("before the head of the answer", get("1.1"), |_| {}),
        ("HTTP/1.0", get("1.0"), |_| {}),
        ("ahead of the next request", get("1.1") + &get("1.1"), |_| {}),
        ("in an answer that stands still", get("1.1"), |backend| {
            backend.send(EVENTS).send("3\r\none\r\n");
        }),
        ("in an answer of known length", get("1.1"), |backend| {
            backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }),
        ("in its own body", post("1|writer", "Content-Length: 10\r\n") + "half", |_| {}),
    ];
    thread::scope(|scope| {
        for tls in [false, true] {
            for (name, request, act) in &cases {
                for closes in [false, true] {
                    // Half a body followed by the end of the stream is an aborted request, not a half-closed
                    // connection.
                    if !closes && name.contains("own body") {
                        continue;
                    }
                    scope.spawn(move || {
                        let mut env = start(tls, "");
                        let (mut client, mut backend, _) = env.begin(request);
                        act(&mut backend);
                        if name.contains("in an answer") {
                            client.read_some();
                        }
                        if closes {
                            drop(client);
                        } else {
                            client.finish_sending();
                        }
                        let took = backend.until_close();
                        assert!(took < Duration::from_millis(2500), "{name}, TLS {tls}: {took:?}");
                        env.gateway.wait_for_metric("client_connections", 0.0);
                        env.gateway.wait_for_metric("backend_connections", 0.0);
                        let gone = "requests_total{reason=\"client_gone\"}";
                        if !name.contains("own body") {
                            env.gateway.wait_for_metric(gone, 1.0);
                        }
                    });
                }
            }
            scope.spawn(move || {
                let mut env = start(tls, "");
                let (client, mut backend, _) = env.begin(&get("1.1"));
                client.reset();
                let took = backend.until_close();
                // No client can read the response, so the gateway stops waiting once it notices the disconnect.
                assert!(took < Duration::from_millis(1400), "reset, TLS {tls}: {took:?}");
                env.gateway.wait_for_metric("requests_total{reason=\"client_gone\",status=\"499\"}", 1.0);
            });
            // A failed write is the fastest way to notice the disconnect.
            scope.spawn(move || {
                let mut env = start(tls, "");
                let (mut client, mut backend, _) = env.begin(&get("1.1"));
                backend.send(EVENTS);
                client.read_some();
                drop(client);
                let began = Instant::now();
                while backend.try_send("3\r\none\r\n").is_ok() {
                    assert!(began.elapsed() < Duration::from_millis(2500), "flowing, TLS {tls}");
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
}

#[test]
fn expectation_is_forwarded_and_only_100_continue_permits_the_body() {
    let mut env = start(false, "");
    for expect in ["100-continue", "100-Continue"] {
        let (mut client, mut backend, request) =
            env.begin(&post("1|writer", &format!("Expect: {expect}\r\nContent-Length: 4\r\n")));
        assert_eq!(request.field("expect"), Some("100-continue"));
        assert_eq!(request.field("content-length"), Some("4"));
        // An interim response other than 100 does not start the body.
        backend.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        thread::sleep(Duration::from_millis(200));
        assert!(!client.has_bytes(), "the body was sent before 100 Continue");
        let came = client_sees(&mut client, || {
            backend.send(CONTINUE);
        });
        assert_eq!(text(came), CONTINUE);
        client.send("body");
        assert_eq!(text(backend.read(4)), "body");
        backend.send(DONE);
        let response = client.response();
        assert_eq!((response.status, response.text(), response.field("connection")), (200, "done", None));
        drop(client);
        drop(backend);
    }
}

#[test]
fn body_is_sent_after_a_second_without_100_continue() {
    let mut env = start(false, "");
    for body in ["Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n"] {
        let began = Instant::now();
        let (mut client, mut backend, _) =
            env.begin(&post("1|writer", &format!("Expect: 100-continue\r\n{body}")));
        assert_eq!(text(client.read_some()), CONTINUE);
        let waited = began.elapsed().as_millis();
        assert!((900..2500).contains(&waited), "{waited} ms");
        let (sent, expected) = match body.starts_with("Content") {
            true => ("body", "body"),
            false => ("4\r\nbody\r\n0\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n"),
        };
        client.send(sent);
        assert_eq!(text(backend.read(expected.len())), expected);
        backend.send(DONE);
        assert_eq!(client.response().text(), "done");
    }
}

#[test]
fn final_response_to_an_expectation_suppresses_100_continue() {
    let refusal = "HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 4\r\n\r\nno!!";
    for sends_it_anyway in [false, true] {
        let mut env = start(false, "");
        let (mut client, mut backend, _) =
            env.begin(&post("1|writer", "Expect: 100-continue\r\nContent-Length: 1000000\r\n"));
        backend.send(refusal);
        let mut head = vec![];
        while !head.ends_with(b"no!!") {
            head.extend(client.read_some());
        }
        let head = text(head);
        assert!(head.starts_with("HTTP/1.1 422 "), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        let rest = if sends_it_anyway {
            client.send(vec![b'x'; 1_000_000]).finish();
            client.read_until_close()
        } else {
            client.read_until_close()
        };
        assert_eq!(text(rest), "", "no 100 Continue is sent");
        assert_eq!(text(backend.read_until_close()), "", "no byte of the body is sent");
        env.gateway.wait_for_metric("requests_total{reason=\"allowed\",status=\"422\"}", 1.0);
    }
}

#[test]
fn rejected_request_gets_no_100_continue() {
    let mut env = start(false, "limits: {body: 1MiB}");
    let expect = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    for (request, status) in [
        (post("9|unknown", expect), 401),
        (post("1|writer", expect).replace("Authorization", "X-Nothing"), 401),
        (post("2|reader", expect), 403),
        (post("1|writer", expect).replace(ITEMS, "/nowhere"), 403),
        (post("1|writer", "Expect: 100-continue\r\nContent-Length: 9999999\r\n"), 413),
        (post("1|writer", "Expect: evil\r\nContent-Length: 4\r\n"), 400),
        (post("1|writer", "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 4\r\n"), 400),
    ] {
        let mut client = env.gateway.client();
        client.send(&request);
        let response = client.try_response(false).unwrap();
        assert_eq!((response.status, response.field("connection")), (status, Some("close")), "{request}");
        assert!(response.raw_head.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{request}");
        assert_eq!(text(client.read_until_close()), "", "{request}");
    }
    assert_eq!(env.introspector.calls_for("1|writer"), 1, "introspected only for the oversized body");
    // HTTP/1.0 clients and requests without a body do not wait for 100 either.
    let old = post("1|writer", expect).replace("HTTP/1.1", "HTTP/1.0") + "body";
    let bare = get("1.1").replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    for (sent, body) in [(old, "body"), (bare, "")] {
        let (mut client, mut backend, request) = env.begin(&sent);
        assert_eq!(request.field("expect"), None);
        assert_eq!(text(backend.read(body.len())), body);
        backend.send(DONE);
        let answer = client.response();
        assert!(answer.raw_head.starts_with(b"HTTP/1."), "{sent}");
        assert_eq!(answer.text(), "done", "{sent}");
    }
}

#[test]
fn upload_continues_after_an_early_response() {
    let mut env = start(false, "");
    for framing in ["Content-Length: 8\r\n", "Transfer-Encoding: chunked\r\n"] {
        let chunked = framing.starts_with("T");
        let (mut client, mut backend, _) = env.begin(&post("1|writer", framing));
        let half = if chunked { "4\r\nhalf\r\n" } else { "half" };
        client.send(half);
        assert_eq!(text(backend.read(half.len())), half);
        backend.send(DONE);
        assert_eq!(client.response().text(), "done");
        let rest = if chunked { "4\r\nrest\r\n0\r\n\r\n" } else { "rest" };
        client.send(rest);
        assert_eq!(text(backend.read(rest.len())), rest, "the backend keeps reading after its response");
        // Both connections can be reused.
        client.send(get("1.1"));
        assert_eq!(backend.request().target, ITEMS);
        backend.send(DONE);
        assert_eq!(client.response().text(), "done");
    }
}

#[test]
fn response_without_reading_the_upload_is_forwarded() {
    for tls in [false, true] {
        let mut env = start(tls, "");
        for fields in ["", "Connection: close\r\n"] {
            let (mut client, mut backend, _) = env.begin(&post("1|writer", "Content-Length: 100000000\r\n"));
            client.send("some");
            assert_eq!(text(backend.read(4)), "some");
            backend.send(format!("HTTP/1.1 413 Too Much\r\n{fields}Content-Length: 4\r\n\r\nmuch"));
            backend.finish();
            // The client has not read the response yet, and continues to send for a while.
            for _ in 0..16 {
                if client.try_send([b'x'; 64 * 1024]).is_err() {
                    break;
                }
            }
            let response = client.response();
            assert_eq!((response.status, response.text()), (413, "much"), "TLS {tls}");
        }
    }
}

#[test]
fn response_framing_is_kept() {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    const CHUNKS: &str = "2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n";
    let mut env = start(false, "");
    for (method, head, body, expected_head, expected_body) in [
        ("GET", "200 OK\r\nContent-Length: 5\r\n", "abcde", "200 OK\r\ncontent-length: 5\r\n", "abcde"),
        ("GET", "200 OK\r\nContent-Length: 0\r\n", "", "200 OK\r\ncontent-length: 0\r\n", ""),
        ("GET", &format!("200 OK\r\n{CHUNKED}"), CHUNKS, "200 OK\r\ntransfer-encoding: chunked\r\n", "abcde"),
        ("HEAD", "200 OK\r\nContent-Length: 5\r\n", "", "200 OK\r\ncontent-length: 5\r\n", ""),
        ("HEAD", "200 OK\r\nContent-Length: 0\r\n", "", "200 OK\r\ncontent-length: 0\r\n", ""),
        ("HEAD", &format!("200 OK\r\n{CHUNKED}"), "", "200 OK\r\n", ""),
        ("HEAD", "200 OK\r\n", "", "200 OK\r\n", ""),
        ("GET", "204 No Content\r\n", "", "204 No Content\r\n", ""),
        ("GET", "304 Not Modified\r\nETag: x\r\n", "", "304 Not Modified\r\netag: x\r\n", ""),
        // hyper omits Content-Length here, which RFC 9110 section 15.4.5 permits.
        ("GET", "304 Not Modified\r\nContent-Length: 5\r\n", "", "304 Not Modified\r\n", ""),
        ("HEAD", "304 Not Modified\r\n", "", "304 Not Modified\r\n", ""),
        ("HEAD", "204 No Content\r\n", "", "204 No Content\r\n", ""),
        (
            "GET",
            "205 Reset Content\r\nContent-Length: 0\r\n",
            "",
            "205 Reset Content\r\ncontent-length: 0\r\n",
            "",
        ),
    ] {
        let context = format!("{method}: {head:?}");
        let request = get("1.1").replace("GET", method);
        let (mut client, mut backend, _) = env.begin(&request);
        // Twice over the same two connections: no byte is left over or missing.
        for again in [true, false] {
            backend.send(format!("HTTP/1.1 {head}\r\n{body}"));
            let response = client.try_response(method == "HEAD").unwrap();
            let said = text(&response.raw_head);
            let (came, date) = said.split_once("date: ").unwrap();
            let (before, after) = came.split_once("x-request-id: ").unwrap();
            let (_, after) = after.split_once("\r\n").unwrap();
            assert_eq!(format!("{before}{after}"), format!("HTTP/1.1 {expected_head}"), "{context}");
            assert!(date.ends_with(" GMT\r\n\r\n"), "{context}: {said}");
            assert_eq!(response.text(), expected_body, "{context}");
            if again {
                client.send(&request);
                assert_eq!(backend.request().method, method, "{context}");
            }
        }
    }
}
