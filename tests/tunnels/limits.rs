//! `limits.tunnels` and `limits.tunnels_per_token`: how many tunnels may be open.

use std::thread;
use std::time::{Duration, Instant};

use super::{SWITCHED, builder, handshake, start};
use crate::support::manual_backend::ManualBackend;
use crate::support::{RawClient, Response, TestEnv};

impl TestEnv<ManualBackend> {
    /// The response to a handshake that the gateway refuses.
    fn refused(&self, target: &str, token: Option<&str>) -> Response {
        let mut client = self.gateway.client();
        client.send(handshake(target, token));
        client.response()
    }

    /// Waits until the gateway has noticed the end of a tunnel.
    fn wait_for_tunnels(&self, open: f64) {
        self.gateway.wait_for_metric("tunnels_open", open);
    }
}

fn assert_refused(env: &TestEnv<ManualBackend>, response: &Response, limit: &str, allowed: &str) {
    assert_eq!((response.status, response.text()), (429, r#"{"message":"Too Many Attempts."}"#));
    assert_eq!(response.field("retry-after"), Some("1"));
    assert_eq!(response.field("x-ratelimit-limit"), Some(allowed));
    let id = response.field("x-request-id").unwrap();
    let line = env.gateway.wait_for_log(|line| line["request_id"] == id);
    assert_eq!([&line["reason"], &line["limit"]], ["limited", limit]);
}

#[test]
fn tunnels_of_all_clients_are_limited() {
    let mut env = start("limits: {tunnels: 2}\n");
    let first = env.tunnel("/events", Some("1|reader"));
    let _second = env.tunnel("/open", None);
    for (target, token) in [("/events", Some("1|reader")), ("/open", None)] {
        assert_refused(&env, &env.refused(target, token), "tunnels", "2");
    }
    assert!(env.backend.has_no_connection());
    drop(first);
    env.wait_for_tunnels(1.0);
    env.tunnel("/events", Some("1|reader"));
}

#[test]
fn tunnels_per_token_are_limited_by_id_and_on_public_routes_by_address() {
    let mut env = start("limits: {tunnels_per_token: 1}\nlisten:\n  trusted_proxies: [127.0.0.1]\n");
    let of = |client: &str| {
        handshake("/open", None).replace("Host:", &format!("X-Forwarded-For: {client}\r\nHost:"))
    };
    let held = env.tunnel("/events", Some("1|reader"));
    let _others = [of("198.51.100.1"), of("2001:db8:1::1")].map(|handshake| env.tunnel_after(handshake));
    assert_refused(&env, &env.refused("/events", Some("1|reader")), "tunnels_per_token", "1");
    for client in ["198.51.100.1", "2001:db8:1::2"] {
        let mut refused = env.gateway.client();
        refused.send(of(client));
        assert_refused(&env, &refused.response(), "tunnels_per_token", "1");
    }
    env.tunnel_after(of("198.51.100.2"));
    drop(held);
    env.wait_for_tunnels(2.0);
    env.tunnel("/events", Some("1|reader"));
}

#[test]
fn refused_and_failed_handshakes_do_not_count() {
    let mut env = start("limits: {tunnels: 1, tunnels_per_token: 1}\nbackend:\n  timeout: 300ms\n");
    for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "nonsense\r\n\r\n", ""] {
        let mut client = env.gateway.client();
        client.send(handshake("/events", Some("1|reader")));
        let (mut backend, _) = env.backend.request();
        backend.send(answer);
        let status = client.response().status;
        assert!(matches!(status, 200 | 502 | 504), "{status}");
    }
    let mut leaving = env.gateway.client();
    leaving.send(handshake("/events", Some("1|reader")));
    let (mut backend, _) = env.backend.request();
    drop(leaving);
    backend.until_close();
    assert_eq!(env.refused("/events", Some("2|creator")).status, 403);
    env.tunnel("/events", Some("1|reader"));
}

#[test]
fn tunnels_do_not_count_as_requests_in_flight() {
    let mut env = start("rate_limit: {in_flight: 1}\nlimits: {tunnels_per_token: 2}\n");
    let _held = [0, 1].map(|_| env.tunnel("/events", Some("1|reader")));
    let mut client = env.gateway.client();
    let get = "GET /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n";
    client.send(get);
    let (mut backend, _) = env.backend.request();
    assert_eq!(env.gateway.get("/api/v2/items", Some("1|reader")).status, 429);
    backend.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.response().status, 204);
}

#[test]
fn reload_counts_tunnels_that_were_opened_without_a_limit() {
    let mut env = start("limits: {tunnels: 0}\n");
    let held = [0, 1].map(|_| env.tunnel("/events", Some("1|reader")));
    for (from, to, limit, allowed) in [
        ("tunnels: 0", "tunnels_per_token: 2", "tunnels_per_token", "2"),
        ("tunnels_per_token: 2", "tunnels: 1", "tunnels", "1"),
        ("tunnels: 1", "tunnels: 2", "tunnels", "2"),
    ] {
        env.gateway.edit(from, to);
        assert!(env.gateway.reload());
        assert_refused(&env, &env.refused("/events", Some("1|reader")), limit, allowed);
    }
    drop(held);
    env.wait_for_tunnels(0.0);
    env.tunnel("/events", Some("1|reader"));
}

/// The count must be exact when handshakes race for the last tunnel on two workers.
#[test]
fn concurrent_handshakes_never_exceed_the_limit() {
    let mut env = builder("limits: {tunnels: 3}\n").start();
    let mut clients: Vec<RawClient> = (0..12).map(|_| env.gateway.client()).collect();
    for client in &mut clients {
        client.send(handshake("/open", None));
    }
    let mut backends: Vec<_> = (0..3).map(|_| env.backend.request().0).collect();
    let end = Instant::now() + Duration::from_secs(5);
    while clients.iter().filter(|client| client.has_bytes()).count() < 9 {
        assert!(Instant::now() < end, "nine are refused");
        thread::sleep(Duration::from_millis(5));
    }
    for backend in &mut backends {
        backend.send(SWITCHED);
    }
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 101).count(), 3, "{statuses:?}");
    assert!(env.backend.has_no_connection());
}
