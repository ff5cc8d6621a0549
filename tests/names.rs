//! Backend and introspector by name, with name servers that respond for one address family only.
//!
//! Each gateway has its own `/etc/resolv.conf`, in a mount namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::support::name_server::{self, A, AAAA, Reply};
use crate::support::{Gateway, Introspector, Upstream};

/// 127.0.0.1 in the address family of the query.
fn loopback(kind: u16) -> Reply {
    let address = Ipv4Addr::LOCALHOST;
    Reply::Answer(0, vec![if kind == A { IpAddr::V4(address) } else { address.to_ipv6_mapped().into() }])
}

fn reply(name: &str, kind: u16) -> Reply {
    let [name, _] = name.split('.').collect::<Vec<_>>()[..2] else { return Reply::Nothing };
    match (name, kind) {
        ("a-only", A) | ("aaaa-only", AAAA) => loopback(kind),
        ("a-only" | "aaaa-only", _) => Reply::Nothing,
        ("a-truncated", A) | ("aaaa-truncated", AAAA) => Reply::Truncated,
        ("a-fails", A) | ("aaaa-fails", AAAA) => Reply::Answer(2, Vec::new()),
        ("a-truncated" | "aaaa-truncated" | "a-fails" | "aaaa-fails", _) => loopback(kind),
        ("a-silent-aaaa-empty", A) => Reply::Nothing,
        ("a-silent-aaaa-empty", _) => Reply::Answer(0, Vec::new()),
        _ => Reply::Answer(3, Vec::new()),
    }
}

fn gateway(backend: &str, introspector: &str, servers: (&Upstream, &Introspector)) -> Gateway {
    let (upstream, server) = servers;
    Gateway::builder()
        .one_core()
        .yaml(&format!("backend:\n  url: http://{backend}.test:{}\n", upstream.address().port()))
        .yaml(&format!(
            "introspection:\n  url: http://{introspector}.test:{}/api/v2/token\n",
            server.server().address().port()
        ))
        .name_server("127.53.13.1")
        .start()
}

#[test]
#[ignore = "needs unshare: tests/run, as root"]
fn one_unresponsive_address_family_costs_milliseconds() {
    name_server::start("127.53.13.1", reply);
    let upstream = Upstream::start();
    let introspector = Introspector::with_tokens([("1|reader", &["items:read"][..])]);
    for (backend, introspection) in [
        ("a-only", "aaaa-only"),
        ("aaaa-only", "a-only"),
        ("a-truncated", "aaaa-truncated"),
        ("a-fails", "aaaa-fails"),
    ] {
        let gateway = gateway(backend, introspection, (&upstream, &introspector));
        let start = Instant::now();
        let response = gateway.get("/api/v2/items", Some("1|reader"));
        assert_eq!(response.status, 200, "{backend}: {}", gateway.logs().join("\n"));
        assert!(start.elapsed() < Duration::from_millis(900), "{backend}: {:?}", start.elapsed());
        for _ in 0..5 {
            assert_eq!(gateway.get("/api/v2/items", Some("1|reader")).status, 200, "{backend}");
        }
    }

    // The other family has no address.
    let gateway = gateway("a-silent-aaaa-empty", "a-only", (&upstream, &introspector));
    assert_eq!(gateway.get("/up", None).status, 502);
    // The query itself times out later, after the time in resolv.conf.
    let line = gateway.wait_for_log(|line| line["message"] == "no connection to the backend");
    assert_eq!(line["error"], "resolving a-silent-aaaa-empty.test took longer than 2s");
}
