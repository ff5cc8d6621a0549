//! Policy tests: reads their files, and compares the decisions of a map with the expected ones.

pub mod coverage;
mod failure;
mod file;
pub mod json;
pub mod junit;

use crate::policy::decision::{RouteInputs, decide, read_request, split_query};
use crate::policy::map::RouteMatch;
use crate::policy::refusal::{Reason, Refusal};
use crate::response::own::status;

pub use failure::{explain, label};
pub(crate) use file::compile_tests;
pub use file::{Check, Expected, LoadedTests, PolicyTests, load_tests, tests_schema};

/// The outcome of a check.
#[derive(Debug)]
pub struct CheckResult<'tests> {
    /// The check.
    pub check: &'tests Check,
    /// The matching route and rule; `None` if the request is rejected before it is matched.
    pub found: Option<RouteMatch<'tests>>,
    /// The decision.
    pub decision: Result<Reason, Refusal>,
}

impl CheckResult<'_> {
    /// Whether the decision is the expected one.
    pub fn passed(&self) -> bool {
        self.actual() == self.check.expected
    }

    /// The decision in the words of the file.
    pub fn actual(&self) -> Expected {
        match &self.decision {
            Ok(_) => Expected::Allow,
            Err(refusal) => Expected::Refuse(status(refusal).as_u16()),
        }
    }
}

/// Runs every check, in the order of the file.
pub fn run_checks(tests: &PolicyTests) -> Vec<CheckResult<'_>> {
    tests.checks.iter().map(|check| run_check(tests, check)).collect()
}

fn run_check<'tests>(tests: &'tests PolicyTests, check: &'tests Check) -> CheckResult<'tests> {
    match read_request(&tests.map, &check.method, &check.target) {
        Ok((method, path)) => {
            let found = tests.map.find(&method, &path);
            let (_, query) = split_query(&check.target);
            let decision =
                decide(&tests.map, &found, RouteInputs::of(query, check.client), &check.sender.caller);
            CheckResult { check, found: Some(found), decision }
        }
        Err(refusal) => CheckResult { check, found: None, decision: Err(refusal) },
    }
}
