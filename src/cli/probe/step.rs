//! The result of a step of the probe, and its text.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// A step and its result.
#[derive(Debug)]
pub(crate) struct Step {
    /// Its name, at most 15 characters.
    pub(crate) name: &'static str,
    /// Its result.
    pub(crate) outcome: Outcome,
}

/// The result of a step. Contains no token and no secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeded: what was found.
    Passed(String),
    /// Something must be corrected.
    Failed(Fault),
    /// It was not performed, or its result is not enforced: why.
    Skipped(String),
}

/// What must be corrected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The key of gateway.yaml that is probably wrong.
    pub(crate) key: Option<&'static str>,
    /// The value of the key, or the request or token that the step used.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: String,
}

impl Fault {
    /// The key and the place.
    fn location(&self) -> String {
        match (self.key, &*self.place) {
            (Some(key), "") => format!("`{key}`"),
            (Some(key), place) => format!("`{key}`: {place}"),
            (None, place) => place.to_owned(),
        }
    }
}

impl Step {
    /// Writes the step in a line, and what must be corrected below.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = self.name;
        match &self.outcome {
            Outcome::Passed(text) => writeln!(out, "{GOOD}✓{GOOD:#} {name:15}  {text}"),
            Outcome::Skipped(why) => writeln!(out, "{DIM}-{DIM:#} {name:15}  {DIM}{why}{DIM:#}"),
            Outcome::Failed(fault @ Fault { message, help, .. }) => {
                writeln!(out, "{BAD}✗{BAD:#} {name:15}  {message}")?;
                writeln!(out, "  {:15}  --> {}", "", fault.location())?;
                writeln!(out, "  {:15}  help: {help}", "")
            }
        }
    }

    /// What must be corrected; `None` if nothing.
    pub(crate) const fn fault(&self) -> Option<&Fault> {
        match &self.outcome {
            Outcome::Failed(fault) => Some(fault),
            Outcome::Passed(_) | Outcome::Skipped(_) => None,
        }
    }
}

/// The steps that failed.
pub(crate) fn failures(steps: &[Step]) -> impl Iterator<Item = (&'static str, &Fault)> {
    steps.iter().filter_map(|step| Some((step.name, step.fault()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_written_with_a_tick_or_the_correction() {
        let fault = Fault {
            key: Some("a.b"),
            place: "c".to_owned(),
            message: "wrong".to_owned(),
            help: "right".to_owned(),
        };
        for (outcome, expected) in [
            (Outcome::Passed("fine".to_owned()), "✓ backend          fine\n"),
            (Outcome::Skipped("why".to_owned()), "- backend          why\n"),
            (
                Outcome::Failed(fault),
                "✗ backend          wrong\n                   --> `a.b`: c\n                   help: right\n",
            ),
        ] {
            let step = Step { name: "backend", outcome };
            let mut text = Vec::new();
            step.write(&mut anstream::StripStream::new(&mut text)).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
            assert_eq!(failures(&[step]).count(), usize::from(expected.starts_with('✗')));
        }
    }
}
