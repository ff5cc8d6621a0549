use std::collections::BTreeSet;

use jiff::civil::date;

use super::super::addresses::AddressSketch;
use super::super::overview::PAGE_SIZE;
use super::super::report::{DayUsage, FindingKind, Report, Severity, UsageRow, Verdict};
use super::*;

fn context(query: &str, served: bool) -> PageContext {
    let created_at = "2026-11-28T09:12:34Z".parse().unwrap();
    let query = ReportQuery::parse(query).unwrap();
    let tokens = [("2", "reporting-prod"), ("3", "scanner"), ("b-1", "mobile-app-v2")];
    let tokens = tokens.map(|(id, name)| TokenName::of(id, Some(name))).into();
    PageContext { query, since: Some(date(2026, 10, 30)), created_at, served, tokens }
}

fn row(ability: Option<&str>, route: &str, verdict: Verdict, count: u64) -> UsageRow {
    UsageRow {
        ability: ability.map(str::to_owned),
        route: route.to_owned(),
        verdict,
        count,
        methods: [("GET".to_owned(), count)].into(),
        days: [(date(2026, 11, 2), count)].into(),
        requirement: ability.unwrap_or("deny").to_owned(),
        parameter: None,
        shadow: 0,
    }
}

fn token(id: &str, name: &str, abilities: &[&str], usage: Vec<UsageRow>) -> TokenUsage {
    let mut calls = Calls::default();
    usage.iter().for_each(|row| calls.add(row.verdict, row.count));
    let day = DayUsage {
        allowed: calls.allowed,
        denied: calls.denied,
        plain_http: 0,
        wrong_network: 0,
        addresses: AddressSketch::default(),
    };
    TokenUsage {
        id: id.to_owned(),
        name: Some(name.to_owned()),
        abilities: abilities.iter().map(|&name| name.to_owned()).collect(),
        addresses: 2,
        last_seen: Some("2026-11-02T10:20:30Z".parse().unwrap()),
        usage,
        days: [(date(2026, 11, 2), day)].into(),
        ..TokenUsage::default()
    }
}

fn finding(kind: FindingKind, severity: Severity, of: &TokenUsage) -> Finding {
    Finding {
        kind,
        severity,
        token: of.id.clone(),
        name: of.name.clone(),
        abilities: of.abilities.clone(),
        since: None,
        evidence: "Seen.".to_owned(),
        advice: "Make another token.".to_owned(),
    }
}

fn report() -> Report {
    use Verdict::{Allowed, Denied};
    let items = "/api/v2/items/{id}";
    let tokens = vec![
        token(
            "2",
            "reporting-prod",
            &["items:read", "rents:read"],
            vec![row(Some("items:read"), items, Allowed, 1500)],
        ),
        token(
            "3",
            "scanner",
            &["items:read", "kiosk:scan"],
            vec![
                row(Some("kiosk:scan"), "/api/v2/kiosk/scan", Allowed, 40),
                row(Some("items:delete"), items, Denied, 310),
                row(None, "unmapped", Denied, 4),
            ],
        ),
        token("b-1", "mobile-app-v2", &["*"], vec![row(Some("items:read"), items, Allowed, 7)]),
    ];
    let findings = vec![
        finding(FindingKind::RepeatedDenials, Severity::High, &tokens[1]),
        finding(FindingKind::Wildcard, Severity::Medium, &tokens[2]),
        finding(FindingKind::UnusedAbilities, Severity::Low, &tokens[1]),
    ];
    Report { tokens, findings, ..Report::default() }
}

/// Approximates the visible text: without tags, with single spaces.
fn text(page: &str) -> String {
    let body = page.split("<body>").nth(1).unwrap();
    let text = body.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text);
    text.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Asserts what must hold for every page.
fn assert_valid(page: &str) {
    for word in [
        "<script",
        "javascript:",
        "http:",
        "https:",
        "url(",
        "@import",
        " src=",
        " style=",
        "\" onmouseover=",
    ] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("<h1>").count(), 1);
    assert_eq!(page.matches("<table").count(), page.matches("<caption").count());
    assert_eq!(page.matches("<th ").count(), page.matches(" scope=\"").count());
    assert!(!page.contains("<th>"));
    let ids: Vec<&str> = page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{ids:?}");
    let labels = page.split("aria-labelledby=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    labels.for_each(|label| assert!(ids.contains(&label), "{label}"));
}

#[test]
fn page_of_all_tokens_shows_findings_charts_and_tokens() {
    let query = ReportQuery::default();
    let page = overview(&Overview::of(&report(), &query), &context("since=30d", true));
    assert_valid(&page);
    let text = text(&page);
    for expected in [
        "Since 2026-10-30 , by day in UTC; as of 2026-11-28 09:12 ; stockaj-gateway",
        "Tokens 3 Requests 1,861 Denied 314 Findings 3",
        "today Denied again and again 1 token",
        "items:read 1,507 0 2 2",
        "items:delete 0 310 0 0",
        "Requests: 1,861 in total, at most 1,861 on 2026-11-02",
        "/api/v2/items/{id} items:delete 310 1",
        "unmapped – 4 1",
        // The token with the most urgent findings is first.
        "scanner 3 – 1 of 2 354 314 2 2026-11-02 10:20 1 today 1 next rotation mobile-app-v2 b-1 – 1 of all 7",
        "reporting-prod 2 – 1 of 2 1,500 0 2 2026-11-02 10:20 none",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(page.contains("<a href=\"?since=30d&amp;token=b-1\"><bdi>mobile-app-v2</bdi>"), "{page}");
    assert!(page.contains("<option value=\"30d\" selected>last 30 days"));
}

#[test]
fn page_of_one_token_shows_its_abilities_and_routes() {
    let report = report();
    let about = &report.tokens[1];
    let page = super::token(about, &report.findings[..1], &context("token=3", true));
    assert_valid(&page);
    let text = text(&page);
    for expected in [
        "Token 3 All tokens",
        "Name scanner",
        "Expires never",
        "Requests 354 Denied 314 Addresses 2 Findings 1",
        "today Denied again and again Seen. Make another token. items:read , kiosk:scan",
        "items:delete missing 0 310 items:read never used 0 0 kiosk:scan used 40 0",
        "/api/v2/items/{id} GET items:delete denied 310 2026-11-02 2026-11-02",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(page.contains("<a href=\"?\">All tokens</a>"));
    assert_valid(&unknown_token("<b>", &context("token=%3Cb%3E", true)));
}

#[test]
fn form_offers_tokens_by_name_and_id() {
    let page = |context: &PageContext| overview(&Overview::of(&report(), &context.query), context);
    let all = page(&context("", true));
    assert_valid(&all);
    assert!(all.contains("<option value=\"\" selected>all tokens</option>"), "{all}");
    assert!(all.contains("<option value=\"3\">scanner (3)</option>"), "{all}");
    assert!(!all.contains("<input"), "a token is selected, not typed");
    let one = page(&context("token=3", true));
    assert!(one.contains("<option value=\"3\" selected>scanner (3)</option>"), "{one}");
    // If a token is not offered, or too many are, an id can be typed.
    let other = page(&context("token=99", true));
    assert_valid(&other);
    assert!(other.contains("value=\"99\"") && other.contains("<datalist"), "{other}");
    let mut context = context("", true);
    context.tokens = (0..=MAX_OFFERED_TOKENS).map(|id| TokenName::of(&id.to_string(), None)).collect();
    let many = page(&context);
    assert_valid(&many);
    assert!(many.contains("<input") && many.matches("<option").count() == 6 + MAX_OFFERED_TOKENS, "{many}");
}

#[test]
fn findings_of_one_kind_are_one_entry() {
    let tokens = report().tokens;
    let findings = vec![
        finding(FindingKind::Wildcard, Severity::Low, &tokens[0]),
        finding(FindingKind::Wildcard, Severity::High, &tokens[1]),
        finding(FindingKind::Naming, Severity::Low, &tokens[2]),
    ];
    let report = Report { tokens, findings, ..Report::default() };
    let context = context("", true);
    let page = overview(&Overview::of(&report, &context.query), &context);
    assert_valid(&page);
    let text = text(&page);
    assert_eq!(text.matches("May do everything").count(), 2, "title and caption of one entry: {text}");
    for expected in
        ["today May do everything 2 tokens", "scanner 3 today Seen.", "reporting-prod 2 next rotation Seen."]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(text.find("scanner 3 today") < text.find("reporting-prod 2 next"), "the most severe first");
}

#[test]
fn page_in_a_file_has_no_links_and_no_form() {
    let report = report();
    let context = context("", false);
    for page in [
        overview(&Overview::of(&report, &context.query), &context),
        super::token(&report.tokens[0], &[], &context),
        unknown_token("9", &context),
        overview(&Overview::default(), &context),
    ] {
        assert_valid(&page);
        for word in ["<a ", "<form", "<input"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}

#[test]
fn texts_from_outside_cannot_inject_markup() {
    let long = "<script>alert(1)</script>".repeat(400);
    let names = [
        "<script>alert(1)</script>",
        "\" onmouseover=\"alert(1)",
        "'><svg onload=alert(1)>",
        "a\u{202e}b\u{1b}",
        &long,
    ];
    for name in names {
        let mut token = token(name, name, &[name], vec![row(Some(name), name, Verdict::Denied, 1)]);
        token.context = Some(name.to_owned());
        token.usage[0].methods = [(name.to_owned(), 1)].into();
        let finding = Finding {
            evidence: name.to_owned(),
            advice: name.to_owned(),
            ..finding(FindingKind::Naming, Severity::Low, &token)
        };
        let report = Report { tokens: vec![token], findings: vec![finding], ..Report::default() };
        let mut context = context("", true);
        let all = overview(&Overview::of(&report, &context.query), &context);
        context.query.token = Some(name.to_owned());
        for page in
            [all, super::token(&report.tokens[0], &report.findings, &context), unknown_token(name, &context)]
        {
            assert_valid(&page);
            assert!(!page.contains(['\u{202e}', '\u{1b}']) && !page.contains("<svg onload"), "{page}");
            assert!(page.len() < 200_000, "{}", page.len());
        }
    }
}

#[test]
fn page_of_very_many_tokens_is_bounded() {
    const MANY: usize = 20_000;
    let name = "x".repeat(10_000);
    let fold = |query: &str| {
        let context = context(query, true);
        let mut overview = Overview::new(&context.query);
        for number in 0..MANY {
            // Each token has its own ability and route: more than are counted separately.
            let (ability, route) = (format!("made-up:{number}"), format!("/{number}/{name}"));
            let usage = vec![row(Some(&ability), &route, Verdict::Denied, number as u64)];
            let token = token(&number.to_string(), &name, &[&ability], usage);
            overview.add(&token, &[finding(FindingKind::Naming, Severity::Low, &token)]);
        }
        let page = super::overview(&overview, &context);
        assert_eq!(overview.listed_tokens().count(), PAGE_SIZE);
        assert_valid(&page);
        assert!(page.len() < 600_000, "{}", page.len());
        text(&page)
    };
    let first = fold("");
    for expected in [
        "Tokens 20,000 Requests 199,990,000",
        "20,000 tokens",
        "19,950 more tokens",
        "1–200 of 20,000 Next",
        "… 19999 ",
    ] {
        assert!(first.contains(expected), "{expected}");
    }
    let last = fold("page=100");
    assert!(last.contains("19,801–20,000 of 20,000 Previous"));
}

#[test]
fn page_past_the_end_lists_no_token() {
    let context = context("page=9999", true);
    let few = Overview::of(&report(), &context.query);
    let tokens = (0..=PAGE_SIZE).map(|id| token(&id.to_string(), "scanner", &[], vec![])).collect();
    let many = Overview::of(&Report { tokens, ..Report::default() }, &context.query);
    for overview in [&few, &many] {
        let page = super::overview(overview, &context);
        assert_valid(&page);
        let (_, list) = page.split_once("<table class=\"tokens\">").unwrap();
        assert!(list.contains("<tbody></tbody></table>"), "{list}");
    }
    let page = super::overview(&many, &context);
    assert!(text(&page).contains("The list has only 201 tokens. Previous"), "{page}");
    assert!(page.contains("?page=2\" rel=\"prev\"") && !page.contains("rel=\"next\""), "{page}");
}

#[test]
fn policy_of_the_header_field_equals_that_of_the_page() {
    let page = overview(&Overview::default(), &context("", true));
    let policy = policy();
    let inside = policy.strip_suffix("; frame-ancestors 'none'").unwrap();
    assert!(page.contains(&format!("content=\"{inside}\"")), "{policy}");
}

#[test]
fn numbers_are_grouped_by_thousands() {
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (1_234_567, "1,234,567"),
        (u64::MAX, "18,446,744,073,709,551,615"),
    ] {
        assert_eq!(grouped(number), text);
    }
    assert_eq!(share(Calls { allowed: 999, denied: 1 }).unwrap(), "under 1 %");
    assert_eq!(share(Calls { allowed: 1, denied: 3 }).unwrap(), "75 %");
    assert_eq!(share(Calls::default()), None);
}
