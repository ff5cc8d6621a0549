//! Compares the shipped binary with other proxies on one machine.
//!
//! `cargo bench --bench peers` installs what is missing, starts a backend and the proxies on loopback, drives them in
//! turn, round after round, and prints a table per part:
//!
//! - `throughput`: maximum throughput, by wrk or h2load. The measure is CPU time per request: unlike
//!   requests per second it does not depend on how wrk, the backend and the proxy share the cores.
//! - `fixed-rate`: latency at half of the maximum throughput of nginx, by a client that does not wait for responses.
//! - `tokens` and `routes`: CPU time per request of the gateway as they grow in number.
//!
//! Ratios are taken within a round and their median is shown, so that a machine that slows down for a while slows both
//! sides of a ratio.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod backend;
mod fixed_rate;
mod front;
mod growth;
mod install;
mod load;
mod open_loop;
mod peer;
mod process;
mod proxies;
mod report;
mod session;
mod statistics;
mod throughput;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser as _;

use backend::Backend;
use front::{Front, Identity};
use growth::Grown;
use load::Load;
use peer::PeerKind;
use report::Machine;
use session::{Part, Session};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compare the gateway with other proxies: CPU per request and latency
#[derive(Debug, clap::Parser)]
pub(crate) struct Options {
    /// The gateway to measure; by default `target/image/stockaj-gateway`, which `deploy/build-static` builds
    #[arg(long, value_name = "PATH", env = "PEERS_GATEWAY")]
    gateway: Option<PathBuf>,
    /// The parts to measure, separated by commas
    #[arg(
        long,
        default_value = "throughput,fixed-rate,tokens,routes",
        value_delimiter = ',',
        env = "PEERS_PARTS"
    )]
    parts: Vec<PartName>,
    /// How often each proxy is driven at each number of connections
    #[arg(long, default_value_t = 5, env = "PEERS_ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 3, env = "PEERS_SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Client connections of `throughput`, separated by commas
    #[arg(long, default_value = "16,64,256", value_delimiter = ',', env = "PEERS_CONNECTIONS",
          value_parser = clap::value_parser!(u32).range(1..))]
    connections: Vec<u32>,
    /// The proxies to drive, separated by commas
    #[arg(
        long,
        default_value = "gateway,gateway-log,gateway-public,nginx,nginx-log,\
                         auth-request,nginx-decision,haproxy,relay,envoy-plain,envoy,\
                         envoy-decision,envoy-grpc-decision,caddy-plain,caddy,caddy-decision,\
                         traefik-plain,traefik,traefik-decision",
        value_delimiter = ',',
        env = "PEERS_ONLY"
    )]
    only: Vec<PeerKind>,
    /// The protocols of clients in `throughput`, separated by commas; over TLS it drives gateway, nginx and haproxy only
    #[arg(long, default_value = "http1,tls,http2", value_delimiter = ',', env = "PEERS_FRONTS")]
    fronts: Vec<Front>,
    /// Requests per second of `fixed-rate`; by default half of nginx's maximum
    #[arg(long, env = "PEERS_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Passed by `cargo bench` to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PartName {
    Throughput,
    FixedRate,
    Tokens,
    Routes,
}

fn main() -> ExitCode {
    match measure(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: Options) -> Result<()> {
    let interrupted = watch_signals()?;
    install::packages(&[
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("wrk", "wrk"),
        ("curl", "curl"),
        ("h2load", "nghttp2-client"),
    ])?;
    let gateway = options.gateway.clone().map_or_else(install::gateway, Ok)?;

    // Declared first, removed last: after the processes that write into it.
    let directory = tempfile::Builder::new().prefix("stockaj-gateway-peers-").tempdir()?;
    let session = Session {
        gateway,
        backend: Backend::start(directory.path())?,
        identity: Identity::write(directory.path())?,
        load: Load::prepare(directory.path(), Duration::from_secs(options.seconds))?,
        directory: directory.path().to_owned(),
        interrupted,
        options,
    };
    let machine = Machine::look();
    let mut parts = Vec::new();
    for name in &session.options.parts {
        parts.push(match name {
            PartName::Throughput => throughput::measure(&session)?,
            PartName::FixedRate => fixed_rate::measure(&session)?,
            PartName::Tokens => growth::measure(&session, Grown::Tokens)?,
            PartName::Routes => growth::measure(&session, Grown::Routes)?,
        });
    }
    let tables = report::tables(&parts, &machine);
    let path = report::save(&parts, &machine, &tables)?;
    println!("\n{tables}\nRaw figures: {}", path.display());
    refuse_errors(&parts)
}

/// A proxy that answers errors quickly must not win.
fn refuse_errors(parts: &[Part]) -> Result<()> {
    let errors: u64 = parts.iter().map(|part| part.errors).sum();
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
