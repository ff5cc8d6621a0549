//! Requests without a rule: their list, and the snippet for the map.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{BINARY, OPERATED, OPERATOR, TestEnv, Verdict};

/// A gateway in this mode, with a map of one route.
fn start(mode: &str) -> TestEnv {
    let reader = Verdict::active(&["items:read"]).named("17", "warehouse \u{9b}2J\nscanner");
    TestEnv::builder()
        .verdict("17|reader", reader)
        .yaml(&format!("mode: {mode}\n{OPERATED}"))
        .yaml("abilities:\n  routes:\n    /api/v2/items: {GET: items:read}\n")
        .start()
}

impl TestEnv {
    /// The list, once it has counted this many requests; each is counted when it ends.
    fn wait_for_unmapped(&self, count: u64) -> Vec<Value> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let listing = self.operator("GET", "/unmapped", "").json();
            let rows = listing["unmapped"].as_array().unwrap().clone();
            let counted: u64 = rows.iter().map(|row| row["count"].as_u64().unwrap()).sum();
            if counted >= count {
                assert_eq!(counted, count, "{listing:#}");
                return rows;
            }
            assert!(Instant::now() < end, "{counted} of {count}: {listing:#}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Exit code, standard output and standard error of `unmapped`.
    fn unmapped_command(&self, words: &[&str]) -> (i32, String, String) {
        // The configured port is 0; the command needs the actual one.
        let text = std::fs::read_to_string(self.gateway.directory().join("gateway.yaml")).unwrap();
        let file = self.gateway.directory().join("asked.yaml");
        let admin = format!("admin:\n  address: {}\n", self.gateway.admin());
        std::fs::write(&file, text.replace("admin:\n  address: 127.0.0.1:0\n", &admin)).unwrap();
        let mut command = Command::new(BINARY);
        let output = command.arg("unmapped").args(words).arg("--config").arg(&file).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

fn provoke(env: &TestEnv) {
    let mut client = env.gateway.client();
    client.get("/api/v2/items", Some("17|reader"));
    for id in ["17", "18", "550e8400-e29b-41d4-a716-446655440000"] {
        client.get(&format!("/api/v2/variants/{id}/tags/{id}?q=secret"), Some("17|reader"));
    }
    let bearer = [("Authorization", "Bearer 17|reader")];
    client.request("DELETE", "/api/v2/variants/17/tags/18", &bearer, b"");
    client.get("/docs/v2", None);
    client.request("POST", "/api/v2/items", &bearer, b"");
}

#[test]
fn uncovered_requests_are_listed_with_methods_counts_and_tokens() {
    for mode in ["enforce", "shadow"] {
        let env = start(mode);
        provoke(&env);
        let rows = env.wait_for_unmapped(6);
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                json!([row["path"], row["route"], row["reason"], row["methods"], row["tokens"][0]["id"]])
            })
            .collect();
        let expected = [
            json!(["/api/v2/variants/{id}/tags/{id}", null, "unmapped", {"GET": 3, "DELETE": 1}, "17"]),
            json!(["/api/v2/items", "/api/v2/items", "method_not_mapped", {"POST": 1}, "17"]),
            json!(["/docs/v2", null, "unmapped", {"GET": 1}, null]),
        ];
        assert_eq!(told, expected, "{mode}");
        assert_eq!(rows[0]["tokens"][0]["name"], "warehouse \u{9b}2J\nscanner", "{mode}");
        for row in &rows {
            for time in ["first_seen", "last_seen"] {
                let time: jiff::Timestamp = row[time].as_str().unwrap().parse().unwrap();
                assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 60, "{row}");
            }
        }
    }
}

#[test]
fn map_snippet_completes_the_map() {
    let env = start("enforce");
    provoke(&env);
    env.wait_for_unmapped(6);
    let (code, snippet, stderr) = env.unmapped_command(&["--format", "yaml"]);
    assert_eq!((code, &*stderr), (0, ""), "{snippet}");
    assert!(!snippet.contains(['\u{9b}', '\u{1b}']), "{snippet:?}");
    let by_accept =
        env.gateway.admin_request("GET", "/unmapped", &[OPERATOR, ("Accept", "application/yaml")], "");
    assert_eq!(by_accept.field("content-type"), Some("application/yaml"));
    assert_eq!(by_accept.text(), snippet);
    // The printed snippet is a valid map that denies.
    let map = env.gateway.directory().join("snippet.yaml");
    std::fs::write(&map, &snippet).unwrap();
    let text = std::fs::read_to_string(env.gateway.directory().join("gateway.yaml")).unwrap();
    let checked = env.gateway.directory().join("checked.yaml");
    std::fs::write(&checked, text.replace("abilities:\n", "abilities:\n  file: snippet.yaml\n")).unwrap();
    let output = Command::new(BINARY).arg("check").arg("--config").arg(&checked).output().unwrap();
    assert!(output.status.success(), "{}\n{snippet}", String::from_utf8_lossy(&output.stderr));
    let output =
        Command::new(BINARY).args(["routes", "--format", "json", "--config"]).arg(&map).output().unwrap();
    let routes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!([
        {"path": "/api/v2/variants/{id}/tags/{id2}", "method": "GET", "requirement": "deny"},
        {"path": "/api/v2/variants/{id}/tags/{id2}", "method": "DELETE", "requirement": "deny"},
        {"path": "/docs/v2", "method": "GET", "requirement": "deny"},
    ]);
    assert_eq!(routes, expected, "{snippet}");
    assert!(snippet.contains("    GET: deny # items:read\n"), "{snippet}");
    // Routes are no longer listed once the map has them.
    std::fs::rename(&checked, env.gateway.directory().join("gateway.yaml")).unwrap();
    assert!(env.gateway.reload());
    let rows = env.operator("GET", "/unmapped", "").json()["unmapped"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows:#}");
    assert_eq!(rows[0]["reason"], "method_not_mapped", "{rows:#}");
}

#[test]
fn command_prints_a_table_and_json() {
    let env = start("enforce");
    let (code, stdout, stderr) = env.unmapped_command(&[]);
    assert_eq!((code, stdout.lines().count(), &*stderr), (0, 1, ""), "{stdout}");
    provoke(&env);
    env.wait_for_unmapped(6);
    let (code, stdout, _) = env.unmapped_command(&[]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{stdout}");
    assert!(
        lines[1].contains("/api/v2/variants/{id}/tags/{id}") && lines[1].contains("GET=3 DELETE=1"),
        "{stdout}"
    );
    assert!(!stdout.contains('\u{9b}'), "{stdout:?}");
    let (code, stdout, _) = env.unmapped_command(&["--format", "json"]);
    assert_eq!(code, 0);
    assert!(!stdout.contains('\u{9b}'), "{stdout:?}");
    let listing: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(listing, env.operator("GET", "/unmapped?format=json", "").json());
}

#[test]
fn list_needs_the_admin_token() {
    let env = start("enforce");
    assert_eq!(env.gateway.admin_request("GET", "/unmapped", &[], "").status, 401);
    assert_eq!(env.operator("GET", "/unmapped?format=csv", "").status, 400);
    let response = env.operator("POST", "/unmapped", "");
    assert_eq!((response.status, response.field("allow")), (405, Some("GET, HEAD")));
    env.operator("GET", "/unmapped", "");
    env.gateway.wait_for_log(|line| line["action"] == "show unmapped requests" && line["count"] == 0);
}

#[test]
fn flood_of_unknown_tokens_displaces_no_path_of_a_known_one() {
    let env = start("enforce");
    let mut client = env.gateway.client();
    client.get("/api/v2/items", Some("17|reader"));
    client.get("/api/v2/parts", Some("17|reader"));
    let letters = |mut number: usize| {
        let mut word = String::new();
        for _ in 0..4 {
            word.push(char::from(b'g' + (number % 20) as u8));
            number /= 20;
        }
        word
    };
    const PATHS: usize = 6000;
    for batch in (0..PATHS).collect::<Vec<_>>().chunks(50) {
        let requests: Vec<_> =
            batch.iter().map(|path| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", letters(*path))).collect();
        client.send(requests.concat());
        for _ in batch {
            assert_eq!(client.response().status, 401);
        }
    }
    env.gateway.wait_for_metric("requests_total{reason=\"missing_token\",route=\"unmapped\"}", PATHS as f64);
    let response = env.operator("GET", "/unmapped", "");
    let listing = response.json();
    let rows = listing["unmapped"].as_array().unwrap();
    assert_eq!(rows.len(), 1000);
    assert!(rows.iter().any(|row| row["path"] == "/api/v2/parts"), "{}", response.text().len());
    assert_eq!(listing["evicted_paths"], PATHS as u64 + 1 - 1000);
}

#[test]
fn refused_preflight_counts_as_its_requested_method() {
    let env = start("enforce");
    for method in ["PUT", "PURGE"] {
        let fields = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", method)];
        let response = env.gateway.client().request("OPTIONS", "/api/v2/parts", &fields, b"");
        assert_eq!(response.status, 403);
        let line =
            env.gateway.wait_for_log(|line| line["request_id"].as_str() == response.field("x-request-id"));
        assert_eq!((&line["reason"], &line["path"]), (&"unmapped".into(), &"/api/v2/parts".into()), "{line}");
    }
    let rows = env.wait_for_unmapped(1);
    assert_eq!(rows[0]["methods"], json!({"PUT": 1}));
}

#[test]
fn forwarded_preflight_is_not_listed_as_unmapped() {
    let env = start("shadow");
    let fields = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "PUT")];
    let mut client = env.gateway.client();
    assert_eq!(client.request("OPTIONS", "/api/v2/parts", &fields, b"").status, 200);
    client.request("PUT", "/api/v2/parts", &[("Authorization", "Bearer 17|reader")], b"");
    let rows = env.wait_for_unmapped(1);
    assert_eq!(rows[0]["methods"], json!({"PUT": 1}));
}
