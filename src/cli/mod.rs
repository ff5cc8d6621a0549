//! The command line, one file per command.
//!
//! Results go to standard output, diagnostics to standard error.

mod admin_client;
mod check;
mod completions;
mod demo;
mod diff;
mod explain;
mod health;
mod init;
mod man;
mod memory;
mod openapi;
mod probe;
mod prompt;
mod routes;
mod rule_text;
mod run;
mod schema;
mod signals;
mod table;
mod test;
mod token_input;
mod token_state;
mod tokens;
mod units;
mod unmapped;
mod usage;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zeroize::Zeroizing;

use crate::config;
use crate::policy::ability::Abilities;
use crate::server::StartError;

/// The name of the program.
const NAME: &str = "stockaj-gateway";

/// What `--version` prints after the name. build.rs sets the variables.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("STOCKAJ_GATEWAY_BUILD_COMMIT"),
    "\ndate:   ",
    env!("STOCKAJ_GATEWAY_BUILD_DATE"),
    "\ntarget: ",
    env!("STOCKAJ_GATEWAY_BUILD_TARGET"),
    "\nrustc:  ",
    env!("STOCKAJ_GATEWAY_BUILD_RUSTC"),
);

/// A reverse proxy that enforces token abilities in front of Stockaj.
#[derive(Debug, clap::Parser)]
#[command(name = NAME, version, long_version = LONG_VERSION, about, arg_required_else_help = true)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(run::Arguments),
    Demo(demo::Arguments),
    Init(init::Arguments),
    Check(check::Arguments),
    Routes(routes::Arguments),
    Explain(explain::Arguments),
    Diff(diff::Arguments),
    Health(health::Arguments),
    Openapi(openapi::Arguments),
    Schema(schema::Arguments),
    Test(test::Arguments),
    Tokens(tokens::Arguments),
    Unmapped(unmapped::Arguments),
    Usage(usage::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

impl CommandLine {
    /// Parses the arguments of this process. Exits if they are invalid, or after `--help` and `--version`.
    pub fn from_arguments() -> Self {
        // Before parsing, which may already write to a file: clap prints the help.
        if let Err(error) = signals::survive_file_size_limit() {
            report(format_args!("warning: a file at its size limit will end this process: {error}"));
        }
        <Self as clap::Parser>::parse()
    }

    /// Executes the command.
    pub fn execute(&self) -> Exit {
        match &self.command {
            Command::Run(arguments) => arguments.execute(),
            Command::Demo(arguments) => arguments.execute(),
            Command::Init(arguments) => arguments.execute(),
            Command::Check(arguments) => arguments.execute(),
            Command::Routes(arguments) => arguments.execute(),
            Command::Explain(arguments) => arguments.execute(),
            Command::Diff(arguments) => arguments.execute(),
            Command::Health(arguments) => arguments.execute(),
            Command::Openapi(arguments) => arguments.execute(),
            Command::Schema(arguments) => arguments.execute(),
            Command::Test(arguments) => arguments.execute(),
            Command::Tokens(arguments) => arguments.execute(),
            Command::Unmapped(arguments) => arguments.execute(),
            Command::Usage(arguments) => arguments.execute(),
            Command::Completions(arguments) => arguments.execute(),
            Command::Man(arguments) => arguments.execute(),
        }
    }
}

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded, or what it checks is valid.
    Success = 0,
    /// The command failed, or what it checks is invalid, denied or different.
    Failure = 1,
    /// The command line is invalid. clap reports most of these errors itself.
    Usage = 2,
    /// `run` rejected its configuration (`EX_CONFIG` of sysexits.h).
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// `--format`
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// Where commands look for the configuration if neither `--config` nor the environment names it, in this order: where
/// `init` writes it, where the repository has it, and where a package installs it.
const DEFAULT_CONFIGS: [&str; 3] =
    ["gateway.yaml", "config/gateway.yaml", "/etc/stockaj-gateway/gateway.yaml"];

/// `--config` and its default paths.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgument {
    /// The configuration [default: the first that exists of ./gateway.yaml, ./config/gateway.yaml and
    /// /etc/stockaj-gateway/gateway.yaml]
    #[arg(long, short, value_name = "FILE", env = "STOCKAJ_GATEWAY_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The value without `--config`.
    pub(crate) fn from_environment() -> Self {
        Self { config: std::env::var_os("STOCKAJ_GATEWAY_CONFIG").map(PathBuf::from) }
    }

    /// Whether the option or the environment names a file.
    pub(crate) const fn is_named(&self) -> bool {
        self.config.is_some()
    }

    /// The file to read.
    ///
    /// # Errors
    /// A report with all default paths if no file is named and none of them exists.
    pub(crate) fn path(&self) -> Result<PathBuf, config::Report> {
        let paths = DEFAULT_CONFIGS.map(Path::new);
        match self.config.as_deref().or_else(|| paths.into_iter().find(|path| may_exist(path))) {
            Some(path) => Ok(path.to_owned()),
            None => {
                let [local, repository, system] = DEFAULT_CONFIGS;
                Err(config::Report::of_error(
                    local.to_owned(),
                    format!("no configuration: `{local}`, `{repository}` and `{system}` do not exist"),
                    "name the file with `--config`, or write one with `stockaj-gateway init`",
                ))
            }
        }
    }
}

/// Whether a file exists, or cannot be ruled out: a link to nothing and a directory without permission are errors of the
/// file that they name, not reasons to read another one.
fn may_exist(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// The shipped ability map.
const SHIPPED_MAP: &str = include_str!("../../config/stockaj.yaml");

/// The longest line that is read from standard input, in bytes: longer than any accepted token.
const MAX_LINE: u64 = 64 * 1024;

/// Reads a token from the first line of standard input. Other users could see it as an argument.
pub(crate) fn token_from_stdin() -> io::Result<Zeroizing<String>> {
    for (what, error) in memory::protect() {
        report(format_args!("warning: {what}: {error}"));
    }
    // A buffer that grows would leave a copy of the token in memory that is not erased.
    let mut line = Zeroizing::new(String::with_capacity(MAX_LINE as usize));
    io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
    let length = line.trim_end().len();
    line.truncate(length);
    Ok(line)
}

/// The largest usage report that is read, in bytes.
pub(crate) const MAX_REPORT: u64 = 512 * 1024 * 1024;

/// Reads a usage report. The size is limited, since a file such as a device may have no end.
pub(crate) fn read_report(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut text = Vec::new();
    if file.metadata()?.len() <= MAX_REPORT {
        file.take(MAX_REPORT + 1).read_to_end(&mut text)?;
        if text.len() as u64 <= MAX_REPORT {
            return Ok(text);
        }
    }
    Err(io::Error::other(format!("it is larger than {} MiB", MAX_REPORT >> 20)))
}

/// The abilities of an option. `''`, which clap parses as one empty name, is the empty list.
pub(crate) fn abilities(names: &[String]) -> Abilities {
    Abilities::new(names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()))
}

/// Writes a command's result to standard output, with colours only on a terminal. Returns `exit`, or
/// [`Exit::Failure`] if writing fails. A closed pipe is no failure.
pub(crate) fn output(exit: Exit, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Exit {
    let mut stdout = anstream::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Ok(()) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        Err(error) => {
            report(format_args!("error: cannot write the result: {error}"));
            Exit::Failure
        }
    }
}

/// Writes JSON without control characters, which a terminal would interpret: serde_json leaves DEL and the C1 controls
/// unescaped.
pub(crate) fn print_json(value: &impl serde::Serialize, output: &mut dyn Write) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\u{7f}'..='\u{9f}' => escaped.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => escaped.push(char),
        }
    }
    writeln!(output, "{escaped}")
}

/// Writes the diagnostics of a configuration to standard error.
pub(crate) fn show(findings: &config::Report) {
    if !findings.is_empty() {
        let mut stderr = anstream::stderr().lock();
        // anstream removes the colours unless standard error is a terminal.
        let _ = stderr.write_all(findings.render(true).as_bytes());
    }
}

/// Reports why the gateway cannot start, together with the diagnostics of its configuration.
pub(crate) fn report_start_error(findings: &mut config::Report, error: &StartError) {
    match error.key() {
        Some((key, reason)) => {
            findings.refuse(&key, reason, error.help());
            show(findings);
        }
        None => report(format_args!("error: {error}")),
    }
}

/// Writes a line to standard error, with colours only on a terminal. Ignores errors: there is no other place for them.
pub(crate) fn report(message: impl Display) {
    let _ = writeln!(anstream::stderr().lock(), "{message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_cannot_be_ruled_out_is_not_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
        for (name, expected) in
            [("file", true), ("link", true), (".", true), ("none", false), ("file/x", false)]
        {
            assert_eq!(may_exist(&at(name)), expected, "{name}");
        }
    }
}
