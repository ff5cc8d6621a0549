//! The access log: one line a request.
//!
//! A line is serialised into a buffer that its core keeps and is then queued as bytes; it does not go
//! through [`tracing`]: 0.64 µs against 2.2 µs for the same line in JSON, 0.71 against 1.7 in text.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::config::settings::LogFormat;
use crate::policy::refusal::Reason;
use crate::policy::shadow::Change;

/// What is said of a request. Never a token, a raw path or a query.
#[derive(Clone, Copy, Serialize)]
pub struct AccessLine<'a> {
    /// `X-Request-Id`
    pub request_id: &'a str,
    /// The peer's address, or that of the client for which a trusted proxy asks; none for a Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Whom the client's certificate names, where it had to show one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_subject: Option<&'a str>,
    /// The method; `other` for one that is not served, which could be any text, a token too.
    pub method: &'a str,
    /// The route's template, `unmapped` or `none`: the same word as in metrics.
    pub route: &'a str,
    /// The answer's status; of a client that left, what it would have been.
    pub status: u16,
    /// Why it ended so.
    #[serde(serialize_with = "reason")]
    pub reason: Reason,
    /// The token's id, as introspection says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<&'a str>,
    /// The token's name, as introspection says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_name: Option<&'a str>,
    /// Why in particular: the place of the rule, or what a request's fault was.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "display")]
    pub detail: Option<&'a dyn Display>,
    /// From the request's head to the end of its answer, in seconds in the line.
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,
    /// Of that, waiting for a verdict.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_seconds")]
    pub introspection_duration: Option<Duration>,
    /// Of that, waiting for the head of the backend's answer.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_seconds")]
    pub backend_duration: Option<Duration>,
    /// What would become of it, other than what does.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "change")]
    pub shadow: Option<Change>,
    /// By which rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_rule: Option<&'a str>,
}

impl fmt::Debug for AccessLine<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AccessLine(")?;
        self.write_text(formatter)?;
        formatter.write_str(")")
    }
}

fn reason<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

fn change<S: Serializer>(change: &Option<Change>, serializer: S) -> Result<S::Ok, S::Error> {
    change.map(Change::as_str).serialize(serializer)
}

fn display<S: Serializer>(value: &Option<&dyn Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_micros() as f64 / 1e6)
}

fn some_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    seconds(&duration.unwrap_or_default(), serializer)
}

/// One core's writer of access lines.
#[derive(Debug)]
pub struct AccessLog {
    /// None: off.
    writer: Option<RefCell<NonBlocking>>,
    format: LogFormat,
    sample: u32,
    /// Requests that may be left out, since the last of them that was not.
    unlogged: Cell<u32>,
    line: RefCell<Vec<u8>>,
    /// Where it is off: when what shadow mode finds was last told, and of how many requests it was not told since.
    told: Cell<(Option<Instant>, u64)>,
}

/// How often what shadow mode finds is told where there is no access log.
const PAUSE: Duration = Duration::from_secs(1);

impl AccessLog {
    pub(super) fn new(writer: Option<NonBlocking>, format: LogFormat, sample: u32) -> Self {
        Self {
            writer: writer.map(RefCell::new),
            format,
            sample: sample.max(1),
            unlogged: Cell::new(0),
            line: RefCell::default(),
            told: Cell::default(),
        }
    }

    /// A log that is off.
    pub fn off() -> Self {
        Self::new(None, LogFormat::Json, 1)
    }

    /// Whether a request that ended so is to have its line: to be asked once a request, before the line is
    /// put together. Of requests that were forwarded and answered below 400 it is every `access_sample`th,
    /// the first included.
    pub fn wants(&self, reason: Reason, status: u16) -> bool {
        if self.writer.is_none() {
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

    /// Writes a line, or drops and counts it where the reader is too slow.
    pub fn write(&self, line: &AccessLine<'_>) {
        let Some(writer) = &self.writer else { return };
        let mut buffer = self.line.borrow_mut();
        buffer.clear();
        // Neither a `Vec` nor a lossy queue fails.
        let _ = match self.format {
            LogFormat::Json => json(&mut buffer, line),
            LogFormat::Text => text(&mut buffer, line),
        };
        let _ = writer.borrow_mut().write_all(&buffer);
    }
}

impl AccessLog {
    /// Tells what shadow mode has found of a request, where the log is off: once a second at most.
    #[cold]
    pub fn tell_of_shadow(&self, line: &AccessLine<'_>) {
        if self.writer.is_some() {
            return;
        }
        let now = Instant::now();
        let (told_at, untold) = self.told.get();
        if told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return self.told.set((told_at, untold + 1));
        }
        self.told.set((Some(now), 0));
        let AccessLine { request_id, method, route, status, token_id, token_name, shadow_rule, .. } = *line;
        let shadow = line.shadow.map(Change::as_str);
        tracing::info!(
            shadow,
            shadow_rule,
            method,
            route,
            status,
            token_id,
            token_name,
            request_id,
            untold,
            "a map would decide otherwise"
        );
    }
}

/// The object that [`tracing`]'s events have, with the line's fields after theirs.
fn json(buffer: &mut Vec<u8>, line: &AccessLine<'_>) -> std::io::Result<()> {
    write!(buffer, r#"{{"timestamp":"{Now}","level":"INFO","message":"request""#)?;
    let opening_brace = buffer.len();
    serde_json::to_writer(&mut *buffer, line)?;
    buffer[opening_brace] = b',';
    buffer.push(b'\n');
    Ok(())
}

fn text(buffer: &mut Vec<u8>, line: &AccessLine<'_>) -> std::io::Result<()> {
    writeln!(buffer, "{Now}  INFO request {}", Text(line))
}

/// The time of day, as [`tracing`]'s events have it.
struct Now;

impl Display for Now {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        SystemTime.format_time(&mut Writer::new(formatter))
    }
}

struct Text<'a>(&'a AccessLine<'a>);

impl Display for Text<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_text(formatter)
    }
}

impl AccessLine<'_> {
    fn write_text(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.method, self.route, self.status)?;
        write!(formatter, " reason={} duration={:?}", self.reason.as_str(), self.duration)?;
        for (name, duration) in
            [("introspection", self.introspection_duration), ("backend", self.backend_duration)]
        {
            if let Some(duration) = duration {
                write!(formatter, " {name}={duration:?}")?;
            }
        }
        if let Some(client) = self.client {
            write!(formatter, " client={client}")?;
        }
        // `Debug` of a string escapes quotes and control characters.
        let told = [
            ("client_subject", self.client_subject),
            ("token_id", self.token_id),
            ("token_name", self.token_name),
        ];
        for (name, value) in told {
            if let Some(value) = value {
                write!(formatter, " {name}={value:?}")?;
            }
        }
        if let Some(change) = self.shadow {
            write!(formatter, " shadow={}", change.as_str())?;
        }
        if let Some(rule) = self.shadow_rule {
            write!(formatter, " shadow_rule={rule:?}")?;
        }
        if let Some(detail) = self.detail {
            formatter.write_str(" detail=\"")?;
            write!(Escaped(formatter), "{detail}")?;
            formatter.write_str("\"")?;
        }
        write!(formatter, " request_id={:?}", self.request_id)
    }
}

/// Escapes as `Debug` of a string does, without the string.
struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write!(self.0, "{}", text.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::settings::{self, LogLevel};
    use crate::telemetry::log;

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

    fn written(settings: &settings::Log, line: &AccessLine<'_>) -> String {
        let collected = Collected::default();
        let (_subscriber, guard) = log::to(collected.clone(), settings);
        guard.control().access_log(settings).write(line);
        drop(guard);
        String::from_utf8(collected.0.lock().unwrap().clone()).unwrap()
    }

    fn line<'a>(detail: Option<&'a dyn Display>) -> AccessLine<'a> {
        AccessLine {
            request_id: "7f3a",
            client: Some(IpAddr::from([192, 0, 2, 7])),
            client_subject: None,
            method: "GET",
            route: "/api/v2/items/{id}",
            status: 403,
            reason: Reason::MissingAbility,
            token_id: Some("17"),
            token_name: Some("scanner \"A\"\r\n\x1b[2J"),
            detail,
            duration: Duration::from_micros(1_234),
            introspection_duration: Some(Duration::from_millis(1)),
            backend_duration: None,
            shadow: None,
            shadow_rule: None,
        }
    }

    #[test]
    fn json() {
        let text =
            written(&settings(LogFormat::Json), &line(Some(&format_args!("{}:{}", "gateway.yaml\n", 3))));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.ends_with("}\n"), "{text}");
        let mut object: serde_json::Value = serde_json::from_str(&text).unwrap();
        let timestamp = object.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(timestamp.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{timestamp}");
        let expected = serde_json::json!({
            "level": "INFO",
            "message": "request",
            "request_id": "7f3a",
            "client": "192.0.2.7",
            "method": "GET",
            "route": "/api/v2/items/{id}",
            "status": 403,
            "reason": "missing_ability",
            "token_id": "17",
            "token_name": "scanner \"A\"\r\n\u{1b}[2J",
            "detail": "gateway.yaml\n:3",
            "duration": 0.001234,
            "introspection_duration": 0.001,
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn text() {
        let text = written(&settings(LogFormat::Text), &line(Some(&"a\n\"b\"")));
        let (_, rest) = text.split_once("  INFO ").unwrap();
        assert_eq!(
            rest,
            "request GET /api/v2/items/{id} 403 reason=missing_ability duration=1.234ms introspection=1ms \
             client=192.0.2.7 token_id=\"17\" token_name=\"scanner \\\"A\\\"\\r\\n\\u{1b}[2J\" \
             detail=\"a\\n\\\"b\\\"\" request_id=\"7f3a\"\n"
        );
    }

    #[test]
    fn what_shadow_mode_finds() {
        let line = AccessLine {
            token_name: None,
            shadow: Some(Change::WouldDeny),
            shadow_rule: Some("candidate \"a.yaml\":7:12"),
            ..line(None)
        };
        let text = written(&settings(LogFormat::Text), &line);
        let told = " shadow=would_deny shadow_rule=\"candidate \\\"a.yaml\\\":7:12\" request_id=";
        assert!(text.contains(told), "{text}");
        let text = written(&settings(LogFormat::Json), &line);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&object["shadow"], &object["status"]), (&"would_deny".into(), &403.into()));
        assert_eq!(object["shadow_rule"], "candidate \"a.yaml\":7:12");
    }

    #[test]
    fn off() {
        let on = settings(LogFormat::Json);
        for settings in [
            settings::Log { access: false, ..on.clone() },
            settings::Log { level: LogLevel::Warn, ..on.clone() },
            settings::Log { level: LogLevel::Off, ..on.clone() },
        ] {
            assert_eq!(written(&settings, &line(None)), "", "{settings:?}");
            let (_subscriber, guard) = log::to(io::sink(), &settings);
            assert!(!guard.control().access_log(&settings).wants(Reason::InternalError, 500), "{settings:?}");
        }
        assert!(!AccessLog::off().wants(Reason::InternalError, 500));
    }

    #[test]
    fn only_what_ended_well_is_sampled() {
        let settings = settings::Log { access_sample: 3, ..settings(LogFormat::Json) };
        let (_subscriber, guard) = log::to(io::sink(), &settings);
        let access = guard.control().access_log(&settings);
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
