//! A backend that works against `deprecated` and `timeout` of a route, over HTTP/1.1 and HTTP/2.

use std::time::{Duration, Instant};

use super::{PART_OF_EVERY_TOKEN, READER, assert_refused, start};
use crate::support::http2::Http2Client;
use crate::support::{Answer, Response, TestEnv};

const MAP: &str = "\
listen:
  h2c: true
backend:
  timeout: 60s
abilities:
  routes:
    /old: {GET: items:read, deprecated: {since: 2026-01-01, sunset: 2026-12-31, link: 'https://docs.example/v2'}}
    /fast: {GET: items:read, timeout: 150ms}
";

const DEPRECATION: &str = "deprecation: @1767225600";
const SUNSET: &str = "sunset: Thu, 31 Dec 2026 00:00:00 GMT";
const LINK: &str = "link: <https://docs.example/v2>; rel=\"deprecation\"";

/// Name, method, response of the backend, and the sorted lines that announce something; `None` for 502.
#[rustfmt::skip]
const ANNOUNCEMENTS: [(&str, &str, &str, Option<&[&str]>); 12] = [
    ("nothing announced", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("304", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("500", "GET", "HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("own deprecation", "GET", "HTTP/1.1 200 OK\r\nDeprecation: @1\r\nContent-Length: 0\r\n\r\n", Some(&["deprecation: @1", LINK, SUNSET])),
    ("two own deprecations", "GET", "HTTP/1.1 200 OK\r\nDeprecation: @1\r\nDeprecation: @2\r\nContent-Length: 0\r\n\r\n", Some(&["deprecation: @1", "deprecation: @2", LINK, SUNSET])),
    ("own links", "GET", "HTTP/1.1 200 OK\r\nLink: </a>; rel=next\r\nLink: </b>; rel=prev\r\nContent-Length: 0\r\n\r\n", Some(&[DEPRECATION, "link: </a>; rel=next", "link: </b>; rel=prev", LINK, SUNSET])),
    // A field that Connection names ends at the gateway, which then sends its own.
    ("deprecation of one connection", "GET", "HTTP/1.1 200 OK\r\nConnection: Deprecation, Sunset\r\nDeprecation: evil\r\nSunset: evil\r\nContent-Length: 0\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("sunset in an interim response", "GET", "HTTP/1.1 103 Early Hints\r\nSunset: evil\r\nLink: </evil>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some(&[DEPRECATION, LINK, SUNSET])),
    ("line break in a sunset", "GET", "HTTP/1.1 200 OK\r\nSunset: a\rLink: evil\r\nContent-Length: 0\r\n\r\n", None),
    ("switch to another protocol", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n", None),
];

fn announced(response: &Response) -> Vec<String> {
    let lines = response.fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let lines = lines.filter(|(name, _)| ["deprecation", "sunset", "link"].contains(&&**name));
    let mut lines: Vec<String> = lines.map(|(name, value)| format!("{name}: {value}")).collect();
    lines.sort();
    lines
}

/// The responses to one request over HTTP/1.1 and over HTTP/2.
fn over_both_versions(env: &TestEnv, method: &str, target: &str) -> [Response; 2] {
    let authorization = format!("Bearer {READER}");
    let fields = [("authorization", &*authorization)];
    [
        env.gateway.client().request(method, target, &fields, b""),
        Http2Client::connect(env.gateway.address()).request(method, target, &fields, b"").answer(),
    ]
}

#[test]
fn announcement_survives_whatever_the_backend_sends() {
    let env = start(MAP);
    for (name, method, bytes, expected) in ANNOUNCEMENTS {
        env.backend.answer(move |_| Answer::raw(bytes));
        for response in over_both_versions(&env, method, "/old") {
            match expected {
                Some(lines) => assert_eq!(announced(&response), lines, "`{name}`: {response:?}"),
                None => {
                    assert_refused(&response, 502, name);
                    assert!(announced(&response).is_empty(), "`{name}`: {response:?}");
                }
            }
        }
    }
    assert!(env.gateway.logs().iter().all(|line| !line.contains(PART_OF_EVERY_TOKEN)));
}

#[test]
fn backend_cannot_extend_the_timeout_of_a_route() {
    let env = start(MAP);
    let pause = Duration::from_millis(40);
    let pieces = |text: &'static str| {
        text.split_inclusive('|')
            .fold(Answer::raw(""), |answer, piece| answer.then(piece.replace('|', "")).then_wait(pause))
    };
    for (name, answer) in [
        ("no byte", Answer::hang()),
        ("a head without its end", Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n").then_hang()),
        (
            "interim responses only",
            Answer::raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n").then_hang(),
        ),
        (
            "a head in small pieces",
            pieces("HTTP/1.1| 200| OK\r\n|A: 1\r\n|B: 2\r\n|C: 3\r\n|D: 4\r\n|E: 5\r\n|F: 6\r\n|")
                .then_hang(),
        ),
    ] {
        let script = answer.clone();
        env.backend.answer(move |_| script.clone());
        let began = Instant::now();
        for response in over_both_versions(&env, "GET", "/fast") {
            assert_refused(&response, 504, name);
        }
        // Far from the 60 s of `backend.timeout`.
        assert!(began.elapsed() < Duration::from_secs(20), "`{name}`: {:?}", began.elapsed());
    }
    env.gateway.wait_for_metric("requests_total{reason=\"backend_timeout\",status=\"504\"}", 8.0);
    assert!(env.gateway.logs().iter().all(|line| !line.contains(PART_OF_EVERY_TOKEN)));
}
