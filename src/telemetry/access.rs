//! The access log: one line per request.
//!
//! A worker appends its lines to a [`LineBatch`], which queues many of them at once. Lines bypass [`tracing`], which
//! takes three times as long. `docs/reference/log-fields-and-reasons.md` documents the fields.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

pub use self::batch::LineBatch;
pub use self::encoder::FIELDS;
use self::fields::RequestFieldsCache;
pub use self::line::{
    AccessLine, Client, DeniedBy, LoggedCause, LoggedToken, RequestFields, TokenFields, Upstream,
};
use crate::config::settings::{self, LogLevel};
use crate::policy::refusal::Reason;
use crate::policy::shadow::Change;

mod batch;
mod encoder;
mod fields;
mod line;
mod timestamp;
mod value;

/// The access log of one worker, for one configuration.
#[derive(Debug)]
pub struct AccessLog {
    /// `None` if the log is off.
    batch: Option<Rc<LineBatch>>,
    requests: RequestFieldsCache,
    /// The last reading of the wall clock, and when it was taken.
    clock: Cell<Option<(Instant, SystemTime)>>,
    sample: u32,
    /// Requests that sampling skipped since the last line.
    unlogged: Cell<u32>,
    /// Time of the last reported shadow decision while the log is off, and the number of unreported ones since.
    reported: Cell<(Option<Instant>, u64)>,
}

/// The longest time that a reading of the wall clock is used for.
const CLOCK_READ_EVERY: Duration = Duration::from_millis(100);

/// The shortest time between reports of shadow decisions while the access log is off.
const PAUSE: Duration = Duration::from_secs(1);

impl AccessLog {
    /// The access log of the worker that owns `batch`. Its format is the one that the process was started with.
    pub fn new(batch: &Rc<LineBatch>, settings: &settings::Log) -> Self {
        let is_on = settings.access && settings.level >= LogLevel::Info;
        Self {
            batch: is_on.then(|| Rc::clone(batch)),
            requests: RequestFieldsCache::default(),
            clock: Cell::new(None),
            sample: settings.access_sample.max(1),
            unlogged: Cell::new(0),
            reported: Cell::default(),
        }
    }

    /// A disabled access log.
    pub fn off() -> Self {
        Self {
            batch: None,
            requests: RequestFieldsCache::default(),
            clock: Cell::new(None),
            sample: 1,
            unlogged: Cell::new(0),
            reported: Cell::default(),
        }
    }

    /// Whether lines are written. If not, nothing of a request has to be kept for its line.
    pub const fn is_on(&self) -> bool {
        self.batch.is_some()
    }

    /// The fields `host` and `user_agent` of a request, which outlast its head; `None` if the log is off.
    pub fn request_fields(
        &self,
        host: Option<&[u8]>,
        user_agent: Option<&[u8]>,
    ) -> Option<Rc<RequestFields>> {
        self.batch.as_ref().map(|batch| self.requests.get(batch.format(), host, user_agent))
    }

    /// Whether a request with this outcome is logged. Must be called once per request, before the line is built. Of
    /// requests that were forwarded and answered below 400, every `access_sample`th is logged, starting with the first.
    pub fn wants(&self, reason: Reason, status: u16) -> bool {
        if self.batch.is_none() {
            return false;
        }
        let ended_well = matches!(reason, Reason::Allowed | Reason::Public) && status < 400;
        if !ended_well || self.sample == 1 {
            return true;
        }
        let unlogged = self.unlogged.get();
        self.unlogged.set((unlogged + 1) % self.sample);
        unlogged == 0
    }

    /// Adds the line of a request that ends `now` to the worker's batch. If the queue is full when the batch is sent, its
    /// lines are dropped and counted.
    pub fn write(&self, now: Instant, line: &AccessLine<'_>) {
        if let Some(batch) = &self.batch {
            batch.append(self.wall_clock(now), line);
        }
    }

    /// The wall clock at `now`. It is read rarely: a change of the clock appears after up to [`CLOCK_READ_EVERY`].
    fn wall_clock(&self, now: Instant) -> SystemTime {
        if let Some((read_at, wall)) = self.clock.get()
            && let passed = now.saturating_duration_since(read_at)
            && passed < CLOCK_READ_EVERY
        {
            return wall + passed;
        }
        let wall = SystemTime::now();
        self.clock.set(Some((now, wall)));
        wall
    }

    /// Reports a shadow decision while the access log is off, at most once per second.
    #[cold]
    pub fn report_shadow(&self, line: &AccessLine<'_>) {
        if self.batch.is_some() {
            return;
        }
        let now = Instant::now();
        let (reported_at, unreported) = self.reported.get();
        if reported_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return self.reported.set((reported_at, unreported + 1));
        }
        self.reported.set((Some(now), 0));
        let AccessLine { request_id, method, route, path, status, token, shadow_rule, .. } = *line;
        let request_id = std::str::from_utf8(request_id).unwrap_or("-");
        let token_id = token.map(|token| token.id);
        let token_name = token.and_then(|token| token.name);
        let shadow = line.shadow.map(Change::as_str);
        tracing::info!(
            shadow,
            shadow_rule,
            method,
            route,
            path,
            status,
            token_id,
            token_name,
            request_id,
            unreported,
            "an unenforced rule decides differently"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::settings::LogFormat;
    use crate::telemetry::log::{self, Guard};

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn settings(format: LogFormat) -> settings::Log {
        settings::Log { level: LogLevel::Info, format, access: true, access_sample: 1 }
    }

    fn access_log(guard: &Guard, settings: &settings::Log) -> AccessLog {
        AccessLog::new(&Rc::new(guard.control().line_batch()), settings)
    }

    fn written(settings: &settings::Log, line: &AccessLine<'_>) -> String {
        let collected = Collected::default();
        let (_subscriber, guard) = log::to(collected.clone(), settings);
        access_log(&guard, settings).write(Instant::now(), line);
        drop(guard);
        String::from_utf8(collected.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn access_line_has_the_time_of_day() {
        let text = written(&settings(LogFormat::Json), &AccessLine::minimal());
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        let timestamp: jiff::Timestamp = object["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(timestamp.duration_until(jiff::Timestamp::now()).as_secs() < 60, "{timestamp}");
        let text = written(&settings(LogFormat::Text), &AccessLine::minimal());
        assert!(
            text.ends_with(
                "route=\"/up\" status=200 reason=public duration_ms=0.000 bytes_in=0 bytes_out=0\n"
            )
        );
    }

    #[test]
    fn time_of_day_is_read_every_100_ms() {
        let (_subscriber, guard) = log::to(io::sink(), &settings(LogFormat::Json));
        let access = access_log(&guard, &settings(LogFormat::Json));
        let now = Instant::now();
        let wall = access.wall_clock(now);
        let passed = Duration::from_millis(99);
        assert_eq!(access.wall_clock(now + passed), wall + passed);
        let later = now + CLOCK_READ_EVERY;
        assert!(
            access.wall_clock(later) < wall + CLOCK_READ_EVERY,
            "the test's system clock has not reached this time"
        );
        assert_eq!(access.clock.get().map(|(read_at, _)| read_at), Some(later));
    }

    #[test]
    fn disabled_access_log_writes_nothing() {
        let on = settings(LogFormat::Json);
        for settings in [
            settings::Log { access: false, ..on.clone() },
            settings::Log { level: LogLevel::Warn, ..on.clone() },
            settings::Log { level: LogLevel::Off, ..on.clone() },
        ] {
            assert_eq!(written(&settings, &AccessLine::minimal()), "", "{settings:?}");
            let (_subscriber, guard) = log::to(io::sink(), &settings);
            assert!(!access_log(&guard, &settings).wants(Reason::InternalError, 500), "{settings:?}");
        }
        assert!(!AccessLog::off().wants(Reason::InternalError, 500));
    }

    #[test]
    fn only_successful_requests_are_sampled() {
        let settings = settings::Log { access_sample: 3, ..settings(LogFormat::Json) };
        let (_subscriber, guard) = log::to(io::sink(), &settings);
        let access = access_log(&guard, &settings);
        let wanted: Vec<bool> = (0..7).map(|_| access.wants(Reason::Allowed, 200)).collect();
        assert_eq!(wanted, [true, false, false, true, false, false, true]);
        for (reason, status) in [
            (Reason::Allowed, 404),
            (Reason::Public, 500),
            (Reason::MissingToken, 401),
            (Reason::ClientGone, 200),
            (Reason::BackendBroken, 200),
        ] {
            for _ in 0..4 {
                assert!(access.wants(reason, status), "{reason:?} {status}");
            }
        }
    }
}
