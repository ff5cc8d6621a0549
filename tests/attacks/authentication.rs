//! Malformed, repeated and missing credentials.

use super::{Arrives, Case, NOBODY, Outcome, PAST, READER, Refused, UNKNOWN, USER, bare, case, start};

/// Name, Authorization lines, outcome of `GET /api/v2/items`.
const LINES: [(&str, &str, Outcome); 49] = [
    ("none", "", Refused(401)),
    ("another scheme", "Authorization: Basic MXxTZWNyZXQwUmVhZGVy\r\n", Refused(401)),
    ("Digest", "Authorization: Digest username=\"1|Secret0Reader\"\r\n", Refused(401)),
    ("no scheme", "Authorization: 1|Secret0Reader\r\n", Refused(401)),
    ("scheme alone", "Authorization: Bearer\r\n", Refused(401)),
    ("scheme and a space", "Authorization: Bearer \r\n", Refused(401)),
    ("empty", "Authorization:\r\n", Refused(401)),
    ("scheme glued", "Authorization: Bearer1|Secret0Reader\r\n", Refused(401)),
    ("scheme with a colon", "Authorization: Bearer: 1|Secret0Reader\r\n", Refused(401)),
    ("scheme with an equals sign", "Authorization: Bearer=1|Secret0Reader\r\n", Refused(401)),
    ("scheme and more", "Authorization: BearerX 1|Secret0Reader\r\n", Refused(401)),
    ("scheme twice", "Authorization: Bearer Bearer 1|Secret0Reader\r\n", Refused(401)),
    ("tab after the scheme", "Authorization: Bearer\t1|Secret0Reader\r\n", Refused(401)),
    ("space and tab after the scheme", "Authorization: Bearer \t1|Secret0Reader\r\n", Refused(401)),
    ("tab inside", "Authorization: Bearer 1|Secret0Reader\t3|Secret0User\r\n", Refused(401)),
    ("more after it", "Authorization: Bearer 1|Secret0Reader 3|Secret0User\r\n", Refused(401)),
    ("a word after it", "Authorization: Bearer 3|Secret0User x\r\n", Refused(401)),
    ("comma after it", "Authorization: Bearer 1|Secret0Reader,\r\n", Refused(401)),
    ("comma before it", "Authorization: Bearer ,1|Secret0Reader\r\n", Refused(401)),
    ("two with a comma", "Authorization: Bearer 1|Secret0Reader,3|Secret0User\r\n", Refused(401)),
    (
        "two credentials in a line",
        "Authorization: Bearer 1|Secret0Reader, Bearer 3|Secret0User\r\n",
        Refused(401),
    ),
    ("two Bearers in a line", "Authorization: Bearer 1|Secret0Reader Bearer 3|Secret0User\r\n", Refused(401)),
    ("Basic and Bearer in a line", "Authorization: Basic x, Bearer 3|Secret0User\r\n", Refused(401)),
    (
        "two lines",
        "Authorization: Bearer 1|Secret0Reader\r\nAuthorization: Bearer 3|Secret0User\r\n",
        Refused(401),
    ),
    (
        "two equal lines",
        "Authorization: Bearer 1|Secret0Reader\r\nAuthorization: Bearer 1|Secret0Reader\r\n",
        Refused(401),
    ),
    (
        "Basic, then Bearer",
        "Authorization: Basic x\r\nAuthorization: Bearer 1|Secret0Reader\r\n",
        Refused(401),
    ),
    (
        "Bearer, then Basic",
        "Authorization: Bearer 1|Secret0Reader\r\nAuthorization: Basic x\r\n",
        Refused(401),
    ),
    ("Bearer, then nothing", "Authorization: Bearer 1|Secret0Reader\r\nAuthorization:\r\n", Refused(401)),
    (
        "two lines apart",
        "Authorization: Bearer 1|Secret0Reader\r\nX: y\r\nauthorization: Bearer 3|Secret0User\r\n",
        Refused(401),
    ),
    ("quoted", "Authorization: Bearer \"1|Secret0Reader\"\r\n", Refused(401)),
    ("as a parameter", "Authorization: Bearer token=\"1|Secret0Reader\"\r\n", Refused(401)),
    ("beyond ASCII", "Authorization: Bearer 1|Secret0Reädér\r\n", Refused(401)),
    ("no-break space after it", "Authorization: Bearer 1|Secret0Reader\u{a0}\r\n", Refused(401)),
    ("with an underscore for the name", "Author_ization: Bearer 1|Secret0Reader\r\n", Refused(401)),
    ("in Proxy-Authorization", "Proxy-Authorization: Bearer 1|Secret0Reader\r\n", Refused(401)),
    ("in X-Authorization", "X-Authorization: Bearer 1|Secret0Reader\r\n", Refused(401)),
    ("in X-Auth-Token", "X-Auth-Token: 1|Secret0Reader\r\n", Refused(401)),
    ("in X-Api-Key", "X-Api-Key: 1|Secret0Reader\r\n", Refused(401)),
    ("in a cookie", "Cookie: token=1|Secret0Reader; api_token=1|Secret0Reader\r\n", Refused(401)),
    ("in Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: bearer, 1|Secret0Reader\r\n", Refused(401)),
    // Spellings: the introspector knows only one, and only that one may pass.
    ("another spelling of the id", "Authorization: Bearer 01|Secret0Reader\r\n", Refused(401)),
    ("without the id", "Authorization: Bearer Secret0Reader\r\n", Refused(401)),
    ("another's id", "Authorization: Bearer 3|Secret0Reader\r\n", Refused(401)),
    ("in lower case", "Authorization: Bearer 1|secret0reader\r\n", Refused(401)),
    ("percent-encoded", "Authorization: Bearer 1%7CSecret0Reader\r\n", Refused(401)),
    ("a part", "Authorization: Bearer 1|Secret0Reade\r\n", Refused(401)),
    // Harmless: one token, which the backend receives in one spelling.
    ("scheme in lower case", "Authorization: bearer 1|Secret0Reader\r\n", Arrives(ITEMS)),
    ("scheme in upper case", "Authorization: BEARER 1|Secret0Reader\r\n", Arrives(ITEMS)),
    ("several spaces", "Authorization:   Bearer    1|Secret0Reader  \r\n", Arrives(ITEMS)),
];

const ITEMS: &[&str] = &["GET /api/v2/items"];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = LINES
        .into_iter()
        .map(|(name, lines, outcome)| case(name, bare("GET /api/v2/items", lines), outcome))
        .collect();
    let with = |token: &str, request: &str| super::by(token, request, "");
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 27\r\n";
    cases.extend([
        case(
            "in the query",
            bare("GET /api/v2/items?api_token=1|Secret0Reader&access_token=1|Secret0Reader", ""),
            Refused(401),
        ),
        case("in the body", bare("POST /api/v2/items", form) + "access_token=3|Secret0User&", Refused(401)),
        case(
            "in the target's user part",
            bare("GET http://3%7CSecret0User@stockaj.example/api/v2/items", ""),
            Refused(400),
        ),
        case("unknown", with(UNKNOWN, "GET /api/v2/items"), Refused(401)),
        case("expired", with(PAST, "GET /api/v2/items"), Refused(401)),
        case("without abilities", with(NOBODY, "GET /api/v2/items"), Refused(403)),
        case("authenticated is enough", with(NOBODY, "GET /api/v2/me"), Arrives(&["GET /api/v2/me"])),
        case("authenticated asks for a token", bare("GET /api/v2/me", ""), Refused(401)),
        case("another ability", with(READER, "POST /api/v2/kiosk/scan"), Refused(403)),
        case("one of all that are asked for", with(READER, "POST /api/v2/exports"), Refused(403)),
        case(
            "one of any that are asked for",
            with(READER, "GET /api/v2/reports/a"),
            Arrives(&["GET /api/v2/reports/a"]),
        ),
        case("denied to those who may do everything", with(USER, "GET /api/v2/internal"), Refused(403)),
        case("unmapped to those who may do everything", with(USER, "GET /api/v2/other"), Refused(403)),
        case("unmapped without a token", bare("GET /api/v2/other", ""), Refused(401)),
        case(
            "two lines on a public route",
            bare("GET /up", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
            Refused(400),
        ),
        case("a token as long as may be", with(&"x".repeat(1024), "GET /api/v2/items"), Refused(401)),
        case("a token one longer", with(&"x".repeat(1025), "GET /api/v2/items"), Refused(401)),
        case("a token much longer", with(&"x".repeat(10_000), "GET /api/v2/items"), Refused(401)),
    ]);
    cases
}

#[test]
fn attacks_on_authentication_fail() {
    let env = start("");
    env.run_attacks(&cases());
    // Other credentials are not forwarded.
    for request in env.introspector.requests() {
        let token = request.bearer().expect("a bearer token");
        assert!(token.len() <= 1024 && !token.contains([',', ' ', '\t']), "introspected {token:?}");
    }
}
