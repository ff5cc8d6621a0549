//! `usage`: the usage ledger, and the rules for findings.

use std::time::Duration;

use schemars::json_schema;

use crate::config::language::{
    ANY, Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, Period, PrivatePath, Size, Spanned, Switch,
    Timeout, Whole, leaf_schema, section,
};
use crate::config::settings::{self, FindingRules};

/// Each flush waits for the disk.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Usual names of environments, which names of tokens end with: those of Stockaj's guide, and others.
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

section! {
    /// The usage ledger: requests by token, ability, route and day.
    Usage {
        /// The file, which one gateway alone writes; where its directory is missing, it is made.
        path: PrivatePath = "/var/lib/stockaj-gateway/usage.redb",
        /// How much may be lost at most when the gateway is killed.
        flush_interval: Spanned<Timeout> = "10s",
        /// How long it is kept, in whole days.
        retention: Timeout = "90d",
        /// The most that is kept; the oldest days go first.
        max_size: Size = "1GiB",
        /// From when on something is worth a finding.
        findings: Findings,
    }
}

section! {
    /// From when on something is worth a finding.
    Findings {
        /// How old a token may get before it is to be replaced; 0s: as old as it likes.
        rotation_age: Period = "90d",
        /// For how long a token may go unused before it is to be revoked; 0s: for as long as it likes.
        silent_after: Period = "30d",
        /// From how many addresses (IPv6: of how many /64) in one day on a token is shared; 0: no number says so.
        addresses: Whole<0, ANY> = 10,
        /// From how many denied requests on it is no accident; 0: no number says so.
        denials: Whole<0, ANY> = 5,
        /// How old a token is before it is judged, by its creation or else by its first request, and for how long it has
        /// been seen before it is said what it does not use; 0s: every token is judged.
        least_age: Period = "7d",
        /// Whether names must say purpose and environment or version: `warehouse-scanner-prod`, `mobile-app-v2`.
        naming: Switch = true,
        /// Environments beside the usual ones, such as `canary`.
        environments: Vec<EnvironmentName> = [],
    }
}

/// `usage.findings.environments`
#[derive(Clone, Debug)]
struct EnvironmentName(Box<str>);

const ENVIRONMENT: &str = "one word of lower-case letters and digits, such as `canary`";

impl Decode for EnvironmentName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, ENVIRONMENT)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return decoder.mismatch(node, "not such a word", ENVIRONMENT);
        }
        Some(Self(text.into()))
    }
}

leaf_schema!(
    EnvironmentName,
    json_schema!({"type": "string", "pattern": format!("^[a-z0-9]+$|{FROM_ENVIRONMENT}")})
);

pub(crate) fn compile(raw: Usage, decoder: &mut Decoder<'_>) -> settings::Usage {
    let interval = raw.flush_interval;
    if interval.value.0 < SHORTEST_INTERVAL {
        decoder.record(
            Diagnostic::error("too short")
                .key("usage.flush_interval")
                .at(interval.span, "each flush waits for the disk")
                .hint("`100ms` is the least"),
        );
    }
    settings::Usage {
        path: raw.path.0,
        flush_interval: interval.value.0,
        retention: raw.retention.0,
        max_size: raw.max_size.0,
        findings: compile_findings(raw.findings),
    }
}

fn compile_findings(raw: Findings) -> FindingRules {
    let other = raw.environments.into_iter().map(|name| name.0);
    FindingRules {
        rotation_age: period(raw.rotation_age),
        silent_after: period(raw.silent_after),
        addresses: number(raw.addresses),
        denials: number(raw.denials),
        least_age: raw.least_age.0,
        environments: raw.naming.0.then(|| ENVIRONMENTS.into_iter().map(Into::into).chain(other).collect()),
    }
}

fn period(period: Period) -> Option<Duration> {
    Some(period.0).filter(|period| !period.is_zero())
}

fn number<const MOST: u32>(number: Whole<0, MOST>) -> Option<u64> {
    Some(u64::from(number.0)).filter(|number| *number > 0)
}

/// The defaults of the keys, for reports that are made without a configuration.
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
    use crate::config::language::SecretSections;

    #[test]
    fn default_rules_equal_the_defaults_of_the_keys() {
        let raw = Findings::absent(&mut Decoder::new(&|_| None, &SecretSections::NONE)).unwrap();
        assert_eq!(compile_findings(raw), FindingRules::default());
    }
}
