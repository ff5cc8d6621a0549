//! Measures the memory of stalled connections: `cargo bench --bench memory`.
//!
//! Stalls connections of each kind against the built binary, and prints its memory for them and the rest after they
//! were closed. Only the resident memory of the gateway counts, not the socket buffers of the kernel. Arguments select
//! phases by name. `MEMORY_CONNECTIONS` is the number of connections; HTTP/2 uses a fiftieth of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(unreachable_pub)]

#[path = "../tests/support/mod.rs"]
mod support;

use support::stalled::{Phase, STREAMS, measure};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` also runs it.
    let default = if arguments.iter().any(|argument| argument == "--bench") { 1000 } else { 20 };
    let connections = std::env::var("MEMORY_CONNECTIONS").map_or(default, |number| number.parse().unwrap());
    let only: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    println!("| phase | connections | KiB each | KiB per stream | MiB together | MiB after closing |");
    println!("|---|---:|---:|---:|---:|---:|");
    for phase in Phase::ALL {
        let name = format!("{phase:?}");
        if !only.is_empty() && !only.iter().any(|wanted| **wanted == name) {
            continue;
        }
        let connections = if phase.is_http2() { usize::div_ceil(connections, 50) } else { connections };
        let cost = measure(phase, connections);
        let each = kibibytes(cost.stalled) / connections as f64;
        let per_stream =
            if phase.is_http2() { format!("{:.1}", each / STREAMS as f64) } else { "–".to_owned() };
        println!(
            "| {name} | {connections} | {each:.1} | {per_stream} | {:.1} | {:.1} |",
            kibibytes(cost.stalled) / 1024.0,
            kibibytes(cost.closed) / 1024.0
        );
    }
}

fn kibibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
