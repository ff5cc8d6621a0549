//! Blocked tokens in every spelling.

use super::{Arrives, Case, READER, Refused, UNKNOWN, USER, WRITER, bare, by, case, target};
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
