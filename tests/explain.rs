//! `explain`: real tokens, and hints for requests that are not in the map.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::policy::outcome;
use crate::support::{Answer, BINARY, Introspector, Verdict};

/// Exit code, standard output and standard error of `explain GET /items --token-stdin`. Only the map and the
/// `introspection` section of the configuration are valid.
fn explain(introspector: &Introspector, token: &str) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let yaml = format!(
        "backend: {{url: '${{UNSET}}'}}\nadmin: {{token_file: /no/such/file}}\nredis: {{url_file: /no/such/file}}\n\
         blocked: {{ids: [18], names: [old-scanner]}}\n\
         listen: {{tls: {{certificate: /no/such/file, private_key: /no/such/file}}}}\n{}abilities: {{routes: {{/items: {{GET: {{all: [a, b]}}}}}}}}\n",
        introspector.yaml()
    );
    std::fs::write(&file, yaml).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["explain", "GET", "/items", "--token-stdin", "--config"]).arg(&file);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn explain_introspects_a_token_and_never_shows_it() {
    let introspector = Introspector::start();
    let named = |abilities: &[&str]| Verdict::active(abilities).named(17, "sync\u{1b}prod");
    introspector.set_verdict("17|both", named(&["a", "b"]).expiring("2999-01-02T03:04:05Z"));
    introspector.set_verdict("17|one", named(&["a"]));
    introspector.set_verdict("17|late", named(&["a", "b"]).expiring("2001-01-01T00:00:00Z"));
    introspector.set_verdict("18|blocked", Verdict::active(&["a", "b"]).named("another", "sync"));
    introspector.set_verdict("18|odd", Verdict::Answer(Answer::with(500, &[], "oops")));
    introspector.set_verdict("19|named", Verdict::active(&["a", "b"]).named(19, "old-scanner"));
    introspector.set_verdict("17|odd", Verdict::Answer(Answer::with(500, &[], "oops")));
    for (token, exit, told) in [
        (
            "17|both",
            0,
            &[
                "token of     sync\u{fffd}prod (id 17), expires 2999-01-02T03:04:05Z",
                "verdict      allowed (allowed)",
            ][..],
        ),
        (
            "17|one",
            1,
            &[
                "token of     sync\u{fffd}prod (id 17), does not expire",
                "missing      b",
                "advice       add b to the token, or create a new one with: a,b",
                "verdict      denied with 403 (missing_ability)",
            ],
        ),
        (
            "17|late",
            1,
            &[
                "token of     sync\u{fffd}prod (id 17), expires 2001-01-01T00:00:00Z",
                "advice       create a new token: this one has expired",
                "verdict      denied with 401 (expired_token)",
            ],
        ),
        (
            "17|unknown",
            1,
            &[
                "advice       create a new token: this one is unknown to the introspector, or revoked",
                "verdict      denied with 401 (inactive_token)",
            ],
        ),
        (
            "18|blocked",
            1,
            &[
                "token        blocked",
                "advice       create a new token: `blocked` in gateway.yaml names this one by its id or its name",
                "verdict      denied with 401 (blocked)",
            ],
        ),
        (
            "19|named",
            1,
            &[
                "token of     old-scanner (id 19), does not expire",
                "token        blocked",
                "verdict      denied with 401 (blocked)",
            ],
        ),
        // The gateway does not introspect a token whose text shows a blocked id.
        ("18|odd", 1, &["token        blocked", "verdict      denied with 401 (blocked)"]),
        ("17|odd", 1, &["verdict      denied with 503 (no_verdict)"]),
        ("17|two words", 1, &["verdict      denied with 401 (malformed_token)"]),
    ] {
        let (code, stdout, stderr) = explain(&introspector, token);
        assert_eq!(code, exit, "{token}: {stdout}{stderr}");
        for line in told {
            assert!(stdout.lines().any(|it| it == *line), "{token}: {line}\n{stdout}");
        }
        assert!(stderr.is_empty() != (token == "17|odd"), "{token}: {stderr}");
        assert!(!format!("{stdout}{stderr}").contains(token), "{token}: {stdout}{stderr}");
    }
}

#[test]
fn explain_introspects_by_rfc_7662() {
    let introspector = Introspector::start_rfc7662("gateway", "secret");
    introspector.set_verdict(
        "17|both",
        Verdict::active(&["a", "b"]).named(17, "sync-prod").expiring(32_472_144_000_u64),
    );
    let (code, stdout, stderr) = explain(&introspector, "17|both");
    assert_eq!((code, &*stderr), (0, ""), "{stdout}");
    assert!(stdout.starts_with("token of     sync-prod (id 17), expires 2999-01-01T00:00:00Z\n"), "{stdout}");
    assert_eq!(explain(&introspector, "17|unknown").0, 1);
}

#[test]
fn explain_shows_which_claim_differs_and_when_a_token_becomes_valid() {
    let introspector =
        Introspector::start_rfc7662("gateway", "secret").with_lines("  expect: {aud: https://api.example}\n");
    let active = |claims: serde_json::Value| {
        let mut answer = serde_json::json!({"active": true, "scope": "a b"});
        answer.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        Verdict::Answer(Answer::json(200, &answer))
    };
    introspector
        .set_verdict("17|other", active(serde_json::json!({"aud": ["https://payroll.example\u{1b}"]})));
    introspector.set_verdict("17|none", active(serde_json::json!({})));
    let early = serde_json::json!({"aud": "https://api.example", "nbf": 32_472_144_000_u64});
    introspector.set_verdict("17|early", active(early));
    for (token, told) in [
        (
            "17|other",
            [
                "claim        aud is [\"https://payroll.example\\u001b\"], expected https://api.example",
                "token        unexpected_claim",
                "verdict      denied with 401 (unexpected_claim)",
            ],
        ),
        (
            "17|none",
            [
                "claim        aud is absent, expected https://api.example",
                "advice       get a token that was issued for this service, or correct `introspection.expect`",
                "verdict      denied with 401 (unexpected_claim)",
            ],
        ),
        (
            "17|early",
            [
                "nbf          valid from 2999-01-01T00:00:00Z",
                "token        not_yet_valid",
                "verdict      denied with 401 (not_yet_valid)",
            ],
        ),
    ] {
        let (code, stdout, stderr) = explain(&introspector, token);
        assert_eq!((code, &*stderr), (1, ""), "{token}: {stdout}");
        for line in told {
            assert!(stdout.lines().any(|it| it == line), "{token}: {line}\n{stdout}");
        }
        assert!(!stdout.contains(token), "{stdout}");
    }
}

#[test]
fn explain_suggests_the_nearest_route_of_an_unmapped_request() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let routes = "routes:\n  /api/v2/items: {GET: items:read, POST: items:create}\n  /api/v2/items/{id}: {GET: items:read}\n";
    write("map.yaml", routes);
    let indented = routes.replace('\n', "\n  ");
    write(
        "gateway.yaml",
        &format!(
            "backend: {{url: '${{UNSET}}'}}\nadmin: {{token_file: /no/such/file}}\nabilities:\n  {indented}\n"
        ),
    );
    for (method, path, hint, reason) in [
        ("get", "/api/v2/items", Some("methods are case-sensitive: did you mean GET?"), "bad_request"),
        ("Post", "/api/v2/items", Some("methods are case-sensitive: did you mean POST?"), "bad_request"),
        ("GET", "/api/v2/item/5", Some("nearest route: /api/v2/items/{id}"), "unmapped"),
        ("GET", "/api/v2/items/5/history", Some("nearest route: /api/v2/items/{id}"), "unmapped"),
        ("GET", "/items", Some("nearest route: /api/v2/items"), "unmapped"),
        ("GET", "/wholly/else", None, "unmapped"),
        ("TRACE", "/api/v2/items", None, "bad_request"),
        ("PUT", "/api/v2/items", Some("the methods of this route: GET, POST"), ""),
        ("GET", "/api/v2/items", None, "allowed"),
    ] {
        for file in ["map.yaml", "gateway.yaml"] {
            let arguments = ["explain", method, path, "--abilities", "*", "-c", file];
            let (code, stdout, stderr) = outcome(directory.path(), &arguments);
            assert_eq!((code, &*stderr), (i32::from(reason != "allowed"), ""), "{method} {path}: {stdout}");
            let found = stdout.lines().find_map(|line| line.strip_prefix("hint         "));
            assert_eq!(found, hint, "{method} {path}: {stdout}");
            assert!(stdout.contains(&format!("({reason}")), "{method} {path}: {stdout}");
        }
    }
    let (code, stdout, stderr) = outcome(
        directory.path(),
        &["explain", "GET", "/api/v2/items", "--token-stdin", "--config", "map.yaml"],
    );
    assert!(code == 1 && stdout.is_empty(), "{stdout}");
    assert!(stderr.contains("error: `introspection`: missing"), "{stderr}");
}

#[test]
fn explain_names_paths_that_the_decision_listener_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let abilities = "abilities: {routes: {'/items/{id}': {GET: items:read}}}\n";
    let listener = "decision: {address: '127.0.0.1:0', trusted_proxies: [127.0.0.1]}\n";
    let refused = "decision     the decision listener answers 400: the path is not canonical";
    for (section, path, told) in [
        (listener, "/items/5/", true),
        (listener, "/items/%35?a=b", true),
        (listener, "/items/5?a=%35", false),
        (listener, "/items/%", false),
        ("", "/items/5/", false),
        ("decision: {address: null}\n", "/items/5/", false),
        ("decision: {address: '${UNSET}', style: path_prefix}\n", "/items/5/", true),
    ] {
        std::fs::write(directory.path().join("gateway.yaml"), format!("{section}{abilities}")).unwrap();
        let arguments = ["explain", "GET", path, "--abilities", "items:read", "-c", "gateway.yaml"];
        let (code, stdout, stderr) = outcome(directory.path(), &arguments);
        // The exit code is that of the proxy listener.
        assert_eq!((code, &*stderr), (i32::from(path.ends_with('%')), ""), "{section}{path}: {stdout}");
        assert_eq!(stdout.lines().any(|line| line == refused), told, "{section}{path}: {stdout}");
    }
}
