//! `check`: every mistake of a configuration.

use super::{ConfigArgument, Exit, output, report};
use crate::config::load;

/// Validate a configuration and list every mistake with its place and a hint
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let path = self.config.path();
        match load(&path) {
            Ok(loaded) => {
                if !loaded.warnings.is_empty() {
                    report(loaded.warnings.render(true).trim_end());
                }
                let routes = loaded.settings.abilities.routes().len();
                output(Exit::Fine, |stdout| writeln!(stdout, "{}: fine, {routes} routes", path.display()))
            }
            Err(mistakes) => {
                report(mistakes.render(true).trim_end());
                Exit::Wrong
            }
        }
    }
}
