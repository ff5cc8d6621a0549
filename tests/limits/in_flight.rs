//! `rate_limit.in_flight`: how long a request counts, and for what.

use std::thread;
use std::time::{Duration, Instant};

use super::{ITEMS, assert_too_often};
use crate::support::http2::{Frame, Http2Client};
use crate::support::manual_backend::{BackendConnection, ManualBackend};
use crate::support::{Answer, RawClient, TestEnv, Verdict, echo};

const GET: &str = "GET /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
/// Rates that no test reaches.
const RATES: &str = "requests_per_second: 100000, burst: 100000";

fn limited(in_flight: u32) -> String {
    format!("rate_limit: {{{RATES}, in_flight: {in_flight}}}\n")
}

fn manual(yaml: &str) -> TestEnv<ManualBackend> {
    TestEnv::builder().backend(ManualBackend::start()).yaml(yaml).start()
}

impl TestEnv<ManualBackend> {
    /// A request that the backend has received and not answered.
    fn in_flight(&mut self) -> (RawClient, BackendConnection) {
        let mut client = self.gateway.client();
        client.send(GET);
        (client, self.backend.request().0)
    }
}

/// The status of a request, once it is no longer 429: what ends a request may reach the gateway after the next one.
fn status_soon(env: &TestEnv, token: &str) -> u16 {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let status = env.status(ITEMS, token);
        if status != 429 || Instant::now() > end {
            return status;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn token_over_its_requests_in_flight_is_429() {
    let mut env = manual(&limited(2));
    env.introspector.set_verdict("01|writer", Verdict::active(&["*"]).named(1, "renamed"));
    // The two connections are on two workers.
    let (mut first, mut answers_first) = env.in_flight();
    let (_second, _answers_second) = env.in_flight();
    for token in ["1|writer", "01|writer"] {
        let refused = env.gateway.get(ITEMS, Some(token));
        assert_too_often(&refused, "2");
    }
    let line = env.gateway.wait_for_log(|line| line["status"] == 429);
    assert_eq!([&line["reason"], &line["limit"], &line["token_id"]], ["limited", "in_flight", "1"]);
    // The count ends with the body, not with the head.
    answers_first.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo");
    first.read_head();
    assert_eq!(env.status(ITEMS, "1|writer"), 429);
    answers_first.send("ne");
    let mut rest = [0; 4];
    first.read_exact(&mut rest);
    first.send(GET);
    answers_first.request();
    answers_first.send(ANSWER);
    assert_eq!(first.response().status, 200);
    assert!(env.backend.has_no_connection(), "refused requests did not reach the backend");
}

/// Whoever asks for a tunnel and gets a response instead has a request in flight, whether it reads the response or not.
#[test]
fn handshake_counts_until_it_is_a_tunnel() {
    let mut env = manual(&limited(1));
    let handshake = GET.replace(
        "\r\n\r\n",
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut client = env.gateway.client();
    client.send(&handshake);
    let (mut backend, _) = env.backend.request();
    assert_eq!(env.status(ITEMS, "1|writer"), 429);
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo");
    client.read_head();
    assert_eq!(env.status(ITEMS, "1|writer"), 429, "the response has not ended");
    backend.send("ne");
    client.read_exact(&mut [0; 4]);
    // Over the connections that both sides have kept.
    client.send(&handshake);
    backend.request();
    backend.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    client.read_head();
    let (mut third, mut backend) = env.in_flight();
    backend.send(ANSWER);
    assert_eq!(third.response().status, 200, "a tunnel is no request in flight");
}

#[test]
fn streams_of_one_http2_connection_count() {
    let mut env = manual(&format!("listen:\n  h2c: true\n{}", limited(3)));
    let mut client = Http2Client::connect(env.gateway.address());
    let fields = [("authorization", "Bearer 1|writer")];
    let open = |client: &mut Http2Client| client.ask("GET", ITEMS, &fields);
    let (streams, mut backends): (Vec<_>, Vec<_>) =
        (0..3).map(|_| (open(&mut client), env.backend.request().0)).unzip();
    let refused = open(&mut client);
    assert_too_often(&client.outcome(refused).answer(), "3");
    // A stream that is reset counts no longer, nor does one that is answered.
    client.send(&Frame::reset(streams[0], 8));
    assert!(backends[0].until_close() < Duration::from_secs(2));
    backends[1].send(ANSWER);
    assert_eq!(client.outcome(streams[1]).answer().status, 200);
    let _further = [open(&mut client), open(&mut client)];
    backends[1].request();
    let _backend = env.backend.request();
    let refused = open(&mut client);
    assert_too_often(&client.outcome(refused).answer(), "3");
}

#[test]
fn request_counts_no_longer_however_it_ended() {
    let env = TestEnv::builder()
        .yaml(&format!("{}backend:\n  timeout: 300ms\n", limited(1)))
        .yaml("limits: {body: 10, body_idle_timeout: 300ms}\n")
        .start();
    let head = GET.trim_end();
    let post = head.replace("GET", "POST");
    let chunked = format!("{post}\r\nTransfer-Encoding: chunked\r\n\r\n");
    type Script = fn() -> Answer;
    let hang: Script = Answer::hang;
    for (what, script, request, statuses) in [
        ("answered", (|| Answer::with(200, &[], "ok")) as Script, GET.to_owned(), &[200][..]),
        ("without a body", || Answer::with(204, &[], ""), GET.to_owned(), &[204]),
        ("HEAD", || Answer::with(200, &[], "ok"), GET.replace("GET", "HEAD"), &[200]),
        ("backend timeout", hang, GET.to_owned(), &[504]),
        ("backend closes", Answer::close, GET.to_owned(), &[502]),
        ("malformed", || Answer::raw("nonsense\r\n\r\n"), GET.to_owned(), &[502]),
        ("too large", hang, format!("{post}\r\nContent-Length: 11\r\n\r\n01234567890"), &[413]),
        ("chunks too large", hang, format!("{chunked}b\r\n01234567890\r\n0\r\n\r\n"), &[413]),
        ("malformed chunks", hang, format!("{chunked}x\r\n"), &[400]),
        ("slow upload", hang, format!("{post}\r\nContent-Length: 9\r\n\r\nabc"), &[408]),
        (
            "truncated",
            || Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab").then_close(),
            GET.to_owned(),
            &[],
        ),
        (
            "stalled",
            || Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab").then_hang(),
            GET.to_owned(),
            &[],
        ),
    ] {
        for _ in 0..2 {
            env.backend.answer(move |_| script());
            let mut client = env.gateway.client();
            client.send(&request);
            match statuses {
                [] => drop(client.read_until_close()),
                _ => {
                    let is_head = request.starts_with("HEAD");
                    let response = if is_head { client.response_to_head() } else { client.response() };
                    assert!(statuses.contains(&response.status), "{what}: {}", response.status);
                }
            }
            env.backend.answer(echo);
            assert_eq!(status_soon(&env, "1|writer"), 200, "{what}");
        }
    }
    // A client that leaves, with its request and in the middle of its upload.
    for request in [GET.to_owned(), format!("{post}\r\nContent-Length: 9\r\n\r\nabc")] {
        env.backend.answer(|_| Answer::hang());
        let before = env.backend.take_requests().len();
        let mut client = env.gateway.client();
        client.send(&request);
        thread::sleep(Duration::from_millis(50));
        drop(client);
        env.backend.answer(echo);
        assert_eq!(status_soon(&env, "1|writer"), 200, "{before}");
    }
}

#[test]
fn requests_one_after_the_other_are_never_over_a_limit_of_one() {
    let env = TestEnv::builder().yaml(&format!("listen:\n  h2c: true\n{}", limited(1))).start();
    let large = "x".repeat(300_000);
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let mut clients = [env.gateway.client(), env.gateway.client()];
    let mut http2 = [0, 1].map(|_| Http2Client::connect(env.gateway.address()));
    for kind in 0..3 {
        let large = large.clone();
        env.backend.answer(move |_| match kind {
            0 => Answer::with(200, &[], "ok"),
            1 => Answer::with(200, &[], &large),
            _ => Answer::raw(chunks).then_wait(Duration::from_millis(1)).then("0\r\n\r\n"),
        });
        for number in 0..40 {
            let response = clients[number % 2].get(ITEMS, Some("1|writer"));
            assert_eq!(response.status, 200, "request {number} of kind {kind}");
            let response = http2[number % 2].get(ITEMS, Some("1|writer"));
            assert_eq!(response.status, 200, "request {number} of kind {kind} over HTTP/2");
        }
    }
}

#[test]
fn reload_neither_loses_nor_doubles_requests_in_flight() {
    let mut env = manual(&format!("{}log: {{level: info}}\n", limited(2)));
    let held = [env.in_flight(), env.in_flight()];
    assert_eq!(env.status(ITEMS, "1|writer"), 429);
    for (from, to) in [
        ("level: info", "level: debug"),
        ("in_flight: 2", "in_flight: 1"),
        ("burst: 100000", "burst: 90000"),
        ("rate_limit: {", "cache: {ttl: 50s}\nrate_limit: {"),
    ] {
        env.gateway.edit(from, to);
        assert!(env.gateway.reload());
        assert_eq!(env.status(ITEMS, "1|writer"), 429, "{to}");
    }
    let mut held = held.into_iter();
    let (_client, mut backend) = held.next().unwrap();
    backend.send(ANSWER);
    drop(_client);
    assert_eq!(env.status(ITEMS, "1|writer"), 429, "one is still in flight, of one");
    env.gateway.edit("in_flight: 1", "in_flight: 3");
    assert!(env.gateway.reload());
    // Two more: the first may use the kept connection.
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = env.gateway.client();
        client.send(GET);
        clients.push(client);
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(env.status(ITEMS, "1|writer"), 429, "three are in flight, of three");
    env.gateway.edit("in_flight: 3", "in_flight: 0");
    assert!(env.gateway.reload());
    let mut client = env.gateway.client();
    client.send(GET);
    assert!(!client.has_bytes());
}

#[test]
fn shadow_mode_limits_requests_in_flight() {
    let mut env = manual(&format!("mode: shadow\n{}", limited(1)));
    let _held = env.in_flight();
    env.introspector.set_verdict("2|reader", Verdict::active(&["nothing"]).named(1, "same id"));
    let refused = env.gateway.get(ITEMS, Some("2|reader"));
    assert_too_often(&refused, "1");
}
