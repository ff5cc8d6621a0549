//! The gateway beside what a user would pick instead, on one machine: nginx, nginx with `auth_request`,
//! haproxy and an haproxy TCP relay; in front of them plain HTTP/1.1, HTTP/1.1 over TLS and HTTP/2 over TLS.
//!
//! `cargo bench --bench peers` installs what is missing, starts a backend and the proxies on loopback,
//! drives them in turn with wrk or h2load, round after round, and prints one table. The measure is CPU time of the
//! proxy per request: unlike throughput it does not depend on how wrk, the backend and the proxy share the
//! cores. Ratios are taken within a round and their median is shown, so that a machine that slows down
//! for a while slows both sides of a ratio.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod front;
mod load;
mod peer;
mod process;
mod report;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser as _;

use front::{Front, Identity};
use load::{Load, Run};
use peer::{Backend, Peer, PeerKind};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compare the gateway with nginx and haproxy: CPU per request and latency
#[derive(Debug, clap::Parser)]
struct Options {
    /// How often each proxy is driven at each number of connections
    #[arg(long, default_value_t = 5, env = "PEERS_ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 3, env = "PEERS_SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Client connections, separated by commas
    #[arg(long, default_value = "16,64,256", value_delimiter = ',', env = "PEERS_CONNECTIONS",
          value_parser = clap::value_parser!(u32).range(1..))]
    connections: Vec<u32>,
    /// The proxies to drive, separated by commas
    #[arg(
        long,
        default_value = "gateway,nginx,haproxy,auth-request,relay",
        value_delimiter = ',',
        env = "PEERS_ONLY"
    )]
    only: Vec<PeerKind>,
    /// What clients speak, separated by commas; over TLS only gateway, nginx and haproxy are driven
    #[arg(long, default_value = "http1,tls,http2", value_delimiter = ',', env = "PEERS_FRONTS")]
    fronts: Vec<Front>,
    /// Passed by `cargo bench` to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let interrupted = watch_signals()?;
    process::install(&[
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("wrk", "wrk"),
        ("curl", "curl"),
        ("h2load", "nghttp2-client"),
    ])?;

    // Declared first, removed last: after the processes that write into it.
    let directory = tempfile::Builder::new().prefix("stockaj-gateway-peers-").tempdir()?;
    let backend = Backend::start(directory.path())?;
    let load = Load::prepare(directory.path(), Duration::from_secs(options.seconds))?;
    let identity = Identity::write(directory.path())?;
    let mut runs = Vec::new();
    let mut driven = Vec::new();
    for front in &options.fronts {
        let kinds = options.only.iter().filter(|kind| kind.speaks(*front));
        let peers = kinds
            .map(|kind| Peer::start(*kind, *front, &backend, &identity, directory.path()))
            .collect::<Result<Vec<_>>>()?;
        for peer in &peers {
            load.probe(peer)?;
            load.warm_up(peer)?;
        }
        for round in 0..options.rounds {
            for connections in &options.connections {
                // Each goes first in its turn.
                let first = round as usize % peers.len().max(1);
                for place in 0..peers.len() {
                    if interrupted.load(Ordering::Relaxed) {
                        return Err("interrupted".into());
                    }
                    let peer = &peers[(first + place) % peers.len()];
                    let run = load.drive(peer, round, *connections)?;
                    eprintln!("{run}");
                    runs.push(run);
                }
            }
        }
        driven.extend(peers.into_iter().map(|peer| (peer.kind, peer.version)));
    }
    let path = report::save(&runs, &driven)?;
    report::print(&runs, &options.fronts, &options.connections, &options.only);
    println!("\nRaw figures: {}", path.display());
    refuse_errors(&runs)
}

/// A proxy that answers errors quickly must not win.
fn refuse_errors(runs: &[Run]) -> Result<()> {
    let errors: u64 = runs.iter().map(|run| run.errors).sum();
    if errors == 0 {
        Ok(())
    } else {
        Err(format!("{errors} requests failed or were answered with an error").into())
    }
}

/// Notes SIGINT and SIGTERM, so that `measure` returns and what it started is ended.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let seen = Arc::clone(&interrupted);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        seen.store(true, Ordering::Relaxed);
    });
    Ok(interrupted)
}
