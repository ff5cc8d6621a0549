//! Loads a certificate and its key from their files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{HandshakeKind, InconsistentKeys, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::{self, Decode};

use crate::config::settings::ListenTls;
use crate::secrets::pem::{self, PemError, PemSection, Wanted};
use crate::watch::content_hash;

/// The protocols of ALPN (RFC 7301), in order of preference.
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];

/// A loaded entry of `listen.tls`.
#[derive(Clone, Debug)]
pub struct ServedCertificate {
    /// TLS 1.2 and 1.3, with session tickets that no other entry accepts.
    pub config: Arc<ServerConfig>,
    /// Expiry of the leaf certificate, in seconds since 1970.
    pub expires_at: u64,
    /// The leaf certificate, for the names that it is valid for.
    pub leaf: CertificateDer<'static>,
    contents: Contents,
    /// Verifies client certificates, if they are required.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The contents of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    pair: [Option<[u8; 32]>; 2],
    client_ca: Option<Option<[u8; 32]>>,
}

/// Why a certificate cannot be served. `Display` has the file and the cause, and nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file has no certificate in PEM, or cannot be read.
    #[error("cannot read the certificate {}: {source}", path.display())]
    CertificateFile {
        /// `listen.tls.certificate`
        path: PathBuf,
        /// The cause.
        source: PemError,
    },
    /// The first `CERTIFICATE` block is not an X.509 certificate.
    #[error("the first certificate in {} is not X.509: {source}", path.display())]
    NotX509 {
        /// `listen.tls.certificate`
        path: PathBuf,
        /// The cause.
        source: der::Error,
    },
    /// The file has no private key in PEM or an encrypted one, or cannot be read.
    #[error("cannot read the private key {}: {source}", path.display())]
    KeyFile {
        /// `listen.tls.private_key`
        path: PathBuf,
        /// The cause.
        source: PemError,
    },
    /// The key is of an unsupported kind, or damaged.
    #[error("the private key in {} cannot be used: {source}", path.display())]
    UnusableKey {
        /// `listen.tls.private_key`
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// The key does not belong to the certificate.
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// `listen.tls.certificate`
        certificate: PathBuf,
        /// `listen.tls.private_key`
        key: PathBuf,
    },
    /// The first certificate is X.509, but TLS cannot use it.
    #[error("the first certificate in {} cannot be used: {source}", path.display())]
    UnusableCertificate {
        /// `listen.tls.certificate`
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// `client_ca` has no certificate in PEM, or cannot be read.
    #[error("cannot read the CA file {}: {source}", path.display())]
    ClientCaFile {
        /// `listen.tls.client_ca`
        path: PathBuf,
        /// The cause.
        source: PemError,
    },
    /// The certificates in `client_ca` cannot be used as authorities.
    #[error("the CA file {} cannot be used: {source}", path.display())]
    ClientCa {
        /// `listen.tls.client_ca`
        path: PathBuf,
        /// The cause.
        source: VerifierBuilderError,
    },
    /// The TLS library cannot be configured.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Reads the files of an entry of `listen.tls`. Accepts session tickets of the entry `before` it, unless `client_ca`
/// has changed.
///
/// # Errors
/// If a file cannot be read, or the files do not fit together.
pub fn load(
    settings: &ListenTls,
    before: Option<&ServedCertificate>,
) -> Result<ServedCertificate, CertificateError> {
    let ListenTls { certificate, private_key, client_ca } = settings;
    let contents = Contents::of(settings);
    let unreadable = |source| CertificateError::CertificateFile { path: certificate.clone(), source };
    let chain = pem::certificates(certificate).map_err(unreadable)?;
    // At least one exists.
    let none = PemError::Missing { wanted: Wanted::Certificate, found: PemSection::NoBlock };
    let leaf = chain.first().cloned().ok_or(none).map_err(unreadable)?;
    let expires_at = not_after(certificate, &leaf)?.as_secs();

    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = provider
        .key_provider
        .load_private_key(
            pem::private_key(private_key)
                .map_err(|source| CertificateError::KeyFile { path: private_key.clone(), source })?,
        )
        .map_err(|source| CertificateError::UnusableKey { path: private_key.clone(), source })?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match().map_err(|source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertificateError::Mismatch { certificate: certificate.clone(), key: private_key.clone() }
        }
        source => CertificateError::UnusableCertificate { path: certificate.clone(), source },
    })?;

    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = client_ca.as_deref().map(|path| read_client_ca(path, provider)).transpose()?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    // All cipher suites of rustls are secure; the server chooses the best common one.
    config.ignore_client_order = true;
    config.ticketer = match before {
        // A resumed session does not present its certificate again.
        Some(before) if before.contents.client_ca == contents.client_ca => {
            Arc::clone(&before.config.ticketer)
        }
        _ => aws_lc_rs::Ticketer::new()?,
    };
    Ok(ServedCertificate { config: Arc::new(config), expires_at, leaf, contents, verifier })
}

impl ServedCertificate {
    /// Checks the client certificate of a session again. A resumed session has the certificate of its first handshake,
    /// which rustls does not verify again and which may have expired.
    ///
    /// # Errors
    /// What is wrong with the certificate.
    pub(super) fn admit(&self, session: &ServerConnection) -> Result<(), rustls::Error> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        let Some([certificate, intermediates @ ..]) = session.peer_certificates() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            verifier.verify_client_cert(certificate, intermediates, UnixTime::now())?;
        }
        Ok(())
    }

    /// Whether the files of `settings` have the served content.
    pub(super) fn is_current(&self, settings: &ListenTls) -> bool {
        Contents::of(settings) == self.contents
    }
}

impl Contents {
    fn of(settings: &ListenTls) -> Self {
        Self {
            pair: [&settings.certificate, &settings.private_key].map(|path| content_hash(path)),
            client_ca: settings.client_ca.as_deref().map(content_hash),
        }
    }
}

fn read_client_ca(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let certificates = pem::certificates(path)
        .map_err(|source| CertificateError::ClientCaFile { path: path.into(), source })?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|source| CertificateError::UnusableCertificate { path: path.into(), source })?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| CertificateError::ClientCa { path: path.into(), source })
}

/// The subject of a client certificate in the format of RFC 4514; `None` if it is not X.509.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().subject().to_string())
}

/// The expiry of the leaf certificate, since 1970.
fn not_after(path: &Path, leaf: &CertificateDer<'_>) -> Result<Duration, CertificateError> {
    let leaf = Certificate::from_der(leaf)
        .map_err(|source| CertificateError::NotX509 { path: path.into(), source })?;
    Ok(leaf.tbs_certificate().validity().not_after.to_unix_duration())
}
