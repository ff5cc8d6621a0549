//! Lifetime of HTTP/2 connections and streams.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{client, h2c};
use crate::support::http2::{
    ACK, CANCEL, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Http2Client, INITIAL_WINDOW_SIZE, NO_ERROR,
    Outcome, PING, PREFACE, RST_STREAM, SETTINGS, literals, request,
};
use crate::support::{Answer, TestEnv, echo};

const SLOW: &str = "/up?slow";
const WRITER: (&str, &str) = ("authorization", "Bearer 1|writer");

/// Reads until the connection ends; returns the elapsed milliseconds and the error of GOAWAY.
fn until_end(client: &mut Http2Client) -> (u128, Option<u32>) {
    let started = Instant::now();
    let error = client.end();
    (started.elapsed().as_millis(), error)
}

fn assert_ends(what: &str, client: &mut Http2Client, expected: u128) {
    let started = Instant::now();
    let error = client.end_in_silence();
    let waited = started.elapsed().as_millis();
    assert!((expected - 50..expected + 2000).contains(&waited), "{what}: {waited} ms instead of {expected}");
    assert_eq!(error, Some(NO_ERROR), "{what}");
}

#[test]
fn idle_http2_connection_is_closed() {
    let env = h2c("limits: {header_timeout: 300ms, idle_timeout: 800ms}");
    let address = env.gateway.address();
    let block = literals(&request("GET", "/up", &[]));
    let halves = block.split_at(block.len() / 2);
    let begins = Frame::new(HEADERS, END_STREAM, 1, halves.0).bytes();
    let half_a_frame = Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, block.clone()).bytes();
    let half_a_ping = Frame::new(PING, 0, 0, [0; 8]).bytes();
    for (what, sent, expected) in [
        ("a preface", PREFACE.to_vec(), 300),
        ("half of SETTINGS", [PREFACE, &Frame::settings(&[(4, 1)]).bytes()[..12]].concat(), 300),
        ("fields without their end", [PREFACE, &Frame::settings(&[]).bytes(), &begins].concat(), 300),
        ("half a frame", [PREFACE, &Frame::settings(&[]).bytes(), &half_a_frame[..30]].concat(), 300),
        ("half a ping", [PREFACE, &Frame::settings(&[]).bytes(), &half_a_ping[..12]].concat(), 300),
        ("a greeting", [PREFACE, &Frame::settings(&[]).bytes()].concat(), 800),
    ] {
        let mut client = Http2Client::silent(address);
        client.send_bytes(sent);
        assert_ends(what, &mut client, expected);
    }
    let mut kept = client(&env);
    assert_eq!(kept.get("/up", None).status, 200);
    assert_ends("after a request", &mut kept, 800);
    // An incomplete head is counted as a refused request.
    let limited = env.gateway.metrics().metric(r#"requests_total{status="408",reason="limited"}"#);
    assert_eq!(limited, 5.0);
}

#[test]
fn pings_do_not_keep_an_idle_connection_open() {
    let env = h2c("limits: {header_timeout: 300ms, idle_timeout: 800ms}");
    let mut client = client(&env);
    let started = Instant::now();
    while client.ping() {
        assert!(started.elapsed() < Duration::from_secs(4), "still open");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() > Duration::from_millis(750), "{:?}", started.elapsed());
}

/// Header blocks that arrive byte by byte time out even while another stream is served.
#[test]
fn slow_http2_header_block_closes_the_connection() {
    let env = h2c("limits: {header_timeout: 300ms}");
    env.backend.answer(|request| echo(request).after(Duration::from_secs(5)));
    let mut client = client(&env);
    client.ask("GET", "/up", &[]);
    env.backend.wait_for_requests(1);
    let bytes = Frame::new(HEADERS, END_STREAM, 3, literals(&request("GET", "/up", &[]))).bytes();
    let started = Instant::now();
    let mut sent = bytes.iter();
    while client.try_send_bytes([*sent.next().expect("the connection closes before all is sent")]).is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

/// A connection with a request in progress is not idle, however long the response takes.
#[test]
fn slow_http2_response_is_delivered() {
    let env = h2c("limits: {header_timeout: 200ms, idle_timeout: 300ms}");
    env.backend.answer(|request| echo(request).after(Duration::from_millis(1500)));
    assert_eq!(client(&env).get("/up", None).status, 200);
}

#[test]
fn backend_timeout_fails_only_its_stream() {
    let env = h2c("backend:\n  timeout: 400ms\n");
    env.backend.answer(|request| match &*request.target {
        SLOW => Answer::hang(),
        _ => echo(request),
    });
    let mut client = client(&env);
    let slow = client.ask("GET", SLOW, &[]);
    assert_eq!(client.get("/up", None).status, 200);
    assert_eq!(client.outcome(slow).answer().status, 504);
    assert_eq!(client.get("/up", None).status, 200);
}

#[test]
fn stalled_http2_body_is_408() {
    let env = h2c("limits: {body_idle_timeout: 300ms}");
    let mut client = client(&env);
    let stream = client.open(&request("POST", "/api/v2/items", &[WRITER]), false);
    client.data(stream, b"bo", false);
    assert_eq!(client.outcome(stream).answer().status, 408);
    assert_eq!(client.get("/up", None).status, 200, "the connection stays open");
}

/// A client that leaves a response unread keeps its stream and the buffered data until the write timeout.
#[test]
fn unread_http2_response_is_reset_after_its_timeout() {
    let env = h2c("limits: {body_idle_timeout: 300ms}");
    let body = "x".repeat(2 * 1024 * 1024);
    env.backend.answer(move |request| match &*request.target {
        "/up?large" => Answer::with(200, &[], &body),
        _ => echo(request),
    });
    for window in [0, 1, 65_535] {
        let mut client = Http2Client::silent(env.gateway.address());
        client.greet(&[(INITIAL_WINDOW_SIZE, window)]);
        client.reads_on = false;
        let unread = client.ask("GET", "/up?large", &[]);
        let started = Instant::now();
        assert!(matches!(client.outcome(unread), Outcome::Reset(CANCEL)), "window {window}");
        assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
        assert!(client.ping(), "the connection stays open");
    }
    env.gateway.wait_for_metric(r#"requests_total{reason="client_gone"}"#, 3.0);
    // A slow but steady reader does not time out.
    let mut slow = Http2Client::silent(env.gateway.address());
    slow.greet(&[]);
    slow.reads_on = false;
    let stream = slow.ask("GET", "/up?large", &[]);
    let mut open = |window: u32| {
        slow.send_bytes([0, stream].map(|it| Frame::window_update(it, window).bytes()).concat());
    };
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(100));
        open(20_000);
    }
    open(1 << 24);
    assert_eq!(slow.outcome(stream).answer().body.len(), 2 * 1024 * 1024);
}

#[test]
fn reset_stream_aborts_its_backend_request() {
    let env = h2c("");
    env.backend.answer(|request| if request.target == SLOW { Answer::hang() } else { echo(request) });
    let mut client = client(&env);
    let stream = client.ask("GET", SLOW, &[]);
    env.backend.wait_for_requests(1);
    client.send(&Frame::reset(stream, CANCEL));
    env.gateway.wait_for_metric(r#"requests_total{status="499",reason="client_gone"}"#, 1.0);
    env.gateway.wait_for_metric("backend_connections", 0.0);
    assert_eq!(client.get("/up", None).status, 200, "the connection stays open");
    // The connection window is exhausted.
    client.ask("GET", SLOW, &[]);
    client.ask("GET", SLOW, &[]);
    env.backend.wait_for_requests(4);
    drop(client);
    env.gateway.wait_for_metric(r#"requests_total{status="499",reason="client_gone"}"#, 3.0);
    env.gateway.wait_for_metric("client_connections", 0.0);
}

/// A connection is active while any of its streams is.
#[test]
fn http2_connection_is_active_while_any_stream_is() {
    const ACTIVE: &str = r#"client_connections{state="active"}"#;
    const IDLE: &str = r#"client_connections{state="idle"}"#;
    let env = h2c("");
    let mut client = client(&env);
    assert_eq!(client.get("/up", None).status, 200);
    env.gateway.wait_for_metric(IDLE, 1.0);
    env.backend.answer(|request| match &*request.target {
        "/up?5" => Answer::hang(),
        _ => echo(request).after(Duration::from_millis(300)),
    });
    let streams: Vec<u32> = (0..6).map(|number| client.ask("GET", &format!("/up?{number}"), &[])).collect();
    env.gateway.wait_for_metric(ACTIVE, 1.0);
    assert_eq!(env.gateway.metrics().metric(IDLE), 0.0);
    for stream in &streams[..5] {
        assert_eq!(client.outcome(*stream).answer().status, 200);
    }
    assert_eq!(env.gateway.metrics().metric(ACTIVE), 1.0);
    client.send(&Frame::reset(streams[5], CANCEL));
    env.gateway.wait_for_metric(IDLE, 1.0);
    assert_eq!(env.gateway.metrics().metric(ACTIVE), 0.0);
    drop(client);
    env.gateway.wait_for_metric(IDLE, 0.0);
}

#[test]
fn http2_drain_finishes_streams_in_flight() {
    let TestEnv { backend: upstream, introspector: _introspector, mut gateway } = h2c("");
    upstream.answer(|request| echo(request).after(Duration::from_millis(600)));
    let mut idle = Http2Client::connect(gateway.address());
    assert!(idle.ping());
    let mut busy = Http2Client::connect(gateway.address());
    let streams = [(); 3].map(|()| busy.ask("GET", "/up", &[]));
    upstream.wait_for_requests(3);
    gateway.signal(Signal::TERM);
    let (waited, error) = until_end(&mut idle);
    assert!(waited < 400, "an idle connection was open for {waited} ms");
    assert_eq!(error, Some(NO_ERROR));
    for stream in streams {
        assert_eq!(busy.outcome(stream).answer().status, 200);
    }
    assert_eq!(busy.away(), Some(NO_ERROR), "the client received GOAWAY earlier");
    assert_eq!(busy.end(), Some(NO_ERROR));
    assert_eq!(gateway.wait_exit(Duration::from_secs(3)).code(), Some(0));
}

/// The drain does not wait for a client that does not read, however long its timeout.
#[test]
fn http2_drain_does_not_wait_for_an_unresponsive_client() {
    let TestEnv { backend: _backend, introspector: _introspector, mut gateway } =
        h2c("limits: {header_timeout: 400ms}");
    let mut deaf = Http2Client::connect(gateway.address());
    assert_eq!(deaf.get("/up", None).status, 200);
    gateway.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(gateway.wait_exit(Duration::from_secs(5)).code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn http2_drain_ends_after_its_timeout() {
    let TestEnv { backend: upstream, introspector: _introspector, mut gateway } =
        h2c("  drain_timeout: 300ms\n");
    upstream.answer(|_| Answer::hang());
    let mut client = Http2Client::connect(gateway.address());
    client.ask("GET", "/up", &[]);
    upstream.wait_for_requests(1);
    gateway.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(gateway.wait_exit(Duration::from_secs(3)).code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(280), "{:?}", started.elapsed());
}

/// Concurrent streams each get their own response.
#[test]
fn slow_stream_does_not_delay_others() {
    let env = h2c("");
    env.backend.answer(|request| {
        let late = request.target.ends_with('0');
        echo(request).after(Duration::from_millis(if late { 400 } else { 0 }))
    });
    let mut client = client(&env);
    let started = Instant::now();
    let streams: Vec<_> = (0..50).map(|it| (it, client.ask("GET", &format!("/up?{it}"), &[]))).collect();
    for (number, stream) in streams {
        let answer = client.outcome(stream).answer();
        assert_eq!(answer.json()["target"], format!("/up?{number}"));
    }
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[test]
fn frames_after_the_end_of_a_stream_are_ignored() {
    let env = h2c("");
    let mut client = client(&env);
    let stream = client.ask("GET", "/up", &[]);
    assert_eq!(client.outcome(stream).answer().status, 200);
    client.send(&Frame::reset(stream, CANCEL));
    client.send(&Frame::window_update(stream, 1));
    client.send(&Frame::new(SETTINGS, 0, 0, []));
    client.send(&Frame::new(0xfa, 0xff, 7, *b"unknown"));
    assert!(client.ping());
}

/// RFC 9113 section 8.1: an early response is no reason to reset a stream whose body is still being sent.
#[test]
fn client_rejected_while_sending_reads_the_response() {
    let env = h2c("limits: {body: 1MiB}");
    for (fields, status) in [(&[][..], 401), (&[WRITER, ("content-length", "2000000")], 413)] {
        let mut client = Http2Client::connect(env.gateway.address());
        let stream = client.open(&request("POST", "/api/v2/items", fields), false);
        assert_eq!(client.outcome(stream).answer().status, status);
        // As much body as the windows allow without a response, then its end.
        client.data(stream, &[b'a'; 16 * 1024], false);
        thread::sleep(Duration::from_millis(100));
        client.data(stream, b"", fields.is_empty());
        client.send_bytes(Frame::new(PING, 0, 0, *b"are you?").bytes());
        let frames = std::iter::from_fn(|| client.frame());
        let before: Vec<_> =
            frames.take_while(|it| (it.kind, it.flags) != (PING, ACK)).map(|it| it.kind).collect();
        assert!(!before.contains(&RST_STREAM) && !before.contains(&GOAWAY), "{before:?}");
        assert_eq!(client.get("/up", None).status, 200);
    }
}
