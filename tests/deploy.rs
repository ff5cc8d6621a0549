//! What is shipped under `deploy/`, by the tools that will read it.

mod helm;
mod kubernetes;
mod overlay;
mod release;
mod sidecar;
mod systemd;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// An address that nobody listens at.
fn unused() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
