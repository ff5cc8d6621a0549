//! Protocols between clients and a proxy.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// Protocol between clients and a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Front {
    /// HTTP/1.1, plain.
    Http1,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    Http2,
}

impl Front {
    /// Whether clients use TLS.
    pub(crate) const fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Http2)
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Tls => "HTTP/1.1, TLS",
            Self::Http2 => "HTTP/2, TLS",
        })
    }
}

/// The certificate that every proxy serves: ECDSA P-256, for `localhost`, signed by itself.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
    /// Both in one file, for haproxy.
    pub(crate) both: PathBuf,
}

impl Identity {
    pub(crate) fn write(directory: &Path) -> Result<Self> {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let at = |name| directory.join(name);
        let identity = Self { certificate: at("tls.crt"), private_key: at("tls.key"), both: at("tls.pem") };
        let (certificate, private_key) = (cert.pem(), signing_key.serialize_pem());
        fs::write(&identity.both, format!("{certificate}{private_key}"))?;
        fs::write(&identity.certificate, certificate)?;
        fs::write(&identity.private_key, private_key)?;
        Ok(identity)
    }
}
