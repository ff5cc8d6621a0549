//! `usage`: the usage ledger, and the rules for findings.

use std::sync::Arc;
use std::time::Duration;

use schemars::json_schema;

use crate::config::language::{
    ANY, Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, OnOff, Period, PrivatePath, Size, Spanned,
    Timeout, Whole, leaf_schema, section,
};
use crate::config::settings::{self, DeprecatedRoutes, FindingRules};
use crate::policy::map::AbilityMap;

/// Each flush waits for the disk.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Common environment names, with which token names end: those of Stockaj's guide, and others.
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
    /// The usage ledger: counts of requests by token, ability, route and day.
    Usage {
        /// Ledger file. Only one gateway can use it. The gateway creates a missing directory.
        path: PrivatePath = "/var/lib/stockaj-gateway/usage.redb",
        /// How often counts are written to disk. A crash loses at most this much.
        flush_interval: Spanned<Timeout> = "10s",
        /// How long a day is kept, in whole days.
        retention: Timeout = "90d",
        /// Largest size of the ledger, in bytes. The oldest days are deleted first.
        max_size: Size = "1GiB",
        /// Thresholds of the findings in usage reports.
        findings: Findings,
    }
}

section! {
    /// Thresholds of the findings in usage reports.
    Findings {
        /// Age from which a token should be rotated; 0s: never.
        rotation_age: Period = "90d",
        /// Time without requests from which a token should be revoked; 0s: never.
        silent_after: Period = "30d",
        /// Number of client addresses (IPv6: /64 networks) per day from which a token counts as shared; 0: never.
        addresses: Whole<0, ANY> = 10,
        /// Number of denied requests from which denials are reported; 0: never.
        denials: Whole<0, ANY> = 5,
        /// Youngest token that findings report on, by its creation or else its first request. Also the shortest
        /// observation before its unused abilities are reported. 0s: report on every token.
        least_age: Period = "7d",
        /// Whether to report token names without purpose and environment or version, such as `warehouse-scanner-prod`
        /// or `mobile-app-v2`.
        naming: OnOff = true,
        /// Environment names for `naming` in addition to the common ones, such as `canary`.
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
            return decoder.mismatch(node, "invalid environment name", ENVIRONMENT);
        }
        Some(Self(text.into()))
    }
}

leaf_schema!(
    EnvironmentName,
    json_schema!({"type": "string", "pattern": format!("^[a-z0-9]+$|{FROM_ENVIRONMENT}")})
);

/// The interval between two writes to a file of the gateway. Records an error at `key` if it is too short.
pub(super) fn flush_interval(interval: Spanned<Timeout>, key: &str, decoder: &mut Decoder<'_>) -> Duration {
    if interval.value.0 < MIN_INTERVAL {
        decoder.record(
            Diagnostic::error("value too small")
                .key(key)
                .at(interval.span, "each flush waits for the disk")
                .hint("use at least `100ms`"),
        );
    }
    interval.value.0
}

pub(crate) fn compile(raw: Usage, decoder: &mut Decoder<'_>) -> settings::Usage {
    let flush_interval = flush_interval(raw.flush_interval, "usage.flush_interval", decoder);
    settings::Usage {
        path: raw.path.0,
        flush_interval,
        retention: raw.retention.0,
        max_size: raw.max_size.0,
        findings: compile_findings(raw.findings),
    }
}

/// The deprecated routes of `map`, by their templates.
pub(crate) fn deprecated_routes(map: &AbilityMap) -> Arc<DeprecatedRoutes> {
    let routes = map.deprecations().map(|(route, deprecation)| (route.into(), Arc::clone(deprecation)));
    Arc::new(routes.collect())
}

fn compile_findings(raw: Findings) -> FindingRules {
    let other = raw.environments.into_iter().map(|name| name.0);
    FindingRules {
        rotation_age: period(raw.rotation_age),
        silent_after: period(raw.silent_after),
        addresses: number(raw.addresses),
        denials: number(raw.denials),
        least_age: raw.least_age.0,
        deprecated: None,
        environments: raw.naming.0.then(|| ENVIRONMENTS.into_iter().map(Into::into).chain(other).collect()),
    }
}

fn period(period: Period) -> Option<Duration> {
    Some(period.0).filter(|period| !period.is_zero())
}

fn number<const MOST: u32>(number: Whole<0, MOST>) -> Option<u64> {
    Some(u64::from(number.0)).filter(|number| *number > 0)
}

/// The defaults of the keys, for reports without a configuration.
impl Default for FindingRules {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        Self {
            rotation_age: Some(days(90)),
            silent_after: Some(days(30)),
            addresses: Some(10),
            denials: Some(5),
            least_age: days(7),
            deprecated: None,
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
