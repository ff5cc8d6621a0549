//! The output of `demo` holds: each printed command gets the announced response.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::gateway::{Logs, spawn};
use crate::support::{BINARY, RawClient, Response};

/// A running demo; killed when dropped.
pub struct Demo {
    child: Child,
    logs: Arc<Logs>,
    /// The directory in which it creates its own.
    directory: tempfile::TempDir,
}

impl Demo {
    pub fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(BINARY);
        let (child, logs) = spawn(command.arg("demo").args(arguments).env("TMPDIR", directory.path()));
        Self { child, logs, directory }
    }

    /// The URL of the usage page, with credentials.
    pub fn usage(&self) -> String {
        let usage = |line: &str| Some(line.trim().strip_prefix("usage    ")?.split(' ').next()?.to_owned());
        self.logs.wait(usage).unwrap()
    }

    /// The output up to the last curl line, which is followed by an empty line.
    fn welcome(&self) -> Vec<String> {
        let last = self.logs.wait(|line| line.contains("/api/v2/internals").then_some(()));
        let lines = self.logs.all();
        assert!(last.is_some(), "{lines:#?}");
        lines
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The announced statuses and the curl lines below them, with the values of the printed variables.
fn calls(welcome: &[String]) -> Vec<(u16, String)> {
    let variables: Vec<(&str, &str)> = welcome
        .iter()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .map(|(name, value)| (name, value.trim_matches('\'')))
        .collect();
    let expand = |line: &str| {
        let expand = |line: String, (name, value): &(&str, &str)| line.replace(&format!("${name}"), value);
        let line = variables.iter().fold(line.trim().to_owned(), expand);
        assert!(!line.contains('$'), "{line}: a variable without a value in {variables:?}");
        line
    };
    let pairs = welcome.windows(2).filter(|pair| pair[1].trim_start().starts_with("curl "));
    pairs
        .map(|pair| (pair[0].split_whitespace().next().unwrap().parse().unwrap(), expand(&pair[1])))
        .collect()
}

/// Splits a shell line into words; quotes are not nested.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for character in line.chars() {
        match (character, quote) {
            ('\'' | '"', None) => quote = Some(character),
            (it, Some(open)) if it == open => quote = None,
            (' ', None) => words.push(String::new()),
            (it, _) => words.last_mut().unwrap().push(it),
        }
    }
    words
}

/// Sends the request of a curl command line.
fn curl(line: &str) -> Response {
    let words = words(line);
    let mut words = words.iter().map(String::as_str).skip(1);
    let (mut method, mut url, mut fields, mut body) = (None, "", Vec::new(), "");
    while let Some(word) = words.next() {
        match word {
            "-i" => {}
            "-X" => method = words.next(),
            "-H" => fields.push(words.next().unwrap().split_once(": ").unwrap()),
            "-d" => body = words.next().unwrap(),
            it if it.starts_with('-') => panic!("unknown option {it} in {line}"),
            it => url = it,
        }
    }
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    RawClient::connect(authority.parse().unwrap()).request(
        method.unwrap_or(if body.is_empty() { "GET" } else { "POST" }),
        &format!("/{path}"),
        &fields,
        body.as_bytes(),
    )
}

#[test]
fn printed_curl_commands_return_the_announced_status() {
    let demo = Demo::start(&["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let welcome = demo.welcome();
    assert!(welcome.iter().all(|line| !line.contains('\u{1b}')), "no colours in a pipe: {welcome:#?}");
    let calls = calls(&welcome);
    for (status, line) in &calls {
        let response = curl(line);
        assert_eq!(response.status, *status, "{line}: {}", response.text());
        match status {
            401 => assert_eq!(response.text(), r#"{"message":"Unauthenticated."}"#, "{line}"),
            403 => assert_eq!(response.text(), r#"{"message":"This action is unauthorized."}"#, "{line}"),
            201 => assert_eq!(
                response.text(),
                r#"{"data":{"code":"LADDER-01","id":4,"name":"Ladder"}}"#,
                "{line}"
            ),
            _ => assert_eq!(response.field("content-type"), Some("application/json"), "{line}"),
        }
    }
    let statuses: BTreeSet<u16> = calls.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, BTreeSet::from([200, 201, 401, 403]));
    let metrics = welcome.iter().find_map(|line| line.trim().strip_prefix("metrics  ")).unwrap();
    let scrape = curl(&format!("curl -i '{metrics}'"));
    assert!(scrape.text().contains("stockaj_gateway_requests_total"), "{}", scrape.text());
}

/// `deploy/train` reads the tokens and the address of the stand-in from the output.
#[test]
fn output_has_what_the_training_load_reads() {
    let demo = Demo::start(&[]);
    let welcome = demo.welcome();
    let script = fs::read_to_string("deploy/train").unwrap();
    let names: Vec<&str> =
        script.split("$(token ").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in names {
        assert!(welcome.iter().any(|line| line.starts_with(&format!("{name}='"))), "{name}: {welcome:?}");
    }
    assert!(welcome.iter().any(|line| line.contains("Stockaj  http://127.0.0.1:")), "{welcome:?}");
}

#[test]
fn denied_requests_show_the_rule_that_denies_them() {
    let demo = Demo::start(&["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let welcome = demo.welcome();
    let shown = |status: &str| -> Vec<String> {
        let lines = welcome.iter().filter_map(|line| line.trim().strip_prefix(status)?.strip_prefix("  "));
        lines
            .map(|line| line.split_once(" (").map(|(_, rule)| format!("({rule}")).unwrap_or_default())
            .collect()
    };
    assert_eq!(shown("401"), ["(/api/v2/items GET: items:read)", "(/api/v2/items GET: items:read)"]);
    assert_eq!(
        shown("403"),
        [
            "(/api/v2/items POST: items:create)",
            "(/api/v2/items/{id} DELETE: items:delete)",
            "(no route; unmapped: deny)"
        ]
    );
    assert!(shown("200").iter().all(String::is_empty), "{welcome:#?}");
}

#[test]
fn default_port_in_use_is_replaced_by_a_free_one() {
    // If the default ports are taken, the demo uses others.
    let _taken = [TcpListener::bind("127.0.0.1:8080"), TcpListener::bind("127.0.0.1:9090")];
    let welcome = Demo::start(&[]).welcome();
    for default in ["127.0.0.1:8080", "127.0.0.1:9090"] {
        assert!(welcome.iter().any(|line| line.contains(&format!("{default} is taken"))), "{welcome:#?}");
    }
    assert!(calls(&welcome).iter().all(|(_, line)| !line.contains(":8080/")), "{welcome:#?}");
}

#[test]
fn stand_in_listens_on_a_requested_address() {
    // From 32768 up, Linux assigns ports to outgoing connections of other tests, and to listeners on port 0.
    let unused = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let port = (30_000..32_000).find(unused).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let free = ["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"];
    let anywhere = format!("0.0.0.0:{}", address.port());
    let demo = Demo::start(&[&free[..], &["--stockaj-address", &*anywhere]].concat());
    let welcome = demo.welcome();
    assert!(welcome.iter().any(|line| line.contains(&format!("Stockaj  http://{address} "))), "{welcome:#?}");
    assert_eq!(RawClient::connect(address).get("/up", None).status, 200);
}

#[test]
fn requested_address_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    for arguments in [
        ["--address", &*address.to_string(), "--admin-address", "127.0.0.1:0"],
        ["--admin-address", &*address.to_string(), "--address", "127.0.0.1:0"],
    ] {
        let output = Command::new(BINARY).arg("demo").args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&address.to_string()), "{stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}

#[test]
fn demo_usage_page_shows_a_month_and_recent_requests() {
    let demo = Demo::start(&["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let (_, reader) = calls(&demo.welcome()).remove(0);
    let url = demo.usage();
    let (credentials, rest) = url.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let basic = format!("Basic {}", STANDARD.encode(credentials));
    let page = |query: &str| {
        let fields = [("Authorization", &*basic), ("Accept", "text/html")];
        let answer = RawClient::connect(authority.parse().unwrap()).request(
            "GET",
            &format!("/{path}{query}"),
            &fields,
            b"",
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().to_owned()
    };
    let all = page("");
    for expected in
        ["warehouse-scanner-prod", "Sent over plain HTTP", "Denied again and again", "Never expires"]
    {
        assert!(all.contains(expected), "{expected}: {all}");
    }
    // The generated usage does not include today.
    assert!(page("?since=1d").contains("<dt>Requests</dt><dd>0</dd>"));
    assert_eq!(curl(&reader).status, 200);
    assert!(page("?since=1d").contains("<dt>Requests</dt><dd>1</dd>"), "the report is current");
}

#[test]
fn demo_ledger_is_deleted_when_the_demo_ends() {
    let mut demo = Demo::start(&["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let (_, reader) = calls(&demo.welcome()).remove(0);
    assert_eq!(curl(&reader).status, 200);
    assert_eq!(fs::read_dir(demo.directory.path()).unwrap().count(), 1);
    kill_process(Pid::from_child(&demo.child), Signal::INT).unwrap();
    assert!(demo.child.wait().unwrap().success());
    assert_eq!(fs::read_dir(demo.directory.path()).unwrap().count(), 0);
}

#[test]
fn demo_runs_without_a_ledger_if_it_has_no_directory() {
    let mut command = Command::new(BINARY);
    command.args(["demo", "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let (child, logs) = spawn(command.env("TMPDIR", "/nowhere"));
    let demo = Demo { child, logs, directory: tempfile::tempdir().unwrap() };
    let welcome = demo.welcome();
    assert!(
        welcome.iter().any(|line| line.contains("usage    not recorded: no directory for the ledger: ")),
        "{welcome:#?}"
    );
    let (status, reader) = calls(&welcome).remove(0);
    assert_eq!(curl(&reader).status, status);
}
