//! Heads that two parsers read differently, so that one parser's body is another's request. The gateway must neither
//! repair them nor read anything after them.

use std::sync::Arc;

use super::framing::{chunks, hidden};
use super::{
    ArrivesThenRefused, Case, READER, RefusedAndClosed, USER, WRITER, bare, by, case, start, target,
};
use crate::support::Authority;

const BAD: super::Outcome = RefusedAndClosed(400);
const GET: &str = "GET /api/v2/items";
const POST: &str = "POST /api/v2/items";
const CREATED: &[&str] = &["POST /api/v2/items"];
const READ: &[&str] = &["GET /api/v2/items"];
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A POST that smuggles a request: framed by `lines`, with `body` before the smuggled request.
fn hiding(name: &'static str, lines: &str, body: &str) -> Case {
    case(name, by(WRITER, POST, lines) + body + &hidden(), BAD)
}

/// Content-Length against Transfer-Encoding, and either against itself.
fn lengths() -> Vec<Case> {
    let mut cases = vec![
        hiding("CL.TE", &format!("Content-Length: 5\r\n{CHUNKED}"), "0\r\n\r\n"),
        hiding("TE.CL", &format!("{CHUNKED}Content-Length: 5\r\n"), "0\r\n\r\n"),
        hiding("CL.TE with a length of nothing", &format!("Content-Length: 0\r\n{CHUNKED}"), "0\r\n\r\n"),
        hiding(
            "CL.TE in HTTP/1.0's way",
            &format!("Connection: keep-alive\r\nContent-Length: 5\r\n{CHUNKED}"),
            "0\r\n\r\n",
        ),
        hiding("TE twice", &format!("{CHUNKED}{CHUNKED}"), "0\r\n\r\n"),
        hiding("TE twice, once identity", &format!("{CHUNKED}Transfer-Encoding: identity\r\n"), "0\r\n\r\n"),
        hiding("TE twice, once unknown", &format!("Transfer-Encoding: cow\r\n{CHUNKED}"), "0\r\n\r\n"),
        hiding("CL twice", "Content-Length: 0\r\nContent-Length: 5\r\n", ""),
        hiding("CL twice and equal", "Content-Length: 0\r\nContent-Length: 0\r\n", ""),
        hiding("CL twice, one empty", "Content-Length: 0\r\nContent-Length:\r\n", ""),
        case(
            "TE of HTTP/1.0",
            format!(
                "POST /api/v2/items HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {WRITER}\r\n{CHUNKED}\r\n0\r\n\r\n"
            ),
            BAD,
        ),
        case(
            "CL.TE of a GET",
            by(READER, GET, &format!("Content-Length: 5\r\n{CHUNKED}")) + "0\r\n\r\n" + &hidden(),
            BAD,
        ),
        case(
            "CL.TE without a token",
            bare(POST, &format!("Content-Length: 5\r\n{CHUNKED}")) + "0\r\n\r\n" + &hidden(),
            BAD,
        ),
        case(
            "CL.TE on a public route",
            bare("GET /up", &format!("Content-Length: 5\r\n{CHUNKED}")) + "0\r\n\r\n" + &hidden(),
            BAD,
        ),
    ];
    for (name, value) in [
        ("CL with a plus", "+0"),
        ("CL with a minus", "-0"),
        ("CL below nothing", "-1"),
        ("CL in hex", "0x0"),
        ("CL with a hex digit", "0a"),
        ("CL with a space inside", "0 0"),
        ("CL with a tab inside", "0\t0"),
        ("CL with a comma", "0,"),
        ("CL in a list of equals", "0, 0"),
        ("CL in a list", "0, 5"),
        ("CL with zeros before it", "00"),
        ("CL with a fraction", "0.0"),
        ("CL with an exponent", "0e0"),
        ("CL with an underscore", "0_0"),
        ("CL in quotes", "\"0\""),
        ("CL that is empty", ""),
        ("CL that is a word", "none"),
        ("CL with a parameter", "0;x"),
        ("CL beyond 64 bits", "18446744073709551616"),
        ("CL of 64 bits", "18446744073709551615"),
        ("CL beyond 128 bits", "340282366920938463463374607431768211456"),
        ("CL in other digits", "\u{661}"),
    ] {
        cases.push(hiding(name, &format!("Content-Length: {value}\r\n"), ""));
    }
    for (name, value) in [
        ("TE of gzip, then chunked", "gzip, chunked"),
        ("TE of chunked, then gzip", "chunked, gzip"),
        ("TE of chunked twice", "chunked, chunked"),
        ("TE of identity", "identity"),
        ("TE of chunked, then identity", "chunked, identity"),
        ("TE of something that ends in chunked", "xchunked"),
        ("TE of something that begins with chunked", "chunkedx"),
        ("TE with a parameter", "chunked;q=1"),
        ("TE with a space inside", "chun ked"),
        ("TE in quotes", "\"chunked\""),
        ("TE with a comma", "chunked,"),
        ("TE after a comma", ", chunked"),
        ("TE that is empty", ""),
        ("TE of a word", "cow"),
        ("TE of something like chunked", "chunke\u{64}\u{301}"),
        ("TE after a vertical tab", "\u{b}chunked"),
        ("TE before a vertical tab", "chunked\u{b}"),
        ("TE before a form feed", "chunked\u{c}"),
        ("TE after NUL", "\0chunked"),
        ("TE before a carriage return", "chunked\r"),
        ("TE with Latin letters", "\u{e7}hunked"),
    ] {
        cases.push(hiding(name, &format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"));
    }
    cases
}

/// Malformed heads.
fn heads() -> Vec<Case> {
    let line = |name, line: &str| case(name, by(READER, GET, line), BAD);
    let start = |name, line: &str| {
        case(name, format!("{line}\r\nHost: stockaj.example\r\nAuthorization: Bearer {READER}\r\n\r\n"), BAD)
    };
    let mut cases = vec![
        line("space before the colon", "X-Own : 1\r\n"),
        line("tab before the colon", "X-Own\t: 1\r\n"),
        hiding(
            "space before TE's colon",
            "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\n",
        ),
        hiding("space before CL's colon", "Content-Length : 5\r\n", "12345"),
        line("no colon", "X-Own\r\n"),
        line("no name", ": 1\r\n"),
        line("space in a name", "X Own: 1\r\n"),
        line("space before a name", " X-Own: 1\r\n"),
        line("folded line", "X-Own: 1\r\n 2\r\n"),
        line("folded line of a tab", "X-Own: 1\r\n\t2\r\n"),
        hiding("folded TE", "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        hiding("folded away TE", "X-Own: 1\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        line("folded credentials", "X-Own: 1\r\n Authorization: Bearer 3|Secret0User\r\n"),
        case("first line folded", format!("{GET} HTTP/1.1\r\n Host: stockaj.example\r\n\r\n"), BAD),
        line("NUL in a value", "X-Own: a\0b\r\n"),
        line("NUL in a name", "X-O\0wn: 1\r\n"),
        line("carriage return in a value", "X-Own: a\rb\r\n"),
        line("carriage return and a field in a value", "X-Own: a\rX-Token-Id: evil\r\n"),
        line("carriage return twice at the end", "X-Own: 1\r\r\n"),
        line("carriage return alone for a line", "\r\rX-Own: 1\r\n"),
        line("bare line feed after a field", "X-Own: 1\nX-Other: 2\r\n"),
        line("escape in a value", "X-Own: \u{1b}[31m\r\n"),
        line("DEL in a value", "X-Own: \u{7f}\r\n"),
        line("brackets in a name", "X[Own]: 1\r\n"),
        line("slash in a name", "X/Own: 1\r\n"),
        line("quotes in a name", "\"X-Own\": 1\r\n"),
        line("beyond ASCII in a name", "X-Öwn: 1\r\n"),
        case(
            "bare line feeds",
            format!("{GET} HTTP/1.1\nHost: stockaj.example\nAuthorization: Bearer {READER}\n\n"),
            BAD,
        ),
        case(
            "bare line feed after the first line",
            format!("{GET} HTTP/1.1\nHost: stockaj.example\r\nAuthorization: Bearer {READER}\r\n\r\n"),
            BAD,
        ),
        case(
            "bare line feed at the end",
            format!("{GET} HTTP/1.1\r\nHost: stockaj.example\r\nAuthorization: Bearer {READER}\r\n\n"),
            BAD,
        ),
        case(
            "bare carriage returns",
            format!("{GET} HTTP/1.1\rHost: stockaj.example\rAuthorization: Bearer {READER}\r\r\n\r\n"),
            BAD,
        ),
        start("two spaces before the target", "GET  /api/v2/items HTTP/1.1"),
        start("two spaces after the target", "GET /api/v2/items  HTTP/1.1"),
        start("tab before the target", "GET\t/api/v2/items HTTP/1.1"),
        start("tab after the target", "GET /api/v2/items\tHTTP/1.1"),
        start("space in the target", "GET /api/v2/items /x HTTP/1.1"),
        start("space before the method", " GET /api/v2/items HTTP/1.1"),
        start("space at the end of the first line", "GET /api/v2/items HTTP/1.1 "),
        start("no target", "GET HTTP/1.1"),
        start("an empty target", "GET  HTTP/1.1"),
        start("no version", "GET /api/v2/items"),
        start("a version in lower case", "GET /api/v2/items http/1.1"),
        start("a version without a slash", "GET /api/v2/items HTTP1.1"),
        start("a version without a point", "GET /api/v2/items HTTP/11"),
        start("a version of two digits", "GET /api/v2/items HTTP/1.10"),
        start("a version and more", "GET /api/v2/items HTTP/1.1x"),
        start("another protocol", "GET /api/v2/items ICAP/1.0"),
        start("a method with a colon", "GET: /api/v2/items HTTP/1.1"),
        start("an answer", "HTTP/1.1 200 OK"),
        case("HTTP/0.9", "GET /api/v2/items\r\n\r\n", BAD),
        case("TLS to a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", BAD),
        case(
            "latin-1 in a name",
            [by(READER, GET, "").trim_end().as_bytes(), b"\r\nX-\xd6wn: 1\r\n\r\n"].concat(),
            BAD,
        ),
    ];
    for (name, version) in [
        ("HTTP/1.2", "1.2"),
        ("HTTP/2.0", "2.0"),
        ("HTTP/0.9 as a version", "0.9"),
        ("HTTP/3.0", "3.0"),
        ("HTTP/9.9", "9.9"),
    ] {
        let sent = format!(
            "{GET} HTTP/{version}\r\nHost: stockaj.example\r\nAuthorization: Bearer {READER}\r\n\r\n"
        );
        cases.push(case(name, sent, RefusedAndClosed(505)));
    }
    cases.push(case(
        "HTTP/2 with prior knowledge",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        RefusedAndClosed(505),
    ));
    cases
}

/// Faults that are visible only in the raw bytes.
fn targets() -> Vec<Case> {
    let get = |name, target: &str| case(name, by(USER, &format!("GET {target}"), ""), BAD);
    vec![
        get("encoded slash for every slash", "%2Fapi%2Fv2%2Finternal"),
        get("backslashes for slashes", "\\api\\v2\\internal"),
        get("no slash", "api/v2/items"),
        get("question mark first", "?/api/v2/items"),
        case("asterisk and a path", by(USER, "OPTIONS */api/v2/items", ""), BAD),
        get("fragment", "/api/v2/items/5#/items"),
        get("fragment at the end", "/api/v2/items#"),
        get("fragment in the query", "/api/v2/items?a#b"),
        get("quote in the path", "/api/v2/items/\""),
        get("angle brackets in the path", "/api/v2/items/<5>"),
        get("UTF-8 as it is", "/api/v2/items/é"),
        get("control character in the path", "/api/v2/items/\u{1}"),
        get("DEL in the path", "/api/v2/items/\u{7f}"),
        case("NUL in the path", by(USER, "GET /api/v2/items/\0", ""), BAD),
        case(
            "latin-1 in the path",
            [b"GET /api/v2/items/\xe9", &by(USER, "", "").into_bytes()[..]].concat(),
            BAD,
        ),
    ]
}

/// Valid requests, followed by an invalid one.
fn sequences() -> Vec<Case> {
    let length = |body: &str| by(WRITER, POST, &format!("Content-Length: {}\r\n", body.len())) + body;
    let chunked = |body: &str| by(WRITER, POST, CHUNKED) + body;
    let get = by(READER, GET, "");
    vec![
        case(
            "a good request, then one with a bare line feed",
            get.clone() + "GET /api/v2/items HTTP/1.1\nHost: a\n\n",
            ArrivesThenRefused(READ, 400),
        ),
        case(
            "a good request, then CL.TE",
            get.clone()
                + &by(WRITER, POST, &format!("Content-Length: 5\r\n{CHUNKED}"))
                + "0\r\n\r\n"
                + &hidden(),
            ArrivesThenRefused(READ, 400),
        ),
        case(
            "a body, then what is no request",
            length("body") + "garbage\r\n\r\n",
            ArrivesThenRefused(CREATED, 400),
        ),
        case("a body and a byte too many", length("body") + "\0" + &get, ArrivesThenRefused(CREATED, 400)),
        case(
            "chunks, then CL.TE",
            chunked("4\r\nbody\r\n0\r\n\r\n") + &by(WRITER, POST, &format!("Content-Length: 5\r\n{CHUNKED}")),
            ArrivesThenRefused(CREATED, 400),
        ),
        case(
            "an upgrade, then what is no request",
            by(READER, GET, "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n")
                + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ArrivesThenRefused(READ, 505),
        ),
        case(
            "a WebSocket handshake that fails, then what is no request",
            by(READER, GET, HANDSHAKE) + "\u{81}\u{5}hello\r\n\r\n",
            ArrivesThenRefused(READ, 400),
        ),
        case(
            "a WebSocket handshake that fails, then a request of nobody",
            by(READER, GET, HANDSHAKE) + &bare(GET, "Upgrade: websocket\r\nConnection: close\r\n"),
            ArrivesThenRefused(READ, 400),
        ),
        case(
            "a WebSocket handshake with a body",
            by(READER, GET, &format!("{HANDSHAKE}Content-Length: 5\r\n")) + "evil!",
            super::Refused(400),
        ),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [lengths(), heads(), targets(), sequences()].into_iter().flatten().collect()
}

#[test]
fn ambiguous_heads_are_rejected() {
    start("").run_attacks(&heads());
}

#[test]
fn ambiguous_lengths_are_rejected() {
    start("").run_attacks(&lengths());
}

#[test]
fn ambiguous_targets_and_sequences_are_rejected() {
    let mut cases = targets();
    cases.extend(sequences());
    start("").run_attacks(&cases);
}

/// The scanner is independent of TLS record boundaries.
#[test]
fn ambiguous_sequences_are_rejected_over_tls() {
    let authority = Arc::new(Authority::new());
    let cases: Vec<Case> = [sequences(), chunks()].into_iter().flatten().collect();
    target(|builder| builder.tls(&authority)).run_attacks(&cases);
}
