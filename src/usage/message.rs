//! What the writer of the ledger is told, and what it lets read.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::batch::Batch;
use super::read::Unwritten;
use super::source::Source;
use crate::config::settings;

/// How long it is tried to tell the thread something.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How often.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// What the thread is told.
pub(super) enum Message {
    /// What a core has counted.
    Batch(Box<Batch>),
    /// A core has handed over all that it had when this flush was asked for.
    Flushed { core: usize, flush: u64 },
    /// Somebody wants to read.
    Read(oneshot::Sender<View>),
    /// Another configuration.
    Adopt(Option<Box<settings::Usage>>),
    /// No core is left.
    Stop,
}

/// Tells the thread something, and waits until it can be told, but no longer than [`PATIENCE`]: it may be waiting for a
/// disk that hangs.
pub(super) fn send(sender: &SyncSender<Message>, mut message: Message) -> Result<(), Hangs> {
    let asked = Instant::now();
    loop {
        match sender.try_send(message) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(back)) if asked.elapsed() < PATIENCE => message = back,
            Err(_) => return Err(Hangs),
        }
        thread::sleep(PAUSE);
    }
}

/// The thread takes nothing, or is no more.
#[derive(Debug)]
pub(super) struct Hangs;

/// What there is to read.
#[derive(Clone, Debug)]
pub struct View {
    /// The ledger; none where it cannot be opened.
    pub source: Option<Source>,
    /// What could not be written to it; none: all was.
    pub unwritten: Option<Unwritten>,
}

impl View {
    /// Whether anything is known of a token with this id.
    pub fn knows(&self, id: &str) -> bool {
        let is_written = |source: &Source| source.snapshot().and_then(|it| it.knows(id)).unwrap_or(false);
        self.source.as_ref().is_some_and(is_written)
            || self.unwritten.as_ref().is_some_and(|it| it.pending.token(id).is_some())
    }
}

/// The right to make a report, for as long as it lives.
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "what counts is when it is dropped")] pub(super) OwnedSemaphorePermit,
);

/// Why there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// Nothing is kept.
    #[error("No usage is kept: `usage` is not configured.")]
    NotKept,
    /// Others read already, or the disk does not answer.
    #[error("Other reports are being made, or the disk is slow: ask again.")]
    Busy,
}
