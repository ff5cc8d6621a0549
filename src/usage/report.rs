//! What is told of usage: one form for the command, the admin listener and other replicas.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::addresses::Addresses;

/// What tokens did, and what there is to say of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The ledgers that it is from, each by a random id of its own: what keeps one from being added twice.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ledgers: BTreeSet<String>,
    /// The first day that it tells of; none: all that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Date>,
    /// Numeric ids first and in their order.
    pub tokens: Vec<TokenUsage>,
    /// The most severe first.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// What one token did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// The introspected id.
    pub id: String,
    /// The name that its owner gave it.
    pub name: Option<String>,
    /// `user` or `instance`, in the introspector's words; none where it does not tell.
    #[serde(default)]
    pub context: Option<String>,
    /// The workspace that it belongs to; none where the introspector does not tell.
    #[serde(default)]
    pub workspace_id: Option<String>,
    /// What introspection said last that it may do, sorted; `*` is everything.
    #[serde(default)]
    pub abilities: Vec<String>,
    /// When it was made; none where the introspector does not tell.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it ends; none: it does not.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// Its first request that is known, whenever that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Timestamp>,
    /// Its latest request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// About how many addresses it came from, in all.
    #[serde(default)]
    pub addresses: u64,
    /// Its requests. One that several abilities stand for (`all`) is in the row of each.
    pub usage: Vec<UsageRow>,
    /// What each day brought.
    #[serde(default)]
    pub days: BTreeMap<Date, DayUsage>,
}

/// Requests of one token that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The ability that allowed them, or that was missing; none where the route asks for any token, or for none that
    /// there is. Of `any` the first that the token has.
    pub ability: Option<String>,
    /// The route's template, or `unmapped`.
    pub route: String,
    /// Whether the map allows them.
    pub verdict: Verdict,
    /// How many there were.
    pub count: u64,
    /// How many there were by method.
    #[serde(default)]
    pub methods: BTreeMap<String, u64>,
    /// How many there were by day, in UTC.
    #[serde(default)]
    pub days: BTreeMap<Date, u64>,
    /// What the route asks for, as the map says it.
    #[serde(default)]
    pub requirement: String,
    /// Of these, how many the other mode or map would have decided otherwise: were denied and passed (allowed, and
    /// would be denied), or would be allowed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shadow: u64,
}

/// What the map says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The token's abilities satisfy the route's requirement, whatever came of it afterwards.
    Allowed,
    /// They do not: 403.
    Denied,
}

/// A token's day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DayUsage {
    /// Requests that were allowed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub allowed: u64,
    /// Requests that were denied.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denied: u64,
    /// Requests that came by plain HTTP.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub plain_http: u64,
    /// The addresses that they came from.
    #[serde(default)]
    pub addresses: Addresses,
}

/// Something to do about a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// How much it matters.
    pub severity: Severity,
    /// The token's id.
    pub token: String,
    /// The token's name.
    #[serde(default)]
    pub name: Option<String>,
    /// The abilities that it is about, sorted: those never used, those that would have sufficed, those that were
    /// missing.
    pub abilities: Vec<String>,
    /// Since when it is so.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub advice: String,
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Calls are denied again and again: a misconfigured integration, or probing.
    RepeatedDenials,
    /// It came by plain HTTP.
    PlainHttp,
    /// It may do everything (`*`).
    Wildcard,
    /// It came from many addresses in one day: shared between integrations.
    ManyAddresses,
    /// Abilities that were granted and never used.
    UnusedAbilities,
    /// It does not expire.
    NoExpiry,
    /// It is older than tokens should get.
    OldToken,
    /// It has not been used for long.
    Silent,
    /// Its name does not say purpose and environment.
    Naming,
}

/// How much a finding matters, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Today.
    High,
    /// This month.
    Medium,
    /// At the next rotation.
    Low,
}

/// The order of tokens: numeric ids first and in their order.
pub fn by_id(one: &str, other: &str) -> Ordering {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one.cmp(&other),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => Ordering::Equal,
    }
    .then_with(|| one.cmp(other))
}

impl FindingKind {
    /// The word for it, as JSON and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RepeatedDenials => "repeated_denials",
            Self::PlainHttp => "plain_http",
            Self::Wildcard => "wildcard",
            Self::ManyAddresses => "many_addresses",
            Self::UnusedAbilities => "unused_abilities",
            Self::NoExpiry => "no_expiry",
            Self::OldToken => "old_token",
            Self::Silent => "silent",
            Self::Naming => "naming",
        }
    }
}

impl FindingKind {
    /// The title of a list of tokens that have it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::RepeatedDenials => "Denied again and again",
            Self::PlainHttp => "Sent over plain HTTP",
            Self::Wildcard => "May do everything",
            Self::ManyAddresses => "Used from many places",
            Self::UnusedAbilities => "Abilities that are never used",
            Self::NoExpiry => "Never expires",
            Self::OldToken => "Due for rotation",
            Self::Silent => "Not used any more",
            Self::Naming => "Name without purpose or environment",
        }
    }
}

impl Severity {
    /// The word for it, as JSON and metrics have it.
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
