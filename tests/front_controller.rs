//! `index.php` in a path: only if the route names it.

use std::fs;
use std::process::Command;

use crate::support::{BINARY, TestEnv, WRITER};

const ROUTES: &str = "  routes:
    /up:                         {GET: public}
    /open/{*rest}:               {GET: public}
    /files/{id}:                 {GET: items:read}
    /legacy/index.php:           {GET: public}
    /legacy/index.php/{*rest}:   {GET: items:read}
    /{name}/index.php/status:    {GET: public}
";

/// Method, path, and status for a token with the ability `*`.
const CASES: [(&str, &str, u16); 17] = [
    ("GET", "/legacy/index.php", 200),
    ("GET", "/legacy/index.php/", 200),
    ("GET", "/legacy/%69ndex%2ephp", 200),
    ("GET", "/legacy/index.php/api/v2/items", 200),
    ("GET", "/other/index.php/status", 200),
    // The map compares case-sensitively.
    ("GET", "/legacy/INDEX.php", 400),
    ("GET", "/legacy/index.phpapi/v2", 400),
    ("GET", "/legacy/index.php/a/index.php", 400),
    ("GET", "/index.php/index.php/status", 400),
    ("GET", "/files/index.php", 400),
    ("GET", "/files/index.php5", 400),
    ("GET", "/open/index.php", 400),
    ("GET", "/open/a/Index.PHP/b", 400),
    ("GET", "/sub/index.php/api/v2/items", 400),
    ("DELETE", "/sub/index.php/api/v2/items/5", 400),
    ("GET", "/index.php", 400),
    ("GET", "/files/my-index.php", 200),
];

fn yaml() -> String {
    format!("abilities:\n  unmapped: authenticated\n{ROUTES}")
}

#[test]
fn front_controller_is_served_only_where_the_route_names_it() {
    let env = TestEnv::start(&yaml());
    let mut client = env.gateway.client();
    for (method, path, status) in CASES {
        let response = client.request(method, path, &[WRITER], b"");
        assert_eq!(response.status, status, "{method} {path}: {}", response.text());
        // Rejected before introspection.
        if status == 400 {
            assert_eq!(response.text(), r#"{"message":"Bad Request."}"#);
            assert_eq!(client.request(method, path, &[], b"").status, 400, "{method} {path}");
            let asked = [("Origin", "https://a.example"), ("Access-Control-Request-Method", method)];
            assert_eq!(client.request("OPTIONS", path, &asked, b"").status, 400, "preflight of {path}");
        }
    }
    let arrived = env.backend.requests().len();
    assert_eq!(arrived, CASES.iter().filter(|(.., status)| *status == 200).count());
    env.gateway.wait_for_metric("requests_total{reason=\"bad_request\",route=\"none\",status=\"400\"}", 33.0);
}

/// `explain` and `test` use the same decision.
#[test]
fn explain_and_test_agree_with_the_gateway_about_front_controllers() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let gateway = format!(
        "backend: {{url: 'http://127.0.0.1:1'}}\nintrospection: {{url: 'http://127.0.0.1:1'}}\n{}",
        yaml()
    );
    write("gateway.yaml", &gateway);
    let mut tests = "map: gateway.yaml\ncases:\n".to_owned();
    let run = |words: &[&str]| {
        Command::new(BINARY).args(words).current_dir(directory.path()).env_clear().output().unwrap()
    };
    for (method, path, status) in CASES {
        let output = run(&["explain", method, path, "--config", "gateway.yaml", "--abilities", "*"]);
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(status == 400)), "{path}: {told}");
        assert_eq!(told.contains("400 (bad_request)"), status == 400, "{path}: {told}");
        let expect = if status == 400 { "400" } else { "allow" };
        tests += &format!("  - {{request: {method} {path}, abilities: ['*'], expect: {expect}}}\n");
    }
    write("tests.yaml", &tests);
    let output = run(&["test", "tests.yaml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn diff_reports_a_route_that_opens_the_front_controller() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("old.yaml", "routes:\n  /a/{*rest}: {GET: public}\n");
    write("new.yaml", "routes:\n  /a/{*rest}: {GET: public}\n  /a/index.php: {GET: public}\n");
    let diff = |old: &str, new: &str| {
        let output =
            Command::new(BINARY).args(["diff", old, new]).current_dir(directory.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = diff("old.yaml", "new.yaml");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("/a/index.php: every caller"), "{told}");
    assert!(told.contains("400: `index.php` is not named by the route"), "{told}");
    assert_eq!(diff("new.yaml", "new.yaml").0, Some(0));
}

/// A candidate map without the `index.php` routes of the enforced map.
#[test]
fn candidate_map_denies_an_unnamed_front_controller() {
    let directory = tempfile::tempdir().unwrap();
    let candidate = directory.path().join("candidate.yaml");
    fs::write(&candidate, "routes:\n  /legacy/{*rest}: {GET: public}\n").unwrap();
    let env = TestEnv::start(&format!("shadow: {}\n{}", candidate.display(), yaml()));
    assert_eq!(env.gateway.get("/legacy/index.php", None).status, 200);
    env.gateway.wait_for_metric("shadow_total{change=\"would_deny\"}", 1.0);
}
