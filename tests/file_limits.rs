//! Output that cannot be written: files at their size limit, and closed pipes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{BINARY, Gateway, Introspector, KillOnDrop, PATIENCE, RawClient, Upstream};

/// Runs the binary with a file size limit in blocks of 512 bytes; killed when dropped.
fn limited(blocks: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh", BINARY]).args(arguments);
    command
}

fn configuration(directory: &Path, upstream: &Upstream, introspector: &Introspector) -> String {
    let file = directory.join("gateway.yaml");
    fs::write(&file, Gateway::builder().backend(upstream).introspector(introspector).text()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The proxy's address, if this is the line that logs it.
fn address(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let is_proxy = line["message"] == "listening" && line["listener"] == "proxy";
    is_proxy.then(|| line["address"].as_str()?.parse().ok()).flatten()
}

#[test]
fn log_file_at_its_size_limit_fails_no_request() {
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let directory = tempfile::tempdir().unwrap();
    let file = configuration(directory.path(), &upstream, &introspector);
    let log = directory.path().join("log");
    let mut command = limited(16, &["run", "--config", &file]);
    let child = command.stdin(Stdio::null()).stdout(File::create(&log).unwrap()).spawn().unwrap();
    let mut gateway = KillOnDrop(child);
    let end = Instant::now() + PATIENCE;
    let proxy = loop {
        if let Some(proxy) = fs::read_to_string(&log).unwrap().lines().find_map(address) {
            break proxy;
        }
        assert!(Instant::now() < end, "the gateway does not listen");
        thread::sleep(Duration::from_millis(20));
    };
    let mut client = RawClient::connect(proxy);
    let get_all =
        |client: &mut RawClient| (0..50).for_each(|_| assert_eq!(client.get("/up", None).status, 200));
    while fs::metadata(&log).unwrap().len() < 16 * 512 {
        get_all(&mut client);
        assert!(Instant::now() < end, "the log does not grow");
    }
    // Writes many lines beyond the limit.
    for _ in 0..10 {
        get_all(&mut client);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(RawClient::connect(proxy).get("/up", None).status, 200);
    assert!(gateway.0.try_wait().unwrap().is_none());
    assert_eq!(fs::metadata(&log).unwrap().len(), 16 * 512);
}

#[test]
fn closed_log_pipe_fails_no_request() {
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let directory = tempfile::tempdir().unwrap();
    let file = configuration(directory.path(), &upstream, &introspector);
    let mut command = Command::new(BINARY);
    command
        .args(["run", "--config", &file])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut gateway = KillOnDrop(command.spawn().unwrap());
    let stdout = gateway.0.stdout.take().unwrap();
    drop(gateway.0.stderr.take());
    let proxy = BufReader::new(stdout).lines().map_while(Result::ok).find_map(|line| address(&line));
    // The reader is dropped, so each further write fails with EPIPE.
    let proxy = proxy.expect("the gateway listens");
    let mut client = RawClient::connect(proxy);
    for _ in 0..500 {
        assert_eq!(client.get("/up", None).status, 200);
    }
    assert!(gateway.0.try_wait().unwrap().is_none());
}

#[test]
fn output_beyond_the_file_size_limit_is_an_error_not_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path().join("results");
    for arguments in [&["schema"][..], &["--help"]] {
        let output = limited(1, arguments).stdout(File::create(&results).unwrap()).output().unwrap();
        assert!(output.status.code().is_some(), "{arguments:?}: {:?}", output.status);
        if arguments == ["schema"] {
            assert_eq!(output.status.code(), Some(1));
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.starts_with("error: cannot write the result: "), "{errors}");
        }
    }
}
