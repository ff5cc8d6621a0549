//! Reloading the configuration.
//!
//! A thread of its own waits for SIGHUP or for a changed file. It loads and validates the whole configuration before any
//! worker sees it, so that an error leaves everything as it was.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;

use super::configuration::Configuration;
use super::services::Services;
use super::{Summary, supervisor};
use crate::config::{self, Report};
use crate::telemetry::lines::{AUDIT, AuditPriority};
use crate::watch::FileWatcher;

/// Interval between two checks of the files.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Time after which a worker that has not applied the configuration is reported. It applies it between two tasks.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// A configuration for all workers.
pub(super) struct ApplyConfiguration {
    pub(super) configuration: Arc<Configuration>,
    /// Dropped by every worker that has applied it.
    pub(super) applied: Sender<Infallible>,
}

/// The current configuration, for threads that are no workers.
pub(super) type Current = Arc<ArcSwap<Configuration>>;

/// Reloads the configuration until the process ends.
pub(super) struct Reloader {
    /// `gateway.yaml`
    pub(super) path: PathBuf,
    /// Watches it and the files that it names.
    pub(super) watch: FileWatcher,
    pub(super) current: Current,
    pub(super) configurations: UnboundedSender<ApplyConfiguration>,
    pub(super) services: Arc<Services>,
    /// The cause of a reload that waits for the audit log.
    pub(super) postponed: Option<String>,
    /// Whether a certificate waits for the audit log.
    pub(super) certificates_postponed: bool,
}

/// The configuration is not applied; the log has the reason.
struct Rejected;

impl Reloader {
    /// Starts the thread, which ends when `hangups` is closed.
    pub(super) fn start(mut self, hangups: Receiver<()>) -> io::Result<()> {
        let run = move || {
            loop {
                match hangups.recv_timeout(WATCH_INTERVAL) {
                    Ok(()) => {
                        self.reload_certificates(|_| true);
                        self.reload("SIGHUP");
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        let changed = self.watch.changed();
                        // Certificates are reloaded even if gateway.yaml is invalid.
                        let postponed = std::mem::take(&mut self.certificates_postponed);
                        self.reload_certificates(|path| postponed || changed.contains(path));
                        if !changed.is_empty() {
                            let names: Vec<_> =
                                changed.iter().map(|path| path.display().to_string()).collect();
                            self.reload(&names.join(", "));
                        } else if let Some(cause) = self.postponed.take() {
                            self.reload(&cause);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        };
        thread::Builder::new().name("reload".to_owned()).spawn(run).map(drop)
    }

    fn current(&self) -> Arc<Configuration> {
        self.current.load_full()
    }

    fn reload_certificates(&mut self, concerns: impl Fn(&PathBuf) -> bool) {
        let (current, audit) = (self.current(), self.services.log.audit_log());
        let reloaded = current.resources.certificates().map(|it| it.reload(&concerns, &audit));
        self.certificates_postponed = reloaded.filter(Result::is_err).count() > 0;
    }

    /// Reloads because of `cause`: SIGHUP, or the changed files. Postpones the reload while the audit log is full.
    fn reload(&mut self, cause: &str) {
        let Ok(_slot) = self.services.log.audit_log().reserve(AuditPriority::Change) else {
            self.postponed = Some(cause.to_owned());
            return;
        };
        supervisor::reloading();
        let done = self.load().and_then(|configuration| self.apply(configuration));
        self.services.metrics.config_reload(done.is_ok(), SystemTime::now());
        match done {
            Ok(()) => {
                let configuration = self.current();
                let summary = Summary::of(&configuration.settings, Some(&self.path));
                let Summary { version, config, routes, mode } = summary;
                tracing::info!(target: AUDIT, cause, version, config, routes, mode, "configuration reloaded");
            }
            Err(Rejected) => {
                tracing::error!(target: AUDIT, cause, "configuration rejected; the previous one stays in use");
            }
        }
        supervisor::ready();
    }

    fn load(&mut self) -> Result<Configuration, Rejected> {
        // A later change is seen at the next check.
        self.watch.mark_reported();
        let loaded = config::load(&self.path);
        self.watch.replace(match &loaded {
            Ok(loaded) => &loaded.files,
            // The error may be in a file that it names now.
            Err(report) => report.files(),
        });
        let mut loaded = loaded.map_err(|report| {
            log_report(&report);
            Rejected
        })?;
        let current = self.current();
        let fixed = current.keep_fixed(&mut loaded.settings);
        let next = current.next_from(loaded.settings, &self.services.metrics, &self.services.usage).map_err(
            |error| {
                match error.key() {
                    Some((key, reason)) => {
                        loaded.warnings.refuse(&key, reason, error.help());
                        log_report(&loaded.warnings);
                    }
                    None => tracing::error!("{error}"),
                }
                Rejected
            },
        )?;
        for line in loaded.warnings.lines() {
            tracing::warn!("{line}");
        }
        if !fixed.is_empty() {
            tracing::warn!(keys = fixed.join(", "), "changes of these keys take effect only after a restart");
        }
        Ok(next)
    }

    /// Applies a configuration to the services and the workers, and waits for them.
    fn apply(&self, next: Configuration) -> Result<(), Rejected> {
        let next = Arc::new(next);
        if self.configurations.is_closed() {
            tracing::warn!("draining: the configuration is not reloaded");
            return Err(Rejected);
        }
        // A service that cannot be started is off. The log has the cause.
        let _ = self.services.apply(&next);
        let (applied, all_applied) = channel();
        let command = ApplyConfiguration { configuration: Arc::clone(&next), applied };
        self.configurations.send(command).map_err(|_| Rejected)?;
        // Closed as soon as the last worker has dropped its sender.
        while let Err(RecvTimeoutError::Timeout) = all_applied.recv_timeout(APPLY_TIMEOUT) {
            tracing::warn!("a worker has not applied the configuration yet");
        }
        self.current.store(next);
        Ok(())
    }
}

fn log_report(report: &Report) {
    for line in report.lines() {
        tracing::error!("{line}");
    }
}
