//! When access lines are written, and that none is lost, torn or out of order.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::gateway::{BINARY, Metrics};
use crate::support::{Answer, Gateway, PATIENCE, RawClient, Response, TestEnv};

const CLIENTS: usize = 8;

/// Waits until `missing` returns `None`; panics with its last description.
fn wait_for(missing: impl Fn() -> Option<String>) {
    let end = Instant::now() + PATIENCE;
    while let Some(missing) = missing() {
        assert!(Instant::now() < end, "{missing}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn id(response: &Response) -> String {
    response.field("x-request-id").expect("a request id").to_owned()
}

#[test]
fn single_access_line_is_written_without_another_request() {
    for format in ["json", "text"] {
        let env = TestEnv::start(&format!("log: {{format: {format}}}\n"));
        let id = id(&env.gateway.get("/nowhere", None));
        let is_written = || env.gateway.logs().iter().any(|line| line.contains(&id));
        wait_for(|| (!is_written()).then(|| format!("{format}: no line of {id}")));
    }
}

#[test]
fn no_access_line_is_lost_or_torn_at_shutdown_under_load() {
    for format in ["json", "text"] {
        let mut env = TestEnv::start(&format!("log: {{format: {format}}}\n"));
        let count = AtomicUsize::new(0);
        let connections: Vec<_> = (0..CLIENTS).map(|_| env.gateway.client()).collect();
        let answered: HashSet<String> = thread::scope(|scope| {
            let send = |mut client: RawClient| {
                let mut ids = Vec::new();
                loop {
                    let response = client.get("/nowhere", None);
                    ids.push(id(&response));
                    count.fetch_add(1, Ordering::Relaxed);
                    if response.field("connection") == Some("close") {
                        return ids;
                    }
                }
            };
            let clients: Vec<_> =
                connections.into_iter().map(|client| scope.spawn(move || send(client))).collect();
            let sent = || count.load(Ordering::Relaxed);
            wait_for(|| (sent() < 500).then(|| format!("{} requests", sent())));
            env.gateway.signal(Signal::TERM);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        assert!(env.gateway.wait_exit(PATIENCE).success());
        let written = || -> HashSet<String> {
            let id = |line: &String| {
                let (_, after) = line.split_once("request_id")?;
                Some(after.trim_start_matches(['"', ':', '=']).split('"').next()?.to_owned())
            };
            env.gateway.logs().iter().filter_map(id).collect()
        };
        wait_for(|| {
            let missing = answered.difference(&written()).count();
            (missing > 0).then(|| format!("{format}: {missing} of {} lines are missing", answered.len()))
        });
        assert_eq!(written(), answered);
        for line in env.gateway.logs() {
            let is_whole = match format {
                "json" => serde_json::from_str::<Value>(&line).is_ok(),
                _ => line.starts_with("2") && line.matches("Z  INFO ").count() == 1,
            };
            assert!(is_whole, "{line}");
        }
    }
}

#[test]
fn lines_of_cut_connections_are_written() {
    let mut env = TestEnv::start("listen:\n  drain_timeout: 100ms\n");
    env.backend.answer(|_| Answer::with(200, &[], "late").after(PATIENCE));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| env.gateway.client()).collect();
    for client in &mut clients {
        client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    env.backend.wait_for_requests(CLIENTS);
    env.gateway.signal(Signal::TERM);
    env.gateway.wait_exit(PATIENCE);
    let count = || env.gateway.logs().iter().filter(|line| line.contains("client_gone")).count();
    wait_for(|| (count() < CLIENTS).then(|| format!("{} lines", count())));
}

#[test]
fn access_lines_of_a_connection_are_in_order_across_reloads() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    let mut ids = Vec::new();
    for number in 0..200 {
        if number % 50 == 25 {
            assert!(env.gateway.reload());
        }
        let response = client.get("/up", None);
        ids.push(id(&response));
    }
    let last = ids.last().unwrap().clone();
    env.gateway.wait_for_log(|line| line["request_id"] == *last);
    let wanted: HashSet<&String> = ids.iter().collect();
    let written: Vec<String> = env
        .gateway
        .logs()
        .iter()
        .filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["request_id"].as_str()?.to_owned()))
        .filter(|id| wanted.contains(id))
        .collect();
    assert_eq!(written, ids);
}

#[test]
fn every_access_line_is_written_or_counted_as_dropped() {
    let builder = Gateway::builder()
        .yaml("backend:\n  url: http://127.0.0.1:9\nintrospection:\n  url: http://127.0.0.1:9/token\n");
    let text = builder.text();
    let builder = builder.file("gateway.yaml", &text);
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(builder.directory().join("gateway.yaml"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut address = || -> SocketAddr {
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening")));
        let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    };
    let (proxy, admin) = (address(), address());
    let dropped = || {
        let response = RawClient::connect(admin).get("/metrics", None);
        Metrics(response.text().to_owned()).metric("log_lines_dropped_total") as usize
    };
    const AT_ONCE: usize = 50;
    let requests = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".repeat(AT_ONCE);
    let mut client = RawClient::connect(proxy);
    let (end, mut count) = (Instant::now() + 4 * PATIENCE, 0);
    while dropped() == 0 {
        for _ in 0..20 {
            client.send(&requests);
            for _ in 0..AT_ONCE {
                assert_eq!(client.response().status, 401);
            }
            count += AT_ONCE;
        }
        assert!(Instant::now() < end, "no line was dropped after {count} requests");
    }
    let read = Arc::new(Mutex::new(Vec::new()));
    let reader = {
        let read = Arc::clone(&read);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                read.lock().unwrap().push(line);
            }
        })
    };
    let end = Instant::now() + PATIENCE;
    loop {
        let written =
            read.lock().unwrap().iter().filter(|line| line.contains(r#""message":"request""#)).count();
        let dropped = dropped();
        if written + dropped == count {
            break;
        }
        assert!(Instant::now() < end, "{written} written and {dropped} dropped of {count}");
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    reader.join().unwrap();
    for line in read.lock().unwrap().iter() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line} is torn");
    }
}
