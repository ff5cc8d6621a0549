//! `schema`: the JSON Schema of gateway.yaml.

use super::{Exit, report};

/// Print the JSON Schema of gateway.yaml, for editors
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report("error: `schema` is not built yet");
        Exit::Wrong
    }
}
