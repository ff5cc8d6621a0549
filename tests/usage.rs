//! The usage ledger: what is counted, and what becomes of it whatever happens to the gateway and to its disk.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Builder, Gateway, Introspector, RawClient, Response, Upstream, Verdict};

const ITEMS: &str = "/api/v2/items";
const ADMIN: [(&str, &str); 1] = [("Authorization", "Bearer an-operators-token")];
const OPERATOR: &str = "admin:\n  token: an-operators-token\n";

struct Setting {
    upstream: Upstream,
    introspector: Introspector,
    directory: tempfile::TempDir,
}

/// Tokens that read, that may do everything, and that may do nothing.
fn setting() -> Setting {
    let introspector = Introspector::start();
    for (token, verdict) in [
        ("1|reader", Verdict::active(&["items:read", "rents:read"]).named("1", "warehouse-scanner-prod")),
        ("2|everything", Verdict::active(&["*"]).named("2", "ci-testing")),
        ("3|nothing", Verdict::active(&[]).named("3", "mobile-app-v2")),
    ] {
        introspector.know(token, verdict);
    }
    Setting { upstream: Upstream::start(), introspector, directory: tempfile::tempdir().unwrap() }
}

impl Setting {
    /// A gateway with this ledger, a file in the setting's directory.
    fn start(&self, ledger: &str) -> Gateway {
        self.builder(ledger).start()
    }

    fn builder(&self, ledger: &str) -> Builder {
        let path = self.directory.path().join(ledger);
        let usage = format!("usage:\n  path: {}\n  flush_interval: 500ms\n", path.display());
        Gateway::builder()
            .backend(&self.upstream)
            .introspector(&self.introspector)
            .yaml(OPERATOR)
            .yaml("log: {access: false}\n")
            .yaml(&usage)
    }
}

fn ask(gateway: &Gateway, query: &str) -> Response {
    RawClient::connect(gateway.admin()).request("GET", &format!("/usage{query}"), &ADMIN, b"")
}

fn report(gateway: &Gateway) -> Value {
    let answer = ask(gateway, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Of one token: `ability route verdict count {methods}`, line by line.
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
    let setting = setting();
    let gateway = setting.start("usage.redb");
    assert_eq!(report(&gateway)["tokens"], json!([]));
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
        // Refused before anybody is asked, of a token that is known.
        ("2|everything", "GET", "/api/v2/internal", 403),
        ("2|everything", "GET", "/wp-login.php", 403),
        ("3|nothing", "POST", "/api/v2/exports", 403),
        ("3|nothing", "GET", "/api/v2/reports/2026", 403),
        ("3|nothing", "GET", "/api/v2/me", 200),
        // Nobody's: there is no token, or it is not known.
        ("4|stranger", "GET", "/api/v2/items", 401),
    ] {
        let field = format!("Bearer {token}");
        // Connections of their own go to different cores.
        let answer = gateway.client().request(method, path, &[("Authorization", &field)], b"");
        assert_eq!(answer.status, status, "{token} {method} {path}");
    }
    assert_eq!(gateway.get("/up", Some("1|reader")).status, 200);
    let report = report(&gateway);
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
    // By plain HTTP, and not over a network.
    assert_eq!((&day["allowed"], &day["denied"], &day["plain_http"]), (&json!(7), &json!(1), &Value::Null));
    assert!(first["first_seen"].as_str() <= first["last_seen"].as_str());

    let metrics = gateway.metrics();
    let counted = |labels: &str| metrics.metric(&format!("usage_requests_total{{{labels}}}"));
    assert_eq!(counted(r#"ability="items:read",verdict="allowed""#), 7.0);
    assert_eq!(counted(r#"ability="items:delete",verdict="denied""#), 1.0);
    assert_eq!(metrics.metric("usage_tokens"), 3.0);
    assert_eq!(metrics.metric("usage_write_errors_total"), 0.0);
    let mode = fs::metadata(setting.directory.path().join("usage.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "addresses and names are nobody else's business");
}

#[test]
fn root_of_the_admin_listener_redirects_to_usage_or_configuration() {
    let setting = setting();
    let with_usage = setting.start("usage.redb");
    let without = Gateway::builder()
        .backend(&setting.upstream)
        .introspector(&setting.introspector)
        .yaml(OPERATOR)
        .start();
    for (gateway, expected) in [(&with_usage, "/usage"), (&without, "/config")] {
        let ask =
            |fields: &[(&str, &str)]| RawClient::connect(gateway.admin()).request("GET", "/", fields, b"");
        let answer = ask(&ADMIN);
        assert_eq!((answer.status, answer.field("location")), (302, Some(expected)));
        let challenge = ask(&[]);
        assert_eq!(challenge.status, 401);
        assert!(challenge.field("www-authenticate").is_some_and(|it| it.starts_with("Basic ")));
        let post = RawClient::connect(gateway.admin()).request("POST", "/", &ADMIN, b"");
        assert_eq!((post.status, post.field("allow")), (405, Some("GET, HEAD")));
    }
}

#[test]
fn request_without_credentials_is_no_failed_attempt() {
    let gateway = setting().start("usage.redb");
    for path in ["/", "/usage", "/usage?since=30d", "/tokens", "/config"] {
        assert_eq!(RawClient::connect(gateway.admin()).get(path, None).status, 401, "{path}");
    }
    // Wrong credentials are one, and the line of it counts none before it.
    let wrong = [("Authorization", "Basic YTpi")];
    assert_eq!(RawClient::connect(gateway.admin()).request("GET", "/usage", &wrong, b"").status, 401);
    let line = gateway.wait_for_log(|line| line["message"] == "admin: refused");
    assert_eq!((&line["action"], &line["count"]), (&json!("/usage"), &json!(1)));
}

/// What shadow mode finds is in the ledger, by token.
/// Whoever gets hold of the file has no token, and not what was asked for, and reads no address.
#[test]
fn ledger_contains_no_token_path_or_address() {
    let setting = setting();
    let gateway = setting.start("usage.redb");
    let path = "/api/v2/items/5-of-somebody?search=somebody%40example.com";
    assert_eq!(gateway.get(path, Some("1|reader")).status, 200);
    let report = ask(&gateway, "").text().to_owned();
    drop(gateway);
    let file = fs::read(setting.directory.path().join("usage.redb")).unwrap();
    let has = |text: &[u8], what: &[u8]| text.windows(what.len()).any(|window| window == what);
    assert!(has(&file, b"warehouse-scanner-prod") && has(&file, b"/api/v2/items/{id}"));
    let address = IpAddr::from([127, 0, 0, 1]).to_string();
    for what in ["|reader", "somebody", &address] {
        assert!(!has(&file, what.as_bytes()) && !report.contains(what), "{what}");
    }
}

#[test]
fn shadow_decisions_are_counted_by_token() {
    let setting = setting();
    let candidate = setting.directory.path().join("candidate.yaml");
    let map = "routes:\n  /api/v2/items: {GET: items:raed, POST: authenticated}\n  /api/v2/kiosk/scan: {POST: deny}\n";
    fs::write(&candidate, map).unwrap();
    let shadow = format!("shadow: {}\n", candidate.display());
    let gateway = setting.builder("usage.redb").yaml(&shadow).start();
    for (method, path, status) in
        [("GET", ITEMS, 200), ("GET", ITEMS, 200), ("POST", ITEMS, 403), ("GET", "/api/v2/me", 200)]
    {
        let field = [("Authorization", "Bearer 1|reader")];
        assert_eq!(gateway.client().request(method, path, &field, b"").status, status, "{method} {path}");
    }
    let told = report(&gateway);
    let rows = told["tokens"][0]["usage"].as_array().unwrap().iter();
    let shadow: Vec<_> =
        rows.map(|row| (row["verdict"].as_str().unwrap(), &row["count"], &row["shadow"])).collect();
    let (one, two) = (json!(1), json!(2));
    // The candidate lacks `/api/v2/me`, has a typing error in GET, and lets everybody POST.
    assert_eq!(shadow, [("allowed", &one, &one), ("denied", &one, &one), ("allowed", &two, &two)]);

    gateway.edit("shadow: ", "mode: shadow\n# ");
    assert!(gateway.reload());
    let field = [("Authorization", "Bearer 3|nothing")];
    assert_eq!(gateway.client().request("GET", ITEMS, &field, b"").status, 200);
    let told = report(&gateway);
    let row = &told["tokens"][1]["usage"][0];
    assert_eq!((&row["verdict"], &row["count"], &row["shadow"]), (&json!("denied"), &one, &one));
}

#[test]
fn usage_query_is_bounded_by_token_and_time() {
    let setting = setting();
    let gateway = setting.start("usage.redb");
    for token in ["1|reader", "2|everything"] {
        gateway.get(ITEMS, Some(token));
    }
    let one = ask(&gateway, "?token=2&since=1d").json();
    assert_eq!(one["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(one["tokens"][0]["name"], "ci-testing");
    // A token of another kind than Sanctum's, pasted where its id belongs, is in no log.
    for nobodys in ["9", "eyJhbGciOi.Jzb21lIHNlY3JldA"] {
        assert_eq!(ask(&gateway, &format!("?token={nobodys}")).json()["tokens"], json!([]));
    }
    let asked = |action: &str| {
        gateway.wait_for_log(|line| line["action"] == action);
        let mut lines = gateway.logs().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        lines.find(|line| line["action"] == action).unwrap()["what"].clone()
    };
    assert_eq!((asked("show usage"), asked("show usage of an unknown token")), (json!("2"), Value::Null));
    assert!(!gateway.logs().concat().contains("eyJhbGciOi"));
    for query in ["?since=30", "?since=0d", "?tokens=1", "?token=1&token=2", "?token=17|a-secret"] {
        let answer = ask(&gateway, query);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    let mut client = RawClient::connect(gateway.admin());
    assert_eq!(client.request("GET", "/usage", &[], b"").status, 401);
    let mut client = RawClient::connect(gateway.admin());
    assert_eq!(client.request("POST", "/usage", &ADMIN, b"").status, 405);
    let line = gateway.wait_for_log(|line| line["action"] == "show usage" && line["what"] == "2");
    assert_eq!(line["credential"], "admin token (Bearer)");
    assert!(gateway.logs().iter().all(|line| !line.contains("a-secret")));
}

#[test]
fn without_the_usage_section_nothing_is_recorded() {
    let setting = setting();
    let builder = Gateway::builder().backend(&setting.upstream).introspector(&setting.introspector);
    let gateway = builder.yaml(OPERATOR).start();
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    let answer = ask(&gateway, "");
    assert_eq!((answer.status, answer.text().contains("not configured")), (404, true));
    let metrics = RawClient::connect(gateway.admin()).request("GET", "/metrics", &[], b"");
    assert!(!metrics.text().contains("stockaj_gateway_usage"));
}

#[test]
fn ledger_continues_after_a_restart() {
    let setting = setting();
    for round in 1..=3 {
        let mut gateway = setting.start("usage.redb");
        gateway.get(ITEMS, Some("1|reader"));
        if round == 2 {
            assert_eq!(total(&report(&gateway)), 2);
        }
        // What nobody has asked about is written at the end.
        gateway.signal(Signal::TERM);
        assert!(gateway.wait_exit(Duration::from_secs(10)).success());
    }
    let gateway = setting.start("usage.redb");
    assert_eq!(rows(&report(&gateway), "1"), [r#"items:read /api/v2/items allowed 3 {"GET":3}"#]);
}

/// Kills a gateway in the middle of its work, several times: each time all is there but the last moments.
#[test]
fn killed_gateway_loses_at_most_the_flush_interval() {
    let setting = setting();
    let mut least = 0;
    for _ in 0..3 {
        let mut gateway = setting.start("usage.redb");
        let before = total(&report(&gateway));
        assert!(before >= least, "{before} of {least}");
        let (answered, stop) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut client = gateway.client();
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
            gateway_is_killed(&gateway);
            stop.store(1, Ordering::Relaxed);
        });
        gateway.wait_exit(Duration::from_secs(10));
    }
    let gateway = setting.start("usage.redb");
    let kept = total(&report(&gateway));
    assert!(kept >= least, "{kept} of {least}");
}

fn gateway_is_killed(gateway: &Gateway) {
    gateway.signal(Signal::KILL);
}

#[test]
fn unusable_ledger_fails_no_request() {
    let setting = setting();
    // A file where the directory should be.
    let in_the_way = setting.directory.path().join("lost");
    fs::write(&in_the_way, "").unwrap();
    let gateway = setting.start("lost/usage.redb");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    let line = gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["message"].as_str().unwrap().contains("the ledger cannot be written"), "{line}");
    assert!(line["error"].as_str().unwrap().contains("lost/usage.redb"), "{line}");
    assert!(gateway.metrics().metric("usage_write_errors_total") >= 1.0);
    // What is in memory is told all the same.
    assert_eq!(rows(&report(&gateway), "1"), [r#"items:read /api/v2/items allowed 1 {"GET":1}"#]);

    fs::remove_file(&in_the_way).unwrap();
    gateway.wait_for_log(|line| line["message"] == "usage: the ledger is written again");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    assert_eq!(rows(&report(&gateway), "1"), [r#"items:read /api/v2/items allowed 2 {"GET":2}"#]);
    assert!(in_the_way.join("usage.redb").exists());
}

#[test]
fn file_that_is_not_a_ledger_is_not_changed() {
    let setting = setting();
    let file = setting.directory.path().join("usage.redb");
    let text = "the only copy of somebody's thesis ".repeat(1000);
    fs::write(&file, &text).unwrap();
    let gateway = setting.start("usage.redb");
    assert_eq!(gateway.get(ITEMS, Some("1|reader")).status, 200);
    let line = gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["error"].as_str().unwrap().contains("move it away"), "{line}");
    assert_eq!(total(&report(&gateway)), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn second_gateway_waits_for_the_ledger() {
    let setting = setting();
    let mut first = setting.start("usage.redb");
    first.get(ITEMS, Some("1|reader"));
    let second = setting.start("usage.redb");
    assert_eq!(second.get(ITEMS, Some("2|everything")).status, 200);
    let line = second.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["error"].as_str().unwrap().contains("in use"), "{line}");
    first.signal(Signal::TERM);
    first.wait_exit(Duration::from_secs(10));
    second.wait_for_log(|line| line["message"] == "usage: the ledger is written again");
    assert_eq!(total(&report(&second)), 2);
}

#[test]
fn reload_enables_disables_and_moves_the_ledger() {
    let setting = setting();
    let gateway = setting.start("one.redb");
    gateway.get(ITEMS, Some("1|reader"));
    gateway.edit("one.redb", "two.redb");
    assert!(gateway.reload());
    gateway.get(ITEMS, Some("2|everything"));
    let report = report(&gateway);
    assert_eq!((rows(&report, "1").len(), rows(&report, "2").len()), (0, 1));

    gateway.edit("usage:\n", "# usage:\n");
    gateway.edit("  path:", "#  path:");
    gateway.edit("  flush_interval:", "#  flush_interval:");
    assert!(gateway.reload());
    assert_eq!(gateway.get(ITEMS, Some("2|everything")).status, 200);
    assert_eq!(ask(&gateway, "").status, 404);
    // Nobody holds it any more.
    let other = setting.start("one.redb");
    assert_eq!(rows(&self::report(&other), "1"), [r#"items:read /api/v2/items allowed 1 {"GET":1}"#]);

    gateway.edit("# usage:\n", "usage:\n");
    gateway.edit("#  path:", "  path:");
    gateway.edit("#  flush_interval:", "  flush_interval:");
    assert!(gateway.reload());
    gateway.get(ITEMS, Some("2|everything"));
    assert_eq!(rows(&self::report(&gateway), "2"), [r#"items:read /api/v2/items allowed 2 {"GET":2}"#]);
}

/// A limit on the size of files is what a full disk is: a write that fails.
#[test]
fn full_disk_of_the_ledger_fails_no_request() {
    let setting = setting();
    let gateway = setting.builder("usage.redb").file_size_limit(128).start();
    for number in 0..300 {
        let token = format!("{number}|one-of-many");
        let name = format!("integration-{number}-prod");
        let abilities = ["items:read", "rents:read", "kiosk:scan", "instance:manage"];
        setting.introspector.know(&token, Verdict::active(&abilities).named(number.to_string(), &name));
        assert_eq!(gateway.get(ITEMS, Some(&token)).status, 200);
    }
    let line = gateway.wait_for_log(|line| line["level"] == "ERROR");
    assert!(line["message"].as_str().unwrap().contains("the ledger cannot be written"), "{line}");
    assert!(gateway.metrics().metric("usage_write_errors_total") >= 1.0);
    let begun = Instant::now();
    let told = report(&gateway);
    assert_eq!(total(&told), 300, "what the disk did not take is in memory");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(gateway.get(ITEMS, Some("1|one-of-many")).status, 200);
    assert!(Path::new(&setting.directory.path().join("usage.redb")).exists());
}
