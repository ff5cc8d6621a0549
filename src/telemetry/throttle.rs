//! A rate limit for log lines.
//!
//! Each call site, in the gateway or a library, may log [`BURST`] lines at once and then one per second. A line after
//! suppressed ones has their number: `suppressed`. Clients therefore cannot fill the log by repeating an event. Access
//! lines are not limited: there is one per request by design.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::lines::AUDIT;

/// Lines that a call site may log at once.
const BURST: u32 = 10;
/// Time until a call site may log one more line.
const REFILL: Duration = Duration::from_secs(1);

/// Modules that log the actions of an operator. Clients cannot cause these lines, and a report of many errors has many
/// lines.
const EXEMPT: [&str; 3] = ["cli::run", "server::reload", "server::tls"];

thread_local! {
    /// The lines suppressed before the one that this thread is writing.
    static SUPPRESSED: Cell<u64> = const { Cell::new(0) };
}

fn is_exempt(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let own = target.strip_prefix(env!("CARGO_CRATE_NAME")).and_then(|rest| rest.strip_prefix("::"));
    target == AUDIT || own.is_some_and(|module| EXEMPT.contains(&module))
}

/// The remaining budget of a call site.
#[derive(Debug)]
struct Allowance {
    left: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Allowance {
    /// The number of lines suppressed before this one; `None` if this one is suppressed.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
}

/// The layer that suppresses events. It sees only enabled events and has an entry for each call site that has logged.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    places: Mutex<HashMap<Identifier, Allowance>>,
}

impl Throttle {
    fn take(&self, place: Identifier, now: Instant) -> Option<u64> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Allowance { left: BURST, refilled: now, suppressed: 0 };
        places.entry(place).or_insert_with(new).take(now)
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let suppressed = match is_exempt(metadata) {
            true => Some(0),
            false => self.take(metadata.callsite(), Instant::now()),
        };
        SUPPRESSED.set(suppressed.unwrap_or(0));
        suppressed.is_some()
    }
}

/// The shape of a line, which decides where `suppressed` is inserted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A JSON object.
    Json,
    /// Text.
    Text,
}

/// Formats an event as `F` does, with `suppressed` as its last field if lines were suppressed before it.
#[derive(Debug)]
pub(super) struct WithSuppressed<F> {
    /// The wrapped format.
    pub(super) format: F,
    /// The shape of its output.
    pub(super) shape: Shape,
}

impl<S, N, F> FormatEvent<S, N> for WithSuppressed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let suppressed = SUPPRESSED.take();
        if suppressed == 0 {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match self.shape {
            Shape::Json => {
                let open = line.strip_suffix('}').unwrap_or(line);
                writeln!(writer, r#"{open},"suppressed":{suppressed}}}"#)
            }
            Shape::Text => writeln!(writer, "{line} suppressed={suppressed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn one_place_logs_a_burst_and_then_one_line_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance { left: BURST, refilled: start, suppressed: 0 };
        for _ in 0..BURST {
            assert_eq!(allowance.take(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(allowance.take(start + Duration::from_millis(999)), None);
        }
        assert_eq!(allowance.take(start + REFILL), Some(1000));
        assert_eq!(allowance.take(start + REFILL), None);
        // A pause earns at most a burst.
        let later = start + Duration::from_secs(1_000_000);
        assert_eq!(allowance.take(later), Some(1));
        assert_eq!((1..BURST).filter_map(|_| allowance.take(later)).sum::<u64>(), 0);
        assert_eq!(allowance.take(later), None);
    }

    #[test]
    fn exempt_modules_exist() {
        for module in EXEMPT {
            let path = format!("{}/src/{}", env!("CARGO_MANIFEST_DIR"), module.replace("::", "/"));
            let is_here = |end: &str| Path::new(&format!("{path}{end}")).is_file();
            assert!(is_here(".rs") || is_here("/mod.rs"), "{path}");
        }
    }
}
