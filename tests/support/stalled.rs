//! Clients and backends that stop reading or sending in every phase of a connection, and the memory that the gateway
//! holds for them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;

use super::client::Stream;
use super::http2::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS, INITIAL_WINDOW_SIZE, PREFACE, SETTINGS};
use super::http2::{WINDOW_UPDATE, literals, request};
use super::{Authority, Gateway, Introspector};
use backend::Backend;

mod backend;

/// Streams of one HTTP/2 client.
pub const STREAMS: usize = 100;

/// Buffer size in bytes of a socket that is not read, so that the kernel buffers little.
const SOCKET_BUFFER: usize = 4096;
/// Maximum segment size of such a socket. With the segments of loopback the kernel would buffer megabytes.
const SEGMENT: u32 = 1200;

/// Time within which the gateway has to free memory after connections have closed.
const AFTER_CLOSING: Duration = Duration::from_secs(5);

const LIMITS: &str = "\
limits:
  body: 1GiB
  header_timeout: 10m
  idle_timeout: 10m
  body_idle_timeout: 10m
  connections: 20000
log: {access: false}
abilities:
  routes:
    /{*path}: {GET: public, POST: public}
";

/// The phase in which a connection stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Idle after a response; the client sends nothing more.
    Idle,
    /// Idle after a response of 1 MiB.
    IdleAfterLarge,
    /// After a part of the request's head.
    Head,
    /// Over TLS, before the handshake.
    Handshake,
    /// The client does not read a response with Content-Length.
    Length,
    /// The client does not read a chunked response.
    Chunked,
    /// The client does not read a response that ends with the backend's connection.
    UntilClose,
    /// As `Length`, over TLS.
    LengthTls,
    /// As `Length`, from a backend with TLS.
    LengthTlsBackend,
    /// As `Length`, from a backend with HTTP/2.
    LengthHttp2Backend,
    /// The backend does not read a body with Content-Length.
    Upload,
    /// The backend does not read a chunked body.
    UploadChunked,
    /// As `Upload`, from a client with TLS.
    UploadTls,
    /// As `Upload`, to a backend with TLS.
    UploadTlsBackend,
    /// As `Upload`, to a backend with HTTP/2.
    UploadHttp2Backend,
    /// The client does not read from a tunnel.
    TunnelDown,
    /// The backend does not read from a tunnel.
    TunnelUp,
    /// 100 streams with windows of 400 KiB, and the client does not read its connection.
    Http2Wide,
    /// 100 streams with the default windows, which the client does not open any further.
    Http2Narrow,
    /// 100 streams with windows of 1 byte.
    Http2Shut,
    /// 100 streams with windows of 0, and responses of 9 KiB, which the gateway reads ahead.
    Http2Small,
    /// As `Http2Wide`, over TLS.
    Http2WideTls,
    /// As `Http2Wide`, from a backend with HTTP/2.
    Http2WideHttp2Backend,
    /// 100 streams whose bodies the backend does not read.
    Http2Upload,
    /// The same, and the backend speaks HTTP/2.
    Http2UploadHttp2Backend,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 25] = [
        Self::Idle,
        Self::IdleAfterLarge,
        Self::Head,
        Self::Handshake,
        Self::Length,
        Self::Chunked,
        Self::UntilClose,
        Self::LengthTls,
        Self::LengthTlsBackend,
        Self::LengthHttp2Backend,
        Self::Upload,
        Self::UploadChunked,
        Self::UploadTls,
        Self::UploadTlsBackend,
        Self::UploadHttp2Backend,
        Self::TunnelDown,
        Self::TunnelUp,
        Self::Http2Wide,
        Self::Http2Narrow,
        Self::Http2Shut,
        Self::Http2Small,
        Self::Http2WideTls,
        Self::Http2WideHttp2Backend,
        Self::Http2Upload,
        Self::Http2UploadHttp2Backend,
    ];

    /// Whether each connection carries [`STREAMS`] streams.
    pub const fn is_http2(self) -> bool {
        matches!(
            self,
            Self::Http2Wide
                | Self::Http2Narrow
                | Self::Http2Shut
                | Self::Http2Small
                | Self::Http2WideTls
                | Self::Http2WideHttp2Backend
                | Self::Http2Upload
                | Self::Http2UploadHttp2Backend
        )
    }

    const fn has_tls_clients(self) -> bool {
        matches!(self, Self::Handshake | Self::LengthTls | Self::UploadTls | Self::Http2WideTls)
    }

    const fn backend(self) -> BackendKind {
        match self {
            Self::LengthTlsBackend | Self::UploadTlsBackend => BackendKind::Tls,
            Self::LengthHttp2Backend
            | Self::UploadHttp2Backend
            | Self::Http2WideHttp2Backend
            | Self::Http2UploadHttp2Backend => BackendKind::Http2,
            _ => BackendKind::Plain,
        }
    }

    /// The start of a request; the whole request if it has no body.
    const fn request(self) -> &'static str {
        match self {
            Self::Idle => "GET /small HTTP/1.1\r\nHost: a\r\n\r\n",
            Self::IdleAfterLarge => "GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
            Self::Chunked => "GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n",
            Self::UntilClose => "GET /close HTTP/1.1\r\nHost: a\r\n\r\n",
            Self::Upload | Self::UploadTls | Self::UploadTlsBackend | Self::UploadHttp2Backend => {
                "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n"
            }
            Self::UploadChunked => {
                "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3fffffff\r\n"
            }
            Self::TunnelDown => concat!(
                "GET /tunnel-down HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
            Self::TunnelUp => concat!(
                "GET /tunnel-up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
            _ => "GET /down HTTP/1.1\r\nHost: a\r\n\r\n",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackendKind {
    Plain,
    Tls,
    Http2,
}

/// The gateway's resident memory for stalled connections, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Added while the connections were stalled.
    pub stalled: u64,
    /// Still held after all of them were closed.
    pub closed: u64,
}

/// Stalls this number of connections in a phase, measures, and closes them.
pub fn measure(phase: Phase, connections: usize) -> Cost {
    let authority = Arc::new(Authority::new());
    let backend = Backend::start(phase.backend(), &authority);
    let introspector = Introspector::start();
    let mut builder = Gateway::builder().introspector(&introspector).yaml(&backend.yaml).yaml(LIMITS);
    if phase.has_tls_clients() {
        builder = builder.tls(&authority);
    } else if phase.is_http2() {
        builder = builder.yaml("listen:\n  h2c: true\n");
    }
    let gateway = builder.start();
    // Warm-up: loads code and the memory that each thread keeps. Two connections per worker make sure that each serves
    // one.
    drop(stall(phase, &gateway, &authority, 4, 2));
    thread::sleep(Duration::from_millis(500));
    let before = settled(&gateway);
    let stalled = stall(phase, &gateway, &authority, connections, STREAMS);
    let held = settled(&gateway).saturating_sub(before);
    drop(stalled);
    // The gateway does not notice a close of a client that it does not read from, so the backend closes as well.
    drop(backend);
    gateway.wait_for_metric("client_connections", 0.0);
    let end = Instant::now() + AFTER_CLOSING;
    let mut left = u64::MAX;
    while Instant::now() < end && left > held / 16 {
        thread::sleep(Duration::from_millis(100));
        left = gateway.resident_memory().saturating_sub(before);
    }
    Cost { stalled: held, closed: left }
}

/// Waits until the gateway's resident memory is stable, and returns it.
fn settled(gateway: &Gateway) -> u64 {
    let end = Instant::now() + Duration::from_secs(20);
    let (mut last, mut since) = (gateway.resident_memory(), Instant::now());
    while since.elapsed() < Duration::from_millis(600) && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
        let now = gateway.resident_memory();
        if now.abs_diff(last) > 64 * 1024 {
            (last, since) = (now, Instant::now());
        }
    }
    gateway.resident_memory()
}

/// Stalled connections.
struct Stalled(Vec<Box<dyn Stream>>);

/// Opens connections, with `streams` streams each over HTTP/2, and drives each until it stalls.
fn stall(
    phase: Phase,
    gateway: &Gateway,
    authority: &Authority,
    connections: usize,
    streams: usize,
) -> Stalled {
    let address = gateway.address();
    if phase.is_http2() {
        let mut clients: Vec<_> =
            (0..connections).map(|_| Http2Sender::start(phase, address, authority, streams)).collect();
        each_until_quiet(&mut clients, Http2Sender::go_on);
        return Stalled(clients.into_iter().map(|client| client.stream).collect());
    }
    let mut clients: Vec<Box<dyn Stream>> = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..connections {
        let socket = connect(address);
        sockets.push(socket.try_clone().unwrap());
        let mut client: Box<dyn Stream> = match phase {
            Phase::Handshake => {
                (&socket).write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
                Box::new(socket)
            }
            _ if phase.has_tls_clients() => tls(socket, authority, b"http/1.1"),
            _ => Box::new(socket),
        };
        match phase {
            Phase::Handshake => {}
            Phase::Head => {
                let field = format!("GET /down HTTP/1.1\r\nHost: a\r\nX-Long: {}", "x".repeat(6000));
                client.write_all(field.as_bytes()).unwrap();
            }
            _ => client.write_all(phase.request().as_bytes()).unwrap(),
        }
        client.flush().unwrap();
        if matches!(phase, Phase::Idle | Phase::IdleAfterLarge) {
            read_response(&mut client);
        }
        clients.push(client);
    }
    match phase {
        Phase::Upload
        | Phase::UploadChunked
        | Phase::UploadTls
        | Phase::UploadTlsBackend
        | Phase::UploadHttp2Backend => write_until_quiet(&mut clients, &sockets),
        Phase::TunnelUp => {
            for client in &mut clients {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
            }
            write_until_quiet(&mut clients, &sockets);
        }
        _ => {}
    }
    Stalled(clients)
}

fn write_until_quiet(clients: &mut [Box<dyn Stream>], sockets: &[TcpStream]) {
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let data = vec![b'u'; 64 * 1024];
    each_until_quiet(clients, |client| {
        let mut wrote = false;
        while client.write(&data).is_ok_and(|length| length > 0) {
            wrote = true;
        }
        wrote
    });
}

/// Drives all of them until none has made progress for a while.
fn each_until_quiet<T>(all: &mut [T], mut go_on: impl FnMut(&mut T) -> bool) {
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(800) {
        for it in all.iter_mut() {
            if go_on(it) {
                quiet_since = Instant::now();
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_response(client: &mut Box<dyn Stream>) {
    let mut reader = BufReader::new(client);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink()).unwrap();
}

/// A connection whose sockets buffer little.
pub fn connect(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
    socket.set_send_buffer_size(SOCKET_BUFFER).unwrap();
    socket.set_tcp_mss(SEGMENT).unwrap();
    // Dropping resets the connection, which the gateway notices even while it does not read.
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket.connect_timeout(&address.into(), Duration::from_secs(10)).expect("a connection");
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn tls(mut socket: TcpStream, authority: &Authority, protocol: &[u8]) -> Box<dyn Stream> {
    let mut config = (*authority.client()).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let mut session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    Box::new(StreamOwned::new(session, socket))
}

/// An HTTP/2 client that reads nothing, or sends all that its windows allow.
struct Http2Sender {
    stream: Box<dyn Stream>,
    uploads: bool,
    /// Received bytes of an incomplete frame.
    came: Vec<u8>,
    connection_window: i64,
    initial_window: i64,
    windows: Vec<i64>,
    unsent: Vec<u8>,
}

impl Http2Sender {
    fn start(phase: Phase, address: SocketAddr, authority: &Authority, streams: usize) -> Self {
        let socket = connect(address);
        let plain = socket.try_clone().unwrap();
        let mut stream: Box<dyn Stream> =
            if phase.has_tls_clients() { tls(socket, authority, b"h2") } else { Box::new(socket) };
        let window = match phase {
            Phase::Http2Narrow => None,
            Phase::Http2Shut => Some(1),
            Phase::Http2Small => Some(0),
            _ => Some(400 * 1024),
        };
        let settings: Vec<_> = window.iter().map(|window| (INITIAL_WINDOW_SIZE, *window)).collect();
        let mut bytes = [PREFACE, &Frame::settings(&settings).bytes()].concat();
        if window.is_some() {
            bytes.extend(Frame::window_update(0, i32::MAX as u32 - 65_535).bytes());
        }
        let uploads = matches!(phase, Phase::Http2Upload | Phase::Http2UploadHttp2Backend);
        for number in 0..streams {
            let (method, path, flags) = match phase {
                _ if uploads => ("POST", "/up", 0),
                Phase::Http2Small => ("GET", "/nine", END_STREAM),
                _ => ("GET", "/down", END_STREAM),
            };
            let block = literals(&request(method, path, &[]));
            let stream = 2 * number as u32 + 1;
            bytes.extend(Frame::new(HEADERS, END_HEADERS | flags, stream, block).bytes());
        }
        stream.write_all(&bytes).unwrap();
        stream.flush().unwrap();
        plain.set_nonblocking(true).unwrap();
        Self {
            stream,
            uploads,
            came: Vec::new(),
            connection_window: 65_535,
            initial_window: 65_535,
            windows: vec![65_535; streams],
            unsent: Vec::new(),
        }
    }

    /// Sends what the windows allow; returns whether it made progress.
    fn go_on(&mut self) -> bool {
        self.uploads && (self.receive() | self.send())
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let mut any = false;
        while let Ok(length @ 1..) = self.stream.read(&mut buffer) {
            self.came.extend_from_slice(&buffer[..length]);
            any = true;
        }
        while let Some(&[a, b, c, kind, flags, d, e, f, g]) = self.came.first_chunk::<9>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.came.len() < 9 + length {
                break;
            }
            let payload: Vec<u8> = self.came.drain(..9 + length).skip(9).collect();
            let stream = u32::from_be_bytes([d, e, f, g]) as usize;
            match kind {
                SETTINGS if flags == 0 => {
                    for setting in payload.chunks(6) {
                        if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                            let window = i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap()));
                            self.windows.iter_mut().for_each(|it| *it += window - self.initial_window);
                            self.initial_window = window;
                        }
                    }
                    self.unsent.extend(Frame::new(SETTINGS, 1, 0, []).bytes());
                }
                WINDOW_UPDATE => {
                    let more = i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                    match stream {
                        0 => self.connection_window += more,
                        _ => self.windows[(stream - 1) / 2] += more,
                    }
                }
                _ => {}
            }
        }
        any
    }

    fn send(&mut self) -> bool {
        let mut any = false;
        loop {
            while !self.unsent.is_empty() {
                match self.stream.write(&self.unsent) {
                    Ok(length @ 1..) => {
                        self.unsent.drain(..length);
                        any = true;
                    }
                    _ => return any,
                }
            }
            let widest = (0..self.windows.len()).max_by_key(|it| self.windows[*it]).unwrap();
            let length = self.connection_window.min(self.windows[widest]).min(16 * 1024);
            if length <= 0 {
                return any;
            }
            self.connection_window -= length;
            self.windows[widest] -= length;
            let payload = vec![b'u'; length as usize];
            self.unsent = Frame::new(DATA, 0, 2 * widest as u32 + 1, payload).bytes();
        }
    }
}
