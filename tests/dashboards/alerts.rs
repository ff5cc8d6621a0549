//! Rules and alerts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Query, deploy, list, scene, text, yaml};

fn rules() -> Vec<Value> {
    let file = yaml("prometheus/rules.yml");
    list(&file["groups"]).iter().flat_map(|group| list(&group["rules"])).cloned().collect()
}

fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule["alert"].is_string()).collect()
}

/// The names of the recorded series.
pub(super) fn recorded() -> BTreeSet<String> {
    rules().iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)).collect()
}

/// The queries of rules and alerts.
pub(super) fn queries() -> Vec<Query> {
    let place = |rule: &Value| format!("rules.yml, {}{}", text(&rule["record"]), text(&rule["alert"]));
    rules().iter().map(|rule| Query { place: place(rule), text: text(&rule["expr"]).to_owned() }).collect()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
#[ignore = "needs promtool: tests/run"]
fn promtool_accepts_configuration_and_rules() {
    for (what, file) in
        [("check config", "prometheus.yml"), ("check rules", "rules.yml"), ("test rules", "rules.test.yml")]
    {
        let file = deploy("prometheus").join(file);
        let words: Vec<&str> = what.split(' ').chain([file.to_str().unwrap()]).collect();
        promtool(&words);
    }
}

/// Checks names, types, help and format by promtool, after traffic of every kind.
#[test]
#[ignore = "needs promtool: tests/run"]
fn promtool_accepts_a_scrape() {
    let env = scene::start("redis+unix:///nowhere");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let scrape = env.gateway.metrics().0;
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), scrape.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// Each alert has a runbook with the steps to diagnose and fix it.
#[test]
fn every_alert_has_a_runbook() {
    let runbooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations/runbooks");
    let files = fs::read_dir(&runbooks).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let pages: BTreeSet<String> = files.collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.iter().map(|alert| text(&alert["alert"])).collect();
    assert!(names.len() > 20, "{names:?}");
    let expected: BTreeSet<String> = names.iter().map(|name| format!("{name}.md")).collect();
    assert_eq!(pages, expected, "alerts and runbooks");
    let index = fs::read_to_string(runbooks.with_file_name("alerts.md")).unwrap();
    for alert in &alerts {
        let (name, annotations) = (text(&alert["alert"]), &alert["annotations"]);
        let severity = text(&alert["labels"]["severity"]);
        assert!(["critical", "warning"].contains(&severity), "{name}");
        assert!(!text(&annotations["summary"]).is_empty(), "{name}");
        assert!(text(&annotations["description"]).ends_with('.'), "{name}");
        let runbook = format!("docs/operations/runbooks/{name}.md");
        assert_eq!(text(&annotations["runbook"]), runbook, "{name}");
        let page = fs::read_to_string(runbooks.join(format!("{name}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        for heading in ["\n## Check\n", "\n## Fix\n\n- "] {
            assert!(page.contains(heading), "{name} lacks {heading}");
        }
        let stated = page.lines().find_map(|line| line.strip_prefix("**Severity:** ")).unwrap();
        assert!(stated.split(", ").any(|it| it == severity), "{name}: {stated}");
        let row = index
            .lines()
            .find(|line| line.starts_with(&format!("| [{name}](runbooks/{name}.md) | {stated} |")));
        assert!(row.is_some(), "{name} is not in alerts.md");
    }
}

/// For each alert and severity, there is a test that it fires and a test that it does not.
#[test]
fn every_alert_has_a_firing_and_a_silent_test() {
    let file = yaml("prometheus/rules.test.yml");
    let checks: Vec<&Value> =
        list(&file["tests"]).iter().flat_map(|test| list(&test["promql_expr_test"])).collect();
    let expressions: BTreeSet<&str> = checks.iter().map(|check| text(&check["expr"])).collect();
    let mut known = BTreeSet::new();
    for alert in alerts() {
        let (name, severity) = (text(&alert["alert"]), text(&alert["labels"]["severity"]));
        let query = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\", severity=\"{severity}\"}}");
        let own = checks.iter().filter(|check| check["expr"] == *query);
        let fires: BTreeSet<bool> = own.map(|check| !list(&check["exp_samples"]).is_empty()).collect();
        assert!(fires.contains(&true), "no test says that {name} ({severity}) fires");
        assert!(fires.contains(&false), "no test says that {name} ({severity}) does not fire");
        known.insert(query);
    }
    let unknown: Vec<_> = expressions.iter().filter(|it| !known.contains(**it)).collect();
    assert!(unknown.is_empty(), "tests of unknown alerts: {unknown:?}");
}
