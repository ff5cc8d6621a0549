//! Metrics: one shard per worker, added up by each scrape.
//!
//! Each worker, a single-threaded runtime, owns a shard and is its only writer, with plain loads and stores of relaxed
//! atomics: no locked instruction, no cache line shared by writers, no allocation once a route has been seen. Rare
//! events (introspections, evictions, reloads) have shared counters.

mod collect;
mod labels;
mod process;
mod routes;
mod shard;
mod shares;
#[cfg(test)]
mod tests;
mod usage;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus::{Registry, TextEncoder};

use crate::policy::shadow::{Change, MapRole};

pub use labels::{
    ConnectionUse, EntryKind, EvictionCause, HandshakeFailure, IntrospectionOutcome, LookupResult,
    RedisMessage, RevocationSource, ShareExchange, SpanOutcome, TimedPhase, WebhookOutcome,
};
use routes::{NONE, Routes, UNMAPPED};
pub use routes::{RouteLabel, RouteNumber, RouteNumbers};
use shard::Shard;
pub use shares::ShareMetrics;
pub use usage::{QuotaMetrics, UsageMetrics};
pub use worker::WorkerMetrics;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Every metric of the process.
pub struct Metrics {
    shared: Arc<MetricsState>,
    registry: Registry,
    before_scrape: Mutex<Vec<OnScrape>>,
}

/// Updates values before a scrape; see [`Metrics::on_scrape`].
pub type OnScrape = Box<dyn Fn(&Metrics) + Send + Sync>;

/// One of the listener's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// The file's path.
    pub file: String,
    /// Expiry of the served certificate, in seconds since 1970.
    pub expires_at: u64,
    /// Whether the listener serves the certificate that is in the files.
    pub is_current: bool,
}

/// The state that the collector reads.
struct MetricsState {
    shards: Box<[Arc<Shard>]>,
    routes: Mutex<Routes>,
    introspections: [AtomicU64; IntrospectionOutcome::ALL.len()],
    introspections_in_flight: AtomicI64,
    /// 0 if the metric is absent; likewise for the next.
    introspections_limit: AtomicU64,
    client_connections_limit: AtomicU64,
    cache_entries: [AtomicU64; EntryKind::ALL.len()],
    cache_evictions: [[AtomicU64; EvictionCause::ALL.len()]; EntryKind::ALL.len()],
    log_lines_dropped: AtomicU64,
    /// 2 before the first load: the metric is absent.
    config_reload_success: AtomicU64,
    /// Seconds since 1970; 0 if the metric is absent.
    config_reload_timestamp: AtomicU64,
    certificates: Mutex<Vec<CertificateState>>,
    redirects: AtomicU64,
    revocations: [AtomicU64; RevocationSource::ALL.len()],
    webhooks: [AtomicU64; WebhookOutcome::ALL.len()],
    redis_messages: [AtomicU64; RedisMessage::ALL.len()],
    shadow: Mutex<BTreeMap<ShadowLabels, u64>>,
    shadow_mode: AtomicBool,
    spans: [AtomicU64; SpanOutcome::ALL.len()],
    /// Whether traces are on. If not, the metric is absent.
    traces: AtomicBool,
    /// 2 without Redis: the metrics are absent.
    redis_connected: AtomicU64,
    shares: ShareMetrics,
    usage: UsageMetrics,
    quota: QuotaMetrics,
    /// In the order of `BlockKind`.
    blocks: [AtomicU64; BLOCK_KINDS.len()],
    block_write_errors: AtomicU64,
}

/// The kinds of blocks, in the order of `BlockKind`.
const BLOCK_KINDS: [(usize, &str); 3] = [(0, "id"), (1, "name"), (2, "token")];

/// The labels of shadow decisions: change, map, route and method.
type ShadowLabels = (Change, MapRole, RouteNumber, &'static str);

impl MetricsState {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").field("shards", &self.shared.shards.len()).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics for `workers` workers, with one more shard, at index `workers`, for the controlling thread.
    pub fn new(workers: usize) -> Arc<Self> {
        let shards: Box<[_]> = (0..=workers).map(|_| Arc::new(Shard::default())).collect();
        let mut routes = Routes::default();
        for (template, number) in [("unmapped", UNMAPPED), ("none", NONE)] {
            let given = routes.number(template, shards.len());
            debug_assert_eq!(given, number);
        }
        let shared = Arc::new(MetricsState {
            shards,
            routes: Mutex::new(routes),
            introspections: Default::default(),
            introspections_in_flight: AtomicI64::new(0),
            introspections_limit: AtomicU64::new(0),
            client_connections_limit: AtomicU64::new(0),
            cache_entries: Default::default(),
            cache_evictions: Default::default(),
            log_lines_dropped: AtomicU64::new(0),
            config_reload_success: AtomicU64::new(2),
            config_reload_timestamp: AtomicU64::new(0),
            certificates: Mutex::default(),
            redirects: AtomicU64::new(0),
            revocations: Default::default(),
            webhooks: Default::default(),
            redis_messages: Default::default(),
            shadow: Mutex::default(),
            shadow_mode: AtomicBool::new(false),
            spans: Default::default(),
            traces: AtomicBool::new(false),
            redis_connected: AtomicU64::new(2),
            shares: ShareMetrics::default(),
            usage: UsageMetrics::default(),
            quota: QuotaMetrics::default(),
            blocks: Default::default(),
            block_write_errors: AtomicU64::new(0),
        });
        let registry = Registry::new();
        let registered = registry.register(Box::new(collect::Sum::new(Arc::clone(&shared))));
        debug_assert!(registered.is_ok(), "{registered:?}");
        Arc::new(Self { shared, registry, before_scrape: Mutex::default() })
    }

    /// The handle of one worker. Must be called on that worker's thread: a shard has one writer, and two threads that wrote
    /// to it would lose counts. Therefore the handle is not [`Send`].
    ///
    /// # Panics
    /// If `index` is above the number of workers given to [`Metrics::new`].
    pub fn worker(self: &Arc<Self>, index: usize) -> WorkerMetrics {
        WorkerMetrics::new(index, self)
    }

    /// The counters of a map's routes, in the order of `templates`. Must be called for each loaded map, before its
    /// first request.
    pub fn routes<'a>(&self, templates: impl Iterator<Item = &'a str>) -> RouteNumbers {
        let shards = self.shared.shards.len();
        let mut routes = self.shared.routes();
        RouteNumbers(templates.map(|template| routes.number(template, shards)).collect())
    }

    /// Counts a completed introspection. For any thread.
    pub fn introspection(&self, outcome: IntrospectionOutcome) {
        self.shared.introspections[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts an introspection as in flight until the guard is dropped. For any thread.
    pub fn introspection_started(&self) -> IntrospectionInFlight {
        self.shared.introspections_in_flight.fetch_add(1, Relaxed);
        IntrospectionInFlight(Arc::clone(&self.shared))
    }

    /// Counts an entry removed from the cache. For any thread.
    pub fn cache_eviction(&self, kind: EntryKind, cause: EvictionCause) {
        self.shared.cache_evictions[kind as usize][cause as usize].fetch_add(1, Relaxed);
    }

    /// Sets the number of cache entries. Must be called from [`Metrics::on_scrape`].
    pub fn set_cache_entries(&self, kind: EntryKind, entries: u64) {
        self.shared.cache_entries[kind as usize].store(entries, Relaxed);
    }

    /// Sets the limits of introspections in flight and of client connections. Must be called from
    /// [`Metrics::on_scrape`].
    pub fn set_limits(&self, introspections: usize, client_connections: usize) {
        self.shared.introspections_limit.store(introspections as u64, Relaxed);
        self.shared.client_connections_limit.store(client_connections as u64, Relaxed);
    }

    /// Sets the number of dropped log lines. Must be called from [`Metrics::on_scrape`].
    pub fn set_log_lines_dropped(&self, lines: u64) {
        self.shared.log_lines_dropped.store(lines, Relaxed);
    }

    /// Records whether a configuration was loaded or rejected.
    pub fn config_reload(&self, success: bool, now: SystemTime) {
        if success {
            self.shared.config_reload_timestamp.store(epoch_seconds(now), Relaxed);
        }
        self.shared.config_reload_success.store(success.into(), Relaxed);
    }

    /// Sets the state of the listener's certificates. Must be called from [`Metrics::on_scrape`].
    pub fn set_certificates(&self, certificates: Vec<CertificateState>) {
        *self.shared.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// Counts a redirect to https.
    pub fn redirected(&self) {
        self.shared.redirects.fetch_add(1, Relaxed);
    }

    /// Counts a revocation.
    pub fn revoked(&self, source: RevocationSource) {
        self.shared.revocations[source as usize].fetch_add(1, Relaxed);
    }

    /// Sets the number of blocks of each kind. Must be called from [`Metrics::on_scrape`].
    pub fn set_blocks(&self, counts: [u64; BLOCK_KINDS.len()]) {
        for (block, count) in self.shared.blocks.iter().zip(counts) {
            block.store(count, Relaxed);
        }
    }

    /// Counts a failed write of the file of blocks.
    pub fn block_write_failed(&self) {
        self.shared.block_write_errors.fetch_add(1, Relaxed);
    }

    /// Counts a webhook.
    pub fn webhook(&self, outcome: WebhookOutcome) {
        self.shared.webhooks[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a message between replicas.
    pub fn redis_message(&self, what: RedisMessage) {
        self.shared.redis_messages[what as usize].fetch_add(1, Relaxed);
    }

    /// Sets whether Redis is connected; `None` without Redis.
    pub fn redis_connected(&self, connected: Option<bool>) {
        self.shared.redis_connected.store(connected.map_or(2, u64::from), Relaxed);
    }

    /// The metrics of rate limits that replicas share.
    pub fn shares(&self) -> &ShareMetrics {
        &self.shared.shares
    }

    /// Sets whether any route is not enforced. Must be called from [`Metrics::on_scrape`].
    pub fn set_shadow_mode(&self, is_shadowed: bool) {
        self.shared.shadow_mode.store(is_shadowed, Relaxed);
    }

    /// Counts spans.
    pub fn spans(&self, outcome: SpanOutcome, spans: u64) {
        self.shared.spans[outcome as usize].fetch_add(spans, Relaxed);
    }

    /// The number of dropped spans.
    pub fn spans_dropped(&self) -> u64 {
        self.shared.spans[SpanOutcome::Dropped as usize].load(Relaxed)
    }

    /// Sets whether traces are on.
    pub fn set_traces(&self, enabled: bool) {
        self.shared.traces.store(enabled, Relaxed);
    }

    /// The metrics of the usage ledger.
    pub fn usage(&self) -> &UsageMetrics {
        &self.shared.usage
    }

    /// The metrics of quotas.
    pub fn quota(&self) -> &QuotaMetrics {
        &self.shared.quota
    }

    /// Registers a callback that every [`Metrics::render`] calls first, on its thread.
    pub fn on_scrape(&self, callback: OnScrape) {
        self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner).push(callback);
    }

    /// All metrics in the Prometheus text format, [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        for callback in self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            callback(self);
        }
        let mut text = String::with_capacity(32 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }
}

fn epoch_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Counts an introspection as in flight until dropped.
#[must_use]
pub struct IntrospectionInFlight(Arc<MetricsState>);

impl fmt::Debug for IntrospectionInFlight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("IntrospectionInFlight")
    }
}

impl Drop for IntrospectionInFlight {
    fn drop(&mut self) {
        self.0.introspections_in_flight.fetch_sub(1, Relaxed);
    }
}
