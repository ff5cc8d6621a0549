//! The usage report, exchanged as JSON between the command, the admin listener and replicas.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::addresses::AddressSketch;
use crate::config::settings::DeprecatedRoutes;
use crate::policy::deprecation::{Deprecation, Moment};

/// The usage of tokens, and findings about them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The random ids of the ledgers in the report, so that none is added twice.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ledgers: BTreeSet<String>,
    /// The first day of the report; `None` if it covers all recorded days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Date>,
    /// The deprecated routes by their templates, for findings about the tokens that call them. `None` if they are not known:
    /// there are no such findings then.
    #[serde(default)]
    pub deprecated_routes: Option<BTreeMap<String, DeprecatedRoute>>,
    /// Sorted by id: numeric ids first and in numeric order.
    pub tokens: Vec<TokenUsage>,
    /// Sorted by severity, highest first.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// The announced end of a route, as written in the map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeprecatedRoute {
    /// `since`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// `sunset`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<String>,
    /// `link`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// The deprecated routes of a map, for a report.
pub fn deprecated_routes(routes: &DeprecatedRoutes) -> BTreeMap<String, DeprecatedRoute> {
    routes.iter().map(|(route, deprecation)| (route.to_string(), (&**deprecation).into())).collect()
}

impl From<&Deprecation> for DeprecatedRoute {
    fn from(deprecation: &Deprecation) -> Self {
        let Deprecation { since, sunset, link, .. } = deprecation;
        let text = |moment: &Option<Moment>| moment.as_ref().map(|moment| moment.text.to_string());
        Self { since: text(since), sunset: text(sunset), link: link.as_deref().map(str::to_owned) }
    }
}

/// The usage of one token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// The introspected id.
    pub id: String,
    /// The name chosen by its owner.
    pub name: Option<String>,
    /// `user` or `instance`, as the introspection endpoint calls it; `None` if it omits it.
    #[serde(default)]
    pub context: Option<String>,
    /// The workspace of the token; `None` if the introspection endpoint omits it.
    #[serde(default)]
    pub workspace_id: Option<String>,
    /// The latest introspected abilities, sorted. `*` is every ability.
    #[serde(default)]
    pub abilities: Vec<String>,
    /// When the token was created; `None` if the introspection endpoint omits it.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When the token expires; `None` if it never does.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// The first recorded request, even before `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Timestamp>,
    /// The latest request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// The approximate total number of client addresses.
    #[serde(default)]
    pub addresses: u64,
    /// Requests by ability and route. A request that needed several abilities (`all`) counts in the row of each.
    pub usage: Vec<UsageRow>,
    /// Requests by day.
    #[serde(default)]
    pub days: BTreeMap<Date, DayUsage>,
}

/// Requests of one token with the same ability, route, verdict and requirement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The ability that allowed the requests or was missing. Of `any`, the first that the token has. `None` if the
    /// route requires no particular ability or denies every token.
    pub ability: Option<String>,
    /// The route template, or `unmapped`.
    pub route: String,
    /// The decision of the map.
    pub verdict: Verdict,
    /// The number of requests.
    pub count: u64,
    /// The number of requests by method.
    #[serde(default)]
    pub methods: BTreeMap<String, u64>,
    /// The number of requests by day, in UTC.
    #[serde(default)]
    pub days: BTreeMap<Date, u64>,
    /// The requirement of the route, as written in the map.
    #[serde(default)]
    pub requirement: String,
    /// The rule of a query parameter that has the requirement, such as `include=renters`; `None` for the requirement of
    /// the method. An allowed request also has the row of its method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// How many of the requests the candidate map would have decided differently, or shadow mode let pass.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shadow: u64,
}

/// Identifies a row of a token: ability, route, verdict, requirement and parameter.
pub type RowKey = (Option<String>, String, Verdict, String, Option<String>);

impl UsageRow {
    /// What identifies it among the rows of its token.
    pub fn key(&self) -> RowKey {
        let Self { ability, route, verdict, requirement, parameter, .. } = self;
        (ability.clone(), route.clone(), *verdict, requirement.clone(), parameter.clone())
    }

    /// Whether its requests are also in the row of their method.
    pub fn is_additional(&self) -> bool {
        self.parameter.is_some() && self.verdict == Verdict::Allowed
    }
}

/// The decision of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The abilities of the token satisfy the requirement of the route, even if the request failed later.
    Allowed,
    /// The abilities do not satisfy the requirement: 403.
    Denied,
}

/// The requests of a token on one day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DayUsage {
    /// The number of allowed requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub allowed: u64,
    /// The number of denied requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied: u64,
    /// The number of requests over plain HTTP.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub plain_http: u64,
    /// The number of requests from outside the networks of the token or of the route.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wrong_network: u64,
    /// The client addresses.
    #[serde(default)]
    pub addresses: AddressSketch,
}

/// A problem of a token, and what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// The severity.
    pub severity: Severity,
    /// The id of the token.
    pub token: String,
    /// The name of the token.
    #[serde(default)]
    pub name: Option<String>,
    /// The abilities concerned, sorted. Depending on the kind: never used, sufficient, or missing.
    pub abilities: Vec<String>,
    /// The start of the condition.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// What was observed.
    pub evidence: String,
    /// What to do.
    pub advice: String,
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Repeatedly denied requests: a misconfigured integration, or probing.
    RepeatedDenials,
    /// The token was sent over plain HTTP.
    PlainHttp,
    /// Requests from outside the networks of the token or of the route: somebody else may have the token.
    WrongNetwork,
    /// The token has every ability (`*`).
    Wildcard,
    /// Many client addresses in one day: integrations share the token.
    ManyAddresses,
    /// The token calls a route whose end is announced.
    DeprecatedRoute,
    /// Granted abilities that were never used.
    UnusedAbilities,
    /// The token does not expire.
    NoExpiry,
    /// The token is due for rotation.
    OldToken,
    /// The token has not been used for a long time.
    Silent,
    /// The name lacks purpose or environment.
    Naming,
}

/// How urgent a finding is, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// To be fixed today.
    High,
    /// To be fixed this month.
    Medium,
    /// To be fixed at the next rotation.
    Low,
}

/// Compares ids: numeric ids first and in numeric order.
pub fn compare_ids(one: &str, other: &str) -> Ordering {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one.cmp(&other),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => Ordering::Equal,
    }
    .then_with(|| one.cmp(other))
}

impl FindingKind {
    /// The name in JSON and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RepeatedDenials => "repeated_denials",
            Self::PlainHttp => "plain_http",
            Self::WrongNetwork => "wrong_network",
            Self::Wildcard => "wildcard",
            Self::ManyAddresses => "many_addresses",
            Self::DeprecatedRoute => "deprecated_route",
            Self::UnusedAbilities => "unused_abilities",
            Self::NoExpiry => "no_expiry",
            Self::OldToken => "old_token",
            Self::Silent => "silent",
            Self::Naming => "naming",
        }
    }
}

impl FindingKind {
    /// The heading of the list of tokens with such a finding.
    pub const fn title(self) -> &'static str {
        match self {
            Self::RepeatedDenials => "Denied again and again",
            Self::PlainHttp => "Sent over plain HTTP",
            Self::WrongNetwork => "Used from a wrong network",
            Self::Wildcard => "May do everything",
            Self::ManyAddresses => "Used from many places",
            Self::DeprecatedRoute => "Calls deprecated routes",
            Self::UnusedAbilities => "Abilities that are never used",
            Self::NoExpiry => "Never expires",
            Self::OldToken => "Due for rotation",
            Self::Silent => "Not used any more",
            Self::Naming => "Name without purpose or environment",
        }
    }
}

impl Severity {
    /// The name in JSON and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}
