use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::usage::report::{DayUsage, UsageRow};

const NOW: &str = "2026-11-28T12:00:00Z";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn day(text: &str) -> Date {
    text.parse().unwrap()
}

/// A row of allowed requests, or denied ones if `count` is negative.
pub(in crate::usage) fn row(ability: Option<&str>, route: &str, count: i64) -> UsageRow {
    UsageRow {
        ability: ability.map(str::to_owned),
        route: route.to_owned(),
        verdict: if count < 0 { Verdict::Denied } else { Verdict::Allowed },
        count: count.unsigned_abs(),
        methods: BTreeMap::from([("GET".to_owned(), count.unsigned_abs())]),
        days: BTreeMap::from([(day("2026-11-20"), count.unsigned_abs())]),
        requirement: ability.unwrap_or_default().to_owned(),
        parameter: None,
        shadow: 0,
    }
}

fn requiring(requirement: &str, row: UsageRow) -> UsageRow {
    UsageRow { requirement: requirement.to_owned(), ..row }
}

/// A token without findings: it used all its abilities this morning.
pub(in crate::usage) fn good_token() -> TokenUsage {
    TokenUsage {
        id: "17".to_owned(),
        name: Some("warehouse-scanner-prod".to_owned()),
        context: Some("instance".to_owned()),
        abilities: vec!["items:read".to_owned()],
        created_at: Some(time("2026-11-01T12:00:00Z")),
        expires_at: Some(time("2026-12-28T12:00:00Z")),
        first_seen: Some(time("2026-11-20T08:00:00Z")),
        last_seen: Some(time("2026-11-28T08:00:00Z")),
        usage: vec![row(Some("items:read"), "/items", 9)],
        days: BTreeMap::from([(day("2026-11-20"), DayUsage { allowed: 9, ..Default::default() })]),
        ..Default::default()
    }
}

fn with_abilities(abilities: &[&str], usage: Vec<UsageRow>) -> TokenUsage {
    TokenUsage { abilities: abilities.iter().map(|it| (*it).to_owned()).collect(), usage, ..good_token() }
}

fn found(token: &TokenUsage) -> Vec<Finding> {
    findings(token, &FindingRules::default(), time(NOW))
}

/// The kinds of findings, and their abilities.
fn kinds(token: &TokenUsage) -> Vec<(FindingKind, Vec<String>)> {
    found(token).into_iter().map(|it| (it.kind, it.abilities)).collect()
}

fn only(token: &TokenUsage) -> Finding {
    let mut found = found(token);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// Asserts that each token has this finding or none, and no other.
fn assert_found(kind: FindingKind, cases: impl IntoIterator<Item = (TokenUsage, bool)>) {
    for (token, expected) in cases {
        let kinds: Vec<FindingKind> = found(&token).iter().map(|it| it.kind).collect();
        assert_eq!(kinds, if expected { vec![kind] } else { vec![] }, "{token:#?}");
    }
}

#[test]
fn token_with_good_practice_has_no_finding() {
    assert_eq!(found(&good_token()), []);
    let unknown = TokenUsage { name: None, context: None, created_at: None, ..good_token() };
    assert_eq!(found(&unknown), [], "fields that introspection omits");
}

#[test]
fn abilities_that_were_never_needed_are_found() {
    let all = "{all: [a, b]}";
    let any = "{any: [b, a]}";
    for (abilities, usage, unused) in [
        (&["a", "b"][..], vec![row(Some("a"), "/a", 1)], &["b"][..]),
        (&["a", "b"], vec![row(Some("a"), "/a", 1), row(Some("b"), "/b", 1)], &[]),
        (&["a", "b"], vec![row(Some("a"), "/a", 1), row(Some("b"), "/b", -1)], &["b"]),
        (&["a", "b"], vec![row(Some("a"), "/a", 1), row(Some("b"), "/b", 0)], &["b"]),
        (&["a", "b"], vec![], &["a", "b"]),
        (&["a", "b"], vec![row(None, "/me", 7)], &["a", "b"]),
        (&["a"], vec![row(Some("a"), "/a", 1), row(Some("z"), "/z", 1)], &[]),
        // A request on an `all` route needs both abilities, whichever row it is in.
        (&["a", "b"], vec![requiring(all, row(Some("a"), "/a", 1))], &[]),
        // A request on an `any` route needs one: one that is needed anyway, or else the first by name.
        (&["a", "b"], vec![requiring(any, row(Some("b"), "/c", 1)), row(Some("a"), "/a", 1)], &["b"]),
        (&["a", "b"], vec![requiring(any, row(Some("b"), "/c", 1)), row(Some("b"), "/b", 1)], &["a"]),
        (&["a", "b"], vec![requiring(any, row(Some("b"), "/c", 1))], &["b"]),
        (&["b", "c"], vec![requiring(any, row(Some("b"), "/c", 1))], &["c"]),
        // An ability that the token has lost cannot be chosen.
        (&["b"], vec![requiring(any, row(Some("a"), "/c", 1))], &[]),
        (&["c"], vec![requiring(any, row(Some("a"), "/c", 1)), row(Some("c"), "/c", 1)], &[]),
        (&[], vec![], &[]),
        (&["*"], vec![], &[]),
    ] {
        let kinds = kinds(&with_abilities(abilities, usage.clone()));
        let unused_found = kinds.iter().find(|(kind, _)| *kind == FindingKind::UnusedAbilities);
        let expected: Vec<String> = unused.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(
            unused_found.map(|(_, abilities)| abilities.clone()).unwrap_or_default(),
            expected,
            "{usage:?}"
        );
    }
}

#[test]
fn unused_abilities_are_reported_with_a_sufficient_set() {
    let usage = vec![row(Some("items:read"), "/items", 5), row(Some("rents:read"), "/rentals", 4)];
    let abilities = ["items:read", "rents:read", "items:delete", "renters:read"];
    let finding = only(&with_abilities(&abilities, usage.clone()));
    assert_eq!((finding.kind, finding.severity), (FindingKind::UnusedAbilities, Severity::Medium));
    assert_eq!(finding.abilities, ["items:delete", "renters:read"]);
    assert_eq!(finding.since, good_token().first_seen);
    assert_eq!(
        finding.evidence,
        "2 of 4 abilities never needed in 9 allowed requests since 2026-11-20: items:delete, renters:read."
    );
    assert_eq!(
        finding.advice,
        "Create a new token with items:read, rents:read instead, or update this token's permissions."
    );
    let finding = only(&with_abilities(&["items:read", "rents:read", "renters:read"], usage));
    assert_eq!(finding.severity, Severity::Low, "the unused ability is read-only");
    let finding = only(&with_abilities(&["items:read"], vec![]));
    assert_eq!(finding.since, good_token().first_seen);
    assert_eq!(
        finding.advice,
        "Revoke this token if nothing needs it, else create a new token with only the abilities that its integration \
         needs instead."
    );
}

#[test]
fn unused_abilities_are_reported_only_after_least_age() {
    let token = with_abilities(&["items:read", "rents:read"], good_token().usage);
    let seen = age(token.first_seen.unwrap(), time(NOW));
    let second = Duration::from_secs(1);
    for (least_age, expected) in
        [(Duration::ZERO, 1), (seen - second, 1), (seen, 1), (seen + second, 0), (Duration::MAX, 0)]
    {
        let rules = FindingRules { least_age, ..Default::default() };
        assert_eq!(findings(&token, &rules, time(NOW)).len(), expected, "{least_age:?}");
    }
    let unknown = TokenUsage { first_seen: None, ..token };
    let rules = FindingRules { least_age: second, ..Default::default() };
    assert_eq!(findings(&unknown, &rules, time(NOW)), []);
    assert_eq!(findings(&unknown, &FindingRules { least_age: Duration::ZERO, ..rules }, time(NOW)).len(), 1);
}

#[test]
fn young_token_has_no_findings() {
    let old = with_abilities(&["*"], good_token().usage);
    let day = "2026-11-22T12:00:00Z";
    let created = TokenUsage { created_at: Some(time(day)), ..old.clone() };
    let seen = TokenUsage { created_at: None, first_seen: Some(time(day)), ..old.clone() };
    let unknown = TokenUsage { created_at: None, first_seen: None, ..old.clone() };
    for (token, expected) in [(&old, 1), (&created, 0), (&seen, 0), (&unknown, 1)] {
        assert_eq!(found(token).len(), expected, "{token:?}");
        let rules = FindingRules { least_age: Duration::ZERO, ..FindingRules::default() };
        assert_eq!(findings(token, &rules, time(NOW)).len(), 1, "{token:?}");
        let rules = FindingRules { least_age: Duration::MAX, ..FindingRules::default() };
        assert_eq!(
            findings(token, &rules, time(NOW)).len(),
            usize::from(expected == 1 && token.first_seen.is_none())
        );
    }
}

#[test]
fn wildcard_token_is_reported_with_the_abilities_it_needs() {
    let token = with_abilities(&["*"], good_token().usage);
    let finding = only(&token);
    assert_eq!((finding.kind, finding.severity), (FindingKind::Wildcard, Severity::High));
    assert_eq!((finding.abilities, finding.since), (vec!["items:read".to_owned()], token.created_at));
    assert_eq!(
        finding.evidence,
        "It has every ability (*); since 2026-11-20 9 allowed requests needed only items:read."
    );
    assert_eq!(finding.advice, "Create a new token with items:read instead, and revoke this one.");
    for (context, severity) in
        [(Some("user"), Severity::Low), (Some("User"), Severity::Low), (None, Severity::Medium)]
    {
        let finding = only(&TokenUsage { context: context.map(str::to_owned), ..token.clone() });
        assert_eq!((finding.kind, finding.severity), (FindingKind::Wildcard, severity));
    }
    // The minimal set never contains `*`.
    let any = requiring("{any: [rents:delete, rents:read]}", row(Some("rents:delete"), "/rentals", 1));
    assert_eq!(only(&with_abilities(&["*", "a"], vec![any])).abilities, ["rents:read"]);
    let unused = TokenUsage { days: BTreeMap::new(), ..with_abilities(&["*"], vec![]) };
    assert_eq!(only(&unused).evidence, "It has every ability (*); none of its requests was allowed.");
}

#[test]
fn many_addresses_on_one_day_are_found() {
    let on = |days: &[(&str, u32)]| {
        let mut token = good_token();
        for (date, addresses) in days {
            let usage = token.days.entry(day(date)).or_default();
            (0..*addresses).for_each(|number| usage.addresses.insert(Ipv4Addr::from(number).into()));
        }
        token
    };
    assert_found(
        FindingKind::ManyAddresses,
        [
            (on(&[("2026-11-20", 9)]), false),
            (on(&[("2026-11-20", 10)]), true),
            (on(&[("2026-11-20", 11)]), true),
            // The address of a client may change within a month.
            (on(&[("2026-11-20", 9), ("2026-11-21", 9), ("2026-11-22", 9)]), false),
        ],
    );
    let finding = only(&on(&[("2026-11-20", 9), ("2026-11-21", 12), ("2026-11-22", 17), ("2026-11-23", 17)]));
    assert_eq!(finding.since, Some(time("2026-11-21T00:00:00Z")));
    assert_eq!(finding.evidence, "About 17 addresses on 2026-11-22; 10 or more on 3 days.");
}

#[test]
fn age_silence_and_missing_expiry_are_found_at_their_limits() {
    let at = |text: &str| Some(time(text));
    let created = |text| TokenUsage { created_at: at(text), ..good_token() };
    assert_found(
        FindingKind::OldToken,
        [
            (created("2026-08-30T12:00:01Z"), false),
            (created("2026-08-30T12:00:00Z"), true),
            (created("2026-08-30T11:59:59Z"), true),
            (created("2027-01-01T00:00:00Z"), false),
            (TokenUsage { created_at: None, ..good_token() }, false),
        ],
    );
    let finding = only(&created("2026-08-01T12:00:00Z"));
    assert_eq!(finding.since, at("2026-10-30T12:00:00Z"));
    assert_eq!(finding.evidence, "Created on 2026-08-01, 119 days ago; the limit is 90 days.");
    assert_eq!(
        finding.advice,
        "Create a new token with items:read, give it to the integration, and revoke this one."
    );

    let seen = |text| TokenUsage { last_seen: at(text), ..good_token() };
    assert_found(
        FindingKind::Silent,
        [
            (seen("2026-10-29T12:00:01Z"), false),
            (seen("2026-10-29T12:00:00Z"), true),
            (seen("2026-10-29T11:59:59Z"), true),
            (TokenUsage { last_seen: None, ..good_token() }, false),
        ],
    );
    let finding = only(&seen("2026-10-01T12:00:00Z"));
    assert_eq!(finding.since, at("2026-10-01T12:00:00Z"));
    assert_eq!(finding.evidence, "Its last request was on 2026-10-01, 58 days ago.");

    assert_found(FindingKind::NoExpiry, [(TokenUsage { expires_at: None, ..good_token() }, true)]);
    let finding = only(&TokenUsage { expires_at: None, ..good_token() });
    assert_eq!(finding.advice, "Create a new token that expires within 90 days, and revoke this one.");
}

#[test]
fn plain_http_has_high_severity() {
    let plain = |requests| {
        let mut token = good_token();
        token.days.entry(day("2026-11-22")).or_default().plain_http = requests;
        token
    };
    assert_found(FindingKind::PlainHttp, [(plain(0), false), (plain(1), true)]);
    let finding = only(&plain(1));
    assert_eq!((finding.severity, finding.since), (Severity::High, Some(time("2026-11-22T00:00:00Z"))));
    assert_eq!(finding.evidence, "1 request by plain HTTP, the last on 2026-11-22.");
}

#[test]
fn requests_from_a_wrong_network_have_medium_severity() {
    let outside = |days: &[(&str, u64)]| {
        let mut token = good_token();
        for (date, requests) in days {
            token.days.entry(day(date)).or_default().wrong_network = *requests;
        }
        token
    };
    assert_found(
        FindingKind::WrongNetwork,
        [(outside(&[("2026-11-22", 0)]), false), (outside(&[("2026-11-22", 1)]), true)],
    );
    let finding = only(&outside(&[("2026-11-22", 3), ("2026-11-24", 1)]));
    assert_eq!((finding.severity, finding.since), (Severity::Medium, Some(time("2026-11-22T00:00:00Z"))));
    assert_eq!(
        finding.evidence,
        "4 requests from outside the networks of the token or of the route, the last on 2026-11-24."
    );
    assert!(finding.advice.contains("somebody else has the token"), "{}", finding.advice);
}

#[test]
fn repeated_denials_are_distinguished_from_probing() {
    let denied =
        |rows: Vec<UsageRow>| TokenUsage { usage: [good_token().usage, rows].concat(), ..good_token() };
    assert_found(
        FindingKind::RepeatedDenials,
        [
            (denied(vec![row(Some("items:update"), "/items/{id}", -4)]), false),
            (denied(vec![row(Some("items:update"), "/items/{id}", -5)]), true),
            (denied(vec![row(Some("items:update"), "/items/{id}", -6)]), true),
            (denied(vec![row(None, "unmapped", -5)]), true),
            // The token has received the ability since.
            (denied(vec![row(Some("items:read"), "/items/{id}", -50)]), false),
            // Both abilities were missing for the same four requests.
            (
                denied(
                    ["a", "b"]
                        .map(|name| requiring("{all: [a, b]}", row(Some(name), "/exports", -4)))
                        .to_vec(),
                ),
                false,
            ),
        ],
    );
    let finding = only(&denied(vec![
        row(Some("rents:read"), "/rentals", -3),
        row(Some("items:update"), "/items/{id}", -9),
        requiring("{any: [renters:read, rents:read]}", row(Some("renters:read"), "/reports/{*rest}", -1)),
    ]));
    assert_eq!(finding.severity, Severity::Medium);
    assert_eq!(finding.abilities, ["items:update", "rents:read"]);
    assert_eq!(finding.since, Some(time("2026-11-20T00:00:00Z")));
    assert_eq!(
        finding.evidence,
        "13 denied requests on 3 routes: GET /items/{id} (9), GET /rentals (3), GET /reports/{*rest} (1); \
         missing items:update, rents:read."
    );
    assert_eq!(
        finding.advice,
        "If it needs items:update, rents:read, create a new token with items:read, items:update, rents:read or update \
         this token's permissions; else let its integration stop these calls."
    );
    let all = requiring("{all: [items:read, rents:read]}", row(Some("rents:read"), "/exports", -5));
    assert_eq!(only(&denied(vec![all])).abilities, ["rents:read"], "the token has one of both");
    let finding = only(&denied(vec![row(None, "/internal", -7)]));
    assert_eq!((finding.severity, finding.abilities.len()), (Severity::Medium, 0));
    assert!(finding.advice.starts_with("No token may make these calls: "), "{}", finding.advice);

    let many = |routes: usize, abilities: usize| {
        let rows = (0..routes)
            .map(|number| row(Some(&format!("a{}", number % abilities)), &format!("/{number}"), -2));
        only(&denied(rows.collect())).severity
    };
    assert_eq!(many(5, 4), Severity::High);
    assert_eq!(many(5, 3), Severity::Medium, "an integration that lacks three abilities");
    assert_eq!(many(4, 4), Severity::Medium);
    assert_eq!(many(40, 30), Severity::High);
}

#[test]
fn disabled_rules_find_nothing() {
    let rules = FindingRules {
        rotation_age: None,
        silent_after: None,
        addresses: None,
        denials: None,
        environments: None,
        ..Default::default()
    };
    let mut token = TokenUsage {
        name: Some("x".to_owned()),
        created_at: Some(Timestamp::MIN),
        last_seen: Some(Timestamp::MIN),
        usage: vec![row(Some("items:read"), "/items", 9), row(Some("a"), "/a", -99)],
        ..good_token()
    };
    let usage = token.days.entry(day("2026-11-20")).or_default();
    (0..99).for_each(|number| usage.addresses.insert(Ipv4Addr::from(number).into()));
    assert_eq!(findings(&token, &rules, time(NOW)), []);
    assert_eq!(found(&token).len(), 5);
}

#[test]
fn expired_token_is_not_to_be_replaced() {
    let expiring = |expires_at: &str| TokenUsage {
        name: Some("x".to_owned()),
        created_at: Some(Timestamp::MIN),
        last_seen: Some(Timestamp::MIN),
        expires_at: Some(time(expires_at)),
        ..with_abilities(&["*"], good_token().usage)
    };
    assert_eq!(found(&expiring("2026-11-28T12:00:01Z")).len(), 4);
    let mut token = expiring(NOW);
    assert_eq!(found(&token), []);
    token.usage.push(row(None, "unmapped", -5));
    let usage = token.days.entry(day("2026-11-20")).or_default();
    (usage.plain_http, usage.wrong_network) = (3, 3);
    for finding in found(&token) {
        assert!(!finding.advice.contains("revoke"), "{finding:?}");
    }
    assert_eq!(found(&token).len(), 3);
}

#[test]
fn findings_are_sorted_by_severity_kind_and_token() {
    let tokens = ["9", "10", "a", "2"].map(|id| TokenUsage {
        id: id.to_owned(),
        expires_at: None,
        name: Some("x".to_owned()),
        ..good_token()
    });
    let mut loud = TokenUsage { id: "1000".to_owned(), ..good_token() };
    loud.days.entry(day("2026-11-20")).or_default().plain_http = 1;
    let mut report = Report { tokens: [&tokens[..], &[loud]].concat(), ..Default::default() };
    report.assess(&FindingRules::default(), time(NOW));
    let order: Vec<(FindingKind, &str)> = report.findings.iter().map(|it| (it.kind, &*it.token)).collect();
    let expected = ["2", "9", "10", "a"];
    let expected: Vec<_> = [(FindingKind::PlainHttp, "1000")]
        .into_iter()
        .chain(expected.map(|id| (FindingKind::NoExpiry, id)))
        .chain(expected.map(|id| (FindingKind::Naming, id)))
        .collect();
    assert_eq!(order, expected);
}

#[test]
fn evidence_is_bounded() {
    let long = "x".repeat(1000);
    let rows = (0..100).map(|number| row(Some(&format!("{number}{long}")), &format!("/{number}{long}"), -9));
    let mut token = with_abilities(&["*"], rows.clone().collect());
    token.usage.extend(rows.map(|it| UsageRow { verdict: Verdict::Allowed, ..it }));
    token.abilities = (0..100).map(|number| format!("b{number}{long}")).collect();
    for finding in found(&token) {
        assert!(finding.evidence.len() < 3000, "{} bytes", finding.evidence.len());
    }
    assert!(found(&token)[0].evidence.contains("… and 92 more."), "{}", found(&token)[0].evidence);
}

#[test]
fn ability_that_a_parameter_required_is_used() {
    let with_parameter = |row: UsageRow| UsageRow { parameter: Some("include=renters".to_owned()), ..row };
    let used = row(Some("items:read"), "/items", 9);
    let renters = |count| with_parameter(row(Some("renters:read"), "/items", count));
    let granted = &["items:read", "renters:read"];
    let unused = (FindingKind::UnusedAbilities, vec!["renters:read".to_owned()]);
    assert_eq!(kinds(&with_abilities(granted, vec![used.clone()])), [unused]);
    assert_eq!(kinds(&with_abilities(granted, vec![used.clone(), renters(2)])), []);
    // Denied by its query: the advice names the ability.
    let other = with_parameter(row(None, "/items", -3));
    let other = UsageRow { parameter: Some("debug".to_owned()), ..requiring("deny", other) };
    let denied = only(&with_abilities(&["items:read"], vec![used, renters(-4), other]));
    assert_eq!(
        (denied.kind, denied.abilities),
        (FindingKind::RepeatedDenials, vec!["renters:read".to_owned()])
    );
    assert!(
        denied.evidence.starts_with("7 denied requests on 1 route: GET /items (7)"),
        "{}",
        denied.evidence
    );
}
