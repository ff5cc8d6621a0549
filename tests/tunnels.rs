//! WebSocket: what becomes a tunnel, what does not, and how long a tunnel lives.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::support::by_hand::{ByHand, Held};
use crate::support::env::TestEnvBuilder;
use crate::support::{Answer, Authority, RawClient, Request, TestEnv, Verdict};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const MAP: &str = "\
abilities:
  routes:
    /open:         {GET: public}
    /events:       {GET: items:read}
    /api/v2/items: {GET: items:read, POST: items:create}
";
const FRAME: &[u8] = b"\x81\x05hello\r\n\r\n\0";

fn start(yaml: &str) -> TestEnv<ByHand> {
    builder(yaml).start()
}

fn builder(yaml: &str) -> TestEnvBuilder<ByHand> {
    let builder = TestEnv::builder().backend(ByHand::start()).yaml(MAP).yaml(yaml);
    builder.token("1|reader", &["items:read"]).token("2|creator", &["items:create"])
}

impl TestEnv<ByHand> {
    /// A tunnel from a client to the backend.
    fn tunnel(&mut self, target: &str, token: Option<&str>) -> (RawClient, Held) {
        let (client, backend, _) = self.tunnel_after(handshake(target, token));
        (client, backend)
    }

    fn tunnel_after(&mut self, handshake: String) -> (RawClient, Held, Request) {
        let mut client = self.gateway.client();
        client.send(handshake);
        let (mut backend, request) = self.backend.request();
        backend.send(SWITCHED);
        assert_eq!(client.response().status, 101);
        (client, backend, request)
    }

    /// The access line of the only tunnel.
    fn tunnel_line(&self) -> serde_json::Value {
        self.gateway.wait_for_log(|line| line["message"] == "request" && line["status"] == 101)
    }
}

fn handshake(target: &str, token: Option<&str>) -> String {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "GET {target} HTTP/1.1\r\nHost: stockaj.example\r\n{authorization}Connection: keep-alive, Upgrade\r\n\
         Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

fn echoes(client: &mut RawClient, backend: &mut Held) {
    client.send(FRAME);
    assert_eq!(backend.read(FRAME.len()), FRAME);
    backend.send(FRAME);
    assert_eq!(read(client, FRAME.len()), FRAME);
}

fn read(client: &mut RawClient, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let some = client.read_some();
        assert!(!some.is_empty(), "closed after {bytes:?}");
        bytes.extend(some);
    }
    bytes
}

fn in_seconds(seconds: f64) -> f64 {
    (SystemTime::now() + Duration::from_secs_f64(seconds)).duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

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
        assert!(backend.is_silent(Duration::from_millis(200)), "nobody knows yet what is too soon");
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
            echoes(&mut client, &mut backend);
        }
        let metrics = env.gateway.metrics();
        assert_eq!(metrics.metric("tunnels_open"), 1.0);
        assert_eq!(metrics.metric("client_connections{state=\"active\"}"), 1.0);
        env.gateway.wait_for_metric("backend_connections{state=\"active\"}", 1.0);
        assert_eq!(metrics.metric("requests_total"), 0.0, "it has not ended yet");
        // Who has said all may still be spoken to, both ways.
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
    // In this order over one connection: a refused handshake leaves it as it was.
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
    assert!(backend.has_no_connection(), "nobody asked the backend");
    env.gateway.wait_for_metric("tunnels_open", 0.0);
}

/// Until the map is enforced, or the token has expired.
#[test]
fn tunnel_permitted_by_shadow_mode_stays_open() {
    for authentication in [false, true] {
        let mut env = start(&format!("mode: shadow\nshadow_authentication: {authentication}\n"));
        let end = in_seconds(1.5);
        env.introspector.know("3|short", Verdict::active(&["items:create"]).expiring(end));
        let mut tunnels =
            vec![env.tunnel("/events", Some("2|creator")), env.tunnel("/nowhere", Some("1|reader"))];
        let (mut expiring, backend) = env.tunnel("/nowhere", Some("3|short"));
        if authentication {
            tunnels.push(env.tunnel("/events", None));
            tunnels.push(env.tunnel("/nowhere", Some("9|unknown")));
            thread::sleep(Duration::from_millis(3000));
            tunnels.push((expiring, backend));
        } else {
            assert_eq!(expiring.read_until_close(), b"", "with its token, as ever");
        }
        // They were decided anew meanwhile.
        for (client, backend) in &mut tunnels {
            echoes(client, backend);
        }
        env.gateway.edit("mode: shadow", "mode: enforce");
        assert!(env.gateway.reload());
        for (mut client, _backend) in tunnels {
            assert_eq!(client.read_until_close(), b"");
        }
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
        // And a backend that makes it all the same is not believed.
        backend.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 502);
        assert!(backend.until_close() < Duration::from_secs(1));
    }
    // The same of HTTP/1.0, which has no upgrades.
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
        // The connection goes on.
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
fn other_websocket_version_is_426_with_version_13() {
    let env = start("");
    let good = handshake("/events", Some("1|reader"));
    for (line, told) in [
        ("Sec-WebSocket-Version: 8\r\n", Some("13")),
        ("Sec-WebSocket-Version: 14\r\n", Some("13")),
        ("Sec-WebSocket-Version: 13, 8\r\n", Some("13")),
        ("Sec-WebSocket-Version:\r\n", Some("13")),
        ("", Some("13")),
        // Two lines are refused as ambiguous.
        ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n", None),
    ] {
        let sent = good.replace("Sec-WebSocket-Version: 13\r\n", line);
        let response = env.gateway.client().send(sent).response();
        assert_eq!((response.status, response.text()), (400, r#"{"message":"Bad Request."}"#), "{line}");
        assert_eq!(response.field("sec-websocket-version"), told, "{line}");
    }
}

/// Who gets an ordinary answer to a handshake, and takes the connection for a tunnel all the same, speaks HTTP.
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
                assert!(backend.is_silent(Duration::from_millis(30)), "not a byte of it: {context}");
                // Closed at the backend, so that the next client gets a connection that the test accepts.
                drop(backend);
                env.gateway.wait_for_metric("backend_connections", 0.0);
            }
        }
    }
    // And one that is good is served.
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
    echoes(&mut client, &mut backend);
}

#[test]
fn pipelined_handshake_opens_a_tunnel_after_earlier_responses() {
    let mut env = start("");
    let mut client = env.gateway.client();
    let first = "GET /open HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("{first}{first}{}", handshake("/events", Some("1|reader"))).as_bytes()).send(FRAME);
    let (mut backend, _) = env.backend.request();
    // Both answers are larger than what is sent at once, and nobody reads them yet.
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
    echoes(&mut client, &mut backend);
}

/// From `change` on; the contract says 5 s.
fn closes_within_5_s(client: &mut RawClient, backend: &mut Held, what: &str) -> Duration {
    let began = Instant::now();
    assert_eq!(client.read_until_close(), b"", "{what}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{what}: {took:?}");
    assert!(backend.until_close() < Duration::from_secs(1), "{what}");
    took
}

#[test]
fn tunnel_closes_when_its_token_becomes_inactive() {
    type Change = fn(&TestEnv<ByHand>);
    let cases: [(&str, &str, &str, Change); 5] = [
        ("expired", "cache: {ttl: 1h}\n", "expired_token", |_| {}),
        ("unknown by now", "cache: {ttl: 1s}\n", "inactive_token", |env| env.introspector.forget("1|reader")),
        ("without the ability", "cache: {ttl: 1s}\n", "missing_ability", |env| {
            env.introspector.know("1|reader", Verdict::active(&["items:create"]));
        }),
        ("without a verdict", "cache: {ttl: 1s}\n", "no_verdict", |env| {
            env.introspector.fail_with(Answer::message(500, "Server Error"));
        }),
        ("with an introspector that hangs", "cache: {ttl: 1s}\n", "no_verdict", |env| {
            env.introspector.fail_with(Answer::hang());
        }),
    ];
    thread::scope(|scope| {
        for (what, yaml, reason, change) in cases {
            scope.spawn(move || {
                let mut env = start(yaml);
                if what == "expired" {
                    let verdict = Verdict::active(&["items:read"]).expiring(in_seconds(2.5).round());
                    env.introspector.know("1|reader", verdict);
                }
                let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
                echoes(&mut client, &mut backend);
                change(&env);
                closes_within_5_s(&mut client, &mut backend, what);
                let line = env.tunnel_line();
                assert_eq!(line["reason"], reason, "{what}");
                assert_eq!(line["detail"], "the request of the tunnel would be refused now");
                let closed = |line: &serde_json::Value| {
                    line["message"] == "tunnel closed: its request would be refused now"
                        && line["reason"] == reason
                };
                assert_eq!(env.gateway.wait_for_log(closed)["request_id"], line["request_id"]);
                let metric = format!("requests_total{{status=\"101\",reason=\"{reason}\"}}");
                env.gateway.wait_for_metric(&metric, 1.0);
                env.gateway.wait_for_metric("tunnels_open", 0.0);
            });
        }
    });
}

/// Whatever introspection says by now: who revokes a token at night wants its connections gone.
#[test]
fn revocation_closes_the_tunnels_of_a_token() {
    let mut env = start("cache: {ttl: 1h}\nadmin:\n  token: an-operators-token\n");
    env.introspector.know("3|other", Verdict::active(&["items:read"]));
    let (mut revoked, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut other, mut other_backend) = env.tunnel("/events", Some("3|other"));
    assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"token":"1|reader"}"#).status, 200);
    closes_within_5_s(&mut revoked, &mut backend, "revoked");
    let line = env.tunnel_line();
    assert_eq!(
        (&line["reason"], &line["detail"]),
        (&"inactive_token".into(), &"the tunnel's token was revoked".into())
    );
    echoes(&mut other, &mut other_backend);
    let (mut again, mut backend) = env.tunnel("/events", Some("1|reader"));
    echoes(&mut again, &mut backend);
}

/// Whoever revokes while a tunnel is being decided anew is not overtaken by a verdict that is younger.
#[test]
fn revocation_during_introspection_closes_the_tunnel() {
    let yaml = "cache: {ttl: 1h, max_age: {items:read: 0s}}\nadmin:\n  token: an-operators-token\n";
    let mut env = start(yaml);
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let calls = env.introspector.calls();
    env.introspector.delay(Duration::from_millis(500));
    env.introspector.wait_for_calls(calls + 1);
    assert_eq!(env.operator("POST", "/tokens/revoke", r#"{"id":"1"}"#).status, 200);
    closes_within_5_s(&mut client, &mut backend, "revoked");
    assert_eq!(env.tunnel_line()["detail"], "the tunnel's token was revoked");
}

#[test]
fn tunnel_stays_open_while_its_request_is_permitted() {
    let yaml = "cache: {ttl: 1s, stale_if_error: 1h}\n";
    let mut env = start(yaml);
    let began = Instant::now();
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut guest, mut guests) = env.tunnel("/open", None);
    let (mut other, mut others) = env.tunnel("/open", Some("9|unknown"));
    // Asked again, and answered as before; other abilities are more; then nobody answers.
    thread::sleep(Duration::from_millis(1500));
    echoes(&mut client, &mut backend);
    env.introspector.know("1|reader", Verdict::active(&["*"]));
    thread::sleep(Duration::from_millis(1500));
    echoes(&mut client, &mut backend);
    let calls = env.introspector.calls_for("1|reader") as f64;
    let lives = began.elapsed().as_secs_f64();
    assert!(
        (3.0..=2.0 * lives + 2.0).contains(&calls),
        "{calls} introspections in {lives} s of a ttl of 1 s"
    );
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(2500));
    echoes(&mut client, &mut backend);
    echoes(&mut guest, &mut guests);
    echoes(&mut other, &mut others);
    assert_eq!(env.introspector.calls_for("9|unknown"), 0);
    assert_eq!(env.gateway.metrics().metric("tunnels_open"), 3.0);
}

#[test]
fn tunnels_of_one_token_share_an_introspection() {
    let mut env = start("cache: {ttl: 1s}\n");
    let began = Instant::now();
    let mut tunnels: Vec<_> = (0..20).map(|_| env.tunnel("/events", Some("1|reader"))).collect();
    thread::sleep(Duration::from_millis(3000));
    for (client, backend) in &mut tunnels {
        echoes(client, backend);
    }
    let calls = env.introspector.calls_for("1|reader") as f64;
    let lives = began.elapsed().as_secs_f64();
    assert!(calls <= 2.0 * lives + 2.0, "{calls} introspections for 20 tunnels in {lives} s of a ttl of 1 s");
}

#[test]
fn reloaded_map_decides_open_tunnels() {
    let mut env = start("");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (mut guest, mut guests) = env.tunnel("/open", None);
    env.gateway.edit("/api/v2/items: {", "/api/v2/items/{id}: {");
    assert!(env.gateway.reload());
    thread::sleep(Duration::from_millis(1500));
    echoes(&mut client, &mut backend);
    echoes(&mut guest, &mut guests);
    env.gateway.edit("/events:       {GET: items:read}", "/events:       {GET: items:create}");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut client, &mut backend, "another requirement");
    echoes(&mut guest, &mut guests);
    env.gateway.edit("/open:         {GET: public}", "/open:         {GET: authenticated}");
    assert!(env.gateway.reload());
    closes_within_5_s(&mut guest, &mut guests, "not public any more");
}

#[test]
fn idle_tunnel_is_closed() {
    let mut env =
        start("limits: {tunnel_idle_timeout: 800ms, idle_timeout: 300ms, body_idle_timeout: 300ms}\n");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    // Either side keeps it open.
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(500));
        client.send("a");
        assert_eq!(backend.read(1), b"a");
    }
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(500));
        backend.send("b");
        assert_eq!(client.read_some(), b"b");
    }
    let began = Instant::now();
    assert_eq!(client.read_until_close(), b"");
    let took = began.elapsed().as_millis();
    assert!((750..2500).contains(&took), "{took} ms");
    assert!(backend.until_close() < Duration::from_secs(1));
    let line = env.tunnel_line();
    assert_eq!(
        (&line["reason"], &line["detail"]),
        (&"limited".into(), &"the tunnel was idle for too long".into())
    );
}

#[test]
fn tunnel_closes_with_either_side() {
    let mut env = start("");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    echoes(&mut client, &mut backend);
    drop(client);
    assert!(backend.until_close() < Duration::from_secs(2));
    drop(backend);
    let (mut client, backend) = env.tunnel("/events", Some("1|reader"));
    drop(backend);
    let began = Instant::now();
    assert_eq!(client.read_until_close(), b"");
    assert!(began.elapsed() < Duration::from_secs(2));
    drop(client);
    for metric in ["tunnels_open", "client_connections", "backend_connections"] {
        env.gateway.wait_for_metric(metric, 0.0);
    }
    env.gateway.wait_for_metric("requests_total{status=\"101\",reason=\"allowed\"}", 2.0);
}

#[test]
fn backpressure_of_either_side_passes_through_a_tunnel() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 1024;
    let mut env = start("");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let before = env.gateway.resident_memory();
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in 0..PIECES {
                backend.send(vec![piece as u8; PIECE]);
            }
        });
        thread::sleep(Duration::from_millis(700));
        let grown = env.gateway.resident_memory().saturating_sub(before);
        assert!(grown < 2 << 20, "{grown} bytes are held for a client that does not read");
        for piece in 0..PIECES {
            let came = read_exactly(&mut client, PIECE);
            assert!(came.iter().all(|&byte| byte == piece as u8), "piece {piece}");
        }
    });
    echoes(&mut client, &mut backend);
}

fn read_exactly(client: &mut RawClient, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes);
    bytes
}

#[test]
fn drain_keeps_tunnels_open_until_its_timeout() {
    let mut env = start("listen:\n  drain_timeout: 1500ms\n");
    let (mut client, mut backend) = env.tunnel("/events", Some("1|reader"));
    let (gone, mut left) = env.tunnel("/open", None);
    env.gateway.signal(Signal::TERM);
    let began = Instant::now();
    drop(gone);
    assert!(left.until_close() < Duration::from_secs(1));
    drop(left);
    while began.elapsed() < Duration::from_millis(1000) {
        echoes(&mut client, &mut backend);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.read_until_close(), b"");
    assert_eq!(env.gateway.wait_exit(Duration::from_secs(3)).code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1450) && took < Duration::from_secs(4), "{took:?}");
    let cut = |line: &String| line.contains("drain timed out") && line.contains("\"connections\":1");
    assert!(env.gateway.logs().iter().any(cut), "{:#?}", env.gateway.logs());
    let ended = |line: &&String| line.contains("\"status\":101");
    assert_eq!(env.gateway.logs().iter().filter(ended).count(), 2);
}

#[test]
fn drain_ends_with_its_last_tunnel() {
    let mut env = start("listen:\n  drain_timeout: 1m\n");
    let (client, mut backend) = env.tunnel("/events", Some("1|reader"));
    env.gateway.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    drop(client);
    assert!(backend.until_close() < Duration::from_secs(1));
    drop(backend);
    assert_eq!(env.gateway.wait_exit(Duration::from_secs(3)).code(), Some(0));
}

#[test]
fn tunnel_counts_towards_max_connections() {
    let mut env = start("backend:\n  max_connections: 1\n  connect_timeout: 300ms\n");
    let (client, mut backend) = env.tunnel("/events", Some("1|reader"));
    assert_eq!(env.gateway.get("/open", None).status, 503, "there is no other");
    drop(client);
    backend.until_close();
    drop(backend);
    env.gateway.wait_for_metric("backend_connections", 0.0);
    let mut client = env.gateway.client();
    client.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut backend, _) = env.backend.request();
    backend.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.response().status, 204);
}
