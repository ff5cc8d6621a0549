//! The connections of a worker, and the state that a reload replaces.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hyper::server::conn::http1;

use crate::backend::forward::Backend;
use crate::client::pool::PoolStats;
use crate::config::settings::Limits;
use crate::downstream::Downstream;
use crate::downstream::state::{ConnectionState, Shutdown};
use crate::gateway::Gateway;
use crate::response::record::{Recorder, UsageCount};
use crate::server::configuration::{Configuration, UpstreamClient};
use crate::server::rejected::RejectedConnections;
use crate::server::tls::Certificates;
use crate::telemetry::access::{AccessLog, LineBatch};
use crate::telemetry::metrics::{ConnectionUse, WorkerMetrics};
use crate::telemetry::unmapped::WorkerUncovered;
use crate::tokens::introspector::Introspector;
use crate::tokens::lookup::Lookup;
use crate::usage::count::WorkerUsage;

/// Time for which a drain keeps an idle connection open, and waits for a client to close its side after its last response.
/// A request may be in transit, and would be lost.
pub(in crate::server) const GRACE: Duration = Duration::from_secs(1);

/// Number of header fields for which hyper needs no allocation.
const FIELDS_ON_THE_STACK: usize = 100;

/// Smallest buffer of hyper, in bytes. hyper has one size for reading and writing, and a head has to fit in it.
const MIN_BUFFER: usize = 16 * 1024;

/// One worker.
pub(in crate::server) struct Worker {
    pub(super) state: RefCell<Rc<WorkerState>>,
    pub(in crate::server) metrics: WorkerMetrics,
    /// Connections rejected after their PROXY header was read.
    pub(in crate::server) rejected: RefCell<RejectedConnections>,
    pub(super) connections: RefCell<Vec<Weak<Downstream>>>,
    /// The numbers of backend connections in the metrics.
    pub(super) counted: Cell<PoolStats>,
    pub(super) load: Arc<AtomicUsize>,
    pub(super) usage: Rc<WorkerUsage>,
    pub(super) uncovered: WorkerUncovered,
    pub(super) lines: Rc<LineBatch>,
}

/// The state that a reload replaces. A connection keeps its TLS configuration and hyper's settings until it ends. Each
/// request uses the gateway that is current when it begins.
pub(in crate::server) struct WorkerState {
    pub(in crate::server) gateway: Rc<Gateway>,
    pub(in crate::server) tls: Option<Arc<Certificates>>,
    pub(in crate::server) decision_tls: Option<Arc<Certificates>>,
    pub(in crate::server) http1: http1::Builder,
    backend: Arc<UpstreamClient>,
    introspector: Arc<UpstreamClient>,
}

impl WorkerState {
    /// The state for `configuration`. It keeps the connections of the state `before` if their destination and TLS are the
    /// same.
    pub(super) fn new(
        configuration: &Configuration,
        lines: &Rc<LineBatch>,
        metrics: &WorkerMetrics,
        usage: &Rc<WorkerUsage>,
        uncovered: &WorkerUncovered,
        before: Option<&Self>,
    ) -> Self {
        let Configuration { settings, resources, routes, shared, limiter, rules } = configuration;
        let introspector = match before.filter(|it| Arc::ptr_eq(&it.introspector, &resources.introspector)) {
            Some(before) => before.gateway.lookup().introspector().with_settings(Arc::clone(settings)),
            None => Introspector::new(Arc::clone(settings), resources.introspector.pool()),
        };
        let backend = match before.filter(|it| Arc::ptr_eq(&it.backend, &resources.backend)) {
            Some(before) => before.gateway.backend().with_settings(Arc::clone(settings)),
            None => Backend::new(Arc::clone(settings), resources.backend.pool()),
        };
        let collector = resources.traces.as_ref();
        let tracer = collector.and_then(|collector| collector.tracer(metrics.metrics(), settings.threads));
        let usage = rules.as_ref().map(|rules| UsageCount { worker: Rc::clone(usage), rules: rules.clone() });
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
            tls: resources.tls.clone(),
            decision_tls: resources.decision_tls.clone(),
            http1: http1_builder(&settings.limits),
            backend: Arc::clone(&resources.backend),
            introspector: Arc::clone(&resources.introspector),
        }
    }
}

/// hyper's settings for HTTP/1 connections.
pub(in crate::server) fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // Otherwise hyper reads while it serves, only to notice a client that leaves: two allocations of 8 KiB per request.
    // The sweep makes `ScannedIo` check for that instead.
    http1.half_close(true);
    // The sweep enforces the time limit. hyper's own sets a timer for every request.
    http1.header_read_timeout(None);
    // The scanner in front of hyper refuses larger heads, with the gateway's response.
    http1.max_header_size(limits.header_bytes + 1);
    // Copying a small response costs less than a vectored write.
    http1.writev(false);
    http1.max_buf_size(limits.header_bytes.max(MIN_BUFFER) + 1);
    if limits.header_count != FIELDS_ON_THE_STACK {
        http1.max_headers(limits.header_count);
    }
    http1
}

/// Counts a connection in the metrics until it is dropped.
pub(in crate::server) struct OpenConnection<'a>(&'a Worker);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.metrics.client_connections(ConnectionUse::Idle, -1);
    }
}

impl Worker {
    /// The state for connections that begin now.
    pub(in crate::server) fn state(&self) -> Rc<WorkerState> {
        Rc::clone(&self.state.borrow())
    }

    /// The gateway for requests that begin now.
    pub(in crate::server) fn gateway(&self) -> Rc<Gateway> {
        Rc::clone(&self.state.borrow().gateway)
    }

    /// Replaces the state.
    pub(super) fn apply(&self, configuration: &Configuration) {
        let Self { metrics, usage, uncovered, lines, .. } = self;
        let before = self.state();
        let state = WorkerState::new(configuration, lines, metrics, usage, uncovered, Some(&before));
        self.state.replace(Rc::new(state));
    }

    /// Adds a connection to the sweep's list.
    pub(in crate::server) fn open(&self, downstream: &Rc<Downstream>) -> OpenConnection<'_> {
        self.metrics.client_connections(ConnectionUse::Idle, 1);
        self.connections.borrow_mut().push(Rc::downgrade(downstream));
        OpenConnection(self)
    }

    /// Requests the end of each connection.
    pub(super) fn shut_down_all(&self, how: impl Fn(&ConnectionState) -> Shutdown) {
        for downstream in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            downstream.state.request_shutdown(how(&downstream.state));
        }
    }
}
