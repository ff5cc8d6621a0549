//! Reports of panics: the place only, since a message may quote data.

use std::io::{self, Write};
use std::panic::{self, Location};
use std::thread;

/// Installs a panic hook that reports place and thread: in the log, or on standard error if there is no log.
pub fn log_places_only() {
    panic::set_hook(Box::new(|panic| match panic.location() {
        Some(place) => log_panic(place),
        None => log_panic(Location::caller()),
    }));
}

fn log_panic(place: &Location<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("-");
    if tracing::dispatcher::has_been_set() {
        tracing::error!(%place, thread, "panicked: please report this bug");
    } else {
        let _ = writeln!(io::stderr(), "error: thread {thread} panicked at {place}: please report this bug");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::settings::{self, LogFormat, LogLevel};
    use crate::telemetry::log;

    /// If set, [`child_process_panics_twice`] may panic.
    const ALLOWED: &str = "STOCKAJ_GATEWAY_TEST_PANICS";

    #[test]
    fn panic_log_has_the_location_and_no_message() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "telemetry::panics::tests::child_process_panics_twice",
                "--ignored",
                "--nocapture",
            ])
            .env(ALLOWED, "1")
            .output()
            .unwrap();
        let (log, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(42), "{errors}");
        assert!(errors.contains(" panicked at src/telemetry/panics.rs:"), "without a log: {errors}");
        let line = log.lines().find(|line| line.contains(r#""message":"panicked: please report this bug""#));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(r#""place":"src/telemetry/panics.rs:"#), "{line}");
        assert!(line.contains(r#""thread":"worker-7""#), "{line}");
        assert!(!format!("{log}{errors}").contains("secret"), "{log}{errors}");
    }

    #[test]
    #[ignore = "a part of panic_log_has_the_location_and_no_message"]
    fn child_process_panics_twice() {
        if std::env::var_os(ALLOWED).is_none() {
            return;
        }
        log_places_only();
        assert!(thread::spawn(|| panic!("a secret")).join().is_err());
        let settings =
            settings::Log { level: LogLevel::Info, format: LogFormat::Json, access: true, access_sample: 1 };
        let guard = log::init(&settings);
        let core = thread::Builder::new().name("worker-7".to_owned());
        assert!(core.spawn(|| panic!("another {}", "secret")).unwrap().join().is_err());
        drop(guard);
        std::process::exit(42);
    }
}
