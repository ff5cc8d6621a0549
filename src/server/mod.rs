//! Listeners, workers and draining.
//!
//! The thread that calls [`Server::serve`] accepts connections and hands each to the worker with the fewest. Workers share
//! neither runtime nor pools nor front caches.

mod configuration;
mod connection;
mod header_blocks;
mod http1;
mod http2;
mod http2_flood;
mod last_answer;
mod listen;
mod proxy_protocol;
mod redirect;
mod reload;
mod scanned_io;
mod small_data;
mod supervisor;
pub mod tls;
mod transport;
mod whole_heads;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::runtime::{self, LocalOptions, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::configuration::Configuration;
pub use self::configuration::Resources;
use self::listen::{AFTER_FAILURE, Acceptor, Dispatcher, RejectedConnections, WorkerCommand, WorkerHandle};
use self::reload::{ApplyConfiguration, Current, Reloader};
use self::worker::WorkerBuilder;
use crate::admin::{Admin, Readiness, RejectedAttempts, State, Throttle};
use crate::client::ConnectorError;
use crate::config::settings::{ListenAddress, Settings};
use crate::listener::{BindError, InheritError, Inherited, Listener, Role};
use crate::replicas::Replicas;
use crate::telemetry::log;
use crate::telemetry::metrics::{EntryKind, Metrics};
use crate::telemetry::unmapped::UncoveredRequests;
use crate::tokens::clock::Reading;
use crate::tokens::revoker::Revoker;
use crate::traces::TraceExporter;
use crate::usage::writer::Usage;
use crate::watch::FileWatcher;

/// Why a configuration that is valid cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("{key}: {source}")]
    Bind {
        /// `listen.address`, `listen.redirect_address` or `admin.address`
        key: &'static str,
        /// The cause.
        source: BindError,
    },
    /// A certificate of `listen.tls` cannot be served.
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
            Self::Inherit(_) | Self::System(_) => None,
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
    parts: Resources,
    source: Option<(PathBuf, FileWatcher)>,
}

impl Server {
    /// Binds the listeners that were not `inherited`, and reads certificates and roots.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left half-started.
    pub fn bind(settings: Settings, log: log::Guard, mut inherited: Inherited) -> Result<Self, StartError> {
        let parts = Resources::build(&settings)?;
        let mut listen = |role, address, key| match inherited.remove(role) {
            Some(listener) => Ok(listener),
            None => Listener::bind(address).map_err(|source| StartError::Bind { key, source }),
        };
        let proxy = listen(Role::Proxy, &settings.listen.address, "listen.address")?;
        if matches!(proxy.address(), ListenAddress::Unix(_)) && !settings.listen.tls.is_empty() {
            return Err(InheritError::Unencrypted.into());
        }
        let admin = listen(Role::Admin, &settings.admin.address, "admin.address")?;
        let redirect = settings.listen.redirect_address.as_ref();
        let redirect =
            redirect.map(|address| listen(Role::Redirect, address, "listen.redirect_address")).transpose()?;
        if inherited.remove(Role::Redirect).is_some() {
            return Err(InheritError::NotConfigured.into());
        }
        Ok(Self { settings: Arc::new(settings), log, proxy, admin, redirect, parts, source: None })
    }

    /// Enables reloading on SIGHUP and when one of `files` changes: `path` and the files that it names.
    pub fn reloading(self, path: PathBuf, files: Vec<PathBuf>) -> Self {
        let watch = FileWatcher::new(files);
        if let Some(certificates) = &self.parts.tls {
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

    /// Serves until `told` completes, then drains for at most `drain_timeout`. If `told` completes again, it ends at once.
    ///
    /// # Errors
    /// [`StartError::System`]
    pub fn serve(self, told: impl AsyncFn()) -> Result<(), StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let metrics = Metrics::new(self.settings.threads);
        metrics.config_reload(true, SystemTime::now());
        let usage = Arc::new(Usage::new(Arc::clone(&metrics), self.settings.threads));
        let configuration = Configuration::new(Arc::clone(&self.settings), self.parts, &metrics, &usage);
        let configuration = Arc::new(configuration);
        // Before the log says that the gateway listens: until then SIGHUP would end the process.
        let hangups = self.source.as_ref().and_then(|_| hangups(&runtime));
        let exports = Arc::new(TraceExporter::new(Arc::clone(&metrics)));
        exports.apply(configuration.parts.traces.as_ref())?;
        usage.apply(self.settings.usage.as_ref())?;
        let log = self.log.control();
        let hurry = Arc::new(AtomicBool::new(false));
        let uncovered = UncoveredRequests::new(self.settings.threads);
        let mut cores = Vec::new();
        let mut seats = Vec::new();
        for index in 0..self.settings.threads {
            let (seat, core) = start_core(index, &metrics, &configuration, log, &hurry, &usage, &uncovered)?;
            seats.push(seat);
            cores.push(core);
        }
        let current: Current = Arc::new(ArcSwap::new(Arc::clone(&configuration)));
        measure(&metrics, &current, log);
        runtime.spawn(follow_wall_clock(Arc::clone(&current)));
        let path = self.source.as_ref().map(|(path, _)| path.as_path());
        let Summary { version, config, routes, mode } = Summary::of(&self.settings, path);
        tracing::info!(version, config, routes, mode, "started");
        tell_of(Role::Proxy, &self.proxy);
        tell_of(Role::Admin, &self.admin);
        let readiness = Arc::new(Readiness::default());
        let settings = Arc::new(ArcSwap::new(Arc::clone(&self.settings)));
        let revoker = Arc::new(Revoker::new(Arc::clone(&configuration.shared), Arc::clone(&metrics)));
        let replicas = Arc::new(Replicas::new(Arc::clone(&revoker), Arc::clone(&metrics)));
        replicas.apply(configuration.parts.redis.as_ref())?;
        let admin = Admin {
            metrics: Arc::clone(&metrics),
            readiness: Arc::clone(&readiness),
            settings: Arc::clone(&settings),
            revoker: Arc::clone(&revoker),
            usage: Arc::clone(&usage),
            uncovered,
            refused: RejectedAttempts::default(),
            audit: log.audit_log(),
            throttle: Throttle::default(),
        };
        let admin = admin.serve(self.admin)?;

        let (adoptions, to_adopt) = mpsc::unbounded_channel();
        if let Some((path, watch)) = self.source {
            let log = log.clone();
            let reloader = Reloader {
                path,
                watch,
                current: Arc::clone(&current),
                adoptions,
                metrics: Arc::clone(&metrics),
                log,
                settings,
                revoker,
                replicas: Arc::clone(&replicas),
                exports: Arc::clone(&exports),
                usage: Arc::clone(&usage),
                postponed: None,
                certificates_postponed: false,
            };
            let (hung_up, receiver) = channel();
            reloader.start(receiver)?;
            runtime.spawn(tell_hangups(hangups, hung_up));
        }
        let redirect = self.redirect.map(|listener| {
            tell_of(Role::Redirect, &listener);
            runtime.spawn(redirect::serve(listener, current, Arc::clone(&metrics)))
        });
        let rejected = RejectedConnections::new(metrics.core(self.settings.threads));
        let seating = Dispatcher::new(seats, Arc::clone(&configuration.settings), rejected);
        let (tell, mut tellings) = mpsc::unbounded_channel();
        let listening = async {
            loop {
                told().await;
                let _ = tell.send(());
            }
        };
        let serving = async {
            let in_a_hurry = accept(self.proxy, seating, to_adopt, &readiness, &mut tellings).await?;
            hurry.store(in_a_hurry, Ordering::Relaxed);
            if let Some(redirect) = redirect {
                redirect.abort();
            }
            let join = || cores.into_iter().map(|core| core.join().unwrap_or_default()).sum();
            let mut joined = spawn_blocking(join);
            loop {
                tokio::select! {
                    cut = &mut joined => return cut.map_err(io::Error::other),
                    Some(()) = tellings.recv() => hurry.store(true, Ordering::Relaxed),
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
            tracing::warn!(connections = cut, "the time is up: connections were cut");
        }
        exports.stop(hurry.load(Ordering::Relaxed));
        usage.stop();
        tracing::info!("drained");
        admin.stop();
        // After the last revocation.
        replicas.stop();
        Ok(())
    }
}

/// The configuration in the log line `started` or `reloaded`.
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

fn tell_of(role: Role, listener: &Listener) {
    let inherited = listener.is_inherited().then_some(true);
    tracing::info!(listener = role.name(), address = %listener.address(), inherited, "listening");
}

/// Updates metrics that are read only when they are scraped.
fn measure(metrics: &Arc<Metrics>, current: &Current, log: &log::Control) {
    let current = Arc::clone(current);
    let dropped = log.dropped_lines();
    metrics.on_scrape(Box::new(move |metrics| {
        let configuration = current.load_full();
        let cache = &configuration.shared.cache;
        cache.maintain();
        let (active, inactive) = cache.sizes();
        metrics.set_cache_entries(EntryKind::Active, active);
        metrics.set_cache_entries(EntryKind::Inactive, inactive);
        metrics.set_log_lines_dropped(dropped.count());
        let settings = &configuration.settings;
        metrics.set_limits(settings.introspection.max_concurrent, settings.limits.connections);
        metrics.set_shadow_mode(settings.abilities.is_shadowed());
        metrics.set_certificates(configuration.parts.tls.as_ref().map_or_else(Vec::new, |tls| tls.states()));
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
            tracing::warn!(seconds, "the wall clock was set: token expiries are checked against it anew");
        }
    }
}

/// SIGHUP; `None` if it cannot be received.
fn hangups(runtime: &Runtime) -> Option<Signal> {
    let _context = runtime.enter();
    signal(SignalKind::hangup())
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "SIGHUP cannot be received");
        })
        .ok()
}

/// Forwards every SIGHUP. The channel stays open without them, since the reloader also watches files.
async fn tell_hangups(hangups: Option<Signal>, hung_up: Sender<()>) {
    if let Some(mut hangups) = hangups {
        while hangups.recv().await.is_some() && hung_up.send(()).is_ok() {}
    }
    std::future::pending::<()>().await;
}

fn start_core(
    index: usize,
    metrics: &Arc<Metrics>,
    configuration: &Arc<Configuration>,
    log: &log::Control,
    hurry: &Arc<AtomicBool>,
    usage: &Arc<Usage>,
    uncovered: &Arc<UncoveredRequests>,
) -> io::Result<(WorkerHandle, JoinHandle<usize>)> {
    let (sender, orders) = mpsc::unbounded_channel::<WorkerCommand>();
    let load = Arc::new(AtomicUsize::new(0));
    let seed = WorkerBuilder {
        index,
        metrics: Arc::clone(metrics),
        configuration: Arc::clone(configuration),
        lines: log.line_batch(),
        load: Arc::clone(&load),
        hurry: Arc::clone(hurry),
        usage: Arc::clone(usage),
        uncovered: uncovered.core(index),
    };
    // The runtime cannot leave its thread, so the thread reports whether it could create one.
    let (started, is_started) = std::sync::mpsc::sync_channel(1);
    let core = thread::Builder::new().name(format!("core-{index}")).spawn(move || {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(seed.run(orders))
            }
            Err(error) => {
                let _ = started.send(Err(error));
                0
            }
        }
    })?;
    is_started.recv().map_err(io::Error::other)??;
    Ok((WorkerHandle { load, sender }, core))
}

/// Accepts connections until `drain_delay` after the first shutdown request, then those that wait to be accepted. Returns
/// whether a second request has arrived.
async fn accept(
    listener: Listener,
    mut seating: Dispatcher,
    mut adoptions: mpsc::UnboundedReceiver<ApplyConfiguration>,
    readiness: &Readiness,
    tellings: &mut mpsc::UnboundedReceiver<()>,
) -> io::Result<bool> {
    let is_inherited = listener.is_inherited();
    let (door, _file) = Acceptor::open(listener)?;
    readiness.set(State::Ready);
    supervisor::ready();
    let mut closes_at = None;
    let in_a_hurry = loop {
        tokio::select! {
            () = wait_until(closes_at) => break false,
            Some(()) = tellings.recv() => {
                if closes_at.is_some() {
                    break true;
                }
                tracing::info!("draining");
                readiness.set(State::Draining);
                supervisor::stopping();
                // Clients that connect from now on have found no other instance.
                seating.announce_the_end();
                closes_at = Some(Instant::now() + seating.settings().listen.drain_delay);
            }
            Some(adoption) = adoptions.recv() => seating.adopt(&adoption),
            accepted = door.accept() => match accepted {
                Ok(accepted) => seating.seat(accepted),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    };
    // An inherited socket outlives this process: another instance accepts what waits there.
    while !is_inherited && let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, door.accept()).await {
        seating.seat(accepted);
    }
    Ok(in_a_hurry)
}

/// Waits for ever for `None`.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
