//! A certificate authority for tests, and TLS configurations that use it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate authority in a temporary directory, with one certificate for `localhost` and 127.0.0.1.
pub struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    pub certificate: String,
    pub private_key: String,
}

impl Issued {
    /// A self-signed certificate.
    pub fn by_itself(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
        Self { certificate, private_key: key.serialize_pem() }
    }

    /// A server configuration for `versions` that requires a client certificate of `clients`, if given.
    pub fn server(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> ServerConfig {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(&authority.ca_file()));
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                builder.with_client_cert_verifier(verifier.unwrap())
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.private_key.as_bytes()).unwrap();
        builder.with_single_cert(chain.unwrap(), key).unwrap()
    }

    /// Writes the certificate and the key into files of `directory`.
    pub fn write(&self, directory: &Path) -> [PathBuf; 2] {
        let paths = ["shown.crt", "shown.key"].map(|name| directory.join(name));
        std::fs::write(&paths[1], &self.private_key).unwrap();
        std::fs::write(&paths[0], &self.certificate).unwrap();
        paths
    }
}

impl Authority {
    /// Creates an authority with new keys.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        // The subject differs from that of issued certificates, which would otherwise look self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), issuer.pem()).unwrap();
        let authority = Self { directory, issuer };
        let Issued { certificate, private_key } = authority.issue(&["localhost", "127.0.0.1"], |_| {});
        std::fs::write(authority.certificate(), certificate).unwrap();
        std::fs::write(authority.private_key(), private_key).unwrap();
        authority
    }

    /// Issues a certificate for these names, modified by `change`.
    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, private_key: key.serialize_pem() }
    }

    /// The authority's own certificate, for `ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// The certificate of `localhost`.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    /// The private key of that certificate.
    pub fn private_key(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }

    /// A server configuration with the certificate of `localhost`.
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

    /// A client configuration that trusts only this authority.
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

    /// The same, with a client certificate.
    pub fn client_with(&self, shown: &Issued) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.ca_file()));
        let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes()).collect::<Result<_, _>>();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                chain.unwrap(),
                PrivateKeyDer::from_pem_slice(shown.private_key.as_bytes()).unwrap(),
            );
        Arc::new(config.unwrap())
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().collect::<Result<_, _>>().unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
