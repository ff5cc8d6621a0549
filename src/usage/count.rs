//! Counting, by each core for itself: no lock, and no allocation once a token and its rule have been seen.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tokio::sync::watch;

use super::batch::{Batch, Description, Request};
use super::message::{Message, send};

/// Where one core counts. It lives as long as the core, whatever is configured meanwhile.
#[derive(Debug)]
pub struct CoreUsage {
    batch: RefCell<Batch>,
    sender: SyncSender<Message>,
    schedule: watch::Receiver<Schedule>,
    /// The latest flush that was taken part in.
    flushed: Cell<u64>,
    index: usize,
}

/// When cores hand over what they have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// How often; none: nothing is counted.
    pub pause: Option<Duration>,
    /// A number that is raised to ask for it at once.
    pub flush: u64,
}

impl CoreUsage {
    /// Of one core, which hands its batches to `sender` as `schedule` says.
    pub(super) fn new(
        index: usize,
        sender: SyncSender<Message>,
        schedule: watch::Receiver<Schedule>,
    ) -> Self {
        let flushed = Cell::new(schedule.borrow().flush);
        Self { batch: RefCell::new(Batch::new(1)), sender, schedule, flushed, index }
    }

    /// Counts a request. `slot` is its token's, which this alone writes.
    pub fn count(&self, slot: &Cell<u64>, request: &Request, describe: impl FnOnce() -> Description) {
        let mut batch = self.batch.borrow_mut();
        if batch.count(slot, request, describe) && batch.is_full() {
            drop(batch);
            self.hand_over();
        }
    }

    /// Hands over what was counted, unless those before it have not been taken yet.
    #[cold]
    fn hand_over(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            return;
        }
        // Never 0, which is the slot of a token that has not been counted.
        let next = batch.epoch.wrapping_add(1).max(1);
        let full = std::mem::replace(&mut *batch, Batch::new(next));
        match self.sender.try_send(Message::Batch(Box::new(full))) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // It goes on where it was; its slots are still good.
            Err(TrySendError::Full(Message::Batch(back))) => *batch = *back,
            Err(TrySendError::Full(_)) => {}
        }
    }

    /// Hands over again and again, for as long as the core lives.
    pub async fn run(self: Rc<Self>) {
        let mut schedule = self.schedule.clone();
        loop {
            let Schedule { pause, flush } = *schedule.borrow_and_update();
            if flush != self.flushed.get() {
                self.hand_over();
                if self.sender.try_send(Message::Flushed { core: self.index, flush }).is_ok() {
                    self.flushed.set(flush);
                }
            }
            let changed = schedule.changed();
            let ended = match pause {
                Some(pause) => tokio::select! {
                    changed = changed => changed.is_err(),
                    () = tokio::time::sleep(pause) => {
                        self.hand_over();
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

impl Drop for CoreUsage {
    fn drop(&mut self) {
        let batch = self.batch.get_mut();
        if !batch.is_empty() {
            // The core has ended: there is time to wait for those before it, but not for a disk that hangs.
            let last = std::mem::replace(batch, Batch::new(1));
            if send(&self.sender, Message::Batch(Box::new(last))).is_err() {
                tracing::warn!("usage: the last requests of a core are not counted");
            }
        }
    }
}

#[cfg(test)]
mod tests;
