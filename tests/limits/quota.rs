//! `rate_limit.quota`: requests in a window, and across restarts.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use super::ITEMS;
use crate::support::{Response, TestEnv, Verdict};

/// Long enough for several flushes.
const FLUSHED: Duration = Duration::from_millis(400);

fn start(quota: &str, further: &str) -> TestEnv {
    TestEnv::start(&format!(
        "rate_limit:\n  quota: {{{quota}, per: month, path: quota.redb, flush_interval: 100ms}}\n{further}"
    ))
}

/// The number of requests that are allowed of 20.
fn allowed(env: &TestEnv, token: &str) -> usize {
    let mut client = env.gateway.client();
    (0..20).filter(|_| super::is_allowed(&client.get(ITEMS, Some(token)))).count()
}

fn assert_exhausted(response: &Response, quota: &str) {
    assert_eq!((response.status, response.text()), (429, r#"{"message":"Too Many Attempts."}"#));
    assert_eq!(response.field("x-ratelimit-limit"), Some(quota));
    let number = |name: &str| response.field(name).unwrap().parse::<u64>().unwrap();
    let (retry_after, reset) = (number("retry-after"), number("x-ratelimit-reset"));
    assert_eq!(reset % (24 * 60 * 60), 0, "midnight in UTC");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now + retry_after).abs_diff(reset) <= 2, "{now} {retry_after} {reset}");
    assert!(retry_after <= 31 * 24 * 60 * 60, "{retry_after}");
}

#[test]
fn token_over_its_quota_is_429_until_the_window_ends() {
    let env =
        start("requests: 5", "  by_id: {7: {quota: 8}, 8: {quota: 0}}\n  by_name: {slow: {quota: 2}}\n");
    env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]).named(2, "test"));
    for (id, name, expected) in [(1, "test", 5), (3, "slow", 2), (7, "test", 8), (8, "test", 20)] {
        let token = format!("{id}|{name}");
        env.introspector.set_verdict(&token, Verdict::active(&["*"]).named(id, name));
        assert_eq!(allowed(&env, &token), expected, "{token}");
    }
    assert_exhausted(&env.gateway.get(ITEMS, Some("1|test")), "5");
    let line = env.gateway.wait_for_log(|line| line["status"] == 429);
    assert_eq!([&line["reason"], &line["limit"]], ["limited", "quota"]);
    let mut client = env.gateway.client();
    for _ in 0..10 {
        let denied = client.request("POST", ITEMS, &[("Authorization", "Bearer 2|reader")], b"");
        assert_eq!(denied.status, 403);
    }
    assert_eq!(allowed(&env, "2|reader"), 5, "denied requests do not count");
    env.gateway.wait_for_metric("quota_tokens", 4.0);
}

#[test]
fn quota_survives_restarts_and_kills() {
    let mut env = start("requests: 10", "");
    for (signal, requests) in [(Signal::TERM, 3), (Signal::KILL, 4)] {
        for _ in 0..requests {
            assert_eq!(env.status(ITEMS, "1|writer"), 200);
        }
        if signal == Signal::KILL {
            thread::sleep(FLUSHED);
        }
        env.gateway.signal(signal);
        env.gateway.restart();
    }
    assert_eq!(allowed(&env, "1|writer"), 3, "of ten");
    assert_exhausted(&env.gateway.get(ITEMS, Some("1|writer")), "10");
}

#[test]
fn reload_keeps_the_counts_of_quotas() {
    let env = TestEnv::start(
        "rate_limit: {quota: {requests: 4, per: day, path: quota.redb, flush_interval: 100ms}}\nlog: {level: info}\n",
    );
    assert_eq!(allowed(&env, "1|writer"), 4);
    for (from, to, more) in [
        ("level: info", "level: warn", 0),
        ("requests: 4", "requests: 6", 2),
        ("path: quota.redb", "path: moved.redb", 0),
        ("per: day", "per: month", 0),
        ("requests: 6", "requests: 2", 0),
        ("requests: 2", "requests: 7", 1),
    ] {
        env.gateway.edit(from, to);
        assert!(env.gateway.reload(), "{to}");
        // The requests of today are requests of this month.
        assert_eq!(allowed(&env, "1|writer"), more, "{to}");
    }
    assert!(env.gateway.directory().join("moved.redb").exists());
}

#[test]
fn file_that_cannot_be_used_stops_neither_the_gateway_nor_the_quota() {
    let env = TestEnv::builder()
        .configure(|gateway| gateway.file("quota.redb", "not a database"))
        .yaml("rate_limit:\n  quota: {requests: 5, per: month, path: quota.redb, flush_interval: 100ms}\n")
        .start();
    assert_eq!(allowed(&env, "1|writer"), 5);
    let line =
        env.gateway.wait_for_log(|line| line["message"].as_str().is_some_and(|it| it.contains("quota")));
    assert_eq!(
        (&line["level"], line["message"].as_str()),
        (&"ERROR".into(), Some("quota: earlier counts cannot be read yet; they are added later"))
    );
    assert!(env.gateway.metrics().metric("quota_write_errors_total") >= 1.0);
    // Without the file, the next attempt creates one and writes all counts.
    std::fs::remove_file(env.gateway.directory().join("quota.redb")).unwrap();
    env.gateway.wait_for_log(|line| line["message"] == "quota: the counts are written again");
    assert_eq!(env.status(ITEMS, "1|writer"), 429);
}

#[test]
fn counts_are_kept_beside_the_usage_ledger() {
    let env =
        TestEnv::start("usage: {path: ledger/usage.redb}\nrate_limit: {quota: {requests: 5, per: day}}\n");
    assert_eq!(allowed(&env, "1|writer"), 5);
    assert!(env.gateway.directory().join("ledger/quota.redb").exists());
}
