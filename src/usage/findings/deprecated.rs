//! Calls of deprecated routes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;

use super::{MAX_NAMES, Subject, count_of, day_of, start_of, truncate};
use crate::config::settings::FindingRules;
use crate::policy::ability::is_all;
use crate::policy::deprecation::{Deprecation, Moment};
use crate::usage::report::{Finding, FindingKind, Severity, UsageRow, Verdict};

/// A sunset within this time is near, in seconds.
const NEAR: i64 = 30 * 24 * 60 * 60;

/// The calls of a token on a deprecated route.
struct Calls<'a> {
    route: &'a str,
    deprecation: &'a Deprecation,
    methods: BTreeSet<&'a str>,
    abilities: BTreeSet<&'a String>,
    count: u64,
    /// The first and the last day; `None` if the report has no days.
    days: Option<(Date, Date)>,
}

/// The finding about a token that calls deprecated routes: since they are deprecated, if that is known and has begun.
pub(super) fn deprecated_routes(subject: &Subject<'_>, rules: &FindingRules) -> Option<Finding> {
    let deprecated = rules.deprecated.as_ref().filter(|routes| !routes.is_empty() && !subject.expired)?;
    let mut rows = BTreeMap::<&str, Vec<&UsageRow>>::new();
    for row in subject.token.usage.iter().filter(|row| !row.is_additional()) {
        if row.verdict == Verdict::Allowed && row.count > 0 && deprecated.contains_key(&*row.route) {
            rows.entry(&row.route).or_default().push(row);
        }
    }
    let now = subject.now.as_second();
    let mut calls = Vec::new();
    for (route, rows) in rows {
        if let Some(deprecation) = deprecated.get(route) {
            calls.extend(calls_of(&rows, route, deprecation, now));
        }
    }
    // The earliest sunset first, then those without.
    calls.sort_by_key(|calls| {
        let sunset = calls.deprecation.sunset.as_ref().map(|sunset| sunset.seconds);
        (sunset.is_none(), sunset, calls.route)
    });
    let severity = severity(calls.first()?.deprecation.sunset.as_ref(), now);
    let abilities: BTreeSet<&String> = calls.iter().flat_map(|calls| &calls.abilities).copied().collect();
    let seen: Vec<String> = calls.iter().map(Calls::evidence).collect();
    let ends: Vec<String> = calls.iter().map(|calls| calls.end(now)).collect();
    Some(Finding {
        abilities: abilities.into_iter().cloned().collect(),
        since: calls.iter().filter_map(|calls| Some(calls.days?.0)).min().and_then(start_of),
        evidence: format!("{}.", joined(&seen)),
        advice: format!("Let its integration stop these calls: {}.", joined(&ends)),
        ..subject.finding(FindingKind::DeprecatedRoute, severity)
    })
}

/// Joins the first descriptions and counts the rest.
fn joined(descriptions: &[String]) -> String {
    let named = descriptions.get(..MAX_NAMES).unwrap_or(descriptions).join("; ");
    match descriptions.len().saturating_sub(MAX_NAMES) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

const fn severity(sunset: Option<&Moment>, now: i64) -> Severity {
    match sunset {
        Some(sunset) if sunset.seconds <= now => Severity::High,
        Some(sunset) if sunset.seconds.saturating_sub(now) <= NEAR => Severity::Medium,
        Some(_) | None => Severity::Low,
    }
}

/// The calls of a route in the `rows` with its allowed requests; `None` if there are none.
fn calls_of<'a>(
    rows: &[&'a UsageRow],
    route: &'a str,
    deprecation: &'a Deprecation,
    now: i64,
) -> Option<Calls<'a>> {
    let since = deprecation.since.as_ref().filter(|since| since.seconds <= now);
    let first = since.and_then(|since| Timestamp::from_second(since.seconds).ok()).map(day_of);
    let (mut methods, mut abilities) = (BTreeSet::new(), BTreeSet::new());
    // A request that needed several abilities (`all`) has a row for each.
    let mut counts = BTreeMap::<(&str, Option<Date>), u64>::new();
    for row in rows {
        let counted: Vec<(Option<Date>, u64)> = counted(row, first);
        if counted.is_empty() {
            continue;
        }
        methods.extend(row.methods.keys().map(String::as_str));
        abilities.extend(&row.ability);
        for (day, count) in counted {
            let sum = counts.entry((&row.requirement, day)).or_default();
            *sum = if is_all(&row.requirement) { count.max(*sum) } else { sum.saturating_add(count) };
        }
    }
    let mut days = counts.keys().filter_map(|(_, day)| *day).collect::<Vec<_>>();
    days.sort_unstable();
    let count = counts.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let days = days.first().copied().zip(days.last().copied());
    (count > 0).then_some(Calls { route, deprecation, methods, abilities, count, days })
}

/// The calls by day, from `first` on. A report may omit the days.
fn counted(row: &UsageRow, first: Option<Date>) -> Vec<(Option<Date>, u64)> {
    if row.days.is_empty() {
        return vec![(None, row.count)];
    }
    let days = row.days.iter().filter(|(day, count)| **count > 0 && first.is_none_or(|first| **day >= first));
    days.map(|(day, count)| (Some(*day), *count)).collect()
}

impl Calls<'_> {
    /// `12 requests of GET /api/v2/items, the last on 2026-11-20`
    fn evidence(&self) -> String {
        let Self { route, methods, count, days, .. } = self;
        let methods: Vec<&str> = methods.iter().copied().collect();
        let call = format!("{} {}", methods.join(" "), truncate(route));
        let last = days.map(|(_, last)| format!(", the last on {last}")).unwrap_or_default();
        format!("{} of {}{last}", count_of(*count, "request"), call.trim_start())
    }

    /// `/api/v2/items ends on 2026-12-31 (https://docs.example/v2)`
    fn end(&self, now: i64) -> String {
        let Self { route, deprecation, .. } = self;
        let end = match &deprecation.sunset {
            Some(sunset) if sunset.seconds <= now => {
                format!("may have ended, its sunset was {}", sunset.text)
            }
            Some(sunset) => format!("ends on {}", sunset.text),
            None => "is deprecated".to_owned(),
        };
        let link = deprecation.link.as_ref().map(|link| format!(" ({link})")).unwrap_or_default();
        format!("{} {end}{link}", truncate(route))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::findings;
    use super::super::tests::{good_token, row};
    use super::*;
    use crate::usage::report::TokenUsage;

    /// The token's calls are on 2026-11-20.
    const NOW: &str = "2026-11-28T12:00:00Z";

    fn moment(text: &str) -> Moment {
        let time: Timestamp = format!("{text}T00:00:00Z").parse().unwrap();
        Moment { seconds: time.as_second(), http_date: "-".into(), text: text.into() }
    }

    /// A rule for `route` with `since`, `sunset` and a link; empty dates are absent.
    fn rules(routes: &[(&str, &str, &str)]) -> FindingRules {
        let date = |text: &str| (!text.is_empty()).then(|| moment(text));
        let deprecated = routes.iter().map(|(route, since, sunset)| {
            let link = Some("https://docs.example/v2".into());
            let deprecation = Deprecation::new(date(since), date(sunset), link, None).unwrap();
            ((*route).into(), Arc::new(deprecation))
        });
        FindingRules { deprecated: Some(Arc::new(deprecated.collect())), ..FindingRules::default() }
    }

    fn found(token: &TokenUsage, rules: &FindingRules) -> Option<Finding> {
        let found = findings(token, rules, NOW.parse().unwrap());
        found.into_iter().find(|finding| finding.kind == FindingKind::DeprecatedRoute)
    }

    #[test]
    fn severity_depends_on_the_sunset() {
        for (sunset, severity) in [
            ("2026-11-28", Severity::High),
            ("2026-11-29", Severity::Medium),
            ("2026-12-28", Severity::Medium),
            ("2026-12-29", Severity::Low),
            ("", Severity::Low),
        ] {
            let rules = rules(&[("/items", "2026-01-01", sunset)]);
            assert_eq!(found(&good_token(), &rules).unwrap().severity, severity, "{sunset}");
        }
    }

    #[test]
    fn finding_names_the_calls_and_the_end_of_the_route() {
        let rules = rules(&[("/items", "2026-01-01", "2026-12-31")]);
        let found = found(&good_token(), &rules).unwrap();
        assert_eq!(found.evidence, "9 requests of GET /items, the last on 2026-11-20.");
        assert_eq!(
            found.advice,
            "Let its integration stop these calls: /items ends on 2026-12-31 (https://docs.example/v2)."
        );
        assert_eq!((found.token.as_str(), found.abilities), ("17", vec!["items:read".to_owned()]));
        assert_eq!(found.since.map(|since| since.to_string()), Some("2026-11-20T00:00:00Z".to_owned()));
    }

    #[test]
    fn routes_of_a_token_are_one_finding_with_the_earliest_sunset_first() {
        let all = |ability: &str| UsageRow {
            requirement: "{all: [a, b]}".to_owned(),
            ..row(Some(ability), "/both", 5)
        };
        let usage = vec![row(Some("items:read"), "/items", 9), all("a"), all("b"), row(None, "/other", 3)];
        let token = TokenUsage { usage, ..good_token() };
        let rules = rules(&[("/items", "", ""), ("/both", "", "2026-11-01"), ("/never", "", "2026-11-01")]);
        let found = found(&token, &rules).unwrap();
        assert_eq!(
            found.evidence,
            "5 requests of GET /both, the last on 2026-11-20; 9 requests of GET /items, the last on 2026-11-20."
        );
        assert_eq!(
            found.advice,
            "Let its integration stop these calls: /both may have ended, its sunset was 2026-11-01 \
             (https://docs.example/v2); /items is deprecated (https://docs.example/v2)."
        );
        assert_eq!((found.severity, found.abilities.len()), (Severity::High, 3));
    }

    #[test]
    fn denied_calls_and_calls_before_the_deprecation_are_none() {
        let denied = TokenUsage { usage: vec![row(Some("items:read"), "/items", -9)], ..good_token() };
        let expired = TokenUsage { expires_at: "2026-11-27T00:00:00Z".parse().ok(), ..good_token() };
        for (token, since, is_found) in [
            (good_token(), "2026-11-20", true),
            (good_token(), "2026-11-21", false),
            // An announcement: the route will be deprecated.
            (good_token(), "2026-12-01", true),
            (good_token(), "", true),
            (denied, "", false),
            (expired, "", false),
        ] {
            let rules = rules(&[("/items", since, "")]);
            assert_eq!(found(&token, &rules).is_some(), is_found, "{since} {token:?}");
        }
        assert!(found(&good_token(), &FindingRules::default()).is_none());
    }
}
