//! `run`: serves.

use super::{ConfigArgument, Exit, report};

/// Serve: check each request's token and forward what its abilities allow
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report(format_args!("error: `run` is not built yet ({})", self.config.path().display()));
        Exit::Wrong
    }
}
