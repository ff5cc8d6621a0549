//! One worker: a thread with its own runtime, connections, pools and gateway.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::configuration::{Configuration, UpstreamClient};
use super::listen::{RejectedConnections, WorkerCommand};
use super::tls::Certificates;
use super::{connection, http1};
use crate::backend::forward::Backend;
use crate::client::pool::Census;
use crate::config::settings::{Limits, Settings};
use crate::downstream::Downstream;
use crate::downstream::state::{ConnectionPhase, ConnectionState, Shutdown};
use crate::gateway::Gateway;
use crate::response::record::{Recorder, UsageCount};
use crate::telemetry::access::{AccessLog, LineBatch};
use crate::telemetry::metrics::{ConnectionUse, CoreMetrics, Metrics};
use crate::telemetry::unmapped::CoreUncovered;
use crate::tokens::introspector::Introspector;
use crate::tokens::lookup::Lookup;
use crate::usage::count::WorkerUsage;
use crate::usage::writer::Usage;

/// Time for which a drain keeps an idle connection open, and waits for a client to close its side after its last response.
/// A request may be in transit, and would be lost.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Longest pause of the sweep.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause of the sweep while requests are served, since their clients may leave.
const PAUSE_WHILE_SERVING: Duration = Duration::from_millis(250);

/// Shortest pause between two purges of the allocator.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);
/// The largest allocation that shares its page with others, in bytes (`MI_LARGE_MAX_OBJ_SIZE` of mimalloc).
const LARGEST_SHARED: usize = 512 * 1024;

/// The parts of a worker, in the thread that starts it.
pub(super) struct WorkerBuilder {
    pub(super) index: usize,
    pub(super) metrics: Arc<Metrics>,
    pub(super) configuration: Arc<Configuration>,
    pub(super) lines: LineBatch,
    /// Connections that the worker has or will be handed.
    pub(super) load: Arc<AtomicUsize>,
    /// Whether a drain ends at once.
    pub(super) hurry: Arc<AtomicBool>,
    pub(super) usage: Arc<Usage>,
    pub(super) uncovered: CoreUncovered,
}

/// One worker.
pub(super) struct Worker {
    serving: RefCell<Rc<WorkerState>>,
    pub(super) metrics: CoreMetrics,
    /// Limits of connections whose address comes from a PROXY header.
    pub(super) rejected: RefCell<RejectedConnections>,
    connections: RefCell<Vec<Weak<Downstream>>>,
    open: Cell<usize>,
    counted: Cell<Census>,
    load: Arc<AtomicUsize>,
    usage: Rc<WorkerUsage>,
    uncovered: CoreUncovered,
    lines: Rc<LineBatch>,
}

/// The state that a reload replaces. A connection keeps its TLS configuration and hyper's settings until it ends. Each
/// request uses the gateway that is current when it begins.
pub(super) struct WorkerState {
    pub(super) gateway: Rc<Gateway>,
    pub(super) tls: Option<Arc<Certificates>>,
    pub(super) http1: hyper::server::conn::http1::Builder,
    backend: Arc<UpstreamClient>,
    introspector: Arc<UpstreamClient>,
}

impl WorkerState {
    /// The state for `configuration`. It keeps the connections of the state `before` if their destination and TLS are the
    /// same.
    fn new(
        configuration: &Configuration,
        lines: &Rc<LineBatch>,
        metrics: &CoreMetrics,
        usage: &Rc<WorkerUsage>,
        uncovered: &CoreUncovered,
        before: Option<&Self>,
    ) -> Self {
        let Configuration { settings, parts, routes, shared, limiter, rules } = configuration;
        let introspector = match before.filter(|it| Arc::ptr_eq(&it.introspector, &parts.introspector)) {
            Some(before) => before.gateway.lookup().introspector().with_settings(Arc::clone(settings)),
            None => Introspector::new(Arc::clone(settings), parts.introspector.pool()),
        };
        let backend = match before.filter(|it| Arc::ptr_eq(&it.backend, &parts.backend)) {
            Some(before) => before.gateway.backend().with_settings(Arc::clone(settings)),
            None => Backend::new(Arc::clone(settings), parts.backend.pool()),
        };
        let tracer = parts.traces.as_ref().and_then(|way| way.tracer(metrics.metrics(), settings.threads));
        let usage = rules.as_ref().map(|rules| UsageCount { core: Rc::clone(usage), rules: rules.clone() });
        let gateway = Gateway::new(
            Arc::clone(settings),
            routes.clone(),
            Lookup::new(Arc::clone(shared), introspector, metrics.clone()),
            backend,
            Arc::clone(limiter),
            Rc::new(Recorder {
                metrics: metrics.clone(),
                access: AccessLog::new(lines, &settings.log),
                uncovered: uncovered.clone(),
                tracer,
                usage,
            }),
        );
        Self {
            gateway: Rc::new(gateway),
            tls: parts.tls.clone(),
            http1: http1::builder(&settings.limits),
            backend: Arc::clone(&parts.backend),
            introspector: Arc::clone(&parts.introspector),
        }
    }
}

impl WorkerBuilder {
    fn grow(self) -> Rc<Worker> {
        let metrics = self.metrics.core(self.index);
        let usage = self.usage.worker(self.index);
        let lines = Rc::new(self.lines);
        let serving = WorkerState::new(&self.configuration, &lines, &metrics, &usage, &self.uncovered, None);
        Rc::new(Worker {
            serving: RefCell::new(Rc::new(serving)),
            rejected: RefCell::new(RejectedConnections::new(metrics.clone())),
            metrics,
            connections: RefCell::default(),
            open: Cell::new(0),
            counted: Cell::default(),
            load: self.load,
            usage,
            uncovered: self.uncovered,
            lines,
        })
    }

    /// Executes `orders` until they end, then waits until the connections have ended, for at most `drain_timeout`. Returns
    /// the number of connections that were cut.
    pub(super) async fn run(self, mut orders: mpsc::UnboundedReceiver<WorkerCommand>) -> usize {
        let hurry = Arc::clone(&self.hurry);
        let core = self.grow();
        let sweep = tokio::task::spawn_local(Rc::clone(&core).sweep());
        let handing_over = tokio::task::spawn_local(Rc::clone(&core.usage).run());
        let logging = tokio::task::spawn_local(Rc::clone(&core.lines).run());
        while let Some(order) = orders.recv().await {
            match order {
                WorkerCommand::Serve(admitted) => {
                    let core = Rc::clone(&core);
                    tokio::task::spawn_local(async move {
                        let _counted = Carried(&core.load);
                        connection::serve(Rc::clone(&core), admitted).await;
                    });
                }
                WorkerCommand::Announce => core.end_all(|_| Shutdown::Announced),
                WorkerCommand::Adopt { configuration, adopted } => {
                    core.adopt(&configuration);
                    drop(adopted);
                }
            }
        }
        core.drain(&hurry).await;
        sweep.abort();
        handing_over.abort();
        logging.abort();
        core.lines.end();
        core.load.load(Ordering::Relaxed)
    }
}

/// Counts a connection as load of its worker until it is dropped.
struct Carried<'a>(&'a AtomicUsize);

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a connection in the sweep's list until it is dropped.
pub(super) struct Open<'a>(&'a Worker);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.metrics.client_connections(ConnectionUse::Idle, -1);
    }
}

impl Worker {
    /// The state for connections that begin now.
    pub(super) fn serving(&self) -> Rc<WorkerState> {
        Rc::clone(&self.serving.borrow())
    }

    /// The gateway for requests that begin now.
    pub(super) fn gateway(&self) -> Rc<Gateway> {
        Rc::clone(&self.serving.borrow().gateway)
    }

    fn adopt(&self, configuration: &Configuration) {
        let Self { metrics, usage, uncovered, lines, .. } = self;
        let before = self.serving();
        let serving = WorkerState::new(configuration, lines, metrics, usage, uncovered, Some(&before));
        self.serving.replace(Rc::new(serving));
    }

    /// Adds a connection to the sweep's list.
    pub(super) fn enter(&self, downstream: &Rc<Downstream>) -> Open<'_> {
        self.open.set(self.open.get() + 1);
        self.metrics.client_connections(ConnectionUse::Idle, 1);
        self.connections.borrow_mut().push(Rc::downgrade(downstream));
        Open(self)
    }

    fn end_all(&self, how: impl Fn(&ConnectionState) -> Shutdown) {
        for downstream in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            downstream.state.request_shutdown(how(&downstream.state));
        }
    }

    /// Waits until all connections have ended, for at most `drain_timeout`.
    async fn drain(&self, hurry: &AtomicBool) {
        let timeout = self.gateway().settings().listen.drain_timeout;
        let (began, grace) = (Instant::now(), GRACE.min(timeout / 2));
        while self.load.load(Ordering::Relaxed) > 0 && began.elapsed() < timeout {
            if hurry.load(Ordering::Relaxed) {
                break;
            }
            let now = Instant::now();
            self.end_all(|state| match state.phase() {
                (ConnectionPhase::Idle, since) if now >= since.max(began) + grace => Shutdown::Graceful,
                _ => Shutdown::Announced,
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Enforces time limits with one timer for all connections of the worker.
    async fn sweep(self: Rc<Self>) {
        let (mut longest, mut swept_at) = (LONGEST_PAUSE, Instant::now());
        let mut collected_at = Instant::now();
        loop {
            let pause = pause(self.gateway().settings());
            tokio::time::sleep(pause.min(longest)).await;
            let gateway = self.gateway();
            let limits = &gateway.settings().limits;
            let now = Instant::now();
            longest = LONGEST_PAUSE;
            if now.saturating_duration_since(collected_at) >= COLLECT_INTERVAL {
                collected_at = now;
                collect_memory();
            }
            self.connections.borrow_mut().retain(|downstream| match downstream.upgrade() {
                Some(downstream) => {
                    end_if_overdue(&downstream, limits, now);
                    if downstream.state.phase().0 == ConnectionPhase::Serving {
                        longest = PAUSE_WHILE_SERVING;
                    }
                    true
                }
                None => false,
            });
            if now.duration_since(swept_at) < pause {
                continue;
            }
            swept_at = now;
            gateway.backend().sweep(now);
            gateway.lookup().introspector().sweep(now);
            gateway.lookup().sweep();
            self.count_backend_connections();
            self.metrics.turn_window(now);
        }
    }

    fn count_backend_connections(&self) {
        let now = self.gateway().backend().census();
        let before = self.counted.replace(now);
        let metrics = &self.metrics;
        let change = |now: usize, before: usize| now as i64 - before as i64;
        metrics.backend_connections(ConnectionUse::Active, change(now.active, before.active));
        metrics.backend_connections(ConnectionUse::Idle, change(now.idle, before.idle));
    }
}

/// Makes the allocator return free memory to the operating system.
///
/// mimalloc purges memory a second after it was freed, but only when it frees a page, which an idle worker does not do.
/// An allocation beyond [`LARGEST_SHARED`] has its own page; nothing is written to it.
fn collect_memory() {
    drop(black_box(Vec::<u8>::with_capacity(2 * LARGEST_SHARED)));
}

/// Pause of the sweep: no time limit is late by more than a quarter.
fn pause(settings: &Settings) -> Duration {
    let Limits { header_timeout, idle_timeout, body_idle_timeout, .. } = settings.limits;
    let shortest = header_timeout.min(idle_timeout).min(body_idle_timeout).min(settings.backend.timeout);
    (shortest / 4).clamp(Duration::from_millis(10), LONGEST_PAUSE)
}

fn end_if_overdue(downstream: &Downstream, limits: &Limits, now: Instant) {
    let state = &downstream.state;
    state.check_deadline(now);
    let (phase, since) = state.phase();
    let waited = now.saturating_duration_since(since);
    match phase {
        ConnectionPhase::Idle if waited >= limits.idle_timeout => state.request_shutdown(Shutdown::Graceful),
        ConnectionPhase::Head if waited >= limits.header_timeout => {
            state.request_shutdown(Shutdown::HeaderTimeout)
        }
        ConnectionPhase::Serving if state.client_has_left(now) => state.request_shutdown(Shutdown::Immediate),
        ConnectionPhase::Serving => state.watch_end(),
        ConnectionPhase::Idle | ConnectionPhase::Head => {}
    }
    if let Some(since) = state.blocked_since()
        && now.saturating_duration_since(since) >= limits.body_idle_timeout
    {
        state.request_shutdown(Shutdown::Immediate);
    }
    if let Some(since) = state.incomplete_since()
        && now.saturating_duration_since(since) >= limits.header_timeout
    {
        state.request_shutdown(Shutdown::HeaderTimeout);
    }
    downstream.for_each_stream(|stream| end_if_overdue(stream, limits, now));
}
