//! Tests of panics, and of tunnels after a revocation.
//!
//! No request is known to cause a panic, so a time limit beyond the range of the clock causes it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::num::{NonZeroU32, NonZeroUsize};
use std::thread;
use std::time::{Duration, SystemTime};

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{self, LocalOptions};

use super::*;
use crate::client::Connector;
use crate::client::pool::{BoundSettings, ConnectionBound, Pool, PoolStats};
use crate::config;
use crate::config::settings::{Allowance, Rate, RateLimit};
use crate::policy::ability::Abilities;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::unmapped::UncoveredRequests;
use crate::tokens::cache::TokenCache;
use crate::tokens::hash::{TokenHash, TokenHashes};
use crate::tokens::introspection_limiter::IntrospectionLimiter;
use crate::tokens::introspector::Introspector;
use crate::tokens::lookup::SharedVerdicts;
use crate::tokens::revocation::Revocation;
use crate::tokens::verdict::Verdict;

const PANICS: Duration = Duration::MAX;
const PATIENCE: Duration = Duration::from_secs(5);
const YAML: &str = "\
introspection: {url: http://127.0.0.1:9/, max_concurrent: 2}
abilities: {routes: {/up: {GET: public, POST: public}, /items: {GET: items:read}}}
";

struct TestGateway {
    gateway: Rc<Gateway>,
    metrics: Arc<Metrics>,
    shared: Arc<SharedVerdicts>,
}

/// A gateway for a backend at `port`. `change` gives settings values that no configuration file can have.
fn gateway_of_test(port: u16, backend_timeout: Duration, change: impl FnOnce(&mut Settings)) -> TestGateway {
    let text = format!("backend: {{url: 'http://127.0.0.1:{port}'}}\n{YAML}");
    let mut settings = config::load_text("gateway.yaml", text).unwrap().settings;
    change(&mut settings);
    let settings = Arc::new(settings);
    let metrics = Metrics::new(1);
    let routes = metrics.routes(settings.abilities.templates());
    let shared = Arc::new(SharedVerdicts {
        cache: TokenCache::new(&settings.cache, Arc::default(), Arc::default(), Box::new(|_| {})),
        introspections: IntrospectionLimiter::new(settings.introspection.max_concurrent),
    });
    let introspection = &settings.introspection;
    let connector = Connector::new(&introspection.destination, &introspection.tls, PANICS).unwrap();
    let pool = Pool::new(Arc::new(connector), PATIENCE, None, PATIENCE);
    let introspector = Introspector::new(Arc::clone(&settings), pool);
    let lookup = Lookup::new(Arc::clone(&shared), introspector, metrics.worker(0));
    let backend = &settings.backend;
    let connector = Connector::new(&backend.destination, &backend.tls, backend_timeout).unwrap();
    let bound = BoundSettings::of_connections(NonZeroUsize::new(2).unwrap(), PATIENCE);
    let bound = ConnectionBound::new(bound, 1);
    let pool = Pool::new(Arc::new(connector), PATIENCE, Some(bound), PATIENCE);
    let backend = Backend::new(Arc::clone(&settings), pool);
    let recorder = Rc::new(Recorder {
        metrics: metrics.worker(0),
        access: AccessLog::off(),
        uncovered: UncoveredRequests::new(1).worker(0),
        tracer: None,
        usage: None,
    });
    let limiter = Arc::new(Limiter::new(&settings));
    let gateway = Rc::new(Gateway::new(settings, routes, lookup, backend, limiter, recorder));
    TestGateway { gateway, metrics, shared }
}

impl TestGateway {
    /// A client's connection, and the task that serves it.
    fn connect(&self) -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let (client, server) = duplex(64 * 1024);
        let gateway = Rc::clone(&self.gateway);
        let downstream = Rc::new(Downstream::new(None, false, false, Instant::now()));
        let serving = tokio::task::spawn_local(async move {
            let tunnel_slot = TunnelSlot::default();
            let service = service_fn(|request: Request<Incoming>| {
                let (gateway, downstream, tunnel_slot) =
                    (Rc::clone(&gateway), Rc::clone(&downstream), &tunnel_slot);
                let (mut head, body) = request.into_parts();
                async move {
                    let answer = gateway.answer(&downstream, &mut head, body, tunnel_slot).await;
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
            let _ = (&mut connection).await;
            let server = connection.into_parts().io.into_inner();
            if let Some(tunnel) = tunnel_slot.take() {
                tunnel.run(server, Default::default(), &downstream, || Rc::clone(&gateway)).await;
            }
        });
        (client, serving)
    }

    /// Stores the verdict of an active token with the ability `items:read`.
    fn store_token(&self, token: &str, id: &str) {
        let verdict = Verdict {
            id: id.into(),
            name: None,
            abilities: Abilities::new(["items:read"]),
            expires_at: None,
            context: None,
            created_at: None,
            workspace_id: None,
            allowed_from: None,
        };
        let (now, wall, cache) = (Instant::now(), SystemTime::now(), &self.shared.cache);
        cache.store(TokenHashes::of(token), verdict, cache.generation(), now, now, wall);
    }

    fn counts(&self, sample: &str) -> bool {
        let text = self.metrics.render();
        text.lines().any(|line| line == format!("stockaj_gateway_{sample}")) || {
            println!("{text}");
            false
        }
    }

    /// Whether no request is in progress and no resource is held.
    fn is_calm(&self) -> bool {
        self.counts("client_connections{state=\"active\"} 0")
            && self.counts("introspections_in_flight 0")
            && self.gateway.backend.stats() == PoolStats::default()
    }
}

fn on_a_core<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("the test does not hang") })
}

/// Sends `request` and reads a response that ends with `end`.
async fn exchange(client: &mut DuplexStream, request: &str, end: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with(end) {
        let mut bytes = [0; 4096];
        let length = client.read(&mut bytes).await.unwrap();
        assert!(length > 0, "{answer:?}");
        answer.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    answer
}

#[test]
fn panic_in_a_request_is_500_and_keeps_the_connection() {
    let gateway_of_test = gateway_of_test(9, PANICS, |_| {});
    on_a_core(async {
        let (mut client, _serving) = gateway_of_test.connect();
        for _ in 0..3 {
            let request = "GET /up HTTP/1.1\r\nHost: h\r\n\r\n";
            let answer = exchange(&mut client, request, r#"{"message":"Server Error"}"#).await;
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            let request = "GET /items HTTP/1.1\r\nHost: h\r\n\r\n";
            let answer = exchange(&mut client, request, r#"{"message":"Unauthenticated."}"#).await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        }
        let request = "POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let answer = exchange(&mut client, request, r#"{"message":"Server Error"}"#).await;
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    });
    for (method, count) in [("GET", 3), ("POST", 1)] {
        let labels = format!("route=\"/up\",method=\"{method}\",status=\"500\",reason=\"internal_error\"");
        assert!(gateway_of_test.counts(&format!("requests_total{{{labels}}} {count}")));
    }
    assert!(gateway_of_test.is_calm());
}

#[test]
fn panic_ends_its_request_in_flight() {
    let gateway_of_test = gateway_of_test(9, PANICS, |settings| {
        let rate = Rate { requests_per_second: NonZeroU32::MIN, burst: NonZeroU32::MAX };
        let default = Allowance { rate, in_flight: Some(NonZeroU32::MIN), quota: None, has_own_rate: false };
        settings.rate_limit = Some(RateLimit::of_each(default));
    });
    gateway_of_test.store_token("7|x", "7");
    on_a_core(async {
        let (mut client, _serving) = gateway_of_test.connect();
        for _ in 0..3 {
            let request = "GET /items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer 7|x\r\n\r\n";
            let answer = exchange(&mut client, request, "\"}").await;
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        }
    });
    assert!(gateway_of_test.is_calm());
}

#[test]
fn panic_frees_its_connection_slot() {
    let gateway_of_test = gateway_of_test(9, PANICS, |_| {});
    on_a_core(async {
        // More requests at once than the two allowed connections.
        let mut clients: Vec<_> = (0..4).map(|_| gateway_of_test.connect()).collect();
        for (client, _) in &mut clients {
            client.write_all(b"GET /up HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        }
        for (client, _) in &mut clients {
            let answer = exchange(client, "", r#"{"message":"Server Error"}"#).await;
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        }
    });
    assert!(gateway_of_test.is_calm());
}

#[test]
fn panic_in_an_introspection_fails_its_waiting_requests() {
    let gateway_of_test = gateway_of_test(9, PATIENCE, |_| {});
    on_a_core(async {
        let mut clients: Vec<_> = (0..4).map(|_| gateway_of_test.connect()).collect();
        for (client, _) in &mut clients {
            let request = "GET /items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer 7|x\r\n\r\n";
            client.write_all(request.as_bytes()).await.unwrap();
        }
        for (client, _) in &mut clients {
            let answer = exchange(client, "", r#"{"message":"Service Unavailable."}"#).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
    });
    assert!(gateway_of_test.shared.cache.find_in_flight(&TokenHash::of("7|x")).is_none());
    let introspections = ["one", "other"]
        .map(|token| gateway_of_test.shared.introspections.try_acquire(TokenHash::of(token), token.into()));
    assert!(introspections.iter().all(Option::is_some), "both are free");
    assert!(gateway_of_test.is_calm());
}

/// A backend that starts a response of 9 bytes and then sends nothing.
fn stuck_backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = socket.read(&mut [0; 4096]);
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
                let _ = socket.read_to_end(&mut Vec::new());
            });
        }
    });
    port
}

#[test]
fn panic_in_a_body_closes_only_its_connection() {
    let gateway_of_test =
        gateway_of_test(stuck_backend(), PATIENCE, |settings| settings.limits.body_idle_timeout = PANICS);
    on_a_core(async {
        let (mut other, _serving) = gateway_of_test.connect();
        let (mut client, serving) = gateway_of_test.connect();
        client.write_all(b"GET /up HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert!(serving.await.unwrap_err().is_panic());
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.ends_with("abcdefghi"), "{answer}");
        let request = "GET /items HTTP/1.1\r\nHost: h\r\n\r\n";
        let answer = exchange(&mut other, request, r#"{"message":"Unauthenticated."}"#).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        while gateway_of_test.gateway.backend.stats() != PoolStats::default() {
            tokio::task::yield_now().await;
        }
    });
    assert!(gateway_of_test.is_calm());
}

#[test]
fn panic_in_an_upload_ends_only_its_request() {
    let gateway_of_test =
        gateway_of_test(stuck_backend(), PATIENCE, |settings| settings.limits.body_idle_timeout = PANICS);
    on_a_core(async {
        let (mut client, _serving) = gateway_of_test.connect();
        let request = "POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc";
        let answer = exchange(&mut client, request, r#"{"message":"Server Error"}"#).await;
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        while gateway_of_test.gateway.backend.stats() != PoolStats::default() {
            tokio::task::yield_now().await;
        }
    });
    assert!(gateway_of_test.is_calm());
}

/// A backend that accepts every handshake with the key of the RFC, and echoes.
fn echoing_backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                let _ = socket.read(&mut bytes);
                let _ = socket.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                );
                while let Ok(length @ 1..) = socket.read(&mut bytes) {
                    let _ = socket.write_all(&bytes[..length]);
                }
            });
        }
    });
    port
}

#[test]
fn revocation_closes_only_the_tunnels_of_its_token() {
    let gateway_of_test = gateway_of_test(echoing_backend(), PATIENCE, |_| {});
    for (token, id) in [("7|x", "7"), ("8|y", "8")] {
        gateway_of_test.store_token(token, id);
    }
    on_a_core(async {
        let (mut revoked, _serving) = gateway_of_test.connect();
        let (mut other, _serving) = gateway_of_test.connect();
        for (client, token) in [(&mut revoked, "7|x"), (&mut other, "8|y")] {
            let handshake = format!(
                "GET /items HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let answer = exchange(client, &handshake, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            assert_eq!(exchange(client, "echo", "echo").await, "echo");
        }
        assert!(gateway_of_test.counts("tunnels_open 2"));
        gateway_of_test.shared.cache.revoke(Revocation::Id("7".into()));
        // The introspector is not running, so only the revocation can close the tunnel.
        let mut rest = String::new();
        revoked.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "");
        assert_eq!(exchange(&mut other, "echo", "echo").await, "echo");
        assert!(gateway_of_test.counts("tunnels_open 1"));
        drop(other);
        while !gateway_of_test.is_calm() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(gateway_of_test.counts("tunnels_open 0"));
}
