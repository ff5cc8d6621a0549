//! The output of `usage`.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{BINARY, OPERATED, OPERATOR, PATIENCE, Response, TestEnv, Verdict};

const NO_ROUTES: &str = "warning: the findings about deprecated routes are missing: ";

/// A directory with reports.
struct Reports(tempfile::TempDir);

impl Reports {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let file = self.0.path().join(name);
        std::fs::write(&file, content).unwrap();
        file
    }

    /// Exit code, standard output and standard error.
    fn usage(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(BINARY);
        command.arg("usage").args(words).current_dir(self.0.path()).env_remove("STOCKAJ_GATEWAY_CONFIG");
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn prints(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = self.usage(words);
        assert_eq!((code, &*stderr), (0, ""), "{words:?}");
        stdout
    }
}

fn row(ability: &str, verdict: &str, methods: &Value, days: &Value) -> Value {
    let count: u64 = methods.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    json!({
        "ability": ability, "route": "/api/v2/items/{id}", "verdict": verdict, "count": count,
        "methods": methods, "days": days, "requirement": ability,
    })
}

fn report(ledger: &str, name: &str, allowed: u64) -> String {
    json!({
        "ledgers": [ledger],
        "deprecated_routes": {},
        "tokens": [{
            "id": "17", "name": name, "abilities": ["items:read", "items:delete"],
            "expires_at": "2999-01-01T00:00:00Z",
            "first_seen": "2026-11-01T10:00:00Z", "last_seen": "2026-11-02T11:30:00Z",
            "usage": [
                row("items:read", "allowed", &json!({"GET": allowed, "HEAD": 1}), &json!({"2026-11-01": 1, "2026-11-02": allowed})),
                row("items:update", "denied", &json!({"PUT": 2}), &json!({"2026-11-02": 2})),
            ],
            "days": {"2026-11-01": {"allowed": 1}, "2026-11-02": {"allowed": allowed, "denied": 2}},
        }],
    })
    .to_string()
}

#[test]
fn usage_prints_an_aligned_table() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "warehouse-scanner-prod", 40));
    let table = reports.prints(&["--add", "a.json"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[0],
        "ID  NAME                    ABILITIES USED  REQUESTS  DENIED  LAST USED         FINDINGS"
    );
    assert!(
        lines[1]
            .starts_with("17  warehouse-scanner-prod  1 of 2                43       2  2026-11-02 11:30  "),
        "{table}"
    );
    // Findings are computed from the sum.
    assert!(
        table.contains("\nmedium: 17 warehouse-scanner-prod: 1 of 2 abilities never needed in 41 allowed"),
        "{table}"
    );
    assert!(table.contains("\n  Create a new token with items:read instead"), "{table}");

    let token = reports.prints(&["--token", "17", "--add", "a.json"]);
    for line in [
        "abilities   items:read items:delete\n",
        "expires     2999-01-01 00:00\n",
        "requests    41 allowed, 2 denied\n",
        "ABILITY       ROUTE               METHODS   VERDICT  REQUESTS  FIRST DAY   LAST DAY\n",
        "items:read    /api/v2/items/{id}  GET HEAD  allowed        41  2026-11-01  2026-11-02\n",
        "items:update  /api/v2/items/{id}  PUT       denied          2  2026-11-02  2026-11-02\n",
        "never needed in",
    ] {
        assert!(token.contains(line), "{line}\n{token}");
    }
}

#[test]
fn findings_are_grouped_by_kind() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "warehouse-scanner-prod", 40));
    let other = report("b", "reporting-prod", 40).replace(r#""id":"17""#, r#""id":"18""#);
    reports.write("b.json", &other);
    let table = reports.prints(&["--add", "a.json", "b.json"]);
    assert!(table.contains("\nmedium: Abilities that are never used: 2 tokens\n"), "{table}");
    for token in ["17 warehouse-scanner-prod", "18 reporting-prod"] {
        assert!(table.contains(&format!("\n  {token}: 1 of 2 abilities never needed in 41")), "{table}");
    }
    assert_eq!(table.matches("\n    Create a new token with items:read instead").count(), 2, "{table}");
}

#[test]
fn usage_prints_csv() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "=HYPERLINK(\"http://evil\", \"x\")\r\n", 40));
    assert_eq!(
        reports.prints(&["--format", "csv", "--add", "a.json"]),
        "token,name,ability,route,method,verdict,count,first_day,last_day,parameter\r\n\
         17,\"'=HYPERLINK(\"\"http://evil\"\", \"\"x\"\")\u{fffd}\u{fffd}\",items:read,/api/v2/items/{id},GET,allowed,40,2026-11-01,2026-11-02,\r\n\
         17,\"'=HYPERLINK(\"\"http://evil\"\", \"\"x\"\")\u{fffd}\u{fffd}\",items:read,/api/v2/items/{id},HEAD,allowed,1,2026-11-01,2026-11-02,\r\n\
         17,\"'=HYPERLINK(\"\"http://evil\"\", \"\"x\"\")\u{fffd}\u{fffd}\",items:update,/api/v2/items/{id},PUT,denied,2,2026-11-02,2026-11-02,\r\n"
    );
}

#[test]
fn json_report_can_be_added_again() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "scanner", 40));
    reports.write("b.json", &report("b", "scanner", 2));
    let sum = reports.prints(&["--format", "json", "--add", "a.json", "b.json"]);
    let file = reports.write("sum.json", &sum);
    let sum: Value = serde_json::from_str(&sum).unwrap();
    assert_eq!(sum["ledgers"], json!(["a", "b"]));
    assert_eq!(sum["tokens"][0]["usage"][0]["count"], 44);
    assert_eq!(sum["tokens"][0]["days"]["2026-11-02"]["denied"], 4);
    assert_eq!(sum["findings"][0]["abilities"], json!(["items:delete"]));
    // Usage that is already merged is not counted twice.
    for words in [["--add", "sum.json", "a.json"], ["--add", "a.json", "sum.json"]] {
        let (code, stdout, stderr) = reports.usage(&[&["--format", "json"][..], &words].concat());
        assert_eq!(code, 0);
        assert!(stderr.contains(&format!("warning: {}: skipped, since the ledger ", words[2])), "{stderr}");
        assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["tokens"].as_array().unwrap().len(), 1);
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn usage_page_is_one_file() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "<script>alert(1)</script>", 40));
    for (words, title) in
        [(&["--add", "a.json"][..], "Token usage"), (&["--add", "a.json", "--token", "17"], "Token 17")]
    {
        let page = reports.prints(&[&["--format", "html"][..], words].concat());
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains(&format!("<h1>{title}</h1>")), "{page}");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        assert!(!page.contains("<a ") && !page.contains("<form"), "a static page has no links or forms");
    }
}

#[test]
fn token_name_cannot_control_the_terminal() {
    let reports = Reports::new();
    reports.write("a.json", &report("a\u{9b}2J", "\u{1b}[2J\u{9b}31m\u{202e}", 40));
    reports.write("b.json", &report("a\u{9b}2J", "b", 40));
    for format in ["table", "json", "csv", "html"] {
        for token in [&[][..], &["--token", "17"]] {
            let words = [&["--format", format, "--add", "a.json", "b.json"], token].concat();
            let (code, stdout, stderr) = reports.usage(&words);
            assert_eq!(code, 0, "{stderr}");
            assert!(stderr.contains("skipped"), "{stderr}");
            assert!(
                !format!("{stdout}{stderr}").contains(['\u{1b}', '\u{9b}']),
                "{format}: {stdout:?} {stderr:?}"
            );
        }
    }
}

#[test]
fn invalid_report_is_an_error_with_its_file() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "scanner", 40));
    reports.write("broken.json", "{\"tokens\": [\n  {\"id\": 17}]}");
    reports.write("openapi.json", "{\"openapi\": \"3.1.0\"}");
    for (words, expected) in [
        (
            &["--add", "a.json", "broken.json"][..],
            "error: broken.json:2:11: not a usage report: invalid type: integer `17`, expected a string",
        ),
        (&["--add", "openapi.json"], "error: openapi.json:1:20: not a usage report: missing field `tokens`"),
        (&["--add", "nowhere.json"], "error: nowhere.json: No such file or directory"),
        (
            &["--add", "a.json", "--token", "9\u{1b}"],
            "error: no usage of a token with the id `9\u{fffd}` is recorded in this period",
        ),
        (
            &[],
            "error: no configuration: `gateway.yaml`, `config/gateway.yaml` and `/etc/stockaj-gateway/gateway.yaml` do not exist",
        ),
    ] {
        let (code, stdout, stderr) = reports.usage(words);
        assert_eq!((code, &*stdout), (1, ""), "{words:?}");
        assert!(stderr.starts_with(expected), "{words:?}: {stderr}");
    }
    let (code, _, stderr) = reports.usage(&["--since", "30"]);
    assert!(
        code == 2 && stderr.contains("`since` must be a number of days from `1d` to `3650d`, such as `30d`"),
        "{stderr}"
    );
}

#[test]
fn added_report_of_another_period_is_a_warning() {
    let reports = Reports::new();
    reports.write("a.json", &report("a", "scanner", 40));
    let (code, _, stderr) = reports.usage(&["--since", "7d", "--add", "a.json"]);
    assert_eq!((code, &*stderr), (0, "warning: a.json: it covers all days, and all of them are added\n"));
}

#[test]
fn reports_of_replicas_keep_the_findings_about_deprecated_routes() {
    let reports = Reports::new();
    let end = json!({"since": "2026-01-01", "sunset": "2026-11-02", "link": "https://docs.example/v2"});
    let ends = json!({ "/api/v2/items/{id}": end });
    let of_replica = |ledger: &str, ends: &Value| {
        let mut report: Value = serde_json::from_str(&report(ledger, "scanner-prod", 40)).unwrap();
        report["deprecated_routes"] = ends.clone();
        reports.write(&format!("{ledger}.json"), &report.to_string());
    };
    let finding = |report: &Value| {
        let findings = report["findings"].as_array().unwrap().iter();
        findings.filter(|it| it["kind"] == "deprecated_route").cloned().collect::<Vec<Value>>()
    };
    of_replica("a", &ends);
    of_replica("b", &Value::Null);
    let words = ["--format", "json", "--add", "a.json", "b.json"];
    let text = reports.prints(&words);
    let sum: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(sum["deprecated_routes"], ends);
    let found = finding(&sum);
    assert_eq!(found.len(), 1, "{sum}");
    assert_eq!(found[0]["evidence"], "82 requests of GET HEAD /api/v2/items/{id}, the last on 2026-11-02.");
    let end = "/api/v2/items/{id} may have ended, its sunset was 2026-11-02 (https://docs.example/v2)";
    assert!(found[0]["advice"].as_str().unwrap().contains(end), "{}", found[0]);
    reports.write("sum.json", &text);
    let again: Value =
        serde_json::from_str(&reports.prints(&["--format", "json", "--add", "sum.json"])).unwrap();
    assert_eq!(finding(&again), found);

    // The map of a configuration takes precedence, unless it has an error.
    let mut env = start(&reports);
    env.gateway.signal(Signal::TERM);
    assert!(env.gateway.wait_exit(PATIENCE).success());
    let bad_map = std::fs::read_to_string(reports.0.path().join("gateway.yaml")).unwrap();
    for (map, found) in [("{/up: {GET: public}}", 0), ("{/up: {GET: []}}", 1)] {
        reports.write("gateway.yaml", &bad_map.replace("bad edit", &format!("{{routes: {map}}}")));
        let (code, stdout, stderr) = reports.usage(&[&words[..], &["--config", "gateway.yaml"]].concat());
        assert_eq!((code, &*stderr), (0, ""), "{map}");
        assert_eq!(finding(&serde_json::from_str(&stdout).unwrap()).len(), found, "{map}: {stdout}");
    }

    // No report names the routes.
    let (code, stdout, stderr) = reports.usage(&["--format", "json", "--add", "b.json"]);
    assert!(code == 0 && stderr.starts_with(NO_ROUTES), "{stderr}");
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["deprecated_routes"], Value::Null);
    of_replica("c", &json!({"/a": {"sunset": "soon"}}));
    let (code, _, stderr) = reports.usage(&["--add", "c.json"]);
    let error = "error: c.json: the dates or the link of `/a` in `deprecated_routes` are invalid\n";
    assert_eq!((code, &*stderr), (1, error));
}

/// A gateway with a ledger, one allowed and one denied request; and its configuration, as `usage` reads it.
fn start(reports: &Reports) -> TestEnv {
    let scanner = Verdict::active(&["items:read", "rents:read"]).named("17", "<b>scanner</b>");
    let path = reports.0.path().join("usage.redb");
    let env = TestEnv::builder()
        .verdict("17|secret", scanner)
        .yaml(OPERATED)
        .yaml(&format!("usage:\n  path: {}\n  findings: {{least_age: 0s}}\n", path.display()))
        .start();
    assert_eq!(env.status("/api/v2/items", "17|secret"), 200);
    assert_eq!(env.status("/wp-login.php", "17|secret"), 403);
    let admin = env.gateway.admin();
    let yaml = format!(
        "admin: {{address: '{admin}', token: an-operators-token}}\nusage: {{path: {}, findings: {{least_age: 0s}}}}\n\
         backend: {{tls: {{certificate: /nowhere}}}}\nabilities: bad edit\n",
        path.display()
    );
    reports.write("gateway.yaml", &yaml);
    reports.write("other.yaml", &yaml.replace("an-operators-token", "another-admin-token"));
    reports.write("tokenless.yaml", &yaml.replace(", token: an-operators-token", ""));
    reports.write("without.yaml", &format!("admin: {{address: '{admin}', token: an-operators-token}}\n"));
    env
}

fn get(env: &TestEnv, query: &str, accept: &str) -> Response {
    env.gateway.admin_request("GET", &format!("/usage{query}"), &[OPERATOR, ("Accept", accept)], "")
}

#[test]
fn usage_reads_the_running_gateway_or_its_ledger() {
    let reports = Reports::new();
    let mut env = start(&reports);
    let words = ["--config", "gateway.yaml", "--format", "json"];
    let told: Value = serde_json::from_str(&reports.prints(&words)).unwrap();
    assert_eq!(told["tokens"][0]["id"], "17");
    assert_eq!(told["tokens"][0]["usage"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["findings"][0]["kind"], "unused_abilities");
    for (config, expected) in [
        ("other.yaml", "is not that of the running gateway"),
        ("tokenless.yaml", "neither `admin.token_file` nor `admin.token` is set"),
        ("without.yaml", "error: without.yaml: no usage is recorded: `usage` is not set\n"),
    ] {
        let (code, stdout, stderr) = reports.usage(&["--config", config]);
        assert_eq!((code, &*stdout), (1, ""), "{config}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{stderr}");
    }
    // Another file is added; a copy of the gateway's own report is not counted twice.
    reports.write("b.json", &report("b", "scanner", 2));
    let both = [&words[..], &["--add", "b.json"]].concat();
    let sum: Value = serde_json::from_str(&reports.prints(&both)).unwrap();
    assert_eq!(sum["tokens"][0]["usage"].as_array().unwrap().len(), 4, "{sum}");
    reports.write("own.json", &told.to_string());
    let (code, _, stderr) = reports.usage(&[&words[..], &["--add", "own.json"]].concat());
    assert!(code == 0 && stderr.starts_with("warning: own.json: skipped"), "{stderr}");

    env.gateway.signal(Signal::TERM);
    assert!(env.gateway.wait_exit(PATIENCE).success());
    // The map of this file has an error, so the routes that the gateway deprecates are not known any more.
    let (code, stdout, stderr) = reports.usage(&words);
    assert!(code == 0 && stderr.starts_with(NO_ROUTES), "{stderr}");
    let mut afterwards: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&told["deprecated_routes"], &afterwards["deprecated_routes"]), (&json!({}), &Value::Null));
    afterwards["deprecated_routes"] = json!({});
    assert_eq!(afterwards, told);
    let (code, _, stderr) = reports.usage(&[&words[..], &["--token", "9"]].concat());
    assert_eq!(
        (code, &*stderr),
        (1, "error: no usage of a token with the id `9` is recorded in this period\n")
    );
}

#[test]
fn usage_page_may_load_nothing() {
    let reports = Reports::new();
    let env = start(&reports);
    let html = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (query, status, expected) in [
        ("", 200, "<h1>Token usage</h1>"),
        ("?since=30d&token=", 200, "<option value=\"30d\" selected>"),
        ("?token=17", 200, "<h1>Token 17</h1>"),
        ("?token=9", 404, "<h1>Unknown token</h1>"),
        ("?since=soon", 400, "`since` must be a number of days"),
        ("?token=17%7Csecret", 400, "That is a token"),
    ] {
        let answer = get(&env, query, html);
        assert_eq!(answer.status, status, "{query}");
        let page = answer.text();
        assert!(
            page.contains(expected) && !page.contains("<b>") && !page.contains("secret"),
            "{query}: {page}"
        );
        let policy = answer.field("content-security-policy").unwrap();
        let inside = policy.strip_suffix("; frame-ancestors 'none'").unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(page.contains(&format!("content=\"{inside}\"")), "{policy}");
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("vary", "accept"),
        ] {
            assert_eq!(answer.field(name), Some(value), "{query}: {name}");
        }
        let answer = get(&env, query, "*/*");
        assert_eq!(answer.field("content-type"), Some("application/json"), "{query}");
        assert_eq!(answer.field("vary"), Some("accept"));
        assert!(answer.json().is_object());
    }
    assert!(get(&env, "?token=17", html).text().contains("&lt;b&gt;scanner&lt;/b&gt;"));
}
