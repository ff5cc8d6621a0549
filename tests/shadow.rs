//! Shadow mode and candidate maps.

mod candidate; // logs and metrics of candidate maps, which change no response
mod mode; // requests that shadow mode forwards, logs and counts, and those that it still refuses

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::env::TestEnvBuilder;
use crate::support::{Builder, RawClient, Response, TestEnv, Verdict};

const READER: &str = "1|reader";
const CREATOR: &str = "2|creator";
const USER: &str = "3|user";
const EXPIRED: &str = "4|expired";
const UNKNOWN: &str = "9|unknown";

/// A gateway whose introspector accepts the tokens above.
fn start(yaml: &str) -> TestEnv {
    builder().yaml(yaml).start()
}

/// The same with a candidate map.
fn start_with(yaml: &str, candidate: &str) -> TestEnv {
    builder().yaml(yaml).configure(|gateway| with_candidate(gateway, candidate)).start()
}

fn with_candidate(gateway: Builder, candidate: &str) -> Builder {
    gateway.file("candidate.yaml", candidate).yaml("shadow: candidate.yaml\n")
}

fn builder() -> TestEnvBuilder {
    let expired = Verdict::active(&["*"]).expiring("2001-01-01T00:00:00Z");
    TestEnv::builder()
        .verdict(READER, Verdict::active(&["items:read"]).named(1, "reader-prod"))
        .verdict(CREATOR, Verdict::active(&["items:create"]).named(2, "creator-prod"))
        .verdict(USER, Verdict::active(&["*"]).named(3, "user"))
        .verdict(EXPIRED, expired)
}

impl TestEnv {
    fn candidate(&self) -> PathBuf {
        self.gateway.directory().join("candidate.yaml")
    }

    /// The shadow mode counters: all of them, or those with these labels.
    fn shadow_total(&self, labels: &str) -> f64 {
        self.gateway.metrics().metric(&format!("shadow_total{labels}"))
    }

    /// Waits until `count` access lines mention shadow mode; returns the last of them.
    fn shadow_line(&self, count: usize) -> Value {
        let told = |line: &Value| line["message"] == "request" && line.get("shadow").is_some();
        let all = || -> Vec<Value> {
            let lines = self.gateway.logs();
            lines.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(told).collect()
        };
        for _ in 0..1000 {
            if all().len() >= count {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let lines = all();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines[count - 1].clone()
    }
}

fn send(client: &mut RawClient, method: &str, target: &str, token: Option<&str>) -> Response {
    let authorization = token.map(|token| ("Authorization", format!("Bearer {token}")));
    let fields: Vec<_> = authorization.iter().map(|(name, value)| (*name, &**value)).collect();
    client.request(method, target, &fields, b"")
}

/// A map with every kind of rule.
const MAP: &str = "\
abilities:
  routes:
    /up:     {GET: public}
    /items:  {GET: items:read, POST: items:create}
    /closed: {GET: deny}
    /me:     {GET: authenticated}
    /strict: {GET: items:read, mode: enforce}
    /tried:  {GET: items:read, mode: shadow}
";
