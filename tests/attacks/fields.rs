//! Header fields that are to mean something behind the gateway. What is `evil` must not arrive, whatever it is
//! called; the judge looks for it.

use super::{Arrives, Case, READER, Refused, Scene, WRITER, bare, by, case};

/// Name and lines of a request that is served, and of which no `evil` arrives.
const STRIPPED: [(&str, &str); 54] = [
    // Who forwarded for whom.
    ("X-Forwarded-For", "X-Forwarded-For: evil\r\n"),
    ("X-Forwarded-For twice", "X-Forwarded-For: evil\r\nX-Forwarded-For: evil\r\n"),
    ("X-Forwarded-For in upper case", "X-FORWARDED-FOR: evil\r\n"),
    ("X_Forwarded_For", "X_Forwarded_For: evil\r\n"),
    ("X.Forwarded.For", "X.Forwarded.For: evil\r\n"),
    ("X-Forwarded.For", "X-Forwarded.For: evil\r\n"),
    ("X-Forwarded-Proto", "X-Forwarded-Proto: evil\r\n"),
    ("X-Forwarded-Host", "X-Forwarded-Host: evil.example\r\n"),
    ("X_Forwarded_Host", "X_Forwarded_Host: evil.example\r\n"),
    ("X-Forwarded-Port", "X-Forwarded-Port: evil\r\n"),
    ("X-Forwarded-Prefix", "X-Forwarded-Prefix: /evil\r\n"),
    ("X-Forwarded-Server", "X-Forwarded-Server: evil\r\n"),
    ("X-Forwarded-User", "X-Forwarded-User: evil\r\n"),
    ("X-Forwarded-Uri", "X-Forwarded-Uri: /evil\r\n"),
    ("Forwarded", "Forwarded: for=evil;host=evil.example\r\n"),
    ("X-Real-IP", "X-Real-IP: evil\r\n"),
    ("X-Request-Id", "X-Request-Id: evil\r\n"),
    // Another target than the one that was decided on.
    ("X-Original-URL", "X-Original-URL: /evil\r\n"),
    ("X_Original_URL", "X_Original_URL: /evil\r\n"),
    ("X.Original.URL", "X.Original.URL: /evil\r\n"),
    ("X-Rewrite-URL", "X-Rewrite-URL: /evil\r\n"),
    ("X_Rewrite_URL", "X_Rewrite_URL: /evil\r\n"),
    // Who is asking.
    ("X-Token-Id", "X-Token-Id: evil\r\n"),
    ("X-Token-Id in mixed case", "x-TOKEN-id: evil\r\n"),
    ("X_Token_Id", "X_Token_Id: evil\r\n"),
    ("X-Token_Id", "X-Token_Id: evil\r\n"),
    ("X.Token.Id", "X.Token.Id: evil\r\n"),
    ("X-Token-Name", "X-Token-Name: evil\r\n"),
    ("X-Token-Abilities", "X-Token-Abilities: evil\r\n"),
    ("X.Token-Abilities", "X.Token-Abilities: evil\r\n"),
    ("X-Workspace-Id", "X-Workspace-Id: evil\r\n"),
    ("X_Workspace_Id", "X_Workspace_Id: evil\r\n"),
    ("an underscore in any name", "Any_Name: evil\r\n"),
    // A session beside the token.
    ("Cookie", "Cookie: session=evil\r\n"),
    ("Cookie twice", "Cookie: session=evil\r\nCookie: session=evil\r\n"),
    (
        "Cookie with the origin of a stateful host",
        "Cookie: session=evil\r\nOrigin: http://stockaj.example\r\nReferer: http://stockaj.example/\r\n",
    ),
    ("Cookie named away", "Connection: Cookie\r\nCookie: session=evil\r\n"),
    // What concerns one connection.
    ("Proxy", "Proxy: http://evil.example\r\n"),
    ("Proxy-Authorization", "Proxy-Authorization: Basic evil\r\n"),
    ("Proxy-Connection", "Proxy-Connection: evil\r\n"),
    ("Keep-Alive", "Keep-Alive: evil\r\n"),
    ("Upgrade", "Connection: Upgrade\r\nUpgrade: evil\r\n"),
    ("h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: evil\r\n"),
    ("TE", "TE: evil, trailers;q=0.1\r\n"),
    ("X-Original-Method", "X-Original-Method: evil\r\n"),
    ("X-Host", "X-Host: evil.example\r\n"),
    ("X-Sendfile-Type", "X-Sendfile-Type: evil\r\nX-Accel-Mapping: /=/evil\r\n"),
    ("PHP_AUTH_USER", "PHP-Auth-User: evil\r\nPHP_AUTH_PW: evil\r\n"),
    ("Client-IP", "Client-IP: evil\r\nTrue-Client-IP: evil\r\nX-Client-IP: evil\r\n"),
    ("Remote-User", "Remote-User: evil\r\nX-Remote-User: evil\r\n"),
    ("X~Forwarded~For", "X~Forwarded~For: evil\r\n"),
    ("a field that Connection names", "Connection: X-Hop\r\nX-Hop: evil\r\n"),
    (
        "fields that several Connection lines name",
        "Connection: close, X-A\r\nConnection: X-B\r\nX-A: evil\r\nX-B: evil\r\n",
    ),
    ("a field that Connection names in other letters", "Connection: x-HOP\r\nX-Hop: evil\r\n"),
];

/// Name and lines of a request that is served as if it had not named anything away.
const KEPT: [(&str, &str); 10] = [
    ("Authorization named away", "Connection: Authorization\r\n"),
    ("Host named away", "Connection: Host\r\n"),
    ("X-Forwarded-For named away", "Connection: X-Forwarded-For\r\n"),
    ("X-Forwarded-Host and -Proto named away", "Connection: X-Forwarded-Host, X-Forwarded-Proto\r\n"),
    ("the request's id named away", "Connection: X-Request-Id\r\n"),
    ("Via named away", "Connection: Via\r\n"),
    (
        "all named away in one line",
        "Connection: close, Authorization, Host, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto\r\n",
    ),
    ("Connection named away", "Connection: Connection\r\n"),
    ("options that are no names", "Connection: ,, ;;, \"x\", (\r\n"),
    ("an empty Connection", "Connection:\r\n"),
];

const ITEMS: &[&str] = &["GET /api/v2/items"];

pub(super) fn cases() -> Vec<Case> {
    let get = |(name, lines): (&'static str, &str)| {
        case(name, by(READER, "GET /api/v2/items", lines), Arrives(ITEMS))
    };
    let mut cases: Vec<Case> = STRIPPED.into_iter().chain(KEPT).map(get).collect();
    let post = "POST /api/v2/items";
    cases.extend([
        case("Content-Length named away", by(WRITER, post, "Connection: Content-Length\r\nContent-Length: 4\r\n") + "evil", Arrives(&["POST /api/v2/items"])),
        case("Transfer-Encoding named away", by(WRITER, post, "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n") + "4\r\nbody\r\n0\r\n\r\n", Arrives(&["POST /api/v2/items"])),
        case("Content_Length", by(WRITER, post, "Content_Length: 9\r\nContent-Length: 4\r\n") + "body", Arrives(&["POST /api/v2/items"])),
        case("Transfer_Encoding", by(WRITER, post, "Transfer_Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r", Arrives(&["POST /api/v2/items"])),
        case("Transfer.Encoding", by(WRITER, post, "Transfer.Encoding: evil\r\nContent-Length: 4\r\n") + "body", Arrives(&["POST /api/v2/items"])),
        case("Expect", by(READER, "GET /api/v2/items", "Expect: evil\r\n"), Refused(400)),
        case("Expect twice", by(WRITER, post, "Expect: 100-continue\r\nExpect: evil\r\nContent-Length: 4\r\n") + "body", Refused(400)),
        case("identity on a public route", bare("GET /up", "X-Token-Id: evil\r\nX.Token.Abilities: evil\r\nX_Workspace_Id: evil\r\n"), Arrives(&["GET /up"])),
        case("forwarding on a public route", bare("GET /up", "X-Forwarded-For: evil\r\nForwarded: evil\r\nX-Original-URL: /evil\r\n"), Arrives(&["GET /up"])),
        case("two Hosts", "GET /api/v2/items HTTP/1.1\r\nHost: stockaj.example\r\nHost: evil.example\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("two equal Hosts", "GET /api/v2/items HTTP/1.1\r\nHost: a\r\nHost: a\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("no Host", "GET /api/v2/items HTTP/1.1\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("empty Host", "GET /api/v2/items HTTP/1.1\r\nHost:\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("Host with a user", "GET /api/v2/items HTTP/1.1\r\nHost: user@evil.example\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("Host with a path", "GET /api/v2/items HTTP/1.1\r\nHost: evil.example/x\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("Host with a list", "GET /api/v2/items HTTP/1.1\r\nHost: a, evil.example\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("Host with a port that is none", "GET /api/v2/items HTTP/1.1\r\nHost: a:65536\r\nAuthorization: Bearer 1|Secret0Reader\r\n\r\n", Refused(400)),
        case("no Host on a public route", "GET /up HTTP/1.1\r\n\r\n", Refused(400)),
        case("two Hosts of HTTP/1.0", "GET /up HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400)),
    ]);
    cases
}

#[test]
fn fields() {
    Scene::new("").suffers(&cases());
}

/// Who forwards may say for whom, and nothing else.
#[test]
fn fields_of_a_trusted_proxy() {
    let forwarding = ["X-Forwarded", "Forwarded", "X-Real-IP", "X-Request-Id", "Client-IP", "Remote-User"];
    let said = |name: &str| {
        forwarding.iter().any(|it| name.starts_with(it))
            && !name.ends_with("-Prefix")
            && !name.ends_with("-Uri")
    };
    let get = |(name, lines): (&'static str, &str)| {
        case(name, by(READER, "GET /api/v2/items", lines), Arrives(ITEMS))
    };
    let cases: Vec<Case> = STRIPPED.into_iter().filter(|(name, _)| !said(name)).map(get).collect();
    assert!(cases.len() > STRIPPED.len() / 2, "{}", cases.len());
    Scene::new("listen:\n  trusted_proxies: [127.0.0.0/8]\n").suffers(&cases);
}
