//! `openapi`: maps drafted from OpenAPI documents, and maps compared with them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

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
            // Parameters keep the document's names.
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

/// The naming convention is that of the authentication guide.
#[test]
fn draft_of_the_stockaj_document_is_the_shipped_map() {
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
    assert_eq!(outcome(directory.path(), &["openapi", document]).1, draft, "the output is deterministic");
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
fn draft_follows_the_document_and_reports_what_it_leaves_out() {
    let document = root().join("tests/openapi");
    let (code, draft, stderr) = outcome(&document, &["openapi", "mixed.json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        draft,
        "\
# Drafted from mixed.json (Mixed 📦 / scopes 1). Review it: `convention` marks abilities that the document does not name.
# Operations that are not listed are denied.
# A route with only one of PUT and PATCH denies the other. Laravel's apiResource accepts both: if clients use both,
# add the other to the document or here.
routes:
  /api/v2/items:
    GET: items:read
    POST: {all: [items:create, items:read]}
  /api/v2/items/{id}:
    GET: {any: [items:read, rents:read]}
    PUT: items:update
    DELETE: instance:manage   # narrower than items:delete and items:update, or instance:manage
  /api/v2/status:
    GET: items:read   # the document makes credentials optional
    HEAD: public
  /api/v2/vendors:
    POST: vendors:create   # convention
"
    );
    for told in [
        "servers with different paths",
        "`paths.\"/items\".trace`: ignored",
        "the gateway does not serve TRACE",
        "unknown security scheme",
        "warning: GET /api/v2/exports/{file}.csv: not in the draft, so the gateway denies it\n  --> mixed.json:20:29\n",
        "4 warnings in mixed.json\n",
    ] {
        assert!(stderr.contains(told), "{told}\n{stderr}");
    }
    let (_, stdout, _) =
        outcome(&document, &["openapi", "mixed.json", "--format", "json", "--prefix", "/v9"]);
    let rules: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let first = json!({"path": "/v9/items", "method": "GET", "requirement": "items:read", "comment": null});
    assert_eq!((rules.len(), &rules[0]), (8, &first));
}

#[test]
fn drift_is_listed_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "api.yaml",
        "openapi: 3.1.0\nservers: [{url: /api/v2}]\npaths:\n  /items:\n    get: {security: [{o: [items:read]}]}\n    \
         post: {security: [{o: [items:create]}]}\n    put: {}\n  /reports/{year}/{month}:\n    get: {}\n\
         components: {securitySchemes: {o: {type: oauth2}}}\n",
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

    // Ignored paths do not count, in either direction; paths that do not exist are reported.
    for (ignored, code, count) in [
        (&["/api/v2/items"][..], 1, 2),
        (&["/api/v2/items", "/old"], 0, 3),
        (&["/api/*", "/old/"], 0, 4),
        (&["/*"], 0, 4),
        (&["/api/v2/reports/{a}/{b}", "/api/v2/items", "/old"], 0, 4),
    ] {
        let arguments = ignored.iter().flat_map(|path| ["--ignore", path]);
        let arguments: Vec<&str> = compare.iter().copied().chain(arguments).collect();
        let found = outcome(directory.path(), &arguments);
        assert_eq!(found.0, code, "{ignored:?}: {found:?}");
        assert!(found.2.contains(&format!("; ignored: {count}\n")), "{ignored:?}: {found:?}");
        assert!(!found.2.contains("warning"), "{found:?}");
    }
    let (code, _, stderr) = outcome(
        directory.path(),
        &[&compare[..], &["--ignore", "/items", "--ignore", "/nowhere", "--ignore", "/api/v2/*"]].concat(),
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains("warning: `--ignore /items` matches no path; did you mean `/api/v2/items`?\n"),
        "{stderr}"
    );
    assert!(stderr.contains("warning: `--ignore /nowhere` matches no path\n"), "{stderr}");
    for wrong in ["api", "/a*", "/*/b", ""] {
        assert_eq!(outcome(directory.path(), &[&compare[..], &["--ignore", wrong]].concat()).0, 2, "{wrong}");
    }
    let (code, draft, stderr) =
        outcome(directory.path(), &["openapi", "api.yaml", "--ignore", "/api/v2/items", "--ignore", "/old"]);
    assert!(code == 0 && !draft.contains("items") && draft.contains("/reports/"), "{draft}");
    assert_eq!(stderr, "warning: `--ignore /old` matches no path\n");

    // A wider route alone is not drift.
    write("map.yaml", "routes: {'/api/{*rest}': {GET: items:read, POST: items:create, PUT: x}}\n");
    write(
        "few.yaml",
        "{openapi: 3.1.0, servers: [{url: /api}], paths: {/a: {get: {}, post: {}, put: {}}}}\n",
    );
    let (code, stdout, _) = outcome(directory.path(), &["openapi", "few.yaml", "--config", "map.yaml"]);
    assert_eq!((code, stdout.matches("\ncovered ").count()), (0, 3), "{stdout}");

    // Without a name the default file is used.
    fs::remove_file(directory.path().join("gateway.yaml")).unwrap();
    fs::create_dir(directory.path().join("config")).unwrap();
    write("config/gateway.yaml", "abilities: {routes: {/api/a: {GET: x, PUT: y, POST: z}}}\n");
    let found = outcome(directory.path(), &["openapi", "few.yaml", "--check"]);
    assert_eq!((found.0, &*found.1), (0, ""), "{}", found.2);
}

#[test]
fn unusable_document_is_an_error_with_its_location() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("map.yaml", "routes: {/a: {GET: public}}\n");
    write("broken.yaml", "openapi: 3.1.0\npaths:\n  /a: [\n");
    write("swagger.yaml", "swagger: '2.0'\nbasePath: /v1\npaths: {/a: {get: {}}}\n");
    write("async.yaml", "asyncapi: 3.0.0\nchannels: {}\n");
    write("empty.yaml", "openapi: 3.1.0\npaths: {}\n");
    write("deep.json", &format!("{{\"openapi\": \"3.1.0\", \"x\": {}", "[".repeat(100_000)));
    // A sparse file uses no disk space.
    fs::File::create(directory.path().join("large.json")).unwrap().set_len((64 << 20) + 1).unwrap();
    for (file, expected) in [
        ("map.yaml", "error: not an OpenAPI document\n --> map.yaml:1:1\n"),
        ("map.yaml", "= help: `openapi DOCUMENT --config MAP` compares a document with a map"),
        ("broken.yaml", "error: not valid YAML\n --> broken.yaml:3:7"),
        ("swagger.yaml", "error: not an OpenAPI document\n --> swagger.yaml:1:1\n"),
        ("swagger.yaml", "this is a Swagger 2.0 document, which is not supported"),
        ("async.yaml", "this is an AsyncAPI document, which is not supported"),
        ("empty.yaml", "error: `paths`: no operations\n --> empty.yaml:2:1\n"),
        ("large.json", "error: cannot read `large.json`: it is larger than 64 MiB\n"),
        ("deep.json", "error: nested too deep\n"),
        ("nowhere.json", "error: cannot read `nowhere.json`: No such file or directory (os error 2)\n"),
    ] {
        for more in [&[][..], &["--config", "map.yaml"]] {
            let (code, stdout, stderr) = outcome(directory.path(), &[&["openapi", file][..], more].concat());
            assert!(code == 1 && stdout.is_empty() && stderr.contains(expected), "{file}: {stderr}");
        }
    }
    write("api.yaml", "{openapi: 3.1.0, paths: {/a: {get: {}}}}\n");
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

/// A JSON document of at least this many bytes with 1,000 operations; three of four are references.
fn large_document(bytes: usize) -> String {
    let count = 1000;
    let filler = bytes / count;
    let (mut paths, mut operations) = (Vec::new(), Vec::new());
    for number in 0..count {
        let property = |index: usize| {
            let text = format!(
                "Property {index} of operation {number}: \u{e9}\u{1f980} it's a \\\"text\\\", not a {{variable}}"
            );
            format!(
                r#""p{index}": {{"type": ["string", "null"], "maxLength": {index}, "description": "{text}"}}"#
            )
        };
        let properties: Vec<String> = (0..filler / 125).map(property).collect();
        let body = format!(
            r#""responses": {{"200": {{"content": {{"application/json": {{"schema": {{"properties": {{{}}}}}}}}}}}}}"#,
            properties.join(", ")
        );
        let operation = format!(r#"{{"security": [{{"oauth": ["scope{number}"]}}], {body}}}"#);
        if number % 4 == 0 {
            paths.push(format!(r#""/p{number}/{{id}}": {{"get": {operation}}}"#));
        } else {
            paths
                .push(format!(r##""/p{number}/{{id}}": {{"get": {{"$ref": "#/x-operations/o{number}"}}}}"##));
            operations.push(format!(r#""o{number}": {operation}"#));
        }
    }
    format!(
        r#"{{"openapi": "3.1.0", "components": {{"securitySchemes": {{"oauth": {{"type": "oauth2"}}}}}}, "x-operations": {{{}}}, "paths": {{{}}}}}"#,
        operations.join(", "),
        paths.join(", ")
    )
}

/// The same document in block style.
fn as_yaml(json: &str) -> String {
    fn write(value: &Value, indent: usize, out: &mut String) {
        let pad = "  ".repeat(indent);
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                *out += &format!("\n{pad}'{key}':");
                write(value, indent + 1, out);
            }),
            Value::Array(items) => items.iter().for_each(|item| {
                *out += &format!("\n{pad}-");
                write(item, indent + 1, out);
            }),
            Value::String(text) => *out += &format!(" '{}'", text.replace('\'', "''")),
            other => *out += &format!(" {other}"),
        }
    }
    let mut out = String::new();
    write(&serde_json::from_str(json).unwrap(), 0, &mut out);
    out
}

/// Ten times the document takes at most thirty times as long on a loaded machine. Real documents have up to 13 MB.
#[test]
fn large_document_is_read_in_linear_time() {
    let directory = tempfile::tempdir().unwrap();
    let read = |document: String| {
        fs::write(directory.path().join("api.yaml"), document).unwrap();
        let started = Instant::now();
        let (code, draft, stderr) = outcome(directory.path(), &["openapi", "api.yaml"]);
        let took = started.elapsed();
        assert_eq!((code, &*stderr), (0, ""));
        assert_eq!(draft.lines().count(), 3 + 2 * 1000);
        for number in [0, 1, 999] {
            let route = format!("\n  /p{number}/{{id}}:\n    GET: scope{number}\n");
            assert!(draft.contains(&route), "{number}");
        }
        took
    };
    let (small, large) = (large_document(900_000), large_document(9_000_000));
    assert!(large.len() > 9_000_000 && large.lines().count() == 1, "{} bytes", large.len());
    let yaml = as_yaml(&large_document(3_000_000));
    assert!(yaml.len() > 3_000_000 && yaml.lines().count() > 50_000, "{} bytes", yaml.len());
    let few = read(small);
    for (kind, document) in [("JSON", large), ("YAML", yaml)] {
        let many = read(document);
        assert!(many < few * 30 + Duration::from_secs(5), "{kind}: {few:?}, then {many:?}");
    }
}

/// Each of a thousand warnings has its position, although all are on one line of 4 MB.
#[test]
fn warnings_about_a_document_on_one_line_are_found_quickly() {
    let directory = tempfile::tempdir().unwrap();
    let document = large_document(4_000_000).replace(r#"[{"oauth""#, r#"[{"oath""#);
    fs::write(directory.path().join("api.json"), &document).unwrap();
    let (code, _, stderr) = outcome(directory.path(), &["openapi", "api.json"]);
    assert_eq!((code, stderr.matches("unknown security scheme").count()), (0, 1000));
    assert!(stderr.len() < 1_000_000, "{} bytes", stderr.len());
    let first = document.find(r#""oath""#).unwrap();
    let column = document[..first].chars().count() + 1;
    assert!(stderr.contains(&format!("api.json:1:{column}\n")), "{column}: {}", &stderr[..500]);
}

#[test]
fn drafted_rules_for_queries_agree_with_their_document() {
    let directory = tempfile::tempdir().unwrap();
    let document = "\
openapi: 3.1.0
paths:
  /items:
    get:
      parameters:
        - {name: include, in: query, explode: false, schema: {type: array, items: {enum: [variants, renters]}}}
";
    std::fs::write(directory.path().join("api.yaml"), document).unwrap();
    let (code, draft, stderr) = outcome(directory.path(), &["openapi", "api.yaml"]);
    assert_eq!((code, &*stderr), (0, ""));
    let rules = "      include: {split: ',', values: {variants: items:read, renters: renters:read}}\n";
    assert!(draft.ends_with(&format!("    query:   # convention\n{rules}")), "{draft}");
    let compare = |map: &str| {
        std::fs::write(directory.path().join("draft.yaml"), map).unwrap();
        outcome(directory.path(), &["openapi", "api.yaml", "--config", "draft.yaml"])
    };
    assert_eq!(compare(&draft).0, 0);
    let (code, stdout, _) = compare(&draft.replace("renters: renters:read", "tags: items:read"));
    assert_eq!(code, 1);
    assert!(stdout.contains("query include: variants, renters  denies renters; also lists tags"), "{stdout}");
}
