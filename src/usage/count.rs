//! Counts requests per worker, without locks, and without allocations for a known token and rule.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tokio::sync::watch;

use super::batch::{Batch, CountedRequest, TokenDescription};
use super::message::{Message, send};

/// The counters of one worker. They live as long as the worker, across reloads.
#[derive(Debug)]
pub struct WorkerUsage {
    batch: RefCell<Batch>,
    sender: SyncSender<Message>,
    schedule: watch::Receiver<Schedule>,
    /// The latest flush that this worker has performed.
    flushed: Cell<u64>,
    worker: usize,
}

/// When workers send their batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The interval; `None` if usage is not counted.
    pub interval: Option<Duration>,
    /// Incremented to request a flush at once.
    pub flush: u64,
}

impl WorkerUsage {
    /// Creates the counters of a worker that sends its batches to `sender`.
    pub(super) fn new(
        worker: usize,
        sender: SyncSender<Message>,
        schedule: watch::Receiver<Schedule>,
    ) -> Self {
        let flushed = Cell::new(schedule.borrow().flush);
        Self { batch: RefCell::new(Batch::new(1)), sender, schedule, flushed, worker }
    }

    /// Counts a request. `slot` belongs to its token, and only this method writes it.
    pub fn count(
        &self,
        slot: &Cell<u64>,
        request: &CountedRequest,
        describe: impl FnOnce() -> TokenDescription,
    ) {
        self.count_with(slot, request, [], describe);
    }

    /// Counts a request, and the rules of its query's parameters that its token satisfies.
    pub fn count_with(
        &self,
        slot: &Cell<u64>,
        request: &CountedRequest,
        parameters: impl IntoIterator<Item = u32>,
        describe: impl FnOnce() -> TokenDescription,
    ) {
        let mut batch = self.batch.borrow_mut();
        let mut has_grown = batch.count(slot, request, describe);
        for rule in parameters {
            has_grown |= batch.count_parameter(slot, rule, request.outcome);
        }
        if has_grown && batch.is_full() {
            drop(batch);
            self.send_batch();
        }
    }

    /// Sends the batch. Keeps counting into it if the queue is full.
    #[cold]
    fn send_batch(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            return;
        }
        // 0 is the slot of a token that was never counted.
        let next = batch.epoch.wrapping_add(1).max(1);
        let full = std::mem::replace(&mut *batch, Batch::new(next));
        match self.sender.try_send(Message::Batch(Box::new(full))) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // Slots that point into this batch stay valid.
            Err(TrySendError::Full(Message::Batch(back))) => *batch = *back,
            Err(TrySendError::Full(_)) => {}
        }
    }

    /// Sends batches until the writer ends.
    pub async fn run(self: Rc<Self>) {
        let mut schedule = self.schedule.clone();
        loop {
            let Schedule { interval, flush } = *schedule.borrow_and_update();
            if flush != self.flushed.get() {
                self.send_batch();
                if self.sender.try_send(Message::Flushed { worker: self.worker, flush }).is_ok() {
                    self.flushed.set(flush);
                }
            }
            let changed = schedule.changed();
            let ended = match interval {
                Some(interval) => tokio::select! {
                    changed = changed => changed.is_err(),
                    () = tokio::time::sleep(interval) => {
                        self.send_batch();
                        false
                    }
                },
                None => changed.await.is_err(),
            };
            if ended {
                return;
            }
        }
    }
}

impl Drop for WorkerUsage {
    fn drop(&mut self) {
        let batch = self.batch.get_mut();
        if !batch.is_empty() {
            // The worker has ended, so this may wait for the queue, but not for a disk that hangs.
            let last = std::mem::replace(batch, Batch::new(1));
            if send(&self.sender, Message::Batch(Box::new(last))).is_err() {
                tracing::warn!("usage: the last requests of a worker were not counted");
            }
        }
    }
}

#[cfg(test)]
mod tests;
