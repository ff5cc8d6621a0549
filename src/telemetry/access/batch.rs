//! One worker's access lines, batched on their way to the writer's queue.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::encoder::{LastUpstream, write_line};
use super::line::AccessLine;
use super::timestamp::Timestamp;
use crate::config::settings::LogFormat;
use crate::telemetry::lines::LineQueue;

/// A batch of this many bytes is sent immediately.
const BATCH: usize = 16 * 1024;
/// The longest time that a line stays in its batch.
const DELAY: Duration = Duration::from_millis(100);

/// The unsent lines of one worker. It lives as long as the worker, across reloads, so that the lines of a connection stay
/// in order.
pub struct LineBatch {
    queue: LineQueue,
    format: LogFormat,
    pending: RefCell<Pending>,
    /// Whether [`LineBatch::run`] will send the batch.
    is_scheduled: Cell<bool>,
    begun: Notify,
    /// Whether [`LineBatch::run`] has ended, so that every line must be sent immediately.
    is_ended: Cell<bool>,
}

#[derive(Default)]
struct Pending {
    /// Whole lines, except after a panic in the middle of one.
    bytes: Vec<u8>,
    /// Length of the whole lines.
    complete: usize,
    lines: usize,
    timestamp: Timestamp,
    upstream: LastUpstream,
}

impl Pending {
    fn send(&mut self, queue: &LineQueue) {
        if self.lines > 0 {
            queue.push_all(&self.bytes[..self.complete], self.lines);
        }
        self.bytes.clear();
        // Keeps the buffer, unless a very long line has made it large.
        self.bytes.shrink_to(2 * BATCH);
        (self.complete, self.lines) = (0, 0);
    }
}

impl LineBatch {
    pub(in crate::telemetry) fn new(queue: LineQueue, format: LogFormat) -> Self {
        Self {
            queue,
            format,
            pending: RefCell::default(),
            is_scheduled: Cell::new(false),
            begun: Notify::new(),
            is_ended: Cell::new(false),
        }
    }

    pub(super) const fn format(&self) -> LogFormat {
        self.format
    }

    pub(super) fn append(&self, now: SystemTime, line: &AccessLine<'_>) {
        let mut pending = self.pending.borrow_mut();
        let Pending { bytes, complete, lines, timestamp, upstream } = &mut *pending;
        bytes.truncate(*complete);
        write_line(bytes, timestamp.at(now), line, self.format, upstream);
        *complete = bytes.len();
        *lines += 1;
        if *complete >= BATCH || self.is_ended.get() {
            pending.send(&self.queue);
        } else if !self.is_scheduled.replace(true) {
            self.begun.notify_one();
        }
    }

    fn send(&self) {
        self.pending.borrow_mut().send(&self.queue);
    }

    /// Sends each batch 100 ms after its first line, for the life of the worker. One timer serves all requests and is
    /// armed only while there are lines.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(DELAY).await;
            self.is_scheduled.set(false);
            self.send();
        }
    }

    /// Sends the batch, and from now on every line immediately: those of connections that are closed when the worker
    /// ends.
    pub fn end(&self) {
        self.is_ended.set(true);
        self.send();
    }
}

impl Drop for LineBatch {
    fn drop(&mut self) {
        self.pending.get_mut().send(&self.queue);
    }
}

impl fmt::Debug for LineBatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LineBatch").field("format", &self.format).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
