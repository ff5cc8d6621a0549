//! `cache.max_age`: how old a verdict may be for what.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, Gateway, Introspector, Upstream, Verdict};

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

struct Setting {
    gateway: Gateway,
    introspector: Introspector,
    _upstream: Upstream,
}

fn setting(cache: &str) -> Setting {
    let upstream = Upstream::start();
    let introspector = Introspector::knowing([("1|all", &["*"][..])]);
    let builder = Gateway::builder().backend(&upstream).introspector(&introspector);
    let gateway = builder.yaml(MAP).yaml(&format!("cache: {{{cache}}}\n")).start();
    Setting { gateway, introspector, _upstream: upstream }
}

impl Setting {
    fn status(&self, path: &str) -> u16 {
        self.gateway.get(path, Some("1|all")).status
    }

    /// How many introspections a request costs that is answered with this status.
    fn asked(&self, path: &str, status: u16) -> usize {
        let before = self.introspector.calls();
        assert_eq!(self.status(path), status, "{path}");
        self.introspector.calls() - before
    }
}

#[test]
fn max_age_of_an_ability_forces_introspection_on_its_routes() {
    let setting = setting("ttl: 1h, max_age: {items:delete: 0s, rents:read: 1h}");
    assert_eq!(setting.asked("/read", 200), 1);
    for (path, asked) in [
        ("/read", 0),
        ("/delete", 1),
        ("/delete", 1),
        ("/both", 1),
        ("/either", 0),
        ("/rents", 0),
        ("/any", 0),
    ] {
        assert_eq!(setting.asked(path, 200), asked, "{path}");
    }
    let mut client = setting.gateway.client();
    for _ in 0..10 {
        assert_eq!(client.request("HEAD", "/read", &[("Authorization", "Bearer 1|all")], b"").status, 200);
    }
    assert_eq!(setting.introspector.calls(), 4);
}

#[test]
fn verdict_is_used_until_its_max_age() {
    let setting = setting("ttl: 1h, max_age: {rents:read: 400ms}");
    let began = Instant::now();
    assert_eq!(setting.asked("/rents", 200), 1);
    let again = setting.asked("/rents", 200);
    assert!(again == 0 || began.elapsed() > Duration::from_millis(400), "{again}");
    thread::sleep(Duration::from_millis(450));
    assert_eq!(setting.asked("/read", 200), 0);
    assert_eq!(setting.asked("/rents", 200), 1);
    // What the one has asked serves the other.
    assert_eq!(setting.asked("/either", 200), 0);
}

/// What was asked before a request came may have been answered before the token was revoked.
#[test]
fn max_age_0s_shares_only_introspections_begun_after_the_request() {
    let setting = setting("ttl: 1h, max_age: {items:delete: 0s}");
    setting.introspector.delay(Duration::from_millis(400));
    thread::scope(|scope| {
        let first = scope.spawn(|| setting.status("/delete"));
        setting.introspector.wait_for_calls(1);
        // It has been answered by now, though the answer is still on its way.
        setting.introspector.know("1|all", Verdict::active(&["items:read"]));
        let later: Vec<_> = (0..20).map(|_| scope.spawn(|| setting.status("/delete"))).collect();
        let reader = scope.spawn(|| setting.status("/read"));
        assert_eq!(first.join().unwrap(), 200);
        for later in later {
            assert_eq!(later.join().unwrap(), 403);
        }
        assert_eq!(reader.join().unwrap(), 200, "it may share");
    });
    assert_eq!(setting.introspector.calls(), 2, "and those who came later share one");
}

#[test]
fn revoked_token_cannot_use_a_max_age_ability_within_ttl() {
    let setting = setting("ttl: 1h, max_age: {items:delete: 0s}");
    assert_eq!(setting.status("/delete"), 200);
    setting.introspector.forget("1|all");
    assert_eq!(setting.status("/read"), 200, "believed for an hour");
    assert_eq!(setting.status("/delete"), 401);
    assert_eq!(setting.status("/read"), 401, "what the one has heard holds for the other");
}

#[test]
fn stale_if_error_never_exceeds_max_age() {
    let cache = "ttl: 200ms, stale_if_error: 1h, max_age: {items:delete: 0s, rents:read: 1500ms}";
    let setting = setting(cache);
    let began = Instant::now();
    assert_eq!(setting.status("/read"), 200);
    setting.introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(250));
    assert_eq!(setting.status("/read"), 200, "stale");
    assert_eq!(setting.status("/delete"), 503);
    assert_eq!(setting.status("/both"), 503);
    let status = setting.status("/rents");
    assert!(status == 200 || began.elapsed() > Duration::from_millis(1500), "{status}");
    thread::sleep(Duration::from_millis(1600).saturating_sub(began.elapsed()));
    assert_eq!(setting.status("/rents"), 503);
    assert_eq!(setting.status("/read"), 200);
    setting.introspector.recover();
    assert_eq!(setting.status("/delete"), 200);
}

#[test]
fn max_age_causes_no_introspections_for_inactive_tokens() {
    let setting = setting("negative_ttl: 1h, max_age: {items:delete: 0s}");
    for _ in 0..10 {
        assert_eq!(setting.gateway.get("/delete", Some("9|unknown")).status, 401);
    }
    assert_eq!(setting.introspector.calls(), 1);
}

#[test]
fn reload_applies_changed_max_age() {
    let setting = setting("ttl: 1h, max_age: {items:delete: 1h}");
    assert_eq!((setting.asked("/delete", 200), setting.asked("/delete", 200)), (1, 0));
    setting.gateway.edit("items:delete: 1h", "items:delete: 0s");
    assert!(setting.gateway.reload());
    assert_eq!((setting.asked("/delete", 200), setting.asked("/read", 200)), (1, 0));
}

#[test]
fn gauge_reports_the_oldest_verdict_served() {
    let setting = setting("ttl: 1h");
    let oldest = || setting.gateway.metrics().metric("oldest_verdict_served_seconds");
    assert_eq!(oldest(), 0.0);
    assert_eq!(setting.status("/read"), 200);
    thread::sleep(Duration::from_millis(300));
    assert!(oldest() < 0.3, "only what serves counts");
    assert_eq!(setting.status("/read"), 200);
    let age = oldest();
    assert!((0.3..5.0).contains(&age), "{age}");
}
