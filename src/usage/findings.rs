//! What there is to do about a token, by what it did and by what introspection told of it. No clock and no I/O.
//!
//! What introspection does not tell makes no finding, nor does what a token that has expired still has: of such a one only
//! what was done with it is told.

mod denials;
mod least;
mod name;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

use super::report::{Finding, FindingKind, Report, Severity, TokenUsage, Verdict, by_id};
use crate::config::settings::FindingRules;

/// The most of one kind that evidence names.
const NAMED: usize = 8;
/// The longest of them, in characters.
const LONGEST: usize = 120;

/// What there is to do about `token`, the most severe first. Nothing if it is younger than `rules.least_age`.
pub fn findings(token: &TokenUsage, rules: &FindingRules, now: Timestamp) -> Vec<Finding> {
    if is_young(token, rules.least_age, now) {
        return Vec::new();
    }
    let subject = Subject::new(token, now);
    let mut findings: Vec<Finding> = [
        denials::repeated(&subject, rules),
        plain_http(&subject),
        many_addresses(&subject, rules),
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

/// Whether a token is younger than that: by when it was created, or else by its first request. One of unknown age is not.
fn is_young(token: &TokenUsage, least_age: Duration, now: Timestamp) -> bool {
    let since = token.created_at.or(token.first_seen);
    !least_age.is_zero() && since.is_some_and(|since| age(since, now) < least_age)
}

/// The most severe first, then by kind, then by token: numeric ids first and in their order.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by(|one, other| {
        let rank = |finding: &Finding| (finding.severity, finding.kind);
        rank(one).cmp(&rank(other)).then_with(|| by_id(&one.token, &other.token))
    });
}

impl Report {
    /// Makes its findings anew.
    pub fn assess(&mut self, rules: &FindingRules, now: Timestamp) {
        self.findings = self.tokens.iter().flat_map(|token| findings(token, rules, now)).collect();
        sort(&mut self.findings);
    }
}

/// A token, and what several findings ask about it.
struct Subject<'token> {
    token: &'token TokenUsage,
    now: Timestamp,
    /// Whether it may do everything.
    every: bool,
    /// Whether it is no longer valid.
    expired: bool,
    /// Its requests that were allowed.
    allowed: u64,
    /// The fewest of its abilities that allowed requests have needed.
    least: BTreeSet<String>,
    /// From when on its requests are told; none: of no request is told when it was.
    since: Option<Timestamp>,
}

impl<'token> Subject<'token> {
    fn new(token: &'token TokenUsage, now: Timestamp) -> Self {
        let every = token.abilities.iter().any(|ability| ability == "*");
        let allowed = token.usage.iter().filter(|row| row.verdict == Verdict::Allowed && row.count > 0);
        // What the token has lost since cannot be taken from it.
        let granted: HashSet<&String> = token.abilities.iter().collect();
        let may = |ability: &String| every || granted.contains(ability);
        let needs = allowed.flat_map(least::needs).map(|need| need.into_iter().filter(may).collect());
        let first_day = token.days.keys().next().copied();
        Self {
            token,
            now,
            every,
            expired: token.expires_at.is_some_and(|expiry| expiry <= now),
            allowed: token.days.values().fold(0, |sum, day| sum.saturating_add(day.allowed)),
            least: least::least(&needs.collect()),
            // What came before the first day of the report is not in it.
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

    /// A token instead of this one, that can do what this one needs.
    fn replacement(&self) -> String {
        if self.least.is_empty() {
            "a new token with only the abilities that its integration needs".to_owned()
        } else {
            format!("a new token with {}", all_of(&self.least))
        }
    }

    /// ` since 2026-10-01`, where that is known.
    fn since_day(&self) -> String {
        self.since.map(|since| format!(" since {}", day_of(since))).unwrap_or_default()
    }
}

fn plain_http(subject: &Subject<'_>) -> Option<Finding> {
    let days: Vec<(&Date, u64)> = counted(subject.token.days.iter().map(|(day, it)| (day, it.plain_http)));
    let ((first, _), (last, _)) = (days.first()?, days.last()?);
    let requests = days.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let advice = if subject.expired {
        "Let its integration call https://: whoever is on the way reads its next token, too."
    } else {
        "Let its integration call https://, then create a new token and revoke this one: whoever was on the way has \
         read it. If something in front of the gateway speaks TLS, name its network in listen.trusted_proxies instead."
    };
    Some(Finding {
        since: start_of(**first),
        evidence: format!("{} by plain HTTP, the last on {last}.", of(requests, "request")),
        advice: advice.to_owned(),
        ..subject.finding(FindingKind::PlainHttp, Severity::High)
    })
}

fn many_addresses(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let many = rules.addresses?;
    let days = subject.token.days.iter().map(|(day, it)| (day, it.addresses.estimate()));
    let days: Vec<(&Date, u64)> = days.filter(|(_, addresses)| *addresses >= many).collect();
    let (first, _) = days.first()?;
    // The first of the days with the most.
    let (day, most) = days.iter().rev().max_by_key(|(_, addresses)| addresses)?;
    Some(Finding {
        since: start_of(**first),
        evidence: format!(
            "About {} on {day}; {many} or more on {}.",
            of(*most, "address"),
            of(days.len() as u64, "day")
        ),
        advice: "Give each integration a token of its own, so that each can be revoked by itself; if there is only one \
                 integration, find out who else has its token."
            .to_owned(),
        ..subject.finding(FindingKind::ManyAddresses, Severity::Medium)
    })
}

fn wildcard(subject: &Subject<'_>) -> Option<Finding> {
    if !subject.every || subject.expired {
        return None;
    }
    let (severity, advice) = match subject.token.context.as_deref() {
        Some(context) if context.eq_ignore_ascii_case("user") => {
            (Severity::Low, "If this is an integration and no person, let a workspace admin create")
        }
        Some(_) => (Severity::High, "Create"),
        None => (Severity::Medium, "Create"),
    };
    let needed = match (subject.allowed, subject.least.is_empty()) {
        (0, _) => "none of its requests was allowed".to_owned(),
        (allowed, true) => format!("{} needed no ability", of(allowed, "allowed request")),
        (allowed, false) => {
            format!("{} needed only {}", of(allowed, "allowed request"), some_of(&subject.least))
        }
    };
    Some(Finding {
        abilities: subject.least.iter().cloned().collect(),
        since: subject.token.created_at.or(subject.token.first_seen),
        evidence: format!("It may do everything (*);{} {needed}.", subject.since_day()),
        advice: format!("{advice} {} instead, and revoke this one.", subject.replacement()),
        ..subject.finding(FindingKind::Wildcard, severity)
    })
}

fn unused_abilities(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let seen = subject.token.first_seen.map(|since| age(since, subject.now));
    let seen_for_long = rules.least_age.is_zero() || seen.is_some_and(|seen| seen >= rules.least_age);
    if subject.every || subject.expired || !seen_for_long {
        return None;
    }
    let granted: BTreeSet<String> = subject.token.abilities.iter().cloned().collect();
    let unused: Vec<String> = granted.difference(&subject.least).cloned().collect();
    if unused.is_empty() {
        return None;
    }
    let writes = unused.iter().any(|ability| !least::only_reads(ability));
    let advice = if subject.least.is_empty() {
        format!("Revoke this token if nothing needs it, else create {} instead.", subject.replacement())
    } else {
        format!("Create {} instead, or update this token's permissions.", subject.replacement())
    };
    Some(Finding {
        evidence: format!(
            "{} of {} never needed in {}{}: {}.",
            unused.len(),
            of(granted.len() as u64, "ability"),
            of(subject.allowed, "allowed request"),
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
        evidence: "Introspection tells of no expiry.".to_owned(),
        advice: format!("Create a new token that expires{within}, and revoke this one."),
        ..subject.finding(FindingKind::NoExpiry, Severity::Low)
    })
}

fn old_token(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let (most, created_at) = (rules.rotation_age?, subject.token.created_at?);
    let age = age(created_at, subject.now);
    if age < most || subject.expired {
        return None;
    }
    Some(Finding {
        since: created_at.checked_add(most).ok(),
        evidence: format!("Made on {}, {} ago; {} are the most.", day_of(created_at), days(age), days(most)),
        advice: format!(
            "Create {}, give it to the integration, and revoke this one.",
            if subject.every { "a new token".to_owned() } else { subject.replacement() }
        ),
        ..subject.finding(FindingKind::OldToken, Severity::Medium)
    })
}

fn silent(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let (most, last_seen) = (rules.silent_after?, subject.token.last_seen?);
    let silence = age(last_seen, subject.now);
    if silence < most || subject.expired {
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

/// Days with a count that is not zero.
fn counted<'a>(days: impl Iterator<Item = (&'a Date, u64)>) -> Vec<(&'a Date, u64)> {
    days.filter(|(_, count)| *count > 0).collect()
}

/// How long ago `since` was; zero where it is to come.
fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// In UTC.
fn day_of(time: Timestamp) -> Date {
    Offset::UTC.to_datetime(time).date()
}

fn start_of(day: Date) -> Option<Timestamp> {
    Offset::UTC.to_timestamp(day.to_datetime(Time::midnight())).ok()
}

/// `90 days`, or what less there is in hours.
fn days(period: Duration) -> String {
    let hours = period.as_secs() / 3600;
    if hours < 24 { of(hours, "hour") } else { of(hours / 24, "day") }
}

/// `1 request`, `2 requests`.
fn of(count: u64, what: &str) -> String {
    match (count, what) {
        (1, what) => format!("1 {what}"),
        (count, "ability") => format!("{count} abilities"),
        (count, what) if what.ends_with('s') => format!("{count} {what}es"),
        (count, what) => format!("{count} {what}s"),
    }
}

/// All of them: what is to be done must be complete.
fn all_of(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The first of them, and how many more there are: what was seen has its bound.
fn some_of<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&String> = names.into_iter().collect();
    let named: Vec<String> = names.iter().take(NAMED).map(|name| clipped(name)).collect();
    let more = names.len() - named.len();
    let named = named.join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

fn clipped(name: &str) -> String {
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
