//! A real authorization server (oidc-provider) as introspector: audience, issuer, client and token type by RFC 7662.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::support::{BINARY, Gateway, RawClient, Upstream};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The path where tests/install installs it.
const PROVIDER: &str = "target/oidc-provider/node_modules/oidc-provider/lib/index.js";
/// The audience of the gateway under test.
const API: &str = "https://api.example/v2";
const ITEMS: &str = "/api/v2/items";

/// The authorization server; killed when dropped.
struct AuthorizationServer {
    process: Child,
    issuer: String,
}

impl AuthorizationServer {
    fn start() -> Self {
        let mut command = Command::new("node");
        command.arg(format!("{ROOT}/tests/oauth/server.mjs")).arg(format!("{ROOT}/{PROVIDER}"));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.lines().map(Result::unwrap);
        let issuer = lines.find(|line| line.starts_with("http://127.0.0.1:")).unwrap();
        // It logs to standard output, too.
        thread::spawn(move || lines.for_each(drop));
        Self { process, issuer }
    }

    fn address(&self) -> SocketAddr {
        self.issuer.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Posts a form with the credentials of a client.
    fn post(&self, client: &str, path: &str, form: &str) -> serde_json::Value {
        let credentials = BASE64_STANDARD.encode(format!("{client}:the-secret-of-{client}"));
        let fields = [
            ("Authorization", &*format!("Basic {credentials}")),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        let response = RawClient::connect(self.address()).request("POST", path, &fields, form.as_bytes());
        assert_eq!(response.status, 200, "{path} {form}: {}", response.text());
        if response.text().is_empty() { serde_json::Value::Null } else { response.json() }
    }

    /// A token of `client` with the ability `items:read`. `resource` is its audience.
    fn token(&self, client: &str, resource: &str) -> String {
        let form = format!("grant_type=client_credentials&scope=items:read&resource={resource}");
        self.post(client, "/token", &form)["access_token"].as_str().unwrap().to_owned()
    }

    /// A gateway that introspects here with these further lines in `introspection`.
    fn gateway(&self, prefix: &str, lines: &str) -> (Gateway, Upstream) {
        let backend = Upstream::start();
        let yaml = format!(
            "introspection:\n  url: {}{prefix}/token/introspection\n  style: rfc7662\n  client_id: gateway\n  \
             client_secret: the-secret-of-gateway\n{lines}cache: {{negative_ttl: 300ms, ttl: 500ms}}\n",
            self.issuer
        );
        (Gateway::builder().backend(&backend).yaml(&yaml).start(), backend)
    }
}

impl Drop for AuthorizationServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until requests with the token get this status.
fn wait_for_status(gateway: &Gateway, token: &str, status: u16) {
    let end = Instant::now() + Duration::from_secs(10);
    while gateway.get(ITEMS, Some(token)).status != status {
        assert!(Instant::now() < end, "not {status} in time");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs oauth: tests/run"]
fn tokens_of_a_real_authorization_server_pass_only_for_this_api() {
    let server = AuthorizationServer::start();
    let ours = server.token("sync", API);
    let of_another_api = server.token("sync", "https://payroll.example");
    let of_no_api = server.token("sync", "");
    let of_another_client = server.token("early", API);
    let issuer = &server.issuer;
    let all = format!("{{aud: '{API}', iss: '{issuer}', token_type: bearer, client_id: [brief, sync]}}");
    let expectations = [
        (all.as_str(), &ours, None),
        (&all, &of_another_api, Some(("aud", API))),
        (&all, &of_no_api, Some(("aud", API))),
        (&all, &of_another_client, Some(("client_id", "brief or sync"))),
        ("{aud: ['https://other.example', 'https://api.example/v2']}", &ours, None),
        ("{aud: 'https://api.example/'}", &ours, Some(("aud", "https://api.example/"))),
        ("{iss: 'https://issuer.example'}", &ours, Some(("iss", "https://issuer.example"))),
        ("{token_type: DPoP}", &ours, Some(("token_type", "DPoP"))),
        ("{client_id: [sync]}", &of_another_api, None),
    ];
    for (expect, token, mismatch) in expectations {
        let (gateway, backend) = server.gateway("", &format!("  expect: {expect}\n"));
        let response = gateway.get(ITEMS, Some(token));
        let expected = if mismatch.is_some() { 401 } else { 200 };
        assert_eq!(response.status, expected, "{expect}: {}", response.text());
        assert_eq!(backend.requests().len(), usize::from(mismatch.is_none()), "{expect}");
        let line = gateway.wait_for_log(|line| line["message"] == "request");
        if let Some((claim, value)) = mismatch {
            let challenge = r#"Bearer realm="stockaj", error="invalid_token""#;
            assert_eq!(response.field("www-authenticate"), Some(challenge));
            assert_eq!(line["reason"], "unexpected_claim", "{line}");
            assert_eq!((&line["claim"], &line["expected"]), (&claim.into(), &value.into()), "{line}");
        } else {
            assert_eq!(line["reason"], "allowed", "{line}");
        }
        assert!(gateway.logs().iter().all(|line| !line.contains(token.as_str())));
    }
}

#[test]
#[ignore = "needs oauth: tests/run"]
fn revoked_expired_and_early_tokens_of_a_real_authorization_server_are_refused() {
    let server = AuthorizationServer::start();
    let (gateway, backend) = server.gateway("", &format!("  expect: {{aud: '{API}'}}\n"));
    let brief = server.token("brief", API);
    let early = server.token("early", API);
    let status = |token: &str| gateway.get(ITEMS, Some(token)).status;
    assert_eq!((status(&brief), status(&early)), (200, 401));
    let line = gateway.wait_for_log(|line| line["status"] == 401);
    assert_eq!(line["reason"], "not_yet_valid", "{line}");

    let ours = server.token("sync", API);
    assert_eq!(status(&ours), 200);
    server.post("sync", "/token/revocation", &format!("token={ours}"));
    wait_for_status(&gateway, &ours, 401);
    wait_for_status(&gateway, &brief, 401);
    wait_for_status(&gateway, &early, 200);
    assert!(gateway.metrics().metric("requests_total{reason=\"not_yet_valid\"}") >= 1.0);
    assert!(gateway.metrics().metric("requests_total{reason=\"inactive_token\"}") >= 1.0);
    let authorized = |request: &crate::support::Request| request.bearer().is_some();
    assert!(backend.requests().iter().all(authorized));
}

#[test]
#[ignore = "needs oauth: tests/run"]
fn signed_introspection_responses_of_a_real_authorization_server_are_no_verdict() {
    let server = AuthorizationServer::start();
    let (gateway, backend) = server.gateway("/signed", &format!("  expect: {{aud: '{API}'}}\n"));
    let ours = server.token("sync", API);
    assert_eq!(gateway.get(ITEMS, Some(&ours)).status, 503);
    let line = gateway.wait_for_log(|line| line["message"] == "introspection gave no verdict");
    assert!(line["error"].as_str().unwrap().contains("RFC 9701"), "{line}");
    assert_eq!(backend.requests().len(), 0);

    let check = |gateway: &Gateway| {
        let mut command = Command::new(BINARY);
        command
            .args(["check", "--online", "--strict", "--config"])
            .arg(gateway.directory().join("gateway.yaml"));
        let output = command.env("STOCKAJ_GATEWAY_TOKEN", &ours).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = check(&gateway);
    assert!(code == Some(1) && text.contains("RFC 9701"), "{text}");
    assert!(text.contains("without a signature"), "{text}");
    let (unsigned, _backend) = server.gateway("", &format!("  expect: {{aud: '{API}'}}\n"));
    assert_eq!(check(&unsigned).0, Some(0), "{}", check(&unsigned).1);
    let (other, _backend) = server.gateway("", "  expect: {aud: 'https://other.example'}\n");
    let (code, text) = check(&other);
    assert!(code == Some(1) && text.contains("aud is \"https://api.example/v2\", expected"), "{text}");
}
