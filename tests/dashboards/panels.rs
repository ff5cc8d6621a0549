//! The dashboard.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Query, deploy, list, read, scene, text, yaml};
use crate::support::ports::free_address;
use crate::support::{PATIENCE, RawClient, TestEnv};

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/stockaj-gateway.json")).unwrap()
}

/// A query as Grafana sends it, with the variables replaced.
fn substituted(query: &str) -> String {
    [("$__rate_interval", "1m"), ("$job", "stockaj-gateway"), ("$namespace", ".*"), ("$instance", ".*")]
        .iter()
        .fold(query.to_owned(), |query, (name, value)| query.replace(name, value))
}

fn panels() -> Vec<Value> {
    let all = dashboard()["panels"].as_array().unwrap().clone();
    all.into_iter().filter(|panel| panel["type"] != "row").collect()
}

/// The queries of panels and annotations.
pub(super) fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for panel in panels() {
        for target in list(&panel["targets"]) {
            let place = format!("panel {}", text(&panel["title"]));
            queries.push(Query { place, text: substituted(text(&target["expr"])) });
        }
    }
    for annotation in list(&dashboard()["annotations"]["list"]) {
        let place = format!("annotation {}", text(&annotation["name"]));
        queries.push(Query { place, text: substituted(text(&annotation["expr"])) });
    }
    // Prometheus produces it itself from rules.yml.
    queries.retain(|query| !query.text.contains("ALERTS{"));
    queries
}

/// The units that the dashboard needs, by Grafana's ids.
const UNITS: [&str; 9] =
    ["reqps", "ops", "percentunit", "s", "d", "none", "bytes", "bool_yes_no", "dateTimeFromNow"];

#[test]
fn every_panel_has_a_title_a_place_and_a_query() {
    let dashboard = dashboard();
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut titles = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}: {}", panel["id"]);
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && taken.insert((x, y)), "{title} lies outside or on another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        titles.push(title);
        assert_eq!(panel["datasource"], source, "{title}");
        assert!(UNITS.contains(&text(&panel["fieldConfig"]["defaults"]["unit"])), "{title}");
        let targets = list(&panel["targets"]);
        assert!(!targets.is_empty(), "{title} has no query");
        let names: BTreeSet<&str> = targets.iter().map(|target| text(&target["refId"])).collect();
        assert_eq!(names.len(), targets.len(), "{title}");
        for target in targets {
            assert!(!text(&target["expr"]).is_empty(), "{title}");
            assert_eq!(target["datasource"], source, "{title}");
        }
    }
    assert!(titles.len() > 30, "{titles:?}");
    let left: Vec<Query> = queries().into_iter().filter(|query| query.text.contains('$')).collect();
    assert!(left.is_empty(), "a variable that the dashboard does not have: {}", left[0].text);
}

/// Grafana in compose.yaml finds both: the data source by its uid, the dashboard by its directory.
#[test]
fn grafana_provisioning_finds_data_source_and_dashboard() {
    let sources = yaml("grafana/provisioning/datasources/prometheus.yaml");
    let source = &list(&sources["datasources"])[0];
    assert_eq!((text(&source["type"]), text(&source["url"])), ("prometheus", "http://prometheus:9090"));
    assert_eq!(source["isDefault"], true);
    let providers = yaml("grafana/provisioning/dashboards/stockaj-gateway.yaml");
    let directory = text(&list(&providers["providers"])[0]["options"]["path"]).to_owned();
    let grafana = &yaml("compose.common.yaml")["services"]["grafana"];
    let mounted: Vec<(&str, &str)> = list(&grafana["volumes"])
        .iter()
        .map(|volume| {
            let mut parts = text(volume).split(':');
            (parts.next().unwrap(), parts.next().unwrap())
        })
        .collect();
    let at = |from: &str| mounted.iter().find(|(host, _)| *host == from).map(|(_, inside)| *inside);
    assert_eq!(at("./grafana/provisioning"), Some("/etc/grafana/provisioning"));
    assert_eq!(at("./grafana/stockaj-gateway.json"), Some(&*format!("{directory}/stockaj-gateway.json")));
}

/// A Prometheus with the shipped rules; killed when dropped.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes the gateway many times a second.
    fn start(env: &TestEnv) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prometheus.yml");
        let shipped = read("prometheus/prometheus.yml");
        let rules = deploy("prometheus/rules.yml");
        let text = shipped
            .replace("_interval: 15s", "_interval: 200ms")
            .replace("[rules.yml]", &format!("[{}]", rules.display()))
            .replace("gateway:9090", &env.gateway.admin().to_string());
        std::fs::write(&file, text).unwrap();
        let address = free_address();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Self { process, address, _directory: directory };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "Prometheus does not start");
            thread::sleep(Duration::from_millis(20));
        }
        prometheus
    }

    fn ask(&self, path: &str) -> Value {
        let answer = RawClient::connect(self.address).get(path, None);
        answer.json()["data"].clone()
    }

    /// The number of series that a query returns; panics if the query fails.
    fn series(&self, query: &Query) -> usize {
        let target = format!("/api/v1/query?query={}", encoded(&query.text));
        let answer = RawClient::connect(self.address).get(&target, None);
        assert_eq!(answer.status, 200, "{}: {}\n{}", query.place, query.text, answer.text());
        answer.json()["data"]["result"].as_array().unwrap().len()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Percent-encodes everything except letters and digits.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Every panel shows data of a gateway with traffic, and every rule can be evaluated.
#[test]
#[ignore = "needs prometheus: tests/run"]
fn every_panel_has_data_from_a_real_prometheus() {
    let env = scene::start("redis+unix:///nowhere");
    let prometheus = Prometheus::start(&env);
    let mut left = queries();
    assert!(left.len() > 50, "{}", left.len());
    // Rules that depend on other rules are one evaluation behind.
    let end = Instant::now() + 3 * PATIENCE;
    while !left.is_empty() {
        env.traffic();
        assert!(env.gateway.reload());
        left.retain(|query| prometheus.series(query) == 0);
        let queries: Vec<_> = left.iter().map(|it| format!("{}: {}", it.place, it.text)).collect();
        assert!(Instant::now() < end, "no data:\n{}", queries.join("\n"));
        thread::sleep(Duration::from_millis(200));
    }
    let groups = prometheus.ask("/api/v1/rules")["groups"].clone();
    let rules: Vec<&Value> = list(&groups).iter().flat_map(|group| list(&group["rules"])).collect();
    assert!(rules.len() > 30, "{}", rules.len());
    for rule in rules {
        assert_ne!(rule["health"], "err", "{}: {}", text(&rule["name"]), text(&rule["lastError"]));
    }
}
