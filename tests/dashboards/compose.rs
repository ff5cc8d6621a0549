//! The compose files: referenced files exist, and the demo works with one process for each container.

use std::process::Command;

use serde_json::Value;

use super::{deploy, list, read, text, yaml};
use crate::support::gateway::spawn;
use crate::support::ports::free_address;
use crate::support::{BINARY, KillOnDrop, RawClient};

const FILES: [&str; 2] = ["compose.yaml", "compose.demo.yaml"];

/// The services, with those that they extend merged in.
fn services(file: &str) -> Vec<(String, Value)> {
    let file = yaml(file);
    let merged = |(name, service): (&String, &Value)| {
        let from = &service["extends"];
        let mut whole = match from["file"].as_str() {
            Some(other) => yaml(other)["services"][text(&from["service"])].clone(),
            None => Value::Object(serde_json::Map::new()),
        };
        assert!(whole.is_object(), "{name} extends a missing service");
        whole.as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
        (name.clone(), whole)
    };
    file["services"].as_object().unwrap().iter().map(merged).collect()
}

#[test]
fn compose_files_name_only_existing_images_volumes_and_files() {
    for file in FILES {
        let (whole, services) = (yaml(file), services(file));
        let is_declared = |kind: &str, name: &str| whole[kind].get(name).is_some();
        for (name, service) in &services {
            assert!(!text(&service["image"]).is_empty(), "{file}: {name} has no image");
            for volume in list(&service["volumes"]) {
                let source = text(volume).split(':').next().unwrap();
                let is_there = match source.strip_prefix("./") {
                    Some(path) => deploy(path).exists(),
                    None => is_declared("volumes", source),
                };
                assert!(is_there, "{file}: {name} mounts {source}");
            }
            assert!(!list(&service["networks"]).is_empty(), "{file}: {name} is on no network of its own");
            for network in list(&service["networks"]) {
                assert!(is_declared("networks", text(network)), "{file}: {name} is on {network}");
            }
            for other in list(&service["depends_on"]) {
                assert!(services.iter().any(|(name, _)| name == text(other)), "{file}: {name} needs {other}");
            }
            // Stockaj is reachable only through the gateway, and monitoring only from this machine.
            let ports: Vec<&str> = list(&service["ports"]).iter().map(text).collect();
            match name.as_str() {
                "gateway" => assert_eq!(ports, ["8080:8080"], "{file}"),
                "stockaj" => {
                    assert!(ports.is_empty(), "{file}");
                    assert_eq!(service["networks"], serde_json::json!(["inside"]), "{file}");
                }
                _ => assert!(ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{file}: {name}"),
            }
        }
        for name in ["gateway", "stockaj", "prometheus", "grafana"] {
            assert!(services.iter().any(|(other, _)| other == name), "{file}: no {name}");
        }
    }
}

/// Each container's command, with this machine's addresses instead of those of the networks.
#[test]
#[ignore = "needs curl: tests/run"]
fn compose_demo_clients_get_responses() {
    let demo = yaml("compose.demo.yaml");
    let (stockaj, proxy, admin) = (free_address(), free_address(), free_address());
    let words: Vec<String> = list(&demo["services"]["stockaj"]["command"])
        .iter()
        .map(|word| match text(word) {
            "0.0.0.0:8000" => stockaj.to_string(),
            "127.0.0.1:8080" | "127.0.0.1:9090" => "127.0.0.1:0".to_owned(),
            word => word.to_owned(),
        })
        .collect();
    let (child, logs) = spawn(Command::new(BINARY).args(&words));
    let _stand_in = KillOnDrop(child);
    logs.wait(|line| line.contains("/api/v2/internals").then_some(())).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let environment = &demo["services"]["gateway"]["environment"];
    let config = text(&environment["STOCKAJ_GATEWAY_CONFIG"]).strip_prefix("/etc/stockaj-gateway/").unwrap();
    let settings = read(&format!("compose/{config}"))
        .replace("/var/lib/stockaj-gateway", directory.path().to_str().unwrap())
        .replace("stockaj:8000", &stockaj.to_string())
        .replace("0.0.0.0:8080", &proxy.to_string())
        .replace("0.0.0.0:9090", &admin.to_string());
    std::fs::write(&file, settings).unwrap();
    let map = deploy("../config/stockaj.yaml");
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(&file).env("STOCKAJ_ABILITY_MAP", &map);
    let (child, logs) = spawn(&mut command);
    let _gateway = KillOnDrop(child);
    logs.wait(|line| line.contains("\"listener\":\"proxy\"").then_some(())).unwrap();

    let clients = &demo["services"]["clients"];
    assert_eq!(list(&clients["entrypoint"])[1], "/clients.sh");
    let script = deploy("compose/clients.sh");
    let status =
        Command::new("sh").arg(script).arg(format!("http://{proxy}")).arg("11").env("PAUSE", "0").status();
    assert!(status.unwrap().success());
    let scrape = RawClient::connect(admin).get("/metrics", None);
    let metrics = crate::support::Metrics(scrape.text().to_owned());
    for (labels, count) in [
        ("status=\"200\",reason=\"public\"", 11.0),
        ("status=\"401\",reason=\"inactive_token\"", 2.0),
        ("status=\"403\",reason=\"missing_ability\"", 1.0),
        ("status=\"403\",reason=\"unmapped\"", 1.0),
        ("status=\"200\",reason=\"allowed\"", 66.0),
    ] {
        let (status, reason) = labels.split_once(',').unwrap();
        let found = metrics.metric(&format!("requests_total{{{status},{reason}}}"));
        assert_eq!(found, count, "{labels} in\n{}", metrics.0);
    }

    // The usage, by the command in the first lines of the demo.
    let mut command = Command::new(BINARY);
    let usage = command.arg("usage").arg("--config").arg(&file).env("STOCKAJ_ABILITY_MAP", &map);
    let usage = usage.output().unwrap();
    let said = String::from_utf8(usage.stdout).unwrap();
    assert!(usage.status.success() && said.contains("warehouse-scanner-prod"), "{said}");
}
