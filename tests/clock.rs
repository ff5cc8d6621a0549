//! The wall clock is set while the gateway runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{Gateway, Introspector, Upstream, Verdict};

const ITEMS: &str = "/api/v2/items";

/// Time within which the gateway detects the change, with a margin.
const SOON: Duration = Duration::from_secs(5);

/// The library of the program `faketime`, which reads the offset of the wall clock from a file.
fn library() -> PathBuf {
    let architectures = fs::read_dir("/usr/lib").unwrap().flatten();
    architectures
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("Debian's package faketime")
}

fn shift(file: &Path, seconds: i64) {
    let beside = file.with_extension("new");
    fs::write(&beside, format!("{seconds:+}\n")).unwrap();
    fs::rename(&beside, file).unwrap();
}

fn gateway(upstream: &Upstream, introspector: &Introspector, file: &Path) -> Gateway {
    shift(file, 0);
    Gateway::builder()
        .backend(upstream)
        .introspector(introspector)
        .environment("LD_PRELOAD", library().to_str().unwrap())
        .environment("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .environment("DONT_FAKE_MONOTONIC", "1")
        .yaml("cache: {ttl: 2h, negative_ttl: 1h, stale_if_error: 2h}\n")
        .start()
}

fn seconds_from_now(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

#[test]
#[ignore = "needs faketime: tests/run"]
fn token_expires_by_the_wall_clock_after_that_was_set_forward() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shift");
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let gateway = gateway(&upstream, &introspector, &file);
    for (token, expires_in) in [("1|soon", 1800), ("2|later", 7200)] {
        let verdict = Verdict::active(&["items:read"]).expiring(seconds_from_now(expires_in));
        introspector.set_verdict(token, verdict);
        assert_eq!(gateway.get(ITEMS, Some(token)).status, 200);
    }
    shift(&file, 3600);
    let end = Instant::now() + SOON;
    let mut client = gateway.client();
    while client.get(ITEMS, Some("1|soon")).status == 200 {
        assert!(Instant::now() < end, "the token is served after its expiry");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.get(ITEMS, Some("1|soon")).status, 401);
    assert_eq!(client.get(ITEMS, Some("2|later")).status, 200);
    assert_eq!(introspector.calls(), 2);
    let line = gateway.wait_for_log(|line| line["level"] == "WARN" && line["seconds"].is_number());
    assert!((3598.0..3602.0).contains(&line["seconds"].as_f64().unwrap()), "{line}");
}

#[test]
#[ignore = "needs faketime: tests/run"]
fn token_expires_in_time_after_the_wall_clock_was_set_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shift");
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let gateway = gateway(&upstream, &introspector, &file);
    let expiry = seconds_from_now(4);
    introspector.set_verdict("1|brief", Verdict::active(&["items:read"]).expiring(expiry));
    assert_eq!(gateway.get(ITEMS, Some("1|brief")).status, 200);
    // The clock of Stockaj is correct.
    introspector.deactivate("1|brief");
    shift(&file, -3600);
    gateway.wait_for_log(|line| line["level"] == "WARN" && line["seconds"].is_number());
    let mut client = gateway.client();
    while seconds_from_now(0) < expiry + 1 {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.get(ITEMS, Some("1|brief")).status, 401);
}
