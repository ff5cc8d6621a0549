//! A scripted backend that records every request exactly and sends any response, valid or not.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::certificate::Authority;
use super::client::{PATIENCE, Stream};
use super::wire::{Body, Fields, Head};

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The target, as sent.
    pub target: String,
    /// The fields, in order.
    pub fields: Fields,
    /// The body without its transfer coding; the received part if it is incomplete.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// Every byte of the head.
    pub raw_head: Vec<u8>,
    /// Whether the body is complete; also false if the script did not wait for it.
    pub complete: bool,
    /// The index of the connection, from 0.
    pub connection: usize,
}

impl Request {
    /// Builds a request without a body from its head.
    pub fn new(head: Head, connection: usize) -> Self {
        let mut words = head.start_line.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        Self {
            method: word(),
            target: word(),
            fields: head.fields,
            body: Vec::new(),
            trailers: Fields::default(),
            raw_head: head.raw,
            complete: false,
            connection,
        }
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The value of the only field with that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The token of `Authorization: Bearer …`.
    pub fn bearer(&self) -> Option<&str> {
        self.field("authorization")?.strip_prefix("Bearer ")
    }
}

/// A scripted response, step by step.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    /// Bytes that are omitted in responses to HEAD.
    Body(Vec<u8>),
    Wait(Duration),
    Hang,
    Close,
}

impl Answer {
    /// A well-formed response.
    pub fn with(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        if status != 204 && status != 304 {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        Self { steps: vec![Step::Bytes(head.into()), Step::Body(body.to_vec())] }
    }

    /// A well-formed JSON response.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::with(status, &[("Content-Type", "application/json")], body.to_string())
    }

    /// A response as Laravel sends errors: a status and a message.
    pub fn message(status: u16, message: &str) -> Self {
        Self::json(status, &json!({"message": message}))
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { steps: vec![Step::Bytes(bytes.into())] }
    }

    /// Closes the connection without sending a byte.
    pub fn close() -> Self {
        Self { steps: vec![Step::Close] }
    }

    /// Sends no byte until the upstream is dropped.
    pub fn hang() -> Self {
        Self { steps: vec![Step::Hang] }
    }

    /// The same response after a delay.
    pub fn after(mut self, wait: Duration) -> Self {
        self.steps.insert(0, Step::Wait(wait));
        self
    }

    /// Appends further bytes.
    pub fn then(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Bytes(bytes.into()));
        self
    }

    /// Appends a delay.
    pub fn then_wait(mut self, wait: Duration) -> Self {
        self.steps.push(Step::Wait(wait));
        self
    }

    /// Then sends nothing more and keeps the connection open.
    pub fn then_hang(mut self) -> Self {
        self.steps.push(Step::Hang);
        self
    }

    /// Then closes the connection.
    pub fn then_close(mut self) -> Self {
        self.steps.push(Step::Close);
        self
    }
}

/// Responds 200 with the request itself as JSON.
pub fn echo(request: &Request) -> Answer {
    let body = String::from_utf8_lossy(&request.body);
    let fields: Vec<_> = request.fields.0.iter().map(|(name, value)| json!([name, value])).collect();
    Answer::json(
        200,
        &json!({"method": request.method, "target": request.target, "fields": fields, "body": body}),
    )
}

type Script = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;
type EarlyScript = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    early: Mutex<EarlyScript>,
    requests: Mutex<Vec<Request>>,
    changed: Condvar,
    sockets: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    stopped: AtomicBool,
    tls: Option<Arc<ServerConfig>>,
}

/// A scripted backend. [`echo`] is its default script.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    ca_file: Option<std::path::PathBuf>,
}

impl Upstream {
    /// Listens on a free port.
    pub fn start() -> Self {
        Self::start_with(None, None)
    }

    /// Listens on a free port, with TLS as `localhost`.
    pub fn start_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority.server()), Some(authority.ca_file()))
    }

    /// Listens on a free port, with TLS by `config`.
    pub fn start_with_tls(config: ServerConfig) -> Self {
        Self::start_with(Some(Arc::new(config)), None)
    }

    /// Listens on a free port with this script.
    pub fn answering(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let upstream = Self::start();
        upstream.answer(script);
        upstream
    }

    fn start_with(tls: Option<Arc<ServerConfig>>, ca_file: Option<std::path::PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(echo)),
            early: Mutex::new(Arc::new(|_| None)),
            requests: Mutex::default(),
            changed: Condvar::new(),
            sockets: Mutex::default(),
            accepted: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            tls,
        });
        let address = listener.local_addr().unwrap();
        let mut upstream = Self { address, shared, accepting: None, ca_file };
        upstream.accept(listener);
        upstream
    }

    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the backend, without a path.
    pub fn url(&self) -> String {
        match self.shared.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The `tls` section that its clients need; empty without TLS.
    pub fn client_tls(&self) -> String {
        self.ca_file
            .as_ref()
            .map_or_else(String::new, |file| format!("  tls: {{ca_file: {}}}\n", file.display()))
    }

    /// Replaces the script.
    pub fn answer(&self, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// Runs `script` as soon as the head has arrived, sends its response without waiting for the body, and closes the
    /// connection.
    pub fn answer_early(&self, script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.early.lock().unwrap() = Arc::new(script);
    }

    /// All requests so far, in the order in which they ended.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The only request so far; panics if there are others.
    pub fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests[0].clone()
    }

    /// Waits until there are `count` requests and returns them.
    pub fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let requests = self.shared.requests.lock().unwrap();
        let wait = self.shared.changed.wait_timeout_while(requests, PATIENCE, |it| it.len() < count);
        let (requests, timeout) = wait.unwrap();
        assert!(!timeout.timed_out(), "{} requests instead of {count}: {requests:#?}", requests.len());
        requests.clone()
    }

    /// Returns the requests so far and forgets them.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Closes every connection but keeps listening.
    pub fn close_connections(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Refuses new connections from now on and closes the open ones.
    pub fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            let _ = TcpStream::connect(self.address);
            let _ = accepting.join();
        }
        self.close_connections();
    }

    /// Listens on the same port again after [`Upstream::stop`].
    pub fn resume(&mut self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address).expect("the port is still free");
        self.accept(listener);
    }

    fn accept(&mut self, listener: TcpListener) {
        // The standard library's backlog of 128 would delay some of many concurrent connections for seconds.
        socket2::SockRef::from(&listener).listen(4096).unwrap();
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                shared.sockets.lock().unwrap().push(socket.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let _ = shared.serve(&socket, number);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        }));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn serve(&self, socket: &TcpStream, number: usize) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let plain = socket.try_clone()?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, plain))
            }
            None => Box::new(plain),
        };
        let mut stream = BufReader::new(stream);
        while let Some(head) = Head::read(&mut stream)? {
            let mut request = Request::new(head, number);
            let early = Arc::clone(&self.early.lock().unwrap());
            if let Some(answer) = early(&request) {
                self.record(&request);
                self.send(stream.get_mut(), &request, &answer)?;
                return Ok(());
            }
            if request.field("expect").is_some() {
                stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = Body::read(&mut stream, &request.fields, false);
            request.complete = body.is_ok();
            if let Ok(body) = body {
                request.body = body.bytes;
                request.trailers = body.trailers;
            }
            self.record(&request);
            if !request.complete {
                return Ok(());
            }
            let script = Arc::clone(&self.script.lock().unwrap());
            let answer = script(&request);
            if !self.send(stream.get_mut(), &request, &answer)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn record(&self, request: &Request) {
        self.requests.lock().unwrap().push(request.clone());
        self.changed.notify_all();
    }

    /// Sends a response; returns whether the connection stays open.
    fn send(&self, stream: &mut dyn Stream, request: &Request, answer: &Answer) -> io::Result<bool> {
        // Sent in one write unless the script has delays, so that the head and the body arrive together.
        let mut unsent = Vec::new();
        for step in &answer.steps {
            if let Step::Bytes(bytes) | Step::Body(bytes) = step {
                if matches!(step, Step::Bytes(_)) || request.method != "HEAD" {
                    unsent.extend_from_slice(bytes);
                }
                continue;
            }
            send(stream, &mut unsent)?;
            match step {
                Step::Wait(wait) => self.wait_until(Instant::now() + *wait),
                Step::Hang => self.wait_until(Instant::now() + 10 * PATIENCE),
                Step::Close => return Ok(false),
                Step::Bytes(_) | Step::Body(_) => {}
            }
        }
        send(stream, &mut unsent)?;
        Ok(true)
    }

    fn wait_until(&self, end: Instant) {
        while !self.stopped.load(Ordering::SeqCst)
            && let Some(left) = end.checked_duration_since(Instant::now())
        {
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

fn send(stream: &mut dyn Stream, bytes: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(bytes)?;
    bytes.clear();
    stream.flush()
}
