//! `rate_limit.by_ability` and `rate_limit.by_workspace`: which requests share a limit.

use std::time::Instant;

use serde_json::json;

use super::{ITEMS, is_allowed};
use crate::support::{Answer, TestEnv, Verdict};

const ROUTES: &str = "\
abilities:
  routes:
    /read:   {GET: items:read}
    /create: {GET: items:create}
    /both:   {GET: {all: [items:create, items:read]}}
    /either: {GET: {any: [items:create, items:read]}}
";

/// Asserts how many of 40 requests are allowed: at least `least`, at most `most` and what was refilled since `started`,
/// one a second. Returns the limit that the last refused one exceeded.
fn assert_allowed(
    env: &TestEnv,
    (target, token): (&str, &str),
    (least, most): (usize, usize),
    started: Instant,
) -> Option<String> {
    let mut client = env.gateway.client();
    let (mut count, mut refused) = (0, None);
    for _ in 0..40 {
        let response = client.get(target, Some(token));
        match is_allowed(&response) {
            true => count += 1,
            false => refused = Some(response),
        }
    }
    let most = most + started.elapsed().as_secs() as usize + 1;
    assert!((least..=most).contains(&count), "{target} of {token}: {count}, not {least} to {most}");
    let id = refused?.field("x-request-id").unwrap().to_owned();
    let line = env.gateway.wait_for_log(|line| line["request_id"] == *id);
    Some(line["limit"].as_str().unwrap().to_owned())
}

#[test]
fn ability_has_a_rate_of_its_own_for_each_token() {
    let env = TestEnv::builder()
        .yaml("rate_limit: {requests_per_second: 1, burst: 15, by_ability: {items:create: {burst: 4}}}\n")
        .yaml(ROUTES)
        .token("2|creator", &["items:create"])
        .token("3|reader", &["items:read"])
        .start();
    for (id, token) in [(1, "1|writer"), (2, "2|creator"), (3, "3|reader")] {
        let abilities: &[&str] = match id {
            1 => &["*"],
            2 => &["items:create"],
            _ => &["items:read"],
        };
        env.introspector.set_verdict(token, Verdict::active(abilities).named(id, "test"));
    }
    let started = Instant::now();
    let count = |target, token, least, most| assert_allowed(&env, (target, token), (least, most), started);
    let refused = env.gateway.get("/create", Some("3|reader"));
    assert_eq!(refused.status, 403, "the requirement comes first");
    let by_ability = Some("by_ability".to_owned());
    assert_eq!(count("/create", "1|writer", 4, 4), by_ability);
    assert_eq!(count("/both", "1|writer", 0, 0), by_ability, "the same ability");
    assert_eq!(count("/either", "1|writer", 0, 0), by_ability, "each alternative that the token has");
    count("/read", "1|writer", 5, 11);
    assert_eq!(count("/either", "2|creator", 4, 4), by_ability, "another token has its own");
    let own = Some("requests_per_second".to_owned());
    assert_eq!(count("/either", "3|reader", 15, 15), own, "permitted by the other ability");
}

#[test]
fn tokens_of_a_workspace_share_a_rate() {
    let started = Instant::now();
    let env = TestEnv::builder()
        .yaml("introspection:\n  response: {workspace_id: /data/workspace/id}\n")
        .yaml(
            "rate_limit: {requests_per_second: 1, burst: 10, by_workspace: true, by_id: {4: {burst: 20}}}\n",
        )
        .start();
    for (id, workspace) in
        [(1, json!("w-1")), (2, json!("w-1")), (3, json!("w-2")), (4, json!("w-1")), (5, json!(null))]
    {
        let data = json!({"data": {
            "id": id, "name": "test", "abilities": ["*"], "expires_at": null, "workspace": {"id": workspace},
        }});
        let token = format!("{id}|test");
        env.introspector.fail_with(Answer::json(200, &data));
        assert_eq!(env.status(ITEMS, &token), 200, "{token} is cached");
    }
    env.introspector.recover();
    let count = |token, least, most| assert_allowed(&env, (ITEMS, token), (least, most), started);
    let by_workspace = Some("by_workspace".to_owned());
    assert_eq!(count("1|test", 8, 8), by_workspace, "of ten, each of two tokens has used one");
    assert_eq!(count("2|test", 0, 0), by_workspace, "another token of the workspace");
    let own = Some("requests_per_second".to_owned());
    assert_eq!(count("4|test", 19, 19), own, "`by_id` sets its rate");
    assert_eq!(count("5|test", 9, 9), own, "no workspace");
    count("3|test", 9, 9);
}

/// Shadow mode forwards a request of a token without the ability, and limits it like others.
#[test]
fn shadow_mode_limits_by_the_abilities_of_the_rule() {
    let env = TestEnv::builder()
        .yaml(
            "mode: shadow\nrate_limit:\n  requests_per_second: 1\n  by_ability: {items:create: {burst: 3}}\n",
        )
        .yaml(ROUTES)
        .token("3|reader", &["items:read"])
        .start();
    let started = Instant::now();
    let count = |target, least, most| assert_allowed(&env, (target, "3|reader"), (least, most), started);
    assert_eq!(count("/create", 3, 3), Some("by_ability".to_owned()));
    assert_eq!(count("/nowhere", 40, 40), None, "no rule");
}
