//! The block list in Redis: a hash with a field for each block, from which a replica that starts or reconnects catches
//! up, and a message for each change.
//!
//! A value is the version of the change, a space, and its [`BlockRecord`] as JSON without the name. The latest version
//! wins, so the exchange needs no order: a replica reads all fields, and writes those of which it has a later version.
//! It does so when it connects, when it has missed a message, and every ten minutes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use redis::RedisError;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;

use super::LOG_INTERVAL;
use super::commands::{Commands, is_command_error};
use crate::tokens::blocker::Blocker;
use crate::tokens::blocklist::record::{BlockRecord, BlockSubject, BlockVersion};
use crate::tokens::blocklist::{MAX_RECORDS, is_obsolete};

/// How often everything is exchanged without another reason.
const EXCHANGE_INTERVAL: Duration = Duration::from_secs(600);
/// The shortest time between two exchanges of one session, so that a flood of messages does not cause one each.
const MIN_INTERVAL: Duration = Duration::from_millis(400);
/// The longest field or value that is read, in bytes. The longest of a replica has less than 4000.
const MAX_VALUE: usize = 4096;
/// How many fields are read at a time, as a hint.
const PAGE: usize = 200;
/// How many pages are read. A full list has a tenth.
const MAX_PAGES: usize = 2_000;

/// Writes a value if its version is later than that of the known value. Returns 2 if the hash is full.
const STORE: &str = "\
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and string.sub(known, 1, 33) >= string.sub(ARGV[2], 1, 33) then return 0 end
if not known and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 2 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])";

/// Reads a page of fields and values, and removes those that are too long.
const READ: &str = "\
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local read = {page[1]}
for index = 1, #page[2], 2 do
  if #page[2][index] + #page[2][index + 1] <= tonumber(ARGV[3]) then
    read[#read + 1] = page[2][index]
    read[#read + 1] = page[2][index + 1]
  else
    redis.call('HDEL', KEYS[1], page[2][index])
  end
end
return read";

/// The exchange of blocks, across all sessions.
pub(super) struct BlockExchange {
    pub(super) blocker: Arc<Blocker>,
    changes: Receiver<BlockRecord>,
    waiting: VecDeque<BlockRecord>,
    /// Whether `waiting` lacks changes, which an exchange queues.
    lacks_changes: bool,
    /// When everything is exchanged next; `None` for at once.
    due: Option<Instant>,
    /// When everything was last exchanged in this session.
    exchanged_at: Option<Instant>,
    logged_at: Option<Instant>,
    /// Whether the first exchange was completed or has failed.
    attempted: watch::Sender<bool>,
}

impl BlockExchange {
    /// Exchanges the blocks of `blocker`.
    pub(super) fn new(blocker: Arc<Blocker>, attempted: watch::Sender<bool>) -> Self {
        let changes = blocker.subscribe();
        Self {
            blocker,
            changes,
            waiting: VecDeque::new(),
            lacks_changes: true,
            due: None,
            exchanged_at: None,
            logged_at: None,
            attempted,
        }
    }

    /// Exchanges everything as soon as possible.
    pub(super) fn request(&mut self) {
        self.due = None;
    }

    /// Exchanges everything as soon as possible, which queues the changes that `waiting` lacks.
    fn request_all(&mut self) {
        self.lacks_changes = true;
        self.request();
    }

    /// Waits for the next local change and queues it. Cancel-safe.
    pub(super) async fn collect(&mut self) {
        match self.changes.recv().await {
            Ok(record) => self.push(record),
            Err(RecvError::Lagged(_)) => self.request_all(),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Queues all local changes up to now.
    pub(super) fn collect_all(&mut self) {
        loop {
            match self.changes.try_recv() {
                Ok(record) => self.push(record),
                Err(TryRecvError::Lagged(_)) => self.request_all(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn push(&mut self, record: BlockRecord) {
        if self.waiting.len() >= MAX_RECORDS {
            self.waiting.clear();
            self.request_all();
        }
        self.waiting.push_back(record);
    }

    /// Drops the queue, since everything is exchanged instead.
    pub(super) fn begin_session(&mut self) {
        self.collect_all();
        self.waiting.clear();
        self.exchanged_at = None;
        self.request_all();
    }

    /// The next change to publish.
    pub(super) fn next(&self) -> Option<&BlockRecord> {
        self.waiting.front()
    }

    /// Records that the next change was published.
    pub(super) fn mark_sent(&mut self) {
        self.waiting.pop_front();
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_too_soon = self.exchanged_at.is_some_and(|at| now.duration_since(at) < MIN_INTERVAL);
        !is_too_soon && self.due.is_none_or(|due| now >= due)
    }

    /// Records that the first exchange was completed or has failed, for which a start of the gateway waits.
    pub(super) fn mark_attempted(&self) {
        self.attempted.send_replace(true);
    }

    /// Writes a change to the hash `key`. An error of the command is logged: the change still reaches connected replicas.
    ///
    /// # Errors
    /// If the connection is lost.
    pub(super) async fn store(
        &mut self,
        commands: &mut Commands,
        key: &str,
        record: &BlockRecord,
    ) -> Result<(), RedisError> {
        let Some(value) = value(record) else { return Ok(()) };
        let mut command = redis::cmd("EVAL");
        command.arg(STORE).arg(1).arg(key).arg(field(&record.subject)).arg(value).arg(MAX_RECORDS);
        let stored: Result<i64, _> = commands.run(&command).await;
        if matches!(stored, Ok(2)) {
            // What does not belong there is removed then.
            self.request();
        }
        self.tolerate(commands, key, stored.map(drop)).await
    }

    /// Reads all fields of the hash `key`, and queues the records of which this replica has a later version. Returns the
    /// records in it. If this replica may not read them, it queues all of its records once: connected replicas may have
    /// missed those of an outage.
    ///
    /// # Errors
    /// If the connection is lost.
    pub(super) async fn exchange(
        &mut self,
        commands: &mut Commands,
        key: &str,
        now: Instant,
    ) -> Result<Vec<BlockRecord>, RedisError> {
        self.due = Some(now + EXCHANGE_INTERVAL);
        self.exchanged_at = Some(now);
        let read = match read_all(commands, key).await {
            Ok(read) => read,
            Err(error) => {
                self.tolerate(commands, key, Err(error)).await?;
                if std::mem::take(&mut self.lacks_changes) {
                    self.waiting = self.blocker.records().into();
                }
                return Ok(Vec::new());
            }
        };
        let known: HashMap<&BlockSubject, BlockVersion> =
            read.iter().map(|record| (&record.subject, record.version)).collect();
        let is_later =
            |ours: &BlockRecord| known.get(&ours.subject).is_none_or(|theirs| *theirs < ours.version);
        self.waiting = self.blocker.records().into_iter().filter(is_later).collect();
        self.lacks_changes = false;
        Ok(read)
    }

    /// Logs an error of a command, and removes a key that is no hash.
    ///
    /// # Errors
    /// Any other error.
    async fn tolerate(
        &mut self,
        commands: &mut Commands,
        key: &str,
        result: Result<(), RedisError>,
    ) -> Result<(), RedisError> {
        let Err(error) = result else { return Ok(()) };
        if !is_command_error(&error) {
            return Err(error);
        }
        if error.to_string().contains("WRONGTYPE") {
            self.request();
            return commands.run(redis::cmd("DEL").arg(key)).await;
        }
        let now = Instant::now();
        if self.logged_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
            self.logged_at = Some(now);
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                error,
                "blocks cannot be stored in Redis: a replica that starts or was cut off does not get those of others"
            );
        }
        Ok(())
    }
}

async fn read_all(commands: &mut Commands, key: &str) -> Result<Vec<BlockRecord>, RedisError> {
    let now = Timestamp::now();
    let mut records = Vec::new();
    let mut cursor = b"0".to_vec();
    for _ in 0..MAX_PAGES {
        let mut command = redis::cmd("EVAL");
        command.arg(READ).arg(1).arg(key).arg(&cursor).arg(PAGE).arg(MAX_VALUE);
        let page: Vec<Vec<u8>> = commands.run(&command).await?;
        let mut page = page.into_iter();
        cursor = page.next().unwrap_or_default();
        let mut removed = redis::cmd("HDEL");
        removed.arg(key);
        let mut is_clean = true;
        while let (Some(read_field), Some(read_value)) = (page.next(), page.next()) {
            match parse(&read_field, &read_value).filter(|record| !is_obsolete(record, now)) {
                Some(record) => records.push(record),
                None => {
                    removed.arg(read_field);
                    is_clean = false;
                }
            }
        }
        if !is_clean {
            let _: i64 = commands.run(&removed).await?;
        }
        if cursor == b"0" || records.len() > MAX_RECORDS {
            break;
        }
    }
    records.truncate(MAX_RECORDS);
    Ok(records)
}

/// The field of a block.
fn field(subject: &BlockSubject) -> String {
    match subject {
        BlockSubject::Id(id) => format!("id:{id}"),
        BlockSubject::Name(hash) => format!("name:{}", String::from(*hash)),
        BlockSubject::Token(hash) => format!("token:{}", String::from(*hash)),
    }
}

/// The value of a change; `None` on an error.
fn value(record: &BlockRecord) -> Option<String> {
    let json = serde_json::to_string(&record.without_name()).ok()?;
    Some(format!("{} {json}", record.version))
}

/// The record in a field; `None` for anything that no replica writes.
fn parse(read_field: &[u8], read_value: &[u8]) -> Option<BlockRecord> {
    let (version, json) = std::str::from_utf8(read_value).ok()?.split_once(' ')?;
    let record: BlockRecord = serde_json::from_str(json).ok()?;
    let is_consistent =
        version == record.version.to_string() && field(&record.subject).as_bytes() == read_field;
    is_consistent.then_some(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokens::blocklist::record::{Block, BlockSource};

    fn record(subject: Option<BlockSubject>, reason: &str) -> BlockRecord {
        let block = Block {
            name: Some("scanner".into()),
            until: Some(Timestamp::MAX),
            reason: Some(reason.into()),
            created_at: Timestamp::MIN,
            source: BlockSource::Admin,
        };
        let version = BlockVersion { at: u64::MAX, by: u64::MAX };
        BlockRecord { subject: subject.unwrap(), version, block: Some(block) }
    }

    #[test]
    fn stored_records_are_read_and_have_neither_name_nor_token() {
        for subject in [
            BlockSubject::of_id("17"),
            BlockSubject::of_id("a b:\"c\""),
            BlockSubject::of_name("scanner"),
            BlockSubject::of_token("17|a-secret"),
        ] {
            let record = record(subject, "leaked");
            let (field, value) = (field(&record.subject), value(&record).unwrap());
            assert!(
                !format!("{field}{value}").contains("scanner") && !value.contains("a-secret"),
                "{field} {value}"
            );
            assert_eq!(parse(field.as_bytes(), value.as_bytes()), Some(record.without_name()));
        }
    }

    #[test]
    fn longest_record_is_read() {
        for (id, reason) in
            [("\u{1}".repeat(255), "\"".repeat(255)), ("1".repeat(255), "\u{1f512}".repeat(255))]
        {
            let record = record(BlockSubject::of_id(&id), &reason);
            let length = field(&record.subject).len() + value(&record).unwrap().len();
            assert!(length < 4000, "{length}");
        }
    }

    #[test]
    fn other_fields_and_values_are_rejected() {
        let record = record(BlockSubject::of_id("17"), "leaked");
        let value = value(&record).unwrap();
        assert!(parse(b"id:17", value.as_bytes()).is_some());
        for (field, value) in [
            ("id:18", value.clone()),
            ("id:17", String::new()),
            ("id:17", value.replacen('f', "e", 1)),
            ("id:17", value.replace("\"id\"", "\"allow\"")),
            ("id:17", value.replace(r#""source":"admin""#, r#""source":"root""#)),
            ("id:17", r#"0 {"id":"17"}"#.to_owned()),
        ] {
            assert_eq!(parse(field.as_bytes(), value.as_bytes()), None, "{field} {value}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            field in prop::collection::vec(any::<u8>(), 0..50),
            value in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            parse(&field, &value);
        }
    }
}
