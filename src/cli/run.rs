//! `run`: serves.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::memory::keep_private;
use super::{ConfigArgument, Exit, refuse, report, show};
use crate::config;
use crate::listener::Inherited;
use crate::server::Server;
use crate::telemetry::{log, panics};

/// Serve: check each request's token and forward what its abilities allow
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        panics::tell_places_only();
        let failures = keep_private();
        let path = self.config.path();
        let mut loaded = match config::load(&path) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Configuration;
            }
        };
        // Before the log, which has a thread.
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
                refuse(&mut loaded.warnings, &error);
                return Exit::Configuration;
            }
        };
        // The text of the configuration, with the secrets in it, is of no more use.
        drop(loaded.warnings);
        match server.serve(shutdown) {
            Ok(()) => Exit::Fine,
            Err(error) => {
                report(format_args!("error: {error}"));
                Exit::Wrong
            }
        }
    }
}

/// Every client and every connection to the backend takes a file descriptor, and the usual soft limit of
/// 1024 is for programs that call `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // What cannot be raised stays: the gateway then serves fewer connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Done at SIGTERM or SIGINT. Must be awaited on a runtime.
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
            tracing::error!(error, "cannot be told to drain: signals cannot be received");
            std::future::pending::<()>().await;
        }
    }
}
