//! The ledger: usage by token and day, in a file that survives restarts and crashes.
//!
//! A table a day, so that forgetting one is dropping it. Everything that is written at once is one transaction of
//! redb: after a crash the file is as it was after one of them.

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

use super::addresses::Addresses;
use super::batch::{self, Outcome};
use super::pending::{Counts, Day, Pending, PendingToken};
use super::record::{DayRecord, LONGEST_ID, RuleRecord, TokenRecord, token_key};
use super::retention::{ClockRecord, Moment, RetentionClock, RetentionTime};
use super::rules::{Rule, Rules};

/// What is kept of the file in memory, in bytes.
pub(super) const CACHE: usize = 8 * 1024 * 1024;
/// What this program writes.
const FORMAT: &str = "1";
const MILLISECONDS_A_DAY: i64 = 24 * 60 * 60 * 1000;

/// Of every key and every value: each further pair of types would bring a tree of its own, 150 kB of code.
type Bytes = &'static [u8];

/// `format`, `id` and `clock`, which is a [`ClockRecord`].
pub(super) const ABOUT: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("about");
/// Rules by number.
pub(super) const RULES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("rules");
/// Tokens by [`token_key`].
pub(super) const TOKENS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("tokens");
/// How many bytes the records of a day come to; of tokens, under [`OF_TOKENS`].
pub(super) const SIZES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("sizes");
const OF_TOKENS: Day = 0;

/// The name of a day's table.
pub(super) fn day_table(day: Day) -> String {
    format!("day {day}")
}

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else has it: a gateway that runs.
    #[error("{}: it is in use by another process", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is none of ours, or damaged.
    #[error("{}: {source}; move it away to begin a new one", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DatabaseError,
    },
    /// Reading the file is not possible, whatever is in it.
    #[error("{}: it is damaged; move it away to begin a new one", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another version of this program.
    #[error("it is in format {0}; this program knows {FORMAT}")]
    Format(String),
    /// It cannot be read or written.
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

/// A damaged file can make the library panic: that ends here.
///
/// # Errors
/// Those of `act`; [`LedgerError::Damaged`] where it panics.
pub fn contained<T>(path: &Path, act: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(LedgerError::Damaged { path: path.to_owned() }))
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first day that is kept.
    pub since: Day,
    /// The most that the records come to, in bytes; the oldest days go first.
    pub max_size: u64,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many days had to go before their time because of [`Bounds::max_size`].
    pub days_forgotten: usize,
    /// How many requests found no room even so.
    pub dropped: u64,
    /// How many tokens there are.
    pub tokens: u64,
    /// What the records come to, in bytes.
    pub size: u64,
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    database: Arc<Database>,
    /// The ledger's numbers of rules.
    rules: HashMap<Rule, u32>,
    /// Up to which day older ones have been forgotten.
    forgotten: Day,
    /// What retention goes by; `None` until the time is asked for.
    clock: Option<RetentionClock>,
    /// The latest time that retention went by, in milliseconds since 1970; `None` after a jump of the clock, in either direction.
    now: Option<i64>,
}

impl Ledger {
    /// Opens the ledger, or begins one that only its owner may read. Where its directory is missing, it is made.
    ///
    /// # Errors
    /// Where the file cannot be opened, is in use, or is none of ours.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let io = |source| LedgerError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
            && !directory.exists()
        {
            fs::create_dir(directory)
                .map_err(|source| LedgerError::Io { path: directory.to_owned(), source })?;
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let backend = FileBackend::new(file.map_err(io)?).map_err(|error| at(path, error))?;
        let database = Builder::new()
            .set_cache_size(CACHE)
            .create_with_backend(backend)
            .map_err(|error| at(path, error))?;
        let database = Arc::new(database);
        // A disk that is full by now can be read all the same.
        let rules = match Self::rules(&database)? {
            Some(rules) => rules,
            None => {
                Self::begin(&database)?;
                HashMap::new()
            }
        };
        Ok(Self { database, rules, forgotten: 0, clock: None, now: None })
    }

    /// The time that retention goes by, which is asked for every `interval`. What it needs to survive a restart is
    /// written with the next write.
    ///
    /// # Errors
    /// If the ledger cannot be read.
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

    /// The rules of a ledger that has been begun.
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

    fn begin(database: &Database) -> Result<(), LedgerError> {
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

    /// The file, to be read while this goes on writing.
    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// Writes what has been counted, and forgets what is out of bounds: all of it, or nothing.
    ///
    /// # Errors
    /// Where the disk is full or the file cannot be written. The ledger is as it was.
    pub fn write(
        &mut self,
        pending: &Pending,
        rules: &Rules,
        bounds: Bounds,
    ) -> Result<Written, LedgerError> {
        let transaction = self.database.begin_write()?;
        let mut sizes = Sizes::read(&transaction, bounds.max_size)?;
        sizes.forget_before(bounds.since, &transaction)?;
        let tokens = {
            let mut table = transaction.open_table(TOKENS)?;
            if bounds.since > self.forgotten {
                if let Some(now) = self.now {
                    correct_tokens(&mut table, now)?;
                }
                forget_tokens(&mut table, bounds.since, &mut sizes)?;
            }
            for (id, token) in kept(pending) {
                write_token(&mut table, id, token, &mut sizes)?;
            }
            table.len()?
        };
        let mut numbers = Numbers { known: &self.rules, added: HashMap::new() };
        let days: BTreeSet<Day> = kept(pending).flat_map(|(_, token)| token.days.keys().copied()).collect();
        for day in days.into_iter().filter(|day| *day >= bounds.since) {
            let name = day_table(day);
            let mut table = transaction.open_table(TableDefinition::<Bytes, Bytes>::new(&name))?;
            for (id, token) in kept(pending) {
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
        self.forgotten = self.forgotten.max(bounds.since);
        let Sizes { days_forgotten, dropped, .. } = sizes;
        Ok(Written { days_forgotten, dropped, tokens, size: sizes.sum() })
    }
}

/// The rules that the ledger knows, by its numbers; what is damaged is left out.
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

/// The number of a rule or a day, as a key has it; none of what is damaged.
pub(super) fn number_of(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_be_bytes)
}

/// What can be kept: an id beyond the longest is none of Stockaj's.
fn kept(pending: &Pending) -> impl Iterator<Item = (&str, &PendingToken)> {
    pending.tokens().filter(|(id, _)| id.len() <= LONGEST_ID)
}

/// How many bytes the records come to, by day.
struct Sizes {
    by_day: BTreeMap<Day, u64>,
    most: u64,
    days_forgotten: usize,
    dropped: u64,
}

impl Sizes {
    fn read(transaction: &WriteTransaction, most: u64) -> Result<Self, LedgerError> {
        let mut by_day = BTreeMap::new();
        for entry in transaction.open_table(SIZES)?.iter()? {
            let (day, size) = entry?;
            if let (Some(day), Ok(size)) = (number_of(day.value()), size.value().try_into()) {
                by_day.insert(day, u64::from_be_bytes(size));
            }
        }
        Ok(Self { by_day, most, days_forgotten: 0, dropped: 0 })
    }

    fn sum(&self) -> u64 {
        self.by_day.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    fn has_room(&self) -> bool {
        self.sum() < self.most
    }

    /// Notes that a record of a day has another size than before.
    fn replaced(&mut self, day: Day, before: u64, now: u64) {
        let size = self.by_day.entry(day).or_default();
        *size = size.saturating_sub(before).saturating_add(now);
    }

    fn forget_before(&mut self, since: Day, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        while let Some(day) = self.oldest().filter(|day| *day < since) {
            self.forget(day, transaction)?;
        }
        Ok(())
    }

    /// Forgets the oldest days, but none from `day` on, until there is room.
    fn make_room(&mut self, day: Day, transaction: &WriteTransaction) -> Result<(), LedgerError> {
        while !self.has_room()
            && let Some(oldest) = self.oldest().filter(|oldest| *oldest < day)
        {
            self.forget(oldest, transaction)?;
            self.days_forgotten += 1;
        }
        Ok(())
    }

    fn oldest(&self) -> Option<Day> {
        self.by_day.keys().copied().find(|day| *day != OF_TOKENS)
    }

    fn forget(&mut self, day: Day, transaction: &WriteTransaction) -> Result<(), LedgerError> {
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

/// What a record costs: its bytes, and about as much again for its place in the tree, whose pages are two thirds full.
const fn size(key: &[u8], value: &[u8]) -> u64 {
    let bytes = (key.len() + value.len() + 16) as u64;
    bytes + bytes / 2
}

/// Corrects tokens that a wrong clock has seen in the future: they would be kept for as long as that is to come.
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

/// Forgets the tokens that were last seen before a day.
fn forget_tokens(
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
    sizes.replaced(OF_TOKENS, freed, 0);
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
    sizes.replaced(OF_TOKENS, freed, size(&key, &record));
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
            record.add(batch::key(numbers.of(&rule), Outcome::of(*key)), *count);
        }
    }
    record.plain_http = record.plain_http.saturating_add(counts.plain_http);
    let mut addresses = Addresses::from(mem::take(&mut record.addresses));
    addresses.add(&counts.addresses);
    record.addresses = addresses.into();
    let record = record.encode_to_vec();
    let freed = before.map_or(0, |before| size(&key, &before));
    sizes.replaced(day, freed, size(&key, &record));
    table.insert(key.as_slice(), record.as_slice())?;
    Ok(())
}

/// The ledger's numbers of rules, with those that are to be added.
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

pub(super) fn at(path: &Path, error: DatabaseError) -> LedgerError {
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
