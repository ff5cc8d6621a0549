//! An HTTP/2 client that sends exactly the frames it is given.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use httlib_hpack::Decoder;
use rustls::{ClientConnection, StreamOwned};

use super::certificate::Authority;
use super::client::{PATIENCE, Response, Stream, connect, connect_from, is_close};
use super::wire::Fields;

/// The client connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Frame flags.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

/// Setting identifiers (RFC 9113 section 6.5.2).
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Error codes (RFC 9113 section 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// An HTTP/2 frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// A SETTINGS frame with these settings.
    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        Self::new(SETTINGS, 0, 0, payload)
    }

    pub fn window_update(stream: u32, increment: u32) -> Self {
        Self::new(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    pub fn reset(stream: u32, error: u32) -> Self {
        Self::new(RST_STREAM, 0, stream, error.to_be_bytes())
    }

    /// The encoded frame.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The error code of a RST_STREAM or GOAWAY frame.
    fn error(&self) -> u32 {
        let from = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[from..from + 4].try_into().unwrap())
    }
}

/// Encodes fields as HPACK literals without indexing (RFC 7541 section 6.2.2); the bytes are not validated.
pub fn literals<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_ref());
        string(&mut block, value.as_ref());
    }
    block
}

fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    // An integer with a prefix of seven bits (RFC 7541 section 5.1).
    let mut left = bytes.len();
    if left < 127 {
        block.push(left as u8);
    } else {
        block.push(127);
        left -= 127;
        while left >= 128 {
            block.push((left % 128) as u8 | 128);
            left /= 128;
        }
        block.push(left as u8);
    }
    block.extend_from_slice(bytes);
}

/// The result of a stream.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A complete response.
    Answer(Response),
    /// RST_STREAM with this error.
    Reset(u32),
    /// GOAWAY with this error, and no further frame of the stream.
    Away(u32),
    /// The connection was closed without RST_STREAM or GOAWAY.
    Closed,
}

impl Outcome {
    /// Returns the response; panics on any other outcome.
    pub fn answer(self) -> Response {
        match self {
            Self::Answer(response) => response,
            other => panic!("{other:?} instead of a response"),
        }
    }
}

#[derive(Default)]
struct Coming {
    block: Vec<u8>,
    head: Option<Fields>,
    body: Vec<u8>,
    trailers: Fields,
    ended: bool,
    reset: Option<u32>,
}

/// An HTTP/2 connection.
pub struct Http2Client {
    stream: Box<dyn Stream>,
    socket: Option<TcpStream>,
    decoder: Decoder<'static>,
    next: u32,
    coming: HashMap<u32, Coming>,
    away: Option<u32>,
    /// Whether received data is acknowledged by WINDOW_UPDATE.
    pub reads_on: bool,
    /// The number of received PING acknowledgements.
    pub pongs: usize,
}

impl Http2Client {
    /// Connects, and sends the preface and empty SETTINGS.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::silent(address);
        client.greet(&[]);
        client
    }

    /// Connects from another loopback address, such as 127.0.0.2.
    pub fn connect_from(source: &str, address: SocketAddr) -> Self {
        let socket = connect_from(source, address);
        let mut client = Self::over(Box::new(socket.try_clone().unwrap()), Some(socket));
        client.greet(&[]);
        client
    }

    /// Connects without sending the preface.
    pub fn silent(address: SocketAddr) -> Self {
        let socket = connect(address);
        Self::over(Box::new(socket.try_clone().unwrap()), Some(socket))
    }

    /// Connects to a Unix socket.
    pub fn connect_unix(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self::over(Box::new(socket), None);
        client.greet(&[]);
        client
    }

    /// Connects with TLS and negotiates `h2`.
    pub fn connect_tls(address: SocketAddr, authority: &Authority) -> Self {
        let socket = connect(address);
        let mut config = (*authority.client()).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut plain = socket.try_clone().unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut plain).expect("a handshake");
        }
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let mut client = Self::over(Box::new(StreamOwned::new(session, plain)), Some(socket));
        client.greet(&[]);
        client
    }

    fn over(stream: Box<dyn Stream>, socket: Option<TcpStream>) -> Self {
        Self {
            stream,
            socket,
            decoder: Decoder::with_dynamic_size(4096),
            next: 1,
            coming: HashMap::new(),
            away: None,
            reads_on: true,
            pongs: 0,
        }
    }

    /// Sends the preface and SETTINGS.
    pub fn greet(&mut self, settings: &[(u16, u32)]) {
        self.send_bytes([PREFACE, &Frame::settings(settings).bytes()].concat());
    }

    /// Sets the deadline for reads.
    pub fn patience(self, patience: Duration) -> Self {
        self.socket.as_ref().unwrap().set_read_timeout(Some(patience)).unwrap();
        self
    }

    /// Closes the sending side.
    pub fn finish(&mut self) {
        self.socket.as_ref().unwrap().shutdown(Shutdown::Write).unwrap();
    }

    pub fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send_bytes(bytes).expect("the connection accepts bytes");
    }

    /// Sends bytes, ignoring an error because the peer may have closed.
    pub fn try_send_bytes(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    pub fn send(&mut self, frame: &Frame) {
        self.send_bytes(frame.bytes());
    }

    /// The id of the next stream.
    pub fn next_stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Opens a stream with exactly these fields, in a HEADERS frame and as many CONTINUATION frames as needed.
    pub fn open<N: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, fields: &[(N, V)], ends: bool) -> u32 {
        let stream = self.next_stream();
        let block = literals(fields);
        let mut pieces = block.chunks(16 * 1024).enumerate().peekable();
        while let Some((number, piece)) = pieces.next() {
            let kind = if number == 0 { HEADERS } else { CONTINUATION };
            let mut flags = if number == 0 && ends { END_STREAM } else { 0 };
            if pieces.peek().is_none() {
                flags |= END_HEADERS;
            }
            self.send(&Frame::new(kind, flags, stream, piece));
        }
        stream
    }

    /// Opens a stream for a well-formed request without a body.
    pub fn ask(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> u32 {
        self.open(&request(method, path, fields), true)
    }

    /// Sends a DATA frame.
    pub fn data(&mut self, stream: u32, bytes: &[u8], ends: bool) {
        self.send(&Frame::new(DATA, if ends { END_STREAM } else { 0 }, stream, bytes));
    }

    /// Ends a body with trailers.
    pub fn trailers(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, literals(fields)));
    }

    /// Sends a request and reads the outcome of its stream.
    pub fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Outcome {
        let stream = self.open(&request(method, path, fields), body.is_empty());
        let mut pieces = body.chunks(16 * 1024).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
            // The response may arrive before the whole body is sent.
            if self.try_send_bytes(Frame::new(DATA, flags, stream, piece).bytes()).is_err() {
                break;
            }
        }
        self.outcome(stream)
    }

    /// Sends a POST whose body may exceed the flow-control windows, and follows the peer's window updates. `windows`
    /// are the initial windows of the connection and of a stream.
    pub fn upload(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
        mut windows: [i64; 2],
    ) -> Outcome {
        let stream = self.open(&request("POST", path, fields), false);
        let mut sent = 0;
        while sent < body.len() {
            let most = windows.into_iter().min().unwrap().clamp(0, 16 * 1024) as usize;
            if most == 0 {
                let Some(frame) = self.frame() else { return Outcome::Closed };
                if frame.kind == WINDOW_UPDATE {
                    let increment = u32::from_be_bytes(frame.payload.try_into().unwrap());
                    windows[usize::from(frame.stream == stream)] += i64::from(increment);
                }
                continue;
            }
            let piece = &body[sent..body.len().min(sent + most)];
            sent += piece.len();
            windows = windows.map(|window| window - piece.len() as i64);
            self.data(stream, piece, sent == body.len());
        }
        self.outcome(stream)
    }

    /// `GET path` with a bearer token.
    pub fn get(&mut self, path: &str, token: Option<&str>) -> Response {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        self.request("GET", path, &fields, b"").answer()
    }

    /// Reads the next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if is_close(&error) => return None,
            Err(error) => panic!("no frame: {error}"),
        }
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if let Err(error) = self.stream.read_exact(&mut payload) {
            assert!(is_close(&error), "half a frame: {error}");
            return None;
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Reads until the stream or the connection ends.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            if let Some(coming) = self.coming.get(&stream) {
                if coming.ended {
                    return Outcome::Answer(self.coming.remove(&stream).unwrap().response());
                }
                if let Some(error) = coming.reset {
                    return Outcome::Reset(error);
                }
            }
            if !self.turn() {
                return self.away.map_or(Outcome::Closed, Outcome::Away);
            }
        }
    }

    /// Reads until the connection ends; returns the error of the last GOAWAY, if any.
    pub fn end(&mut self) -> Option<u32> {
        while self.turn() {}
        self.away
    }

    /// Reads until the connection ends without answering any frame.
    pub fn end_in_silence(&mut self) -> Option<u32> {
        let mut away = None;
        while let Some(frame) = self.frame() {
            if frame.kind == GOAWAY {
                away = Some(frame.error());
            }
        }
        away
    }

    /// Sends a PING and reads until its acknowledgement or the connection's end; returns whether it arrived.
    pub fn ping(&mut self) -> bool {
        let before = self.pongs;
        if self.try_send_bytes(Frame::new(PING, 0, 0, *b"are you?").bytes()).is_err() {
            return false;
        }
        while self.pongs == before {
            if !self.turn() {
                return false;
            }
        }
        true
    }

    /// The error of the received GOAWAY, if any.
    pub fn away(&self) -> Option<u32> {
        self.away
    }

    /// The body received so far.
    pub fn body_so_far(&self, stream: u32) -> &[u8] {
        self.coming.get(&stream).map_or(&[], |coming| &coming.body)
    }

    /// Reads and handles one frame; returns false at the connection's end.
    pub fn turn(&mut self) -> bool {
        let Some(frame) = self.frame() else { return false };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                let _ = self.try_send_bytes(Frame::new(SETTINGS, ACK, 0, []).bytes());
            }
            PING if frame.flags & ACK == 0 => {
                let _ = self.try_send_bytes(Frame::new(PING, ACK, 0, frame.payload).bytes());
            }
            PING => self.pongs += 1,
            GOAWAY => self.away = Some(frame.error()),
            RST_STREAM => self.coming.entry(frame.stream).or_default().reset = Some(frame.error()),
            HEADERS | CONTINUATION => self.take_head(&frame),
            DATA => {
                let length = u32::try_from(frame.payload.len()).unwrap();
                if self.reads_on && length > 0 {
                    let windows = [0, frame.stream].map(|it| Frame::window_update(it, length).bytes());
                    let _ = self.try_send_bytes(windows.concat());
                }
                let coming = self.coming.entry(frame.stream).or_default();
                coming.body.extend(&frame.payload);
                coming.ended = frame.flags & END_STREAM != 0;
            }
            _ => {}
        }
        true
    }

    fn take_head(&mut self, frame: &Frame) {
        let coming = self.coming.entry(frame.stream).or_default();
        coming.block.extend(&frame.payload);
        coming.ended |= frame.kind == HEADERS && frame.flags & END_STREAM != 0;
        if frame.flags & END_HEADERS == 0 {
            return;
        }
        let mut fields = Vec::new();
        self.decoder.decode(&mut std::mem::take(&mut coming.block), &mut fields).expect("a header block");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let fields = Fields(fields.into_iter().map(|(name, value, _)| (text(name), text(value))).collect());
        match coming.head {
            None => coming.head = Some(fields),
            Some(_) => coming.trailers = fields,
        }
    }
}

impl Coming {
    fn response(self) -> Response {
        let mut fields = self.head.expect("a head");
        let (name, status) = fields.0.remove(0);
        assert_eq!(name, ":status");
        Response {
            status: status.parse().unwrap(),
            fields,
            body: self.body,
            trailers: self.trailers,
            raw_head: Vec::new(),
        }
    }
}

/// The fields of a well-formed request.
pub fn request<'a>(method: &'a str, path: &'a str, fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all =
        vec![(":method", method), (":scheme", "http"), (":authority", "stockaj.example"), (":path", path)];
    all.extend(fields);
    all
}
