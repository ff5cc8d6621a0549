//! A gateway in this process, on a free port of the loopback interface, for the requests of the probe.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{RecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use tokio::sync::Notify;

use crate::cli::admin_client::{AdminError, send};
use crate::config::settings::{ListenAddress, LogLevel, Settings};
use crate::listener::Inherited;
use crate::server::{Server, StartError};
use crate::telemetry::log;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A running gateway with the configuration that is probed. Without what concerns other machines: TLS of the listener,
/// replicas, the collector, webhooks. It keeps no ledger
/// and no blocks, and logs nothing.
pub(super) struct ProbedGateway {
    address: ListenAddress,
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
        settings.log.level = LogLevel::Off;
        settings.log.access = false;
        let (started, receiver) = sync_channel(1);
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(move || {
            let (_subscriber, guard) = log::to(io::sink(), &settings.log);
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
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// The status of the response to HEAD.
    ///
    /// # Errors
    /// If there is no response within `limit`.
    pub(super) fn head(&self, path: &str, fields: HeaderMap, limit: Duration) -> Result<u16, AdminError> {
        let mut request = Request::head(path).body(Full::<Bytes>::default())?;
        *request.headers_mut() = fields;
        Ok(send(&self.address, request, limit)?.status().as_u16())
    }
}

impl Drop for ProbedGateway {
    fn drop(&mut self) {
        self.stop.notify_one();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
