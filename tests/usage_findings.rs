//! Findings about tokens, from requests to the report.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Gateway, Introspector, OPERATED, PATIENCE, RawClient, TestEnv, Verdict};

const ITEMS: &str = "/api/v2/items";
const NEVER: &str = "2999-01-01T00:00:00Z";
const PATCH: (&str, &str, &str) = ("PATCH", "/api/v2/items/5", "https");
const READ: (&str, &str, &str) = ("GET", ITEMS, "https");

/// Sends requests of `token`, each from a different address.
fn send(gateway: &Gateway, token: &str, requests: &[(&str, &str, &str)]) {
    let mut client = gateway.client();
    let token = format!("Bearer {token}");
    for (number, (method, path, scheme)) in requests.iter().enumerate() {
        let address = format!("192.0.2.{number}");
        let fields =
            [("Authorization", &*token), ("X-Forwarded-For", &address), ("X-Forwarded-Proto", scheme)];
        let answer = client.request(method, path, &fields, b"");
        assert!(matches!(answer.status, 200 | 403), "{token} {method} {path}: {}", answer.status);
    }
}

/// `severity kind token abilities`, line by line, in the report's order.
fn findings(gateway: &Gateway) -> Vec<String> {
    let operator = [("Authorization", "Bearer an-operators-token"), ("Accept", "application/json")];
    let answer = RawClient::connect(gateway.admin()).request("GET", "/usage", &operator, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let report: Value = answer.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            let abilities: Vec<String> = finding["abilities"].as_array().unwrap().iter().map(text).collect();
            assert!(
                !text(&finding["evidence"]).is_empty() && !text(&finding["advice"]).is_empty(),
                "{finding}"
            );
            let [severity, kind, token] = ["severity", "kind", "token"].map(|key| text(&finding[key]));
            format!("{severity} {kind} {token} {}", abilities.join(","))
        })
        .collect()
}

#[test]
fn configured_rules_find_what_tokens_did() {
    let introspector = Introspector::start();
    let know = |id: &str, name: &str, abilities: &[&str], expires_at: Option<&str>| {
        let verdict = Verdict::active(abilities).named(id, name);
        introspector.set_verdict(
            &format!("{id}|secret"),
            match expires_at {
                Some(expires_at) => verdict.expiring(expires_at),
                None => verdict,
            },
        );
    };
    for (id, abilities) in [
        ("1", &["items:read"][..]),
        ("2", &["items:delete", "items:read"]),
        ("3", &["*"]),
        ("6", &["items:read"]),
        ("7", &["items:read"]),
        ("8", &["items:read"]),
        ("9", &[]),
        ("10", &["items:read", "rents:read"]),
    ] {
        know(id, "warehouse-scanner-prod", abilities, Some(NEVER));
    }
    know("4", "warehouse-scanner-prod", &["items:read"], None);
    know("5", "Scanner-canary", &["items:read"], Some(NEVER));
    know("11", "scanner-canary", &["items:read"], Some(NEVER));
    let builder = TestEnv::builder()
        .introspector(introspector)
        .yaml("listen:\n  trusted_proxies: [127.0.0.0/8]\n")
        .yaml(OPERATED)
        .yaml("usage:\n  path: usage.redb\n  findings: {least_age: 0s}\n");
    let mut env = builder.start();
    let gateway = &mut env.gateway;
    for id in ["1", "2", "3", "4", "5", "11"] {
        send(gateway, &format!("{id}|secret"), &[READ; 9]);
    }
    send(gateway, "6|secret", &[READ, ("GET", ITEMS, "http")]);
    send(gateway, "7|secret", &[READ, PATCH, PATCH, PATCH, PATCH, PATCH]);
    send(gateway, "8|secret", &[READ; 10]);
    let probing = [
        READ,
        ("POST", ITEMS, "https"),
        ("DELETE", "/api/v2/items/5", "https"),
        ("POST", "/api/v2/kiosk/scan", "https"),
        ("POST", "/api/v2/exports", "https"),
        ("GET", "/api/v2/reports/2026", "https"),
    ];
    send(gateway, "9|secret", &probing);
    // One ability of `any` is sufficient, so the other is excessive.
    send(gateway, "10|secret", &[("GET", "/api/v2/reports/2026", "https")]);
    assert_eq!(
        findings(gateway),
        [
            "high repeated_denials 9 items:create,items:delete,items:read,kiosk:scan,rents:read",
            "high plain_http 6 ",
            "medium repeated_denials 7 items:update",
            "medium wildcard 3 items:read",
            "medium many_addresses 8 ",
            "medium unused_abilities 2 items:delete",
            "low unused_abilities 10 rents:read",
            "low no_expiry 4 ",
            "low naming 5 ",
            "low naming 11 ",
        ]
    );
    let mut restart_with = |from: &str, to: &str| {
        gateway.signal(Signal::TERM);
        gateway.wait_exit(PATIENCE);
        gateway.edit(from, to);
        gateway.restart();
        findings(gateway)
    };
    let rules = "  findings: {addresses: 11, denials: 6, least_age: 0s, environments: [canary]}\n";
    assert_eq!(
        restart_with("  findings: {least_age: 0s}\n", rules),
        [
            "high repeated_denials 9 items:create,items:delete,items:read,kiosk:scan,rents:read",
            "high plain_http 6 ",
            "medium wildcard 3 items:read",
            "medium unused_abilities 2 items:delete",
            "low unused_abilities 10 rents:read",
            "low no_expiry 4 ",
            "low naming 5 ",
        ],
        "the same ledger with other rules"
    );
    assert_eq!(restart_with(rules, ""), [] as [&str; 0], "by default a token created today has no findings");
}
