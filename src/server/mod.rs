//! Listeners, workers and draining.
//!
//! The thread that calls [`Server::serve`] accepts connections and hands each to the worker with the fewest. Workers share
//! neither runtime nor pools nor front caches.

mod acceptor;
mod complete_heads;
mod configuration;
mod connection;
mod decision_slots;
mod dispatcher;
mod header_blocks;
mod http1;
mod http2;
mod http2_flood;
mod http2_limits;
mod last_response;
mod proxy_protocol;
mod raw_response;
mod redirect;
mod rejected;
mod reload;
mod scanned_io;
mod services;
mod small_data;
mod supervisor;
pub mod tls;
mod transport;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::acceptor::{AFTER_FAILURE, Accepted, Acceptor};
use self::configuration::Configuration;
pub use self::configuration::Resources;
use self::dispatcher::{Dispatcher, WorkerHandle};
use self::rejected::RejectedConnections;
use self::reload::{ApplyConfiguration, Current, Reloader};
use self::services::Services;
use self::worker::WorkerBuilder;
use crate::admin::{self, Admin, Readiness, ReadinessState, RejectedAttempts, Throttle};
use crate::client::ConnectorError;
use crate::config::settings::{ListenAddress, Settings};
use crate::downstream::ClientListener;
use crate::listener::{BindError, InheritError, Inherited, Listener, Role};
use crate::telemetry::log;
use crate::telemetry::metrics::{EntryKind, Metrics};
use crate::tokens::blocker::Blocker;
use crate::tokens::blocklist::BlockList;
use crate::tokens::blocklist::file::{BlockFile, BlockFileError};
use crate::tokens::blocklist::record::BlockRecord;
use crate::tokens::clock::Reading;
use crate::usage::writer::Usage;
use crate::watch::FileWatcher;

/// Why a configuration that is valid cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("{key}: {source}")]
    Bind {
        /// `listen.address`, `listen.redirect_address`, `admin.address` or `decision.address`
        key: &'static str,
        /// The cause.
        source: BindError,
    },
    /// A certificate of `listen.tls` or `decision.tls` cannot be served.
    #[error(transparent)]
    Certificate(#[from] tls::EntryError),
    /// The `tls` section of the backend, the introspector, Redis or the collector cannot be used.
    #[error("{section}.tls: {source}")]
    Connector {
        /// `backend`, `introspection`, `redis` or `traces`
        section: &'static str,
        /// The cause.
        source: ConnectorError,
    },
    /// The file of blocks cannot be read.
    #[error("blocked.path: {0}")]
    Blocks(#[from] BlockFileError),
    /// An inherited socket cannot be used.
    #[error("{0}")]
    Inherit(#[from] InheritError),
    /// A thread or an event queue cannot be created.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// The key of the configuration and the error in its value; `None` if the error concerns no key.
    pub fn key(&self) -> Option<(String, String)> {
        match self {
            Self::Bind { key, source } => Some(((*key).to_owned(), source.to_string())),
            Self::Certificate(entry) => Some((entry.key.clone(), entry.source.to_string())),
            Self::Connector { section, source } => Some((format!("{section}.tls"), source.to_string())),
            Self::Blocks(error) => Some(("blocked.path".to_owned(), error.to_string())),
            Self::Inherit(_) | Self::System(_) => None,
        }
    }

    /// What to do; `None` if the error says it.
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::Blocks(_) => Some(
                "the gateway does not start without its blocks: restore the file, or move it away and block again",
            ),
            _ => None,
        }
    }
}

/// A server that is bound and does not serve yet. All that can fail before the first request has succeeded.
pub struct Server {
    settings: Arc<Settings>,
    log: log::Guard,
    proxy: Listener,
    admin: Listener,
    redirect: Option<Listener>,
    decision: Option<Listener>,
    resources: Resources,
    blocks: (BlockFile, Vec<BlockRecord>),
    source: Option<(PathBuf, FileWatcher)>,
}

impl Server {
    /// Binds the listeners that were not `inherited`, and reads certificates and roots.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left half-started.
    pub fn bind(settings: Settings, log: log::Guard, mut inherited: Inherited) -> Result<Self, StartError> {
        let resources = Resources::build(&settings)?;
        let blocks = BlockFile::open(&settings.blocked.path)?;
        let mut listen = |role, address, key| match inherited.remove(role) {
            Some(listener) => Ok(listener),
            None => Listener::bind(address).map_err(|source| StartError::Bind { key, source }),
        };
        let proxy = listen(Role::Proxy, &settings.listen.address, "listen.address")?;
        let is_unix = |listener: &Listener| matches!(listener.address(), ListenAddress::Unix(_));
        if is_unix(&proxy) && !settings.listen.tls.is_empty() {
            return Err(InheritError::Unencrypted(Role::Proxy, "listen.tls").into());
        }
        let admin = listen(Role::Admin, &settings.admin.address, "admin.address")?;
        let redirect = settings.listen.redirect_address.as_ref();
        let redirect =
            redirect.map(|address| listen(Role::Redirect, address, "listen.redirect_address")).transpose()?;
        let decision = settings.decision.address.as_ref();
        let decision =
            decision.map(|address| listen(Role::Decision, address, "decision.address")).transpose()?;
        if decision.as_ref().is_some_and(is_unix) && !settings.decision.tls.is_empty() {
            return Err(InheritError::Unencrypted(Role::Decision, "decision.tls").into());
        }
        for (role, key) in [(Role::Redirect, "listen.redirect_address"), (Role::Decision, "decision.address")]
        {
            if inherited.remove(role).is_some() {
                return Err(InheritError::NotConfigured(role, key).into());
            }
        }
        let settings = Arc::new(settings);
        Ok(Self { settings, log, proxy, admin, redirect, decision, resources, blocks, source: None })
    }

    /// Checks the files that the gateway itself writes and has to read at a start. One that this user may not read is
    /// assumed to be fine.
    ///
    /// # Errors
    /// [`StartError::Blocks`]
    pub fn check_files(settings: &Settings) -> Result<(), StartError> {
        match BlockFile::open(&settings.blocked.path) {
            Err(error) if !error.is_permission_denied() => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Enables reloading on SIGHUP and when one of `files` changes: `path` and the files that it names.
    pub fn reloading(self, path: PathBuf, files: Vec<PathBuf>) -> Self {
        let watch = FileWatcher::new(files);
        for certificates in self.resources.certificates() {
            // They may have changed since they were read. The audit log is empty at a start.
            let _ = certificates.reload(|_| true, &self.log.control().audit_log());
        }
        Self { source: Some((path, watch)), ..self }
    }

    /// The address of the proxy listener.
    pub const fn proxy_address(&self) -> &ListenAddress {
        self.proxy.address()
    }

    /// The address of the admin listener.
    pub const fn admin_address(&self) -> &ListenAddress {
        self.admin.address()
    }

    /// Serves until `shutdown` completes, then drains for at most `drain_timeout`. If `shutdown` completes again, the drain
    /// ends at once.
    ///
    /// # Errors
    /// [`StartError::System`]
    pub fn serve(self, shutdown: impl AsyncFn()) -> Result<(), StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let metrics = Metrics::new(self.settings.threads);
        metrics.config_reload(true, SystemTime::now());
        let usage = Arc::new(Usage::new(Arc::clone(&metrics), self.settings.threads));
        let (block_file, blocks) = self.blocks;
        let blocks = Arc::new(BlockList::new(blocks));
        let settings = Arc::clone(&self.settings);
        let configuration = Configuration::new(settings, self.resources, blocks, &metrics, &usage);
        let configuration = Arc::new(configuration);
        // Before the log says that the gateway listens: until then SIGHUP would end the process.
        let hangups = self.source.as_ref().and_then(|_| hangups(&runtime));
        let log = self.log.control().clone();
        let services = Arc::new(Services::start(&configuration, metrics, usage, log, block_file)?);
        let stop_now = Arc::new(AtomicBool::new(false));
        let (workers, threads) = start_workers(&services, &configuration, &stop_now)?;
        let current: Current = Arc::new(ArcSwap::new(Arc::clone(&configuration)));
        update_metrics_on_scrape(&services, &current);
        runtime.spawn(follow_wall_clock(Arc::clone(&current)));
        runtime.spawn(maintain_blocks(Arc::clone(&services.blocker)));
        let path = self.source.as_ref().map(|(path, _)| path.as_path());
        let Summary { version, config, routes, mode } = Summary::of(&self.settings, path);
        tracing::info!(version, config, routes, mode, "started");
        log_listener(Role::Proxy, &self.proxy);
        log_listener(Role::Admin, &self.admin);
        if let Some(listener) = &self.decision {
            log_listener(Role::Decision, listener);
        }
        let readiness = Arc::new(Readiness::default());
        let admin = start_admin(self.admin, &services, &readiness)?;
        let (configurations, new_configurations) = mpsc::unbounded_channel();
        if let Some((path, watch)) = self.source {
            let reloader = Reloader {
                path,
                watch,
                current: Arc::clone(&current),
                configurations,
                services: Arc::clone(&services),
                postponed: None,
                certificates_postponed: false,
            };
            let (hung_up, receiver) = channel();
            reloader.start(receiver)?;
            runtime.spawn(forward_hangups(hangups, hung_up));
        }
        let redirect = self.redirect.map(|listener| {
            log_listener(Role::Redirect, &listener);
            runtime.spawn(redirect::serve(listener, current, Arc::clone(&services.metrics)))
        });
        let rejected = RejectedConnections::new(services.metrics.worker(self.settings.threads));
        let dispatcher = Dispatcher::new(workers, Arc::clone(&configuration.settings), rejected);
        let (request_shutdown, mut shutdowns) = mpsc::unbounded_channel();
        let listening = async {
            loop {
                shutdown().await;
                let _ = request_shutdown.send(());
            }
        };
        let listeners = ClientListeners { proxy: self.proxy, decision: self.decision };
        let serving = async {
            services.replicas.wait_for_blocks().await;
            let requested_twice =
                accept(listeners, dispatcher, new_configurations, &readiness, &mut shutdowns).await?;
            stop_now.store(requested_twice, Ordering::Relaxed);
            if let Some(redirect) = redirect {
                redirect.abort();
            }
            let join = || threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum();
            let mut joined = spawn_blocking(join);
            loop {
                tokio::select! {
                    cut = &mut joined => return cut.map_err(io::Error::other),
                    Some(()) = shutdowns.recv() => stop_now.store(true, Ordering::Relaxed),
                }
            }
        };
        let cut: usize = runtime.block_on(async {
            tokio::select! {
                cut = serving => cut,
                never = listening => never,
            }
        })?;
        if cut > 0 {
            tracing::warn!(connections = cut, "drain timed out: connections closed");
        }
        services.shutdown(admin, stop_now.load(Ordering::Relaxed));
        Ok(())
    }
}

/// Starts all workers.
fn start_workers(
    services: &Services,
    configuration: &Arc<Configuration>,
    stop_now: &Arc<AtomicBool>,
) -> io::Result<(Vec<WorkerHandle>, Vec<JoinHandle<usize>>)> {
    let start = |index| {
        let worker = WorkerBuilder {
            index,
            metrics: Arc::clone(&services.metrics),
            configuration: Arc::clone(configuration),
            lines: services.log.line_batch(),
            stop_now: Arc::clone(stop_now),
            usage: Arc::clone(&services.usage),
            uncovered: services.uncovered.worker(index),
        };
        worker.start()
    };
    (0..configuration.settings.threads).map(start).collect()
}

/// Starts the admin listener.
fn start_admin(
    listener: Listener,
    services: &Services,
    readiness: &Arc<Readiness>,
) -> io::Result<admin::Handle> {
    let admin = Admin {
        metrics: Arc::clone(&services.metrics),
        readiness: Arc::clone(readiness),
        settings: Arc::clone(&services.settings),
        revoker: Arc::clone(&services.revoker),
        blocker: Arc::clone(&services.blocker),
        usage: Arc::clone(&services.usage),
        uncovered: Arc::clone(&services.uncovered),
        refused: RejectedAttempts::default(),
        audit: services.log.audit_log(),
        throttle: Throttle::default(),
    };
    admin.serve(listener)
}

/// The configuration in the log lines `started` and `the configuration was reloaded`.
struct Summary {
    version: &'static str,
    /// The path of `gateway.yaml`; `None` for the demo.
    config: Option<String>,
    routes: usize,
    mode: &'static str,
}

impl Summary {
    fn of(settings: &Settings, path: Option<&Path>) -> Self {
        let abilities = &settings.abilities;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            config: path.map(|path| path.display().to_string()),
            routes: abilities.routes().len(),
            mode: abilities.default_mode().as_str(),
        }
    }
}

fn log_listener(role: Role, listener: &Listener) {
    let inherited = listener.is_inherited().then_some(true);
    tracing::info!(listener = role.name(), address = %listener.address(), inherited, "listening");
}

/// Updates metrics that are read only when they are scraped.
fn update_metrics_on_scrape(services: &Services, current: &Current) {
    let current = Arc::clone(current);
    let dropped = services.log.dropped_lines();
    services.metrics.on_scrape(Box::new(move |metrics| {
        let configuration = current.load_full();
        let cache = &configuration.shared.cache;
        cache.maintain();
        let (active, inactive) = cache.sizes();
        metrics.set_cache_entries(EntryKind::Active, active);
        metrics.set_cache_entries(EntryKind::Inactive, inactive);
        metrics.set_log_lines_dropped(dropped.count());
        let settings = &configuration.settings;
        metrics.set_limits(settings.introspection.max_concurrent, settings.limits.connections);
        metrics.set_blocks(cache.blocks().counts());
        metrics.set_shadow_mode(settings.abilities.is_shadowed());
        let certificates = configuration.resources.certificates();
        metrics.set_certificates(certificates.flat_map(|certificates| certificates.states()).collect());
    }));
}

/// Compares the clocks twice a second, so that a token whose expiry the wall clock has skipped is refused.
async fn follow_wall_clock(current: Current) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Some(reading) = Reading::take() else { continue };
        let configuration = current.load_full();
        // Visits every entry, so not in the thread that accepts connections.
        let followed = move || configuration.shared.cache.follow_wall_clock(reading);
        if let Ok(Some(adjustment)) = spawn_blocking(followed).await {
            let seconds = adjustment.as_secs_f64();
            tracing::warn!(seconds, "the system clock was changed: token expiries are checked again");
        }
    }
}

/// Ends blocks, and reads and writes their file, twice a second.
async fn maintain_blocks(blocker: Arc<Blocker>) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let blocker = Arc::clone(&blocker);
        // It may wait for the disk.
        let _ = spawn_blocking(move || blocker.maintain(Instant::now())).await;
    }
}

/// SIGHUP; `None` if it cannot be received.
fn hangups(runtime: &Runtime) -> Option<Signal> {
    let _context = runtime.enter();
    signal(SignalKind::hangup())
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "cannot receive SIGHUP");
        })
        .ok()
}

/// Forwards every SIGHUP. The channel stays open without them, since the reloader also watches files.
async fn forward_hangups(hangups: Option<Signal>, hung_up: Sender<()>) {
    if let Some(mut hangups) = hangups {
        while hangups.recv().await.is_some() && hung_up.send(()).is_ok() {}
    }
    std::future::pending::<()>().await;
}

/// The listeners whose connections the workers serve.
struct ClientListeners {
    proxy: Listener,
    decision: Option<Listener>,
}

/// Accepts connections until `drain_delay` after the first shutdown request, then those that wait to be accepted. Returns
/// whether a second request has arrived.
async fn accept(
    listeners: ClientListeners,
    mut dispatcher: Dispatcher,
    mut configurations: mpsc::UnboundedReceiver<ApplyConfiguration>,
    readiness: &Readiness,
    shutdowns: &mut mpsc::UnboundedReceiver<()>,
) -> io::Result<bool> {
    let ClientListeners { proxy, decision } = listeners;
    let keeps = [proxy.is_inherited(), decision.as_ref().is_none_or(Listener::is_inherited)];
    let (proxy, _file) = Acceptor::open(proxy)?;
    let (decision, _decision_file) = decision.map(Acceptor::open).transpose()?.unzip();
    readiness.set(ReadinessState::Ready);
    supervisor::ready();
    let mut closes_at = None;
    let requested_twice = loop {
        tokio::select! {
            () = wait_until(closes_at) => break false,
            Some(()) = shutdowns.recv() => {
                if closes_at.is_some() {
                    break true;
                }
                tracing::info!("draining");
                readiness.set(ReadinessState::Draining);
                supervisor::stopping();
                // Later connections are still served: their clients may have no other instance.
                dispatcher.announce_shutdown();
                closes_at = Some(Instant::now() + dispatcher.settings().listen.drain_delay);
            }
            Some(command) = configurations.recv() => {
                dispatcher.apply(&command.configuration, &command.applied);
            }
            accepted = proxy.accept() => dispatch(&mut dispatcher, accepted, ClientListener::Proxy).await,
            accepted = accept_from(decision.as_ref()) => {
                dispatch(&mut dispatcher, accepted, ClientListener::Decision).await;
            }
        }
    };
    let listeners = [(Some(&proxy), ClientListener::Proxy), (decision.as_ref(), ClientListener::Decision)];
    for (keeps, (acceptor, listener)) in keeps.into_iter().zip(listeners) {
        // An inherited socket outlives this process: another instance accepts the connections that wait there.
        while !keeps
            && let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, accept_from(acceptor)).await
        {
            dispatcher.dispatch(accepted, listener);
        }
    }
    Ok(requested_twice)
}

/// The next connection; never, if the listener is off.
async fn accept_from(acceptor: Option<&Acceptor>) -> io::Result<Accepted> {
    match acceptor {
        Some(acceptor) => acceptor.accept().await,
        None => std::future::pending().await,
    }
}

async fn dispatch(dispatcher: &mut Dispatcher, accepted: io::Result<Accepted>, listener: ClientListener) {
    match accepted {
        Ok(accepted) => dispatcher.dispatch(accepted, listener),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// Waits until `time`; for ever if `None`.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
