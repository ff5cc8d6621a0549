//! `test`: policy tests of maps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::BINARY;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Exit code, standard output and standard error of a command in `directory`, with an empty environment.
pub fn outcome(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(BINARY).args(arguments).current_dir(directory).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// `BLESS=1` updates the expected outcomes.
#[test]
fn test_files_have_the_expected_outcome() {
    let directory = root().join("tests/policy");
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    files.retain(|file| !file.file_stem().unwrap().to_str().unwrap().ends_with("map"));
    assert!(files.len() >= 7, "{files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (code, stdout, stderr) = outcome(&directory, &["test", name]);
        let found = format!("{stderr}{stdout}exit {code}\n");
        let expected = file.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "not as expected (BLESS=1 accepts it):\n{}", wrong.join("\n"));
}

/// The stable machine-readable format, on a gateway.yaml whose secrets do not exist.
#[test]
fn documented_test_form_needs_no_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "gateway.yaml",
        "backend: {url: '${UNSET}'}\nadmin: {token_file: /no/such/file}\n\
         abilities: {routes: {/api/v2/items: {GET: items:read}}}\n",
    );
    for (expect, abilities, code) in [
        ("allow", Some("[items:read]"), 0),
        ("403", Some("[items:read]"), 1),
        ("403", Some("[]"), 0),
        ("401", Some("[]"), 1),
        ("401", None, 0),
        ("allow", None, 1),
        ("400", None, 1),
    ] {
        let abilities = abilities.map(|it| format!("abilities: {it}, ")).unwrap_or_default();
        let cases = format!("[{{request: GET /api/v2/items, {abilities}expect: {expect}}}]");
        write("test.yaml", &format!("{{map: gateway.yaml, cases: {cases}}}\n"));
        // `map` is relative to the file, whatever the working directory.
        let file = directory.path().join("test.yaml");
        let found = outcome(root(), &["test", file.to_str().unwrap()]);
        assert_eq!(found.0, code, "{cases}: {found:?}");
    }
}

#[test]
fn usage_errors_exit_2_and_failures_1() {
    assert_eq!(outcome(root(), &["test"]).0, 2);
    assert_eq!(outcome(root(), &["test", "--format", "yaml", "x"]).0, 2);
    let found = outcome(root(), &["test", "nowhere.yaml"]);
    let report = "error: cannot read `nowhere.yaml`: No such file or directory (os error 2)\n\n\
                  1 error in nowhere.yaml\n0 passed, 0 failed, 1 file with errors\n";
    assert_eq!(found, (1, String::new(), report.to_owned()));
    let junit = ["test", "tests/policy/passes.yaml", "--junit", "/no/such/directory/junit.xml"];
    let (code, _, stderr) = outcome(root(), &junit);
    assert!(code == 1 && stderr.contains("cannot write `/no/such/directory/junit.xml`"), "{stderr}");
}

#[test]
fn results_of_several_files_are_summed() {
    let directory = root().join("tests/policy");
    let files = ["test", "passes.yaml", "failures.yaml", "no_cases.yaml", "--format", "json"];
    let (code, stdout, stderr) = outcome(&directory, &files);
    assert_eq!((code, stderr.lines().last()), (1, Some("44 passed, 15 failed, 1 file with errors")));
    let value: Value = serde_json::from_str(&stdout).unwrap();
    let cases = value["cases"].as_array().unwrap();
    assert_eq!((cases.len(), &value["unreached"]), (59, &Value::Null));
    let failed: Vec<&Value> = cases.iter().filter(|case| case["passed"] == false).collect();
    assert_eq!(failed.len(), 15);
    let expected = json!({
        "case": "renting: POST /api/v2/items as reader",
        "place": {"file": "failures.yaml", "line": 6, "column": 5},
        "name": "renting",
        "method": "POST",
        "path": "/api/v2/items",
        "caller": "reader",
        "abilities": ["items:read"],
        "expected": "allow",
        "decided": 403,
        "reason": "missing_ability",
        "passed": false,
        "rule": {
            "path": "/api/v2/items",
            "requirement": "items:create",
            "place": {"file": "map.yaml", "line": 3, "column": 36},
        },
        "why": "the token has no items:create; it has [items:read]",
        "hint": "`items:create` would suffice, as would `*`",
    });
    assert_eq!(failed[0], &expected);
}

/// `test` and `explain` agree on the same request.
#[test]
fn test_and_explain_agree() {
    let directory = root().join("tests/policy");
    let (_, stdout, _) = outcome(&directory, &["test", "passes.yaml", "failures.yaml", "--format", "json"]);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    for case in value["cases"].as_array().unwrap() {
        let text = |name: &str| case[name].as_str().unwrap();
        if case["reason"] == "blocked" {
            // `explain` knows only the blocks of a gateway.yaml.
            continue;
        }
        let mut arguments = vec!["explain", text("method"), text("path"), "--config", "map.yaml"];
        let abilities: Option<Vec<&str>> =
            case["abilities"].as_array().map(|names| names.iter().map(|it| it.as_str().unwrap()).collect());
        let abilities = abilities.map(|names| format!("--abilities={}", names.join(",")));
        arguments.extend(abilities.as_deref());
        let (code, stdout, _) = outcome(&directory, &arguments);
        let verdict = match &case["decided"] {
            Value::String(_) => format!("allowed ({})", text("reason")),
            status => format!("denied with {status} ({})", text("reason")),
        };
        assert!(stdout.contains(&verdict) && (code == 0) == (case["decided"] == "allow"), "{case}\n{stdout}");
    }
}

#[test]
fn coverage_counts_the_cases_of_all_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "map.yaml",
        "routes:\n  /b: {GET: items:read, HEAD: deny}\n  /a: {GET: public, POST: items:create}\n",
    );
    write(
        "one.yaml",
        "{map: map.yaml, cases: [{request: [HEAD /a, HEAD /b], abilities: ['*'], expect: 403}]}\n",
    );
    write("two.yaml", "{map: ./map.yaml, table: {POST /a: {nobody: 401}, GET /nowhere: {nobody: 401}}}\n");
    let lines = |rules: &[&str]| -> String { rules.iter().map(|rule| format!("{rule}\n")).collect() };
    let (b_get, a_post) = (
        "map.yaml:2:8: no case reaches GET /b, which requires items:read",
        "map.yaml:3:21: no case reaches POST /a, which requires items:create",
    );
    write("one.yaml", "{map: map.yaml, table: {HEAD /a: {nobody: allow}, HEAD /b: {nobody: 401}}}\n");
    for (arguments, code, unreached, summary) in [
        (&["one.yaml"][..], 0, lines(&[]), "2 passed, 0 failed\n"),
        (
            &["one.yaml", "--coverage"],
            0,
            lines(&[b_get, a_post]),
            "2 passed, 0 failed; 2 of 4 rules reached\n",
        ),
        (
            &["one.yaml", "--require-coverage"],
            1,
            lines(&[b_get, a_post]),
            "2 passed, 0 failed; 2 of 4 rules reached\n",
        ),
        (
            &["one.yaml", "two.yaml", "--require-coverage"],
            1,
            lines(&[b_get]),
            "4 passed, 0 failed; 3 of 4 rules reached\n",
        ),
    ] {
        let found = outcome(directory.path(), &[&["test"], arguments].concat());
        let files = found.1.lines().filter(|line| !line.ends_with(" passed"));
        let listed: String = files.map(|line| format!("{line}\n")).collect();
        assert_eq!((found.0, listed, &*found.2), (code, unreached, summary), "{arguments:?}");
    }
    let (_, stdout, _) = outcome(directory.path(), &["test", "one.yaml", "--coverage", "--format", "json"]);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    let place = json!({"file": "map.yaml", "line": 2, "column": 8});
    let first = json!({"path": "/b", "method": "GET", "requirement": "items:read", "place": place});
    assert_eq!(value["unreached"][0], first);
}

#[test]
fn shipped_map_passes_its_shipped_test() {
    let found = outcome(root(), &["test", "config/stockaj.test.yaml", "--require-coverage"]);
    let (stdout, stderr) =
        ("config/stockaj.test.yaml: 1353 passed\n", "1353 passed, 0 failed; 60 of 60 rules reached\n");
    assert_eq!(found, (0, stdout.to_owned(), stderr.to_owned()));
}

/// The example's routes are those of the shipped map, with boundaries.
#[test]
fn example_of_boundaries_passes_its_test_and_narrows_the_shipped_map() {
    let found = outcome(root(), &["test", "config/boundaries.test.yaml", "--require-coverage"]);
    let (stdout, stderr) =
        ("config/boundaries.test.yaml: 280 passed\n", "280 passed, 0 failed; 23 of 23 rules reached\n");
    assert_eq!(found, (0, stdout.to_owned(), stderr.to_owned()));
    assert_eq!(outcome(root(), &["check", "--strict", "config/boundaries.yaml"]).0, 0);

    let routes = |file: &str| {
        let (code, stdout, _) = outcome(root(), &["routes", "--format", "json", "--config", file]);
        assert_eq!(code, 0, "{file}");
        serde_json::from_str::<Vec<Value>>(&stdout).unwrap()
    };
    let shipped = routes("config/stockaj.yaml");
    for route in routes("config/boundaries.yaml") {
        assert!(route["query"].is_object() || route["from"].is_array(), "{route}");
        let is_same = |other: &&Value| {
            ["path", "method", "requirement"].into_iter().all(|name| route[name] == other[name])
        };
        assert!(shipped.iter().any(|other| is_same(&other)), "{route}");
        let methods = |routes: &[Value]| routes.iter().filter(|it| it["path"] == route["path"]).count();
        assert_eq!(methods(&routes("config/boundaries.yaml")), methods(&shipped), "{route}");
    }
}

/// Each boundary is removed or changed in turn.
#[test]
fn test_of_boundaries_detects_every_change_of_a_boundary() {
    let map = fs::read_to_string(root().join("config/boundaries.yaml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("boundaries.test.yaml", &fs::read_to_string(root().join("config/boundaries.test.yaml")).unwrap());
    let mut changed = 0;
    for (from, to) in [
        ("split: \",\", ", ""),
        ("values: {variants: items:read, ", "values: {variants: renters:read, "),
        ("renters: renters:read}", "renters: items:read}"),
        (", others: deny}", ", others: allow}"),
        ("fields[renters]: renters:read", "fields[renters]: items:read"),
        ("debug: deny", "debug: items:read"),
        ("renter: {all: [rents:read, renters:read]}", "renter: rents:read"),
        ("items: items:read}}", "items: rents:read}}"),
        ("      others: deny\n", "      others: allow\n"),
        ("from: [10.0.0.0/8, \"fd00::/8\"]", "from: [10.0.0.0/8]"),
        ("from: [10.0.0.0/8, \"fd00::/8\"]", "from: [\"fd00::/8\"]"),
        ("from: [10.0.0.0/8, \"fd00::/8\"]", "from: [10.0.0.0/8, \"fd00::/8\", 203.0.113.0/24]"),
        ("    from: [10.0.0.0/8]\n", ""),
        ("    query: {verbose: deny}\n", ""),
    ] {
        let places: Vec<usize> = map.match_indices(from).map(|(start, _)| start).collect();
        assert!(!places.is_empty(), "{from}");
        for start in places {
            changed += 1;
            write("boundaries.yaml", &format!("{}{to}{}", &map[..start], &map[start + from.len()..]));
            let found = outcome(directory.path(), &["test", "boundaries.test.yaml"]);
            assert!(found.0 == 1 && found.2.contains(" failed"), "{from} -> {to}: {found:?}");
        }
    }
    assert_eq!(changed, 17);
}

/// A removed rule, and a rule with another requirement.
#[test]
fn shipped_test_detects_every_change_of_the_map() {
    let map = fs::read_to_string(root().join("config/stockaj.yaml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("stockaj.test.yaml", &fs::read_to_string(root().join("config/stockaj.test.yaml")).unwrap());
    let mut changed = 0;
    for (start, _) in map.match_indices(": ") {
        let (before, after) = (&map[..start], &map[start + 2..]);
        let (method, end) = (before.rfind(['{', ' ']).unwrap() + 1, after.find([',', '}', '\n']).unwrap());
        if !matches!(&before[method..], "GET" | "POST" | "PUT" | "PATCH" | "DELETE") {
            continue;
        }
        changed += 1;
        let (requirement, after) = after.split_at(end);
        let other = if requirement == "items:read" { "rents:read" } else { "items:read" };
        for text in [
            format!("{before}: {other}{after}"),
            format!("{}OPTIONS: {requirement}{after}", &before[..method]),
        ] {
            write("stockaj.yaml", &text);
            let found = outcome(directory.path(), &["test", "stockaj.test.yaml"]);
            assert!(found.0 == 1 && found.2.contains(" failed"), "{}: {found:?}", &before[method..]);
        }
    }
    assert_eq!(changed, 60);
}

#[test]
fn schema_accepts_and_rejects_test_files() {
    let (_, printed, _) = outcome(root(), &["schema", "--for", "test"]);
    let file = fs::read_to_string(root().join("config/test.schema.json")).unwrap();
    assert!(
        file == printed,
        "`stockaj-gateway schema --for test > config/test.schema.json` makes them equal"
    );
    let schema = jsonschema::validator_for(&serde_json::from_str(&printed).unwrap()).unwrap();
    for (file, valid) in [
        ("config/stockaj.test.yaml", true),
        ("config/boundaries.test.yaml", true),
        ("tests/policy/passes.yaml", true),
        ("tests/policy/failures.yaml", true),
        ("tests/policy/networks_table.yaml", true),
        ("tests/policy/networks_table_mistakes.yaml", false),
        ("tests/policy/mistakes.yaml", false),
        ("tests/policy/a_list.yaml", false),
    ] {
        let value: Value = serde_yaml::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap();
        assert_eq!(schema.is_valid(&value), valid, "{file}");
    }
    for (row, valid) in [
        (json!({"from": "10.1.2.3", "office": "allow"}), true),
        (json!([{"from": "10.1.2.3", "office": "allow"}, {"office": 403}]), true),
        (json!({"from": "10.1.2.3"}), false),
        (json!({"from": "office", "office": "allow"}), false),
        (json!({"from": "10.1.2.3", "office": "10.1.2.3"}), false),
        (json!({}), false),
        (json!([]), false),
        (json!([{}]), false),
    ] {
        let value = json!({"map": "map.yaml", "table": {"GET /a": row}});
        assert_eq!(schema.is_valid(&value), valid, "{value}");
    }
}

#[test]
fn schema_accepts_and_rejects_map_files() {
    let (_, printed, _) = outcome(root(), &["schema", "--for", "map"]);
    let file = fs::read_to_string(root().join("config/map.schema.json")).unwrap();
    assert!(file == printed, "`stockaj-gateway schema --for map > config/map.schema.json` makes them equal");
    let schema = jsonschema::validator_for(&serde_json::from_str(&printed).unwrap()).unwrap();
    let shipped: Value =
        serde_yaml::from_str(&fs::read_to_string(root().join("config/stockaj.yaml")).unwrap()).unwrap();
    assert!(schema.is_valid(&shipped));
    for (map, valid) in [
        (
            json!({"routes": {"/up": {"GET": "public"}, "/a/{id}": {"POST": {"any": ["a", "b"]}, "body": "1MiB"}}}),
            true,
        ),
        (json!({"routes": {"/up": {"GET": []}}}), false),
        (json!({"routes": {"/up": {"GTE": "public"}}}), false),
        (json!({"routes": {}, "unmapped": "deny"}), false),
        (json!({}), false),
    ] {
        assert_eq!(schema.is_valid(&map), valid, "{map}");
    }
}

/// Validators identify schemas by `$id`, so it must be unique.
#[test]
fn every_schema_has_its_own_id() {
    let ids = ["gateway", "map", "test"].map(|kind| {
        let (_, printed, _) = outcome(root(), &["schema", "--for", kind]);
        serde_json::from_str::<Value>(&printed).unwrap()["$id"].clone()
    });
    assert_eq!(ids, ["gateway", "map", "test"].map(|kind| format!("urn:stockaj-gateway:schema:{kind}")));
}

/// Reads the report with the parser of Python-based CI systems.
#[test]
#[ignore = "needs junitparser: tests/run"]
fn junit_report_is_read_by_junitparser() {
    const READ: &str = "\
import sys, junitparser
suites = junitparser.JUnitXml.fromfile(sys.argv[1])
for suite in suites:
    print(suite.name, suite.tests, suite.failures, suite.errors, len(suite))
    for case in suite:
        for result in case.result:
            print(type(result).__name__, case.name, result.message, result.text.count('\\n'))
";
    let directory = tempfile::tempdir().unwrap();
    let junit = directory.path().join("junit.xml");
    let files = ["test", "passes.yaml", "failures.yaml", "no_cases.yaml", "--junit", junit.to_str().unwrap()];
    assert_eq!(outcome(&root().join("tests/policy"), &files).0, 1);
    let python = root().join("target/junitparser/bin/python");
    let output = Command::new(python).args(["-c", READ]).arg(&junit).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "passes.yaml 43 0 0 43", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines[1], "failures.yaml 16 15 0 16");
    assert!(
        lines[2]
            .starts_with("Failure renting: POST /api/v2/items as reader failures.yaml:6:5: error: renting")
    );
    assert_eq!(lines.iter().filter(|line| line.starts_with("Failure ")).count(), 15);
    assert_eq!(
        lines[17..19],
        ["no_cases.yaml 1 0 1 1", "Error the file can be read 1 error in no_cases.yaml 7"]
    );
}
