//! Divides shared rate limits among replicas, through a ledger in Redis. See [`crate::limits::share`].
//!
//! Each exchange is one Lua script per 128 limits, which is atomic. It has a connection of its own, so that it neither
//! waits for revocations nor delays them.
//!
//! A hostile Redis can throttle, or let each replica allow the whole configured rate, never more: a share is never more
//! than what was asked for, which is at most the configured rate.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::OptionFuture;
use redis::{RedisError, Value};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::commands::{Commands, OpenError};
use super::{LOG_INTERVAL, MAX_PAUSE, MIN_PAUSE, RedisClient};
use crate::limits::bucket::ShareKey;
use crate::limits::reported::ReportedLimits;
use crate::limits::share::{
    FLOORS, GONE_AFTER, Grant, INTERVAL, LEASE, MAX_REPLICAS, Report, SOON, SUSPECT_AFTER, TIMEOUT, TOTAL,
    View,
};
use crate::limits::tokens::TokenLimits;
use crate::telemetry::metrics::{Metrics, ShareExchange};

/// How many limits one script updates: Redis runs nothing else meanwhile.
const BATCH: usize = 128;

/// What Redis runs.
const LEDGER: &str = include_str!("ledger.lua");

/// An exchange has failed.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("Redis: cannot run the script of shared limits")]
    Script(#[from] RedisError),
    #[error("Redis does not respond in time")]
    Timeout,
    #[error("Redis answers what the script of shared limits does not")]
    Malformed,
    #[error("the replica was paused")]
    Late,
}

/// The limits that are shared; `None` if none are.
pub(super) type SharedLimits = Option<Arc<TokenLimits>>;

/// The exchange of shares, across connections.
pub(super) struct ShareExchanger {
    limits: watch::Receiver<SharedLimits>,
    metrics: Arc<Metrics>,
    /// A random name of this process.
    name: String,
    /// `None` while no limits are shared. Not borrowed across a suspension.
    reported: RefCell<Option<ReportedLimits>>,
    logged_at: RefCell<Option<Instant>>,
}

impl ShareExchanger {
    pub(super) fn new(limits: watch::Receiver<SharedLimits>, metrics: Arc<Metrics>) -> Self {
        Self {
            limits,
            metrics,
            name: format!("{:016x}", fastrand::u64(..)),
            reported: RefCell::default(),
            logged_at: RefCell::default(),
        }
    }

    /// Exchanges shares while limits are shared, until the future is dropped.
    pub(super) async fn run(&self, client: &RedisClient) {
        let mut limits = self.limits.clone();
        loop {
            if limits.wait_for(Option::is_some).await.is_err() {
                return std::future::pending().await;
            }
            let shared_off = async {
                // A dropped sender is the end of the process.
                let _ = limits.wait_for(Option::is_none).await;
            };
            self.update_limits(Instant::now());
            tokio::select! {
                () = shared_off => {}
                () = self.exchange_until_dropped(client) => {}
                () = self.watch() => {}
            }
            *self.reported.borrow_mut() = None;
            self.metrics.shares().set_off();
        }
    }

    /// Tells the ledger that this replica ends, so that the others need not wait for it.
    pub(super) async fn leave(&self, client: &RedisClient) {
        if self.reported.borrow().is_none() {
            return;
        }
        let key = members_key(client);
        let left = async {
            let mut commands = Commands::open(&client.connector, client.key.settings(), TIMEOUT).await?;
            commands.run::<()>(redis::cmd("HDEL").arg(key).arg(&self.name)).await?;
            Ok::<_, ExchangeError>(())
        };
        let _ = timeout(TIMEOUT * 2, left).await;
    }

    /// Adopts the limits of the current configuration.
    fn update_limits(&self, now: Instant) {
        let limits = self.limits.borrow().clone();
        let mut reported = self.reported.borrow_mut();
        match (&mut *reported, limits) {
            (Some(reported), Some(limits)) => reported.set_limits(&limits, now),
            (None, Some(limits)) => *reported = Some(ReportedLimits::new(limits, now)),
            (_, None) => {}
        }
        if let Some(reported) = &*reported {
            self.metrics.shares().set(reported.replicas(), reported.len());
        }
    }

    /// Changes shares that cannot be renewed.
    async fn watch(&self) {
        loop {
            let due = self.reported.borrow().as_ref().and_then(ReportedLimits::due);
            sleep_until(due.unwrap_or_else(|| Instant::now() + INTERVAL).into()).await;
            if let Some(reported) = &mut *self.reported.borrow_mut() {
                reported.check(Instant::now());
                self.metrics.shares().set(reported.replicas(), reported.len());
            }
        }
    }

    async fn exchange_until_dropped(&self, client: &RedisClient) {
        let mut pause = MIN_PAUSE;
        loop {
            let error = match self.connect(client).await {
                Ok(mut commands) => {
                    let connected_at = Instant::now();
                    let Err(error) = self.exchange_over(&mut commands, client).await;
                    if connected_at.elapsed() > MAX_PAUSE {
                        pause = MIN_PAUSE;
                    }
                    error
                }
                Err(error) => error,
            };
            let outcome = match error {
                ExchangeError::Malformed => ShareExchange::Refused,
                _ => ShareExchange::Failed,
            };
            self.metrics.shares().exchanged(outcome);
            self.log(&error);
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Connects, and tries the script: a replica whose user may not run it keeps its fair shares.
    async fn connect(&self, client: &RedisClient) -> Result<Commands, ExchangeError> {
        let opening = Commands::open(&client.connector, client.key.settings(), TIMEOUT);
        let mut commands =
            timeout(super::REDIS_TIMEOUT, opening).await.map_err(|_| ExchangeError::Timeout)??;
        let trial = script("", 1, &[members_key(client)], &[]);
        let answer: Value = commands.run(&trial).await?;
        parse(&answer, 0).ok_or(ExchangeError::Malformed)?;
        if let Some(reported) = &mut *self.reported.borrow_mut() {
            reported.connect(Instant::now());
        }
        Ok(commands)
    }

    async fn exchange_over(
        &self,
        commands: &mut Commands,
        client: &RedisClient,
    ) -> Result<std::convert::Infallible, ExchangeError> {
        loop {
            let began = Instant::now();
            let exchange = timeout(TIMEOUT, self.exchange(commands, client, began));
            let is_unsettled = exchange.await.map_err(|_| ExchangeError::Timeout)??;
            self.metrics.shares().exchanged(ShareExchange::Succeeded);
            self.metrics.shares().set_exchanged_at(SystemTime::now());
            sleep_until((began + SOON).into()).await;
            if !is_unsettled {
                let queued = self.reported.borrow().as_ref().map(ReportedLimits::queued);
                tokio::select! {
                    () = sleep_until((began + INTERVAL).into()) => {}
                    Some(()) = OptionFuture::from(queued) => {}
                }
            }
        }
    }

    /// One exchange of all reported limits. Returns whether another should follow soon.
    async fn exchange(
        &self,
        commands: &mut Commands,
        client: &RedisClient,
        began: Instant,
    ) -> Result<bool, ExchangeError> {
        self.update_limits(began);
        let (reports, least) = {
            let mut reported = self.reported.borrow_mut();
            let reported = reported.as_mut().ok_or(ExchangeError::Late)?;
            if !reported.begin(began) {
                return Err(ExchangeError::Late);
            }
            (reported.reports().collect::<Vec<_>>(), reported.replicas())
        };
        let (mut replicas, mut grants) = (1, Vec::with_capacity(reports.len()));
        let mut batches = reports.chunks(BATCH);
        // Also without limits to report, others must know of this replica.
        let mut batch = batches.next().unwrap_or_default();
        loop {
            let mut keys = vec![members_key(client)];
            keys.extend(batch.iter().map(|(key, _)| limit_key(client, *key)));
            let reports: Vec<Report> = batch.iter().map(|(_, report)| *report).collect();
            let answer: Value = commands.run(&script(&self.name, least, &keys, &reports)).await?;
            let (count, granted) = parse(&answer, batch.len()).ok_or(ExchangeError::Malformed)?;
            replicas = count.max(replicas);
            grants.extend(granted);
            let Some(next) = batches.next() else { break };
            batch = next;
        }
        let mut reported = self.reported.borrow_mut();
        let Some(reported) = &mut *reported else { return Ok(false) };
        reported.end(began, replicas, grants, Instant::now());
        self.metrics.shares().set(reported.replicas(), reported.len());
        Ok(reported.is_unsettled())
    }

    fn log(&self, error: &ExchangeError) {
        let now = Instant::now();
        let mut logged_at = self.logged_at.borrow_mut();
        if logged_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
            *logged_at = Some(now);
            let replicas = self.reported.borrow().as_ref().map_or(1, ReportedLimits::replicas);
            let error: &dyn std::error::Error = error;
            tracing::warn!(
                error,
                replicas,
                "cannot share rate limits with other replicas: each allows its part of the rate"
            );
        }
    }
}

fn members_key(client: &RedisClient) -> String {
    format!("{}:replicas", client.key.settings().channel)
}

fn limit_key(client: &RedisClient, key: ShareKey) -> String {
    format!("{}:limit:{}", client.key.settings().channel, hex::encode(key))
}

/// The command that exchanges `reports` of the limits with all but the first of `keys`.
fn script(name: &str, least: u32, keys: &[String], reports: &[Report]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(LEDGER).arg(keys.len()).arg(keys).arg(name).arg(least);
    for time in [SUSPECT_AFTER, LEASE, GONE_AFTER] {
        command.arg(time.as_millis() as u64);
    }
    command.arg(TOTAL).arg(FLOORS).arg(MAX_REPLICAS);
    for Report { held, asked, want } in reports {
        command.arg(held).arg(asked).arg(want);
    }
    command
}

/// The number of replicas and `count` grants; `None` if the answer is anything else.
fn parse(answer: &Value, count: usize) -> Option<(u32, Vec<Grant>)> {
    let Value::Array(items) = answer else { return None };
    let (replicas, grants) = items.split_first()?;
    let replicas = number(replicas).filter(|replicas| (1..=MAX_REPLICAS).contains(replicas))?;
    if grants.len() != count {
        return None;
    }
    let grants = grants.iter().map(|grant| {
        let Value::Array(numbers) = grant else { return None };
        let [share, pool, wants @ ..] = &**numbers else { return None };
        // It lists the other replicas.
        if wants.len() >= replicas as usize {
            return None;
        }
        let wants = wants.iter().map(number).collect::<Option<_>>()?;
        let pool = number(pool).filter(|pool| *pool <= TOTAL)?;
        Some(Grant { share: number(share)?, view: View { pool, wants } })
    });
    Some((replicas, grants.collect::<Option<_>>()?))
}

fn number(value: &Value) -> Option<u32> {
    let Value::Int(number) = value else { return None };
    u32::try_from(*number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(numbers: &[i64]) -> Value {
        Value::Array(numbers.iter().copied().map(Value::Int).collect())
    }

    fn answer(replicas: Value, grants: &[&[i64]]) -> Value {
        Value::Array([replicas].into_iter().chain(grants.iter().map(|grant| list(grant))).collect())
    }

    #[test]
    fn answer_of_the_ledger_is_parsed() {
        let grant = |share, pool, wants: &[u32]| Grant { share, view: View { pool, wants: wants.to_vec() } };
        let found = parse(&answer(Value::Int(3), &[&[7, 9], &[0, 1_000_000, 5, 6]]), 2);
        assert_eq!(found, Some((3, vec![grant(7, 9, &[]), grant(0, TOTAL, &[5, 6])])));
        assert_eq!(parse(&list(&[1]), 0), Some((1, vec![])));
    }

    #[test]
    fn answers_that_the_ledger_does_not_give_are_refused() {
        for malformed in [
            Value::Nil,
            Value::Okay,
            Value::Int(1),
            Value::BulkString(b"1".to_vec()),
            Value::Array(vec![]),
            list(&[1]),
            list(&[1, 2]),
            answer(Value::Int(0), &[&[1, 1]]),
            answer(Value::Int(-1), &[&[1, 1]]),
            answer(Value::Int(1001), &[&[1, 1]]),
            answer(Value::Int(i64::MAX), &[&[1, 1]]),
            answer(Value::BulkString(b"1".to_vec()), &[&[1, 1]]),
            answer(Value::Int(1), &[&[1]]),
            answer(Value::Int(1), &[&[-1, 1]]),
            answer(Value::Int(1), &[&[1, 1_000_001]]),
            answer(Value::Int(1), &[&[1 << 32, 1]]),
            answer(Value::Int(1), &[&[1, 1, -1]]),
            answer(Value::Int(1), &[&[1, 1], &[1, 1]]),
            answer(Value::Int(1), &[&[1; 1003]]),
        ] {
            assert_eq!(parse(&malformed, 1), None, "{malformed:?}");
        }
    }
}
