//! A scripted HTTP/2 backend that records every request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::client::PATIENCE;
use super::wire::Fields;

/// A received request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub scheme: String,
    pub authority: String,
    pub path: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// `None` if the stream ended normally, otherwise the error code.
    pub reset: Option<Reason>,
    /// The index of the connection, from 0.
    pub connection: usize,
}

/// A scripted response.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub interim: Vec<u16>,
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub pieces: Vec<Bytes>,
    pub trailers: Vec<(&'static str, &'static str)>,
    /// Delay before the request's body is read.
    pub early: bool,
    /// Delay before the head.
    pub wait: Duration,
    /// Delay between two pieces.
    pub pause: Duration,
    /// Resets the stream instead of responding.
    pub refuse: Option<Reason>,
    /// Resets the stream instead of ending the response.
    pub break_off: Option<Reason>,
}

impl Reply {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { status, pieces: vec![Bytes::copy_from_slice(body.as_ref())], ..Self::default() }
    }

    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }
}

/// Responds 200 with the request itself.
pub fn echo(seen: &Seen) -> Reply {
    let body = json!({
        "method": seen.method, "path": seen.path, "authority": seen.authority, "scheme": seen.scheme,
        "fields": seen.fields.0, "body": String::from_utf8_lossy(&seen.body),
    });
    Reply::new(200, body.to_string()).field("content-type", "application/json")
}

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    accepted: AtomicUsize,
    open: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    goaway: Mutex<Vec<tokio::sync::mpsc::UnboundedSender<()>>>,
}

/// A scripted HTTP/2 backend. [`echo`] is its default script.
pub struct Http2Upstream {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
}

impl Http2Upstream {
    /// Listens with prior knowledge on a free port.
    pub fn start() -> Self {
        Self::start_with(None, |_| {})
    }

    /// Listens with the TLS of `config`, which should offer `h2`; `change` configures the HTTP/2 server.
    pub fn start_with(config: Option<ServerConfig>, change: impl FnOnce(&mut Builder)) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(echo)),
            seen: Mutex::default(),
            changed: Condvar::new(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            goaway: Mutex::default(),
        });
        let mut builder = h2::server::Builder::new();
        change(&mut builder);
        let (stop, stopped) = oneshot::channel();
        let tls = config.is_some();
        let (theirs, acceptor) =
            (Arc::clone(&shared), config.map(|config| TlsAcceptor::from(Arc::new(config))));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let accept = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        let number = theirs.accepted.fetch_add(1, Ordering::SeqCst);
                        let (shared, builder, acceptor) = (theirs.clone(), builder.clone(), acceptor.clone());
                        tokio::spawn(async move {
                            shared.open.fetch_add(1, Ordering::SeqCst);
                            serve(&shared, stream, acceptor, &builder, number).await;
                            shared.open.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                };
                tokio::select! { () = accept => {} _ = stopped => {} }
            });
        });
        Self { address, tls, shared, stop: Some(stop) }
    }

    /// The URL of the backend, without a path.
    pub fn url(&self) -> String {
        match self.tls {
            true => format!("https://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }

    /// Replaces the script.
    pub fn answer(&self, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// All requests so far, in the order in which they ended.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until there are `count` requests and returns them.
    pub fn wait_for(&self, count: usize) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        let (seen, timeout) =
            self.shared.changed.wait_timeout_while(seen, PATIENCE, |it| it.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} requests instead of {count}: {seen:#?}", seen.len());
        seen.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The highest number of concurrent requests.
    pub fn most_concurrent(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// The number of requests in progress.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// Sends GOAWAY on every connection, which closes after its requests have ended.
    pub fn go_away(&self) {
        for connection in self.shared.goaway.lock().unwrap().drain(..) {
            let _ = connection.send(());
        }
    }
}

impl Drop for Http2Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

async fn serve(
    shared: &Arc<Shared>,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    builder: &Builder,
    number: usize,
) {
    match acceptor {
        None => speak(shared, stream, builder, number).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                speak(shared, stream, builder, number).await;
            }
        }
    }
}

async fn speak<T>(shared: &Arc<Shared>, stream: T, builder: &Builder, number: usize)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let (goaway, mut told) = tokio::sync::mpsc::unbounded_channel();
    shared.goaway.lock().unwrap().push(goaway);
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, answer))) = accepted else { return };
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
                    shared.most.fetch_max(running, Ordering::SeqCst);
                    let _ = exchange(&shared, request, answer, number).await;
                    shared.running.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Some(()) = told.recv() => connection.graceful_shutdown(),
        }
    }
}

async fn exchange(
    shared: &Shared,
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
    number: usize,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let text = |it: Option<&str>| it.unwrap_or_default().to_owned();
    let mut seen = Seen {
        method: head.method.to_string(),
        scheme: text(head.uri.scheme_str()),
        authority: text(head.uri.authority().map(|it| it.as_str())),
        path: text(head.uri.path_and_query().map(|it| it.as_str())),
        fields: fields(&head.headers),
        body: Vec::new(),
        trailers: Fields::default(),
        reset: None,
        connection: number,
    };
    let script = Arc::clone(&shared.script.lock().unwrap());
    let early = script(&seen);
    if let Some(reason) = early.refuse {
        shared.record(seen);
        answer.send_reset(reason);
        return Ok(());
    }
    if early.early {
        let sent = reply(&mut answer, early).await;
        read(&mut seen, &mut stream).await;
        shared.record(seen);
        return sent;
    }
    for status in &early.interim {
        answer.send_informational(Response::builder().status(*status).body(()).unwrap())?;
    }
    tokio::select! {
        () = read(&mut seen, &mut stream) => {}
        Ok(reason) = std::future::poll_fn(|context| answer.poll_reset(context)) => seen.reset = Some(reason),
    }
    let told = script(&seen);
    let wait = told.wait;
    let ended = seen.reset.is_some();
    if ended || wait.is_zero() {
        shared.record(seen);
        return if ended { Ok(()) } else { reply(&mut answer, told).await };
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => {
            shared.record(seen);
            reply(&mut answer, told).await
        }
        Ok(reason) = std::future::poll_fn(|context| answer.poll_reset(context)) => {
            seen.reset = Some(reason);
            shared.record(seen);
            Ok(())
        }
    }
}

impl Shared {
    fn record(&self, seen: Seen) {
        self.seen.lock().unwrap().push(seen);
        self.changed.notify_all();
    }
}

fn fields(fields: &HeaderMap) -> Fields {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Fields(fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}

async fn read(seen: &mut Seen, stream: &mut RecvStream) {
    while let Some(data) = stream.data().await {
        match data {
            Ok(data) => {
                seen.body.extend_from_slice(&data);
                let _ = stream.flow_control().release_capacity(data.len());
            }
            Err(error) => {
                seen.reset = error.reason().or(Some(Reason::INTERNAL_ERROR));
                return;
            }
        }
    }
    match stream.trailers().await {
        Ok(trailers) => seen.trailers = trailers.as_ref().map(fields).unwrap_or_default(),
        Err(error) => seen.reset = error.reason().or(Some(Reason::INTERNAL_ERROR)),
    }
}

async fn reply(answer: &mut SendResponse<Bytes>, reply: Reply) -> Result<(), h2::Error> {
    let mut head = Response::builder().status(reply.status);
    for (name, value) in &reply.fields {
        head = head.header(*name, value);
    }
    let pieces: Vec<_> = reply.pieces.iter().filter(|piece| !piece.is_empty()).collect();
    let ends = pieces.is_empty() && reply.trailers.is_empty() && reply.break_off.is_none();
    let mut stream = answer.send_response(head.body(()).unwrap(), ends)?;
    let last = pieces.len().saturating_sub(1);
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(reply.pause).await;
        }
        let mut piece = Bytes::clone(piece);
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let capacity = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
            let Some(Ok(capacity)) = capacity else { return Ok(()) };
            let part = piece.split_to(capacity.min(piece.len()));
            let is_last =
                number == last && piece.is_empty() && reply.trailers.is_empty() && reply.break_off.is_none();
            stream.send_data(part, is_last)?;
        }
    }
    if let Some(reason) = reply.break_off {
        // Waits until the sent data has been flushed.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(reason);
    } else if !reply.trailers.is_empty() {
        let trailers = reply
            .trailers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        stream.send_trailers(trailers.collect())?;
    }
    Ok(())
}
