//! Testssl.sh against the listener.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::support::{Authority, TestEnv};

#[test]
#[ignore = "needs testssl: tests/run"]
fn testssl_finds_no_weakness() {
    let authority = Arc::new(Authority::new());
    let env = TestEnv::builder().tls(&authority).start();
    let report = env.gateway.directory().join("testssl.json");
    let status = Command::new("testssl")
        .args([
            "--protocols",
            "--standard",
            "--pfs",
            "--server-defaults",
            "--server-preference",
            "--vulnerable",
        ])
        .args(["--warnings", "off", "--quiet", "--color", "0", "--nodns", "none", "--ip", "127.0.0.1"])
        .arg("--add-ca")
        .arg(authority.ca_file())
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("localhost:{}", env.gateway.address().port()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&report)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&status.stdout)));
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let severity = |finding: &Value| finding["severity"].as_str().unwrap_or_default().to_owned();
    let id = |finding: &Value| finding["id"].as_str().unwrap_or_default().to_owned();
    // Findings about the certificate are due to the test's authority; WARN is due to this machine's OpenSSL.
    let found: Vec<_> = findings
        .iter()
        .filter(|finding| !matches!(&*severity(finding), "OK" | "INFO" | "LOW" | "WARN"))
        .filter(|finding| !id(finding).starts_with("cert_"))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    for (expected, text) in [
        ("TLS1_2", "offered"),
        ("TLS1_3", "offered with final"),
        ("SSLv3", "not offered"),
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("cert_chain_of_trust", "passed"),
        ("cert_trust", "Ok via SAN"),
        ("heartbleed", "not vulnerable"),
        ("secure_client_renego", "not vulnerable"),
        ("SWEET32", "not vulnerable"),
        ("LUCKY13", "not vulnerable"),
        ("cipher_order", "server"),
    ] {
        let finding = findings.iter().find(|finding| id(finding) == expected);
        let told = finding.and_then(|finding| finding["finding"].as_str()).unwrap_or("nothing");
        assert!(told.contains(text), "{expected}: {told}");
    }
}
