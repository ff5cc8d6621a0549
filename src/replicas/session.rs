//! One time of being connected to Redis, and what is heard in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub, PubSubSink, PubSubStream};
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind};
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use super::bounded::{Bounded, Eye};
use super::message::{self, Message};
use super::outbox::Outbox;
use super::pace::Pace;
use super::{COMPLAINT, PATIENCE};
use crate::client::{ConnectError, Connector, Protocol};
use crate::config::settings;
use crate::telemetry::metrics::{Metrics, RedisMessage, RevocationSource};
use crate::tokens::revocation::Revocation;
use crate::tokens::revoker::Revoker;

/// How often the epoch is looked at. What is missed is noticed at the second look.
const LOOK: Duration = Duration::from_millis(400);
/// How many of those that wait are sent before what came is heard.
const AT_ONCE: usize = 64;
/// How often in a row an epoch is seen of which nothing was heard, before the subscription is taken for dead.
const DEAF: usize = 2;

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
    #[error("nothing comes by the subscription")]
    Deaf,
}

fn at(step: &'static str) -> impl FnOnce(RedisError) -> SessionError {
    move |source| SessionError::Redis { step, source }
}

/// What was found in Redis once the subscription had begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    epoch: u64,
    /// Which process it is, with which history; none where Redis does not tell.
    history: Option<[Box<str>; 2]>,
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
    look: Interval,
    channel: Box<str>,
    key: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Connects, subscribes, and finds out how far Redis has come.
    pub(super) async fn open(
        connector: &Connector,
        settings: &settings::Redis,
    ) -> Result<(Self, Arrival), SessionError> {
        let info = info(settings);
        let answers = Eye::default();
        let stream = Bounded::new(connector.connect(Protocol::Http1).await?, answers.clone());
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let (commands, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(at("cannot log in"))?;
        let driver = tokio::task::spawn_local(driver);
        let heard = Eye::default();
        let stream = Bounded::new(connector.connect(Protocol::Http1).await?, heard.clone());
        let pubsub = PubSub::new(&info, stream).await.map_err(at("cannot log in"))?;
        let (mut sink, messages) = pubsub.split();
        sink.subscribe(&*settings.channel).await.map_err(at("cannot subscribe"))?;
        let channel = settings.channel.clone();
        let key = format!("{channel}:epoch");
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session =
            Self { commands, driver, answers, messages, _sink: sink, heard, look, channel, key };
        // After subscribing: what is published from here on is heard.
        let arrival = Arrival { history: session.history().await?, epoch: session.epoch().await? };
        Ok((session, arrival))
    }

    /// Tells and hears until the connection is lost.
    pub(super) async fn run(&mut self, heard: &mut Heard, outbox: &mut Outbox) -> SessionError {
        loop {
            if let Err(error) = self.tell(heard, outbox, AT_ONCE).await {
                return error;
            }
            let due = heard.pace.due();
            tokio::select! {
                message = self.messages.next() => {
                    let Some(message) = message else { return SessionError::Ended };
                    self.heard.open();
                    heard.message(message.get_payload_bytes(), Instant::now());
                }
                () = outbox.collect() => {}
                () = until(due) => {
                    heard.settle(Instant::now());
                }
                _ = self.look.tick() => match self.epoch().await {
                    Ok(epoch) => heard.looked(epoch, Instant::now()),
                    Err(error) => return error,
                },
                () = std::future::ready(()), if outbox.next().is_some() => {}
            }
            if heard.deaf >= DEAF {
                return SessionError::Deaf;
            }
        }
    }

    /// Tells the others what waits, at most so much of it.
    pub(super) async fn tell(
        &mut self,
        heard: &Heard,
        outbox: &mut Outbox,
        most: usize,
    ) -> Result<(), SessionError> {
        for _ in 0..most {
            let Some(order) = outbox.next() else { break };
            self.publish(&Message::new(heard.own, order.clone())).await?;
            heard.metrics.redis_message(RedisMessage::Sent);
            outbox.took(Instant::now());
        }
        Ok(())
    }

    /// Which process this is, and with which history. A user who may not know it has no answer.
    async fn history(&mut self) -> Result<Option<[Box<str>; 2]>, SessionError> {
        let mut history = [Box::<str>::default(), Box::default()];
        for (place, (section, field)) in
            history.iter_mut().zip([("server", "run_id:"), ("replication", "master_replid:")])
        {
            self.answers.open();
            let told: Result<Vec<u8>, _> =
                redis::cmd("INFO").arg(section).query_async(&mut self.commands).await;
            let told = match told {
                Ok(told) => told,
                Err(error) if is_refusal(&error) => return Ok(None),
                Err(error) => return Err(at("cannot ask which Redis it is")(error)),
            };
            let value = std::str::from_utf8(&told)
                .ok()
                .and_then(|told| told.lines().find_map(|line| line.strip_prefix(field)))
                .filter(|value| !value.is_empty());
            let Some(value) = value else { return Ok(None) };
            *place = value.into();
        }
        Ok(Some(history))
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

/// For ever, where there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
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
    /// Of the Redis that had it.
    history: Option<[Box<str>; 2]>,
    /// What was in Redis at the last look of this session.
    seen: Option<u64>,
    /// How often in a row nothing was heard that should have been.
    deaf: usize,
    pace: Pace,
    complained_at: Option<Instant>,
}

impl Heard {
    pub(super) fn new(revoker: Arc<Revoker>, metrics: Arc<Metrics>) -> Self {
        Self {
            revoker,
            metrics,
            own: fastrand::u64(..),
            epoch: None,
            history: None,
            seen: None,
            deaf: 0,
            pace: Pace::default(),
            complained_at: None,
        }
    }

    pub(super) fn connected(&self, connected: bool) {
        self.metrics.redis_connected(Some(connected));
    }

    /// A subscription has begun. Says whether this Redis may have lost what the one before was told.
    pub(super) fn joined(&mut self, Arrival { epoch, history }: Arrival) -> bool {
        let is_same = history.is_some() && self.history == history;
        if !is_same || self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            // At once: nobody is connected before.
            self.forget(Revocation::Missed);
        }
        self.history = history;
        self.seen = None;
        self.deaf = 0;
        !is_same
    }

    /// `epoch` was in Redis just now. What was there at the look before has had its time to be heard.
    fn looked(&mut self, epoch: u64, now: Instant) {
        let lags = self.seen.is_some_and(|seen| self.epoch < Some(seen));
        if lags || self.epoch > Some(epoch) {
            self.missed(epoch, now);
        }
        if lags {
            self.deaf += 1;
        }
        self.seen = Some(epoch);
    }

    fn message(&mut self, bytes: &[u8], now: Instant) {
        self.deaf = 0;
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
            self.pass(message.revocation(), now);
        }
        match self.epoch {
            Some(known) if known.checked_add(1) == Some(epoch) => self.epoch = Some(epoch),
            Some(known) if epoch > known => self.missed(epoch, now),
            _ => {}
        }
    }

    fn missed(&mut self, epoch: u64, now: Instant) {
        self.epoch = Some(epoch);
        self.pass(Revocation::Missed, now);
    }

    fn pass(&mut self, revocation: Revocation, now: Instant) {
        if let Some(revocation) = self.pace.pass(revocation, now) {
            self.forget(revocation);
        }
    }

    /// What was put off takes effect.
    pub(super) fn settle(&mut self, now: Instant) {
        if let Some(revocation) = self.pace.take(now) {
            self.forget(revocation);
        }
    }

    fn forget(&self, revocation: Revocation) {
        self.revoker.forget(vec![revocation], RevocationSource::Redis);
    }
}
