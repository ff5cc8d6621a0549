//! Malformed and hostile responses of an introspector: none of them is a verdict, and excess or late bytes are not a
//! verdict on another token.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{by, start};
use crate::support::Answer;
use crate::support::TestEnv;

const DELETE: &str = "DELETE /api/v2/items/5";

/// A response that allows everything: 66 bytes, 42 in hex.
const ALL: &str = r#"{"data":{"id":"1","name":"n","abilities":["*"],"expires_at":null}}"#;

/// Name, bytes before [`ALL`], bytes after it.
#[rustfmt::skip]
const ANSWERS: [(&str, &str, &str); 20] = [
    ("length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 66\r\nTransfer-Encoding: chunked\r\n\r\n42\r\n", "\r\n0\r\n\r\n"),
    ("chunks and length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 66\r\n\r\n42\r\n", "\r\n0\r\n\r\n"),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 66\r\nContent-Length: 67\r\n\r\n", ""),
    ("two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 66\r\nContent-Length: 66\r\n\r\n", ""),
    ("a coding before chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n42\r\n", "\r\n0\r\n\r\n"),
    ("a coding that is not chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", ""),
    ("longer than it is", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", ""),
    ("shorter than it is", "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n", ""),
    ("no end of the chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n42\r\n", "\r\n"),
    ("half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n", ""),
    ("no head", "", ""),
    ("no status", "HTTP/1.1 OK\r\nContent-Length: 66\r\n\r\n", ""),
    ("another success", "HTTP/1.1 201 Created\r\nContent-Length: 66\r\n\r\n", ""),
    ("half a success", "HTTP/1.1 206 Partial Content\r\nContent-Length: 66\r\n\r\n", ""),
    ("a redirect", "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 66\r\n\r\n", ""),
    ("too many requests", "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 66\r\n\r\n", ""),
    ("another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", ""),
    ("interim only", "HTTP/1.1 103 Early Hints\r\nContent-Length: 66\r\n\r\n", ""),
    ("a folded field", "HTTP/1.1 200 OK\r\nX-Own: 1\r\n 2\r\nContent-Length: 66\r\n\r\n", ""),
    ("two verdicts in one", "HTTP/1.1 200 OK\r\nContent-Length: 132\r\n\r\n", ALL),
];

/// The verdict for the other tokens of these tests.
fn may_read() -> Answer {
    Answer::json(
        200,
        &json!({"data": {"id": 2, "name": "n", "abilities": ["items:read"], "expires_at": null}}),
    )
}

fn status(env: &TestEnv, token: &str, request: &str) -> u16 {
    let mut client = env.gateway.client();
    client.send(by(token, request, "Content-Length: 0\r\n"));
    client.response().status
}

/// Asserts that the next introspected tokens get their own verdicts.
fn assert_others_are_served(env: &TestEnv, name: &str) {
    for number in 0..4 {
        let token = format!("2|Secret0{}{number}", name.replace(' ', ""));
        assert_eq!(status(env, &token, DELETE), 403, "after `{name}`");
        assert_eq!(status(env, &token, "GET /api/v2/items"), 200, "after `{name}`");
    }
}

const ATTACK: &str = "1|Secret0Attack";

/// Responds with `answer` to the attacking token, and regularly to others.
fn attack(env: &TestEnv, answer: Answer) {
    env.introspector.server().answer(move |request| match request.bearer() {
        Some(token) if token.starts_with(ATTACK) => answer.clone(),
        _ => may_read(),
    });
}

#[test]
fn unusable_introspection_responses_are_no_verdict() {
    let env = start("");
    for (number, (name, before, after)) in ANSWERS.into_iter().enumerate() {
        attack(&env, Answer::raw(format!("{before}{ALL}{after}")).then_close());
        assert_eq!(status(&env, &format!("{ATTACK}{number}"), DELETE), 503, "`{name}`");
        assert_others_are_served(&env, name);
    }
    assert!(env.backend.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn oversized_introspection_response_is_no_verdict() {
    let env = start("");
    let all = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{ALL}", ALL.len());
    let unknown = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}";
    for (number, answer) in [
        Answer::raw(format!("{unknown}{all}")),
        Answer::raw(format!("{unknown}{}", all.repeat(5))),
        Answer::raw(unknown).then_wait(Duration::from_millis(5)).then(all.clone()),
    ]
    .into_iter()
    .cycle()
    .take(9)
    .enumerate()
    {
        attack(&env, answer);
        assert_eq!(status(&env, &format!("{ATTACK}{number}"), DELETE), 401);
        if number % 3 == 2 {
            thread::sleep(Duration::from_millis(50));
        }
        assert_others_are_served(&env, &format!("too much {number}"));
    }
    assert!(env.backend.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn late_introspection_response_is_no_verdict() {
    let env = start("introspection:\n  timeout: 200ms\n");
    let all = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{ALL}", ALL.len());
    for number in 0..4 {
        attack(&env, Answer::raw(all.clone()).after(Duration::from_millis(300)));
        assert_eq!(status(&env, &format!("{ATTACK}{number}"), DELETE), 503);
        assert_others_are_served(&env, &format!("early {number}"));
        thread::sleep(Duration::from_millis(150));
        assert_others_are_served(&env, &format!("late {number}"));
    }
    assert!(env.backend.requests().iter().all(|request| request.method == "GET"));
}
