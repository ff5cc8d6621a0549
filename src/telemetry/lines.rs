//! Log lines on their way to standard output: two bounded queues and the thread that writes them.
//!
//! Producers never wait. Lines that find the queue full are dropped and counted. Audit lines, which record what
//! somebody did with a credential, have a queue of their own that the thread empties first, so that a flood of other
//! lines cannot displace them. Their places are reserved before the action is carried out, and they stay queued
//! until they are written: an action whose line cannot be kept is refused instead ([`AuditLog::reserve`]).

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that may wait for the thread: some 6 MiB of access lines.
pub(super) const QUEUED_LINES: usize = 16 * 1024;
/// Audit lines that may wait, with those whose place is reserved.
const AUDIT_LINES: usize = 1024;
/// Lines that become one write, in bytes.
const BATCH: usize = 64 * 1024;
/// Pause before audit lines that could not be written are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before a write to a pipe in non-blocking mode is tried again.
const WOULD_BLOCK: Duration = Duration::from_millis(5);
/// Shortest time between two reports of lost lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Time for queued lines to be written when the log ends.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Where lines are queued, each with its line feed.
#[derive(Clone)]
pub struct LineQueue {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

enum Message {
    Line(Box<[u8]>),
    /// There is an audit line, or the log ends.
    Wake,
}

#[derive(Default)]
struct Shared {
    audit: Mutex<AuditQueue>,
    /// Whether the audit queue may have lines.
    audit_waits: AtomicBool,
    ending: AtomicBool,
    /// Lines that were not written.
    dropped: AtomicU64,
    /// Actions that were refused since their line had no place.
    refused_actions: AtomicU64,
}

#[derive(Default)]
struct AuditQueue {
    lines: VecDeque<Box<[u8]>>,
    reserved: usize,
}

impl Shared {
    fn audit(&self) -> MutexGuard<'_, AuditQueue> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_lines(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl LineQueue {
    /// Queues a line, or drops and counts it.
    pub(super) fn push(&self, line: &[u8]) {
        if self.sender.try_send(Message::Line(line.into())).is_err() {
            self.shared.drop_lines(1);
        }
    }

    /// Queues an audit line, for which a place should have been reserved.
    pub(super) fn push_audit(&self, line: &[u8]) {
        let mut audit = self.shared.audit();
        if audit.lines.len() >= AUDIT_LINES {
            drop(audit);
            return self.shared.drop_lines(1);
        }
        audit.lines.push_back(line.into());
        self.shared.audit_waits.store(true, Ordering::Release);
        drop(audit);
        // A full queue means that the thread is busy: it looks for audit lines before it waits.
        let _ = self.sender.try_send(Message::Wake);
    }

    /// Number of lines that were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// The audit log that ends in this queue.
    pub(super) fn audit_log(&self) -> AuditLog {
        AuditLog(self.clone())
    }
}

impl Write for LineQueue {
    /// Takes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for LineQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LineQueue").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

/// How much of the audit queue an action may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditPriority {
    /// Looking at something: half of the queue.
    Read,
    /// A change by a machine, which tries again: three quarters.
    Webhook,
    /// A change by an operator: all of it.
    Change,
}

/// Where places for audit lines are reserved.
#[derive(Clone, Debug)]
pub struct AuditLog(LineQueue);

/// The log does not write, and as many audit lines as are kept wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot take a line about this action")]
pub struct AuditLogFull;

impl AuditLog {
    /// An audit log that keeps lines and never writes them, for tests of what uses one.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        let (sender, _) = sync_channel(1);
        Self(LineQueue { sender, shared: Arc::default() })
    }

    /// Reserves the place of one audit line. The action is carried out and logged while the place is held.
    ///
    /// # Errors
    /// If too many audit lines wait to be written. The action must not be carried out.
    pub fn reserve(&self, priority: AuditPriority) -> Result<AuditSlot, AuditLogFull> {
        let places = match priority {
            AuditPriority::Read => AUDIT_LINES / 2,
            AuditPriority::Webhook => AUDIT_LINES / 4 * 3,
            AuditPriority::Change => AUDIT_LINES,
        };
        let shared = &self.0.shared;
        let mut audit = shared.audit();
        if audit.lines.len() + audit.reserved >= places {
            shared.refused_actions.fetch_add(1, Ordering::Relaxed);
            return Err(AuditLogFull);
        }
        audit.reserved += 1;
        Ok(AuditSlot(Arc::clone(shared)))
    }
}

/// A reserved place in the audit queue, to be held until the line is logged.
#[must_use]
pub struct AuditSlot(Arc<Shared>);

impl fmt::Debug for AuditSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AuditSlot")
    }
}

impl Drop for AuditSlot {
    fn drop(&mut self) {
        let mut audit = self.0.audit();
        audit.reserved = audit.reserved.saturating_sub(1);
    }
}

/// The running thread. Dropping this waits, for two seconds at most, until queued lines have been written.
pub(super) struct Writer {
    queue: LineQueue,
    ended: Receiver<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.shared.ending.store(true, Ordering::Release);
        let _ = self.queue.sender.try_send(Message::Wake);
        // The sender is dropped with the thread. One that is stuck with its reader is left behind.
        let _ = self.ended.recv_timeout(END_TIMEOUT);
    }
}

/// Starts the thread. If the system gives none, every line is dropped and counted.
pub(super) fn start(output: impl Write + Send + 'static) -> (LineQueue, Writer) {
    let (sender, receiver) = sync_channel(QUEUED_LINES);
    let queue = LineQueue { sender, shared: Arc::default() };
    let (end, ended) = channel();
    let state = State {
        output,
        receiver,
        shared: Arc::clone(&queue.shared),
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
        state.run();
    };
    // If it fails the receiver is gone, so that every line counts as dropped.
    let _ = thread::Builder::new().name("log".to_owned()).spawn(run);
    (queue.clone(), Writer { queue, ended })
}

/// What the thread works with.
struct State<W> {
    output: W,
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
    batch: Vec<u8>,
    /// Whether the last write ended in the middle of a line.
    line_is_open: bool,
    /// Whether the last write failed.
    failing: bool,
    /// The first error since lost lines were reported.
    error: Option<io::Error>,
    /// When audit lines that could not be written are tried again.
    retry_at: Option<Instant>,
    /// How many lost lines were reported so far.
    reported: u64,
    /// When lost lines may be reported again.
    report_at: Instant,
}

impl<W: Write> State<W> {
    fn run(mut self) {
        loop {
            self.write_audit();
            match self.receiver.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty) => {
                    self.write_batch();
                    if self.audit_is_due() {
                        continue;
                    }
                    if self.shared.ending.load(Ordering::Acquire) {
                        break;
                    }
                    self.report();
                    match self.wait() {
                        Ok(message) => self.take(message),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.write_batch();
        self.retry_at = None;
        self.write_audit();
        self.shared.drop_lines(self.shared.audit().lines.len());
    }

    fn take(&mut self, message: Message) {
        if let Message::Line(line) = message {
            self.batch.extend_from_slice(&line);
            if self.batch.len() >= BATCH {
                self.write_batch();
            }
        }
    }

    /// Waits for a line, or for something that is due without one.
    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        let report_at = self.has_unreported().then_some(self.report_at);
        match self.retry_at.into_iter().chain(report_at).min() {
            Some(at) => self.receiver.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn audit_is_due(&self) -> bool {
        self.shared.audit_waits.load(Ordering::Acquire) && self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Writes all audit lines that wait. Those that cannot be written stay.
    fn write_audit(&mut self) {
        if !self.audit_is_due() {
            return;
        }
        let (count, lines) = {
            let audit = self.shared.audit();
            (audit.lines.len(), audit.lines.iter().flat_map(|line| line.iter().copied()).collect::<Vec<u8>>())
        };
        let written = match self.write(&lines) {
            Ok(()) => count,
            Err(written) => newlines(&lines[..written]),
        };
        self.retry_at = (written < count).then(|| Instant::now() + RETRY);
        let mut audit = self.shared.audit();
        audit.lines.drain(..written.min(count));
        self.shared.audit_waits.store(!audit.lines.is_empty(), Ordering::Release);
    }

    /// Writes the lines that were taken. Those that cannot be written are dropped and counted.
    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        if let Err(written) = self.write(&batch) {
            self.shared.drop_lines(newlines(&batch[written..]));
        }
        batch.clear();
        self.batch = batch;
    }

    /// # Errors
    /// How many bytes were written all the same.
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
            // The rest of that line is lost: the next one must not be appended to it.
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

    /// Says what was lost, once writing works again.
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

/// Writes a part of `bytes`, of which there is at least one, and returns its length.
fn write_once(output: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match output.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the pipe has set it to non-blocking: its reader is slow.
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
