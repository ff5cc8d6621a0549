//! The command line in, an exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use stockaj_gateway::cli::CommandLine;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    CommandLine::parse().execute().into()
}
