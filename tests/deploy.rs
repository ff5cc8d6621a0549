//! What is shipped under `deploy/`, by the tools that will read it.

mod kubernetes;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::BINARY;

#[test]
#[ignore = "needs promtool: tests/run"]
fn prometheus_takes_the_scrape_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/prometheus.yml");
    let output = Command::new("promtool").args(["check", "config", file]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn systemd_takes_the_units() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let file = entry.unwrap();
        // Where the program is, the unit is told.
        let text = fs::read_to_string(file.path()).unwrap().replace("/usr/local/bin/stockaj-gateway", BINARY);
        fs::write(directory.path().join(file.file_name()), text).unwrap();
    }
    let units = ["stockaj-gateway.socket", "stockaj-gateway-admin.socket", "stockaj-gateway@a.service"];
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(units.map(|unit| directory.path().join(unit)));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
