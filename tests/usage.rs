//! The usage ledger: what is counted, restarts, full disks and reloads.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::env::TestEnvBuilder;
use crate::support::{Gateway, OPERATED, OPERATOR, PATIENCE, Response, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";

/// Tokens that may read, do everything, or do nothing; and a ledger next to gateway.yaml.
fn builder(ledger: &str) -> TestEnvBuilder {
    let named = |abilities: &[&str], id: &str, name: &str| Verdict::active(abilities).named(id, name);
    TestEnv::builder()
        .verdict("1|reader", named(&["items:read", "rents:read"], "1", "warehouse-scanner-prod"))
        .verdict("2|everything", named(&["*"], "2", "ci-testing"))
        .verdict("3|nothing", named(&[], "3", "mobile-app-v2"))
        .yaml(OPERATED)
        .yaml("log: {access: false}\n")
        .yaml(&format!("usage:\n  path: {ledger}\n  flush_interval: 500ms\n"))
}

fn start(ledger: &str) -> TestEnv {
    builder(ledger).start()
}

/// Another gateway with this one's ledger.
fn second(env: &TestEnv, ledger: &str) -> Gateway {
    let path = env.gateway.directory().join(ledger);
    let builder = Gateway::builder().backend(&env.backend).introspector(&env.introspector).yaml(OPERATED);
    builder.yaml(&format!("usage:\n  path: {}\n  flush_interval: 500ms\n", path.display())).start()
}

fn ask(gateway: &Gateway, query: &str) -> Response {
    gateway.admin_request("GET", &format!("/usage{query}"), &[OPERATOR], "")
}

fn report(gateway: &Gateway) -> Value {
    let answer = ask(gateway, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The usage of a token: `ability route verdict count {methods}`, line by line.
fn rows(report: &Value, id: &str) -> Vec<String> {
    let tokens = report["tokens"].as_array().unwrap();
    let token = tokens.iter().find(|token| token["id"] == id).unwrap_or(&Value::Null);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    token["usage"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let day: u64 =
                row["days"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
            assert_eq!(row["count"], day, "{row}");
            let [ability, route, verdict] = ["ability", "route", "verdict"].map(|key| text(&row[key]));
            format!("{ability} {route} {verdict} {} {}", row["count"], row["methods"])
        })
        .collect()
}

fn total(report: &Value) -> u64 {
    let days =
        report["tokens"].as_array().unwrap().iter().flat_map(|token| token["days"].as_object().unwrap());
    let sum = |day: &Value| day["allowed"].as_u64().unwrap_or(0) + day["denied"].as_u64().unwrap_or(0);
    days.map(|(_, day)| sum(day)).sum()
}

#[test]
fn requests_are_counted_by_ability_route_and_verdict() {
    let env = start("usage.redb");
    assert_eq!(report(&env.gateway)["tokens"], json!([]));
    for (token, method, path, status) in [
        ("1|reader", "GET", "/api/v2/items", 200),
        ("1|reader", "GET", "/api/v2/items?page=2", 200),
        ("1|reader", "HEAD", "/api/v2/items/", 200),
        ("1|reader", "GET", "/api/v2/items/5", 200),
        ("1|reader", "DELETE", "/api/v2/items/5", 403),
        ("1|reader", "GET", "/api/v2/reports/2026", 200),
        ("1|reader", "POST", "/api/v2/exports", 200),
        ("1|reader", "GET", "/api/v2/me", 200),
        ("2|everything", "GET", "/api/v2/reports/2026", 200),
        ("2|everything", "POST", "/api/v2/kiosk/scan", 200),
        // Refused without introspection, with a cached token.
        ("2|everything", "GET", "/api/v2/internal", 403),
        ("2|everything", "GET", "/wp-login.php", 403),
        ("3|nothing", "POST", "/api/v2/exports", 403),
        ("3|nothing", "GET", "/api/v2/reports/2026", 403),
        ("3|nothing", "GET", "/api/v2/me", 200),
        // Requests without a token or with an unknown one are attributed to no token.
        ("4|stranger", "GET", "/api/v2/items", 401),
    ] {
        let field = format!("Bearer {token}");
        // Separate connections are spread over the workers.
        let answer = env.gateway.client().request(method, path, &[("Authorization", &field)], b"");
        assert_eq!(answer.status, status, "{token} {method} {path}");
    }
    assert_eq!(env.gateway.get("/up", Some("1|reader")).status, 200);
    let report = report(&env.gateway);
    assert_eq!(
        rows(&report, "1"),
        [
            r#"- /api/v2/me allowed 1 {"GET":1}"#,
            r#"items:delete /api/v2/items/{id} denied 1 {"DELETE":1}"#,
            r#"items:read /api/v2/exports allowed 1 {"POST":1}"#,
            r#"items:read /api/v2/items allowed 3 {"GET":2,"HEAD":1}"#,
            r#"items:read /api/v2/items/{id} allowed 1 {"GET":1}"#,
            r#"items:read /api/v2/reports/{*rest} allowed 1 {"GET":1}"#,
            r#"rents:read /api/v2/exports allowed 1 {"POST":1}"#,
        ]
    );
    assert_eq!(
        rows(&report, "2"),
        [
            r#"- /api/v2/internal denied 1 {"GET":1}"#,
            r#"- unmapped denied 1 {"GET":1}"#,
            r#"items:read /api/v2/reports/{*rest} allowed 1 {"GET":1}"#,
            r#"kiosk:scan /api/v2/kiosk/scan allowed 1 {"POST":1}"#,
        ]
    );
    assert_eq!(
        rows(&report, "3"),
        [
            r#"- /api/v2/me allowed 1 {"GET":1}"#,
            r#"items:read /api/v2/exports denied 1 {"POST":1}"#,
            r#"items:read /api/v2/reports/{*rest} denied 1 {"GET":1}"#,
            r#"rents:read /api/v2/exports denied 1 {"POST":1}"#,
        ]
    );
    let tokens = report["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 3);
    let first = &tokens[0];
    assert_eq!(first["name"], "warehouse-scanner-prod");
    assert_eq!(first["abilities"], json!(["items:read", "rents:read"]));
    assert_eq!((&first["addresses"], &first["expires_at"]), (&json!(1), &Value::Null));
    let day = first["days"].as_object().unwrap().values().next().unwrap();
    // Plain HTTP from the same host is not counted as such.
    assert_eq!((&day["allowed"], &day["denied"], &day["plain_http"]), (&json!(7), &json!(1), &Value::Null));
    // As text, a time with a shorter fraction of a second may be the greater one.
    let time = |name: &str| first[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("first_seen") <= time("last_seen"));

    let metrics = env.gateway.metrics();
    let counted = |labels: &str| metrics.metric(&format!("usage_requests_total{{{labels}}}"));
    assert_eq!(counted(r#"ability="items:read",verdict="allowed""#), 7.0);
    assert_eq!(counted(r#"ability="items:delete",verdict="denied""#), 1.0);
    assert_eq!(metrics.metric("usage_tokens"), 3.0);
    assert_eq!(metrics.metric("usage_write_errors_total"), 0.0);
    let mode = fs::metadata(env.gateway.directory().join("usage.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the owner may read addresses and names");
}

#[test]
fn root_of_the_admin_listener_redirects_to_usage_or_configuration() {
    for (env, expected) in [(start("usage.redb"), "/usage"), (TestEnv::start(OPERATED), "/config")] {
        let answer = env.operator("GET", "/", "");
        assert_eq!((answer.status, answer.field("location")), (302, Some(expected)));
        let challenge = env.gateway.admin_request("GET", "/", &[], "");
        assert_eq!(challenge.status, 401);
        assert!(challenge.field("www-authenticate").is_some_and(|it| it.starts_with("Basic ")));
        let post = env.operator("POST", "/", "");
        assert_eq!((post.status, post.field("allow")), (405, Some("GET, HEAD")));
    }
}

#[test]
fn request_without_credentials_is_no_failed_attempt() {
    let env = start("usage.redb");
    for path in ["/", "/usage", "/usage?since=30d", "/tokens", "/config"] {
        assert_eq!(env.gateway.admin_request("GET", path, &[], "").status, 401, "{path}");
    }
    // Wrong credentials are one attempt, and its log line counts none before it.
    let wrong = [("Authorization", "Basic YTpi")];
    assert_eq!(env.gateway.admin_request("GET", "/usage", &wrong, "").status, 401);
    let line = env.gateway.wait_for_log(|line| line["message"] == "admin: refused");
    assert_eq!((&line["action"], &line["count"]), (&json!("/usage"), &json!(1)));
}

#[test]
fn ledger_contains_no_token_path_or_address() {
    let mut env = start("usage.redb");
    let path = "/api/v2/items/5-of-somebody?search=somebody%40example.com";
    assert_eq!(env.gateway.get(path, Some("1|reader")).status, 200);
    let report = ask(&env.gateway, "").text().to_owned();
    env.gateway.signal(Signal::KILL);
    env.gateway.wait_exit(PATIENCE);
    let file = fs::read(env.gateway.directory().join("usage.redb")).unwrap();
    let has = |text: &[u8], what: &[u8]| text.windows(what.len()).any(|window| window == what);
    assert!(has(&file, b"warehouse-scanner-prod") && has(&file, b"/api/v2/items/{id}"));
    let address = IpAddr::from([127, 0, 0, 1]).to_string();
    for what in ["|reader", "somebody", &address] {
        assert!(!has(&file, what.as_bytes()) && !report.contains(what), "{what}");
    }
}

#[test]
fn shadow_decisions_are_counted_by_token() {
    let map = "routes:\n  /api/v2/items: {GET: items:raed, POST: authenticated}\n  /api/v2/kiosk/scan: {POST: deny}\n";
    let builder = builder("usage.redb").configure(|gateway| gateway.file("candidate.yaml", map));
    let env = builder.yaml("shadow: candidate.yaml\n").start();
    for (method, path, status) in
        [("GET", ITEMS, 200), ("GET", ITEMS, 200), ("POST", ITEMS, 403), ("GET", "/api/v2/me", 200)]
    {
        let field = [("Authorization", "Bearer 1|reader")];
        assert_eq!(env.gateway.client().request(method, path, &field, b"").status, status, "{method} {path}");
    }
    let told = report(&env.gateway);
    let rows = told["tokens"][0]["usage"].as_array().unwrap().iter();
    let shadow: Vec<_> =
        rows.map(|row| (row["verdict"].as_str().unwrap(), &row["count"], &row["shadow"])).collect();
    let (one, two) = (json!(1), json!(2));
    // The candidate lacks `/api/v2/me`, has a misspelled ability for GET, and makes POST public.
    assert_eq!(shadow, [("allowed", &one, &one), ("denied", &one, &one), ("allowed", &two, &two)]);

    env.gateway.edit("shadow: ", "mode: shadow\n# ");
    assert!(env.gateway.reload());
    let field = [("Authorization", "Bearer 3|nothing")];
    assert_eq!(env.gateway.client().request("GET", ITEMS, &field, b"").status, 200);
    let told = report(&env.gateway);
    let row = &told["tokens"][1]["usage"][0];
    assert_eq!((&row["verdict"], &row["count"], &row["shadow"]), (&json!("denied"), &one, &one));
}

#[test]
fn usage_query_selects_a_token_and_a_period() {
    let env = start("usage.redb");
    for token in ["1|reader", "2|everything"] {
        env.gateway.get(ITEMS, Some(token));
    }
    let one = ask(&env.gateway, "?token=2&since=1d").json();
    assert_eq!(one["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(one["tokens"][0]["name"], "ci-testing");
    // A token that is not Sanctum's, given instead of its id, is not logged.
    for nobodys in ["9", "eyJhbGciOi.Jzb21lIHNlY3JldA"] {
        assert_eq!(ask(&env.gateway, &format!("?token={nobodys}")).json()["tokens"], json!([]));
    }
    let asked = |action: &str| {
        env.gateway.wait_for_log(|line| line["action"] == action);
        let mut lines =
            env.gateway.logs().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        lines.find(|line| line["action"] == action).unwrap()["what"].clone()
    };
    assert_eq!((asked("show usage"), asked("show usage of an unknown token")), (json!("2"), Value::Null));
    assert!(!env.gateway.logs().concat().contains("eyJhbGciOi"));
    for query in ["?since=30", "?since=0d", "?tokens=1", "?token=1&token=2", "?token=17|a-secret"] {
        let answer = ask(&env.gateway, query);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    assert_eq!(env.gateway.admin_request("GET", "/usage", &[], "").status, 401);
    assert_eq!(env.operator("POST", "/usage", "").status, 405);
    let line = env.gateway.wait_for_log(|line| line["action"] == "show usage" && line["what"] == "2");
    assert_eq!(line["credential"], "admin token (Bearer)");
    assert!(env.gateway.logs().iter().all(|line| !line.contains("a-secret")));
}

#[test]
fn without_the_usage_section_nothing_is_recorded() {
    let env = TestEnv::start(OPERATED);
    assert_eq!(env.gateway.get(ITEMS, Some("1|writer")).status, 200);
    let answer = ask(&env.gateway, "");
    assert_eq!((answer.status, answer.text().contains("not configured")), (404, true));
    assert!(!env.gateway.metrics().0.contains("stockaj_gateway_usage"));
}

#[test]
fn ledger_continues_after_a_restart() {
    let mut env = start("usage.redb");
    for round in 1..=3 {
        env.gateway.get(ITEMS, Some("1|reader"));
        if round == 2 {
            assert_eq!(total(&report(&env.gateway)), 2);
        }
        // Pending usage is written at shutdown.
        env.gateway.signal(Signal::TERM);
        assert!(env.gateway.wait_exit(Duration::from_secs(10)).success());
        env.gateway.restart();
    }
    assert_eq!(rows(&report(&env.gateway), "1"), [r#"items:read /api/v2/items allowed 3 {"GET":3}"#]);
}

/// Kills a gateway under load several times: the ledger loses only the last moments.
#[test]
fn killed_gateway_loses_at_most_the_flush_interval() {
    let mut env = start("usage.redb");
    let mut least = 0;
    for _ in 0..3 {
        let before = total(&report(&env.gateway));
        assert!(before >= least, "{before} of {least}");
        let (answered, stop) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut client = env.gateway.client();
                    while stop.load(Ordering::Relaxed) == 0 {
                        let request = format!(
                            "GET {ITEMS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer 1|reader\r\n\r\n"
                        );
                        if client.try_send(request).is_err() {
                            break;
                        }
                        if client.try_response(false).is_err() {
                            break;
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Long enough for a few flushes.
            thread::sleep(Duration::from_millis(1200));
            least = before + answered.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(500));
            env.gateway.signal(Signal::KILL);
            stop.store(1, Ordering::Relaxed);
        });
        env.gateway.restart();
    }
    let kept = total(&report(&env.gateway));
    assert!(kept >= least, "{kept} of {least}");
}

#[test]
fn unusable_ledger_fails_no_request() {
    // A file at the path of the directory.
    let env = builder("lost/usage.redb").configure(|builder| builder.file("lost", "")).start();
    let in_the_way = env.gateway.directory().join("lost");
    assert_eq!(env.gateway.get(ITEMS, Some("1|reader")).status, 200);
    let line = env.gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["message"].as_str().unwrap().contains("the ledger cannot be written"), "{line}");
    assert!(line["error"].as_str().unwrap().contains("lost/usage.redb"), "{line}");
    assert!(env.gateway.metrics().metric("usage_write_errors_total") >= 1.0);
    // Usage in memory is reported nevertheless.
    assert_eq!(rows(&report(&env.gateway), "1"), [r#"items:read /api/v2/items allowed 1 {"GET":1}"#]);

    fs::remove_file(&in_the_way).unwrap();
    env.gateway.wait_for_log(|line| line["message"] == "usage: the ledger is written again");
    assert_eq!(env.gateway.get(ITEMS, Some("1|reader")).status, 200);
    assert_eq!(rows(&report(&env.gateway), "1"), [r#"items:read /api/v2/items allowed 2 {"GET":2}"#]);
    assert!(in_the_way.join("usage.redb").exists());
}

#[test]
fn file_that_is_not_a_ledger_is_not_changed() {
    let text = "the only copy of somebody's thesis ".repeat(1000);
    let env = builder("usage.redb").configure(|builder| builder.file("usage.redb", &text)).start();
    assert_eq!(env.gateway.get(ITEMS, Some("1|reader")).status, 200);
    let line = env.gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["error"].as_str().unwrap().contains("move it away"), "{line}");
    assert_eq!(total(&report(&env.gateway)), 1);
    assert_eq!(fs::read_to_string(env.gateway.directory().join("usage.redb")).unwrap(), text);
}

#[test]
fn second_gateway_waits_for_the_ledger() {
    let mut env = start("usage.redb");
    env.gateway.get(ITEMS, Some("1|reader"));
    let second = second(&env, "usage.redb");
    assert_eq!(second.get(ITEMS, Some("2|everything")).status, 200);
    let line = second.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["error"].as_str().unwrap().contains("in use"), "{line}");
    env.gateway.signal(Signal::TERM);
    env.gateway.wait_exit(Duration::from_secs(10));
    second.wait_for_log(|line| line["message"] == "usage: the ledger is written again");
    assert_eq!(total(&report(&second)), 2);
}

#[test]
fn reload_enables_disables_and_moves_the_ledger() {
    let env = start("one.redb");
    env.gateway.get(ITEMS, Some("1|reader"));
    env.gateway.edit("one.redb", "two.redb");
    assert!(env.gateway.reload());
    env.gateway.get(ITEMS, Some("2|everything"));
    let report = report(&env.gateway);
    assert_eq!((rows(&report, "1").len(), rows(&report, "2").len()), (0, 1));

    env.gateway.edit("usage:\n", "# usage:\n");
    env.gateway.edit("  path: two.redb", "#  path: two.redb");
    env.gateway.edit("  flush_interval:", "#  flush_interval:");
    assert!(env.gateway.reload());
    assert_eq!(env.gateway.get(ITEMS, Some("2|everything")).status, 200);
    assert_eq!(ask(&env.gateway, "").status, 404);
    // The lock is released.
    let other = second(&env, "one.redb");
    assert_eq!(rows(&self::report(&other), "1"), [r#"items:read /api/v2/items allowed 1 {"GET":1}"#]);

    env.gateway.edit("# usage:\n", "usage:\n");
    env.gateway.edit("#  path: two.redb", "  path: two.redb");
    env.gateway.edit("#  flush_interval:", "  flush_interval:");
    assert!(env.gateway.reload());
    env.gateway.get(ITEMS, Some("2|everything"));
    assert_eq!(rows(&self::report(&env.gateway), "2"), [r#"items:read /api/v2/items allowed 2 {"GET":2}"#]);
}

/// A limit on file sizes behaves like a full disk: writes fail.
#[test]
fn full_disk_of_the_ledger_fails_no_request() {
    let env = builder("usage.redb").configure(|builder| builder.file_size_limit(128)).start();
    for number in 0..300 {
        let token = format!("{number}|one-of-many");
        let name = format!("integration-{number}-prod");
        let abilities = ["items:read", "rents:read", "kiosk:scan", "instance:manage"];
        env.introspector.set_verdict(&token, Verdict::active(&abilities).named(number.to_string(), &name));
        assert_eq!(env.gateway.get(ITEMS, Some(&token)).status, 200);
    }
    let line = env.gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["message"].as_str().unwrap().contains("the ledger cannot be written"), "{line}");
    assert!(env.gateway.metrics().metric("usage_write_errors_total") >= 1.0);
    let begun = Instant::now();
    let told = report(&env.gateway);
    assert_eq!(total(&told), 300, "unwritten usage stays in memory");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(env.gateway.get(ITEMS, Some("1|one-of-many")).status, 200);
    assert!(env.gateway.directory().join("usage.redb").exists());
}
