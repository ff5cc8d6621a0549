//! Who may ask, TLS, Unix sockets, reloads and drains.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{DECISION, ITEMS, PATH_PREFIX, READER, in_every_style, start};
use crate::support::decision::{Asker, CHECK, Style, call};
use crate::support::http2::{Http2Client, NO_ERROR};
use crate::support::ports::free_address;
use crate::support::{Authority, PATIENCE, RawClient, TestEnv};

const FORBIDDEN: &str = r#"{"message":"This action is unauthorized."}"#;

#[test]
fn other_peers_get_403_on_every_request() {
    for (settings, answer) in [(DECISION, "status"), (DECISION, "header"), (PATH_PREFIX, "status")] {
        let settings = settings.replace("127.0.0.0/8", "127.0.0.2, 10.0.0.0/8");
        let env = start(&format!("{settings}  answer: {answer}\n"));
        let described =
            [("x-original-method", "GET"), ("x-original-uri", "/up"), ("x-forwarded-for", "127.0.0.2")];
        for target in ["/auth", "/decision/up", "/up", "/metrics"] {
            let mut client = RawClient::connect(env.decision());
            let response = client.request("GET", target, &described, b"");
            assert_eq!((response.status, response.text()), (403, FORBIDDEN), "{target}");
            assert_eq!(response.field("content-type"), Some("application/json"));
            assert_eq!(response.field("x-decision-status"), None);
        }
        let response = call(&mut Http2Client::connect(env.decision()), CHECK, b"\0\0\0\0\0");
        assert_eq!((response.status, response.text()), (403, FORBIDDEN));
        env.gateway.wait_for_log(|line| {
            line["message"] == "request for a decision rejected: the peer is not in decision.trusted_proxies"
                && line["peer"] == "127.0.0.1"
        });
        env.gateway.wait_for_log(|line| {
            line["detail"] == "peer that is not in decision.trusted_proxies" && line["listener"] == "decision"
        });
        let mut trusted = RawClient::connect_from("127.0.0.2", env.decision());
        let target = if settings.contains("path_prefix") { "/decision/up" } else { "/auth" };
        assert_eq!(trusted.request("GET", target, &described, b"").status, 200);
    }
}

#[test]
fn reload_changes_trusted_proxies_and_style() {
    let env = start(DECISION);
    let mut asker = env.asker(Style::Original);
    assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 200);
    env.gateway.edit("[127.0.0.0/8]", "[127.0.0.9]");
    assert!(env.gateway.reload());
    // Also on a connection that was opened before.
    assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 403);
    let mut asker = env.asker(Style::Original);
    env.gateway.edit("[127.0.0.9]", "[127.0.0.1]\n  answer: header");
    assert!(env.gateway.reload());
    let decision = asker.ask_with("PUT", ITEMS, READER);
    assert_eq!((decision.status, decision.field("x-decision-status")), (200, Some("403")));
    env.gateway.edit("answer: header", "style: path_prefix");
    assert!(env.gateway.reload());
    assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 400);
    assert_eq!(env.asker(Style::PathPrefix).ask_with("GET", ITEMS, READER).status, 200);
}

#[test]
fn address_changes_only_with_a_restart() {
    let env = start(DECISION);
    let mut asker = env.asker(Style::Forwarded);
    env.gateway.edit("address: 127.0.0.1:0\n  trusted_proxies", "address: null\n  trusted_proxies");
    assert!(env.gateway.reload());
    env.gateway.wait_for_log(|line| line["keys"] == "decision.address");
    assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 200);
    assert_eq!(env.asker(Style::Forwarded).ask_with("GET", ITEMS, READER).status, 200);

    let env = TestEnv::start("");
    assert!(
        !env.gateway.logs().iter().any(|line| line.contains(r#""listener":"decision""#)),
        "off by default"
    );
    let free = free_address();
    let section = format!("decision: {{address: '{free}', trusted_proxies: [127.0.0.1]}}\nruntime:");
    env.gateway.edit("runtime:", &section);
    assert!(env.gateway.reload());
    env.gateway.wait_for_log(|line| line["keys"] == "decision.address");
    assert_eq!(env.status("/up", ""), 200);
}

#[test]
fn decisions_over_tls() {
    let authority = std::sync::Arc::new(Authority::new());
    let tls = format!(
        "  tls: {{certificate: {}, private_key: {}}}\n",
        authority.certificate().display(),
        authority.private_key().display()
    );
    for (settings, path_prefix) in super::SETTINGS {
        let env = start(&format!("{settings}{tls}"));
        for style in Style::all(path_prefix) {
            let mut asker = Asker::connect_tls(env.decision(), *style, &authority);
            assert!(asker.ask_with("GET", ITEMS, READER).is_allowed(), "{style:?}");
            assert_eq!(asker.ask_with("PUT", ITEMS, READER).status, 403, "{style:?}");
        }
        let mut plain = RawClient::connect(env.decision());
        let _ = plain.try_send("GET /auth HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(!plain.read_until_close().starts_with(b"HTTP"), "plain HTTP is answered");
        // The proxy listener has TLS of its own, or none.
        assert_eq!(env.status("/up", ""), 200);
    }
}

#[test]
fn peers_of_a_unix_socket_get_decisions() {
    let directory = tempfile::tempdir().unwrap();
    for (name, settings, path_prefix) in [("a", "", false), ("b", "  style: path_prefix\n", true)] {
        let path = directory.path().join(name);
        let yaml = format!("decision:\n  address: \"unix:{}\"\n{settings}", path.display());
        let env = start(&format!("{yaml}limits: {{requests_per_address: 2}}\n"));
        env.gateway.wait_for_listener("decision");
        for style in Style::all(path_prefix) {
            let mut asker = Asker::connect_unix(&path, *style);
            // The clients behind the socket have their own limits.
            asker.source = Some(format!("198.51.100.{}", *style as u8).parse().unwrap());
            assert!(asker.ask_with("GET", ITEMS, READER).is_allowed(), "{style:?}");
            assert!(asker.ask_with("GET", ITEMS, READER).is_allowed(), "{style:?}");
            assert_eq!(asker.ask_with("GET", ITEMS, READER).status, 429, "{style:?}");
        }
    }
}

#[test]
fn clients_address_is_the_last_untrusted_one() {
    let env = start(&format!(
        "{DECISION}limits: {{requests_per_address: 1000}}\nlisten:\n  trusted_proxies: [10.0.0.0/8]\n"
    ));
    let mut client = RawClient::connect(env.decision());
    for (reported, expected) in [
        ("203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, 198.51.100.2, 10.0.0.1, 127.0.0.5", "198.51.100.2"),
        ("unknown", "127.0.0.1"),
    ] {
        let fields = [("x-original-method", "GET"), ("x-original-uri", "/up"), ("x-forwarded-for", reported)];
        let response = client.request("GET", "/auth", &fields, b"");
        let id = response.field("x-request-id").unwrap().to_owned();
        let line = env.gateway.wait_for_log(|line| line["request_id"] == id.as_str());
        assert_eq!(line["client"], expected, "{reported}");
    }
}

#[test]
fn connection_of_another_peer_ends_with_its_403() {
    let env = start(&DECISION.replace("127.0.0.0/8", "127.0.0.2"));
    let mut client = RawClient::connect(env.decision());
    let refused = client.get("/auth", None);
    assert_eq!((refused.status, refused.field("connection")), (403, Some("close")));
    assert_eq!(client.read_until_close(), b"");
    let mut client = RawClient::connect(env.decision());
    client.send("GET /auth HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((client.response().status, client.read_until_close()), (403, Vec::new()));
    let mut client = Http2Client::connect(env.decision());
    assert_eq!(call(&mut client, CHECK, b"\0\0\0\0\0").status, 403);
    assert_eq!(client.end(), Some(NO_ERROR));
    // Also if the proxy could ask before.
    let mut trusted = RawClient::connect_from("127.0.0.2", env.decision());
    let fields = [("x-original-method", "GET"), ("x-original-uri", "/up")];
    assert_eq!(trusted.request("GET", "/auth", &fields, b"").status, 200);
    env.gateway.edit("[127.0.0.2]", "[127.0.0.3]");
    assert!(env.gateway.reload());
    assert_eq!(trusted.request("GET", "/auth", &fields, b"").status, 403);
    assert_eq!(trusted.read_until_close(), b"");
}

/// Opens connections until one is rejected. Each that is served has sent a request.
fn fill(connect: impl Fn() -> RawClient, served: u16) -> Vec<RawClient> {
    let mut clients = Vec::new();
    loop {
        assert!(clients.len() <= 40, "no connection is rejected");
        let mut client = connect();
        // A rejected one is closed at once.
        let status = client.try_request("GET", "/up", &[], b"").map_or(503, |response| response.status);
        if status == 503 {
            return clients;
        }
        assert_eq!(status, served);
        clients.push(client);
    }
}

#[test]
fn clients_leave_connections_to_proxies_and_proxies_to_clients() {
    let yaml = format!("{DECISION}limits: {{connections: 20}}\n");
    let env = start(&yaml);
    let clients = fill(|| env.gateway.client(), 200);
    assert_eq!(clients.len(), 18);
    let mut asker = env.asker(Style::Original);
    assert!(asker.ask_with("GET", ITEMS, READER).is_allowed());
    assert!(env.asker(Style::Grpc).ask_with("GET", ITEMS, READER).is_allowed());
    assert!(asker.ask_with("GET", ITEMS, READER).is_allowed());

    let env = start(&yaml);
    let proxies = fill(|| RawClient::connect(env.decision()), 400);
    assert_eq!(proxies.len(), 18);
    assert_eq!(env.status(ITEMS, READER), 200);
    assert_eq!(RawClient::connect(env.gateway.admin()).get("/readyz", None).status, 200);
    drop(proxies);
    env.gateway.wait_for_metric("client_connections", 0.0);
    assert_eq!(fill(|| env.gateway.client(), 200).len(), 18);
}

#[test]
fn untrusted_peers_leave_connections_to_proxies() {
    let settings = DECISION.replace("127.0.0.0/8", "127.0.0.2");
    let env = start(&format!("{settings}limits: {{connections: 40}}\n"));
    // They send nothing.
    let mut idle: Vec<RawClient> = (0..6).map(|_| RawClient::connect(env.decision())).collect();
    env.gateway.wait_for_metric("client_connections", 2.0);
    assert_eq!(idle.pop().unwrap().response().status, 503);
    assert_eq!(fill(|| RawClient::connect_from("127.0.0.2", env.decision()), 400).len(), 36);
    assert_eq!(env.status(ITEMS, READER), 200);
}

#[test]
fn proxies_are_answered_while_the_gateway_drains() {
    let mut env = start(&format!("{DECISION}listen:\n  drain_delay: 700ms\n"));
    let address = env.decision();
    let mut asker = env.asker(Style::Original);
    assert!(asker.ask_with("GET", ITEMS, READER).is_allowed());
    env.gateway.signal(Signal::TERM);
    env.gateway.wait_for_log(|line| line["message"] == "draining");
    assert!(Asker::connect(address, Style::Original).ask_with("GET", ITEMS, READER).is_allowed());
    assert!(Asker::connect(address, Style::Grpc).ask_with("GET", ITEMS, READER).is_allowed());
    let began = Instant::now();
    assert!(env.gateway.wait_exit(PATIENCE).success());
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn panics_and_damaged_requests_close_at_most_their_connection() {
    in_every_style("", |env, style| {
        for bytes in [
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxx",
        ] {
            let mut client = RawClient::connect(env.decision());
            let _ = client.try_send(bytes);
            client.finish();
            let rest = client.read_until_close();
            assert!(!rest.starts_with(b"HTTP/1.1 200"), "{bytes:?}: {}", rest.escape_ascii());
        }
        assert!(env.asker(style).ask_with("GET", ITEMS, READER).is_allowed());
    });
}
