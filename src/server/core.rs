//! One core: a thread with a runtime of its own, its connections, its pools and its gateway.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::listen::Admitted;
use super::{connection, http1};
use crate::backend::forward::Backend;
use crate::client::Connector;
use crate::client::pool::{Census, ConnectionBound, Pool};
use crate::config::settings::{Limits, Settings};
use crate::exchange::Recorder;
use crate::gateway::Gateway;
use crate::limits::Limiter;
use crate::peer::{Ending, Peer, Phase};
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::{ConnectionState, Metrics, RouteNumbers};
use crate::tokens::introspector::Introspector;
use crate::tokens::lookup::{Lookup, Shared};

/// What a core is made from, in the thread that starts it.
pub(super) struct Seed {
    pub(super) index: usize,
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) routes: RouteNumbers,
    pub(super) access: AccessLog,
    pub(super) shared: Arc<Shared>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) backend: Arc<Connector>,
    pub(super) introspector: Arc<Connector>,
    pub(super) backend_bound: Option<Arc<ConnectionBound>>,
    pub(super) tls: Option<TlsAcceptor>,
    /// How many connections the core has or is about to get.
    pub(super) load: Arc<AtomicUsize>,
}

/// One core.
pub(super) struct Core {
    serving: RefCell<Rc<Serving>>,
    recorder: Rc<Recorder>,
    peers: RefCell<Vec<Weak<Peer>>>,
    open: Cell<usize>,
    counted: Cell<Census>,
    load: Arc<AtomicUsize>,
}

impl Seed {
    fn grow(self) -> Rc<Core> {
        let metrics = self.metrics.core(self.index);
        let settings = self.settings;
        let introspection =
            Pool::new(self.introspector, settings.backend.idle_timeout, None, settings.introspection.timeout);
        let introspector = Introspector::new(Arc::clone(&settings), introspection);
        let lookup = Lookup::new(self.shared, introspector, metrics.clone());
        let backend = Pool::new(
            self.backend,
            settings.backend.idle_timeout,
            self.backend_bound,
            settings.backend.connect_timeout,
        );
        let backend = Backend::new(Arc::clone(&settings), backend);
        let recorder = Rc::new(Recorder { metrics, access: self.access });
        let http1 = http1::builder(&settings.limits);
        let gateway =
            Rc::new(Gateway::new(settings, self.routes, lookup, backend, self.limiter, Rc::clone(&recorder)));
        Rc::new(Core {
            serving: RefCell::new(Rc::new(Serving { gateway, tls: self.tls, http1 })),
            recorder,
            peers: RefCell::default(),
            open: Cell::new(0),
            counted: Cell::default(),
            load: self.load,
        })
    }

    /// Serves the connections that come through `admitted` until it is closed, then until they have ended,
    /// for `drain_timeout` at most. Says how many had to be cut.
    pub(super) async fn run(self, mut admitted: mpsc::UnboundedReceiver<Admitted>) -> usize {
        let core = self.grow();
        let sweep = tokio::task::spawn_local(Rc::clone(&core).sweep());
        while let Some(Admitted { accepted, share }) = admitted.recv().await {
            let core = Rc::clone(&core);
            tokio::task::spawn_local(async move {
                let _counted = (Carried(&core.load), share);
                connection::serve(Rc::clone(&core), accepted).await;
            });
        }
        let deadline = Instant::now() + core.gateway().settings().listen.drain_timeout;
        while core.load.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            core.end_all(Ending::Soon);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sweep.abort();
        core.load.load(Ordering::Relaxed)
    }
}

/// What a core serves by. A connection keeps its TLS and its bounds for as long as it lasts; each request takes the
/// gateway of its time, and keeps that one.
pub(super) struct Serving {
    pub(super) gateway: Rc<Gateway>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) http1: hyper::server::conn::http1::Builder,
}

/// A connection that counts as its core's load.
struct Carried<'a>(&'a AtomicUsize);

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that the sweep watches.
pub(super) struct Open<'a>(&'a Core);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.recorder.metrics.client_connections(ConnectionState::Idle, -1);
    }
}

impl Core {
    /// What connections that begin now are served by.
    pub(super) fn serving(&self) -> Rc<Serving> {
        Rc::clone(&self.serving.borrow())
    }

    /// What a request that begins now is served by.
    pub(super) fn gateway(&self) -> Rc<Gateway> {
        Rc::clone(&self.serving.borrow().gateway)
    }

    /// Puts a connection under the sweep's watch.
    pub(super) fn enter(&self, peer: &Rc<Peer>) -> Open<'_> {
        self.open.set(self.open.get() + 1);
        self.recorder.metrics.client_connections(ConnectionState::Idle, 1);
        self.peers.borrow_mut().push(Rc::downgrade(peer));
        Open(self)
    }

    fn end_all(&self, ending: Ending) {
        for peer in self.peers.borrow().iter().filter_map(Weak::upgrade) {
            peer.activity.end(ending);
        }
    }

    /// Ends what takes too long, again and again: one timer for all connections of the core.
    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(pause(self.gateway().settings())).await;
            let gateway = self.gateway();
            let limits = &gateway.settings().limits;
            let now = Instant::now();
            self.peers.borrow_mut().retain(|peer| match peer.upgrade() {
                Some(peer) => {
                    end_if_overdue(&peer, limits, now);
                    true
                }
                None => false,
            });
            gateway.backend().pool().sweep(now);
            gateway.lookup().introspector().pool().sweep(now);
            self.count_backend_connections();
        }
    }

    fn count_backend_connections(&self) {
        let now = self.gateway().backend().pool().census();
        let before = self.counted.replace(now);
        let metrics = &self.recorder.metrics;
        let change = |now: usize, before: usize| now as i64 - before as i64;
        metrics.backend_connections(ConnectionState::Active, change(now.active, before.active));
        metrics.backend_connections(ConnectionState::Idle, change(now.idle, before.idle));
    }
}

/// How long the sweep rests: no time-out is late by more than a quarter.
fn pause(settings: &Settings) -> Duration {
    let Limits { header_timeout, idle_timeout, body_idle_timeout, .. } = settings.limits;
    let shortest = header_timeout.min(idle_timeout).min(body_idle_timeout).min(settings.backend.timeout);
    (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
}

fn end_if_overdue(peer: &Peer, limits: &Limits, now: Instant) {
    let activity = &peer.activity;
    activity.note_deadline(now);
    let (phase, since) = activity.phase();
    let waited = now.saturating_duration_since(since);
    match phase {
        Phase::Idle if waited >= limits.idle_timeout => activity.end(Ending::Soon),
        Phase::Head if waited >= limits.header_timeout => activity.end(Ending::TimedOut),
        Phase::Idle | Phase::Head | Phase::Serving => {}
    }
    if let Some(since) = activity.blocked_since()
        && now.saturating_duration_since(since) >= limits.body_idle_timeout
    {
        activity.end(Ending::Now);
    }
}
