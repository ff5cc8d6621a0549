//! What the backend receives, and what refused clients receive.

use super::{FORBIDDEN, ITEMS, READER, start};
use crate::support::proxies::{CLIENT, Kind, Protocol, Proxied};
use crate::support::{Response, TestEnv, Verdict};

const TOKEN: (&str, &str) = ("Authorization", "Bearer 2|reader");
pub(super) const QUERY: &str = "abilities:
  routes:
    /up: {GET: public}
    /api/v2/items: {GET: items:read, query: {include: {values: {renters: renters:read}, others: deny}}}
";

/// What a hostile client sends beside its token.
const HOSTILE: [(&str, &str); 18] = [
    ("Cookie", "laravel_session=evil"),
    ("Remote-User", "evil"),
    ("X-User-Id", "evil"),
    ("X-Token-Id", "evil"),
    ("X-Token-Name", "evil"),
    ("X-Workspace-Id", "evil"),
    ("X-HTTP-Method", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("Proxy", "evil"),
    ("Forwarded", "for=evil"),
    ("X-Forwarded-For", "192.0.2.66"),
    ("X-Forwarded-Host", "evil"),
    ("X-Forwarded-User", "evil"),
    ("X-Original-URL", "/evil"),
    ("X-Rewrite-URL", "/evil"),
    ("X-Request-Id", "evil"),
    ("PHP-Auth-User", "evil"),
    ("Tailscale-User-Login", "evil"),
];

/// The backend receives the fields of the decision, and none that a client must not choose.
pub(super) fn assert_fields(kind: Kind, protocol: Protocol) {
    let yaml = format!("{}identity_headers: [id, abilities]\n", kind.decision());
    let verdict = Verdict::active(&["items:read", "items:create"]).named("17", "scanner");
    let proxied = Proxied::start_for(
        kind,
        protocol,
        TestEnv::builder().verdict("3|creator", verdict).yaml(&yaml).start(),
    );
    let authorization = ("Authorization", "bearer   3|creator");
    let kept = [authorization, ("Accept", "text/plain"), ("Content-Type", "application/json")];
    let sent = [&kept[..], &HOSTILE].concat();
    let response = proxied.ask("POST", "/api/v2/items?a=%2F..&b=c+d", &sent, b"{\"a\":1}");
    assert_eq!(response.status, 200, "{kind:?}: {}", response.text());
    let arrived = proxied.env.backend.take_requests();
    let [request] = &arrived[..] else { panic!("{arrived:?}") };
    assert_eq!((&*request.method, &*request.target), ("POST", "/api/v2/items?a=%2F..&b=c+d"));
    assert_eq!(request.text(), "{\"a\":1}");
    for (name, value) in [
        ("authorization", "Bearer 3|creator"),
        ("x-http-method-override", "POST"),
        ("x-token-id", "17"),
        ("x-token-abilities", "items:create items:read"),
        ("accept", "text/plain"),
        ("content-type", "application/json"),
        ("host", "stockaj.example"),
        ("x-forwarded-host", "stockaj.example"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(request.field(name), Some(value), "{kind:?}: {name}");
    }
    assert_eq!(request.field("x-forwarded-for"), Some(CLIENT), "{kind:?}");
    let head = String::from_utf8_lossy(&request.raw_head).to_lowercase();
    for foreign in ["evil", "delete", "cookie", "192.0.2.66"] {
        assert!(!head.contains(foreign), "{kind:?}: {foreign} in {head}");
    }
    // Without an override in the answer, the client's own is removed.
    proxied.ask("GET", ITEMS, &[authorization, ("X-HTTP-Method-Override", "DELETE")], b"");
    for request in proxied.env.backend.take_requests() {
        assert_eq!(request.field("x-http-method-override"), None, "{kind:?}");
    }
}

/// Fields that have a meaning in Laravel, and name no user.
pub(super) fn assert_ordinary_fields(kind: Kind) {
    const ORDINARY: [(&str, &str); 17] = [
        ("Accept", "text/plain"),
        ("Accept-Encoding", "br"),
        ("Accept-Language", "de"),
        ("Content-Encoding", "gzip"),
        ("Content-Type", "text/csv"),
        ("Idempotency-Key", "i"),
        ("If-Match", "\"a\""),
        ("If-Modified-Since", "Mon, 30 Nov 2026 00:00:00 GMT"),
        ("If-None-Match", "\"b\""),
        ("If-Range", "\"c\""),
        ("If-Unmodified-Since", "Mon, 30 Nov 2026 00:00:00 GMT"),
        ("Origin", "https://shop.example"),
        ("Range", "bytes=0-1"),
        ("Referer", "https://shop.example/"),
        ("User-Agent", "u"),
        ("X-Requested-With", "XMLHttpRequest"),
        ("X-HTTP-Method-Override", "POST"),
    ];
    let yaml = kind.decision();
    let creator = TestEnv::builder().token("3|creator", &["items:create"]);
    let proxied = Proxied::start(kind, creator.yaml(&yaml).start());
    let sent = [&[("Authorization", "Bearer 3|creator")], &ORDINARY[..]].concat();
    assert_eq!(proxied.ask("POST", ITEMS, &sent, b"a").status, 200, "{kind:?}");
    let arrived = proxied.env.backend.take_requests();
    let [request] = &arrived[..] else { panic!("{kind:?}: {arrived:?}") };
    for (name, value) in ORDINARY {
        assert_eq!(request.field(name), Some(value), "{kind:?} {name}");
    }
}

/// Credentials of public routes arrive as sent.
pub(super) fn assert_public(kind: Kind, protocol: Protocol) {
    let proxied = start(kind, protocol, "");
    // Caddy has placeholders in braces.
    let sent = [("Authorization", "Basic {env.HOME}"), ("Cookie", "a=b; c={env.HOME}")];
    assert_eq!(proxied.ask("GET", "/up", &sent, b"").status, 200);
    let arrived = proxied.env.backend.take_requests();
    let [request] = &arrived[..] else { panic!("{arrived:?}") };
    let seen = [request.field("authorization"), request.field("cookie")];
    assert_eq!(seen, [Some("Basic {env.HOME}"), Some("a=b; c={env.HOME}")], "{kind:?}");
}

/// Targets arrive as described, and those that are not canonical do not arrive.
pub(super) fn assert_targets(kind: Kind, protocol: Protocol) {
    let proxied = start(kind, protocol, "");
    for target in [
        "/api/v2/items/%C3%A9",
        "/api/v2/items/a%20b",
        "/api/v2/items?",
        "/api/v2/items?a=%2F/../b&c[]=%41&d=a;b//",
        "/api/v2/items??a",
    ] {
        let response = proxied.ask("GET", target, &[TOKEN], b"");
        assert_eq!(response.status, 200, "{kind:?} {target}");
        let arrived = proxied.env.backend.take_requests();
        // As the file configures Traefik, which would otherwise forward `&`.
        let expected = if kind == Kind::Traefik { target.replace(';', "%3B") } else { target.to_owned() };
        assert_eq!(arrived.iter().map(|it| &*it.target).collect::<Vec<_>>(), [expected], "{kind:?}");
    }
    for target in [
        "/api/v2/items/",
        "/api/v2/%69tems",
        "/api/v2/items/%c3%a9",
        "/api/v2/items/%7ea",
        "/api//v2/items",
        "//api/v2/items",
        "/api/v2/./items",
        "/api/v2/x/../items",
        "/api/v2/x/%2e%2e/items",
        "/api/v2/items%2F5",
        "/api/v2/items%5C5",
        "/api/v2/items;x",
        "/api/v2/items#x",
        "/index.php/api/v2/items",
    ] {
        let response = proxied.ask("GET", target, &[TOKEN], b"");
        let arrived = proxied.env.backend.take_requests();
        match (kind, &arrived[..]) {
            (_, []) => assert!([400, 403].contains(&response.status), "{kind:?} {target}: {response:?}"),
            // Decodes letters, and writes hexadecimal digits in upper case, before it describes the request.
            (Kind::Traefik, [request]) if ["%69", "%7e", "%c3"].iter().any(|it| target.contains(it)) => {
                assert_eq!(proxied.env.status(&request.target, READER), 200, "{target}");
                let canonical = proxied.env.backend.take_requests().remove(0).target;
                assert_eq!(request.target, canonical, "{target}");
            }
            other => panic!("{target}: {other:?}"),
        }
    }
}

/// Names that PHP reads as those of other fields do not arrive.
pub(super) fn assert_spellings(kind: Kind, protocol: Protocol) {
    let proxied = start(kind, protocol, "");
    for name in
        ["X_Token_Id", "X.Token.Id", "X~Token~Id", "X_HTTP_Method_Override", "Remote.User", "Any_Name"]
    {
        let response = proxied.ask("GET", ITEMS, &[TOKEN, (name, "evil")], b"");
        assert!([200, 400].contains(&response.status), "{kind:?} {name}: {response:?}");
        for request in proxied.env.backend.take_requests() {
            assert!(!request.raw_head.windows(4).any(|it| it == b"evil"), "{kind:?} {name}");
        }
    }
}

/// Laravel reads the body of a GET before its query.
pub(super) fn assert_bodies_of_get(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, QUERY);
    let json = [TOKEN, ("Content-Type", "application/json")];
    let chunked = [&json[..], &[("Transfer-Encoding", "chunked")]].concat();
    assert_eq!(proxied.ask("GET", ITEMS, &[TOKEN], b"").status, 200);
    assert_eq!(proxied.ask("GET", &format!("{ITEMS}?include=renters"), &[TOKEN], b"").status, 403);
    proxied.env.backend.take_requests();
    for method in ["GET", "HEAD"] {
        let body = br#"{"include":"renters"}"#;
        let status = proxied.ask(method, ITEMS, &json, body).status;
        assert!([400, 401, 413].contains(&status), "{kind:?} {method}: {status}");
        let mut client = proxied.client();
        client.send(request_in_chunks(method, &chunked, body));
        let status = client.try_response(method == "HEAD").unwrap().status;
        assert!([400, 401, 413].contains(&status), "{kind:?} {method} in chunks: {status}");
        proxied.assert_nothing_arrived(method);
    }
}

fn request_in_chunks(method: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {ITEMS} HTTP/1.1\r\nHost: stockaj.example\r\n");
    for (name, value) in fields {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("\r\n{:x}\r\n{}\r\n0\r\n\r\n", body.len(), std::str::from_utf8(body).unwrap());
    request.into_bytes()
}

fn assert_refusal(response: &Response, status: u16, message: &str, context: &str) {
    let body = format!(r#"{{"message":"{message}"}}"#);
    assert_eq!((response.status, response.text()), (status, &*body), "{context}");
    assert_eq!(response.field("content-type"), Some("application/json"), "{context}");
    assert_eq!(response.field("cache-control"), Some("no-store"), "{context}");
    assert!(response.field("x-request-id").is_some(), "{context}: {response:?}");
}

/// Refused clients get the gateway's status, body and fields.
pub(super) fn assert_refusals(kind: Kind, protocol: Protocol) {
    let limit = "rate_limit: {requests_per_second: 1, burst: 1}\n";
    let proxied = start(kind, protocol, limit);
    let realm = r#"Bearer realm="stockaj""#;
    for (fields, challenge) in [
        (&[][..], realm.to_owned()),
        (&[("Authorization", "Bearer 9|unknown")][..], format!(r#"{realm}, error="invalid_token""#)),
    ] {
        let response = proxied.ask("GET", ITEMS, fields, b"");
        assert_refusal(&response, 401, "Unauthenticated.", &format!("{kind:?} {fields:?}"));
        assert_eq!(response.field("www-authenticate"), Some(&*challenge), "{kind:?}");
    }
    let response = proxied.ask("GET", "/api/v2/items/", &[TOKEN], b"");
    assert_refusal(&response, 400, "Bad Request.", &format!("{kind:?}"));
    proxied.assert_nothing_arrived("401 and 400");
    assert_eq!(proxied.status(READER), 200);
    let response = proxied.ask("GET", ITEMS, &[TOKEN], b"");
    assert_refusal(&response, 429, "Too Many Attempts.", &format!("{kind:?}"));
    for (name, value) in [("retry-after", "1"), ("x-ratelimit-limit", "1"), ("x-ratelimit-remaining", "0")] {
        assert_eq!(response.field(name), Some(value), "{kind:?}: {name}");
    }
    assert_eq!(proxied.env.backend.take_requests().len(), 1);
    let proxied = start(kind, protocol, "");
    let response = proxied.ask("DELETE", "/api/v2/items/5", &[TOKEN], b"");
    assert_eq!(response.text(), FORBIDDEN);
    assert_refusal(&response, 403, "This action is unauthorized.", &format!("{kind:?}"));
    let challenge = format!(r#"{realm}, error="insufficient_scope", scope="items:delete""#);
    assert_eq!(response.field("www-authenticate"), Some(&*challenge), "{kind:?}");
    proxied.assert_nothing_arrived("403");
}

/// Connection names fields for one hop only. A proxy that removes those of the decision for it would forward a POST that a
/// form can turn into another method.
pub(super) fn assert_connection_options(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let names = "Authorization, Cookie, X-HTTP-Method-Override, X-Token-Id, X-Forwarded-Uri, X-Original-URI";
    let sent = [("Authorization", "Bearer 1|writer"), ("Connection", names)];
    let form = [&sent[..], &[("Content-Type", "application/x-www-form-urlencoded")]].concat();
    let response = proxied.ask("POST", ITEMS, &form, b"_method=DELETE");
    assert!([200, 400, 401].contains(&response.status), "{kind:?}: {response:?}");
    for request in proxied.env.backend.take_requests() {
        let seen = (request.bearer(), request.field("x-http-method-override"));
        assert_eq!(seen, (Some("1|writer"), Some("POST")), "{kind:?}");
    }
}

/// Fields of one connection, which concern only the proxy.
pub(super) fn assert_fields_of_a_connection(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    for name in ["HTTP2-Settings", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Upgrade"] {
        proxied.try_ask("GET", ITEMS, &[TOKEN, (name, "evil")], b"");
        for request in proxied.env.backend.take_requests() {
            assert!(!request.raw_head.windows(4).any(|it| it == b"evil"), "{kind:?} {name}");
        }
    }
}

/// A connection that the backend upgrades would outlive its token.
pub(super) fn assert_upgrades(kind: Kind) {
    let proxied = start(kind, Protocol::Http1, "");
    let handshake = [
        TOKEN,
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let response = proxied.ask("GET", ITEMS, &handshake, b"");
    assert!([200, 400, 403].contains(&response.status), "{kind:?}: {response:?}");
    for request in proxied.env.backend.take_requests() {
        assert_eq!(request.field("upgrade"), None, "{kind:?}");
    }
}
