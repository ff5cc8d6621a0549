//! Draining: no request is lost, and the drain ends within its timeout.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Answer, Gateway, RawClient, Response, TestEnv, echo};

const ITEMS: &str = "/api/v2/items";
const REQUEST: &str = "GET /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n";

/// Sends SIGTERM and waits until draining has begun.
fn terminate(gateway: &Gateway) {
    gateway.signal(Signal::TERM);
    gateway.wait_for_log(|line| line["message"] == "draining");
}

/// Waits until the gateway accepts no more connections.
fn wait_until_closed(gateway: &Gateway) {
    let end = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(gateway.address()).is_ok() {
        assert!(Instant::now() < end, "new connections are taken while draining");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the gateway has drained and exited with 0; returns the time that took.
fn ended(gateway: &mut Gateway, within: Duration) -> Duration {
    let began = Instant::now();
    assert_eq!(gateway.wait_exit(within).code(), Some(0));
    let lines = gateway.logs();
    assert!(lines.iter().any(|line| line.contains(r#""message":"drained""#)));
    began.elapsed()
}

/// Whether a response carries `Connection: close`.
fn is_last(response: &Response) -> bool {
    assert_eq!(response.status, 200);
    response.field("connection") == Some("close")
}

fn slow(milliseconds: u64) -> TestEnv {
    let env = TestEnv::start("");
    env.backend.answer(move |request| echo(request).after(Duration::from_millis(milliseconds)));
    env
}

#[test]
fn drain_finishes_requests_in_flight() {
    let mut env = slow(600);
    let mut busy: Vec<_> = (0..4).map(|_| env.gateway.client()).collect();
    for client in &mut busy {
        client.send(REQUEST);
    }
    env.backend.wait_for_requests(4);
    terminate(&env.gateway);
    wait_until_closed(&env.gateway);
    for mut client in busy {
        assert!(is_last(&client.response()));
        assert_eq!(client.read_until_close(), b"");
    }
    assert!(
        ended(&mut env.gateway, Duration::from_secs(3)) < Duration::from_millis(500),
        "no connection is left"
    );
    let lines = env.gateway.logs();
    assert_eq!(lines.iter().filter(|line| line.contains(r#""reason":"allowed""#)).count(), 4);
}

/// A kept connection gets `Connection: close` in its next response while the gateway drains.
#[test]
fn drain_sends_connection_close_on_idle_connections() {
    let mut env = slow(0);
    let connect = || env.gateway.client();
    let (mut kept, mut fresh, mut begun) = (connect(), connect(), connect());
    let (mut quiet, mut silent) = (connect(), connect());
    for client in [&mut kept, &mut quiet] {
        assert!(!is_last(&client.send(REQUEST).response()));
    }
    begun.send(&REQUEST[..30]);
    thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    terminate(&env.gateway);
    wait_until_closed(&env.gateway);
    thread::sleep(Duration::from_millis(300));
    assert!(is_last(&kept.send(REQUEST).response()));
    assert!(is_last(&fresh.send(REQUEST).response()), "the first request");
    assert!(is_last(&begun.send(&REQUEST[30..]).response()));
    for client in [&mut kept, &mut fresh, &mut begun] {
        assert_eq!(client.read_until_close(), b"");
    }
    for client in [&mut quiet, &mut silent] {
        assert_eq!(client.read_until_close(), b"");
    }
    let waited = began.elapsed().as_millis();
    assert!((950..2500).contains(&waited), "{waited} ms");
    ended(&mut env.gateway, Duration::from_millis(1500));
}

#[test]
fn drain_delivers_the_last_response_to_a_pipelining_client() {
    let env = slow(200);
    let mut client = env.gateway.client();
    client.send(REQUEST);
    env.backend.wait_for_requests(1);
    terminate(&env.gateway);
    wait_until_closed(&env.gateway);
    client.send(REQUEST.repeat(500));
    thread::sleep(Duration::from_millis(400));
    assert!(is_last(&client.response()));
    assert_eq!(client.read_until_close(), b"");
    assert_eq!(env.backend.requests().len(), 1, "a request after `Connection: close` was served");
}

#[test]
fn drain_ends_after_its_timeout() {
    let mut env = TestEnv::start("listen:\n  drain_timeout: 300ms\n");
    env.backend.answer(|_| Answer::hang());
    let mut client = env.gateway.client();
    client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
    env.backend.wait_for_requests(1);
    let _idle = env.gateway.client();
    env.gateway.signal(Signal::TERM);
    let took = ended(&mut env.gateway, Duration::from_secs(3));
    assert!((280..1500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(client.read_until_close(), b"");
    env.gateway.wait_for_log(|line| {
        line["message"].as_str().is_some_and(|it| it.contains("drain timed out")) && line["connections"] == 1
    });
}

#[test]
fn drain_delay_serves_requests_and_fails_readiness() {
    let mut env = TestEnv::start("listen:\n  drain_delay: 900ms\n");
    let ask = |path: &str| RawClient::connect(env.gateway.admin()).get(path, None).status;
    let (mut old, mut idle) = (env.gateway.client(), env.gateway.client());
    for client in [&mut old, &mut idle] {
        assert!(!is_last(&client.send(REQUEST).response()));
    }
    assert_eq!((ask("/readyz"), ask("/healthz")), (200, 200));
    let began = Instant::now();
    terminate(&env.gateway);
    assert_eq!((ask("/readyz"), ask("/healthz")), (503, 200));
    // Only connections opened before get `Connection: close`. New ones do not, because no other gateway serves them
    // yet.
    assert!(is_last(&old.send(REQUEST).response()));
    let mut new = env.gateway.client();
    for _ in 0..3 {
        assert!(!is_last(&new.send(REQUEST).response()));
    }
    wait_until_closed(&env.gateway);
    assert!(began.elapsed() >= Duration::from_millis(880), "{:?}", began.elapsed());
    for client in [&mut new, &mut idle] {
        assert!(is_last(&client.send(REQUEST).response()));
    }
    ended(&mut env.gateway, Duration::from_secs(3));
}

#[test]
fn second_signal_ends_the_drain() {
    for (yaml, signals) in [
        ("listen:\n  drain_timeout: 1m\n", [Signal::TERM, Signal::TERM]),
        ("listen:\n  drain_timeout: 1m\n", [Signal::INT, Signal::INT]),
        ("listen:\n  drain_delay: 1m\n", [Signal::TERM, Signal::INT]),
    ] {
        let mut env = TestEnv::start(yaml);
        env.backend.answer(|_| Answer::hang());
        let mut client = env.gateway.client();
        client.send(REQUEST);
        env.backend.wait_for_requests(1);
        env.gateway.signal(signals[0]);
        env.gateway.wait_for_log(|line| line["message"] == "draining");
        thread::sleep(Duration::from_millis(100));
        env.gateway.signal(signals[1]);
        ended(&mut env.gateway, Duration::from_secs(2));
        assert_eq!(client.read_until_close(), b"");
        env.gateway
            .wait_for_log(|line| line["message"].as_str().is_some_and(|it| it.contains("drain timed out")));
    }
}

#[test]
fn drain_finishes_a_large_response() {
    let mut env = TestEnv::start("");
    let body = vec![b'a'; 8 << 20];
    let sent = body.clone();
    env.backend.answer(move |_| Answer::with(200, &[], &sent));
    let mut client = env.gateway.client();
    client.send(format!("GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\n\r\n"));
    env.backend.wait_for_requests(1);
    thread::sleep(Duration::from_millis(100));
    terminate(&env.gateway);
    wait_until_closed(&env.gateway);
    let response = client.response();
    assert_eq!(response.field("connection"), None, "the head was sent before the drain");
    assert!(response.body == body);
    // The next response therefore has to carry it.
    assert!(is_last(&client.send(REQUEST).response()));
    ended(&mut env.gateway, Duration::from_secs(3));
}
