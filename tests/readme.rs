//! What the README shows is what the binary does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use super::support::{Authority, BINARY, Gateway, Introspector, Upstream, Verdict};

fn readme() -> String {
    fs::read_to_string("README.md").unwrap()
}

/// The fenced blocks of one language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn readme_commands_print_the_documented_output() {
    let text = readme();
    let blocks = blocks(&text, "console");
    assert!(!blocks.is_empty());
    for block in blocks {
        let (command, expected) = block.split_once('\n').unwrap();
        let words = command.strip_prefix("$ stockaj-gateway ").unwrap().split(' ');
        let output = Command::new(BINARY).args(words).env_remove("STOCKAJ_GATEWAY_CONFIG").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{command}");
    }
}

#[test]
fn readme_configurations_pass_check() {
    let text = readme();
    let blocks = blocks(&text, "yaml");
    assert!(!blocks.is_empty());
    let directory = tempfile::tempdir().unwrap();
    // The certificates that they name.
    let authority = Authority::new();
    fs::create_dir(directory.path().join("tls")).unwrap();
    for name in ["app", "shop"] {
        let issued = authority.issue(&["localhost"], |_| {});
        let at = |suffix: &str| directory.path().join(format!("tls/{name}.{suffix}"));
        fs::write(at("crt"), issued.certificate).unwrap();
        fs::write(at("key"), issued.private_key).unwrap();
    }
    for block in blocks {
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, block).unwrap();
        let output = Command::new(BINARY).arg("check").arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The rules of a map as `routes` prints them: path and method, and the requirement.
fn rules(file: &Path) -> BTreeMap<(String, String), Value> {
    let mut command = Command::new(BINARY);
    command.args(["routes", "--format", "json", "--config"]).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rules: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |rule: &Value, name: &str| rule[name].as_str().unwrap().to_owned();
    rules
        .into_iter()
        .map(|rule| ((text(&rule, "path"), text(&rule, "method")), rule["requirement"].clone()))
        .collect()
}

/// Paths and abilities of the maps in the documentation are those of the shipped map. Keywords and lists may differ: a
/// map shows them.
#[test]
fn documented_maps_use_paths_and_abilities_of_the_shipped_map() {
    let shipped = rules(Path::new("config/stockaj.yaml"));
    let is_shipped = |path: &str| match path.strip_suffix("{*rest}") {
        Some(prefix) => shipped.keys().any(|(it, _)| it.starts_with(prefix)),
        None => shipped.keys().any(|(it, _)| it == path),
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let documents = ["README.md", "deploy/README.md", "deploy/laravel/README.md", "docs/logging.md"];
    let texts = documents.map(|name| (name, fs::read_to_string(name).unwrap()));
    let mut count = 0;
    for (name, text) in &texts {
        for block in blocks(text, "yaml")
            .into_iter()
            .filter(|block| block.contains("routes: ") || block.contains("routes:\n"))
        {
            fs::write(&file, block).unwrap();
            for ((path, method), requirement) in rules(&file) {
                assert!(is_shipped(&path), "{name}: {path} is not in config/stockaj.yaml:\n{block}");
                let expected = shipped.get(&(path.clone(), method.clone()));
                if let (Some(expected), Some(ability)) = (expected, requirement.as_str())
                    && ability.contains(':')
                {
                    assert_eq!(&requirement, expected, "{name}: {method} {path}");
                }
                count += 1;
            }
        }
    }
    assert!(count > 30, "{count}");
}

/// A file that is merged says into which; a new one names its place.
#[test]
fn files_for_laravel_are_marked_as_new_or_merged() {
    let text = fs::read_to_string("deploy/laravel/README.md").unwrap();
    let mut count = 0;
    for file in fs::read_dir("deploy/laravel").unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        let row = text.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let cells: Vec<&str> =
            row.unwrap_or_else(|| panic!("{name} has no row")).split('|').map(str::trim).collect();
        let (place, how) = (cells[2].trim_matches('`'), cells[3]);
        let code = fs::read_to_string(&file).unwrap();
        match code.contains(&format!("// Into {place}")) {
            true => assert!(how.starts_with("merged: "), "{name}: {how}"),
            false => {
                assert_eq!(how, "new file", "{name}");
                assert!(code.contains(&format!("// {place}\n")), "{name} is not marked as {place}");
            }
        }
        count += 1;
    }
    assert_eq!(count, 7);
    assert!(text.contains("`php artisan install:api`"));
}

#[test]
fn readme_commands_exist_in_the_binary() {
    let help = Command::new(BINARY).arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    let text = readme();
    for command in &commands {
        assert!(text.contains(&format!("\n| `{command}")), "{command} is not in the README");
    }
    assert_eq!(commands.len(), 13, "{commands:?}");
}

#[test]
fn readme_metrics_are_those_of_a_running_gateway() {
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let tls = Arc::new(Authority::new());
    let builder = Gateway::builder().backend(&upstream).introspector(&introspector).tls(&tls);
    let gateway = builder
        .yaml("redis: {url: redis+unix:///nowhere}\ntraces: {otlp_endpoint: \"unix:/nowhere\"}\n")
        .yaml("mode: shadow\nshadow_authentication: true\n")
        .yaml("usage: {path: usage.redb, flush_interval: 100ms, findings: {least_age: 0s}}\n")
        .start();
    introspector.know("1|reader", Verdict::active(&["items:read"]));
    assert_eq!(gateway.get("/api/v2/items", Some("1|reader")).status, 200);
    gateway.wait_for_metric("usage_requests_total", 1.0);
    gateway.wait_for_metric(r#"usage_findings{kind="no_expiry"}"#, 1.0);
    assert_eq!(gateway.get("/api/v2/items", None).status, 200, "and in shadow mode, for what it counts");
    let scrape = gateway.metrics().0;
    let text = readme();
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `stockaj_gateway_"))
        .map(|rest| rest.split('`').next().unwrap())
        .collect();
    assert!(named.len() > 10);
    for name in &named {
        assert!(scrape.contains(&format!("# TYPE stockaj_gateway_{name} ")), "{name} is not scraped");
    }
}
