//! Unix sockets and the PROXY protocol.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Authority, BINARY, Gateway, Introspector, RawClient, TestEnv, Upstream};

const ITEMS: &str = "/api/v2/items";
const WHO: &str = "GET /up HTTP/1.1\r\nHost: a\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// A version 1 header for a client with this address.
fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    format!("PROXY {family} {client} {client} 4711 443\r\n").into_bytes()
}

/// A gateway that expects the PROXY protocol only from 127.0.0.1, with these lines of `listen` and these sections.
fn with_proxy_protocol(listen: &str, sections: &str) -> TestEnv {
    let trusted = "  trusted_proxies: [127.0.0.1, 10.0.0.0/8, fd00::/8]\n";
    TestEnv::start(&format!("listen:\n  proxy_protocol: true\n{trusted}{listen}{sections}"))
}

#[test]
fn gateway_runs_between_two_unix_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let (front, back) = (directory.path().join("front.sock"), directory.path().join("back.sock"));
    let introspector = Introspector::with_tokens([("1|writer", &["*"][..])]);
    let backend = UnixListener::bind(&back).unwrap();
    // The socket file of a dead process.
    drop(UnixListener::bind(&front).unwrap());
    let builder = || {
        Gateway::builder()
            .introspector(&introspector)
            .yaml(&format!("backend:\n  url: unix:{}\n", back.display()))
            .listening_at(&front)
    };
    let mut gateway = builder().start();
    let file = std::fs::symlink_metadata(&front).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o777 & !umask(), "the mode follows the umask");

    let serving = thread::spawn(move || {
        let (stream, _) = backend.accept().unwrap();
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").unwrap();
        head
    });
    let response = RawClient::connect_unix(&front).get(ITEMS, Some("1|writer"));
    assert_eq!((response.status, response.text()), (200, "back"));
    let head = serving.join().unwrap();
    assert_eq!(head[0], "GET /api/v2/items HTTP/1.1");
    assert!(head.contains(&"x-forwarded-for: unknown".to_owned()), "{head:?}");

    // A second gateway does not take the socket of the first one.
    let yaml = directory.path().join("second.yaml");
    std::fs::write(&yaml, builder().text()).unwrap();
    let second = Command::new(BINARY).arg("run").arg("--config").arg(&yaml).output().unwrap();
    assert_eq!(second.status.code(), Some(78));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("`listen.address`") && said.contains("in use"), "{said}");
    assert_eq!(RawClient::connect_unix(&front).get(ITEMS, None).status, 401);

    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait_exit(Duration::from_secs(5)).code(), Some(0));
    assert!(!front.exists(), "the socket's file is removed");
}

#[test]
fn file_at_the_path_of_a_unix_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (front, yaml) = (directory.path().join("front.sock"), directory.path().join("gateway.yaml"));
    std::fs::write(&front, "mine").unwrap();
    let text = Gateway::builder().backend(&Upstream::start()).introspector(&Introspector::start());
    std::fs::write(&yaml, text.listening_at(&front).text()).unwrap();
    let refused = Command::new(BINARY).arg("run").arg("--config").arg(&yaml).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    assert_eq!(std::fs::read_to_string(&front).unwrap(), "mine");
}

/// Applies to this process and its children.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(umask.trim(), 8).unwrap()
}

#[test]
fn proxy_header_names_the_client() {
    let env = with_proxy_protocol("", "");
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 15], &[1], &[0x12, 0x34, 1, 187]].concat();
    let with_tlvs =
        [&v4[..], &[0x01, 0, 2, b'h', b'2'], &[0xea, 0x0f, 0xff], &[b'a'; 0xfff][..3000]].concat();
    for (header, expected) in [
        (v1("192.0.2.7"), "192.0.2.7"),
        (v1("2001:db8::9"), "2001:db8::9"),
        (v1("::ffff:192.0.2.7"), "192.0.2.7"),
        (v2(0x21, 0x11, &v4), "192.0.2.7"),
        (v2(0x21, 0x11, &with_tlvs), "192.0.2.7"),
        (v2(0x21, 0x21, &v6), "2001:db8::9"),
        // A header without a client address: a connection of the proxy itself, such as a health check.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
        (v2(0x20, 0x11, &v4), "127.0.0.1"),
        (v2(0x21, 0x00, b"whatever"), "127.0.0.1"),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ] {
        let shown = String::from_utf8_lossy(&header).into_owned();
        let mut at_once = env.gateway.client();
        assert_eq!(at_once.send([&header, WHO.as_bytes()].concat()).response().status, 200, "{shown:?}");
        // Each connection has one header.
        assert_eq!(at_once.send(WHO).response().status, 200);
        let mut in_pieces = env.gateway.client();
        let middle = header.len() / 2;
        for piece in [&header[..1], &header[1..middle], &header[middle..], &WHO.as_bytes()[..5]] {
            in_pieces.send(piece);
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(in_pieces.send(&WHO[5..]).response().status, 200, "{shown:?}");
        for request in env.backend.take_requests() {
            assert_eq!(request.field("x-forwarded-for"), Some(expected), "{shown:?}");
            let id = request.field("x-request-id").unwrap().to_owned();
            let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
            assert_eq!(line["client"], expected);
        }
    }
    let twice = [v1("192.0.2.7"), v1("192.0.2.8"), WHO.into()].concat();
    assert_eq!(env.gateway.client().send(twice).response().status, 400);
}

#[test]
fn forwarding_fields_need_a_trusted_address_in_the_proxy_header() {
    let env = with_proxy_protocol("", "");
    let claims =
        "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: https\r\nX-Request-Id: of-the-client\r\n";
    let request = format!("GET /up HTTP/1.1\r\nHost: a\r\n{claims}\r\n");
    for (header, forwarded_for, proto) in [
        (v1("192.0.2.7"), "192.0.2.7", "http"),
        (v1("10.1.2.3"), "203.0.113.1, 10.1.2.3", "https"),
        (v1("fd00::1"), "203.0.113.1, fd00::1", "https"),
        // The proxy is trusted, but these bytes may come from any client.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "http"),
        (v2(0x21, 0x00, b""), "127.0.0.1", "http"),
    ] {
        let mut client = env.gateway.client();
        assert_eq!(client.send([&header, request.as_bytes()].concat()).response().status, 200);
        let request = env.backend.take_requests().pop().unwrap();
        assert_eq!(request.field("x-forwarded-for"), Some(forwarded_for));
        assert_eq!(request.field("x-forwarded-proto"), Some(proto));
        assert_eq!(request.field("x-request-id") == Some("of-the-client"), proto == "https");
    }
}

#[test]
fn proxy_header_is_400_from_untrusted_peers_or_if_disabled() {
    let with_proxy_protocol = with_proxy_protocol("", "");
    let deaf = TestEnv::start("listen:\n  trusted_proxies: [127.0.0.1]\n");
    let from_elsewhere = || RawClient::connect_from("127.0.0.2", with_proxy_protocol.gateway.address());
    let to_the_deaf = || deaf.gateway.client();
    let clients: [&dyn Fn() -> RawClient; 2] = [&from_elsewhere, &to_the_deaf];
    for client in clients {
        assert_eq!(client().send(WHO).response().status, 200);
        for header in [v1("192.0.2.7"), v2(0x20, 0, b"")] {
            let response = client().send([&header, WHO.as_bytes()].concat()).response();
            assert_eq!((response.status, response.field("connection")), (400, Some("close")));
        }
    }
}

#[test]
fn connection_without_a_proxy_header_is_closed_counted_and_logged() {
    let env = with_proxy_protocol("", "limits: {header_timeout: 400ms}");
    let gateway = &env.gateway;
    // A load balancer that only checks that the port accepts connections.
    drop(gateway.client());
    gateway.client().finish().read_until_close();
    let long = v2(0x21, 0x11, &[0; 5000]);
    let closed = [
        (WHO.as_bytes(), "does not start with a PROXY header"),
        (b"\x16\x03\x01\x02\x00", "does not start with a PROXY header"),
        (b"PROXY TCP4 nobody nowhere 1 2\r\n", "malformed"),
        (&v2(0x21, 0x11, b"short"), "malformed"),
        (&long, "too long"),
    ];
    for (number, (bytes, why)) in (1..).zip(closed) {
        let mut client = gateway.client();
        client.send(bytes);
        assert_eq!(client.read_until_close(), b"", "{why}");
        let line = gateway.wait_for_log(|line| line["why"].as_str().is_some_and(|it| it.contains(why)));
        assert_eq!((&line["level"], &line["proxy"]), (&"WARN".into(), &"127.0.0.1".into()));
        gateway.wait_for_metric("requests_total{status=\"400\",reason=\"bad_request\"}", f64::from(number));
    }
    let mut broken_off = gateway.client();
    broken_off.send("PROXY TCP4 192.0.2.7").finish();
    assert_eq!(broken_off.read_until_close(), b"");
    gateway.wait_for_metric("requests_total{reason=\"bad_request\"}", 6.0);
    for (number, bytes) in (1..).zip(["", "PROXY TCP4 192.0.2.7"]) {
        let (began, mut late) = (Instant::now(), gateway.client());
        assert_eq!(late.send(bytes).read_until_close(), b"");
        assert!((350..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        gateway.wait_for_metric("requests_total{status=\"408\",reason=\"limited\"}", f64::from(number));
    }
    assert_eq!(gateway.metrics().metric("requests_total"), 8.0, "silent connections count no request");
    assert_eq!(env.backend.requests().len(), 0);
}

#[test]
fn proxy_header_precedes_tls() {
    let authority = Arc::new(Authority::new());
    let listen =
        "listen:\n  proxy_protocol: true\n  trusted_proxies: [127.0.0.1]\n  redirect_address: 127.0.0.1:0\n";
    let env = TestEnv::builder().tls(&authority).yaml(listen).start();
    let mut client = RawClient::connect(env.gateway.address());
    client.send(v1("192.0.2.7"));
    let mut client = client.start_tls(&authority);
    for _ in 0..2 {
        assert_eq!(client.get("/up", None).status, 200);
    }
    for request in env.backend.requests() {
        assert_eq!(request.field("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    }
    // On the redirect listener, too.
    let redirect = env.gateway.wait_for_listener("redirect");
    for header in [v1("192.0.2.7"), v2(0x20, 0, b"")] {
        let mut client = RawClient::connect(redirect);
        assert_eq!(client.send([&header, WHO.as_bytes()].concat()).response().status, 308);
    }
    assert_eq!(RawClient::connect(redirect).send(WHO).read_until_close(), b"");
    // Inside TLS there is no header.
    let mut client = RawClient::connect(env.gateway.address());
    client.send(v1("192.0.2.7"));
    let mut client = client.start_tls(&authority);
    assert_eq!(client.send([&v1("192.0.2.8")[..], WHO.as_bytes()].concat()).response().status, 400);
}

#[test]
fn proxy_protocol_applies_to_unix_socket_peers() {
    let directory = tempfile::tempdir().unwrap();
    let front = directory.path().join("front.sock");
    let env = TestEnv::builder()
        .configure(|gateway| gateway.listening_at(&front))
        .yaml("listen:\n  proxy_protocol: true\nlimits: {connections_per_address: 1}")
        .start();
    let client = |header: &[u8]| {
        let mut client = RawClient::connect_unix(&front);
        client.send([header, WHO.as_bytes()].concat());
        client
    };
    for (header, expected) in [(v1("192.0.2.7"), "192.0.2.7"), (v2(0x20, 0, b""), "unknown")] {
        let mut one = client(&header);
        assert_eq!(one.response().status, 200);
        let status = client(&header).response().status;
        assert_eq!(status, if expected == "unknown" { 200 } else { 503 });
        let request = env.backend.take_requests().pop().unwrap();
        assert_eq!(request.field("x-forwarded-for"), Some(expected));
    }
    assert_eq!(client(b"").read_until_close(), b"");
    env.gateway.wait_for_log(|line| line["message"] == "connection to the Unix socket closed");
}

#[test]
fn reload_enables_and_disables_the_proxy_protocol() {
    let env = TestEnv::start("listen:\n  trusted_proxies: [127.0.0.1]\n  proxy_protocol: false\n");
    let status = |bytes: &[u8]| env.gateway.client().send(bytes).try_response(false).map(|it| it.status).ok();
    let told = [&v1("192.0.2.7"), WHO.as_bytes()].concat();
    let mut kept = env.gateway.client();
    assert_eq!(kept.send(WHO).response().status, 200);
    for (from, to, plain, with_header) in
        [("false", "true", None, Some(200)), ("true", "false", Some(200), Some(400))]
    {
        env.gateway.edit(&format!("proxy_protocol: {from}"), &format!("proxy_protocol: {to}"));
        assert!(env.gateway.reload());
        assert_eq!((status(WHO.as_bytes()), status(&told)), (plain, with_header));
        assert_eq!(kept.send(WHO).response().status, 200, "an open connection stays open");
    }
}

#[test]
fn limits_count_the_address_of_the_proxy_header() {
    let env = with_proxy_protocol("", "limits: {connections_per_address: 2}");
    let connect = |header: &[u8]| {
        let mut client = env.gateway.client();
        client.send([header, WHO.as_bytes()].concat());
        let status = client.response().status;
        (client, status)
    };
    let held: Vec<_> = (0..2).map(|_| connect(&v1("192.0.2.7"))).collect();
    assert!(held.iter().all(|(_, status)| *status == 200));
    let (mut turned_away, status) = connect(&v1("192.0.2.7"));
    assert_eq!((status, turned_away.read_until_close()), (503, Vec::new()));
    let _others: Vec<_> = (0..2).map(|_| connect(&v1("192.0.2.8"))).collect();
    assert_eq!(connect(&v1("192.0.2.8")).1, 503);
    // Trusted clients and the proxy's own connections are not counted.
    let held_too: Vec<_> = (0..8)
        .map(|round| connect(&if round % 2 == 0 { v1("10.0.0.1") } else { v2(0x20, 0, b"") }))
        .collect();
    assert!(held_too.iter().all(|(_, status)| *status == 200));
    env.gateway.wait_for_metric("requests_total{status=\"503\",reason=\"overloaded\"}", 2.0);
    env.gateway.wait_for_log(|line| line["message"] == "connections rejected: too many are open");
    drop(held);
    let end = Instant::now() + Duration::from_secs(5);
    while connect(&v1("192.0.2.7")).1 != 200 {
        assert!(Instant::now() < end, "closed connections still count");
    }

    let env = with_proxy_protocol("", "limits: {requests_per_address: 2}");
    let statuses = |client: &str| {
        let mut kept = env.gateway.client();
        kept.send(v1(client));
        (0..3).map(|_| kept.send(WHO).response().status).collect::<Vec<_>>()
    };
    assert_eq!(statuses("192.0.2.7"), [200, 200, 429]);
    assert_eq!(statuses("192.0.2.8"), [200, 200, 429]);
}
