//! `runtime`: the threads that serve requests.

use std::thread::available_parallelism;

use crate::config::language::{Whole, section};

section! {
    /// The threads that serve requests.
    Runtime {
        /// Number of threads that serve requests; 0: the number of available cores, at most 4.
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
