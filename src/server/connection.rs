//! Serves an accepted connection: determines its address, TLS and protocol.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Instant;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::acceptor::Accepted;
use super::dispatcher::Admitted;
use super::http2_flood::PREFACE;
use super::proxy_protocol::{self, HeaderError, ProxiedClient};
use super::rejected::{TooManyConnections, overload_response};
use super::tls::Certificates;
use super::transport::{RecordedIo, Transport};
use super::worker::state::{Worker, WorkerState};
use super::{http1, http2, tls};
use crate::config::settings::Settings;
use crate::downstream::state::Shutdown;
use crate::downstream::{ClientListener, Downstream};
use crate::policy::refusal::Reason;
use crate::policy::target::OTHER;
use crate::telemetry::metrics::{HandshakeFailure, RouteLabel};

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, admitted: Admitted) {
    let Admitted { accepted, listener, mut count, slot: _ } = admitted;
    let state = worker.state();
    let settings = state.gateway.settings();
    let (mut address, stream) = match accepted {
        Accepted::Tcp(stream, address) => {
            (Some(address.ip()), TcpStream::from_std(stream).map(Transport::Tcp))
        }
        Accepted::Unix(stream) => (None, UnixStream::from_std(stream).map(Transport::Unix)),
    };
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot register an accepted connection"
            );
            return;
        }
    };
    let is_decision = listener == ClientListener::Decision;
    let mut trusted = match listener {
        ClientListener::Proxy => address.is_some_and(|address| settings.listen.trusts(address)),
        ClientListener::Decision => settings.decision.trusts(address),
    };
    let mut has_unknown_client = false;
    // File permissions control who can connect to a Unix socket.
    if settings.listen.proxy_protocol && !is_decision && (trusted || address.is_none()) {
        // Boxed because it is rare: it would enlarge the future of every connection.
        let reported = Box::pin(read_proxy_header(&worker, &mut stream, settings, address)).await;
        let Some(reported) = reported else { return };
        has_unknown_client = reported == ProxiedClient::Unknown;
        // Without an address in the header the client is not trusted, even if the proxy is.
        trusted = false;
        if let ProxiedClient::Address(reported) = reported {
            trusted = settings.listen.trusts(reported);
            address = Some(reported);
            if !trusted {
                count = match count.proxied(reported) {
                    Ok(counted) => counted,
                    Err(TooManyConnections) => return reject(&worker, &state, stream).await,
                };
            }
        }
    }
    let tls = if is_decision { &state.decision_tls } else { &state.tls };
    let negotiated = encrypt(&worker, &state, tls.as_deref(), stream, address).await;
    let Some(NegotiatedTransport { transport, protocol, tls_version, subject }) = negotiated else { return };
    let mut downstream = Downstream::new(address, trusted, tls.is_some(), Instant::now());
    downstream.listener = listener;
    downstream.has_unknown_client = has_unknown_client;
    downstream.tls_version = tls_version;
    downstream.subject = subject;
    let downstream = Rc::new(downstream);

    let _open = worker.open(&downstream);
    let mut recorded =
        RecordedIo { transport, downstream: Rc::clone(&downstream), unread: Zeroizing::default() };
    let protocol = match protocol {
        Some(protocol) => protocol,
        // gRPC without TLS needs HTTP/2 with prior knowledge.
        None if settings.listen.h2c || is_decision => Box::pin(detect_protocol(&mut recorded)).await,
        None => Protocol::Http1,
    };
    match protocol {
        Protocol::Http1 => http1::serve(&worker, state, &downstream, recorded).await,
        // Boxed, so that the futures of HTTP/1 connections stay small.
        Protocol::Http2 => Box::pin(http2::serve(&worker, state, &downstream, recorded)).await,
    }
    drop(count);
}

/// Reads the PROXY header of a connection from `proxy`. Returns `None` if the connection is closed.
async fn read_proxy_header(
    worker: &Worker,
    stream: &mut Transport,
    settings: &Settings,
    proxy: Option<IpAddr>,
) -> Option<ProxiedClient> {
    let began = Instant::now();
    let header = async {
        match stream {
            Transport::Tcp(stream) => proxy_protocol::take_header(stream).await,
            Transport::Unix(stream) => proxy_protocol::take_header(stream).await,
            // The header precedes TLS.
            Transport::Tls(_) => Ok(ProxiedClient::Unknown),
        }
    };
    let received = tokio::time::timeout(settings.limits.header_timeout, header).await;
    let (why, status, reason) = match received {
        Ok(Ok(reported)) => return Some(reported),
        Ok(Err(HeaderError::Empty)) => return None,
        Ok(Err(error)) => (error.to_string(), StatusCode::BAD_REQUEST, Reason::BadRequest),
        Err(_) => (
            "the PROXY header did not arrive in time".to_owned(),
            StatusCode::REQUEST_TIMEOUT,
            Reason::Limited,
        ),
    };
    // Counted as a request, although none arrived.
    worker.metrics.request(RouteLabel::None, &OTHER, status, reason, began.elapsed());
    match proxy {
        Some(proxy) => tracing::warn!(%proxy, why, "connection of a trusted proxy closed"),
        None => tracing::warn!(why, "connection to the Unix socket closed"),
    }
    None
}

async fn reject(worker: &Worker, state: &WorkerState, mut stream: Transport) {
    worker.rejected.borrow_mut().count(Instant::now());
    // A client that expects a TLS handshake could not read a response.
    if state.tls.is_none() {
        let answer = overload_response();
        let _ = match &mut stream {
            Transport::Tcp(stream) => stream.write(&answer).await,
            Transport::Unix(stream) => stream.write(&answer).await,
            Transport::Tls(_) => Ok(0),
        };
    }
}

/// A transport with its protocol.
struct NegotiatedTransport {
    transport: Transport,
    /// `None` if it has to be detected.
    protocol: Option<Protocol>,
    tls_version: Option<&'static str>,
    /// The subject of the client's certificate.
    subject: Option<Rc<str>>,
}

/// Performs the TLS handshake, if the listener has TLS.
async fn encrypt(
    worker: &Worker,
    state: &WorkerState,
    tls: Option<&Certificates>,
    transport: Transport,
    address: Option<IpAddr>,
) -> Option<NegotiatedTransport> {
    let (tls, stream) = match (tls, transport) {
        // The configuration rejects TLS on a Unix socket, so this would bypass TLS.
        (Some(_), Transport::Unix(_)) => return None,
        (Some(tls), Transport::Tcp(stream)) => (tls, stream),
        (_, transport) => {
            return Some(NegotiatedTransport { transport, protocol: None, tls_version: None, subject: None });
        }
    };
    match tokio::time::timeout(state.gateway.settings().limits.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let (tls_version, subject) = (tls::version(&stream), tls::subject(&stream));
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let transport = Transport::Tls(Box::new(stream));
            Some(NegotiatedTransport { transport, protocol: Some(protocol), tls_version, subject })
        }
        Ok(Err(error)) => {
            let failure = tls::failure(&error);
            worker.metrics.handshake_failure(failure);
            let (address, error) = (address.map(tracing::field::display), &error as &dyn std::error::Error);
            match failure {
                // The operator may want to accept this client.
                HandshakeFailure::Certificate => {
                    tracing::info!(client = address, error, "client certificate rejected")
                }
                _ => tracing::debug!(client = address, error, "TLS handshake failed"),
            }
            None
        }
        Err(_) => {
            worker.metrics.handshake_failure(HandshakeFailure::Timeout);
            None
        }
    }
}

/// Detects the protocol by the first bytes. Anything but the HTTP/2 preface is HTTP/1, which refuses what is not valid.
async fn detect_protocol(recorded: &mut RecordedIo) -> Protocol {
    let mut received = Zeroizing::new(Vec::with_capacity(PREFACE.len()));
    let downstream = Rc::clone(&recorded.downstream);
    let protocol = poll_fn(|context| {
        loop {
            downstream.state.set_waker(context.waker());
            if downstream.state.shutdown() > Shutdown::Announced {
                return Poll::Ready(Protocol::Http1);
            }
            let mut bytes = [0; PREFACE.len()];
            let mut buffer = ReadBuf::new(&mut bytes[received.len()..]);
            let read = ready!(Pin::new(&mut *recorded).poll_read(context, &mut buffer));
            let (before, filled) = (received.len(), buffer.filled().len());
            received.extend_from_slice(&bytes[before..before + filled]);
            if *received == PREFACE {
                return Poll::Ready(Protocol::Http2);
            }
            // The next read reports an end or error again.
            if read.is_err() || filled == 0 || !PREFACE.starts_with(&received) {
                return Poll::Ready(Protocol::Http1);
            }
            downstream.state.received(Instant::now);
        }
    });
    let protocol = protocol.await;
    recorded.unread = received;
    protocol
}
