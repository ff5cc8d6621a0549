//! The queue in front of the backend: one caller cannot keep the connections from others.

mod php; // attacks on a real php-fpm

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::support::http2::{Http2Client, INITIAL_WINDOW_SIZE};
use crate::support::http2_upstream::{Http2Upstream, Reply};
use crate::support::{Answer, RawClient, TestEnv, stalled};

const MAP: &str = "\
abilities:
  routes:
    /open:         {GET: public, POST: public}
    /large:        {GET: public}
    /api/v2/items: {GET: items:read, POST: items:read}
    /api/v2/large: {GET: items:read}
";

/// More than the kernel and the gateway hold for a client that does not read.
const LARGE: usize = 8 << 20;

const GREEDY: &str = "1|greedy";
const SECOND: &str = "2|second";
const OTHER: &str = "3|other";

fn start(backend: &str) -> TestEnv {
    let env = TestEnv::builder()
        .yaml(MAP)
        .yaml(&format!("listen:\n  h2c: true\nbackend:\n{backend}"))
        .token(GREEDY, &["items:read"])
        .token(SECOND, &["items:read"])
        .token(OTHER, &["items:read"])
        .start();
    let large = vec![b'x'; LARGE];
    env.backend.answer(move |request| match &*request.target {
        "/large" | "/api/v2/large" => Answer::with(200, &[], &large),
        target if target.contains("slow") => Answer::with(200, &[], "slow").after(Duration::from_millis(400)),
        _ => Answer::with(200, &[], "ok"),
    });
    env
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Connections that request `target` and do not read the response.
fn unread(env: &TestEnv, count: usize, target: &str, token: Option<&str>) -> Vec<TcpStream> {
    let authorization = token.map(bearer).unwrap_or_default();
    (0..count)
        .map(|_| {
            let mut client = stalled::connect(env.gateway.address());
            write!(client, "GET {target} HTTP/1.1\r\nHost: a\r\n{authorization}\r\n").unwrap();
            client
        })
        .collect()
}

/// Connections that begin an upload of a megabyte and send no more of it.
fn stalled_uploads(env: &TestEnv, count: usize, token: &str) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let mut client = stalled::connect(env.gateway.address());
            let authorization = bearer(token);
            let head = "POST /api/v2/items HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n";
            write!(client, "{head}{authorization}\r\nbegun").unwrap();
            client
        })
        .collect()
}

/// Sends requests of another caller. All must succeed, and be fast once `settling` has passed since the first.
fn assert_served(env: &TestEnv, token: &str, settling: Duration) {
    let first = Instant::now();
    let mut client = env.gateway.client();
    let (mut slowest, mut fast) = (Duration::ZERO, 0);
    while fast < 60 {
        let began = Instant::now();
        let response = client.get("/api/v2/items", Some(token));
        assert_eq!(response.status, 200, "after {:?}: {}", first.elapsed(), response.text());
        if began.duration_since(first) >= settling {
            slowest = slowest.max(began.elapsed());
            fast += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(slowest <= Duration::from_millis(300), "the slowest took {slowest:?}");
}

/// Waits until the backend has that many connections in use.
fn wait_for_active(env: &TestEnv, count: usize) {
    env.gateway.wait_for_metric("backend_connections{state=\"active\"}", count as f64);
}

/// Time after which stalled exchanges keep nobody waiting: each is ended after a second, and those that take its place are
/// confined.
const RECLAIMED: Duration = Duration::from_millis(2500);

#[test]
fn unread_responses_of_one_caller_leave_connections_to_others() {
    let env = start("  max_connections: 4\n");
    let _stalled = unread(&env, 12, "/api/v2/large", Some(GREEDY));
    wait_for_active(&env, 4);
    assert_served(&env, OTHER, RECLAIMED);
    let overloaded =
        env.gateway.wait_for_log(|line| line["reason"] == "overloaded" && line["token_id"] == "1");
    assert!(
        overloaded["detail"].to_string().contains("stalled") || overloaded["status"] == 503,
        "{overloaded}"
    );
}

#[test]
fn unread_streams_of_one_http2_connection_leave_connections_to_others() {
    let env = start("  max_connections: 4\n");
    let mut client = Http2Client::silent(env.gateway.address());
    client.greet(&[(INITIAL_WINDOW_SIZE, 0)]);
    for _ in 0..40 {
        client.ask("GET", "/large", &[]);
    }
    wait_for_active(&env, 4);
    assert_served(&env, OTHER, RECLAIMED);
}

#[test]
fn stalled_uploads_of_one_caller_leave_connections_to_others() {
    let env = start("  max_connections: 4\n");
    let mut stalled = stalled_uploads(&env, 12, GREEDY);
    wait_for_active(&env, 4);
    assert_served(&env, OTHER, RECLAIMED);
    // Those that were ended got the documented refusal.
    let refused: usize = stalled
        .iter_mut()
        .map(|client| {
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut head = [0; 12];
            usize::from(client.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 503")
        })
        .sum();
    assert!(refused >= 2, "{refused}");
}

/// Stalled in all but name: a byte now and then, in either direction.
#[test]
fn trickling_clients_count_as_stalled() {
    let env = start("  max_connections: 4\n");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let trickle = |mut client: TcpStream, reads: bool| {
            let done = &done;
            scope.spawn(move || {
                let began = Instant::now();
                client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                while !done.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(10) {
                    let moved = if reads { client.read(&mut [0; 1]) } else { client.write(b"x") };
                    if !matches!(moved, Ok(1)) {
                        break;
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            });
        };
        for client in unread(&env, 4, "/api/v2/large", Some(GREEDY)) {
            trickle(client, true);
        }
        for client in stalled_uploads(&env, 4, SECOND) {
            trickle(client, false);
        }
        wait_for_active(&env, 4);
        assert_served(&env, OTHER, RECLAIMED);
        done.store(true, Ordering::Relaxed);
    });
}

/// Fast enough not to be stalled, and yet far too slow for what it occupies.
#[test]
fn slow_uploads_beyond_a_share_end_for_a_caller_that_waits_for_long() {
    let env = start("  max_connections: 4\n");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut client in stalled_uploads(&env, 8, GREEDY) {
            let done = &done;
            scope.spawn(move || {
                let began = Instant::now();
                let ends = || done.load(Ordering::Relaxed) || began.elapsed() > Duration::from_secs(10);
                while !ends() && client.write_all(&[b'x'; 300]).is_ok() {
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
        wait_for_active(&env, 4);
        assert_served(&env, OTHER, RECLAIMED);
        done.store(true, Ordering::Relaxed);
    });
}

/// More callers than connections: none of them may keep one that its client does not use.
#[test]
fn stalled_exchanges_of_many_callers_leave_connections_to_others() {
    // Those that wait longer than this one get each connection before it.
    let yaml = "backend:\n  max_connections: 4\n  queue_timeout: 8s\n";
    let mut builder = TestEnv::builder().yaml(MAP).yaml(yaml);
    let tokens: Vec<String> = (10..22).map(|id| format!("{id}|many")).collect();
    for token in tokens.iter().map(String::as_str).chain([OTHER]) {
        builder = builder.token(token, &["items:read"]);
    }
    let env = builder.start();
    let _stalled: Vec<_> = tokens.iter().flat_map(|token| stalled_uploads(&env, 1, token)).collect();
    wait_for_active(&env, 4);
    let mut client = env.gateway.client();
    for _ in 0..20 {
        assert_eq!(client.get("/api/v2/items", Some(OTHER)).status, 200);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Each has its share, and yet there would be nothing left for a third.
#[test]
fn two_callers_together_leave_connections_to_a_third() {
    let env = start("  max_connections: 6\n");
    let _first = unread(&env, 12, "/api/v2/large", Some(GREEDY));
    let _second = stalled_uploads(&env, 12, SECOND);
    wait_for_active(&env, 6);
    assert_served(&env, OTHER, RECLAIMED);
}

#[test]
fn caller_that_stalled_cannot_take_all_connections_again() {
    let env = start("  max_connections: 4\n");
    let _stalled = unread(&env, 4, "/api/v2/large", Some(GREEDY));
    wait_for_active(&env, 4);
    assert_served(&env, OTHER, RECLAIMED);
    // Nobody waits now, and yet its further requests do not get the connections back.
    let _again = unread(&env, 12, "/api/v2/large", Some(GREEDY));
    thread::sleep(Duration::from_millis(300));
    assert_served(&env, OTHER, Duration::ZERO);
}

#[test]
fn clients_that_read_and_send_are_not_ended() {
    let env = start("  max_connections: 2\n");
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = env.gateway.client();
                for _ in 0..5 {
                    let response = client.get("/api/v2/items?slow", Some(GREEDY));
                    served.fetch_add(usize::from(response.status == 200), Ordering::Relaxed);
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        let mut other = env.gateway.client();
        for _ in 0..3 {
            // Two are in use and six wait; a free connection goes to this caller, which uses none.
            let began = Instant::now();
            assert_eq!(other.get("/api/v2/items", Some(OTHER)).status, 200);
            assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
        }
    });
    assert!(served.into_inner() >= 20, "most were served within the time limit of the queue");
    assert!(env.gateway.logs().iter().all(|line| !line.contains("stalled")), "none was ended");
}

#[test]
fn request_is_refused_after_the_queue_timeout() {
    let env = start("  max_connections: 1\n  queue_timeout: 300ms\n");
    env.backend.answer(|_| Answer::hang());
    let mut holds: RawClient = env.gateway.client();
    holds.send(format!("GET /api/v2/items HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(GREEDY)));
    env.backend.wait_for_requests(1);
    let began = Instant::now();
    let refused = env.gateway.get("/api/v2/items", Some(OTHER));
    assert_eq!((refused.status, refused.text()), (503, r#"{"message":"Service Unavailable."}"#));
    assert!(refused.field("retry-after").is_some());
    assert!(
        (Duration::from_millis(290)..Duration::from_secs(2)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    let metrics = env.gateway.metrics();
    assert_eq!(metrics.metric("requests_total{reason=\"overloaded\"}"), 1.0);
    assert_eq!(metrics.metric("phase_duration_seconds_count{phase=\"queue\"}"), 1.0);
    assert!(metrics.metric("phase_duration_seconds_sum{phase=\"queue\"}") >= 0.29);
}

#[test]
fn queue_length_is_a_metric() {
    let env = start("  max_connections: 1\n  queue_timeout: 10s\n");
    env.backend.answer(|_| Answer::hang());
    let mut clients: Vec<RawClient> = (0..4).map(|_| env.gateway.client()).collect();
    for client in &mut clients {
        client.send(format!("GET /api/v2/items HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(GREEDY)));
    }
    env.gateway.wait_for_metric("backend_queue_length", 3.0);
    drop(clients);
    env.gateway.wait_for_metric("backend_queue_length", 0.0);
}

/// With a share of 1, nothing is taken from a caller, whoever waits.
#[test]
fn share_of_one_keeps_everything() {
    let env = start("  max_connections: 2\n  max_share: 1\n  queue_timeout: 2s\n");
    let _stalled = unread(&env, 2, "/api/v2/large", Some(GREEDY));
    wait_for_active(&env, 2);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(env.gateway.get("/api/v2/items", Some(OTHER)).status, 503);
}

#[test]
fn clients_of_a_public_route_are_callers_by_address() {
    let env = start("  max_connections: 4\n");
    let _stalled = unread(&env, 12, "/large", None);
    wait_for_active(&env, 4);
    // The same address has no token here, but another caller has one.
    assert_served(&env, OTHER, RECLAIMED);
    // And another address is another caller.
    let mut client = RawClient::connect_from("127.0.0.2", env.gateway.address());
    assert_eq!(client.request("GET", "/open", &[], b"").status, 200);
}

/// A connection with free slots serves its worker, also while another worker waits for one that it cannot have.
#[test]
fn waiting_worker_does_not_retire_the_http2_connection_of_another() {
    let backend = Http2Upstream::start();
    backend.answer(|seen| {
        let is_long = seen.path.contains("long");
        let pieces = vec![Bytes::from_static(b"piece"); if is_long { 60 } else { 1 }];
        Reply { status: 200, pieces, pause: Duration::from_millis(100), ..Reply::default() }
    });
    let env = TestEnv::builder()
        .backend(backend)
        .yaml(MAP)
        .yaml("backend:\n  max_connections: 1\n  queue_timeout: 500ms\n")
        .start();
    let mut long = env.gateway.client();
    long.send("GET /open?long HTTP/1.1\r\nHost: a\r\n\r\n");
    long.read_head();
    let mut clients: Vec<RawClient> = (0..4).map(|_| env.gateway.client()).collect();
    let mut round =
        || -> Vec<u16> { clients.iter_mut().map(|client| client.get("/open", None).status).collect() };
    let (first, second) = (round(), round());
    assert!(first.contains(&200) && first.contains(&503), "both workers have clients: {first:?}");
    assert_eq!(first, second);
}

#[test]
fn streams_of_an_http2_backend_are_shared_fairly() {
    let backend = Http2Upstream::start_with(None, |builder| {
        builder.max_concurrent_streams(4);
    });
    backend.answer(|seen| {
        let large = seen.path.contains("large");
        Reply::new(200, vec![b'x'; if large { LARGE } else { 2 }])
    });
    let env = TestEnv::builder()
        .backend(backend)
        .yaml(MAP)
        .yaml("backend:\n  max_connections: 1\n  max_share: 0.5\n")
        .configure(|builder| builder.one_core())
        .token(GREEDY, &["items:read"])
        .token(OTHER, &["items:read"])
        .start();
    let mut stalled: Vec<RawClient> = (0..8).map(|_| env.gateway.client()).collect();
    for client in &mut stalled {
        client.send(format!("GET /api/v2/large HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(GREEDY)));
    }
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let mut client = env.gateway.client();
    for _ in 0..20 {
        assert_eq!(client.get("/api/v2/items", Some(OTHER)).status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
