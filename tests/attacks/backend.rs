//! Malformed and hostile responses of a backend. The gateway never forwards an ambiguous or incomplete message as a
//! complete one, and never uses its remaining bytes as another response.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::{READER, WRITER, by, judge::EVIL, start};
use crate::support::client::is_close;
use crate::support::{Answer, Introspector, PATIENCE, RawClient, Response, TestEnv, echo};

/// The expected outcome at the client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// The status and the complete body.
    Good(u16, &'static str),
    /// 502, and nothing of the response.
    BadGateway,
    /// The head, and an incomplete body.
    BrokenOff,
}
use Seen::{BadGateway, BrokenOff, Good};

/// The backend's action after its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Stays,
    Closes,
}
use Then::{Closes, Stays};

/// Name, request, bytes of the response, the backend's following action, and the expected outcome.
#[rustfmt::skip]
const ANSWERS: [(&str, &str, &str, Then, Seen); 82] = [
    // Framing.
    ("length and chunks", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Stays, BadGateway),
    ("chunks and length", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Stays, BadGateway),
    ("two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody!", Stays, BadGateway),
    ("two equal lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("lengths in a list", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nbody", Stays, BadGateway),
    ("length with a plus", "GET", "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nbody", Stays, BadGateway),
    ("length with a minus", "GET", "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody", Stays, BadGateway),
    ("length in hex", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\nbody", Stays, BadGateway),
    ("length that is empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nbody", Closes, BadGateway),
    ("length beyond 64 bits", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nbody", Stays, BadGateway),
    ("coding that is not chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nbody", Closes, BadGateway),
    ("coding before chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Stays, BadGateway),
    ("coding after chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nbody", Closes, BadGateway),
    ("identity", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nbody", Closes, BadGateway),
    ("chunked twice", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Stays, BadGateway),
    ("chunked with a parameter", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;x\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Closes, BadGateway),
    ("chunks of HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Closes, BadGateway),
    ("a length to HEAD that is none", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4x\r\n\r\n", Stays, BadGateway),
    ("two lengths to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", Stays, BadGateway),
    ("length and chunks to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", Stays, BadGateway),
    ("204 with chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Stays, Good(204, "")),
    ("204 with chunks and a body", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil", Stays, Good(204, "")),
    ("204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", Stays, Good(204, "")),
    ("204 with a length and a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(204, "")),
    ("204 with a gzip coding", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: gzip\r\n\r\n", Stays, Good(204, "")),
    ("304 with chunks", "GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Stays, Good(304, "")),
    ("304 with two lengths", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", Stays, BadGateway),
    // Malformed heads.
    ("garbage", "GET", "nothing that HTTP would say\r\n\r\n", Stays, BadGateway),
    ("HTTP/0.9", "GET", "<html>body</html>", Closes, BadGateway),
    ("HTTP/2", "GET", "HTTP/2 200\r\ncontent-length: 4\r\n\r\nbody", Stays, BadGateway),
    ("HTTP/2.0", "GET", "HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("HTTP/1.2", "GET", "HTTP/1.2 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("frames of HTTP/2", "GET", "\0\0\u{6}\u{4}\0\0\0\0\0\0\u{3}\0\0\0\u{64}", Closes, BadGateway),
    ("TLS to a plain client", "GET", "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{28}", Closes, BadGateway),
    ("a version in lower case", "GET", "http/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a status of two digits", "GET", "HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a status of four digits", "GET", "HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a status below 100", "GET", "HTTP/1.1 099 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a status with a sign", "GET", "HTTP/1.1 +20 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("two spaces before the status", "GET", "HTTP/1.1  200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("NUL in the reason", "GET", "HTTP/1.1 200 O\0K\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("carriage return in the reason", "GET", "HTTP/1.1 200 O\rK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("space before the colon", "GET", "HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("tab before the colon", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding	: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Stays, Good(200, "body")),
    ("two lengths, one with a space", "GET", "HTTP/1.1 200 OK\r\nContent-Length : 4\r\nContent-Length: 5\r\n\r\nbody!", Stays, BadGateway),
    ("space before a name", "GET", "HTTP/1.1 200 OK\r\n X-Own: 1\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("no colon", "GET", "HTTP/1.1 200 OK\r\nX-Own\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("no name", "GET", "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a folded line", "GET", "HTTP/1.1 200 OK\r\nX-Own: 1\r\n 2\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a folded coding", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("NUL in a value", "GET", "HTTP/1.1 200 OK\r\nX-Own: a\0b\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("carriage return in a value", "GET", "HTTP/1.1 200 OK\r\nX-Own: a\rSet-Cookie: evil=1\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("beyond ASCII in a name", "GET", "HTTP/1.1 200 OK\r\nX-Öwn: 1\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("a head that breaks off", "GET", "HTTP/1.1 200 OK\r\nContent-Le", Closes, BadGateway),
    ("a head without its end", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", Closes, BadGateway),
    ("no byte", "GET", "", Closes, BadGateway),
    // Interim responses: unsolicited, and not forwarded.
    ("100", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("102", "GET", "HTTP/1.1 102 Processing\r\nX-Own: evil\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("103 with links", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </evil>\r\nSet-Cookie: evil=1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("several of them", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 199 Own\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("101", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nevil", Stays, BadGateway),
    ("101 with a length", "GET", "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 4\r\n\r\nevil", Stays, BadGateway),
    ("103 with a body", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 4\r\n\r\nevilHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, BadGateway),
    ("100 and no more", "GET", "HTTP/1.1 100 Continue\r\n\r\n", Closes, BadGateway),
    // Incomplete bodies.
    ("shorter than its length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbody", Closes, BrokenOff),
    ("no body of a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Closes, BrokenOff),
    ("chunks without an end", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", Closes, BrokenOff),
    ("half a chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbody", Closes, BrokenOff),
    ("an end without its empty line", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n", Closes, BrokenOff),
    ("no chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Closes, BrokenOff),
    ("a chunk size that is none", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nx\r\n", Stays, BrokenOff),
    ("a chunk size below nothing", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n-1\r\n", Stays, BrokenOff),
    ("a chunk size beyond 64 bits", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n10000000000000001\r\n", Stays, BrokenOff),
    ("a chunk longer than its size", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbody\r\n0\r\n\r\n", Stays, BrokenOff),
    ("a trailer without a colon", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nevil\r\n\r\n", Stays, BrokenOff),
    // Excess bytes, which would become the next response if the connection were kept.
    ("longer than its length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyevil", Stays, Good(200, "body")),
    ("a second answer", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(200, "body")),
    ("a second answer after chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(200, "body")),
    ("a body to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(200, "")),
    ("a body of 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(204, "")),
    ("a body of 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(304, "")),
    ("a third answer", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevilHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stays, Good(200, "")),
];

/// Well-formed though unusual: forwarded.
#[rustfmt::skip]
const UNUSUAL: [(&str, &str, &str, Then, Seen); 16] = [
    ("no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("until the close", "GET", "HTTP/1.1 200 OK\r\n\r\nbody", Closes, Good(200, "body")),
    ("HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", Closes, Good(200, "body")),
    ("an unknown status", "GET", "HTTP/1.1 299 Own\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(299, "body")),
    ("chunks in upper case", "GET", "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n4;x=y\r\nbody\r\n0\r\n\r\n", Stays, Good(200, "body")),
    ("304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", Stays, Good(304, "")),
    ("HEAD with chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Stays, Good(200, "")),
    ("204 with a length of nothing", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Stays, Good(204, "")),
    ("fields of one connection", "GET", "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: evil\r\nKeep-Alive: evil\r\nProxy-Authenticate: evil\r\nUpgrade: evil\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    // hyper and nginx accept these; the gateway writes the client's head anew.
    ("bare line feeds in the head", "GET", "HTTP/1.1 200 OK\nContent-Length: 4\n\nbody", Stays, Good(200, "body")),
    ("bare line feed after the status line", "GET", "HTTP/1.1 200 OK\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("empty lines before the status line", "GET", "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
    ("space after a chunk size", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4 \r\nbody\r\n0\r\n\r\n", Stays, Good(200, "body")),
    ("zeros before a chunk size", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000000004\r\nbody\r\n0\r\n\r\n", Stays, Good(200, "body")),
    ("a status beyond 599", "GET", "HTTP/1.1 999 Own\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(999, "body")),
    ("latin-1 in a value", "GET", "HTTP/1.1 200 OK\r\nX-Own: é\r\nContent-Length: 4\r\n\r\nbody", Stays, Good(200, "body")),
];

pub(super) fn answers() -> impl Iterator<Item = (&'static str, &'static str, &'static str, Then, Seen)> {
    ANSWERS.into_iter().chain(UNUSUAL)
}

#[test]
fn malformed_responses_of_the_backend_reach_no_other_client() {
    let env = start("");
    for (name, method, bytes, then, seen) in answers() {
        let context = format!("`{name}`: {}", bytes.escape_debug());
        env.backend.answer(move |request| {
            if !request.target.contains("attack") {
                return echo(request);
            }
            let answer = Answer::raw(bytes);
            if matches!(then, Closes) { answer.then_close() } else { answer }
        });
        let mut client = env.gateway.client();
        client.send(by(READER, &format!("{method} /api/v2/items?attack"), ""));
        let response = client.try_response(method == "HEAD");
        assert_seen(seen, response, method, &context);
        assert_others_are_served(&env, &mut client, &context);
    }
    env.gateway.wait_for_log(|line| line["message"] == "request");
}

fn assert_seen(seen: Seen, response: std::io::Result<Response>, method: &str, context: &str) {
    if let Ok(response) = &response {
        let text = format!("{:?}{}", response.fields, response.text());
        assert!(!text.contains(EVIL), "{context}: {text}");
        assert!(response.raw_head.starts_with(b"HTTP/1.1 "), "{context}");
    }
    match (seen, response) {
        (Good(status, body), Ok(response)) => {
            assert_eq!((response.status, response.text()), (status, body), "{context}");
            let codings: Vec<&str> = response.fields.all("transfer-encoding").collect();
            match status {
                204 => {
                    assert_eq!((response.field("content-length"), &codings[..]), (None, &[][..]), "{context}")
                }
                _ => assert!(codings.is_empty() || codings == ["chunked"], "{context}: {codings:?}"),
            }
            assert!(codings.is_empty() || response.field("content-length").is_none(), "{context}");
        }
        (BadGateway, Ok(response)) => {
            super::assert_refused(&response, 502, &format!("{context} to {method}"))
        }
        // The client's message is incomplete as well: it neither ends regularly nor waits forever.
        (BrokenOff, Err(error)) => {
            assert!(error.kind() != std::io::ErrorKind::WouldBlock, "{context}: {error}");
        }
        (_, response) => panic!("{context}: {response:?}"),
    }
}

/// Excess bytes are never another client's response, on this connection or another.
fn assert_others_are_served(env: &TestEnv, client: &mut RawClient, context: &str) {
    let attacked = env.backend.requests().last().map(|request| request.connection);
    for number in 0..3 {
        let target = format!("/api/v2/items?own={number}");
        let asked = by(READER, &format!("GET {target}"), "");
        let mut other = env.gateway.client();
        let first = client.try_send(&asked).and_then(|()| client.try_response(false));
        other.send(&asked);
        for response in first.into_iter().chain([other.response()]) {
            assert_eq!(response.status, 200, "after {context}: {}", response.text());
            assert_eq!(response.json()["target"], target, "after {context}: {}", response.text());
        }
    }
    // Excess bytes at the end of a response contain `evil`.
    if context.ends_with(EVIL) {
        let requests = env.backend.requests();
        let since = &requests[requests.len() - 6..];
        let over_it = since.iter().filter(|request| Some(request.connection) == attacked).count();
        assert_eq!(over_it, 0, "the connection was kept after {context}");
    }
}

#[test]
fn oversized_responses_of_the_backend_are_502() {
    let env = start("");
    let many: String = (0..1000).map(|number| format!("X-{number}: x\r\n")).collect();
    for head in [
        format!("X-Large: {}\r\n", "x".repeat(2 << 20)),
        format!("{}: x\r\n", "X".repeat(100_000)),
        many,
        "X-Endless: x\r\n".repeat(100_000),
    ] {
        let context = format!("{}… of {}", &head[..20], head.len());
        let bytes = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 4\r\n\r\nbody");
        env.backend.answer(move |request| match request.target.contains("attack") {
            true => Answer::raw(bytes.clone()),
            false => echo(request),
        });
        let mut client = env.gateway.client();
        client.send(by(READER, "GET /api/v2/items?attack", ""));
        super::assert_refused(&client.response(), 502, &context);
        assert_others_are_served(&env, &mut client, &context);
    }
}

#[test]
fn unsolicited_response_of_the_backend_reaches_no_client() {
    let env = start("");
    let late = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    env.backend.answer(move |request| match request.target.contains("attack") {
        true => Answer::raw(format!("{late}body"))
            .then_wait(Duration::from_millis(50))
            .then(format!("{late}evil")),
        false => echo(request),
    });
    for _ in 0..5 {
        let mut client = env.gateway.client();
        client.send(by(READER, "GET /api/v2/items?attack", ""));
        assert_eq!(client.response().text(), "body");
        // Bytes that follow the next request are indistinguishable from its response, so they must arrive earlier.
        thread::sleep(Duration::from_millis(400));
        assert_others_are_served(&env, &mut client, "an unsolicited response: evil");
    }
}

/// The rest of a request that already has a response is never parsed as another request, on either side.
#[test]
fn early_response_of_the_backend_does_not_desynchronise_its_connection() {
    let env = TestEnv::builder()
        .introspector(Introspector::with_tokens(super::ABILITIES))
        .backend(TcpListener::bind("127.0.0.1:0").unwrap())
        .start();
    let (head, rest) = (by(WRITER, "POST /api/v2/items", "Content-Length: 10\r\n"), "67890");
    for finishes in [true, false, true, false] {
        let mut early = env.gateway.client();
        early.send(head.clone() + "12345");
        let (mut first, _) = env.backend.accept().unwrap();
        first.set_read_timeout(Some(PATIENCE)).unwrap();
        read_until(&mut first, b"\r\n\r\n12345");
        first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").unwrap();
        assert_eq!(early.response().text(), "early");
        // Meanwhile no other request uses the connection.
        thread::scope(|scope| {
            let other = scope.spawn(|| env.gateway.get("/up", None).status);
            let (mut second, _) = env.backend.accept().unwrap();
            second.set_read_timeout(Some(PATIENCE)).unwrap();
            read_until(&mut second, b"\r\n\r\n");
            second.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
            assert_eq!(other.join().unwrap(), 200);
        });
        if finishes {
            early.send(rest);
            assert_eq!(read_until(&mut first, b"67890"), b"67890");
        } else {
            drop(early);
            let mut left = Vec::new();
            let end = first.read_to_end(&mut left);
            assert!(end.is_ok() || end.is_err_and(|error| is_close(&error)));
            assert!(left.is_empty(), "{}", left.escape_ascii());
        }
        drop(first);
        env.gateway.wait_for_metric("backend_connections", 0.0);
    }
}

/// Reads up to and including `end`.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", bytes.escape_ascii()));
        bytes.push(byte[0]);
    }
    bytes
}

#[test]
fn more_than_100_interim_responses_are_502() {
    let env = start("backend:\n  timeout: 5s\n");
    let one = "HTTP/1.1 103 Early Hints\r\nLink: </evil>; rel=preload\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
    for (number, status) in [(100, 200), (101, 502), (100_000, 502)] {
        let many = one.repeat(number) + last;
        env.backend.answer(move |request| match request.target.contains("attack") {
            true => Answer::raw(many.clone()),
            false => echo(request),
        });
        let before = env.gateway.resident_memory();
        let began = std::time::Instant::now();
        let mut client = env.gateway.client();
        client.send(by(READER, "GET /api/v2/items?attack", ""));
        assert_eq!(client.response().status, status, "{number}");
        assert!(began.elapsed() < Duration::from_secs(3), "{number}: {:?}", began.elapsed());
        let grown = env.gateway.resident_memory().saturating_sub(before);
        assert!(grown < 8 << 20, "{grown} bytes are held for {number} interim responses");
        assert_others_are_served(&env, &mut client, "interim responses without end");
    }
}
