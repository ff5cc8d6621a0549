//! HTTP/2 to the backend: translation, limits and failures.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use rustls::ALL_VERSIONS;

use crate::support::http2_upstream::{Http2Upstream, Reply, Seen, echo};
use crate::support::{Authority, Builder, Gateway, PATIENCE, RawClient, TestEnv, Upstream, WRITER};

const ITEMS: &str = "/api/v2/items";
const NAMES: &[&str] = &["localhost", "127.0.0.1"];

/// A gateway with one worker before `backend`, with additional lines in its section.
fn before(backend: Http2Upstream, lines: &str) -> TestEnv<Http2Upstream> {
    TestEnv::builder()
        .backend(backend)
        .yaml(&format!("backend:\n{lines}limits:\n  body: 1GiB\n"))
        .configure(Builder::one_core)
        .start()
}

fn start() -> TestEnv<Http2Upstream> {
    before(Http2Upstream::start(), "")
}

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn only(upstream: &Http2Upstream) -> Seen {
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1, "{seen:#?}");
    seen[0].clone()
}

#[test]
fn request_is_translated_to_http2() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    let head = "POST /api/v2/items?a=%2f&b HTTP/1.1\r\nHost: Shop.Example:8080\r\nAuthorization: Bearer 1|writer\r\n\
                Connection: keep-alive, x-own\r\nKeep-Alive: timeout=5\r\nX-Own: 1\r\nTE: trailers, gzip\r\n\
                Proxy-Connection: close\r\nX-Kept: one\r\nx-kept: two\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\nContent-Length: 3\r\n\r\n";
    let mut client = gateway.client();
    client.send([head, body].concat());
    assert_eq!(client.response().status, 200);
    let seen = only(&upstream);
    assert_eq!((&*seen.method, &*seen.scheme, &*seen.path), ("POST", "http", "/api/v2/items?a=%2f&b"));
    assert_eq!((&*seen.authority, seen.body.as_slice()), ("Shop.Example:8080", &b"hello world"[..]));
    assert_eq!(seen.trailers.0, [("x-sum".to_owned(), "11".to_owned())]);
    assert_eq!(seen.fields.all("x-kept").collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(seen.fields.get("te"), Some("trailers"));
    assert_eq!(seen.fields.get("authorization"), Some("Bearer 1|writer"));
    assert_eq!(seen.fields.get("x-forwarded-host"), Some("Shop.Example:8080"));
    for gone in [
        "host",
        "connection",
        "keep-alive",
        "x-own",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "content-length",
    ] {
        assert_eq!(seen.fields.all(gone).count(), 0, "{gone}");
    }
}

#[test]
fn lengths_cookies_and_methods_are_translated_to_http2() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    let mut client = gateway.client();
    for (method, body, length) in [
        ("POST", &b""[..], Some("0")),
        ("PUT", b"", Some("0")),
        ("POST", b"four", Some("4")),
        ("GET", b"", None),
        ("DELETE", b"", None),
        ("OPTIONS", b"", None),
    ] {
        upstream.forget();
        let target = if matches!(method, "PUT" | "DELETE") { "/api/v2/items/1" } else { ITEMS };
        client.request(method, target, &[WRITER], body);
        let Some(seen) = upstream.seen().pop() else {
            assert_eq!(method, "OPTIONS", "not in the map");
            continue;
        };
        assert_eq!((&*seen.method, seen.fields.get("content-length")), (method, length));
        assert_eq!(seen.body, body);
    }
    upstream.forget();
    assert_eq!(client.request("GET", "/up", &[("Cookie", "a=1; b=2"), ("Cookie", "c=3")], b"").status, 200);
    assert_eq!(only(&upstream).fields.all("cookie").collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
}

#[test]
fn host_backend_sends_the_authority_of_the_url() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } =
        before(Http2Upstream::start(), "  host: backend\n");
    assert_eq!(gateway.get("/up", None).status, 200);
    let seen = only(&upstream);
    assert!(upstream.url() == format!("http://{}", seen.authority), "{}", seen.authority);
}

#[test]
fn http2_response_is_translated_to_http1() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    let mut client = gateway.client();
    // A body of unknown length, with trailers, after interim responses.
    upstream.answer(|_| Reply {
        interim: vec![103, 102],
        status: 200,
        fields: vec![
            ("trailer", "grpc-status, authorization".into()),
            ("set-cookie", "a=1".into()),
            ("set-cookie", "b=2".into()),
        ],
        pieces: vec!["hello ".into(), "world".into()],
        trailers: vec![("grpc-status", "0"), ("authorization", "no")],
        ..Reply::default()
    });
    let response = client.request("GET", ITEMS, &[WRITER, ("TE", "trailers")], b"");
    assert_eq!((response.status, response.text()), (200, "hello world"));
    assert_eq!(response.fields.get("transfer-encoding"), Some("chunked"));
    assert_eq!(response.fields.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(response.trailers.0, [("grpc-status".to_owned(), "0".to_owned())]);
    // Only trailers, as in a gRPC error.
    upstream
        .answer(|_| Reply::new(200, "").field("grpc-status", "5").field("content-type", "application/grpc"));
    let response = client.request("POST", ITEMS, &[WRITER], b"x");
    assert_eq!((response.status, response.text(), response.field("grpc-status")), (200, "", Some("5")));
    // With Content-Length.
    upstream.answer(|_| Reply::new(200, "four").field("content-length", "4"));
    let response = client.request("GET", ITEMS, &[WRITER], b"");
    assert_eq!((response.field("content-length"), response.text()), (Some("4"), "four"));
    assert_eq!(response.field("transfer-encoding"), None);
    // Without a body.
    for (method, status) in [("HEAD", 200), ("GET", 304), ("GET", 204), ("HEAD", 404)] {
        upstream.answer(move |_| {
            let reply = Reply::new(status, "").field("x-it", "is");
            if status == 204 { reply } else { reply.field("content-length", "12") }
        });
        let response = client.request(method, ITEMS, &[WRITER], b"");
        // hyper omits Content-Length in a 304.
        let length = (method == "HEAD").then_some("12");
        assert_eq!(
            (response.status, response.field("content-length")),
            (status, length),
            "{method} {status}"
        );
    }
    upstream.answer(echo);
    assert_eq!(client.get(ITEMS, Some("1|writer")).status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn backend_chooses_its_http_version_by_alpn() {
    let authority = Authority::new();
    let mut config = authority.issue(NAMES, |_| {}).server(ALL_VERSIONS, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = format!("  tls: {{ca_file: {}}}\n", authority.ca_file().display());
    let TestEnv { gateway, backend: upstream, introspector: _introspector } =
        before(Http2Upstream::start_with(Some(config), |_| {}), &tls);
    assert_eq!(gateway.get("/up", None).status, 200);
    let seen = only(&upstream);
    assert_eq!((&*seen.scheme, &*seen.path), ("https", "/up"));
    // The server does not offer h2, so HTTP/1.1 is negotiated.
    let upstream = Upstream::start_tls(&authority);
    let builder = TestEnv::builder().backend(upstream).yaml("backend:\n  http2: true\n");
    let TestEnv { gateway, backend: upstream, .. } = builder.configure(Builder::one_core).start();
    for _ in 0..3 {
        assert_eq!(gateway.get("/up", None).status, 200);
    }
    assert_eq!((upstream.requests().len(), upstream.connections()), (3, 1));
    let chose = |line: &&String| line.contains("the backend chose HTTP/1.1 although `backend.http2` is true");
    assert_eq!(gateway.logs().iter().filter(chose).count(), 1);
}

#[test]
fn backend_without_http2_is_502_and_the_cause_is_logged() {
    let env = TestEnv::start("backend:\n  http2: true\n  connect_timeout: 500ms\n");
    assert_eq!(env.gateway.get("/up", None).status, 502);
    let line = env.gateway.wait_for_log(|line| line["message"] == "no connection to the backend");
    assert!(line["error"].as_str().unwrap().starts_with("HTTP/2 failed: "), "{line}");
}

/// Sends `count` concurrent requests; returns their statuses.
fn at_once(gateway: &Gateway, count: usize) -> Vec<u16> {
    let address = gateway.address();
    let threads: Vec<_> = (0..count)
        .map(|_| thread::spawn(move || RawClient::connect(address).get(ITEMS, Some("1|writer")).status))
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn concurrent_requests_share_one_http2_connection() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    upstream.answer(|_| Reply { wait: Duration::from_millis(300), ..Reply::new(200, "slow") });
    assert_eq!(at_once(&gateway, 40), [200; 40]);
    assert_eq!((upstream.connections(), upstream.most_concurrent()), (1, 40));
    gateway.wait_for_metric("backend_connections{state=\"idle\"}", 1.0);
    gateway.wait_for_metric("backend_connections{state=\"active\"}", 0.0);
}

#[test]
fn max_concurrent_streams_of_the_backend_is_respected() {
    let bounded = |backend: &str| {
        let upstream = Http2Upstream::start_with(None, |builder| {
            builder.max_concurrent_streams(2);
        });
        upstream.answer(|_| Reply { wait: Duration::from_millis(100), ..Reply::new(200, "slow") });
        before(upstream, backend)
    };
    // The gateway opens more connections unless `max_connections` forbids it.
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = bounded("");
    assert_eq!(at_once(&gateway, 8), [200; 8]);
    let connections = upstream.connections();
    assert!((2..=4).contains(&connections), "{connections}");
    let TestEnv { gateway, backend: upstream, introspector: _introspector } =
        bounded("  max_connections: 1\n");
    assert_eq!(at_once(&gateway, 8), [200; 8]);
    assert_eq!((upstream.connections(), upstream.most_concurrent()), (1, 2));
    // Requests that wait too long get 503.
    upstream.answer(|_| Reply { wait: Duration::from_secs(4), ..Reply::new(200, "slow") });
    let mut statuses = at_once(&gateway, 4);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
}

/// An overloaded backend may allow no streams. Connecting again would not help.
#[test]
fn backend_that_allows_no_streams_is_502_without_repeated_connections() {
    let upstream = Http2Upstream::start_with(None, |builder| {
        builder.max_concurrent_streams(0);
    });
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = before(upstream, "");
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 502);
    assert_eq!(upstream.connections(), 1);
    let line = gateway.wait_for_log(|line| line["message"] == "no connection to the backend");
    assert!(line["error"].as_str().unwrap().contains("no streams"), "{line}");
    gateway.wait_for_metric("backend_connections", 0.0);
}

#[test]
fn goaway_of_the_backend_fails_no_request() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    let address = gateway.address();
    let answered: Arc<[AtomicUsize; 4]> = Arc::default();
    let threads: Vec<_> = (0..answered.len())
        .map(|number| {
            let answered = Arc::clone(&answered);
            thread::spawn(move || {
                let mut client = RawClient::connect(address);
                for _ in 0..400 {
                    // POST is not retried in general, so each stream must have been refused unprocessed, or served.
                    assert_eq!(client.request("POST", ITEMS, &[WRITER], b"").status, 200);
                    answered[number].fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let now = || std::array::from_fn::<usize, 4, _>(|number| answered[number].load(Ordering::SeqCst));
    let mut times = 0;
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        upstream.go_away();
        times += 1;
        // A request that is refused twice gets 502, so no request may span two of these.
        let before = now();
        let moved_on = || before.iter().zip(now()).all(|(before, now)| now >= before + 2 || now == 400);
        while !moved_on() && !threads.iter().all(thread::JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(upstream.seen().len(), 1600);
    assert!(times > 3 && upstream.connections() > 3, "{times} {}", upstream.connections());
}

/// A restarting backend may end connections. The gateway limits the attempts at a backend that always does.
#[test]
fn request_is_tried_on_three_connections_that_end_before_they_take_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            // SETTINGS, its acknowledgement, and GOAWAY without a stream and with NO_ERROR.
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0").unwrap();
            stream.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let env = TestEnv::builder().backend(backend).yaml("backend:\n  http2: true\n").start();
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 502);
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
    let line = env.gateway.wait_for_log(|line| line["message"] == "no connection to the backend");
    assert_eq!(line["error"], "HTTP/2 failed: the server ended it before the first request");
}

#[test]
fn stream_refused_unprocessed_is_retried_once() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    let mut client = gateway.client();
    for (method, body, refused, status, seen) in [
        ("POST", &b""[..], 1, 200, 2),
        ("GET", b"", 1, 200, 2),
        ("GET", b"", 2, 502, 2),
        // A part of the body may have been sent already.
        ("POST", b"body", 1, 502, 1),
    ] {
        upstream.forget();
        let left = AtomicUsize::new(refused);
        upstream.answer(move |seen| {
            let refuse =
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            Reply { refuse: refuse.then_some(Reason::REFUSED_STREAM), ..echo(seen) }
        });
        assert_eq!(client.request(method, ITEMS, &[WRITER], body).status, status, "{method} {refused}");
        assert_eq!(upstream.seen().len(), seen, "{method} {refused}");
    }
    // After any other reset the backend may have processed the request.
    upstream.forget();
    upstream.answer(|_| Reply { refuse: Some(Reason::INTERNAL_ERROR), ..Reply::default() });
    assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 502);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn truncated_http2_response_is_not_completed() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
        upstream.answer(move |_| Reply { break_off: Some(reason), ..Reply::new(200, "hello") });
        let mut client = gateway.client();
        client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
        let came = String::from_utf8(client.read_until_close()).unwrap();
        assert!(came.contains("5\r\nhello\r\n") && !came.ends_with("0\r\n\r\n"), "{reason:?}: {came}");
        let line = gateway.wait_for_log(|line| line["path"] == ITEMS || line["route"] == ITEMS);
        assert!(line.to_string().contains("backend_broken"), "{reason:?}: {line}");
        // The connection stays open.
        upstream.answer(echo);
        assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 200);
        assert_eq!(upstream.connections(), 1, "{reason:?}");
    }
}

#[test]
fn client_disconnect_resets_its_backend_stream() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    // While the gateway waits for the response.
    upstream.answer(|_| Reply { wait: Duration::from_secs(20), ..Reply::new(200, "late") });
    let mut client = gateway.client();
    client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
    until("it came", || upstream.running() == 1);
    drop(client);
    assert_eq!(upstream.wait_for(1)[0].reset, Some(Reason::CANCEL));
    // While the request's body is being sent.
    upstream.forget();
    upstream.answer(echo);
    let mut client = gateway.client();
    client.send(format!(
        "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nContent-Length: 10\r\n\r\nhello"
    ));
    until("it came", || upstream.running() == 1);
    drop(client);
    assert_eq!(upstream.wait_for(1)[0].reset, Some(Reason::CANCEL));
    // While the response is being received.
    upstream.answer(|_| Reply {
        pieces: vec!["piece".into(); 1000],
        pause: Duration::from_millis(20),
        ..Reply::new(200, "")
    });
    let mut client = gateway.client();
    client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
    assert!(!client.read_some().is_empty());
    drop(client);
    until("it was reset", || upstream.running() == 0);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn early_http2_response_is_forwarded() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    upstream.answer(|_| Reply { early: true, ..Reply::new(413, "too much") });
    let mut client = gateway.client();
    client.send(format!(
        "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nContent-Length: 1000000\r\n\r\nhello"
    ));
    let response = client.response();
    assert_eq!((response.status, response.text()), (413, "too much"));
    upstream.answer(echo);
    assert_eq!(gateway.get(ITEMS, Some("1|writer")).status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn expectation_is_forwarded_to_an_http2_backend() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    upstream.answer(|seen| Reply { interim: vec![100], ..echo(seen) });
    let mut client = gateway.client();
    client.send(format!(
        "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nExpect: 100-continue\r\n\
         Content-Length: 5\r\n\r\n"
    ));
    let begun = Instant::now();
    assert_eq!(client.read_some(), b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "100 Continue came from the backend, not from a timeout"
    );
    client.send("hello");
    assert_eq!(client.response().status, 200);
    let seen = only(&upstream);
    assert_eq!((seen.body.as_slice(), seen.fields.get("expect")), (&b"hello"[..], Some("100-continue")));
}

#[test]
fn stalled_http2_stream_delays_no_other_and_holds_little_memory() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    upstream.answer(|seen| match &*seen.path {
        "/up" => Reply::new(200, "up"),
        _ => Reply { pieces: vec![Bytes::from(vec![b'x'; 16 * 1024]); 4096], ..Reply::new(200, "") },
    });
    let idle = gateway.resident_memory();
    // 64 MiB each, all unread.
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.client();
            client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
            client
        })
        .collect();
    until("they came", || upstream.running() == 20);
    thread::sleep(Duration::from_millis(300));
    for _ in 0..20 {
        assert_eq!(gateway.get("/up", None).text(), "up");
    }
    assert_eq!(upstream.connections(), 1);
    let held = gateway.resident_memory().saturating_sub(idle);
    assert!(held < 24 * 1024 * 1024, "{held} bytes for {}", clients.len());
}

#[test]
fn backpressure_of_an_http2_backend_reaches_the_client() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } = start();
    // The backend reads the body after the response has been sent.
    upstream.answer(|_| Reply {
        early: true,
        pieces: vec!["a".into(), "b".into()],
        pause: Duration::from_secs(1),
        ..Reply::new(200, "")
    });
    let idle = gateway.resident_memory();
    let mut client = gateway.client();
    let length = 32 * 1024 * 1024;
    client.send(format!(
        "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nContent-Length: {length}\r\n\r\n"
    ));
    client.send(vec![b'x'; 4 * 1024 * 1024]);
    let held = gateway.resident_memory().saturating_sub(idle);
    assert!(held < 8 * 1024 * 1024, "{held} bytes");
    drop(client);
}

#[test]
fn idle_http2_connection_is_closed_after_its_timeout() {
    let TestEnv { gateway, backend: upstream, introspector: _introspector } =
        before(Http2Upstream::start(), "  idle_timeout: 1s\n");
    assert_eq!(gateway.get("/up", None).status, 200);
    until("it is open", || upstream.open() == 1);
    until("it is closed", || upstream.open() == 0);
    assert_eq!(gateway.get("/up", None).status, 200);
    assert_eq!(upstream.connections(), 2);
}
