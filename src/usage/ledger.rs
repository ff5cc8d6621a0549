//! The ledger: usage by token and day, in a file that survives restarts and crashes.
//!
//! Each day has its own table, so that dropping a day drops one table. Each write is one transaction of redb, so that
//! a crash leaves a consistent file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use prost::Message;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::addresses::AddressSketch;
use super::batch::{self, CountedOutcome};
use super::pending::{Counts, Day, Pending, PendingToken};
use super::record::{DayRecord, MAX_ID_BYTES, RuleRecord, TokenRecord, token_key};
use super::retention::{ClockRecord, Moment, RetentionClock, RetentionTime};
use super::rules::{Rule, Rules};

/// The size of redb's page cache, in bytes.
pub(super) const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// The format version of the file.
const FORMAT: &str = "1";
const MILLISECONDS_A_DAY: i64 = 24 * 60 * 60 * 1000;

/// The type of all keys and values. Each further pair of types would add another B-tree implementation, 150 kB of
/// code.
type Bytes = &'static [u8];

/// Metadata: `format`, `id` and `clock` (a [`ClockRecord`]).
pub(super) const ABOUT: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("about");
/// Rules by number.
pub(super) const RULES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("rules");
/// Tokens by [`token_key`]. The values are [`TokenRecord`]s.
pub(super) const TOKENS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("tokens");
/// The total size of the records of each day, in bytes, and that of the tokens under [`OF_TOKENS`].
pub(super) const SIZES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("sizes");
const OF_TOKENS: Day = 0;

/// The name of the table of a day.
pub(super) fn day_table(day: Day) -> String {
    format!("day {day}")
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has opened the file: a running gateway.
    #[error("{} is in use by another process", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file is not a redb database, or is damaged.
    #[error("{}: {source}; move it away to start a new ledger", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of redb.
        source: DatabaseError,
    },
    /// redb panicked while reading the file.
    #[error("{} is damaged; move it away to start a new ledger", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another version of this program wrote the file.
    #[error("the ledger has format {0}; this version supports format {FORMAT}")]
    Format(String),
    /// The file of quotas has another format, such as that of the ledger.
    #[error("the file has format `{0}`, which is not that of quotas")]
    QuotaFormat(String),
    /// A read or write failed.
    #[error(transparent)]
    Storage(#[from] redb::Error),
}

macro_rules! storage_errors {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for LedgerError {
            fn from(error: redb::$error) -> Self {
                Self::Storage(error.into())
            }
        })*
    };
}

storage_errors! { StorageError TableError TransactionError CommitError }

/// Runs `act` and catches a panic of redb, which a damaged file can cause.
///
/// # Errors
/// Those of `act`, and [`LedgerError::Damaged`] after a panic.
pub fn catch_panics<T>(path: &Path, act: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(LedgerError::Damaged { path: path.to_owned() }))
}

/// The retention of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first day that is kept.
    pub since: Day,
    /// The maximum total size of the records, in bytes. The oldest days are dropped first.
    pub max_size: u64,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteSummary {
    /// The number of days dropped because of [`Bounds::max_size`].
    pub days_dropped: usize,
    /// The number of requests that were dropped because there was still no room.
    pub dropped: u64,
    /// The number of tokens in the ledger.
    pub tokens: u64,
    /// The total size of the records, in bytes.
    pub size: u64,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    database: Arc<Database>,
    /// The numbers of rules in the file.
    rules: HashMap<Rule, u32>,
    /// Days before this one have been dropped.
    dropped_before: Day,
    /// The clock of the retention; `None` until [`Ledger::time`] is called.
    clock: Option<RetentionClock>,
    /// The latest retention time, in milliseconds since 1970; `None` after a clock jump in either direction.
    now: Option<i64>,
}

impl Ledger {
    /// Opens the ledger, or creates one that only its owner can read. Creates its directory if necessary, but not the
    /// parents.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, is in use, or is not a ledger.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let database = Arc::new(open_database(path, CACHE_BYTES)?);
        // Writes only to a new file, so that a ledger on a full disk can still be read.
        let rules = match Self::rules(&database)? {
            Some(rules) => rules,
            None => {
                Self::initialise(&database)?;
                HashMap::new()
            }
        };
        Ok(Self { database, rules, dropped_before: 0, clock: None, now: None })
    }

    /// The time that retention uses. Call it every `interval`. The next write stores its state.
    ///
    /// # Errors
    /// Returns an error if the ledger cannot be read.
    pub fn time(&mut self, now: Moment, interval: Duration) -> Result<RetentionTime, LedgerError> {
        let mut clock = match self.clock {
            Some(clock) => clock,
            None => self.saved_clock(now)?,
        };
        let time = clock.advance(now, interval);
        self.clock = Some(clock);
        self.now = (time.jump.is_none() && !clock.is_behind()).then_some(time.now);
        Ok(time)
    }

    fn saved_clock(&self, now: Moment) -> Result<RetentionClock, LedgerError> {
        let transaction = self.database.begin_read()?;
        let record = transaction.open_table(ABOUT)?.get(&b"clock"[..])?;
        let record = record.and_then(|record| ClockRecord::from_bytes(record.value()));
        let mut newest = None;
        for entry in transaction.open_table(SIZES)?.iter()? {
            newest = newest.max(number_of(entry?.0.value()).filter(|day| *day != OF_TOKENS));
        }
        let newest_end = newest.map(|day| (i64::from(day) + 1) * MILLISECONDS_A_DAY);
        Ok(RetentionClock::new(record, newest_end, now))
    }

    /// The rules in the file; `None` if the file is new.
    fn rules(database: &Database) -> Result<Option<HashMap<Rule, u32>>, LedgerError> {
        let transaction = database.begin_read()?;
        let format = match transaction.open_table(ABOUT) {
            Ok(about) => {
                about.get(&b"format"[..])?.map(|format| String::from_utf8_lossy(format.value()).into_owned())
            }
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        match format {
            None => return Ok(None),
            Some(format) if format != FORMAT => return Err(LedgerError::Format(format)),
            Some(_) => {}
        }
        let rules = read_rules(&transaction)?.into_iter().map(|(number, rule)| (rule, number)).collect();
        Ok(Some(rules))
    }

    fn initialise(database: &Database) -> Result<(), LedgerError> {
        let transaction = database.begin_write()?;
        {
            let mut about = transaction.open_table(ABOUT)?;
            about.insert(&b"format"[..], FORMAT.as_bytes())?;
            about.insert(&b"id"[..], format!("{:032x}", fastrand::u128(..)).as_bytes())?;
            transaction.open_table(RULES)?;
            transaction.open_table(TOKENS)?;
            transaction.open_table(SIZES)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The database, for concurrent readers.
    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// Writes pending usage and drops what is beyond `bounds`, in one transaction.
    ///
    /// # Errors
    /// Returns an error if the disk is full or the file cannot be written. The ledger is unchanged then.
    pub fn write(
        &mut self,
        pending: &Pending,
        rules: &Rules,
        bounds: Bounds,
    ) -> Result<WriteSummary, LedgerError> {
        let transaction = self.database.begin_write()?;
        let mut sizes = Sizes::read(&transaction, bounds.max_size)?;
        sizes.drop_before(bounds.since, &transaction)?;
        let tokens = {
            let mut table = transaction.open_table(TOKENS)?;
            if bounds.since > self.dropped_before {
                if let Some(now) = self.now {
                    correct_tokens(&mut table, now)?;
                }
                drop_tokens(&mut table, bounds.since, &mut sizes)?;
            }
            for (id, token) in writable(pending) {
                write_token(&mut table, id, token, &mut sizes)?;
            }
            table.len()?
        };
        let mut numbers = Numbers { known: &self.rules, added: HashMap::new() };
        let days: BTreeSet<Day> =
            writable(pending).flat_map(|(_, token)| token.days.keys().copied()).collect();
        for day in days.into_iter().filter(|day| *day >= bounds.since) {
            let name = day_table(day);
            let mut table = transaction.open_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
            for (id, token) in writable(pending) {
                if let Some(counts) = token.days.get(&day) {
                    sizes.make_room(day, &transaction)?;
                    write_day(&mut table, day, id, counts, rules, &mut numbers, &mut sizes)?;
                }
            }
        }
        let added = numbers.added;
        {
            let mut table = transaction.open_table(RULES)?;
            for (rule, number) in &added {
                table.insert(&number.to_be_bytes()[..], RuleRecord::from(rule).encode_to_vec().as_slice())?;
            }
        }
        sizes.write(&transaction)?;
        if let Some(clock) = &self.clock {
            let mut about = transaction.open_table(ABOUT)?;
            about.insert(&b"clock"[..], clock.record().to_bytes().as_slice())?;
        }
        transaction.commit()?;
        self.rules.extend(added);
        self.dropped_before = self.dropped_before.max(bounds.since);
        let Sizes { days_dropped, dropped, .. } = sizes;
        Ok(WriteSummary { days_dropped, dropped, tokens, size: sizes.sum() })
    }
}

/// Opens a database, or creates one that only its owner can read. Creates its directory if necessary, but not the parents.
pub(super) fn open_database(path: &Path, cache_bytes: usize) -> Result<Database, LedgerError> {
    let io = |source| LedgerError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        && !directory.exists()
    {
        fs::create_dir(directory).map_err(|source| LedgerError::Io { path: directory.to_owned(), source })?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let backend = FileBackend::new(file.map_err(io)?).map_err(|error| open_error(path, error))?;
    let database = Builder::new().set_cache_size(cache_bytes).create_with_backend(backend);
    database.map_err(|error| open_error(path, error))
}

/// The rules in the file by number, without damaged records.
pub(super) fn read_rules(transaction: &ReadTransaction) -> Result<Vec<(u32, Rule)>, LedgerError> {
    let mut rules = Vec::new();
    for entry in transaction.open_table(RULES)?.iter()? {
        let (number, record) = entry?;
        if let (Some(number), Ok(record)) = (number_of(number.value()), RuleRecord::decode(record.value())) {
            rules.push((number, record.into()));
        }
    }
    Ok(rules)
}

/// Decodes the key of a rule or a day; `None` if it is damaged.
pub(super) fn number_of(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_be_bytes)
}

/// The tokens to write: ids longer than [`MAX_ID_BYTES`] cannot be Stockaj's.
fn writable(pending: &Pending) -> impl Iterator<Item = (&str, &PendingToken)> {
    pending.tokens().filter(|(id, _)| id.len() <= MAX_ID_BYTES)
}

/// The total sizes of the records by day.
struct Sizes {
    by_day: BTreeMap<Day, u64>,
    max: u64,
    days_dropped: usize,
    dropped: u64,
}

impl Sizes {
    fn read(transaction: &WriteTransaction, max: u64) -> Result<Self, LedgerError> {
        let mut by_day = BTreeMap::new();
        for entry in transaction.open_table(SIZES)?.iter()? {
            let (day, size) = entry?;
            if let (Some(day), Ok(size)) = (number_of(day.value()), size.value().try_into()) {
                by_day.insert(day, u64::from_be_bytes(size));
            }
        }
        Ok(Self { by_day, max, days_dropped: 0, dropped: 0 })
    }

    fn sum(&self) -> u64 {
        self.by_day.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    fn has_room(&self) -> bool {
        self.sum() < self.max
    }

    /// Records that the size of a record of `day` has changed.
    fn resize(&mut self, day: Day, before: u64, now: u64) {
        let size = self.by_day.entry(day).or_default();
        *size = size.saturating_sub(before).saturating_add(now);
    }

    fn drop_before(&mut self, since: Day, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        while let Some(day) = self.oldest().filter(|day| *day < since) {
            self.drop_day(day, transaction)?;
        }
        Ok(())
    }

    /// Drops the oldest days before `day` until there is room.
    fn make_room(&mut self, day: Day, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        while !self.has_room()
            && let Some(oldest) = self.oldest().filter(|oldest| *oldest < day)
        {
            self.drop_day(oldest, transaction)?;
            self.days_dropped += 1;
        }
        Ok(())
    }

    fn oldest(&self) -> Option<Day> {
        self.by_day.keys().copied().find(|day| *day != OF_TOKENS)
    }

    fn drop_day(&mut self, day: Day, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        transaction.delete_table(TableDefinition::<Bytes, Bytes>::new(&day_table(day)))?;
        self.by_day.remove(&day);
        Ok(())
    }

    fn write(&self, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        let mut table = transaction.open_table(SIZES)?;
        table.retain(|day, _| number_of(day).is_some_and(|day| self.by_day.contains_key(&day)))?;
        for (day, size) in &self.by_day {
            table.insert(&day.to_be_bytes()[..], &size.to_be_bytes()[..])?;
        }
        Ok(())
    }
}

/// The cost of a record, in bytes: its own bytes, and about half as much for the B-tree, whose pages are two thirds
/// full.
const fn size(key: &[u8], value: &[u8]) -> u64 {
    let bytes = (key.len() + value.len() + 16) as u64;
    bytes + bytes / 2
}

/// Corrects tokens whose last use a wrong clock has dated in the future. They would be kept until that time.
fn correct_tokens(table: &mut Table<'_, Bytes, Bytes>, now: i64) -> Result<(), LedgerError> {
    let mut wrong = Vec::new();
    for entry in table.iter()? {
        let (key, record) = entry?;
        if let Ok(token) = TokenRecord::decode(record.value())
            && token.last_seen.saturating_sub(now) > MILLISECONDS_A_DAY
        {
            wrong.push((key.value().to_vec(), token));
        }
    }
    for (key, token) in wrong {
        let token = TokenRecord { first_seen: token.first_seen.min(now), last_seen: now, ..token };
        table.insert(key.as_slice(), token.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// Drops tokens that were last used before `since`.
fn drop_tokens(
    table: &mut Table<'_, Bytes, Bytes>,
    since: Day,
    sizes: &mut Sizes,
) -> Result<(), LedgerError> {
    let since = i64::from(since) * MILLISECONDS_A_DAY;
    let mut freed = 0;
    table.retain(|key, record| {
        let keep = TokenRecord::decode(record).is_ok_and(|token| token.last_seen >= since);
        freed += if keep { 0 } else { size(key, record) };
        keep
    })?;
    sizes.resize(OF_TOKENS, freed, 0);
    Ok(())
}

fn write_token(
    table: &mut Table<'_, Bytes, Bytes>,
    id: &str,
    pending: &PendingToken,
    sizes: &mut Sizes,
) -> Result<(), LedgerError> {
    let key = token_key(id);
    let before = table.get(key.as_slice())?.map(|record| record.value().to_vec());
    let known = before.as_deref().and_then(|record| TokenRecord::decode(record).ok());
    if known.is_none() && !sizes.has_room() {
        return Ok(());
    }
    let record = pending.record(known.as_ref());
    let record = record.encode_to_vec();
    let freed = before.map_or(0, |before| size(&key, &before));
    sizes.resize(OF_TOKENS, freed, size(&key, &record));
    table.insert(key.as_slice(), record.as_slice())?;
    Ok(())
}

fn write_day(
    table: &mut Table<'_, Bytes, Bytes>,
    day: Day,
    id: &str,
    counts: &Counts,
    rules: &Rules,
    numbers: &mut Numbers<'_>,
    sizes: &mut Sizes,
) -> Result<(), LedgerError> {
    let key = token_key(id);
    let before = table.get(key.as_slice())?.map(|record| record.value().to_vec());
    if before.is_none() && !sizes.has_room() {
        sizes.dropped += counts.by_key.values().sum::<u64>();
        return Ok(());
    }
    let mut record = before.as_deref().and_then(|it| DayRecord::decode(it).ok()).unwrap_or_default();
    for (key, count) in &counts.by_key {
        if let Some(rule) = rules.get(key >> 2) {
            record.add(batch::key(numbers.of(&rule), CountedOutcome::from_key(*key)), *count);
        }
    }
    record.plain_http = record.plain_http.saturating_add(counts.plain_http);
    record.wrong_network = record.wrong_network.saturating_add(counts.wrong_network);
    let mut addresses = AddressSketch::from(mem::take(&mut record.addresses));
    addresses.merge(&counts.addresses);
    record.addresses = addresses.into();
    let record = record.encode_to_vec();
    let freed = before.map_or(0, |before| size(&key, &before));
    sizes.resize(day, freed, size(&key, &record));
    table.insert(key.as_slice(), record.as_slice())?;
    Ok(())
}

/// Maps rules to their numbers in the file, and adds new ones.
struct Numbers<'a> {
    known: &'a HashMap<Rule, u32>,
    added: HashMap<Rule, u32>,
}

impl Numbers<'_> {
    fn of(&mut self, rule: &Rule) -> u32 {
        if let Some(number) = self.known.get(rule).or_else(|| self.added.get(rule)) {
            return *number;
        }
        let next = self.known.values().chain(self.added.values()).max().map_or(0, |greatest| greatest + 1);
        self.added.insert(rule.clone(), next);
        next
    }
}

pub(super) fn open_error(path: &Path, error: DatabaseError) -> LedgerError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => LedgerError::InUse { path },
        DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData =>
        {
            LedgerError::Io { path, source }
        }
        source => LedgerError::Open { path, source },
    }
}

#[cfg(test)]
mod tests;
