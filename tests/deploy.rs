//! The files under `deploy/`, checked by the tools that read them.

mod helm;
mod kubernetes;
mod overlay;
mod release;
mod sidecar;
mod systemd;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// An address without a listener.
fn unused() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
