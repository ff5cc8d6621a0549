//! Requests at a limit, and one beyond it.

use super::{
    Arrives, ArrivesThenRefused, Case, READER, Refused, RefusedAndClosed, WRITER, bare, by, case, start,
};

pub(super) const LIMITS: &str =
    "limits: {target_bytes: 100, token_bytes: 40, body: 10, header_count: 20, header_bytes: 8KiB}";

const LONGEST: &[&str] = &[
    "GET /up?xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];
const CREATED: &[&str] = &["POST /api/v2/items"];

pub(super) fn cases() -> Vec<Case> {
    let chunked = |body: &str| by(WRITER, "POST /api/v2/items", "Transfer-Encoding: chunked\r\n") + body;
    let length = |length: &str, body: &str| {
        by(WRITER, "POST /api/v2/items", &format!("Content-Length: {length}\r\n")) + body
    };
    // `GET /up?` with padding up to this length of the target.
    let target = |length: usize| bare(&format!("GET /up?{}", "x".repeat(length - "/up?".len())), "");
    // In addition to Host.
    let fields = |count: usize| bare("GET /up", &"X-Own: 1\r\n".repeat(count - 1));
    let head = |length: usize| {
        let others = bare("GET /up", "X-Own: \r\n").len();
        bare("GET /up", &format!("X-Own: {}\r\n", "x".repeat(length - others)))
    };
    const UP: &[&str] = &["GET /up"];
    vec![
        case("a target as long as may be", target(100), Arrives(LONGEST)),
        case("a target one longer", target(101), RefusedAndClosed(414)),
        case("a target beyond what a head may have", target(20_000), RefusedAndClosed(414)),
        case("a target without an end", "GET /".to_owned() + &"x".repeat(20_000), RefusedAndClosed(414)),
        case("as many fields as may be", fields(20), Arrives(UP)),
        case("one field more", fields(21), RefusedAndClosed(431)),
        case("many fields more", fields(500), RefusedAndClosed(431)),
        case("a head as large as may be", head(8192), Arrives(UP)),
        case("a head one byte larger", head(8193), RefusedAndClosed(431)),
        case("a head much larger", head(60_000), RefusedAndClosed(431)),
        case(
            "a field without an end",
            "GET /up HTTP/1.1\r\nX-Own: ".to_owned() + &"x".repeat(20_000),
            RefusedAndClosed(431),
        ),
        case(
            "a name without an end",
            "GET /up HTTP/1.1\r\n".to_owned() + &"x".repeat(20_000),
            RefusedAndClosed(431),
        ),
        case("a method without an end", "G".repeat(20_000), RefusedAndClosed(431)),
        case("empty lines without an end", "\r\n".repeat(5000), RefusedAndClosed(400)),
        case(
            "a good request, then a head one byte larger",
            bare("GET /up", "") + &head(8193),
            ArrivesThenRefused(UP, 431),
        ),
        case(
            "an extension without an end",
            chunked(&format!("1;{}", "x".repeat(20_000))),
            RefusedAndClosed(400),
        ),
        case(
            "trailers without an end",
            chunked(&format!("0\r\n{}", "X-Own: 1\r\n".repeat(2000))),
            RefusedAndClosed(400),
        ),
        case("the longest token", by(&"x".repeat(40), "GET /api/v2/items", ""), Refused(401)),
        case("one longer than the longest token", by(&"x".repeat(41), "GET /api/v2/items", ""), Refused(401)),
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
fn requests_at_a_limit_pass_and_beyond_it_are_rejected() {
    let env = start(LIMITS);
    env.run_attacks(&cases());
    let asked: Vec<_> =
        env.introspector.requests().iter().filter_map(|it| it.bearer().map(str::len)).collect();
    assert!(
        asked.contains(&40) && !asked.contains(&41),
        "tokens of these lengths were introspected: {asked:?}"
    );
}
