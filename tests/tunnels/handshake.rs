//! Which requests open a tunnel.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{FRAME, KEY, SWITCHED, assert_tunnel_works, builder, handshake, read, start};
use crate::support::manual_backend::ManualBackend;
use crate::support::{Authority, TestEnv};

#[test]
fn websocket_is_forwarded_byte_for_byte() {
    let authority = Arc::new(Authority::new());
    for tls in [None, Some(&authority)] {
        let mut env = tls.map_or_else(|| self::builder(""), |it| self::builder("").tls(it)).start();
        let mut client = env.gateway.client();
        let asked = handshake("/events?room=7", Some("1|reader")).replace(
            "\r\n\r\n",
            "\r\nOrigin: https://a\r\nCookie: a=b\r\nTE: trailers\r\nSec-WebSocket-Protocol: chat, other\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        );
        client.send([asked.as_bytes(), b"too soon"].concat());
        let (mut backend, request) = env.backend.request();
        assert_eq!((&*request.method, &*request.target), ("GET", "/events?room=7"));
        let mut fields: Vec<_> = request
            .fields
            .0
            .iter()
            .filter(|(name, _)| !name.starts_with("x-") && name != "via")
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "authorization: Bearer 1|reader",
                "connection: Upgrade",
                "host: stockaj.example",
                "origin: https://a",
                "sec-websocket-extensions: permessage-deflate",
                &format!("sec-websocket-key: {KEY}"),
                "sec-websocket-protocol: chat, other",
                "sec-websocket-version: 13",
                "upgrade: websocket",
            ]
        );
        assert!(
            backend.is_silent(Duration::from_millis(200)),
            "early data is forwarded only after the handshake"
        );
        backend.send(
            [
                SWITCHED
                    .replace(
                        "\r\n\r\n",
                        "\r\nSec-WebSocket-Protocol: chat\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n",
                    )
                    .as_bytes(),
                b"and at once",
            ]
            .concat(),
        );
        let response = client.response();
        assert_eq!(response.status, 101);
        let mut names = response.fields.names();
        names.sort();
        assert_eq!(
            names,
            [
                "connection",
                "date",
                "sec-websocket-accept",
                "sec-websocket-protocol",
                "upgrade",
                "x-request-id"
            ]
        );
        assert_eq!(
            (response.field("connection"), response.field("upgrade")),
            (Some("Upgrade"), Some("websocket"))
        );
        assert_eq!(read(&mut client, 11), b"and at once");
        assert_eq!(backend.read(8), b"too soon");
        for _ in 0..3 {
            assert_tunnel_works(&mut client, &mut backend);
        }
        let metrics = env.gateway.metrics();
        assert_eq!(metrics.metric("tunnels_open"), 1.0);
        assert_eq!(metrics.metric("client_connections{state=\"active\"}"), 1.0);
        env.gateway.wait_for_metric("backend_connections{state=\"active\"}", 1.0);
        assert_eq!(metrics.metric("requests_total"), 0.0, "the tunnel is still open");
        // After one side has closed for writing, the other may still send.
        thread::sleep(Duration::from_millis(300));
        client.finish_sending();
        assert_eq!(backend.read_until_close(), b"");
        backend.send("good bye").finish();
        drop(backend);
        assert_eq!(client.read_until_close(), b"good bye");
        let line = env.tunnel_line();
        assert_eq!((&line["reason"], &line["route"]), (&"allowed".into(), &"/events".into()));
        assert!(line["duration_ms"].as_f64().unwrap() > 300.0, "{line}");
        assert!(
            line["bytes_in"].as_u64().unwrap() >= 8 && line["bytes_out"].as_u64().unwrap() >= 19,
            "{line}"
        );
        for metric in ["tunnels_open", "client_connections", "backend_connections"] {
            env.gateway.wait_for_metric(metric, 0.0);
        }
        let metrics = env.gateway.metrics();
        assert_eq!(metrics.metric("requests_total{status=\"101\",reason=\"allowed\"}"), 1.0);
    }
}

#[test]
fn handshake_is_decided_like_any_request() {
    let env = start("");
    let good = handshake("/events", Some("1|reader"));
    let mut client = env.gateway.client();
    // In this order over one connection: a refused handshake leaves the connection usable.
    for (request, status) in [
        (handshake("/events", None), 401),
        (handshake("/events", Some("9|unknown")), 401),
        (handshake("/events", Some("2|creator")), 403),
        (handshake("/nowhere", Some("1|reader")), 403),
        (handshake("/events?access_token=1|reader", None), 401),
        (good.replace("Upgrade: WebSocket", "Upgrade: websocket, h2c"), 400),
        (good.replace("keep-alive, Upgrade", "keep-alive"), 400),
        (good.replace(KEY, "c2hvcnQ="), 400),
        (good.replace("Version: 13", "Version: 8"), 400),
        (good.replace("GET", "HEAD"), 400),
        (good.replace("GET", "POST"), 400),
    ] {
        let response = client.send(&request).try_response(request.starts_with("HEAD")).unwrap();
        assert_eq!(response.status, status, "{request}");
    }
    let body = good.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.send(body).response().status, 400);
    let mut backend = env.backend;
    assert!(backend.has_no_connection(), "the backend received no request");
    env.gateway.wait_for_metric("tunnels_open", 0.0);
}

#[test]
fn handshake_has_the_timeout_of_its_route() {
    let routes =
        "{/fast: {GET: public, timeout: 80ms}, /usual: {GET: public}, /slow: {GET: public, timeout: 60s}}";
    let yaml = format!("backend:\n  timeout: 300ms\nabilities: {{routes: {routes}}}\n");
    let mut env = TestEnv::builder().backend(ManualBackend::start()).yaml(&yaml).start();
    for (target, status) in [("/fast", 504), ("/usual", 504), ("/slow", 101)] {
        let mut client = env.gateway.client();
        client.send(handshake(target, None));
        let (mut backend, _) = env.backend.request();
        if status == 101 {
            thread::sleep(Duration::from_millis(900));
            backend.send(SWITCHED);
        }
        assert_eq!(client.response().status, status, "{target}");
    }
}

#[test]
fn other_upgrades_are_served_as_plain_requests() {
    let mut env = start("");
    for upgrade in ["h2c", "TLS/1.0, HTTP/1.1", "websockets", "foo/2"] {
        let mut client = env.gateway.client();
        let asked = handshake("/events", Some("1|reader"))
            .replace(
                "Upgrade: WebSocket",
                &format!("Upgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
            )
            .replace("keep-alive, Upgrade", "Upgrade, HTTP2-Settings");
        client.send(&asked);
        let (mut backend, request) = env.backend.request();
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(request.field(name), None, "{upgrade}");
        }
        // A backend that upgrades anyway causes a 502.
        backend.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 502);
        assert!(backend.until_close() < Duration::from_secs(1));
    }
    // The same over HTTP/1.0, which has no upgrades.
    let mut client = env.gateway.client();
    client.send(handshake("/events", Some("1|reader")).replace("HTTP/1.1", "HTTP/1.0"));
    let (mut backend, request) = env.backend.request();
    assert_eq!(request.field("upgrade"), None);
    backend.send(SWITCHED);
    assert_eq!(client.response().status, 502);
}

#[test]
fn invalid_101_response_is_502() {
    let mut env = start("");
    for answer in [
        SWITCHED.replace("xOo=", "xOO="),
        SWITCHED.replace("Upgrade: websocket", "Upgrade: h2c"),
        SWITCHED.replace("Upgrade: websocket", "Upgrade: websocket, h2c"),
        SWITCHED.replace("Upgrade: websocket\r\n", ""),
        SWITCHED.replace("Connection: Upgrade\r\n", ""),
        SWITCHED.replace("Sec-WebSocket-Accept", "X-Accept"),
    ] {
        let mut client = env.gateway.client();
        client.send(handshake("/events", Some("1|reader")));
        let (mut backend, _) = env.backend.request();
        backend.send(&answer).send("evil");
        let response = client.response();
        assert_eq!((response.status, response.text()), (502, r#"{"message":"Bad Gateway."}"#), "{answer}");
        assert!(backend.until_close() < Duration::from_secs(1), "{answer}");
        // The connection stays open.
        assert_eq!(client.get("/nowhere", Some("1|reader")).status, 403, "{answer}");
    }
    env.gateway.wait_for_metric("requests_total{status=\"502\",reason=\"backend_broken\"}", 6.0);
    env.gateway.wait_for_metric("backend_connections", 0.0);
}

/// A 101 has no body, whatever its fields say (RFC 9112 section 6.3): the fields are dropped.
#[test]
fn switching_protocols_with_body_fields_opens_a_tunnel() {
    let mut env = start("");
    for field in ["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut client = env.gateway.client();
        client.send(handshake("/events", Some("1|reader")));
        let (mut backend, _) = env.backend.request();
        let answer = SWITCHED.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        backend.send(&answer).send("first");
        let response = client.response();
        assert_eq!(response.status, 101, "{field}");
        assert_eq!(response.field("content-length"), None, "{field}");
        assert_eq!(response.field("transfer-encoding"), None, "{field}");
        client.send("ping");
        assert_eq!(backend.read(4), b"ping", "{field}");
        backend.send("pong");
        assert_eq!(read(&mut client, 9), b"firstpong", "{field}");
    }
}

/// RFC 6455 section 4.4.
#[test]
fn other_websocket_version_is_400_with_version_13() {
    let env = start("");
    let good = handshake("/events", Some("1|reader"));
    for (line, told) in [
        ("Sec-WebSocket-Version: 8\r\n", Some("13")),
        ("Sec-WebSocket-Version: 14\r\n", Some("13")),
        ("Sec-WebSocket-Version: 13, 8\r\n", Some("13")),
        ("Sec-WebSocket-Version:\r\n", Some("13")),
        ("", Some("13")),
        // Two lines of this field are refused as ambiguous.
        ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n", None),
    ] {
        let sent = good.replace("Sec-WebSocket-Version: 13\r\n", line);
        let response = env.gateway.client().send(sent).response();
        assert_eq!((response.status, response.text()), (400, r#"{"message":"Bad Request."}"#), "{line}");
        assert_eq!(response.field("sec-websocket-version"), told, "{line}");
    }
}

/// A client that gets a normal response to a handshake and sends tunnel data anyway is parsed as HTTP.
#[test]
fn bytes_after_a_failed_handshake_are_the_next_request() {
    let mut env = start("");
    let next = "GET /api/v2/items HTTP/1.1\r\nHost: a\r\n";
    for (failed, answer) in [
        (
            426,
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno",
        ),
        (200, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
    ] {
        for together in [true, false] {
            for (follows, status) in [
                (format!("{next}\r\n"), 401),
                (format!("{next}Authorization: Bearer 2|creator\r\n\r\n"), 403),
                (format!("{next}Authorization: Bearer 1|reader\r\n\r\n").replace("items", "%2e%2e"), 400),
                (String::from_utf8_lossy(FRAME).into_owned(), 400),
            ] {
                let context = format!("{failed}, {follows:?}");
                let mut client = env.gateway.client();
                let asked = handshake("/events", Some("1|reader"));
                if together {
                    client.send(asked + &follows);
                } else {
                    client.send(asked);
                }
                let (mut backend, _) = env.backend.request();
                if !together {
                    client.send(&follows[..5]);
                }
                assert!(backend.is_silent(Duration::from_millis(30)), "{context}");
                backend.send(answer);
                let response = client.response();
                assert_eq!((response.status, response.text()), (failed, "no"), "{context}");
                assert_eq!(response.field("upgrade"), None);
                if !together {
                    client.send(&follows[5..]);
                }
                assert_eq!(client.response().status, status, "{context}");
                assert!(backend.is_silent(Duration::from_millis(30)), "a byte was forwarded: {context}");
                // Closed at the backend, so that the next client gets a connection that the test accepts.
                drop(backend);
                env.gateway.wait_for_metric("backend_connections", 0.0);
            }
        }
    }
    // A valid handshake is served.
    let mut client = env.gateway.client();
    let again = handshake("/events", Some("1|reader"));
    client.send(again.clone() + &again + "early");
    let (mut backend, _) = env.backend.request();
    backend.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert_eq!(backend.request().target, "/events");
    backend.send(SWITCHED);
    assert_eq!(client.response().status, 101);
    assert_eq!(backend.read(5), b"early");
    assert_tunnel_works(&mut client, &mut backend);
}

#[test]
fn pipelined_handshake_opens_a_tunnel_after_earlier_responses() {
    let mut env = start("");
    let mut client = env.gateway.client();
    let first = "GET /open HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("{first}{first}{}", handshake("/events", Some("1|reader"))).as_bytes()).send(FRAME);
    let (mut backend, _) = env.backend.request();
    // Both responses exceed the socket buffers, and the client does not read them yet.
    let large = vec![b'x'; 4 << 20];
    let answer =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.len()).as_bytes(), &large].concat();
    thread::scope(|scope| {
        scope.spawn(|| {
            backend.send(&answer);
            assert_eq!(backend.request().target, "/open");
            backend.send(&answer);
            assert_eq!(backend.request().target, "/events");
            backend.send(SWITCHED).send(FRAME);
            assert_eq!(backend.read(FRAME.len()), FRAME);
        });
        thread::sleep(Duration::from_millis(300));
        for _ in 0..2 {
            assert!(client.response().body == large);
        }
        assert_eq!(client.response().status, 101);
        assert_eq!(read(&mut client, FRAME.len()), FRAME);
    });
    assert_tunnel_works(&mut client, &mut backend);
}
