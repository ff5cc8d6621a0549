//! `man`: manual pages.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;

use super::{CommandLine, Exit, report};

/// Write the manual pages, one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The directory, such as /usr/local/share/man/man1; created if it does not exist
    directory: PathBuf,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(CommandLine::command(), &self.directory));
        match written {
            Ok(()) => Exit::Success,
            Err(error) => {
                report(format_args!(
                    "error: cannot write the manual pages to `{}`: {error}",
                    self.directory.display()
                ));
                Exit::Failure
            }
        }
    }
}
