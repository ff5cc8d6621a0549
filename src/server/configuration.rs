//! A complete configuration with the resources that it names, and how a reload makes the next one from it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use moka::notification::RemovalCause;

use super::StartError;
use super::tls::Certificates;
use crate::client::pool::{BoundSettings, ConnectionBound, Pool};
use crate::client::{ClientKey, Connector, ConnectorError};
use crate::config::settings::{ClientTls, Destination, Introspection, ListenTls, Settings};
use crate::limits::Limiter;
use crate::replicas::RedisClient;
use crate::telemetry::metrics::{EntryKind, EvictionCause, Metrics, RouteNumbers};
use crate::tokens::blocklist::BlockList;
use crate::tokens::cache::TokenCache;
use crate::tokens::introspection_limiter::IntrospectionLimiter;
use crate::tokens::lookup::SharedVerdicts;
use crate::traces;
use crate::usage::rules::RuleNumbers;
use crate::usage::writer::Usage;

/// Longest silence of an HTTP/2 connection to the backend, while a response is awaited, before it is pinged: short enough to
/// notice a dead connection before its requests time out, long enough for backends that limit pings.
const MAX_SILENCE: Duration = Duration::from_secs(10);

/// The resources that a configuration names: certificates, roots and connections.
pub struct Resources {
    pub(super) tls: Option<Arc<Certificates>>,
    /// The certificates of the decision listener.
    pub(super) decision_tls: Option<Arc<Certificates>>,
    pub(super) backend: Arc<UpstreamClient>,
    pub(super) introspector: Arc<UpstreamClient>,
    /// Publishes revocations to other replicas.
    pub(super) redis: Option<Arc<RedisClient>>,
    /// Exports spans to a collector.
    pub(super) traces: Option<Arc<traces::CollectorClient>>,
}

/// Connects to the backend or the introspector. A reload keeps it, and its connections, if its key stays the same.
pub(super) struct UpstreamClient {
    connector: Arc<Connector>,
    bound: Option<Arc<ConnectionBound>>,
    key: ClientKey<UpstreamKey>,
}

impl UpstreamClient {
    /// The client for these settings, or `before` if its settings and files are the same.
    fn for_settings(settings: UpstreamKey, before: Option<&Arc<Self>>) -> Result<Arc<Self>, ConnectorError> {
        let key = ClientKey::new(settings, |settings| &settings.tls);
        if let Some(before) = before.filter(|before| before.key == key) {
            return Ok(Arc::clone(before));
        }
        let settings = key.settings();
        let connector = Connector::new(&settings.destination, &settings.tls, settings.timeout)?;
        let connector = Arc::new(match settings.http2 {
            Some(silence) => connector.with_http2(silence),
            None => connector,
        });
        let bound = settings.bound.map(|bound| ConnectionBound::new(bound, settings.workers));
        Ok(Arc::new(Self { connector, bound, key }))
    }

    /// A pool for one worker.
    pub(super) fn pool(&self) -> Rc<Pool> {
        let (connector, bound) = (Arc::clone(&self.connector), self.bound.clone());
        let settings = self.key.settings();
        Pool::new(connector, settings.idle_timeout, bound, settings.timeout)
    }
}

/// The settings of an [`UpstreamClient`].
#[derive(PartialEq)]
struct UpstreamKey {
    destination: Destination,
    tls: ClientTls,
    /// Time limit for connecting.
    timeout: Duration,
    idle_timeout: Duration,
    bound: Option<BoundSettings>,
    /// The number of pools.
    workers: usize,
    /// Time without a frame after which an HTTP/2 connection is pinged; `None` for HTTP/1.1.
    http2: Option<Duration>,
}

impl UpstreamKey {
    fn backend(settings: &Settings) -> Self {
        let backend = &settings.backend;
        Self {
            destination: backend.destination.clone(),
            tls: backend.tls.clone(),
            timeout: backend.connect_timeout,
            idle_timeout: backend.idle_timeout,
            bound: backend.max_connections.map(|connections| BoundSettings {
                connections,
                max_share: backend.max_share,
                queue_timeout: backend.queue_timeout,
            }),
            workers: settings.threads,
            http2: backend.http2.then(|| MAX_SILENCE.min(backend.timeout / 3)),
        }
    }

    fn introspector(settings: &Settings) -> Self {
        let introspection = &settings.introspection;
        Self {
            destination: introspection.destination.clone(),
            tls: introspection.tls.clone(),
            timeout: introspection.timeout,
            idle_timeout: settings.backend.idle_timeout,
            bound: None,
            workers: settings.threads,
            http2: None,
        }
    }
}

impl Resources {
    /// Reads the files that `settings` name, and creates the clients.
    ///
    /// # Errors
    /// [`StartError::Certificate`] and [`StartError::Connector`].
    pub fn build(settings: &Settings) -> Result<Self, StartError> {
        Self::next(settings, None)
    }

    /// Every certificate that a listener serves.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &Arc<Certificates>> {
        self.tls.iter().chain(&self.decision_tls)
    }

    /// The resources of the next configuration. Unchanged ones are kept, with their connections.
    fn next_from(&self, settings: &Settings, before: &Settings) -> Result<Self, StartError> {
        Self::next(settings, Some((self, before)))
    }

    /// The resources for `settings`, which keep what they have in common with those before them.
    fn next(settings: &Settings, before: Option<(&Self, &Settings)>) -> Result<Self, StartError> {
        let tls = match before {
            Some((before, its)) if its.listen.tls == settings.listen.tls => before.tls.clone(),
            _ => certificates(&settings.listen.tls, "listen")?,
        };
        let decision_tls = match before {
            Some((before, its)) if its.decision.tls == settings.decision.tls => before.decision_tls.clone(),
            _ => certificates(&settings.decision.tls, "decision")?,
        };
        let before = before.map(|(before, _)| before);
        let backend = UpstreamClient::for_settings(
            UpstreamKey::backend(settings),
            before.map(|before| &before.backend),
        )
        .map_err(|source| StartError::Connector { section: "backend", source })?;
        let previous = before.map(|before| &before.introspector);
        let introspector = UpstreamClient::for_settings(UpstreamKey::introspector(settings), previous)
            .map_err(|source| StartError::Connector { section: "introspection", source })?;
        let previous = before.and_then(|before| before.redis.as_ref());
        let redis =
            settings.redis.as_ref().map(|redis| RedisClient::for_settings(redis, previous)).transpose();
        let redis = redis.map_err(|source| StartError::Connector { section: "redis", source })?;
        let previous = before.and_then(|before| before.traces.as_ref());
        let traces = settings
            .traces
            .as_ref()
            .map(|traces| traces::CollectorClient::for_settings(traces, previous))
            .transpose();
        let traces = traces.map_err(|source| StartError::Connector { section: "traces", source })?;
        Ok(Self { tls, decision_tls, backend, introspector, redis, traces })
    }
}

/// The certificates of the listener of this `section`; `None` without TLS.
fn certificates(entries: &[ListenTls], section: &str) -> Result<Option<Arc<Certificates>>, StartError> {
    if entries.is_empty() { Ok(None) } else { Ok(Some(Arc::new(Certificates::load(entries, section)?))) }
}

/// The input of every worker's gateway.
pub(super) struct Configuration {
    pub(super) settings: Arc<Settings>,
    pub(super) resources: Resources,
    pub(super) routes: RouteNumbers,
    pub(super) shared: Arc<SharedVerdicts>,
    pub(super) limiter: Arc<Limiter>,
    /// The numbers of the rules whose usage is counted; `None` if the ledger is off.
    pub(super) rules: Option<RuleNumbers>,
}

impl Configuration {
    /// The first configuration of a process.
    pub(super) fn new(
        settings: Arc<Settings>,
        resources: Resources,
        blocks: Arc<BlockList>,
        metrics: &Arc<Metrics>,
        usage: &Usage,
    ) -> Self {
        let cache =
            TokenCache::new(&settings.cache, Arc::default(), blocks, Box::new(count_evictions(metrics)));
        Self {
            routes: metrics.routes(settings.templates()),
            shared: Arc::new(SharedVerdicts {
                cache,
                introspections: IntrospectionLimiter::new(settings.introspection.max_concurrent),
            }),
            limiter: Arc::new(Limiter::new(&settings)),
            rules: settings.usage.as_ref().map(|_| usage.rules(&settings.abilities)),
            settings,
            resources,
        }
    }

    /// The next configuration.
    ///
    /// # Errors
    /// If a resource cannot be used. The present configuration is unchanged.
    pub(super) fn next_from(
        &self,
        settings: Settings,
        metrics: &Arc<Metrics>,
        usage: &Usage,
    ) -> Result<Self, StartError> {
        let before = &*self.settings;
        let resources = self.resources.next_from(&settings, before)?;
        let limiter = Arc::new(self.limiter.next_from(&settings));
        Ok(Self {
            routes: metrics.routes(settings.templates()),
            shared: self.next_shared(&settings, &limiter, metrics),
            limiter,
            resources,
            rules: settings.usage.as_ref().map(|_| usage.rules(&settings.abilities)),
            settings: Arc::new(settings),
        })
    }

    /// The cache of verdicts. They are kept unless introspection could now give others. The tokens remain known.
    fn next_shared(
        &self,
        settings: &Settings,
        limiter: &Arc<Limiter>,
        metrics: &Arc<Metrics>,
    ) -> Arc<SharedVerdicts> {
        let before = &*self.settings;
        let (next, present) = (&settings.introspection, &before.introspection);
        let introspections = || IntrospectionLimiter::new(next.max_concurrent);
        let keeps_verdicts = gives_same_verdicts(next, present);
        let same_limits = limiter.has_tokens_of(&self.limiter);
        let is_same = settings.cache == before.cache && next.max_concurrent == present.max_concurrent;
        if keeps_verdicts && is_same && same_limits {
            return Arc::clone(&self.shared);
        }
        let on_eviction = Box::new(count_evictions(metrics));
        let cache = self.shared.cache.next_from(&settings.cache, keeps_verdicts, on_eviction);
        Arc::new(SharedVerdicts { cache, introspections: introspections() })
    }

    /// Resets in `next` the settings that only a restart can change, and returns the keys that differed. TLS belongs to its
    /// address.
    pub(super) fn keep_fixed(&self, next: &mut Settings) -> Vec<&'static str> {
        let now = &*self.settings;
        let mut kept = Vec::new();
        if keep("listen.address", &now.listen.address, &mut next.listen.address, &mut kept) {
            keep("listen.tls", &now.listen.tls, &mut next.listen.tls, &mut kept);
        }
        let (redirect, next_redirect) = (&now.listen.redirect_address, &mut next.listen.redirect_address);
        keep("listen.redirect_address", redirect, next_redirect, &mut kept);
        keep("admin.address", &now.admin.address, &mut next.admin.address, &mut kept);
        keep("blocked.path", &now.blocked.path, &mut next.blocked.path, &mut kept);
        if keep("decision.address", &now.decision.address, &mut next.decision.address, &mut kept) {
            keep("decision.tls", &now.decision.tls, &mut next.decision.tls, &mut kept);
        }
        keep("runtime.threads", &now.threads, &mut next.threads, &mut kept);
        keep("log.format", &now.log.format, &mut next.log.format, &mut kept);
        for key in &kept {
            let pointer = format!("/{}", key.replace('.', "/"));
            if let (Some(next), Some(now)) =
                (next.effective.pointer_mut(&pointer), now.effective.pointer(&pointer))
            {
                next.clone_from(now);
            }
        }
        kept
    }
}

/// Resets `next` to `now`. Returns whether they differed.
fn keep<T: Clone + PartialEq>(
    key: &'static str,
    now: &T,
    next: &mut T,
    kept: &mut Vec<&'static str>,
) -> bool {
    let differs = now != next;
    if differs {
        next.clone_from(now);
        kept.push(key);
    }
    differs
}

/// Whether both give the same verdict for a token.
fn gives_same_verdicts(one: &Introspection, other: &Introspection) -> bool {
    one.destination == other.destination
        && one.tls == other.tls
        && one.authority == other.authority
        && one.target == other.target
        && one.style == other.style
        && one.response == other.response
        && one.expect == other.expect
}

fn count_evictions(metrics: &Arc<Metrics>) -> impl Fn(RemovalCause) + Send + Sync + 'static {
    let metrics = Arc::clone(metrics);
    move |cause| {
        let cause = match cause {
            RemovalCause::Expired => EvictionCause::Expired,
            RemovalCause::Explicit => EvictionCause::Explicit,
            RemovalCause::Replaced => EvictionCause::Replaced,
            RemovalCause::Size => EvictionCause::Size,
        };
        metrics.cache_eviction(EntryKind::Active, cause);
    }
}
