//! One session with Redis, and the state of the subscription across sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::RedisError;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use super::blocks::BlockExchange;
use super::bounded::{BoundedStream, ReadBudget};
use super::commands::{Commands, OpenError, info, is_command_error};
use super::message::{self, Content, Message};
use super::outbox::Outbox;
use super::throttle::RevocationThrottle;
use super::{LOG_INTERVAL, REDIS_TIMEOUT};
use crate::client::{Connector, OfferedProtocols};
use crate::config::settings;
use crate::telemetry::metrics::{Metrics, RedisMessage, RevocationSource};
use crate::tokens::blocker::Blocker;
use crate::tokens::blocklist::Merged;
use crate::tokens::blocklist::record::BlockRecord;
use crate::tokens::revocation::Revocation;
use crate::tokens::revoker::Revoker;

/// How often the epoch in Redis is polled. A missed message is detected at the second poll.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// How many pending revocations are published before received messages are processed.
const MAX_PUBLISHED_AT_ONCE: usize = 64;
/// After this many consecutive polls with a missed message, the subscription counts as dead.
const MAX_MISSED_POLLS: usize = 2;

/// Increments the epoch and publishes the message with it, atomically. A missing epoch starts at a random number, so
/// that an emptied Redis is not mistaken for the previous one. The script passes the epoch as text, since Lua's
/// numbers lose precision.
const PUBLISH: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[2], redis.call('GET', KEYS[1]) .. ' ' .. ARGV[3])
return redis.status_reply('OK')";

/// A session could not start or has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("Redis: {step}")]
    Redis {
        /// The failed step.
        step: &'static str,
        #[source]
        source: RedisError,
    },
    #[error("Redis does not respond")]
    Timeout,
    #[error("Redis closed the subscription")]
    SubscriptionEnded,
    #[error("the epoch in Redis cannot be read")]
    Epoch,
    #[error("the subscription delivers no messages")]
    SubscriptionDead,
}

fn failed_step(step: &'static str) -> impl FnOnce(RedisError) -> SessionError {
    move |source| SessionError::Redis { step, source }
}

/// The state of Redis at the start of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisState {
    epoch: u64,
    /// `run_id` and `master_replid`; `None` if Redis does not show them.
    history: Option<[Box<str>; 2]>,
}

/// Two connections: one for the subscription, one for commands.
pub(super) struct Session {
    commands: Commands,
    messages: PubSubStream,
    /// Keeps the subscription alive.
    _sink: PubSubSink,
    /// The budget of the subscription.
    subscription_budget: ReadBudget,
    poll: Interval,
    channel: Box<str>,
    key: String,
    /// The key of the block list.
    block_key: String,
}

impl Session {
    /// Connects, subscribes, and reads the state of Redis.
    pub(super) async fn open(
        connector: &Connector,
        settings: &settings::Redis,
    ) -> Result<(Self, RedisState), SessionError> {
        let commands = Commands::open(connector, settings, REDIS_TIMEOUT).await?;
        let subscription_budget = ReadBudget::default();
        let stream = connector.connect(OfferedProtocols::Http1).await.map_err(OpenError::from)?;
        let stream = BoundedStream::new(stream, subscription_budget.clone());
        let pubsub = PubSub::new(&info(settings), stream).await.map_err(failed_step("cannot log in"))?;
        let (mut sink, messages) = pubsub.split();
        sink.subscribe(&*settings.channel).await.map_err(failed_step("cannot subscribe"))?;
        let channel = settings.channel.clone();
        let (key, block_key) = (format!("{channel}:epoch"), format!("{channel}:blocks"));
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session =
            Self { commands, messages, _sink: sink, subscription_budget, poll, channel, key, block_key };
        // Read after subscribing, so that every later message is received.
        let state = RedisState { history: session.history().await?, epoch: session.epoch().await? };
        Ok((session, state))
    }

    /// Publishes and receives until the connection is lost.
    pub(super) async fn run(
        &mut self,
        subscriber: &mut Subscriber,
        outbox: &mut Outbox,
        blocks: &mut BlockExchange,
    ) -> SessionError {
        blocks.begin_session();
        loop {
            if let Err(error) = self.publish_pending(subscriber, outbox, MAX_PUBLISHED_AT_ONCE).await {
                return error;
            }
            if let Err(error) = self.exchange_blocks(subscriber, blocks).await {
                return error;
            }
            if let Err(error) = self.publish_blocks(subscriber, blocks, MAX_PUBLISHED_AT_ONCE).await {
                return error;
            }
            let due = subscriber.throttle.due();
            tokio::select! {
                message = self.messages.next() => {
                    let Some(message) = message else { return SessionError::SubscriptionEnded };
                    self.subscription_budget.reset();
                    subscriber.receive(message.get_payload_bytes(), Instant::now());
                }
                () = outbox.collect() => {}
                () = blocks.collect() => {}
                () = sleep_until_due(due) => {
                    subscriber.apply_deferred(Instant::now());
                }
                _ = self.poll.tick() => match self.epoch().await {
                    Ok(epoch) => subscriber.check_epoch(epoch, Instant::now()),
                    Err(error) => return error,
                },
                () = std::future::ready(()), if outbox.next().is_some() || blocks.next().is_some() => {}
            }
            if subscriber.missed_polls >= MAX_MISSED_POLLS {
                return SessionError::SubscriptionDead;
            }
        }
    }

    /// Publishes at most `max` pending revocations.
    pub(super) async fn publish_pending(
        &mut self,
        subscriber: &Subscriber,
        outbox: &mut Outbox,
        max: usize,
    ) -> Result<(), SessionError> {
        for _ in 0..max {
            let Some(revocation) = outbox.next() else { break };
            self.publish(&Message::new(subscriber.process, revocation.clone())).await?;
            subscriber.metrics.redis_message(RedisMessage::Sent);
            outbox.mark_sent(Instant::now());
        }
        Ok(())
    }

    /// Exchanges all blocks, if that is due.
    async fn exchange_blocks(
        &mut self,
        subscriber: &mut Subscriber,
        blocks: &mut BlockExchange,
    ) -> Result<(), SessionError> {
        if std::mem::take(&mut subscriber.has_missed) {
            blocks.request();
        }
        let now = Instant::now();
        if !blocks.is_due(now) {
            return Ok(());
        }
        let exchanged = blocks.exchange(&mut self.commands, &self.block_key, now).await;
        for record in exchanged.map_err(failed_step("cannot exchange blocks"))? {
            subscriber.merge(record, now);
        }
        blocks.mark_attempted();
        Ok(())
    }

    /// Stores and publishes at most `max` pending changes of the block list.
    pub(super) async fn publish_blocks(
        &mut self,
        subscriber: &Subscriber,
        blocks: &mut BlockExchange,
        max: usize,
    ) -> Result<(), SessionError> {
        for _ in 0..max {
            let Some(record) = blocks.next().cloned() else { break };
            // Stored first: a replica that subscribes in between reads it.
            let stored = blocks.store(&mut self.commands, &self.block_key, &record).await;
            stored.map_err(failed_step("cannot store a block"))?;
            self.publish(&Message::of_block(subscriber.process, &record)).await?;
            subscriber.metrics.redis_message(RedisMessage::Sent);
            blocks.mark_sent();
        }
        Ok(())
    }

    /// `run_id` and `master_replid`. Returns `None` if the Redis user may not run `INFO`.
    async fn history(&mut self) -> Result<Option<[Box<str>; 2]>, SessionError> {
        let mut history = [Box::<str>::default(), Box::default()];
        for (place, (section, field)) in
            history.iter_mut().zip([("server", "run_id:"), ("replication", "master_replid:")])
        {
            let info: Result<Vec<u8>, _> = self.commands.run(redis::cmd("INFO").arg(section)).await;
            let info = match info {
                Ok(info) => info,
                Err(error) if is_command_error(&error) => return Ok(None),
                Err(error) => return Err(failed_step("cannot read which Redis it is")(error)),
            };
            let value = std::str::from_utf8(&info)
                .ok()
                .and_then(|info| info.lines().find_map(|line| line.strip_prefix(field)))
                .filter(|value| !value.is_empty());
            let Some(value) = value else { return Ok(None) };
            *place = value.into();
        }
        Ok(Some(history))
    }

    /// The epoch in Redis. A missing or invalid epoch is replaced by a new one, which all replicas detect as a missed
    /// message.
    async fn epoch(&mut self) -> Result<u64, SessionError> {
        for _ in 0..3 {
            // An epoch has at most 20 digits. The value may be anything, so its length is bounded.
            let read: Result<Vec<u8>, _> =
                self.commands.run(redis::cmd("GETRANGE").arg(&self.key).arg(0).arg(31)).await;
            match read {
                Ok(text) if text.is_empty() => {}
                Ok(text) => {
                    if let Some(epoch) = std::str::from_utf8(&text).ok().and_then(message::parse_epoch) {
                        return Ok(epoch);
                    }
                    self.remove_epoch().await?;
                }
                Err(error) if is_command_error(&error) => self.remove_epoch().await?,
                Err(error) => return Err(failed_step("cannot read the epoch")(error)),
            }
            let begin: Result<(), _> =
                self.commands.run(redis::cmd("SET").arg(&self.key).arg(new_epoch()).arg("NX")).await;
            begin.map_err(failed_step("cannot start an epoch"))?;
        }
        Err(SessionError::Epoch)
    }

    async fn remove_epoch(&mut self) -> Result<(), SessionError> {
        let removed = self.commands.run(redis::cmd("DEL").arg(&self.key)).await;
        removed.map_err(failed_step("cannot remove an invalid epoch"))
    }

    async fn publish(&mut self, message: &Message) -> Result<(), SessionError> {
        let Some(json) = message.to_json() else { return Ok(()) };
        for step in ["cannot publish", "cannot publish again"] {
            let mut command = redis::cmd("EVAL");
            command.arg(PUBLISH).arg(1).arg(&self.key).arg(new_epoch()).arg(&*self.channel).arg(&json);
            let published: Result<(), _> = self.commands.run(&command).await;
            match published {
                Ok(()) => return Ok(()),
                // The key holds no number, or the highest.
                Err(error) if is_command_error(&error) && step == "cannot publish" => {
                    self.remove_epoch().await?
                }
                Err(error) => return Err(failed_step(step)(error)),
            }
        }
        Ok(())
    }
}

/// Sleeps until `time`; forever if it is `None`.
async fn sleep_until_due(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// A random start in the lower half of Redis' integers, so that there is room to count.
fn new_epoch() -> u64 {
    fastrand::u64(1..1 << 62)
}

/// The receiving side, across all sessions.
pub(super) struct Subscriber {
    revoker: Arc<Revoker>,
    metrics: Arc<Metrics>,
    /// A random number that identifies this process as a sender.
    process: u64,
    /// The epoch up to which every message was received or compensated by [`Revocation::Missed`].
    epoch: Option<u64>,
    /// `run_id` and `master_replid` of the Redis with that epoch.
    history: Option<[Box<str>; 2]>,
    /// The epoch at the last poll of this session.
    polled_epoch: Option<u64>,
    /// The number of consecutive polls with a missed message.
    missed_polls: usize,
    throttle: RevocationThrottle,
    blocker: Arc<Blocker>,
    /// Whether a message was missed since the last exchange of blocks.
    has_missed: bool,
    logged_at: Option<Instant>,
    /// When the rejection of a block was last logged.
    rejected_at: Option<Instant>,
}

impl Subscriber {
    pub(super) fn new(revoker: Arc<Revoker>, blocker: Arc<Blocker>, metrics: Arc<Metrics>) -> Self {
        Self {
            revoker,
            metrics,
            process: fastrand::u64(..),
            epoch: None,
            history: None,
            polled_epoch: None,
            missed_polls: 0,
            throttle: RevocationThrottle::default(),
            blocker,
            has_missed: false,
            logged_at: None,
            rejected_at: None,
        }
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.metrics.redis_connected(Some(connected));
    }

    /// Starts a session. Returns whether Redis may have lost earlier messages, because it is another one or has
    /// another history.
    pub(super) fn start_session(&mut self, RedisState { epoch, history }: RedisState) -> bool {
        let is_same = history.is_some() && self.history == history;
        if !is_same || self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            // Not throttled: no message can arrive before the session starts.
            self.revoke(Revocation::Missed);
        }
        self.history = history;
        self.polled_epoch = None;
        self.missed_polls = 0;
        !is_same
    }

    /// Compares with the epoch in Redis. Messages up to the epoch of the previous poll must have arrived by now.
    fn check_epoch(&mut self, epoch: u64, now: Instant) {
        let is_behind = self.polled_epoch.is_some_and(|polled_epoch| self.epoch < Some(polled_epoch));
        if is_behind || self.epoch > Some(epoch) {
            self.record_gap(epoch, now);
        }
        if is_behind {
            self.missed_polls += 1;
        }
        self.polled_epoch = Some(epoch);
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.missed_polls = 0;
        let Some((epoch, from, content)) = message::parse(bytes) else {
            self.metrics.redis_message(RedisMessage::Refused);
            if self.logged_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
                self.logged_at = Some(now);
                tracing::warn!(
                    bytes = bytes.len(),
                    "the channel in Redis delivered a message that no replica sends"
                );
            }
            return;
        };
        if from != self.process {
            self.metrics.redis_message(RedisMessage::Received);
            match content {
                Content::Revocation(revocation) => self.apply_throttled(revocation, now),
                Content::Block(record) => self.merge(record, now),
            }
        }
        match self.epoch {
            Some(known) if known.checked_add(1) == Some(epoch) => self.epoch = Some(epoch),
            Some(known) if epoch > known => self.record_gap(epoch, now),
            _ => {}
        }
    }

    /// Applies a change of the block list.
    fn merge(&mut self, record: BlockRecord, now: Instant) {
        let revocation = record.subject.revocation();
        match self.blocker.merge_received(record) {
            Merged::Blocked => self.apply_throttled(revocation, now),
            Merged::Nothing | Merged::Removed => {}
            Merged::Rejected => {
                self.metrics.redis_message(RedisMessage::Refused);
                if self.rejected_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
                    self.rejected_at = Some(now);
                    tracing::warn!(
                        "a block of another replica is rejected: the list is full, or the clocks differ by an hour"
                    );
                }
            }
        }
    }

    fn record_gap(&mut self, epoch: u64, now: Instant) {
        self.epoch = Some(epoch);
        self.has_missed = true;
        self.apply_throttled(Revocation::Missed, now);
    }

    fn apply_throttled(&mut self, revocation: Revocation, now: Instant) {
        if let Some(revocation) = self.throttle.admit(revocation, now) {
            self.revoke(revocation);
        }
    }

    /// Applies the deferred revocation.
    pub(super) fn apply_deferred(&mut self, now: Instant) {
        if let Some(revocation) = self.throttle.take(now) {
            self.revoke(revocation);
        }
    }

    fn revoke(&self, revocation: Revocation) {
        self.revoker.revoke(vec![revocation], RevocationSource::Redis);
    }
}
