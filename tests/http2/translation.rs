//! Translation between HTTP/2 and the backend's HTTP/1.1, in both directions.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ClientConnection, StreamOwned};

use super::{client, h2c};
use crate::support::http2::{
    COMPRESSION_ERROR, Http2Client, NO_ERROR, Outcome, PREFACE, PROTOCOL_ERROR, request,
};
use crate::support::{Answer, Authority, Fields, PATIENCE, RawClient, TestEnv};

const WRITER: (&str, &str) = ("authorization", "Bearer 1|writer");

fn sorted(fields: &Fields) -> Vec<String> {
    let all = fields.0.iter().filter(|(name, _)| name != "x-request-id" && name != "date");
    let mut lines: Vec<_> =
        all.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
    lines.sort();
    lines
}

#[test]
fn http2_request_reaches_the_backend_as_http1() {
    let env = h2c("");
    let mut client = client(&env);
    let fields = [
        WRITER,
        ("accept", "a"),
        ("te", "trailers"),
        ("content-length", "4"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x_user", "evil"),
        ("cookie", "session=1"),
    ];
    let answer = client.request("POST", "/api/v2/%69tems/?a=%61", &fields, b"body").answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let arrived = env.backend.only_request();
    assert_eq!((&*arrived.method, &*arrived.target), ("POST", "/api/v2/items?a=%61"));
    assert_eq!(arrived.body, b"body");
    assert_eq!(
        sorted(&arrived.fields),
        [
            "accept: a",
            "authorization: Bearer 1|writer",
            "connection: te",
            "content-length: 4",
            "host: stockaj.example",
            "te: trailers",
            "via: 2 stockaj-gateway",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: stockaj.example",
            "x-forwarded-proto: http",
            "x-http-method-override: POST",
        ]
    );
}

#[test]
fn http2_cookie_fields_are_joined() {
    let env = h2c("");
    let crumbs = [("cookie", "a=b"), ("accept", "x"), ("cookie", "c=d"), ("cookie", "e=f; g=h")];
    let answer = client(&env).request("GET", "/up", &crumbs, b"").answer();
    assert_eq!(answer.status, 200);
    assert_eq!(env.backend.only_request().field("cookie"), Some("a=b; c=d; e=f; g=h"));
}

/// Whether a request with these fields is forwarded.
#[test]
fn http2_authority_and_host_must_agree() {
    let env = h2c("");
    let get = |authority: Option<&'static str>, hosts: &[&'static str]| {
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", "/up")];
        fields.extend(authority.map(|authority| (":authority", authority)));
        fields.extend(hosts.iter().map(|host| ("host", *host)));
        let mut client = client(&env);
        let stream = client.open(&fields, true);
        client.outcome(stream)
    };
    for (authority, hosts, host) in [
        (Some("shop.example"), &[][..], "shop.example"),
        (Some("shop.example:80"), &["Shop.Example"], "shop.example:80"),
        (Some("[::1]:81"), &["[::1]:81"], "[::1]:81"),
        (None, &["shop.example"], "shop.example"),
        (Some("shop.example:"), &[], "shop.example"),
        (Some("shop.example:"), &["shop.example"], "shop.example"),
        (None, &["shop.example:"], "shop.example"),
    ] {
        assert_eq!(get(authority, hosts).answer().status, 200, "{authority:?} {hosts:?}");
        assert_eq!(env.backend.only_request().field("host"), Some(host));
        env.backend.forget_requests();
    }
    for (authority, hosts) in [
        (None, &[][..]),
        (None, &["a", "a"]),
        (None, &["u@a"]),
        (None, &[""]),
        (Some("a"), &["b"]),
        (Some("a"), &["a", "a"]),
        (Some("a"), &["a:443"]),
        (Some("a"), &[""]),
        (Some("u@a"), &[]),
        (Some("u@a"), &["u@a"]),
        (Some("a:99999"), &[]),
        (Some("a:"), &["a:81"]),
    ] {
        assert_eq!(get(authority, hosts).answer().status, 400, "{authority:?} {hosts:?}");
    }
    // Rejected by h2 itself as malformed.
    for authority in ["", "a b", "a/b", "a?", "é"] {
        assert!(matches!(get(Some(authority), &[]), Outcome::Reset(PROTOCOL_ERROR)), "{authority:?}");
    }
    assert_eq!(env.backend.requests().len(), 0);
}

/// Refused paths get the same response as over HTTP/1, or RST_STREAM for malformed frames.
#[test]
fn invalid_http2_paths_are_rejected() {
    let env = h2c("");
    for (method, path) in [
        ("GET", "*"),
        ("GET", "?a"),
        ("GET", "/api/v2/../up"),
        ("GET", "//up"),
        ("GET", "/up;a"),
        ("GET", "/up\u{e9}"),
        ("GET", "/up?\u{e9}"),
        ("GET", "/up\""),
        ("TRACE", "/up"),
        ("get", "/up"),
        ("PRI", "*"),
        ("GET", "/up#/../api"),
        ("GET", "/up#"),
        ("GET", "/up?a#b"),
    ] {
        let answer = client(&env).request(method, path, &[], b"").answer();
        assert_eq!((answer.status, answer.text()), (400, r#"{"message":"Bad Request."}"#), "{method} {path}");
    }
    for path in ["", "up", "http://stockaj.example/up", "/u p", "/up<"] {
        let outcome = client(&env).request("GET", path, &[], b"");
        assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR)), "{path:?}: {outcome:?}");
    }
    assert_eq!(env.backend.requests().len(), 0);
    let answer = client(&env).request("OPTIONS", "*", &[WRITER], b"").answer();
    assert_eq!(answer.status, 403, "a path that no route matches");
}

/// RFC 9113 section 8.2: malformed requests are never forwarded.
#[test]
fn connection_specific_fields_reset_the_http2_stream() {
    let env = h2c("");
    for (name, value) in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", ""),
        ("content-length", "x"),
        ("content-length", "-1"),
        ("content-length", "5"),
    ] {
        let outcome = client(&env).request("GET", "/up", &[(name, value)], b"");
        assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR)), "{name}: {value}: {outcome:?}");
    }
    // h2 treats these as connection errors.
    for (name, value) in [
        ("Accept", "a"),
        ("x-Own", "a"),
        ("x own", "a"),
        ("x:own", "a"),
        ("", "a"),
        (":own", "a"),
        ("accept", "a\nb"),
        ("accept", "a\rb"),
        ("accept", "a\0b"),
    ] {
        let outcome = client(&env).request("GET", "/up", &[(name, value)], b"");
        let is_error = matches!(outcome, Outcome::Away(PROTOCOL_ERROR | COMPRESSION_ERROR));
        assert!(is_error, "{name:?}: {value:?}: {outcome:?}");
    }
    // The gateway itself treats these as connection errors.
    for (name, value) in [("accept", " a"), ("accept", "a\t"), ("content-length", "00")] {
        let answer = client(&env).request("GET", "/up", &[(name, value)], b"").answer();
        assert_eq!(answer.status, 400, "{name}: {value:?}");
    }
    assert_eq!(env.backend.requests().len(), 0);
    let te = [("te", "trailers")];
    assert_eq!(client(&env).request("GET", "/up", &te, b"").answer().status, 200);
}

#[test]
fn http2_content_length_must_equal_the_body() {
    let env = h2c("");
    for (length, body) in [("3", "body"), ("5", "body"), ("0", "body")] {
        let fields = [WRITER, ("content-length", length)];
        let outcome = client(&env).request("POST", "/api/v2/items", &fields, body.as_bytes());
        assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR)), "{length}: {outcome:?}");
    }
    let twice = [WRITER, ("content-length", "4"), ("content-length", "4")];
    let answer = client(&env).request("POST", "/api/v2/items", &twice, b"body").answer();
    assert_eq!(answer.status, 400);
    let answer = client(&env).request("POST", "/api/v2/items", &[WRITER], b"body").answer();
    assert_eq!(answer.status, 200);
    // An aborted request may be noticed only now.
    let complete: Vec<_> = env.backend.requests().into_iter().filter(|it| it.complete).collect();
    let [arrived] = &complete[..] else { panic!("{complete:#?}") };
    assert_eq!((arrived.text(), arrived.field("transfer-encoding")), ("body", Some("chunked")));
}

#[test]
fn http2_connect_is_rejected() {
    let env = h2c("");
    let mut plain = client(&env);
    let stream = plain.open(&[(":method", "CONNECT"), (":authority", "stockaj.example:80")], false);
    assert_eq!(plain.outcome(stream).answer().status, 400);
    let mut extended = client(&env);
    let stream = extended.open(&request("CONNECT", "/up", &[(":protocol", "websocket")]), false);
    assert!(!matches!(extended.outcome(stream), Outcome::Answer(_)));
    assert_eq!(env.backend.requests().len(), 0);
}

#[test]
fn http2_response_has_no_connection_fields() {
    let env = h2c("");
    let fields = [
        ("Connection", "keep-alive, X-Hop"),
        ("Keep-Alive", "timeout=5"),
        ("X-Hop", "1"),
        ("Upgrade", "h2c"),
        ("Proxy-Connection", "close"),
        ("Set-Cookie", "a=b"),
        ("Set-Cookie", "c=d"),
        ("X-Own", "1"),
    ];
    env.backend.answer(move |_| Answer::with(200, &fields, "body"));
    let answer = client(&env).get("/up", None);
    assert_eq!((answer.status, answer.text()), (200, "body"));
    let expected = ["content-length: 4", "set-cookie: a=b", "set-cookie: c=d", "x-own: 1"];
    assert_eq!(sorted(&answer.fields), expected);
    env.backend.answer(|_| {
        Answer::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n2;x=y\r\n..\r\n0\r\n\r\n",
        )
    });
    let answer = client(&env).get("/up", None);
    assert_eq!((answer.status, answer.text()), (200, "body.."));
    assert_eq!(sorted(&answer.fields), [""; 0]);
}

#[test]
fn http2_responses_without_a_body_are_forwarded() {
    let env = h2c("");
    let mut client = client(&env);
    // A response of the backend.
    let head = client.request("HEAD", "/up", &[], b"").answer();
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.field("content-length").is_some());
    for status in [204, 304] {
        env.backend.answer(move |_| Answer::with(status, &[("ETag", "\"1\"")], ""));
        let answer = client.get("/up", None);
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        assert_eq!(sorted(&answer.fields), ["etag: \"1\""]);
    }
    // A response of the gateway itself.
    let get = client.request("GET", "/api/v2/items", &[], b"").answer();
    let head = client.request("HEAD", "/api/v2/items", &[], b"").answer();
    assert_eq!((head.status, head.body.len()), (401, 0));
    assert_eq!(sorted(&head.fields), sorted(&get.fields));
    assert_eq!(get.field("content-length"), Some(&*get.body.len().to_string()));
}

/// Trailers as gRPC uses them.
#[test]
fn http2_trailers_are_forwarded_both_ways() {
    let env = h2c("");
    env.backend.answer(|_| {
        let head =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status, grpc-message\r\n\r\n";
        Answer::raw(format!(
            "{head}4\r\nbody\r\n0\r\ngrpc-status: 0\r\nGrpc-Message: fine\r\nX-Request-Id: evil\r\n\r\n"
        ))
    });
    let mut client = client(&env);
    let fields = [WRITER, ("te", "trailers"), ("trailer", "x-checksum, x-token-id")];
    let stream = client.open(&request("POST", "/api/v2/items", &fields), false);
    client.data(stream, b"body", false);
    client.trailers(stream, &[("x-checksum", "1"), ("x-token-id", "evil"), ("x-other", "2")]);
    let answer = client.outcome(stream).answer();
    assert_eq!((answer.status, answer.text()), (200, "body"));
    assert_eq!(sorted(&answer.trailers), ["grpc-message: fine", "grpc-status: 0"]);
    let arrived = env.backend.only_request();
    assert_eq!((arrived.text(), sorted(&arrived.trailers)), ("body", vec!["x-checksum: 1".to_owned()]));
    assert_eq!(arrived.field("te"), Some("trailers"));
    // Only trailers, as in a gRPC error.
    env.backend.answer(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n0\r\ngrpc-status: 5\r\n\r\n")
    });
    let answer = client.get("/up", None);
    assert_eq!((answer.body.len(), sorted(&answer.trailers)), (0, vec!["grpc-status: 5".to_owned()]));
}

#[test]
fn truncated_response_resets_the_http2_stream() {
    let env = h2c("");
    env.backend.answer(|_| Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_close());
    let mut client = client(&env);
    let outcome = client.request("GET", "/up", &[], b"");
    assert!(matches!(outcome, Outcome::Reset(_)), "{outcome:?}");
    env.backend.answer(|_| Answer::with(200, &[], "whole"));
    assert_eq!(client.get("/up", None).text(), "whole", "the connection stays open");
}

#[test]
fn alpn_selects_the_http_version() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).start();
    let mut http2 = Http2Client::connect_tls(env.gateway.address(), &authority);
    assert_eq!(http2.get("/up", None).status, 200);
    let arrived = env.backend.only_request();
    assert_eq!(arrived.field("via"), Some("2 stockaj-gateway"));
    assert_eq!(arrived.field("x-forwarded-proto"), Some("https"));
    // A client without ALPN speaks HTTP/1; the gateway refuses a preface from it.
    assert_eq!(env.gateway.client().get("/up", None).status, 200);
    assert_eq!(env.gateway.client().send(PREFACE).response().status, 505);
}

#[test]
fn tls_client_that_offers_only_http_1_0_is_served() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).start();
    for (offered, agreed) in
        [(&[&b"http/1.0"[..]][..], "http/1.0"), (&[&b"http/1.0"[..], b"http/1.1"], "http/1.1")]
    {
        let mut config = (*authority.client()).clone();
        config.alpn_protocols = offered.iter().map(|it| it.to_vec()).collect();
        let session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(env.gateway.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(b"GET /up HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = [0; 13];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.0 200 ");
        assert_eq!(stream.conn.alpn_protocol(), Some(agreed.as_bytes()));
    }
}

#[test]
fn h2c_is_disabled_by_default() {
    let env = TestEnv::start("");
    assert_eq!(env.gateway.client().send(PREFACE).response().status, 505);
}

/// HTTP/2 has no Upgrade (RFC 9113 section 8.6).
#[test]
fn upgrade_to_h2c_is_ignored() {
    let env = h2c("");
    let fields =
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")];
    let answer = env.gateway.client().request("GET", "/up", &fields, b"");
    assert_eq!(answer.status, 200);
    assert_eq!(env.backend.only_request().field("upgrade"), None);
}

#[test]
fn http_version_is_detected_by_the_first_bytes() {
    let env = h2c("limits: {header_timeout: 300ms}");
    let address = env.gateway.address();
    for size in [1, 3, 23, 24] {
        let mut http2 = Http2Client::silent(address);
        for piece in PREFACE.chunks(size) {
            http2.send_bytes(piece);
        }
        http2.send(&crate::support::http2::Frame::settings(&[]));
        assert_eq!(http2.get("/up", None).status, 200, "in pieces of {size}");
    }
    for (sent, status) in [
        ("GET /up HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("P", 408),
        ("PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", 505),
        ("PRI * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 401),
    ] {
        for size in [1, sent.len()] {
            let mut http1 = RawClient::connect(address);
            for piece in sent.as_bytes().chunks(size) {
                let _ = http1.try_send(piece);
            }
            assert_eq!(http1.response().status, status, "{sent:?} in pieces of {size}");
        }
    }
    let mut gone = RawClient::connect(address);
    gone.send("PRI").finish();
    assert_eq!(gone.read_until_close(), b"");
}

#[test]
fn goaway_of_an_idle_connection_has_no_error() {
    let env = h2c("limits: {idle_timeout: 200ms}");
    let mut client = client(&env);
    assert_eq!(client.get("/up", None).status, 200);
    assert_eq!(client.end(), Some(NO_ERROR));
}
