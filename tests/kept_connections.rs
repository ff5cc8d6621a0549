//! Reused backend connections, and backends that close them.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::manual_backend::ManualBackend;
use crate::support::ports::free_address;
use crate::support::{Answer, PATIENCE, TestEnv, WRITER, echo};

const ITEMS: &str = "/api/v2/items";
const MAP: &str = "abilities:\n  routes:\n    /up: {GET: public, POST: public}\n";

#[test]
fn unsolicited_response_closes_its_connection() {
    let mut env = TestEnv::builder().backend(ManualBackend::start()).yaml(MAP).start();
    let mut client = env.gateway.client();
    client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut first, _) = env.backend.request();
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    assert_eq!(client.response().text(), "one");
    for method in ["GET", "POST"] {
        first.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        env.gateway.wait_for_metric("backend_connections{state=\"active\"}", 0.0);
        // The sweep also closes the connection; a request that arrives before the sweep must not use it.
        client.send(format!("{method} /up HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        let (mut second, _) = env.backend.request();
        second.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
        assert_eq!(client.response().text(), "two", "{method}");
        first = second;
    }
}

#[test]
fn keep_alive_timeout_of_the_backend_is_honoured() {
    for (field, waits, connections) in [
        ("timeout=2, max=100", Duration::from_millis(1300), 2),
        ("timeout=1", Duration::ZERO, 2),
        ("timeout=0", Duration::ZERO, 2),
        ("timeout=60", Duration::from_millis(1300), 1),
        ("max=100", Duration::from_millis(1300), 1),
    ] {
        let env = TestEnv::start("");
        env.backend.answer(move |_| Answer::with(200, &[("Keep-Alive", field)], "body"));
        let mut client = env.gateway.client();
        assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 200, "{field}");
        thread::sleep(waits);
        assert_eq!(client.request("POST", ITEMS, &[WRITER], b"body").status, 200, "{field}");
        let requests = env.backend.requests();
        let used = if requests[0].connection == requests[1].connection { 1 } else { 2 };
        assert_eq!(used, connections, "{field}");
    }
}

/// Node.js and Apache close a connection after five idle seconds.
#[test]
fn idle_connection_is_closed_before_five_seconds() {
    let env = TestEnv::start("");
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
    env.gateway.wait_for_metric("backend_connections{state=\"idle\"}", 1.0);
    let began = Instant::now();
    env.gateway.wait_for_metric("backend_connections{state=\"idle\"}", 0.0);
    assert!(began.elapsed() < Duration::from_millis(5500), "{:?}", began.elapsed());
}

#[test]
fn response_of_up_to_256_fields_is_forwarded() {
    let env = TestEnv::start("");
    for (number, status) in [(150, 200), (250, 200), (300, 502)] {
        env.backend.answer(move |_| {
            let fields: String = (0..number).map(|number| format!("X-{number}: x\r\n")).collect();
            Answer::raw(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 4\r\n\r\nbody"))
        });
        let response = env.gateway.get(ITEMS, Some("1|writer"));
        assert_eq!(response.status, status, "{number}");
        let passed = (0..number).filter(|number| response.field(&format!("x-{number}")).is_some()).count();
        assert_eq!(passed, if status == 200 { number } else { 0 }, "{number}");
    }
    env.gateway.wait_for_log(|line| {
        line["message"] == "malformed response of the backend"
            && line["error"].as_str().is_some_and(|error| error.contains("more than 256 fields"))
            && line["request_id"].as_str().is_some_and(|id| !id.is_empty())
    });
}

/// A POST is sent over a new connection if the backend has just closed the idle one, which is detected before any byte
/// is sent.
#[test]
fn connection_that_ended_while_idle_carries_no_post() {
    let env = TestEnv::start("");
    for round in 1..=20 {
        env.backend.answer(echo);
        let mut client = env.gateway.client();
        assert_eq!(client.request("GET", ITEMS, &[WRITER], b"").status, 200);
        env.backend.close_connections();
        let response = client.request("POST", ITEMS, &[WRITER], b"body");
        assert_eq!(response.status, 200, "round {round}");
    }
}

/// Real nginx as the backend.
struct Nginx {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Nginx {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let port = free_address().port();
        let path = directory.path().display();
        let configuration = format!(
            "daemon off;\nworker_processes 2;\npid {path}/pid;\nerror_log {path}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {path};\n  proxy_temp_path {path};\n\
             fastcgi_temp_path {path};\n  uwsgi_temp_path {path};\n  scgi_temp_path {path};\n\
             server {{\n    listen 127.0.0.1:{port};\n    location / {{ return 200 up; }}\n  }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "nginx did not start");
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, port, _directory: directory }
    }

    fn reload(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs nginx: tests/run"]
fn nginx_reloads_fail_no_get() {
    let nginx = Nginx::start();
    let env = TestEnv::builder().backend(SocketAddr::from(([127, 0, 0, 1], nginx.port))).yaml(MAP).start();
    let over = AtomicBool::new(false);
    let served: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = env.gateway.client();
                    let mut served = 0;
                    while !over.load(Ordering::Relaxed) {
                        let response = client.get("/up", None);
                        assert_eq!(response.status, 200, "after {served}: {}", response.text());
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(400));
            nginx.reload();
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    println!("{served} requests over 20 reloads");
    assert!(served > 1000, "{served}");
}
