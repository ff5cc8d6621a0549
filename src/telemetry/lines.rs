//! The queues of log lines and the thread that writes them to standard output.
//!
//! Producers never wait for the output. Lines that do not fit into the queue are dropped and counted. Audit lines,
//! which record actions with a credential, have their own queue, which the thread empties first, so that a flood of
//! other lines cannot displace them. Their slots are reserved before the action is carried out and they stay queued
//! until they are written. An action whose line cannot be stored is refused ([`AuditLog::reserve`]).
//!
//! One lock protects both queues and is held only while a pointer is moved. The thread sleeps on a condition variable:
//! [`std::sync::mpsc`] spins and yields before it sleeps, and wakes the receiver for every message.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The target of audit lines, which record who did what. They are written at every level except `off`, through a queue
/// of their own. Hold an [`AuditSlot`](super::lines::AuditSlot) while writing one.
pub const AUDIT: &str = "audit";

/// Largest number of queued lines, without audit lines.
pub(super) const QUEUED_LINES: usize = 16 * 1024;
/// Largest size of those lines in bytes: 512 per line, more than a usual access line.
const QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// Largest number of audit lines, queued or reserved.
const AUDIT_LINES: usize = 1024;
/// Largest write, in bytes.
const BATCH: usize = 64 * 1024;
/// Pause before failed audit lines are written again.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before a write to a non-blocking pipe is tried again.
const WOULD_BLOCK: Duration = Duration::from_millis(5);
/// Shortest time between two reports of lost lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait for queued lines when the log ends.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The queues of lines, each of which includes its line feed.
#[derive(Clone)]
pub struct LineQueue(Arc<QueueState>);

/// Lines that were queued together.
struct Lines {
    bytes: Box<[u8]>,
    count: usize,
}

#[derive(Default)]
struct QueueState {
    queues: Mutex<Queues>,
    /// Notified if the thread waits and there is a line, or the log ends.
    changed: Condvar,
    /// Lines that were not written.
    dropped: AtomicU64,
    /// Actions that were refused because their line had no slot.
    refused_actions: AtomicU64,
}

#[derive(Default)]
struct Queues {
    lines: VecDeque<Lines>,
    /// Number of lines in `lines`.
    line_count: usize,
    /// Number of bytes in `lines`.
    byte_count: usize,
    audit: VecDeque<Box<[u8]>>,
    /// Slots in `audit` that are reserved.
    audit_reserved: usize,
    is_writer_waiting: bool,
    /// Whether the thread must end once it has written the queued lines.
    is_ending: bool,
    /// Whether the thread has ended, or was never started.
    is_closed: bool,
}

impl Queues {
    fn has_room(&self, lines: usize, bytes: usize) -> bool {
        !self.is_closed && self.line_count + lines <= QUEUED_LINES && self.byte_count + bytes <= QUEUED_BYTES
    }

    /// Moves lines to `taken`, in order, until it has [`BATCH`] bytes.
    fn take(&mut self, taken: &mut Vec<Lines>) {
        let mut bytes = 0;
        while bytes < BATCH
            && let Some(lines) = self.lines.pop_front()
        {
            bytes += lines.bytes.len();
            self.line_count -= lines.count;
            taken.push(lines);
        }
        self.byte_count -= bytes;
    }
}

impl QueueState {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock and wakes the thread if it waits. Notifying is a system call even without a waiter.
    fn wake(&self, mut queues: MutexGuard<'_, Queues>) {
        let is_waiting = std::mem::take(&mut queues.is_writer_waiting);
        drop(queues);
        if is_waiting {
            self.changed.notify_one();
        }
    }

    fn drop_lines(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl LineQueue {
    /// Queues a line, or drops and counts it.
    pub(super) fn push(&self, line: &[u8]) {
        self.push_all(line, 1);
    }

    /// Queues `count` lines, or drops and counts all of them.
    pub(super) fn push_all(&self, lines: &[u8], count: usize) {
        let lines = Lines { bytes: lines.into(), count };
        let mut queues = self.0.queues();
        if !queues.has_room(count, lines.bytes.len()) {
            drop(queues);
            return self.0.drop_lines(count);
        }
        queues.line_count += count;
        queues.byte_count += lines.bytes.len();
        queues.lines.push_back(lines);
        self.0.wake(queues);
    }

    /// Queues an audit line, whose slot should have been reserved.
    pub(super) fn push_audit(&self, line: &[u8]) {
        let mut queues = self.0.queues();
        if queues.is_closed || queues.audit.len() >= AUDIT_LINES {
            drop(queues);
            return self.0.drop_lines(1);
        }
        queues.audit.push_back(line.into());
        self.0.wake(queues);
    }

    /// Number of lines that were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// The audit log of this queue.
    pub(super) fn audit_log(&self) -> AuditLog {
        AuditLog(self.clone())
    }
}

#[cfg(test)]
impl LineQueue {
    /// A queue that no thread empties.
    pub(super) fn detached() -> Self {
        Self(Arc::default())
    }

    /// The lines that wait.
    pub(super) fn queued(&self) -> String {
        let bytes = |lines: &Lines| lines.bytes.to_vec();
        String::from_utf8(self.0.queues().lines.iter().flat_map(bytes).collect()).unwrap()
    }

    /// Their number, as it is counted.
    pub(super) fn queued_lines(&self) -> usize {
        self.0.queues().line_count
    }
}

impl fmt::Debug for LineQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LineQueue").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

/// The share of the audit queue that an action may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditPriority {
    /// Reading: half of the queue.
    Read,
    /// A change by a machine, which retries: three quarters.
    Webhook,
    /// A change by an operator: the whole queue.
    Change,
}

/// Reserves slots for audit lines.
#[derive(Clone, Debug)]
pub struct AuditLog(LineQueue);

/// The output is blocked, and the audit queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot take a line about this action")]
pub struct AuditLogFull;

impl AuditLog {
    /// An audit log that never writes its lines, for tests.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self(LineQueue::detached())
    }

    /// Reserves the slot of one audit line. Hold it while the action is carried out and logged.
    ///
    /// # Errors
    /// If too many audit lines are queued. The action must not be carried out.
    pub fn reserve(&self, priority: AuditPriority) -> Result<AuditSlot, AuditLogFull> {
        let places = match priority {
            AuditPriority::Read => AUDIT_LINES / 2,
            AuditPriority::Webhook => AUDIT_LINES / 4 * 3,
            AuditPriority::Change => AUDIT_LINES,
        };
        let shared = &self.0.0;
        let mut queues = shared.queues();
        if queues.audit.len() + queues.audit_reserved >= places {
            shared.refused_actions.fetch_add(1, Ordering::Relaxed);
            return Err(AuditLogFull);
        }
        queues.audit_reserved += 1;
        Ok(AuditSlot(Arc::clone(shared)))
    }
}

/// A slot in the audit queue. Hold it until the line is logged.
#[must_use]
pub struct AuditSlot(Arc<QueueState>);

impl fmt::Debug for AuditSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AuditSlot")
    }
}

impl Drop for AuditSlot {
    fn drop(&mut self) {
        let mut queues = self.0.queues();
        queues.audit_reserved = queues.audit_reserved.saturating_sub(1);
    }
}

/// The running thread. Dropping it waits, for at most two seconds, until the queued lines have been written.
pub(super) struct Writer {
    queue: LineQueue,
    ended: Receiver<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let shared = &self.queue.0;
        let mut queues = shared.queues();
        queues.is_ending = true;
        shared.wake(queues);
        // The sender is dropped with the thread. A thread that is blocked by its reader is abandoned.
        let _ = self.ended.recv_timeout(END_TIMEOUT);
    }
}

/// Starts the thread. If that fails, every line is dropped and counted.
pub(super) fn start(output: impl Write + Send + 'static) -> (LineQueue, Writer) {
    let queue = LineQueue(Arc::default());
    let (end, ended) = channel();
    let closing = Closing(Arc::clone(&queue.0));
    let state = WriterState {
        output,
        shared: Arc::clone(&queue.0),
        taken: Vec::new(),
        batch: Vec::with_capacity(BATCH),
        line_is_open: false,
        failing: false,
        error: None,
        retry_at: None,
        reported: 0,
        report_at: Instant::now(),
    };
    let run = move || {
        let _end = end;
        let _closing = closing;
        state.run();
    };
    // If it fails, `run` is dropped and the queue is closed.
    let _ = thread::Builder::new().name("log".to_owned()).spawn(run);
    (queue.clone(), Writer { queue, ended })
}

/// Closes the queue when the thread ends, however it ends.
struct Closing(Arc<QueueState>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut queues = self.0.queues();
        queues.is_closed = true;
        let unwritten = queues.line_count + queues.audit.len();
        (queues.line_count, queues.byte_count) = (0, 0);
        queues.lines.clear();
        queues.audit.clear();
        drop(queues);
        self.0.drop_lines(unwritten);
    }
}

/// The next action of the thread.
enum Work {
    WriteAudit,
    /// Write the lines taken from the queue.
    WriteLines,
    Report,
    End,
}

/// The state of the thread.
struct WriterState<W> {
    output: W,
    shared: Arc<QueueState>,
    /// Lines that were taken from the queue and are not written yet.
    taken: Vec<Lines>,
    /// The same lines as one buffer.
    batch: Vec<u8>,
    /// Whether the last write ended within a line.
    line_is_open: bool,
    /// Whether the last write failed.
    failing: bool,
    /// The first error since the last report of lost lines.
    error: Option<io::Error>,
    /// When failed audit lines are written again.
    retry_at: Option<Instant>,
    /// The number of lost lines that were reported.
    reported: u64,
    /// When lost lines may be reported again.
    report_at: Instant,
}

impl<W: Write> WriterState<W> {
    fn run(mut self) {
        loop {
            match self.next_work() {
                Work::WriteAudit => self.write_audit(),
                Work::WriteLines => self.write_taken(),
                Work::Report => self.report(),
                Work::End => break,
            }
        }
        self.write_audit();
    }

    /// Waits for the next action. Audit lines have precedence.
    fn next_work(&mut self) -> Work {
        let shared = Arc::clone(&self.shared);
        let mut queues = shared.queues();
        loop {
            let now = Instant::now();
            if !queues.audit.is_empty() && self.retry_at.is_none_or(|at| now >= at) {
                return Work::WriteAudit;
            }
            queues.take(&mut self.taken);
            if !self.taken.is_empty() {
                return Work::WriteLines;
            }
            if queues.is_ending {
                return Work::End;
            }
            let report_at = self.has_unreported().then_some(self.report_at);
            if report_at.is_some_and(|at| now >= at) {
                return Work::Report;
            }
            queues.is_writer_waiting = true;
            queues = match self.retry_at.into_iter().chain(report_at).min() {
                Some(at) => {
                    let waited = shared.changed.wait_timeout(queues, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => shared.changed.wait(queues).unwrap_or_else(PoisonError::into_inner),
            };
            queues.is_writer_waiting = false;
        }
    }

    /// Writes all queued audit lines. Lines that cannot be written stay queued.
    fn write_audit(&mut self) {
        let (count, lines) = {
            let queues = self.shared.queues();
            (
                queues.audit.len(),
                queues.audit.iter().flat_map(|line| line.iter().copied()).collect::<Vec<u8>>(),
            )
        };
        if count == 0 {
            return;
        }
        let written = match self.write(&lines) {
            Ok(()) => count,
            Err(written) => newlines(&lines[..written]),
        };
        self.retry_at = (written < count).then(|| Instant::now() + RETRY);
        self.shared.queues().audit.drain(..written.min(count));
    }

    /// Writes the taken lines. Lines that cannot be written are dropped and counted.
    fn write_taken(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        for lines in self.taken.drain(..) {
            batch.extend_from_slice(&lines.bytes);
        }
        if let Err(written) = self.write(&batch) {
            self.shared.drop_lines(newlines(&batch[written..]));
        }
        self.batch = batch;
    }

    /// # Errors
    /// The number of bytes that were written before the error.
    fn write(&mut self, lines: &[u8]) -> Result<(), usize> {
        match self.try_write(lines) {
            Ok(()) => {
                self.failing = false;
                Ok(())
            }
            Err((written, error)) => {
                self.failing = true;
                self.error.get_or_insert(error);
                Err(written)
            }
        }
    }

    fn try_write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.line_is_open {
            // The rest of that line is lost, and the next one must not be appended to it.
            write_once(&mut self.output, b"\n").map_err(|error| (0, error))?;
            self.line_is_open = false;
        }
        let mut written = 0;
        while written < lines.len() {
            match write_once(&mut self.output, &lines[written..]) {
                Ok(length) => written += length,
                Err(error) => {
                    self.line_is_open = lines[..written].last().is_some_and(|byte| *byte != b'\n');
                    return Err((written, error));
                }
            }
        }
        self.output.flush().map_err(|error| (written, error))
    }

    fn has_unreported(&self) -> bool {
        !self.failing
            && (self.shared.dropped.load(Ordering::Relaxed) > self.reported
                || self.shared.refused_actions.load(Ordering::Relaxed) > 0)
    }

    /// Reports lost lines once writing works again.
    fn report(&mut self) {
        let now = Instant::now();
        if !self.has_unreported() || now < self.report_at {
            return;
        }
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let lines = dropped - self.reported;
        self.reported = dropped;
        self.report_at = now + REPORT_INTERVAL;
        let refused_actions = self.shared.refused_actions.swap(0, Ordering::Relaxed);
        let error = self.error.take().map(tracing::field::display);
        tracing::warn!(lines, refused_actions, error, "log lines were lost");
    }
}

/// Writes a part of `bytes`, which must not be empty, and returns its length.
fn write_once(output: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match output.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process has set the shared pipe to non-blocking, and its reader is slow.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(WOULD_BLOCK),
            written => return written,
        }
    }
}

fn newlines(lines: &[u8]) -> usize {
    lines.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests;
