//! At a bound, and one beyond it.

use super::{Arrives, Case, READER, Refused, RefusedAndClosed, Scene, WRITER, bare, by, case};

const LIMITS: &str =
    "limits: {target_bytes: 100, token_bytes: 40, body: 10, header_count: 20, header_bytes: 8KiB}";

const CREATED: &[&str] = &["POST /api/v2/items"];

pub(super) fn cases() -> Vec<Case> {
    let chunked = |body: &str| by(WRITER, "POST /api/v2/items", "Transfer-Encoding: chunked\r\n") + body;
    let length = |length: &str, body: &str| {
        by(WRITER, "POST /api/v2/items", &format!("Content-Length: {length}\r\n")) + body
    };
    vec![
        case("a body as long as may be", length("10", "0123456789"), Arrives(CREATED)),
        case("a body one longer", length("11", "0123456789a"), Refused(413)),
        case("a body much longer that does not come", length("10000000000", ""), RefusedAndClosed(413)),
        case("chunks as long as may be", chunked("5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"), Arrives(CREATED)),
        case("chunks one longer", chunked("5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n"), Refused(413)),
        case(
            "a chunk much longer that does not come",
            chunked("fffffff\r\n01234567890"),
            RefusedAndClosed(413),
        ),
        case("a chunk of 64 bits", chunked("ffffffffffffffff\r\n01234567890"), RefusedAndClosed(400)),
        case(
            "a body too long of what is refused anyway",
            by(READER, "POST /api/v2/items", "Content-Length: 1000000\r\n"),
            RefusedAndClosed(403),
        ),
        case(
            "a body too long on a public route",
            bare("GET /up", "Content-Length: 11\r\n") + "0123456789a",
            Refused(413),
        ),
    ]
}

#[test]
fn limits() {
    Scene::new(LIMITS).suffers(&cases());
}
