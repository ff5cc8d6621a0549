//! `completions`: completion scripts for shells.

use clap::CommandFactory;
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use super::{CommandLine, Exit, NAME, output};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that have a script.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    /// For /usr/share/bash-completion/completions/stockaj-gateway, or `source <(stockaj-gateway completions bash)`
    Bash,
    /// For _stockaj-gateway in a directory of $fpath
    Zsh,
    /// For ~/.config/fish/completions/stockaj-gateway.fish
    Fish,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let mut command = CommandLine::command();
        // clap_complete panics if writing fails.
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => {
                generate(Bash, &mut command, NAME, &mut script);
                script = repair_bash(&script).into_bytes();
            }
            Shell::Zsh => generate(Zsh, &mut command, NAME, &mut script),
            Shell::Fish => generate(Fish, &mut command, NAME, &mut script),
        }
        output(Exit::Success, |out| out.write_all(&script))
    }
}

/// Makes the script for bash complete after a command. clap_complete 4.6 names the states of a program with a hyphen in its
/// name in two ways, so that the script never finds the options of a command.
fn repair_bash(script: &[u8]) -> String {
    let name = |separator| NAME.replace('-', separator);
    String::from_utf8_lossy(script).replace(&name("__subcmd__"), &name("__"))
}
