//! `check` on every kind of file, and its formats for programs.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::policy::outcome;
use crate::support::BINARY;

/// A gateway.yaml without errors or warnings.
const FINE: &str = "\
listen: {address: 127.0.0.1:0}
admin: {address: 127.0.0.1:0}
backend: {url: 'http://127.0.0.1:9'}
introspection: {url: 'http://127.0.0.1:9/'}
abilities: {routes: {/up: {GET: public}}}
";
const COOKIES: &str = "backend: {cookies: true, url";

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self(directory)
    }

    fn check(&self, arguments: &[&str]) -> (i32, String, String) {
        outcome(self.0.path(), &[&["check"], arguments].concat())
    }
}

#[test]
fn kind_of_file_is_detected_by_its_keys() {
    let files = Files::new(&[
        ("gateway.yaml", FINE),
        ("map.yaml", "routes: {/up: {GET: public}, /a: {GET: items:read}}\n"),
        ("wrong_map.yaml", "routes: {/up: {GET: [public]}}\n"),
        ("test.yaml", "map: map.yaml\ncases: [{request: GET /up, expect: allow}]\n"),
        ("table.yaml", "map: map.yaml\ntable: {GET /up: {nobody: allow}}\n"),
        ("wrong_test.yaml", "map: map.yaml\ncases: [{request: GET /up, expect: perhaps}]\n"),
        ("empty.yaml", ""),
        ("list.yaml", "- routes\n"),
        ("other.yaml", "services: {web: {image: nginx}}\n"),
        ("typo.yaml", "abilites: {routes: {}}\n"),
        ("both.yaml", "routes: {/up: {GET: public}}\nbackend: {url: 'http://127.0.0.1:9'}\n"),
        ("openapi.yaml", "openapi: 3.1.0\npaths: {}\n"),
        ("broken.yaml", "routes: [\n"),
    ]);
    for (file, code, expected) in [
        ("gateway.yaml", 0, "gateway.yaml: fine, 1 routes\n"),
        ("map.yaml", 0, "map.yaml: fine, a map file with 2 routes\n"),
        ("test.yaml", 0, "test.yaml: fine, a policy test file with 1 cases\n"),
        ("table.yaml", 0, "table.yaml: fine, a policy test file with 1 cases\n"),
        ("wrong_map.yaml", 1, "error: `routes.\"/up\".GET`"),
        ("wrong_test.yaml", 1, "`cases[0].expect`"),
        ("empty.yaml", 1, "error: unknown kind of file\n--> empty.yaml\n"),
        ("list.yaml", 1, "error: unknown kind of file\n --> list.yaml:1:3\n"),
        ("other.yaml", 1, "= help: a gateway.yaml has `abilities`, a map file `routes`, a policy test file"),
        ("typo.yaml", 1, "= help: did you mean `abilities`?"),
        ("both.yaml", 1, "error: keys of different kinds of files\n --> both.yaml:1:1\n"),
        ("openapi.yaml", 1, "this is an OpenAPI document"),
        ("broken.yaml", 1, "error: not valid YAML\n --> broken.yaml"),
        ("missing.yaml", 1, "error: cannot read `missing.yaml`: No such file or directory (os error 2)\n"),
    ] {
        let (found, stdout, stderr) = files.check(&[file]);
        let is_on_the_right_stream = if code == 0 { stdout == expected } else { stdout.is_empty() };
        assert!(found == code && is_on_the_right_stream, "{file}: {found} {stdout}{stderr}");
        assert!(format!("{stdout}{stderr}").contains(expected), "{file}: {stdout}{stderr}");
    }
    // The option knows other kinds as well, but treats an unknown file as a gateway.yaml.
    for (file, code, expected) in [
        ("map.yaml", 0, "a map file with 2 routes"),
        ("test.yaml", 0, "a policy test file with 1 cases"),
        ("empty.yaml", 1, "found nothing, expected a mapping"),
        ("typo.yaml", 1, "`backend`: missing"),
        ("both.yaml", 1, "`routes`: unknown key"),
    ] {
        for option in ["--config", "-c"] {
            let (found, stdout, stderr) = files.check(&[option, file]);
            assert!(
                found == code && format!("{stdout}{stderr}").contains(expected),
                "{file}: {stdout}{stderr}"
            );
        }
    }
    assert_eq!(files.check(&["gateway.yaml", "--config", "gateway.yaml"]).0, 2);
    assert_eq!(files.check(&["--format", "xml"]).0, 2);
}

/// Every command reads the same file: the one that is named, then the one that `init` writes, then the repository's.
#[test]
fn configuration_is_the_first_of_the_documented_paths_that_exists() {
    let files = Files::new(&[("broken.yaml", "routes: [")]);
    let at = |name: &str| files.0.path().join(name);
    let paths = |name: &str| format!("abilities: {{routes: {{/{name}: {{GET: items:read}}}}}}\n");
    // Which file a command reads: `routes` and `explain` print its path, the others fail in it.
    let read = |variable: Option<&str>, words: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(words).current_dir(files.0.path()).env_remove("STOCKAJ_GATEWAY_CONFIG");
        command.envs(variable.map(|value| ("STOCKAJ_GATEWAY_CONFIG", value)));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    const COMMANDS: [&[&str]; 9] = [
        &["run"],
        &["check"],
        &["routes"],
        &["explain", "GET", "/"],
        &["health"],
        &["tokens", "list"],
        &["unmapped"],
        &["usage"],
        &["diff", "map.yaml", "map.yaml", "--since", "1d"],
    ];
    fs::write(at("map.yaml"), "routes: {/up: {GET: public}}\n").unwrap();
    for words in COMMANDS {
        let (code, text) = read(None, words);
        assert_eq!(
            code,
            if words == ["run"] {
                78
            } else if words[0] == "diff" {
                2
            } else {
                1
            },
            "{words:?}: {text}"
        );
        for expected in [
            "error: no configuration: `gateway.yaml`, `config/gateway.yaml` and `/etc/stockaj-gateway/gateway.yaml`",
            "help: name the file with `--config`, or write one with `stockaj-gateway init`",
        ] {
            assert!(text.contains(expected), "{words:?}: {text}");
        }
    }
    let (code, text) = read(None, &["check", "--format", "json"]);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert!(code == 1 && found[0]["message"].as_str().unwrap().starts_with("no configuration: "), "{text}");

    fs::create_dir(at("config")).unwrap();
    for (name, file) in [("second", "config/gateway.yaml"), ("first", "gateway.yaml")] {
        fs::write(at(file), paths(name)).unwrap();
        let (code, text) = read(None, &["routes"]);
        assert!(code == 0 && text.contains(&format!("/{name} ")), "{text}");
    }
    fs::write(at("named.yaml"), paths("named")).unwrap();
    fs::write(at("other.yaml"), paths("other")).unwrap();
    assert!(read(Some("named.yaml"), &["routes"]).1.contains("/named "));
    assert!(read(Some("named.yaml"), &["routes", "--config", "other.yaml"]).1.contains("/other "));
    // All commands agree.
    fs::copy(at("broken.yaml"), at("gateway.yaml")).unwrap();
    for words in COMMANDS {
        let (_, text) = read(None, words);
        assert!(text.contains(" gateway.yaml:1:") || text.contains(" in gateway.yaml"), "{words:?}: {text}");
    }
}

/// The file that `run` would read is a gateway.yaml, whatever its content.
#[test]
fn default_file_is_a_gateway_yaml() {
    let files = Files::new(&[]);
    fs::create_dir(files.0.path().join("config")).unwrap();
    let file = files.0.path().join("config/gateway.yaml");
    fs::write(&file, "routes: {/up: {GET: public}}\n").unwrap();
    let (code, stdout, stderr) = files.check(&[]);
    assert!(code == 1 && stdout.is_empty() && stderr.contains("`routes`: unknown key"), "{stderr}");
    fs::write(&file, FINE).unwrap();
    assert_eq!(files.check(&[]), (0, "config/gateway.yaml: fine, 1 routes\n".to_owned(), String::new()));
}

#[test]
fn warnings_fail_only_with_strict() {
    let files = Files::new(&[
        ("fine.yaml", FINE),
        ("cookies.yaml", &FINE.replace("backend: {url", COOKIES)),
        ("wrong.yaml", &FINE.replace("backend: {url", COOKIES).replace("GET: public", "GET: [public]")),
    ]);
    for (file, arguments, code) in [
        ("fine.yaml", &[][..], 0),
        ("fine.yaml", &["--strict"], 0),
        ("cookies.yaml", &[], 0),
        ("cookies.yaml", &["--strict"], 1),
        ("wrong.yaml", &[], 1),
        ("wrong.yaml", &["--strict"], 1),
    ] {
        for format in ["text", "json", "github"] {
            let (found, stdout, stderr) = files.check(&[&[file, "--format", format], arguments].concat());
            assert_eq!(found, code, "{file} {arguments:?} {format}: {stdout}{stderr}");
            if format == "text" {
                assert_eq!(stdout.is_empty(), code == 1, "{stdout}");
                let is_strict = file == "cookies.yaml" && code == 1;
                assert_eq!(stderr.ends_with("warnings fail because of `--strict`\n"), is_strict, "{stderr}");
            }
        }
    }
}

#[test]
fn formats_for_programs_list_every_finding_with_its_place() {
    let files = Files::new(&[
        ("fine.yaml", FINE),
        ("map.yaml", "routes:\n  /a: {GET: items:read, GET: items:read}\n"),
        (
            "a,b:c.yaml",
            &FINE.replace("backend: {url", "backend: {cookies: 5, url").replace("9/'", "9/', timeout: 2"),
        ),
    ]);
    let (code, stdout, stderr) = files.check(&["fine.yaml", "--format", "json"]);
    assert_eq!((code, &*stdout, &*stderr), (0, "[]\n", ""));
    let (code, stdout, stderr) = files.check(&["fine.yaml", "--format", "github"]);
    assert_eq!((code, &*stdout, &*stderr), (0, "", "no errors in fine.yaml\n"));

    let (code, stdout, stderr) = files.check(&["a,b:c.yaml", "--format", "json"]);
    assert_eq!((code, &*stderr), (1, ""));
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let cookies = json!({
        "file": "a,b:c.yaml",
        "line": 3,
        "column": 20,
        "severity": "error",
        "key": "backend.cookies",
        "message": found[0]["message"],
        "help": null,
    });
    assert_eq!(found[0], cookies);
    assert!(cookies["message"].as_str().unwrap().contains("found the number `5`"), "{found}");
    assert_eq!(
        (&found[1]["key"], &found[1]["help"]),
        (&json!("introspection.timeout"), &json!("add a unit: `2s` or `2ms`"))
    );

    let (code, stdout, stderr) = files.check(&["a,b:c.yaml", "--format", "github"]);
    assert_eq!((code, &*stderr), (1, "2 errors in a,b:c.yaml\n"));
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines[0].starts_with("::error file=a%2Cb%3Ac.yaml,line=3,col=20::`backend.cookies`: "),
        "{stdout}"
    );
    assert!(lines[1].ends_with("%0Ahelp: add a unit: `2s` or `2ms`") && lines.len() == 2, "{stdout}");

    let (_, stdout, _) = files.check(&["map.yaml", "--format", "json"]);
    let found: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(found[0]["message"], "duplicate key `GET`: second value (first value: map.yaml:2:8)");
    let (code, stdout, _) = files.check(&["missing.yaml", "--format", "json"]);
    let found: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &found[0]["file"], &found[0]["line"]), (1, &json!("missing.yaml"), &Value::Null));
}

#[test]
fn formats_for_programs_show_no_secret() {
    let files = Files::new(&[(
        "gateway.yaml",
        "listen: {address: 127.0.0.1:0}\nadmin: {address: 127.0.0.1:0, token: [hunter2-list], tokem: hunter2}\n\
         backend: {url: 'http://user:hunter2@127.0.0.1:9'}\n\
         introspection: {url: 'http://127.0.0.1:9/', style: rfc7662, client_secret: {a: hunter2}, client_id: [5]}\n\
         abilities: {routes: {/up: {GET: public}}}\n",
    )]);
    for format in ["text", "json", "github"] {
        let (code, stdout, stderr) = files.check(&["gateway.yaml", "--format", format]);
        assert_eq!(code, 1);
        assert!(format!("{stdout}{stderr}").contains("credentials in a URL"), "{stdout}{stderr}");
        assert!(!format!("{stdout}{stderr}").contains("hunter2"), "{stdout}{stderr}");
    }
}

/// Address collisions are detected without starting the gateway.
#[test]
fn listeners_with_overlapping_addresses_are_an_error() {
    let with = |listen: &str, admin: &str| {
        FINE.replace("listen: {address: 127.0.0.1:0}", &format!("listen: {{{listen}}}"))
            .replace("admin: {address: 127.0.0.1:0}", &format!("admin: {{{admin}}}"))
    };
    for (listen, admin, key) in [
        ("address: 127.0.0.1:8080", "address: 127.0.0.1:8080", Some("admin.address")),
        ("address: 0.0.0.0:8080", "address: 127.0.0.1:8080", Some("admin.address")),
        ("address: '[::]:8080'", "address: 0.0.0.0:8080", Some("admin.address")),
        ("address: 0.0.0.0:9090", "", Some("admin.address")),
        ("", "address: 127.0.0.1:8080", Some("admin.address")),
        ("address: unix:a.sock", "address: unix:./a.sock", Some("admin.address")),
        ("address: '${LISTEN:-0.0.0.0:81}'", "address: '${ADMIN:-127.0.0.1:81}'", Some("admin.address")),
        ("address: 127.0.0.1:8080", "address: 127.0.0.2:8080", None),
        ("address: 127.0.0.1:8080", "address: 127.0.0.1:8081", None),
        ("address: unix:a.sock", "address: unix:b.sock", None),
        ("address: 0.0.0.0:0", "address: 0.0.0.0:0", None),
    ] {
        let files = Files::new(&[("gateway.yaml", &with(listen, admin))]);
        let (code, stdout, stderr) = files.check(&["gateway.yaml"]);
        let Some(key) = key else {
            assert_eq!(code, 0, "{listen} {admin}: {stderr}");
            continue;
        };
        assert!(code == 1 && stdout.is_empty(), "{listen} {admin}: {stderr}");
        assert!(stderr.contains(&format!("error: `{key}`: overlapping listener addresses\n")), "{stderr}");
        if !listen.is_empty() && !admin.is_empty() {
            assert!(
                stderr.contains("gateway.yaml:2:") && stderr.contains("gateway.yaml:1:"),
                "both positions: {stderr}"
            );
        }
        let found = outcome(files.0.path(), &["run", "--config", "gateway.yaml"]);
        assert!(found.0 == 78 && found.2.contains("overlapping listener addresses"), "{found:?}");
    }
}
