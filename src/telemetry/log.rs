//! The log: one line an event on standard output, in JSON or for people.
//!
//! Lines are handed to a thread of their own through a bounded queue. Where their reader is too slow, lines
//! are dropped and counted; nothing that serves requests ever waits for it.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{registry, reload};

use super::access::AccessLog;
use crate::config::settings::{self, LogFormat, LogLevel};

/// The target of the lines that say who did what. They are written at every level but `off`.
pub const AUDIT: &str = "audit";

/// Lines that may wait for their reader: some 6 MiB of access lines.
const QUEUED_LINES: usize = 16 * 1024;

/// For queued lines to be written when the log ends.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The log, for as long as it lives: dropping it waits, for two seconds at most, until the lines that are
/// queued have been written.
#[must_use]
pub struct Guard {
    control: Control,
    settings: settings::Log,
    /// None: dropped already.
    worker: Option<WorkerGuard>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guard").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for Guard {
    /// A worker's guard prints to standard output when the worker is stuck, and that would wait for the very
    /// reader that the worker is stuck with. So a thread drops it that need not come back.
    fn drop(&mut self) {
        let worker = self.worker.take();
        let (done, finished) = mpsc::channel();
        let dropper = thread::Builder::new().name("log-end".to_owned()).spawn(move || {
            drop(worker);
            let _ = done.send(());
        });
        if dropper.is_ok() {
            let _ = finished.recv_timeout(END_TIMEOUT);
        }
    }
}

/// How many lines were dropped so far.
#[derive(Clone, Debug)]
pub struct DroppedLines(ErrorCounter);

impl DroppedLines {
    /// The number of lines.
    pub fn count(&self) -> u64 {
        self.0.dropped_lines() as u64
    }
}

impl Guard {
    /// What writes to the log and changes it.
    pub const fn control(&self) -> &Control {
        &self.control
    }
}

/// A running log. It ends with its [`Guard`].
#[derive(Clone)]
pub struct Control {
    writer: NonBlocking,
    format: LogFormat,
    set_level: Arc<dyn Fn(LogLevel) + Send + Sync>,
}

impl Control {
    /// A writer of access lines, one for every core. The format is that which the log began with.
    pub fn access_log(&self, settings: &settings::Log) -> AccessLog {
        let on = settings.access && settings.level >= LogLevel::Info;
        AccessLog::new(on.then(|| self.writer.clone()), self.format, settings.access_sample)
    }

    /// From now on events of this severity and above are logged.
    pub fn set_level(&self, level: LogLevel) {
        (self.set_level)(level);
    }

    /// For `log_lines_dropped_total`.
    pub fn dropped_lines(&self) -> DroppedLines {
        DroppedLines(self.writer.error_counter())
    }
}

/// Sends every event of [`tracing`] to standard output. Where the process has a subscriber already, events
/// stay with that one and only access lines go through the guard.
pub fn init(settings: &settings::Log) -> Guard {
    // Many lines that wait become one write.
    let (subscriber, guard) = to(BufWriter::with_capacity(64 * 1024, io::stdout()), settings);
    let _ = tracing::subscriber::set_global_default(subscriber);
    guard
}

/// The log into any writer.
pub(crate) fn to<W: Write + Send + 'static>(
    writer: W,
    settings: &settings::Log,
) -> (impl Subscriber + Send + Sync, Guard) {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("log")
        .finish(writer);
    let lines = tracing_subscriber::fmt::layer().with_target(false);
    let lines = match settings.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer.clone())
            .boxed(),
        // Never coloured, on a terminal neither: the layer's escapes could not be told from a value's.
        LogFormat::Text => lines.with_ansi(false).with_writer(OneLine { writer: writer.clone() }).boxed(),
    };
    let (filter, handle) = reload::Layer::new(targets(settings.level));
    let subscriber = registry().with(filter).with(lines);
    let set_level = Arc::new(move |level| {
        // Fails only where the subscriber is gone: then there is no log.
        let _ = handle.reload(targets(level));
    });
    let control = Control { writer, format: settings.format, set_level };
    (subscriber, Guard { control, settings: settings.clone(), worker: Some(worker) })
}

/// Our own events by the level; of the libraries below us only what is amiss, whatever is asked for: some tell of
/// every field that they read or write, tokens among them.
fn targets(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let audit = if level == LogLevel::Off { ours } else { ours.max(LevelFilter::INFO) };
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), ours)
        .with_target(AUDIT, audit)
}

/// Keeps an event of the text format on one line, whatever its values contain. (JSON does so by itself.)
#[derive(Clone)]
struct OneLine {
    writer: NonBlocking,
}

impl<'a> MakeWriter<'a> for OneLine {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for OneLine {
    /// The layer hands over one whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
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
        self.writer.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

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
    fn json_is_flat() {
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
    fn a_value_cannot_begin_a_line() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let text = logged(LogLevel::Info, format, || {
                tracing::warn!(reason = %"a\r\n2026 INFO forged \x1b[2J\u{9b}2J", "odd\nmessage");
            });
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains(['\r', '\x1b']), "{text:?}");
        }
    }

    #[test]
    fn levels() {
        let all = [
            (LogLevel::Off, 0),
            (LogLevel::Error, 1),
            (LogLevel::Warn, 2),
            (LogLevel::Info, 3),
            (LogLevel::Debug, 4),
            (LogLevel::Trace, 5),
        ];
        for (level, ours) in all {
            let text = logged(level, LogFormat::Text, || {
                tracing::error!("e");
                tracing::warn!("w");
                tracing::info!("i");
                tracing::debug!("d");
                tracing::trace!("t");
            });
            assert_eq!(text.lines().count(), ours, "{level:?}: {text}");
            let text = logged(level, LogFormat::Text, || {
                tracing::error!(target: "hickory", "e");
                tracing::warn!(target: "hickory", "w");
                tracing::debug!(target: "hickory", "d");
            });
            assert_eq!(text.lines().count(), ours.min(2), "{level:?}: {text}");
            let text = logged(level, LogFormat::Text, || tracing::info!(target: AUDIT, "admin"));
            assert_eq!(text.lines().count(), ours.min(1), "{level:?}: {text}");
        }
    }

    /// Blocks in its first write until it is told to go on.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (release, stuck) = mpsc::channel();
        let (subscriber, guard) = to(Stuck(stuck), &settings(LogLevel::Info, LogFormat::Text));
        let dropped = guard.control().dropped_lines();
        assert_eq!(dropped.count(), 0);
        let start = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..QUEUED_LINES + 100 {
                tracing::info!(number, "line");
            }
        });
        assert!(start.elapsed() < Duration::from_secs(20));
        // One line may have left the queue for the writer.
        assert!((99..=100).contains(&dropped.count()), "{}", dropped.count());
        drop(release);
        drop(guard);
    }

    /// Set: [`floods_and_leaves`] may end the process.
    const FLOOD: &str = "STOCKAJ_GATEWAY_TEST_FLOOD";

    /// Runs [`floods_and_leaves`] in a process whose output nobody reads.
    #[test]
    fn a_stuck_reader_does_not_keep_the_process() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "telemetry::log::tests::floods_and_leaves", "--ignored", "--nocapture"])
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
    #[ignore = "a part of a_stuck_reader_does_not_keep_the_process"]
    fn floods_and_leaves() {
        if std::env::var_os(FLOOD).is_none() {
            return;
        }
        let guard = init(&settings(LogLevel::Info, LogFormat::Text));
        for number in 0..3 * QUEUED_LINES {
            tracing::info!(number, "line");
        }
        assert!(guard.control().dropped_lines().count() > 0);
        drop(guard);
        std::process::exit(42);
    }
}
