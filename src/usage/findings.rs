//! Findings about a token, from its usage and its introspected description. No clock and no I/O.
//!
//! A field that introspection omits causes no finding. An expired token has only findings about its requests.

mod denials;
mod deprecated;
mod minimal_abilities;
mod name;
mod requirement;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

use super::report::{Finding, FindingKind, Report, Severity, TokenUsage, Verdict, compare_ids};
use crate::config::settings::FindingRules;

/// The most names in the evidence of a finding.
const MAX_NAMES: usize = 8;
/// The longest name in evidence, in characters.
const MAX_NAME_CHARS: usize = 120;

/// The findings about `token`, most severe first. There are none if it is younger than `rules.least_age`.
pub fn findings(token: &TokenUsage, rules: &FindingRules, now: Timestamp) -> Vec<Finding> {
    if is_young(token, rules.least_age, now) {
        return Vec::new();
    }
    let subject = Subject::new(token, now);
    let mut findings: Vec<Finding> = [
        denials::repeated(&subject, rules),
        plain_http(&subject),
        wrong_network(&subject),
        many_addresses(&subject, rules),
        deprecated::deprecated_routes(&subject, rules),
        wildcard(&subject),
        unused_abilities(&subject, rules),
        no_expiry(&subject, rules),
        old_token(&subject, rules),
        silent(&subject, rules),
        naming(&subject, rules),
    ]
    .into_iter()
    .flatten()
    .collect();
    sort(&mut findings);
    findings
}

/// Whether a token is younger than `least_age`, by its creation or else its first request. A token of unknown age is
/// not.
fn is_young(token: &TokenUsage, least_age: Duration, now: Timestamp) -> bool {
    let since = token.created_at.or(token.first_seen);
    !least_age.is_zero() && since.is_some_and(|since| age(since, now) < least_age)
}

/// Sorts by severity, kind and token id, with numeric ids first and in numeric order.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by(|one, other| {
        let rank = |finding: &Finding| (finding.severity, finding.kind);
        rank(one).cmp(&rank(other)).then_with(|| compare_ids(&one.token, &other.token))
    });
}

impl Report {
    /// Recomputes the findings.
    pub fn assess(&mut self, rules: &FindingRules, now: Timestamp) {
        self.findings = self.tokens.iter().flat_map(|token| findings(token, rules, now)).collect();
        sort(&mut self.findings);
    }
}

/// A token with facts that several findings use.
struct Subject<'token> {
    token: &'token TokenUsage,
    now: Timestamp,
    /// Whether the token has every ability (`*`).
    has_wildcard: bool,
    /// Whether the token has expired.
    expired: bool,
    /// The number of allowed requests.
    allowed: u64,
    /// The smallest set of its abilities that suffices for the allowed requests.
    minimal: BTreeSet<String>,
    /// The start of the recorded usage; `None` if the report has no days.
    since: Option<Timestamp>,
}

impl<'token> Subject<'token> {
    fn new(token: &'token TokenUsage, now: Timestamp) -> Self {
        let has_wildcard = token.abilities.iter().any(|ability| ability == "*");
        let allowed = token.usage.iter().filter(|row| row.verdict == Verdict::Allowed && row.count > 0);
        // Abilities that the token has lost cannot be removed from it.
        let granted: HashSet<&String> = token.abilities.iter().collect();
        let may = |ability: &String| has_wildcard || granted.contains(ability);
        let needs =
            allowed.flat_map(minimal_abilities::needs).map(|need| need.into_iter().filter(may).collect());
        let first_day = token.days.keys().next().copied();
        Self {
            token,
            now,
            has_wildcard,
            expired: token.expires_at.is_some_and(|expiry| expiry <= now),
            allowed: token.days.values().fold(0, |sum, day| sum.saturating_add(day.allowed)),
            minimal: minimal_abilities::minimal(&needs.collect()),
            // The report lacks requests before its first day.
            since: first_day.and_then(start_of).map(|day| token.first_seen.map_or(day, |seen| seen.max(day))),
        }
    }

    fn finding(&self, kind: FindingKind, severity: Severity) -> Finding {
        Finding {
            kind,
            severity,
            token: self.token.id.clone(),
            name: self.token.name.clone(),
            abilities: Vec::new(),
            since: None,
            evidence: String::new(),
            advice: String::new(),
        }
    }

    /// A description of a token that can replace this one.
    fn replacement(&self) -> String {
        if self.minimal.is_empty() {
            "a new token with only the abilities that its integration needs".to_owned()
        } else {
            format!("a new token with {}", all_of(&self.minimal))
        }
    }

    /// ` since 2026-10-01`; empty if unknown.
    fn since_day(&self) -> String {
        self.since.map(|since| format!(" since {}", day_of(since))).unwrap_or_default()
    }
}

fn plain_http(subject: &Subject<'_>) -> Option<Finding> {
    let days: Vec<(&Date, u64)> = nonzero(subject.token.days.iter().map(|(day, it)| (day, it.plain_http)));
    let ((first, _), (last, _)) = (days.first()?, days.last()?);
    let requests = days.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let advice = if subject.expired {
        "Make its integration use https://: anyone on the network path can read its next token, too."
    } else {
        "Make its integration use https://, then create a new token and revoke this one: anyone on the network path can \
         have read it. If a proxy in front of the gateway terminates TLS, add its network to listen.trusted_proxies."
    };
    Some(Finding {
        since: start_of(**first),
        evidence: format!("{} by plain HTTP, the last on {last}.", count_of(requests, "request")),
        advice: advice.to_owned(),
        ..subject.finding(FindingKind::PlainHttp, Severity::High)
    })
}

fn wrong_network(subject: &Subject<'_>) -> Option<Finding> {
    let days = subject.token.days.iter().map(|(day, it)| (day, it.wrong_network));
    let days: Vec<(&Date, u64)> = nonzero(days);
    let ((first, _), (last, _)) = (days.first()?, days.last()?);
    let requests = days.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let advice = if subject.expired {
        "If its integration did not send them, find out who had this token."
    } else {
        "If its integration does not send them, somebody else has the token: create a new one and revoke this one, or block \
         it at once. If it does, add its network to the token's allowed_from or to the route's from."
    };
    Some(Finding {
        since: start_of(**first),
        evidence: format!(
            "{} from outside the networks of the token or of the route, the last on {last}.",
            count_of(requests, "request")
        ),
        advice: advice.to_owned(),
        ..subject.finding(FindingKind::WrongNetwork, Severity::Medium)
    })
}

fn many_addresses(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let many = rules.addresses?;
    let days = subject.token.days.iter().map(|(day, it)| (day, it.addresses.estimate()));
    let days: Vec<(&Date, u64)> = days.filter(|(_, addresses)| *addresses >= many).collect();
    let (first, _) = days.first()?;
    // The first day with the maximum.
    let (day, max) = days.iter().rev().max_by_key(|(_, addresses)| addresses)?;
    Some(Finding {
        since: start_of(**first),
        evidence: format!(
            "About {} on {day}; {many} or more on {}.",
            count_of(*max, "address"),
            count_of(days.len() as u64, "day")
        ),
        advice: "Give each integration its own token, so that each can be revoked separately. If there is only one \
                 integration, find out who else has the token."
            .to_owned(),
        ..subject.finding(FindingKind::ManyAddresses, Severity::Medium)
    })
}

fn wildcard(subject: &Subject<'_>) -> Option<Finding> {
    if !subject.has_wildcard || subject.expired {
        return None;
    }
    let (severity, advice) = match subject.token.context.as_deref() {
        Some(context) if context.eq_ignore_ascii_case("user") => {
            (Severity::Low, "If this is an integration and no person, let a workspace admin create")
        }
        Some(_) => (Severity::High, "Create"),
        None => (Severity::Medium, "Create"),
    };
    let needed = match (subject.allowed, subject.minimal.is_empty()) {
        (0, _) => "none of its requests was allowed".to_owned(),
        (allowed, true) => format!("{} needed no ability", count_of(allowed, "allowed request")),
        (allowed, false) => {
            format!("{} needed only {}", count_of(allowed, "allowed request"), some_of(&subject.minimal))
        }
    };
    Some(Finding {
        abilities: subject.minimal.iter().cloned().collect(),
        since: subject.token.created_at.or(subject.token.first_seen),
        evidence: format!("It has every ability (*);{} {needed}.", subject.since_day()),
        advice: format!("{advice} {} instead, and revoke this one.", subject.replacement()),
        ..subject.finding(FindingKind::Wildcard, severity)
    })
}

fn unused_abilities(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let seen = subject.token.first_seen.map(|since| age(since, subject.now));
    let seen_for_long = rules.least_age.is_zero() || seen.is_some_and(|seen| seen >= rules.least_age);
    if subject.has_wildcard || subject.expired || !seen_for_long {
        return None;
    }
    let granted: BTreeSet<String> = subject.token.abilities.iter().cloned().collect();
    let unused: Vec<String> = granted.difference(&subject.minimal).cloned().collect();
    if unused.is_empty() {
        return None;
    }
    let writes = unused.iter().any(|ability| !minimal_abilities::only_reads(ability));
    let advice = if subject.minimal.is_empty() {
        format!("Revoke this token if nothing needs it, else create {} instead.", subject.replacement())
    } else {
        format!("Create {} instead, or update this token's permissions.", subject.replacement())
    };
    Some(Finding {
        evidence: format!(
            "{} of {} never needed in {}{}: {}.",
            unused.len(),
            count_of(granted.len() as u64, "ability"),
            count_of(subject.allowed, "allowed request"),
            subject.since_day(),
            some_of(&unused)
        ),
        abilities: unused,
        since: subject.since,
        advice,
        ..subject.finding(FindingKind::UnusedAbilities, if writes { Severity::Medium } else { Severity::Low })
    })
}

fn no_expiry(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    if subject.token.expires_at.is_some() {
        return None;
    }
    let within = rules.rotation_age.map(|age| format!(" within {}", days(age))).unwrap_or_default();
    Some(Finding {
        since: subject.token.created_at.or(subject.token.first_seen),
        evidence: "Introspection reports no expiry.".to_owned(),
        advice: format!("Create a new token that expires{within}, and revoke this one."),
        ..subject.finding(FindingKind::NoExpiry, Severity::Low)
    })
}

fn old_token(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let (max, created_at) = (rules.rotation_age?, subject.token.created_at?);
    let age = age(created_at, subject.now);
    if age < max || subject.expired {
        return None;
    }
    Some(Finding {
        since: created_at.checked_add(max).ok(),
        evidence: format!(
            "Created on {}, {} ago; the limit is {}.",
            day_of(created_at),
            days(age),
            days(max)
        ),
        advice: format!(
            "Create {}, give it to the integration, and revoke this one.",
            if subject.has_wildcard { "a new token".to_owned() } else { subject.replacement() }
        ),
        ..subject.finding(FindingKind::OldToken, Severity::Medium)
    })
}

fn silent(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let (max, last_seen) = (rules.silent_after?, subject.token.last_seen?);
    let silence = age(last_seen, subject.now);
    if silence < max || subject.expired {
        return None;
    }
    Some(Finding {
        since: Some(last_seen),
        evidence: format!("Its last request was on {}, {} ago.", day_of(last_seen), days(silence)),
        advice: "Revoke it, unless something still needs it.".to_owned(),
        ..subject.finding(FindingKind::Silent, Severity::Medium)
    })
}

fn naming(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let (environments, name) = (rules.environments.as_deref()?, subject.token.name.as_deref()?);
    let flaw = name::flaw(name, environments)?;
    (!subject.expired).then(|| Finding {
        since: subject.token.created_at.or(subject.token.first_seen),
        evidence: flaw.to_string(),
        advice:
            "Name the next token by purpose and environment or version, such as warehouse-scanner-prod or \
                 mobile-app-v2."
                .to_owned(),
        ..subject.finding(FindingKind::Naming, Severity::Low)
    })
}

/// The days with a count above zero.
fn nonzero<'a>(days: impl Iterator<Item = (&'a Date, u64)>) -> Vec<(&'a Date, u64)> {
    days.filter(|(_, count)| *count > 0).collect()
}

/// The age of `since`; zero if it is in the future.
fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The day in UTC.
fn day_of(time: Timestamp) -> Date {
    Offset::UTC.to_datetime(time).date()
}

fn start_of(day: Date) -> Option<Timestamp> {
    Offset::UTC.to_timestamp(day.to_datetime(Time::midnight())).ok()
}

/// `90 days`, or hours below one day.
fn days(period: Duration) -> String {
    let hours = period.as_secs() / 3600;
    if hours < 24 { count_of(hours, "hour") } else { count_of(hours / 24, "day") }
}

/// `1 request`, `2 requests`.
fn count_of(count: u64, what: &str) -> String {
    match (count, what) {
        (1, what) => format!("1 {what}"),
        (count, "ability") => format!("{count} abilities"),
        (count, what) if what.ends_with('s') => format!("{count} {what}es"),
        (count, what) => format!("{count} {what}s"),
    }
}

/// Joins all names, since advice must be complete.
fn all_of(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Joins the first names and counts the rest, since evidence is bounded.
fn some_of<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&String> = names.into_iter().collect();
    let named: Vec<String> = names.iter().take(MAX_NAMES).map(|name| truncate(name)).collect();
    let more = names.len() - named.len();
    let named = named.join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

fn truncate(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
