//! Another configuration while requests are served.
//!
//! A thread of its own waits for SIGHUP, or for a change of a file, and loads and validates the whole configuration
//! aside. Only what can be served reaches the cores; a mistake leaves all as it was.

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
use super::{Summary, supervisor};
use crate::config::settings::Settings;
use crate::config::{self, Report};
use crate::replicas::Replicas;
use crate::telemetry::lines::AuditPriority;
use crate::telemetry::log::{self, AUDIT};
use crate::telemetry::metrics::Metrics;
use crate::tokens::revoker::Revoker;
use crate::traces::TraceExporter;
use crate::usage::writer::Usage;
use crate::watch::FileWatcher;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// For every core to have taken over. None takes longer than its longest task does between two waits.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// What the cores are to serve by from now on.
pub(super) struct ApplyConfiguration {
    pub(super) configuration: Arc<Configuration>,
    /// Dropped by every core that does.
    pub(super) adopted: Sender<Infallible>,
}

/// The configuration of now, for whoever is not a core.
pub(super) type Current = Arc<ArcSwap<Configuration>>;

/// Reloads, again and again.
pub(super) struct Reloader {
    /// `gateway.yaml`
    pub(super) path: PathBuf,
    /// It, and the files that it names.
    pub(super) watch: FileWatcher,
    pub(super) current: Current,
    pub(super) adoptions: UnboundedSender<ApplyConfiguration>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: log::Control,
    /// What the admin listener goes by.
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) revoker: Arc<Revoker>,
    pub(super) replicas: Arc<Replicas>,
    pub(super) exports: Arc<TraceExporter>,
    pub(super) usage: Arc<Usage>,
    /// The cause of a reload that the log could not take a line about.
    pub(super) postponed: Option<String>,
    /// Whether a certificate was not reloaded for that reason.
    pub(super) certificates_postponed: bool,
}

/// Why a configuration is not taken over; what is wrong with it is in the log.
struct Refused;

impl Reloader {
    /// Starts the thread, which ends when `hangups` is closed.
    pub(super) fn start(mut self, hangups: Receiver<()>) -> io::Result<()> {
        let run = move || {
            loop {
                match hangups.recv_timeout(LOOK) {
                    Ok(()) => {
                        self.reload_certificates(|_| true);
                        self.reload("SIGHUP");
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        let changed = self.watch.changed();
                        // Certificates are reloaded even while gateway.yaml is refused.
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
        if let Some(certificates) = &self.current().parts.tls {
            self.certificates_postponed = certificates.reload(concerns, &self.log.audit_log()).is_err();
        }
    }

    /// `cause`: SIGHUP, or what has changed. Postpones the reload while the log cannot take the line about it.
    fn reload(&mut self, cause: &str) {
        let Ok(_slot) = self.log.audit_log().reserve(AuditPriority::Change) else {
            self.postponed = Some(cause.to_owned());
            return;
        };
        supervisor::reloading();
        let done = self.load().and_then(|configuration| self.hand_over(configuration));
        self.metrics.config_reload(done.is_ok(), SystemTime::now());
        match done {
            Ok(()) => {
                let configuration = self.current();
                let summary = Summary::of(&configuration.settings, Some(&self.path));
                let Summary { version, config, routes, mode } = summary;
                tracing::info!(target: AUDIT, cause, version, config, routes, mode, "the configuration was reloaded");
            }
            Err(Refused) => {
                tracing::error!(target: AUDIT, cause, "the configuration was refused; the one before stays");
            }
        }
        supervisor::ready();
    }

    fn load(&mut self) -> Result<Configuration, Refused> {
        // What changes from here on is seen at the next look.
        self.watch.mark_reported();
        let loaded = config::load(&self.path);
        self.watch.replace(match &loaded {
            Ok(loaded) => &loaded.files,
            // What it names by now may be what has to change.
            Err(report) => report.files(),
        });
        let mut loaded = loaded.map_err(|report| {
            tell(&report);
            Refused
        })?;
        let current = self.current();
        let fixed = current.keep_fixed(&mut loaded.settings);
        let next = current.next_from(loaded.settings, &self.metrics, &self.usage).map_err(|error| {
            match error.key() {
                Some((key, reason)) => {
                    loaded.warnings.refuse(&key, reason);
                    tell(&loaded.warnings);
                }
                None => tracing::error!("{error}"),
            }
            Refused
        })?;
        for line in loaded.warnings.lines() {
            tracing::warn!("{line}");
        }
        if !fixed.is_empty() {
            tracing::warn!(
                keys = fixed.join(", "),
                "changed, but only a start can change them: they stay as they were"
            );
        }
        Ok(next)
    }

    fn hand_over(&self, next: Configuration) -> Result<(), Refused> {
        let next = Arc::new(next);
        if let Err(error) = self.exports.apply(next.parts.traces.as_ref()) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "no spans are sent");
        }
        if let Err(error) = self.usage.apply(next.settings.usage.as_ref()) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "no usage is kept");
        }
        let (adopted, adoptions) = channel();
        let adoption = ApplyConfiguration { configuration: Arc::clone(&next), adopted };
        self.adoptions.send(adoption).map_err(|_| {
            tracing::warn!("draining: nothing is taken over any more");
            Refused
        })?;
        let settings = &next.settings;
        self.log.set_level(settings.log.level);
        self.settings.store(Arc::clone(settings));
        self.revoker.adopt(Arc::clone(&next.shared));
        if let Err(error) = self.replicas.apply(next.parts.redis.as_ref()) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "there is no connection to other replicas");
        }
        // Closed as soon as the last core has dropped its sender.
        while let Err(RecvTimeoutError::Timeout) = adoptions.recv_timeout(TAKEN_OVER) {
            tracing::warn!("a core is slow to take the configuration over");
        }
        self.current.store(next);
        Ok(())
    }
}

fn tell(report: &Report) {
    for line in report.lines() {
        tracing::error!("{line}");
    }
}
