//! The thread that collects the counts of the workers and writes them to the ledger.
//!
//! It never delays a request: workers send without waiting, and unwritten counts stay in memory, within bounds, until
//! the disk accepts them.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use super::batch::{Batch, CountedOutcome};
use super::count::{Schedule, WorkerUsage};
use super::ends_in_time;
use super::findings::findings;
use super::ledger::{Bounds, Ledger, LedgerError, WriteSummary, catch_panics};
use super::message::{LedgerView, Message, ReportPermit, SEND_RETRY_INTERVAL, SEND_TIMEOUT, ViewError, send};
use super::pending::{Day, Pending};
use super::query::ReportQuery;
use super::read::Unwritten;
use super::report::Verdict;
use super::report_stream::ReportStream;
use super::retention::Moment;
use super::rules::{RuleNumbers, Rules};
use super::source::Source;
use crate::config::settings;
use crate::policy::map::AbilityMap;
use crate::telemetry::metrics::Metrics;

/// The length of the queue. While it is full, workers keep their batches.
const QUEUE_LENGTH: usize = 8;
/// How long a report waits for the workers to send their counts.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reload waits until earlier counts are in the previous ledger. A disk that hangs does not delay it further.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// The most reports in progress. Each uses a CPU core, and keeps old pages of the ledger from being reused.
const MAX_REPORTS: usize = 2;
/// How long a further report waits to start.
const REPORT_START_TIMEOUT: Duration = Duration::from_secs(5);
/// The minimum interval between log messages about write failures.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The minimum interval between log messages about a clock jump.
const JUMP_LOG_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Records the usage of tokens for the whole process.
pub struct Usage {
    metrics: Arc<Metrics>,
    rules: Arc<Rules>,
    sender: SyncSender<Message>,
    schedule: watch::Sender<Schedule>,
    workers: usize,
    reports: Arc<Semaphore>,
    thread: Mutex<WriterThread>,
}

enum WriterThread {
    /// Recording has never been enabled.
    NotStarted(Receiver<Message>),
    Running(JoinHandle<()>),
    Stopped,
}

impl Usage {
    /// Creates the recorder of a process with `workers` workers. It counts nothing yet.
    pub fn new(metrics: Arc<Metrics>, workers: usize) -> Self {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        Self {
            metrics,
            rules: Arc::default(),
            sender,
            schedule: watch::Sender::new(Schedule::default()),
            workers,
            reports: Arc::new(Semaphore::new(MAX_REPORTS)),
            thread: Mutex::new(WriterThread::NotStarted(receiver)),
        }
    }

    /// Numbers the rules of a map.
    pub fn rules(&self, map: &AbilityMap) -> RuleNumbers {
        self.rules.register(map)
    }

    /// The counters of the worker with this index. Each worker calls it once, on its own thread.
    pub fn worker(&self, index: usize) -> Rc<WorkerUsage> {
        Rc::new(WorkerUsage::new(index, self.sender.clone(), self.schedule.subscribe()))
    }

    /// Records with `settings` from now on, or not at all if they are `None`. Earlier counts go to the previous
    /// ledger.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started.
    pub fn apply(&self, settings: Option<&settings::Usage>) -> io::Result<()> {
        let mut thread = self.thread();
        if let (WriterThread::NotStarted(_), None) = (&*thread, settings) {
            return Ok(());
        }
        *thread = match std::mem::replace(&mut *thread, WriterThread::Stopped) {
            WriterThread::NotStarted(receiver) => WriterThread::Running(self.start(receiver)?),
            other => other,
        };
        let (applied, is_applied) = channel();
        let message = Message::Apply(settings.cloned().map(Box::new), applied);
        if matches!(&*thread, WriterThread::Running(_)) && send(&self.sender, message).is_ok() {
            // Counts wait twice: in the worker and in the writer. Together that is shorter than the interval.
            let interval = settings.map(|settings| settings.flush_interval * 2 / 5);
            self.schedule.send_modify(|schedule| schedule.interval = interval);
            drop(thread);
            // Otherwise the first requests of the next configuration may be counted in the previous ledger.
            let _ = is_applied.recv_timeout(APPLY_TIMEOUT);
        }
        Ok(())
    }

    /// A view of all usage up to now, and the permit to create a report from it.
    ///
    /// # Errors
    /// [`ViewError`]
    pub async fn view(&self) -> Result<(LedgerView, ReportPermit), ViewError> {
        self.schedule.borrow().interval.ok_or(ViewError::NotConfigured)?;
        let permit = timeout(REPORT_START_TIMEOUT, Arc::clone(&self.reports).acquire_owned()).await;
        let permit = permit.map_err(|_| ViewError::Busy)?.map_err(|_| ViewError::Busy)?;
        let (reply, view) = oneshot::channel();
        // The admin listener's thread must not block.
        let mut message = Message::Read(reply);
        let started = Instant::now();
        loop {
            match self.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if started.elapsed() < SEND_TIMEOUT => {
                    message = back;
                    tokio::time::sleep(SEND_RETRY_INTERVAL).await;
                }
                Err(_) => return Err(ViewError::Busy),
            }
        }
        Ok((view.await.map_err(|_| ViewError::Busy)?, ReportPermit(permit)))
    }

    /// Writes the last counts, for up to 5 s. Call it after all workers have ended.
    pub fn stop(&self) {
        if let WriterThread::Running(thread) = std::mem::replace(&mut *self.thread(), WriterThread::Stopped) {
            let was_sent = send(&self.sender, Message::Stop).is_ok();
            if !ends_in_time(thread, was_sent) {
                tracing::error!("usage: the last counts were not written");
            }
        }
    }

    fn start(&self, receiver: Receiver<Message>) -> io::Result<JoinHandle<()>> {
        let writer = Writer {
            metrics: Arc::clone(&self.metrics),
            rules: Arc::clone(&self.rules),
            receiver,
            schedule: self.schedule.clone(),
            flushed: vec![0; self.workers],
            settings: None,
            ledger: None,
            pending: Arc::default(),
            write_at: Instant::now(),
            waiting: VecDeque::new(),
            failure_logged_at: None,
            jump_logged_at: None,
            assess_at: Arc::new(Mutex::new(Instant::now())),
        };
        thread::Builder::new().name("usage".to_owned()).spawn(move || writer.run())
    }

    fn thread(&self) -> MutexGuard<'_, WriterThread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the thread.
struct Writer {
    metrics: Arc<Metrics>,
    rules: Arc<Rules>,
    receiver: Receiver<Message>,
    schedule: watch::Sender<Schedule>,
    /// The latest flush of each worker.
    flushed: Vec<u64>,
    settings: Option<Box<settings::Usage>>,
    ledger: Option<Ledger>,
    pending: Arc<Pending>,
    write_at: Instant,
    waiting: VecDeque<PendingAction>,
    failure_logged_at: Option<Instant>,
    /// The last log message about a clock jump; `None` without a jump.
    jump_logged_at: Option<Instant>,
    /// When findings are counted next. Locked while they are counted.
    assess_at: Arc<Mutex<Instant>>,
}

/// An action that waits until all workers have sent their counts.
struct PendingAction {
    flush: u64,
    until: Instant,
    action: Action,
}

enum Action {
    Read(oneshot::Sender<LedgerView>),
    Apply(
        Option<Box<settings::Usage>>,
        #[expect(dead_code, reason = "dropping it reports the end")] Sender<Infallible>,
    ),
}

impl Writer {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let next = self.waiting.front().map_or(self.write_at, |waiting| waiting.until.min(self.write_at));
            match self.receiver.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Message::Batch(batch)) => self.add(*batch),
                Ok(Message::Flushed { worker, flush }) => {
                    if let Some(latest) = self.flushed.get_mut(worker) {
                        *latest = flush;
                    }
                }
                Ok(Message::Read(reply)) => self.flush_then(Action::Read(reply)),
                // Earlier counts belong to the current ledger.
                Ok(Message::Apply(settings, applied)) if self.settings.is_some() => {
                    self.flush_then(Action::Apply(settings, applied));
                }
                Ok(Message::Apply(settings, _)) => self.apply(settings),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.write();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if now >= self.write_at {
                self.write();
            }
            self.run_ready_actions(now);
        }
    }

    fn add(&mut self, batch: Batch) {
        if self.settings.is_none() {
            return;
        }
        for row in &batch.rows {
            for (key, count) in &row.counts {
                if let Some(rule) = self.rules.get(key >> 2) {
                    let is_allowed = CountedOutcome::from_key(*key).verdict() == Verdict::Allowed;
                    self.metrics.usage().counted(&rule.abilities, is_allowed, u64::from(*count));
                }
            }
        }
        let dropped = Arc::make_mut(&mut self.pending).add(batch);
        self.metrics.usage().dropped(dropped);
    }

    fn flush_then(&mut self, action: Action) {
        let mut flush = 0;
        self.schedule.send_modify(|schedule| {
            schedule.flush += 1;
            flush = schedule.flush;
        });
        self.waiting.push_back(PendingAction { flush, until: Instant::now() + FLUSH_TIMEOUT, action });
    }

    /// Performs the actions, in their order, for which all workers have sent their counts or the time limit has passed.
    fn run_ready_actions(&mut self, now: Instant) {
        let all = self.flushed.iter().copied().min().unwrap_or(u64::MAX);
        while let Some(waiting) = self.waiting.pop_front_if(|it| it.flush <= all || now >= it.until) {
            self.write();
            match waiting.action {
                Action::Read(reply) => {
                    let _ = reply.send(self.view());
                }
                Action::Apply(settings, _) => self.apply(settings),
            }
        }
    }

    fn view(&mut self) -> LedgerView {
        if let (None, Some(settings)) = (&self.ledger, &self.settings) {
            // A ledger that cannot be written may still be readable.
            self.ledger = catch_panics(&settings.path, || Ledger::open(&settings.path)).ok();
        }
        let unwritten = (!self.pending.is_empty())
            .then(|| Unwritten { pending: Arc::clone(&self.pending), rules: Arc::clone(&self.rules) });
        LedgerView { source: self.ledger.as_ref().map(Source::of), unwritten }
    }

    fn apply(&mut self, settings: Option<Box<settings::Usage>>) {
        let path = |settings: &Option<Box<settings::Usage>>| settings.as_ref().map(|it| it.path.clone());
        if path(&settings) != path(&self.settings) {
            // Unwritten counts belong to the previous file, so they are dropped.
            self.ledger = None;
            self.pending = Arc::default();
        }
        self.settings = settings;
        self.failure_logged_at = None;
        self.metrics.usage().set_enabled(self.settings.is_some());
        self.write();
    }

    /// Writes the pending counts. They are kept if that fails.
    fn write(&mut self) {
        let Some(settings) = &self.settings else {
            self.write_at = Instant::now() + LOG_INTERVAL;
            return;
        };
        self.write_at = Instant::now() + settings.flush_interval * 2 / 5;
        let (retention, max_size, interval) =
            (settings.retention, settings.max_size, settings.flush_interval);
        let path = settings.path.clone();
        let (ledger, pending, rules) = (&mut self.ledger, &self.pending, &self.rules);
        let written = catch_panics(&path, || {
            let ledger = match ledger {
                Some(ledger) => ledger,
                None => ledger.insert(Ledger::open(&path)?),
            };
            let time = ledger.time(Moment::now(), interval)?;
            let bounds = Bounds { since: first_day(time.now, retention), max_size };
            Ok((ledger.write(pending, rules, bounds)?, time.jump))
        });
        match written {
            Ok((written, jump)) => {
                self.record_success(written);
                self.log_jump(jump, Instant::now());
            }
            Err(error) => self.record_failure(&error),
        }
    }

    fn record_success(&mut self, written: WriteSummary) {
        if self.failure_logged_at.take().is_some() {
            tracing::info!("usage: the ledger is written again");
        }
        if written.days_dropped > 0 {
            tracing::warn!(
                days = written.days_dropped,
                "usage: the oldest days were dropped, since the ledger reached `usage.max_size`"
            );
        }
        self.pending = Arc::default();
        let metrics = self.metrics.usage();
        metrics.dropped(written.dropped);
        metrics.written(SystemTime::now(), written.tokens, written.size);
        self.assess();
    }

    /// Logs that the clock has jumped ahead, and when it is right again.
    fn log_jump(&mut self, jump: Option<Duration>, now: Instant) {
        let Some(jump) = jump else {
            if self.jump_logged_at.take().is_some() {
                tracing::info!("usage: the clock is right again; retention uses it");
            }
            return;
        };
        if self.jump_logged_at.is_none_or(|at| now.saturating_duration_since(at) >= JUMP_LOG_INTERVAL) {
            self.jump_logged_at = Some(now);
            tracing::warn!(
                hours = jump.as_secs() / 3600,
                "usage: the clock has jumped ahead; retention ignores it until it has kept its course for 24 h"
            );
        }
    }

    /// Counts the findings on another thread, since that may take long with many tokens.
    fn assess(&self) {
        let (Some(settings), Some(ledger)) = (&self.settings, &self.ledger) else { return };
        match self.assess_at.try_lock() {
            Ok(at) if Instant::now() >= *at => {}
            _ => return,
        }
        let (view, rules) =
            (LedgerView { source: Some(Source::of(ledger)), unwritten: None }, settings.findings.clone());
        let interval = settings.flush_interval;
        let (metrics, assess_at) = (Arc::clone(&self.metrics), Arc::clone(&self.assess_at));
        let assess = move || {
            let mut at = assess_at.lock().unwrap_or_else(PoisonError::into_inner);
            let began = Instant::now();
            let counted = catch_unwind(AssertUnwindSafe(|| count_findings(&view, &rules)));
            if let Ok(Ok(counts)) = counted {
                metrics.usage().set_findings(counts);
            }
            // At most 1 % of one CPU core.
            *at = Instant::now() + interval.max(began.elapsed() * 100);
        };
        if let Err(error) = thread::Builder::new().name("findings".to_owned()).spawn(assess) {
            tracing::warn!(%error, "usage: findings are not counted");
        }
    }

    fn record_failure(&mut self, error: &LedgerError) {
        // After an error, redb rejects all operations until the file is opened again.
        self.ledger = None;
        self.metrics.usage().write_failed();
        let now = Instant::now();
        if self.failure_logged_at.is_none_or(|at| now >= at + LOG_INTERVAL) {
            self.failure_logged_at = Some(now);
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "usage: the ledger cannot be written; requests are still served");
        }
    }
}

/// The number of findings by kind and severity.
fn count_findings(
    view: &LedgerView,
    rules: &settings::FindingRules,
) -> Result<BTreeMap<(&'static str, &'static str), u64>, LedgerError> {
    let now = Timestamp::now();
    let mut counts = BTreeMap::new();
    ReportStream::new(view, &ReportQuery::default(), rules, now)?.tokens(|token| {
        for finding in findings(&token, rules, now) {
            *counts.entry((finding.kind.as_str(), finding.severity.as_str())).or_default() += 1;
        }
        ControlFlow::Continue(())
    })?;
    Ok(counts)
}

/// The first day that is kept. `now` is in milliseconds since 1970.
fn first_day(now: i64, retention: Duration) -> Day {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let since = now.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
    Day::try_from(since / DAY).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::FindingRules;

    #[tokio::test(start_paused = true)]
    async fn number_of_concurrent_reports_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let usage = Usage::new(Metrics::new(1), 0);
        assert!(matches!(usage.view().await, Err(ViewError::NotConfigured)));
        let settings = settings::Usage {
            path: directory.path().join("usage.redb"),
            flush_interval: Duration::from_secs(10),
            retention: Duration::from_secs(90 * 24 * 60 * 60),
            max_size: 1 << 30,
            findings: FindingRules::default(),
        };
        usage.apply(Some(&settings)).unwrap();
        let mut permits = Vec::new();
        for _ in 0..MAX_REPORTS {
            let (view, permit) = usage.view().await.unwrap();
            assert!(view.source.is_some());
            permits.push(permit);
        }
        assert!(matches!(usage.view().await, Err(ViewError::Busy)));
        permits.pop();
        assert!(usage.view().await.is_ok());
        usage.stop();
        assert!(matches!(usage.view().await, Err(ViewError::Busy)), "the writer has ended");
    }
}
