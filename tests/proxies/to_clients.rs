//! Fields of the gateway's answers that are for clients.

use super::{ITEMS, READER, start};
use crate::support::Response;
use crate::support::proxies::{Kind, Protocol};

const RULES: &str = "\
cors: {origins: [https://shop.example], credentials: true}
denials: {required_ability: true, link: https://docs.example/api/tokens}
rate_limit: {requests_per_second: 1, burst: 1, fields: ietf}
";
const TOKEN: (&str, &str) = ("Authorization", "Bearer 2|reader");
const ORIGIN: (&str, &str) = ("Origin", "https://shop.example");

fn assert_readable(kind: Kind, response: &Response, names: &[&str]) {
    let context = format!("{kind:?} {}: {:?}", response.status, response.fields);
    assert_eq!(response.field("access-control-allow-origin"), Some(ORIGIN.1), "{context}");
    assert_eq!(response.field("access-control-allow-credentials"), Some("true"), "{context}");
    assert_eq!(response.field("vary"), Some("Origin"), "{context}");
    let exposed: Vec<&str> = response
        .fields
        .all("access-control-expose-headers")
        .flat_map(|it| it.split(','))
        .map(str::trim)
        .collect();
    for name in names {
        assert!(exposed.contains(name), "{context}: {name}");
        assert!(response.field(name).is_some(), "{context}: {name}");
    }
}

/// Scripts of an allowed origin can read why they are refused.
pub(super) fn assert_refusals_are_readable(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, RULES);
    let response = proxied.ask("GET", ITEMS, &[ORIGIN], b"");
    assert_eq!(response.status, 401);
    assert_readable(kind, &response, &["WWW-Authenticate", "X-Request-Id"]);
    let response = proxied.ask("DELETE", "/api/v2/items/5", &[TOKEN, ORIGIN], b"");
    assert_eq!(response.status, 403);
    assert_readable(kind, &response, &["WWW-Authenticate", "X-Required-Ability", "Link"]);
    assert_eq!(response.field("x-required-ability"), Some("items:delete"), "{kind:?}");
    assert_eq!(proxied.status(READER), 200);
    let response = proxied.ask("GET", ITEMS, &[TOKEN, ORIGIN], b"");
    assert_eq!(response.status, 429);
    assert_readable(kind, &response, &["Retry-After", "X-RateLimit-Limit", "RateLimit", "RateLimit-Policy"]);
    // An origin that is not allowed learns nothing.
    let response = proxied.ask("GET", ITEMS, &[("Origin", "https://other.example")], b"");
    assert_eq!(response.field("access-control-allow-origin"), None, "{kind:?}");
    proxied.env.backend.take_requests();
}

/// The client's fault does not look like an outage.
pub(super) fn assert_long_heads_are_431(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let names: Vec<String> = (0..110).map(|number| format!("X-Name-{number}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (&**name, "a")).chain([TOKEN]).collect();
    assert_eq!(proxied.ask("GET", ITEMS, &fields, b"").status, 431, "{kind:?}");
    proxied.assert_nothing_arrived("a long head");
}

/// Whether responses of the backend get the fields of the answer that allowed the request.
pub(super) fn assert_allowed_responses(kind: Kind, has_fields: bool) {
    let rules = "rate_limit: {requests_per_second: 100, burst: 100, fields: ietf}\n";
    let proxied = start(kind, Protocol::Http1, rules);
    let response = proxied.ask("GET", ITEMS, &[TOKEN], b"");
    assert_eq!(response.status, 200, "{kind:?}");
    for name in ["ratelimit", "ratelimit-policy"] {
        assert_eq!(response.field(name).is_some(), has_fields, "{kind:?}: {name} in {:?}", response.fields);
    }
}
