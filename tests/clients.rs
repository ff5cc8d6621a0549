//! Third-party clients: curl, httpx, websockets, Node.js and a browser, over TLS with an authority of the test, to a
//! third-party backend.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Authority, Browser, Introspector, Process, TestEnv};

const MAP: &str = "\
abilities:
  routes:
    /up:            {GET: public}
    /page:          {GET: public}
    /events:        {GET: public}
    /ws:            {GET: public}
    /api/v2/items:  {GET: items:read, POST: items:create, PUT: items:create, DELETE: deny}
    /api/v2/stream: {GET: items:read}
    /api/v2/ws:     {GET: items:create}
";

fn file(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn start() -> TestEnv<Process> {
    TestEnv::builder()
        .backend(Process::listening(Command::new("node").arg(file("tests/clients/backend.mjs"))))
        .introspector(Introspector::with_tokens([
            ("1|writer", &["items:read", "items:create"][..]),
            ("2|reader", &["items:read"]),
        ]))
        .tls(&Arc::new(Authority::new()))
        .yaml("log: {access: false}\n")
        .yaml(MAP)
        .start()
}

impl TestEnv<Process> {
    fn ca_file(&self) -> PathBuf {
        self.gateway.authority().ca_file()
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.gateway.address().port())
    }

    /// Runs curl: the response is on standard output, the protocol log on standard error.
    fn curl(&self, path: &str, arguments: &[&str]) -> (String, String) {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--verbose", "--max-time", "20", "--cacert"]);
        command.arg(self.ca_file()).args(arguments).arg(format!("{}{path}", self.url()));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (answer, talk) =
            (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr).into_owned());
        assert!(status.success(), "{talk}");
        (answer, talk)
    }
}

/// Runs a program that prints nothing on success.
fn succeeds(command: &mut Command) {
    let Output { status, stdout, stderr } = command.output().expect("tests/run installs this program");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && said.is_empty(), "{said}");
}

#[test]
#[ignore = "needs clients: tests/run"]
fn curl_reads_and_uploads_over_both_versions() {
    let env = start();
    let authorization = "Authorization: Bearer 1|writer";
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("upload");
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    std::fs::write(&upload, &body).unwrap();
    let upload = upload.to_str().unwrap();
    let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    for (version, line) in [("--http1.1", "HTTP/1.1 "), ("--http2", "HTTP/2 ")] {
        let (answer, talk) = env.curl("/api/v2/items?page=2", &[version, "-H", authorization]);
        let said: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(said["url"], "/api/v2/items?page=2");
        assert!(talk.contains(&format!("< {line}200")), "{talk}");
        let (answer, talk) = env.curl("/api/v2/items", &[version]);
        assert_eq!(answer, r#"{"message":"Unauthenticated."}"#);
        assert!(talk.contains(&format!("< {line}401")), "{talk}");
        // `Expect: 100-continue`, once accepted and once rejected.
        let asks = ["-H", "Expect: 100-continue", "--expect100-timeout", "15", "-T", upload, version];
        let (answer, talk) = env.curl("/api/v2/items", &[&asks[..], &["-H", authorization]].concat());
        let said: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((&said["length"], &said["sha256"]), (&body.len().into(), &(*hash).into()));
        // This version of curl does not wait for 100 over HTTP/2.
        assert!(talk.contains("< HTTP/1.1 100 ") == (version == "--http1.1"), "{talk}");
        let (answer, talk) = env.curl("/api/v2/items", &asks);
        assert_eq!(answer, r#"{"message":"Unauthenticated."}"#);
        assert!(!talk.contains("100 Continue"), "{talk}");
    }
    let (answer, _) = env.curl("/api/v2/stream", &["--http2", "--no-buffer", "-H", authorization]);
    assert_eq!(answer, "onetwothree");
}

#[test]
#[ignore = "needs clients: tests/run"]
fn python_httpx_and_websockets_work_through_the_gateway() {
    let env = start();
    let mut command = Command::new(file("target/python-clients/bin/python"));
    command.arg(file("tests/clients/clients.py")).arg(env.gateway.address().port().to_string());
    succeeds(command.arg(env.ca_file()));
    env.gateway.wait_for_metric("tunnels_open", 0.0);
}

#[test]
#[ignore = "needs clients: tests/run"]
fn node_fetch_reads_streams_and_uploads() {
    let env = start();
    let mut command = Command::new("node");
    command.arg(file("tests/clients/fetch.mjs")).arg(env.url());
    succeeds(command.env("NODE_EXTRA_CA_CERTS", env.ca_file()));
    env.gateway.wait_for_metric("client_connections{state=\"active\"}", 0.0);
}

#[test]
#[ignore = "needs browser: tests/run"]
fn browser_reads_event_streams_and_opens_websockets() {
    let env = start();
    let browser = Browser::trusting(env.gateway.authority());
    browser.command("POST", "/url", &json!({"url": format!("{}/page", env.url())}));
    assert_eq!(browser.command("GET", "/title", &Value::Null), "ready");

    let events = browser.run(
        "const events = new EventSource('/events');
         const came = await new Promise((done, failed) => {
             const came = [];
             events.onerror = () => failed('no events');
             events.addEventListener('tick', (event) => {
                 came.push([event.lastEventId, JSON.parse(event.data).number]);
                 if (came.length === 3) done(came);
             });
         });
         events.close();
         return came;",
    );
    assert_eq!(events, json!([["0", 0], ["1", 1], ["2", 2]]));

    let tunnel = browser.run(
        "const socket = new WebSocket(`wss://${location.host}/ws`);
         const next = () => new Promise((done, failed) => {
             socket.onmessage = (message) => done(message.data);
             socket.onclose = socket.onerror = () => failed('no tunnel');
         });
         await new Promise((done, failed) => { socket.onopen = done; socket.onerror = () => failed('not opened'); });
         const came = [];
         for (const text of ['hello', 'ü'.repeat(50000)]) {
             socket.send(text);
             came.push((await next()) === text);
         }
         const closed = new Promise((done) => (socket.onclose = done));
         socket.close(4001, 'enough');
         const { code, wasClean } = await closed;
         return [came, code, wasClean];",
    );
    assert_eq!(tunnel, json!([[true, true], 4001, true]));

    let streamed = browser.run(
        "const headers = { Authorization: 'Bearer 1|writer' };
         const answer = await fetch('/api/v2/stream', { headers });
         const [reader, decoder, came, began] = [answer.body.getReader(), new TextDecoder(), [], performance.now()];
         for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
             came.push(decoder.decode(piece.value));
         }
         const took = performance.now() - began;
         const spoken = performance.getEntriesByType('resource').map((it) => it.nextHopProtocol);
         const denied = await fetch('/api/v2/items', { method: 'DELETE', headers });
         return [answer.status, came, took > 400, spoken.every((it) => it === 'h2'), denied.status, (await fetch('/api/v2/items')).status];",
    );
    assert_eq!(streamed, json!([200, ["one", "two", "three"], true, true, 403, 401]));
}
