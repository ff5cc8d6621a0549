//! Connections to the admin listener and the redirect: which are evicted, and that probes get a slot.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Authority, Gateway, KillOnDrop, RawClient};

const SECTIONS: &str = "backend:\n  url: http://127.0.0.1:9\nintrospection:\n  url: http://127.0.0.1:9/token\n\
                        admin:\n  token: the-operator-of-these-tests\n";
/// More connections than any listener keeps.
const MANY: usize = 1300;

/// Opens connections continuously, and keeps the latest [`MANY`], until it is dropped.
struct Flood {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    /// Waits until there are [`MANY`] connections. Each sends `bytes` and nothing more.
    fn start(connect: impl Fn() -> RawClient + Send + 'static, bytes: &'static str) -> Self {
        // A scrape takes milliseconds in a debug build, and this test does not measure the speed of scrapes.
        let (count, pause) = if bytes.starts_with("GET /metrics") && bytes.ends_with("\r\n\r\n") {
            (200, Duration::from_millis(20))
        } else {
            (MANY, Duration::from_millis(1))
        };
        let over = Arc::new(AtomicBool::new(false));
        let (is_over, started) = (Arc::clone(&over), Arc::new(AtomicBool::new(false)));
        let has_started = Arc::clone(&started);
        let thread = thread::spawn(move || {
            let mut kept = std::collections::VecDeque::new();
            while !is_over.load(Ordering::Relaxed) {
                let mut client = connect();
                let _ = client.try_send(bytes);
                kept.push_back(client);
                if kept.len() > count {
                    kept.pop_front();
                    has_started.store(true, Ordering::Relaxed);
                    // A few hundred a second, so that the test does not depend on the machine's speed.
                    thread::sleep(pause);
                }
            }
        });
        while !started.load(Ordering::Relaxed) {
            assert!(!thread.is_finished(), "the flood has ended");
            thread::sleep(Duration::from_millis(5));
        }
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gateway() -> Gateway {
    Gateway::builder().yaml(SECTIONS).start()
}

/// Probes sequentially, each on a new connection.
fn probe(connect: impl Fn() -> RawClient, what: &str) {
    for target in ["/healthz", "/readyz", "/metrics"].into_iter().cycle().take(50) {
        let asked = Instant::now();
        let answer = connect().try_request("GET", target, &[], b"");
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {target}: {error}"));
        assert_eq!(answer.status, 200, "{what}: {target}");
        // More than 1 s, since other tests run at the same time.
        assert!(asked.elapsed() < Duration::from_secs(5), "{what}: {target}: {:?}", asked.elapsed());
    }
}

#[test]
fn finished_probes_do_not_close_a_request_in_flight() {
    let gateway = gateway();
    let body = r#"{"id": "17"}"#;
    let mut operator = RawClient::connect(gateway.admin());
    operator.send(format!(
        "POST /tokens/revoke HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer the-operator-of-these-tests\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    ));
    for _ in 0..MANY {
        assert_eq!(RawClient::connect(gateway.admin()).get("/healthz", None).status, 200);
    }
    assert_eq!(operator.send(body).response().status, 200);
}

#[test]
fn probes_get_through_a_flood_of_connections() {
    for (what, bytes) in [
        ("idle connections", ""),
        ("half a head", "GET /metrics HTTP/1.1\r\nHost:"),
        ("half a body", "POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"),
        ("answers that nobody reads", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        for source in ["127.0.0.1", "127.0.0.2"] {
            let gateway = gateway();
            let admin = gateway.admin();
            let _flood = Flood::start(move || RawClient::connect_from(source, admin), bytes);
            probe(|| RawClient::connect(admin), &format!("{what} from {source}"));
        }
    }
}

#[test]
fn flood_of_connections_does_not_close_the_operators_connection() {
    let gateway = gateway();
    let admin = gateway.admin();
    let body = r#"{"id": "17"}"#;
    let mut operator = RawClient::connect(admin);
    operator.send(format!(
        "POST /tokens/revoke HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer the-operator-of-these-tests\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    ));
    let flood = Flood::start(move || RawClient::connect(admin), "");
    probe(|| RawClient::connect(admin), "beside an operator");
    drop(flood);
    assert_eq!(operator.send(body).response().status, 200);
}

#[test]
fn probes_get_through_a_flood_at_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let sections =
        SECTIONS.replace("admin:\n", &format!("admin:\n  address: \"unix:{}\"\n", socket.display()));
    let yaml = Gateway::builder().text().replace("admin:\n  address: 127.0.0.1:0\n", "");
    let _gateway = start(&directory.path().join("gateway.yaml"), &format!("{yaml}{sections}"), &socket);
    let path = socket.clone();
    let _flood = Flood::start(move || RawClient::connect_unix(&path), "");
    probe(|| RawClient::connect_unix(&socket), "Unix socket");
}

/// A gateway whose admin socket alone matters.
fn start(file: &Path, yaml: &str, socket: &Path) -> KillOnDrop {
    use std::process::{Command, Stdio};
    std::fs::write(file, yaml).unwrap();
    let mut command = Command::new(crate::support::BINARY);
    command.arg("run").arg("--config").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let process = KillOnDrop(command.spawn().unwrap());
    let end = Instant::now() + crate::support::PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < end, "the gateway does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    process
}

#[test]
fn client_that_holds_connections_does_not_block_redirects() {
    let authority = Arc::new(Authority::new());
    let gateway = Gateway::builder()
        .tls(&authority)
        .yaml("listen:\n  redirect_address: 127.0.0.1:0\n")
        .yaml("backend:\n  url: http://127.0.0.1:9\nintrospection:\n  url: http://127.0.0.1:9/token\n")
        .start();
    let redirect: SocketAddr = gateway.wait_for_listener("redirect");
    for source in ["127.0.0.1", "127.0.0.2"] {
        let _flood = Flood::start(move || RawClient::connect_from(source, redirect), "");
        for _ in 0..20 {
            let answer = RawClient::connect(redirect).try_request("GET", "/up", &[], b"");
            assert_eq!(answer.unwrap_or_else(|error| panic!("{source}: {error}")).status, 308);
        }
    }
}
