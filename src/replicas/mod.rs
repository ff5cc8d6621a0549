//! Exchanges revocations, blocks and shares of rate limits with other replicas through Redis.
//!
//! A separate thread does it, so that no request waits for Redis. One Lua script increments the *epoch*, a number in
//! Redis, and publishes the revocation with it. By the epoch, a replica detects whether it missed an earlier message,
//! also after a reconnection. Missed revocations cannot be recovered: the replica introspects all tokens again
//! ([`Revocation::Missed`]), which is always safe. So revocations store a single number in Redis, and nothing written there
//! can grant anything. What the block list stores is described in [`blocks`], and what shared rate limits store in
//! [`shares`].
//!
//! A Redis stream would deliver missed revocations, but it must be stored and trimmed, and a trimmed stream needs the
//! same fallback.
//!
//! Redis may lose what it acknowledged: it restarts from a snapshot, or a replica of it is promoted. An epoch is
//! valid only for one process with one replication history, identified by `run_id` and `master_replid`. If either
//! changes, the replica introspects all tokens again and publishes its recent revocations again.
//!
//! While Redis is unreachable, the gateway keeps serving. Its own revocations take effect here at once and are
//! published later. Revocations of other replicas take effect here once `cache.ttl` has passed.

mod blocks;
mod bounded;
mod commands;
mod message;
mod outbox;
mod session;
mod shares;
mod throttle;

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{self, LocalOptions};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use self::blocks::BlockExchange;
use self::outbox::Outbox;
use self::session::{Session, SessionError, Subscriber};
use self::shares::{ShareExchanger, SharedLimits};
use crate::client::{ClientKey, Connector, ConnectorError};
use crate::config::settings;
use crate::limits::tokens::TokenLimits;
use crate::telemetry::metrics::Metrics;
use crate::tokens::blocker::Blocker;
use crate::tokens::revoker::Revoker;

#[cfg(doc)]
use crate::tokens::revocation::Revocation;

/// For connecting, and for each response of Redis.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after the first failure. Each further failure doubles it.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, so that a replica reconnects within a second.
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// A connection that lasted this long resets the pause.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The minimum interval between log messages about lost connections. The metric has all of them.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long the shutdown may publish pending revocations.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A configured Redis. While it stays the same across reloads, its connections are kept.
#[derive(Debug)]
pub struct RedisClient {
    key: ClientKey<settings::Redis>,
    connector: Connector,
}

impl RedisClient {
    /// Creates the client for `settings`, or returns `previous` if its settings and files are the same.
    ///
    /// # Errors
    /// Returns an error if TLS cannot be set up.
    pub fn for_settings(
        settings: &settings::Redis,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, ConnectorError> {
        let key = ClientKey::new(settings.clone(), |settings| &settings.tls);
        if let Some(previous) = previous.filter(|previous| previous.key == key) {
            return Ok(Arc::clone(previous));
        }
        let connector = Connector::new(&settings.destination, &settings.tls, REDIS_TIMEOUT)?.without_alpn();
        Ok(Arc::new(Self { key, connector }))
    }
}

/// The exchange of revocations with other replicas, by the current configuration.
pub struct Replicas {
    revoker: Arc<Revoker>,
    blocker: Arc<Blocker>,
    metrics: Arc<Metrics>,
    /// Whether the first exchange of blocks was completed or has failed.
    attempted: watch::Sender<bool>,
    limits: watch::Sender<SharedLimits>,
    running: Mutex<Option<RunningTask>>,
}

struct RunningTask {
    client: Arc<RedisClient>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Exchanges>,
}

/// What moves to the next Redis after a reload.
type Exchanges = (Outbox, BlockExchange, ShareExchanger);

impl Replicas {
    /// Creates the exchange without a connection.
    pub fn new(revoker: Arc<Revoker>, blocker: Arc<Blocker>, metrics: Arc<Metrics>) -> Self {
        let limits = watch::Sender::new(None);
        let attempted = watch::Sender::new(false);
        Self { revoker, blocker, metrics, attempted, limits, running: Mutex::default() }
    }

    /// Waits until the blocks of other replicas are known or Redis cannot be reached, for 2 s at most. Returns at once
    /// without Redis.
    pub async fn wait_for_blocks(&self) {
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return;
        }
        let mut attempted = self.attempted.subscribe();
        if timeout(REDIS_TIMEOUT, attempted.wait_for(|attempted| *attempted)).await.is_err() {
            tracing::warn!(
                "Redis does not answer: the gateway starts with its own blocks, and gets those of others later"
            );
        }
    }

    /// Uses `client` from now on, or no Redis if it is `None`. Keeps the connections if `client` is the current one.
    /// Shares `limits`, if they are to be shared.
    ///
    /// # Errors
    /// Returns an error if the thread or its runtime cannot be created. There is no connection then.
    pub fn apply(
        &self,
        client: Option<&Arc<RedisClient>>,
        limits: Option<&Arc<TokenLimits>>,
    ) -> io::Result<()> {
        self.limits.send_replace(limits.filter(|limits| limits.shared().is_some()).cloned());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(running), Some(client)) = (&*running, client)
            && Arc::ptr_eq(&running.client, client)
        {
            return Ok(());
        }
        // Pending revocations move to the next Redis.
        let previous = running.take().and_then(RunningTask::stop);
        self.metrics.redis_connected(client.map(|_| false));
        if let Some(client) = client {
            *running = Some(self.start(client, previous)?);
        }
        Ok(())
    }

    /// Publishes pending revocations for up to 1 s, then disconnects.
    pub fn stop(&self) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.stop();
        }
    }

    fn start(&self, client: &Arc<RedisClient>, previous: Option<Exchanges>) -> io::Result<RunningTask> {
        let (stop, stopped) = oneshot::channel();
        let (outbox, blocks, shares) = match previous {
            Some((outbox, blocks, shares)) => (outbox, blocks, shares),
            None => (
                Outbox::new(self.revoker.subscribe()),
                BlockExchange::new(Arc::clone(&self.blocker), self.attempted.clone()),
                ShareExchanger::new(self.limits.subscribe(), Arc::clone(&self.metrics)),
            ),
        };
        let (revoker, blocker) = (Arc::clone(&self.revoker), Arc::clone(&self.blocker));
        let mut task = ReplicaTask {
            client: Arc::clone(client),
            subscriber: Subscriber::new(revoker, blocker, Arc::clone(&self.metrics)),
            outbox,
            blocks,
            session: None,
        };
        let shared_client = Arc::clone(client);
        // The runtime is not `Send`, so the thread creates it.
        let thread = thread::Builder::new().name("replicas".to_owned()).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        () = task.run() => {}
                        () = shares.run(&shared_client) => {}
                        _ = stopped => {
                            tokio::join!(task.shut_down(), shares.leave(&shared_client));
                        }
                    }
                }),
                Err(error) => tracing::error!(%error, "cannot exchange messages with other replicas"),
            }
            (task.outbox, task.blocks, shares)
        })?;
        Ok(RunningTask { client: Arc::clone(client), stop, thread })
    }
}

impl RunningTask {
    fn stop(self) -> Option<Exchanges> {
        let Self { stop, thread, .. } = self;
        drop(stop);
        let ended = thread.join();
        if ended.is_err() {
            tracing::error!("the thread for other replicas panicked");
        }
        ended.ok()
    }
}

/// The state of the thread.
struct ReplicaTask {
    client: Arc<RedisClient>,
    subscriber: Subscriber,
    outbox: Outbox,
    blocks: BlockExchange,
    session: Option<Session>,
}

impl ReplicaTask {
    /// Connects to Redis and reconnects, until the future is dropped.
    async fn run(&mut self) {
        let mut pause = MIN_PAUSE;
        let mut log = ConnectionLog::default();
        loop {
            let lost = match self.connect().await {
                Ok(session) => {
                    self.subscriber.set_connected(true);
                    log.connected();
                    let connected_at = Instant::now();
                    let session = self.session.insert(session);
                    let lost = session.run(&mut self.subscriber, &mut self.outbox, &mut self.blocks).await;
                    self.session = None;
                    self.subscriber.set_connected(false);
                    self.subscriber.apply_deferred(Instant::now());
                    if connected_at.elapsed() >= STABLE_AFTER {
                        pause = MIN_PAUSE;
                    }
                    lost
                }
                Err(error) => error,
            };
            self.blocks.mark_attempted();
            log.lost(&lost, Instant::now());
            self.wait(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Applies deferred revocations and publishes the pending ones.
    async fn shut_down(&mut self) {
        self.subscriber.apply_deferred(Instant::now());
        self.outbox.collect_all();
        self.blocks.collect_all();
        if let Some(session) = &mut self.session {
            let publish = async {
                session.publish_pending(&self.subscriber, &mut self.outbox, usize::MAX).await?;
                session.publish_blocks(&self.subscriber, &mut self.blocks, usize::MAX).await
            };
            let _ = timeout(SHUTDOWN_TIMEOUT, publish).await;
        }
    }

    async fn connect(&mut self) -> Result<Session, SessionError> {
        let Self { client, subscriber, outbox, .. } = self;
        let connecting = Session::open(&client.connector, client.key.settings());
        let mut connecting = pin!(timeout(REDIS_TIMEOUT * 2, connecting));
        let (session, state) = loop {
            tokio::select! {
                opened = &mut connecting => break opened.unwrap_or(Err(SessionError::Timeout))?,
                () = outbox.collect() => {}
            }
        };
        if subscriber.start_session(state) {
            outbox.queue_resend(Instant::now());
        }
        Ok(session)
    }

    /// Waits, and collects local revocations meanwhile.
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

/// Logs changes of the connection state.
#[derive(Default)]
struct ConnectionLog {
    is_lost: Option<bool>,
    logged_at: Option<Instant>,
}

impl ConnectionLog {
    fn connected(&mut self) {
        if self.is_lost != Some(false) {
            tracing::info!("connected to other replicas");
            self.is_lost = Some(false);
        }
    }

    fn lost(&mut self, error: &SessionError, now: Instant) {
        let is_due = self.logged_at.is_none_or(|logged_at| now.duration_since(logged_at) >= LOG_INTERVAL);
        if self.is_lost != Some(true) && is_due {
            let error: &dyn std::error::Error = error;
            tracing::warn!(
                error,
                "no connection to other replicas: their revocations take effect after cache.ttl"
            );
            *self = Self { is_lost: Some(true), logged_at: Some(now) };
        }
    }
}
