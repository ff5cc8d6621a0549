//! `runtime`: the threads that serve requests.

use std::thread::available_parallelism;

use crate::config::language::{Whole, section};

section! {
    /// What serves.
    Runtime {
        /// Threads that serve requests; 0: the available cores, 4 at most.
        threads: Whole<0, 256> = 0,
    }
}

/// The number of threads, at least 1.
pub(crate) fn compile(raw: Runtime) -> usize {
    match raw.threads.count() {
        0 => available_parallelism().map_or(1, |cores| cores.get().min(4)),
        threads => threads,
    }
}
