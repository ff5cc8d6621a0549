//! `log`: lines on standard output.

use crate::config::language::{ANY, OnOff, Whole, section, words};
use crate::config::settings::{self, LogFormat, LogLevel};

section! {
    /// The log, on standard output.
    Log {
        /// Lowest severity that is logged.
        level: LogLevel = "info",
        /// Format of a line: JSON, or text for terminals.
        format: LogFormat = "json",
        /// Whether to write one access log line per request.
        access: OnOff = true,
        /// Writes one access log line per this many successful forwarded requests. All other requests have their own
        /// line.
        access_sample: Whole<1, ANY> = 1,
    }
}

words!(LogFormat { "json" => Self::Json, "text" => Self::Text });
words!(LogLevel {
    "off" => Self::Off, "error" => Self::Error, "warn" => Self::Warn,
    "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace,
});

pub(crate) fn compile(raw: Log) -> settings::Log {
    settings::Log {
        level: raw.level,
        format: raw.format,
        access: raw.access.0,
        access_sample: raw.access_sample.0,
    }
}
