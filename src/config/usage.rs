//! `usage`: where the ledger is, and what is kept.

use std::time::Duration;

use super::decode::Decoder;
use super::report::Mistake;
use super::{findings, settings, written};

/// The disk is waited for at each flush.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn compile(written: written::Usage, decoder: &mut Decoder<'_>) -> settings::Usage {
    let interval = written.flush_interval;
    if interval.value.0 < SHORTEST_INTERVAL {
        decoder.mistakes.push(
            Mistake::error("too short")
                .of("usage.flush_interval")
                .at(interval.span, "each flush waits for the disk")
                .hint("`100ms` is the least"),
        );
    }
    settings::Usage {
        path: written.path.0,
        flush_interval: interval.value.0,
        retention: written.retention.0,
        max_size: written.max_size.0,
        findings: findings::compile(written.findings),
    }
}
