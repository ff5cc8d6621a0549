//! The admin listener: metrics and probes without credentials, everything else with the admin token.
//!
//! It has a thread and a runtime of its own, so that a scrape never delays a proxied request. Every connection
//! carries one request and is closed after 30 seconds. When too many are open, [`ConnectionSlots`] evicts idle ones for new
//! ones, so that probes get through.

mod accept;
mod audit;
mod blocks;
mod handler;
mod response;
mod throttle;
mod tokens;
mod unmapped;
mod usage;
mod usage_page;
mod usage_query;
mod webhook;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::audit::RejectedAttempts;
pub use self::throttle::Throttle;
use crate::config::settings::Settings;
use crate::listener::connections::{ConnectionSlot, ConnectionSlots};
use crate::listener::{Listener, Socket};
use crate::telemetry::lines::AuditLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::unmapped::UncoveredRequests;
use crate::tokens::blocker::Blocker;
use crate::tokens::revoker::Revoker;
use crate::usage::writer::Usage;

const MAX_CONNECTIONS: usize = 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the listener waits at shutdown for responses in progress.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the proxy accepts requests, as `/readyz` reports it.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

/// The states of [`Readiness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReadinessState {
    /// `/readyz` answers 503.
    Starting = 0,
    /// `/readyz` answers 200.
    Ready = 1,
    /// `/readyz` answers 503.
    Draining = 2,
}

impl Readiness {
    /// Changes the state.
    pub fn set(&self, state: ReadinessState) {
        self.0.store(state as u8, Ordering::Release);
    }

    /// The state; initially [`ReadinessState::Starting`].
    pub fn get(&self) -> ReadinessState {
        match self.0.load(Ordering::Acquire) {
            0 => ReadinessState::Starting,
            1 => ReadinessState::Ready,
            _ => ReadinessState::Draining,
        }
    }
}

/// The parts of the gateway that the admin listener reports on and acts on.
pub struct Admin {
    /// Served at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Served at `/readyz`.
    pub readiness: Arc<Readiness>,
    /// The current configuration. Without `admin.token`, or with an empty one, only `/metrics`, `/healthz`, `/readyz`
    /// and a configured `/webhook` are served.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Drops cached verdicts.
    pub revoker: Arc<Revoker>,
    /// Blocks tokens.
    pub blocker: Arc<Blocker>,
    /// The usage ledger.
    pub usage: Arc<Usage>,
    /// Requests that the ability map does not cover.
    pub uncovered: Arc<UncoveredRequests>,
    /// Requests without valid credentials.
    pub refused: RejectedAttempts,
    /// The log of authenticated actions.
    pub audit: AuditLog,
    /// The rate limit for wrong credentials.
    pub throttle: Throttle,
}

impl Admin {
    /// Serves on a thread of its own until [`Handle::stop`], or until the handle is dropped.
    ///
    /// # Errors
    /// If the operating system creates no thread or no event queue.
    pub fn serve(self, listener: Listener) -> io::Result<Handle> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(move || {
            serve(&runtime, listener, Arc::new(self), stopped);
            // Nobody reads a report that is still being written. Shutdown does not wait for it.
            runtime.shutdown_background();
        })?;
        Ok(Handle { stop, thread })
    }
}

/// The running admin listener.
#[derive(Debug)]
pub struct Handle {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Stops accepting and waits for responses in progress, for two seconds at most.
    pub fn stop(self) {
        let Self { stop, thread } = self;
        drop(stop);
        if thread.join().is_err() {
            tracing::error!("the admin listener thread panicked");
        }
    }
}

fn serve(runtime: &Runtime, listener: Listener, admin: Arc<Admin>, stopped: oneshot::Receiver<()>) {
    let (socket, _file) = listener.into_parts();
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        let served = async {
            match socket {
                Socket::Tcp(listener) => {
                    let listener = TcpListener::from_std(listener)?;
                    accept(
                        async || listener.accept().await.map(|(io, peer)| (io, Some(peer))),
                        &admin,
                        &mut connections,
                    )
                    .await
                }
                Socket::Unix(listener) => {
                    let listener = UnixListener::from_std(listener)?;
                    accept(
                        async || listener.accept().await.map(|(io, _)| (io, None)),
                        &admin,
                        &mut connections,
                    )
                    .await
                }
            }
        };
        tokio::select! {
            _ = stopped => {}
            Err(error) = served => tracing::error!(%error, "the admin listener failed"),
        }
        let finished = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(STOP_TIMEOUT, finished).await;
    });
}

/// Accepts connections for as long as it is polled. `next` returns one with its address; `None` for a Unix socket.
async fn accept<I>(
    next: impl AsyncFn() -> io::Result<(I, Option<SocketAddr>)>,
    admin: &Arc<Admin>,
    tasks: &mut JoinSet<()>,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connections = ConnectionSlots::new(MAX_CONNECTIONS);
    loop {
        match next().await {
            Ok((io, address)) => {
                while tasks.try_join_next().is_some() {}
                let place = connections.admit(address.map(|address| address.ip())).await;
                let client = address.map_or_else(|| "unix".into(), |address| address.to_string().into());
                tasks.spawn(connection(io, client, place, Arc::clone(admin)));
            }
            // Too many open files, or the client has closed the connection.
            Err(error) => {
                tracing::debug!(%error, "the admin listener cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection. `client` is its remote address, for the audit log.
async fn connection<I>(io: I, client: Box<str>, place: ConnectionSlot, admin: Arc<Admin>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let handle = |request| {
        place.start_request();
        handler::handle(&admin, &client, &place, request)
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_header_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service_fn(handle));
    tokio::select! {
        served = timeout(CONNECTION_TIMEOUT, served) => match served {
            Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
            Err(error) => tracing::debug!(%error, "admin connection failed"),
            Ok(Ok(())) => {}
        },
        () = place.evicted() => tracing::debug!("admin connection evicted for a new one"),
    }
}

#[cfg(test)]
mod tests;
