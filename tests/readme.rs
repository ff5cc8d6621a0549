//! What the README shows is what the binary does.

use std::fs;
use std::process::Command;
use std::sync::Arc;

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
fn its_commands_print_what_it_shows() {
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
fn its_configurations_pass_check() {
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

#[test]
fn its_commands_are_those_of_the_binary() {
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
    assert_eq!(commands.len(), 12, "{commands:?}");
}

#[test]
fn its_metrics_are_those_of_a_running_gateway() {
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let tls = Arc::new(Authority::new());
    let builder = Gateway::builder().backend(&upstream).introspector(&introspector).tls(&tls);
    let gateway = builder
        .yaml("redis: {url: redis+unix:///nowhere}\ntraces: {otlp_endpoint: \"unix:/nowhere\"}\n")
        .yaml("mode: shadow\nshadow_authentication: true\n")
        .yaml("usage: {path: usage.redb, flush_interval: 100ms}\n")
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
