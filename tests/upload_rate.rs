//! `limits.body_rate`: slow uploads are ended, and others are not.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2::{Frame, Http2Client, Outcome, request};
use crate::support::http2_upstream::Http2Upstream;
use crate::support::manual_backend::ManualBackend;
use crate::support::{RawClient, TestEnv};

const ITEMS: &str = "/api/v2/items";
const WRITER: (&str, &str) = ("authorization", "Bearer 1|writer");
const TOO_SLOW: &str = "the request body arrived more slowly than limits.body_rate";

/// The grace period is no longer than `body_idle_timeout`.
const RATE: &str = "\
listen:
  h2c: true
limits: {body_rate: 10KiB, body_idle_timeout: 500ms}
";

/// Pauses of the uploads: much shorter than `body_idle_timeout`.
const PAUSE: Duration = Duration::from_millis(100);

fn head(fields: &str) -> String {
    format!("POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n{fields}\r\n")
}

/// Sends a piece after each pause, until there is a response or 3 seconds have passed. Returns the elapsed time.
fn trickle(client: &mut RawClient, piece: impl AsRef<[u8]>) -> Duration {
    let began = Instant::now();
    while !client.has_bytes() && began.elapsed() < Duration::from_secs(3) {
        thread::sleep(PAUSE);
        let _ = client.try_send(&piece);
    }
    began.elapsed()
}

fn assert_timed_out(env: &TestEnv<impl Sized>, count: usize) {
    env.gateway.wait_for_metric("requests_total{reason=\"limited\",status=\"408\"}", count as f64);
    env.gateway.wait_for_log(|line| line["status"] == 408 && line["detail"] == TOO_SLOW);
    env.gateway.wait_for_metric("backend_connections{state=\"active\"}", 0.0);
}

#[test]
fn slow_upload_is_408_and_closes_the_connection() {
    for (fields, piece) in [
        ("Content-Length: 100000\r\n", vec![b'x']),
        ("Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n".to_vec()),
        // Bursts of 80 % of the rate.
        ("Content-Length: 100000\r\n", vec![b'x'; 800]),
    ] {
        let env = TestEnv::start(RATE);
        let mut client = env.gateway.client();
        client.send(head(fields));
        let lasted = trickle(&mut client, &piece);
        let context = format!("{fields}pieces of {} bytes: {lasted:?}", piece.len());
        assert!(lasted > Duration::from_millis(450), "{context}");
        assert!(piece.len() < 100 && lasted < Duration::from_secs(2) || piece.len() == 800, "{context}");
        let response = String::from_utf8(client.read_until_close()).unwrap();
        assert!(response.starts_with("HTTP/1.1 408 "), "{context}: {response}");
        assert!(response.ends_with(r#"{"message":"Request Timeout."}"#), "{context}: {response}");
        assert_timed_out(&env, 1);
        assert!(!env.backend.only_request().complete, "{context}");
    }
}

#[test]
fn slow_http2_uploads_are_408_and_leave_the_connection_open() {
    const STREAMS: usize = 20;
    let http1 = TestEnv::start(RATE);
    let http2 = TestEnv::builder().backend(Http2Upstream::start()).yaml(RATE).start();
    assert_streams_time_out(&http1, STREAMS);
    assert_streams_time_out(&http2, STREAMS);
}

fn assert_streams_time_out(env: &TestEnv<impl Sized>, count: usize) {
    let mut client = Http2Client::connect(env.gateway.address());
    let fields = request("POST", ITEMS, &[WRITER]);
    let streams: Vec<u32> = (0..count).map(|_| client.open(&fields, false)).collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        for stream in &streams {
            client.data(*stream, b"x", false);
        }
        thread::sleep(PAUSE);
    }
    for stream in streams {
        assert_eq!(client.outcome(stream).answer().status, 408);
    }
    assert_eq!(client.get("/up", None).status, 200, "the connection stays open");
    assert_timed_out(env, count);
}

#[test]
fn upload_at_the_rate_is_forwarded() {
    let env = TestEnv::start(RATE);
    let mut client = env.gateway.client();
    client.send(head("Content-Length: 30000\r\n"));
    for _ in 0..20 {
        thread::sleep(PAUSE);
        client.send([b'x'; 1500]);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(env.backend.only_request().body.len(), 30_000);
}

#[test]
fn slow_upload_is_forwarded_without_a_rate() {
    let env = TestEnv::start("limits: {body_idle_timeout: 500ms}");
    let mut client = env.gateway.client();
    client.send(head("Content-Length: 12\r\n"));
    for _ in 0..12 {
        thread::sleep(PAUSE);
        client.send("x");
    }
    assert_eq!(client.response().status, 200);
}

/// The client sends as fast as it can.
#[test]
fn time_in_which_the_backend_does_not_read_does_not_count() {
    let env = TestEnv::start(RATE);
    env.backend.answer_early(|_| {
        thread::sleep(Duration::from_secs(1));
        None
    });
    let body = vec![b'x'; 16 << 20];
    let response = env.gateway.client().request("POST", ITEMS, &[WRITER], &body);
    assert_eq!(response.status, 200);
    let mut client = Http2Client::connect(env.gateway.address());
    assert!(client.ping(), "the windows of the gateway's SETTINGS apply");
    let outcome = client.upload(ITEMS, &[WRITER], &body[..8 << 20], [1 << 19, 1 << 16]);
    assert_eq!(outcome.answer().status, 200);
}

#[test]
fn wait_for_100_continue_does_not_count() {
    let mut env = TestEnv::builder().backend(ManualBackend::start()).yaml(RATE).start();
    let mut client = env.gateway.client();
    client.send(head("Expect: 100-continue\r\nContent-Length: 4\r\n"));
    let (mut backend, _) = env.backend.request();
    thread::sleep(Duration::from_millis(800));
    backend.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.read_some(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    assert_eq!(backend.read(4), b"body");
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

/// Its head was sent, so that it can only be truncated.
#[test]
fn slow_upload_truncates_a_response_that_has_begun() {
    const EARLY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf";
    // The response begins long before the credit is used up.
    let patient = RATE.replace("500ms", "1500ms");
    let mut env = TestEnv::builder().backend(ManualBackend::start()).yaml(&patient).start();
    let mut client = env.gateway.client();
    client.send(head("Content-Length: 100000\r\n"));
    let (mut backend, _) = env.backend.request();
    backend.send(EARLY);
    let began = Instant::now();
    while client.try_send("x").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(5), "the upload goes on");
        let _ = backend.try_send(".");
        thread::sleep(Duration::from_millis(20));
    }
    let mut http2 = Http2Client::connect(env.gateway.address());
    let stream = http2.open(&request("POST", ITEMS, &[WRITER]), false);
    let (mut backend, _) = env.backend.request();
    backend.send(EARLY);
    for _ in 0..20 {
        http2.data(stream, b"x", false);
        let _ = backend.try_send(".");
        thread::sleep(PAUSE);
    }
    assert!(matches!(http2.outcome(stream), Outcome::Reset(_)));
    assert!(http2.body_so_far(stream).starts_with(b"half."));
    http2.send(&Frame::window_update(0, 1));
    assert!(http2.ping(), "the connection stays open");
    env.gateway.wait_for_metric("requests_total{reason=\"limited\",status=\"200\"}", 2.0);
    env.gateway.wait_for_log(|line| line["reason"] == "limited" && line["detail"] == TOO_SLOW);
}
