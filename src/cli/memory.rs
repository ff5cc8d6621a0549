//! Protects the process's memory, which contains tokens, from other processes and core dumps.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// A protection that is missing, and why.
pub(super) type Failure = (&'static str, io::Error);

/// Disables core dumps and access by other processes of the same user. Must be called before a secret is read. Failures
/// are for the caller to report; the gateway serves all the same.
///
/// It sets two things, since neither is enough. A `core_pattern` that is a pipe receives dumps at any limit. A process
/// that is not dumpable can be neither dumped nor traced, and its `/proc` belongs to root, but it can become dumpable
/// again.
pub(super) fn protect() -> Vec<Failure> {
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let limited = limited.map_err(|error| ("core dumps cannot be disabled", error.into()));
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

    /// If set, [`protects_this_process`] may change its process.
    const ALLOWED: &str = "STOCKAJ_GATEWAY_TEST_MEMORY";

    #[test]
    fn protected_process_cannot_be_dumped_or_traced() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::memory::tests::protects_this_process", "--ignored", "--nocapture"])
            .env(ALLOWED, "1")
            .status();
        assert_eq!(status.unwrap().code(), Some(42));
    }

    #[test]
    #[ignore = "a part of protected_process_cannot_be_dumped_or_traced"]
    fn protects_this_process() {
        if std::env::var_os(ALLOWED).is_none() {
            return;
        }
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        assert!(protect().is_empty());
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        std::process::exit(42);
    }
}
