//! A client that sends exactly the bytes it is given.

use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::certificate::Authority;
use super::wire::{Body, Fields, Head};

/// How long a read or a write may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A byte stream in both directions, plain or TLS.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A parsed response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The fields, in order.
    pub fields: Fields,
    /// The body without its transfer coding.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// The raw bytes of the head.
    pub raw_head: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The value of the only field with that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

/// A connection of a client.
pub struct RawClient {
    stream: BufReader<Box<dyn Stream>>,
    socket: TcpStream,
    tls: Option<Tls>,
}

/// A TLS stream whose sending side can be closed alone.
#[derive(Clone)]
struct Tls(Arc<Mutex<StreamOwned<ClientConnection, TcpStream>>>);

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().flush()
    }
}

impl RawClient {
    /// Connects, with a deadline for every read and write.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }

    /// Connects from another loopback address, such as 127.0.0.2.
    pub fn connect_from(source: &str, address: SocketAddr) -> Self {
        Self::over(connect_from(source, address))
    }

    fn over(socket: TcpStream) -> Self {
        let stream: Box<dyn Stream> = Box::new(socket.try_clone().unwrap());
        Self { stream: BufReader::new(stream), socket, tls: None }
    }

    /// Connects to a Unix socket.
    pub fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("a connection");
        // The client only uses operations that every stream socket supports.
        Self::over(TcpStream::from(OwnedFd::from(stream))).patience(PATIENCE)
    }

    /// Connects with TLS, trusting `authority`.
    pub fn connect_tls(address: SocketAddr, authority: &Authority) -> Self {
        Self::connect(address).start_tls(authority)
    }

    /// Starts TLS, trusting `authority`.
    pub fn start_tls(self, authority: &Authority) -> Self {
        self.start_tls_as(authority.client(), "localhost")
    }

    /// Connects with the TLS configuration given, to a server of this name.
    pub fn connect_tls_as(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> Self {
        Self::connect(address).start_tls_as(config, name)
    }

    fn start_tls_as(self, config: Arc<ClientConfig>, name: &str) -> Self {
        let socket = self.socket;
        let connection = ClientConnection::new(config, name.to_owned().try_into().unwrap()).unwrap();
        let stream = StreamOwned::new(connection, socket.try_clone().unwrap());
        let tls = Tls(Arc::new(Mutex::new(stream)));
        let stream: Box<dyn Stream> = Box::new(tls.clone());
        Self { stream: BufReader::new(stream), socket, tls: Some(tls) }
    }

    /// The client's own address.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sets the deadline for reads and writes.
    pub fn patience(self, patience: Duration) -> Self {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        self.socket.set_write_timeout(Some(patience)).unwrap();
        self
    }

    /// Sends these bytes unchanged.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the connection accepts bytes");
        self
    }

    /// Sends bytes, ignoring an error because the peer may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())?;
        self.stream.get_mut().flush()
    }

    /// Whether received bytes are unread; plain TCP only.
    pub fn has_bytes(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let waiting = self.socket.peek(&mut [0]).is_ok_and(|length| length > 0);
        self.socket.set_nonblocking(false).unwrap();
        waiting
    }

    /// Closes the sending side of the TCP connection.
    pub fn finish(&mut self) -> &mut Self {
        self.socket.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// Closes the sending side; over TLS with a close_notify alert while TCP stays open.
    pub fn finish_sending(&mut self) -> &mut Self {
        match &self.tls {
            Some(tls) => {
                let mut tls = tls.0.lock().unwrap();
                tls.conn.send_close_notify();
                tls.flush().unwrap();
            }
            None => self.socket.shutdown(Shutdown::Write).unwrap(),
        }
        self
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads the next final response to any request except HEAD; skips 1xx.
    pub fn response(&mut self) -> Response {
        self.try_response(false).expect("a response")
    }

    /// Reads the next final response to a HEAD request, which has no body whatever its fields say.
    pub fn response_to_head(&mut self) -> Response {
        self.try_response(true).expect("a response")
    }

    /// Reads the next final response, or returns the error; a close is `UnexpectedEof`.
    pub fn try_response(&mut self, to_head: bool) -> io::Result<Response> {
        loop {
            let head = Head::read(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let status = head.start_line.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status: u16 = status.ok_or_else(|| io::Error::other(head.start_line.clone()))?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let bodiless = to_head || matches!(status, 101 | 204 | 304);
            let body = match bodiless {
                true => Body::default(),
                false => Body::read(&mut self.stream, &head.fields, true)?,
            };
            return Ok(Response {
                status,
                fields: head.fields,
                body: body.bytes,
                trailers: body.trailers,
                raw_head: head.raw,
            });
        }
    }

    /// Reads until the peer closes. A reset counts as a close.
    pub fn read_until_close(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if is_close(&error) => bytes,
            Err(error) => {
                panic!("{error} instead of a close; received {:?}", String::from_utf8_lossy(&bytes))
            }
        }
    }

    /// Reads at least one byte and all that arrived with it; empty at the end of the stream.
    pub fn read_some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        let length = self.stream.read(&mut bytes).expect("some bytes");
        bytes.truncate(length);
        bytes
    }

    /// Reads the next head and none of its body.
    pub fn read_head(&mut self) -> Head {
        Head::read(&mut self.stream).unwrap().expect("a head")
    }

    /// Reads as many bytes as `bytes` has.
    pub fn read_exact(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).expect("the bytes");
    }

    /// Sends a request and reads the response. Adds `Host` unless `fields` contain it, and Content-Length if the body
    /// is not empty.
    pub fn request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, target, fields, body).expect("a response")
    }

    /// The same, but returns the error if there is no response.
    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += "Host: stockaj.example\r\n";
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.try_send([head.as_bytes(), body].concat())?;
        self.try_response(method == "HEAD")
    }

    /// `GET target` with a bearer token.
    pub fn get(&mut self, target: &str, token: Option<&str>) -> Response {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        self.request("GET", target, &fields, b"")
    }
}

/// Whether an error means that the peer closed the connection.
pub fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Connects with a deadline for every read and write.
pub fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
}

/// The same from another loopback address.
pub fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source: IpAddr = source.parse().unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).expect("a connection");
    patient(socket.into())
}

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}
