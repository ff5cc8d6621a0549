//! The Autobahn test suite of WebSocket, through the gateway and without it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::support::{Process, TestEnv};

/// The cases except those about speed and compression ratio, which take an hour.
const CASES: usize = 247;
const WITHOUT: [&str; 4] = ["--without", "9", "12", "13"];

fn suite() -> Command {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/target/wstest/bin/python"));
    command.arg(format!("{root}/tests/autobahn/suite.py")).stdout(Stdio::piped());
    command
}

/// The result of each case.
fn outcomes(url: &str) -> BTreeMap<String, String> {
    let run = suite().args(["run", url, "--token", "1|reader"]).args(WITHOUT).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    let lines = String::from_utf8(run.stdout).unwrap();
    let outcome = |line: &str| line.split_once(' ').map(|(case, came)| (case.to_owned(), came.to_owned()));
    lines.lines().filter_map(outcome).collect()
}

fn passes(outcome: &str) -> bool {
    outcome.split(' ').all(|it| matches!(it, "OK" | "NON-STRICT" | "INFORMATIONAL"))
}

#[test]
#[ignore = "needs wstest: tests/run"]
fn autobahn_cases_pass_through_the_gateway_as_without_it() {
    let env = TestEnv::builder()
        .backend(Process::listening(suite().arg("echo")))
        .token("1|reader", &["items:read"])
        .yaml("abilities:\n  routes: {/echo: {GET: items:read}}\n")
        .start();
    // Makes the Python 2 cases importable in Python 3.
    let directly = outcomes(&format!("ws://127.0.0.1:{}/echo", env.backend.port()));
    let through = outcomes(&format!("ws://{}/echo", env.gateway.address()));
    assert_eq!((directly.len(), through.len()), (CASES, CASES));
    let passed = directly.iter().filter(|(_, outcome)| passes(outcome));
    let failed: Vec<_> =
        passed.map(|(case, _)| (case, &through[case])).filter(|(_, it)| !passes(it)).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let count = through.values().filter(|outcome| passes(outcome)).count();
    println!("{count} of {CASES} cases pass through the gateway");
    assert!(count > CASES - 10, "the echo server itself fails too often for a comparison");
    env.gateway.wait_for_metric("tunnels_open", 0.0);
}
