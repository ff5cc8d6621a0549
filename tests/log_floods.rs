//! Log lines that clients can provoke are throttled.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::http2::{Frame, Http2Client, PING};
use crate::support::{Authority, Gateway, PATIENCE, RawClient, TestEnv};

/// Lines that one call site may log at once.
const BURST: u64 = 10;

/// The lines whose message contains `text`.
fn lines(gateway: &Gateway, text: &str) -> Vec<Value> {
    let parse = |line: String| serde_json::from_str::<Value>(&line).ok();
    let is_wanted = |line: &Value| line["message"].as_str().is_some_and(|message| message.contains(text));
    gateway.logs().into_iter().filter_map(parse).filter(is_wanted).collect()
}

/// Provokes `count` lines with `text`, then one more at a time by `once` until a line reports the number suppressed
/// before it. Every line is accounted for, and few are written.
pub(crate) fn assert_throttled(
    gateway: &Gateway,
    text: &str,
    count: u64,
    provoke: impl FnOnce(),
    once: impl Fn(),
) {
    let start = Instant::now();
    provoke();
    let end = Instant::now() + PATIENCE;
    let mut provoked = count;
    let told = loop {
        thread::sleep(Duration::from_millis(300));
        once();
        provoked += 1;
        let told = lines(gateway, text);
        let suppressed: u64 = told.iter().filter_map(|line| line["suppressed"].as_u64()).sum();
        // The last lines may have been suppressed without a report.
        if suppressed + told.len() as u64 + 10 >= provoked && suppressed > 0 {
            assert!(
                suppressed + told.len() as u64 <= provoked,
                "{suppressed} and {} of {provoked}",
                told.len()
            );
            break told.len() as u64;
        }
        assert!(Instant::now() < end, "{text}: {suppressed} and {} of {provoked}", told.len());
    };
    let most = BURST + start.elapsed().as_secs() + 1;
    assert!(told <= most, "{told} lines with `{text}` in {:?}", start.elapsed());
    assert!(count > 3 * most, "the test must provoke a flood");
}

/// h2 logs a WARN line for each.
fn unsolicited(client: &mut Http2Client, count: usize) {
    client.send_bytes(Frame::new(PING, 1, 0, [0; 8]).bytes().repeat(count));
    assert!(client.ping());
}

#[test]
fn unsolicited_ping_acks_over_h2c_do_not_fill_the_log() {
    let env = TestEnv::start("listen:\n  h2c: true\n");
    let connect = || Http2Client::connect(env.gateway.address());
    assert_throttled(
        &env.gateway,
        "recv PING ack",
        20 * 800,
        || (0..20).for_each(|_| unsolicited(&mut connect(), 800)),
        || unsolicited(&mut connect(), 1),
    );
}

#[test]
fn unsolicited_ping_acks_over_tls_do_not_fill_the_log() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).start();
    let connect = || Http2Client::connect_tls(env.gateway.address(), &authority);
    assert_throttled(
        &env.gateway,
        "recv PING ack",
        5 * 800,
        || (0..5).for_each(|_| unsolicited(&mut connect(), 800)),
        || unsolicited(&mut connect(), 1),
    );
}

/// Sends `bytes` over a new connection, and waits until it closes.
fn send(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn malformed_proxy_headers_do_not_fill_the_log() {
    let env = TestEnv::start("listen:\n  proxy_protocol: true\n  trusted_proxies: [127.0.0.1]\n");
    let once = || send(env.gateway.address(), b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_throttled(
        &env.gateway,
        "connection of a trusted proxy closed",
        300,
        || (0..300).for_each(|_| once()),
        once,
    );
}

#[test]
fn clients_without_a_certificate_do_not_fill_the_log() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let env = TestEnv::start(&format!(
        "listen:\n  tls: {{certificate: {}, private_key: {}, client_ca: {}}}\n",
        authority.certificate().display(),
        authority.private_key().display(),
        clients.ca_file().display()
    ));
    let once = || {
        let mut client = RawClient::connect_tls_as(env.gateway.address(), authority.client(), "localhost");
        let _ = client.try_send("GET /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(client.try_response(false).is_err());
    };
    assert_throttled(
        &env.gateway,
        "client certificate rejected",
        100,
        || (0..100).for_each(|_| once()),
        once,
    );
}

/// Lines that are logged only at lower levels are throttled as well.
#[test]
fn garbage_does_not_fill_a_debug_log() {
    let builder = TestEnv::builder().tls(&Arc::new(Authority::new()));
    let env = builder.yaml("log: {level: debug}\n").start();
    let once = || send(env.gateway.address(), b"\x05\x01\x00 no TLS and no HTTP\r\n\r\n");
    assert_throttled(&env.gateway, "TLS handshake failed", 200, || (0..200).for_each(|_| once()), once);
}
