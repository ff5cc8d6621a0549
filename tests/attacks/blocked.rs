//! Blocked tokens in every spelling.

use super::{Arrives, Case, READER, Refused, UNKNOWN, USER, WRITER, bare, by, case, target};
use crate::support::http2::Http2Client;
use crate::support::{OPERATED, TestEnv, Verdict};

/// The name of a blocked token.
const ODD_NAME: &str = "caf\u{e9} \"till\"\n\u{202e}1";

/// Every way to spell the tokens of [`start`] that are blocked, and the requests that others may still send.
pub(super) fn cases() -> Vec<Case> {
    const ITEMS: &str = "GET /api/v2/items";
    let field = |value: &str| bare(ITEMS, &format!("Authorization: {value}\r\n"));
    vec![
        case("blocked by its id", by(USER, ITEMS, ""), Refused(401)),
        case("blocked by its id, with a zero before it", by("03|Secret0User", ITEMS, ""), Refused(401)),
        case("blocked by its id, with zeros before it", by("0000003|Secret0User", ITEMS, ""), Refused(401)),
        case("blocked by its id, with a sign", by("+3|Secret0User", ITEMS, ""), Refused(401)),
        case("blocked by its id, which ends in letters", by("3x|Secret0User", ITEMS, ""), Refused(401)),
        case("blocked by its id, without it", by("Secret0User", ITEMS, ""), Refused(401)),
        case("blocked by its id, with a guessed secret", by("3|Secret0Guess", ITEMS, ""), Refused(401)),
        case("blocked, scheme in lower case", field("bearer 3|Secret0User"), Refused(401)),
        case("blocked, with several spaces", field("BEARER    3|Secret0User"), Refused(401)),
        case("blocked, then another", field("Bearer 3|Secret0User, Bearer 1|Secret0Reader"), Refused(401)),
        case("another, then blocked", field("Bearer 1|Secret0Reader, Bearer 3|Secret0User"), Refused(401)),
        case("blocked, of HEAD", by(USER, "HEAD /api/v2/items", ""), Refused(401)),
        case(
            "blocked, of POST",
            by(USER, "POST /api/v2/items", "Content-Length: 2\r\n") + "{}",
            Refused(401),
        ),
        case(
            "blocked, of an overriding method",
            by(USER, "POST /api/v2/items/5", "X-HTTP-Method-Override: PUT\r\n"),
            Refused(403),
        ),
        case("blocked, any token is enough", by(USER, "GET /api/v2/me", ""), Refused(401)),
        case("blocked, with a cookie", by(USER, ITEMS, "Cookie: laravel_session=x\r\n"), Refused(401)),
        case("blocked by its name", by("7|Secret0Odd", ITEMS, ""), Refused(401)),
        case("blocked by its name, in another spelling", by("007|Secret0Odd", ITEMS, ""), Refused(401)),
        case("another token of a blocked name", by("8|Secret0Odder", ITEMS, ""), Refused(401)),
        case("blocked by its text", by(WRITER, ITEMS, ""), Refused(401)),
        case("blocked by its text, in another spelling", by("02|Secret0Writer", ITEMS, ""), Refused(401)),
        case("blocked by its text, without its id", by("Secret0Writer", ITEMS, ""), Refused(401)),
        case("blocked by its text, with another's id", by("1|Secret0Writer", ITEMS, ""), Refused(401)),
        case("blocked, on a public route", by(USER, "GET /up", ""), Arrives(&["GET /up"])),
        case("no block for others", by(READER, ITEMS, ""), Arrives(&["GET /api/v2/items"])),
        case("no block makes an unknown token active", by(UNKNOWN, ITEMS, ""), Refused(401)),
    ]
}

/// A gateway that blocks [`USER`] by id, [`WRITER`] by its text and two tokens by name, of which the introspector knows
/// every spelling.
pub(super) fn start(yaml: &str) -> TestEnv {
    let env = target(|builder| {
        builder.yaml(&format!("{OPERATED}blocked:\n  ids: [3, 11, 10]\n  names: [tes, test0]\n{yaml}"))
    });
    let introspector = &env.introspector;
    for token in
        [USER, "03|Secret0User", "0000003|Secret0User", "+3|Secret0User", "3x|Secret0User", "Secret0User"]
    {
        introspector.set_verdict(token, Verdict::active(&["*"]).named(3, "user"));
    }
    for token in [WRITER, "02|Secret0Writer", "Secret0Writer", "1|Secret0Writer"] {
        introspector.set_verdict(token, Verdict::active(&["*"]).named(2, "writer"));
    }
    for (token, id, name) in
        [("7|Secret0Odd", 7, ODD_NAME), ("007|Secret0Odd", 7, ODD_NAME), ("8|Secret0Odder", 8, ODD_NAME)]
    {
        introspector.set_verdict(token, Verdict::active(&["*"]).named(id, name));
    }
    for body in [serde_json::json!({ "name": ODD_NAME }), serde_json::json!({ "token": WRITER })] {
        let answer = env.operator("POST", "/tokens/block", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    env
}

#[test]
fn blocked_token_is_refused_in_every_spelling() {
    start("").run_attacks(&cases());
}

/// Refusals of the map are forwarded there, those of the block list are not.
#[test]
fn shadow_mode_forwards_no_blocked_token() {
    for yaml in ["mode: shadow\n", "mode: shadow\nshadow_authentication: true\n"] {
        let env = start(yaml);
        let is_other = |case: &Case| {
            case.name.starts_with("no block")
                || case.name.contains("overriding")
                || case.name.contains("guessed")
        };
        let cases: Vec<Case> = cases().into_iter().filter(|case| !is_other(case)).collect();
        env.run_attacks(&cases);
        let unmapped = env.gateway.get("/api/v2/nowhere", Some(USER));
        assert_eq!(unmapped.status, 401, "{yaml}");
    }
}

/// A block also refuses tokens that the gateway has found to be inactive before, whose verdict it keeps.
#[test]
fn shadow_mode_forwards_no_inactive_token_that_is_blocked() {
    const ITEMS: &str = "/api/v2/items";
    let yaml = "cache: {negative_ttl: 1h}\nlisten:\n  h2c: true\nmode: shadow\nshadow_authentication: true\n";
    let env = target(|builder| builder.yaml(&format!("{OPERATED}{yaml}")));
    let expired =
        |id: u32, name: &str| Verdict::active(&["*"]).named(id, name).expiring("2001-01-01T00:00:00Z");
    env.introspector.set_verdict("Secret0Expired", expired(21, "expired"));
    env.introspector.set_verdict("22|Secret0Expired2", expired(22, "till 1"));
    for (token, body) in [
        ("9|Secret0Unknown9", r#"{"id":"9"}"#),
        ("0010|Secret0Unknown10", r#"{"id":"10"}"#),
        ("11|Secret0Unknown11", r#"{"token":"11|Secret0Unknown11"}"#),
        ("Secret0Unknown12", r#"{"token":"12|Secret0Unknown12"}"#),
        ("Secret0Expired", r#"{"id":"21"}"#),
        ("22|Secret0Expired2", r#"{"name":"till 1"}"#),
    ] {
        let statuses = || {
            let over_http2 = Http2Client::connect(env.gateway.address()).get(ITEMS, Some(token)).status;
            [env.status(ITEMS, token), over_http2]
        };
        assert_eq!(statuses(), [200; 2], "{token}: inactive, and forwarded");
        assert_eq!(env.operator("POST", "/tokens/block", body).status, 200);
        let arrived = env.backend.take_requests().len();
        assert_eq!((arrived, statuses(), statuses()), (2, [401; 2], [401; 2]), "{token} after {body}");
        assert!(env.backend.take_requests().is_empty(), "{token} after {body}");
        assert_eq!(env.operator("DELETE", "/tokens/block", body).status, 200);
        assert_eq!(statuses(), [200; 2], "{token} without the block");
        env.backend.forget_requests();
    }
    let metrics = env.gateway.metrics();
    assert_eq!(metrics.metric("requests_total{status=\"401\",reason=\"blocked\"}"), 24.0);
}
