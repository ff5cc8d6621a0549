//! Usage of tokens: counted by each worker, written to a ledger on disk, and reported with findings.

pub mod add;
pub mod addresses;
pub mod batch;
pub mod count;
pub mod findings;
pub mod ledger;
pub mod message;
pub mod overview;
pub mod page;
pub mod pending;
pub mod query;
pub mod quota;
pub mod read;
mod record;
pub mod report;
pub mod report_stream;
pub mod retention;
pub mod rules;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod writer;

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the shutdown waits for the last write.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until a writer thread has ended, if its stop `was_sent`. Returns whether it has, and did not panic.
fn ends_in_time(thread: JoinHandle<()>, was_sent: bool) -> bool {
    let started = Instant::now();
    while was_sent && !thread.is_finished() && started.elapsed() < SHUTDOWN_TIMEOUT {
        thread::sleep(message::SEND_RETRY_INTERVAL);
    }
    thread.is_finished() && thread.join().is_ok()
}
