//! `init` and `check --online`: the probe reports working and failing steps, with corrections, and never prints the
//! token.

mod probe; // `check --online`: each step, and its correction

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::ports::free_address;
use crate::support::{Answer, BINARY, Introspector, Upstream, Verdict};

const TOKEN: &str = "17|Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq";
const MAP: &str =
    "{/up: {GET: public}, /items: {GET: items:read, POST: items:create}, /rents: {GET: rents:read}}";

/// Exit code, standard output and standard error.
struct Run(i32, String, String);

impl Run {
    /// The lines of the step with this name.
    fn step(&self, name: &str) -> String {
        let is_start = |line: &str| line.starts_with(['✓', '✗', '-']);
        let mut lines = self.1.lines().skip_while(|line| {
            !is_start(line) || !line.split_once(' ').is_some_and(|(_, rest)| rest.starts_with(name))
        });
        let first = lines.next().unwrap_or_else(|| panic!("no {name}: {}{}", self.1, self.2));
        let more = lines.take_while(|line| !is_start(line) && line.starts_with("   "));
        [first].into_iter().chain(more).map(|line| format!("{}\n", line.trim())).collect()
    }

    /// Asserts that exactly this step failed, with these words.
    fn fails(&self, name: &str, words: &[&str]) {
        let step = self.step(name);
        assert!(step.starts_with('✗') && self.0 == 1, "{}{}", self.1, self.2);
        for word in words {
            assert!(step.contains(word), "{word}:\n{step}");
        }
        assert!(step.contains("\nhelp: ") && step.contains("\n--> "), "{step}");
        let failed = self.1.lines().filter(|line| line.starts_with('✗')).count();
        assert_eq!(failed, 1, "{}", self.1);
    }
}

/// An application with an introspection endpoint, and a directory.
struct Application {
    directory: tempfile::TempDir,
    backend: Upstream,
    introspector: Introspector,
}

impl Application {
    fn start() -> Self {
        Self::with(Introspector::start())
    }

    fn with(introspector: Introspector) -> Self {
        let backend = Upstream::answering(|_| Answer::with(200, &[], ""));
        introspector.set_verdict(TOKEN, Verdict::active(&["items:read"]).named(17, "sync\u{1b}prod"));
        Self { directory: tempfile::tempdir().unwrap(), backend, introspector }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn run(&self, arguments: &[&str], token: Option<&str>) -> Run {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(&self.directory).env_clear().stdin(Stdio::null());
        if let Some(token) = token {
            command.env("STOCKAJ_GATEWAY_TOKEN", token);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let run = Run(output.status.code().unwrap(), text(output.stdout), text(output.stderr));
        let secret = TOKEN.split_once('|').unwrap().1;
        let shown = format!("{}{}", run.1, run.2);
        assert!(!(0..secret.len() - 8).any(|at| shown.contains(&secret[at..at + 8])), "{shown}");
        run
    }

    /// `check --online` with this map and further configuration.
    fn check_with(&self, map: &str, more: &str, token: Option<&str>) -> Run {
        let (backend, tls) = (self.backend.url(), self.backend.client_tls());
        let introspection = self.introspector.yaml();
        let text = format!(
            "backend:\n  url: {backend}\n{tls}{introspection}\n  timeout: 500ms\n{more}\nabilities: {{routes: {map}}}\n"
        );
        self.write("gateway.yaml", &text);
        self.run(&["check", "--online", "gateway.yaml"], token)
    }

    fn check(&self, token: Option<&str>) -> Run {
        self.check_with(MAP, "", token)
    }
}

/// The options that name the servers of an application.
fn servers(application: &Application) -> Vec<String> {
    let endpoint = format!("{}/api/v2/token", application.introspector.server().url());
    ["init", "--backend", &application.backend.url(), "--introspection", &endpoint]
        .map(str::to_owned)
        .to_vec()
}

fn init(application: &Application, more: &[&str], token: Option<&str>) -> Run {
    let servers = servers(application);
    let arguments: Vec<&str> = servers.iter().map(String::as_str).chain(more.iter().copied()).collect();
    application.run(&arguments, token)
}

#[test]
fn init_writes_a_configuration_that_passes_check_and_probe() {
    let application = Application::start();
    let run = init(&application, &["--shipped-map"], Some(TOKEN));
    assert_eq!(run.0, 0, "{}{}", run.1, run.2);
    assert!(
        run.1.starts_with(
            "wrote stockaj.yaml\nwrote secrets/admin-token\nwrote gateway.yaml (26 routes)\n✓ backend "
        ),
        "{}",
        run.1
    );
    assert_eq!(run.2, "next: stockaj-gateway run --config gateway.yaml\n");
    assert_eq!(application.read("stockaj.yaml"), include_str!("../config/stockaj.yaml"));
    let text = application.read("gateway.yaml");
    assert!(text.contains(&format!("  url: {}\n", application.backend.url())), "{text}");
    assert!(text.lines().filter(|line| line.trim_start().starts_with('#')).count() > 8, "{text}");
    let run = application.run(&["check", "--strict", "gateway.yaml"], None);
    assert_eq!((run.0, &*run.1), (0, "gateway.yaml: fine, 26 routes\n"), "{}", run.2);

    // Neither file is overwritten without `--force`.
    application.write("gateway.yaml", "mine");
    let run = init(&application, &["--shipped-map"], None);
    assert!(run.0 == 1 && run.2.contains("`gateway.yaml` exists\nhelp: ") && run.1.is_empty(), "{}", run.2);
    let run = init(&application, &["other.yaml", "--shipped-map"], None);
    assert!(
        run.0 == 1 && run.2.contains("`stockaj.yaml` exists") && !application.file("other.yaml").exists()
    );
    assert_eq!(application.read("gateway.yaml"), "mine");
    let calls = application.introspector.calls();
    let run = init(&application, &["--shipped-map", "--force", "--offline"], Some(TOKEN));
    assert_eq!((run.0, application.read("gateway.yaml")), (0, text), "{}", run.2);
    assert_eq!(application.introspector.calls(), calls, "--offline sends nothing");
}

/// An operator who has to revoke a token needs nothing but the command.
#[test]
fn init_generates_an_admin_token_that_the_commands_find() {
    let application = Application::start();
    assert_eq!(init(&application, &["--shipped-map", "--offline"], None).0, 0);
    let token = application.read("secrets/admin-token");
    assert!(token.len() == 65 && token.trim_end().bytes().all(|it| it.is_ascii_hexdigit()), "{token}");
    let mode = |name: &str| fs::metadata(application.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("secrets"), mode("secrets/admin-token")), (0o700, 0o600));

    // No gateway runs at this address: the command gets as far as connecting.
    let free = free_address();
    let text = application.read("gateway.yaml");
    let address = text.replace("127.0.0.1:9090", &free.to_string());
    application.write("gateway.yaml", &address);
    for words in [&["tokens", "list"][..], &["tokens", "revoke", "--id", "17"], &["unmapped"]] {
        let run = application.run(words, None);
        assert!(run.0 == 1 && run.2.contains("Connection refused"), "{words:?}: {}", run.2);
    }
    application.write("gateway.yaml", &address.replace("  token_file", "  # token_file"));
    let run = application.run(&["tokens", "list"], None);
    assert!(run.2.contains("needs the admin token\nhelp: write "), "{}", run.2);

    // `--force` keeps the token, which other programs know by now.
    let run = init(&application, &["--shipped-map", "--offline", "--force"], None);
    assert_eq!(run.1, "wrote stockaj.yaml\nwrote gateway.yaml (26 routes)\n", "{}", run.2);
    assert_eq!((application.read("gateway.yaml"), application.read("secrets/admin-token")), (text, token));
    // A token that cannot be written is an error, and there is no configuration that names it.
    let run = init(&application, &["nowhere/gateway.yaml", "--map", "stockaj.yaml", "--offline"], None);
    assert!(
        run.0 == 1 && run.2.starts_with("error: cannot write `nowhere/secrets/admin-token`: "),
        "{}",
        run.2
    );
}

#[test]
fn init_writes_the_configuration_also_if_the_probe_fails() {
    let mut application = Application::start();
    application.backend.stop();
    let run = init(&application, &["--shipped-map"], None);
    run.fails("backend", &["Connection refused"]);
    assert_eq!(run.2, "next: stockaj-gateway check --online --config gateway.yaml\n");
    assert!(application.file("gateway.yaml").exists());
}

#[test]
fn init_takes_a_map_file_or_drafts_one() {
    let application = Application::start();
    application.write("map.yaml", &format!("routes: {MAP}\n"));
    fs::create_dir(application.file("etc")).unwrap();
    for file in ["gateway.yaml", "etc/gateway.yaml"] {
        let run = init(&application, &[file, "--map", "map.yaml"], Some(TOKEN));
        assert_eq!(run.0, 0, "{}{}", run.1, run.2);
        let token = file.replace("gateway.yaml", "secrets/admin-token");
        assert!(run.1.starts_with(&format!("wrote {token}\nwrote {file} (3 routes)\n")), "{}", run.1);
    }
    assert!(application.read("gateway.yaml").contains("  file: map.yaml\n"));

    let document =
        "openapi: 3.1.0\ninfo: {title: T, version: '1'}\npaths:\n  /items:\n    get: {responses: {}}\n";
    application.write("openapi.yaml", document);
    let run = init(&application, &["etc/drafted.yaml", "--openapi", "openapi.yaml"], Some(TOKEN));
    assert_eq!(run.0, 0, "{}{}", run.1, run.2);
    assert!(run.1.starts_with("wrote etc/abilities.yaml\nwrote etc/drafted.yaml (1 routes)\n"), "{}", run.1);
    assert!(application.read("etc/abilities.yaml").contains("GET: items:read"));

    for (source, file) in [("--map", "missing.yaml"), ("--map", "openapi.yaml"), ("--openapi", "map.yaml")] {
        let run = init(&application, &["new.yaml", source, file], None);
        assert!(
            run.0 == 1 && run.1.is_empty() && run.2.contains(file),
            "{source} {file}: {}{}",
            run.1,
            run.2
        );
        assert!(!application.file("new.yaml").exists());
    }
}

#[test]
fn init_validates_its_options_before_it_writes() {
    let application = Application::with(Introspector::start_rfc7662("gateway", "a-secret-of-the-gateway"));
    application.write("secret", "a-secret-of-the-gateway\n");
    application.write("map.yaml", &format!("routes: {MAP}\n"));
    let url = application.backend.url();
    for (arguments, code, words) in [
        (&["init"][..], 2, "`--backend URL` is missing"),
        (&["init", "--backend", &url], 2, "`--introspection URL` is missing"),
        (
            &["init", "--backend", &url, "--introspection", &url],
            2,
            "`--map FILE, --shipped-map or --openapi DOCUMENT`",
        ),
        (&["init", "--backend", "127.0.0.1", "--introspection", &url, "--shipped-map"], 1, "invalid URL"),
        (&["init", "--backend", &url, "--introspection", "ftp://h", "--shipped-map"], 1, "invalid URL"),
        (&["init", "--map", "map.yaml", "--shipped-map"], 2, "cannot be used with"),
        (&["init", "--client-secret-file", "secret"], 2, "--client-id"),
        (&["init", "--offline", "--token-file", "secret"], 2, "cannot be used with"),
    ] {
        let run = application.run(arguments, None);
        assert!(run.0 == code && run.2.contains(words), "{arguments:?}: {} {}", run.0, run.2);
        assert_eq!(fs::read_dir(application.directory.path()).unwrap().count(), 2, "{arguments:?}");
    }

    let credentials = ["--map", "map.yaml", "--client-id", "gateway", "--client-secret-file", "secret"];
    let run = init(&application, &credentials, Some(TOKEN));
    assert_eq!(run.0, 0, "{}{}", run.1, run.2);
    let text = application.read("gateway.yaml");
    assert!(text.contains("  style: rfc7662\n  client_id: \"gateway\"\n  client_secret_file: "), "{text}");
    assert!(!text.contains("a-secret"), "{text}");

    let audience = [&credentials[..], &["--audience", "https://api.example", "--force"]].concat();
    let verdict = json!({"active": true, "scope": "items:read", "aud": "https://api.example"});
    application.introspector.set_verdict(TOKEN, Verdict::Answer(Answer::json(200, &verdict)));
    let run = init(&application, &audience, Some(TOKEN));
    assert_eq!(run.0, 0, "{}{}", run.1, run.2);
    assert!(!run.2.contains("warning"), "{}", run.2);
    assert!(application.read("gateway.yaml").contains("  expect: {aud: https://api.example}\n"));
    assert_eq!(application.run(&["check", "--strict", "gateway.yaml"], None).0, 0);
    let verdict = json!({"active": true, "scope": "items:read", "aud": "https://payroll.example"});
    application.introspector.set_verdict(TOKEN, Verdict::Answer(Answer::json(200, &verdict)));
    let run = application.run(&["check", "--online", "gateway.yaml"], Some(TOKEN));
    run.fails("given token", &["aud is \"https://payroll.example\", expected https://api.example"]);

    application.write("secret", "another secret of somebody\n");
    let run = application.run(&["check", "--online", "gateway.yaml"], Some(TOKEN));
    run.fails("unknown token", &["responded with 400"]);
    assert!(!format!("{}{}", run.1, run.2).contains("another secret"));
    let run = init(
        &application,
        &["new.yaml", "--map", "map.yaml", "--client-id", "a", "--client-secret-file", "no"],
        None,
    );
    assert!(run.0 == 1 && run.2.contains("introspection.client_secret_file"), "{}", run.2);
    assert!(!application.file("new.yaml").exists());
}

#[test]
fn init_is_bounded_in_time() {
    let application = Application::start();
    application.backend.answer(|_| Answer::hang());
    application.introspector.fail_with(Answer::hang());
    let begun = std::time::Instant::now();
    let text = |limit: &str| {
        format!(
            "backend: {{url: '{}', timeout: {limit}}}\n{}  timeout: 200ms\nabilities: {{routes: {MAP}}}\n",
            application.backend.url(),
            application.introspector.yaml()
        )
    };
    application.write("gateway.yaml", &text("200ms"));
    assert_eq!(application.run(&["check", "--online", "gateway.yaml"], Some(TOKEN)).0, 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Runs a command on a terminal. Writes each answer once the question before it is shown. Returns the exit code and all that
/// the terminal showed.
fn on_terminal(application: &Application, arguments: &str, answers: &[(&str, String)]) -> (i32, String) {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &format!("{BINARY} {arguments}"), "/dev/null"]);
    command.current_dir(&application.directory).env_remove("STOCKAJ_GATEWAY_TOKEN");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    let mut answers = answers.iter().peekable();
    loop {
        if let Some((_, answer)) =
            answers.next_if(|(question, _)| String::from_utf8_lossy(&shown).contains(question))
        {
            // Waits until the terminal hides the input; anything typed before is discarded, as at any password prompt.
            thread::sleep(Duration::from_millis(200));
            stdin.write_all(answer.as_bytes()).unwrap();
        }
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            read => shown.extend(&buffer[..read]),
        }
    }
    assert!(answers.next().is_none(), "{}", String::from_utf8_lossy(&shown));
    (child.wait().unwrap().code().unwrap(), String::from_utf8_lossy(&shown).replace('\r', ""))
}

#[test]
#[ignore = "needs script: tests/run"]
fn init_asks_on_a_terminal_and_does_not_echo_the_token() {
    let application = Application::start();
    let line = |text: &str| format!("{text}\n");
    let answers = [
        ("URL of the application [http://127.0.0.1:8000]: ", line(&application.backend.url())),
        ("/api/v2/token]: ", format!("{}/api/v2/token\n", application.introspector.server().url())),
        ("rfc7662 [bearer]: ", line("")),
        ("[stockaj]: ", line("")),
        ("A token of the application (not shown; Enter: none): ", line(TOKEN)),
    ];
    let (code, shown) = on_terminal(&application, "init", &answers);
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("wrote gateway.yaml (26 routes)") && shown.contains("active: sync"), "{shown}");
    assert!(!shown.contains(TOKEN) && !shown.contains(&TOKEN[3..11]), "{shown}");

    let question = "A token of the application (not shown; Enter: none): ";
    let check = |answer: &str| {
        on_terminal(&application, "check --online gateway.yaml", &[(question, answer.to_owned())])
    };
    let (code, shown) = check("\n");
    assert!(code == 0 && shown.contains("no token given"), "{shown}");
    let (code, shown) = check(&format!("{}\u{3}", &TOKEN[..20]));
    assert!(
        code == 1 && shown.contains("error: cannot read the token") && !shown.contains(&TOKEN[3..11]),
        "{shown}"
    );
}
