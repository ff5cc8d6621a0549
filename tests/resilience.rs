//! Outages and faults around the gateway, as clients see them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Answer, PATIENCE, RawClient, Request, TestEnv, WRITER, echo};

const ITEMS: &str = "/api/v2/items";

fn upload_head(length: usize) -> String {
    format!(
        "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Echoes the first request of each connection, and runs `second` with the next.
fn first_echo_then(second: Answer) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let seen = Mutex::new(HashMap::<usize, usize>::new());
    move |request| {
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(request.connection).or_default();
        *count += 1;
        if *count == 1 { echo(request) } else { second.clone() }
    }
}

#[test]
fn backend_outage_is_502_until_it_recovers() {
    let mut env = TestEnv::start("");
    let (stopping, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let statuses = Mutex::new(HashMap::<u16, usize>::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = env.gateway.client();
                while !done.load(Ordering::SeqCst) {
                    let response = client.request("GET", ITEMS, &[WRITER], b"");
                    let expected =
                        response.status == 200 || response.status == 502 && stopping.load(Ordering::SeqCst);
                    assert!(expected, "{} {}", response.status, response.text());
                    *statuses.lock().unwrap().entry(response.status).or_default() += 1;
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        stopping.store(true, Ordering::SeqCst);
        env.backend.stop();
        thread::sleep(Duration::from_millis(200));
        env.backend.resume();
        thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::SeqCst);
    });
    assert!(statuses.lock().unwrap().contains_key(&502));
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
}

#[test]
fn kept_connection_closed_by_backend_retries_only_what_may_be_repeated() {
    for (method, target, body, status, seen) in [
        ("GET", ITEMS, "", 200, 3),
        ("HEAD", ITEMS, "", 200, 3),
        ("DELETE", "/api/v2/items/5", "", 200, 3),
        ("POST", ITEMS, "", 502, 2),
        ("PATCH", "/api/v2/items/5", "", 502, 2),
        ("POST", ITEMS, "body", 502, 2),
        ("PUT", "/api/v2/items/5", "body", 502, 2),
    ] {
        let env = TestEnv::start("");
        env.backend.answer(first_echo_then(Answer::close()));
        let mut client = env.gateway.client();
        assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 200);
        let response = client.request(method, target, &[WRITER], body.as_bytes());
        assert_eq!(response.status, status, "{method} {body}");
        assert_eq!(env.backend.requests().len(), seen, "{method} {body}");
    }
}

#[test]
fn request_is_retried_once_and_only_before_any_response_byte() {
    for (second, seen) in [
        (Answer::raw("nothing that HTTP would say\r\n\r\n").then_close(), 2),
        (Answer::raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), 2),
    ] {
        let env = TestEnv::start("");
        let context = format!("{second:?}");
        env.backend.answer(first_echo_then(second));
        let mut client = env.gateway.client();
        assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 200);
        assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 502, "{context}");
        assert_eq!(env.backend.requests().len(), seen, "{context}");
    }
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 200);
    env.backend.answer(|_| Answer::close());
    assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 502);
    assert_eq!(env.backend.requests().len(), 3, "one request, and one that was retried");
}

/// The gateway is stopped while its idle connection closes and a request arrives, so it finds both at once.
#[test]
fn unsent_request_is_retried_for_every_method() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for round in 1..=5 {
        assert_eq!(client.request("POST", ITEMS, &[WRITER], b"first").status, 200);
        env.gateway.signal(Signal::STOP);
        env.backend.close_connections();
        client.send(upload_head(6)).send("second");
        env.gateway.signal(Signal::CONT);
        assert_eq!(client.response().status, 200, "round {round}");
        let requests = env.backend.wait_for_requests(2 * round);
        assert_eq!(requests.len(), 2 * round);
        assert_eq!(requests.last().unwrap().text(), "second");
    }
}

#[test]
fn malformed_answers_are_502() {
    let env = TestEnv::start("");
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(2 * 1024 * 1024));
    let mut client = env.gateway.client();
    for answer in [
        "HTTP/1.1 2x OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX y: z\r\n\r\n",
        "HTTP/4.2 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        &large,
    ] {
        let sent = answer.to_owned();
        env.backend.answer(move |_| Answer::raw(sent.clone()).then_close());
        let response = client.request("GET", ITEMS, &[WRITER], b"");
        let context = answer.chars().take(100).collect::<String>();
        assert_eq!((response.status, response.text()), (502, r#"{"message":"Bad Gateway."}"#), "{context}");
    }
    env.backend.answer(echo);
    assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 200);
    env.gateway.wait_for_metric("requests_total{reason=\"backend_broken\",status=\"502\"}", 9.0);
}

#[test]
fn truncated_response_is_not_completed() {
    let env = TestEnv::start("limits: {body_idle_timeout: 300ms}");
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let mut broken = 0.0;
    for answer in [
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_close(),
        Answer::raw(CHUNKED).then_close(),
        Answer::raw(CHUNKED).then("garbage\r\n").then_close(),
        Answer::raw(CHUNKED).then("5\r\nha").then_close(),
    ] {
        let context = format!("{answer:?}");
        env.backend.answer(move |_| answer.clone());
        let mut client = env.gateway.client();
        client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
        let error = client.try_response(false).expect_err(&context);
        assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock), "{context}: {error}");
        broken += 1.0;
        env.gateway.wait_for_metric("requests_total{reason=\"backend_broken\",status=\"200\"}", broken);
    }
    for answer in [
        Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_hang(),
        Answer::raw(CHUNKED).then_hang(),
    ] {
        env.backend.answer(move |_| answer.clone());
        let mut client = env.gateway.client();
        client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
        let started = Instant::now();
        client.try_response(false).expect_err("a broken message");
        assert!((250..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    }
    env.gateway.wait_for_metric("requests_total{reason=\"backend_timeout\",status=\"200\"}", 2.0);
}

/// An HTTP/1.0 response ends with the connection, so a regular close would make it look complete.
#[test]
fn truncated_response_resets_an_http10_connection() {
    let env = TestEnv::start("limits: {body_idle_timeout: 300ms}");
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (answer, whole) in [
        (Answer::raw(CHUNKED).then("0\r\n\r\n"), true),
        (Answer::raw(CHUNKED).then_close(), false),
        (Answer::raw(CHUNKED).then("garbage\r\n"), false),
        (Answer::raw(CHUNKED).then_hang(), false),
        (Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_close(), false),
    ] {
        let context = format!("{answer:?}");
        env.backend.answer(move |_| answer.clone());
        let mut socket = TcpStream::connect(env.gateway.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"GET /up HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
        let mut came = Vec::new();
        let end = socket.read_to_end(&mut came).map_err(|error| error.kind());
        let text = String::from_utf8_lossy(&came);
        assert!(text.starts_with("HTTP/1.0 200 ") && text.ends_with("half"), "{context}: {text}");
        match whole {
            true => assert!(end.is_ok(), "{context}: {end:?}"),
            false => assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{context}"),
        }
    }
    // A client that stopped reading gets a reset as well when the gateway gives up.
    let large = vec![b'x'; 64 * 1024 * 1024];
    env.backend.answer(move |_| Answer::with(200, &[], &large));
    let mut socket = TcpStream::connect(env.gateway.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"GET /up HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    env.gateway.wait_for_metric("requests_total{reason=\"client_gone\"}", 1.0);
    let end = socket.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn backend_timeout_starts_at_the_end_of_the_request_body() {
    let env = TestEnv::start("backend:\n  timeout: 300ms\n");
    let mut client = env.gateway.client();
    let slowly = |client: &mut RawClient| {
        client.send(upload_head(8));
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(100));
            client.send("x");
        }
        Instant::now()
    };
    slowly(&mut client);
    assert_eq!(client.response().status, 200, "a slow upload is not a backend timeout");
    env.backend.answer(|_| Answer::hang());
    let ended = slowly(&mut client);
    let response = client.response();
    assert_eq!((response.status, response.text()), (504, r#"{"message":"Gateway Timeout."}"#));
    let waited = ended.elapsed().as_millis();
    assert!((280..2000).contains(&waited), "{waited} ms");
    let started = Instant::now();
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 504);
    let waited = started.elapsed().as_millis();
    assert!((280..2000).contains(&waited), "{waited} ms");
    env.gateway.wait_for_metric("requests_total{reason=\"backend_timeout\",status=\"504\"}", 2.0);
}

#[test]
fn stalled_upload_is_408() {
    let env = TestEnv::start("limits: {body_idle_timeout: 300ms}");
    for sent in [upload_head(10) + "half", upload_head(10)] {
        let started = Instant::now();
        let answer = env.gateway.client().send(&sent).read_until_close();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.ends_with(r#"{"message":"Request Timeout."}"#), "{answer}");
        let waited = started.elapsed().as_millis();
        assert!((280..3000).contains(&waited), "{waited} ms");
    }
    env.gateway.wait_for_metric("requests_total{reason=\"limited\",status=\"408\"}", 2.0);
    assert!(env.backend.requests().iter().all(|request| !request.complete));
    let mut steady = env.gateway.client();
    steady.send(upload_head(5));
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(150));
        steady.send("x");
    }
    assert_eq!(steady.response().status, 200, "slow progress is not a timeout");
}

#[test]
fn backend_that_reads_no_upload_is_504() {
    let env = TestEnv::start("backend:\n  timeout: 200ms\nlimits: {body_idle_timeout: 300ms}");
    env.backend.answer_early(|_| Some(Answer::hang()));
    let mut client = env.gateway.client();
    client.send(upload_head(64 * 1024 * 1024));
    let started = Instant::now();
    // More than the socket buffers can hold.
    while !client.has_bytes() && client.try_send([b'x'; 64 * 1024]).is_ok() {
        assert!(started.elapsed() < PATIENCE, "the upload is still read");
    }
    assert_eq!(client.response().status, 504);
    let waited = started.elapsed().as_millis();
    assert!(waited < 5000, "{waited} ms");
    env.gateway.wait_for_metric("backend_connections", 0.0);
    env.gateway.wait_for_metric("requests_total{reason=\"backend_timeout\",status=\"504\"}", 1.0);
}

#[test]
fn client_that_does_not_read_its_response_is_disconnected() {
    let env = TestEnv::start("limits: {body_idle_timeout: 300ms}");
    let body = vec![b'x'; 64 * 1024 * 1024];
    env.backend.answer(move |_| Answer::with(200, &[], &body));
    let mut client = env.gateway.client();
    client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
    env.gateway.wait_for_metric("requests_total{reason=\"client_gone\",status=\"200\"}", 1.0);
    env.gateway.wait_for_metric("client_connections", 0.0);
    env.gateway.wait_for_metric("backend_connections", 0.0);
}

#[test]
fn backend_connect_timeout_is_502() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // No process accepts, and the backlog is full.
    let waiting: Vec<_> = (0..2)
        .map_while(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    let env = TestEnv::builder().backend(address).yaml("backend:\n  connect_timeout: 300ms\n").start();
    let started = Instant::now();
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 502);
    let waited = started.elapsed().as_millis();
    assert!((280..2000).contains(&waited), "{waited} ms");
    env.gateway.wait_for_metric("requests_total{reason=\"backend_unreachable\",status=\"502\"}", 1.0);
    drop(waiting);
}

#[test]
fn introspector_outage_changes_no_decision() {
    for (stale, known_may_be) in [("0s", &[200, 503][..]), ("60s", &[200])] {
        let mut env =
            TestEnv::start(&format!("cache: {{ttl: 50ms, negative_ttl: 50ms, stale_if_error: {stale}}}"));
        let done = AtomicBool::new(false);
        let (known, unknown) = (Mutex::new(HashMap::new()), Mutex::new(HashMap::new()));
        assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
        thread::scope(|scope| {
            for (token, statuses) in [("1|writer", &known), ("2|unknown", &unknown)].repeat(2) {
                let (gateway, done) = (&env.gateway, &done);
                scope.spawn(move || {
                    let mut client = gateway.client();
                    while !done.load(Ordering::SeqCst) {
                        let status = client.get(ITEMS, Some(token)).status;
                        *statuses.lock().unwrap().entry(status).or_insert(0) += 1;
                    }
                });
            }
            thread::sleep(Duration::from_millis(200));
            env.introspector.stop();
            thread::sleep(Duration::from_millis(400));
            env.introspector.resume();
            thread::sleep(Duration::from_millis(300));
            done.store(true, Ordering::SeqCst);
        });
        let seen = |statuses: &Mutex<HashMap<u16, usize>>| {
            let mut seen: Vec<_> = statuses.lock().unwrap().keys().copied().collect();
            seen.sort_unstable();
            seen
        };
        assert_eq!(seen(&known), known_may_be, "cached token, stale_if_error: {stale}");
        assert_eq!(seen(&unknown), [401, 503], "uncached token, stale_if_error: {stale}");
        assert_eq!(
            env.gateway.get(ITEMS, Some("1|writer")).status,
            200,
            "the gateway recovers without a restart"
        );
        assert_eq!(
            env.gateway.get(ITEMS, Some("2|unknown")).status,
            401,
            "the gateway recovers without a restart"
        );
    }
}

#[test]
fn client_disconnect_closes_the_backend_connection() {
    let env = TestEnv::builder().backend(TcpListener::bind("127.0.0.1:0").unwrap()).start();
    for (count, answer) in [(1.0, ""), (2.0, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")] {
        let mut client = env.gateway.client();
        client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
        let (mut at_backend, _) = env.backend.accept().unwrap();
        at_backend.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            at_backend.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        at_backend.write_all(answer.as_bytes()).unwrap();
        if !answer.is_empty() {
            client.read_some();
        }
        drop(client);
        let mut byte = [0];
        let end = at_backend.read(&mut byte);
        assert!(matches!(end, Ok(0)) || end.is_err_and(|error| crate::support::client::is_close(&error)));
        env.gateway.wait_for_metric("requests_total{reason=\"client_gone\"}", count);
    }
    env.gateway.wait_for_metric("requests_total{reason=\"client_gone\",status=\"499\"}", 1.0);
    env.gateway.wait_for_metric("backend_connections", 0.0);
}

#[test]
fn max_connections_is_shared_fairly_by_all_cores() {
    for bound in [1, 3] {
        let env = TestEnv::start(&format!("backend:\n  max_connections: {bound}\n"));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, peak) = (Arc::clone(&running), Arc::clone(&most));
        env.backend.answer(move |request| {
            peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(10));
            counted.fetch_sub(1, Ordering::SeqCst);
            echo(request)
        });
        let started = Instant::now();
        let slowest = Mutex::new(Duration::ZERO);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = env.gateway.client();
                    while started.elapsed() < Duration::from_secs(3) {
                        let asked = Instant::now();
                        let response = client.request("GET", ITEMS, &[WRITER], b"");
                        assert_eq!(response.status, 200, "{}", response.text());
                        let mut slowest = slowest.lock().unwrap();
                        *slowest = asked.elapsed().max(*slowest);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= bound, "{most:?} at once");
        let slowest = *slowest.lock().unwrap();
        assert!(slowest < Duration::from_millis(1500), "a request waited for {slowest:?}");
    }
}
