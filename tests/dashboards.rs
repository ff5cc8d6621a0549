//! Rules, alerts and the dashboard, checked with a gateway that has all features and a real Prometheus.

mod alerts;
mod compose;
mod panels;
mod scene;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stockaj_gateway::internals::policy::refusal::Reason;

use crate::support::Metrics;

/// A query and its location.
struct Query {
    place: String,
    text: String,
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(deploy(file)).unwrap()
}

fn yaml(file: &str) -> Value {
    serde_yaml::from_str(&read(file)).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_of_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | ':')
}

/// The metrics in a query, each with its matchers as written.
fn selectors(query: &str) -> Vec<(String, String)> {
    let (mut selectors, mut rest, mut quoted) = (Vec::new(), query, false);
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|it| !is_of_a_name(it)).unwrap_or(rest.len());
        quoted ^= first == '"';
        if quoted || length == 0 {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let name = &rest[..length];
        rest = &rest[length..];
        let is_metric = ["stockaj_gateway_", "process_", "up"].iter().any(|it| name.starts_with(it));
        if name.contains(':') || is_metric {
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
            selectors.push((name.to_owned(), inside.unwrap_or_default().to_owned()));
        }
    }
    selectors
}

/// The samples of a metric that satisfy matchers with `=`; ignores labels that Prometheus adds.
fn is_scraped(scrape: &Metrics, name: &str, matchers: &str) -> bool {
    let scraped_by = |matcher: &&str| !["job=", "instance="].iter().any(|it| matcher.starts_with(it));
    let exact = matchers.split(',').map(str::trim).filter(|it| it.contains("=\"") && !it.contains("!=\""));
    let exact: Vec<&str> = exact.filter(scraped_by).collect();
    scrape.0.lines().any(|line| {
        let (its_name, labels) = line.split_once(['{', ' ']).unwrap_or((line, ""));
        its_name == name
            && exact.iter().all(|label| {
                // The reasons in a scrape depend on the traffic, so they have a list of their own.
                let reason = label.strip_prefix("reason=\"").map(|it| it.trim_end_matches('"'));
                labels.contains(label) || reason.is_some_and(is_reason)
            })
    })
}

fn is_reason(word: &str) -> bool {
    Reason::ALL.iter().any(|reason| reason.as_str() == word)
}

#[test]
fn selectors_of_a_query_are_parsed() {
    let found = selectors(
        "sum by (up_to) (rate(stockaj_gateway_a_total{b=\"process_x\", c=~\"d\"}[5m])) / job:e:f > up{g=\"h\"}",
    );
    let expected =
        [("stockaj_gateway_a_total", "b=\"process_x\", c=~\"d\""), ("job:e:f", ""), ("up", "g=\"h\"")];
    let found: Vec<_> = found.iter().map(|(name, matchers)| (&**name, &**matchers)).collect();
    assert_eq!(found.iter().filter(|(name, _)| *name != "up_to").copied().collect::<Vec<_>>(), expected);
}

/// Rules and panels use only scraped metrics and label values, and the series that rules record.
#[test]
fn rules_and_panels_query_only_existing_metrics() {
    let recorded = alerts::recorded();
    let env = scene::start("redis+unix:///nowhere");
    let scrape = env.gateway.metrics();
    let queries: Vec<Query> = alerts::queries().into_iter().chain(panels::queries()).collect();
    assert!(queries.len() > 60, "{}", queries.len());
    let mut named = BTreeSet::new();
    for Query { place, text } in &queries {
        let selectors = selectors(text);
        assert!(!selectors.is_empty(), "{place}: no metric in {text}");
        for (name, matchers) in selectors {
            if name == "up" {
                continue;
            }
            let is_there = recorded.contains(&name) || is_scraped(&scrape, &name, &matchers);
            assert!(is_there, "{place}: no {name}{{{matchers}}} is scraped or recorded");
            named.insert(name);
        }
    }
    let unused: Vec<_> = recorded.difference(&named).collect();
    assert!(unused.is_empty(), "recorded but unused: {unused:?}");
    // Every scraped metric is used in a panel or a rule.
    for name in scrape.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = name.split(' ').next().unwrap();
        let is_shown =
            ["", "_bucket", "_count"].iter().any(|suffix| named.contains(&format!("{name}{suffix}")));
        assert!(is_shown, "{name} is on no panel and in no rule");
    }
}
