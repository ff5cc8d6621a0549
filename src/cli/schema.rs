//! `schema`: the JSON Schema of gateway.yaml.

use super::{Exit, output};
use crate::config::schema;

/// Print the JSON Schema of gateway.yaml, for editors
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        output(Exit::Fine, |stdout| writeln!(stdout, "{:#}", schema()))
    }
}
