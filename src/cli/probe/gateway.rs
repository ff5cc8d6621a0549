//! A gateway in this process, on a free port of the loopback interface, for the requests of the probe.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::Notify;

use super::request::{OwnRefusal, ProbeAnswer};
use crate::cli::admin_client::{AdminError, send};
use crate::config::settings::{self, ListenAddress, LogFormat, LogLevel, Settings};
use crate::listener::Inherited;
use crate::policy::refusal::Reason;
use crate::sanitize::sanitize;
use crate::server::{Server, StartError};
use crate::telemetry::log;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest wait for the access line of a request after its response. Lines are delayed by 100 ms.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request of the probe has no usable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// There is no response.
    #[error(transparent)]
    Request(#[from] AdminError),
    /// Whether the backend or the gateway responded is not known.
    #[error("the gateway did not log the request within {LINE_TIMEOUT:?}")]
    NoLine,
}

/// A running gateway with the configuration that is probed. Without what concerns other machines: TLS of the listener,
/// replicas, the collector, webhooks. It keeps no ledger and no blocks. Only the probe reads its access lines, which say
/// whether the gateway itself refused a request.
pub(super) struct ProbedGateway {
    address: ListenAddress,
    lines: Receiver<Vec<u8>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl ProbedGateway {
    /// Starts the gateway.
    ///
    /// # Errors
    /// [`StartError`]
    pub(super) fn start(mut settings: Settings) -> Result<Self, StartError> {
        let free = || ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        settings.listen.address = free();
        settings.listen.tls = Box::default();
        settings.listen.redirect_address = None;
        settings.listen.proxy_protocol = false;
        settings.listen.drain_delay = Duration::ZERO;
        settings.listen.drain_timeout = DRAIN_TIMEOUT;
        settings.admin.address = free();
        settings.decision.address = None;
        settings.admin.token = None;
        settings.redis = None;
        settings.webhook = None;
        settings.traces = None;
        settings.usage = None;
        // No file can be there: that of the running gateway is not read, and may not be readable.
        settings.blocked.path = "/dev/null/blocked.json".into();
        // Every request of the probe is from one address.
        settings.limits.connections_per_address = None;
        settings.limits.requests_per_address = None;
        settings.limits.failures_per_address = None;
        settings.threads = 1;
        settings.log =
            settings::Log { level: LogLevel::Info, format: LogFormat::Json, access: true, access_sample: 1 };
        let (line_sender, lines) = channel();
        let (started, receiver) = sync_channel(1);
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(move || {
            // Without the subscriber, access lines are the only ones.
            let (_subscriber, guard) = log::to(LineSender(line_sender), &settings.log);
            match Server::bind(settings, guard, Inherited::default()) {
                Ok(server) => {
                    let _ = started.send(Ok(server.proxy_address().clone()));
                    // The requests have been answered, so an error of the shutdown concerns nobody.
                    let _ = server.serve(async || stopped.notified().await);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        let address = receiver.recv().map_err(|RecvError| io::Error::other("the gateway has ended"))??;
        Ok(Self { address, lines, stop, thread: Some(thread) })
    }

    /// The response to HEAD.
    ///
    /// # Errors
    /// If there is no response within `limit`, or no access line of it.
    pub(super) fn head(
        &self,
        path: &str,
        fields: HeaderMap,
        limit: Duration,
    ) -> Result<ProbeAnswer, ProbeError> {
        let mut request = Request::head(path).body(Full::<Bytes>::default()).map_err(AdminError::from)?;
        *request.headers_mut() = fields;
        while self.lines.try_recv().is_ok() {}
        let status = send(&self.address, request, limit)?.status().as_u16();
        Ok(ProbeAnswer { status, refusal: self.refusal()? })
    }

    /// The gateway's own refusal of the request that was just answered; `None` if the backend responded.
    fn refusal(&self) -> Result<Option<OwnRefusal>, ProbeError> {
        let deadline = Instant::now() + LINE_TIMEOUT;
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            let left = deadline.saturating_duration_since(Instant::now());
            text.append(&mut self.lines.recv_timeout(left).map_err(|_| ProbeError::NoLine)?);
        }
        read_line(&text).ok_or(ProbeError::NoLine)
    }
}

/// The refusal in an access line, whose inner value is `None` if the backend responded; `None` if it is no access line.
fn read_line(line: &[u8]) -> Option<Option<OwnRefusal>> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let word = line.get("reason")?.as_str()?;
    let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == word)?;
    if matches!(reason, Reason::Allowed | Reason::Public) {
        return Some(None);
    }
    let detail = line.get("detail").and_then(Value::as_str).map(sanitize);
    Some(Some(OwnRefusal { reason, detail }))
}

/// Sends what the log writes to the probe.
struct LineSender(Sender<Vec<u8>>);

impl Write for LineSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The probe has ended if nothing receives it.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ProbedGateway {
    fn drop(&mut self) {
        self.stop.notify_one();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
