//! What an error comes from, told.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;

use super::http1::Http1Error;

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
