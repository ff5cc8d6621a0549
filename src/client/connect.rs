//! Opens connections to the backend, the introspector and other servers.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{ConnectError, ConnectStep};
use super::race::{WonRace, interleave, race};
use super::resolve::{Family, Resolved, forget, is_looked_up, resolve};
use super::tls::{ALPN_HTTP2, ConnectorError, OfferedProtocols, Tls};
use crate::config::settings::{ClientTls, Destination};

/// Idle time after which the kernel sends TCP keepalive probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// Interval between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long IPv4 is preferred after it connected faster than IPv6 (RFC 8305 section 4 allows such a history).
const WINNER_MEMORY: Duration = Duration::from_secs(600);
/// Bytes that rustls encrypts before the socket accepts them: one record, instead of its default of 64 KiB.
const TLS_BUFFER: usize = 16 * 1024;

/// The addresses of a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// The resolved addresses.
    pub(super) known: Vec<IpAddr>,
    /// The family without a response, whose addresses are unknown.
    pub(super) unanswered: Option<Family>,
}

impl Addresses {
    /// Whether the name may have this address.
    pub(super) fn include(&self, address: IpAddr) -> bool {
        self.known.contains(&address) || self.unanswered == Some(Family::of(&address))
    }
}

/// Opens connections to one destination, from any runtime.
#[derive(Debug)]
pub struct Connector {
    target: Target,
    timeout: Duration,
    http2: Option<Duration>,
    /// The number of connection attempts so far.
    turn: AtomicUsize,
    created: Instant,
    /// Milliseconds from `created` to the last time that IPv4 accepted while IPv6 did not; 0 if it never did.
    v4_won: AtomicU64,
}

#[derive(Debug)]
enum Target {
    Tcp { host: Box<str>, port: u16, tls: Option<Tls> },
    Unix(PathBuf),
}

impl Connector {
    /// A connector whose attempts take at most `timeout`: name resolution, TCP and TLS together. Reads the CA file or
    /// the platform's roots if the destination uses TLS.
    ///
    /// # Errors
    /// If TLS cannot be configured.
    pub fn new(
        destination: &Destination,
        tls: &ClientTls,
        timeout: Duration,
    ) -> Result<Self, ConnectorError> {
        let target = match destination {
            Destination::Tcp { host, port, tls: uses_tls } => Target::Tcp {
                host: host.clone(),
                port: *port,
                tls: uses_tls.then(|| Tls::new(host, tls)).transpose()?,
            },
            Destination::Unix(path) => Target::Unix(path.clone()),
        };
        let (turn, v4_won) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self { target, timeout, http2: None, turn, created: Instant::now(), v4_won })
    }

    /// Enables HTTP/2: over TLS by negotiation, without TLS with prior knowledge. A connection that is silent for
    /// `silence` while a response is awaited is pinged.
    pub fn with_http2(mut self, silence: Duration) -> Self {
        self.http2 = Some(silence);
        if let Target::Tcp { tls: Some(tls), .. } = &mut self.target {
            tls.offer_http2();
        }
        self
    }

    /// Disables ALPN, for protocols other than HTTP.
    pub fn without_alpn(mut self) -> Self {
        if let Target::Tcp { tls: Some(tls), .. } = &mut self.target {
            tls.offer_nothing();
        }
        self
    }

    /// The time without a frame after which an HTTP/2 connection is pinged; `None` for HTTP/1.1.
    pub const fn http2(&self) -> Option<Duration> {
        self.http2
    }

    /// Opens a connection by RFC 8305: tries the name's addresses, IPv6 and IPv4 in alternation, without waiting for
    /// earlier attempts to time out. Uses the first that accepts.
    ///
    /// # Errors
    /// The failed step and its cause.
    pub async fn connect(&self, protocol: OfferedProtocols) -> Result<ClientStream, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        match &self.target {
            Target::Unix(path) => self.connect_unix(path, deadline).await.map(ClientStream::Unix),
            Target::Tcp { host, port, tls } => {
                let (stream, address) = self.connect_tcp(host, *port, deadline).await?;
                match tls {
                    None => Ok(ClientStream::Tcp(stream)),
                    Some(tls) => self
                        .handshake(host, tls, stream, address, protocol, deadline)
                        .await
                        .map(|stream| ClientStream::Tls(Box::new(stream))),
                }
            }
        }
    }

    async fn connect_unix(&self, path: &Path, deadline: Instant) -> Result<UnixStream, ConnectError> {
        timeout_at(deadline, UnixStream::connect(path))
            .await
            .map_err(|_| self.timed_out(ConnectStep::Connect, path.display().to_string()))?
            .map_err(|source| ConnectError::Unix { path: path.into(), source })
    }

    async fn connect_tcp(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let Resolved { addresses, late, .. } = timeout_at(deadline, resolve(host))
            .await
            .map_err(|_| {
                forget();
                self.timed_out(ConnectStep::Resolve, host)
            })?
            .map_err(|source| ConnectError::Resolve { host: host.into(), source })?;
        let addresses = self.in_order(addresses);
        match race(addresses, port, late, deadline, open).await {
            Ok(WonRace { stream, address, beaten }) => {
                if address.is_ipv4() && beaten.contains(&Family::V6) {
                    let elapsed = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.v4_won.store(elapsed.max(1), Ordering::Relaxed);
                } else if address.is_ipv6() {
                    self.v4_won.store(0, Ordering::Relaxed);
                }
                Ok((stream, address))
            }
            Err(attempts) => Err(ConnectError::Tcp { host: host.into(), attempts: attempts.into() }),
        }
    }

    /// The addresses in the order of RFC 8305 section 4: the families alternate, and each call starts with another
    /// address of its family. IPv6 comes first (RFC 6724) with two exceptions: loopback, since development servers
    /// often listen on 127.0.0.1 only, and networks in which IPv4 has recently connected faster.
    fn in_order(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        for family in [&mut v4, &mut v6] {
            if !family.is_empty() {
                let length = family.len();
                family.rotate_left(turn % length);
            }
        }
        let v4_first = v4.iter().any(IpAddr::is_loopback) || self.prefers_v4();
        if v4_first { interleave(v4, v6) } else { interleave(v6, v4) }
    }

    fn prefers_v4(&self) -> bool {
        let won = self.v4_won.load(Ordering::Relaxed);
        won > 0 && self.created.elapsed().saturating_sub(Duration::from_millis(won)) < WINNER_MEMORY
    }

    /// The current addresses of the name; `None` if the destination is not a name or cannot be resolved. Waits for late
    /// responses.
    pub(super) async fn addresses(&self) -> Option<Addresses> {
        let Target::Tcp { host, .. } = &self.target else { return None };
        let deadline = Instant::now() + self.timeout;
        let Resolved { mut addresses, mut unanswered, late } =
            timeout_at(deadline, resolve(host)).await.ok()?.ok()?;
        if let Some(mut late) = late
            && let Ok(Some(more)) = timeout_at(deadline, late.addresses()).await
        {
            addresses.extend(more);
            unanswered = None;
        }
        Some(Addresses { known: addresses, unanswered })
    }

    /// Whether the destination has a name, whose addresses may change.
    pub(super) fn has_name(&self) -> bool {
        match &self.target {
            Target::Tcp { host, .. } => is_looked_up(host),
            Target::Unix(_) => false,
        }
    }

    async fn handshake(
        &self,
        host: &str,
        tls: &Tls,
        stream: TcpStream,
        address: SocketAddr,
        protocol: OfferedProtocols,
        deadline: Instant,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let handshake =
            TlsConnector::from(tls.config(protocol).clone()).connect(tls.server_name.clone(), stream);
        timeout_at(deadline, handshake)
            .await
            .map_err(|_| self.timed_out(ConnectStep::Tls, format!("{host} at {address}")))?
            .map_err(|source| ConnectError::Tls { host: host.into(), address, source })
            .map(|mut stream| {
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                stream
            })
    }

    fn timed_out(&self, step: ConnectStep, peer: impl Into<Box<str>>) -> ConnectError {
        ConnectError::TimedOut { step, peer: peer.into(), limit: self.timeout }
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// An outgoing connection.
#[derive(Debug)]
pub enum ClientStream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

impl ClientStream {
    /// The remote address; `None` for a Unix socket.
    pub(super) fn remote_address(&self) -> Option<IpAddr> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) => return None,
        };
        stream.peer_addr().ok().map(|address| address.ip())
    }

    /// Whether the socket has data to read or was closed by the peer. Over TLS the data may be a TLS message. Costs a
    /// system call.
    pub(super) fn has_input(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Self::Tls(stream) => SockRef::from(stream.get_ref().0).peek(&mut byte),
            Self::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        };
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether HTTP/2 can be used: over TLS only if the server has chosen it.
    pub(super) fn may_speak_http2(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2),
            Self::Tcp(_) | Self::Unix(_) => true,
        }
    }
}

macro_rules! delegate {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Self::Tcp(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Self::Tls(stream) => {
                let $inner = Pin::new(stream.as_mut());
                $call
            }
            Self::Unix(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_begins_with_another_address_of_its_family() {
        let destination = Destination::Tcp { host: "app.test".into(), port: 80, tls: false };
        let connector = Connector::new(&destination, &ClientTls::default(), Duration::from_secs(1)).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "fd00::3"].map(address);
        for expected in [
            ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "fd00::3"],
            ["fd00::2", "10.0.0.2", "fd00::3", "10.0.0.1", "fd00::1"],
            ["fd00::3", "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"],
        ] {
            assert_eq!(connector.in_order(all.to_vec()), expected.map(address));
        }
        assert!(connector.in_order(Vec::new()).is_empty());
        // After IPv4 was faster.
        connector.v4_won.store(1, Ordering::Relaxed);
        let expected = ["10.0.0.1", "fd00::2", "10.0.0.2", "fd00::3", "fd00::1"].map(address);
        assert_eq!(connector.in_order(all.to_vec()), expected);
    }

    #[test]
    fn loopback_begins_with_ipv4() {
        let destination = Destination::Tcp { host: "localhost".into(), port: 80, tls: false };
        let connector = Connector::new(&destination, &ClientTls::default(), Duration::from_secs(1)).unwrap();
        let loopback = ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(connector.in_order(loopback.to_vec()), loopback);
    }
}
