//! Instructions per request of the shipped binary, counted by callgrind.
//!
//! Unlike time, instructions do not depend on the machine's load, so a change of a few percent is visible.
//! The gateway alone runs under valgrind, with one worker thread, one kept client connection and every token cached.
//! Each scenario is run twice, and the difference of the two counts contains neither start nor shutdown.
//!
//! Valgrind emulates a CPU without SHA extensions: hashing the token in software takes some 3,400 instructions, which
//! a real CPU does not spend.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::http2::Http2Client;
use crate::support::{Answer, Authority, Gateway, Introspector, Upstream};

/// The shipped binary, written by `deploy/build-static`.
const SHIPPED: &str = "target/image/stockaj-gateway";

/// The optimisation of that binary: `pgo` or `none`. `none` if the file does not exist.
const PROFILE: &str = "target/image/profile";

const FIGURES: &str = "tests/instructions/figures.yaml";

/// The output file of callgrind, for `callgrind_annotate`.
const OUTPUT: &str = "target/instructions";

/// Tolerated deviation from the committed figure, in percent.
const TOLERANCE: f64 = 3.0;

/// Requests of the shorter run. What the first requests cause once (connections, introspection, growing buffers) happens
/// in both runs.
const FEW: u32 = 500;

const TOKEN: &str = "17|Zq3vN8sXb1Lk5TgWc7HdRj2MfYp9UaEo4KiVn6Bt0b6a2f31";

/// Body of the backend's response.
const BODY: &str = r#"{"data":[{"id":1,"name":"Aerial lift 12 m","available":true},{"id":2,"name":"Generator 20 kVA","available":false}],"meta":{"page":1,"total":2}}"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http1Tls,
    Http2Tls,
}

impl Protocol {
    /// Requests of the longer run. AWS-LC gathers entropy from the jitter of the CPU, which takes 420 million
    /// instructions and a million more or less: more requests, so that this is noise of 0.3 % over TLS as well.
    const fn many(self) -> u32 {
        match self {
            Self::Http1 => FEW + 2000,
            Self::Http1Tls | Self::Http2Tls => FEW + 6000,
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    protocol: Protocol,
    access_log: bool,
    /// Further lines of the configuration.
    yaml: &'static str,
    method: &'static str,
    target: &'static str,
    with_token: bool,
    body: &'static str,
    status: u16,
}

const GET: Scenario = Scenario {
    name: "GET",
    protocol: Protocol::Http1,
    access_log: false,
    yaml: "",
    method: "GET",
    target: "/api/v2/items",
    with_token: true,
    body: "",
    status: 200,
};

const SCENARIOS: [Scenario; 8] = [
    GET,
    Scenario { name: "GET, access log", access_log: true, ..GET },
    Scenario { name: "GET, public route", target: "/up", with_token: false, ..GET },
    Scenario { name: "GET, 403", target: "/api/v2/renters", status: 403, ..GET },
    Scenario { name: "POST", method: "POST", body: r#"{"name":"Aerial lift 16 m"}"#, ..GET },
    // Its queue is empty.
    Scenario { name: "GET, max_connections", yaml: "backend:\n  max_connections: 8\n", ..GET },
    Scenario { name: "GET, TLS", protocol: Protocol::Http1Tls, ..GET },
    Scenario { name: "GET, HTTP/2 and TLS", protocol: Protocol::Http2Tls, ..GET },
];

/// Compares with the committed figures, which `BLESS=1` replaces. `STOCKAJ_GATEWAY_BINARY=PATH` counts the instructions
/// of another binary and compares nothing.
#[test]
#[ignore = "needs valgrind: tests/run"]
fn request_instructions_stay_within_the_recorded_figures() {
    let other = std::env::var_os("STOCKAJ_GATEWAY_BINARY").map(PathBuf::from);
    let program = other.as_deref().unwrap_or(Path::new(SHIPPED));
    assert!(program.is_file(), "no {}: deploy/build-static writes {SHIPPED}", program.display());
    let measured: Vec<_> = SCENARIOS.iter().map(|scenario| per_request(program, scenario)).collect();

    let profile = fs::read_to_string(PROFILE).unwrap_or_default();
    let profile = if profile.trim() == "pgo" { "pgo" } else { "none" };
    let mut figures = Figures::read();
    let mut table = format!("instructions per request of {}\n", program.display());
    let mut exceeded = false;
    for (scenario, measured) in SCENARIOS.iter().zip(measured) {
        let _ = write!(table, "{:<22} {measured:>8}", scenario.name);
        if other.is_none() {
            let deviation = figures.deviation(scenario.name, profile, measured);
            exceeded |= is_exceeded(deviation);
            let _ = write!(table, "  {}", finding(deviation));
            figures.set(scenario.name, profile, measured);
        }
        table.push('\n');
    }
    // libtest shows standard output only for failed tests.
    std::io::stderr().write_all(format!("\n{table}").as_bytes()).unwrap();
    if other.is_none() && std::env::var_os("BLESS").is_some() {
        figures.write();
    } else {
        assert!(!exceeded, "beyond {FIGURES}, column {profile} (BLESS=1 accepts it):\n{table}");
    }
}

#[test]
fn every_scenario_has_a_figure_for_a_build_without_pgo() {
    let figures = Figures::read();
    assert_eq!(figures.0.len(), SCENARIOS.len(), "{:?}", figures.0);
    for scenario in SCENARIOS {
        assert!(figures.deviation(scenario.name, "none", 1).is_some(), "{}", scenario.name);
    }
}

#[test]
fn instruction_tolerance_is_three_percent() {
    let mut figures = Figures(BTreeMap::new());
    figures.set("GET", "pgo", 10_000);
    for (measured, exceeded, text) in [
        (10_300, false, "+3.0 %"),
        (10_301, true, "+3.0 %: TOO MANY"),
        (9_700, false, "-3.0 %"),
        (9_600, false, "-4.0 %: lower the figure in the tree"),
    ] {
        let deviation = figures.deviation("GET", "pgo", measured);
        assert_eq!((is_exceeded(deviation), &*finding(deviation)), (exceeded, text), "{measured}");
    }
    assert!(is_exceeded(figures.deviation("GET", "none", 1)));
}

fn is_exceeded(deviation: Option<f64>) -> bool {
    deviation.is_none_or(|it| it > TOLERANCE)
}

fn finding(deviation: Option<f64>) -> String {
    match deviation {
        None => "no figure in the tree".to_owned(),
        Some(it) if it > TOLERANCE => format!("{it:+.1} %: TOO MANY"),
        Some(it) if it < -TOLERANCE => format!("{it:+.1} %: lower the figure in the tree"),
        Some(it) => format!("{it:+.1} %"),
    }
}

fn per_request(program: &Path, scenario: &Scenario) -> u64 {
    let requests = [FEW, scenario.protocol.many()];
    let [few, many] = thread::scope(|scope| {
        requests
            .map(|requests| scope.spawn(move || instructions(program, scenario, requests)))
            .map(|run| run.join().unwrap())
    });
    (many - few) / u64::from(requests[1] - requests[0])
}

/// All instructions of a gateway that has served this number of requests.
fn instructions(program: &Path, scenario: &Scenario, requests: u32) -> u64 {
    fs::create_dir_all(OUTPUT).unwrap();
    let output =
        Path::new(OUTPUT).join(format!("{}.{requests}", scenario.name.replace([',', ' ', '/'], "-")));
    let mut callgrind = Command::new("valgrind");
    callgrind.args(["--quiet", "--tool=callgrind"]);
    callgrind.arg(format!("--callgrind-out-file={}", output.display())).arg(program);

    let fields = [
        ("Content-Type", "application/json"),
        ("Server", "nginx"),
        ("Date", "Mon, 30 Nov 2026 06:00:00 GMT"),
    ];
    let upstream = Upstream::answering(move |_| Answer::with(200, &fields, BODY));
    let introspector = Introspector::with_tokens([(TOKEN, &["items:read", "items:create"][..])]);
    let authority = Arc::new(Authority::new());
    let mut builder = Gateway::builder().backend(&upstream).introspector(&introspector);
    if scenario.protocol != Protocol::Http1 {
        builder = builder.tls(&authority);
    }
    let mut gateway = builder
        .shipped_map()
        .one_core()
        // No timer expires during a run.
        .yaml("cache: {ttl: 1h, negative_ttl: 1h}\n")
        .yaml(&format!("log: {{access: {}}}\n", scenario.access_log))
        .yaml(scenario.yaml)
        .command(callgrind)
        .start();
    send(scenario, &gateway, &authority, requests);
    gateway.signal(Signal::TERM);
    assert!(gateway.wait_exit(Duration::from_secs(30)).success(), "{:?}", gateway.logs());

    let text = fs::read_to_string(output).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("totals: "));
    count.and_then(|count| count.trim().parse().ok()).expect("callgrind's total")
}

fn send(scenario: &Scenario, gateway: &Gateway, authority: &Authority, requests: u32) {
    let authorization = format!("Bearer {TOKEN}");
    let mut fields = vec![("accept", "application/json")];
    if scenario.with_token {
        fields.push(("authorization", &authorization));
    }
    if !scenario.body.is_empty() {
        fields.push(("content-type", "application/json"));
    }
    let Scenario { method, target, body, .. } = scenario;
    let mut http2 = (scenario.protocol == Protocol::Http2Tls)
        .then(|| Http2Client::connect_tls(gateway.address(), authority));
    let mut http1 = http2.is_none().then(|| gateway.client());
    for _ in 0..requests {
        let response = match (&mut http1, &mut http2) {
            (Some(client), _) => client.request(method, target, &fields, body.as_bytes()),
            (_, Some(client)) => client.request(method, target, &fields, body.as_bytes()).answer(),
            (None, None) => return,
        };
        assert_eq!(response.status, scenario.status, "{}", response.text());
    }
}

/// The committed figures by scenario and profile.
struct Figures(BTreeMap<String, BTreeMap<String, u64>>);

impl Figures {
    fn read() -> Self {
        Self(serde_yaml::from_str(&fs::read_to_string(FIGURES).unwrap()).unwrap())
    }

    /// The measured increase in percent; `None` if there is no committed figure.
    fn deviation(&self, scenario: &str, profile: &str, measured: u64) -> Option<f64> {
        let figure = *self.0.get(scenario)?.get(profile)?;
        Some((measured as f64 - figure as f64) * 100.0 / figure as f64)
    }

    fn set(&mut self, scenario: &str, profile: &str, measured: u64) {
        self.0.entry(scenario.to_owned()).or_default().insert(profile.to_owned(), measured);
    }

    /// Writes the file and keeps its comment.
    fn write(&self) {
        let old = fs::read_to_string(FIGURES).unwrap();
        let mut text: String =
            old.lines().filter(|line| line.starts_with('#')).flat_map(|it| [it, "\n"]).collect();
        for scenario in SCENARIOS {
            let Some(figures) = self.0.get(scenario.name) else { continue };
            let figures: Vec<_> = figures.iter().map(|(name, figure)| format!("{name}: {figure}")).collect();
            let _ = writeln!(text, "{}: {{{}}}", scenario.name, figures.join(", "));
        }
        fs::write(FIGURES, text).unwrap();
    }
}
