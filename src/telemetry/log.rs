//! The log: one line per event on standard output, in JSON or text.
//!
//! Events of [`tracing`] are [throttled](super::throttle) per call site. A separate thread writes the lines
//! ([`super::lines`]); serving requests never waits for it.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{JsonFields, format};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{registry, reload};

use super::access::LineBatch;
use super::lines::{self, AUDIT, AuditLog, LineQueue, Writer};
use super::throttle::{Shape, Throttle, WithSuppressed};
use crate::config::settings::{self, LogFormat, LogLevel};

/// Keeps the log running. Dropping it waits, for at most two seconds, until the queued lines have been written.
#[must_use]
pub struct Guard {
    control: Control,
    settings: settings::Log,
    _writer: Writer,
}

impl fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guard").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The number of lines that were not written because the queue was full or the output failed.
#[derive(Clone, Debug)]
pub struct DroppedLines(LineQueue);

impl DroppedLines {
    /// The number of lines.
    pub fn count(&self) -> u64 {
        self.0.dropped()
    }
}

impl Guard {
    /// The handle that writes to the log and changes it.
    pub const fn control(&self) -> &Control {
        &self.control
    }
}

/// A running log, which ends with its [`Guard`].
#[derive(Clone)]
pub struct Control {
    queue: LineQueue,
    format: LogFormat,
    set_level: Arc<dyn Fn(LogLevel) + Send + Sync>,
}

impl Control {
    /// A buffer for the access lines of one worker. Its format is the one that the log was started with.
    pub fn line_batch(&self) -> LineBatch {
        LineBatch::new(self.queue.clone(), self.format)
    }

    /// The queue in which audit lines reserve their slots.
    pub fn audit_log(&self) -> AuditLog {
        self.queue.audit_log()
    }

    /// Sets the lowest severity that is logged.
    pub fn set_level(&self, level: LogLevel) {
        (self.set_level)(level);
    }

    /// The counter for `log_lines_dropped_total`.
    pub fn dropped_lines(&self) -> DroppedLines {
        DroppedLines(self.queue.clone())
    }
}

/// Starts the log: every event of [`tracing`] goes to standard output. If the process already has a subscriber, events
/// stay with that one and only access lines go through the guard.
pub fn init(settings: &settings::Log) -> Guard {
    // Without the buffer of `io::stdout()`, which would hide write errors.
    let output: Box<dyn Write + Send> = match io::stdout().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::stdout()),
    };
    let (subscriber, guard) = to(output, settings);
    let _ = tracing::subscriber::set_global_default(subscriber);
    guard
}

/// Starts the log with any writer.
pub(crate) fn to<W: Write + Send + 'static>(
    writer: W,
    settings: &settings::Log,
) -> (impl Subscriber + Send + Sync, Guard) {
    let (queue, writer) = lines::start(writer);
    let (lines, format) = (tracing_subscriber::fmt::layer(), format().with_target(false));
    let lines = match settings.format {
        LogFormat::Json => {
            let format = format.json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines
                .fmt_fields(JsonFields::new())
                .event_format(WithSuppressed { format, shape: Shape::Json })
                .with_writer(Lines { queue: queue.clone(), escapes: false })
                .boxed()
        }
        // Without colours, even on a terminal: the layer's escapes would look like those in a value.
        LogFormat::Text => lines
            .with_ansi(false)
            .event_format(WithSuppressed { format: format.with_ansi(false), shape: Shape::Text })
            .with_writer(Lines { queue: queue.clone(), escapes: true })
            .boxed(),
    };
    let (filter, handle) = reload::Layer::new(targets(settings.level));
    let subscriber = registry().with(filter).with(Throttle::default()).with(lines);
    let set_level = Arc::new(move |level| {
        // Fails only if the subscriber is gone, and then there is no log.
        let _ = handle.reload(targets(level));
    });
    let control = Control { queue, format: settings.format, set_level };
    (subscriber, Guard { control, settings: settings.clone(), _writer: writer })
}

/// Logs the gateway's events at `level`, and only warnings and errors of libraries: some log every header field that
/// they read or write at lower levels, including tokens.
fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let audit = if level == LogLevel::Off { own } else { own.max(LevelFilter::INFO) };
    Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), own)
        .with_target(AUDIT, audit)
}

/// Queues each event as one line; audit lines in their own queue.
struct Lines {
    queue: LineQueue,
    /// Whether to escape control characters: in text. JSON escapes them anyway.
    escapes: bool,
}

/// The queue of one event.
struct EventLine<'a> {
    lines: &'a Lines,
    is_audit: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = EventLine<'a>;

    fn make_writer(&'a self) -> EventLine<'a> {
        EventLine { lines: self, is_audit: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> EventLine<'a> {
        EventLine { lines: self, is_audit: event.target() == AUDIT }
    }
}

impl Write for EventLine<'_> {
    /// The layer writes one whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let escaped = self.lines.escapes.then(|| on_one_line(event));
        let line = escaped.as_ref().map_or(event, String::as_bytes);
        let queue = &self.lines.queue;
        if self.is_audit {
            queue.push_audit(line)
        } else {
            queue.push(line)
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event of the text format as one line, whatever its values contain.
fn on_one_line(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event.strip_suffix(b"\n").unwrap_or(event));
    let mut line = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if !character.is_control() {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<u8>>>);

    impl Collected {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Collected {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn settings(level: LogLevel, format: LogFormat) -> settings::Log {
        settings::Log { level, format, access: true, access_sample: 1 }
    }

    fn logged(level: LogLevel, format: LogFormat, events: impl FnOnce()) -> String {
        let collected = Collected::default();
        let (subscriber, guard) = to(collected.clone(), &settings(level, format));
        tracing::subscriber::with_default(subscriber, events);
        drop(guard);
        collected.text()
    }

    #[test]
    fn json_lines_are_flat() {
        let text = logged(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(listener = "proxy", address = %"127.0.0.1:80", "listening");
        });
        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(line.keys().len(), 5, "{text}");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "listening");
        assert_eq!(line["listener"], "proxy");
        assert_eq!(line["address"], "127.0.0.1:80");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn value_cannot_begin_a_new_line() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let text = logged(LogLevel::Info, format, || {
                tracing::warn!(reason = %"a\r\n2026 INFO forged \x1b[2J\u{9b}2J", "odd\nmessage");
            });
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains(['\r', '\x1b']), "{text:?}");
        }
    }

    #[test]
    fn level_filters_lines() {
        let all = [
            (LogLevel::Off, 0),
            (LogLevel::Error, 1),
            (LogLevel::Warn, 2),
            (LogLevel::Info, 3),
            (LogLevel::Debug, 4),
            (LogLevel::Trace, 5),
        ];
        for (level, own) in all {
            let text = logged(level, LogFormat::Text, || {
                tracing::error!("e");
                tracing::warn!("w");
                tracing::info!("i");
                tracing::debug!("d");
                tracing::trace!("t");
            });
            assert_eq!(text.lines().count(), own, "{level:?}: {text}");
            let text = logged(level, LogFormat::Text, || {
                tracing::error!(target: "hickory", "e");
                tracing::warn!(target: "hickory", "w");
                tracing::debug!(target: "hickory", "d");
            });
            assert_eq!(text.lines().count(), own.min(2), "{level:?}: {text}");
            let text = logged(level, LogFormat::Text, || tracing::info!(target: AUDIT, "admin"));
            assert_eq!(text.lines().count(), own.min(1), "{level:?}: {text}");
        }
    }

    #[test]
    fn one_place_cannot_fill_the_log() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let text = logged(LogLevel::Info, format, || {
                let strange = |number| tracing::warn!(target: "h2", number, "a library's line");
                (0..5000).for_each(strange);
                for _ in 0..20 {
                    tracing::info!(target: AUDIT, "admin");
                }
                tracing::info!("another place");
                std::thread::sleep(std::time::Duration::from_millis(1100));
                strange(5000);
            });
            let lines = |wanted: &str| text.lines().filter(|line| line.contains(wanted)).collect::<Vec<_>>();
            let kept = lines("a library's line");
            assert!((11..=13).contains(&kept.len()), "{text}");
            assert_eq!((lines("admin").len(), lines("another place").len()), (20, 1), "{text}");
            let sum = match format {
                LogFormat::Json => kept
                    .iter()
                    .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
                    .filter_map(|line| line["suppressed"].as_u64())
                    .sum::<u64>(),
                LogFormat::Text => kept
                    .iter()
                    .filter_map(|line| line.rsplit_once("suppressed=")?.1.parse::<u64>().ok())
                    .sum(),
            };
            assert_eq!(sum + kept.len() as u64, 5001, "{text}");
        }
    }

    /// If set, [`child_process_floods_the_log_and_exits`] may end the process.
    const FLOOD: &str = "STOCKAJ_GATEWAY_TEST_FLOOD";

    /// Runs [`child_process_floods_the_log_and_exits`] in a process whose output is not read.
    #[test]
    fn stuck_reader_does_not_delay_the_exit() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "telemetry::log::tests::child_process_floods_the_log_and_exits",
                "--ignored",
                "--nocapture",
            ])
            .env(FLOOD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if start.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.and_then(|status| status.code()), Some(42), "after {:?}", start.elapsed());
    }

    #[test]
    #[ignore = "a part of stuck_reader_does_not_delay_the_exit"]
    fn child_process_floods_the_log_and_exits() {
        if std::env::var_os(FLOOD).is_none() {
            return;
        }
        let guard = init(&settings(LogLevel::Info, LogFormat::Text));
        for number in 0..3 * lines::QUEUED_LINES {
            // A module that is not throttled.
            tracing::info!(target: concat!(env!("CARGO_CRATE_NAME"), "::server::reload"), number, "line");
        }
        assert!(guard.control().dropped_lines().count() > 0);
        drop(guard);
        std::process::exit(42);
    }
}
