//! A whole configuration, ready to be served by, and how the next one goes on from it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use moka::notification::RemovalCause;

use super::StartError;
use super::tls::Certificates;
use crate::client::pool::{ConnectionBound, Pool};
use crate::client::{ClientKey, Connector, ConnectorError};
use crate::config::settings::{ClientTls, Destination, Introspection, Settings};
use crate::limits::Limiter;
use crate::replicas::RedisClient;
use crate::telemetry::metrics::{EntryKind, EvictionCause, Metrics, RouteNumbers};
use crate::tokens::cache::TokenCache;
use crate::tokens::introspection_limiter::IntrospectionLimiter;
use crate::tokens::lookup::Shared;
use crate::traces;
use crate::usage::rules::RuleNumbers;
use crate::usage::writer::Usage;

/// How long a connection of HTTP/2 may be silent, while an answer is awaited, before it is asked whether it lives: often
/// enough to notice before every request over it has timed out, and seldom enough for a backend that counts pings.
const MOST_SILENCE: Duration = Duration::from_secs(10);

/// What the configuration's certificates, roots and addresses out come to.
pub struct Resources {
    pub(super) tls: Option<Arc<Certificates>>,
    pub(super) backend: Arc<UpstreamClient>,
    pub(super) introspector: Arc<UpstreamClient>,
    /// The way to other replicas.
    pub(super) redis: Option<Arc<RedisClient>>,
    /// The way to a collector of spans.
    pub(super) traces: Option<Arc<traces::CollectorClient>>,
}

/// The backend or the introspector. A reload keeps the connections to it if its key stays the same.
pub(super) struct UpstreamClient {
    connector: Arc<Connector>,
    bound: Option<Arc<ConnectionBound>>,
    key: ClientKey<UpstreamKey>,
}

impl UpstreamClient {
    /// The client for `plan`, or `before` if its plan and files are the same.
    fn for_plan(plan: UpstreamKey, before: Option<&Arc<Self>>) -> Result<Arc<Self>, ConnectorError> {
        let key = ClientKey::new(plan, |plan| &plan.tls);
        if let Some(before) = before.filter(|before| before.key == key) {
            return Ok(Arc::clone(before));
        }
        let plan = key.settings();
        let connector = Connector::new(&plan.destination, &plan.tls, plan.patience)?;
        let connector = Arc::new(match plan.http2 {
            Some(silence) => connector.speaking_http2(silence),
            None => connector,
        });
        let bound = plan.max_connections.map(ConnectionBound::new);
        Ok(Arc::new(Self { connector, bound, key }))
    }

    /// A pool for one core.
    pub(super) fn pool(&self) -> Rc<Pool> {
        let (connector, bound) = (Arc::clone(&self.connector), self.bound.clone());
        let plan = self.key.settings();
        Pool::new(connector, plan.idle_timeout, bound, plan.patience)
    }
}

/// The settings of an [`UpstreamClient`].
#[derive(PartialEq)]
struct UpstreamKey {
    destination: Destination,
    tls: ClientTls,
    /// Time limit for connecting, and for the wait for one of `max_connections`.
    patience: Duration,
    idle_timeout: Duration,
    max_connections: Option<usize>,
    /// Time without a frame after which an HTTP/2 connection is pinged; `None` for HTTP/1.1.
    http2: Option<Duration>,
}

impl UpstreamKey {
    fn backend(settings: &Settings) -> Self {
        let backend = &settings.backend;
        Self {
            destination: backend.destination.clone(),
            tls: backend.tls.clone(),
            patience: backend.connect_timeout,
            idle_timeout: backend.idle_timeout,
            max_connections: backend.max_connections,
            http2: backend.http2.then(|| MOST_SILENCE.min(backend.timeout / 3)),
        }
    }

    fn introspector(settings: &Settings) -> Self {
        let introspection = &settings.introspection;
        Self {
            destination: introspection.destination.clone(),
            tls: introspection.tls.clone(),
            patience: introspection.timeout,
            idle_timeout: settings.backend.idle_timeout,
            max_connections: None,
            http2: None,
        }
    }
}

impl Resources {
    /// Reads what `settings` name.
    ///
    /// # Errors
    /// [`StartError::Certificate`] and [`StartError::Connector`].
    pub fn build(settings: &Settings) -> Result<Self, StartError> {
        let tls = certificates(settings)?;
        Self::with_tls(tls, settings, None)
    }

    /// The same for the configuration after this one: what stays the same goes on, with its connections.
    fn next_from(&self, settings: &Settings, before: &Settings) -> Result<Self, StartError> {
        let tls =
            if settings.listen.tls == before.listen.tls { self.tls.clone() } else { certificates(settings)? };
        Self::with_tls(tls, settings, Some(self))
    }

    fn with_tls(
        tls: Option<Arc<Certificates>>,
        settings: &Settings,
        before: Option<&Self>,
    ) -> Result<Self, StartError> {
        let backend =
            UpstreamClient::for_plan(UpstreamKey::backend(settings), before.map(|before| &before.backend))
                .map_err(|source| StartError::Connector { section: "backend", source })?;
        let known = before.map(|before| &before.introspector);
        let introspector = UpstreamClient::for_plan(UpstreamKey::introspector(settings), known)
            .map_err(|source| StartError::Connector { section: "introspection", source })?;
        let known = before.and_then(|before| before.redis.as_ref());
        let redis = settings.redis.as_ref().map(|redis| RedisClient::for_settings(redis, known)).transpose();
        let redis = redis.map_err(|source| StartError::Connector { section: "redis", source })?;
        let known = before.and_then(|before| before.traces.as_ref());
        let traces = settings
            .traces
            .as_ref()
            .map(|traces| traces::CollectorClient::for_settings(traces, known))
            .transpose();
        let traces = traces.map_err(|source| StartError::Connector { section: "traces", source })?;
        Ok(Self { tls, backend, introspector, redis, traces })
    }
}

fn certificates(settings: &Settings) -> Result<Option<Arc<Certificates>>, StartError> {
    let entries = &settings.listen.tls;
    if entries.is_empty() { Ok(None) } else { Ok(Some(Arc::new(Certificates::load(entries)?))) }
}

/// What every core makes its gateway from.
pub(super) struct Configuration {
    pub(super) settings: Arc<Settings>,
    pub(super) parts: Resources,
    pub(super) routes: RouteNumbers,
    pub(super) shared: Arc<Shared>,
    pub(super) limiter: Arc<Limiter>,
    /// What is counted for the usage ledger; none: nothing is.
    pub(super) rules: Option<RuleNumbers>,
}

impl Configuration {
    /// The first of a process.
    pub(super) fn new(
        settings: Arc<Settings>,
        parts: Resources,
        metrics: &Arc<Metrics>,
        usage: &Usage,
    ) -> Self {
        let cache = TokenCache::new(&settings.cache, Arc::default(), Box::new(count_evictions(metrics)));
        Self {
            routes: metrics.routes(settings.templates()),
            shared: Arc::new(Shared {
                cache,
                introspections: IntrospectionLimiter::new(settings.introspection.max_concurrent),
            }),
            limiter: Arc::new(Limiter::new(&settings)),
            rules: settings.usage.as_ref().map(|_| usage.rules(&settings.abilities)),
            settings,
            parts,
        }
    }

    /// The one after this.
    ///
    /// # Errors
    /// Where `settings` cannot be served by. This one is as it was.
    pub(super) fn next_from(
        &self,
        settings: Settings,
        metrics: &Arc<Metrics>,
        usage: &Usage,
    ) -> Result<Self, StartError> {
        let before = &*self.settings;
        let parts = self.parts.next_from(&settings, before)?;
        let limiter = if settings.rate_limit == before.rate_limit
            && settings.limits.requests_per_address == before.limits.requests_per_address
        {
            Arc::clone(&self.limiter)
        } else {
            Arc::new(Limiter::new(&settings))
        };
        Ok(Self {
            routes: metrics.routes(settings.templates()),
            shared: self.share(&settings, &limiter, metrics),
            limiter,
            parts,
            rules: settings.usage.as_ref().map(|_| usage.rules(&settings.abilities)),
            settings: Arc::new(settings),
        })
    }

    /// The verdicts. They survive, unless another introspector would say them or they would be read otherwise.
    fn share(&self, settings: &Settings, limiter: &Arc<Limiter>, metrics: &Arc<Metrics>) -> Arc<Shared> {
        let before = &*self.settings;
        let (next, asked) = (&settings.introspection, &before.introspection);
        let introspections = || IntrospectionLimiter::new(next.max_concurrent);
        if !says_the_same(next, asked) {
            let revocations = Arc::clone(self.shared.cache.revocations());
            let cache = TokenCache::new(&settings.cache, revocations, Box::new(count_evictions(metrics)));
            return Arc::new(Shared { cache, introspections: introspections() });
        }
        let same_limits = Arc::ptr_eq(limiter, &self.limiter);
        if settings.cache == before.cache && next.max_concurrent == asked.max_concurrent && same_limits {
            return Arc::clone(&self.shared);
        }
        let cache = self.shared.cache.successor(&settings.cache, Box::new(count_evictions(metrics)));
        Arc::new(Shared { cache, introspections: introspections() })
    }

    /// Leaves what only a start can change as it is, whatever `next` says of it, and tells the keys that say something
    /// else. TLS belongs to its address.
    pub(super) fn keep_fixed(&self, next: &mut Settings) -> Vec<&'static str> {
        let now = &*self.settings;
        let mut kept = Vec::new();
        if keep("listen.address", &now.listen.address, &mut next.listen.address, &mut kept) {
            keep("listen.tls", &now.listen.tls, &mut next.listen.tls, &mut kept);
        }
        let (redirect, next_redirect) = (&now.listen.redirect_address, &mut next.listen.redirect_address);
        keep("listen.redirect_address", redirect, next_redirect, &mut kept);
        keep("admin.address", &now.admin.address, &mut next.admin.address, &mut kept);
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

/// Whether `next` was something else than `now`.
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

/// Whether both would get the same verdict for a token.
fn says_the_same(one: &Introspection, other: &Introspection) -> bool {
    one.destination == other.destination
        && one.tls == other.tls
        && one.authority == other.authority
        && one.target == other.target
        && one.style == other.style
        && one.response == other.response
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
