//! Socket activation by systemd, and notifications to systemd.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::gateway::Builder;
use crate::support::{Authority, BINARY, Gateway, Introspector, RawClient, Upstream};

/// A gateway whose backend and introspector have stopped, since the tests need neither.
fn builder() -> Builder {
    Gateway::builder().backend(&Upstream::start()).introspector(&Introspector::start())
}

fn listening(gateway: &Gateway, listener: &str) -> Value {
    gateway.wait_for_log(|line| line["message"] == "listening" && line["listener"] == listener)
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

#[test]
fn inherited_sockets_replace_configured_addresses() {
    for (names, swapped) in [
        (None, false),
        (Some("proxy:admin"), false),
        (Some("admin:proxy"), true),
        (Some("gateway.socket:gateway-admin.socket"), false),
    ] {
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let (first, second) = (address(&sockets[0]), address(&sockets[1]));
        let mut builder = builder();
        for socket in &sockets {
            builder = builder.inheriting(socket.try_clone().unwrap());
        }
        if let Some(names) = names {
            builder = builder.environment("LISTEN_FDNAMES", names);
        }
        let gateway = builder.start();
        let expected = if swapped { (second, first) } else { (first, second) };
        assert_eq!((gateway.address(), gateway.admin()), expected, "{names:?}");
        for listener in ["proxy", "admin"] {
            assert_eq!(listening(&gateway, listener)["inherited"], true);
        }
        assert_eq!(gateway.get("/api/v2/items", None).status, 401);
        assert_eq!(RawClient::connect(gateway.admin()).get("/readyz", None).status, 200);
    }
}

#[test]
fn redirect_listener_uses_an_inherited_socket() {
    let authority = Arc::new(Authority::new());
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (first, second) = (address(&sockets[0]), address(&sockets[1]));
    let mut builder = builder()
        .tls(&authority)
        .yaml("listen:\n  redirect_address: 127.0.0.1:1\n")
        .environment("LISTEN_FDNAMES", "redirect:proxy");
    for socket in sockets {
        builder = builder.inheriting(socket);
    }
    let gateway = builder.start();
    assert_eq!((gateway.wait_for_listener("redirect"), gateway.address()), (first, second));
    let redirected = RawClient::connect(first).get("/api/v2/items", None);
    assert_eq!(
        (redirected.status, redirected.field("location")),
        (308, Some("https://stockaj.example/api/v2/items"))
    );
    assert_eq!(gateway.get("/api/v2/items", None).status, 401);
}

#[test]
fn decision_listener_uses_an_inherited_socket() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (first, second) = (address(&sockets[0]), address(&sockets[1]));
    let mut builder = builder()
        .yaml("decision: {address: '127.0.0.1:1', trusted_proxies: [127.0.0.1]}\n")
        .environment("LISTEN_FDNAMES", "decision:proxy");
    for socket in sockets {
        builder = builder.inheriting(socket);
    }
    let gateway = builder.start();
    assert_eq!((gateway.wait_for_listener("decision"), gateway.address()), (first, second));
    let fields = [("X-Original-Method", "GET"), ("X-Original-URI", "/api/v2/items")];
    assert_eq!(RawClient::connect(first).request("GET", "/", &fields, b"").status, 401);
    assert_eq!(gateway.get("/api/v2/items", None).status, 401);
}

#[test]
fn inherited_unix_socket_outlives_the_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("front.sock");
    let socket = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let mut gateway = builder().inheriting(socket.try_clone().unwrap()).start();
        assert_eq!(listening(&gateway, "proxy")["address"], format!("unix:{}", path.display()));
        assert_eq!(
            listening(&gateway, "admin")["inherited"],
            Value::Null,
            "the gateway has bound this address itself"
        );
        assert_eq!(RawClient::connect_unix(&path).get("/api/v2/items", None).status, 401);
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.wait_exit(Duration::from_secs(5)).code(), Some(0));
        assert!(path.exists());
    }
    // No process accepts connections: they wait for the next one.
    let mut early = RawClient::connect_unix(&path);
    early.send("GET /api/v2/items HTTP/1.1\r\nHost: a\r\n\r\n");
    let _gateway = builder().inheriting(socket).start();
    assert_eq!(early.response().status, 401);
}

/// The outcome of a start with these sockets and variables.
fn refused(sockets: Vec<OwnedFd>, environment: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    std::fs::write(&file, builder().text()).unwrap();
    let mut sockets = sockets.into_iter().map(Stdio::from);
    let redirections = if sockets.len() > 1 { "3<&0 4<&2 2>&1" } else { "3<&0 2>&1" };
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("LISTEN_PID=$$ exec {BINARY} run --config {} {redirections}", file.display()));
    command.stdin(sockets.next().unwrap_or_else(Stdio::null));
    command.stderr(sockets.next().unwrap_or_else(Stdio::null));
    let Output { status, stdout, .. } =
        command.stdout(Stdio::piped()).envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(78), "{said}");
    said
}

#[test]
fn unusable_inherited_sockets_are_startup_errors() {
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let bound =
        || OwnedFd::from(socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
    let wrong_kind =
        "(file descriptor 3) cannot be used: it is neither a TCP socket nor a Unix stream socket";
    for (sockets, count, names, expected) in [
        (vec![udp()], "1", "", wrong_kind),
        (vec![file()], "1", "proxy", wrong_kind),
        (vec![bound()], "1", "", "for `proxy` (file descriptor 3) cannot be used: it does not listen"),
        (vec![tcp(), udp()], "2", "", "for `admin` (file descriptor 4) cannot be used"),
        (vec![tcp()], "2", "", "for `admin` (file descriptor 4) cannot be used"),
        (vec![tcp()], "5", "", "LISTEN_FDS is `5`"),
        (vec![tcp()], "many", "", "LISTEN_FDS is `many`"),
        (vec![tcp()], "1", "proxy:admin", "LISTEN_FDNAMES has 2 names for 1 sockets"),
        (vec![tcp(), tcp()], "2", "admin:admin", "LISTEN_FDNAMES names two sockets `admin`"),
        (vec![tcp(), tcp()], "2", "admin:other", "LISTEN_FDNAMES names a socket `other`"),
        (vec![tcp()], "1", "redirect", "listen.redirect_address is not set"),
        (vec![tcp()], "1", "decision", "decision.address is not set"),
    ] {
        let said = refused(sockets, &[("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)]);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn sockets_for_another_process_are_ignored() {
    let gateway = builder().environment("LISTEN_PID", "1").environment("LISTEN_FDS", "5").start();
    assert_eq!(listening(&gateway, "proxy")["inherited"], Value::Null);
}

#[test]
fn gateway_notifies_systemd_of_ready_reload_and_stop() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let told = || {
        let mut buffer = [0; 512];
        let length = systemd.recv(&mut buffer).expect("a notification");
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        text.lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<Vec<_>>()
    };
    let said = |key: &str| vec![(key.to_owned(), "1".to_owned())];
    let mut gateway = builder().environment("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    assert_eq!(told(), said("READY"));
    assert_eq!(RawClient::connect(gateway.admin()).get("/readyz", None).status, 200);
    for taken in [true, false] {
        if !taken {
            gateway.edit("runtime: {threads: 2}", "runtime: {threads: many}");
        }
        assert_eq!(gateway.reload(), taken);
        let reloading = told();
        assert_eq!(reloading[0], ("RELOADING".to_owned(), "1".to_owned()));
        assert_eq!(reloading[1].0, "MONOTONIC_USEC");
        assert!(reloading[1].1.parse::<u64>().is_ok_and(|microseconds| microseconds > 0));
        assert_eq!(told(), said("READY"));
    }
    gateway.signal(Signal::TERM);
    assert_eq!(told(), said("STOPPING"));
    assert_eq!(gateway.wait_exit(Duration::from_secs(5)).code(), Some(0));
}
