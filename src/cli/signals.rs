//! Signals that must not end the process.

use std::io;

use rustix::process::Signal;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Makes a write beyond `RLIMIT_FSIZE` fail with `EFBIG`, like one to a full disk. By default the kernel also sends
/// SIGXFSZ, which ends the process.
pub(super) fn survive_file_size_limit() -> io::Result<()> {
    // The handler stays for the life of the process; the runtime is only needed to install it.
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}
