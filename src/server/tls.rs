//! Our certificate and key, from their files to what the listener shows its clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::{self, Decode};

use crate::config::settings::ListenTls;

/// What `listen.tls` comes to.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// TLS 1.2 and 1.3, `http/1.1` by ALPN, with session tickets.
    pub config: Arc<ServerConfig>,
    /// When the leaf certificate ends, in seconds since 1970.
    pub expires_at: u64,
}

/// Why a certificate cannot be served. `Display` names the file and includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read, or is not PEM.
    #[error("cannot read the certificate {}: {source}", path.display())]
    CertificateFile {
        /// `listen.tls.certificate`
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// The file has no `CERTIFICATE` section.
    #[error("{} has no certificate in it", path.display())]
    NoCertificate {
        /// `listen.tls.certificate`
        path: PathBuf,
    },
    /// The first `CERTIFICATE` section is not one.
    #[error("the first certificate in {} is not X.509: {source}", path.display())]
    NotX509 {
        /// `listen.tls.certificate`
        path: PathBuf,
        /// What is wrong with it.
        source: der::Error,
    },
    /// The file cannot be read, or is not PEM.
    #[error("cannot read the private key {}: {source}", path.display())]
    KeyFile {
        /// `listen.tls.private_key`
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// The file has no `PRIVATE KEY` section of any kind; an encrypted one is none either.
    #[error("{} has no private key in it (PKCS#8, PKCS#1 or SEC1, not encrypted)", path.display())]
    NoKey {
        /// `listen.tls.private_key`
        path: PathBuf,
    },
    /// The key is of a kind that is not supported, or damaged.
    #[error("the private key in {} cannot be used: {source}", path.display())]
    UnusableKey {
        /// `listen.tls.private_key`
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The certificate is for another key.
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// `listen.tls.certificate`
        certificate: PathBuf,
        /// `listen.tls.private_key`
        key: PathBuf,
    },
    /// The first certificate is X.509, but none that TLS can use.
    #[error("the first certificate in {} cannot be used: {source}", path.display())]
    UnusableCertificate {
        /// `listen.tls.certificate`
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The TLS library refuses to be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Reads the files of `listen.tls`.
///
/// # Errors
/// Where a file cannot be read, or the two cannot be served together.
pub fn load(settings: &ListenTls) -> Result<ListenerTls, CertificateError> {
    let ListenTls { certificate, private_key } = settings;
    let chain = read_chain(certificate)?;
    let expires_at = not_after(certificate, &chain)?.as_secs();

    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = provider
        .key_provider
        .load_private_key(read_key(private_key)?)
        .map_err(|source| CertificateError::UnusableKey { path: private_key.clone(), source })?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match().map_err(|source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertificateError::Mismatch { certificate: certificate.clone(), key: private_key.clone() }
        }
        source => CertificateError::UnusableCertificate { path: certificate.clone(), source },
    })?;

    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(ListenerTls { config: Arc::new(config), expires_at })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| CertificateError::CertificateFile { path: path.into(), source })?;
    if chain.is_empty() { Err(CertificateError::NoCertificate { path: path.into() }) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| match source {
        pem::Error::NoItemsFound => CertificateError::NoKey { path: path.into() },
        source => CertificateError::KeyFile { path: path.into(), source },
    })
}

/// The end of the leaf, since 1970.
fn not_after(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Duration, CertificateError> {
    let leaf = chain.first().ok_or_else(|| CertificateError::NoCertificate { path: path.into() })?;
    let leaf = Certificate::from_der(leaf)
        .map_err(|source| CertificateError::NotX509 { path: path.into(), source })?;
    Ok(leaf.tbs_certificate().validity().not_after.to_unix_duration())
}
