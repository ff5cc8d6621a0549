//! A backend whose connections the test drives itself, so that it observes each byte and each close.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{PATIENCE, is_close};
use super::upstream::Request;
use super::wire::Head;

/// A listener whose connections the test accepts.
pub struct ManualBackend {
    listener: TcpListener,
    accepted: usize,
}

/// An accepted connection.
pub struct BackendConnection {
    stream: BufReader<TcpStream>,
    number: usize,
}

impl ManualBackend {
    /// Listens on a free port.
    pub fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), accepted: 0 }
    }

    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts the next connection.
    pub fn accept(&mut self) -> BackendConnection {
        let end = Instant::now() + PATIENCE;
        self.listener.set_nonblocking(true).unwrap();
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
            assert!(Instant::now() < end, "no connection arrived");
            thread::sleep(Duration::from_millis(2));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        self.accepted += 1;
        BackendConnection { stream: BufReader::new(stream), number: self.accepted - 1 }
    }

    /// Whether no connection is pending.
    pub fn has_no_connection(&mut self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        self.listener.accept().is_err()
    }

    /// Accepts the next connection and reads the head of its first request.
    pub fn request(&mut self) -> (BackendConnection, Request) {
        let mut held = self.accept();
        let request = held.request();
        (held, request)
    }
}

impl BackendConnection {
    /// Reads the head of the next request.
    pub fn request(&mut self) -> Request {
        let head = Head::read(&mut self.stream).unwrap().expect("a request");
        Request::new(head, self.number)
    }

    /// Sends these bytes unchanged.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the connection accepts bytes");
        self
    }

    /// Sends bytes, ignoring an error because the peer may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Reads the next `length` bytes.
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes);
        bytes
    }

    /// Reads as many bytes as `bytes` has.
    pub fn read_exact(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).expect("the bytes");
    }

    /// Whether any byte or the end of the stream arrives within `wait`.
    pub fn is_silent(&mut self, wait: Duration) -> bool {
        if !self.stream.buffer().is_empty() {
            return false;
        }
        self.stream.get_ref().set_read_timeout(Some(wait)).unwrap();
        let came = self.stream.get_ref().peek(&mut [0]);
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        came.is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }

    /// Reads until the peer closes or resets.
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

    /// Returns the time until the peer closes or resets.
    pub fn until_close(&mut self) -> Duration {
        let began = Instant::now();
        self.read_until_close();
        began.elapsed()
    }

    /// Closes the sending side.
    pub fn finish(&mut self) -> &mut Self {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        self
    }
}
