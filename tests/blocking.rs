//! The block list: what it refuses, how blocks end, and that they survive restarts and crashes.

mod persistence; // the file: restarts, crashes, damage, and disks that cannot be written

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, BINARY, OPERATED, RawClient, Response, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
/// How late a block may end or a reload may take effect.
const SOON: Duration = Duration::from_secs(2);

fn start(yaml: &str) -> TestEnv {
    let env = TestEnv::start(&format!("{OPERATED}{yaml}"));
    for (token, id, name) in TOKENS {
        env.introspector.set_verdict(token, Verdict::active(&["*"]).named(id, name));
    }
    env
}

/// The tokens with their ids and names.
const TOKENS: [(&str, &str, &str); 5] = [
    ("17|one-secret", "17", "scanner"),
    ("017|one-secret", "17", "scanner"),
    ("one-secret", "17", "scanner"),
    ("18|two-secret", "18", "scanner"),
    ("19|three-secret", "19", "mobile \"app\"\n"),
];

impl TestEnv {
    fn change_block(&self, method: &str, body: &Value) -> Response {
        self.operator(method, "/tokens/block", &body.to_string())
    }

    fn block(&self, body: &Value) -> Value {
        let response = self.change_block("POST", body);
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        response.json()["blocked"].clone()
    }

    fn unblock(&self, body: &Value) -> u64 {
        let response = self.change_block("DELETE", body);
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        response.json()["unblocked"].as_u64().unwrap()
    }

    fn blocks(&self) -> Vec<Value> {
        self.operator("GET", "/tokens/block", "").json()["blocked"].as_array().unwrap().clone()
    }

    fn statuses(&self) -> [u16; 5] {
        TOKENS.map(|(token, ..)| self.status(ITEMS, token))
    }

    /// Waits until the token gets this status.
    fn wait_for_status(&self, token: &str, status: u16) {
        let end = Instant::now() + SOON;
        while self.status(ITEMS, token) != status {
            assert!(Instant::now() < end, "{token} does not get {status}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn block_refuses_cached_tokens_at_once_and_unblocking_restores_them() {
    let env = start("cache: {ttl: 1h}\n");
    for (subject, blocked) in [
        (json!({"id": "17"}), [true, true, true, false, false]),
        (json!({"id": 18}), [false, false, false, true, false]),
        (json!({"id": "1"}), [false; 5]),
        (json!({"token": "17|one-secret"}), [true, true, true, false, false]),
        (json!({"token": "one-secret"}), [true, true, true, false, false]),
        (json!({"token": "0017|one-secret"}), [true, true, true, false, false]),
        (json!({"token": "17|another-secret"}), [false; 5]),
        (json!({"name": "scanner"}), [true, true, true, true, false]),
        (json!({"name": "mobile \"app\"\n"}), [false, false, false, false, true]),
        (json!({"name": "Scanner"}), [false; 5]),
    ] {
        assert_eq!(env.statuses(), [200; 5]);
        env.block(&subject);
        let expected = blocked.map(|blocked| if blocked { 401 } else { 200 });
        for _ in 0..2 {
            assert_eq!(env.statuses(), expected, "{subject}");
        }
        assert_eq!(env.unblock(&subject), 1, "{subject}");
        assert_eq!(env.statuses(), [200; 5], "{subject}");
        assert_eq!(env.unblock(&subject), 0, "{subject}");
    }
    let log = env.gateway.logs().join("\n");
    assert!(!log.contains("-secret"), "{log}");
}

#[test]
fn refusal_is_a_401_with_the_reason_blocked() {
    let env = start("");
    env.block(&json!({"id": "17"}));
    let response = env.gateway.get(ITEMS, Some("17|one-secret"));
    assert_eq!((response.status, response.text()), (401, r#"{"message":"Unauthenticated."}"#));
    let challenge = r#"Bearer realm="stockaj", error="invalid_token""#;
    assert_eq!(response.field("www-authenticate"), Some(challenge));
    let line = env.gateway.wait_for_log(|line| line["message"] == "request" && line["status"] == 401);
    assert_eq!((&line["reason"], &line["route"]), (&json!("blocked"), &json!(ITEMS)));
    let sample = "requests_total{route=\"/api/v2/items\",status=\"401\",reason=\"blocked\"}";
    assert_eq!(env.gateway.metrics().metric(sample), 1.0);
    assert_eq!(env.gateway.metrics().metric("blocked_tokens{kind=\"id\"}"), 1.0);
}

#[test]
fn block_works_without_the_introspector() {
    let env = start("cache: {ttl: 300ms, stale_if_error: 1h}\n");
    assert_eq!(env.statuses(), [200; 5]);
    env.introspector.fail_with(Answer::message(500, "Server Error"));
    thread::sleep(Duration::from_millis(400));
    assert_eq!(env.statuses(), [200; 5], "stale");
    env.block(&json!({"id": "17"}));
    // By the id in front of the token. Without it the id is unknown, and the request is refused for that.
    assert_eq!(env.statuses(), [401, 401, 503, 200, 200]);
    env.block(&json!({"token": "18|two-secret"}));
    env.block(&json!({"name": "mobile \"app\"\n"}));
    assert_eq!(env.statuses(), [401, 401, 503, 401, 503]);
    let calls = env.introspector.calls_for("17|one-secret") + env.introspector.calls_for("18|two-secret");
    for _ in 0..5 {
        assert_eq!(env.status(ITEMS, "17|one-secret"), 401);
        assert_eq!(env.status(ITEMS, "18|two-secret"), 401);
    }
    let after = env.introspector.calls_for("17|one-secret") + env.introspector.calls_for("18|two-secret");
    assert_eq!(after, calls, "no introspection is spent on it");
    env.introspector.recover();
    assert_eq!(env.statuses(), [401, 401, 401, 401, 401]);
}

#[test]
fn blocked_token_without_its_id_is_introspected_once_per_negative_ttl() {
    let env = start("cache: {negative_ttl: 1h}\n");
    env.block(&json!({"id": "17"}));
    for _ in 0..5 {
        assert_eq!(env.status(ITEMS, "one-secret"), 401);
    }
    assert_eq!(env.introspector.calls_for("one-secret"), 1);
    env.block(&json!({"id": "99"}));
    assert_eq!(env.status(ITEMS, "one-secret"), 401);
    assert_eq!(env.introspector.calls_for("one-secret"), 1);
    env.unblock(&json!({"id": "17"}));
    assert_eq!(env.status(ITEMS, "one-secret"), 200, "despite the inactive verdict");
}

#[test]
fn id_in_the_text_does_not_count_in_rfc7662_style() {
    let introspector = crate::support::Introspector::start_rfc7662("gateway", "client-secret");
    introspector.set_verdict("17|opaque", Verdict::active(&["*"]).named("token-5", "app"));
    let env = TestEnv::builder().introspector(introspector).yaml(OPERATED).start();
    env.block(&json!({"id": "17"}));
    assert_eq!(env.status(ITEMS, "17|opaque"), 200);
    env.block(&json!({"id": "token-5"}));
    assert_eq!(env.status(ITEMS, "17|opaque"), 401);
}

/// A request with an introspection in flight, also one that several requests wait for.
#[test]
fn block_overtakes_introspections_in_flight() {
    let env = start("cache: {ttl: 1h}\nintrospection:\n  max_concurrent: 64\n");
    env.introspector.delay(Duration::from_millis(5));
    for round in 0..60_u32 {
        let (token, id) = (format!("{round}|in-flight"), round.to_string());
        let bare = format!("bare-{round}");
        for token in [&token, &bare] {
            env.introspector
                .set_verdict(token, Verdict::active(&["*"]).named(id.as_str(), &format!("name {round}")));
        }
        thread::scope(|scope| {
            for token in [&token, &token, &bare, &bare] {
                let env = &env;
                scope.spawn(move || assert!(matches!(env.status(ITEMS, token), 200 | 401)));
            }
            thread::sleep(Duration::from_micros(u64::from(round % 8) * 1000));
            let subject = match round % 3 {
                0 => json!({ "id": id }),
                1 => json!({ "name": format!("name {round}") }),
                _ => json!({ "id": id, "for": "1h" }),
            };
            env.block(&subject);
            assert_eq!(
                (env.status(ITEMS, &token), env.status(ITEMS, &bare)),
                (401, 401),
                "{round}: {subject}"
            );
        });
        assert_eq!((env.status(ITEMS, &token), env.status(ITEMS, &bare)), (401, 401), "{round}");
    }
}

#[test]
fn block_ends_by_itself() {
    let env = start("cache: {negative_ttl: 1h}\n");
    let block = env.block(&json!({"id": "17", "for": "1s", "reason": "a test"}));
    let until: jiff::Timestamp = block["until"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(jiff::Timestamp::now()).as_secs_f64();
    assert!((0.0..=1.0).contains(&left), "{left}");
    assert_eq!(env.statuses(), [401, 401, 401, 200, 200]);
    thread::sleep(Duration::from_millis(1000));
    for token in ["17|one-secret", "one-secret"] {
        env.wait_for_status(token, 200);
    }
    assert_eq!(env.blocks(), [] as [Value; 0]);
    env.gateway.wait_for_metric("blocked_tokens", 0.0);
}

#[test]
fn list_shows_blocks_and_no_token() {
    let env = start("blocked:\n  ids: [5, \"b-1\"]\n  names: [old-scanner]\n");
    env.block(&json!({"id": "17", "for": "90d", "reason": "seen on a \u{1b}[31mpaste site"}));
    env.block(&json!({"name": "scanner"}));
    let by_token = env.block(&json!({"token": "18|two-secret"}));
    let digits = by_token["token_sha256"].as_str().unwrap();
    assert_eq!(digits.len(), 16);
    let blocks = env.blocks();
    let of = |key: &str| blocks.iter().map(|block| block[key].clone()).collect::<Vec<_>>();
    let null = Value::Null;
    assert_eq!(of("id"), [json!("5"), json!("b-1"), null.clone(), json!("17"), null.clone(), null.clone()]);
    assert_eq!(of("name")[2..5], [json!("old-scanner"), null.clone(), json!("scanner")]);
    let sources = ["configuration", "configuration", "configuration", "admin", "admin", "admin"];
    assert_eq!(of("source"), sources);
    assert_eq!(blocks[3]["reason"], "seen on a \u{fffd}[31mpaste site");
    assert!(blocks[3]["until"].is_string() && blocks[3]["created_at"].is_string());
    assert!(blocks[4]["until"].is_null() && blocks[0]["created_at"].is_null());
    assert_eq!(blocks[5], by_token);
    assert_eq!(env.gateway.metrics().metric("blocked_tokens{kind=\"id\"}"), 3.0);
    let basic = [("Authorization", "Basic eDphbi1vcGVyYXRvcnMtdG9rZW4=")];
    assert_eq!(
        env.gateway.admin_request("GET", "/tokens/block", &basic, "").json()["blocked"],
        json!(blocks)
    );
    // By its hash, since nobody may have the token any more.
    assert_eq!(env.unblock(&json!({ "token_sha256": digits })), 1);
    assert_eq!(env.unblock(&json!({"name_sha256": "0".repeat(16)})), 0);
    let audit = |action: &str, by: &str, what: &str| {
        env.gateway.wait_for_log(|line| {
            line["message"] == "admin" && line["action"] == action && line["by"] == by && line["what"] == what
        });
    };
    audit("block", "id", "17");
    audit("block", "name", "scanner");
    audit("block", "token", digits);
    audit("unblock", "token_sha256", digits);
    env.gateway.wait_for_log(|line| line["action"] == "list blocks" && line["count"] == 6);
    assert!(!env.gateway.logs().join("\n").contains("two-secret"));
}

#[test]
fn malformed_block_changes_nothing() {
    let env = start("blocked:\n  ids: [5]\n");
    let long = |length: usize| "x".repeat(length);
    for body in [
        json!({}),
        json!([]),
        json!({"id": "17", "name": "scanner"}),
        json!({"id": null}),
        json!({"id": ""}),
        json!({"id": 1.5}),
        json!({"id": long(256)}),
        json!({"name": ""}),
        json!({"name": long(256)}),
        json!({"token": ""}),
        json!({"token": "17|"}),
        json!({"all": true}),
        json!({"id": "17", "until": "2030-01-01T00:00:00Z"}),
        json!({"id": "17", "For": "1h"}),
        json!({"id": "17", "for": "1"}),
        json!({"id": "17", "for": "0s"}),
        json!({"id": "17", "for": "-1h"}),
        json!({"id": "17", "for": "11y"}),
        json!({"id": "17", "for": 60}),
        json!({"id": "17", "for": "99999999999999999999d"}),
        json!({"id": "17", "reason": long(256)}),
        json!({"id": "17", "reason": 1}),
        json!({"id": "17|one-secret"}),
        json!({"name": "17|one-secret"}),
    ] {
        let response = env.change_block("POST", &body);
        assert_eq!(response.status, 400, "{body}: {}", response.text());
        assert!(response.json()["message"].is_string());
    }
    for body in ["", "{", r#"{"id":"17"} x"#, r#"{"id":"17","id":"18"}"#, "\u{feff}{\"id\":\"17\"}"] {
        assert_eq!(env.operator("POST", "/tokens/block", body).status, 400, "{body}");
    }
    for body in [
        json!({}),
        json!({"all": true}),
        json!({"id": "17", "for": "1h"}),
        json!({"token_sha256": ""}),
        json!({"token_sha256": "0123456789abcde"}),
        json!({"token_sha256": "0123456789abcdeg"}),
        json!({"id": "17|one-secret"}),
    ] {
        assert_eq!(env.change_block("DELETE", &body).status, 400, "{body}");
    }
    assert_eq!(env.blocks().len(), 1);
    assert_eq!(env.statuses(), [200; 5]);
    let log = env.gateway.logs().join("\n");
    assert!(!log.contains("one-secret"), "{log}");
}

#[test]
fn blocking_needs_the_admin_token_as_bearer() {
    let env = start("");
    let ask = |method: &str, fields: &[(&str, &str)]| {
        RawClient::connect(env.gateway.admin()).request(method, "/tokens/block", fields, br#"{"id":"17"}"#)
    };
    let basic = [("Authorization", "Basic YW55Ym9keTphbi1vcGVyYXRvcnMtdG9rZW4=")];
    for method in ["POST", "DELETE"] {
        assert_eq!(ask(method, &[]).status, 401);
        assert_eq!(ask(method, &[("Authorization", "Bearer wrong")]).status, 401);
        assert_eq!(ask(method, &basic).status, 401);
    }
    let response = ask("PUT", &[("Authorization", "Bearer an-operators-token")]);
    assert_eq!((response.status, response.field("allow")), (405, Some("GET, HEAD, POST, DELETE")));
    assert_eq!(env.blocks(), [] as [Value; 0]);
    env.gateway.wait_for_log(|line| line["message"] == "admin: refused" && line["action"] == "/tokens/block");
}

#[test]
fn reload_applies_configured_blocks_at_once() {
    let env = start("cache: {ttl: 1h}\nblocked:\n  ids: []\n");
    assert_eq!(env.statuses(), [200; 5]);
    let change = |from: &str, to: &str| {
        env.gateway.edit(from, to);
        env.gateway.reload()
    };
    assert!(change("  ids: []\n", "  ids: [17]\n"));
    assert_eq!(env.statuses(), [401, 401, 401, 200, 200]);
    let response = env.change_block("DELETE", &json!({"id": "17"}));
    assert_eq!(response.status, 409, "{}", response.text());
    assert!(response.json()["message"].as_str().unwrap().contains("gateway.yaml"));
    assert!(!change("  ids: [17]\n", "  ids: [17, {}]\n"), "a bad reload");
    assert_eq!(env.statuses(), [401, 401, 401, 200, 200]);
    env.block(&json!({"id": "18"}));
    assert!(change("  ids: [17, {}]\n", "  names: [\"mobile \\\"app\\\"\\n\"]\n"));
    assert_eq!(env.statuses(), [200, 200, 200, 401, 401], "blocks of the API stay");
    assert!(change("cache: {ttl: 1h}\n", "cache: {ttl: 2h}\n"), "another cache");
    assert_eq!(env.statuses(), [200, 200, 200, 401, 401]);
}

#[test]
fn commands_block_unblock_and_list() {
    let env = start("blocked:\n  names: [old-scanner]\n");
    let run = |words: &[&str], input: &str| env.tokens_subcommand(words, input);
    let (code, stdout, stderr) = run(&["block", "--id", "17", "--for", "1h", "--reason", "leaked"], "");
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("blocked until 20") && stdout.ends_with(": token 17\n"), "{stdout}");
    let (code, stdout, _) = run(&["block", "--name", "scanner"], "");
    assert_eq!((code, stdout.as_str()), (0, "blocked until it is removed: tokens named `scanner`\n"));
    let (code, stdout, _) = run(&["block", "--token-stdin"], "19|three-secret\n");
    assert_eq!(code, 0);
    let digits = stdout.rsplit(' ').next().unwrap().trim().trim_end_matches('…').to_owned();
    assert_eq!(env.statuses(), [401; 5]);
    let (code, stdout, _) = run(&["blocked"], "");
    assert_eq!(code, 0);
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("BLOCKED") && lines[0].contains("REASON"), "{stdout}");
    assert!(
        lines[1].starts_with("tokens named `old-scanner`") && lines[1].contains("configuration"),
        "{stdout}"
    );
    assert!(lines[2].starts_with("token 17 ") && lines[2].ends_with("leaked"), "{stdout}");
    assert_eq!(lines.len(), 5, "{stdout}");
    let (code, stdout, _) = run(&["blocked", "--format", "json"], "");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&stdout).unwrap()["blocked"].clone()),
        (0, json!(env.blocks()))
    );
    for (words, input, expected) in [
        (vec!["unblock", "--id", "17"], "", "1 block removed"),
        (vec!["unblock", "--id", "17"], "", "no such block"),
        (vec!["unblock", "--name", "scanner"], "", "1 block removed"),
        (vec!["unblock", "--token-sha256", &digits], "", "1 block removed"),
        (vec!["unblock", "--token-stdin"], "19|three-secret\n", "no such block"),
    ] {
        let (code, stdout, stderr) = run(&words, input);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        assert!(stdout.starts_with(expected), "{words:?}: {stdout}");
    }
    let (code, _, stderr) = run(&["unblock", "--name", "old-scanner"], "");
    assert!(code == 1 && stderr.contains("409") && stderr.contains("gateway.yaml"), "{stderr}");
    let (code, _, stderr) = run(&["block", "--id", "17", "--for", "soon"], "");
    assert!(code == 2 && stderr.contains("expected a duration"), "{stderr}");
    assert_eq!(run(&["block"], "").0, 2);
    assert_eq!(env.statuses(), [200; 5]);
}

impl TestEnv {
    /// Exit code, standard output and standard error of `tokens` with these arguments.
    fn tokens_subcommand(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let file = self.gateway.directory().join("admin.yaml");
        let yaml = format!("admin: {{address: '{}', token: an-operators-token}}\n", self.gateway.admin());
        std::fs::write(&file, yaml).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("tokens").args(words).arg("--config").arg(file);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}
