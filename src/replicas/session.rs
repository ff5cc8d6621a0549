//! One time of being connected to Redis, and what is heard in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub, PubSubSink, PubSubStream};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind};
use secrecy::ExposeSecret;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::bounded::{Bounded, Eye};
use super::message::{self, Message};
use super::{PATIENCE, keep};
use crate::client::{ConnectError, Connector, Protocol};
use crate::config::settings;
use crate::telemetry::metrics::{Metrics, RedisMessage, RevocationSource};
use crate::tokens::revocation::Revocation;
use crate::tokens::revoker::Revoker;

/// How often the epoch is looked at. What is missed is noticed at the second look.
const LOOK: Duration = Duration::from_millis(400);
/// How many of those that wait are sent before what came is heard.
const AT_ONCE: usize = 64;
/// How often a message that nobody understands is worth a line in the log.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Raises the epoch and publishes with it, at once. A number where there is none begins anywhere, so that an emptied
/// Redis is not taken for the one before. It goes by its text: Lua's own numbers are not exact.
const PUBLISH: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[2], redis.call('GET', KEYS[1]) .. ' ' .. ARGV[3])
return redis.status_reply('OK')";

/// Why a session did not begin, or has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("no connection to Redis")]
    Connect(#[from] ConnectError),
    #[error("Redis: {step}")]
    Redis {
        /// What was being done.
        step: &'static str,
        #[source]
        source: RedisError,
    },
    #[error("Redis does not answer")]
    Silent,
    #[error("Redis has ended the subscription")]
    Ended,
    #[error("the epoch in Redis cannot be read")]
    Epoch,
}

fn at(step: &'static str) -> impl FnOnce(RedisError) -> SessionError {
    move |source| SessionError::Redis { step, source }
}

/// Both connections: one that hears, and one that speaks.
pub(super) struct Session {
    commands: MultiplexedConnection,
    driver: JoinHandle<()>,
    /// Of the one that speaks.
    answers: Eye,
    messages: PubSubStream,
    /// The subscription ends with it.
    _sink: PubSubSink,
    /// Of the one that hears.
    heard: Eye,
    channel: Box<str>,
    key: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Connects, subscribes, and finds out whether anything was missed before.
    pub(super) async fn open(
        connector: &Connector,
        settings: &settings::Redis,
        heard: &mut Heard,
    ) -> Result<Self, SessionError> {
        let info = info(settings);
        let answers = Eye::default();
        let stream = Bounded::new(connector.connect(Protocol::Http1).await?, answers.clone());
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let (commands, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(at("cannot log in"))?;
        let driver = tokio::task::spawn_local(driver);
        let eye = Eye::default();
        let stream = Bounded::new(connector.connect(Protocol::Http1).await?, eye.clone());
        let pubsub = PubSub::new(&info, stream).await.map_err(at("cannot log in"))?;
        let (mut sink, messages) = pubsub.split();
        sink.subscribe(&*settings.channel).await.map_err(at("cannot subscribe"))?;
        let channel = settings.channel.clone();
        let key = format!("{channel}:epoch");
        let mut session = Self { commands, driver, answers, messages, _sink: sink, heard: eye, channel, key };
        // After subscribing: what is published from here on is heard.
        heard.joined(session.epoch().await?);
        Ok(session)
    }

    /// Tells and hears until the connection is lost.
    pub(super) async fn run(
        mut self,
        heard: &mut Heard,
        orders: &mut UnboundedReceiver<Revocation>,
        waiting: &mut VecDeque<Revocation>,
    ) -> SessionError {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for _ in 0..AT_ONCE {
                let Some(order) = waiting.front() else { break };
                if let Err(error) = self.publish(&Message::new(heard.own, order.clone())).await {
                    return error;
                }
                heard.metrics.redis_message(RedisMessage::Sent);
                waiting.pop_front();
            }
            tokio::select! {
                message = self.messages.next() => {
                    let Some(message) = message else { return SessionError::Ended };
                    self.heard.open();
                    heard.message(message.get_payload_bytes(), Instant::now());
                }
                Some(order) = orders.recv() => keep(waiting, order),
                _ = look.tick() => match self.epoch().await {
                    Ok(epoch) => heard.looked(epoch),
                    Err(error) => return error,
                },
                () = std::future::ready(()), if !waiting.is_empty() => {}
            }
        }
    }

    /// The epoch in Redis. Where there is none, or what is none, it begins anew: that is noticed as one that is missed.
    async fn epoch(&mut self) -> Result<u64, SessionError> {
        for _ in 0..3 {
            self.answers.open();
            // Not more of it than an epoch has, whatever is there.
            let read: Result<Vec<u8>, _> =
                redis::cmd("GETRANGE").arg(&self.key).arg(0).arg(31).query_async(&mut self.commands).await;
            match read {
                Ok(text) if text.is_empty() => {}
                Ok(text) => {
                    if let Some(epoch) = std::str::from_utf8(&text).ok().and_then(message::epoch_of) {
                        return Ok(epoch);
                    }
                    self.remove_epoch().await?;
                }
                Err(error) if is_refusal(&error) => self.remove_epoch().await?,
                Err(error) => return Err(at("cannot read the epoch")(error)),
            }
            let begin: Result<(), _> = redis::cmd("SET")
                .arg(&self.key)
                .arg(new_epoch())
                .arg("NX")
                .query_async(&mut self.commands)
                .await;
            begin.map_err(at("cannot begin an epoch"))?;
        }
        Err(SessionError::Epoch)
    }

    async fn remove_epoch(&mut self) -> Result<(), SessionError> {
        self.answers.open();
        let removed = redis::cmd("DEL").arg(&self.key).query_async(&mut self.commands).await;
        removed.map_err(at("cannot remove what is no epoch"))
    }

    async fn publish(&mut self, message: &Message) -> Result<(), SessionError> {
        let Some(json) = message.to_json() else { return Ok(()) };
        for step in ["cannot publish", "cannot publish again"] {
            self.answers.open();
            let published: Result<(), _> = redis::cmd("EVAL")
                .arg(PUBLISH)
                .arg(1)
                .arg(&self.key)
                .arg(new_epoch())
                .arg(&*self.channel)
                .arg(&json)
                .query_async(&mut self.commands)
                .await;
            match published {
                Ok(()) => return Ok(()),
                // What is under the key is no number, or the highest.
                Err(error) if is_refusal(&error) && step == "cannot publish" => self.remove_epoch().await?,
                Err(error) => return Err(at(step)(error)),
            }
        }
        Ok(())
    }
}

/// Whether Redis has answered that it will not do what it was told; not as one that is about to change its part.
fn is_refusal(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown,
        ) => false,
        ErrorKind::Server(_) | ErrorKind::Extension => true,
        _ => false,
    }
}

/// Somewhere in the lower half of what Redis can count.
fn new_epoch() -> u64 {
    fastrand::u64(1..1 << 62)
}

fn info(settings: &settings::Redis) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default()
        .set_db(settings.database.into())
        .set_lib_name("stockaj-gateway", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &settings.user {
        info = info.set_username(user);
    }
    if let Some(password) = &settings.password {
        info = info.set_password(password.expose_secret());
    }
    info
}

/// What was heard so far, over all sessions.
pub(super) struct Heard {
    revoker: Arc<Revoker>,
    metrics: Arc<Metrics>,
    /// Drawn anew whenever the process starts.
    own: u64,
    /// The highest up to which everything was heard, or forgotten for.
    epoch: Option<u64>,
    /// What was in Redis at the last look of this session.
    seen: Option<u64>,
    complained_at: Option<Instant>,
}

impl Heard {
    pub(super) fn new(revoker: Arc<Revoker>, metrics: Arc<Metrics>) -> Self {
        Self { revoker, metrics, own: fastrand::u64(..), epoch: None, seen: None, complained_at: None }
    }

    pub(super) fn connected(&self, connected: bool) {
        self.metrics.redis_connected(Some(connected));
        if connected {
            tracing::info!("connected to other replicas");
        }
    }

    /// `epoch` was in Redis after a subscription had begun.
    fn joined(&mut self, epoch: u64) {
        if self.epoch != Some(epoch) {
            self.missed(epoch);
        }
        self.seen = None;
    }

    /// `epoch` was in Redis just now. What was there at the look before has had its time to be heard.
    fn looked(&mut self, epoch: u64) {
        let lags = self.seen.is_some_and(|seen| self.epoch < Some(seen));
        if lags || self.epoch > Some(epoch) {
            self.missed(epoch);
        }
        self.seen = Some(epoch);
    }

    fn message(&mut self, bytes: &[u8], now: Instant) {
        let Some((epoch, message)) = message::read(bytes) else {
            self.metrics.redis_message(RedisMessage::Refused);
            if self.complained_at.is_none_or(|at| now.duration_since(at) >= COMPLAINT) {
                self.complained_at = Some(now);
                tracing::warn!(bytes = bytes.len(), "a message came by Redis that no replica sends");
            }
            return;
        };
        if message.from != self.own {
            self.metrics.redis_message(RedisMessage::Received);
            self.revoker.forget(vec![message.revocation()], RevocationSource::Redis);
        }
        match self.epoch {
            Some(known) if known.checked_add(1) == Some(epoch) => self.epoch = Some(epoch),
            Some(known) if epoch > known => self.missed(epoch),
            _ => {}
        }
    }

    fn missed(&mut self, epoch: u64) {
        self.epoch = Some(epoch);
        self.revoker.forget(vec![Revocation::Missed], RevocationSource::Redis);
    }
}
