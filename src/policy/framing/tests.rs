use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { head: 200, fields: 4, target: 40 };

/// The number of clear bytes if all bytes are scanned at once, and the fault.
fn at_once(bytes: &[u8]) -> (usize, Option<FramingFault>) {
    let Scan { clear, fault } = Scanner::new(BOUNDS).scan(bytes);
    (clear, fault)
}

/// The same if the bytes are scanned in pieces of these lengths, repeated.
fn in_pieces(bytes: &[u8], lengths: &[usize]) -> (usize, Option<FramingFault>) {
    let mut scanner = Scanner::new(BOUNDS);
    let (mut clear, mut received) = (0, 0);
    for length in lengths.iter().cycle() {
        received = bytes.len().min(received + length);
        let scanned = scanner.scan(&bytes[clear..received]);
        clear += scanned.clear;
        if scanned.fault.is_some() {
            return (clear, scanned.fault);
        }
        if received == bytes.len() {
            break;
        }
    }
    (clear, None)
}

fn head(lines: &[&str]) -> Vec<u8> {
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}

#[test]
fn well_formed_messages_are_passed_on() {
    let many = ["GET / HTTP/1.1", "A: 1", "B: 2", "C: 3", "D: 4"];
    let target = format!("GET /{} HTTP/1.1", "x".repeat(39));
    let large = format!("A: {}", "x".repeat(200 - "GET / HTTP/1.1\r\nA: \r\n\r\n".len()));
    for message in [
        head(&["GET / HTTP/1.1"]),
        head(&["GET / HTTP/1.0"]),
        head(&["", "GET / HTTP/1.1"]),
        head(&["get * HTTP/1.1", "Host: h"]),
        head(&["GET /a-._~!$&'()*+,;=:@%2f|[] HTTP/1.1"]),
        head(&["GET /?{}^`|[]\\%zz//../?a HTTP/1.1"]),
        head(&["GET http://h/?x HTTP/1.1"]),
        head(&["CONNECT h:80 HTTP/1.1"]),
        head(&["G!#$%&'*+-.^_`|~ET / HTTP/1.1"]),
        head(&["GET / HTTP/1.1", "A:", "B:\t b \t", "C: \u{e9}:\"x\"\\"]),
        head(&many),
        head(&[&target]),
        head(&["GET / HTTP/1.1", &large]),
        [head(&["POST / HTTP/1.1", "Content-Length: 3"]), b"\r\n\0".to_vec()].concat(),
        head(&["POST / HTTP/1.1", "CONTENT-LENGTH:\t0 \t"]),
        [head(&["POST / HTTP/1.1", "Transfer-Encoding: chunked"]), b"0\r\n\r\n".to_vec()].concat(),
        [head(&["POST / HTTP/1.1", "transfer-encoding:CHUNKED\t"]), b"1\r\n\r\r\n00\r\n\r\n".to_vec()]
            .concat(),
        [
            head(&["POST / HTTP/1.1", "Transfer-Encoding: chunked"]),
            b"a;x=\"y\" ;\tz\r\n0123456789\r\n000000000000002\r\n\r\n\r\n0\r\nA: b\r\nC:\r\n\r\n".to_vec(),
        ]
        .concat(),
    ] {
        let twice = [&message[..], &message[..]].concat();
        let clear = if message.starts_with(b"GET / HTTP/1.0") { message.len() } else { twice.len() };
        let shown = message.escape_ascii().to_string();
        assert_eq!(at_once(&twice), (clear, None), "{shown}");
        assert_eq!(in_pieces(&twice, &[1]), (clear, None), "{shown}");
        let part = at_once(&message[..message.len() - 1]);
        assert!(part.1.is_none() && part.0 < message.len(), "{shown}");
    }
}

#[test]
fn bytes_after_the_last_message_are_not_passed_on() {
    for message in [
        head(&["GET / HTTP/1.1", "Connection: close"]),
        head(&["GET / HTTP/1.1", "Connection: x,\tCLOSE ,"]),
        head(&["GET / HTTP/1.1", "Connection: keep-alive", "Connection: close"]),
        head(&["GET / HTTP/1.0"]),
        [head(&["POST / HTTP/1.1", "Connection: close", "Content-Length: 1"]), b"x".to_vec()].concat(),
        [
            head(&["POST / HTTP/1.1", "Connection: close", "Transfer-Encoding: chunked"]),
            b"0\r\n\r\n".to_vec(),
        ]
        .concat(),
    ] {
        for more in ["", "\n", "GET / HTTP/1.1\r\n\r\n", "\0"] {
            let bytes = [&message[..], more.as_bytes()].concat();
            assert_eq!(at_once(&bytes), (message.len(), None), "{}", bytes.escape_ascii());
        }
    }
    let kept = head(&["GET / HTTP/1.0", "Connection: Keep-Alive"]);
    assert_eq!(at_once(&[&kept[..], &kept[..]].concat()), (2 * kept.len(), None));
}

#[test]
fn ambiguous_heads_are_refused() {
    let line = "malformed request line";
    let target = "character that a target cannot hold";
    let length = "malformed Content-Length";
    let encoding = "Transfer-Encoding other than `chunked`";
    let name = "malformed field name";
    for (why, bytes) in [
        (BARE_LF, "GET / HTTP/1.1\n\n"),
        (BARE_LF, "\nGET / HTTP/1.1\r\n\r\n"),
        (BARE_LF, "GET / HTTP/1.1\r\nA: b\n\r\n"),
        (BARE_LF, "GET / HTTP/1.1\r\nA: b\r\n\n"),
        (line, "\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        (line, " GET / HTTP/1.1\r\n\r\n"),
        (line, "GET\r\n\r\n"),
        (line, "GET /\r\n\r\n"),
        (line, "GET / \r\n\r\n"),
        (line, "GET / HTTP/1.1 \r\n\r\n"),
        (line, "GET / http/1.1\r\n\r\n"),
        (line, "GET / HTTP/11\r\n\r\n"),
        (line, "GET / HTTP/1.10\r\n\r\n"),
        (line, "GET / HTTP/1.1\r\r\n\r\n"),
        (line, "GET\t/ HTTP/1.1\r\n\r\n"),
        (target, "GET  / HTTP/1.1\r\n\r\n"),
        (line, "GET /  HTTP/1.1\r\n\r\n"),
        (line, "GET / /x HTTP/1.1\r\n\r\n"),
        (line, "G(T / HTTP/1.1\r\n\r\n"),
        (target, "GET /\t HTTP/1.1\r\n\r\n"),
        (target, "GET /\0 HTTP/1.1\r\n\r\n"),
        (target, "GET /\u{e9} HTTP/1.1\r\n\r\n"),
        (target, "GET /?\u{e9} HTTP/1.1\r\n\r\n"),
        (target, "GET /\x7f HTTP/1.1\r\n\r\n"),
        (target, "GET /{x} HTTP/1.1\r\n\r\n"),
        (target, "GET /?<x> HTTP/1.1\r\n\r\n"),
        (target, "GET /\" HTTP/1.1\r\n\r\n"),
        ("malformed target", "GET a/b HTTP/1.1\r\n\r\n"),
        ("malformed target", "GET ?a HTTP/1.1\r\n\r\n"),
        ("malformed target", "GET %2Fa HTTP/1.1\r\n\r\n"),
        ("malformed target", "OPTIONS */a HTTP/1.1\r\n\r\n"),
        ("fragment in the target", "GET /a#b HTTP/1.1\r\n\r\n"),
        ("fragment in the target", "GET /?a#b HTTP/1.1\r\n\r\n"),
        ("line without a colon in the head", "GET / HTTP/1.1\r\nA\r\n\r\n"),
        (name, "GET / HTTP/1.1\r\n: b\r\n\r\n"),
        (name, "GET / HTTP/1.1\r\nA b: c\r\n\r\n"),
        (name, "GET / HTTP/1.1\r\nA\0: c\r\n\r\n"),
        (name, "GET / HTTP/1.1\r\nA(: c\r\n\r\n"),
        (name, "GET / HTTP/1.1\r\n\u{e9}: c\r\n\r\n"),
        ("folded line in the head", "GET / HTTP/1.1\r\n A: b\r\n\r\n"),
        ("folded line in the head", "GET / HTTP/1.1\r\nA: b\r\n\tc: d\r\n\r\n"),
        ("line without a colon in the head", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"),
        ("white space before a colon in the head", "GET / HTTP/1.1\r\nA : b\r\n\r\n"),
        ("white space before a colon in the head", "GET / HTTP/1.1\r\nContent-Length\t: 5\r\n\r\n"),
        (BARE_CR, "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"),
        (BARE_CR, "GET / HTTP/1.1\r\nA: b\r\r\n\r\n"),
        (BARE_CR, "GET / HTTP/1.1\r\nA: \0\r\n\r\n"),
        (BARE_CR, "GET / HTTP/1.1\r\nA: \x7f\r\n\r\n"),
        (BARE_CR, "GET / HTTP/1.1\r\nA: \x0b\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length:\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: 1 1\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: 01\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: 1.0\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: 1000000000000000000\r\n\r\n"),
        (length, "GET / HTTP/1.1\r\nContent-Length: \u{a0}1\r\n\r\n"),
        ("several Content-Length fields", "GET / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n"),
        (encoding, "GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"),
        (encoding, "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (encoding, "GET / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
        (encoding, "GET / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n"),
        (encoding, "GET / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
        (encoding, "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (
            "both Transfer-Encoding and Content-Length",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "both Transfer-Encoding and Content-Length",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("Transfer-Encoding in HTTP/1.0", "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        let good = head(&["POST / HTTP/1.1", "Content-Length: 0"]);
        let bytes = [&good[..], bytes.as_bytes(), &good[..]].concat();
        let expected = (good.len(), Some(FramingFault::Head(bad(why))));
        assert_eq!(at_once(&bytes), expected, "{}", bytes.escape_ascii());
        assert_eq!(in_pieces(&bytes, &[1]), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn unsupported_versions_are_refused() {
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9"] {
        let bytes = head(&[&format!("GET / {version}")]);
        assert_eq!(at_once(&bytes), (0, Some(FramingFault::Head(Refusal::VersionNotSupported))), "{version}");
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(at_once(preface), (0, Some(FramingFault::Head(Refusal::VersionNotSupported))));
}

#[test]
fn heads_over_their_limits_are_refused() {
    let large = Refusal::HeaderFieldsTooLarge;
    let long = Refusal::UriTooLong;
    let field = format!("A: {}", "x".repeat(201 - "GET / HTTP/1.1\r\nA: \r\n\r\n".len()));
    for (refusal, bytes) in [
        (large.clone(), head(&["GET / HTTP/1.1", "A: 1", "B: 2", "C: 3", "D: 4", "E: 5"])),
        (large.clone(), head(&["GET / HTTP/1.1", &field])),
        (large.clone(), format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(200)).into_bytes()),
        (large.clone(), vec![b'G'; 200]),
        (large.clone(), format!("{} / HTTP/1.1\r\n\r\n", "G".repeat(200)).into_bytes()),
        (large.clone(), format!("{} /{}", "G".repeat(200), "x".repeat(300)).into_bytes()),
        (long.clone(), head(&[&format!("GET /{} HTTP/1.1", "x".repeat(40))])),
        (long.clone(), head(&[&format!("GET /{} HTTP/1.1", "x".repeat(300))])),
        (long, format!("GET /{}", "x".repeat(300)).into_bytes()),
    ] {
        let expected = (0, Some(FramingFault::Head(refusal)));
        assert_eq!(at_once(&bytes), expected, "{}", bytes.escape_ascii());
        assert_eq!(in_pieces(&bytes, &[1]), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn malformed_chunked_bodies_are_faults() {
    let size = "malformed chunk size";
    let chunk = "chunk without its CRLF";
    let trailer = "malformed trailer";
    let large = "chunk extensions or trailers are too large";
    let extension = format!("1;{}", "x".repeat(300));
    let trailer_of_many = format!("0\r\nA: {}", "x".repeat(300));
    let trailers = format!("0\r\n{}", "A: 1\r\n".repeat(60));
    for (why, clear, body) in [
        (size, 0, "\r\n"),
        (size, 0, "g\r\n"),
        (size, 0, "-1\r\n"),
        (size, 0, "+1\r\n"),
        (size, 0, " 1\r\n"),
        (size, 1, "0x1\r\n"),
        (size, 1, "1 \r\n"),
        (size, 1, "1\n"),
        (size, 0, ";x\r\n"),
        ("chunk size of too many digits", 15, "0000000000000001\r\n"),
        ("chunk size of too many digits", 15, "ffffffffffffffff\r\n"),
        ("control character in a chunk extension", 3, "1;x\nx\r\n"),
        ("control character in a chunk extension", 3, "1;x\0\r\n"),
        (chunk, 2, "1\rx"),
        (chunk, 4, "1\r\nxy\r\n"),
        (chunk, 4, "1\r\nx\n"),
        (chunk, 5, "1\r\nx\rx"),
        ("folded line in the trailers", 3, "0\r\n A: b\r\n\r\n"),
        ("folded line in the trailers", 9, "0\r\nA: b\r\n c\r\n\r\n"),
        (trailer, 3, "0\r\n\n"),
        (trailer, 3, "0\r\n: b\r\n\r\n"),
        (trailer, 4, "0\r\nA b: c\r\n\r\n"),
        (trailer, 4, "0\r\nA : c\r\n\r\n"),
        (trailer, 4, "0\r\nA\r\n\r\n"),
        (trailer, 6, "0\r\nA: \0\r\n\r\n"),
        (trailer, 7, "0\r\nA: b\nB: c\r\n\r\n"),
        (chunk, 8, "0\r\nA: b\rB: c\r\n\r\n"),
        (chunk, 4, "0\r\n\rx"),
        (large, 202, &*extension),
        (large, 203, &*trailer_of_many),
        ("too many trailers", 3 + 5 * 6 - 1, &*trailers),
    ] {
        let head = head(&["POST / HTTP/1.1", "Transfer-Encoding: chunked"]);
        let bytes = [&head[..], body.as_bytes()].concat();
        let (found, fault) = at_once(&bytes);
        assert_eq!(fault, Some(FramingFault::Body(why)), "{}", body.escape_debug());
        if why != large {
            assert_eq!(found, head.len() + clear, "{}", body.escape_debug());
        }
        assert_eq!(in_pieces(&bytes, &[1]), (found, fault), "{}", body.escape_debug());
    }
}

#[test]
fn method_is_found_in_an_incomplete_head() {
    for (head, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], Some(&b"GET"[..])),
        (b"\r\nPOST /", Some(b"POST")),
        (b"GET", None),
        (b"GET\t/", None),
        (b"", None),
        (b" GET /", Some(b"")),
    ] {
        assert_eq!(method(head), expected);
    }
}

/// Concatenated parts of well-formed and malformed messages.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => Just("GET / HTTP/1.1\r\n"),
        2 => Just("POST /a?b HTTP/1.1\r\n"),
        6 => Just("\r\n"),
        2 => Just("A: b\r\n"),
        2 => Just("Content-Length: 5\r\n"),
        2 => Just("Transfer-Encoding: chunked\r\n"),
        1 => Just("Connection: close\r\n"),
        2 => Just("hello"),
        2 => Just("5\r\nhello\r\n"),
        2 => Just("0\r\n"),
        1 => Just("5;x\r\n"),
    ];
    let bytes = prop_oneof![
        9 => piece.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(bytes, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn result_does_not_depend_on_how_bytes_are_divided(bytes in message(), lengths in prop::collection::vec(1_usize..9, 1..6)) {
        prop_assert_eq!(in_pieces(&bytes, &lengths), at_once(&bytes));
    }

    /// hyper's parser finds the same end of every accepted head.
    #[test]
    fn accepted_heads_end_where_httparse_ends_them(bytes in message()) {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let (Some(end), (clear, _)) = (end, at_once(&bytes))
            && clear >= end
        {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            let mut request = httparse::Request::new(&mut fields);
            prop_assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(end)));
        }
    }
}

#[test]
fn bytes_after_an_upgrade_request_wait_for_its_response() {
    let asks = head(&["GET / HTTP/1.1", "uPGRADE: h2c,\t WebSocket"]);
    let next = head(&["GET /next HTTP/1.1"]);
    for follows in [next.clone(), b"\x81\x05\r\n\r\n\0".to_vec(), b"G".to_vec()] {
        let both = [asks.clone(), follows.clone()].concat();
        for lengths in [&[usize::MAX][..], &[1], &[7, 2]] {
            assert_eq!(in_pieces(&both, lengths), (asks.len(), None), "{follows:?}");
        }
        let mut scanner = Scanner::new(BOUNDS);
        scanner.scan(&both);
        assert!(scanner.awaits());
        assert_eq!(scanner.scan(&follows), Scan { clear: 0, fault: None });
        scanner.go_on();
        assert!(!scanner.awaits());
        let (clear, fault) = at_once(&follows);
        assert_eq!(scanner.scan(&follows), Scan { clear, fault }, "as the first request of a connection");
    }
    // None of these requests can change the protocol.
    for asks in [
        head(&["GET / HTTP/1.1", "Upgrade: h2c"]),
        head(&["GET / HTTP/1.0", "Upgrade: websocket", "Connection: keep-alive"]),
        head(&["GET / HTTP/1.1", "X-Grade: websocket"]),
        [head(&["GET / HTTP/1.1", "Upgrade: websocket", "Content-Length: 1"]), b"x".to_vec()].concat(),
    ] {
        let both = [asks, next.clone()].concat();
        assert_eq!(at_once(&both), (both.len(), None));
    }
    // A last request remains the last after `go_on`.
    let last = head(&["GET / HTTP/1.1", "Upgrade: websocket", "Connection: close"]);
    let mut scanner = Scanner::new(BOUNDS);
    scanner.scan(&last);
    scanner.go_on();
    assert!(scanner.is_over());
}
