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

/// An error and each of its causes, in one line.
pub struct Chain<'a>(pub &'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        formatter.write_str(&told)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many say what their cause says.
            if !told.ends_with(&text) {
                write!(formatter, ": {text}")?;
            }
            told = text;
            cause = error.source();
        }
        Ok(())
    }
}

/// What TLS had against the peer, or the peer against us, if that is what `error` comes from: in TLS 1.3 a server
/// that wants a certificate says so only after the handshake.
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

/// A step on the way to a connection.
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

/// One address that could not be connected to.
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
        /// Every address, in the order in which they failed; at least one.
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
    #[error("no TLS with {host} at {address}: {source}")]
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
    #[error("no HTTP/2: {0}")]
    Http2(#[source] h2::Error),
    /// The server sent no HTTP/2 frame in time.
    #[error("no HTTP/2: nothing came for {0:?}")]
    Http2Silent(Duration),
    /// The server ended several connections in a row by GOAWAY before a request could be sent.
    #[error("no HTTP/2: it was ended at once")]
    Http2Ended,
    /// The server allows no streams.
    #[error("no HTTP/2: no streams are allowed")]
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

/// Why an exchange broke off. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Over HTTP/1.1.
    #[error("{0}")]
    Http1(#[from] Http1Error),
    /// Over HTTP/2: of the connection, or of the one stream.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// Over HTTP/2: what h2 lets pass, and HTTP does not.
    #[error("{0}")]
    Malformed(&'static str),
}

impl ExchangeError {
    /// Whether the other side spoke, and what it said is none of HTTP. Else it may have said nothing at all.
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Http1(error) => matches!(error, Http1Error::Malformed(_)),
            Self::Http2(error) => !error.is_io() && !error.is_go_away(),
            Self::Malformed(_) => true,
        }
    }

    /// Whether the connection ended or failed, and not a byte of a response had come.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Http1(error) => matches!(error, Http1Error::Closed | Http1Error::Unanswered(_)),
            Self::Http2(error) => error.is_io() || error.is_go_away(),
            Self::Malformed(_) => false,
        }
    }

    /// Whether the other side has said that it did nothing about the request (RFC 9113 section 8.7).
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
    /// It is longer than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// It broke off.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}
