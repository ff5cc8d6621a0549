//! Memory that the gateway holds for HTTP/2 clients and backends that do not read.

use std::thread;
use std::time::Duration;

use super::h2c;
use crate::support::http2::{Frame, Http2Client, INITIAL_WINDOW_SIZE, request};
use crate::support::{Answer, echo};

const WRITER: (&str, &str) = ("authorization", "Bearer 1|writer");
const LARGE: &str = "/up?large";

/// The maximum number of streams, each with an unread response, limited by windows or by the socket alone.
#[test]
fn unread_http2_responses_hold_bounded_memory() {
    for window in [0, 65_535, 1 << 30] {
        let env = h2c("");
        let body = "x".repeat(4 << 20);
        env.backend.answer(move |request| match &*request.target {
            LARGE => Answer::with(200, &[], &body),
            _ => echo(request),
        });
        let mut client = Http2Client::silent(env.gateway.address());
        client.greet(&[(INITIAL_WINDOW_SIZE, window)]);
        client.send(&Frame::window_update(0, 1 << 30));
        assert!(client.ping());
        let before = env.gateway.resident_memory();
        for _ in 0..100 {
            client.ask("GET", LARGE, &[]);
        }
        env.backend.wait_for_requests(100);
        thread::sleep(Duration::from_millis(500));
        let grown = env.gateway.resident_memory().saturating_sub(before);
        println!("window {window}: {} KiB for 100 streams", grown / 1024);
        assert!(grown < 64 << 20, "window {window}: {grown} bytes are held for a client that does not read");
    }
}

/// An upload that the backend does not read is buffered up to the stream's window.
#[test]
fn backpressure_of_a_slow_backend_reaches_the_http2_client() {
    let env = h2c("");
    env.backend.answer_early(|_| {
        thread::sleep(Duration::from_millis(500));
        None
    });
    let before = env.gateway.resident_memory();
    let body: Vec<u8> = (0..8_u32 << 20).map(|it| (it % 251) as u8).collect();
    let mut client = Http2Client::connect(env.gateway.address());
    assert!(client.ping());
    let answer = client.upload("/api/v2/items", &[WRITER], &body, [1 << 19, 1 << 16]).answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(env.backend.only_request().body == body, "the body changed");
    let grown = env.gateway.resident_memory().saturating_sub(before);
    println!("{} KiB for an upload", grown / 1024);
    assert!(grown < 16 << 20, "{grown} bytes are held after an upload");
}

#[test]
fn idle_http2_connection_holds_under_64_kib() {
    const CONNECTIONS: u64 = 200;
    let env = h2c("");
    let connect = || {
        let mut client = Http2Client::connect(env.gateway.address());
        let stream = client.open(&request("GET", "/up", &[]), true);
        assert_eq!(client.outcome(stream).answer().status, 200);
        client
    };
    let _warm = connect();
    let before = env.gateway.resident_memory();
    let clients: Vec<Http2Client> = (0..CONNECTIONS).map(|_| connect()).collect();
    let each = env.gateway.resident_memory().saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes for each of {} connections", clients.len());
    assert!(each < 64 * 1024, "{each} bytes");
}
