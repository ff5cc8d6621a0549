//! Many spellings of one token, and tokens without the ability: the resources that they can take from others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{TestEnv, Verdict};

const MAP: &str = "\
abilities:
  routes:
    /read:   {GET: items:read}
    /delete: {GET: items:delete}
";

const ACTIVE_ENTRIES: &str = "token_cache_entries{kind=\"active\"}";

fn start(yaml: &str) -> TestEnv {
    TestEnv::start(&format!("{MAP}{yaml}"))
}

impl TestEnv {
    /// The introspector accepts these spellings of the token `id|secret`, with the ability to read.
    fn spellings(&self, id: u32, count: usize) -> Vec<String> {
        let spellings: Vec<String> = (0..count)
            .map(|zeros| match zeros {
                0 => format!("secret-{id}"),
                _ => format!("{}{id}|secret-{id}", "0".repeat(zeros - 1)),
            })
            .collect();
        for spelling in &spellings {
            self.introspector.set_verdict(spelling, Verdict::active(&["items:read"]).named(id, "weak"));
        }
        spellings
    }
}

#[test]
fn cache_keeps_eight_spellings_of_a_token() {
    let env = start("cache: {ttl: 1h}\n");
    env.introspector.set_verdict("1|other", Verdict::active(&["items:read"]));
    assert_eq!(env.status("/read", "1|other"), 200);
    let spellings = env.spellings(17, 900);
    let mut client = env.gateway.client();
    for spelling in &spellings {
        assert_eq!(client.get("/read", Some(spelling)).status, 200);
    }
    env.gateway.wait_for_metric(ACTIVE_ENTRIES, 9.0);
    // The latest spelling and the other token are still cached.
    let before = env.introspector.calls();
    for token in [&spellings[899], "1|other"] {
        assert_eq!(env.status("/read", token), 200);
    }
    assert_eq!(env.introspector.calls(), before);
    assert_eq!(env.status("/read", &spellings[0]), 200, "introspected again");
    assert_eq!(env.introspector.calls(), before + 1);
}

#[test]
fn spellings_of_a_token_hold_two_introspections_at_most() {
    let env = start("introspection:\n  max_concurrent: 8\n  timeout: 20s\n");
    let spellings = env.spellings(17, 30);
    env.introspector.delay(Duration::from_millis(20));
    thread::scope(|scope| {
        for spelling in &spellings {
            let env = &env;
            scope.spawn(move || assert_eq!(env.status("/read", spelling), 200));
        }
    });
    // The bare secret counts as a separate spelling.
    assert_eq!(env.introspector.calls(), 30);
    assert!(env.introspector.most_concurrent() <= 2, "{}", env.introspector.most_concurrent());
}

#[test]
fn spelling_with_a_wrong_id_stays_inactive() {
    let env = start("");
    env.introspector.set_verdict("17|secret", Verdict::active(&["items:read"]));
    assert_eq!(env.status("/read", "17|secret"), 200);
    for wrong in ["18|secret", "secret", "|secret", "017|secret"] {
        assert_eq!(env.status("/read", wrong), 401, "{wrong}");
    }
    assert_eq!(env.status("/read", "17|secret"), 200);
}

#[test]
fn three_weak_tokens_do_not_delay_the_first_request_of_a_fourth() {
    let delay = Duration::from_millis(500);
    let env = start(
        "introspection:\n  max_concurrent: 4\n  timeout: 20s\ncache: {ttl: 1h, negative_ttl: 1ms, max_age: {items:delete: 0s}}\n",
    );
    let tokens: Vec<_> = [1, 2, 3].into_iter().map(|id| env.spellings(id, 8)).collect();
    for spelling in tokens.iter().flatten() {
        assert_eq!(env.status("/read", spelling), 200);
    }
    env.introspector.set_verdict("4|first", Verdict::active(&["items:read"]));
    env.introspector.delay(delay);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for spelling in tokens.iter().flatten() {
            let (env, done) = (&env, &done);
            scope.spawn(move || {
                let mut client = env.gateway.client();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/delete", Some(spelling)).status, 403);
                }
            });
        }
        // Each token is being introspected while its other spellings wait.
        env.introspector.wait_for_calls(3 * 8 + 3);
        let began = Instant::now();
        assert_eq!(env.status("/read", "4|first"), 200);
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        assert!(took < 2 * delay, "{took:?}");
    });
    assert!(env.introspector.most_concurrent() <= 4, "{}", env.introspector.most_concurrent());
}

#[test]
fn token_without_the_ability_is_introspected_once_per_negative_ttl_at_max_age_0s() {
    let env = start("cache: {ttl: 1h, negative_ttl: 1h, max_age: {items:delete: 0s}}\n");
    let spellings = env.spellings(17, 3);
    for _ in 0..20 {
        for spelling in &spellings {
            assert_eq!(env.status("/delete", spelling), 403);
        }
    }
    assert_eq!(env.introspector.calls(), 3, "once for each spelling");
    assert!(env.backend.requests().is_empty());
}

#[test]
fn ability_added_to_a_token_is_honoured_after_negative_ttl_at_max_age_0s() {
    let negative_ttl = Duration::from_millis(400);
    let env = start("cache: {ttl: 1h, negative_ttl: 400ms, max_age: {items:delete: 0s}}\n");
    let began = Instant::now();
    let token = &env.spellings(17, 1)[0];
    assert_eq!(env.status("/delete", token), 403);
    env.introspector.set_verdict(token, Verdict::active(&["items:delete"]).named(17, "strong"));
    let status = env.status("/delete", token);
    assert!(status == 403 || began.elapsed() > negative_ttl, "{status}");
    thread::sleep(negative_ttl + Duration::from_millis(50));
    assert_eq!(env.status("/delete", token), 200);
    // With the ability, each request is introspected again.
    let before = env.introspector.calls();
    assert_eq!((env.status("/delete", token), env.introspector.calls()), (200, before + 1));
    env.introspector.set_verdict(token, Verdict::active(&["items:read"]).named(17, "weak"));
    assert_eq!(env.status("/delete", token), 403, "a removed ability is refused immediately");
}

#[test]
fn deleted_or_expired_token_without_the_ability_gets_401_at_max_age_0s() {
    let env = start("cache: {ttl: 1h, negative_ttl: 300ms, max_age: {items:delete: 0s}}\n");
    let token = &env.spellings(17, 1)[0];
    assert_eq!(env.status("/delete", token), 403);
    env.introspector.deactivate(token);
    thread::sleep(Duration::from_millis(350));
    assert_eq!(env.status("/delete", token), 401);
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    env.introspector.set_verdict("18|brief", Verdict::active(&["items:read"]).expiring(seconds + 2));
    assert_eq!(env.status("/delete", "18|brief"), 403);
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(env.status("/delete", "18|brief"), 401);
}
