//! `usage.findings`: what is worth a finding.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Decoder};
use super::settings::FindingRules;
use super::tree::Node;
use super::values::{FROM_ENVIRONMENT, Period, Whole, leaf_schema};
use super::written;

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

/// A word that names of tokens may end with.
#[derive(Clone, Debug)]
pub(super) struct EnvironmentName(Box<str>);

const ENVIRONMENT: &str = "one word of lower-case letters and digits, such as `canary`";

impl Decode for EnvironmentName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, ENVIRONMENT)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            decoder.mismatch(node, "not such a word", ENVIRONMENT);
            return None;
        }
        Some(Self(text.into()))
    }
}

leaf_schema!(
    EnvironmentName,
    json_schema!({"type": "string", "pattern": format!("^[a-z0-9]+$|{FROM_ENVIRONMENT}")})
);

pub(super) fn compile(written: written::Findings) -> FindingRules {
    let own = written.environments.into_iter().map(|name| name.0);
    FindingRules {
        rotation_age: period(written.rotation_age),
        silent_after: period(written.silent_after),
        addresses: number(written.addresses),
        denials: number(written.denials),
        least_age: written.least_age.0,
        environments: written.naming.0.then(|| ENVIRONMENTS.into_iter().map(Into::into).chain(own).collect()),
    }
}

fn period(period: Period) -> Option<Duration> {
    Some(period.0).filter(|period| !period.is_zero())
}

fn number<const MOST: u32>(number: Whole<0, MOST>) -> Option<u64> {
    Some(u64::from(number.0)).filter(|number| *number > 0)
}

/// As without `usage.findings`: of a report from a file no configuration says what is worth a finding.
impl Default for FindingRules {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        Self {
            rotation_age: Some(days(90)),
            silent_after: Some(days(30)),
            addresses: Some(10),
            denials: Some(5),
            least_age: days(7),
            environments: Some(ENVIRONMENTS.into_iter().map(Into::into).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_keys() {
        let written = written::Findings::absent(&mut Decoder::new(&|_| None)).unwrap();
        assert_eq!(compile(written), FindingRules::default());
    }
}
