//! Metrics: one shard per core, added up by each scrape.
//!
//! Each core, a single-threaded runtime, owns a shard and is its only writer, with plain loads and stores of relaxed
//! atomics: no locked instruction, no cache line shared by writers, no allocation once a route has been seen. Rare
//! events (introspections, evictions, reloads) have shared counters.

mod collect;
mod process;
mod shard;
mod usage;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{Method, StatusCode};
use prometheus::{Registry, TextEncoder};

use crate::policy::refusal::Reason;
use crate::policy::shadow::{Change, MapRole};
use shard::{RouteShard, Shard, nanoseconds};
pub use usage::UsageMetrics;

/// Half of the time for which the oldest verdict is reported.
const WINDOW: Duration = Duration::from_secs(30);

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The route label of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    /// A route of the map, from [`RouteNumbers::label`].
    Route(RouteNumber),
    /// No route matches the path: `route="unmapped"`.
    Unmapped,
    /// The request was refused before routing: `route="none"`.
    None,
}

/// The number of a route, valid for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteNumber(usize);

const UNMAPPED: RouteNumber = RouteNumber(0);
const NONE: RouteNumber = RouteNumber(1);

impl RouteLabel {
    const fn number(self) -> RouteNumber {
        match self {
            Self::Route(number) => number,
            Self::Unmapped => UNMAPPED,
            Self::None => NONE,
        }
    }
}

/// The counters of the routes of one ability map. A map that is loaded later uses the same counters for the same
/// template.
#[derive(Clone, Debug, Default)]
pub struct RouteNumbers(Arc<[RouteNumber]>);

impl RouteNumbers {
    /// The label of the route with this index among the map's templates.
    pub fn label(&self, route: usize) -> RouteLabel {
        self.0.get(route).map_or(RouteLabel::Unmapped, |number| RouteLabel::Route(*number))
    }
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

labels! {
    /// A phase of a request: `phase`.
    TimedPhase {
        /// Waiting for introspection.
        Introspection = "introspection",
        /// From the first attempt to reach the backend to the head of its response.
        Backend = "backend",
        /// The rest, in the gateway itself.
        Gateway = "gateway",
    }
}

labels! {
    /// The outcome of an introspection: `outcome`.
    IntrospectionOutcome {
        /// The token is active.
        Active = "active",
        /// The token is inactive.
        Inactive = "inactive",
        /// The introspection failed.
        NoVerdict = "no_verdict",
    }
}

labels! {
    /// The result of a cache lookup: `result`.
    LookupResult {
        /// An active verdict.
        Hit = "hit",
        /// An inactive verdict.
        NegativeHit = "negative_hit",
        /// A verdict past its `ttl`, because the introspector is unavailable.
        Stale = "stale",
        /// No usable verdict; started an introspection.
        Miss = "miss",
        /// No usable verdict; joined an introspection of the same token.
        Coalesced = "coalesced",
    }
}

labels! {
    /// The kind of a cache entry: `kind`.
    EntryKind {
        /// For active tokens.
        Active = "active",
        /// For inactive tokens.
        Inactive = "inactive",
    }
}

labels! {
    /// Why an entry was removed from the cache: `cause`.
    EvictionCause {
        /// It had expired.
        Expired = "expired",
        /// The cache was full.
        Size = "size",
        /// A newer verdict replaced it.
        Replaced = "replaced",
        /// It was revoked, or the backend's response contradicted it.
        Explicit = "explicit",
    }
}

labels! {
    /// The state of a connection: `state`.
    ConnectionUse {
        /// Has a request in flight.
        Active = "active",
        /// Idle.
        Idle = "idle",
    }
}

labels! {
    /// The source of a revocation: `source`.
    RevocationSource {
        /// The admin API.
        Admin = "admin",
        /// A signed webhook from Stockaj.
        Webhook = "webhook",
        /// Another replica.
        Redis = "redis",
    }
}

labels! {
    /// The outcome of a webhook: `outcome`.
    WebhookOutcome {
        /// The token was invalidated.
        Forgotten = "forgotten",
        /// The event does not concern tokens.
        Ignored = "ignored",
        /// The signature is invalid, or the id is missing.
        Refused = "refused",
    }
}

labels! {
    /// The direction of a message between replicas: `direction`.
    RedisMessage {
        /// Sent to the other replicas.
        Sent = "sent",
        /// Received from another replica.
        Received = "received",
        /// Received, invalid and ignored.
        Refused = "refused",
    }
}

labels! {
    /// The outcome of spans: `outcome`.
    SpanOutcome {
        /// The collector accepted them.
        Exported = "exported",
        /// The collector did not accept them, or not in time.
        Dropped = "dropped",
    }
}

labels! {
    /// Why a TLS handshake with a client failed: `reason`.
    HandshakeFailure {
        /// The client presented no certificate, or none that `client_ca` accepts.
        Certificate = "certificate",
        /// It took longer than `limits.header_timeout`.
        Timeout = "timeout",
        /// Anything else: no common version or cipher suite, no TLS, or a client that rejects the gateway's
        /// certificate.
        Protocol = "protocol",
    }
}

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
    usage: UsageMetrics,
}

/// The labels of shadow decisions: change, map, route and method.
type ShadowLabels = (Change, MapRole, RouteNumber, &'static str);

/// The routes' counters, by number and by template.
#[derive(Default)]
struct Routes {
    by_template: HashMap<Box<str>, RouteNumber>,
    rows: Vec<RouteRow>,
}

/// The counters of one route: a shard per core.
struct RouteRow {
    template: Box<str>,
    shards: Box<[Arc<RouteShard>]>,
}

impl Routes {
    fn number(&mut self, template: &str, shards: usize) -> RouteNumber {
        if let Some(number) = self.by_template.get(template) {
            return *number;
        }
        let number = RouteNumber(self.rows.len());
        self.rows.push(RouteRow {
            template: template.into(),
            shards: (0..shards).map(|_| Arc::new(RouteShard::default())).collect(),
        });
        self.by_template.insert(template.into(), number);
        number
    }
}

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
    /// Metrics for `cores` cores, with one more shard, at index `cores`, for the controlling thread.
    pub fn new(cores: usize) -> Arc<Self> {
        let shards: Box<[_]> = (0..=cores).map(|_| Arc::new(Shard::default())).collect();
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
            usage: UsageMetrics::default(),
        });
        let registry = Registry::new();
        let registered = registry.register(Box::new(collect::Sum::new(Arc::clone(&shared))));
        debug_assert!(registered.is_ok(), "{registered:?}");
        Arc::new(Self { shared, registry, before_scrape: Mutex::default() })
    }

    /// The handle of one core. Must be called on that core's thread: a shard has one writer, and two threads that wrote
    /// to it would lose counts. Therefore the handle is not [`Send`].
    ///
    /// # Panics
    /// If `index` is above the number of cores given to [`Metrics::new`].
    pub fn core(self: &Arc<Self>, index: usize) -> CoreMetrics {
        CoreMetrics(Rc::new(WorkerMetrics {
            shard: Arc::clone(&self.shared.shards[index]),
            routes: RefCell::default(),
            index,
            metrics: Arc::clone(self),
            window_since: Cell::new(Instant::now()),
        }))
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
    pub fn traces(&self, there_are: bool) {
        self.shared.traces.store(there_are, Relaxed);
    }

    /// The metrics of the usage ledger.
    pub fn usage(&self) -> &UsageMetrics {
        &self.shared.usage
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

/// The metrics of one core; see [`Metrics::core`]. Cheap to clone.
#[derive(Clone)]
pub struct CoreMetrics(Rc<WorkerMetrics>);

struct WorkerMetrics {
    shard: Arc<Shard>,
    /// This core's shard of every route seen so far, by number.
    routes: RefCell<Vec<Arc<RouteShard>>>,
    index: usize,
    metrics: Arc<Metrics>,
    /// Start of the current window of the oldest verdict.
    window_since: Cell<Instant>,
}

impl fmt::Debug for CoreMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("CoreMetrics").field(&self.0.index).finish()
    }
}

impl CoreMetrics {
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

    /// Counts a shadow decision. Rare enough for one counter for all cores.
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

    /// Adds to the open tunnels.
    pub fn tunnels(&self, change: i64) {
        shard::add_signed(&self.0.shard.tunnels, change);
    }

    /// The metrics of the whole process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }
}

#[cfg(test)]
mod tests;
