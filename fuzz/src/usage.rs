//! Untrusted usage reports: adding, assessing and rendering them must not panic.

use jiff::Timestamp;
use stockaj_gateway::internals::config::settings::FindingRules;
use stockaj_gateway::internals::usage::findings::findings;
use stockaj_gateway::internals::usage::overview::{Calls, Overview};
use stockaj_gateway::internals::usage::page::{self, PageContext};
use stockaj_gateway::internals::usage::query::ReportQuery;
use stockaj_gateway::internals::usage::report::Report;

pub fn check(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<Report>(data) else { return };
    let (rules, now) = (FindingRules::default(), Timestamp::UNIX_EPOCH);
    let mut sum = Report::default();
    if sum.add(read.clone()).is_err() {
        return;
    }
    sum.assess(&rules, now);
    let text = serde_json::to_string(&sum).expect("a report is JSON");
    assert_eq!(serde_json::from_str::<Report>(&text).expect("it can be read again"), sum);

    let mut twice = sum.clone();
    twice.add(Report { ledgers: Default::default(), ..read }).expect("as much as before");
    assert_eq!(twice.tokens.len(), sum.tokens.len());
    for (one, both) in sum.tokens.iter().zip(&twice.tokens) {
        assert_eq!(one.id, both.id);
        let (one, both) = (Calls::of(one), Calls::of(both));
        assert!(both.allowed >= one.allowed && both.denied >= one.denied);
    }

    for served in [false, true] {
        let context = PageContext {
            query: ReportQuery::default(),
            since: sum.since,
            created_at: now,
            served,
            tokens: Vec::new(),
        };
        check_page(&page::overview(&Overview::of(&sum, &context.query), &context));
        for token in sum.tokens.iter().take(3) {
            check_page(&page::token(token, &findings(token, &rules, now), &context));
        }
    }
}

/// The page has nothing that a browser would run or load.
fn check_page(page: &str) {
    let page = page.to_ascii_lowercase();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>"));
    assert!(!page.contains("<script") && !page.contains("<img"));
    assert!(!page.chars().any(|it| it.is_control() && it != '\n'));
}
