//! Revocations from and to other replicas, by way of a Redis.
//!
//! A thread of its own, so that no request ever waits for Redis. Each revocation raises an *epoch*, a number in Redis,
//! and is published with it, by one script. Whoever hears one finds by its epoch whether the one before was heard too;
//! whoever was cut off, by the epoch of its return. What was missed is not to be had any more: all verdicts are then
//! asked for again ([`Revocation::Missed`]), which is always safe. So nothing has to be kept in Redis but one number,
//! and nothing that is written there can do more than make a replica forget.
//!
//! A stream would bring what was missed, but it has to be kept and trimmed, and where it was, the same has to be done.
//!
//! Redis may lose what it took: it ends, and comes back with what it had saved, or another takes its place. An epoch
//! counts only as long as it is the same process with the same history, by its `run_id` and `master_replid`. Where it is
//! not, all is asked for again, and what this replica told in the last minutes is told again.
//!
//! While Redis is away the gateway goes on alone: what it revokes itself holds here at once and is passed on later, and
//! what others revoke holds here when `cache.ttl` has passed.

mod bounded;
mod message;
mod outbox;
mod pace;
mod session;

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{self, LocalOptions};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use self::outbox::Outbox;
use self::session::{Heard, Session, SessionError};
use crate::client::{Connector, ConnectorError};
use crate::config::settings;
use crate::telemetry::metrics::Metrics;
use crate::tokens::revoker::Revoker;
use crate::watch::contents;

#[cfg(doc)]
use crate::tokens::revocation::Revocation;

/// For connecting, and for every answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a first failure; each further one doubles it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: whoever returns is heard within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// A connection that has lasted this long was a good one: the next pause is short again.
const STEADY: Duration = Duration::from_secs(5);
/// How often the log tells of a connection that is lost: one that comes and goes is in the metric.
const COMPLAINT: Duration = Duration::from_secs(60);
/// For telling the others what waits, when this replica leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// The way to a Redis. As long as it is the same, so are the connections.
#[derive(Debug)]
pub struct Way {
    settings: settings::Redis,
    connector: Connector,
    /// What is in the files that `redis.tls` names; none where one cannot be read.
    contents: Vec<Option<[u8; 32]>>,
}

impl Way {
    /// By these settings: the one `before`, where that leads there.
    ///
    /// # Errors
    /// Where TLS cannot be set up as asked.
    pub fn to(settings: &settings::Redis, before: Option<&Arc<Self>>) -> Result<Arc<Self>, ConnectorError> {
        let contents: Vec<_> = settings.tls.files().map(contents).collect();
        if let Some(before) = before
            && before.settings == *settings
            && before.contents == contents
        {
            return Ok(Arc::clone(before));
        }
        let connector = Connector::new(&settings.destination, &settings.tls, PATIENCE)?.naming_no_protocol();
        Ok(Arc::new(Self { settings: settings.clone(), connector, contents }))
    }
}

/// The replicas that this one tells of revocations, and hears them of: by the configuration of now.
pub struct Replicas {
    revoker: Arc<Revoker>,
    metrics: Arc<Metrics>,
    running: Mutex<Option<Running>>,
}

struct Running {
    way: Arc<Way>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Outbox>,
}

impl Replicas {
    /// None yet.
    pub fn new(revoker: Arc<Revoker>, metrics: Arc<Metrics>) -> Self {
        Self { revoker, metrics, running: Mutex::default() }
    }

    /// From now on by this way, or alone. Where it is the same nothing changes.
    ///
    /// # Errors
    /// Where the system gives no thread or no event queue; there is no connection then.
    pub fn adopt(&self, way: Option<&Arc<Way>>) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(running), Some(way)) = (&*running, way)
            && Arc::ptr_eq(&running.way, way)
        {
            return Ok(());
        }
        // What waits there is for whoever is at the next one.
        let outbox = running.take().and_then(Running::stop);
        self.metrics.redis_connected(way.map(|_| false));
        if let Some(way) = way {
            *running = Some(self.start(way, outbox)?);
        }
        Ok(())
    }

    /// Leaves the others, once they are told what was ordered here, if that is a matter of a second.
    pub fn stop(&self) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.stop();
        }
    }

    fn start(&self, way: &Arc<Way>, outbox: Option<Outbox>) -> io::Result<Running> {
        let (stop, stopped) = oneshot::channel();
        let mut member = Member {
            way: Arc::clone(way),
            heard: Heard::new(Arc::clone(&self.revoker), Arc::clone(&self.metrics)),
            outbox: outbox.unwrap_or_else(|| Outbox::new(self.revoker.subscribe())),
            session: None,
        };
        // The runtime cannot leave its thread.
        let thread = thread::Builder::new().name("replicas".to_owned()).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        () = member.take_part() => {}
                        _ = stopped => member.leave().await,
                    }
                }),
                Err(error) => tracing::error!(%error, "there is no connection to other replicas"),
            }
            member.outbox
        })?;
        Ok(Running { way: Arc::clone(way), stop, thread })
    }
}

impl Running {
    fn stop(self) -> Option<Outbox> {
        let Self { stop, thread, .. } = self;
        drop(stop);
        let ended = thread.join();
        if ended.is_err() {
            tracing::error!("the connection to other replicas had failed");
        }
        ended.ok()
    }
}

/// This replica among the others.
struct Member {
    way: Arc<Way>,
    heard: Heard,
    outbox: Outbox,
    session: Option<Session>,
}

impl Member {
    /// Connects, again and again, for as long as it is polled.
    async fn take_part(&mut self) {
        let mut pause = SHORTEST_PAUSE;
        let mut said = Said::default();
        loop {
            let lost = match self.connect().await {
                Ok(session) => {
                    self.heard.connected(true);
                    said.connected();
                    let since = Instant::now();
                    let session = self.session.insert(session);
                    let lost = session.run(&mut self.heard, &mut self.outbox).await;
                    self.session = None;
                    self.heard.connected(false);
                    self.heard.settle(Instant::now());
                    if since.elapsed() >= STEADY {
                        pause = SHORTEST_PAUSE;
                    }
                    lost
                }
                Err(error) => error,
            };
            said.lost(&lost, Instant::now());
            self.wait(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Nothing that was heard or ordered is lost by the end.
    async fn leave(&mut self) {
        self.heard.settle(Instant::now());
        self.outbox.collect_all();
        if let Some(session) = &mut self.session {
            let _ = timeout(FAREWELL, session.tell(&self.heard, &mut self.outbox, usize::MAX)).await;
        }
    }

    async fn connect(&mut self) -> Result<Session, SessionError> {
        let Self { way, heard, outbox, .. } = self;
        let connecting = Session::open(&way.connector, &way.settings);
        let mut connecting = pin!(timeout(PATIENCE * 2, connecting));
        let (session, arrival) = loop {
            tokio::select! {
                opened = &mut connecting => break opened.unwrap_or(Err(SessionError::Silent))?,
                () = outbox.collect() => {}
            }
        };
        if heard.joined(arrival) {
            outbox.again(Instant::now());
        }
        Ok(session)
    }

    /// Keeps what is ordered meanwhile.
    async fn wait(&mut self, pause: Duration) {
        let mut pause = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return,
                () = self.outbox.collect() => {}
            }
        }
    }
}

/// What the log says of the connection.
#[derive(Default)]
struct Said {
    is_lost: Option<bool>,
    at: Option<Instant>,
}

impl Said {
    fn connected(&mut self) {
        if self.is_lost != Some(false) {
            tracing::info!("connected to other replicas");
            self.is_lost = Some(false);
        }
    }

    fn lost(&mut self, error: &SessionError, now: Instant) {
        let is_due = self.at.is_none_or(|at| now.duration_since(at) >= COMPLAINT);
        if self.is_lost != Some(true) && is_due {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, "no connection to other replicas: revocations are heard after cache.ttl");
            *self = Self { is_lost: Some(true), at: Some(now) };
        }
    }
}
