//! Metrics, traces and the log.

pub mod access;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod panics;
pub mod spans;
mod throttle;
pub mod unmapped;
