//! A head with a field that h2 drops gets 400, however it is encoded and whatever frames surround it.

use httlib_hpack::Encoder;

use super::{client, h2c};
use crate::support::Response;
use crate::support::http2::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, Http2Client, Outcome, PADDED,
    PROTOCOL_ERROR, WITH_PRIORITY, literals, request,
};

/// A header block of these fields, each with flags that choose its encoding.
fn encode(encoder: &mut Encoder<'_>, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        encoder.encode((name.as_bytes().to_vec(), value.as_bytes().to_vec(), flags), &mut block).unwrap();
    }
    block
}

fn send(client: &mut Http2Client, block: &[u8]) -> Response {
    let stream = client.next_stream();
    client.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, block));
    client.outcome(stream).answer()
}

fn assert_rejected(response: &Response, context: &str) {
    assert_eq!((response.status, response.text()), (400, r#"{"message":"Bad Request."}"#), "{context}");
    assert_eq!(response.field("content-type"), Some("application/json"), "{context}");
    assert!(response.field("x-request-id").is_some(), "{context}");
}

#[test]
fn fragment_in_path_is_rejected_in_every_encoding_and_the_connection_goes_on() {
    let env = h2c("");
    let mut rejected = 0.0;
    for flags in 0..32 {
        let mut client = client(&env);
        let mut encoder = Encoder::with_dynamic_size(4096);
        // The second of two equal fields is an index to the first if the flags say so.
        for (path, status) in [
            ("/up", 200),
            ("/up#x", 400),
            ("/up#x", 400),
            ("/up?a#/../api", 400),
            ("/up", 200),
            ("/up?a=%23", 200),
            ("/up#", 400),
        ] {
            let fields = request("GET", path, &[("referer", "http://a/#b"), ("x-own", "a#b")]);
            let response = send(&mut client, &encode(&mut encoder, &fields, flags));
            assert_eq!(response.status, status, "{path} with flags {flags:x}");
            if status == 400 {
                assert_rejected(&response, path);
                rejected += 1.0;
            }
        }
    }
    let targets: Vec<String> = env.backend.take_requests().into_iter().map(|it| it.target).collect();
    assert_eq!(targets, ["/up", "/up", "/up?a=%23"].repeat(32));
    env.gateway
        .wait_for_metric("requests_total{reason=\"bad_request\",route=\"none\",status=\"400\"}", rejected);
}

/// RFC 7541 section 6.2.1: a name may be an index to an inserted field.
#[test]
fn fragment_in_path_is_rejected_for_a_dynamic_table_name() {
    let env = h2c("");
    let mut client = client(&env);
    let others = [(":method", "GET"), (":scheme", "http"), (":authority", "a")];
    let rest = literals(&others);
    let path = |first: u8, value: &str| [&[first, value.len() as u8][..], value.as_bytes()].concat();
    for (field, status) in [
        // Inserted under the static name, then under the name of that entry, then not inserted, then by its index.
        (path(0x44, "/up"), 200),
        (path(0x40 | 62, "/up#a"), 400),
        (
            path(0x0f, "")
                .into_iter()
                .take(1)
                .chain([62 - 15])
                .chain(path(0, "/up#b").into_iter().skip(1))
                .collect(),
            400,
        ),
        (vec![0x80 | 62], 400),
        (vec![0x80 | 63], 200),
        ([&[0x7f, 0][..], &path(0, "/up")[1..]].concat(), 200),
        (vec![0x80 | 63], 400),
    ] {
        assert_eq!(send(&mut client, &[&field[..], &rest].concat()).status, status, "{field:x?}");
    }
}

#[test]
fn fragment_in_path_is_rejected_in_every_framing() {
    let env = h2c("");
    let block = literals(&request("GET", "/up#a", &[]));
    let whole = END_HEADERS | END_STREAM;
    for cut in 0..=block.len() {
        let mut client = client(&env);
        let stream = client.next_stream();
        let frames = [
            Frame::new(HEADERS, END_STREAM, stream, &block[..cut]),
            Frame::new(CONTINUATION, 0, stream, []),
            Frame::new(CONTINUATION, END_HEADERS, stream, &block[cut..]),
        ];
        client.send_bytes(frames.map(|frame| frame.bytes()).concat());
        assert_rejected(&client.outcome(stream).answer(), &format!("cut after {cut}"));
        assert_eq!(client.get("/up", None).status, 200, "cut after {cut}");
    }
    let priority = [0x80, 0, 0, 0, 7];
    for (flags, payload) in [
        (PADDED, [&[3][..], &block, b"###"].concat()),
        (WITH_PRIORITY, [&priority[..], &block].concat()),
        (PADDED | WITH_PRIORITY, [&[1][..], &priority, &block, b"#"].concat()),
    ] {
        let mut client = client(&env);
        let stream = client.next_stream();
        client.send(&Frame::new(HEADERS, whole | flags, stream, payload));
        assert_rejected(&client.outcome(stream).answer(), &format!("flags {flags:x}"));
    }
    // Padding is not part of a header block.
    let mut client = client(&env);
    let stream = client.next_stream();
    let padded = [&[3][..], &literals(&request("GET", "/up", &[])), b"###"].concat();
    client.send(&Frame::new(HEADERS, whole | PADDED, stream, padded));
    assert_eq!(client.outcome(stream).answer().status, 200);
}

/// Requests sent together are distinguished wherever the bytes are split.
#[test]
fn request_with_a_fragment_is_rejected_alone() {
    let env = h2c("");
    for size in [usize::MAX, 1, 7, 100] {
        let mut client = client(&env);
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for number in 0..24 {
            let stream = client.next_stream();
            let is_rejected = matches!(number % 6, 1 | 2 | 5);
            let path = format!("/up?{number}{}", if is_rejected { "#a" } else { "" });
            let has_body = number % 4 == 3;
            let block = literals(&request("GET", &path, &[]));
            let flags = if has_body { END_HEADERS } else { END_HEADERS | END_STREAM };
            bytes.extend(Frame::new(HEADERS, flags, stream, block).bytes());
            if has_body {
                bytes.extend(Frame::new(DATA, END_STREAM, stream, *b"body").bytes());
            }
            expected.push((stream, number, if is_rejected { 400 } else { 200 }));
        }
        for piece in bytes.chunks(size) {
            client.send_bytes(piece);
        }
        for (stream, number, status) in &expected {
            assert_eq!(client.outcome(*stream).answer().status, *status, "{number} in pieces of {size}");
        }
        let mut arrived: Vec<String> =
            env.backend.take_requests().into_iter().map(|request| request.target).collect();
        arrived.sort();
        let good = expected.iter().filter(|(.., status)| *status == 200);
        let mut targets: Vec<String> = good.map(|(_, number, _)| format!("/up?{number}")).collect();
        targets.sort();
        assert_eq!(arrived, targets, "in pieces of {size}");
    }
}

/// A head whose fragment does not become a request leaves the next request unchanged.
#[test]
fn request_after_a_refused_head_with_a_fragment_is_served() {
    let env = h2c("");
    let block = literals(&request("GET", "/up#a", &[]));
    let twice = literals(&[&request("GET", "/up#a", &[])[..], &[(":path", "/up#a")]].concat());
    let self_dependent = |stream: u32| [&stream.to_be_bytes()[..], &[9], &block].concat();
    let whole = END_HEADERS | END_STREAM;
    for (name, frames) in [
        ("reset", [Frame::new(HEADERS, END_HEADERS, 1, &block[..]), Frame::reset(1, CANCEL)].to_vec()),
        ("two paths", vec![Frame::new(HEADERS, whole, 1, twice)]),
        ("depends on itself", vec![Frame::new(HEADERS, whole | WITH_PRIORITY, 1, self_dependent(1))]),
    ] {
        let mut client = client(&env);
        client.next_stream();
        let next = Frame::new(HEADERS, whole, 3, literals(&request("GET", "/up", &[])));
        let bytes = frames.iter().chain([&next]).flat_map(Frame::bytes).collect::<Vec<u8>>();
        client.send_bytes(bytes);
        assert_eq!(client.outcome(3).answer().status, 200, "{name}");
        assert_eq!(env.backend.take_requests().len(), 1, "{name}");
    }
}

/// h2 drops the scheme of a request without `:authority`.
#[test]
fn unserved_scheme_is_rejected_without_an_authority() {
    let env = h2c("");
    for (scheme, status) in
        [("http", 200), ("https", 200), ("ftp", 400), ("HTTP", 400), ("httpx", 400), ("h", 400)]
    {
        for authority in [":authority", "host"] {
            for flags in [0, Encoder::HUFFMAN_VALUE, Encoder::WITH_INDEXING | Encoder::HUFFMAN_NAME] {
                let fields = [(":method", "GET"), (":path", "/up"), (":scheme", scheme), (authority, "a")];
                let mut encoder = Encoder::default();
                let response = send(&mut client(&env), &encode(&mut encoder, &fields, flags));
                assert_eq!(response.status, status, "{scheme} with {authority}, flags {flags:x}");
            }
        }
    }
}

/// A head that h2 rejects itself keeps its own error even if it has fields that h2 drops.
#[test]
fn malformed_requests_with_a_fragment_are_reset() {
    let env = h2c("");
    for fields in [
        request("GET", "/up#a", &[("connection", "close")]),
        request("GET", "/up#a", &[("te", "gzip")]),
        request("GET", "up#a", &[]),
    ] {
        let mut client = client(&env);
        let stream = client.open(&fields, true);
        assert!(matches!(client.outcome(stream), Outcome::Reset(PROTOCOL_ERROR)), "{fields:?}");
        assert_eq!(client.get("/up", None).status, 200, "{fields:?}");
    }
}
