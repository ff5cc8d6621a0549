//! The entry point of all changes to the block list: from the admin listener, the configuration, the file and other
//! replicas.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::broadcast::{Receiver, Sender, channel};

use super::blocklist::file::{BlockFile, BlockFileError};
use super::blocklist::record::{Block, BlockRecord, BlockSubject};
use super::blocklist::{BlockList, Full, ListedBlock, Merged};
use super::revoker::Revoker;
use crate::config::settings;
use crate::telemetry::metrics::Metrics;

/// Pause after a failed write of the file in the background.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Largest number of changes that wait for the task that publishes them.
const MAX_QUEUED: usize = 1024;

/// Changes the block list. When a call returns, no request that begins afterwards on any worker is served with a token
/// that it has blocked.
pub struct Blocker {
    list: Arc<BlockList>,
    revoker: Arc<Revoker>,
    metrics: Arc<Metrics>,
    file: Mutex<BlockFile>,
    /// Whether the list has a change that is not in the file.
    is_unsaved: AtomicBool,
    failed_at: Mutex<Option<Instant>>,
    /// The channel to the task that publishes changes to other replicas.
    changes: Sender<BlockRecord>,
}

impl Blocker {
    /// Changes `list`, which has the records of `file`.
    pub fn new(list: Arc<BlockList>, file: BlockFile, revoker: Arc<Revoker>, metrics: Arc<Metrics>) -> Self {
        Self {
            list,
            revoker,
            metrics,
            file: Mutex::new(file),
            is_unsaved: AtomicBool::new(false),
            failed_at: Mutex::default(),
            changes: channel(MAX_QUEUED).0,
        }
    }

    /// Blocks tokens at once. The caller must [`save`](Self::save) the list before it reports success.
    ///
    /// # Errors
    /// [`Full`]. Nothing is changed.
    pub fn block(&self, subject: BlockSubject, block: Block) -> Result<(), Full> {
        let record = self.list.block(subject, block, Timestamp::now())?;
        self.revoker.invalidate(record.subject.revocation());
        self.note_change(&record);
        Ok(())
    }

    /// Removes the blocks of the subjects for which `selects` is true, except those of the configuration. Returns how
    /// many there were. The caller must [`save`](Self::save) the list before it reports success.
    pub fn unblock(&self, selects: impl Fn(&BlockSubject) -> bool) -> usize {
        let removed = self.list.unblock(selects, Timestamp::now());
        removed.iter().for_each(|record| self.note_change(record));
        removed.len()
    }

    /// Whether `blocked` of the configuration blocks a subject for which `selects` is true.
    pub fn is_configured(&self, selects: impl Fn(&BlockSubject) -> bool) -> bool {
        self.list.is_configured(selects)
    }

    /// The blocks in force.
    pub fn list(&self) -> Vec<ListedBlock> {
        self.list.list(Timestamp::now())
    }

    /// Replaces the blocks of the configuration.
    pub fn configure(&self, settings: &settings::Blocked) {
        for added in self.list.configure(settings) {
            self.revoker.invalidate(added.revocation());
        }
    }

    /// Writes all changes up to now to the file. Other processes may use the same file: what they have written is merged.
    ///
    /// # Errors
    /// If the file cannot be written, or has contents that cannot be merged. The list stays as it is, and is written later.
    pub fn save(&self) -> Result<(), BlockFileError> {
        let saved = self.save_and_count();
        if let Err(error) = &saved {
            log_failure(error);
        }
        saved
    }

    fn save_and_count(&self) -> Result<(), BlockFileError> {
        let saved = self.try_save(&mut self.file());
        let failed = saved.as_ref().err().map(|_| Instant::now());
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        if failed.is_some() {
            self.is_unsaved.store(true, Ordering::Release);
            self.metrics.block_write_failed();
        }
        saved
    }

    fn try_save(&self, file: &mut BlockFile) -> Result<(), BlockFileError> {
        let _lock = file.lock()?;
        match self.apply_changes(file) {
            // Under the lock: no other process has replaced it meanwhile.
            Err(BlockFileError::Content { .. }) => file.keep_damaged()?,
            applied => applied?,
        }
        // Before the records are read: a later change is written later.
        self.is_unsaved.store(false, Ordering::Release);
        file.write(&self.list.records())
    }

    /// The periodic work: ends blocks, applies what other processes have written to the file, and writes what is not
    /// in it yet. To be called about once a second.
    pub fn maintain(&self, now: Instant) {
        self.list.expire(Timestamp::now());
        if let Err(BlockFileError::Content { .. }) = self.apply_changes(&mut self.file()) {
            self.is_unsaved.store(true, Ordering::Release);
        }
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = failed_at.is_none_or(|at| now.saturating_duration_since(at) >= RETRY_PAUSE);
        if !is_due || !self.is_unsaved.load(Ordering::Acquire) {
            return;
        }
        match (self.save_and_count(), failed_at) {
            (Ok(()), Some(_)) => tracing::info!("the blocks are written again"),
            // The log has the first failure.
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Err(error), None) => log_failure(&error),
        }
    }

    /// Logs a warning if the file cannot be written.
    pub fn probe_file(&self) {
        if let Err(error) = self.file().probe() {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "`blocked.path` cannot be written: blocks will be lost at a restart");
        }
    }

    /// Receives every later change that other replicas must apply. A receiver that lags behind gets an error instead, and
    /// has to compare [all records](Self::records).
    pub fn subscribe(&self) -> Receiver<BlockRecord> {
        self.changes.subscribe()
    }

    /// All records.
    pub fn records(&self) -> Vec<BlockRecord> {
        self.list.records()
    }

    /// Applies a record of another replica. The caller must revoke the verdicts of newly blocked tokens. The file gets
    /// the record within a second.
    pub fn merge_received(&self, record: BlockRecord) -> Merged {
        let merged = self.list.merge_received(record, Timestamp::now());
        if matches!(merged, Merged::Blocked | Merged::Removed) {
            self.is_unsaved.store(true, Ordering::Release);
        }
        merged
    }

    /// Applies what other processes have written to the file. A file that was removed, or replaced by an older one, would
    /// lose blocks at the next start, so it is written again.
    ///
    /// # Errors
    /// If the file cannot be read. The log has the first of these errors.
    fn apply_changes(&self, file: &mut BlockFile) -> Result<(), BlockFileError> {
        if !file.has_changed() {
            return Ok(());
        }
        let is_known = file.is_unreadable();
        let records = file.read().inspect_err(|error| {
            if !is_known {
                log_unreadable(error);
            }
        })?;
        let is_behind = self.list.is_ahead_of(&records, Timestamp::now());
        self.merge_all(records);
        // The file cannot contain unsaved blocks, so their absence is no error.
        if is_behind && !self.is_unsaved.swap(true, Ordering::AcqRel) {
            let what = if file.is_missing() { "was removed" } else { "lacks blocks that it had" };
            tracing::error!("the file of blocks {what}: it is written again");
        }
        Ok(())
    }

    fn merge_all(&self, records: Vec<BlockRecord>) {
        let now = Timestamp::now();
        for record in records {
            let subject = record.subject.clone();
            match self.list.merge(record, now) {
                Merged::Blocked => self.revoker.invalidate(subject.revocation()),
                Merged::Nothing | Merged::Removed | Merged::Rejected => {}
            }
        }
    }

    fn note_change(&self, record: &BlockRecord) {
        self.is_unsaved.store(true, Ordering::Release);
        // Without other replicas there is no receiver.
        let _ = self.changes.send(record.clone());
    }

    fn file(&self) -> MutexGuard<'_, BlockFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_unreadable(error: &BlockFileError) {
    let is_damaged = matches!(error, BlockFileError::Content { .. });
    let error: &dyn std::error::Error = error;
    if is_damaged {
        tracing::error!(
            error,
            "the file of blocks cannot be read any more: it is kept as `*.damaged`, and written again"
        );
    } else {
        tracing::error!(error, "the file of blocks cannot be read: it is not written until it can be");
    }
}

fn log_failure(error: &BlockFileError) {
    let error: &dyn std::error::Error = error;
    tracing::error!(error, "the blocks cannot be written: changes are lost at a restart");
}

#[cfg(test)]
mod tests;
