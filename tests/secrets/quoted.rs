//! Damaged keys and misplaced secrets: neither `check` nor `run` nor a reload shows any part of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stockaj_gateway::internals::config;

use super::SECRET;
use crate::support::{Authority, BINARY, TestEnv};

/// The shortest part of a secret that must not be printed.
const RUN: usize = 6;

/// The parts of a secret that `shown` contains.
fn quoted<'a>(secret: &'a str, shown: &str) -> Option<&'a str> {
    let words = secret.lines().filter(|line| !line.starts_with("-----"));
    words
        .flat_map(|word| (0..word.len().saturating_sub(RUN - 1)).map(move |at| &word[at..at + RUN]))
        .find(|part| shown.contains(part))
}

#[test]
fn quotation_check_finds_parts_of_a_secret() {
    assert_eq!(quoted(SECRET, &format!("a {} b", &SECRET[20..26])), Some(&SECRET[20..26]));
    assert_eq!(quoted(SECRET, &SECRET[20..25]), None);
}

/// The sections of a valid configuration, each replaceable.
const SECTIONS: [(&str, &str); 5] = [
    ("listen", "listen: {address: '127.0.0.1:0'}\n"),
    ("admin", "admin: {address: '127.0.0.1:0'}\n"),
    ("backend", "backend: {url: 'http://127.0.0.1:9'}\n"),
    ("introspection", "introspection: {url: 'http://127.0.0.1:9/'}\n"),
    ("abilities", "abilities: {routes: {/up: {GET: public}}}\n"),
];

/// A configuration with `text` in place of this section.
fn with_section(name: &str, text: &str) -> String {
    let others = SECTIONS.iter().filter(|(section, _)| *section != name).map(|(_, text)| *text);
    others.collect::<String>() + text + "\n"
}

/// The exit code and the complete output of a command. `$SECRET` is the secret.
fn outcome(directory: &Path, command: &str) -> (i32, String) {
    let mut child = Command::new(BINARY)
        .args([command, "--config", "gateway.yaml"])
        .current_dir(directory)
        .env_clear()
        .env("SECRET", SECRET)
        .stdin(Stdio::null())
        .stdout(fs::File::create(directory.join("stdout")).unwrap())
        .stderr(fs::File::create(directory.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let read = |name: &str| String::from_utf8_lossy(&fs::read(directory.join(name)).unwrap()).into_owned();
    let end = Instant::now() + Duration::from_secs(30);
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code().expect("an exit code");
        }
        // The gateway runs, so the configuration has no error.
        if read("stdout").contains("\"listening\"") || Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            break 0;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    (code, read("stdout") + &read("stderr"))
}

/// Checks a configuration, and asserts that no part of `secret` is printed. Returns whether it has errors.
fn check(directory: &Path, yaml: &str, secret: &str) -> bool {
    fs::write(directory.join("gateway.yaml"), yaml).unwrap();
    let (code, shown) = outcome(directory, "check");
    assert_eq!(quoted(secret, &shown), None, "{yaml}\n{shown}");
    assert!(matches!(code, 0 | 1), "{yaml}\n{code} {shown}");
    code == 1
}

/// The same in this process, which is faster: the output of `check` and of the log for a report.
fn load(file: &Path, yaml: &str) -> bool {
    fs::write(file, yaml).unwrap();
    let environment = |name: &str| (name == "SECRET").then(|| SECRET.to_owned());
    let (report, is_refused) = match config::load_with(file, &environment) {
        Ok(loaded) => (loaded.warnings, false),
        Err(report) => (report, true),
    };
    let lines: Vec<String> = report.lines().collect();
    let shown = format!("{}\n{}", report.render(false), lines.join("\n"));
    assert_eq!(quoted(SECRET, &shown), None, "{yaml}\n{shown}");
    is_refused
}

/// The same with `run`.
fn run(directory: &Path, yaml: &str, secret: &str) {
    fs::write(directory.join("gateway.yaml"), yaml).unwrap();
    let (_, shown) = outcome(directory, "run");
    assert_eq!(quoted(secret, &shown), None, "{yaml}\n{shown}");
}

/// A gateway that reloads any text written to its gateway.yaml.
fn start() -> TestEnv {
    TestEnv::builder().configure(|gateway| gateway.environment("SECRET", SECRET)).start()
}

impl TestEnv {
    fn reload_with(&self, yaml: &str) {
        fs::write(self.gateway.directory().join("gateway.yaml"), yaml).unwrap();
        self.gateway.reload();
    }

    fn assert_unquoted(&self, secret: &str) {
        let log = self.gateway.logs().join("\n");
        assert!(log.contains("configuration rejected"), "{log}");
        assert_eq!(quoted(secret, &log), None, "{log}");
    }
}

/// Sections with a secret as text: the section, its other lines, and the key.
const TEXTS: [(&str, &str, &str); 5] = [
    ("admin", "  address: '127.0.0.1:0'\n", "token"),
    ("webhook", "  id: /id\n", "secret"),
    ("introspection", "  url: 'http://127.0.0.1:9/'\n  style: rfc7662\n  client_id: a\n", "client_secret"),
    ("redis", "  channel: a\n", "url"),
    ("traces", "  otlp_endpoint: 'http://127.0.0.1:9'\n", "secret_headers"),
];

/// Text after a key: the secret as `§` in every YAML style, valid and invalid.
const VALUES: [&str; 64] = [
    ": §",
    ": '§'",
    ": \"§\"",
    ": \"§",
    ": '§",
    ": §\"",
    ": |\n    §\n    §",
    ": |\n  §",
    ": |9\n    §",
    ": >-\n    §\n\n    §",
    ": |\n    §\n   §",
    ":\n    §\n    §",
    ":\n  §",
    ":\n§",
    ":\n    - §\n    - §: §",
    ":\n    §: §",
    ":\n    a: §",
    ": [§, §]",
    ": [§",
    ": {§, §}",
    ": {§: §}",
    ": {a: §}",
    ": {§",
    ": §]",
    ": §}",
    ": &§",
    ": &a §",
    ": *§",
    ": !§",
    ": !a §",
    ": !!str §",
    ": @§",
    ": `§",
    ": %§",
    ": ,§",
    ": - §",
    ": ? §",
    ": #§",
    ": § #§",
    ": § # §\n  # §",
    ": §: §",
    ": § : §",
    ": \"\\§\"",
    ": \"\\x§\"",
    ": \"${§\"",
    ": \"${§}\"",
    ": \"a ${§ §}\"",
    ": \"${NOT_SET:-§}\"",
    ": \"${SECRET}\"",
    ": \"${SECRET} ${NOT_SET}\"",
    ": \"\u{feff}§\"",
    ": redis://:§@",
    ": redis://:§@host:port",
    ": 'redis://a:§@host:1/§'",
    ": redis:/:§@host",
    ": a:§@host",
    ": \"Authorization Bearer §\"",
    ": \"Not a name: §\"",
    ": \"Host: §\"",
    ": \"A: §\\x01\"",
    ":§",
    " §",
    "=§",
    " = §",
];

/// Every section with a secret, each with an error next to it.
fn texts(secret: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for (section, beside, key) in TEXTS {
        let misspelled = &key[..key.len() - 1];
        let flow = beside.trim().replace("\n  ", ", ");
        for value in VALUES {
            let value = value.replace('§', secret);
            let mut push = |text: String| texts.push(with_section(section, &text));
            push(format!("{section}:\n{beside}  {key}{value}\n  colour: blue"));
            push(format!("{section}:\n  colour: blue\n  {misspelled}{value}\n{beside}"));
            push(format!("{section}:\n{beside}  {key}: {key}\n  \"{key}\"{value}"));
            if !value.contains('\n') {
                push(format!("{section}: {{{flow}, {key}{value}, colour: blue}}"));
                push(format!("{section}: {{colour: blue, {misspelled}{value}}}"));
            }
        }
        texts.push(with_section(section, &format!("{section}: {secret}")));
        texts.push(with_section(section, &format!("{section}: [{secret}, a]")));
        texts.push(with_section(section, &format!("{section}: ${{SECRET}}")));
        texts.push(with_section(section, &format!("{section}:\n{beside}  # {key}: {secret}\n  {key}: []")));
        texts.push(with_section(section, &format!("{section}:\n{beside}  {key}: [] # was {key}: {secret}")));
        texts.push(with_section(
            section,
            &format!("{section}:\n{beside}  ? {key}\n  : {secret}\n  colour: ["),
        ));
    }
    texts
}

#[test]
fn errors_quote_no_secret_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let env = start();
    let (mut refused, mut number) = (0, 0);
    // One of sufficient length, and one too short.
    for secret in [SECRET, &SECRET[..9]] {
        for yaml in texts(secret) {
            refused += usize::from(load(&directory.path().join("gateway.yaml"), &yaml));
            number += 1;
            if number % 20 == 0 {
                check(directory.path(), &yaml, SECRET);
                run(directory.path(), &yaml, SECRET);
                env.reload_with(&yaml);
            }
        }
    }
    assert!(refused > 2000, "{refused} of {number}");
    // A file that is not a configuration.
    assert!(check(directory.path(), SECRET, SECRET));
    assert!(check(directory.path(), &format!("- {SECRET}\n- a"), SECRET));
    assert!(check(directory.path(), &format!("token:{SECRET}\n"), SECRET));
    assert!(check(directory.path(), &format!("token: {SECRET}\n"), SECRET));
    env.assert_unquoted(SECRET);
}

/// The path of every scalar of `gateway.yaml`, from its schema.
fn scalars(schema: &Value, root: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref")).and_then(Value::as_str);
    let schema = reference.and_then(|at| root.pointer(&at[1..])).unwrap_or(schema);
    let named = schema.get("properties").and_then(Value::as_object);
    let any = schema.get("additionalProperties").filter(|any| any.is_object()).map(|any| ("any", any));
    let members: Vec<(&str, &Value)> =
        named.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema)).chain(any).collect();
    if members.is_empty() {
        found.push(path.clone());
    }
    for (name, schema) in members {
        path.push(name.to_owned());
        scalars(schema, root, path, found);
        path.pop();
    }
}

#[test]
fn errors_quote_no_value_of_the_environment() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.schema.json");
    let schema: Value = serde_json::from_slice(&fs::read(schema).unwrap()).unwrap();
    let mut keys = Vec::new();
    scalars(&schema, &schema, &mut Vec::new(), &mut keys);
    assert!(keys.len() > 80, "{keys:?}");
    let directory = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for key in &keys {
        for value in ["${SECRET}", "http://${SECRET}", "https://a:${SECRET}@b", "1${SECRET}", "[${SECRET}]"] {
            let mut text = String::new();
            for (depth, name) in key.iter().enumerate() {
                text += &format!("{}{name}:\n", "  ".repeat(depth));
            }
            // Required sibling keys.
            let beside = match (key[0].as_str(), key.get(1).map(String::as_str)) {
                (_, Some("url")) => "",
                ("backend", Some(_)) => "  url: https://127.0.0.1:9\n",
                ("introspection", Some(_)) => "  url: https://127.0.0.1:9/\n",
                ("redis", Some(_)) => "  url: rediss://127.0.0.1:9\n",
                ("traces", Some(_)) => "  otlp_endpoint: https://127.0.0.1:9\n",
                _ => "",
            };
            let text = format!("{} \"{value}\"\n{beside}", text.trim_end());
            let yaml = with_section(&key[0], &text);
            refused += usize::from(load(&directory.path().join("gateway.yaml"), &yaml));
            if value.contains("https") {
                check(directory.path(), &yaml, SECRET);
            }
        }
    }
    assert!(refused > 4 * keys.len(), "{refused} of {}", 5 * keys.len());
}

#[test]
fn errors_quote_no_secret_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let utf16: Vec<u8> = SECRET.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut good = 0;
    for (section, beside, key) in TEXTS {
        let contents = [
            SECRET[..9].into(),
            format!("{SECRET}\0").into_bytes(),
            format!("{SECRET}\n{SECRET}\n").into(),
            format!("Authorization: Bearer {SECRET}\n{SECRET}\n").into(),
            format!("Bad name: {SECRET}\n").into(),
            format!("redis://:{SECRET}@\n").into(),
            format!("redis://:{SECRET}@host:port\n").into(),
            [SECRET.as_bytes(), b"\xff"].concat(),
            [&b"\xff\xfe"[..], &utf16].concat(),
            utf16.clone(),
            SECRET.repeat(2000).into(),
            b"".into(),
        ];
        let yaml = |file: &str| {
            with_section(section, &format!("{section}:\n{beside}  {key}_file: {file}\n  {key}s: 1"))
        };
        for content in contents {
            fs::write(directory.path().join("secret"), content).unwrap();
            assert!(check(directory.path(), &yaml("secret"), SECRET));
            run(directory.path(), &yaml("secret"), SECRET);
        }
        // The secret instead of the path of its file.
        for value in [SECRET, "\"${SECRET}\"", &format!("[{SECRET}]"), &format!("'{SECRET}"), "/", "*a"] {
            assert!(check(directory.path(), &yaml(value), SECRET));
        }
        // A byte order mark is not part of the secret.
        let content = match key {
            "url" => format!("\u{feff}redis://:{SECRET}@127.0.0.1:9\r\n"),
            "secret_headers" => format!("\u{feff}Authorization: Bearer {SECRET}\r\n"),
            _ => format!("\u{feff}{SECRET}\r\n"),
        };
        fs::write(directory.path().join("secret"), content).unwrap();
        let fine = yaml("secret").replace(&format!("  {key}s: 1"), "");
        good += usize::from(!check(directory.path(), &fine, SECRET));
    }
    assert_eq!(good, TEXTS.len());
}

/// Ways to damage a PEM file.
fn damages(pem: &str) -> Vec<(&'static str, Vec<u8>)> {
    let pem = pem.replace("\r\n", "\n");
    let lines: Vec<&str> = pem.lines().collect();
    let body = lines[1..lines.len() - 1].join("\n");
    vec![
        ("the PEM block has no line breaks", pem.replace('\n', "").into()),
        ("the PEM block has no line breaks", pem.replace('\n', " ").into()),
        ("the PEM block has `\\n` in place of line breaks", pem.replace('\n', "\\n").into()),
        (
            "the PEM block has `\\n` in place of line breaks",
            format!("\"{}\"", pem.replace('\n', "\\n")).into(),
        ),
        ("the PEM block has no END line", pem[..pem.len() / 2].into()),
        ("the PEM block has no END line", lines[..lines.len() - 1].join("\n").into()),
        ("the PEM block is indented", format!("    {}", lines.join("\n    ")).into()),
        ("the PEM block is damaged", pem.replacen(&body[..3], "", 1).into()),
        ("no PEM block", body.clone().into()),
        ("UTF-16", pem.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("not UTF-8", [pem.as_bytes(), b"\xff"].concat()),
        ("an encrypted private key", pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY").into()),
        ("a public key", pem.replace("PRIVATE KEY", "PUBLIC KEY").into()),
        ("a certificate", pem.replace("PRIVATE KEY", "CERTIFICATE").into()),
        ("it is empty", Vec::new()),
    ]
}

#[test]
fn errors_quote_no_damaged_key() {
    let authority = Authority::new();
    let (certificate, key) = (authority.certificate(), authority.private_key());
    let pem = fs::read_to_string(&key).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("damaged.pem");
    symlink(&certificate, directory.path().join("tls.crt")).unwrap();
    symlink(&key, directory.path().join("tls.key")).unwrap();
    let client = |section: &str, beside: &str, tls: &str| {
        with_section(section, &format!("{section}: {{{beside}, tls: {{{tls}}}}}"))
    };
    let listen = |tls: &str| client("listen", "address: '127.0.0.1:0'", tls);
    // A file without the expected key, and a key in place of another file.
    let mut places = vec![
        (true, listen("certificate: tls.crt, private_key: damaged.pem")),
        (false, listen("certificate: damaged.pem, private_key: tls.key")),
        (false, listen("certificate: tls.crt, private_key: tls.key, client_ca: damaged.pem")),
    ];
    for (section, beside) in [
        ("backend", "url: 'https://127.0.0.1:9'"),
        ("introspection", "url: 'https://127.0.0.1:9/'"),
        ("redis", "url: 'rediss://127.0.0.1:9'"),
        ("traces", "otlp_endpoint: 'https://127.0.0.1:9'"),
    ] {
        places.push((true, client(section, beside, "certificate: tls.crt, private_key: damaged.pem")));
        places.push((false, client(section, beside, "certificate: damaged.pem, private_key: tls.key")));
        places.push((false, client(section, beside, "ca_file: damaged.pem")));
    }
    for (is_key, yaml) in &places {
        for (cause, content) in damages(&pem) {
            fs::write(&file, content).unwrap();
            fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
            for (command, expected) in [("check", 1), ("run", 78)] {
                let (code, shown) = outcome(directory.path(), command);
                assert_eq!(quoted(&pem, &shown), None, "{yaml}\n{shown}");
                assert_eq!(code, expected, "{yaml}\n{cause}: {shown}");
                assert!(!is_key || shown.contains(cause), "{cause}: {shown}");
            }
        }
        // With a byte order mark and CRLF, as editors on Windows write.
        if *is_key {
            fs::write(&file, format!("\u{feff}{}", pem.replace("\r\n", "\n").replace('\n', "\r\n"))).unwrap();
            assert!(!check(directory.path(), yaml, &pem), "{yaml}");
        }
    }
    // The key itself instead of the path of its file.
    let inline = pem.trim_end().replace("\r\n", "\n");
    for value in [
        format!("|\n      {}", inline.replace('\n', "\n      ")),
        format!("|\n{inline}"),
        format!("\"{}\"", inline.replace('\n', "\\n")),
        inline.clone(),
        inline.replace('\n', " "),
        inline.replace('\n', ""),
    ] {
        for key in ["private_key", "privat_key", "certificate", "ca_file"] {
            let yaml =
                format!("backend:\n  url: https://127.0.0.1:9\n  tls:\n    {key}: {value}\n    colour: [\n");
            assert!(check(directory.path(), &with_section("backend", &yaml), &pem));
            let yaml = yaml.replace("colour: [", "colour: blue");
            assert!(check(directory.path(), &with_section("backend", &yaml), &pem));
        }
    }
}

#[test]
fn reload_errors_quote_no_damaged_key() {
    let authority = std::sync::Arc::new(Authority::new());
    let pem = fs::read_to_string(authority.private_key()).unwrap();
    let env = TestEnv::builder().tls(&authority).start();
    for (cause, content) in damages(&pem) {
        fs::write(authority.private_key(), content).unwrap();
        env.gateway.reload();
        env.gateway.wait_for_log(|line| line["error"].as_str().is_some_and(|error| error.contains(cause)));
    }
    assert_eq!(quoted(&pem, &env.gateway.logs().join("\n")), None);
}
