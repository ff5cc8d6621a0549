//! `check`: every mistake of a configuration.

use super::{ConfigArgument, Exit, output, refuse, show};
use crate::config::load;
use crate::server::Parts;

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
            Ok(mut loaded) => {
                // What `run` would build from it, certificates and roots included.
                if let Err(error) = Parts::build(&loaded.settings) {
                    refuse(&mut loaded.warnings, &error);
                    return Exit::Wrong;
                }
                show(&loaded.warnings);
                let routes = loaded.settings.abilities.routes().len();
                output(Exit::Fine, |stdout| writeln!(stdout, "{}: fine, {routes} routes", path.display()))
            }
            Err(mistakes) => {
                show(&mistakes);
                Exit::Wrong
            }
        }
    }
}
