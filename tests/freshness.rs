//! `cache.max_age`: how old a verdict may be for an ability.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, TestEnv, Verdict};

const MAP: &str = "\
abilities:
  routes:
    /read:   {GET: items:read}
    /delete: {GET: items:delete}
    /both:   {GET: {all: [items:read, items:delete]}}
    /either: {GET: {any: [rents:read, items:read]}}
    /rents:  {GET: rents:read}
    /any:    {GET: authenticated}
";

fn start(cache: &str) -> TestEnv {
    TestEnv::start(&format!("{MAP}cache: {{{cache}}}\n"))
}

fn status(env: &TestEnv, path: &str) -> u16 {
    env.status(path, "1|writer")
}

/// The number of introspections caused by a request that gets this status.
fn introspections(env: &TestEnv, path: &str, expected: u16) -> usize {
    let before = env.introspector.calls();
    assert_eq!(status(env, path), expected, "{path}");
    env.introspector.calls() - before
}

#[test]
fn max_age_of_an_ability_forces_introspection_on_its_routes() {
    let env = start("ttl: 1h, max_age: {items:delete: 0s, rents:read: 1h}");
    assert_eq!(introspections(&env, "/read", 200), 1);
    for (path, asked) in [
        ("/read", 0),
        ("/delete", 1),
        ("/delete", 1),
        ("/both", 1),
        ("/either", 0),
        ("/rents", 0),
        ("/any", 0),
    ] {
        assert_eq!(introspections(&env, path, 200), asked, "{path}");
    }
    let mut client = env.gateway.client();
    for _ in 0..10 {
        assert_eq!(client.request("HEAD", "/read", &[("Authorization", "Bearer 1|writer")], b"").status, 200);
    }
    assert_eq!(env.introspector.calls(), 4);
}

#[test]
fn verdict_is_used_until_its_max_age() {
    let env = start("ttl: 1h, max_age: {rents:read: 400ms}");
    let began = Instant::now();
    assert_eq!(introspections(&env, "/rents", 200), 1);
    let again = introspections(&env, "/rents", 200);
    assert!(again == 0 || began.elapsed() > Duration::from_millis(400), "{again}");
    thread::sleep(Duration::from_millis(450));
    assert_eq!(introspections(&env, "/read", 200), 0);
    assert_eq!(introspections(&env, "/rents", 200), 1);
    // An introspection for one route also serves the other.
    assert_eq!(introspections(&env, "/either", 200), 0);
}

/// An introspection begun before a request may have been decided before a revocation.
#[test]
fn max_age_0s_shares_only_introspections_begun_after_the_request() {
    let env = start("ttl: 1h, max_age: {items:delete: 0s}");
    env.introspector.delay(Duration::from_millis(400));
    thread::scope(|scope| {
        let first = scope.spawn(|| status(&env, "/delete"));
        env.introspector.wait_for_calls(1);
        // The introspector has decided, but its response is still in transit.
        env.introspector.set_verdict("1|writer", Verdict::active(&["items:read"]));
        let later: Vec<_> = (0..20).map(|_| scope.spawn(|| status(&env, "/delete"))).collect();
        let reader = scope.spawn(|| status(&env, "/read"));
        assert_eq!(first.join().unwrap(), 200);
        for later in later {
            assert_eq!(later.join().unwrap(), 403);
        }
        assert_eq!(reader.join().unwrap(), 200, "the ability without max_age shares the introspection");
    });
    assert_eq!(env.introspector.calls(), 2, "later requests share one introspection");
}

#[test]
fn revoked_token_cannot_use_a_max_age_ability_within_ttl() {
    let env = start("ttl: 1h, max_age: {items:delete: 0s}");
    assert_eq!(status(&env, "/delete"), 200);
    env.introspector.deactivate("1|writer");
    assert_eq!(status(&env, "/read"), 200, "cached for an hour");
    assert_eq!(status(&env, "/delete"), 401);
    assert_eq!(status(&env, "/read"), 401, "one verdict applies to both abilities");
}

#[test]
fn stale_if_error_never_exceeds_max_age() {
    let cache = "ttl: 200ms, stale_if_error: 1h, max_age: {items:delete: 0s, rents:read: 1500ms}";
    let env = start(cache);
    let began = Instant::now();
    assert_eq!(status(&env, "/read"), 200);
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(250));
    assert_eq!(status(&env, "/read"), 200, "stale");
    assert_eq!(status(&env, "/delete"), 503);
    assert_eq!(status(&env, "/both"), 503);
    let served = status(&env, "/rents");
    assert!(served == 200 || began.elapsed() > Duration::from_millis(1500), "{served}");
    thread::sleep(Duration::from_millis(1600).saturating_sub(began.elapsed()));
    assert_eq!(status(&env, "/rents"), 503);
    assert_eq!(status(&env, "/read"), 200);
    env.introspector.recover();
    assert_eq!(status(&env, "/delete"), 200);
}

#[test]
fn max_age_causes_no_introspections_for_inactive_tokens() {
    let env = start("negative_ttl: 1h, max_age: {items:delete: 0s}");
    for _ in 0..10 {
        assert_eq!(env.gateway.get("/delete", Some("9|unknown")).status, 401);
    }
    assert_eq!(env.introspector.calls(), 1);
}

#[test]
fn reload_applies_changed_max_age() {
    let env = start("ttl: 1h, max_age: {items:delete: 1h}");
    assert_eq!((introspections(&env, "/delete", 200), introspections(&env, "/delete", 200)), (1, 0));
    env.gateway.edit("items:delete: 1h", "items:delete: 0s");
    assert!(env.gateway.reload());
    assert_eq!((introspections(&env, "/delete", 200), introspections(&env, "/read", 200)), (1, 0));
}

#[test]
fn gauge_reports_the_oldest_verdict_served() {
    let env = start("ttl: 1h");
    let oldest = || env.gateway.metrics().metric("oldest_verdict_served_seconds");
    assert_eq!(oldest(), 0.0);
    assert_eq!(status(&env, "/read"), 200);
    thread::sleep(Duration::from_millis(300));
    assert!(oldest() < 0.3, "only verdicts in use count");
    assert_eq!(status(&env, "/read"), 200);
    let age = oldest();
    assert!((0.3..5.0).contains(&age), "{age}");
}
