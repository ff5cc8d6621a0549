//! `check`: every mistake of a configuration.

use super::{ConfigArgument, Exit, report};

/// Validate a configuration and list every mistake with its place and a hint
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report(format_args!("error: `check` is not built yet ({})", self.config.path().display()));
        Exit::Wrong
    }
}
