//! Errors of connections and exchanges.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::http1::Http1Error;
use super::resolve::ResolveError;

/// The TLS error that caused `error`, if any. In TLS 1.3 a server that requires a certificate reports it only after the
/// handshake.
pub fn tls_fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(fault) = fault.downcast_ref::<rustls::Error>()
        {
            return Some(fault);
        }
        next = error.source();
    }
    None
}

/// A step of connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectStep {
    /// Resolving the name.
    Resolve,
    /// Waiting until the server accepts.
    Connect,
    /// The TLS handshake.
    Tls,
}

impl Display for ConnectStep {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Resolve => "resolving",
            Self::Connect => "connecting to",
            Self::Tls => "the TLS handshake with",
        })
    }
}

/// A failed attempt to connect.
#[derive(Debug)]
pub struct FailedAttempt {
    /// The address.
    pub address: SocketAddr,
    /// The cause; `TimedOut` if the time limit for all addresses passed.
    pub error: io::Error,
}

/// A connection could not be made. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name could not be resolved.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The URL's host.
        host: Box<str>,
        /// The cause.
        source: ResolveError,
    },
    /// No address accepted the connection.
    #[error("cannot connect to {host}: {}", each(attempts))]
    Tcp {
        /// The URL's host.
        host: Box<str>,
        /// All failed attempts, at least one, in the order in which they failed.
        attempts: Box<[FailedAttempt]>,
    },
    /// The Unix socket did not accept the connection.
    #[error("cannot connect to {}: {source}", path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with {host} at {address} failed: {source}")]
    Tls {
        /// The URL's host.
        host: Box<str>,
        /// The address that accepted.
        address: SocketAddr,
        /// Contains the [`rustls::Error`] if TLS was the cause.
        source: io::Error,
    },
    /// The time limit passed during a step.
    #[error("{step} {peer} took longer than {limit:?}")]
    TimedOut {
        /// The step.
        step: ConnectStep,
        /// The name, address or path of the server.
        peer: Box<str>,
        /// The time limit of all steps together.
        limit: Duration,
    },
}

fn each(attempts: &[FailedAttempt]) -> String {
    let each: Vec<_> =
        attempts.iter().map(|FailedAttempt { address, error }| format!("{address}: {error}")).collect();
    each.join("; ")
}

/// The pool could not lend a connection.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No connection could be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server does not support HTTP/2, or ended the connection at once.
    #[error("HTTP/2 failed: {0}")]
    Http2(#[source] h2::Error),
    /// The server sent no HTTP/2 frame in time.
    #[error("HTTP/2 failed: no response within {0:?}")]
    Http2Silent(Duration),
    /// The server ended several connections in a row by GOAWAY before a request could be sent.
    #[error("HTTP/2 failed: the server ended it before the first request")]
    Http2Ended,
    /// The server allows no streams.
    #[error("HTTP/2 failed: the server allows no streams")]
    Http2NoStreams,
    /// A connection for which several requests waited could not be made.
    #[error(transparent)]
    Joint(Arc<LeaseError>),
    /// All connections that are allowed are in use.
    #[error("all connections are in use")]
    Exhausted,
}

impl LeaseError {
    /// Whether all connections that are allowed are in use.
    pub fn is_exhausted(&self) -> bool {
        match self {
            Self::Exhausted => true,
            Self::Joint(error) => error.is_exhausted(),
            Self::Connect(_)
            | Self::Http2(_)
            | Self::Http2Silent(_)
            | Self::Http2Ended
            | Self::Http2NoStreams => false,
        }
    }
}

/// Why an exchange failed. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// An error of HTTP/1.1.
    #[error("{0}")]
    Http1(#[from] Http1Error),
    /// An error of an HTTP/2 connection or stream.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// A violation of HTTP that h2 does not detect.
    #[error("{0}")]
    Malformed(&'static str),
}

impl ExchangeError {
    /// Whether the server sent something that is not valid HTTP, as opposed to nothing.
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Http1(error) => matches!(error, Http1Error::Malformed(_)),
            Self::Http2(error) => !error.is_io() && !error.is_go_away(),
            Self::Malformed(_) => true,
        }
    }

    /// Whether the connection ended or failed before the first byte of a response.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Http1(error) => matches!(error, Http1Error::Closed | Http1Error::Unanswered(_)),
            Self::Http2(error) => error.is_io() || error.is_go_away(),
            Self::Malformed(_) => false,
        }
    }

    /// Whether the server guarantees that it did not process the request (RFC 9113 section 8.7).
    pub(super) fn is_unprocessed(&self) -> bool {
        match self {
            Self::Http2(error) => {
                error.is_remote()
                    && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
            }
            Self::Http1(_) | Self::Malformed(_) => false,
        }
    }
}

/// Why a body was not collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The body is longer than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// The exchange failed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}
