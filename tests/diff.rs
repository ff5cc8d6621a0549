//! `diff`: which requests a changed map denies or allows, and its exit codes.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{BINARY, PATIENCE, TestEnv, Verdict};

const SHIPPED: &str = "config/stockaj.yaml";
const CANDIDATE: &str = "tests/maps/candidate.yaml";

/// Exit code, standard output and standard error.
fn diff(words: &[&str]) -> (i32, String, String) {
    let output = Command::new(BINARY).arg("diff").args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn diff_exits_1_only_for_a_changed_decision() {
    assert_eq!(diff(&[SHIPPED, SHIPPED]), (0, "no difference\n".to_owned(), String::new()));
    // A gateway.yaml next to its map file.
    assert_eq!(diff(&["config/gateway.yaml", SHIPPED]).0, 0);
    let (exit, told, said) = diff(&[SHIPPED, CANDIDATE]);
    assert_eq!((exit, &*said), (1, ""));
    assert!(told.contains("\n  PUT PATCH /api/v2/items/search: tokens with items:update\n"), "{told}");
}

#[test]
fn diff_errors_exit_with_another_code_than_changes() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let broken = file("broken.yaml", "routes: {/up: {GET: public, PUTT: public}}\n");
    let report = file("usage.json", "{\"tokens\": 1}");
    for words in [
        &[SHIPPED][..],
        &[SHIPPED, "absent.yaml"],
        &[&*broken, SHIPPED],
        &[SHIPPED, &*broken],
        &[SHIPPED, CANDIDATE, "--usage", "absent.json"],
        &[SHIPPED, CANDIDATE, "--usage", &*report],
    ] {
        let (exit, told, said) = diff(words);
        assert_eq!((exit, &*told), (2, ""), "{words:?}");
        assert!(!said.is_empty(), "{words:?}");
    }
    assert!(diff(&[SHIPPED, &broken]).2.contains("PUTT"));
}

#[test]
fn diff_json_names_tokens_and_locations() {
    let (exit, told, _) = diff(&[SHIPPED, CANDIDATE, "--format", "json"]);
    assert_eq!(exit, 1);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["changed"], true);
    let changes = told["changes"].as_array().unwrap();
    let restore = changes.iter().find(|it| it["path"] == "/api/v2/items/{id}/restore").unwrap();
    assert_eq!(
        *restore,
        json!({
            "methods": ["POST"],
            "path": "/api/v2/items/{id}/restore",
            "sample": "/api/v2/items/1/restore",
            "old": {"route": "/api/v2/items/{id}/restore", "requirement": "items:delete", "place": "config/stockaj.yaml:13"},
            "new": {"route": "/api/v2/items/{id}/restore", "requirement": "items:update", "place": "tests/maps/candidate.yaml:9"},
            "denied": {"without_token": false, "abilities": [["items:delete"]], "text": "tokens with items:delete that lack items:update"},
            "allowed": {"without_token": false, "abilities": [["items:update"]], "text": "tokens with items:update that lack items:delete"},
        })
    );
}

#[test]
fn diff_names_the_tokens_of_recorded_usage() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("usage.json");
    let row = |ability, route, method: &str, count| {
        json!({"ability": ability, "route": route, "verdict": "allowed", "count": count,
               "methods": {method: count}, "requirement": ability})
    };
    let restored = row("items:delete", "/api/v2/items/{id}/restore", "POST", 300);
    let patched = row("items:update", "/api/v2/items/{id}", "PATCH", 10);
    let report = json!({"since": "2026-10-29", "tokens": [
        {"id": "17", "name": "sync-prod", "abilities": ["items:delete"], "usage": [restored]},
        {"id": "18", "name": null, "abilities": ["items:update"], "usage": [patched]},
        {"id": "19", "name": "admin", "abilities": ["*"], "usage": [restored]},
    ]});
    std::fs::write(&file, report.to_string()).unwrap();
    let words = [SHIPPED, CANDIDATE, "--usage", file.to_str().unwrap()];
    let (_, told, _) = diff(&words);
    let expected = "\
Over the recorded usage since 2026-10-29
  2 tokens would be denied up to 310 calls
    17 sync-prod: POST /api/v2/items/{id}/restore, 300 calls
    18 (no name): PATCH /api/v2/items/{id}, up to 10 calls
";
    assert!(told.ends_with(expected), "{told}");
    let told: Value = serde_json::from_str(&diff(&[&words[..], &["--format", "json"]].concat()).1).unwrap();
    let call = json!({"method": "POST", "route": "/api/v2/items/{id}/restore", "count": 300, "up_to": false});
    assert_eq!(told["usage"]["denied"][0], json!({"id": "17", "name": "sync-prod", "calls": [call]}));
}

#[test]
fn diff_names_the_tokens_of_a_ledger() {
    let map = "abilities:\n  routes:\n    /items/{id}: {GET: items:read, PUT: items:read}\n";
    let mut env = TestEnv::builder()
        .verdict("17|secret", Verdict::active(&["items:read"]).named("17", "sync-prod"))
        .yaml("usage:\n  path: usage.redb\n")
        .yaml(map)
        .start();
    for _ in 0..3 {
        assert_eq!(env.gateway.get("/items/5", Some("17|secret")).status, 200);
    }
    env.gateway.signal(Signal::TERM);
    assert!(env.gateway.wait_exit(PATIENCE).success());
    let old = env.gateway.directory().join("gateway.yaml");
    let new = env.gateway.directory().join("candidate.yaml");
    std::fs::write(&new, "routes: {'/items/{id}': {GET: items:list, PUT: items:read}}\n").unwrap();
    let [old, new] = [old, new].map(|path| path.display().to_string());
    let (exit, told, said) = diff(&[&old, &new, "--since", "30d", "--config", &old]);
    assert_eq!((exit, &*said), (1, ""));
    let expected = "\n  1 token would be denied 3 calls\n    17 sync-prod: GET /items/{id}, 3 calls\n";
    assert!(told.contains("\nOver the recorded usage since ") && told.ends_with(expected), "{told}");
    // The candidate has no ledger.
    assert_eq!(diff(&[&old, &new, "--since", "30d", "--config", &new]).0, 2);
}

#[test]
fn diff_reports_changed_rules_for_queries_by_parameter_and_value() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, query: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("routes: {{/items: {{GET: items:read{query}}}}}\n")).unwrap();
        path.display().to_string()
    };
    let none = file("none.yaml", "");
    let include = "include: {split: ',', values: {variants: items:read, renters: renters:read}}";
    let old = file("old.yaml", &format!(", query: {{{include}, debug: deny}}"));
    let new = file(
        "new.yaml",
        ", query: {include: {values: {variants: items:read, renters: items:read}}, others: deny}",
    );
    assert_eq!(diff(&[&old, &old]).0, 0);
    let (exit, told, said) = diff(&[&none, &old]);
    assert_eq!((exit, &*said), (1, ""));
    assert_eq!(
        told,
        "\
Newly denied
  /items query include=renters: tokens that lack renters:read
    allow -> renters:read
  /items query include=variants: tokens that lack items:read
    allow -> items:read
  /items query debug: every token
    allow -> deny
  /items query include=(others): every token
    allow -> deny
"
    );
    let (_, told, _) = diff(&[&old, &new]);
    assert!(
        told.contains("  /items query include=renters: tokens with renters:read that lack items:read\n"),
        "{told}"
    );
    assert!(told.contains("  /items query (others): every token\n    allow -> deny\n"), "{told}");
    assert!(!told.contains("debug"), "{told}");
    // Without its separator, a list of values is one value that is not listed.
    let [split, whole] = ["split: ',', ", ""].map(|split| {
        let include = format!("include: {{{split}values: {{renters: renters:read}}, others: allow}}");
        file(&format!("separator{}.yaml", split.len()), &format!(", query: {{{include}}}"))
    });
    let (exit, told, _) = diff(&[&split, &whole]);
    let expected = "  /items query include=renters,renters: tokens that lack renters:read\n";
    assert!(exit == 1 && told.contains(expected), "{told}");
    let (_, told, _) = diff(&[&none, &old, "--format", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["changes"], json!([]));
    assert_eq!(told["queries"][0]["parameter"], "include=renters");
    assert_eq!(told["queries"][0]["denied"]["text"], "tokens that lack renters:read");
}
