//! Requests that pretend to come from a network that a route or a token is restricted to.

use serde_json::json;

use super::{Arrives, Case, NOBODY, READER, Refused, UNKNOWN, USER, WRITER, bare, by, case, start};
use crate::support::http2::Http2Client;
use crate::support::{TestEnv, Verdict};

/// The maps of the other tables, with networks for some routes.
const RULES: &str = "\
abilities:
  routes:
    /up:                {GET: public}
    /open/{id}:         {GET: public, POST: public, from: [10.0.0.0/8]}
    /api/v2/items:      {GET: items:read, POST: items:create}
    /api/v2/items/{id}: {GET: items:read, PUT: items:update, from: [10.0.0.0/8, '2001:db8::/32', ::ffff:192.0.2.0/120]}
introspection:
  response: {allowed_from: /data/allowed_from}
";

const ITEM: &str = "GET /api/v2/items/5";
const WRONG: super::Outcome = Refused(403);
const ARRIVES: super::Outcome = Arrives(&["GET /api/v2/items/5"]);

/// Tokens whose networks are malformed.
const MALFORMED: [(&str, &str); 8] = [
    ("networks: an octal address", "010.0.0.1"),
    ("networks: a short address", "127.1"),
    ("networks: a number as the address", "2130706433"),
    ("networks: a hexadecimal address", "0x7f.0.0.1"),
    ("networks: an address with a zone", "fe80::1%lo"),
    ("networks: a netmask", "127.0.0.0/255.0.0.0"),
    ("networks: a wildcard", "127.*"),
    ("networks: a range", "127.0.0.0-127.255.255.255"),
];

fn malformed(number: usize) -> String {
    format!("8{number}|Secret0Malformed")
}

/// A target of attacks from 127.0.0.1. `WRITER` is for 10.0.0.0/8 only, `NOBODY` for nowhere.
pub(super) fn target(listen: &str) -> TestEnv {
    target_in("enforce", listen)
}

fn target_in(mode: &str, listen: &str) -> TestEnv {
    let env = start(&format!("mode: {mode}\nlisten:\n  h2c: true\n{listen}{RULES}"));
    let writer = Verdict::active(&["items:read", "items:create", "items:update"]);
    env.introspector.set_verdict(WRITER, writer.restricted_to(json!(["10.0.0.0/8"])));
    env.introspector.set_verdict(NOBODY, Verdict::active(&["*"]).restricted_to(json!([])));
    for (number, (_, network)) in MALFORMED.into_iter().enumerate() {
        let verdict = Verdict::active(&["*"]).restricted_to(json!(["127.0.0.0/8", network]));
        env.introspector.set_verdict(&malformed(number), verdict);
    }
    env
}

/// Fields by which an untrusted client claims another address.
const CLAIMS: [(&str, &str); 14] = [
    ("networks: a spoofed X-Forwarded-For", "X-Forwarded-For: 10.1.2.3\r\n"),
    (
        "networks: several spoofed X-Forwarded-For",
        "X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-For: 10.1.2.4\r\n",
    ),
    ("networks: a spoofed list", "X-Forwarded-For: 203.0.113.9, 10.1.2.3\r\n"),
    ("networks: a spoofed mapped address", "X-Forwarded-For: ::ffff:10.1.2.3\r\n"),
    ("networks: an underscore in X-Forwarded-For", "X_Forwarded_For: 10.1.2.3\r\n"),
    ("networks: a spoofed Forwarded", "Forwarded: for=10.1.2.3\r\n"),
    ("networks: a spoofed X-Real-IP", "X-Real-IP: 10.1.2.3\r\n"),
    ("networks: a spoofed X-Client-IP", "X-Client-IP: 10.1.2.3\r\n"),
    ("networks: a spoofed True-Client-IP", "True-Client-IP: 10.1.2.3\r\n"),
    ("networks: a spoofed CF-Connecting-IP", "CF-Connecting-IP: 10.1.2.3\r\n"),
    ("networks: a spoofed X-Original-Forwarded-For", "X-Original-Forwarded-For: 10.1.2.3\r\n"),
    ("networks: a Host in the network", "X-Forwarded-Host: 10.1.2.3\r\n"),
    ("networks: Via of a proxy", "Via: 1.1 10.1.2.3\r\n"),
    ("networks: no claim", ""),
];

/// From an untrusted peer.
pub(super) fn untrusted() -> Vec<Case> {
    let mut cases: Vec<Case> =
        CLAIMS.into_iter().map(|(name, lines)| case(name, by(READER, ITEM, lines), WRONG)).collect();
    let claim = "X-Forwarded-For: 10.1.2.3\r\n";
    cases.extend([
        case("networks: a HEAD", by(READER, "HEAD /api/v2/items/5", claim), WRONG),
        case("networks: an encoded path", by(READER, "GET /api/v2/%69tems/%35", claim), WRONG),
        case("networks: a trailing slash", by(READER, "GET /api/v2/items/5/", claim), WRONG),
        case("networks: a query", by(READER, "GET /api/v2/items/5?from=10.1.2.3", claim), WRONG),
        case(
            "networks: an absolute target",
            by(READER, "GET http://stockaj.example/api/v2/items/5", claim),
            WRONG,
        ),
        case("networks: every ability", by(USER, ITEM, claim), WRONG),
        case("networks: a missing ability", by(READER, "PUT /api/v2/items/5", claim), WRONG),
        case("networks: no token", bare(ITEM, claim), Refused(401)),
        case("networks: an unknown token", by(UNKNOWN, ITEM, claim), Refused(401)),
        case("networks: a public route", bare("GET /open/5", claim), WRONG),
        case("networks: a HEAD of a public route", bare("HEAD /open/5", claim), WRONG),
        case("networks: a token on a public route", by(USER, "GET /open/5", claim), WRONG),
        case(
            "networks: an override to a public method",
            by(READER, "POST /api/v2/items/5", "X-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n"),
            WRONG,
        ),
        case(
            "networks: a preflight",
            bare(
                "OPTIONS /api/v2/items/5",
                "Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n",
            ),
            WRONG,
        ),
        case("networks: an OPTIONS", by(READER, "OPTIONS /api/v2/items/5", claim), WRONG),
        case("networks: another route", by(READER, "GET /api/v2/items", ""), Arrives(&["GET /api/v2/items"])),
        case("networks: a token of another network", by(WRITER, "GET /api/v2/items", claim), WRONG),
        case(
            "networks: a HEAD by a token of another network",
            by(WRITER, "HEAD /api/v2/items", claim),
            WRONG,
        ),
        case("networks: a token for nowhere", by(NOBODY, "GET /api/v2/items", claim), WRONG),
    ]);
    for (number, (name, _)) in MALFORMED.into_iter().enumerate() {
        cases.push(case(name, by(&malformed(number), "GET /api/v2/items", ""), Refused(503)));
    }
    cases
}

/// X-Forwarded-For of a trusted proxy, and whether the client is in the route's networks.
const FORWARDED: [(&str, &[&str], bool); 24] = [
    ("networks: forwarded from inside", &["10.1.2.3"], true),
    ("networks: forwarded from outside", &["203.0.113.9"], false),
    ("networks: not forwarded", &[], false),
    ("networks: an empty list", &[""], false),
    ("networks: a forged address before the client's", &["10.1.2.3, 203.0.113.9"], false),
    ("networks: a forged line before the client's", &["10.1.2.3", "203.0.113.9"], false),
    ("networks: an outsider's line before the client's", &["203.0.113.9", "10.1.2.3"], true),
    ("networks: a proxy behind the client", &["203.0.113.9, 127.0.0.9"], false),
    ("networks: a client before a proxy", &["10.1.2.3, 127.0.0.9"], true),
    ("networks: an unknown client", &["10.1.2.3, unknown"], false),
    ("networks: a mapped address", &["::ffff:10.1.2.3"], true),
    ("networks: a mapped address in hexadecimal", &["::ffff:a01:203"], true),
    ("networks: a mapped address from outside", &["::ffff:203.0.113.9"], false),
    ("networks: an address of a mapped network", &["192.0.2.9"], true),
    ("networks: an address outside a mapped network", &["192.0.3.9"], false),
    ("networks: an IPv4-compatible address", &["::10.1.2.3"], false),
    ("networks: an address of NAT64", &["64:ff9b::10.1.2.3"], false),
    ("networks: an IPv6 address with a port", &["[2001:db8::7]:443"], true),
    ("networks: an IPv6 address from outside", &["2001:db9::7"], false),
    ("networks: a zone", &["2001:db8::7%eth0"], false),
    ("networks: an octal client", &["010.1.2.3"], false),
    ("networks: a short client", &["10.1"], false),
    ("networks: a number as the client", &["167838211"], false),
    ("networks: a hexadecimal client", &["0x0a.1.2.3"], false),
];

/// Through a trusted proxy.
pub(super) fn trusted() -> Vec<Case> {
    let lines = |list: &[&str]| -> String {
        list.iter().map(|addresses| format!("X-Forwarded-For: {addresses}\r\n")).collect()
    };
    let forwarded = |(name, list, is_inside): (&'static str, &[&str], bool)| {
        case(name, by(READER, ITEM, &lines(list)), if is_inside { ARRIVES } else { WRONG })
    };
    let mut cases: Vec<Case> = FORWARDED.into_iter().map(forwarded).collect();
    let (inside, outside) = (lines(&["10.1.2.3"]), lines(&["2001:db8::7"]));
    cases.extend([
        case("networks: both include the client", by(WRITER, ITEM, &inside), ARRIVES),
        case("networks: only the route's include the client", by(WRITER, ITEM, &outside), WRONG),
        case(
            "networks: only the token's are asked for",
            by(WRITER, "GET /api/v2/items", &inside),
            Arrives(&["GET /api/v2/items"]),
        ),
        case(
            "networks: the token's do not include the client",
            by(WRITER, "GET /api/v2/items", &outside),
            WRONG,
        ),
        case("networks: nowhere", by(NOBODY, "GET /api/v2/items", &inside), WRONG),
        case("networks: a public route from inside", bare("GET /open/5", &inside), Arrives(&["GET /open/5"])),
        case("networks: a public route from outside", bare("GET /open/5", &outside), WRONG),
        case(
            "networks: a preflight from inside",
            bare(
                "OPTIONS /api/v2/items/5",
                &format!("Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n{inside}"),
            ),
            Arrives(&["OPTIONS /api/v2/items/5"]),
        ),
        case(
            "networks: a preflight from outside",
            bare(
                "OPTIONS /api/v2/items/5",
                &format!(
                    "Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n{}",
                    lines(&["203.0.113.9"])
                ),
            ),
            WRONG,
        ),
    ]);
    cases
}

/// X-Forwarded-For of a trusted proxy in the networks, and whether the client is the proxy. Otherwise it is unknown.
const BEHIND_MEMBER: [(&str, &[&str], bool); 19] = [
    ("networks: no field of a proxy inside", &[], true),
    ("networks: an empty field of a proxy inside", &[""], true),
    ("networks: an empty list of a proxy inside", &[" , ,"], true),
    ("networks: a proxy inside", &["127.0.0.9"], true),
    ("networks: unknown behind a proxy inside", &["unknown"], false),
    ("networks: unknown behind two proxies inside", &["unknown, 127.0.0.9"], false),
    ("networks: an address of the proxy before unknown", &["127.0.0.1, unknown"], false),
    ("networks: a line of the proxy before unknown", &["127.0.0.1", "unknown"], false),
    ("networks: hidden behind a proxy inside", &["_hidden"], false),
    ("networks: a Unix socket behind a proxy inside", &["unix:"], false),
    ("networks: a zone behind a proxy inside", &["fe80::1%eth0"], false),
    ("networks: a loopback zone behind a proxy inside", &["::1%lo"], false),
    ("networks: an octal address behind a proxy inside", &["0127.0.0.1"], false),
    ("networks: an octal segment behind a proxy inside", &["010.1.2.3"], false),
    ("networks: a short address behind a proxy inside", &["127.1"], false),
    ("networks: a number behind a proxy inside", &["2130706433"], false),
    ("networks: a hexadecimal address behind a proxy inside", &["0x7f.0.0.1"], false),
    ("networks: a name behind a proxy inside", &["localhost"], false),
    ("networks: a quoted address behind a proxy inside", &["\"127.0.0.1\""], false),
];

/// Through a trusted proxy that the networks include: by a route's, by a token's, and on a public route.
pub(super) fn behind_member() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, list, is_known) in BEHIND_MEMBER {
        let lines: String =
            list.iter().map(|addresses| format!("X-Forwarded-For: {addresses}\r\n")).collect();
        let outcome = |request: &'static [&'static str]| if is_known { Arrives(request) } else { WRONG };
        let named = |kind| &*format!("{name}, {kind}").leak();
        cases.extend([
            case(named("route"), by(READER, ITEM, &lines), outcome(&["GET /api/v2/items/5"])),
            case(
                named("HEAD"),
                by(READER, "HEAD /api/v2/items/5", &lines),
                outcome(&["HEAD /api/v2/items/5"]),
            ),
            case(named("token"), by(WRITER, "GET /api/v2/items", &lines), outcome(&["GET /api/v2/items"])),
            case(named("public route"), bare("GET /open/5", &lines), outcome(&["GET /open/5"])),
            case(
                named("preflight"),
                bare(
                    "OPTIONS /api/v2/items/5",
                    &format!("Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n{lines}"),
                ),
                outcome(&["OPTIONS /api/v2/items/5"]),
            ),
        ]);
    }
    cases
}

/// A target behind a trusted proxy that the networks of the routes and of `WRITER` include.
pub(super) fn target_with_member(mode: &str, yaml: &str) -> TestEnv {
    let rules = RULES.replace("from: [10.0.0.0/8", "from: [127.0.0.0/8, '::1', 10.0.0.0/8");
    let env = start(&format!("mode: {mode}\nlisten:\n  h2c: true\n{TRUSTED}{yaml}{rules}"));
    let writer = Verdict::active(&["items:read", "items:create", "items:update"]);
    env.introspector.set_verdict(WRITER, writer.restricted_to(json!(["127.0.0.0/8", "::1", "10.0.0.0/8"])));
    env
}

/// The start of a connection of a proxy that the networks include, and the client's status.
const PROXY_HEADERS: [(&[u8], u16); 10] = [
    (b"PROXY UNKNOWN\r\n", 403),
    (b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 4711 80\r\n", 403),
    (b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n", 403),
    (b"PROXY TCP4 127.0.0.9 127.0.0.1 4711 80\r\n", 200),
    // PROXY with AF_UNSPEC, also with an address, and datagrams.
    (b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0", 403),
    (b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x12\x34\0\x50", 403),
    (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x12\x34\0\x50", 403),
    (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x09\x7f\0\0\x01\x12\x34\0\x50", 200),
    // LOCAL: the proxy itself.
    (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 200),
    (b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c\x0a\x01\x02\x03\x7f\0\0\x01\x12\x34\0\x50", 200),
];

pub(super) fn cases() -> Vec<Case> {
    untrusted().into_iter().chain(trusted()).chain(behind_member()).collect()
}

pub(super) const TRUSTED: &str = "  trusted_proxies: [127.0.0.0/8]\n";

#[test]
fn attacks_on_networks_fail() {
    target("").run_attacks(&untrusted());
    target(TRUSTED).run_attacks(&trusted());
}

#[test]
fn client_that_its_proxy_does_not_know_is_outside_networks_that_include_the_proxy() {
    let cases = behind_member();
    target_with_member("enforce", "").run_attacks(&cases);
    let made = target_with_member("enforce", "").run_attacks_over_http2(&cases);
    assert_eq!(made, cases.len());
}

#[test]
fn client_that_a_proxy_header_does_not_name_is_outside_networks_that_include_the_proxy() {
    let rules = RULES.replace("from: [10.0.0.0/8", "from: [127.0.0.0/8");
    let env = start(&format!("listen:\n  h2c: true\n  proxy_protocol: true\n{TRUSTED}{rules}"));
    let writer = Verdict::active(&["items:read"]).restricted_to(json!(["127.0.0.0/8"]));
    env.introspector.set_verdict(WRITER, writer);
    // Fields count only if the reported client is a trusted proxy, which none of these requests claims.
    for (header, status) in PROXY_HEADERS {
        for (target, token) in [("/api/v2/items/5", READER), ("/api/v2/items", WRITER), ("/open/5", NOBODY)] {
            let context = format!("{} {target}", header.escape_ascii());
            let mut client = env.gateway.client();
            client.send([header, by(token, &format!("GET {target}"), "").as_bytes()].concat());
            assert_eq!(client.response().status, status, "{context}");
            let mut client = Http2Client::silent(env.gateway.address());
            client.send_bytes(header);
            client.greet(&[]);
            assert_eq!(client.get(target, Some(token)).status, status, "{context} over HTTP/2");
        }
    }
}

#[test]
fn attacks_on_networks_fail_over_http2_as_over_http1() {
    let made = target("").run_attacks_over_http2(&untrusted());
    assert!(made >= 38, "{made}");
    let made = target(TRUSTED).run_attacks_over_http2(&trusted());
    assert!(made >= 33, "{made}");
}

/// Tokens with networks: shadow mode of the map does not lift those.
fn has_networks(case: &Case) -> bool {
    let sends = |token: &str| case.sent.windows(token.len()).any(|bytes| bytes == token.as_bytes());
    sends(WRITER) || sends(NOBODY)
}

#[test]
fn shadow_mode_lifts_the_networks_of_routes_and_not_those_of_tokens() {
    for (env, cases) in [
        (target_in("shadow", ""), untrusted()),
        (target_in("shadow", TRUSTED), trusted()),
        (target_with_member("shadow", ""), behind_member()),
    ] {
        let (of_the_map, rest): (Vec<_>, Vec<_>) =
            cases.into_iter().partition(|case| matches!(case.outcome, Refused(403)) && !has_networks(case));
        assert!(of_the_map.len() >= 15 && rest.len() >= 10, "{} and {}", of_the_map.len(), rest.len());
        env.run_attacks(&rest);
        for case in of_the_map {
            let mut client = env.gateway.client();
            client.send(&case.sent);
            assert_eq!(client.try_response(case.is_head()).unwrap().status, 200, "{}", case.name);
        }
    }
}
