//! Targets that two parsers read differently.
//!
//! The token has the ability `*`, so a refusal is due to the target alone. Every row runs against the usual map and
//! against one that requires only a token for unmapped requests.

use super::{Arrives, Case, Outcome, Refused, USER, by, case, start, target};

const BAD: Outcome = Refused(400);
/// An unmapped route: refused by the one map; with the other, the backend has no such route either.
const UNMAPPED: Outcome = Refused(403);

/// Name, target, outcome.
const GETS: [(&str, &str, Outcome); 102] = [
    // Encoded separators: Laravel decodes once, and `%2F` is a separator to it.
    ("encoded slash", "/api/v2/items%2F5", BAD),
    ("encoded slash in lower case", "/api/v2/items%2f5", BAD),
    ("encoded slash after the first", "/api%2Fv2%2Finternal", BAD),
    ("encoded slash at the end", "/api/v2/items%2F", BAD),
    ("encoded slash in an open route", "/open/x%2F..%2F..%2Fapi%2Fv2%2Finternal", BAD),
    ("encoded backslash", "/api/v2/items%5C5", BAD),
    ("encoded backslash in lower case", "/api/v2%5citems", BAD),
    ("backslash", "/api/v2\\items", BAD),
    ("backslash and dots", "/open\\..\\api\\v2\\internal", BAD),
    // Encoded twice or more.
    ("slash encoded twice", "/api/v2/items%252F5", BAD),
    ("slash encoded three times", "/api/v2/items%25252F5", BAD),
    ("slash encoded twice in parts", "/api/v2/items%25%32%465", BAD),
    ("slash with an encoded digit", "/api/v2/items%%325", BAD),
    ("backslash encoded twice", "/api/v2/items%255C5", BAD),
    ("dots encoded twice", "/open/%252e%252e/api/v2/internal", BAD),
    ("one of two dots encoded twice", "/open/.%252e/api/v2/internal", BAD),
    ("NUL encoded twice", "/api/v2/items/5%2500", BAD),
    ("front controller encoded twice", "/%2569ndex.php/api/v2/internal", BAD),
    // Dot segments: an id to Laravel, the parent directory to other parsers.
    ("two dots", "/api/v2/items/..", BAD),
    ("two dots and a slash", "/api/v2/items/../", BAD),
    ("two dots out of an open route", "/open/../api/v2/internal", BAD),
    ("two dots above the root", "/../api/v2/internal", BAD),
    ("many dots above the root", "/../../../../api/v2/internal", BAD),
    ("two dots into the same", "/api/v2/items/5/../6", BAD),
    ("one dot", "/api/v2/./items", BAD),
    ("one dot at the end", "/api/v2/items/.", BAD),
    ("one dot at the start", "/./api/v2/items", BAD),
    ("encoded dots", "/api/v2/items/%2e%2e", BAD),
    ("encoded dots in upper case", "/open/%2E%2E/api/v2/internal", BAD),
    ("one of two dots encoded", "/open/.%2e/api/v2/internal", BAD),
    ("the other of two dots encoded", "/open/%2e./api/v2/internal", BAD),
    ("one encoded dot", "/api/v2/%2e/items", BAD),
    ("dots with a parameter", "/open/..;/api/v2/internal", BAD),
    ("dots with an encoded NUL", "/open/..%00/api/v2/internal", BAD),
    // Empty segments.
    ("two slashes at the start", "//api/v2/items", BAD),
    ("two slashes inside", "/api//v2/items", BAD),
    ("two slashes at the end", "/api/v2/items//", BAD),
    ("two slashes before an id", "/api/v2/items//5", BAD),
    ("slashes only", "//", BAD),
    ("network-path reference", "//evil.example/api/v2/items", BAD),
    ("three slashes", "///api/v2/items", BAD),
    // Path parameters.
    ("parameter", "/api/v2/items;x=1", BAD),
    ("parameter after an id", "/api/v2/items/5;x", BAD),
    ("parameter before a slash", "/api/v2;x/items", BAD),
    ("parameter alone", "/;/api/v2/items", BAD),
    // Control characters and invalid UTF-8.
    ("NUL", "/api/v2/items/5%00", BAD),
    ("NUL before a suffix", "/api/v2/items%00.json", BAD),
    ("encoded line feed", "/api/v2/items%0A", BAD),
    ("encoded carriage return and line feed", "/api/v2/items%0D%0AX-Evil:%20evil", BAD),
    ("encoded tab", "/api/v2/items/%095", BAD),
    ("encoded DEL", "/api/v2/items/%7F", BAD),
    ("encoded C1 control", "/api/v2/items/%C2%85", BAD),
    ("overlong slash", "/api/v2/items%C0%AF5", BAD),
    ("overlong slash of three bytes", "/api/v2/items%E0%80%AF5", BAD),
    ("overlong dot", "/open/%C0%AE%C0%AE/api/v2/internal", BAD),
    ("surrogate", "/api/v2/items/%ED%A0%80", BAD),
    ("beyond Unicode", "/api/v2/items/%F4%90%80%80", BAD),
    ("half a character", "/api/v2/items/%C3", BAD),
    ("a lone continuation", "/api/v2/items/%A9", BAD),
    ("latin-1", "/api/v2/items/%E9", BAD),
    // Percent signs that encode nothing.
    ("percent alone", "/api/v2/items/%", BAD),
    ("percent and one digit", "/api/v2/items/%4", BAD),
    ("percent and no digits", "/api/v2/items/%zz", BAD),
    ("percent u", "/api/v2/items%u002f5", BAD),
    ("percent and a sign", "/api/v2/items/%+5", BAD),
    ("percent at the end of a segment", "/api/v2/items%/5", BAD),
    // Laravel's front controller serves any path after it.
    ("front controller", "/index.php/api/v2/internal", BAD),
    ("front controller alone", "/index.php", BAD),
    ("front controller with an encoded letter", "/%69ndex.php/api/v2/internal", BAD),
    ("front controller with an encoded dot", "/index%2ephp/api/v2/internal", BAD),
    ("front controller glued", "/index.phpapi/v2/internal", BAD),
    ("front controller in upper case", "/INDEX.PHP/api/v2/internal", BAD),
    ("front controller twice", "/index.php/index.php/api/v2/internal", BAD),
    ("front controller and a query", "/index.php?/api/v2/internal", BAD),
    // Also in a subdirectory in which an application is installed.
    ("front controller in a subdirectory", "/sub/index.php/api/v2/internal", BAD),
    ("front controller at the end", "/sub/index.php", BAD),
    ("front controller at the end with a slash", "/sub/index.php/", BAD),
    ("front controller deeper", "/sub/dir/other/index.php/api/v2/internal", BAD),
    ("front controller in a subdirectory in other case", "/sub/Index.PHP/api/v2/internal", BAD),
    ("front controller in a subdirectory with an encoded letter", "/sub/%69ndex.php/api/v2/internal", BAD),
    ("front controller in a subdirectory with an encoded dot", "/sub/index%2Ephp/api/v2/internal", BAD),
    ("front controller in a subdirectory glued", "/sub/index.phpapi/v2/internal", BAD),
    ("front controller in a subdirectory encoded twice", "/sub/%2569ndex.php/api/v2/internal", BAD),
    ("front controller as an id", "/api/v2/items/index.php", BAD),
    ("front controller behind an id", "/api/v2/items/5/index.php/api/v2/internal", BAD),
    ("front controller in an open route", "/open/index.php/api/v2/internal", BAD),
    // An unmapped spelling is not a route of the backend either.
    ("upper case", "/API/V2/internal", UNMAPPED),
    ("another version", "/api/v3/items", UNMAPPED),
    ("denied", "/api/v2/internal", UNMAPPED),
    ("denied with a slash", "/api/v2/internal/", UNMAPPED),
    ("denied in other letters", "/%61%70%69/v2/%69nternal", UNMAPPED),
    ("denied with a query", "/api/v2/internal?x=/api/v2/items", UNMAPPED),
    // The backend receives one spelling, whichever was sent.
    ("trailing slash", "/api/v2/items/", Arrives(&["GET /api/v2/items"])),
    ("encoded letters", "/%61pi/v2/%69tems", Arrives(&["GET /api/v2/items"])),
    ("encoded tilde", "/api/v2/items/%7Ea", Arrives(&["GET /api/v2/items/~a"])),
    ("lower-case digits", "/api/v2/items/%c3%a9", Arrives(&["GET /api/v2/items/%C3%A9"])),
    ("encoded question mark", "/api/v2/items/a%3Fb", Arrives(&["GET /api/v2/items/a%3Fb"])),
    ("encoded hash", "/api/v2/items/a%23b", Arrives(&["GET /api/v2/items/a%23b"])),
    ("encoded percent", "/api/v2/items/100%25", Arrives(&["GET /api/v2/items/100%25"])),
    ("three dots", "/api/v2/items/...", Arrives(&["GET /api/v2/items/..."])),
    ("query of dots and slashes", "/api/v2/items?/../%2F..;\\", Arrives(&["GET /api/v2/items?/../%2F..;\\"])),
    (
        "query that looks like a route",
        "/api/v2/items?/api/v2/internal",
        Arrives(&["GET /api/v2/items?/api/v2/internal"]),
    ),
];

/// Targets that are not paths, and targets that hyper never passes to its service.
fn forms() -> Vec<Case> {
    let get = |name, target: &str, outcome| case(name, by(USER, &format!("GET {target}"), ""), outcome);
    vec![
        get("absolute", "http://stockaj.example/api/v2/items", Arrives(&["GET /api/v2/items"])),
        get("absolute without a path", "http://stockaj.example", UNMAPPED),
        get("absolute with another host", "http://other.example/api/v2/items", BAD),
        get("absolute with another port", "http://stockaj.example:81/api/v2/items", BAD),
        get("absolute with a user", "http://user@stockaj.example/api/v2/items", BAD),
        get(
            "absolute with a user that is the host",
            "http://stockaj.example@other.example/api/v2/items",
            BAD,
        ),
        get("absolute with another scheme", "ftp://stockaj.example/api/v2/items", BAD),
        get("absolute with dots", "http://stockaj.example/open/../api/v2/internal", BAD),
        get("absolute with two slashes", "http://stockaj.example//api/v2/items", BAD),
        get("authority", "stockaj.example:80", BAD),
        get("asterisk", "*", BAD),
        case("asterisk of a POST", by(USER, "POST *", ""), BAD),
    ]
}

const LOOSE: &str = "\
abilities:
  unmapped: authenticated
  routes:
    /up:                     {GET: public}
    /open/{*rest}:           {GET: public}
    /api/v2/items:           {GET: items:read, POST: items:create}
    /api/v2/items/{id}:      {GET: items:read, PUT: items:update, PATCH: items:update, DELETE: items:delete}
    /api/v2/internal:        {GET: deny}
";

pub(super) fn cases() -> Vec<Case> {
    let gets =
        GETS.map(|(name, target, outcome)| case(name, by(USER, &format!("GET {target}"), ""), outcome));
    gets.into_iter().chain(forms()).collect()
}

#[test]
fn attacks_by_paths_fail() {
    start("").run_attacks(&cases());
}

#[test]
fn attacks_by_paths_fail_with_unmapped_authenticated() {
    let mut cases = cases();
    // A token without abilities: the judge detects a mapped route that is reached through an unmapped one.
    for case in &mut cases {
        let sent = String::from_utf8(case.sent.clone()).unwrap().replace(USER, super::NOBODY);
        case.sent = sent.into_bytes();
        case.outcome = match case.outcome {
            Arrives(_) => Refused(403),
            outcome => outcome,
        };
    }
    for name in ["upper case", "another version", "absolute without a path"] {
        cases.retain(|case| case.name != name);
    }
    let unmapped = |name, target, arrives| case(name, by(super::NOBODY, target, ""), Arrives(arrives));
    cases.extend([
        unmapped("unmapped", "GET /api/v2/other/", &["GET /api/v2/other"]),
        unmapped("unmapped in upper case", "GET /API/v2/internal", &["GET /API/v2/internal"]),
        unmapped("the root", "GET /", &["GET /"]),
        case(
            "a method that a mapped path lacks",
            by(super::NOBODY, "DELETE /api/v2/items", ""),
            Refused(403),
        ),
        case("unmapped without a token", super::bare("GET /api/v2/other", ""), Refused(401)),
        case("open", super::bare("GET /open/a", ""), Arrives(&["GET /open/a"])),
        case("open and deeper", super::bare("GET /open/a/b", ""), Arrives(&["GET /open/a/b"])),
    ]);
    target(|builder| builder.yaml(LOOSE)).run_attacks(&cases);
}
