//! What a server must show us before we speak to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls_platform_verifier::Verifier;

use crate::config::settings::{ClientTls, Roots};

/// Why there can be no connector: a mistake of the configuration or the machine. `Display` includes the
/// cause.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// No certificate can be for this name.
    #[error("`{name}` is not a name that a certificate can be for: {source}")]
    ServerName {
        /// The URL's host, or `server_name`.
        name: Box<str>,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// `ca_file` cannot be read, or is not PEM.
    #[error("cannot read the CA file {}: {source}", path.display())]
    CaFile {
        /// `ca_file`
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// `ca_file` has no `CERTIFICATE` section.
    #[error("the CA file {} has no certificate in it", path.display())]
    CaFileEmpty {
        /// `ca_file`
        path: PathBuf,
    },
    /// A section of `ca_file` is no certificate.
    #[error("the CA file {} has an unusable certificate, the {}: {source}", path.display(), ordinal(*position))]
    CaCertificate {
        /// `ca_file`
        path: PathBuf,
        /// Which of its certificates, from 1.
        position: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The operating system has no usable roots, or the TLS library refuses to be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

fn ordinal(position: usize) -> String {
    match position {
        1 => "1st".into(),
        2 => "2nd".into(),
        3 => "3rd".into(),
        other => format!("{other}th"),
    }
}

/// TLS towards one server: what it must show, and the sessions that can be resumed with it.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(host: &str, settings: &ClientTls) -> Result<Self, ConnectorError> {
        let name = settings.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name)
            .map_err(|source| ConnectorError::ServerName { name: name.into(), source })?
            .to_owned();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match (&settings.ca_file, settings.roots) {
            (Some(path), _) => builder.with_root_certificates(read_roots(path)?),
            (None, Roots::Bundled) => builder.with_root_certificates(RootCertStore::from_iter(
                webpki_roots::TLS_SERVER_ROOTS.iter().cloned(),
            )),
            (None, Roots::Platform) => {
                builder.dangerous().with_custom_certificate_verifier(platform_verifier(provider)?)
            }
        };
        // rustls keeps resumable sessions in memory by default.
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), server_name })
    }
}

/// rustls calls every verifier of one's own dangerous; this one is the operating system's.
fn platform_verifier(provider: Arc<CryptoProvider>) -> Result<Arc<Verifier>, rustls::Error> {
    Verifier::new(provider).map(Arc::new)
}

fn read_roots(path: &Path) -> Result<RootCertStore, ConnectorError> {
    let unreadable = |source| ConnectorError::CaFile { path: path.into(), source };
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_file_iter(path).map_err(unreadable)?.enumerate() {
        roots.add(certificate.map_err(unreadable)?).map_err(|source| ConnectorError::CaCertificate {
            path: path.into(),
            position: index + 1,
            source,
        })?;
    }
    if roots.is_empty() { Err(ConnectorError::CaFileEmpty { path: path.into() }) } else { Ok(roots) }
}
