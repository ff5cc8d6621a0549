use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use base64::prelude::{BASE64_STANDARD, Engine as _};

use std::fs;
use std::net;
use std::os::unix::net as unix;

use secrecy::SecretString;

use super::*;
use crate::config;
use crate::config::settings::ListenAddress;
use crate::telemetry::lines::AuditPriority;
use crate::tokens::blocklist::BlockList;
use crate::tokens::blocklist::file::BlockFile;
use crate::tokens::cache::TokenCache;
use crate::tokens::introspection_limiter::IntrospectionLimiter;
use crate::tokens::lookup::SharedVerdicts;
use crate::usage::writer::Usage;

const LOOPBACK: ListenAddress =
    ListenAddress::Tcp(SocketAddr::new(net::IpAddr::V4(net::Ipv4Addr::LOCALHOST), 0));

struct Running {
    handle: Handle,
    address: SocketAddr,
    readiness: Arc<Readiness>,
}

impl Admin {
    /// An admin listener without a gateway.
    pub(crate) fn standalone(token: Option<&str>, readiness: Arc<Readiness>) -> Self {
        let text = "backend: {url: http://127.0.0.1:9}\nintrospection: {url: http://127.0.0.1:9}\n\
                    abilities: {routes: {/up: {GET: public}}}\n";
        let mut settings = config::load_text("test", text.to_owned()).unwrap().settings;
        settings.admin.token = token.map(SecretString::from);
        let metrics = Metrics::new(1);
        let blocks = Arc::<BlockList>::default();
        let shared = Arc::new(SharedVerdicts {
            cache: TokenCache::new(&settings.cache, Arc::default(), Arc::clone(&blocks), Box::new(|_| {})),
            introspections: IntrospectionLimiter::new(1),
        });
        let revoker = Arc::new(Revoker::new(shared, Arc::clone(&metrics)));
        let (file, _) = BlockFile::open(std::path::Path::new("/dev/null/blocked.json")).unwrap();
        let blocker = Blocker::new(blocks, file, Arc::clone(&revoker), Arc::clone(&metrics));
        let usage = Arc::new(Usage::new(Arc::clone(&metrics), 1));
        Self {
            metrics,
            readiness,
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            revoker,
            blocker: Arc::new(blocker),
            usage,
            uncovered: UncoveredRequests::new(1),
            refused: RejectedAttempts::default(),
            audit: AuditLog::detached(),
            throttle: Throttle::default(),
        }
    }
}

fn start(token: Option<&str>) -> Running {
    let listener = Listener::bind(&LOOPBACK).unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else { panic!("not TCP") };
    let readiness = Arc::<Readiness>::default();
    let admin = Admin::standalone(token, Arc::clone(&readiness));
    Running { handle: admin.serve(listener).unwrap(), address, readiness }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends a request with these additional header lines. Returns the head, in lower case, and the body of the response.
fn send(address: SocketAddr, line: &str, fields: &str, body: &str) -> (String, String) {
    let mut stream = connect(address);
    let length = body.len();
    write!(stream, "{line} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{fields}\r\n{body}").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.strip_prefix("http/1.1 ").unwrap()[..3].parse().unwrap()
}

#[test]
fn metrics_and_probes_need_no_token() {
    let running = start(None);
    let ready = |state| {
        running.readiness.set(state);
        let (head, body) = send(running.address, "GET /readyz", "", "");
        (status(&head), body)
    };
    let (head, body) = send(running.address, "GET /readyz", "", "");
    assert_eq!((status(&head), body.as_str()), (503, r#"{"status":"starting"}"#));
    assert_eq!(ready(ReadinessState::Ready), (200, r#"{"status":"ready"}"#.to_owned()));
    assert_eq!(ready(ReadinessState::Draining), (503, r#"{"status":"draining"}"#.to_owned()));

    let (head, body) = send(running.address, "GET /healthz", "", "");
    assert_eq!((status(&head), body.as_str()), (200, r#"{"status":"ok"}"#));
    assert!(head.contains("content-type: application/json"), "{head}");

    let (head, body) = send(running.address, "GET /metrics?x=1", "", "");
    assert_eq!(status(&head), 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("stockaj_gateway_build_info{"), "{body}");

    let (head, body) = send(running.address, "HEAD /metrics", "", "");
    assert_eq!((status(&head), body.as_str()), (200, ""));
    let (head, body) = send(running.address, "POST /metrics", "", "");
    assert_eq!((status(&head), body.as_str()), (405, r#"{"message":"Method Not Allowed."}"#));
    assert!(head.contains("allow: get, head"), "{head}");
    running.handle.stop();
}

#[test]
fn other_paths_need_the_admin_token() {
    let basic = |credentials: &str| format!("Basic {}", BASE64_STANDARD.encode(credentials));
    let running = start(Some("s3cret:with colon"));
    for (line, authorization, expected) in [
        ("GET /x", None, 401),
        ("GET /x", Some("Bearer s3cret:with colon".to_owned()), 404),
        ("GET /x", Some("bearer   s3cret:with colon".to_owned()), 404),
        ("GET /x", Some("Bearer s3cret:with colo".to_owned()), 401),
        ("GET /x", Some("Bearer ".to_owned()), 401),
        ("GET /x", Some("Bearer S3cret:with colon".to_owned()), 401),
        ("GET /x", Some("s3cret:with colon".to_owned()), 401),
        ("GET /x", Some(basic("anyone:s3cret:with colon")), 404),
        ("GET /x", Some(basic(":s3cret:with colon")), 404),
        ("GET /x", Some(basic("s3cret:with colon")), 401),
        ("GET /x", Some("Basic !".to_owned()), 401),
        ("POST /x", Some(basic("anyone:s3cret:with colon")), 401),
        ("DELETE /x", Some(basic("anyone:s3cret:with colon")), 401),
        ("POST /x", Some("Bearer s3cret:with colon".to_owned()), 404),
        ("GET /metrics/", None, 401),
        ("GET //metrics", None, 401),
    ] {
        let fields = authorization.as_ref().map(|value| format!("Authorization: {value}\r\n"));
        let (head, body) = send(running.address, line, &fields.unwrap_or_default(), "");
        assert_eq!(status(&head), expected, "{line} {authorization:?}");
        if expected == 401 {
            assert_eq!(body, r#"{"message":"Unauthenticated."}"#);
            let scheme = if line.starts_with("GET") { "basic" } else { "bearer" };
            assert!(head.contains(&format!("www-authenticate: {scheme} realm=")), "{line}: {head}");
        } else {
            assert_eq!(body, r#"{"message":"Not Found."}"#);
        }
    }
    let twice = "Authorization: Bearer s3cret:with colon\r\n".repeat(2);
    assert_eq!(status(&send(running.address, "GET /x", &twice, "").0), 401);
    running.handle.stop();
}

#[test]
fn wrong_credentials_are_limited_and_the_right_ones_never() {
    let running = start(Some("s3cret:with colon"));
    let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("anyone:{password}")));
    let present = |line: &str, authorization: &str| {
        let (head, body) = send(running.address, line, &format!("Authorization: {authorization}\r\n"), "");
        (status(&head), head, body)
    };
    let mut statuses = [0, 0];
    for number in 0..40 {
        let (line, wrong) = match number % 4 {
            0 => ("GET /x", "Bearer wrong".to_owned()),
            1 => ("POST /x", "Bearer wrong".to_owned()),
            2 => ("GET /x", basic("wrong")),
            _ => ("GET /x", "wrong".to_owned()),
        };
        let (status, head, body) = present(line, &wrong);
        match status {
            401 => statuses[0] += 1,
            429 => {
                statuses[1] += 1;
                assert_eq!(body, r#"{"message":"Too Many Attempts."}"#);
                assert!(head.contains("\r\nretry-after: 1") && !head.contains("www-authenticate"), "{head}");
            }
            other => panic!("{other}"),
        }
        // The right token is accepted throughout.
        assert_eq!(present("POST /x", "Bearer s3cret:with colon").0, 404);
        assert_eq!(present("GET /x", &basic("s3cret:with colon")).0, 404);
    }
    assert!(statuses[0] >= 20 && statuses[1] >= 5, "{statuses:?}");
    // Neither counts as an attempt: a browser without credentials, and the token in a scheme that the method does not
    // accept.
    assert_eq!(status(&send(running.address, "GET /x", "", "").0), 401);
    assert_eq!(present("POST /x", &basic("s3cret:with colon")).0, 401);
    assert_eq!(status(&send(running.address, "GET /healthz", "", "").0), 200);
    running.handle.stop();
}

#[test]
fn other_paths_are_404_without_a_configured_token() {
    for token in [None, Some("")] {
        let running = start(token);
        for fields in ["", "Authorization: Bearer \r\n", "Authorization: Basic Og==\r\n"] {
            let (head, body) = send(running.address, "GET /tokens", fields, "");
            assert_eq!((status(&head), body.as_str()), (404, r#"{"message":"Not Found."}"#), "{fields}");
            assert!(!head.contains("www-authenticate"), "{head}");
        }
        running.handle.stop();
    }
}

#[test]
fn body_over_the_limit_is_413() {
    let running = start(Some("token"));
    let post = |length: usize| {
        let (head, _) =
            send(running.address, "POST /x", "Authorization: Bearer token\r\n", &"x".repeat(length));
        status(&head)
    };
    assert_eq!(post(64 * 1024), 404);
    assert_eq!(post(64 * 1024 + 1), 413);
    running.handle.stop();
}

#[test]
fn action_without_room_for_its_audit_line_is_503() {
    let listener = Listener::bind(&LOOPBACK).unwrap();
    let ListenAddress::Tcp(address) = *listener.address() else { panic!("not TCP") };
    let admin = Admin::standalone(Some("token"), Arc::default());
    let audit = admin.audit.clone();
    let handle = admin.serve(listener).unwrap();
    let slots: Vec<_> = std::iter::from_fn(|| audit.reserve(AuditPriority::Change).ok()).collect();
    let authorization = "Authorization: Bearer token\r\n";
    let responses = || {
        ["POST /tokens/revoke", "GET /tokens", "GET /config"].map(|line| {
            let body = if line.starts_with("POST") { r#"{"id":"17"}"# } else { "" };
            send(address, line, authorization, body)
        })
    };
    for (head, body) in responses() {
        assert_eq!((status(&head), body.as_str()), (503, r#"{"message":"Service Unavailable."}"#));
        assert!(head.contains("retry-after: 5"), "{head}");
    }
    assert_eq!(status(&send(address, "GET /readyz", "", "").0), 503, "the gateway is not ready");
    assert_eq!(status(&send(address, "GET /healthz", "", "").0), 200, "probes are not audited");
    drop(slots);
    for (head, body) in responses() {
        assert_eq!(status(&head), 200, "{body}");
    }
    handle.stop();
}

#[test]
fn silent_connections_do_not_block_probes() {
    let running = start(None);
    let silent: Vec<TcpStream> = (0..MAX_CONNECTIONS + 8).map(|_| connect(running.address)).collect();
    let (head, _) = send(running.address, "GET /healthz", "", "");
    assert_eq!(status(&head), 200);
    drop(silent);
    running.handle.stop();
}

#[test]
fn stopped_listener_frees_its_port() {
    let running = start(None);
    let (head, _) = send(running.address, "GET /healthz", "", "");
    assert_eq!(status(&head), 200);
    running.handle.stop();
    assert_eq!(TcpStream::connect(running.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(Listener::bind(&ListenAddress::Tcp(running.address)).is_ok(), "the port is free");
}

#[test]
fn bind_fails_if_the_port_is_in_use() {
    let listener = Listener::bind(&LOOPBACK).unwrap();
    let error = Listener::bind(listener.address()).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("cannot listen on {}: ", listener.address())), "{error}");
}

#[test]
fn unix_socket_replaces_a_dead_socket_but_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let address = ListenAddress::Unix(path.clone());
    // The socket file of a process that has ended.
    drop(unix::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&address).unwrap();
    assert_eq!(Listener::bind(&address).unwrap_err().source.kind(), ErrorKind::AddrInUse);
    let admin = Admin::standalone(None, Arc::default());
    let handle = admin.serve(listener).unwrap();
    let mut stream = unix::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    handle.stop();
    assert!(!path.exists());

    fs::write(&path, "a file").unwrap();
    assert_eq!(Listener::bind(&address).unwrap_err().source.kind(), ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
}
