//! `routes`: the effective ability map.

use super::{ConfigArgument, Exit, report};

/// Print the effective ability map in matching order; needs no secret and no environment
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// A list of {"path", "method", "requirement"}
    Json,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report(format_args!(
            "error: `routes` is not built yet ({:?}, {:?})",
            self.config.path(),
            self.format
        ));
        Exit::Wrong
    }
}
