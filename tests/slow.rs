//! Slowhttptest in its four modes, while other clients are served.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, TestEnv, WRITER, echo};

/// Connections of the attacker.
const CONNECTIONS: &str = "400";

/// Serialises the attacks.
static ALONE: Mutex<()> = Mutex::new(());

const SHORT: &str = "limits: {header_timeout: 2s, idle_timeout: 2s, body_idle_timeout: 1s}\n";
const OPEN: &str = "\
abilities:
  routes:
    /open:         {GET: public, POST: public}
    /api/v2/items: {GET: items:read}
";

/// Attacks `/open` with these options. slowhttptest itself must always consider the service available.
fn attack(env: &TestEnv, options: &[&str]) {
    let url = format!("http://{}/open", env.gateway.address());
    let output = Command::new("slowhttptest")
        .args(["-u", &url, "-r", "400", "-l", "6", "-p", "2"])
        .args(options)
        .output()
        .expect("slowhttptest");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let available = report.lines().filter(|line| line.contains("service available:"));
    let available: Vec<_> = available.map(|line| line.contains("YES")).collect();
    assert!(!available.is_empty(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!available.contains(&false), "{report}");
}

/// Attacks while four clients send requests, some over new connections; all are served quickly.
fn attack_while_serving(env: &TestEnv, options: &[&str]) {
    let _alone = ALONE.lock();
    assert_eq!(env.gateway.client().request("GET", "/api/v2/items", &[WRITER], b"").status, 200);
    let done = AtomicBool::new(false);
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut took = Vec::new();
                    while !done.load(Ordering::SeqCst) {
                        let began = Instant::now();
                        let mut client = env.gateway.client();
                        for _ in 0..5 {
                            let response = client.request("GET", "/api/v2/items", &[WRITER], b"");
                            assert_eq!(response.status, 200, "{}", response.text());
                        }
                        took.push(began.elapsed());
                        thread::sleep(Duration::from_millis(5));
                    }
                    took
                })
            })
            .collect();
        attack(env, options);
        done.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    took.sort();
    let percentile = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{options:?}: {} times a connection and five requests, p50 {:?}, p99 {:?}, slowest {:?}",
        took.len(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
    assert!(took.len() > 100, "{} times", took.len());
    assert!(percentile(99) < Duration::from_secs(1), "{:?}", percentile(99));
    env.gateway.wait_for_metric("client_connections", 0.0);
    env.gateway.wait_for_metric("backend_connections{state=\"active\"}", 0.0);
}

#[test]
#[ignore = "needs slowhttptest: tests/run"]
fn slow_heads_delay_no_other_client() {
    let env = TestEnv::start(&format!("{SHORT}{OPEN}"));
    attack_while_serving(&env, &["-H", "-c", CONNECTIONS, "-i", "1", "-x", "24"]);
    let timed_out = env.gateway.metrics().metric("requests_total{status=\"408\"}");
    assert!(timed_out >= 400.0, "{timed_out} heads timed out");
}

#[test]
#[ignore = "needs slowhttptest: tests/run"]
fn slow_bodies_delay_no_other_client() {
    let env = TestEnv::start(&format!("{SHORT}{OPEN}"));
    attack_while_serving(&env, &["-B", "-c", CONNECTIONS, "-i", "2", "-s", "8192", "-x", "10"]);
    let timed_out = env.gateway.metrics().metric("requests_total{status=\"408\"}");
    assert!(timed_out >= 400.0, "{timed_out} bodies timed out");
}

#[test]
#[ignore = "needs slowhttptest: tests/run"]
fn requests_for_many_ranges_are_served_beside_others() {
    let env = TestEnv::start(&format!("{SHORT}{OPEN}"));
    attack_while_serving(&env, &["-R", "-c", CONNECTIONS, "-t", "HEAD", "-a", "10", "-b", "3000"]);
}

#[test]
#[ignore = "needs slowhttptest: tests/run"]
fn slow_reads_delay_no_other_client() {
    let env = TestEnv::start(&format!("{SHORT}{OPEN}"));
    // More than the kernel accepts from the gateway for a client that does not read.
    let large = vec![b'x'; 6 << 20];
    env.backend.answer(move |request| match &*request.target {
        "/open" => Answer::with(200, &[], &large),
        _ => echo(request),
    });
    attack_while_serving(&env, &["-X", "-c", "40", "-n", "2", "-w", "512", "-y", "1024", "-z", "32"]);
    let gone = env.gateway.metrics().metric("requests_total{reason=\"client_gone\"}");
    assert!(gone >= 40.0, "{gone} clients that do not read were disconnected");
}
