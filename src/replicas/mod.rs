//! Revocations from and to other replicas, by way of a Redis.
//!
//! A thread of its own, so that no request ever waits for Redis. Each revocation raises an *epoch*, a number in Redis,
//! and is published with it, by one script. Whoever hears one finds by its epoch whether the one before was heard too;
//! whoever was cut off, by the epoch of its return. What was missed is not to be had any more: all verdicts are then
//! asked for again ([`Revocation::Missed`]), which is always safe. So nothing has to be kept in Redis but one number,
//! and nothing that is written there can do more than make a replica forget.
//!
//! While Redis is away the gateway goes on alone: what it revokes itself holds here at once and is passed on later, and
//! what others revoke holds here when `cache.ttl` has passed.

mod bounded;
mod message;
mod session;

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use self::session::{Heard, Session};
use crate::client::{Connector, ConnectorError};
use crate::config::settings;
use crate::telemetry::metrics::Metrics;
use crate::tokens::revocation::Revocation;
use crate::tokens::revoker::Revoker;
use crate::watch::contents;

/// For connecting, and for every answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a first failure; each further one doubles it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: whoever returns is heard within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// How many revocations are kept for the others while Redis is away. More than that become one that says so.
const MOST_WAITING: usize = 10_000;

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
    thread: JoinHandle<()>,
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
        if let Some(before) = running.take() {
            before.stop();
        }
        self.metrics.redis_connected(way.map(|_| false));
        if let Some(way) = way {
            *running = Some(self.start(way)?);
        }
        Ok(())
    }

    /// Leaves the others.
    pub fn stop(&self) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.stop();
        }
    }

    fn start(&self, way: &Arc<Way>) -> io::Result<Running> {
        let (stop, stopped) = oneshot::channel();
        let member = Member {
            way: Arc::clone(way),
            heard: Heard::new(Arc::clone(&self.revoker), Arc::clone(&self.metrics)),
            orders: self.revoker.subscribe(),
            waiting: VecDeque::new(),
        };
        // The runtime cannot leave its thread.
        let thread = thread::Builder::new().name("replicas".to_owned()).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        () = member.take_part() => {}
                        _ = stopped => {}
                    }
                }),
                Err(error) => tracing::error!(%error, "there is no connection to other replicas"),
            }
        })?;
        Ok(Running { way: Arc::clone(way), stop, thread })
    }
}

impl Running {
    fn stop(self) {
        let Self { stop, thread, .. } = self;
        drop(stop);
        if thread.join().is_err() {
            tracing::error!("the connection to other replicas had failed");
        }
    }
}

/// This replica among the others.
struct Member {
    way: Arc<Way>,
    heard: Heard,
    orders: UnboundedReceiver<Revocation>,
    /// What the others have yet to be told, oldest first.
    waiting: VecDeque<Revocation>,
}

impl Member {
    /// Connects, again and again, for as long as it is polled.
    async fn take_part(mut self) {
        let mut pause = SHORTEST_PAUSE;
        let mut is_new = true;
        loop {
            let lost = match self.connect().await {
                Ok(session) => {
                    pause = SHORTEST_PAUSE;
                    is_new = true;
                    self.heard.connected(true);
                    let Self { heard, orders, waiting, .. } = &mut self;
                    let lost = session.run(heard, orders, waiting).await;
                    self.heard.connected(false);
                    lost
                }
                Err(error) => error,
            };
            if is_new {
                let error: &dyn std::error::Error = &lost;
                tracing::warn!(
                    error,
                    "no connection to other replicas: revocations are heard after cache.ttl"
                );
                is_new = false;
            }
            self.wait(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&mut self) -> Result<Session, session::SessionError> {
        let Self { way, heard, orders, waiting } = self;
        let connecting = Session::open(&way.connector, &way.settings, heard);
        let mut connecting = pin!(timeout(PATIENCE * 2, connecting));
        loop {
            tokio::select! {
                session = &mut connecting => return session.unwrap_or(Err(session::SessionError::Silent)),
                Some(order) = orders.recv() => keep(waiting, order),
            }
        }
    }

    /// Keeps what is ordered meanwhile.
    async fn wait(&mut self, pause: Duration) {
        let mut pause = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return,
                Some(order) = self.orders.recv() => keep(&mut self.waiting, order),
            }
        }
    }
}

/// Keeps what the others have yet to be told.
fn keep(waiting: &mut VecDeque<Revocation>, order: Revocation) {
    if waiting.len() >= MOST_WAITING {
        waiting.clear();
        waiting.push_back(Revocation::Missed);
    }
    // After one that concerns all there is nothing left to be said.
    if !matches!(waiting.back(), Some(Revocation::Missed)) || order == Revocation::All {
        waiting.push_back(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded() {
        let mut waiting = VecDeque::new();
        let id = |number: usize| Revocation::Id(number.to_string().into());
        for number in 0..MOST_WAITING {
            keep(&mut waiting, id(number));
        }
        assert_eq!((waiting.len(), waiting.back()), (MOST_WAITING, Some(&id(MOST_WAITING - 1))));
        for number in 0..10 {
            keep(&mut waiting, id(number));
        }
        assert_eq!(waiting, [Revocation::Missed]);
        keep(&mut waiting, Revocation::All);
        assert_eq!(waiting, [Revocation::Missed, Revocation::All], "which closes tunnels, too");
    }
}
