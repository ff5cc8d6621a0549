//! One connection of a proxy carries the requests of all its clients: no client may end it.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{DECISION, ITEMS, PATH_PREFIX, READER, start};
use crate::support::decision::{CHECK, Checked, call, called, check_request, frame};
use crate::support::http2::{
    CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, HEADERS, Http2Client, NO_ERROR, Outcome,
    PING, PREFACE, PROTOCOL_ERROR, REFUSED_STREAM, SETTINGS, literals, request,
};
use crate::support::proxies::{Kind, Proxied};
use crate::support::{RawClient, TestEnv};

/// SETTINGS_MAX_CONCURRENT_STREAMS for proxies.
const STREAMS: usize = 1024;
const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// The bytes of a call with a bearer token.
fn check(token: &str) -> Vec<u8> {
    let authorization = format!("Bearer {token}");
    let fields: [(&[u8], &[u8]); 1] = [(b"authorization", authorization.as_bytes())];
    let checked =
        Checked { method: "GET", target: ITEMS, host: "a", fields: &fields, source: None, raw: false };
    frame(&check_request(&checked))
}

/// The frames of a call on the next stream.
fn frames(client: &mut Http2Client, body: &[u8]) -> (u32, Vec<u8>) {
    let stream = client.next_stream();
    let head = Frame::new(HEADERS, END_HEADERS, stream, literals(&request("POST", CHECK, &GRPC)));
    let data = Frame::new(DATA, END_STREAM, stream, body);
    (stream, [head.bytes(), data.bytes()].concat())
}

/// Sends calls without reading their answers.
fn open(client: &mut Http2Client, calls: usize, body: &[u8]) -> Vec<u32> {
    let mut bytes = Vec::new();
    let streams = (0..calls).map(|_| {
        let (stream, frames) = frames(client, body);
        bytes.extend(frames);
        stream
    });
    let streams: Vec<u32> = streams.collect();
    client.send_bytes(bytes);
    streams
}

fn resets(streams: &[u32]) -> Vec<u8> {
    streams.iter().flat_map(|stream| Frame::reset(*stream, CANCEL).bytes()).collect()
}

/// Asserts that the connection still serves another client of the proxy.
fn assert_serves(client: &mut Http2Client, context: &str) {
    let decision = called(&call(client, CHECK, &check(READER)));
    assert!(decision.is_allowed(), "{context}: {decision:?}");
    assert_eq!(client.away(), None, "{context}");
}

#[test]
fn resets_before_requests_are_accepted_do_not_end_the_connection_of_a_proxy() {
    let env = start(DECISION);
    let mut client = Http2Client::connect(env.decision());
    let mut bytes = Vec::new();
    // The least bytes of a request that is reset, and a call.
    for number in 0..20_000 {
        if number % 2 == 0 {
            let stream = client.next_stream();
            let head = b"\x82\x84\x86\x01\x01a".as_slice();
            bytes.extend(Frame::new(HEADERS, END_STREAM | END_HEADERS, stream, head).bytes());
            bytes.extend(resets(&[stream]));
        } else {
            let (stream, frames) = frames(&mut client, &check(READER));
            bytes.extend([frames, resets(&[stream])].concat());
        }
    }
    client.send_bytes(bytes);
    assert_serves(&mut client, "20,000 resets in one piece");
}

#[test]
fn resets_of_waiting_requests_do_not_end_the_connection_of_a_proxy() {
    let env = start(DECISION);
    env.introspector.delay(Duration::from_millis(300));
    let mut client = Http2Client::connect(env.decision());
    assert!(client.ping());
    for round in 0..5 {
        let streams = open(&mut client, STREAMS, &check(&format!("9|unknown{round}")));
        assert!(client.ping());
        // Some proxies send a PING with each reset.
        let pings = Frame::new(PING, 0, 0, [0; 8]).bytes().repeat(STREAMS);
        client.send_bytes([resets(&streams), pings].concat());
    }
    env.introspector.delay(Duration::ZERO);
    assert_serves(&mut client, "5 × 1,024 resets at once");
    for round in 0..4000 {
        let streams = open(&mut client, 1, &check(READER));
        client.send_bytes(resets(&streams));
        if round % 100 == 0 {
            assert_serves(&mut client, &format!("{round} resets, one by one"));
        }
    }
}

/// Such as by a field that only a client's own connection may have.
#[test]
fn malformed_requests_do_not_end_the_connection_of_a_proxy() {
    let env = start(PATH_PREFIX);
    let mut client = Http2Client::connect(env.decision());
    for number in 0..300 {
        let stream = client.ask("GET", "/decision/up", &[("te", "gzip")]);
        let outcome = client.outcome(stream);
        assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR)), "{number}: {outcome:?}");
    }
    assert_serves(&mut client, "300 malformed requests");
}

/// h2 queues a reset for each, and reads on.
#[test]
fn malformed_requests_of_a_proxy_that_does_not_read_hold_little_memory() {
    const MIB: u64 = 1 << 20;
    let env = start(PATH_PREFIX);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // The kernel buffers few responses.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&env.decision().into()).unwrap();
    let mut client = TcpStream::from(socket);
    client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    client.write_all(PREFACE).unwrap();
    client.write_all(&Frame::new(SETTINGS, 0, 0, []).bytes()).unwrap();
    let before = env.gateway.resident_memory();
    let head = literals(&request("GET", "/decision/up", &[("te", "gzip")]));
    let sent = (0..4000_u32).take_while(|turn| {
        let streams = (0..100).map(|number| (turn * 100 + number) * 2 + 1);
        let heads = streams.map(|it| Frame::new(HEADERS, END_STREAM | END_HEADERS, it, head.clone()).bytes());
        client.write_all(&heads.collect::<Vec<_>>().concat()).is_ok()
    });
    let sent = sent.count();
    let held = env.gateway.resident_memory().saturating_sub(before);
    println!("{} KiB after {sent} × 100 malformed requests", held / 1024);
    assert!(sent < 4000, "the gateway reads on");
    assert!(held < 8 * MIB, "{} KiB", held / 1024);
    assert_serves(&mut Http2Client::connect(env.decision()), "another connection");
}

/// Envoy passes on heads of 60 KiB, which are beyond `limits.header_bytes`.
#[test]
fn large_heads_do_not_end_the_connection_of_a_proxy() {
    let env = start(PATH_PREFIX);
    let mut client = Http2Client::connect(env.decision());
    let (piece, long) = ("x".repeat(600), "x".repeat(60 * 1024));
    // The value of the last one begins when the limit is exceeded, and continues in several frames.
    let late = [vec![("a", &*piece); 40], vec![("b", &long[..36 * 1024])]].concat();
    for fields in [vec![("cookie", &*long)], vec![("a", &*piece); 100], late] {
        let refused = client.request("GET", "/decision/up", &fields, b"").answer();
        assert_eq!(refused.status, 431, "{}", fields.len());
        assert_serves(&mut client, "a large head");
    }
}

#[test]
fn proxy_may_have_1024_requests_at_once() {
    let env = start(DECISION);
    env.introspector.delay(Duration::from_millis(500));
    let mut client = Http2Client::connect(env.decision());
    let settings = client.frame().unwrap();
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 4, 0]), "{settings:?}");
    let before = env.gateway.resident_memory();
    let mut streams = open(&mut client, STREAMS, &check(READER));
    let refused = open(&mut client, 200, &check(READER));
    for stream in refused {
        assert!(matches!(client.outcome(stream), Outcome::Reset(REFUSED_STREAM)));
    }
    let grown = env.gateway.resident_memory().saturating_sub(before);
    println!("{} KiB for {STREAMS} waiting calls", grown / 1024);
    assert!(grown < 24 << 20, "{grown}");
    while let Some(stream) = streams.pop() {
        assert!(called(&client.outcome(stream).answer()).is_allowed());
    }
    assert_eq!(env.introspector.calls(), 1);
    assert_serves(&mut client, "200 refused streams");
}

#[test]
fn frames_without_effect_still_end_the_connection_of_a_proxy() {
    let env = start(DECISION);
    for (what, frames) in [
        ("PING", Frame::new(PING, 0, 0, [0; 8])),
        ("SETTINGS", Frame::settings(&[])),
        ("resets of one stream", Frame::reset(1, CANCEL)),
    ] {
        let mut client = Http2Client::connect(env.decision());
        assert_serves(&mut client, what);
        let _ = client.try_send_bytes(frames.bytes().repeat(100_000));
        assert_eq!(client.end(), Some(ENHANCE_YOUR_CALM), "{what}");
    }
}

/// The limits of the proxy listener.
#[test]
fn untrusted_peer_has_the_limits_of_a_client() {
    let env = start(&DECISION.replace("127.0.0.0/8", "127.0.0.2"));
    let mut client = Http2Client::connect(env.decision());
    let settings = client.frame().unwrap();
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 100]), "{settings:?}");
    let mut bytes = Vec::new();
    for _ in 0..2000 {
        let (stream, frames) = frames(&mut client, &check(READER));
        bytes.extend([frames, resets(&[stream])].concat());
    }
    let _ = client.try_send_bytes(bytes);
    let away = client.end();
    assert!(matches!(away, Some(ENHANCE_YOUR_CALM | NO_ERROR)), "{away:?}");
    let fields = [("x-original-method", "GET"), ("x-original-uri", "/up")];
    let mut trusted = RawClient::connect_from("127.0.0.2", env.decision());
    assert_eq!(trusted.request("GET", "/auth", &fields, b"").status, 200);
}

/// Envoy resets the call of a client that disconnects.
#[test]
#[ignore = "needs envoy: tests/run"]
fn clients_that_disconnect_deny_service_to_no_other_client_of_envoy() {
    let yaml = Kind::EnvoyGrpc.decision();
    let env = TestEnv::builder().token(READER, &["items:read"]).yaml(&yaml).start();
    let proxied = Proxied::start(Kind::EnvoyGrpc, env);
    assert_eq!(proxied.client().get(ITEMS, Some(READER)).status, 200);
    // Unknown tokens are decided on while their clients disconnect.
    proxied.env.introspector.delay(Duration::from_millis(100));
    let stop = AtomicBool::new(false);
    let statuses: Vec<u16> = thread::scope(|scope| {
        for thread in 0..4 {
            let (proxied, stop) = (&proxied, &stop);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = RawClient::connect_from("127.0.0.3", proxied.address);
                    let head = "HTTP/1.1\r\nHost: a\r\n";
                    let unknown =
                        format!("GET {ITEMS} {head}Authorization: Bearer {thread}|{number}\r\n\r\n");
                    client.send(if number % 2 == 0 { format!("GET /up {head}\r\n") } else { unknown });
                    thread::sleep(Duration::from_micros(500));
                    client.reset();
                    thread::sleep(Duration::from_millis(1));
                    number += 1;
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(4);
        let statuses = std::iter::from_fn(|| {
            (Instant::now() < end).then(|| proxied.client().get(ITEMS, Some(READER)).status)
        });
        let statuses = statuses.collect();
        stop.store(true, Ordering::Relaxed);
        statuses
    });
    println!("{} requests of the other client", statuses.len());
    assert!(statuses.len() >= 10);
    let refused = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(refused, 0, "of {}", statuses.len());
}
