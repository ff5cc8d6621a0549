//! Controls a real browser by the WebDriver protocol (W3C), and starts child processes that are killed with their test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::{Authority, PATIENCE, RawClient};

/// A child process, killed when dropped.
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child process that is killed when the test ends.
pub struct Process {
    _child: KillOnDrop,
    /// Kept open until the process ends, since writing to a closed pipe would kill it.
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Process {
    /// Starts the process with its output piped.
    ///
    /// # Panics
    /// If the program is not installed.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("tests/run installs this program");
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { _child: KillOnDrop(child), output, port: 0 }
    }

    /// Starts a server and waits for the first output line that ends with its port.
    pub fn listening(command: &mut Command) -> Self {
        let mut process = Self::start(command);
        let port = |line: String| line.trim_end_matches('.').rsplit(' ').next()?.parse().ok();
        let mut lines = process.output.by_ref().lines().map(Result::unwrap);
        process.port = lines.find_map(|line| port(line).filter(|port| *port != 0)).expect("a port");
        process
    }

    /// The port of a server started by [`Process::listening`].
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A chromium session.
pub struct Browser {
    _driver: Process,
    _profile: tempfile::TempDir,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// A browser that trusts none of the tests' certificates.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A browser that trusts only certificates of this authority.
    pub fn trusting(authority: &Authority) -> Self {
        let leaf = CertificateDer::from_pem_file(authority.certificate()).unwrap();
        let leaf = Certificate::from_der(&leaf).unwrap();
        let key = leaf.tbs_certificate().subject_public_key_info().to_der().unwrap();
        let trusted = STANDARD.encode(Sha256::digest(key));
        Self::with(&[format!("--ignore-certificate-errors-spki-list={trusted}")])
    }

    fn with(arguments: &[String]) -> Self {
        let driver = Process::listening(Command::new("chromedriver").arg("--port=0"));
        let address = SocketAddr::from(([127, 0, 0, 1], driver.port()));
        let profile = tempfile::tempdir().unwrap();
        let profile_argument = format!("--user-data-dir={}", profile.path().display());
        let always = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &profile_argument,
        ];
        let mut browser = Self { _driver: driver, _profile: profile, address, session: String::new() };
        let arguments: Vec<&str> = always.into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let capabilities = json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}});
        let session = browser.command("POST", "", &json!({"capabilities": {"alwaysMatch": capabilities}}));
        browser.session = format!("/{}", session["sessionId"].as_str().unwrap());
        browser.command("POST", "/timeouts", &json!({"script": 20_000}));
        browser
    }

    /// Sends a WebDriver command and returns its value.
    pub fn command(&self, method: &str, path: &str, parameters: &Value) -> Value {
        let fields = [("Host", "localhost"), ("Content-Type", "application/json"), ("Connection", "close")];
        let body = if method == "POST" { parameters.to_string() } else { String::new() };
        let mut client = RawClient::connect(self.address).patience(Duration::from_secs(30));
        let target = format!("/session{}{path}", self.session);
        let response = client.request(method, &target, &fields, body.as_bytes());
        assert_eq!(response.status, 200, "{method} {target}: {}", response.text());
        response.json()["value"].clone()
    }

    /// Navigates to a page.
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": url}));
    }

    /// Returns the value that an asynchronous script passes to its callback.
    pub fn run(&self, script: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1];\n\
             (async () => {{ {script} }})().then(done, (error) => done(`failed: ${{error}}`));"
        );
        self.command("POST", "/execute/async", &json!({"script": script, "args": []}))
    }

    /// The faults of the open page in light and dark mode: console errors, loaded resources, missing structure for
    /// screen readers, and insufficient contrast (WCAG 2.2, 1.4.3).
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for scheme in ["light", "dark"] {
            let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            self.devtools("Emulation.setEmulatedMedia", &media);
            let found = self.run(include_str!("page_faults.js"));
            let found = found.as_array().unwrap_or_else(|| panic!("{found}"));
            faults.extend(found.iter().map(|it| format!("{scheme}: {it}")));
        }
        faults.extend(self.log("browser").iter().map(|it| it["message"].to_string()));
        faults
    }

    /// Sends a DevTools protocol command.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Emulates a medium (`screen` or `print`), a colour scheme (`light` or `dark`) and a width in pixels.
    pub fn show_on(&self, media: &str, scheme: &str, width: u32) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"media": media, "features": features}));
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// The entries of a log since the last call; `browser` names the console.
    fn log(&self, kind: &str) -> Vec<Value> {
        self.command("POST", "/se/log", &json!({ "type": kind })).as_array().unwrap().clone()
    }

    /// The URLs requested since the last call, without those of chromium's start page.
    pub fn requests(&self) -> Vec<String> {
        let events = self.log("performance").into_iter().map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()["message"].clone()
        });
        let sent = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        let urls = sent.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned());
        urls.filter(|url| !url.starts_with("chrome:") && !url.starts_with("data:")).collect()
    }

    /// Waits for a page with this title.
    pub fn wait_for_title(&self, title: &str) {
        let end = Instant::now() + PATIENCE;
        while self.command("GET", "/title", &Value::Null) != title {
            assert!(Instant::now() < end, "no page `{title}`");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses and releases the key of a character, such as Tab.
    pub fn press(&self, key: &str) {
        let press = |kind| json!({"type": kind, "value": key});
        let actions =
            json!([{"type": "key", "id": "keyboard", "actions": [press("keyDown"), press("keyUp")]}]);
        self.command("POST", "/actions", &json!({ "actions": actions }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.command("DELETE", "", &Value::Null);
        }
    }
}
