//! `schema`: prints JSON Schemas.

use super::{Exit, output};
use crate::cases::tests_schema;
use crate::config::{map_schema, schema};

/// Print the JSON Schema of gateway.yaml, map files or policy test files, for editors
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The kind of file
    #[arg(long = "for", value_enum, default_value_t, value_name = "FILE")]
    file: File,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum File {
    /// gateway.yaml
    #[default]
    Gateway,
    /// A map file, `{routes: {…}}`
    Map,
    /// A policy test file, for `test`
    Test,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let schema = match self.file {
            File::Gateway => schema(),
            File::Map => map_schema(),
            File::Test => tests_schema(),
        };
        output(Exit::Success, |stdout| writeln!(stdout, "{schema:#}"))
    }
}
