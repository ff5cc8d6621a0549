//! Repeated denials: a misconfigured integration, or probing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::minimal_abilities::{Need, minimal, needs};
use super::requirement::requirement;
use super::{Subject, all_of, count_of, some_of, start_of};
use crate::config::settings::FindingRules;
use crate::policy::ability::Abilities;
use crate::usage::report::{Finding, FindingKind, Severity, TokenUsage, UsageRow, Verdict};

/// An integration that merely lacks an ability is denied on few routes. At least this many routes and different
/// missing abilities count as probing.
const PROBED_ROUTES: usize = 5;
const PROBED_ABILITIES: usize = 4;

pub(super) fn repeated(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let rows: Vec<&UsageRow> = still_denied(subject.token).collect();
    let calls = calls(&rows);
    let denied = calls.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    if denied < rules.denials? {
        return None;
    }
    // With `all`, the token may have some of the abilities.
    let granted: HashSet<&String> = subject.token.abilities.iter().collect();
    let lacks = |need: &Need| need.iter().all(|ability| !granted.contains(ability));
    let missing = minimal(&rows.iter().flat_map(|row| needs(row)).filter(lacks).collect());
    let routes: BTreeSet<&str> = rows.iter().map(|row| &*row.route).collect();
    let forbidden: BTreeSet<&str> =
        rows.iter().filter(|row| needs(row).is_empty()).map(|row| &*row.route).collect();
    let probing = routes.len() >= PROBED_ROUTES && missing.len() + forbidden.len() >= PROBED_ABILITIES;
    let mut most_frequent: Vec<(&(&str, &str), &u64)> = calls.iter().collect();
    most_frequent.sort_by_key(|(call, count)| (std::cmp::Reverse(**count), **call));
    let most_frequent: Vec<String> = most_frequent
        .into_iter()
        .map(|((route, method), count)| format!("{method} {route} ({count})").trim_start().to_owned())
        .collect();
    let lacked = if missing.is_empty() { String::new() } else { format!("; missing {}", some_of(&missing)) };
    Some(Finding {
        since: rows.iter().filter_map(|row| row.days.keys().next()).min().and_then(|day| start_of(*day)),
        evidence: format!(
            "{} on {}: {}{lacked}.",
            count_of(denied, "denied request"),
            count_of(routes.len() as u64, "route"),
            some_of(&most_frequent)
        ),
        advice: advice(subject, probing, &missing),
        abilities: missing.into_iter().collect(),
        ..subject
            .finding(FindingKind::RepeatedDenials, if probing { Severity::High } else { Severity::Medium })
    })
}

fn advice(subject: &Subject<'_>, probing: bool, missing: &BTreeSet<String>) -> String {
    let stop = "let its integration stop these calls";
    match (probing, subject.expired) {
        (true, true) => "So many different calls look like probing: find out who had this token.".to_owned(),
        (true, false) => {
            "So many different calls look like probing: find out who has this token, and revoke it unless \
                          its integration means to make them."
                .to_owned()
        }
        (false, _) if missing.is_empty() => {
            format!("No token may make these calls: {stop}, or add them to the ability map.")
        }
        (false, true) => format!("Create its successor with {} as well, or {stop}.", all_of(missing)),
        (false, false) => {
            let list: BTreeSet<String> = subject.minimal.union(missing).cloned().collect();
            format!(
                "If it needs {}, create a new token with {} or update this token's permissions; else {stop}.",
                all_of(missing),
                all_of(&list)
            )
        }
    }
}

/// The denied rows that would be denied today, too. A token that has received the ability since has no problem.
fn still_denied(token: &TokenUsage) -> impl Iterator<Item = &UsageRow> {
    let abilities = Abilities::new(token.abilities.iter().map(String::as_str));
    let is_allowed_now = move |row: &&UsageRow| match requirement(&row.requirement) {
        Some(requirement) => requirement.check(&abilities).is_ok(),
        None => row.ability.as_deref().is_some_and(|ability| abilities.can(ability)),
    };
    let denied = token.usage.iter().filter(|row| row.verdict == Verdict::Denied && row.count > 0);
    denied.filter(move |row| !is_allowed_now(row))
}

/// The number of requests by route and method. A request that lacked several abilities has a row for each; a parameter of
/// its query denies it in one row.
fn calls<'a>(rows: &[&'a UsageRow]) -> BTreeMap<(&'a str, &'a str), u64> {
    let mut most = BTreeMap::<(&str, &str, Option<&str>), u64>::new();
    for row in rows {
        let without = row.methods.is_empty().then_some(("", row.count));
        let methods = row.methods.iter().map(|(method, count)| (method.as_str(), *count));
        for (method, count) in methods.chain(without) {
            let max = most.entry((&*row.route, method, row.parameter.as_deref())).or_default();
            *max = (*max).max(count);
        }
    }
    let mut calls = BTreeMap::new();
    for ((route, method, _), count) in most {
        let sum: &mut u64 = calls.entry((route, method)).or_default();
        *sum = sum.saturating_add(count);
    }
    calls
}
