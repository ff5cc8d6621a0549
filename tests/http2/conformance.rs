//! The cases of h2spec (groups generic, hpack and http2) in raw frames. Each names its section of RFC 7540, by which
//! h2spec is arranged, or of RFC 7541. h2spec itself is in no package registry that the tests could install it from.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{client, h2c};
use crate::support::http2::{
    ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, Frame, GOAWAY, HEADERS, Http2Client, INITIAL_WINDOW_SIZE, Outcome, PADDED, PING,
    PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE,
    WITH_PRIORITY, literals, request,
};

/// The expected outcome of a case.
#[derive(Clone, Copy, Debug)]
enum Comes {
    /// The connection stays open: a PING is acknowledged.
    Nothing,
    /// The connection stays open, and stream 1 gets 200.
    Answer,
    /// GOAWAY with one of these errors, then a close.
    ConnectionError(&'static [u32]),
    /// RST_STREAM of stream 1 with this error; the connection stays open.
    StreamError(u32),
}
use Comes::{Answer, ConnectionError, Nothing, StreamError};

type Case = (&'static str, &'static str, Vec<Frame>, Comes);

const PROTOCOL: Comes = ConnectionError(&[PROTOCOL_ERROR]);
const COMPRESSION: Comes = ConnectionError(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
const FRAME_SIZE: Comes = ConnectionError(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);

fn frame(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
    Frame::new(kind, flags, stream, payload)
}

fn get() -> Vec<u8> {
    literals(&request("GET", "/up", &[]))
}

/// A complete request on this stream.
fn asks(stream: u32) -> Frame {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, get())
}

/// The head of a request whose body follows; the gateway may not respond before it.
fn begins(stream: u32) -> Frame {
    let fields = [("authorization", "Bearer 1|writer")];
    frame(HEADERS, END_HEADERS, stream, literals(&request("POST", "/api/v2/items", &fields)))
}

/// A request with exactly these fields.
fn of(fields: &[(&str, &str)]) -> Vec<Frame> {
    vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, literals(fields))]
}

fn with(fields: &[(&str, &str)]) -> Vec<Frame> {
    of(&request("GET", "/up", fields))
}

/// A header block with these bytes of HPACK before or after the fields.
fn block(before: &[u8], after: &[u8]) -> Vec<Frame> {
    vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, [before, &get(), after].concat())]
}

fn generic() -> Vec<Case> {
    let on = |stream: u32, weight: u8| [&stream.to_be_bytes()[..], &[weight]].concat();
    let half = get().len() / 2;
    vec![
        ("generic 1", "a connection begins", vec![], Nothing),
        ("generic 2", "PRIORITY of an idle stream", vec![frame(PRIORITY, 0, 1, on(0, 255)), asks(1)], Answer),
        ("generic 2", "WINDOW_UPDATE after the end", vec![asks(1), Frame::window_update(1, 100)], Answer),
        ("generic 2", "PRIORITY after the end", vec![asks(1), frame(PRIORITY, 0, 1, on(0, 255))], Answer),
        ("generic 2", "RST_STREAM after the end", vec![asks(1), Frame::reset(1, CANCEL)], Nothing),
        (
            "generic 2",
            "PRIORITY of a stream that was reset",
            vec![asks(1), Frame::reset(1, CANCEL), frame(PRIORITY, 0, 1, on(0, 255))],
            Nothing,
        ),
        ("generic 3.1", "DATA", vec![begins(1), frame(DATA, END_STREAM, 1, *b"test")], Answer),
        (
            "generic 3.1",
            "several DATA",
            vec![begins(1), frame(DATA, 0, 1, *b"te"), frame(DATA, END_STREAM, 1, *b"st")],
            Answer,
        ),
        (
            "generic 3.1",
            "DATA with padding",
            vec![begins(1), frame(DATA, END_STREAM | PADDED, 1, [&[6][..], b"test", &[0; 6]].concat())],
            Answer,
        ),
        ("generic 3.2", "HEADERS", vec![asks(1)], Answer),
        (
            "generic 3.2",
            "HEADERS with padding",
            vec![frame(HEADERS, 5 | PADDED, 1, [&[6][..], &get(), &[0; 6]].concat())],
            Answer,
        ),
        (
            "generic 3.2",
            "HEADERS with priority",
            vec![frame(HEADERS, 5 | WITH_PRIORITY, 1, [on(0, 255), get()].concat())],
            Answer,
        ),
        ("generic 3.3", "PRIORITY of weight 1", vec![frame(PRIORITY, 0, 1, on(0, 0)), asks(1)], Answer),
        ("generic 3.3", "PRIORITY on another", vec![frame(PRIORITY, 0, 1, on(3, 9)), asks(1)], Answer),
        (
            "generic 3.3",
            "exclusive PRIORITY",
            vec![frame(PRIORITY, 0, 1, on(0x8000_0003, 9)), asks(1)],
            Answer,
        ),
        ("generic 3.3", "PRIORITY of a later stream", vec![frame(PRIORITY, 0, 5, on(0, 9)), asks(1)], Answer),
        ("generic 3.4", "RST_STREAM", vec![asks(1), Frame::reset(1, CANCEL)], Nothing),
        ("generic 3.5", "SETTINGS", vec![Frame::settings(&[(3, 100)])], Nothing),
        ("generic 3.7", "PING", vec![frame(PING, 0, 0, *b"h2spec\0\0")], Nothing),
        ("generic 3.8", "GOAWAY", vec![frame(GOAWAY, 0, 0, [0; 8])], ConnectionError(&[0])),
        ("generic 3.9", "WINDOW_UPDATE of the connection", vec![Frame::window_update(0, 1), asks(1)], Answer),
        (
            "generic 3.9",
            "WINDOW_UPDATE of a stream",
            vec![begins(1), Frame::window_update(1, 1), frame(DATA, 1, 1, [])],
            Answer,
        ),
        (
            "generic 3.10",
            "CONTINUATION",
            vec![
                frame(HEADERS, END_STREAM, 1, &get()[..half]),
                frame(CONTINUATION, END_HEADERS, 1, &get()[half..]),
            ],
            Answer,
        ),
        (
            "generic 3.10",
            "several CONTINUATIONs",
            vec![
                frame(HEADERS, END_STREAM, 1, &get()[..half]),
                frame(CONTINUATION, 0, 1, &get()[half..half + 5]),
                frame(CONTINUATION, END_HEADERS, 1, &get()[half + 5..]),
            ],
            Answer,
        ),
        ("generic 4", "HEAD", of(&request("HEAD", "/up", &[])), Answer),
        (
            "generic 4",
            "POST with trailers",
            vec![begins(1), frame(DATA, 0, 1, *b"test"), frame(HEADERS, 5, 1, literals(&[("x-test", "ok")]))],
            Answer,
        ),
        // Static table: GET, http, /.
        ("generic 5", "an indexed field", block(&[], &[0x80 | 16]), Answer),
        ("generic 5", "indexed, of an indexed name", block(&[], &[0x40 | 19, 1, b'*']), Answer),
        ("generic 5", "indexed, of a new name", block(&[], b"\x40\x01a\x01b"), Answer),
        ("generic 5", "not indexed, of an indexed name", block(&[], &[0x0f, 4, 1, b'*']), Answer),
        ("generic 5", "never indexed", block(&[], b"\x10\x01a\x01b"), Answer),
        ("generic 5", "the table's size changes", block(&[0x20], &[]), Answer),
        ("generic 5", "the table's size changes twice", block(&[0x20, 0x3f, 0xe1, 0x1f], &[]), Answer),
        ("generic 5", "Huffman", block(&[], b"\x00\x83\x1c\x64\x5f\x81\x1f"), Answer),
    ]
}

fn hpack() -> Vec<Case> {
    vec![
        ("hpack 2.3.3", "an index beyond the tables", block(&[], &[0x80 | 70]), COMPRESSION),
        ("hpack 2.3.3", "a name's index beyond the tables", block(&[], &[0x40 | 62, 1, b'a']), COMPRESSION),
        ("hpack 4.2", "the table's size changes at the end", block(&[], &[0x21]), COMPRESSION),
        (
            "hpack 5.2",
            "Huffman with more than 7 bits of padding",
            block(&[], &[0, 1, b'a', 0x82, 0x1f, 0xff]),
            COMPRESSION,
        ),
        ("hpack 5.2", "Huffman padded with zeros", block(&[], &[0, 1, b'a', 0x81, 0x18]), COMPRESSION),
        (
            "hpack 5.2",
            "Huffman with EOS",
            block(&[], &[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            COMPRESSION,
        ),
        ("hpack 6.1", "index 0", block(&[], &[0x80]), COMPRESSION),
        ("hpack 6.3", "a table larger than may be", block(&[0x3f, 0xe2, 0x1f], &[]), COMPRESSION),
        ("hpack 5.1", "an integer without end", block(&[0xff; 20], &[]), COMPRESSION),
        ("hpack 5.2", "a string beyond the block", block(&[], &[0, 0x7f, 0xff, 0x7f]), COMPRESSION),
    ]
}

fn frames_and_streams() -> Vec<Case> {
    let mut reserved = asks(1);
    reserved.stream |= 0x8000_0000;
    let self_dependent = [&1_u32.to_be_bytes()[..], &[9]].concat();
    let ended = || vec![asks(1)];
    let after = |frame: Frame| [ended(), vec![frame]].concat();
    let after_reset = |frame: Frame| vec![begins(1), Frame::reset(1, CANCEL), frame];
    let open_block = || frame(HEADERS, END_STREAM, 1, get());
    vec![
        ("http2 4.1", "an unknown kind", vec![frame(0xff, 0xff, 0, *b"h2spec"), asks(1)], Answer),
        ("http2 4.1", "flags that mean nothing", vec![frame(PING, 0xfe, 0, [0; 8])], Nothing),
        ("http2 4.1", "the reserved bit", vec![reserved], Answer),
        (
            "http2 4.2",
            "DATA of the largest size",
            vec![begins(1), frame(DATA, END_STREAM, 1, vec![b'x'; 16_384])],
            Answer,
        ),
        (
            "http2 4.2",
            "DATA one larger",
            vec![begins(1), frame(DATA, END_STREAM, 1, vec![b'x'; 16_385])],
            FRAME_SIZE,
        ),
        ("http2 4.2", "HEADERS too large", vec![frame(HEADERS, 5, 1, vec![0; 16_385])], FRAME_SIZE),
        ("http2 4.3", "a block that is none", vec![frame(HEADERS, 5, 1, [0x40])], COMPRESSION),
        (
            "http2 4.3",
            "PRIORITY within a block",
            vec![open_block(), frame(PRIORITY, 0, 1, [0, 0, 0, 0, 9])],
            PROTOCOL,
        ),
        ("http2 4.3", "another's HEADERS within a block", vec![open_block(), asks(3)], PROTOCOL),
        ("http2 5.1", "DATA of an idle stream", vec![frame(DATA, END_STREAM, 1, *b"test")], PROTOCOL),
        ("http2 5.1", "RST_STREAM of an idle stream", vec![Frame::reset(1, CANCEL)], PROTOCOL),
        ("http2 5.1", "WINDOW_UPDATE of an idle stream", vec![Frame::window_update(1, 100)], PROTOCOL),
        (
            "http2 5.1",
            "CONTINUATION of an idle stream",
            vec![frame(CONTINUATION, END_HEADERS, 1, get())],
            PROTOCOL,
        ),
        (
            "http2 5.1",
            "DATA after the end",
            after(frame(DATA, END_STREAM, 1, *b"test")),
            ConnectionError(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "http2 5.1",
            "HEADERS after the end",
            after(asks(1)),
            ConnectionError(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "http2 5.1",
            "CONTINUATION after the end",
            after(frame(CONTINUATION, END_HEADERS, 1, get())),
            PROTOCOL,
        ),
        (
            "http2 5.1",
            "DATA after a reset",
            after_reset(frame(DATA, END_STREAM, 1, *b"test")),
            StreamError(STREAM_CLOSED),
        ),
        (
            "http2 5.1",
            "HEADERS after a reset",
            after_reset(asks(1)),
            ConnectionError(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "http2 5.1",
            "CONTINUATION after a reset",
            after_reset(frame(CONTINUATION, END_HEADERS, 1, get())),
            PROTOCOL,
        ),
        ("http2 5.1.1", "an even number", vec![asks(2)], PROTOCOL),
        ("http2 5.1.1", "a smaller number", vec![asks(5), asks(3)], ConnectionError(&[PROTOCOL_ERROR])),
        (
            "http2 5.3.1",
            "HEADERS that depend on themselves",
            vec![frame(HEADERS, 5 | WITH_PRIORITY, 1, [self_dependent.clone(), get()].concat())],
            StreamError(PROTOCOL_ERROR),
        ),
        ("http2 5.4.1", "an error is told of before the close", vec![frame(PING, 0, 0, [0; 6])], FRAME_SIZE),
        ("http2 5.5", "an extension", vec![frame(0x16, 0, 0, [0; 8])], Nothing),
        ("http2 5.5", "an extension within a block", vec![open_block(), frame(0x16, 0, 0, [0; 8])], PROTOCOL),
    ]
}

fn kinds_of_frames() -> Vec<Case> {
    let half = get().len() / 2;
    let begun = || frame(HEADERS, END_STREAM, 1, &get()[..half]);
    let rest = |flags: u8, stream: u32| frame(CONTINUATION, flags, stream, &get()[half..]);
    let promise = [&2_u32.to_be_bytes()[..], &get()].concat();
    let most = 0x7fff_ffff;
    vec![
        ("http2 6.1", "DATA of stream 0", vec![frame(DATA, END_STREAM, 0, *b"test")], PROTOCOL),
        (
            "http2 6.1",
            "more padding than DATA",
            vec![begins(1), frame(DATA, 1 | PADDED, 1, [7, b't', 0, 0])],
            PROTOCOL,
        ),
        ("http2 6.2", "HEADERS of stream 0", vec![asks(0)], PROTOCOL),
        ("http2 6.2", "more padding than HEADERS", vec![frame(HEADERS, 5 | PADDED, 1, [9, 0, 0])], PROTOCOL),
        ("http2 6.3", "PRIORITY of stream 0", vec![frame(PRIORITY, 0, 0, [0, 0, 0, 1, 9])], PROTOCOL),
        ("http2 6.3", "PRIORITY of another length", vec![asks(1), frame(PRIORITY, 0, 1, [0; 4])], FRAME_SIZE),
        ("http2 6.4", "RST_STREAM of stream 0", vec![Frame::reset(0, CANCEL)], PROTOCOL),
        (
            "http2 6.4",
            "RST_STREAM of another length",
            vec![asks(1), frame(RST_STREAM, 0, 1, [0; 3])],
            FRAME_SIZE,
        ),
        ("http2 6.5", "SETTINGS that acknowledge and say", vec![frame(SETTINGS, ACK, 0, [0; 6])], FRAME_SIZE),
        ("http2 6.5", "SETTINGS of a stream", vec![frame(SETTINGS, 0, 1, [0, 3, 0, 0, 0, 100])], PROTOCOL),
        ("http2 6.5", "SETTINGS of another length", vec![frame(SETTINGS, 0, 0, [0, 3, 0])], FRAME_SIZE),
        ("http2 6.5.2", "ENABLE_PUSH of 2", vec![Frame::settings(&[(2, 2)])], PROTOCOL),
        (
            "http2 6.5.2",
            "a window beyond the largest",
            vec![Frame::settings(&[(4, 1 << 31)])],
            ConnectionError(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        ("http2 6.5.2", "frames below the smallest", vec![Frame::settings(&[(5, 16_383)])], PROTOCOL),
        ("http2 6.5.2", "frames beyond the largest", vec![Frame::settings(&[(5, 1 << 24)])], PROTOCOL),
        ("http2 6.5.2", "an unknown setting", vec![Frame::settings(&[(0xff, 1)]), asks(1)], Answer),
        ("http2 6.7", "PING of a stream", vec![frame(PING, 0, 1, [0; 8])], PROTOCOL),
        ("http2 6.7", "PING of another length", vec![frame(PING, 0, 0, [0; 6])], FRAME_SIZE),
        ("http2 6.7", "PING that acknowledges nothing", vec![frame(PING, ACK, 0, *b"invalid\0")], Nothing),
        ("http2 6.8", "GOAWAY of a stream", vec![frame(GOAWAY, 0, 1, [0; 8])], PROTOCOL),
        ("http2 6.9", "a window that grows by nothing", vec![Frame::window_update(0, 0)], PROTOCOL),
        (
            "http2 6.9",
            "WINDOW_UPDATE of another length",
            vec![frame(WINDOW_UPDATE, 0, 0, [0, 0, 1])],
            FRAME_SIZE,
        ),
        (
            "http2 6.9.1",
            "the connection's window overflows",
            vec![Frame::window_update(0, most), Frame::window_update(0, most)],
            ConnectionError(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "http2 6.9.1",
            "a stream's window overflows",
            vec![begins(1), Frame::window_update(1, most), Frame::window_update(1, most)],
            StreamError(FLOW_CONTROL_ERROR),
        ),
        (
            "http2 6.10",
            "CONTINUATION and another frame",
            vec![begun(), frame(DATA, END_STREAM, 1, *b"test")],
            PROTOCOL,
        ),
        ("http2 6.10", "CONTINUATION of stream 0", vec![begun(), rest(END_HEADERS, 0)], PROTOCOL),
        ("http2 6.10", "CONTINUATION after a block", vec![asks(1), rest(END_HEADERS, 1)], PROTOCOL),
        (
            "http2 6.10",
            "CONTINUATION after CONTINUATION's end",
            vec![begun(), rest(END_HEADERS, 1), rest(END_HEADERS, 1)],
            PROTOCOL,
        ),
        (
            "http2 6.10",
            "CONTINUATION after DATA",
            vec![begins(1), frame(DATA, 1, 1, *b"test"), rest(END_HEADERS, 1)],
            PROTOCOL,
        ),
        (
            "http2 7",
            "GOAWAY with an unknown error",
            vec![frame(GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 0xff])],
            ConnectionError(&[0, 0xff]),
        ),
        ("http2 7", "RST_STREAM with an unknown error", vec![asks(1), Frame::reset(1, 0xff)], Nothing),
        (
            "http2 8.2",
            "a promise of a client's",
            vec![begins(1), frame(PUSH_PROMISE, END_HEADERS, 1, promise)],
            PROTOCOL,
        ),
    ]
}

fn messages() -> Vec<Case> {
    const MALFORMED: Comes = StreamError(PROTOCOL_ERROR);
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/up"));
    let authority = (":authority", "stockaj.example");
    let sized = |length: &'static str| {
        let fields = [("authorization", "Bearer 1|writer"), ("content-length", length)];
        frame(HEADERS, END_HEADERS, 1, literals(&request("POST", "/api/v2/items", &fields)))
    };
    vec![
        (
            "http2 8.1",
            "a second head without an end",
            vec![begins(1), frame(HEADERS, END_HEADERS, 1, literals(&[("x-test", "ok")]))],
            MALFORMED,
        ),
        ("http2 8.1.2", "a name in upper case", with(&[("X-TEST", "ok")]), COMPRESSION),
        ("http2 8.1.2.1", "an unknown pseudo-field", with(&[(":test", "ok")]), COMPRESSION),
        ("http2 8.1.2.1", "a pseudo-field of answers", with(&[(":status", "200")]), MALFORMED),
        (
            "http2 8.1.2.1",
            "a pseudo-field after a field",
            of(&[method, scheme, path, ("x-test", "ok"), authority]),
            MALFORMED,
        ),
        ("http2 8.1.2.2", "a field of the connection", with(&[("connection", "keep-alive")]), MALFORMED),
        ("http2 8.1.2.2", "TE of more than trailers", with(&[("te", "trailers, deflate")]), MALFORMED),
        ("http2 8.1.2.3", "an empty path", of(&[method, scheme, authority, (":path", "")]), MALFORMED),
        ("http2 8.1.2.3", "no method", of(&[scheme, authority, path]), MALFORMED),
        ("http2 8.1.2.3", "no scheme", of(&[method, authority, path]), MALFORMED),
        ("http2 8.1.2.3", "no path", of(&[method, scheme, authority]), MALFORMED),
        ("http2 8.1.2.3", "two methods", of(&[method, method, scheme, authority, path]), MALFORMED),
        ("http2 8.1.2.3", "two schemes", of(&[method, scheme, scheme, authority, path]), MALFORMED),
        ("http2 8.1.2.3", "two paths", of(&[method, scheme, authority, path, path]), MALFORMED),
        ("http2 8.1.2.3", "two authorities", of(&[method, scheme, authority, authority, path]), MALFORMED),
        (
            "http2 8.1.2.6",
            "a length that is another",
            vec![sized("1"), frame(DATA, END_STREAM, 1, *b"test")],
            MALFORMED,
        ),
        (
            "http2 8.1.2.6",
            "a length that is another's sum",
            vec![sized("1"), frame(DATA, 0, 1, *b"te"), frame(DATA, END_STREAM, 1, *b"st")],
            MALFORMED,
        ),
    ]
}

#[test]
fn h2spec_cases_pass() {
    let env = h2c("");
    let tables = [generic(), hpack(), frames_and_streams(), kinds_of_frames(), messages()];
    let mut failed = Vec::new();
    for (section, name, frames, comes) in tables.iter().flatten() {
        let run_case = || run_case(&mut client(&env), frames, *comes);
        if let Err(why) = catch_unwind(AssertUnwindSafe(run_case)) {
            let why = why.downcast::<String>().map_or_else(|_| "?".into(), |why| *why);
            failed.push(format!("{section}, {name}: {why}"));
        }
    }
    let all = tables.iter().flatten().count();
    println!("{all} cases");
    assert!(failed.is_empty(), "{} of {all} failed:\n{}", failed.len(), failed.join("\n"));
    assert!(all > 110, "{all}");
}

fn run_case(client: &mut Http2Client, frames: &[Frame], comes: Comes) {
    // The client's settings are acknowledged first, so that they apply to the frames of the case.
    assert!(client.ping());
    client.send_bytes(frames.iter().flat_map(Frame::bytes).collect::<Vec<u8>>());
    match comes {
        Nothing => assert!(client.ping(), "the connection ended: {:?}", client.away()),
        Answer => {
            let answer = client.outcome(1).answer();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(client.ping(), "the connection ended: {:?}", client.away());
        }
        ConnectionError(errors) => {
            let error = client.end().expect("GOAWAY");
            assert!(errors.contains(&error), "GOAWAY with {error} instead of {errors:?}");
        }
        StreamError(expected) => {
            let outcome = client.outcome(1);
            assert!(matches!(outcome, Outcome::Reset(error) if error == expected), "{outcome:?}");
            assert!(client.ping(), "the connection ended: {:?}", client.away());
        }
    }
}

/// Section 3.5.
#[test]
fn invalid_connection_preface_is_a_protocol_error() {
    let env = h2c("");
    // After the preface the first frame has to be SETTINGS. Other prefaces are parsed as HTTP/1.
    let mut odd = Http2Client::silent(env.gateway.address());
    odd.send_bytes([PREFACE, &Frame::new(PING, 0, 0, [0; 8]).bytes()].concat());
    assert_eq!(odd.end(), Some(PROTOCOL_ERROR));
}

/// Section 5.1: frames that a client may have sent before it received the reset.
#[test]
fn frames_after_a_reset_of_the_gateway_are_ignored() {
    let env = h2c("limits: {body: 1B}");
    let mut client = client(&env);
    let stream =
        client.open(&request("POST", "/api/v2/items", &[("authorization", "Bearer 1|writer")]), false);
    client.data(stream, b"test", false);
    assert_eq!(client.outcome(stream).answer().status, 413);
    client.data(stream, b"test", false);
    client.trailers(stream, &[("x-test", "ok")]);
    assert!(client.ping());
}

/// Sections 6.5.3 and 6.9: the gateway sends exactly as much as the client's window allows.
#[test]
fn flow_control_windows_are_respected_to_the_byte() {
    let env = h2c("");
    for settings in [&[(INITIAL_WINDOW_SIZE, 1)][..], &[(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)]]
    {
        let mut client = Http2Client::silent(env.gateway.address());
        client.greet(settings);
        client.reads_on = false;
        assert!(client.ping());
        let stream = client.ask("GET", "/up", &[]);
        while client.body_so_far(stream).is_empty() {
            assert!(client.turn());
        }
        assert!(client.ping());
        assert_eq!(client.body_so_far(stream).len(), 1, "{settings:?}");
        // Two more bytes by SETTINGS, two more by WINDOW_UPDATE, then the rest.
        client.send(&Frame::settings(&[(INITIAL_WINDOW_SIZE, 3)]));
        client.send(&Frame::window_update(stream, 2));
        while client.body_so_far(stream).len() < 5 {
            assert!(client.turn());
        }
        assert!(client.ping());
        assert_eq!(client.body_so_far(stream).len(), 5);
        // A negative window has to become positive first (6.9.2).
        client.send(&Frame::settings(&[(INITIAL_WINDOW_SIZE, 0)]));
        client.send(&Frame::window_update(stream, 3));
        assert!(client.ping());
        assert_eq!(client.body_so_far(stream).len(), 5);
        client.send(&Frame::window_update(stream, 1 << 20));
        assert_eq!(client.outcome(stream).answer().status, 200);
    }
}

/// Section 6.5.3.
#[test]
fn settings_are_acknowledged() {
    let env = h2c("");
    let mut client = client(&env);
    client.send(&Frame::settings(&[(3, 100)]));
    let acknowledged =
        std::iter::from_fn(|| client.frame()).filter(|it| it.kind == SETTINGS && it.flags == ACK);
    assert_eq!(acknowledged.take(2).count(), 2);
}

/// Section 8.1.2.1. h2 accepts pseudo-fields in trailers; the gateway forwards none of them.
#[test]
fn pseudo_fields_in_trailers_are_not_forwarded() {
    let env = h2c("");
    let mut client = client(&env);
    let fields = [("authorization", "Bearer 1|writer"), ("trailer", "x-test, method")];
    let stream = client.open(&request("POST", "/api/v2/items", &fields), false);
    client.data(stream, b"test", false);
    client.trailers(stream, &[(":method", "DELETE"), (":path", "/evil"), ("x-test", "ok")]);
    match client.outcome(stream) {
        Outcome::Answer(answer) => {
            assert_eq!(answer.status, 200);
            let arrived = env.backend.only_request();
            assert_eq!((&*arrived.method, &*arrived.target), ("POST", "/api/v2/items"));
            assert_eq!(arrived.trailers.names(), ["x-test"]);
        }
        outcome => assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR)), "{outcome:?}"),
    }
}
