//! The command line in, an exit code out.

use std::process::ExitCode;

use stockaj_gateway::CommandLine;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    CommandLine::from_arguments().execute().into()
}
