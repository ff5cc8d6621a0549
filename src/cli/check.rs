//! `check`: validates a gateway.yaml, a map file or a policy test file.

mod kind;

use std::fmt::Write as _;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::kind::{Checked, Expect, load_checked};
use super::probe::{Fault, failures, probe};
use super::token_input::TokenArguments;
use super::{ConfigArgument, Exit, output, report, show};
use crate::config::{Finding, Report, Settings, Severity};
use crate::policy::map::AbilityMap;
use crate::server::{Resources, Server};

/// Validate a gateway.yaml, a map file or a policy test file
///
/// Lists every error and warning with its place and a hint. Exits with 1 if there is an error or a step of `--online` fails,
/// otherwise with 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file to validate; its keys determine whether it is a gateway.yaml, a map file or a policy test file
    /// [default: the gateway.yaml that `run` would use]
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The same as FILE; a file without distinctive keys is validated as a gateway.yaml
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Exit with 1 if there is a warning
    #[arg(long)]
    strict: bool,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: CheckFormat,
    /// Then probe the servers: the backend, introspection, and an allowed and a refused request
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    token: TokenArguments,
}

/// `check --format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum CheckFormat {
    /// Each finding with its line, on standard error
    #[default]
    Text,
    /// A list of {file, line, column, severity, key, message, help}
    Json,
    /// Workflow commands of GitHub Actions, which annotate the lines of a pull request
    Github,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let file = match (&self.file, &self.config) {
            (Some(file), _) => Ok((file.clone(), Expect::Any)),
            (None, Some(config)) => Ok((config.clone(), Expect::GatewayOrOther)),
            (None, None) => ConfigArgument::from_environment().path().map(|path| (path, Expect::Gateway)),
        };
        let (path, checked) = match file {
            Ok((path, expect)) => (path.clone(), load_checked(&path, expect)),
            Err(findings) => (PathBuf::new(), Err(findings)),
        };
        let (mut findings, content, settings) = match checked {
            Ok(checked) => content(checked),
            Err(findings) => (findings, String::new(), None),
        };
        if self.token.is_given() && !self.online {
            report("error: `--token-file` is used only with `--online`");
            return Exit::Usage;
        }
        let mut steps = Vec::new();
        if self.online && findings.count(Severity::Error) == 0 {
            let Some(settings) = settings else {
                report(format_args!(
                    "error: `--online` probes a gateway.yaml; {} is {content}",
                    path.display()
                ));
                return Exit::Usage;
            };
            let token = match self.token.read() {
                Ok(token) => token,
                Err(exit) => return exit,
            };
            steps = probe(settings, token.as_ref());
        }
        if self.format != CheckFormat::Text {
            for (step, Fault { key, place, message, help }) in failures(&steps) {
                let place = if place.is_empty() { String::new() } else { format!(" ({place})") };
                findings.fail_probe(*key, format!("{step}: {message}{place}"), help.clone());
            }
        }
        let failed = failures(&steps).next().is_some();
        let (errors, warnings) = (findings.count(Severity::Error), findings.count(Severity::Warning));
        let is_valid = errors == 0 && (!self.strict || warnings == 0);
        let exit = if is_valid && !failed { Exit::Success } else { Exit::Failure };
        match self.format {
            CheckFormat::Text => {
                show(&findings);
                if errors == 0 && !is_valid {
                    report("warnings fail because of `--strict`");
                }
                output(exit, |stdout| {
                    if is_valid {
                        writeln!(stdout, "{}: fine, {content}", path.display())?;
                    }
                    steps.iter().try_for_each(|step| step.write(stdout))
                })
            }
            CheckFormat::Json => {
                let values = Value::Array(findings.list().map(|finding| json_value(&finding)).collect());
                output(exit, |stdout| writeln!(stdout, "{values:#}"))
            }
            CheckFormat::Github => {
                report(findings.summary());
                let lines: String = findings.list().map(|finding| github_command(&finding)).collect();
                output(exit, |stdout| stdout.write_all(lines.as_bytes()))
            }
        }
    }
}

/// The diagnostics of a parsed file, a description of its content, and the settings of a gateway.yaml. Builds what `run`
/// would build, certificates and roots included, to find its errors.
fn content(checked: Checked) -> (Report, String, Option<Settings>) {
    match checked {
        Checked::Gateway(loaded) => {
            let mut findings = loaded.warnings;
            let resources = Resources::build(&loaded.settings).map(drop);
            for error in
                [resources, Server::check_files(&loaded.settings)].into_iter().filter_map(Result::err)
            {
                let (key, reason) = error.key().unwrap_or_else(|| (String::new(), error.to_string()));
                findings.refuse(&key, reason, error.help());
            }
            warn_of_sunsets(&loaded.settings.abilities, Timestamp::now(), &mut findings);
            let content = format!("{} routes", loaded.settings.abilities.routes().len());
            (findings, content, Some(loaded.settings))
        }
        Checked::Map(loaded) => {
            let routes = loaded.map.routes().len();
            let mut findings = loaded.warnings;
            warn_of_sunsets(&loaded.map, Timestamp::now(), &mut findings);
            (findings, format!("a map file with {routes} routes"), None)
        }
        Checked::Tests(loaded) => {
            let cases = loaded.tests.checks.len();
            (loaded.warnings, format!("a policy test file with {cases} cases"), None)
        }
    }
}

/// Warns of routes whose sunset has passed.
fn warn_of_sunsets(map: &AbilityMap, now: Timestamp, findings: &mut Report) {
    for (route, deprecation) in map.deprecations() {
        if let Some(sunset) = deprecation.sunset.as_ref().filter(|sunset| sunset.seconds <= now.as_second()) {
            findings.warn(
                deprecation.place.as_ref(),
                format!("the sunset of `{route}` has passed"),
                format!("it was {}: remove the route, deny it, or announce a later one", sunset.text),
            );
        }
    }
}

fn json_value(finding: &Finding<'_>) -> Value {
    let position = finding.position;
    json!({
        "file": finding.file,
        "line": position.map(|(line, _)| line),
        "column": position.map(|(_, column)| column),
        "severity": finding.severity.word(),
        "key": finding.key,
        "message": finding.message,
        "help": finding.help,
    })
}

/// A workflow command such as `::error file=gateway.yaml,line=2,col=58::message`.
fn github_command(finding: &Finding<'_>) -> String {
    let command = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let mut line = format!("::{command} file={}", escape_property(finding.file));
    if let Some((number, column)) = finding.position {
        // Writing to a String cannot fail.
        let _ = write!(line, ",line={number},col={column}");
    }
    let mut message = finding.key.map_or_else(String::new, |key| format!("`{key}`: "));
    message += &finding.message;
    if let Some(help) = finding.help {
        let _ = write!(message, "\nhelp: {help}");
    }
    line + "::" + &escape_data(&message) + "\n"
}

/// Escapes line breaks and `%` as GitHub's toolkit does, and replaces other control characters.
fn escape_data(text: &str) -> String {
    let escaped = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    escaped.replace(char::is_control, "\u{fffd}")
}

/// Escapes the value of a property, in which `:` and `,` are special as well.
fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workflow_commands_are_escaped() {
        let finding = Finding {
            file: "a,b:c%\n.yaml",
            position: Some((2, 58)),
            severity: Severity::Error,
            key: Some("a.\"b::c\""),
            message: "100 %: one\r\ntwo\u{1b}[31m, \u{9b}three".to_owned(),
            help: Some("four\n::error::five"),
        };
        assert_eq!(
            github_command(&finding),
            "::error file=a%2Cb%3Ac%25%0A.yaml,line=2,col=58::`a.\"b::c\"`: 100 %25: \
             one%0D%0Atwo\u{fffd}[31m, \u{fffd}three%0Ahelp: four%0A::error::five\n"
        );
        let finding = Finding { position: None, key: None, help: None, severity: Severity::Note, ..finding };
        assert!(github_command(&finding).starts_with("::notice file=a%2Cb%3Ac%25%0A.yaml::100 %25: one"));
    }
}
