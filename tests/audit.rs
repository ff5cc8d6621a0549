//! Audit lines and the log if standard output is stuck or full.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{BINARY, Gateway, KillOnDrop, Metrics, PATIENCE, RawClient, Response};

const TOKEN: &str = "Bearer the-operator-of-the-audit-tests";
const SECTIONS: &str = "backend:\n  url: http://127.0.0.1:9\nintrospection:\n  url: http://127.0.0.1:9/token\n\
                        admin:\n  token: the-operator-of-the-audit-tests\n";

/// A gateway whose standard output is read only on request; killed when dropped.
fn start(file: &Path, yaml: &str, output: impl Into<Stdio>) -> KillOnDrop {
    fs::write(file, yaml).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(file).stdout(output).stderr(Stdio::null());
    KillOnDrop(command.spawn().unwrap())
}

fn revoke(client: &mut RawClient) -> Response {
    client.request("POST", "/tokens/revoke", &[("Authorization", TOKEN)], br#"{"id": "17"}"#)
}

fn dropped(mut client: RawClient) -> f64 {
    Metrics(client.get("/metrics", None).text().to_owned()).metric("log_lines_dropped_total")
}

/// Sends refused requests to the proxy and refused attempts to the admin listener until lines are dropped.
fn flood(proxy: SocketAddr, admin: SocketAddr, least: f64) {
    const AT_ONCE: usize = 50;
    let requests = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".repeat(AT_ONCE);
    let mut client = RawClient::connect(proxy);
    let started = Instant::now();
    while dropped(RawClient::connect(admin)) < least {
        for _ in 0..20 {
            client.send(&requests);
            for _ in 0..AT_ONCE {
                assert_eq!(client.response().status, 401);
            }
        }
        let wrong = [("Authorization", "Bearer not-the-operator-of-the-tests")];
        let refused = RawClient::connect(admin).request("POST", "/tokens/revoke", &wrong, b"{}");
        assert!([401, 429].contains(&refused.status), "{}", refused.status);
        assert!(started.elapsed() < 4 * PATIENCE, "not enough lines were dropped");
    }
}

/// The lines of a pipe, read by a thread.
fn lines(output: BufReader<ChildStdout>) -> Receiver<Value> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The first line that satisfies `wanted`.
fn wait_for(lines: &Receiver<Value>, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
    let end = Instant::now() + PATIENCE;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if wanted(&line) => return Some(line),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

#[test]
fn audit_line_survives_a_stuck_log_reader_and_a_flood_of_other_lines() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = Gateway::builder().yaml(SECTIONS).text();
    let mut process = start(&directory.path().join("gateway.yaml"), &yaml, Stdio::piped());
    let mut output = BufReader::new(process.0.stdout.take().unwrap());
    let mut address = || -> SocketAddr {
        let line =
            output.by_ref().lines().find(|line| line.as_ref().is_ok_and(|it| it.contains("listening")));
        let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    };
    let (proxy, admin) = (address(), address());

    flood(proxy, admin, 1.0);
    assert_eq!(revoke(&mut RawClient::connect(admin)).status, 200);
    let listed = RawClient::connect(admin).request("GET", "/tokens", &[("Authorization", TOKEN)], b"");
    assert_eq!(listed.status, 200);
    flood(proxy, admin, dropped(RawClient::connect(admin)) + 1000.0);

    // The pipe is read again.
    let lines = lines(output);
    let line = wait_for(&lines, |line| line["action"] == "revoke").expect("the audit line is not lost");
    assert_eq!((&line["message"], &line["by"], &line["what"]), (&"admin".into(), &"id".into(), &"17".into()));
    wait_for(&lines, |line| line["action"] == "list tokens")
        .expect("the audit line of a listing is not lost");
    let lost = wait_for(&lines, |line| line["message"] == "log lines were lost")
        .expect("the log reports the number of lost lines");
    assert!(lost["lines"].as_u64().is_some_and(|lines| lines > 1000), "{lost}");
    assert!(lost["error"].is_null(), "no write failed: {lost}");
}

#[test]
fn log_on_a_full_disk_is_counted_and_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (proxy, admin) = (path("proxy.sock"), path("admin.sock"));
    let yaml = format!(
        "listen: {{address: \"unix:{}\"}}\nadmin: {{address: \"unix:{}\", token: the-operator-of-the-audit-tests}}\n\
         backend: {{url: http://127.0.0.1:9}}\nintrospection: {{url: http://127.0.0.1:9/token}}\n\
         abilities: {{routes: {{/up: {{GET: public}}}}}}\n",
        proxy.display(),
        admin.display()
    );
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut process = start(&path("gateway.yaml"), &yaml, full);
    let end = Instant::now() + PATIENCE;
    while !admin.exists() || !proxy.exists() {
        assert!(Instant::now() < end, "the gateway does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    let mut client = RawClient::connect_unix(&proxy);
    for _ in 0..20 {
        assert_eq!(client.get("/nowhere", None).status, 401);
    }
    assert_eq!(revoke(&mut RawClient::connect_unix(&admin)).status, 200);
    while dropped(RawClient::connect_unix(&admin)) < 20.0 {
        assert!(Instant::now() < end, "lines that could not be written are not counted");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.get("/nowhere", None).status, 401);
    assert!(process.0.try_wait().unwrap().is_none(), "the gateway still runs");
}
