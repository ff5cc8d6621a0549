//! What is in the process's memory stays there: tokens pass through it.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// What could not be done, and why.
pub(super) type Failure = (&'static str, io::Error);

/// Keeps the memory out of core dumps, and out of reach for other processes of the same user. To be called before
/// there is any secret in it; what fails is for the caller to report, and no reason not to serve.
///
/// Two ways, as neither does it alone: a `core_pattern` that is a pipe gets a dump whatever the limit is; and a
/// process that is not dumpable, which can be neither dumped nor traced and whose `/proc` belongs to root, can
/// become so again.
pub(super) fn keep_private() -> Vec<Failure> {
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let limited = limited.map_err(|error| ("core dumps cannot be limited to nothing", error.into()));
    [limited, not_dumpable()].into_iter().filter_map(Result::err).collect()
}

#[cfg(target_os = "linux")]
fn not_dumpable() -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};

    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| ("other processes of this user can read this one's memory", error.into()))
}

#[cfg(not(target_os = "linux"))]
const fn not_dumpable() -> Result<(), Failure> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use rustix::process::{DumpableBehavior, dumpable_behavior, getrlimit};

    use super::*;

    /// Set: [`keeps_itself_private`] may change its process.
    const ALLOWED: &str = "STOCKAJ_GATEWAY_TEST_MEMORY";

    #[test]
    fn a_process_becomes_private() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::memory::tests::keeps_itself_private", "--ignored", "--nocapture"])
            .env(ALLOWED, "1")
            .status();
        assert_eq!(status.unwrap().code(), Some(42));
    }

    #[test]
    #[ignore = "a part of a_process_becomes_private"]
    fn keeps_itself_private() {
        if std::env::var_os(ALLOWED).is_none() {
            return;
        }
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        assert!(keep_private().is_empty());
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        std::process::exit(42);
    }
}
