//! `log`: lines on standard output.

use crate::config::language::{ANY, Switch, Whole, section, words};
use crate::config::settings::{self, LogFormat, LogLevel};

section! {
    /// What is logged, on standard output.
    Log {
        /// The least severity.
        level: LogLevel = "info",
        /// JSON, or text for people.
        format: LogFormat = "json",
        /// One line a request.
        access: Switch = true,
        /// Of forwarded requests that ended well, one in this many has its line.
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
