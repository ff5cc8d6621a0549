//! Tokens and configuration on the admin listener, and the `tokens` command.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::ports::free_address;
use crate::support::{BINARY, OPERATED, OPERATOR, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
/// `x:an-operators-token`
const BROWSER: [(&str, &str); 1] = [("Authorization", "Basic eDphbi1vcGVyYXRvcnMtdG9rZW4=")];

fn start(yaml: &str) -> TestEnv {
    TestEnv::start(&format!("cache: {{ttl: 1h}}\n{yaml}"))
}

impl TestEnv {
    fn use_token(&self, token: &str, verdict: Verdict) {
        self.introspector.set_verdict(token, verdict);
        assert!(matches!(self.gateway.get(ITEMS, Some(token)).status, 200 | 403));
    }

    /// Exit code, standard output and standard error of `tokens` with these arguments.
    pub(super) fn tokens_command(&self, words: &[&str], input: &str) -> (i32, String, String) {
        // The configured port is 0; the command needs the actual one.
        let text = std::fs::read_to_string(self.gateway.directory().join("gateway.yaml")).unwrap();
        let file = self.gateway.directory().join("asked.yaml");
        let (before, after) = text.split_once("admin:\n  address: 127.0.0.1:0\n").unwrap();
        let address = self.gateway.admin();
        std::fs::write(&file, format!("{before}admin:\n  address: {address}\n{after}")).unwrap();
        run(words, &file.display().to_string(), input)
    }
}

fn run(words: &[&str], config: &str, input: &str) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command.arg("tokens").args(words).args(["--config", config]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn tokens_are_listed_by_id_and_never_shown() {
    let env = start(OPERATED);
    assert_eq!(env.gateway.admin_request("GET", "/tokens", &[OPERATOR], "").json(), json!({"tokens": []}));
    env.use_token("100|secret-a", Verdict::active(&["*"]).named("100", "phone"));
    env.use_token("9|secret-b", Verdict::active(&["items:read", "items:create"]).named("9", "scanner"));
    env.use_token("009|secret-b", Verdict::active(&["items:read", "items:create"]).named("9", "scanner"));
    env.use_token("secret-c", Verdict::active(&["\u{9b}31m"]).named("b-1", "tills \u{9b}2J"));
    env.use_token(
        "7|secret-d",
        Verdict::active(&["items:read"]).expiring("2999-01-01T00:00:00Z").named("7", "old"),
    );
    env.introspector.deactivate("5|secret-e");
    assert_eq!(env.gateway.get(ITEMS, Some("5|secret-e")).status, 401);
    for fields in [[OPERATOR], BROWSER] {
        let answer = env.gateway.admin_request("GET", "/tokens", &fields, "");
        assert_eq!((answer.status, answer.field("cache-control")), (200, Some("no-store")));
        let tokens = answer.json()["tokens"].as_array().unwrap().clone();
        let of = |key: &str| tokens.iter().map(|token| token[key].clone()).collect::<Vec<_>>();
        assert_eq!(of("id"), ["7", "9", "100", "b-1"]);
        assert_eq!(of("name"), ["old", "scanner", "phone", "tills \u{9b}2J"]);
        assert_eq!(of("verdicts"), [1, 2, 1, 1]);
        assert_eq!(of("abilities")[1], json!(["items:create", "items:read"]));
        assert_eq!(of("expires_at"), [json!("2999-01-01T00:00:00Z"), Value::Null, Value::Null, Value::Null]);
        assert!(tokens.iter().all(|token| token["verdict_age_seconds"].as_f64().unwrap() < 60.0));
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    let (code, stdout, stderr) = env.tokens_command(&["list"], "");
    assert_eq!((code, &*stderr), (0, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("ID   NAME       "), "{stdout}");
    assert!(
        lines[2].starts_with("9    scanner  ") && lines[2].ends_with("items:create items:read"),
        "{stdout}"
    );
    assert!(!stdout.contains(['\u{1b}', '\u{9b}']), "control characters reached the terminal: {stdout:?}");
    let (code, stdout, _) = env.tokens_command(&["list", "--format", "json"], "");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&stdout).unwrap()["tokens"][0]["id"].clone()),
        (0, json!("7"))
    );
    // Revoked tokens are not listed.
    let (code, stdout, _) = env.tokens_command(&["revoke", "--id", "9"], "");
    let outcome = "2 cached verdicts removed: token 9 will be introspected again at its next request; if the application has not \
                   deleted it, it still works\n";
    assert_eq!((code, &*stdout), (0, outcome));
    assert_eq!(
        env.gateway.admin_request("GET", "/tokens", &[OPERATOR], "").json()["tokens"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

/// The cache keeps verdicts for longer than they serve requests, for the limiter of introspections.
#[test]
fn verdict_past_its_ttl_is_not_listed_unless_it_may_still_serve() {
    for (stale_if_error, expected) in [("0s", 0), ("1h", 1)] {
        let yaml = format!("{OPERATED}cache: {{ttl: 100ms, stale_if_error: {stale_if_error}}}\n");
        let env = TestEnv::start(&yaml);
        env.use_token("17|secret", Verdict::active(&["*"]).named("17", "phone"));
        std::thread::sleep(Duration::from_millis(150));
        let listing = env.gateway.admin_request("GET", "/tokens", &[OPERATOR], "").json();
        assert_eq!(listing["tokens"].as_array().unwrap().len(), expected, "{stale_if_error}: {listing}");
    }
}

#[test]
fn revoke_command_reports_its_result() {
    let env = start(OPERATED);
    let one = "will be introspected again at its next request; if the application has not deleted it, it still works";
    let several = "will be introspected again at their next requests; those that the application has not deleted still work";
    for (words, input, stdout) in [
        (&["revoke", "--id", "17"][..], "", format!("1 cached verdict removed: token 17 {one}\n")),
        (
            &["revoke", "--name", "scanner"],
            "",
            format!("2 cached verdicts removed: tokens named `scanner` {several}\n"),
        ),
        (&["revoke", "--all"], "", format!("3 cached verdicts removed: all tokens {several}\n")),
        (&["revoke", "--token-stdin"], "17|secret\n", format!("1 cached verdict removed: the token {one}\n")),
        (
            &["revoke", "--token-stdin"],
            "18|another\nno more\n",
            format!("1 cached verdict removed: the token {one}\n"),
        ),
        (&["revoke", "--id", "99"], "", format!("nothing was cached: token 99 {one}\n")),
        (
            &["revoke", "--name", "a\u{1b}b"],
            "",
            format!("nothing was cached: tokens named `a\u{fffd}b` {several}\n"),
        ),
    ] {
        env.use_token("17|secret", Verdict::active(&["*"]).named("17", "scanner"));
        env.use_token("18|secret", Verdict::active(&["*"]).named("18", "scanner"));
        env.use_token("19|secret", Verdict::active(&["*"]).named("19", "phone"));
        assert_eq!(env.tokens_command(words, input), (0, stdout, String::new()), "{words:?}");
    }
    for words in [
        &["revoke"][..],
        &["revoke", "--id", "1", "--all"],
        &["revoke", "--token", "17|secret"],
        &["revoke", "17|secret"],
        &[],
    ] {
        assert_eq!(env.tokens_command(words, "").0, 2, "{words:?}");
    }
    let (code, _, stderr) = env.tokens_command(&["revoke", "--token-stdin"], "\n");
    assert!(code == 1 && stderr.contains("responds with 400: The body must be one of"), "{stderr}");
}

#[test]
fn tokens_command_names_the_cause_of_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let env = start(OPERATED);
    let token = directory.path().join("token");
    std::fs::write(&token, "another-admin-token\n").unwrap();
    let closed = free_address();
    let address = env.gateway.admin();
    let other = start("");
    for (admin, expected) in [
        (format!("{{address: '{address}'}}"), "neither `admin.token_file` nor `admin.token` is set"),
        (
            format!("{{address: '{address}', token_file: {}}}", token.display()),
            "is not that of the running gateway",
        ),
        (format!("{{address: '{closed}', token: an-operators-token}}"), "Connection refused"),
        (
            format!("{{address: '{}', token: an-operators-token}}", other.gateway.admin()),
            "the gateway runs without an admin token",
        ),
        (
            "{address: 'unix:/nowhere/admin.sock', token: an-operators-token}".to_owned(),
            "No such file or directory",
        ),
        ("{address: 1}".to_owned(), "`admin.address`: wrong type"),
        (
            format!("{{address: '{address}', token_file: /nowhere}}"),
            "`admin.token_file`: cannot read the file",
        ),
    ] {
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, format!("admin: {admin}\n")).unwrap();
        for words in [&["list"][..], &["revoke", "--all"]] {
            let (code, stdout, stderr) = run(words, &file.display().to_string(), "");
            assert_eq!((code, &*stdout), (1, ""), "{admin}");
            assert!(stderr.contains(expected), "{admin}: {stderr}");
        }
    }
}

#[test]
fn tokens_command_works_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let file = directory.path().join("gateway.yaml");
    let yaml = format!(
        "listen: {{address: 127.0.0.1:0}}\nadmin: {{address: 'unix:{}', token: an-operators-token}}\n\
         backend: {{url: http://127.0.0.1:9}}\nintrospection: {{url: http://127.0.0.1:9}}\n\
         abilities: {{routes: {{/up: {{GET: public}}}}}}\n",
        socket.display()
    );
    std::fs::write(&file, yaml).unwrap();
    let mut gateway =
        Command::new(BINARY).args(["run", "--config"]).arg(&file).stdout(Stdio::null()).spawn().unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let listed = run(&["list"], &file.display().to_string(), "");
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert_eq!(listed.0, 0, "{listed:?}");
}

#[test]
fn effective_configuration_is_shown_without_secrets() {
    let yaml = "\
admin:
  token: an-operators-token
backend:
  timeout: ${BACKEND_TIMEOUT:-7s}
webhook: {secret: [hunter2-of-the-webhook, hunter2-of-the-next-one]}
redis:
  url: redis://user:hunter2-redis@127.0.0.1:9
rate_limit: {requests_per_second: 5, by_name: {phone: {burst: 3}}}
";
    let env = start(yaml);
    let answer = env.gateway.admin_request("GET", "/config", &[OPERATOR], "");
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")));
    let shown = answer.json();
    let at =
        |pointer: &str| shown.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {shown:#}")).clone();
    for (pointer, value) in [
        ("/cache/ttl", json!("1h")),
        ("/cache/negative_ttl", json!("5s")),
        ("/cache/max_age", json!({})),
        ("/cache/max_tokens", json!(100_000)),
        ("/backend/timeout", json!("7s")),
        ("/backend/tls/roots", json!("bundled")),
        ("/backend/tls/ca_file", Value::Null),
        ("/listen/address", json!("127.0.0.1:0")),
        ("/listen/tls", Value::Null),
        ("/listen/hsts", json!("0s")),
        ("/admin/token", json!("[redacted]")),
        ("/admin/token_file", Value::Null),
        ("/webhook/secret", json!(["[redacted]", "[redacted]"])),
        ("/webhook/id", json!("/data/id")),
        ("/webhook/events", json!(["token.updated", "token.deleted"])),
        ("/redis/url", json!("[redacted]")),
        ("/redis/channel", json!("stockaj-gateway")),
        ("/rate_limit/requests_per_second", json!(5)),
        ("/rate_limit/by_name/phone/burst", json!(3)),
        ("/cors/origins", json!([])),
        ("/runtime/threads", json!(2)),
        ("/log/access", json!(true)),
        ("/identity_headers", json!([])),
        ("/abilities/unmapped", json!("deny")),
        ("/abilities/routes/~1api~1v2~1reports~1{*rest}/GET", json!({"any": ["items:read", "rents:read"]})),
    ] {
        assert_eq!(at(pointer), value, "{pointer}");
    }
    assert!(!answer.text().contains("hunter2") && !answer.text().contains("an-operators-token"), "{shown:#}");
    // It shows the active values; those that a reload cannot change are unchanged.
    env.gateway.edit("listen:\n  address: 127.0.0.1:0", "listen:\n  address: 127.0.0.1:1");
    env.gateway.edit("ttl: 1h", "ttl: 2h");
    assert!(env.gateway.reload());
    let shown = env.gateway.admin_request("GET", "/config", &BROWSER, "").json();
    assert_eq!((&shown["cache"]["ttl"], &shown["listen"]["address"]), (&json!("2h"), &json!("127.0.0.1:0")));
    // The output can be parsed again: JSON is YAML.
    let mut shown = shown;
    shown["admin"]["token"] = Value::Null;
    shown["webhook"]["secret"] = json!("another-webhook-secret");
    shown["redis"] = Value::Null;
    let file = env.gateway.directory().join("shown.yaml");
    std::fs::write(&file, strip_nulls(shown).to_string()).unwrap();
    let output = Command::new(BINARY).args(["check", "--config"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn strip_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, it)| !it.is_null())
            .map(|(key, it)| (key, strip_nulls(it)))
            .collect(),
        other => other,
    }
}

/// Audit lines are written even if the log level is `error`.
#[test]
fn audit_line_is_written_at_every_log_level() {
    let env = start(&format!("{OPERATED}log: {{level: info}}\n"));
    env.gateway.edit("level: info", "level: error");
    env.gateway.signal(Signal::HUP);
    let end = Instant::now() + Duration::from_secs(10);
    while env.gateway.admin_request("GET", "/config", &[OPERATOR], "").json()["log"]["level"] != "error" {
        assert!(Instant::now() < end, "no reload");
    }
    assert_eq!(env.gateway.get(ITEMS, None).status, 401);
    assert_eq!(env.gateway.admin_request("GET", "/tokens", &[OPERATOR], "").status, 200);
    env.gateway.wait_for_log(|line| line["message"] == "admin" && line["action"] == "list tokens");
    assert!(!env.gateway.logs().join("\n").contains("missing_token"), "no access line at this level");
}

/// An audit line names the operator, the action and the count.
#[test]
fn every_admin_action_has_an_audit_line() {
    let env = start(OPERATED);
    env.use_token("17|secret", Verdict::active(&["*"]).named("17", "scanner"));
    let post = |fields: &[(&str, &str)], body: &str| {
        env.gateway.admin_request("POST", "/tokens/revoke", fields, body).status
    };
    assert_eq!(env.gateway.admin_request("GET", "/tokens", &[OPERATOR], "").status, 200);
    assert_eq!(env.gateway.admin_request("GET", "/tokens", &BROWSER, "").status, 200);
    assert_eq!(env.gateway.admin_request("GET", "/config", &[OPERATOR], "").status, 200);
    assert_eq!(post(&[OPERATOR], r#"{"token":"17|secret"}"#), 200);
    // A token in the place of an id. The first attempt is always logged.
    assert_eq!(env.gateway.admin_request("GET", "/tokens/17|secret", &[], "").status, 401);
    env.gateway.wait_for_log(|line| line["message"] == "admin: refused" && line["action"] == "another path");
    let attempts = 50;
    for _ in 0..attempts {
        let status = env
            .gateway
            .admin_request("GET", "/tokens?token=17|secret", &[("Authorization", "Bearer 17|secret")], "")
            .status;
        assert!(matches!(status, 401 | 429), "{status}");
        assert_eq!(post(&[], r#"{"all":true}"#), 401);
    }
    let lines: Vec<Value> =
        env.gateway.logs().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let done: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "admin")
        .map(|line| {
            assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            (text("action"), text("credential"), text("by"), text("what"), line["count"].as_u64())
        })
        .collect();
    let line = |action: &str, how: &str, by: &str, what: &str, count| {
        (action.to_owned(), format!("admin token ({how})"), by.to_owned(), what.to_owned(), count)
    };
    assert_eq!(
        done,
        [
            line("list tokens", "Bearer", "-", "-", Some(1)),
            line("list tokens", "Basic", "-", "-", Some(1)),
            line("show configuration", "Bearer", "-", "-", None),
            line("revoke", "Bearer", "token", "17", Some(1)),
        ]
    );
    let refused = lines.iter().filter(|line| line["message"] == "admin: refused").count();
    assert!((1..10).contains(&refused), "{refused} lines of {} attempts", 2 * attempts);
    let said = env.gateway.logs().join("\n");
    assert!(!said.contains("17|secret") && !said.contains("an-operators-token"), "{said}");
}
