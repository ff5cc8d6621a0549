//! Reports about configurations, to the byte: every error with its location, and no secret.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Authority, BINARY, Gateway, Introspector, RawClient, Upstream};

/// The placeholder for secrets in the corpus.
const SECRET: &str = "hunter2";
/// The first line of corpus files whose error a schema cannot express.
const BEYOND_A_SCHEMA: &str = "# beyond a schema: ";
/// A valid gateway.yaml, to which tests add lines.
const FINE: &str = "\
listen: {address: 127.0.0.1:0}
admin: {address: 127.0.0.1:0}
backend: {url: 'http://127.0.0.1:9'}
introspection: {url: 'http://127.0.0.1:9/'}
abilities: {routes: {/up: {GET: public}}}
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus() -> PathBuf {
    root().join("tests/config")
}

/// Every `.yaml` of the corpus.
fn topics() -> Vec<PathBuf> {
    let files = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path());
    let mut topics: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    topics.sort();
    assert!(topics.len() > 60, "{}", topics.len());
    topics
}

/// Runs the binary in `directory` with an empty environment, for at most half a minute.
fn gateway(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(directory).env_clear();
    command.env("PORT", "8080").env("SECRET_VALUE", SECRET);
    // The path at which Kubernetes mounts the Secret of a shipped file.
    command.env("STOCKAJ_SECRETS", root().join("tests/deploy/secrets"));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The output may exceed the pipe's capacity, so both pipes are read while the process runs.
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |mut stream: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let (stdout, stderr) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{arguments:?} keeps running: {}", String::from_utf8_lossy(&stdout.join().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// The exit code, standard output and standard error of a command.
fn outcome(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = gateway(directory, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// The report of `check` about a file in a temporary directory, whose path is normalised.
fn check(bytes: impl AsRef<[u8]>) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("gateway.yaml"), bytes).unwrap();
    let (code, stdout, stderr) = outcome(directory.path(), &["check", "--config", "gateway.yaml"]);
    (code, stderr + &stdout)
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// `BLESS=1` updates the expected reports.
#[test]
fn every_error_is_reported_with_its_location() {
    let mut wrong = Vec::new();
    for path in topics() {
        let (code, stdout, stderr) = outcome(&corpus(), &["check", "--config", name(&path)]);
        let found = format!("{stderr}{stdout}exit {code}\n");
        assert!(!found.contains(SECRET), "a secret is shown:\n{found}");
        assert!(!found.contains('\u{1b}') && !found.contains('\u{9b}'), "a control character:\n{found}");
        let expected = path.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", name(&path)));
        }
    }
    assert!(wrong.is_empty(), "not as expected (BLESS=1 accepts it):\n{}", wrong.join("\n"));
}

#[test]
fn every_expected_report_has_a_configuration() {
    let stems = |extension: &str| -> BTreeSet<PathBuf> {
        let files = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|it| it == extension))
            .map(|path| path.with_extension(""))
            .collect()
    };
    assert_eq!(stems("yaml"), stems("expected"));
}

/// `run` rejects the same files as `check`, with the same report and no other output.
#[test]
fn run_rejects_a_configuration_with_the_report_of_check() {
    let mut refused = 0;
    for path in topics() {
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        let Some(report) = expected.strip_suffix("exit 1\n") else { continue };
        refused += 1;
        let found = outcome(&corpus(), &["run", "--config", name(&path)]);
        assert_eq!((found.0, &*found.2), (78, report), "{}", name(&path));
        assert!(!found.1.contains("listening") && !found.1.contains(SECRET), "{}", found.1);
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn unreadable_files_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("directory.yaml")).unwrap();
    fs::write(directory.path().join("binary.yaml"), b"listen:\n  address: \xff\xfe\n").unwrap();
    fs::write(
        directory.path().join("large.yaml"),
        "# 64 bytes of comment, over and over, until it is 10 MiB long.\n".repeat(170_000),
    )
    .unwrap();
    for (file, reason) in [
        ("missing.yaml", "No such file or directory (os error 2)"),
        ("directory.yaml", "it is a directory"),
        ("binary.yaml", "it is not UTF-8: line 2 has an invalid byte"),
        ("large.yaml", "it is larger than 1 MiB"),
    ] {
        let report = format!("error: cannot read `{file}`: {reason}\n\n1 error in {file}\n");
        for (command, code) in [("check", 1), ("routes", 1), ("run", 78)] {
            let found = outcome(directory.path(), &[command, "--config", file]);
            assert_eq!(found, (code, String::new(), report.clone()), "{command}");
        }
    }
}

#[test]
fn nesting_of_a_configuration_is_bounded() {
    for text in
        ["- ".repeat(60_000), "[".repeat(60_000), "{a: ".repeat(60_000), "a:\n".to_owned() + &deep(300)]
    {
        let (code, report) = check(&text);
        assert_eq!(code, 1);
        assert!(report.contains("error: nested too deep\n"), "{}", &report[..report.len().min(2000)]);
    }
}

/// Nested keys, each indented by one more space.
fn deep(levels: usize) -> String {
    (1..levels).map(|level| format!("{}a:\n", " ".repeat(level))).collect()
}

/// A file in another format has an error in each line.
#[test]
fn report_of_very_many_errors_is_bounded() {
    let lines = (0..20_000).map(|line| format!("k{line}: 1\n")).collect::<String>();
    let (code, report) = check(FINE.to_owned() + &lines);
    assert_eq!((code, report.matches("error: ").count()), (1, 1000));
    assert!(report.ends_with("the first 1000 of 20000 errors in gateway.yaml\n"), "{report}");
}

/// A line of the maximum file size is not printed completely.
#[test]
fn long_line_is_shortened_in_the_report() {
    let text = format!("log: {{level: loud, format: \"{}\"}}\n{FINE}", "x".repeat(500_000));
    let (code, report) = check(text);
    assert_eq!(code, 1);
    assert!(report.contains("gateway.yaml:1:14\n") && report.len() < 5000, "{} bytes", report.len());
}

#[test]
fn certificates_must_match_their_keys() {
    let (one, other) = (Authority::new(), Authority::new());
    let tls = |certificate: &Path, key: &Path| {
        let tls = format!("tls: {{certificate: {}, private_key: {}}}", certificate.display(), key.display());
        FINE.replace("listen: {", &format!("listen: {{{tls}, "))
    };
    let (certificate, key) = (one.certificate(), one.private_key());
    assert_eq!(check(tls(&certificate, &key)), (0, "gateway.yaml: fine, 1 routes\n".to_owned()));
    for (certificate, key, reason) in [
        (&certificate, &other.private_key(), "does not belong to the first certificate in"),
        (&key, &key, "has no certificate in it"),
        (&certificate, &certificate, "has no private key in it"),
    ] {
        let (code, report) = check(tls(certificate, key));
        assert!(code == 1 && report.contains("listen.tls") && report.contains(reason), "{report}");
    }
    // With several certificates, the error names the entry.
    let entry = |authority: &Authority, key: &Authority| {
        let (certificate, key) = (authority.certificate(), key.private_key());
        format!("{{certificate: {}, private_key: {}}}", certificate.display(), key.display())
    };
    let both = format!("listen: {{tls: [{}, {}], ", entry(&one, &one), entry(&other, &one));
    let (code, report) = check(FINE.replace("listen: {", &both));
    assert!(code == 1 && report.contains("error: `listen.tls[1]`: cannot be used\n"), "{report}");
    assert!(report.contains("does not belong to the first certificate in"), "{report}");
}

/// The process binds no port if it cannot bind all of them.
#[test]
fn port_in_use_is_a_startup_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listener in ["listen", "admin"] {
        let directory = tempfile::tempdir().unwrap();
        let line = |address: &str| format!("{listener}: {{address: '{address}'}}");
        let text = FINE.replace(&line("127.0.0.1:0").replace('\'', ""), &line(&address));
        assert_ne!(text, FINE);
        fs::write(directory.path().join("gateway.yaml"), text).unwrap();
        let (code, stdout, stderr) = outcome(directory.path(), &["run", "--config", "gateway.yaml"]);
        assert_eq!(code, 78);
        assert!(
            stderr.contains(&format!("error: `{listener}.address`: cannot be used\n --> gateway.yaml:")),
            "{stderr}"
        );
        assert!(stderr.contains(&format!("cannot listen on {address}: Address already in use")), "{stderr}");
        assert!(!stdout.contains("\"listening\""), "{stdout}");
    }
}

/// The secret and the variable do not exist: only `abilities` is read.
#[test]
fn routes_and_explain_need_no_secrets_or_environment() {
    let directory = tempfile::tempdir().unwrap();
    let map = "routes: {/api/v2/items: {GET: items:read}}\n";
    fs::write(directory.path().join("map.yaml"), map).unwrap();
    fs::write(
        directory.path().join("gateway.yaml"),
        "admin: {token: '${UNSET}'}\nbackend: {url: '${UNSET}'}\n\
         introspection: {url: '${UNSET}', client_secret_file: /no/such/file}\nabilities: {file: map.yaml}\n",
    )
    .unwrap();
    assert_eq!(outcome(directory.path(), &["check", "--config", "gateway.yaml"]).0, 1);
    for file in ["map.yaml", "gateway.yaml"] {
        let (code, stdout, stderr) =
            outcome(directory.path(), &["routes", "--format", "json", "--config", file]);
        let routes: Value = serde_json::from_str(&stdout).unwrap();
        let expected =
            serde_json::json!([{"path": "/api/v2/items", "method": "GET", "requirement": "items:read"}]);
        assert_eq!((code, routes, &*stderr), (0, expected, ""));
        for (abilities, code) in [("items:read", 0), ("rents:read", 1)] {
            let arguments = ["explain", "GET", "/api/v2/items", "--abilities", abilities, "--config", file];
            let found = outcome(directory.path(), &arguments);
            assert!(found.0 == code && found.1.contains("map.yaml:1"), "{found:?}");
        }
    }
}

fn schema() -> Value {
    let (code, stdout, stderr) = outcome(root(), &["schema"]);
    assert_eq!((code, &*stderr), (0, ""));
    serde_json::from_str(&stdout).unwrap()
}

/// A YAML file as JSON; `None` if it is not YAML or has keys that JSON lacks.
fn json(path: &Path) -> Option<Value> {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).ok()
}

#[test]
fn shipped_schema_equals_the_printed_one() {
    let file = fs::read_to_string(root().join("config/gateway.schema.json")).unwrap();
    let (_, printed, _) = outcome(root(), &["schema"]);
    assert!(file == printed, "`stockaj-gateway schema > config/gateway.schema.json` makes them equal");
}

/// Every shipped gateway.yaml, recognised by a section that no other file has.
fn shipped() -> Vec<PathBuf> {
    let mut directories = vec![root().join("config"), root().join("deploy")];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == "yaml")
                && fs::read_to_string(&path).unwrap().lines().any(|line| line == "introspection:")
            {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn schema_accepts_every_shipped_configuration() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let shipped = shipped();
    assert!(shipped.len() >= 3, "{shipped:?}");
    for path in shipped {
        let file = path.to_str().unwrap();
        let shipped = json(&path).unwrap();
        let errors: Vec<String> =
            schema.iter_errors(&shipped).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{file}: {errors:?}");
        let (code, stdout, stderr) = outcome(root(), &["check", "--config", file]);
        assert_eq!((code, &*stderr), (0, ""), "{stdout}");
    }
}

#[test]
fn schema_rejects_every_error_it_can_express() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    for path in topics() {
        let text = fs::read_to_string(&path).unwrap();
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        let rejected = json(&path).is_some_and(|value| !schema.is_valid(&value));
        assert_eq!(
            rejected,
            !text.starts_with(BEYOND_A_SCHEMA),
            "{}: its first line contradicts the schema",
            name(&path)
        );
        assert!(!rejected || expected.ends_with("exit 1\n"), "{}: rejected, but valid", name(&path));
    }
}

/// From the file and from the environment, over the lifetime of a process.
#[test]
fn log_contains_no_secret_of_the_configuration() {
    let upstream = Upstream::start();
    let introspector = Introspector::start_rfc7662("gateway", "another secret");
    let gateway = Gateway::builder()
        .backend(&upstream)
        .yaml(&format!(
            "introspection:\n  url: {}/introspect\n  style: rfc7662\n  client_id: gateway\n  client_secret: ${{S}}\n",
            introspector.server().url()
        ))
        .yaml("admin:\n  token: hunter2-of-the-admin\nlog: {level: trace}\n")
        .environment("S", "hunter2-client")
        .start();
    // If the introspector rejects the credentials, an error is logged.
    assert_eq!(gateway.get("/api/v2/items", Some("7|hunter2-token")).status, 503);
    let fields = [("Authorization", "Bearer hunter2-of-the-admin")];
    let effective = RawClient::connect(gateway.admin()).request("GET", "/config", &fields, b"");
    let other = RawClient::connect(gateway.admin()).request(
        "GET",
        "/tokens",
        &[("Authorization", "Bearer hunter2")],
        b"",
    );
    gateway.wait_for_log(|line| line["status"] == 503);
    let mut shown = gateway.logs();
    shown.extend([effective.text().to_owned(), other.text().to_owned()]);
    let leaks: Vec<&String> = shown.iter().filter(|line| line.contains(SECRET)).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}
