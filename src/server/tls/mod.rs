//! A listener's certificates: selection by server name, and reloading.

mod certificate;

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use rustls::ProtocolVersion;
use rustls::client::verify_server_name;
use rustls::server::{ClientHello, ParsedCertificate};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::certificate::{CertificateError, ServedCertificate, load};
use crate::config::settings::ListenTls;
use crate::telemetry::lines::AUDIT;
use crate::telemetry::lines::{AuditLog, AuditLogFull, AuditPriority};
use crate::telemetry::metrics::{CertificateState, HandshakeFailure};

/// Bytes that rustls encrypts before the socket accepts them: one record, instead of its default of 64 KiB.
const TLS_BUFFER: usize = 16 * 1024;

/// The certificates of a listener: `listen.tls` or `decision.tls`. The first is for clients without a server name, or with one that none is valid
/// for.
#[derive(Debug)]
pub struct Certificates(Box<[Pair]>);

/// An entry of `listen.tls` or `decision.tls` that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {source}")]
pub struct EntryError {
    /// `listen.tls` or `decision.tls`, or `listen.tls[1]` if there are several.
    pub key: String,
    /// What is wrong with it.
    pub source: CertificateError,
}

#[derive(Debug)]
struct Pair {
    settings: ListenTls,
    served: ArcSwap<ServedCertificate>,
    /// Whether the served certificate is the one in the files.
    is_current: AtomicBool,
}

impl Certificates {
    /// Reads the files of every entry of `section`, of which there must be at least one.
    ///
    /// # Errors
    /// The first entry that cannot be served.
    pub fn load(entries: &[ListenTls], section: &str) -> Result<Self, EntryError> {
        let pair = |(number, settings): (usize, &ListenTls)| {
            let served = load(settings, None).map_err(|source| {
                let several = entries.len() > 1;
                let key = if several { format!("{section}.tls[{number}]") } else { format!("{section}.tls") };
                EntryError { key, source }
            })?;
            let served = ArcSwap::from_pointee(served);
            Ok(Pair { settings: settings.clone(), served, is_current: AtomicBool::new(true) })
        };
        entries.iter().enumerate().map(pair).collect::<Result<_, EntryError>>().map(Self)
    }

    /// Reloads certificates whose files have changed according to `concerns`. Keeps the served ones if the files are
    /// invalid. Open connections are not affected.
    ///
    /// # Errors
    /// If the log has no slot for the line about one of them: that one is not reloaded and must be tried again.
    pub(super) fn reload(
        &self,
        concerns: impl Fn(&PathBuf) -> bool,
        audit: &AuditLog,
    ) -> Result<(), AuditLogFull> {
        let mut concerned = self.0.iter().filter(|pair| pair.settings.files().any(&concerns));
        concerned.try_for_each(|pair| pair.reload(audit))
    }

    /// The state of each certificate, for metrics.
    pub(super) fn states(&self) -> Vec<CertificateState> {
        let state = |pair: &Pair| CertificateState {
            file: pair.settings.certificate.display().to_string(),
            expires_at: pair.served.load().expires_at,
            is_current: pair.is_current.load(Ordering::Relaxed),
        };
        self.0.iter().map(state).collect()
    }

    /// Performs the TLS handshake with a client.
    ///
    /// # Errors
    /// If the handshake fails.
    pub(super) async fn accept<T>(&self, transport: T) -> io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), transport).await?;
        let served = self.choose(&handshake.client_hello()).ok_or(io::ErrorKind::NotFound)?;
        let mut stream = handshake.into_stream(Arc::clone(&served.config)).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        served.admit(stream.get_ref().1).map_err(io::Error::other)?;
        Ok(stream)
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<Arc<ServedCertificate>> {
        let named = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fitting = named.and_then(|name| self.0.iter().find(|pair| pair.is_for(&name)));
        fitting.or(self.0.first()).map(|pair| pair.served.load_full())
    }
}

impl Pair {
    fn reload(&self, audit: &AuditLog) -> Result<(), AuditLogFull> {
        let before = self.served.load();
        if before.is_current(&self.settings) {
            self.is_current.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let _slot = audit.reserve(AuditPriority::Change)?;
        let certificate = self.settings.certificate.display();
        match load(&self.settings, Some(&before)) {
            Ok(served) => {
                self.served.store(Arc::new(served));
                self.is_current.store(true, Ordering::Relaxed);
                tracing::info!(target: AUDIT, %certificate, "certificate reloaded");
            }
            Err(error) => {
                self.is_current.store(false, Ordering::Relaxed);
                let error: &dyn std::error::Error = &error;
                tracing::error!(target: AUDIT, %certificate, error, "certificate rejected; the previous one stays in use");
            }
        }
        Ok(())
    }

    /// Whether the certificate is valid for this name (RFC 6125).
    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let served = self.served.load();
        ParsedCertificate::try_from(&served.leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }
}

/// The subject of the client's certificate; `None` without one.
pub(super) fn subject<T>(stream: &TlsStream<T>) -> Option<Rc<str>> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    certificates.first().and_then(certificate::subject).map(Into::into)
}

/// The version that was negotiated, as `tls_version` in the access log.
pub(super) fn version<T>(stream: &TlsStream<T>) -> Option<&'static str> {
    match stream.get_ref().1.protocol_version()? {
        ProtocolVersion::TLSv1_2 => Some("1.2"),
        ProtocolVersion::TLSv1_3 => Some("1.3"),
        _ => None,
    }
}

/// Classifies a failed handshake.
pub(super) fn failure(error: &io::Error) -> HandshakeFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            HandshakeFailure::Certificate
        }
        _ => HandshakeFailure::Protocol,
    }
}
