//! Free ports for programs that cannot report the one that the system chose.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first port, below the range of ports for outgoing connections (32768 and up): a connection of another test cannot
/// take a port before the program has bound it.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A loopback address on which nothing listens. No two calls in this process return the same one.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (first + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
    }
    panic!("no port is free from {FIRST} on");
}
