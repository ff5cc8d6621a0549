//! How tunnels end, and what they hold in memory.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{assert_tunnel_works, start};
use crate::support::RawClient;

#[test]
fn idle_tunnel_is_closed() {
    let mut env =
        start("limits: {tunnel_idle_timeout: 800ms, idle_timeout: 300ms, body_idle_timeout: 300ms}\n");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    // Traffic in either direction keeps the tunnel open.
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(500));
        client.send("a");
        assert_eq!(backend.read(1), b"a");
    }
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(500));
        backend.send("b");
        assert_eq!(client.read_some(), b"b");
    }
    let began = Instant::now();
    assert_eq!(client.read_until_close(), b"");
    let took = began.elapsed().as_millis();
    assert!((750..2500).contains(&took), "{took} ms");
    assert!(backend.until_close() < Duration::from_secs(1));
    let line = env.tunnel_line();
    assert_eq!(
        (&line["reason"], &line["detail"]),
        (&"limited".into(), &"the tunnel was idle for too long".into())
    );
}

#[test]
fn tunnel_closes_with_either_side() {
    let mut env = start("");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    assert_tunnel_works(&mut client, &mut backend);
    drop(client);
    assert!(backend.until_close() < Duration::from_secs(2));
    drop(backend);
    let (mut client, backend) = env.tunnel("/events", Some("1|reader"));
    drop(backend);
    let began = Instant::now();
    assert_eq!(client.read_until_close(), b"");
    assert!(began.elapsed() < Duration::from_secs(2));
    drop(client);
    for metric in ["tunnels_open", "client_connections", "backend_connections"] {
        env.gateway.wait_for_metric(metric, 0.0);
    }
    env.gateway.wait_for_metric("requests_total{status=\"101\",reason=\"allowed\"}", 2.0);
}

#[test]
fn backpressure_of_either_side_passes_through_a_tunnel() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 1024;
    let mut env = start("");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let before = env.gateway.resident_memory();
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in 0..PIECES {
                backend.send(vec![piece as u8; PIECE]);
            }
        });
        thread::sleep(Duration::from_millis(700));
        let grown = env.gateway.resident_memory().saturating_sub(before);
        assert!(grown < 2 << 20, "{grown} bytes are held for a client that does not read");
        for piece in 0..PIECES {
            let came = read_exactly(&mut client, PIECE);
            assert!(came.iter().all(|&byte| byte == piece as u8), "piece {piece}");
        }
    });
    assert_tunnel_works(&mut client, &mut backend);
}

fn read_exactly(client: &mut RawClient, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes);
    bytes
}

#[test]
fn drain_keeps_tunnels_open_until_its_timeout() {
    let mut env = start("listen:\n  drain_timeout: 1500ms\n");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (gone, mut left) = env.tunnel("/open", None);
    env.gateway.signal(Signal::TERM);
    let began = Instant::now();
    drop(gone);
    assert!(left.until_close() < Duration::from_secs(1));
    drop(left);
    while began.elapsed() < Duration::from_millis(1000) {
        assert_tunnel_works(&mut client, &mut backend);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.read_until_close(), b"");
    assert_eq!(env.gateway.wait_exit(Duration::from_secs(3)).code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1450) && took < Duration::from_secs(4), "{took:?}");
    let cut = |line: &String| line.contains("drain timed out") && line.contains("\"connections\":1");
    assert!(env.gateway.logs().iter().any(cut), "{:#?}", env.gateway.logs());
    let ended = |line: &&String| line.contains("\"status\":101");
    assert_eq!(env.gateway.logs().iter().filter(ended).count(), 2);
}

#[test]
fn drain_ends_with_its_last_tunnel() {
    let mut env = start("listen:\n  drain_timeout: 1m\n");
    let (client, mut backend) = env.tunnel("/events", Some("1|reader"));
    env.gateway.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    drop(client);
    assert!(backend.until_close() < Duration::from_secs(1));
    drop(backend);
    assert_eq!(env.gateway.wait_exit(Duration::from_secs(3)).code(), Some(0));
}

#[test]
fn tunnel_counts_towards_max_connections() {
    let mut env = start("backend:\n  max_connections: 1\n  connect_timeout: 300ms\n");
    let (client, mut backend) = env.tunnel("/events", Some("1|reader"));
    assert_eq!(env.gateway.get("/open", None).status, 503, "the tunnel holds the only connection");
    drop(client);
    backend.until_close();
    drop(backend);
    env.gateway.wait_for_metric("backend_connections", 0.0);
    let mut client = env.gateway.client();
    client.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut backend, _) = env.backend.request();
    backend.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.response().status, 204);
}
