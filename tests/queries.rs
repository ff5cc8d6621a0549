//! Rules for the parameters of a query.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use stockaj_gateway::internals::policy::ability::Requirement;
use stockaj_gateway::internals::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};

use crate::policy::outcome;
use crate::support::{OPERATED, TestEnv, Verdict};

const READER: &str = "1|reader";
const RENTER: &str = "2|renter";

/// A map with rules for queries.
const MAP: &str = "\
abilities:
  routes:
    /api/v2/items:
      GET: items:read
      POST: items:create
      query:
        include: {split: ',', values: {variants: items:read, renters: renters:read}}
        debug: deny
";

fn start(yaml: &str) -> TestEnv {
    TestEnv::builder()
        .verdict(READER, Verdict::active(&["items:read", "items:create"]).named(1, "reader-prod"))
        .verdict(RENTER, Verdict::active(&["items:read", "renters:read"]).named(2, "renter-prod"))
        .yaml(&format!("{MAP}{yaml}"))
        .start()
}

fn access_line(env: &TestEnv, reason: &str) -> Value {
    env.gateway.wait_for_log(|line| line["message"] == "request" && line["reason"] == reason)
}

#[test]
fn denied_parameter_is_logged_and_counted_by_its_rule() {
    let env = start("denials: {required_ability: true}\n");
    let response = env.gateway.get("/api/v2/items?include=renters&secret=hunter2", Some(READER));
    assert_eq!((response.status, response.text()), (403, r#"{"message":"This action is unauthorized."}"#));
    assert_eq!(
        response.field("www-authenticate"),
        Some(r#"Bearer realm="stockaj", error="insufficient_scope", scope="renters:read""#)
    );
    assert_eq!(response.field("x-required-ability"), Some("renters:read"));
    let line = access_line(&env, "query_denied");
    assert_eq!(line["required"], "renters:read");
    assert_eq!(line["missing"], serde_json::json!(["renters:read"]));
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.ends_with(" query include=renters") && detail.contains("gateway.yaml:"), "{detail}");
    assert!(!line.to_string().contains("hunter2"), "{line}");
    let metric =
        "requests_total{method=\"GET\",reason=\"query_denied\",route=\"/api/v2/items\",status=\"403\"}";
    assert_eq!(env.gateway.metrics().metric(metric), 1.0);
    assert_eq!(env.gateway.get("/api/v2/items?include=renters", Some(RENTER)).status, 200);
}

#[test]
fn denied_value_is_not_logged() {
    let env = start("");
    assert_eq!(env.gateway.get("/api/v2/items?include=hunter2", Some(READER)).status, 403);
    let line = access_line(&env, "query_denied");
    assert!(line["detail"].as_str().unwrap().ends_with(" query include=(others)"), "{line}");
    assert_eq!(line["required"], "deny");
    assert!(!env.gateway.logs().concat().contains("hunter2"));
    // No token can send it, so none is introspected.
    assert_eq!(env.introspector.calls(), 0);
}

#[test]
fn ability_that_is_added_to_a_token_allows_its_parameter() {
    let env = start("cache: {ttl: 60s, negative_ttl: 1ms}\n");
    assert_eq!(env.gateway.get("/api/v2/items", Some(READER)).status, 200);
    env.introspector
        .set_verdict(READER, Verdict::active(&["items:read", "renters:read"]).named(1, "reader-prod"));
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(env.gateway.get("/api/v2/items?include=renters", Some(READER)).status, 200);
}

#[test]
fn verdict_is_as_recent_as_the_ability_of_a_parameter_demands() {
    let env = start("cache: {max_age: {renters:read: 0s}}\n");
    for (target, introspections) in [
        ("/api/v2/items", 1),
        ("/api/v2/items", 1),
        ("/api/v2/items?include=renters", 2),
        ("/api/v2/items?include=variants", 2),
        ("/api/v2/items?include=variants,renters", 3),
    ] {
        assert_eq!(env.gateway.get(target, Some(RENTER)).status, 200, "{target}");
        assert_eq!(env.introspector.calls(), introspections, "{target}");
    }
}

#[test]
fn body_of_a_post_is_not_read() {
    let env = start("");
    let authorization = format!("Bearer {READER}");
    let fields = [("Authorization", &*authorization), ("Content-Type", "application/json")];
    let mut client = env.gateway.client();
    let body = br#"{"include":"renters"}"#;
    assert_eq!(client.request("POST", "/api/v2/items", &fields, body).status, 200);
    assert_eq!(client.request("POST", "/api/v2/items?include=renters", &fields, body).status, 403);
}

#[test]
fn preflight_is_decided_by_the_query_of_its_request() {
    let env = start("");
    let fields = [("Origin", "https://shop.example"), ("Access-Control-Request-Method", "GET")];
    for (target, status) in [
        ("/api/v2/items?include=renters", 200),
        ("/api/v2/items?debug=1", 403),
        ("/api/v2/items?include=other", 403),
        ("/api/v2/items?include[=x", 400),
    ] {
        assert_eq!(env.gateway.client().request("OPTIONS", target, &fields, b"").status, status, "{target}");
    }
}

#[test]
fn shadow_mode_forwards_denied_parameters_but_no_ambiguous_ones() {
    let env = start("mode: shadow\n");
    assert_eq!(env.gateway.get("/api/v2/items?include=renters", Some(READER)).status, 200);
    let line = env.gateway.wait_for_log(|line| line["shadow"] == "would_deny");
    let rule = line["shadow_rule"].as_str().unwrap();
    assert!(rule.ends_with(" query include=renters: renters:read (query_denied)"), "{rule}");
    assert_eq!(line["required"], "renters:read");
    assert_eq!(env.gateway.get("/api/v2/items?include[=renters", Some(READER)).status, 400);
}

#[test]
fn candidate_map_is_compared_with_its_rules_for_queries() {
    let candidate =
        "routes: {/api/v2/items: {GET: items:read, query: {include: deny, sort: renters:read}}}\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), candidate).unwrap();
    let env = start(&format!("shadow: {}\n", file.path().display()));
    assert_eq!(env.gateway.get("/api/v2/items?sort=name", Some(READER)).status, 200);
    let line = env.gateway.wait_for_log(|line| line["shadow"] == "would_deny");
    let rule = line["shadow_rule"].as_str().unwrap();
    assert!(rule.ends_with(" query sort: renters:read (query_denied)"), "{rule}");
    assert_eq!(env.gateway.get("/api/v2/items?page=1", Some(READER)).status, 200);
    assert_eq!(env.gateway.metrics().metric("shadow_total"), 1.0);
}

/// Queries of pieces that parsers treat differently, always the same ones.
pub fn nasty_queries(count: usize) -> Vec<String> {
    const NAMES: [&str; 12] = [
        "include", "include", "in_clude", "in.clude", "in", "clude", "fields", "fields", "renters", "debug",
        "page", "q",
    ];
    const MARKS: [&str; 30] = [
        "[",
        "]",
        "[]",
        "[renters]",
        "[ ]",
        "[+]",
        "[0]",
        "[a][b]",
        ".",
        "_",
        "+",
        "%20",
        "%00",
        "%5B",
        "%5D",
        "%5b",
        "%2E",
        "%3D",
        "%26",
        "%3B",
        "%09",
        "%",
        "%zz",
        "%C3%A9",
        "%FF",
        "%5Brenters%5D",
        "[[",
        "]]",
        "%E2%80%8B",
        "%0A",
    ];
    const VALUES: [&str; 14] = [
        "",
        "=",
        "=variants",
        "=variants",
        "=renters",
        "=renters",
        "=variants,renters",
        "=variants%2Crenters",
        "=Renters",
        "=+renters",
        "=1",
        "==renters",
        "=%72enters",
        "=renters%00",
    ];
    // A linear congruential generator (Knuth's MMIX).
    let mut state = 18_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let mut queries = Vec::with_capacity(count);
    for _ in 0..count {
        let mut pairs = Vec::new();
        for _ in 0..1 + below(3) {
            let mut pair = String::new();
            if below(8) == 0 {
                pair += MARKS[below(MARKS.len())];
            }
            pair += NAMES[below(NAMES.len())];
            for _ in 0..below(4) / 2 {
                pair += MARKS[below(MARKS.len())];
                if below(3) == 0 {
                    pair += NAMES[below(NAMES.len())];
                }
            }
            pair += VALUES[below(VALUES.len())];
            pairs.push(pair);
        }
        queries.push(pairs.join(if below(20) == 0 { ";" } else { "&" }).replace(' ', "+"));
    }
    queries
}

/// Prints the subjects of the rules that apply to what `parse_str` reads, for queries in hexadecimal on standard input.
const JUDGE: &str = r#"
while (($line = fgets(STDIN)) !== false) {
    $seen = [];
    @parse_str(hex2bin(trim($line)), $seen);
    $needed = [];
    foreach ($seen as $name => $value) {
        if ($name === 'include') {
            $values = [$value];
            array_walk_recursive($values, function ($value) use (&$needed) {
                foreach (explode(',', $value) as $one) {
                    if ($one !== '') {
                        $needed[] = in_array($one, ['variants', 'renters'], true) ? "include=$one" : 'include=(others)';
                    }
                }
            });
        } elseif ($name === 'in_clude' || $name === 'debug') {
            $needed[] = $name;
        } elseif ($name === 'fields' && is_array($value)) {
            foreach ($value as $key => $_) {
                $needed[] = $key === 'renters' ? 'fields[renters]' : '(others)';
            }
        } else {
            $needed[] = '(others)';
        }
    }
    echo json_encode(array_values(array_unique($needed))), "\n";
}
"#;

#[test]
#[ignore = "needs php: tests/run"]
fn php_reads_no_parameter_that_the_rules_did_not_check() {
    let deny = || RawCheck::Requirement(Requirement::deny());
    let value = |value: &str| RawValue { value: value.into(), requirement: Requirement::deny(), place: None };
    let values = vec![value("renters"), value("variants")];
    let include = RawCheck::Values { split: Some(",".into()), values, deny_others: true };
    let named = [("include", include), ("fields[renters]", deny()), ("in_clude", deny()), ("debug", deny())];
    let parameter = |(name, check): (&str, RawCheck)| RawParameter { name: name.into(), check, place: None };
    let rules = QueryRules::new(named.into_iter().map(parameter).collect(), Some(None)).unwrap();

    let mut queries = nasty_queries(50_000);
    queries.push(format!("{}include=renters", "a=1&".repeat(1000)));
    queries.push(format!("include{}=renters", "[a]".repeat(65)));
    let mut php = Command::new("php")
        .args(["-d", "display_errors=0", "-r", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = php.stdin.take().unwrap();
    let lines: String = queries
        .iter()
        .map(|query| query.bytes().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = php.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let needed: Vec<Vec<String>> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(needed.len(), queries.len());

    let (mut accepted, mut strict) = (0, 0);
    for (query, needed) in queries.iter().zip(needed) {
        let mut checked = Vec::new();
        let visited = rules.visit(query, |_, it| {
            checked.push(it.subject.to_string());
            Ok(())
        });
        if visited.is_err() {
            continue;
        }
        accepted += 1;
        for subject in &needed {
            assert!(
                checked.contains(subject),
                "PHP reads {subject} of {query}, the rules checked {checked:?}"
            );
        }
        strict += usize::from(checked.iter().any(|subject| !needed.contains(subject)));
    }
    println!("{} queries, {accepted} accepted, of {strict} more was checked than PHP reads", queries.len());
    assert!(accepted > 10_000 && queries.len() - accepted > 10_000, "{accepted}");
}

#[test]
fn limit_by_ability_counts_the_abilities_of_parameters() {
    let limits = "rate_limit:\n  requests_per_second: 1000\n  burst: 1000\n  fields: ietf\n  \
                  by_ability: {renters:read: {requests_per_second: 1, burst: 2}}\n";
    let env = start(limits);
    for (target, status) in [
        ("/api/v2/items", 200),
        ("/api/v2/items?include=renters", 200),
        ("/api/v2/items?include=variants", 200),
        ("/api/v2/items?include=variants,renters&include=renters", 200),
        ("/api/v2/items?include=renters", 429),
        ("/api/v2/items?include=variants", 200),
        ("/api/v2/items", 200),
    ] {
        let response = env.gateway.get(target, Some(RENTER));
        assert_eq!(response.status, status, "{target}");
        let policy = response.field("ratelimit-policy").unwrap_or_default();
        assert_eq!(
            policy.contains("by_ability:renters:read"),
            target.contains("renters"),
            "{target}: {policy}"
        );
    }
    assert_eq!(access_line(&env, "limited")["limit"], "by_ability");
}

#[test]
fn ledger_counts_the_abilities_of_parameters() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("usage.redb");
    let env = start(&format!(
        "{OPERATED}usage: {{path: {}, flush_interval: 100ms, findings: {{least_age: 0s, naming: false}}}}\n",
        ledger.display()
    ));
    for (target, token, status) in [
        ("/api/v2/items", RENTER, 200),
        ("/api/v2/items?include=renters,renters&include=variants", RENTER, 200),
        ("/api/v2/items?include=renters", READER, 403),
        ("/api/v2/items?debug=1", READER, 403),
    ] {
        assert_eq!(env.gateway.get(target, Some(token)).status, status, "{target}");
    }
    let report: Value = env.operator("GET", "/usage", "").json();
    let rows = |index: usize| -> Vec<String> {
        let token: &Value = &report["tokens"][index];
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let rows = token["usage"].as_array().unwrap().iter();
        let rows = rows.map(|row| {
            let words = ["ability", "verdict", "requirement", "parameter"].map(|key| text(row, key));
            format!("{} {}", words.join(" "), row["count"])
        });
        let days = token["days"].as_object().unwrap().values();
        let sum = |key: &str| days.clone().map(|day| day[key].as_u64().unwrap_or_default()).sum::<u64>();
        rows.chain([format!("{} allowed, {} denied", sum("allowed"), sum("denied"))]).collect()
    };
    assert_eq!(
        rows(0),
        [
            "- denied deny debug 1",
            "renters:read denied renters:read include=renters 1",
            "0 allowed, 2 denied",
        ]
    );
    assert_eq!(
        rows(1),
        [
            "items:read allowed items:read - 2",
            "renters:read allowed renters:read include=renters 1",
            "2 allowed, 0 denied",
        ]
    );
    let findings = report["findings"].as_array().unwrap().iter();
    let mut unused = findings.filter(|it| it["kind"] == "unused_abilities" && it["token"] == "2");
    assert!(unused.next().is_none(), "{report}");
}

#[test]
fn coverage_counts_the_rules_of_parameters() {
    let directory = tempfile::tempdir().unwrap();
    let map = "routes:\n  /items:\n    GET: items:read\n    query:\n      \
               include: {values: {variants: items:read, renters: renters:read}}\n      debug: deny\n";
    fs::write(directory.path().join("map.yaml"), map).unwrap();
    let test = |requests: &str, arguments: &[&str]| {
        let cases =
            format!("map: map.yaml\ncallers: {{all: [items:read, renters:read]}}\ntable:\n{requests}");
        fs::write(directory.path().join("test.yaml"), cases).unwrap();
        outcome(directory.path(), &[&["test", "test.yaml"], arguments].concat())
    };
    let some =
        "  GET /items?include=variants: {all: allow}\n  GET /items?include=renters&include[=1: {all: 400}\n";
    let (code, text, summary) = test(some, &["--require-coverage"]);
    assert_eq!(code, 1, "{text}");
    for what in [
        "include=renters, which requires renters:read",
        "include=(others), which requires deny",
        "debug, which requires deny",
    ] {
        assert!(text.contains(&format!("no case reaches /items query {what}")), "{text}");
    }
    assert!(!text.contains("include=variants,"), "{text}");
    assert!(summary.contains("2 of 5 rules reached"), "{summary}");
    let (_, json, _) = test(some, &["--coverage", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let unreached = json["unreached"].as_array().unwrap();
    assert_eq!((&unreached[0]["method"], &unreached[0]["path"]), (&"*".into(), &"/items".into()));
    let parameters: Vec<&str> = unreached.iter().filter_map(|it| it["parameter"].as_str()).collect();
    assert_eq!(parameters, ["include=(others)", "include=renters", "debug"]);
    let all = "  GET /items?include=variants: {all: allow}\n  GET /items?include=renters: {all: allow}\n  \
               GET /items?include=x: {all: 403}\n  GET /items?debug=1: {all: 403}\n";
    let (code, text, summary) = test(all, &["--require-coverage"]);
    assert_eq!(code, 0, "{text}{summary}");
}
