//! Maps beside OpenAPI documents: what is drafted from one, and what has drifted.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::policy::{outcome, root};

/// `routes --format json` of a map.
fn routes(directory: &Path, map: &str) -> Vec<(String, String, Value)> {
    let (code, stdout, stderr) = outcome(directory, &["routes", "--format", "json", "--config", map]);
    assert_eq!(code, 0, "{stderr}");
    let routes: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let mut routes: Vec<(String, String, Value)> = routes
        .into_iter()
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap().to_owned();
            // Parameters are called as the document calls them.
            let segments: Vec<String> = text("path")
                .split('/')
                .map(|it| if it.starts_with('{') { "{id}".to_owned() } else { it.to_owned() })
                .collect();
            (segments.join("/"), text("method"), it["requirement"].clone())
        })
        .collect();
    routes.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    routes
}

/// The convention is that of the guide: what is drafted of Stockaj's API is the map that is shipped.
#[test]
fn the_draft_of_stockaj_is_the_shipped_map() {
    let directory = tempfile::tempdir().unwrap();
    let document = root().join("tests/openapi/stockaj.yaml");
    let document = document.to_str().unwrap();
    let (code, draft, stderr) = outcome(directory.path(), &["openapi", document]);
    assert_eq!((code, &*stderr), (0, ""));
    assert!(draft.starts_with("# Drafted from stockaj.yaml (Stockaj API 2.0). Review it:"), "{draft}");
    assert!(
        draft.contains("\n  /api/v2/items/{item}/restore:\n    POST: items:delete   # convention\n"),
        "{draft}"
    );
    assert!(draft.contains("\n  /api/v2/instance:\n    GET: instance:read\n"), "{draft}");
    assert_eq!(outcome(directory.path(), &["openapi", document]).1, draft, "twice alike");
    fs::write(directory.path().join("draft.yaml"), draft).unwrap();
    assert_eq!(routes(directory.path(), "draft.yaml"), routes(root(), "config/stockaj.yaml"));

    let summary = "operations: 60, without a rule: 0, with another rule: 0, covered by a wider route: 0; rules without an \
                   operation: 0\n";
    let shipped = root().join("config/stockaj.yaml");
    for map in ["draft.yaml", shipped.to_str().unwrap()] {
        let found = outcome(directory.path(), &["openapi", document, "--config", map]);
        assert_eq!(found, (0, String::new(), summary.to_owned()));
    }
}

#[test]
fn what_a_document_says_is_drafted_and_what_it_cannot_say_is_told() {
    let document = root().join("tests/openapi");
    let (code, draft, stderr) = outcome(&document, &["openapi", "mixed.json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        draft,
        "\
# Drafted from mixed.json (Mixed 📦 / scopes 1). Review it: `convention` marks what that does not say.
# What is not in here is denied.
routes:
  /api/v2/items:
    GET: items:read
    POST: {all: [items:create, items:read]}
  /api/v2/items/{id}:
    GET: {any: [items:read, rents:read]}
    PUT: items:update
    DELETE: instance:manage   # narrower than items:delete and items:update, or instance:manage
  /api/v2/status:
    GET: public
  /api/v2/vendors:
    POST: vendors:create   # convention
"
    );
    for told in [
        "servers with different paths",
        "`paths.\"/items\".trace`: left out",
        "TRACE is not served",
        "unknown security scheme",
        "warning: GET /api/v2/exports/{file}.csv: left out: it is denied\n  --> mixed.json:20:29\n",
        "4 warnings in mixed.json\n",
    ] {
        assert!(stderr.contains(told), "{told}\n{stderr}");
    }
    let (_, stdout, _) =
        outcome(&document, &["openapi", "mixed.json", "--format", "json", "--prefix", "/v9"]);
    let rules: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let first = json!({"path": "/v9/items", "method": "GET", "requirement": "items:read", "comment": null});
    assert_eq!((rules.len(), &rules[0]), (7, &first));
}

#[test]
fn drift_is_told_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "api.yaml",
        "openapi: 3.1.0\nservers: [{url: /api/v2}]\npaths:\n  /items:\n    get: {security: [{o: [items:read]}]}\n    \
         post: {security: [{o: [items:create]}]}\n    put: {}\n  /reports/{year}/{month}:\n    get: {}\n",
    );
    write(
        "gateway.yaml",
        "backend: {url: '${UNSET}'}\nabilities:\n  routes:\n    /api/v2/items:\n      GET: items:read\n      POST: \
         items:update\n    /api/v2/reports/{*rest}: {GET: authenticated}\n    /old: {GET: items:read}\n",
    );
    let compare = ["openapi", "api.yaml", "--config", "gateway.yaml"];
    let (code, stdout, stderr) = outcome(directory.path(), &compare);
    assert_eq!(
        stdout,
        "\
DRIFT         METHOD  PATH                            DOCUMENT      MAP                                       WHERE
differs       POST    /api/v2/items                   items:create  items:update                              api.yaml:6, gateway.yaml:6
no rule       PUT     /api/v2/items                   -             -                                         api.yaml:7
covered       GET     /api/v2/reports/{year}/{month}  -             authenticated by /api/v2/reports/{*rest}  api.yaml:9, gateway.yaml:7
no operation  GET     /old                            -             items:read                                gateway.yaml:8
"
    );
    let summary = "operations: 4, without a rule: 1, with another rule: 1, covered by a wider route: 1; rules without an \
                   operation: 1\n";
    assert_eq!((code, &*stderr), (1, summary));

    let (code, stdout, _) = outcome(directory.path(), &[&compare[..], &["--format", "json"]].concat());
    let findings: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let first = json!({
        "kind": "differs",
        "method": "POST",
        "path": "/api/v2/items",
        "document": "items:create",
        "map": "items:update",
        "covered_by": null,
        "operation": {"file": "api.yaml", "line": 6, "column": 5},
        "rule": {"file": "gateway.yaml", "line": 6, "column": 7},
    });
    assert_eq!((code, findings.len(), &findings[0]), (1, 4, &first));

    // A wider route alone is no drift.
    write("map.yaml", "routes: {'/api/{*rest}': {GET: items:read, POST: items:create, PUT: x}}\n");
    write(
        "few.yaml",
        "{openapi: 3.1.0, servers: [{url: /api}], paths: {/a: {get: {}, post: {}, put: {}}}}\n",
    );
    let (code, stdout, _) = outcome(directory.path(), &["openapi", "few.yaml", "--config", "map.yaml"]);
    assert_eq!((code, stdout.matches("\ncovered ").count()), (0, 3), "{stdout}");

    // Without a name it is the usual file.
    fs::create_dir(directory.path().join("config")).unwrap();
    write("config/gateway.yaml", "abilities: {routes: {/api/a: {GET: x, PUT: y, POST: z}}}\n");
    let found = outcome(directory.path(), &["openapi", "few.yaml", "--check"]);
    assert_eq!((found.0, &*found.1), (0, ""), "{}", found.2);
}

#[test]
fn what_is_no_document_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("map.yaml", "routes: {/a: {GET: public}}\n");
    write("broken.yaml", "openapi: 3.1.0\npaths:\n  /a: [\n");
    write("large.json", &format!("{{\"openapi\": \"3.1.0\", \"x\": \"{}\"}}", "x".repeat(8 << 20)));
    write("deep.json", &format!("{{\"openapi\": \"3.1.0\", \"x\": {}", "[".repeat(100_000)));
    for (file, told) in [
        ("map.yaml", "error: not an OpenAPI document\n --> map.yaml:1:1\n"),
        ("map.yaml", "= help: this is a map: `openapi DOCUMENT --config MAP` compares the two"),
        ("broken.yaml", "error: not valid YAML\n --> broken.yaml:3:7"),
        ("large.json", "error: cannot read `large.json`: it is larger than 8 MiB\n"),
        ("deep.json", "error: nested too deep\n"),
        ("nowhere.json", "error: cannot read `nowhere.json`: No such file or directory (os error 2)\n"),
    ] {
        let (code, stdout, stderr) = outcome(directory.path(), &["openapi", file]);
        assert!(code == 1 && stdout.is_empty() && stderr.contains(told), "{file}: {stderr}");
    }
    write("api.yaml", "{openapi: 3.1.0, paths: {}}\n");
    for (arguments, code) in [
        (&["api.yaml", "--config", "nowhere.yaml"][..], 1),
        (&["api.yaml", "--config", "api.yaml"], 1),
        (&["api.yaml", "--config", "map.yaml", "--check"], 2),
        (&["api.yaml", "--prefix", "api"], 2),
        (&[], 2),
    ] {
        assert_eq!(outcome(directory.path(), &[&["openapi"], arguments].concat()).0, code, "{arguments:?}");
    }
}
