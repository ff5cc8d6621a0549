//! Responses that their clients do not read: the backend's connection is free as soon as the rest fits the budget of the
//! client's connection, and the client gets every byte later.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::env::Backend;
use crate::support::http2::{Frame, Http2Client, INITIAL_WINDOW_SIZE, Outcome};
use crate::support::http2_upstream::{Http2Upstream, Reply};
use crate::support::manual_backend::ManualBackend;

use crate::support::{Answer, Builder, TestEnv, Upstream, stalled};

const KIB: usize = 1024;

/// Few backend connections, so that a request waits for one that another one holds.
const FEW: &str = "\
listen:
  h2c: true
backend:
  max_connections: 2
  connect_timeout: 3s
limits: {body_idle_timeout: 20s}
abilities:
  routes:
    /{*path}: {GET: public, POST: public}
";

/// A gateway with one worker: an idle connection of another one would have to be closed first.
fn start() -> TestEnv {
    start_with(Upstream::start())
}

fn start_with<B: Backend>(backend: B) -> TestEnv<B> {
    TestEnv::builder().backend(backend).yaml(FEW).configure(Builder::one_core).start()
}

/// Bytes that differ at every place.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at >> 10) as u8).collect()
}

/// How a backend marks the end of its response.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// A response with its head, a part of its body, and the rest in separate segments.
fn in_parts(body: &[u8], framing: Framing) -> Answer {
    let (first, rest) = body.split_at(body.len() / 3);
    let pause = Duration::from_millis(5);
    let (head, [first, rest]) = match framing {
        Framing::Length => (format!("Content-Length: {}\r\n", body.len()), [first.to_vec(), rest.to_vec()]),
        Framing::UntilClose => (String::new(), [first.to_vec(), rest.to_vec()]),
        Framing::Chunked => ("Transfer-Encoding: chunked\r\n".to_owned(), [chunks(first), chunks(rest)]),
    };
    let answer = Answer::raw(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
    let answer = answer.then_wait(pause).then(first).then_wait(pause).then(rest);
    match framing {
        Framing::Length => answer,
        Framing::Chunked => answer.then("0\r\n\r\n"),
        Framing::UntilClose => answer.then_close(),
    }
}

/// Small chunks.
fn chunks(data: &[u8]) -> Vec<u8> {
    let chunk = |data: &[u8]| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
    data.chunks(100).flat_map(chunk).collect()
}

/// A client with prior knowledge of HTTP/2 whose streams have windows of 0.
fn shut_client(env: &TestEnv<impl Sized>) -> Http2Client {
    let mut client = Http2Client::silent(env.gateway.address());
    client.greet(&[(INITIAL_WINDOW_SIZE, 0)]);
    client.send(&Frame::window_update(0, 1 << 30));
    client
}

/// The time until another client is served.
fn time_of_another(env: &TestEnv<impl Sized>) -> Duration {
    let began = Instant::now();
    assert_eq!(env.gateway.get("/another", None).status, 200);
    began.elapsed()
}

fn assert_served_soon(env: &TestEnv<impl Sized>, what: &str) {
    let waited = time_of_another(env);
    assert!(waited < Duration::from_secs(2), "{what}: another client waited {waited:?}");
}

/// Reads an HTTP/1.1 response, to its end or to the end of the connection.
fn read_slowly(client: TcpStream) -> Vec<u8> {
    let mut reader = BufReader::with_capacity(3000, client);
    let mut received = Vec::new();
    let mut piece = [0; 3000];
    while let Ok(length @ 1..) = reader.read(&mut piece) {
        received.extend_from_slice(&piece[..length]);
    }
    received
}

#[test]
fn unread_http2_responses_free_the_backend_at_once() {
    // Buffers of a body of unknown length are larger than what they hold.
    for (framing, count) in [(Framing::Length, 100), (Framing::Chunked, 60), (Framing::UntilClose, 60)] {
        let env = start();
        let body = bytes(9000);
        let sent = body.clone();
        env.backend.answer(move |request| match &*request.target {
            "/another" => Answer::with(200, &[], "other"),
            _ => in_parts(&sent, framing),
        });
        let mut client = shut_client(&env);
        let streams: Vec<u32> = (0..count).map(|it| client.ask("GET", &format!("/{it}"), &[])).collect();
        env.backend.wait_for_requests(count);
        assert_served_soon(&env, &format!("{framing:?}"));
        for stream in streams {
            assert_eq!(client.body_so_far(stream).len(), 0);
            client.send(&Frame::window_update(stream, 1 << 20));
            assert!(client.outcome(stream).answer().body == body, "{framing:?}: the body changed");
        }
        let all = (count + 1) as f64;
        env.gateway.wait_for_metric("requests_total{reason=\"public\",status=\"200\"}", all);
    }
}

/// hyper asks for no second piece while the window is shut.
#[test]
fn unread_http2_response_of_64_kib_frees_the_backend() {
    for (length, is_free) in [(64 * KIB, true), (64 * KIB + 1, false)] {
        let env = start();
        let body = bytes(length);
        let sent = body.clone();
        env.backend.answer(move |request| match &*request.target {
            "/another" => Answer::with(200, &[], "other"),
            _ => in_parts(&sent, Framing::Length),
        });
        let mut client = shut_client(&env);
        let streams = [(); 2].map(|()| client.ask("GET", "/large", &[]));
        env.backend.wait_for_requests(2);
        if is_free {
            assert_served_soon(&env, &format!("{length} bytes"));
        } else {
            assert_eq!(env.gateway.get("/another", None).status, 503, "{length} bytes");
        }
        for stream in streams {
            client.send(&Frame::window_update(stream, 1 << 20));
            assert!(client.outcome(stream).answer().body == body, "the body changed");
        }
    }
}

/// The bytes of a response that hyper and the kernel take for an HTTP/1.1 client that does not read.
fn taken_unread() -> usize {
    let env = start();
    env.backend.answer(|_| Answer::with(200, &[], vec![b'x'; 4 << 20]));
    let client = ask_http1(&env);
    env.backend.wait_for_requests(1);
    thread::sleep(Duration::from_millis(300));
    drop(client);
    env.backend.close_connections();
    let line = env.gateway.wait_for_log(|line| line["message"] == "request");
    usize::try_from(line["bytes_out"].as_u64().unwrap()).unwrap()
}

/// An HTTP/1.1 client that does not read, and has sent a request.
fn ask_http1(env: &TestEnv<impl Sized>) -> TcpStream {
    let mut client = stalled::connect(env.gateway.address());
    client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    client
}

#[test]
fn unread_http1_responses_free_the_backend_at_once() {
    let taken = taken_unread();
    for framing in [Framing::Length, Framing::Chunked, Framing::UntilClose] {
        let env = start();
        // hyper holds 16 to 32 KiB of it, and 48 KiB are read ahead.
        let body = bytes(taken + 16 * KIB);
        let sent = body.clone();
        env.backend.answer(move |request| match &*request.target {
            "/another" => Answer::with(200, &[], "other"),
            _ => in_parts(&sent, framing),
        });
        let clients: Vec<TcpStream> = (0..8).map(|_| ask_http1(&env)).collect();
        env.backend.wait_for_requests(8);
        assert_served_soon(&env, &format!("{framing:?}"));
        for client in clients {
            let received = read_slowly(client);
            let received = match framing {
                Framing::Length => received,
                Framing::Chunked | Framing::UntilClose => decoded(&received),
            };
            assert!(received.ends_with(&body), "{framing:?}: the body changed");
        }
    }
}

/// A message whose chunked body is decoded.
fn decoded(message: &[u8]) -> Vec<u8> {
    let end = message.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4;
    let (mut whole, mut rest) = (message[..end].to_vec(), &message[end..]);
    loop {
        let line = rest.iter().position(|it| *it == b'\n').expect("a chunk size");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line - 1]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&rest[line + 1..line + 1 + length]);
        rest = &rest[line + 1 + length + 2..];
    }
}

#[test]
fn unread_response_of_an_http2_backend_ends_its_stream() {
    let body = bytes(60_000);
    let sent = body.clone();
    let backend = Http2Upstream::start();
    backend.answer(move |_| Reply::new(200, &sent));
    let env = start_with(backend);
    let mut client = shut_client(&env);
    let stream = client.ask("GET", "/large", &[]);
    env.gateway.wait_for_metric("backend_connections{state=\"idle\"}", 1.0);
    client.send(&Frame::window_update(stream, 1 << 20));
    assert!(client.outcome(stream).answer().body == body, "the body changed");
}

/// The client gets all bytes that the backend has sent, and then the truncation.
#[test]
fn backend_that_breaks_after_the_read_ahead_truncates_the_response() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    let taken = taken_unread();
    for chunked in [false, true] {
        for (length, is_http2) in [(30_000, true), (taken + 30 * KIB, false)] {
            let context = format!("chunked {chunked}, HTTP/2 {is_http2}");
            let env = start();
            let sent = bytes(length);
            let answer = if chunked {
                Answer::raw(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n"))
                    .then(chunks(&sent))
                    .then("no size\r\n")
            } else {
                let head = format!("{HEAD}Content-Length: {}\r\n\r\n", length + 1);
                Answer::raw(head).then(sent.clone()).then_close()
            };
            env.backend.answer(move |_| answer.clone());
            let mut http2 = shut_client(&env);
            let http1 = if is_http2 { None } else { Some(ask_http1(&env)) };
            if is_http2 {
                http2.ask("GET", "/broken", &[]);
            }
            env.backend.wait_for_requests(1);
            thread::sleep(Duration::from_millis(300));
            env.gateway.wait_for_metric("backend_connections", 0.0);
            let broken = || env.gateway.metrics().metric("requests_total{reason=\"backend_broken\"}");
            assert_eq!(broken(), 0.0, "{context}: truncated before the client has read");
            let received = match http1.map(read_slowly) {
                Some(received) if chunked => decoded(&[received, b"0\r\n".to_vec()].concat()),
                Some(received) => received,
                None => {
                    http2.send(&Frame::window_update(1, 1 << 20));
                    assert!(matches!(http2.outcome(1), Outcome::Reset(_)), "{context}");
                    http2.body_so_far(1).to_vec()
                }
            };
            assert!(received.ends_with(&sent), "{context}: {} bytes", received.len());
            env.gateway.wait_for_metric("requests_total{reason=\"backend_broken\",status=\"200\"}", 1.0);
        }
    }
}

#[test]
fn trailers_follow_a_response_that_was_read_ahead() {
    let env = start();
    let body = bytes(40_000);
    let sent = body.clone();
    env.backend.answer(move |request| match &*request.target {
        "/another" => Answer::with(200, &[], "other"),
        _ => Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n")
            .then(chunks(&sent))
            .then_wait(Duration::from_millis(20))
            .then("0\r\nX-Checksum: 7\r\n\r\n"),
    });
    let mut client = shut_client(&env);
    let streams = [(); 2].map(|()| client.ask("GET", "/trailers", &[]));
    env.backend.wait_for_requests(2);
    assert_served_soon(&env, "trailers");
    for stream in streams {
        client.send(&Frame::window_update(stream, 1 << 20));
        let response = client.outcome(stream).answer();
        assert!(response.body == body, "the body changed");
        assert_eq!(response.trailers.0, [("x-checksum".to_owned(), "7".to_owned())]);
    }
}

/// The client sends its whole request before it reads, and the backend responds before it has read the request.
#[test]
fn upload_continues_while_its_response_is_unread() {
    for body in [60_000, 400_000] {
        let mut env = start_with(ManualBackend::start());
        let upload = bytes(600_000);
        let mut client = stalled::connect(env.gateway.address());
        let head = format!(
            "POST /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            upload.len()
        );
        client.write_all(head.as_bytes()).unwrap();
        let (mut backend, _) = env.backend.request();
        let response = bytes(body);
        backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n")).send(&response);
        thread::sleep(Duration::from_millis(200));
        let sent = upload.clone();
        let mut writer = client.try_clone().unwrap();
        let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
        assert!(backend.read(upload.len()) == upload, "the upload changed");
        writing.join().unwrap();
        assert!(read_slowly(client).ends_with(&response), "the response changed");
    }
}

/// The number of chunks of a response.
fn chunk_count(response: &[u8]) -> usize {
    let line_end = |from: usize| from + response[from..].windows(2).position(|it| it == b"\r\n").unwrap();
    let head = response.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let (mut at, mut count) = (head + 4, 0);
    loop {
        let end = line_end(at);
        let size = std::str::from_utf8(&response[at..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return count;
        }
        count += 1;
        at = end + 2 + size + 2;
    }
}

/// Slow readers of large responses get every byte, whether or not a part was read ahead.
#[test]
fn large_responses_reach_slow_readers_unchanged() {
    let body = bytes(1_500_000);
    for framing in [Framing::Length, Framing::Chunked] {
        let sent = body.clone();
        let backend = Upstream::answering(move |_| in_parts(&sent, framing));
        let env = start_with(backend);
        let mut http1 = stalled::connect(env.gateway.address());
        http1.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut http2 = shut_client(&env);
        http2.reads_on = false;
        let stream = http2.ask("GET", "/large", &[]);
        thread::sleep(Duration::from_millis(400));
        let slowly = thread::spawn(move || {
            let mut received = vec![0; 100_000];
            http1.read_exact(&mut received).unwrap();
            thread::sleep(Duration::from_millis(400));
            received.extend(read_slowly(http1));
            received
        });
        for window in [1, 20_000, 70_000, 5] {
            http2.send(&Frame::window_update(stream, window));
            thread::sleep(Duration::from_millis(50));
        }
        http2.send(&Frame::window_update(stream, 1 << 24));
        assert!(http2.outcome(stream).answer().body == body, "{framing:?}: the body changed over HTTP/2");
        let received = slowly.join().unwrap();
        let received = if matches!(framing, Framing::Chunked) {
            // What was read ahead must not leave small reads behind.
            let chunks = chunk_count(&received);
            assert!(chunks < body.len() / 50, "{chunks} chunks");
            decoded(&received)
        } else {
            received
        };
        assert!(received.ends_with(&body), "{framing:?}: the body changed over HTTP/1.1");
    }
}
