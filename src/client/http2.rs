//! One HTTP/2 connection to the backend, and the streams over it.
//!
//! Spoken by h2 itself: hyper's client takes a reset with NO_ERROR in the middle of an answer for its end, does not
//! tell of interim answers, and hands no request back that the other side has refused to look at.

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
const STREAM_WINDOWS: [(usize, u32); 3] = [(4, STREAM_WINDOW), (16, 16 * 1024), (MOST_STREAMS, 4 * 1024)];
/// The window of one stream among few, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Streams at once over one connection, where the other side allows so many.
const MOST_STREAMS: usize = 100;
/// Room for every stream's window: a client that does not read must not hold up the answers to others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
/// Of the head of an answer, and of its trailers, in bytes as RFC 9113 section 6.5.2 counts them.
const HEADER_LIST: u32 = 64 * 1024;
/// Send buffer of a stream, in bytes: the part of a request's body that the backend does not read, without the frame that
/// follows it.
const SEND_BUFFER: usize = 16 * 1024;
/// More interim answers to one request are an attack.
const MOST_INTERIM: usize = 100;

/// One connection. Closed at once when it is dropped; every stream over it keeps it.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    driver: AbortHandle,
    /// Requests that are under way over it.
    streams: Rc<Cell<usize>>,
    /// Whether anything of an answer came since it was last looked.
    heard: Rc<Cell<bool>>,
    /// When a stream ended last.
    used_at: Cell<Instant>,
    /// Whether it takes no further requests.
    retired: Cell<bool>,
    address: Option<IpAddr>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2 {
    /// Begins HTTP/2 over `stream`, and waits, for `patience` at most, until the other side has answered a ping: it does
    /// speak HTTP/2 then, and has said how many streams it allows. Where it then says nothing for `silence` while an
    /// answer is awaited it is asked again, and lost where it does not answer that for `patience`. `counted` is dropped
    /// with the connection.
    pub(super) async fn begin(
        stream: ClientStream,
        silence: Duration,
        patience: Duration,
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
        let begun = timeout(patience, begin).await.map_err(|_| LeaseError::Http2Silent(patience))?;
        let (sender, connection, pings) = begun?;
        let (streams, heard) = (Rc::<Cell<usize>>::default(), Rc::<Cell<bool>>::default());
        let watch = Watch { streams: Rc::clone(&streams), heard: Rc::clone(&heard), silence, patience };
        let driver = tokio::task::spawn_local(async move {
            let _counted = counted;
            drive(connection, pings, watch).await;
        });
        Ok(Self {
            sender,
            scheme,
            driver: driver.abort_handle(),
            streams,
            heard,
            used_at: Cell::new(Instant::now()),
            retired: Cell::new(false),
            address,
        })
    }

    /// Whether it may take one more request.
    pub(super) fn has_room(&self) -> bool {
        self.is_usable() && self.streams.get() < MOST_STREAMS.min(self.sender.current_max_send_streams())
    }

    /// Whether it takes requests at all.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.get() && !self.driver.is_finished() && is_ready(&mut self.sender.clone()).is_ok()
    }

    /// Has it take no further requests. What is under way goes on.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether it takes no further requests by our own choice.
    pub(super) fn retired(&self) -> bool {
        self.retired.get()
    }

    /// Since when it carries nothing; none while it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.used_at.get())
    }

    /// The address at the other end.
    pub(super) const fn remote_address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Counts one more request.
    pub(super) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// Counts one less.
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

/// An error where the connection takes no further streams: it broke, or the other side is going away.
fn is_ready(sender: &mut SendRequest<Bytes>) -> Result<(), h2::Error> {
    match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => Ok(()),
    }
}

/// When a connection is asked whether it still lives.
struct Watch {
    streams: Rc<Cell<usize>>,
    heard: Rc<Cell<bool>>,
    silence: Duration,
    patience: Duration,
}

impl Watch {
    /// Done when the other side is gone without a word.
    async fn until_lost(&self, mut pings: PingPong) {
        loop {
            sleep(self.silence).await;
            if self.heard.replace(false) || self.streams.get() == 0 {
                continue;
            }
            match timeout(self.patience, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // The connection itself tells why.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            }
        }
    }
}

/// The window of each of so many streams.
fn stream_window(streams: usize) -> u32 {
    STREAM_WINDOWS.iter().find(|(most, _)| streams <= *most).map_or(4 * 1024, |(_, window)| *window)
}

/// The window that `streams` should have which have `current`. A wider one has to suit twice as many, so that it does not
/// change back and forth.
fn next_window(current: u32, streams: usize) -> u32 {
    let window = stream_window(streams);
    if window > current { stream_window(2 * streams).max(current) } else { window }
}

async fn drive(mut connection: Connection<ClientStream, Bytes>, pings: Option<PingPong>, watch: Watch) {
    let streams = Rc::clone(&watch.streams);
    let mut window = STREAM_WINDOW;
    let connection = poll_fn(|context| {
        // Before the heads of new requests are sent, which follow it. As long as the other side has not acknowledged
        // the change before, another is refused.
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
        // Whoever waits for an answer is told of a failure through its stream.
        _ = connection => {}
        () = lost => {
            tracing::warn!(waited = ?watch.patience, "a ping over HTTP/2 was not answered: the connection is given up");
        }
    }
}

/// Sends `request`, with the body of `call`, over `connection` and waits for the head of the response. The body of the request is sent by a task,
/// which holds `slot` and is put into `upload`: aborting it resets the stream.
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
    let head = request.http2().map_err(|_| ExchangeError::Malformed("no target that HTTP/2 can name"))?;
    let asked = call.continues();
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
    receive(&mut answer, asked, to_head, &connection.heard).await.inspect_err(|cause| {
        if matches!(cause, ExchangeError::Http2(error) if error.is_go_away()) {
            connection.retire();
        }
    })
}

/// The head of a request as HTTP/2 has it (RFC 9113 section 8.3.1): the authority from Host, no field that is of a
/// connection. What opens the backend's doors is never in a table of compression.
fn translate(request: Request<()>, scheme: &Scheme, is_whole: bool) -> Result<Request<()>, ExchangeError> {
    let (Parts { method, uri, headers: mut fields, .. }, ()) = request.into_parts();
    let host = fields.remove(HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority.ok_or(ExchangeError::Malformed("no authority to ask for"))?);
    parts.path_and_query = uri.into_parts().path_and_query;
    let uri =
        Uri::from_parts(parts).map_err(|_| ExchangeError::Malformed("no target that HTTP/2 can name"))?;
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

/// Waits for the head of the final answer. Of an answer that has no body it waits for the end, too.
async fn receive(
    answer: &mut ResponseFuture,
    asked: Option<Arc<Notify>>,
    to_head: bool,
    heard: &Rc<Cell<bool>>,
) -> Result<Response<Box<response_stream::ResponseStream>>, ExchangeError> {
    let mut interim = 0;
    let answer = poll_fn(|context| {
        while let Poll::Ready(Some(came)) = answer.poll_informational(context) {
            let status = came?.status();
            interim += 1;
            heard.set(true);
            match (status, &asked) {
                _ if interim > MOST_INTERIM => {
                    return Poll::Ready(Err(ExchangeError::Malformed("interim answers without end")));
                }
                // RFC 9113 section 8.6
                (StatusCode::SWITCHING_PROTOCOLS, _) => {
                    return Poll::Ready(Err(ExchangeError::Malformed("101 over HTTP/2")));
                }
                (StatusCode::CONTINUE, Some(asked)) => asked.notify_one(),
                _ => {}
            }
        }
        Pin::new(&mut *answer).poll(context).map_err(ExchangeError::from)
    });
    let (head, mut stream) = answer.await?.into_parts();
    heard.set(true);
    let has_no_body = to_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_no_body && !stream.is_end_stream() {
        end_of(&mut stream).await?;
    }
    // Whether there is but one, and what it says, is for whoever prepares the answer to see.
    let length = head.headers.get(CONTENT_LENGTH).filter(|_| !has_no_body);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let body = response_stream::ResponseStream::new(stream, length, Rc::clone(heard));
    Ok(Response::from_parts(head, Box::new(body)))
}

/// The end of an answer that has no body.
async fn end_of(stream: &mut RecvStream) -> Result<(), ExchangeError> {
    while let Some(data) = stream.data().await {
        if !data?.is_empty() {
            return Err(ExchangeError::Malformed("a body in an answer that has none"));
        }
    }
    stream.trailers().await?;
    Ok(())
}

/// Sends a body as the other side takes it, until its end or until the other side wants no more of it.
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
        // Where it cannot be sent, the answer tells why.
        if !matches!(sent, Ok(false)) {
            return;
        }
    }
}

enum Upload<F> {
    Frame(F),
    Over,
    /// The client's fault.
    Broken,
    /// The other side reset the stream, or the connection broke.
    Unwanted,
}

/// Sends one piece, no more of it at a time than the other side takes.
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
