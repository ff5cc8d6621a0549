//! `run`: runs the gateway.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::memory::protect;
use super::{ConfigArgument, Exit, report, report_start_error, show};
use crate::config;
use crate::listener::Inherited;
use crate::server::Server;
use crate::telemetry::{log, panics};

/// Run the gateway: check the token of each request and forward what its abilities allow
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        panics::log_places_only();
        let failures = protect();
        let loaded = self.config.path().and_then(|path| Ok((config::load(&path)?, path)));
        let (mut loaded, path) = match loaded {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Configuration;
            }
        };
        // Before the log starts its thread: this changes the environment.
        let inherited = match Inherited::take() {
            Ok(inherited) => inherited,
            Err(error) => {
                report(format_args!("error: {error}"));
                return Exit::Configuration;
            }
        };
        raise_open_files();
        let guard = log::init(&loaded.settings.log);
        for (what, error) in &failures {
            tracing::warn!(error = error as &dyn std::error::Error, "{what}");
        }
        for line in loaded.warnings.lines() {
            tracing::warn!("{line}");
        }
        let server = match Server::bind(loaded.settings, guard, inherited) {
            Ok(server) => server.reloading(path, loaded.files),
            Err(error) => {
                report_start_error(&mut loaded.warnings, &error);
                return Exit::Configuration;
            }
        };
        // The diagnostics hold the text of the configuration, which may contain secrets.
        drop(loaded.warnings);
        match server.serve(shutdown) {
            Ok(()) => Exit::Success,
            Err(error) => {
                report(format_args!("error: {error}"));
                Exit::Failure
            }
        }
    }
}

/// Raises the limit of open files to the hard limit: every connection needs a file descriptor. The usual soft limit of
/// 1024 exists for programs that call `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Ignored: without it the gateway serves fewer connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Completes at SIGTERM or SIGINT. Must be awaited on a runtime.
pub(super) async fn shutdown() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "cannot receive signals: the gateway does not drain on SIGTERM");
            std::future::pending::<()>().await;
        }
    }
}
