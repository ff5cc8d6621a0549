//! The reference pages: everything is on exactly one of them, and nothing else.

use std::sync::Arc;

use serde_json::Value;
use stockaj_gateway::internals::policy::refusal::Reason;
use stockaj_gateway::internals::telemetry::access::FIELDS;

use super::{Page, help, output, pages, read};
use crate::support::{Authority, TestEnv};

fn reference_pages() -> Vec<Page> {
    let pages: Vec<Page> =
        pages().into_iter().filter(|page| page.path.starts_with("docs/reference/")).collect();
    assert_eq!(pages.len(), 7);
    pages
}

/// The names in the first column of a page's tables, and in its headings.
fn entries(page: &Page) -> Vec<String> {
    let prose = page.prose();
    let lines = prose.lines().filter_map(|line| match line.strip_prefix("| ") {
        Some(row) => Some(row.split(" |").next().unwrap()),
        None => line.starts_with("## `").then_some(line),
    });
    lines.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn commands() -> Vec<String> {
    let help = help(&[]);
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A command's description may continue in the next line.
    let lines = lines.filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next()).filter(|command| *command != "help");
    names.map(str::to_owned).collect()
}

#[test]
fn reasons_and_log_fields_are_documented_in_order() {
    let page =
        reference_pages().into_iter().find(|page| page.path.ends_with("log-fields-and-reasons.md")).unwrap();
    let section = |heading: &str| {
        let text = page.text.split(&format!("\n## {heading}\n")).nth(1).expect("the heading");
        let text = text.split("\n## ").next().unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        rows.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(section("Access log"), FIELDS);
    assert_eq!(section("Reasons"), Reason::ALL.map(Reason::as_str));
}

/// The names that each reference page must contain, and that no other reference page may contain as metrics.
#[test]
fn everything_is_on_its_reference_page_once() {
    let schema: Value = serde_json::from_str(&output(&["schema"])).unwrap();
    let sections: Vec<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    let commands = commands();
    assert!(commands.len() >= 13 && sections.len() >= 20, "{commands:?} {sections:?}");
    let pages = reference_pages();
    for (file, names) in [
        ("docs/reference/configuration.md", sections),
        ("docs/reference/commands.md", commands),
        ("docs/reference/metrics.md", metrics()),
        ("docs/reference/log-fields-and-reasons.md", Reason::ALL.map(|it| it.as_str().to_owned()).to_vec()),
        ("docs/reference/log-fields-and-reasons.md", FIELDS.iter().map(|it| (*it).to_owned()).collect()),
    ] {
        for name in names {
            for page in &pages {
                let found = entries(page).iter().filter(|entry| **entry == name).count();
                if page.path == file {
                    // `client` and `request_id` are fields of audit lines, too.
                    assert!(
                        found == 1 || (found == 2 && file.contains("log-fields")),
                        "{file}: `{name}`: {found}"
                    );
                } else if name.starts_with("stockaj_gateway_") {
                    assert_eq!(found, 0, "{}: `{name}` belongs to {file}", page.path);
                }
            }
        }
    }
}

/// The metrics of a gateway with every feature.
fn metrics() -> Vec<String> {
    let env = TestEnv::builder()
        .token("1|reader", &["items:read"])
        .tls(&Arc::new(Authority::new()))
        .yaml("redis: {url: redis+unix:///nowhere}\ntraces: {otlp_endpoint: \"unix:/nowhere\"}\n")
        .yaml("mode: shadow\nshadow_authentication: true\n")
        .yaml("rate_limit: {shared: true, quota: {requests: 100, per: day}}\n")
        .yaml("usage: {path: usage.redb, flush_interval: 100ms, findings: {least_age: 0s}}\n")
        .start();
    assert_eq!(env.gateway.get("/api/v2/items", Some("1|reader")).status, 200);
    env.gateway.wait_for_metric("usage_requests_total", 1.0);
    env.gateway.wait_for_metric(r#"usage_findings{kind="no_expiry"}"#, 1.0);
    assert_eq!(env.gateway.get("/api/v2/items", None).status, 200, "needed for the metrics of shadow mode");
    let scrape = env.gateway.metrics().0;
    let names = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn documented_metrics_are_those_of_a_running_gateway() {
    let metrics = metrics();
    let page = reference_pages().into_iter().find(|page| page.path.ends_with("/metrics.md")).unwrap();
    let documented: Vec<String> = entries(&page)
        .into_iter()
        .filter(|entry| entry.starts_with("stockaj_gateway_") || entry.starts_with("process_"))
        .collect();
    assert!(documented.len() > 30, "{documented:?}");
    for name in &documented {
        assert!(metrics.contains(name), "{name} is not a metric");
    }
    for name in &metrics {
        assert!(documented.contains(name), "{name} is not documented");
    }
}

/// Every page names only metrics of the reference.
#[test]
fn metrics_in_pages_exist() {
    let known = read("docs/reference/metrics.md");
    let mut count = 0;
    for page in pages() {
        for rest in page.text.split("stockaj_gateway_").skip(1) {
            let end = rest.find(|it: char| !it.is_ascii_lowercase() && it != '_').unwrap_or(rest.len());
            let name = ["_bucket", "_count", "_sum"]
                .iter()
                .fold(&rest[..end], |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
            assert!(
                known.contains(&format!("| `stockaj_gateway_{name}`")),
                "{}: stockaj_gateway_{name} is not in docs/reference/metrics.md",
                page.path
            );
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}

/// Quoted log lines in runbooks and messages in shown lines are messages of the program.
#[test]
fn log_lines_in_pages_exist() {
    let sources = sources(std::path::Path::new("src"));
    let mut count = 0;
    for page in pages().iter().filter(|page| page.path.starts_with("docs/operations/runbooks/")) {
        let prose = page.prose().replace('\n', " ");
        for quoted in prose.split('"').skip(1).step_by(2).filter(|it| it.contains(' ')) {
            let words: Vec<&str> = quoted.split_whitespace().collect();
            let quoted = words.join(" ");
            assert!(sources.contains(&quoted), "{}: no log line \"{quoted}\"", page.path);
            count += 1;
        }
    }
    assert!(count > 8, "{count}");
    for page in pages() {
        for block in page.blocks("json") {
            for rest in block.split("\"message\":\"").skip(1) {
                let message = rest.split('"').next().unwrap();
                assert!(
                    sources.contains(&format!("\"{message}\"")) || message == "request",
                    "{}: {message}",
                    page.path
                );
            }
        }
    }
}

fn sources(directory: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        text += &if entry.is_dir() { sources(&entry) } else { std::fs::read_to_string(&entry).unwrap() };
    }
    text
}
