//! Memory of the token cache and of stalled connections.

use std::thread;

use rustix::process::{Resource, getrlimit};

use crate::support::stalled::{Phase, STREAMS, measure};
use crate::support::{TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Memory of a connection and its request without bodies, with slack for the allocator, in bytes.
const OVERHEAD: u64 = 36 * KIB;
/// The same with one connection over TLS, which buffers records, in bytes.
const TLS_OVERHEAD: u64 = 64 * KIB;
/// The same for an HTTP/2 stream.
const STREAM_OVERHEAD: u64 = 10 * KIB;
/// Limit of the buffered bytes of one body.
const BODY: u64 = 64 * KIB;
/// Limit of the bytes of a response that are read ahead of an HTTP/1.1 client, which hyper does not buffer.
const READ_AHEAD: u64 = 48 * KIB;
/// Limit of the buffered bytes of all bodies of one connection.
const BODIES: u64 = MIB;

/// Long names and many abilities, up to the maximum introspection response.
#[test]
fn verdicts_of_any_size_stay_within_max_bytes() {
    const TOKENS: usize = 4000;
    let TestEnv { gateway, backend: _backend, introspector } =
        TestEnv::start("log: {access: false}\ncache: {ttl: 1h, negative_ttl: 1h, max_bytes: 8MiB}\n");
    let abilities: Vec<String> = (0..30).map(|number| format!("items:read:{number:0>200}")).collect();
    let mut abilities: Vec<&str> = abilities.iter().map(|name| &**name).collect();
    abilities.push("items:read");
    for number in 0..TOKENS {
        let verdict = Verdict::active(&abilities).named(number, &format!("{number:n>255}"));
        introspector.set_verdict(&format!("{number}|long"), verdict);
    }
    let fill = |from: usize, to: usize| {
        thread::scope(|scope| {
            for part in 0..4 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut client = gateway.client();
                    for number in (from..to).filter(|number| number % 4 == part) {
                        assert_eq!(client.get(ITEMS, Some(&format!("{number}|long"))).status, 200);
                    }
                });
            }
        });
    };
    // Warm-up: buffers and code of the first requests.
    fill(0, 100);
    let before = gateway.resident_memory();
    fill(100, TOKENS);
    // Evicted entries leave the front caches at the next sweep.
    let entries = gateway.metrics().metric("token_cache_entries{kind=\"active\"}");
    let grown = gateway.resident_memory().saturating_sub(before);
    println!("{entries} of {TOKENS} entries: {} KiB more", grown / 1024);
    assert!((500.0..1200.0).contains(&entries), "{entries}");
    assert!(grown < 8 * MIB * 5 / 4 + 4 * MIB, "{} KiB more", grown / 1024);
}

/// Stalls connections in a phase, and asserts that each takes at most `each` bytes and frees them.
fn assert_bounded(phase: Phase, connections: u64, each: u64) {
    // One socket here and two of the gateway's, all of which the test opens twice.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = connections.min(limit.saturating_sub(500) / 6);
    let cost = measure(phase, connections as usize);
    let (stalled, closed) = (cost.stalled / KIB, cost.closed / KIB);
    println!("{phase:?}: {connections} connections, {stalled} KiB, {closed} KiB after closing");
    assert!(cost.stalled <= connections * each, "{phase:?}: {stalled} KiB for {connections} connections");
    assert!(cost.closed <= cost.stalled / 4 + 4 * MIB, "{phase:?}: {closed} of {stalled} KiB are left");
}

#[test]
fn clients_stalled_within_a_head_or_handshake_hold_little_memory() {
    assert_bounded(Phase::Head, 1000, OVERHEAD);
    assert_bounded(Phase::Handshake, 200, OVERHEAD);
}

#[test]
fn slow_readers_hold_64_kib_each() {
    assert_bounded(Phase::Length, 1000, BODY + OVERHEAD);
}

/// The length is unknown, so the end may be near.
#[test]
fn slow_readers_of_unknown_length_hold_112_kib_each() {
    assert_bounded(Phase::Chunked, 200, BODY + READ_AHEAD + OVERHEAD);
    assert_bounded(Phase::UntilClose, 200, BODY + READ_AHEAD + OVERHEAD);
    assert_bounded(Phase::LengthHttp2Backend, 200, BODY + READ_AHEAD + OVERHEAD);
}

#[test]
fn slow_readers_over_tls_hold_64_kib_each() {
    assert_bounded(Phase::LengthTls, 200, BODY + TLS_OVERHEAD);
    assert_bounded(Phase::LengthTlsBackend, 200, BODY + TLS_OVERHEAD);
}

#[test]
fn uploads_to_a_backend_that_does_not_read_hold_64_kib_each() {
    assert_bounded(Phase::Upload, 1000, BODY + OVERHEAD);
    assert_bounded(Phase::UploadChunked, 200, BODY + OVERHEAD);
    assert_bounded(Phase::UploadHttp2Backend, 200, BODY + OVERHEAD + STREAM_OVERHEAD);
}

#[test]
fn uploads_over_tls_hold_64_kib_each() {
    assert_bounded(Phase::UploadTls, 200, BODY + TLS_OVERHEAD);
    assert_bounded(Phase::UploadTlsBackend, 200, BODY + TLS_OVERHEAD);
}

#[test]
fn idle_connections_hold_no_body() {
    assert_bounded(Phase::Idle, 200, OVERHEAD);
    assert_bounded(Phase::IdleAfterLarge, 200, BODY / 2 + OVERHEAD);
}

#[test]
fn tunnels_hold_8_kib_each_way() {
    assert_bounded(Phase::TunnelDown, 200, 16 * KIB + OVERHEAD);
    assert_bounded(Phase::TunnelUp, 200, 16 * KIB + OVERHEAD);
}

#[test]
fn http2_client_with_100_unread_streams_holds_1_mib() {
    let each = BODIES + STREAMS as u64 * STREAM_OVERHEAD;
    for phase in
        [Phase::Http2Wide, Phase::Http2Narrow, Phase::Http2Shut, Phase::Http2Small, Phase::Http2WideTls]
    {
        assert_bounded(phase, 4, each);
    }
    // As many bytes again are in the windows of the backend's connection.
    assert_bounded(Phase::Http2WideHttp2Backend, 4, each + BODIES);
}

#[test]
fn http2_client_with_100_stalled_uploads_holds_1_mib() {
    let each = BODIES + STREAMS as u64 * STREAM_OVERHEAD;
    assert_bounded(Phase::Http2Upload, 4, each);
    assert_bounded(Phase::Http2UploadHttp2Backend, 4, each);
}
