//! `test`: policy tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Color, Style};
use serde_json::{Value, json};

use super::{Exit, Format, output, report, show};
use crate::cases::coverage::{Coverage, Covered};
use crate::cases::json::{outcome_value, unreached_value};
use crate::cases::junit::{Case, Ended, Suite, document};
use crate::cases::{LoadedTests, Outcome, PolicyTests, described, failure, judge, load_tests};
use crate::config::Report;

/// How many failures of a file people are shown: who has more has one cause.
const MOST_SHOWN: usize = 100;

/// Test the ability map with files of requests; exit 0 when all become what they must
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Policy test files: the README says what is in them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How the outcome is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write the outcome as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// List the rules of the maps that no case reaches
    #[arg(long)]
    coverage: bool,
    /// The same, and exit 1 where there is one
    #[arg(long)]
    require_coverage: bool,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let mut total = Total::default();
        for file in &self.files {
            let started = Instant::now();
            match load_tests(file) {
                Ok(LoadedTests { tests, warnings }) => {
                    show(&warnings);
                    let outcomes = judge(&tests);
                    let took = started.elapsed();
                    total.add(file, took, &tests, &outcomes, warnings.without_findings());
                }
                Err(mistakes) => {
                    show(&mistakes);
                    total.add_broken(file, started.elapsed(), &mistakes);
                }
            }
        }
        let coverage = self.coverage || self.require_coverage;
        let unreached = if coverage { total.coverage.unreached() } else { Vec::new() };
        let printed = output(Exit::Fine, |out| match self.format {
            Format::Table => write!(out, "{}{}", total.text, listed(&unreached)),
            Format::Json => {
                let rules = coverage.then(|| unreached.iter().map(|rule| unreached_value(rule)).collect());
                writeln!(out, "{:#}", json!({"cases": total.values, "unreached": rules.map(Value::Array)}))
            }
        });
        if let Some(file) = &self.junit
            && let Err(error) = std::fs::write(file, document(&total.suites))
        {
            report(format_args!("error: cannot write `{}`: {error}", file.display()));
            return Exit::Wrong;
        }
        report(total.summary(coverage.then_some(unreached.len())));
        let uncovered = self.require_coverage && !unreached.is_empty();
        if total.failed > 0 || total.broken > 0 || uncovered { Exit::Wrong } else { printed }
    }
}

/// What has become of all files.
#[derive(Default)]
struct Total {
    /// What people are told of each file.
    text: String,
    /// What programs are told of each check.
    values: Vec<Value>,
    suites: Vec<Suite>,
    coverage: Coverage,
    passed: usize,
    failed: usize,
    /// Files with mistakes.
    broken: usize,
}

impl Total {
    /// Adds a file, over whose sources `failures` are to be shown.
    fn add(
        &mut self,
        file: &Path,
        took: Duration,
        tests: &PolicyTests,
        outcomes: &[Outcome<'_>],
        mut failures: Report,
    ) {
        for outcome in outcomes.iter().filter(|outcome| !outcome.passed()) {
            failures.fail(outcome.check.span, failure(tests, outcome));
        }
        let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
        for finding in failures.findings(true).take(MOST_SHOWN) {
            self.text += &finding;
            self.text += "\n\n";
        }
        if failed > MOST_SHOWN {
            self.text += &format!("the first {MOST_SHOWN} of {failed} failures\n");
        }
        self.text += &line(file, outcomes.len() - failed, failed);
        self.values.extend(outcomes.iter().map(|outcome| outcome_value(tests, outcome)));
        self.coverage.add(tests, outcomes);
        self.passed += outcomes.len() - failed;
        self.failed += failed;

        let mut reports = failures.lines().zip(failures.findings(false));
        let cases = outcomes.iter().map(|outcome| Case {
            name: described(outcome.check),
            line: outcome.check.place.as_ref().map(|place| place.line),
            ended: match outcome.passed() {
                true => Ended::Passed,
                false => {
                    let (line, whole) = reports.next().unwrap_or_default();
                    Ended::Failed(line, whole)
                }
            },
        });
        self.suites.push(Suite { name: file.display().to_string(), took, cases: cases.collect() });
    }

    /// Adds a file with mistakes.
    fn add_broken(&mut self, file: &Path, took: Duration, mistakes: &Report) {
        self.broken += 1;
        let ended = Ended::Broken(mistakes.summary(), mistakes.render(false));
        let case = Case { name: "the file can be read".to_owned(), line: None, ended };
        self.suites.push(Suite { name: file.display().to_string(), took, cases: vec![case] });
    }

    fn summary(&self, unreached: Option<usize>) -> String {
        let mut summary = format!("{} passed, {} failed", self.passed, self.failed);
        // Writing to a String cannot fail.
        let _ = match self.broken {
            0 => Ok(()),
            1 => write!(summary, ", 1 file has mistakes"),
            files => write!(summary, ", {files} files have mistakes"),
        };
        if let Some(unreached) = unreached {
            let rules = self.coverage.rules();
            let _ = write!(summary, "; {} of {rules} rules reached", rules - unreached);
        }
        summary
    }
}

/// What is said of a file, whatever it holds.
fn line(file: &Path, passed: usize, failed: usize) -> String {
    let (colour, text) = match failed {
        0 => (AnsiColor::Green, format!("{passed} passed")),
        _ => (AnsiColor::Red, format!("{failed} of {} failed", passed + failed)),
    };
    let style = Style::new().fg_color(Some(Color::Ansi(colour)));
    format!("{}: {style}{text}{style:#}\n", file.display())
}

/// The rules that no check has reached, each with its place.
fn listed(unreached: &[&Covered]) -> String {
    let mut text = String::new();
    for Covered { method, template, requirement, place, .. } in unreached {
        let place = place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        text += &format!("{place}no case reaches {method} {template}, which asks for {requirement}\n");
    }
    text
}
