//! TLS towards servers: verification, client certificates and ALPN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;

use crate::config::settings::{ClientCertificate, ClientTls, Roots, TlsVersion};
use crate::secrets::pem::{self, PemError};

/// HTTP/1.1 in ALPN (RFC 7301).
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// HTTP/2 over TLS in ALPN (RFC 9113 section 3.2).
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// Why TLS cannot be set up: an error in the configuration or the machine. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The host of the URL, or `server_name`, is not valid in a certificate. The name is not shown: it may be part of a
    /// secret URL, or come from the environment.
    #[error("{of} is not a name that is valid in a certificate: {source}")]
    ServerName {
        /// The source of the name.
        of: &'static str,
        /// The cause.
        source: InvalidDnsNameError,
    },
    /// A file has the wrong content, or cannot be read.
    #[error("cannot read the {what} {}: {source}", path.display())]
    File {
        /// The expected content.
        what: &'static str,
        /// `ca_file`, `certificate` or `private_key`
        path: PathBuf,
        /// The cause.
        source: PemError,
    },
    /// A certificate in `ca_file` is invalid.
    #[error("the CA file {} has an unusable certificate, the {}: {source}", path.display(), ordinal(*position))]
    CaCertificate {
        /// `ca_file`
        path: PathBuf,
        /// Its position in the file, from 1.
        position: usize,
        /// The cause.
        source: rustls::Error,
    },
    /// The key does not belong to the certificate.
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// `certificate`
        certificate: PathBuf,
        /// `private_key`
        key: PathBuf,
    },
    /// The certificate or key is of an unsupported kind, or damaged.
    #[error("the certificate {} and its key cannot be used: {source}", certificate.display())]
    UnusableCertificate {
        /// `certificate`
        certificate: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// The operating system has no usable roots, or the TLS library cannot be configured.
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

/// The protocols that a connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferedProtocols {
    /// Only HTTP/1.1.
    Http1,
    /// Also HTTP/2, if the connector [enables it](super::Connector::with_http2).
    Any,
}

/// TLS towards one server, with resumable sessions.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    /// The configuration that also offers HTTP/2.
    http2: Option<Arc<ClientConfig>>,
    pub(super) server_name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(host: &str, settings: &ClientTls) -> Result<Self, ConnectorError> {
        let (name, of) = match settings.server_name.as_deref() {
            Some(name) => (name, "`server_name`"),
            None => (host, "the host of the URL"),
        };
        let server_name = ServerName::try_from(name)
            .map_err(|source| ConnectorError::ServerName { of, source })?
            .to_owned();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions(settings.minimum_version))?;
        let builder = match (&settings.ca_file, settings.roots) {
            _ if settings.danger_accept_any_certificate => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            }
            (Some(path), _) => builder.with_root_certificates(read_roots(path)?),
            (None, Roots::Bundled) => builder.with_root_certificates(RootCertStore::from_iter(
                webpki_roots::TLS_SERVER_ROOTS.iter().cloned(),
            )),
            (None, Roots::Platform) => {
                builder.dangerous().with_custom_certificate_verifier(platform_verifier(provider)?)
            }
        };
        // rustls keeps resumable sessions in memory by default.
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = (read_chain(&identity.certificate)?, read_key(&identity.private_key)?);
                builder.with_client_auth_cert(chain, key).map_err(|source| unusable(identity, source))?
            }
        };
        config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        Ok(Self { config: Arc::new(config), http2: None, server_name })
    }

    /// Also offers HTTP/2.
    pub(super) fn offer_http2(&mut self) {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        self.http2 = Some(Arc::new(config));
    }

    /// Disables ALPN, for protocols other than HTTP.
    pub(super) fn offer_nothing(&mut self) {
        Arc::make_mut(&mut self.config).alpn_protocols.clear();
    }

    pub(super) fn config(&self, protocol: OfferedProtocols) -> &Arc<ClientConfig> {
        match protocol {
            OfferedProtocols::Http1 => &self.config,
            OfferedProtocols::Any => self.http2.as_ref().unwrap_or(&self.config),
        }
    }
}

fn versions(minimum: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
    match minimum {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => &BOTH[1..],
    }
}

/// rustls calls every custom verifier dangerous; this is the operating system's.
fn platform_verifier(provider: Arc<CryptoProvider>) -> Result<Arc<Verifier>, rustls::Error> {
    Verifier::new(provider).map(Arc::new)
}

/// Accepts any certificate: `danger_accept_any_certificate`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, ConnectorError> {
    const WHAT: &str = "CA file";
    let mut roots = RootCertStore::empty();
    for (index, certificate) in read_certificates(WHAT, path)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|source| ConnectorError::CaCertificate {
            path: path.into(),
            position: index + 1,
            source,
        })?;
    }
    Ok(roots)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectorError> {
    read_certificates("certificate", path)
}

/// Reads at least one certificate.
fn read_certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConnectorError> {
    pem::certificates(path).map_err(|source| ConnectorError::File { what, path: path.into(), source })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConnectorError> {
    pem::private_key(path).map_err(|source| ConnectorError::File {
        what: "private key",
        path: path.into(),
        source,
    })
}

fn unusable(identity: &ClientCertificate, source: rustls::Error) -> ConnectorError {
    let certificate = identity.certificate.clone();
    match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            ConnectorError::Mismatch { certificate, key: identity.private_key.clone() }
        }
        source => ConnectorError::UnusableCertificate { certificate, source },
    }
}
