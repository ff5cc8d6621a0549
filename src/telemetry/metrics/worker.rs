//! The metrics of one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::shard::{RouteShard, Shard, nanoseconds};
use super::{
    ConnectionUse, HandshakeFailure, IntrospectionOutcome, LookupResult, Metrics, RouteLabel, RouteNumber,
    TimedPhase, shard,
};
use crate::policy::refusal::Reason;
use crate::policy::shadow::{Change, MapRole};

/// Half of the time for which the oldest verdict is reported.
const WINDOW: Duration = Duration::from_secs(30);

/// The metrics of one worker; see [`Metrics::worker`]. Cheap to clone.
#[derive(Clone)]
pub struct WorkerMetrics(Rc<WorkerCounters>);

struct WorkerCounters {
    shard: Arc<Shard>,
    /// This worker's shard of every route seen so far, by number.
    routes: RefCell<Vec<Arc<RouteShard>>>,
    /// The same for requests on the decision listener.
    described: RefCell<HashMap<RouteNumber, Arc<RouteShard>>>,
    index: usize,
    metrics: Arc<Metrics>,
    /// Start of the current window of the oldest verdict.
    window_since: Cell<Instant>,
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("WorkerMetrics").field(&self.0.index).finish()
    }
}

impl WorkerMetrics {
    pub(super) fn new(index: usize, metrics: &Arc<Metrics>) -> Self {
        Self(Rc::new(WorkerCounters {
            shard: Arc::clone(&metrics.shared.shards[index]),
            routes: RefCell::default(),
            described: RefCell::default(),
            index,
            metrics: Arc::clone(metrics),
            window_since: Cell::new(Instant::now()),
        }))
    }

    /// Counts a completed request, with the time from its head to the end of its response.
    pub fn request(
        &self,
        route: RouteLabel,
        method: &Method,
        status: StatusCode,
        reason: Reason,
        duration: Duration,
    ) {
        let RouteNumber(number) = route.number();
        let mut routes = self.0.routes.borrow_mut();
        if number >= routes.len() {
            let registry = self.0.metrics.shared.routes();
            let unseen = registry.rows[routes.len()..].iter();
            routes.extend(unseen.map(|row| Arc::clone(&row.shards[self.0.index])));
        }
        if let Some(shard) = routes.get(number) {
            shard.request(method, status, reason, nanoseconds(duration));
        }
    }

    /// Counts a request that was described on the decision listener, with the time until its answer has been sent.
    pub fn described_request(
        &self,
        route: RouteLabel,
        method: &Method,
        status: StatusCode,
        reason: Reason,
        duration: Duration,
    ) {
        let number = route.number();
        let mut described = self.0.described.borrow_mut();
        let shard = described.entry(number).or_insert_with(|| {
            let registry = self.0.metrics.shared.routes();
            let shard = registry.rows.get(number.0).and_then(|row| row.described.get(self.0.index));
            shard.map(|shard| Arc::clone(shard.get_or_init(Arc::default))).unwrap_or_default()
        });
        shard.request(method, status, reason, nanoseconds(duration));
    }

    /// Counts a shadow decision. Rare enough for one counter for all workers.
    pub fn shadow(&self, change: Change, side: MapRole, route: RouteLabel, method: &Method) {
        let key = (change, side, route.number(), shard::method_word(method));
        let shared = &self.0.metrics.shared;
        *shared.shadow.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    /// Adds to the duration of a phase.
    pub fn phase(&self, phase: TimedPhase, duration: Duration) {
        self.0.shard.phases[phase as usize].observe(nanoseconds(duration));
    }

    /// Counts a cache lookup.
    pub fn cache_lookup(&self, result: LookupResult) {
        shard::add(&self.0.shard.cache_lookups[result as usize], 1);
    }

    /// Records the age of a verdict that allowed a request.
    pub fn verdict_served(&self, age: Duration) {
        let [oldest, _] = &self.0.shard.oldest_verdicts;
        let age = nanoseconds(age);
        if age > oldest.load(Relaxed) {
            oldest.store(age, Relaxed);
        }
    }

    /// Starts a new window of the oldest verdict if this one has ended. Must be called about once per second.
    pub fn turn_window(&self, now: Instant) {
        if now.saturating_duration_since(self.0.window_since.get()) >= WINDOW {
            self.0.window_since.set(now);
            let [current, before] = &self.0.shard.oldest_verdicts;
            before.store(current.load(Relaxed), Relaxed);
            current.store(0, Relaxed);
        }
    }

    /// Counts a failed TLS handshake.
    pub fn handshake_failure(&self, reason: HandshakeFailure) {
        shard::add(&self.0.shard.handshake_failures[reason as usize], 1);
    }

    /// Counts a completed introspection.
    pub fn introspection(&self, outcome: IntrospectionOutcome) {
        self.0.metrics.introspection(outcome);
    }

    /// Adds to the client connections in `state`; a change of state is two calls.
    pub fn client_connections(&self, state: ConnectionUse, change: i64) {
        shard::add_signed(&self.0.shard.client_connections[state as usize], change);
    }

    /// Adds to the backend connections in `state`; a change of state is two calls.
    pub fn backend_connections(&self, state: ConnectionUse, change: i64) {
        shard::add_signed(&self.0.shard.backend_connections[state as usize], change);
    }

    /// Adds to the requests that wait for a connection to the backend.
    pub fn queue_length(&self, change: i64) {
        shard::add_signed(&self.0.shard.queue_length, change);
    }

    /// Adds to the open tunnels.
    pub fn tunnels(&self, change: i64) {
        shard::add_signed(&self.0.shard.tunnels, change);
    }

    /// The metrics of the whole process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }
}
