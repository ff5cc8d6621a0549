//! Policy tests: reads their files, and compares the decisions of a map with the expected ones.

pub mod coverage;
mod failure;
mod file;
pub mod json;
pub mod junit;

use crate::answer::status;
use crate::policy::decision::{decide, read_request};
use crate::policy::map::Found;
use crate::policy::refusal::{Reason, Refusal};

pub use failure::{described, failure};
pub(crate) use file::compile_tests;
pub use file::{Check, Expected, LoadedTests, PolicyTests, Sender, load_tests, tests_schema};

/// The outcome of a check.
#[derive(Debug)]
pub struct Outcome<'tests> {
    /// The check.
    pub check: &'tests Check,
    /// The matching route and rule; `None` if the request is rejected before it is matched.
    pub found: Option<Found<'tests>>,
    /// The decision.
    pub decision: Result<Reason, Refusal>,
}

impl Outcome<'_> {
    /// Whether the decision is the expected one.
    pub fn passed(&self) -> bool {
        self.decided() == self.check.expected
    }

    /// The decision in the words of the file.
    pub fn decided(&self) -> Expected {
        match &self.decision {
            Ok(_) => Expected::Allow,
            Err(refusal) => Expected::Refuse(status(refusal).as_u16()),
        }
    }
}

/// Runs every check, in the order of the file.
pub fn judge(tests: &PolicyTests) -> Vec<Outcome<'_>> {
    tests.checks.iter().map(|check| judge_one(tests, check)).collect()
}

fn judge_one<'tests>(tests: &'tests PolicyTests, check: &'tests Check) -> Outcome<'tests> {
    match read_request(&tests.map, &check.method, &check.target) {
        Ok((method, path)) => {
            let found = tests.map.find(&method, &path);
            let decision = decide(&tests.map, &found, &check.sender.caller);
            Outcome { check, found: Some(found), decision }
        }
        Err(refusal) => Outcome { check, found: None, decision: Err(refusal) },
    }
}
