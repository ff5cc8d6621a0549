//! Calls of the gRPC service: malformed ones, and other methods.

use super::{DECISION, ITEMS, READER, start};
use crate::support::RawClient;
use crate::support::decision::{Asker, CHECK, Checked, Style, call, called, check_request, frame, message};
use crate::support::http2::{Http2Client, request};

const ALLOWED: Checked<'static> = Checked {
    method: "GET",
    target: ITEMS,
    host: "stockaj.example",
    fields: &[(b"authorization", b"Bearer 2|reader")],
    source: None,
    raw: false,
};

/// `CheckRequest` with these bytes as `attributes.request.http`.
fn of_http(http: &[u8]) -> Vec<u8> {
    message(1, message(4, message(2, http)))
}

#[test]
fn malformed_call_has_a_status_other_than_success() {
    let env = start(DECISION);
    let address = env.decision();
    let well_formed = check_request(&ALLOWED);
    assert!(called(&call(&mut Http2Client::connect(address), CHECK, &frame(&well_formed))).is_allowed());
    let fields = |entry: Vec<u8>| {
        let http = [message(2, "GET"), message(4, ITEMS), message(5, "stockaj.example"), entry].concat();
        frame(&of_http(&http))
    };
    let header = |name: &str, value: &str| [message(1, name), message(2, value)].concat();
    let raw = |inner: Vec<u8>| message(13, message(1, inner));
    let both_values = [message(1, "a"), message(2, "b"), message(3, "c")].concat();
    for (name, body, expected) in [
        ("nothing", Vec::new(), 3),
        ("half a prefix", vec![0, 0], 3),
        ("an empty message", frame(&[]), 3),
        ("less than announced", frame(&well_formed)[..40].to_vec(), 3),
        ("more than announced", [frame(&well_formed), vec![0]].concat(), 3),
        ("two messages", [frame(&well_formed), frame(&well_formed)].concat(), 3),
        ("no protobuf", frame(b"\xff\xff\xff"), 3),
        ("text that is not UTF-8", frame(&of_http(&message(2, b"\xff"))), 3),
        ("attributes without a request", frame(&message(1, [])), 3),
        ("a request without http", frame(&message(1, message(4, []))), 3),
        ("a compressed message", [&[1], &frame(&well_formed)[1..]].concat(), 12),
        ("another method in a pseudo-field", fields(message(3, header(":method", "PUT"))), 3),
        ("another path in a pseudo-field", fields(message(3, header(":path", "/up"))), 3),
        ("another host in a pseudo-field", fields(message(3, header(":authority", "other"))), 3),
        ("a name with a space", fields(message(3, header("a b", "c"))), 3),
        ("a value with a line feed", fields(message(3, header("a", "b\nc: d"))), 3),
        (
            "fields in two places",
            fields([message(3, header("a", "b")), raw(header("authorization", "Bearer 2|reader"))].concat()),
            3,
        ),
        ("a field with two values", fields(raw(both_values)), 3),
        ("too long a message", frame(&of_http(&message(11, vec![b'a'; 64 * 1024]))), 8),
        ("an endless message", vec![b'a'; 80 * 1024], 8),
    ] {
        let decision = called(&call(&mut Http2Client::connect(address), CHECK, &body));
        let expected = if name == "an endless message" { [3, 12, 8].to_vec() } else { vec![expected] };
        assert!(decision.code.is_some_and(|code| expected.contains(&code)), "{name}: {decision:?}");
    }
    env.gateway.wait_for_log(|line| {
        line["message"] == "request" && line["method"] == "other" && line["reason"] == "bad_request"
    });
    assert!(env.introspector.calls() <= 1);
}

#[test]
fn ambiguous_request_in_a_call_is_denied() {
    let env = start(DECISION);
    let mut client = Http2Client::connect(env.decision());
    for checked in [
        Checked { method: "", ..ALLOWED },
        Checked { method: "TRACE", ..ALLOWED },
        Checked { target: "", ..ALLOWED },
        Checked { target: "/api/v2/items#x", ..ALLOWED },
        Checked { target: "//api/v2/items", ..ALLOWED },
        Checked { target: "/api/v2/items/", ..ALLOWED },
        Checked { host: "", ..ALLOWED },
        Checked { host: "a b", ..ALLOWED },
        Checked { fields: &[(b"host", b"other.example")], ..ALLOWED },
        Checked { fields: &[(b"content-length", b"x")], ..ALLOWED },
    ] {
        let context = format!("{:?} {:?} {:?}", checked.method, checked.target, checked.host);
        let decision = called(&call(&mut client, CHECK, &frame(&check_request(&checked))));
        assert_eq!((decision.status, decision.code), (400, Some(3)), "{context}: {decision:?}");
        assert_eq!(decision.body, r#"{"message":"Bad Request."}"#);
    }
    let many: Vec<(Vec<u8>, Vec<u8>)> =
        (0..150).map(|number| (format!("x-{number}").into_bytes(), b"a".to_vec())).collect();
    let many: Vec<(&[u8], &[u8])> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    for raw in [false, true] {
        let checked = Checked { fields: &many, raw, ..ALLOWED };
        assert_eq!(called(&call(&mut client, CHECK, &frame(&check_request(&checked)))).status, 431);
    }
}

#[test]
fn other_method_is_unimplemented() {
    let env = start(DECISION);
    let mut client = Http2Client::connect(env.decision());
    let body = frame(&check_request(&ALLOWED));
    let other = "/envoy.service.auth.v3.Authorization/Other";
    assert_eq!(called(&call(&mut client, other, &body)).code, Some(12));
    // Not calls, whatever their type: a response with status 200 would allow a request over HTTP.
    for path in ["/envoy.service.auth.v2.Authorization/Check", "/grpc.health.v1.Health/Check", "/", ITEMS] {
        let response = call(&mut client, path, &body);
        assert_eq!(
            (response.status, response.field("content-type")),
            (400, Some("application/json")),
            "{path}"
        );
    }
    for media_type in ["application/grpc+json", "application/grpc-web", "application/json"] {
        let fields = [("content-type", media_type)];
        assert_eq!(client.request("POST", CHECK, &fields, &body).answer().status, 400, "{media_type}");
    }
    let fields = [("content-type", "application/grpc")];
    assert_eq!(client.request("GET", CHECK, &fields, b"").answer().status, 400);
    assert_eq!(RawClient::connect(env.decision()).request("POST", CHECK, &fields, &body).status, 400);
}

#[test]
fn message_may_arrive_in_pieces() {
    let env = start(DECISION);
    let mut client = Http2Client::connect(env.decision());
    let body = frame(&check_request(&ALLOWED));
    for size in [1, 7, 100] {
        let fields = [("content-type", "application/grpc+proto"), ("te", "trailers")];
        let stream = client.open(&request("POST", CHECK, &fields), false);
        for piece in body.chunks(size) {
            client.data(stream, piece, false);
        }
        client.data(stream, b"", true);
        assert!(called(&client.outcome(stream).answer()).is_allowed(), "{size}");
    }
}

#[test]
fn message_that_does_not_arrive_in_time_has_a_deadline() {
    let env = start(&format!("{DECISION}limits: {{header_timeout: 300ms}}\n"));
    let mut client = Http2Client::connect(env.decision());
    let stream = client.open(&request("POST", CHECK, &[("content-type", "application/grpc")]), false);
    client.data(stream, &frame(&check_request(&ALLOWED))[..20], false);
    assert_eq!(called(&client.outcome(stream).answer()).code, Some(4));
}

#[test]
fn calls_of_one_connection_are_decided_independently() {
    let env = start(DECISION);
    let mut client = Http2Client::connect(env.decision());
    let body = |target, token: &str| {
        let value = format!("Bearer {token}");
        let fields: &[(&[u8], &[u8])] = &[(b"authorization", value.as_bytes())];
        frame(&check_request(&Checked { target, fields, ..ALLOWED }))
    };
    let calls = [
        (body(ITEMS, READER), 200),
        (body("/api/v2/me", "8|nobody"), 401),
        (body("/api/v2/internal", READER), 403),
        (body("/up", READER), 200),
    ];
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let streams: Vec<(u32, u16)> = calls
        .iter()
        .map(|(body, status)| {
            let stream = client.open(&request("POST", CHECK, &fields), false);
            client.data(stream, body, true);
            (stream, *status)
        })
        .collect();
    for (stream, status) in streams.into_iter().rev() {
        assert_eq!(called(&client.outcome(stream).answer()).status, status);
    }
}

#[test]
fn forwarding_fields_count_only_from_trusted_sources() {
    let yaml = "limits: {requests_per_address: 2}\nlisten:\n  trusted_proxies: [192.0.2.7]\n";
    let env = start(&format!("{DECISION}{yaml}"));
    let mut asker = Asker::connect(env.decision(), Style::Grpc);
    let mut ask = |source: &str, reported: &str| {
        asker.source = Some(source.parse().unwrap());
        let status = asker.ask("GET", "/up", &[("x-forwarded-for", reported)]).status;
        let client = env.gateway.wait_for_log(|line| line["message"] == "request")["client"].clone();
        (status, client)
    };
    // A client cannot choose its address.
    assert_eq!([ask("198.51.100.1", "203.0.113.1").0, ask("198.51.100.1", "203.0.113.2").0], [200, 200]);
    assert_eq!(ask("198.51.100.1", "203.0.113.3").0, 429);
    // The clients of a trusted proxy have their own.
    for reported in ["203.0.113.4", "203.0.113.5", "203.0.113.6"] {
        assert_eq!(ask("192.0.2.7", reported).0, 200, "{reported}");
    }
}
