//! Forwarded requests and returned responses, byte by byte.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, Fields, RawClient, TestEnv, WRITER};

const ITEMS: &str = "/api/v2/items";

/// Fields as `name: value`, names in lower case, sorted.
fn sorted(fields: &Fields) -> Vec<String> {
    let mut lines: Vec<_> =
        fields.0.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
    lines.sort();
    lines
}

/// The same without the request id, which has to be one of the gateway's: 32 hex digits.
fn sorted_but_id(fields: &Fields) -> Vec<String> {
    let id = fields.get("x-request-id").expect("a request id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    sorted(fields).into_iter().filter(|line| !line.starts_with("x-request-id: ")).collect()
}

#[test]
fn path_is_forwarded_canonical_and_query_unchanged() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for (sent, received) in [
        ("/api/v2/items", "/api/v2/items"),
        ("/api/v2/items/", "/api/v2/items"),
        ("/%61pi/v2/%69tems", "/api/v2/items"),
        ("/api/v2/items/%7euser", "/api/v2/items/~user"),
        ("/api/v2/items/a%3fb%23c%25d", "/api/v2/items/a%3Fb%23c%25d"),
        ("/api/v2/items?", "/api/v2/items?"),
        ("/api/v2/items/?a=%61&b=%2f&&c", "/api/v2/items?a=%61&b=%2f&&c"),
        ("/api/v2/items/5?x=/../?y", "/api/v2/items/5?x=/../?y"),
        ("http://stockaj.example/api/v2/items?z", "/api/v2/items?z"),
    ] {
        env.backend.forget_requests();
        let response = client.request("GET", sent, &[WRITER], b"");
        assert_eq!(response.status, 200, "{sent}: {}", response.text());
        assert_eq!(env.backend.only_request().target, received, "{sent}");
    }
}

#[test]
fn path_of_the_backend_url_is_prepended() {
    let env = TestEnv::builder().backend_path("/stock/aj").start();
    assert_eq!(env.gateway.get("/api/v2/items?page=2", Some("1|writer")).status, 200);
    assert_eq!(env.gateway.get("/api/v2/%69tems/7/", Some("1|writer")).status, 200);
    let targets: Vec<_> = env.backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/stock/aj/api/v2/items?page=2", "/stock/aj/api/v2/items/7"]);
}

#[test]
fn host_is_preserved_or_replaced_as_configured() {
    for (host, expected) in [("preserve", None), ("backend", Some(()))] {
        let env = TestEnv::start(&format!("backend:\n  host: {host}\n"));
        env.gateway.client().request("GET", "/up", &[("Host", "Shop.Example:81")], b"");
        let request = env.backend.only_request();
        let authority = env.backend.address().to_string();
        let expected = expected.map_or("Shop.Example:81", |()| &*authority);
        assert_eq!(request.field("host"), Some(expected), "{host}");
        assert_eq!(request.field("x-forwarded-host"), Some("Shop.Example:81"), "{host}");
    }
}

#[test]
fn untrusted_forwarding_fields_are_replaced() {
    let env = TestEnv::start("");
    let sent = [
        WRITER,
        ("Accept", "a"),
        ("Accept", "b"),
        ("X-Own", "1"),
        ("Cookie", "session=1"),
        ("Connection", "keep-alive, X-One"),
        ("Connection", "x-two , Authorization, Host, X-Forwarded-For, Via, X-Request-Id"),
        ("X-One", "1"),
        ("X-Two", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy", "http://evil.example"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "x"),
        ("TE", "gzip"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "1"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
        ("X-Request-Id", "evil"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X_Forwarded_For", "203.0.113.9"),
        ("X.Forwarded.For", "203.0.113.9"),
        ("Via", "1.0 other"),
    ];
    let response = env.gateway.client().request("GET", ITEMS, &sent, b"");
    assert_eq!(response.status, 200, "{}", response.text());
    let request = env.backend.only_request();
    let expected = [
        "accept: a",
        "accept: b",
        "authorization: Bearer 1|writer",
        "host: stockaj.example",
        "via: 1.0 other",
        "via: 1.1 stockaj-gateway",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: stockaj.example",
        "x-forwarded-proto: http",
        "x-own: 1",
    ];
    assert_eq!(sorted_but_id(&request.fields), expected);
    let line = env.gateway.wait_for_log(|line| line["message"] == "request");
    assert_eq!(line["request_id"].as_str(), request.field("x-request-id"), "the log has the same id");
}

#[test]
fn forwarding_fields_of_a_trusted_proxy_are_extended() {
    let env = TestEnv::start("listen:\n  trusted_proxies: [127.0.0.0/8]\n");
    let sent = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "203.0.113.10"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Request-Id", "edge-17"),
        ("X-Original-URL", "/admin"),
    ];
    env.gateway.client().request("GET", "/up", &sent, b"");
    let expected = [
        "forwarded: for=203.0.113.9",
        "host: stockaj.example",
        "via: 1.1 stockaj-gateway",
        "x-forwarded-for: 203.0.113.9, 203.0.113.10, 127.0.0.1",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: https",
        "x-request-id: edge-17",
    ];
    assert_eq!(sorted(&env.backend.only_request().fields), expected);
    let refused = env.gateway.client().request("GET", ITEMS, &[("X-Request-Id", "edge-18")], b"");
    assert_eq!(refused.field("x-request-id"), Some("edge-18"), "a refusal has the id, too");
    let unfit = env.gateway.client().request("GET", ITEMS, &[("X-Request-Id", "a b\"")], b"");
    assert_eq!(unfit.field("x-request-id").map(str::len), Some(32), "an invalid id is replaced");
}

#[test]
fn cookies_are_forwarded_on_public_routes_only() {
    let env = TestEnv::start("");
    let sent = [("Authorization", "bEARER   1|writer"), ("Cookie", "session=1")];
    let mut client = env.gateway.client();
    assert_eq!(client.request("GET", "/up", &sent, b"").status, 200);
    assert_eq!(client.request("GET", ITEMS, &sent, b"").status, 200);
    let requests = env.backend.requests();
    assert_eq!(requests[0].field("cookie"), Some("session=1"));
    assert_eq!(requests[0].field("authorization"), Some("bEARER   1|writer"), "unchanged");
    assert_eq!(requests[1].field("cookie"), None);
    assert_eq!(requests[1].field("authorization"), Some("Bearer 1|writer"));
}

/// RFC 9110 section 5.3, RFC 9113 section 8.2.3: several lines of a field that must not be read in part are joined.
#[test]
fn repeated_cookies_and_preconditions_are_forwarded_as_one_line() {
    let env = TestEnv::start("");
    let sent = [
        ("Cookie", "session=1"),
        ("If-Match", "\"a\""),
        ("Accept", "a/b"),
        ("If-Match", "\"b\""),
        ("Cookie", "theme=dark; x=y"),
        ("Accept", "c/d"),
    ];
    assert_eq!(env.gateway.client().request("GET", "/up", &sent, b"").status, 200);
    let request = env.backend.only_request();
    let lines = sorted(&request.fields);
    let sent_by_client =
        |line: &&String| ["cookie", "if-match", "accept"].iter().any(|name| line.starts_with(name));
    assert_eq!(
        lines.iter().filter(sent_by_client).collect::<Vec<_>>(),
        ["accept: a/b", "accept: c/d", "cookie: session=1; theme=dark; x=y", "if-match: \"a\", \"b\""]
    );
}

/// A backend that merges trailers into the head would see two lines of these fields.
#[test]
fn singleton_fields_are_dropped_from_trailers() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    client
        .send("POST /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nUser-Agent: a\r\n")
        .send("Transfer-Encoding: chunked\r\nTrailer: User-Agent, Referer, X-CSRF-TOKEN, X-Checksum\r\n\r\n")
        .send("2\r\nup\r\n0\r\nUser-Agent: b\r\nReferer: c\r\nX-CSRF-TOKEN: d\r\nX-Checksum: 1\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(sorted(&env.backend.only_request().trailers), ["x-checksum: 1"]);
}

#[test]
fn post_cannot_be_overridden_at_the_backend() {
    let env = TestEnv::start("");
    let overrides = [("X-HTTP-Method-Override", "DELETE"), ("X_HTTP_Method_Override", "DELETE")];
    for fields in [&[WRITER][..], &[WRITER, overrides[0]], &[WRITER, overrides[0], overrides[1]]] {
        env.backend.forget_requests();
        let response =
            env.gateway.client().request("POST", "/api/v2/items?_method=DELETE", fields, b"_method=PUT");
        assert_eq!(response.status, 200);
        let request = env.backend.only_request();
        let named = |name: &str| name.contains("override");
        let all: Vec<_> = sorted(&request.fields).into_iter().filter(|line| named(line)).collect();
        assert_eq!(all, ["x-http-method-override: POST"]);
        assert_eq!((&*request.method, request.text()), ("POST", "_method=PUT"));
    }
}

#[test]
fn response_reaches_the_client_unchanged() {
    let env = TestEnv::start("");
    let fields = [
        ("Content-Type", "text/x-own; charset=latin1"),
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
        ("ETag", "W/\"x\""),
        ("Server", "nginx"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("X-Request-Id", "the backend's own"),
        ("Cache-Control", "max-age=1"),
    ];
    let dropped = [("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("Upgrade", "h2c")];
    let body: Vec<u8> = (0..=255).collect();
    let mut client = env.gateway.client();
    for status in [200, 201, 206, 301, 400, 401, 404, 418, 422, 500, 503, 599] {
        let (all, sent) = ([&fields[..], &dropped].concat(), body.clone());
        env.backend.answer(move |_| Answer::with(status, &all, &sent));
        let response = client.request("GET", "/up", &[], b"");
        assert_eq!((response.status, &response.body), (status, &body));
        let mut expected: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
        expected.push(format!("content-length: {}", body.len()));
        expected.sort();
        assert_eq!(sorted(&response.fields), expected, "{status}");
    }
}

#[test]
fn http10_response_of_the_backend_is_sent_as_http11() {
    let env = TestEnv::start("");
    env.backend.answer(|_| Answer::raw("HTTP/1.0 200 OK\r\nX-Own: 1\r\n\r\nuntil the end").then_close());
    let mut client = env.gateway.client();
    for _ in 0..2 {
        let response = client.request("GET", "/up", &[], b"");
        assert!(
            response.raw_head.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&response.raw_head)
        );
        assert_eq!(response.text(), "until the end");
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    }
}

#[test]
fn responses_without_a_body_keep_their_fields() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    env.backend.answer(|request| match request.method.as_str() {
        "HEAD" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: x\r\n\r\n"),
        "GET" => Answer::raw("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
        _ => Answer::raw("HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n"),
    });
    let head = client.request("HEAD", ITEMS, &[WRITER], b"");
    assert_eq!(
        (head.status, head.field("content-length"), head.field("etag")),
        (200, Some("12345"), Some("x"))
    );
    let not_modified = client.request("GET", ITEMS, &[WRITER, ("If-None-Match", "x")], b"");
    assert_eq!((not_modified.status, not_modified.field("etag")), (304, Some("x")));
    assert_eq!(not_modified.field("transfer-encoding"), None);
    let deleted = client.request("DELETE", "/api/v2/items/5", &[WRITER], b"");
    assert_eq!((deleted.status, deleted.field("x-own")), (204, Some("1")));
    assert_eq!((deleted.field("transfer-encoding"), deleted.field("content-length")), (None, None));
    assert_eq!(env.backend.connections(), 1, "both sides were read completely");
    env.gateway.wait_for_metric("requests_total{reason=\"allowed\"}", 3.0);
}

#[test]
fn request_bodies_are_forwarded_for_every_method_and_framing() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for method in ["GET", "DELETE", "PUT", "PATCH"] {
        let target = "/api/v2/items/5";
        env.backend.forget_requests();
        assert_eq!(client.request(method, target, &[WRITER], b"by length").status, 200);
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        client.send(head).send("3;x=y\r\nby \r\n6\r\nchunks\r\n0\r\n\r\n");
        assert_eq!(client.response().status, 200);
        let requests = env.backend.requests();
        assert_eq!((requests[0].text(), requests[0].field("content-length")), ("by length", Some("9")));
        assert_eq!(requests[1].text(), "by chunks", "{method}");
        assert_eq!(requests[1].field("transfer-encoding"), Some("chunked"), "{method}");
        assert_eq!(requests[1].field("content-length"), None, "{method}");
    }
    env.backend.forget_requests();
    client.request("POST", ITEMS, &[WRITER, ("Content-Length", "0")], b"");
    let empty = env.backend.only_request();
    assert_eq!((empty.field("content-length"), empty.field("transfer-encoding")), (Some("0"), None));
}

#[test]
fn declared_trailers_are_forwarded_without_authentication_routing_or_framing_fields() {
    let env = TestEnv::start("");
    env.backend.answer(|_| {
        Answer::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum, X-Request-Id, Set-Cookie\r\n\r\n",
        )
        .then("4\r\nback\r\n0\r\nX-Checksum: 2\r\nX-Request-Id: evil\r\nSet-Cookie: a=1\r\n\r\n")
    });
    let mut client = env.gateway.client();
    client
        .send("POST /api/v2/items HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nTE: trailers\r\nConnection: TE\r\n")
        .send("Transfer-Encoding: chunked\r\nTrailer: X-Checksum, X-Forwarded-For, X-Token-Id, Authorization\r\n\r\n")
        .send("2\r\nup\r\n0\r\nX-Checksum: 1\r\nX-Forwarded-For: evil\r\nX-Token-Id: 1\r\nAuthorization: Bearer 2|x\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text(), response.field("transfer-encoding")), ("back", Some("chunked")));
    assert_eq!(sorted(&response.trailers), ["x-checksum: 2"]);
    let request = env.backend.only_request();
    assert_eq!(request.text(), "up");
    assert_eq!(sorted(&request.trailers), ["x-checksum: 1"]);
    assert_eq!(request.field("te"), Some("trailers"));
}

#[test]
fn expect_100_continue_is_answered_when_the_request_is_permitted_and_only_then() {
    let env = TestEnv::start("");
    let head = |token: &str| {
        format!(
            "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut client = env.gateway.client();
    let interim = client.send(head("1|writer")).read_some();
    assert_eq!(String::from_utf8_lossy(&interim), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.send("body").response().status, 200);
    let request = env.backend.only_request();
    assert_eq!((request.text(), request.field("expect")), ("body", Some("100-continue")));
    let refused = env.gateway.client().send(head("2|unknown")).read_until_close();
    assert!(refused.starts_with(b"HTTP/1.1 401 "), "{}", String::from_utf8_lossy(&refused));
}

#[test]
fn response_before_the_end_of_the_request_is_forwarded() {
    let env = TestEnv::start("");
    env.backend.answer_early(|_| Some(Answer::message(413, "That is too much.")));
    for length in [100, 100_000_000] {
        let mut client = env.gateway.client();
        client.send(format!(
            "POST {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|writer\r\nContent-Length: {length}\r\n\r\nsome"
        ));
        let response = client.response();
        assert_eq!((response.status, response.text()), (413, r#"{"message":"That is too much."}"#));
    }
}

#[test]
fn options_asterisk_is_forwarded_without_a_prefix() {
    let map = "abilities:\n  unmapped: authenticated\n  routes: {/up: {GET: public}}\n";
    let env = TestEnv::builder().backend_path("/prefix").yaml(map).start();
    let response = env.gateway.client().request("OPTIONS", "*", &[WRITER], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    let request = env.backend.only_request();
    assert_eq!((&*request.method, &*request.target), ("OPTIONS", "*"));
    assert_eq!(env.gateway.client().request("GET", "*", &[WRITER], b"").status, 400);
}

#[test]
fn http10_requests_are_served_with_and_without_host() {
    let env = TestEnv::start("");
    env.backend.answer(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    });
    let answer = env.gateway.client().send("GET /up HTTP/1.0\r\nHost: a\r\n\r\n").read_until_close();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nonetwo"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    assert_eq!(env.backend.only_request().field("via"), Some("1.0 stockaj-gateway"));
    env.backend.forget_requests();
    // As HAProxy's `option httpchk GET /up` sends it.
    let answer = env.gateway.client().send("GET /up HTTP/1.0\r\n\r\n").read_until_close();
    assert!(answer.starts_with(b"HTTP/1.0 200 "), "{}", String::from_utf8_lossy(&answer));
    let request = env.backend.only_request();
    let authority = env.backend.address().to_string();
    assert_eq!(request.field("host"), Some(&*authority));
    assert_eq!(request.field("x-forwarded-host"), Some(&*authority));
    env.backend.forget_requests();
    let absolute = "GET http://shop.example/up HTTP/1.0\r\n\r\n";
    assert!(env.gateway.client().send(absolute).read_until_close().starts_with(b"HTTP/1.0 200 "));
    assert_eq!(env.backend.only_request().field("host"), Some("shop.example"));
    env.backend.forget_requests();
    for (sent, status) in [
        ("GET /up HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 "),
        ("GET /up HTTP/1.0\r\nHost:\r\n\r\n", "HTTP/1.0 400 "),
        ("GET /up HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "HTTP/1.0 400 "),
        ("GET http://u@shop.example/up HTTP/1.0\r\n\r\n", "HTTP/1.0 400 "),
        ("GET /api/v2/items HTTP/1.0\r\n\r\n", "HTTP/1.0 401 "),
    ] {
        let answer = String::from_utf8(env.gateway.client().send(sent).read_until_close()).unwrap();
        assert!(answer.starts_with(status), "{sent}: {answer}");
    }
    assert_eq!(env.backend.requests().len(), 0);
}

/// An HTTP/1.0 client without keep-alive gets a response that ends with a close.
#[test]
fn http10_connection_is_kept_only_on_request() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for _ in 0..2 {
        let answer = client.send("GET /up HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
    }
    assert_eq!(client.send("GET /up HTTP/1.0\r\n\r\n").response().status, 200);
    assert!(client.read_until_close().is_empty());
    assert_eq!(env.backend.requests().len(), 3);
}

/// RFC 3986 section 3.2.3: an empty port means the scheme's default. One spelling is forwarded.
#[test]
fn empty_port_of_host_is_no_port() {
    let env = TestEnv::start("");
    for (target, host) in [
        ("/up", "shop.example:"),
        ("http://shop.example/up", "shop.example:"),
        ("http://shop.example:/up", "shop.example"),
        ("http://shop.example:80/up", "shop.example:"),
    ] {
        env.backend.forget_requests();
        let response = env.gateway.client().request("GET", target, &[("Host", host)], b"");
        assert_eq!(response.status, 200, "{target} {host}");
        let request = env.backend.only_request();
        let forwarded = ["host", "x-forwarded-host"].map(|name| request.field(name));
        assert_eq!(forwarded, [Some("shop.example"); 2], "{target} {host}");
    }
    env.backend.forget_requests();
    for host in [":", "a::", ":80", "a:x", "a: 80"] {
        assert_eq!(env.gateway.client().request("GET", "/up", &[("Host", host)], b"").status, 400, "{host}");
    }
    assert_eq!(env.backend.requests().len(), 0);
}

#[test]
fn backend_connections_are_reused() {
    let env = TestEnv::start("");
    for _ in 0..20 {
        let mut client = env.gateway.client();
        for _ in 0..5 {
            assert_eq!(client.request("POST", ITEMS, &[WRITER], b"x").status, 200);
        }
    }
    assert_eq!(env.backend.requests().len(), 100);
    let connections = env.backend.connections();
    assert!(connections <= 2, "{connections} connections where each worker needs one");
}

const LARGE: usize = 64 * 1024 * 1024;
/// Measured: 25 MB, for four connections as for eight, since freed pages are kept for the next.
const LITTLE_MEMORY: u64 = 48 * 1024 * 1024;

/// A pattern that reveals a lost or duplicated byte.
fn pattern() -> Vec<u8> {
    (0..LARGE).map(|index| (index % 251) as u8).collect()
}

#[test]
fn backpressure_of_a_slow_client_reaches_the_backend() {
    let env = TestEnv::start("");
    let body = pattern();
    let sent = body.clone();
    env.backend.answer(move |_| Answer::with(200, &[], &sent));
    let before = env.gateway.resident_memory();
    let mut clients: Vec<RawClient> = (0..4).map(|_| env.gateway.client()).collect();
    for client in &mut clients {
        client.send("GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.read_some().starts_with(b"HTTP/1.1 200 "));
    }
    thread::sleep(Duration::from_millis(300));
    let grown = env.gateway.resident_memory().saturating_sub(before);
    assert!(grown < LITTLE_MEMORY, "{grown} bytes are held for clients that do not read");
    drop(clients);
    let response = env.gateway.get("/up", None);
    assert!(response.body == body, "the body changed");
    let grown = env.gateway.resident_memory().saturating_sub(before);
    assert!(grown < LITTLE_MEMORY, "{grown} bytes are held after a download");
}

#[test]
fn backpressure_of_a_slow_backend_reaches_the_client() {
    let env = TestEnv::start("");
    let body = pattern();
    let before = env.gateway.resident_memory();
    // The backend reads the head and then pauses.
    let (begin, begun) = std::sync::mpsc::channel();
    let begin = std::sync::Mutex::new(begin);
    env.backend.answer_early(move |_| {
        let _ = begin.lock().unwrap().send(());
        thread::sleep(Duration::from_millis(500));
        None
    });
    thread::scope(|scope| {
        let upload = scope.spawn(|| env.gateway.client().request("POST", ITEMS, &[WRITER], &body));
        begun.recv().unwrap();
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end {
            let grown = env.gateway.resident_memory().saturating_sub(before);
            assert!(grown < LITTLE_MEMORY, "{grown} bytes are held for a backend that does not read");
            thread::sleep(Duration::from_millis(50));
        }
        env.backend.answer(|_| Answer::with(200, &[], ""));
        assert_eq!(upload.join().unwrap().status, 200);
    });
    assert!(env.backend.only_request().body == body, "the body changed");
    let grown = env.gateway.resident_memory().saturating_sub(before);
    assert!(grown < LITTLE_MEMORY, "{grown} bytes are held after an upload");
}
