//! The messages to the ledger's writer, and the views that it returns.

use std::convert::Infallible;
use std::sync::mpsc::{Sender, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::batch::Batch;
use super::read::Unwritten;
use super::source::Source;
use crate::config::settings;

/// How long a sender waits for room in the queue.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval between attempts to send.
pub(super) const SEND_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// A message to the writer.
pub(super) enum Message {
    /// The counts of a worker.
    Batch(Box<Batch>),
    /// A worker has sent everything that it had counted when `flush` was requested.
    Flushed { worker: usize, flush: u64 },
    /// A request for a view.
    Read(oneshot::Sender<LedgerView>),
    /// The settings have changed; `None` stops recording. The sender is dropped when they are applied.
    Apply(Option<Box<settings::Usage>>, Sender<Infallible>),
    /// All workers have ended.
    Stop,
}

/// Sends a message. Waits for room in the queue, but at most [`SEND_TIMEOUT`], since the writer may be blocked by a
/// disk that hangs.
pub(super) fn send(sender: &SyncSender<Message>, mut message: Message) -> Result<(), WriterBlocked> {
    let started = Instant::now();
    loop {
        match sender.try_send(message) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(back)) if started.elapsed() < SEND_TIMEOUT => message = back,
            Err(_) => return Err(WriterBlocked),
        }
        thread::sleep(SEND_RETRY_INTERVAL);
    }
}

/// The writer is blocked or has ended.
#[derive(Debug)]
pub(super) struct WriterBlocked;

/// A snapshot of the recorded usage.
#[derive(Clone, Debug)]
pub struct LedgerView {
    /// The ledger; `None` if it cannot be opened.
    pub source: Option<Source>,
    /// The usage that is not written yet; `None` if all is.
    pub unwritten: Option<Unwritten>,
}

impl LedgerView {
    /// Whether the ledger or the unwritten usage has a token with this id.
    pub fn has_token(&self, id: &str) -> bool {
        let is_written = |source: &Source| source.snapshot().and_then(|it| it.has_token(id)).unwrap_or(false);
        self.source.as_ref().is_some_and(is_written)
            || self.unwritten.as_ref().is_some_and(|it| it.pending.token(id).is_some())
    }
}

/// Bounds the reports in progress. Keep it until the report is complete.
#[derive(Debug)]
pub struct ReportPermit(
    #[expect(dead_code, reason = "dropping it releases the permit")] pub(super) OwnedSemaphorePermit,
);

/// There is no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Usage is not recorded.
    #[error("Usage is not recorded: `usage` is not configured.")]
    NotConfigured,
    /// Too many reports are in progress, or the disk does not respond.
    #[error("Other reports are in progress, or the disk is slow. Try again later.")]
    Busy,
}
