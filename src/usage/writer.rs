//! The thread that gathers what the cores have counted, and writes it to the ledger.
//!
//! Nothing here can stop a request: cores hand over without waiting, and what the disk does not take is kept in memory,
//! within bounds, until it does.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use super::batch::{Batch, Outcome};
use super::count::{CoreUsage, Schedule};
use super::findings::findings;
use super::ledger::{Bounds, Ledger, LedgerError, Written, contained};
use super::message::{Message, NoView, PATIENCE, PAUSE, Turn, View, send};
use super::pending::{Day, Pending};
use super::question::Question;
use super::read::Unwritten;
use super::report::Verdict;
use super::retention::Moment;
use super::rules::{RuleNumbers, Rules};
use super::source::Source;
use super::tell::Telling;
use crate::config::settings;
use crate::policy::map::AbilityMap;
use crate::telemetry::metrics::Metrics;

/// How many messages may wait: more are with the cores until these are taken.
const MOST_WAITING: usize = 8;
/// How long a question waits for the cores to hand over what they have.
const HANDING_OVER: Duration = Duration::from_secs(5);
/// How long the end waits for the last write.
const LAST_WRITE: Duration = Duration::from_secs(5);
/// How many reports are made at a time: each takes a core, and keeps what the ledger was when it began.
const REPORTS: usize = 2;
/// How long another one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// How often it is said that the ledger cannot be written.
const SILENCE: Duration = Duration::from_secs(60);
/// How often it is said that the clock has jumped.
const JUMP_SILENCE: Duration = Duration::from_secs(60 * 60);

/// Usage, as the whole process keeps it.
pub struct Usage {
    metrics: Arc<Metrics>,
    rules: Arc<Rules>,
    sender: SyncSender<Message>,
    schedule: watch::Sender<Schedule>,
    cores: usize,
    reports: Arc<Semaphore>,
    thread: Mutex<Thread>,
}

enum Thread {
    /// Nothing is to be kept, and was never.
    NotYet(Receiver<Message>),
    Running(JoinHandle<()>),
    Over,
}

impl Usage {
    /// Of a process with so many cores; nothing is counted yet.
    pub fn new(metrics: Arc<Metrics>, cores: usize) -> Self {
        let (sender, receiver) = sync_channel(MOST_WAITING);
        Self {
            metrics,
            rules: Arc::default(),
            sender,
            schedule: watch::Sender::new(Schedule::default()),
            cores,
            reports: Arc::new(Semaphore::new(REPORTS)),
            thread: Mutex::new(Thread::NotYet(receiver)),
        }
    }

    /// The numbers of a map's rules.
    pub fn rules(&self, map: &AbilityMap) -> RuleNumbers {
        self.rules.of(map)
    }

    /// Where one core counts, by its number; to be asked for once by each, on its own thread.
    pub fn core(&self, index: usize) -> Rc<CoreUsage> {
        Rc::new(CoreUsage::new(index, self.sender.clone(), self.schedule.subscribe()))
    }

    /// From now on kept by these settings, or not at all. What was counted before is written as it would have been.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn adopt(&self, settings: Option<&settings::Usage>) -> io::Result<()> {
        let mut thread = self.thread();
        if let (Thread::NotYet(_), None) = (&*thread, settings) {
            return Ok(());
        }
        *thread = match std::mem::replace(&mut *thread, Thread::Over) {
            Thread::NotYet(receiver) => Thread::Running(self.start(receiver)?),
            other => other,
        };
        let message = Message::Adopt(settings.cloned().map(Box::new));
        if matches!(&*thread, Thread::Running(_)) && send(&self.sender, message).is_ok() {
            // Two waits, the core's and the writer's: both together are shorter than the interval.
            let pause = settings.map(|settings| settings.flush_interval * 2 / 5);
            self.schedule.send_modify(|schedule| schedule.pause = pause);
        }
        Ok(())
    }

    /// What there is to read, with everything that was counted up to now, and the right to make a report of it.
    ///
    /// # Errors
    /// [`NoView`].
    pub async fn view(&self) -> Result<(View, Turn), NoView> {
        self.schedule.borrow().pause.ok_or(NoView::NotKept)?;
        let turn = timeout(TURN, Arc::clone(&self.reports).acquire_owned()).await;
        let turn = turn.map_err(|_| NoView::Busy)?.map_err(|_| NoView::Busy)?;
        let (reply, view) = oneshot::channel();
        // Never waits in the admin listener's thread.
        let mut message = Message::Read(reply);
        let asked = Instant::now();
        loop {
            match self.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if asked.elapsed() < PATIENCE => {
                    message = back;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => return Err(NoView::Busy),
            }
        }
        Ok((view.await.map_err(|_| NoView::Busy)?, Turn(turn)))
    }

    /// Writes the last of it, for a few seconds at most. To be called when all cores have ended.
    pub fn stop(&self) {
        if let Thread::Running(thread) = std::mem::replace(&mut *self.thread(), Thread::Over) {
            let asked = Instant::now();
            let told = send(&self.sender, Message::Stop).is_ok();
            while told && !thread.is_finished() && asked.elapsed() < LAST_WRITE {
                thread::sleep(PAUSE);
            }
            if !thread.is_finished() || thread.join().is_err() {
                tracing::error!("usage: the last of it is not written");
            }
        }
    }

    fn start(&self, receiver: Receiver<Message>) -> io::Result<JoinHandle<()>> {
        let writer = Writer {
            metrics: Arc::clone(&self.metrics),
            rules: Arc::clone(&self.rules),
            receiver,
            schedule: self.schedule.clone(),
            flushed: vec![0; self.cores],
            settings: None,
            ledger: None,
            pending: Arc::default(),
            write_at: Instant::now(),
            waiting: VecDeque::new(),
            complained_at: None,
            jump_told_at: None,
            assess_at: Arc::new(Mutex::new(Instant::now())),
        };
        thread::Builder::new().name("usage".to_owned()).spawn(move || writer.run())
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own.
struct Writer {
    metrics: Arc<Metrics>,
    rules: Arc<Rules>,
    receiver: Receiver<Message>,
    schedule: watch::Sender<Schedule>,
    /// The latest flush that each core took part in.
    flushed: Vec<u64>,
    settings: Option<Box<settings::Usage>>,
    ledger: Option<Ledger>,
    pending: Arc<Pending>,
    write_at: Instant,
    waiting: VecDeque<Waiting>,
    complained_at: Option<Instant>,
    /// When it was last said that the clock has jumped; `None` if it has not.
    jump_told_at: Option<Instant>,
    /// When findings are to be counted again; held by who counts them.
    assess_at: Arc<Mutex<Instant>>,
}

/// What is to be done when the cores have handed over what they have counted up to now.
struct Waiting {
    flush: u64,
    until: Instant,
    purpose: Purpose,
}

enum Purpose {
    Read(oneshot::Sender<View>),
    Adopt(Option<Box<settings::Usage>>),
}

impl Writer {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let next = self.waiting.front().map_or(self.write_at, |waiting| waiting.until.min(self.write_at));
            match self.receiver.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Message::Batch(batch)) => self.add(*batch),
                Ok(Message::Flushed { core, flush }) => {
                    if let Some(latest) = self.flushed.get_mut(core) {
                        *latest = flush;
                    }
                }
                Ok(Message::Read(reply)) => self.wait(Purpose::Read(reply)),
                // What was counted for the ledger before still belongs to it.
                Ok(Message::Adopt(settings)) if self.settings.is_some() => {
                    self.wait(Purpose::Adopt(settings));
                }
                Ok(Message::Adopt(settings)) => self.adopt(settings),
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
            self.go_on(now);
        }
    }

    fn add(&mut self, batch: Batch) {
        if self.settings.is_none() {
            return;
        }
        for row in &batch.rows {
            for (key, count) in &row.counts {
                if let Some(rule) = self.rules.get(key >> 2) {
                    let is_allowed = Outcome::of(*key).verdict() == Verdict::Allowed;
                    self.metrics.usage().counted(&rule.abilities, is_allowed, u64::from(*count));
                }
            }
        }
        let dropped = Arc::make_mut(&mut self.pending).add(batch);
        self.metrics.usage().dropped(dropped);
    }

    fn wait(&mut self, purpose: Purpose) {
        let mut flush = 0;
        self.schedule.send_modify(|schedule| {
            schedule.flush += 1;
            flush = schedule.flush;
        });
        self.waiting.push_back(Waiting { flush, until: Instant::now() + HANDING_OVER, purpose });
    }

    /// Does, in their order, what has waited for the cores for long enough.
    fn go_on(&mut self, now: Instant) {
        let all = self.flushed.iter().copied().min().unwrap_or(u64::MAX);
        while let Some(waiting) = self.waiting.pop_front_if(|it| it.flush <= all || now >= it.until) {
            self.write();
            match waiting.purpose {
                Purpose::Read(reply) => {
                    let _ = reply.send(self.view());
                }
                Purpose::Adopt(settings) => self.adopt(settings),
            }
        }
    }

    fn view(&mut self) -> View {
        if let (None, Some(settings)) = (&self.ledger, &self.settings) {
            // What cannot be written may still be read.
            self.ledger = contained(&settings.path, || Ledger::open(&settings.path)).ok();
        }
        let unwritten = (!self.pending.is_empty())
            .then(|| Unwritten { pending: Arc::clone(&self.pending), rules: Arc::clone(&self.rules) });
        View { source: self.ledger.as_ref().map(Source::of), unwritten }
    }

    fn adopt(&mut self, settings: Option<Box<settings::Usage>>) {
        let path = |settings: &Option<Box<settings::Usage>>| settings.as_ref().map(|it| it.path.clone());
        if path(&settings) != path(&self.settings) {
            // What its file did not take, the next one does not get: it would be another's.
            self.ledger = None;
            self.pending = Arc::default();
        }
        self.settings = settings;
        self.complained_at = None;
        self.metrics.usage().kept(self.settings.is_some());
        self.write();
    }

    /// Writes what there is. What cannot be written is kept for the next time.
    fn write(&mut self) {
        let Some(settings) = &self.settings else {
            self.write_at = Instant::now() + SILENCE;
            return;
        };
        self.write_at = Instant::now() + settings.flush_interval * 2 / 5;
        let (retention, max_size, interval) =
            (settings.retention, settings.max_size, settings.flush_interval);
        let path = settings.path.clone();
        let (ledger, pending, rules) = (&mut self.ledger, &self.pending, &self.rules);
        let written = contained(&path, || {
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
                self.wrote(written);
                self.tell_jump(jump, Instant::now());
            }
            Err(error) => self.failed(&error),
        }
    }

    fn wrote(&mut self, written: Written) {
        if self.complained_at.take().is_some() {
            tracing::info!("usage: the ledger is written again");
        }
        if written.days_forgotten > 0 {
            tracing::warn!(
                days = written.days_forgotten,
                "usage: the oldest days were forgotten, since `usage.max_size` was reached"
            );
        }
        self.pending = Arc::default();
        let metrics = self.metrics.usage();
        metrics.dropped(written.dropped);
        metrics.written(SystemTime::now(), written.tokens, written.size);
        self.assess();
    }

    /// Says that the clock has jumped ahead, and when it is right again.
    fn tell_jump(&mut self, jump: Option<Duration>, now: Instant) {
        let Some(jump) = jump else {
            if self.jump_told_at.take().is_some() {
                tracing::info!("usage: old days are forgotten by the clock again");
            }
            return;
        };
        if self.jump_told_at.is_none_or(|at| now.saturating_duration_since(at) >= JUMP_SILENCE) {
            self.jump_told_at = Some(now);
            tracing::warn!(
                hours = jump.as_secs() / 3600,
                "usage: the clock has jumped ahead; no day is forgotten for that until it has stayed so for 24 h"
            );
        }
    }

    /// Counts findings, now and then, in a thread of its own: with very many tokens it takes its time, which writing does
    /// not have.
    fn assess(&self) {
        let (Some(settings), Some(ledger)) = (&self.settings, &self.ledger) else { return };
        match self.assess_at.try_lock() {
            Ok(at) if Instant::now() >= *at => {}
            _ => return,
        }
        let (view, rules) =
            (View { source: Some(Source::of(ledger)), unwritten: None }, settings.findings.clone());
        let pause = settings.flush_interval;
        let (metrics, assess_at) = (Arc::clone(&self.metrics), Arc::clone(&self.assess_at));
        let assess = move || {
            let mut at = assess_at.lock().unwrap_or_else(PoisonError::into_inner);
            let began = Instant::now();
            let counted = catch_unwind(AssertUnwindSafe(|| count_findings(&view, &rules)));
            if let Ok(Ok(counts)) = counted {
                metrics.usage().found(counts);
            }
            // A hundredth of one core at most.
            *at = Instant::now() + pause.max(began.elapsed() * 100);
        };
        if let Err(error) = thread::Builder::new().name("findings".to_owned()).spawn(assess) {
            tracing::warn!(%error, "usage: findings are not counted");
        }
    }

    fn failed(&mut self, error: &LedgerError) {
        // After a failure redb takes nothing more until the file is opened again.
        self.ledger = None;
        self.metrics.usage().write_failed();
        let now = Instant::now();
        if self.complained_at.is_none_or(|at| now >= at + SILENCE) {
            self.complained_at = Some(now);
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "usage: the ledger cannot be written; requests are served all the same");
        }
    }
}

/// How many findings there are, by kind and severity.
fn count_findings(
    view: &View,
    rules: &settings::FindingRules,
) -> Result<BTreeMap<(&'static str, &'static str), u64>, LedgerError> {
    let now = Timestamp::now();
    let mut counts = BTreeMap::new();
    Telling::new(view, &Question::default(), rules, now)?.tokens(|token| {
        for finding in findings(&token, rules, now) {
            *counts.entry((finding.kind.as_str(), finding.severity.as_str())).or_default() += 1;
        }
        ControlFlow::Continue(())
    })?;
    Ok(counts)
}

/// The first day that is kept, `now` in milliseconds since 1970.
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
    async fn so_many_reports_are_made_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let usage = Usage::new(Metrics::new(1), 0);
        assert!(matches!(usage.view().await, Err(NoView::NotKept)));
        let settings = settings::Usage {
            path: directory.path().join("usage.redb"),
            flush_interval: Duration::from_secs(10),
            retention: Duration::from_secs(90 * 24 * 60 * 60),
            max_size: 1 << 30,
            findings: FindingRules::default(),
        };
        usage.adopt(Some(&settings)).unwrap();
        let mut turns = Vec::new();
        for _ in 0..REPORTS {
            let (view, turn) = usage.view().await.unwrap();
            assert!(view.source.is_some());
            turns.push(turn);
        }
        assert!(matches!(usage.view().await, Err(NoView::Busy)));
        turns.pop();
        assert!(usage.view().await.is_ok());
        usage.stop();
        assert!(matches!(usage.view().await, Err(NoView::Busy)), "the writer has ended");
    }
}
