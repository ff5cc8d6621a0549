//! What an error comes from, told.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;

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
