//! An HTTP/2 connection to the backend, and its streams.
//!
//! It uses h2 directly: hyper's client treats a response that is reset with NO_ERROR as complete, does not report
//! interim responses, and does not return requests that the server has refused.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use super::call::{Call, RequestSource};
use super::connect::ClientStream;
use super::error::{ExchangeError, LeaseError};
use super::response_stream;

/// Receive windows of streams, in bytes, by the number of streams: the buffer for a response that the client does not read.
/// All streams together hold less than 1 MiB, even if each has filled the window that was current when it began.
const STREAM_WINDOWS: [(usize, u32); 3] = [(4, STREAM_WINDOW), (16, 16 * 1024), (MAX_STREAMS, 4 * 1024)];
/// The window of one stream among few, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Largest number of concurrent streams per connection, if the server allows that many.
const MAX_STREAMS: usize = 100;
/// Sum of all stream windows: a client that does not read must not block the responses to others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
/// Largest head or trailer section of a response, in bytes by RFC 9113 section 6.5.2.
const HEADER_LIST: u32 = 64 * 1024;
/// Send buffer of a stream, in bytes: the part of a request body that the backend has not read, in addition to the
/// frame after it.
const SEND_BUFFER: usize = 16 * 1024;
/// Largest number of interim responses to a request; more are treated as an attack.
const MAX_INTERIM: usize = 100;

/// An HTTP/2 connection. Every stream keeps it; dropping the last reference closes it.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    driver: AbortHandle,
    /// The number of requests in flight.
    streams: Rc<Cell<usize>>,
    /// Whether a part of a response was received since the last check.
    received_any: Rc<Cell<bool>>,
    /// When the last stream ended.
    used_at: Cell<Instant>,
    /// Whether it accepts no further requests.
    retired: Cell<bool>,
    address: Option<IpAddr>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2 {
    /// Starts HTTP/2 over `stream`. Waits, for at most `ping_timeout`, until the server has answered a ping, which proves
    /// that it speaks HTTP/2 and has sent its limit of streams. If it is later silent for `silence` while a response is
    /// awaited, it is pinged again, and the connection is dropped without an answer within `ping_timeout`. `counted` is
    /// dropped with the connection.
    pub(super) async fn begin(
        stream: ClientStream,
        silence: Duration,
        ping_timeout: Duration,
        counted: impl Sized + 'static,
    ) -> Result<Self, LeaseError> {
        let address = stream.remote_address();
        let scheme = if matches!(stream, ClientStream::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
        let begin = async {
            let handshake = builder().handshake::<_, Bytes>(stream).await;
            let (sender, mut connection) = handshake.map_err(LeaseError::Http2)?;
            let mut pings = connection.ping_pong();
            if let Some(pings) = &mut pings {
                tokio::select! {
                    biased;
                    ended = &mut connection => {
                        return Err(ended.map_or_else(LeaseError::Http2, |()| LeaseError::Http2Ended));
                    }
                    pong = pings.ping(Ping::opaque()) => pong.map(drop).map_err(LeaseError::Http2)?,
                }
            }
            Ok((sender, connection, pings))
        };
        let begun = timeout(ping_timeout, begin).await.map_err(|_| LeaseError::Http2Silent(ping_timeout))?;
        let (sender, connection, pings) = begun?;
        let (streams, received_any) = (Rc::<Cell<usize>>::default(), Rc::<Cell<bool>>::default());
        let watch = Watch {
            streams: Rc::clone(&streams),
            received_any: Rc::clone(&received_any),
            silence,
            ping_timeout,
        };
        let driver = tokio::task::spawn_local(async move {
            let _counted = counted;
            drive(connection, pings, watch).await;
        });
        Ok(Self {
            sender,
            scheme,
            driver: driver.abort_handle(),
            streams,
            received_any,
            used_at: Cell::new(Instant::now()),
            retired: Cell::new(false),
            address,
        })
    }

    /// Whether it accepts another request now.
    pub(super) fn has_room(&self) -> bool {
        self.is_usable() && self.streams.get() < self.max_streams()
    }

    /// The number of requests that it serves at a time.
    pub(super) fn max_streams(&self) -> usize {
        MAX_STREAMS.min(self.sender.current_max_send_streams())
    }

    /// Whether it accepts requests at all.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.get() && !self.driver.is_finished() && is_ready(&mut self.sender.clone()).is_ok()
    }

    /// Stops accepting requests. Those in flight continue.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether it was retired.
    pub(super) fn retired(&self) -> bool {
        self.retired.get()
    }

    /// Since when it has been idle; `None` while it has requests in flight.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.used_at.get())
    }

    /// The remote address.
    pub(super) const fn remote_address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Counts a request as in flight.
    pub(super) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// Removes a request in flight.
    pub(super) fn leave(&self, now: Instant) {
        self.streams.set(self.streams.get().saturating_sub(1));
        self.used_at.set(now);
    }
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Fails if the connection accepts no further streams: it is broken, or the server is shutting it down.
fn is_ready(sender: &mut SendRequest<Bytes>) -> Result<(), h2::Error> {
    match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => Ok(()),
    }
}

/// Detects connections that are dead.
struct Watch {
    streams: Rc<Cell<usize>>,
    received_any: Rc<Cell<bool>>,
    silence: Duration,
    ping_timeout: Duration,
}

impl Watch {
    /// Completes when the server no longer responds.
    async fn until_lost(&self, mut pings: PingPong) {
        loop {
            sleep(self.silence).await;
            if self.received_any.replace(false) || self.streams.get() == 0 {
                continue;
            }
            match timeout(self.ping_timeout, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // The connection itself reports the error.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    }
}

/// The window of each stream, for this many streams.
fn stream_window(streams: usize) -> u32 {
    STREAM_WINDOWS.iter().find(|(most, _)| streams <= *most).map_or(4 * 1024, |(_, window)| *window)
}

/// The window for `streams` streams that have the window `current`. Must suit twice as many streams to become wider, so
/// that it does not oscillate.
fn next_window(current: u32, streams: usize) -> u32 {
    let window = stream_window(streams);
    if window > current { stream_window(2 * streams).max(current) } else { window }
}

async fn drive(mut connection: Connection<ClientStream, Bytes>, pings: Option<PingPong>, watch: Watch) {
    let streams = Rc::clone(&watch.streams);
    let mut window = STREAM_WINDOW;
    let connection = poll_fn(|context| {
        // Before the heads of new requests, which follow it. h2 refuses a change until the server has acknowledged the
        // previous one.
        let next = next_window(window, streams.get());
        if next != window && connection.set_initial_window_size(next).is_ok() {
            window = next;
        }
        Pin::new(&mut connection).poll(context)
    });
    let lost = async {
        match pings {
            Some(pings) => watch.until_lost(pings).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // Failures are reported through the streams.
        _ = connection => {}
        () = lost => {
            tracing::warn!(waited = ?watch.ping_timeout, "HTTP/2 connection closed: no answer to a ping");
        }
    }
}

/// Sends `request`, with the body of `call`, over `connection` and waits for the head of the response. A task sends the
/// body of the request. It holds `slot` and is stored in `upload`: aborting it resets the stream.
pub(super) async fn send<B>(
    connection: &Http2,
    slot: impl Sized + 'static,
    upload: &mut Option<JoinHandle<()>>,
    request: &impl RequestSource,
    call: &mut Call<B>,
) -> Result<Response<Box<response_stream::ResponseStream>>, ExchangeError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let mut sender = connection.sender.clone();
    if let Err(error) = is_ready(&mut sender) {
        connection.retire();
        return Err(error.into());
    }
    let to_head = *request.method() == Method::HEAD;
    let head =
        request.http2().map_err(|_| ExchangeError::Malformed("a target that HTTP/2 cannot express"))?;
    let on_continue = call.continues();
    let body = call.stream().ok_or(ExchangeError::Malformed("a request that was sent before"))?;
    let is_whole = body.is_end_stream();
    let head = translate(head, &connection.scheme, is_whole)?;
    let (mut answer, stream) = sender.send_request(head, is_whole)?;
    if is_whole {
        call.take_back(body);
    } else {
        *upload = Some(tokio::task::spawn_local(async move {
            let _slot = slot;
            upload_body(body, stream).await;
        }));
    }
    receive(&mut answer, on_continue, to_head, &connection.received_any).await.inspect_err(|cause| {
        if matches!(cause, ExchangeError::Http2(error) if error.is_go_away()) {
            connection.retire();
        }
    })
}

/// The head of a request in HTTP/2 (RFC 9113 section 8.3.1): the authority comes from Host, and connection fields are
/// removed. Credentials for the backend are never indexed by header compression.
fn translate(request: Request<()>, scheme: &Scheme, is_whole: bool) -> Result<Request<()>, ExchangeError> {
    let (Parts { method, uri, headers: mut fields, .. }, ()) = request.into_parts();
    let host = fields.remove(HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority.ok_or(ExchangeError::Malformed("a request without authority"))?);
    parts.path_and_query = uri.into_parts().path_and_query;
    let uri = Uri::from_parts(parts)
        .map_err(|_| ExchangeError::Malformed("a target that HTTP/2 cannot express"))?;
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        fields.remove(name);
    }
    if is_whole && matches!(method, Method::POST | Method::PUT | Method::PATCH) {
        // RFC 9110 section 8.6
        fields.entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
    for name in [AUTHORIZATION, COOKIE] {
        if let http::header::Entry::Occupied(mut entry) = fields.entry(name) {
            entry.iter_mut().for_each(|value| value.set_sensitive(true));
        }
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Waits for the head of the final response, and for the end of one without a body.
async fn receive(
    answer: &mut ResponseFuture,
    on_continue: Option<Arc<Notify>>,
    to_head: bool,
    received_any: &Rc<Cell<bool>>,
) -> Result<Response<Box<response_stream::ResponseStream>>, ExchangeError> {
    let mut interim = 0;
    let answer = poll_fn(|context| {
        while let Poll::Ready(Some(response)) = answer.poll_informational(context) {
            let status = response?.status();
            interim += 1;
            received_any.set(true);
            match (status, &on_continue) {
                _ if interim > MAX_INTERIM => {
                    return Poll::Ready(Err(ExchangeError::Malformed("too many interim responses")));
                }
                // RFC 9113 section 8.6
                (StatusCode::SWITCHING_PROTOCOLS, _) => {
                    return Poll::Ready(Err(ExchangeError::Malformed("101 over HTTP/2")));
                }
                (StatusCode::CONTINUE, Some(on_continue)) => on_continue.notify_one(),
                _ => {}
            }
        }
        Pin::new(&mut *answer).poll(context).map_err(ExchangeError::from)
    });
    let (head, mut stream) = answer.await?.into_parts();
    received_any.set(true);
    let has_no_body = to_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_no_body && !stream.is_end_stream() {
        end_of(&mut stream).await?;
    }
    // The code that prepares the response validates Content-Length.
    let length = head.headers.get(CONTENT_LENGTH).filter(|_| !has_no_body);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let body = response_stream::ResponseStream::new(stream, length, Rc::clone(received_any));
    Ok(Response::from_parts(head, Box::new(body)))
}

/// Waits for the end of a response without a body.
async fn end_of(stream: &mut RecvStream) -> Result<(), ExchangeError> {
    while let Some(data) = stream.data().await {
        if !data?.is_empty() {
            return Err(ExchangeError::Malformed("a body in a response that must not have one"));
        }
    }
    stream.trailers().await?;
    Ok(())
}

/// Sends a body by flow control, until it ends or the server no longer wants it.
async fn upload_body<B>(body: B, mut stream: SendStream<Bytes>)
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    loop {
        let frame = poll_fn(|context| {
            if stream.poll_reset(context).is_ready() {
                return Poll::Ready(Upload::Unwanted);
            }
            body.as_mut().poll_frame(context).map(|frame| match frame {
                Some(Ok(frame)) => Upload::Frame(frame),
                Some(Err(_)) => Upload::Broken,
                None => Upload::Over,
            })
        });
        let sent = match frame.await {
            Upload::Unwanted => return,
            Upload::Broken => {
                stream.send_reset(Reason::CANCEL);
                return;
            }
            Upload::Over => stream.send_data(Bytes::new(), true).map_err(drop).map(|()| true),
            Upload::Frame(frame) => match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    send_data(&mut stream, data, is_last).await.map(|()| is_last)
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => stream.send_trailers(trailers).map_err(drop).map(|()| true),
                    Err(_) => Ok(false),
                },
            },
        };
        // If it cannot be sent, the response has the reason.
        if !matches!(sent, Ok(false)) {
            return;
        }
    }
}

enum Upload<F> {
    Frame(F),
    Over,
    /// The body failed; the client is at fault.
    Broken,
    /// The server reset the stream, or the connection broke.
    Unwanted,
}

/// Sends a piece, in parts that flow control allows.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) -> Result<(), ()> {
    if data.is_empty() {
        return if is_last { stream.send_data(data, true).map_err(drop) } else { Ok(()) };
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|context| {
            loop {
                match ready!(stream.poll_capacity(context)) {
                    Some(Ok(0)) => {}
                    Some(Ok(capacity)) => return Poll::Ready(Ok(capacity)),
                    Some(Err(_)) | None => return Poll::Ready(Err(())),
                }
            }
        });
        let piece = data.split_to(capacity.await?.min(data.len()));
        let ends = is_last && data.is_empty();
        stream.send_data(piece, ends).map_err(drop)?;
    }
    Ok(())
}
