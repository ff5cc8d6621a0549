//! What is shipped under `deploy/`, by the tools that will read it.

mod guide;
mod helm;
mod kubernetes;
mod overlay;
mod systemd;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

#[test]
#[ignore = "needs promtool: tests/run"]
fn prometheus_takes_the_scrape_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/prometheus.yml");
    let output = Command::new("promtool").args(["check", "config", file]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An address that nobody listens at.
fn unused() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
