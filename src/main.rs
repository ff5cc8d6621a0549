//! The command line in, an exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use stockaj_gateway::cli::CommandLine;

fn main() -> ExitCode {
    CommandLine::parse().execute().into()
}
