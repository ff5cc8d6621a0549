//! Certificates for tests: an authority of our own, and TLS set up with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate authority in a temporary directory, with one certificate for `localhost` and 127.0.0.1.
pub struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    /// A new one, with new keys.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), issuer.pem()).unwrap();
        std::fs::write(directory.path().join("tls.crt"), leaf.pem()).unwrap();
        std::fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();
        Self { directory }
    }

    /// The authority's own certificate, for `ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// The certificate of `localhost`.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    /// Its private key.
    pub fn private_key(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }

    /// Serves as `localhost`.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.private_key()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates(&self.certificate()), key)
            .unwrap();
        Arc::new(config)
    }

    /// Believes this authority alone.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.ca_file()));
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().collect::<Result<_, _>>().unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
