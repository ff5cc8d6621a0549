//! Header fields with a meaning behind the gateway. A value `evil` must not arrive under any name; the judge searches
//! for it.

use super::{Arrives, Case, READER, Refused, WRITER, bare, by, case, start};

/// Name and lines of a request that is served, and of which no `evil` arrives.
const STRIPPED: [(&str, &str); 67] = [
    // Forwarding fields.
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
    // Fields that replace the authorised target.
    ("X-Original-URL", "X-Original-URL: /evil\r\n"),
    ("X_Original_URL", "X_Original_URL: /evil\r\n"),
    ("X.Original.URL", "X.Original.URL: /evil\r\n"),
    ("X-Rewrite-URL", "X-Rewrite-URL: /evil\r\n"),
    ("X_Rewrite_URL", "X_Rewrite_URL: /evil\r\n"),
    // Fields about the client's identity.
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
    // A session in addition to the token.
    ("Cookie", "Cookie: session=evil\r\n"),
    ("Cookie twice", "Cookie: session=evil\r\nCookie: session=evil\r\n"),
    (
        "Cookie with the origin of a stateful host",
        "Cookie: session=evil\r\nOrigin: http://stockaj.example\r\nReferer: http://stockaj.example/\r\n",
    ),
    ("Cookie named away", "Connection: Cookie\r\nCookie: session=evil\r\n"),
    // Hop-by-hop fields.
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
    (
        "identity of a client certificate",
        "X-SSL-Client-Verify: evil\r\nSSL-Client-Cert: evil\r\nClient-Cert: evil\r\nX-Client-DN: evil\r\n\
         X-ARR-ClientCert: evil\r\nX-Forwarded-Client-Cert: evil\r\nX-Forwarded-Tls-Client-Cert: evil\r\n\
         X-Amzn-Mtls-Clientcert: evil\r\n",
    ),
    (
        "identity of an authenticating proxy",
        "X-Auth-Request-User: evil\r\nX-Auth-Request-Email: evil\r\nRemote-Groups: evil\r\n\
         X-authentik-username: evil\r\nX-Pomerium-Claim-Email: evil\r\nX-WEBAUTH-USER: evil\r\n\
         Tailscale-User-Login: evil\r\nX-Vouch-User: evil\r\n",
    ),
    (
        "identity of a cloud",
        "X-Goog-Authenticated-User-Email: evil\r\nX-Goog-IAP-JWT-Assertion: evil\r\nX-Amzn-Oidc-Data: evil\r\n\
         X-MS-CLIENT-PRINCIPAL: evil\r\nX-MS-TOKEN-AAD-ID-TOKEN: evil\r\nCf-Access-Jwt-Assertion: evil\r\n\
         X-Appengine-User-Email: evil\r\n",
    ),
    (
        "identity of an API gateway or a mesh",
        "X-Consumer-Username: evil\r\nX-Credential-Identifier: evil\r\nX-Authenticated-Userid: evil\r\n\
         X-Userinfo: evil\r\nX-JWT-Assertion: evil\r\nX-Envoy-External-Address: evil\r\nl5d-client-id: evil\r\n",
    ),
    (
        "identity of single sign-on",
        "OIDC_CLAIM_email: evil\r\nOIDC-Claim-Sub: evil\r\nShib-Session-Id: evil\r\neppn: evil\r\n\
         MELLON_NAME_ID: evil\r\nSM_USER: evil\r\niv-user: evil\r\nImpersonate-User: evil\r\n",
    ),
    (
        "identity under common names",
        "X-User: evil\r\nX.User: evil\r\nX_User: evil\r\nX-User-Id: evil\r\nX-Email: evil\r\nX-Roles: evil\r\n\
         Auth-User: evil\r\nX-Principal: evil\r\n",
    ),
    (
        "addresses of a delivery network",
        "CF-Connecting-IP: evil\r\nFastly-Client-IP: evil\r\nFly-Client-IP: evil\r\nX-Azure-ClientIP: evil\r\n\
         X-Cluster-Client-IP: evil\r\nX-ProxyUser-Ip: evil\r\nWL-Proxy-Client-IP: evil\r\n",
    ),
    ("an identity field that Connection names", "Connection: Remote-User\r\nRemote-User: evil\r\n"),
    (
        "identity folded by the backend",
        "Remote.User: evil\r\nX.Auth.Request.User: evil\r\nTailscale+User+Login: evil\r\n",
    ),
    ("a field that Connection names", "Connection: X-Hop\r\nX-Hop: evil\r\n"),
    (
        "fields that several Connection lines name",
        "Connection: close, X-A\r\nConnection: X-B\r\nX-A: evil\r\nX-B: evil\r\n",
    ),
    ("a field that Connection names in other letters", "Connection: x-HOP\r\nX-Hop: evil\r\n"),
    // Other spellings of singleton fields: a second line to a backend that folds names.
    ("Content.Type", "Content.Type: evil\r\nContent-Type: text/plain\r\n"),
    ("User.Agent", "User.Agent: evil\r\nUser-Agent: a\r\n"),
    ("If~Unmodified~Since", "If~Unmodified~Since: evil\r\n"),
    ("X_CSRF_TOKEN and X.CSRF.TOKEN", "X_CSRF_TOKEN: evil\r\nX.CSRF.TOKEN: evil\r\nX-CSRF-TOKEN: a\r\n"),
];

/// Name and lines of a request with two lines of a singleton field.
const REPEATED: [(&str, &str); 23] = [
    ("two Content-Types", "Content-Type: application/json\r\nContent-Type: text/plain\r\n"),
    ("two equal Content-Types", "Content-Type: application/json\r\nContent-Type: application/json\r\n"),
    ("two Content-Types in other letters", "content-type: a/b\r\nX-Own: 1\r\nCONTENT-TYPE: a/b\r\n"),
    ("three Content-Types, one of them empty", "Content-Type: a/b\r\nContent-Type:\r\nContent-Type: a/b\r\n"),
    ("two Content-Encodings", "Content-Encoding: gzip\r\nContent-Encoding: identity\r\n"),
    ("two Content-Locations", "Content-Location: /a\r\nContent-Location: /b\r\n"),
    ("two Content-Ranges", "Content-Range: bytes 0-1/2\r\nContent-Range: bytes 1-2/3\r\n"),
    ("two Content-Dispositions", "Content-Disposition: inline\r\nContent-Disposition: attachment\r\n"),
    ("two Ranges", "Range: bytes=0-1\r\nRange: bytes=2-3\r\n"),
    ("two If-Ranges", "If-Range: \"a\"\r\nIf-Range: \"b\"\r\n"),
    (
        "two If-Modified-Sinces",
        "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\nIf-Modified-Since: x\r\n",
    ),
    (
        "two If-Unmodified-Sinces",
        "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\nIf-Unmodified-Since: x\r\n",
    ),
    ("two Dates", "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nDate: x\r\n"),
    ("two Max-Forwards", "Max-Forwards: 0\r\nMax-Forwards: 1\r\n"),
    ("two Origins", "Origin: https://a.example\r\nOrigin: https://b.example\r\n"),
    ("two Referers", "Referer: https://a.example/\r\nReferer: https://b.example/\r\n"),
    ("two User-Agents", "User-Agent: a\r\nUser-Agent: a\r\n"),
    ("two Froms", "From: a@a.example\r\nFrom: b@b.example\r\n"),
    ("two X-Requested-Withs", "X-Requested-With: XMLHttpRequest\r\nX-Requested-With: fetch\r\n"),
    ("two X-XSRF-TOKENs", "X-XSRF-TOKEN: a\r\nX-XSRF-TOKEN: b\r\n"),
    ("two Idempotency-Keys", "Idempotency-Key: \"a\"\r\nIdempotency-Key: \"b\"\r\n"),
    ("two Sec-Fetch-Sites", "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n"),
    ("two Last-Event-IDs", "Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n"),
];

/// Name and lines of a request whose `Connection` names an end-to-end field, which is kept.
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
    cases.extend(
        REPEATED
            .into_iter()
            .map(|(name, lines)| case(name, by(READER, "GET /api/v2/items", lines), Refused(400))),
    );
    let twice = "Content-Type: a/b\r\nContent-Type: a/b\r\n";
    let post = "POST /api/v2/items";
    cases.extend([
        case("two Content-Types on a public route", bare("GET /up", twice), Refused(400)),
        case("two Content-Types without a token", bare("GET /api/v2/items", twice), Refused(400)),
        case("two Content-Types on a path that is not mapped", by(READER, "GET /api/v3/items", twice), Refused(400)),
        case("two Content-Types with a body", by(WRITER, post, &format!("{twice}Content-Length: 4\r\n")) + "evil", Refused(400)),
        case(
            "two Content-Types of a preflight",
            bare("OPTIONS /api/v2/items", &format!("Origin: https://a\r\nAccess-Control-Request-Method: GET\r\n{twice}")),
            Refused(400),
        ),
        case("lists of several lines", by(READER, "GET /api/v2/items", "Accept: a/b\r\nAccept: c/d\r\nCache-Control: no-cache\r\nCache-Control: no-store\r\nAccept-Language: de\r\nAccept-Language: en\r\nIf-None-Match: \"a\"\r\nIf-None-Match: \"b\"\r\n"), Arrives(ITEMS)),
        case("Content-Length named away", by(WRITER, post, "Connection: Content-Length\r\nContent-Length: 4\r\n") + "evil", Arrives(&["POST /api/v2/items"])),
        case("Transfer-Encoding named away", by(WRITER, post, "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n") + "4\r\nbody\r\n0\r\n\r\n", Arrives(&["POST /api/v2/items"])),
        case("Content_Length", by(WRITER, post, "Content_Length: 9\r\nContent-Length: 4\r\n") + "body", Arrives(&["POST /api/v2/items"])),
        case("Transfer_Encoding", by(WRITER, post, "Transfer_Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r", Arrives(&["POST /api/v2/items"])),
        case("Transfer.Encoding", by(WRITER, post, "Transfer.Encoding: evil\r\nContent-Length: 4\r\n") + "body", Arrives(&["POST /api/v2/items"])),
        case("Expect", by(READER, "GET /api/v2/items", "Expect: evil\r\n"), Refused(400)),
        case("Expect twice", by(WRITER, post, "Expect: 100-continue\r\nExpect: evil\r\nContent-Length: 4\r\n") + "body", Refused(400)),
        case("identity on a public route", bare("GET /up", "X-Token-Id: evil\r\nX.Token.Abilities: evil\r\nX_Workspace_Id: evil\r\n"), Arrives(&["GET /up"])),
        case("forwarding on a public route", bare("GET /up", "X-Forwarded-For: evil\r\nForwarded: evil\r\nX-Original-URL: /evil\r\n"), Arrives(&["GET /up"])),
        case("more options in Connection than fields", by(READER, "GET /api/v2/items", &format!("Connection: {}\r\n", ["x"; 7500].join(","))), Refused(400)),
        case("more options in Connections than fields", by(READER, "GET /api/v2/items", &format!("Connection: {0}\r\nConnection: {0}\r\n", ["x"; 51].join(","))), Refused(400)),
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
fn attacks_by_header_fields_fail() {
    start("").run_attacks(&cases());
}

/// A trusted proxy may set the forwarding fields, but no other identity field.
#[test]
fn attacks_by_fields_through_a_trusted_proxy_fail() {
    let forwarding = ["X-Forwarded", "X-FORWARDED", "Forwarded", "X-Real-IP", "X-Request-Id"];
    let said = |name: &str| {
        forwarding.iter().any(|it| name.starts_with(it))
            && !["-Prefix", "-Uri", "-User"].iter().any(|it| name.ends_with(it))
    };
    let get = |(name, lines): (&'static str, &str)| {
        case(name, by(READER, "GET /api/v2/items", lines), Arrives(ITEMS))
    };
    let mut cases: Vec<Case> = STRIPPED.into_iter().filter(|(name, _)| !said(name)).map(get).collect();
    cases.push(get((
        "a folded name in front of a listed one",
        "X.Our.Own: evil\r\nX_Our_Own: evil\r\nX-Our-Own: good\r\n",
    )));
    assert!(cases.len() > STRIPPED.len() / 2, "{}", cases.len());
    let listed = "listen:\n  trusted_proxies: [127.0.0.0/8]\n  trusted_fields: [X-Our-Own]\n";
    start(listed).run_attacks(&cases);
}
