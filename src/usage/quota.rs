//! The file of `rate_limit.quota`, and the thread that writes it.
//!
//! A request never waits for the file. If it cannot be read or written, quotas count in memory, and the thread tries again.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::ends_in_time;
use super::ledger::{ABOUT, LedgerError, catch_panics, open_database};
use crate::config::settings;
use crate::limits::quota::{Changes, QuotaCounts, QuotaKey, Used, Window};
use crate::telemetry::metrics::Metrics;

/// The format version of the file, which differs from those of the ledger.
const FORMAT: &str = "quota 1";
/// The size of redb's page cache, in bytes.
const CACHE_BYTES: usize = 1024 * 1024;
/// How long a start or a reload waits until the counts are read. A disk that hangs does not delay it further.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two attempts to open the file, which another process may hold until it has drained.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum interval between log messages about failures.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Counts by key: the hour at which the window began and the requests, packed.
const QUOTAS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("quotas");

/// The open file.
#[derive(Debug)]
struct QuotaFile {
    database: Database,
    /// Windows that began before this hour have been dropped.
    pruned_before: u64,
}

impl QuotaFile {
    /// Opens the file, or creates one that only its owner can read.
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let database = open_database(path, CACHE_BYTES)?;
        let format = {
            let transaction = database.begin_read()?;
            match transaction.open_table(ABOUT) {
                Ok(about) => {
                    let format = about.get(&b"format"[..])?;
                    Some(
                        format.map(|it| String::from_utf8_lossy(it.value()).into_owned()).unwrap_or_default(),
                    )
                }
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(error.into()),
            }
        };
        match format {
            Some(format) if format == FORMAT => {}
            Some(format) => return Err(LedgerError::QuotaFormat(format)),
            None => {
                let transaction = database.begin_write()?;
                transaction.open_table(ABOUT)?.insert(&b"format"[..], FORMAT.as_bytes())?;
                transaction.open_table(QUOTAS)?;
                transaction.commit()?;
            }
        }
        Ok(Self { database, pruned_before: 0 })
    }

    /// All counts, without damaged ones.
    fn rows(&self) -> Result<Vec<(QuotaKey, u64)>, LedgerError> {
        let mut rows = Vec::new();
        for entry in self.database.begin_read()?.open_table(QUOTAS)?.iter()? {
            let (key, packed) = entry?;
            if let (Ok(key), Ok(packed)) = (key.value().try_into(), packed.value().try_into()) {
                rows.push((key, u64::from_be_bytes(packed)));
            }
        }
        Ok(rows)
    }

    /// Writes `changes`, and drops the counts of windows before `window`, in one transaction.
    fn write(&mut self, changes: &Changes, window: Window) -> Result<(), LedgerError> {
        let prunes = window.start > self.pruned_before;
        if changes.changed.is_empty() && changes.dropped.is_empty() && !prunes {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(QUOTAS)?;
            for key in &changes.dropped {
                table.remove(&key[..])?;
            }
            for (key, packed) in &changes.changed {
                table.insert(&key[..], &packed.to_be_bytes()[..])?;
            }
            if prunes {
                table.retain(|_, packed| {
                    let packed = packed.try_into().map(u64::from_be_bytes);
                    packed.is_ok_and(|packed| Used::unpack(packed).start >= window.start)
                })?;
            }
        }
        transaction.commit()?;
        self.pruned_before = window.start;
        Ok(())
    }
}

/// Keeps the counts of quotas in a file.
pub struct QuotaWriter {
    metrics: Arc<Metrics>,
    counts: Arc<QuotaCounts>,
    /// `None` until quotas are configured.
    thread: Mutex<Option<(Sender<Command>, JoinHandle<()>)>>,
}

enum Command {
    Apply(Option<settings::QuotaStore>, Sender<Infallible>),
    Stop,
}

impl QuotaWriter {
    /// The writer of `counts`. It writes nothing yet.
    pub const fn new(metrics: Arc<Metrics>, counts: Arc<QuotaCounts>) -> Self {
        Self { metrics, counts, thread: Mutex::new(None) }
    }

    /// Keeps the counts in the file of `settings` from now on. Reads that file first.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn apply(&self, settings: Option<&settings::QuotaStore>) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() && settings.is_none() {
            return Ok(());
        }
        if thread.is_none() {
            let (sender, receiver) = channel();
            let writer = Writer {
                metrics: Arc::clone(&self.metrics),
                counts: Arc::clone(&self.counts),
                receiver,
                settings: None,
                file: None,
                has_read: false,
                write_at: Instant::now(),
                failure_logged_at: None,
            };
            let handle = thread::Builder::new().name("quota".to_owned()).spawn(move || writer.run())?;
            *thread = Some((sender, handle));
        }
        let (applied, is_applied) = channel();
        if let Some((sender, _)) = &*thread
            && sender.send(Command::Apply(settings.cloned(), applied)).is_ok()
        {
            // Otherwise the first requests would not know the counts of an earlier process.
            let _ = is_applied.recv_timeout(APPLY_TIMEOUT);
        }
        Ok(())
    }

    /// Writes the last counts, for up to 5 s. Call it after all workers have ended.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((sender, handle)) = thread else { return };
        let was_sent = sender.send(Command::Stop).is_ok();
        if !ends_in_time(handle, was_sent) {
            tracing::error!("quota: the last counts were not written");
        }
    }
}

/// The state of the thread.
struct Writer {
    metrics: Arc<Metrics>,
    counts: Arc<QuotaCounts>,
    receiver: Receiver<Command>,
    settings: Option<settings::QuotaStore>,
    file: Option<QuotaFile>,
    /// Whether this process has read a file. Later ones have counts of this process, too.
    has_read: bool,
    write_at: Instant,
    failure_logged_at: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.receiver.recv_timeout(self.write_at.saturating_duration_since(Instant::now())) {
                Ok(Command::Apply(settings, _applied)) => self.apply(settings),
                Err(RecvTimeoutError::Timeout) => self.write(),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.write();
                    return;
                }
            }
        }
    }

    fn apply(&mut self, settings: Option<settings::QuotaStore>) {
        let path = |settings: &Option<settings::QuotaStore>| settings.as_ref().map(|it| it.path.clone());
        if path(&settings) != path(&self.settings) {
            self.write();
            self.file = None;
        }
        self.settings = settings;
        self.failure_logged_at = None;
        self.metrics.quota().set_enabled(self.settings.is_some());
        self.write();
    }

    /// Writes the counts, and opens and reads the file first if it is not open.
    fn write(&mut self) {
        let now = Instant::now();
        let Some(settings) = &self.settings else {
            self.write_at = now + LOG_INTERVAL;
            return;
        };
        let window = Window::at(settings.period, SystemTime::now());
        let (file, counts, has_read) = (&mut self.file, &self.counts, &mut self.has_read);
        let written = catch_panics(&settings.path, || {
            let is_new = file.is_none();
            let file = match file {
                Some(file) => file,
                None => {
                    let opened = QuotaFile::open(&settings.path)?;
                    counts.merge(opened.rows()?.into_iter(), window, !*has_read);
                    *has_read = true;
                    file.insert(opened)
                }
            };
            let changes = counts.take_changes(is_new);
            let dropped = changes.dropped.len();
            match file.write(&changes, window) {
                Ok(()) => {
                    counts.mark_written(&changes);
                    Ok(dropped)
                }
                Err(error) => {
                    counts.restore(changes);
                    Err(error)
                }
            }
        });
        match written {
            Ok(dropped) => {
                self.write_at = now + settings.flush_interval;
                self.metrics.quota().set_tokens(self.counts.len() as u64);
                if dropped > 0 {
                    tracing::warn!(
                        tokens = dropped,
                        "quota: too many tokens; those with the lowest counts start again"
                    );
                }
                if self.failure_logged_at.take().is_some() {
                    tracing::info!("quota: the counts are written again");
                }
            }
            Err(error) => {
                // After a failed write, redb needs the file to be opened again.
                self.file = None;
                self.write_at = now + settings.flush_interval.min(OPEN_INTERVAL);
                self.metrics.quota().write_failed();
                if self.failure_logged_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
                    self.failure_logged_at = Some(now);
                    let error = &error as &dyn std::error::Error;
                    if self.has_read {
                        tracing::error!(error, "quota: the counts are not written");
                    } else {
                        tracing::error!(
                            error,
                            "quota: earlier counts cannot be read yet; they are added later"
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::QuotaPeriod;

    fn store(path: &Path) -> settings::QuotaStore {
        let flush_interval = Duration::from_millis(20);
        settings::QuotaStore { path: path.to_owned(), period: QuotaPeriod::Month, flush_interval }
    }

    fn window() -> Window {
        Window::at(QuotaPeriod::Month, SystemTime::now())
    }

    fn take(counts: &QuotaCounts, id: &str, count: u64) {
        for _ in 0..count {
            counts.of(id, window()).take(window(), std::num::NonZeroU32::MAX).unwrap();
        }
    }

    fn used(counts: &QuotaCounts, id: &str) -> u64 {
        counts.of(id, window()).used(window()).count
    }

    /// The writer of a new process.
    fn start(path: &Path) -> (QuotaWriter, Arc<QuotaCounts>) {
        let counts = Arc::new(QuotaCounts::default());
        let writer = QuotaWriter::new(Metrics::new(1), Arc::clone(&counts));
        writer.apply(Some(&store(path))).unwrap();
        (writer, counts)
    }

    #[test]
    fn counts_survive_restarts_in_any_file() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["a.redb", "b.redb"].map(|name| directory.path().join(name));
        let (writer, counts) = start(&first);
        take(&counts, "1", 3);
        writer.stop();
        let (writer, counts) = start(&first);
        assert_eq!((used(&counts, "1"), used(&counts, "2")), (3, 0));
        take(&counts, "1", 2);
        // To another file and back: nothing is counted twice.
        writer.apply(Some(&store(&second))).unwrap();
        take(&counts, "2", 1);
        writer.apply(Some(&store(&first))).unwrap();
        writer.apply(None).unwrap();
        writer.apply(Some(&store(&second))).unwrap();
        writer.stop();
        for path in [&first, &second] {
            let (writer, counts) = start(path);
            assert_eq!((used(&counts, "1"), used(&counts, "2")), (5, 1), "{}", path.display());
            writer.stop();
        }
    }

    #[test]
    fn earlier_counts_are_added_when_the_file_becomes_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quota.redb");
        let (draining, before) = start(&path);
        take(&before, "1", 3);
        let (writer, counts) = start(&path);
        take(&counts, "1", 4);
        assert_eq!(used(&counts, "1"), 4, "the other process has the file");
        take(&before, "1", 1);
        draining.stop();
        let end = Instant::now() + Duration::from_secs(10);
        while used(&counts, "1") != 8 {
            assert!(Instant::now() < end, "{}", used(&counts, "1"));
            thread::sleep(Duration::from_millis(5));
        }
        writer.stop();
        assert_eq!(used(&start(&path).1, "1"), 8);
    }

    #[test]
    fn rows_of_earlier_windows_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quota.redb");
        let mut file = QuotaFile::open(&path).unwrap();
        let row = |number: u8, start| ([number; 32], Used { start, count: 1 }.pack());
        let changes = Changes { changed: vec![row(1, 10), row(2, 20)], dropped: Vec::new() };
        file.write(&changes, Window { start: 10, end: 20 }).unwrap();
        assert_eq!(file.rows().unwrap().len(), 2);
        file.write(&Changes::default(), Window { start: 20, end: 30 }).unwrap();
        assert_eq!(file.rows().unwrap(), [row(2, 20)]);
        let changes = Changes { changed: Vec::new(), dropped: vec![[2; 32]] };
        file.write(&changes, Window { start: 20, end: 30 }).unwrap();
        assert_eq!(file.rows().unwrap(), []);
    }

    #[test]
    fn file_of_another_kind_is_refused_and_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("usage.redb");
        drop(super::super::ledger::Ledger::open(&path).unwrap());
        assert!(matches!(QuotaFile::open(&path), Err(LedgerError::QuotaFormat(format)) if format == "1"));
        assert!(super::super::ledger::Ledger::open(&path).is_ok());
        let path = directory.path().join("text");
        std::fs::write(&path, "not a database").unwrap();
        assert!(QuotaFile::open(&path).is_err());
        let (writer, counts) = start(&path);
        take(&counts, "1", 1);
        writer.stop();
        assert_eq!(std::fs::read(&path).unwrap(), b"not a database");
    }
}
