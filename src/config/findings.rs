//! `usage.findings`: what is worth a finding.

use std::time::Duration;

use super::settings::FindingRules;

/// What names of tokens end with, beside a version (`v2`): the guide's, and what else environments are called.
const ENVIRONMENTS: [&str; 20] = [
    "ci",
    "demo",
    "dev",
    "development",
    "e2e",
    "integration",
    "live",
    "local",
    "preprod",
    "preview",
    "prod",
    "production",
    "qa",
    "sandbox",
    "stage",
    "staging",
    "test",
    "testing",
    "training",
    "uat",
];

/// As without `usage.findings`: of a report from a file no configuration says what is worth a finding.
impl Default for FindingRules {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        Self {
            rotation_age: Some(days(90)),
            silent_after: Some(days(30)),
            addresses: Some(10),
            denials: Some(5),
            least_age: days(0),
            environments: Some(ENVIRONMENTS.into_iter().map(Into::into).collect()),
        }
    }
}
