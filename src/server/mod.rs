//! Connections in: listening, one thread a core, draining.
//!
//! The thread that calls [`Server::serve`] accepts connections and hands each to the core that has the
//! fewest. Every core runs alone: its runtime, pools and front cache are shared with nobody.

mod connection;
mod core;
mod head;
mod http1;
mod last_answer;
mod listen;
pub mod tls;
mod transport;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::notification::RemovalCause;
use tokio::runtime::{self, LocalOptions};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use self::core::Seed;
use self::listen::{AFTER_FAILURE, Admitted, Door, Seat, Seating, TurnedAway};
use crate::admin::{Admin, Readiness, State};
use crate::client::pool::ConnectionBound;
use crate::client::{Connector, ConnectorError};
use crate::config::settings::{ListenAddress, Settings};
use crate::limits::Limiter;
use crate::listener::{BindError, Listener};
use crate::telemetry::log;
use crate::telemetry::metrics::{EntryKind, EvictionCause, Metrics};
use crate::tokens::cache::TokenCache;
use crate::tokens::lookup::Shared;
use crate::tokens::turns::Turns;

/// Why a configuration that is valid cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{section}.address: {source}")]
    Bind {
        /// `listen` or `admin`
        section: &'static str,
        /// What is wrong with it.
        source: BindError,
    },
    /// The certificate of `listen.tls` cannot be served.
    #[error("listen.tls: {0}")]
    Certificate(#[from] tls::CertificateError),
    /// The `tls` section of the backend or the introspector cannot be used.
    #[error("{section}.tls: {source}")]
    Connector {
        /// `backend` or `introspection`
        section: &'static str,
        /// What is wrong with it.
        source: ConnectorError,
    },
    /// The system gives no thread or no event queue.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// The key that it is about, and what is wrong with that key's value.
    pub fn key(&self) -> Option<(String, String)> {
        match self {
            Self::Bind { section, source } => Some((format!("{section}.address"), source.to_string())),
            Self::Certificate(source) => Some(("listen.tls".to_owned(), source.to_string())),
            Self::Connector { section, source } => Some((format!("{section}.tls"), source.to_string())),
            Self::System(_) => None,
        }
    }
}

/// What the configuration's certificates and roots come to.
pub struct Parts {
    tls: Option<tls::ListenerTls>,
    backend: Arc<Connector>,
    introspector: Arc<Connector>,
}

impl Parts {
    /// Reads what `settings` name.
    ///
    /// # Errors
    /// [`StartError::Certificate`] and [`StartError::Connector`].
    pub fn build(settings: &Settings) -> Result<Self, StartError> {
        let (backend, introspection) = (&settings.backend, &settings.introspection);
        let backend = Connector::new(&backend.destination, &backend.tls, backend.connect_timeout)
            .map_err(|source| StartError::Connector { section: "backend", source })?;
        let introspector =
            Connector::new(&introspection.destination, &introspection.tls, introspection.timeout)
                .map_err(|source| StartError::Connector { section: "introspection", source })?;
        let tls = settings.listen.tls.as_ref().map(tls::load).transpose()?;
        Ok(Self { tls, backend: Arc::new(backend), introspector: Arc::new(introspector) })
    }
}

/// Everything that can fail before the first request, done: bound, but not yet serving.
pub struct Server {
    settings: Arc<Settings>,
    log: log::Guard,
    proxy: Listener,
    admin: Listener,
    parts: Parts,
}

impl Server {
    /// Binds both listeners, and reads certificates and roots.
    ///
    /// # Errors
    /// Whatever keeps the configuration from being served. Nothing is left half-started.
    pub fn bind(settings: Settings, log: log::Guard) -> Result<Self, StartError> {
        let parts = Parts::build(&settings)?;
        let bind =
            |address, section| Listener::bind(address).map_err(|source| StartError::Bind { section, source });
        let proxy = bind(&settings.listen.address, "listen")?;
        let admin = bind(&settings.admin.address, "admin")?;
        Ok(Self { settings: Arc::new(settings), log, proxy, admin, parts })
    }

    /// Where requests are taken.
    pub const fn proxy_address(&self) -> &ListenAddress {
        self.proxy.address()
    }

    /// Where the admin listener is.
    pub const fn admin_address(&self) -> &ListenAddress {
        self.admin.address()
    }

    /// Serves until `shutdown` is done and what was in flight then has ended, for `drain_timeout` at most.
    ///
    /// # Errors
    /// Where the system gives no thread or no event queue.
    pub fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let metrics = Metrics::new(self.settings.threads);
        let shared = self.share(&metrics);
        self.measure(&metrics, &shared);
        let readiness = Arc::new(Readiness::default());

        let limiter = Arc::new(Limiter::new(&self.settings));
        let bound = self.settings.backend.max_connections.map(ConnectionBound::new);
        let mut cores = Vec::new();
        let mut seats = Vec::new();
        for index in 0..self.settings.threads {
            let (seat, core) = self.start_core(index, &metrics, &shared, &limiter, bound.clone())?;
            seats.push(seat);
            cores.push(core);
        }
        tracing::info!(listener = "proxy", address = %self.proxy.address(), "listening");
        tracing::info!(listener = "admin", address = %self.admin.address(), "listening");
        let turned_away = TurnedAway::new(metrics.core(self.settings.threads));
        let admin =
            Admin { metrics, readiness: Arc::clone(&readiness), token: self.settings.admin.token.clone() };
        let admin = admin.serve(self.admin)?;

        let seating = Seating::new(seats, Arc::clone(&self.settings), turned_away);
        let listen = &self.settings.listen;
        runtime.block_on(accept(self.proxy, seating, &readiness, listen.drain_delay, shutdown))?;
        let cut: usize = cores.into_iter().map(|core| core.join().unwrap_or_default()).sum();
        if cut > 0 {
            tracing::warn!(connections = cut, "drain_timeout passed: connections were cut");
        }
        tracing::info!("drained");
        admin.stop();
        Ok(())
    }

    fn share(&self, metrics: &Arc<Metrics>) -> Arc<Shared> {
        let evictions = Arc::clone(metrics);
        let on_eviction = move |cause| {
            let cause = match cause {
                RemovalCause::Expired => EvictionCause::Expired,
                RemovalCause::Explicit => EvictionCause::Explicit,
                RemovalCause::Replaced => EvictionCause::Replaced,
                RemovalCause::Size => EvictionCause::Size,
            };
            evictions.cache_eviction(EntryKind::Active, cause);
        };
        Arc::new(Shared {
            cache: TokenCache::new(&self.settings.cache, Box::new(on_eviction)),
            turns: Turns::new(self.settings.introspection.max_concurrent),
        })
    }

    fn measure(&self, metrics: &Arc<Metrics>, shared: &Arc<Shared>) {
        metrics.config_reload(true, SystemTime::now());
        if let Some(tls) = &self.parts.tls {
            metrics.set_certificate_expiry(UNIX_EPOCH + Duration::from_secs(tls.expires_at));
        }
        let shared = Arc::clone(shared);
        let dropped = self.log.dropped_lines();
        metrics.on_scrape(Box::new(move |metrics| {
            shared.cache.maintain();
            let (active, inactive) = shared.cache.sizes();
            metrics.set_cache_entries(EntryKind::Active, active);
            metrics.set_cache_entries(EntryKind::Inactive, inactive);
            metrics.set_log_lines_dropped(dropped.count());
        }));
    }

    fn start_core(
        &self,
        index: usize,
        metrics: &Arc<Metrics>,
        shared: &Arc<Shared>,
        limiter: &Arc<Limiter>,
        backend_bound: Option<Arc<ConnectionBound>>,
    ) -> io::Result<(Seat, JoinHandle<usize>)> {
        let (sender, admitted) = mpsc::unbounded_channel::<Admitted>();
        let load = Arc::new(AtomicUsize::new(0));
        let seed = Seed {
            index,
            settings: Arc::clone(&self.settings),
            metrics: Arc::clone(metrics),
            routes: metrics.routes(self.settings.abilities.templates()),
            access: self.log.access_log(),
            shared: Arc::clone(shared),
            limiter: Arc::clone(limiter),
            backend: Arc::clone(&self.parts.backend),
            introspector: Arc::clone(&self.parts.introspector),
            backend_bound,
            tls: self.parts.tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.config))),
            load: Arc::clone(&load),
        };
        // The runtime cannot leave its thread, so the thread has to say whether it got one.
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let core = thread::Builder::new().name(format!("core-{index}")).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(seed.run(admitted))
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    0
                }
            }
        })?;
        is_started.recv().map_err(io::Error::other)??;
        Ok((Seat { load, sender }, core))
    }
}

/// Accepts until `shutdown` is done and `drain_delay` has passed since. What waits to be accepted then is
/// still served.
async fn accept(
    listener: Listener,
    mut seating: Seating,
    readiness: &Readiness,
    drain_delay: Duration,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (door, _file) = Door::open(listener)?;
    readiness.set(State::Ready);
    let mut closing = std::pin::pin!(async {
        shutdown.await;
        tracing::info!("draining");
        readiness.set(State::Draining);
        tokio::time::sleep(drain_delay).await;
    });
    loop {
        tokio::select! {
            () = &mut closing => break,
            accepted = door.accept() => match accepted {
                Ok(accepted) => seating.seat(accepted),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }
    while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, door.accept()).await {
        seating.seat(accepted);
    }
    Ok(())
}
