//! Metrics: one shard a core, added up at scrape.
//!
//! Every core, a single-threaded runtime, owns a shard that it alone writes, with plain loads and stores of
//! relaxed atomics: no locked instruction, no line of memory that two cores write, no allocation once a
//! route has been seen. What happens rarely (introspections, evictions, reloads) is shared.

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
use crate::policy::shadow::{Change, Side};
use shard::{RouteShard, Shard, nanoseconds};
pub use usage::UsageMetrics;

/// Half of the time that the oldest verdict is remembered for.
const WINDOW: Duration = Duration::from_secs(30);

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Which route a request is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    /// A route of the map, from [`RouteNumbers::label`].
    Route(RouteNumber),
    /// No route matches the path: `route="unmapped"`.
    Unmapped,
    /// Refused before routing: `route="none"`.
    None,
}

/// A route's number, the same for as long as the process lives.
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

/// From the routes of one ability map to their counters. A map that is loaded later and has the same
/// template goes on with the same counters.
#[derive(Clone, Debug, Default)]
pub struct RouteNumbers(Arc<[RouteNumber]>);

impl RouteNumbers {
    /// The label of the route that has this index among the map's templates.
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
    /// A part of a request's time: `phase`.
    TimedPhase {
        /// Waiting for a verdict.
        Introspection = "introspection",
        /// From the first attempt to reach the backend to the head of its answer.
        Backend = "backend",
        /// The rest: our own work.
        Gateway = "gateway",
    }
}

labels! {
    /// What an introspection brought: `outcome`.
    IntrospectionOutcome {
        /// The token is good.
        Active = "active",
        /// The token is not.
        Inactive = "inactive",
        /// Neither could be learned.
        NoVerdict = "no_verdict",
    }
}

labels! {
    /// How the cache answered: `result`.
    LookupResult {
        /// With an active verdict.
        Hit = "hit",
        /// With 'inactive'.
        NegativeHit = "negative_hit",
        /// With a verdict past its time, because the introspector is out.
        Stale = "stale",
        /// Not at all: an introspection was started.
        Miss = "miss",
        /// Not at all, and an introspection of the same token was already under way.
        Coalesced = "coalesced",
    }
}

labels! {
    /// Which of the two caches: `kind`.
    EntryKind {
        /// Of good tokens.
        Active = "active",
        /// Of tokens that are not.
        Inactive = "inactive",
    }
}

labels! {
    /// Why an entry left the cache: `cause`.
    EvictionCause {
        /// Its time was over.
        Expired = "expired",
        /// The cache was full.
        Size = "size",
        /// A newer verdict took its place.
        Replaced = "replaced",
        /// It was revoked, or the backend contradicted it.
        Explicit = "explicit",
    }
}

labels! {
    /// What a connection does: `state`.
    ConnectionUse {
        /// Carries a request.
        Active = "active",
        /// Waits for one.
        Idle = "idle",
    }
}

labels! {
    /// Who ordered that verdicts be forgotten: `source`.
    RevocationSource {
        /// Somebody with the admin token.
        Admin = "admin",
        /// Stockaj, by a signed webhook.
        Webhook = "webhook",
        /// Another replica.
        Redis = "redis",
    }
}

labels! {
    /// What came of a webhook: `outcome`.
    WebhookOutcome {
        /// A token's verdict was forgotten.
        Forgotten = "forgotten",
        /// Of an event that says nothing about tokens.
        Ignored = "ignored",
        /// Without a good signature, or without an id.
        Refused = "refused",
    }
}

labels! {
    /// What became of a message between replicas: `direction`.
    RedisMessage {
        /// To the others.
        Sent = "sent",
        /// From another.
        Received = "received",
        /// Not understood, and without effect.
        Refused = "refused",
    }
}

labels! {
    /// What became of spans: `outcome`.
    SpanOutcome {
        /// The collector has taken them.
        Exported = "exported",
        /// It could not, or not in time.
        Dropped = "dropped",
    }
}

labels! {
    /// Why TLS with a client came to nothing: `reason`.
    HandshakeFailure {
        /// It showed no certificate, or none that `client_ca` accepts.
        Certificate = "certificate",
        /// It took longer than `limits.header_timeout`.
        Timeout = "timeout",
        /// Anything else: no version or suite in common, no TLS at all, a client that does not believe ours.
        Protocol = "protocol",
    }
}

/// Every metric of the process.
pub struct Metrics {
    shared: Arc<Shared>,
    registry: Registry,
    before_scrape: Mutex<Vec<OnScrape>>,
}

/// Brings values up to date before a scrape reads them; see [`Metrics::on_scrape`].
pub type OnScrape = Box<dyn Fn(&Metrics) + Send + Sync>;

/// One of the listener's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// The file's path.
    pub file: String,
    /// When what is served ends, in seconds since 1970.
    pub expires_at: u64,
    /// Whether what is in the files is served.
    pub is_current: bool,
}

/// What the collector reads.
struct Shared {
    shards: Box<[Arc<Shard>]>,
    routes: Mutex<Routes>,
    introspections: [AtomicU64; IntrospectionOutcome::ALL.len()],
    introspections_in_flight: AtomicI64,
    /// 0: the metric is absent, and so for the next.
    introspections_limit: AtomicU64,
    client_connections_limit: AtomicU64,
    cache_entries: [AtomicU64; EntryKind::ALL.len()],
    cache_evictions: [[AtomicU64; EvictionCause::ALL.len()]; EntryKind::ALL.len()],
    log_lines_dropped: AtomicU64,
    /// 2 until a configuration has been loaded: the metric is absent.
    config_reload_success: AtomicU64,
    /// Seconds of the epoch; 0: the metric is absent.
    config_reload_timestamp: AtomicU64,
    certificates: Mutex<Vec<CertificateState>>,
    redirects: AtomicU64,
    revocations: [AtomicU64; RevocationSource::ALL.len()],
    webhooks: [AtomicU64; WebhookOutcome::ALL.len()],
    redis_messages: [AtomicU64; RedisMessage::ALL.len()],
    shadow: Mutex<BTreeMap<ShadowLabels, u64>>,
    shadow_mode: AtomicBool,
    spans: [AtomicU64; SpanOutcome::ALL.len()],
    /// Whether there are traces: else the metric is absent.
    traces: AtomicBool,
    /// 2 where there is no Redis: the metrics are absent.
    redis_connected: AtomicU64,
    usage: UsageMetrics,
}

/// What shadow mode has found: change, map, route, and the method's word.
type ShadowLabels = (Change, Side, RouteNumber, &'static str);

/// The routes' counters, by number and by template.
#[derive(Default)]
struct Routes {
    by_template: HashMap<Box<str>, RouteNumber>,
    rows: Vec<RouteRow>,
}

/// One route's counters: a shard a core.
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

impl Shared {
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
    /// Metrics for `cores` cores, and one shard more, with the index `cores`, for the thread that controls
    /// them.
    pub fn new(cores: usize) -> Arc<Self> {
        let shards: Box<[_]> = (0..=cores).map(|_| Arc::new(Shard::default())).collect();
        let mut routes = Routes::default();
        for (template, number) in [("unmapped", UNMAPPED), ("none", NONE)] {
            let given = routes.number(template, shards.len());
            debug_assert_eq!(given, number);
        }
        let shared = Arc::new(Shared {
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

    /// The handle of one core. To be asked for on that core's own thread: a shard has one writer, and two
    /// threads that wrote the same one would lose counts. Hence the handle is not [`Send`].
    ///
    /// # Panics
    /// If `index` is above the number of cores given to [`Metrics::new`].
    pub fn core(self: &Arc<Self>, index: usize) -> CoreMetrics {
        CoreMetrics(Rc::new(Core {
            shard: Arc::clone(&self.shared.shards[index]),
            routes: RefCell::default(),
            index,
            metrics: Arc::clone(self),
            window_since: Cell::new(Instant::now()),
        }))
    }

    /// Where the routes of a map are counted, in the order of `templates`. For every load of a map, ahead of
    /// its first request.
    pub fn routes<'a>(&self, templates: impl Iterator<Item = &'a str>) -> RouteNumbers {
        let shards = self.shared.shards.len();
        let mut routes = self.shared.routes();
        RouteNumbers(templates.map(|template| routes.number(template, shards)).collect())
    }

    /// Counts an introspection that ended. From any thread.
    pub fn introspection(&self, outcome: IntrospectionOutcome) {
        self.shared.introspections[outcome as usize].fetch_add(1, Relaxed);
    }

    /// An introspection is under way until the guard is dropped. From any thread.
    pub fn introspection_started(&self) -> IntrospectionInFlight {
        self.shared.introspections_in_flight.fetch_add(1, Relaxed);
        IntrospectionInFlight(Arc::clone(&self.shared))
    }

    /// Counts an entry that left the cache. From any thread.
    pub fn cache_eviction(&self, kind: EntryKind, cause: EvictionCause) {
        self.shared.cache_evictions[kind as usize][cause as usize].fetch_add(1, Relaxed);
    }

    /// Sets how many entries the cache holds; to be called from [`Metrics::on_scrape`].
    pub fn set_cache_entries(&self, kind: EntryKind, entries: u64) {
        self.shared.cache_entries[kind as usize].store(entries, Relaxed);
    }

    /// Sets how many introspections may be under way, and how many connections from clients may be open; to be called
    /// from [`Metrics::on_scrape`].
    pub fn set_limits(&self, introspections: usize, client_connections: usize) {
        self.shared.introspections_limit.store(introspections as u64, Relaxed);
        self.shared.client_connections_limit.store(client_connections as u64, Relaxed);
    }

    /// Sets how many log lines were dropped so far; to be called from [`Metrics::on_scrape`].
    pub fn set_log_lines_dropped(&self, lines: u64) {
        self.shared.log_lines_dropped.store(lines, Relaxed);
    }

    /// Notes that a configuration was loaded, or that it was refused and the one before stays.
    pub fn config_reload(&self, success: bool, now: SystemTime) {
        if success {
            self.shared.config_reload_timestamp.store(epoch_seconds(now), Relaxed);
        }
        self.shared.config_reload_success.store(success.into(), Relaxed);
    }

    /// Sets what is to be told of the listener's certificates; to be called from [`Metrics::on_scrape`].
    pub fn set_certificates(&self, certificates: Vec<CertificateState>) {
        *self.shared.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// Counts a request that was sent on to https.
    pub fn redirected(&self) {
        self.shared.redirects.fetch_add(1, Relaxed);
    }

    /// Counts an order to forget verdicts.
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

    /// Notes whether other replicas can be told, and tell; none where there is no Redis to do so.
    pub fn redis_connected(&self, connected: Option<bool>) {
        self.shared.redis_connected.store(connected.map_or(2, u64::from), Relaxed);
    }

    /// Sets whether there is a route whose refusals are not enforced; to be called from [`Metrics::on_scrape`].
    pub fn set_shadow_mode(&self, is_shadowed: bool) {
        self.shared.shadow_mode.store(is_shadowed, Relaxed);
    }

    /// Counts spans.
    pub fn spans(&self, outcome: SpanOutcome, spans: u64) {
        self.shared.spans[outcome as usize].fetch_add(spans, Relaxed);
    }

    /// How many spans were dropped so far.
    pub fn spans_dropped(&self) -> u64 {
        self.shared.spans[SpanOutcome::Dropped as usize].load(Relaxed)
    }

    /// Notes whether there are traces.
    pub fn traces(&self, there_are: bool) {
        self.shared.traces.store(there_are, Relaxed);
    }

    /// What is told of the usage ledger.
    pub fn usage(&self) -> &UsageMetrics {
        &self.shared.usage
    }

    /// Has `callback` called ahead of every [`Metrics::render`], on the thread of the scrape.
    pub fn on_scrape(&self, callback: OnScrape) {
        self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner).push(callback);
    }

    /// Every metric in the text format of Prometheus, [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        for callback in self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            callback(self);
        }
        let mut text = String::with_capacity(32 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        text
    }
}

fn epoch_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Counts in `introspections_in_flight` until it is dropped.
#[must_use]
pub struct IntrospectionInFlight(Arc<Shared>);

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

/// One core's metrics; see [`Metrics::core`]. Cheap to clone.
#[derive(Clone)]
pub struct CoreMetrics(Rc<Core>);

struct Core {
    shard: Arc<Shard>,
    /// This core's shard of every route seen so far, by number.
    routes: RefCell<Vec<Arc<RouteShard>>>,
    index: usize,
    metrics: Arc<Metrics>,
    /// When the window of the oldest verdict was last changed.
    window_since: Cell<Instant>,
}

impl fmt::Debug for CoreMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("CoreMetrics").field(&self.0.index).finish()
    }
}

impl CoreMetrics {
    /// Counts a request that ended, and how long it took from its head to the end of its answer.
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

    /// Counts a request of which another decision would have become. Rare enough for one counter of all cores.
    pub fn shadow(&self, change: Change, side: Side, route: RouteLabel, method: &Method) {
        let key = (change, side, route.number(), shard::method_word(method));
        let shared = &self.0.metrics.shared;
        *shared.shadow.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    /// Adds to the time spent in a phase.
    pub fn phase(&self, phase: TimedPhase, duration: Duration) {
        self.0.shard.phases[phase as usize].observe(nanoseconds(duration));
    }

    /// Counts a look into the cache.
    pub fn cache_lookup(&self, result: LookupResult) {
        shard::add(&self.0.shard.cache_lookups[result as usize], 1);
    }

    /// Notes the age of a verdict that allowed a request.
    pub fn verdict_served(&self, age: Duration) {
        let [oldest, _] = &self.0.shard.oldest_verdicts;
        let age = nanoseconds(age);
        if age > oldest.load(Relaxed) {
            oldest.store(age, Relaxed);
        }
    }

    /// Forgets how old verdicts were that served more than a minute ago. To be called about once a second.
    pub fn turn_window(&self, now: Instant) {
        if now.saturating_duration_since(self.0.window_since.get()) >= WINDOW {
            self.0.window_since.set(now);
            let [current, before] = &self.0.shard.oldest_verdicts;
            before.store(current.load(Relaxed), Relaxed);
            current.store(0, Relaxed);
        }
    }

    /// Counts a client with whom TLS came to nothing.
    pub fn handshake_failure(&self, reason: HandshakeFailure) {
        shard::add(&self.0.shard.handshake_failures[reason as usize], 1);
    }

    /// Counts an introspection that ended.
    pub fn introspection(&self, outcome: IntrospectionOutcome) {
        self.0.metrics.introspection(outcome);
    }

    /// Adds to the clients' connections in `state`; a change of state is two calls.
    pub fn client_connections(&self, state: ConnectionUse, change: i64) {
        shard::add_signed(&self.0.shard.client_connections[state as usize], change);
    }

    /// Adds to the connections to the backend in `state`; a change of state is two calls.
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
