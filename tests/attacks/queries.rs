//! Queries that a backend in PHP reads as another than the gateway's rules, or that carry more than the token may read.

use super::{Arrives, Case, NOBODY, READER, Refused, USER, bare, by, case};

/// The maps of the other tables, with rules for queries.
pub(super) const RULES: &str = "\
abilities:
  routes:
    /up:           {GET: public, query: {debug: deny, details: items:read}}
    /api/v2/items:
      GET: items:read
      POST: items:create
      query:
        include: {split: ',', values: {variants: items:read, renters: renters:read}, others: deny}
        fields[renters]: renters:read
        in_clude: renters:read
        debug: deny
        others: allow
    /api/v2/items/{id}: {GET: items:read, query: {others: deny}}
";

const DENIED: super::Outcome = Refused(403);
const BAD: super::Outcome = Refused(400);

/// Queries of a token that may read items, but not renters.
const QUERIES: [(&str, &str, super::Outcome); 48] = [
    ("query: a listed value", "include=variants", Arrives(&["GET /api/v2/items?include=variants"])),
    ("query: no value", "include=", Arrives(&["GET /api/v2/items?include="])),
    ("query: an unlisted parameter", "page=2;", BAD),
    ("query: as sent", "page=2&q=a+b%20c", Arrives(&["GET /api/v2/items?page=2&q=a+b%20c"])),
    ("query: another resource", "include=renters", DENIED),
    ("query: another resource in a list", "include=variants,renters", DENIED),
    ("query: another resource in an encoded list", "include=variants%2Crenters", DENIED),
    ("query: another resource, then a listed one", "include=renters&include=variants", DENIED),
    ("query: a listed resource, then another", "include=variants&include=renters", DENIED),
    ("query: another resource in an array", "include[]=variants&include[]=renters", DENIED),
    ("query: another resource in an encoded array", "include%5B%5D=renters", DENIED),
    ("query: another resource by index", "include[7]=renters", DENIED),
    ("query: another resource as a key", "include[renters]=1", DENIED),
    ("query: another resource in a nested array", "include[a][b]=renters", DENIED),
    ("query: an encoded name", "%69nclude=renters", DENIED),
    ("query: an encoded value", "include=%72enters", DENIED),
    ("query: upper case in the value", "include=Renters", DENIED),
    ("query: a space before the value", "include=+renters", DENIED),
    ("query: a tab after the value", "include=renters%09", DENIED),
    ("query: NUL after the value", "include=renters%00", DENIED),
    ("query: a zero-width space in the value", "include=%E2%80%8Brenters", DENIED),
    ("query: a nested resource", "include=variants.renters", DENIED),
    ("query: an equals sign in the value", "include=renters=", DENIED),
    ("query: empty pairs", "&&include=renters&&", DENIED),
    (
        "query: a question mark before the name",
        "?include=renters",
        Arrives(&["GET /api/v2/items??include=renters"]),
    ),
    ("query: fields of another resource", "fields[renters]=name", DENIED),
    ("query: fields of another resource without a value", "fields[renters]", DENIED),
    ("query: fields of another resource in an array", "fields[renters][]=name", DENIED),
    ("query: fields of another resource, encoded", "fields%5Brenters%5D=name", DENIED),
    ("query: a parameter that nobody may send", "debug=1", DENIED),
    ("query: a dot for an underscore", "in.clude=1", BAD),
    ("query: a space for an underscore", "in+clude=1", BAD),
    ("query: an encoded dot for an underscore", "in%2Eclude=1", BAD),
    ("query: a space before the name", "+include=renters", BAD),
    ("query: encoded spaces before the name", "%20%20include=renters", BAD),
    ("query: NUL after the name", "include%00=renters", BAD),
    ("query: NUL and more after the name", "include%00x=renters", BAD),
    ("query: a bracket that is not closed", "in[clude=1", BAD),
    ("query: a bracket that is not opened", "include]=renters", BAD),
    ("query: text after a bracket", "include[a]x=renters", BAD),
    ("query: brackets in brackets", "include[[a]]=renters", BAD),
    ("query: a space in brackets", "include[+]=renters", BAD),
    ("query: a name in brackets", "[include]=renters", BAD),
    ("query: no name", "=renters&include=variants", BAD),
    ("query: a semicolon as a separator", "page=2;include=renters", BAD),
    ("query: a malformed escape in a name", "a%=1", BAD),
    ("query: a malformed escape in a value", "include=%7", BAD),
    ("query: a name that is not UTF-8", "incl%FFude=1", BAD),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = QUERIES
        .iter()
        .map(|&(name, query, outcome)| {
            case(name, by(READER, &format!("GET /api/v2/items?{query}"), ""), outcome)
        })
        .collect();
    let body = |method: &str| {
        let json = r#"{"include":"renters"}"#;
        let lines = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
        by(READER, &format!("{method} /api/v2/items?include=variants"), &lines) + json
    };
    cases.extend([
        case("query: a body of a GET", body("GET"), BAD),
        case("query: a body of a HEAD", body("HEAD"), BAD),
        case("query: a HEAD", by(READER, "HEAD /api/v2/items?include=renters", ""), DENIED),
        case(
            "query: more parameters than PHP reads",
            by(READER, &format!("GET /api/v2/items?{}include=renters", "a&".repeat(1000)), ""),
            BAD,
        ),
        case(
            "query: deeper than PHP reads",
            by(READER, &format!("GET /api/v2/items?include{}=renters", "[a]".repeat(65)), ""),
            BAD,
        ),
        case(
            "query: in an absolute target",
            by(READER, "GET http://stockaj.example/api/v2/items?include=renters", ""),
            DENIED,
        ),
        case("query: without a token", bare("GET /api/v2/items?include=renters", ""), Refused(401)),
        case("query: ambiguous without a token", bare("GET /api/v2/items?in.clude", ""), BAD),
        case("query: a denied parameter without a token", bare("GET /api/v2/items?debug", ""), Refused(401)),
        case(
            "query: a user's token",
            by(USER, "GET /api/v2/items?include=renters", ""),
            Arrives(&["GET /api/v2/items?include=renters"]),
        ),
        case("query: a denied parameter of a user's token", by(USER, "GET /api/v2/items?debug", ""), DENIED),
        case("query: unlisted where others are denied", by(USER, "GET /api/v2/items/5?page=1", ""), DENIED),
        case(
            "query: none where others are denied",
            by(USER, "GET /api/v2/items/5?", ""),
            Arrives(&["GET /api/v2/items/5?"]),
        ),
        case("query: a public route", bare("GET /up?x=1", ""), Arrives(&["GET /up?x=1"])),
        case("query: a denied parameter of a public route", bare("GET /up?debug", ""), DENIED),
        case(
            "query: an ability on a public route without a token",
            bare("GET /up?details", ""),
            Refused(401),
        ),
        case(
            "query: an ability on a public route without the ability",
            by(NOBODY, "GET /up?details", ""),
            DENIED,
        ),
        case(
            "query: an ability on a public route",
            by(READER, "GET /up?details", ""),
            Arrives(&["GET /up?details"]),
        ),
    ]);
    cases
}

#[test]
fn attacks_by_queries_fail() {
    super::start(RULES).run_attacks(&cases());
}

#[test]
fn attacks_by_queries_fail_with_a_candidate_map() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "routes:\n  /{*rest}: {GET: public, query: {include: public}}\n").unwrap();
    super::start(&format!("{RULES}shadow: {}\n", file.path().display())).run_attacks(&cases());
}
