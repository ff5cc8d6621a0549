//! `test`: runs policy tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Color, Style};
use serde_json::{Value, json};

use super::{Exit, Format, output, report, show};
use crate::cases::coverage::{Coverage, RuleCoverage};
use crate::cases::json::{result_value, unreached_value};
use crate::cases::junit::{Case, CaseResult, Suite, document};
use crate::cases::{CheckResult, LoadedTests, PolicyTests, explain, label, load_tests, run_checks};
use crate::config::Report;

/// The largest number of failures that the table shows per file. More of them usually have one cause.
const MAX_SHOWN: usize = 100;

/// Test the ability map with files of requests; exit 0 if all cases pass
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Policy test files; docs/guides/policy-tests.md describes their format
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// List the rules of the maps that no case reaches
    #[arg(long)]
    coverage: bool,
    /// The same, and exit 1 if there are any
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
                    let outcomes = run_checks(&tests);
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
        let printed = output(Exit::Success, |out| match self.format {
            Format::Table => write!(out, "{}{}", total.text, unreached_text(&unreached)),
            Format::Json => {
                let rules = coverage.then(|| unreached.iter().map(|rule| unreached_value(rule)).collect());
                writeln!(out, "{:#}", json!({"cases": total.values, "unreached": rules.map(Value::Array)}))
            }
        });
        if let Some(file) = &self.junit
            && let Err(error) = std::fs::write(file, document(&total.suites))
        {
            report(format_args!("error: cannot write `{}`: {error}", file.display()));
            return Exit::Failure;
        }
        report(total.summary(coverage.then_some(unreached.len())));
        let uncovered = self.require_coverage && !unreached.is_empty();
        if total.failed > 0 || total.broken > 0 || uncovered { Exit::Failure } else { printed }
    }
}

/// The results of all files.
#[derive(Default)]
struct Total {
    /// For `--format table`.
    text: String,
    /// For `--format json`: a value for each check.
    values: Vec<Value>,
    suites: Vec<Suite>,
    coverage: Coverage,
    passed: usize,
    failed: usize,
    /// The number of invalid files.
    broken: usize,
}

impl Total {
    /// Adds the outcomes of a file. `failures` is an empty report with the sources of the file.
    fn add(
        &mut self,
        file: &Path,
        took: Duration,
        tests: &PolicyTests,
        outcomes: &[CheckResult<'_>],
        mut failures: Report,
    ) {
        for outcome in outcomes.iter().filter(|outcome| !outcome.passed()) {
            failures.fail(outcome.check.span, explain(tests, outcome));
        }
        let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
        for finding in failures.findings(true).take(MAX_SHOWN) {
            self.text += &finding;
            self.text += "\n\n";
        }
        if failed > MAX_SHOWN {
            self.text += &format!("the first {MAX_SHOWN} of {failed} failures\n");
        }
        self.text += &line(file, outcomes.len() - failed, failed);
        self.values.extend(outcomes.iter().map(|outcome| result_value(tests, outcome)));
        self.coverage.add(tests, outcomes);
        self.passed += outcomes.len() - failed;
        self.failed += failed;

        let mut reports = failures.lines().zip(failures.findings(false));
        let cases = outcomes.iter().map(|outcome| Case {
            name: label(outcome.check),
            line: outcome.check.place.as_ref().map(|place| place.line),
            result: match outcome.passed() {
                true => CaseResult::Passed,
                false => {
                    let (line, whole) = reports.next().unwrap_or_default();
                    CaseResult::Failed(line, whole)
                }
            },
        });
        self.suites.push(Suite { name: file.display().to_string(), took, cases: cases.collect() });
    }

    /// Adds an invalid file.
    fn add_broken(&mut self, file: &Path, took: Duration, mistakes: &Report) {
        self.broken += 1;
        let result = CaseResult::Broken(mistakes.summary(), mistakes.render(false));
        let case = Case { name: "the file can be read".to_owned(), line: None, result };
        self.suites.push(Suite { name: file.display().to_string(), took, cases: vec![case] });
    }

    fn summary(&self, unreached: Option<usize>) -> String {
        let mut summary = format!("{} passed, {} failed", self.passed, self.failed);
        // Writing to a String cannot fail.
        let _ = match self.broken {
            0 => Ok(()),
            1 => write!(summary, ", 1 file with errors"),
            files => write!(summary, ", {files} files with errors"),
        };
        if let Some(unreached) = unreached {
            let rules = self.coverage.rules();
            let _ = write!(summary, "; {} of {rules} rules reached", rules - unreached);
        }
        summary
    }
}

/// The summary line of a file.
fn line(file: &Path, passed: usize, failed: usize) -> String {
    let (colour, text) = match failed {
        0 => (AnsiColor::Green, format!("{passed} passed")),
        _ => (AnsiColor::Red, format!("{failed} of {} failed", passed + failed)),
    };
    let style = Style::new().fg_color(Some(Color::Ansi(colour)));
    format!("{}: {style}{text}{style:#}\n", file.display())
}

/// The rules that no check has reached, each with its location.
fn unreached_text(unreached: &[&RuleCoverage]) -> String {
    let mut text = String::new();
    for RuleCoverage { method, template, parameter, requirement, place, .. } in unreached {
        let place = place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let what = match parameter {
            None => format!("{method} {template}"),
            Some((_, parameter)) => format!("{template} query {parameter}"),
        };
        text += &format!("{place}no case reaches {what}, which requires {requirement}\n");
    }
    text
}
