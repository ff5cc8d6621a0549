//! What only HTTP/2 can express: targets with any bytes, and bodies without a length.

use super::{ITEMS, READER, start};
use crate::support::http2::{DATA, END_STREAM, Frame, Outcome, request};
use crate::support::proxies::{Kind, Protocol, Proxied};

const TARGETS: [&[u8]; 8] = [
    b"/api/v2/items/\xff\xfe",
    b"/api/v2/items/\xc3\xa9",
    b"/api/v2/items?include\xff=1",
    b"/api/v2/items?a=\xc3\xa9",
    b"/api/v2/items/a b",
    b"/api/v2/items?a=b c",
    b"/api/v2/items/\x7f",
    b"/api/v2/items#\xff",
];

/// Sends a head and the parts of a body, the last of which ends the stream. The status, if there is a response.
fn ask(proxied: &Proxied, fields: &[(Vec<u8>, Vec<u8>)], parts: &[&[u8]]) -> Option<u16> {
    let mut client = proxied.http2_client();
    let stream = client.open(fields, parts.is_empty());
    for (number, part) in parts.iter().enumerate() {
        let flags = if number + 1 == parts.len() { END_STREAM } else { 0 };
        // The response may arrive before the whole body is sent.
        let _ = client.try_send_bytes(Frame::new(DATA, flags, stream, *part).bytes());
    }
    match client.outcome(stream) {
        Outcome::Answer(response) => Some(response.status),
        _ => None,
    }
}

fn head(method: &str, target: &[u8], fields: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let token = format!("Bearer {READER}");
    let fields = [&[("authorization", &*token)], fields].concat();
    let all = request(method, "", &fields);
    let bytes = |(name, value): (&str, &str)| match name {
        ":path" => (name.into(), target.to_vec()),
        _ => (name.into(), value.into()),
    };
    all.into_iter().map(bytes).collect()
}

/// Asserts that a request that every proxy forwards arrives.
fn assert_arrives(proxied: &Proxied) {
    proxied.env.backend.take_requests();
    assert_eq!(ask(proxied, &head("GET", ITEMS.as_bytes(), &[]), &[]), Some(200), "{:?}", proxied.kind);
    assert_eq!(proxied.env.backend.take_requests().len(), 1, "{:?}", proxied.kind);
}

/// A proxy describes a target in fields or text, which cannot hold every byte.
pub(super) fn assert_targets(kind: Kind) {
    let proxied = start(kind, Protocol::Http2, "");
    for target in TARGETS {
        let context = target.escape_ascii().to_string();
        let status = ask(&proxied, &head("GET", target, &[]), &[]);
        let arrived = proxied.env.backend.take_requests();
        match (kind, &arrived[..]) {
            (_, []) => {
                assert!(status.is_none_or(|it| [400, 404].contains(&it)), "{kind:?} {context}: {status:?}");
            }
            // Write other bytes in percent-encodings before they describe the request.
            (Kind::Traefik | Kind::Caddy, [request]) => {
                let encoded = |byte: u8| match byte {
                    b'!'..=b'~' => char::from(byte).to_string(),
                    _ => format!("%{byte:02X}"),
                };
                let canonical: String = target.iter().copied().map(encoded).collect();
                assert_eq!(request.target, canonical, "{kind:?} {context}");
                assert_eq!(proxied.env.status(&canonical, READER), 200, "{kind:?} {context}");
                proxied.env.backend.take_requests();
            }
            other => panic!("{context}: {other:?}"),
        }
    }
    assert_arrives(&proxied);
}

/// No complete request arrives with a body that Laravel reads before the query.
pub(super) fn assert_bodies_of_get(kind: Kind) {
    let proxied = start(kind, Protocol::Http2, super::messages::QUERY);
    let preflight = [("origin", "https://shop.example"), ("access-control-request-method", "GET")];
    for method in ["GET", "HEAD", "OPTIONS"] {
        for (of_type, body) in [
            ("application/json", br#"{"include":"renters"}"#.as_slice()),
            ("application/x-www-form-urlencoded", b"include=renters"),
            ("application/json", b"1"),
        ] {
            let length = body.len().to_string();
            for (has_length, parts) in
                [(true, &[body][..]), (false, &[body]), (false, &[b"", body]), (false, &[b"", b""])]
            {
                let mut fields = vec![("content-type", of_type)];
                fields.extend(if method == "OPTIONS" { &preflight[..] } else { &[] });
                fields.extend(has_length.then_some(("content-length", &*length)));
                let status = ask(&proxied, &head(method, ITEMS.as_bytes(), &fields), parts);
                println!("{kind:?} {method} {of_type} {has_length} {} parts: {status:?}", parts.len());
                for request in proxied.env.backend.take_requests().iter().filter(|it| it.complete) {
                    // nginx removes the type instead, and Caddy can only limit the body to a byte.
                    let is_read = request.field("content-type").is_some() && request.body.len() > 1;
                    assert!(!is_read, "{kind:?} {method} {of_type} {parts:?}: {request:?}");
                    assert!(
                        request.body.is_empty() || matches!(kind, Kind::Nginx | Kind::Caddy),
                        "{kind:?}: {request:?}"
                    );
                }
            }
        }
    }
    assert_arrives(&proxied);
}
