//! Bounds on what an HTTP/2 client may send: sizes, counts and rates, frame by frame.

use std::thread;
use std::time::{Duration, Instant};

use super::{client, h2c};
use crate::support::http2::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, Frame,
    HEADERS, Http2Client, INITIAL_WINDOW_SIZE, NO_ERROR, Outcome, PADDED, PING, PRIORITY, PROTOCOL_ERROR,
    REFUSED_STREAM, SETTINGS, WINDOW_UPDATE, literals, request,
};
use crate::support::{Answer, TestEnv, Verdict, echo};

const WRITER: (&str, &str) = ("authorization", "Bearer 1|writer");
const ITEMS: &str = "/api/v2/items";

/// The gateway's initial SETTINGS.
#[test]
fn announced_settings_are_the_documented_ones() {
    let env = h2c("");
    let mut client = client(&env);
    let settings = client.frame().unwrap();
    assert_eq!(settings.kind, SETTINGS);
    let announced: Vec<(u16, u32)> = settings
        .payload
        .chunks(6)
        .map(|it| (u16::from_be_bytes([it[0], it[1]]), u32::from_be_bytes(it[2..].try_into().unwrap())))
        .collect();
    assert_eq!(
        announced,
        [
            (3, 100),                        // SETTINGS_MAX_CONCURRENT_STREAMS
            (4, 64 * 1024),                  // SETTINGS_INITIAL_WINDOW_SIZE
            (5, 16 * 1024),                  // SETTINGS_MAX_FRAME_SIZE
            (6, 16 * 1024 + 32 * (100 + 4)), // SETTINGS_MAX_HEADER_LIST_SIZE
        ]
    );
    let window = std::iter::from_fn(|| client.frame()).find(|frame| frame.kind == WINDOW_UPDATE).unwrap();
    assert_eq!(window, Frame::window_update(0, 512 * 1024 - 65_535));
}

/// The same bounds as over HTTP/1, to the byte.
#[test]
fn http2_head_limit_equals_that_of_http1() {
    let env = h2c("limits: {header_bytes: 1KiB, header_count: 10, target_bytes: 200B}");
    let over_http_1 =
        |path: &str, fields: &[(&str, &str)]| env.gateway.client().request("GET", path, fields, b"").status;
    let long = "x".repeat(2000);
    let one = [("a", "b")];
    for path in [190, 195, 196, 200, 300, 1200].map(|length| format!("/up?{}", &long[..length])) {
        let over_http_2 = client(&env).request("GET", &path, &one, b"").answer();
        assert_eq!(over_http_2.status, over_http_1(&path, &one), "{}", path.len());
        let message = if path.len() <= 200 { None } else { Some(r#"{"message":"URI Too Long."}"#) };
        assert!(message.is_none_or(|message| over_http_2.text() == message), "{over_http_2:?}");
    }
    let spent = "GET /up HTTP/1.1\r\nHost: stockaj.example\r\na: \r\n\r\n".len();
    for (length, status) in [(1024 - spent, 200), (1025 - spent, 431), (1100, 431)] {
        let fields = [("a", &long[..length])];
        let answer = client(&env).request("GET", "/up", &fields, b"").answer();
        assert_eq!((answer.status, over_http_1("/up", &fields)), (status, status), "{length}");
        assert!(status == 200 || answer.text() == r#"{"message":"Request Header Fields Too Large."}"#);
    }
    for (count, status) in [(9, 200), (10, 431), (14, 431)] {
        let fields = vec![("a", "b"); count];
        let answer = client(&env).request("GET", "/up", &fields, b"").answer();
        assert_eq!((answer.status, over_http_1("/up", &fields)), (status, status), "{count}");
    }
    // Every request is counted, the last after its answer.
    env.gateway.wait_for_metric(r#"requests_total{reason="limited"}"#, 14.0);
    // h2 itself rejects much larger heads, and closes the connection for the largest.
    let bare = client(&env).request("GET", "/up", &[("a", &*"x".repeat(3000))], b"").answer();
    assert_eq!((bare.status, bare.body.len()), (431, 0));
    let outcome = client(&env).request("GET", "/up", &[("a", &*"x".repeat(15_000))], b"");
    assert!(matches!(outcome, Outcome::Away(ENHANCE_YOUR_CALM)), "{outcome:?}");
    // One Cookie field in any number of crumbs.
    let crumbs = vec![("cookie", "a=b"); 20];
    assert_eq!(client(&env).request("GET", "/up", &crumbs, b"").answer().status, 200);
}

#[test]
fn http2_body_over_its_limit_is_413() {
    let env = h2c("limits: {body: 20KiB}");
    let mut client = client(&env);
    let body = vec![b'x'; 20 * 1024];
    assert_eq!(client.request("POST", ITEMS, &[WRITER], &body).answer().status, 200);
    let more = [&body[..], b"x"].concat();
    let answer = client.request("POST", ITEMS, &[WRITER], &more).answer();
    assert_eq!((answer.status, answer.text()), (413, r#"{"message":"Payload Too Large."}"#));
    let told = client.request("POST", ITEMS, &[WRITER, ("content-length", "20481")], &more).answer();
    assert_eq!(told.status, 413);
    assert_eq!(client.get("/up", None).status, 200, "the connection stays open");
}

#[test]
fn stream_beyond_the_maximum_is_refused() {
    const SLOW: &str = "/up?slow";
    let env = h2c("");
    env.backend.answer(|request| if request.target == SLOW { Answer::hang() } else { echo(request) });
    let mut client = client(&env);
    let streams = [(); 100].map(|()| client.ask("GET", SLOW, &[]));
    env.backend.wait_for_requests(100);
    let refused = client.ask("GET", "/up", &[]);
    assert!(matches!(client.outcome(refused), Outcome::Reset(REFUSED_STREAM)));
    client.send(&Frame::reset(streams[0], CANCEL));
    assert_eq!(client.get("/up", None).status, 200);
    // A client that keeps sending refused requests is disconnected.
    client.ask("GET", SLOW, &[]);
    env.backend.wait_for_requests(102);
    assert_eq!(open_many(&mut client, 150, |_| vec![]), Some(ENHANCE_YOUR_CALM));
    assert_eq!(env.backend.requests().len(), 102);
}

/// Sends the same frames `times` times or until the gateway closes; returns the error of GOAWAY. The gateway keeps
/// reading for a while after GOAWAY, so that a reset does not prevent the client from reading it.
fn flood(client: &mut Http2Client, times: usize, frames: &[u8]) -> Option<u32> {
    for _ in 0..times {
        if client.try_send_bytes(frames).is_err() {
            break;
        }
    }
    client.end()
}

/// Opens streams, each followed by `then`, up to a number or until the gateway closes.
fn open_many(client: &mut Http2Client, times: usize, then: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let block = literals(&request("GET", "/up", &[]));
    for _ in 0..times {
        let stream = client.next_stream();
        let opens = Frame::new(HEADERS, END_STREAM | END_HEADERS, stream, block.clone());
        if client.try_send_bytes([opens.bytes(), then(stream)].concat()).is_err() {
            break;
        }
    }
    client.end()
}

fn closed_for_a_flood(env: &TestEnv) -> f64 {
    env.gateway.metrics().metric(r#"requests_total{route="none",method="other",status="400"}"#)
}

/// Frames that h2 itself accepts without a limit.
#[test]
fn flood_of_control_frames_closes_the_connection() {
    let env = h2c("log: {access: true}");
    let unknown = Frame::new(0xbe, 0, 0, []);
    let priority = Frame::new(PRIORITY, 0, 5, [0, 0, 0, 0, 1]);
    let closed = Frame::window_update(1, 1);
    for (what, frame) in [
        ("PING", Frame::new(PING, 0, 0, [0; 8])),
        ("PING that answers none", Frame::new(PING, 1, 0, [0; 8])),
        ("SETTINGS", Frame::settings(&[])),
        (
            "SETTINGS of every kind",
            Frame::settings(&[(1, 0), (2, 0), (3, 7), (4, 1000), (5, 16_384), (6, 9)]),
        ),
        ("WINDOW_UPDATE of the connection", Frame::window_update(0, 1)),
        ("WINDOW_UPDATE of a closed stream", closed),
        ("RST_STREAM of a closed stream", Frame::reset(1, CANCEL)),
        ("PRIORITY", priority),
        ("a kind that nobody knows", unknown),
    ] {
        let mut client = client(&env);
        assert_eq!(client.get("/up", None).status, 200);
        let closed_before = closed_for_a_flood(&env);
        let started = Instant::now();
        // Written in batches of a hundred.
        let error = flood(&mut client, 1000, &frame.bytes().repeat(100));
        assert_eq!(error, Some(ENHANCE_YOUR_CALM), "{what}");
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
        env.gateway.wait_for_metric(
            r#"requests_total{route="none",method="other",status="400"}"#,
            closed_before + 1.0,
        );
    }
    let told = env.gateway.wait_for_log(|line| line["detail"] == "too many HTTP/2 frames without effect");
    assert_eq!((&told["status"], &told["reason"]), (&400.into(), &"bad_request".into()));
}

/// The client can read GOAWAY with its reason.
#[test]
fn frame_flood_ends_with_enhance_your_calm() {
    let env = h2c("");
    let mut client = client(&env);
    assert_eq!(client.get("/up", None).status, 200);
    client.send_bytes(Frame::new(PING, 0, 0, [0; 8]).bytes().repeat(1200));
    assert_eq!(client.end(), Some(ENHANCE_YOUR_CALM));
}

/// CVE-2023-44487: streams that are opened and reset immediately.
#[test]
fn rapid_reset_closes_the_connection() {
    let env = h2c("");
    env.backend.answer(|_| Answer::hang());
    let mut client = client(&env);
    let error = open_many(&mut client, 10_000, |stream| Frame::reset(stream, CANCEL).bytes());
    assert_eq!(error, Some(ENHANCE_YOUR_CALM));
    let began = env.gateway.metrics().metric(r#"requests_total{reason="client_gone"}"#);
    assert!(began <= 120.0, "{began} requests were started");
    assert!(env.backend.requests().len() <= 120);
}

/// A browser that cancels requests now and then is not disconnected.
#[test]
fn resets_of_an_abandoned_page_are_accepted() {
    let env = h2c("");
    env.backend.answer(|request| match &*request.target {
        "/up?slow" => Answer::hang(),
        _ => echo(request),
    });
    let mut client = client(&env);
    let streams = [(); 90].map(|()| client.ask("GET", "/up?slow", &[]));
    env.backend.wait_for_requests(90);
    let resets: Vec<u8> = streams.iter().flat_map(|&stream| Frame::reset(stream, CANCEL).bytes()).collect();
    client.send_bytes(resets);
    for _ in 0..100 {
        assert_eq!(client.get("/up", None).status, 200);
    }
    // The responses have earned credit for the next ninety resets.
    let streams = [(); 90].map(|()| client.ask("GET", "/up?slow", &[]));
    env.backend.wait_for_requests(280);
    client.send_bytes(streams.iter().flat_map(|&it| Frame::reset(it, CANCEL).bytes()).collect::<Vec<_>>());
    assert_eq!(client.get("/up", None).status, 200);
}

/// CVE-2025-8671: protocol errors by which a client makes the gateway reset streams.
#[test]
fn made_you_reset_closes_the_connection() {
    let env = h2c("");
    env.backend.answer(|_| Answer::hang());
    type Mistake = fn(u32) -> Vec<u8>;
    let mistakes: [(&str, Mistake); 5] = [
        ("a window that grows by nothing", |stream| Frame::window_update(stream, 0).bytes()),
        ("a window that overflows", |stream| Frame::window_update(stream, 0x7fff_ffff).bytes()),
        ("a stream that depends on itself", |stream| {
            Frame::new(PRIORITY, 0, stream, [&stream.to_be_bytes()[..], &[1]].concat()).bytes()
        }),
        ("DATA after the end", |stream| Frame::new(DATA, 0, stream, *b"x").bytes()),
        ("fields after the end", |stream| {
            Frame::new(HEADERS, END_STREAM | END_HEADERS, stream, literals(&[("a", "b")])).bytes()
        }),
    ];
    for (what, mistake) in mistakes {
        let mut client = client(&env);
        let error = open_many(&mut client, 10_000, mistake);
        assert!(error.is_some_and(|error| error != NO_ERROR), "{what}: {error:?}");
        let arrived = env.backend.take_requests().len();
        assert!(arrived <= 120, "{what}: {arrived} requests arrived");
    }
}

/// CVE-2024-27316 and similar: endless CONTINUATION frames.
#[test]
fn continuation_flood_closes_the_connection() {
    let env = h2c("");
    let block = literals(&[("a", "x".repeat(1000))]);
    for (what, first, more) in [
        ("empty", literals(&request("GET", "/up", &[])), Frame::new(CONTINUATION, 0, 1, [])),
        (
            "small",
            literals(&request("GET", "/up", &[])),
            Frame::new(CONTINUATION, 0, 1, literals(&[("a", "b")])),
        ),
        ("large", literals(&request("GET", "/up", &[])), Frame::new(CONTINUATION, 0, 1, block)),
        (
            "a field that does not end",
            vec![0, 1, b'a', 127, 255, 255, 255, 7],
            Frame::new(CONTINUATION, 0, 1, vec![b'x'; 16_000]),
        ),
    ] {
        let mut client = client(&env);
        client.send(&Frame::new(HEADERS, END_STREAM, 1, first));
        let error = flood(&mut client, 10_000, &more.bytes());
        assert!(error.is_some_and(|error| error != NO_ERROR), "{what}: {error:?}");
    }
    assert_eq!(env.backend.requests().len(), 0);
    assert!(env.gateway.resident_memory() < 64 << 20);
}

/// RFC 7541 section 7.3: a few bytes that expand to a large header list.
#[test]
fn indexed_field_repetition_is_bounded() {
    let env = h2c("");
    // Inserts `a` with 4000 bytes into the table, then repeats its index, 62.
    let mut block = literals(&request("GET", "/up", &[]));
    let large = "x".repeat(3900);
    let mut indexed = literals(&[("a", large)]);
    indexed[0] = 0x40;
    block.extend(indexed);
    block.extend(vec![0x80 | 62; 8000]);
    let mut client = client(&env);
    client.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, block));
    let outcome = client.outcome(1);
    assert!(matches!(outcome, Outcome::Away(ENHANCE_YOUR_CALM)), "{outcome:?}");
}

#[test]
fn empty_data_flood_closes_the_connection() {
    let env = h2c("");
    let mut client = client(&env);
    let stream = client.open(&request("POST", ITEMS, &[WRITER]), false);
    let error = flood(&mut client, 1000, &Frame::new(DATA, 0, stream, []).bytes().repeat(100));
    assert_eq!(error, Some(ENHANCE_YOUR_CALM));
}

/// Bodies in small frames are read as long as the backend accepts them.
#[test]
fn body_in_small_data_frames_is_forwarded() {
    let env = h2c("");
    let mut client = client(&env);
    assert_eq!(client.get(ITEMS, Some("1|writer")).status, 200);
    env.backend.forget_requests();
    let stream = client.open(&request("POST", ITEMS, &[WRITER]), false);
    let hundred = Frame::new(DATA, 0, stream, *b"x").bytes().repeat(100);
    for _ in 0..50 {
        client.send_bytes(&hundred);
        thread::sleep(Duration::from_millis(2));
    }
    client.data(stream, b"", true);
    assert_eq!(client.outcome(stream).answer().status, 200);
    assert_eq!(env.backend.only_request().body.len(), 5000);
}

/// Small frames within the windows are not a flood, however long they stay unread.
#[test]
fn unread_small_data_frames_within_the_windows_are_accepted() {
    let env = h2c("");
    // Bodies are not read before the verdict.
    env.introspector.delay(Duration::from_secs(1));
    for (number, (what, length, padding, streams)) in [
        ("one byte", 1, None, 1),
        ("ten bytes", 10, None, 1),
        ("a hundred bytes", 100, None, 1),
        ("one byte, padded", 1, Some(9), 1),
        ("one byte on each of four streams", 1, None, 4),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("{number}|small");
        env.introspector.set_verdict(&token, Verdict::active(&["items:create"]));
        let authorization = format!("Bearer {token}");
        let mut client = client(&env);
        // Both sides have acknowledged the settings.
        assert!(client.ping());
        let fields = request("POST", ITEMS, &[("authorization", &authorization)]);
        let opened: Vec<u32> = (0..streams).map(|_| client.open(&fields, false)).collect();
        let one = |stream| {
            let data = vec![b'x'; length];
            match padding {
                None => Frame::new(DATA, 0, stream, data),
                Some(padding) => {
                    let payload = [vec![padding], data, vec![0; padding.into()]].concat();
                    Frame::new(DATA, PADDED, stream, payload)
                }
            }
        };
        let each = 64 * 1024 / one(1).payload.len();
        for &stream in &opened {
            client.send_bytes(one(stream).bytes().repeat(each));
        }
        for &stream in &opened {
            client.data(stream, b"", true);
        }
        for stream in opened {
            assert_eq!(client.outcome(stream).answer().status, 200, "{what}");
        }
        let arrived = env.backend.take_requests();
        assert_eq!(arrived.len(), streams, "{what}");
        assert!(arrived.iter().all(|request| request.body == vec![b'x'; each * length]), "{what}");
        assert_eq!(client.away(), None, "{what}");
    }
}

/// A slow backend neither closes the connection nor loses data that it reads later.
#[test]
fn small_data_frames_continue_after_a_backlog() {
    let env = h2c("");
    env.introspector.delay(Duration::from_secs(1));
    let mut client = client(&env);
    assert!(client.ping());
    let stream = client.open(&request("POST", ITEMS, &[WRITER]), false);
    client.send_bytes(Frame::new(DATA, 0, stream, *b"x").bytes().repeat(5000));
    let end = Instant::now() + Duration::from_secs(20);
    while env.backend.connections() == 0 {
        assert!(client.ping() && Instant::now() < end);
        thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..2000 {
        client.data(stream, b"y", false);
    }
    client.data(stream, b"", true);
    assert_eq!(client.outcome(stream).answer().status, 200);
    assert_eq!(env.backend.only_request().body.len(), 7000);
}

/// More than a hundred in the lifetime of a connection.
#[test]
fn occasional_empty_data_frames_are_accepted() {
    let env = h2c("");
    let mut client = client(&env);
    for _ in 0..150 {
        let stream = client.open(&request("POST", ITEMS, &[WRITER]), false);
        client.data(stream, b"", false);
        client.data(stream, b"x", true);
        assert_eq!(client.outcome(stream).answer().status, 200);
    }
    assert_eq!(client.away(), None);
}

/// A client that opens its windows one byte at a time earns credit for each frame it causes.
#[test]
fn window_updates_of_each_piece_are_accepted() {
    let env = h2c("");
    let body = "x".repeat(4 << 20);
    env.backend.answer(move |_| Answer::with(200, &[], &body));
    let mut client = client(&env);
    let answer = client.get("/up", None);
    assert_eq!(answer.body.len(), 4 << 20);
    for _ in 0..3 {
        assert_eq!(client.get("/up", None).body.len(), 4 << 20);
    }
}

/// The gateway buffers at most the connection window of bodies that a backend does not read.
#[test]
fn unread_http2_uploads_are_bounded_by_the_windows() {
    let env = h2c("");
    env.backend.answer_early(|_| None);
    env.introspector.delay(Duration::from_secs(8));
    let mut client = client(&env);
    let piece = vec![b'x'; 16 * 1024];
    // Bodies of requests that wait for a verdict are not read.
    let stream = client.open(&request("POST", ITEMS, &[WRITER]), false);
    assert!(client.ping());
    for _ in 0..4 {
        client.data(stream, &piece, false);
    }
    assert!(client.ping(), "limited by the stream's window");
    client.data(stream, b"x", false);
    assert!(matches!(client.outcome(stream), Outcome::Reset(FLOW_CONTROL_ERROR)));
    // All streams together.
    let mut client = super::client(&env);
    assert!(client.ping());
    let streams: Vec<u32> = (0..8).map(|_| client.open(&request("POST", ITEMS, &[WRITER]), false)).collect();
    for stream in streams {
        for _ in 0..4 {
            client.data(stream, &piece, false);
        }
    }
    assert!(client.ping(), "limited by the connection's window");
    let stream = client.open(&request("POST", ITEMS, &[WRITER]), false);
    client.data(stream, &piece, false);
    assert_eq!(client.end(), Some(FLOW_CONTROL_ERROR));
}

/// Client settings that would make the gateway buffer or send too much.
#[test]
fn extreme_client_settings_are_bounded_or_rejected() {
    let env = h2c("");
    let mut large = Http2Client::silent(env.gateway.address());
    large.greet(&[(1, u32::MAX), (INITIAL_WINDOW_SIZE, 0x7fff_ffff), (5, 0x00ff_ffff), (6, u32::MAX)]);
    assert_eq!(large.get("/up", None).status, 200);
    for (name, value, error) in [
        (2, 2, PROTOCOL_ERROR),
        (INITIAL_WINDOW_SIZE, 0x8000_0000, FLOW_CONTROL_ERROR),
        (5, 16_383, PROTOCOL_ERROR),
        (5, 0x0100_0000, PROTOCOL_ERROR),
    ] {
        let mut client = Http2Client::silent(env.gateway.address());
        client.greet(&[(name, value)]);
        let said = client.end();
        assert!(said == Some(error) || said == Some(PROTOCOL_ERROR), "{name}: {value}: {said:?}");
    }
}
