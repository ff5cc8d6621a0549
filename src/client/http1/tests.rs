use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{Empty, Full, StreamBody};
use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::policy::headers::FieldSink as _;

/// A scripted server action.
#[derive(Clone, Debug)]
enum Step {
    Sends(Vec<u8>),
    /// Pending at this poll.
    Waits,
    Fails(io::ErrorKind),
}

/// A server that follows a script, then closes or stays silent, and records what it receives.
#[derive(Debug, Default)]
struct Script {
    steps: VecDeque<Step>,
    stays: bool,
    got: Vec<u8>,
    /// Bytes accepted per write; zero blocks writes.
    takes: usize,
    refuses: bool,
}

fn server(steps: impl IntoIterator<Item = Step>) -> Script {
    Script { steps: steps.into_iter().collect(), takes: usize::MAX, ..Script::default() }
}

fn sends(bytes: impl AsRef<[u8]>) -> Step {
    Step::Sends(bytes.as_ref().to_vec())
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.steps.front_mut() {
            None if this.stays => Poll::Pending,
            None => Poll::Ready(Ok(())),
            Some(Step::Waits) => {
                this.steps.pop_front();
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Fails(kind)) => Poll::Ready(Err((*kind).into())),
            Some(Step::Sends(bytes)) => {
                let length = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..length]);
                bytes.drain(..length);
                if bytes.is_empty() {
                    this.steps.pop_front();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refuses {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = bytes.len().min(this.takes);
        if length == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.got.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn get() -> Outgoing<Empty<Bytes>> {
    Outgoing::new(RequestHead::new(&Method::GET, ["/a", "?b"]), Some(Empty::new()))
}

/// A whole response: its status, its data, its trailers.
type Whole = (u16, Vec<u8>, HeaderMap);

/// Sends one request over `connection` and reads the response. Data received before an error is discarded.
async fn exchange<B: Body<Data = Bytes> + Unpin>(
    connection: &mut Connection<Script>,
    outgoing: &mut Outgoing<B>,
) -> Result<Whole, Http1Error> {
    connection.begin();
    let head = poll_fn(|context| connection.poll_response(context, outgoing)).await?;
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|context| connection.poll_frame(context, Some(outgoing))).await {
        match frame?.into_data() {
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    Ok((head.status.as_u16(), data, trailers))
}

#[test]
fn request_is_sent_as_encoded() {
    block_on(async {
        let mut head = RequestHead::new(&Method::POST, ["/prefix", "/a", "?b=c"]);
        let mut fields = HeaderMap::new();
        fields.append("host", HeaderValue::from_static("a"));
        fields.append("x-own", HeaderValue::from_static("1"));
        fields.append("x-own", HeaderValue::from_static("2"));
        head.fields(&fields);
        head.announce_length(4);
        let mut outgoing = Outgoing::new(head, Some(Full::new(Bytes::from_static(b"body"))));
        let mut connection = Connection::new(server([sends("HTTP/1.1 204 No Content\r\n\r\n")]));
        exchange(&mut connection, &mut outgoing).await.unwrap();
        let expected =
            "POST /prefix/a?b=c HTTP/1.1\r\nhost: a\r\nx-own: 1\r\nx-own: 2\r\ncontent-length: 4\r\n\r\nbody";
        assert_eq!(String::from_utf8_lossy(&connection.stream.got), expected);
        assert!(connection.is_reusable(Some(&outgoing)));
    });
}

/// A body of these parts; `None` is one pending poll.
fn parts(parts: Vec<Option<Frame<Bytes>>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    let mut parts: VecDeque<_> = parts.into();
    StreamBody::new(Box::pin(futures_util::stream::poll_fn(move |context| match parts.pop_front() {
        Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
        Some(None) => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        None => Poll::Ready(None),
    })))
}

fn chunked() -> RequestHead {
    let mut head = RequestHead::new(&Method::POST, ["/"]);
    head.field(&http::header::TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
    head.field(&http::header::TRAILER, &HeaderValue::from_static("X-Sum, x-else"));
    head
}

#[test]
fn body_of_unknown_length_is_sent_in_chunks() {
    let large = vec![b'x'; 100_000];
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    trailers.insert("x-unannounced", HeaderValue::from_static("2"));
    for takes in [1, 7, 4096, usize::MAX] {
        block_on(async {
            let body = parts(vec![
                Some(Frame::data(Bytes::from_static(b"small"))),
                None,
                Some(Frame::data(Bytes::new())),
                Some(Frame::data(large.clone().into())),
                Some(Frame::trailers(trailers.clone())),
            ]);
            let mut script = server([sends("HTTP/1.1 204 No Content\r\n\r\n")]);
            script.takes = takes;
            let mut connection = Connection::new(script);
            let mut outgoing = Outgoing::new(chunked(), Some(body));
            exchange(&mut connection, &mut outgoing).await.unwrap();
            // The response arrived first: the rest of the request is sent afterwards.
            poll_fn(|context| {
                let finished = connection.poll_finish(context, &mut outgoing);
                if finished.is_pending() {
                    context.waker().wake_by_ref();
                }
                finished
            })
            .await
            .unwrap();
            let expected = [
                &b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntrailer: X-Sum, x-else\r\n\r\n5\r\nsmall\r\n186a0\r\n"[..],
                &large,
                b"\r\n0\r\nx-sum: 1\r\n\r\n",
            ]
            .concat();
            assert!(connection.stream.got == expected, "{takes}");
            assert!(connection.is_reusable(Some(&outgoing)));
        });
    }
}

#[test]
fn body_of_the_wrong_length_aborts_the_exchange() {
    for (length, body) in [(3, "body"), (5, "body")] {
        block_on(async {
            let mut head = RequestHead::new(&Method::POST, ["/"]);
            head.announce_length(length);
            let mut outgoing = Outgoing::new(head, Some(Full::new(Bytes::from_static(body.as_bytes()))));
            let mut connection = Connection::new(server([Step::Waits]));
            let error = exchange(&mut connection, &mut outgoing).await.unwrap_err();
            assert!(matches!(error, Http1Error::RequestBody), "{error}");
        });
    }
}

#[test]
fn interim_100_releases_a_held_body() {
    block_on(async {
        let asked = Arc::new(Notify::new());
        let released = Arc::clone(&asked);
        let body = StreamBody::new(Box::pin(futures_util::stream::once(async move {
            released.notified().await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body")))
        })));
        let mut head = RequestHead::new(&Method::POST, ["/"]);
        head.announce_length(4);
        let mut outgoing = Outgoing::new(head, Some(body));
        outgoing.on_continue(asked);
        let interim = sends("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
        let mut connection = Connection::new(server([interim, sends("HTTP/1.1 204 No Content\r\n\r\n")]));
        exchange(&mut connection, &mut outgoing).await.unwrap();
        assert!(connection.stream.got.ends_with(b"\r\n\r\nbody"));
        assert!(connection.is_reusable(Some(&outgoing)));
    });
}

#[test]
fn response_before_the_end_of_the_request_is_returned() {
    block_on(async {
        let body = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let mut outgoing = Outgoing::new(chunked(), Some(body));
        let mut connection = Connection::new(server([sends(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nbody",
        )]));
        let (status, data, _) = exchange(&mut connection, &mut outgoing).await.unwrap();
        assert_eq!((status, &*data), (413, &b"body"[..]));
        assert!(!connection.is_reusable(Some(&outgoing)));
        assert!(connection.may_be_reusable());
    });
}

#[test]
fn response_of_a_server_that_stopped_reading_is_returned() {
    block_on(async {
        let mut script = server([sends("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")]);
        script.refuses = true;
        let mut connection = Connection::new(script);
        let mut outgoing = get();
        assert_eq!(exchange(&mut connection, &mut outgoing).await.unwrap().0, 401);
        assert!(!connection.is_reusable(Some(&outgoing)));
    });
}

#[test]
fn unsent_request_can_be_sent_with_another_head() {
    block_on(async {
        let mut script = server([Step::Fails(io::ErrorKind::ConnectionReset)]);
        script.refuses = true;
        let mut head = RequestHead::new(&Method::POST, ["/old"]);
        head.announce_length(4);
        let mut outgoing = Outgoing::new(head, Some(Full::new(Bytes::from_static(b"body"))));
        let error = exchange(&mut Connection::new(script), &mut outgoing).await.unwrap_err();
        assert!(matches!(error, Http1Error::Unanswered(_)), "{error}");
        assert!(outgoing.is_unsent());
        let mut head = RequestHead::new(&Method::POST, ["/new"]);
        head.announce_length(4);
        outgoing.restart(head);
        let mut connection = Connection::new(server([sends("HTTP/1.1 204 No Content\r\n\r\n")]));
        exchange(&mut connection, &mut outgoing).await.unwrap();
        assert_eq!(connection.stream.got, b"POST /new HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody");
        assert!(!outgoing.is_unsent());
    });
}

#[test]
fn error_of_a_closed_connection_tells_if_a_response_began() {
    type Expected = fn(&Http1Error) -> bool;
    let cases: [(Vec<Step>, Expected); 7] = [
        (vec![], |it| matches!(it, Http1Error::Closed)),
        (vec![Step::Fails(io::ErrorKind::ConnectionReset)], |it| matches!(it, Http1Error::Unanswered(_))),
        (vec![sends("HTTP/1.1 2")], |it| matches!(it, Http1Error::Truncated)),
        (vec![sends("HTTP/1.1 100 Continue\r\n\r\n")], |it| matches!(it, Http1Error::Truncated)),
        (vec![sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf")], |it| {
            matches!(it, Http1Error::Truncated)
        }),
        // As when TLS ends without close_notify.
        (vec![sends("HTTP/1.1 200 OK\r\n\r\nhalf"), Step::Fails(io::ErrorKind::UnexpectedEof)], |it| {
            matches!(it, Http1Error::Io(_))
        }),
        (vec![sends("SSH-2.0-x\r\n")], |it| matches!(it, Http1Error::Malformed(Malformed::NoStatusLine))),
    ];
    for (steps, expected) in cases {
        let context = format!("{steps:?}");
        let error = block_on(exchange(&mut Connection::new(server(steps)), &mut get())).unwrap_err();
        assert!(expected(&error), "{context}: {error:?}");
    }
}

#[test]
fn bytes_after_a_response_close_the_connection() {
    for (response, rest, reusable) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "x", false),
        ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "\r\n", false),
    ] {
        let mut connection = Connection::new(server([sends(format!("{response}{rest}"))]));
        let mut outgoing = get();
        block_on(exchange(&mut connection, &mut outgoing)).unwrap();
        assert_eq!(connection.is_reusable(Some(&outgoing)), reusable, "{response}{rest}");
    }
}

#[test]
fn idle_connection_that_ended_or_has_bytes_is_not_used() {
    for (steps, stays, idle) in [
        (vec![], true, true),
        (vec![], false, false),
        (vec![sends("HTTP/1.1 408 Request Timeout\r\n\r\n")], true, false),
        (vec![Step::Fails(io::ErrorKind::ConnectionReset)], true, false),
    ] {
        let context = format!("{steps:?} {stays}");
        let mut script = server(steps);
        script.stays = stays;
        assert_eq!(Connection::new(script).is_idle(), idle, "{context}");
    }
}

#[test]
fn switching_protocols_keeps_bytes_after_the_head() {
    block_on(async {
        let mut connection = Connection::new(server([sends(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nearly",
        )]));
        assert_eq!(exchange(&mut connection, &mut get()).await.unwrap().0, 101);
        assert!(!connection.may_be_reusable());
        assert_eq!(connection.into_stream().1, "early");
    });
}

#[test]
fn heads_and_interim_responses_are_bounded() {
    let line = "X-Own: 1\r\n";
    let fits = "HTTP/1.1 204 No Content\r\n".len() + 4;
    let long =
        |length: usize| format!("HTTP/1.1 204 No Content\r\nA: {}\r\n\r\n", "x".repeat(length - fits - 3));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    for (bytes, expected) in [
        (long(MAX_HEAD), None),
        (long(MAX_HEAD + 1), Some(Malformed::LongHead)),
        (format!("HTTP/1.1 200 OK\r\n{}", line.repeat(10_000)), Some(Malformed::LongHead)),
        (format!("{}HTTP/1.1 204 No Content\r\n\r\n", interim.repeat(100)), None),
        (interim.repeat(101), Some(Malformed::ManyInterim)),
        (format!("{}HTTP/1.1 204 No Content\r\n\r\n", "\r\n".repeat(4)), None),
        ("\r\n".repeat(5), Some(Malformed::NoStatusLine)),
    ] {
        let result = block_on(exchange(&mut Connection::new(server([sends(&bytes)])), &mut get()));
        match (expected, result) {
            (None, Ok((204, ..))) => {}
            (Some(expected), Err(Http1Error::Malformed(found))) => assert_eq!(found, expected, "{bytes:.60}"),
            (expected, result) => panic!("{bytes:.60}: {result:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn large_body_is_read_completely() {
    let body: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let steps = [sends(head), sends(&body[..500_000]), Step::Waits, sends(&body[500_000..])];
    let (_, data, _) = block_on(exchange(&mut Connection::new(server(steps)), &mut get())).unwrap();
    assert!(data == body);
}

/// Reads a complete response in the simplest way; `None` if it is malformed or incomplete.
fn naive(mut bytes: &[u8], closes: bool) -> Option<Whole> {
    fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let line = &bytes[..end];
        *bytes = &bytes[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
    fn fields(bytes: &mut &[u8]) -> Option<HeaderMap> {
        let mut fields = HeaderMap::new();
        loop {
            let line = line(bytes)?;
            if line.is_empty() {
                return Some(fields);
            }
            let colon = line.iter().position(|&byte| byte == b':')?;
            let name = http::HeaderName::from_bytes(line[..colon].trim_ascii_end()).ok()?;
            fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
        }
    }
    let status_line = line(&mut bytes)?;
    let status: u16 = std::str::from_utf8(status_line.get(9..12)?).ok()?.parse().ok()?;
    let head = fields(&mut bytes)?;
    let length = head.get("content-length");
    let length = match length {
        Some(length) => Some(length.to_str().ok()?.parse::<usize>().ok()?),
        None => None,
    };
    if matches!(status, 204 | 304) {
        return Some((status, Vec::new(), HeaderMap::new()));
    }
    if head.contains_key("transfer-encoding") {
        let mut data = Vec::new();
        loop {
            let size = line(&mut bytes)?;
            let size = size.split(|byte| b"; ".contains(byte)).next()?;
            let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
            if size == 0 {
                return Some((status, data, fields(&mut bytes)?));
            }
            data.extend_from_slice(bytes.get(..size)?);
            bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
        }
    }
    let body = match length {
        Some(length) => bytes.get(..length)?,
        None if closes => bytes,
        None => return None,
    };
    Some((status, body.to_vec(), HeaderMap::new()))
}

/// Well-formed and nearly well-formed responses.
fn response() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        Just("HTTP/1.1 200 OK\r\n"),
        Just("HTTP/1.1 204 No Content\r\n"),
        Just("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n"),
        Just("HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\n"),
    ];
    let body = prop_oneof![
        (0usize..40_000).prop_map(|length| {
            [format!("Content-Length: {length}\r\n\r\n").into_bytes(), vec![b'x'; length]].concat()
        }),
        (prop::collection::vec(1usize..9_000, 0..6), any::<bool>()).prop_map(|(sizes, trailers)| {
            let mut bytes = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
            for size in sizes {
                bytes.extend(format!("{size:x};e=1\r\n").bytes());
                bytes.extend(vec![b'y'; size]);
                bytes.extend(b"\r\n");
            }
            bytes.extend(if trailers { &b"0\r\nX-Sum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            bytes
        }),
        "[a-z]{0,300}".prop_map(|text| format!("\r\n{text}").into_bytes()),
    ];
    let damage = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (head, body, damage).prop_map(|(head, body, damage)| {
        let mut bytes = [head.as_bytes(), &body].concat();
        if let Some((place, byte)) = damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn response_does_not_depend_on_how_bytes_are_divided(
        bytes in response(),
        cuts in prop::collection::vec((1usize..20_000, any::<bool>()), 0..8),
    ) {
        let mut steps = Vec::new();
        let mut rest = &*bytes;
        for (length, waits) in cuts {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            if !piece.is_empty() {
                steps.push(sends(piece));
            }
            if waits {
                steps.push(Step::Waits);
            }
            rest = after;
        }
        if !rest.is_empty() {
            steps.push(sends(rest));
        }
        let read = block_on(exchange(&mut Connection::new(server(steps)), &mut get())).ok();
        let whole = block_on(exchange(&mut Connection::new(server([sends(&bytes)])), &mut get())).ok();
        prop_assert_eq!(&read, &whole);
        // The naive reader accepts more, but reads every accepted response identically.
        if let Some(read) = read {
            prop_assert_eq!(Some(read), naive(&bytes, true));
        }
    }

    #[test]
    fn well_formed_response_is_read(
        sizes in prop::collection::vec(1usize..9_000, 0..6),
        kind in 0usize..3,
    ) {
        let data = vec![b'x'; sizes.iter().sum()];
        let bytes = match kind {
            0 => [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", data.len()).into_bytes(), data.clone()].concat(),
            1 => {
                let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for size in sizes {
                    bytes.extend(format!("{size:X}\r\n").bytes());
                    bytes.extend(vec![b'x'; size]);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
                bytes
            }
            _ => [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &data].concat(),
        };
        let whole = block_on(exchange(&mut Connection::new(server([sends(&bytes)])), &mut get())).unwrap();
        prop_assert_eq!(&whole, &(200, data, HeaderMap::new()));
        prop_assert_eq!(Some(whole), naive(&bytes, true));
    }
}
