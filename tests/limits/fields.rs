//! `rate_limit.fields`: RateLimit and RateLimit-Policy of the IETF draft.

use super::{ITEMS, assert_too_often};
use crate::support::http2::Http2Client;
use crate::support::{Answer, Response, TestEnv, Verdict};

/// The values of a field, in order.
fn fields(response: &Response) -> [Option<&str>; 2] {
    ["ratelimit-policy", "ratelimit"].map(|name| response.field(name))
}

#[test]
fn responses_tell_the_limits_of_a_token() {
    let env = TestEnv::start(
        "listen:\n  h2c: true\nrate_limit: {requests_per_second: 1, burst: 2, fields: ietf}\n",
    );
    let policy = Some(r#""requests_per_second";q=2;w=2"#);
    let mut client = Http2Client::connect(env.gateway.address());
    let allowed = client.get(ITEMS, Some("1|writer"));
    assert_eq!(fields(&allowed), [policy, Some(r#""requests_per_second";r=1;t=1"#)]);
    let refused = std::iter::repeat_with(|| env.gateway.get(ITEMS, Some("1|writer")))
        .find(|response| response.status == 429)
        .unwrap();
    assert_too_often(&refused, "2");
    assert_eq!(fields(&refused), [policy, Some(r#""requests_per_second";r=0;t=1"#)]);
    assert_eq!(fields(&env.gateway.get("/up", None)), [None, None], "a public route");
    assert_eq!(fields(&env.gateway.get(ITEMS, None)), [None, None], "401");
    env.introspector.set_verdict("2|reader", Verdict::active(&["items:read"]).named(2, "test"));
    let denied = env.gateway.client().request("POST", ITEMS, &[("Authorization", "Bearer 2|reader")], b"");
    assert_eq!((denied.status, fields(&denied)), (403, [None, None]));
}

#[test]
fn every_limit_of_a_request_has_an_item() {
    let env = TestEnv::start(
        "rate_limit:\n  requests_per_second: 50\n  burst: 100\n  in_flight: 8\n  fields: ietf\n\
         \x20 by_ability: {items:read: {requests_per_second: 5, burst: 20}, items:create: {burst: 9}}\n\
         \x20 by_name: {test: {burst: 30}}\n  quota: {requests: 1000, per: day, path: quota.redb}\n",
    );
    let response = env.gateway.get(ITEMS, Some("1|writer"));
    let [policy, state] = fields(&response).map(|value| value.unwrap().split(", ").collect::<Vec<_>>());
    assert_eq!(
        policy,
        [
            r#""quota";q=1000;w=86400"#,
            r#""by_ability:items:read";q=20;w=4"#,
            r#""by_name";q=30;w=1"#,
            r#""requests_per_second";q=100;w=2"#,
            r#""in_flight";q=8;qu="concurrent-requests""#,
        ]
    );
    assert!(state[0].starts_with(r#""quota";r=999;t="#), "{state:?}");
    assert_eq!(state[1], r#""by_ability:items:read";r=19;t=1"#);
    assert_eq!(state[4], r#""in_flight";r=7"#);
}

#[test]
fn fields_are_off_by_default_and_added_to_those_of_the_backend() {
    let env = TestEnv::start("rate_limit: {requests_per_second: 1, burst: 50}\n");
    env.backend.answer(|_| Answer::with(200, &[("RateLimit", r#""backend";r=7"#)], "ok"));
    let response = env.gateway.get(ITEMS, Some("1|writer"));
    assert_eq!(fields(&response), [None, Some(r#""backend";r=7"#)]);
    env.gateway.edit("burst: 50", "burst: 50, fields: ietf");
    assert!(env.gateway.reload());
    let response = env.gateway.get(ITEMS, Some("1|writer"));
    let lines = response.fields.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ratelimit"));
    let values: Vec<&str> = lines.map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, [r#""backend";r=7"#, r#""requests_per_second";r=49;t=1"#]);
}
