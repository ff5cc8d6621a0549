//! `health`: the container's own probe.

use super::{ConfigArgument, Exit, report};

/// Ask the admin listener's /readyz; exit 0 when it is ready, 1 otherwise
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report(format_args!("error: `health` is not built yet ({})", self.config.path().display()));
        Exit::Wrong
    }
}
