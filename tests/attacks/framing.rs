//! Where one message ends and the next begins.

use super::{Arrives, Case, READER, Refused, RefusedAndClosed, USER, WRITER, bare, by, case, start};

const BAD: super::Outcome = RefusedAndClosed(400);
const GET: &str = "GET /api/v2/items";
const POST: &str = "POST /api/v2/items";
const CREATED: &[&str] = &["POST /api/v2/items"];
const READ: &[&str] = &["GET /api/v2/items"];
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// The request smuggled in a body.
pub(super) fn hidden() -> String {
    by(USER, "DELETE /api/v2/items/5", "")
}

/// Bodies that a lenient parser would accept. The head may have been forwarded before the fault arrives, but the
/// request never becomes complete.
pub(super) fn chunks() -> Vec<Case> {
    let chunked = |name, body: &str| case(name, by(WRITER, POST, CHUNKED) + body + &hidden(), BAD);
    vec![
        chunked("chunk size with a plus", "+4\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with a minus", "-4\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with 0x", "0x4\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with a space before", " 4\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size that is empty", "\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with a letter", "4g\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with an underscore", "0_4\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with a comma", "4,0\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size beyond 64 bits", "10000000000000004\r\nbody\r\n0\r\n\r\n"),
        chunked(
            "chunk size beyond 32 bits that wraps",
            "100000000000000000000000000000004\r\nbody\r\n0\r\n\r\n",
        ),
        chunked("chunk size with a bare line feed", "4\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with a bare carriage return", "4\rbody\r\n0\r\n\r\n"),
        chunked("chunk size with two carriage returns", "4\r\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk without its line feed", "4\r\nbody\r0\r\n\r\n"),
        chunked("chunk without its end", "4\r\nbody0\r\n\r\n"),
        chunked("chunk with a bare line feed", "4\r\nbody\n0\r\n\r\n"),
        chunked("chunk longer than its size", "3\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk shorter than its size", "5\r\nbody\r\n0\r\n\r\n"),
        chunked("last chunk with a bare line feed", "4\r\nbody\r\n0\n\r\n"),
        chunked("extension with a bare line feed", "4;x\nx\r\nbody\r\n0\r\n\r\n"),
        chunked("extension with a carriage return", "4;x\rx\r\nbody\r\n0\r\n\r\n"),
        chunked("trailer without a colon", "4\r\nbody\r\n0\r\nX-Own\r\n\r\n"),
        chunked("trailer with a space before the colon", "4\r\nbody\r\n0\r\nX-Own : 1\r\n\r\n"),
        chunked("trailer that is folded", "4\r\nbody\r\n0\r\nX-Own: 1\r\n 2\r\n\r\n"),
        chunked("trailer with NUL", "4\r\nbody\r\n0\r\nX-Own: \0\r\n\r\n"),
        chunked("trailer without a name", "4\r\nbody\r\n0\r\n: 1\r\n\r\n"),
        chunked("chunk size with a space after", "4 \r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size with a tab after", "4\t\r\nbody\r\n0\r\n\r\n"),
        chunked("chunk size of many zeros", &format!("{}4\r\nbody\r\n0\r\n\r\n", "0".repeat(100))),
        chunked("end with a bare line feed", "4\r\nbody\r\n0\r\n\n"),
        chunked("extension with NUL", "4;x=\0\r\nbody\r\n0\r\n\r\n"),
        chunked("trailer with a bare line feed", "4\r\nbody\r\n0\r\nX-Own: 1\n\r\n"),
    ]
}

/// Connections that have to stay open, or have to close.
fn sequences() -> Vec<Case> {
    let length = |body: &str| by(WRITER, POST, &format!("Content-Length: {}\r\n", body.len())) + body;
    let chunked = |body: &str| by(WRITER, POST, CHUNKED) + body;
    let get = by(READER, GET, "");
    vec![
        case("two requests at once", get.repeat(2), Arrives(&["GET /api/v2/items", "GET /api/v2/items"])),
        case("a request hidden in a body", length(&hidden()), Arrives(CREATED)),
        case(
            "a request hidden in a chunk",
            chunked(&format!("{:x}\r\n{}\r\n0\r\n\r\n", hidden().len(), hidden())),
            Arrives(CREATED),
        ),
        case(
            "a request hidden in the body of a GET",
            by(READER, GET, &format!("Content-Length: {}\r\n", hidden().len())) + &hidden(),
            Arrives(READ),
        ),
        case(
            "a request hidden in the body of what is refused",
            by(READER, "DELETE /api/v2/items/5", &format!("Content-Length: {}\r\n", hidden().len()))
                + &hidden(),
            Refused(403),
        ),
        case(
            "a request hidden in the body of what has no token",
            bare("GET /api/v2/items", &format!("Content-Length: {}\r\n", hidden().len())) + &hidden(),
            Refused(401),
        ),
        case(
            "a request hidden in the body of a malformed target",
            by(READER, "GET /api//v2", &format!("Content-Length: {}\r\n", hidden().len())) + &hidden(),
            Refused(400),
        ),
        case(
            "a body and a request",
            length("body") + &get,
            Arrives(&["POST /api/v2/items", "GET /api/v2/items"]),
        ),
        case(
            "chunks and a request",
            chunked("4\r\nbody\r\n0\r\n\r\n") + &get,
            Arrives(&["POST /api/v2/items", "GET /api/v2/items"]),
        ),
        case("chunk extensions", chunked("4;a=b;c=\"d\";e\r\nbody\r\n0;last\r\n\r\n"), Arrives(CREATED)),
        case(
            "a chunk size in upper case with zeros",
            chunked("000A\r\n0123456789\r\n0\r\n\r\n"),
            Arrives(CREATED),
        ),
        case(
            "trailers that decide something",
            chunked(
                "4\r\nbody\r\n0\r\nAuthorization: Bearer evil\r\nContent-Length: 5\r\nX-Token-Id: evil\r\nHost: evil\r\nTransfer-Encoding: evil\r\n\r\n",
            ),
            Arrives(CREATED),
        ),
        case(
            "trailers that were named",
            by(
                WRITER,
                POST,
                "Transfer-Encoding: chunked\r\nTrailer: Authorization, Host, X-Token-Id, X-Forwarded-For, Cookie\r\n",
            ) + "4\r\nbody\r\n0\r\nAuthorization: evil\r\nHost: evil\r\nX-Token-Id: evil\r\nX_Token_Id: evil\r\nX-Forwarded-For: evil\r\nCookie: evil\r\n\r\n",
            Arrives(CREATED),
        ),
        case(
            "TE in upper case",
            by(WRITER, POST, "TRANSFER-ENCODING: CHUNKED\r\n") + "4\r\nbody\r\n0\r\n\r\n",
            Arrives(CREATED),
        ),
        case("a length of nothing", length(""), Arrives(CREATED)),
        case(
            "a body of a public route",
            bare("GET /up", "Content-Length: 4\r\n") + "body",
            Arrives(&["GET /up"]),
        ),
    ]
}

/// Bytes that a client sends after it has announced a close.
fn after_close() -> Vec<Case> {
    let closing = by(READER, GET, "Connection: close\r\n");
    vec![
        case("a request after `Connection: close`", closing.clone() + &hidden(), Arrives(READ)),
        case("garbage after `Connection: close`", closing + "\0\r\n\r\n", Arrives(READ)),
        case(
            "a request after one of HTTP/1.0",
            format!("{GET} HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {READER}\r\n\r\n") + &hidden(),
            Arrives(READ),
        ),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [sequences(), after_close(), chunks()].into_iter().flatten().collect()
}

#[test]
fn attacks_on_framing_fail() {
    let mut cases = sequences();
    cases.extend(after_close());
    start("").run_attacks(&cases);
}

#[test]
fn malformed_bodies_are_rejected() {
    start("").run_attacks(&chunks());
}

/// The client disconnects in the middle.
#[test]
fn truncated_requests_are_not_served() {
    let env = start("");
    for (name, sent) in [
        ("nothing", ""),
        ("half a first line", "GET /api/v2/it"),
        ("half a head", &format!("{GET} HTTP/1.1\r\nHost: stockaj.exam")),
        ("a head without its end", by(READER, GET, "").strip_suffix("\r\n").unwrap()),
        ("half a body", &(by(WRITER, POST, "Content-Length: 8\r\n") + "half")),
        ("no body", &by(WRITER, POST, "Content-Length: 8\r\n")),
        ("half a chunk", &(by(WRITER, POST, CHUNKED) + "8\r\nhalf")),
        ("chunks without an end", &(by(WRITER, POST, CHUNKED) + "4\r\nhalf\r\n")),
        ("an end without its empty line", &(by(WRITER, POST, CHUNKED) + "4\r\nhalf\r\n0\r\n")),
    ] {
        env.assert_truncated_request_is_not_served(name, sent.as_bytes());
    }
    env.end();
}
