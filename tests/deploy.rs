//! What is shipped under `deploy/`, by the tools that will read it.

mod guide;
mod helm;
mod kubernetes;
mod systemd;

use std::process::Command;

#[test]
#[ignore = "needs promtool: tests/run"]
fn prometheus_takes_the_scrape_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/prometheus.yml");
    let output = Command::new("promtool").args(["check", "config", file]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
