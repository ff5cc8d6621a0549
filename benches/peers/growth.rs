//! CPU time per request of the gateway as tokens or routes grow in number: each is requested in turn.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::front::Front;
use crate::load::{Measured, write_script};
use crate::peer::TOKEN;
use crate::process::{self, Server};
use crate::proxies::{Place, gateway};
use crate::session::{Part, Session};
use crate::statistics::{median, ratio};
use crate::{Result, install};

const CONNECTIONS: u32 = 64;

/// The dimension that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grown {
    /// Cached tokens.
    Tokens,
    /// Routes in the ability map.
    Routes,
}

impl Grown {
    const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Routes => "routes",
        }
    }

    /// The sizes that are compared with the first one.
    const fn sizes(self) -> &'static [u32] {
        match self {
            Self::Tokens => &[10, 100, 1_000, 10_000, 100_000],
            Self::Routes => &[10, 100, 1_000, 10_000],
        }
    }

    /// Sections of the gateway's configuration.
    fn configuration(self, size: u32) -> Value {
        let abilities = match self {
            Self::Tokens => json!({"file": install::root().join("config/stockaj.yaml")}),
            Self::Routes => {
                let routes = (1..=size).map(|number| {
                    (format!("/api/v2/resource-{number}/{{id}}"), json!({"GET": "items:read"}))
                });
                json!({"routes": routes.collect::<serde_json::Map<_, _>>()})
            }
        };
        json!({
            "abilities": abilities,
            "log": {"level": "warn", "access": false},
            // Large enough for all, without expiry during the comparison.
            "cache": {"ttl": "4h", "max_tokens": 200_000, "max_bytes": "512MiB"},
        })
    }

    /// Lua code for wrk that sends the requests round-robin; they are built in advance.
    fn script(self, size: u32) -> String {
        let secret = TOKEN.split_once('|').map_or(TOKEN, |(_, secret)| secret);
        let (path, token) = match self {
            Self::Tokens => ("'/api/v2/items'".to_owned(), format!("number .. '|{secret}'")),
            Self::Routes => ("'/api/v2/resource-' .. number .. '/5'".to_owned(), format!("'{TOKEN}'")),
        };
        format!(
            "local requests, last = {{}}, 0
             init = function()
                for number = 1, {size} do
                   requests[number] = 'GET ' .. {path} .. ' HTTP/1.1\\r\\nHost: localhost\\r\\n' ..
                      'Accept: application/json\\r\\nAuthorization: Bearer ' .. {token} .. '\\r\\n\\r\\n'
                end
             end
             request = function()
                last = last % {size} + 1
                return requests[last]
             end
            "
        )
    }
}

/// A gateway with `size` tokens or routes.
struct Subject {
    size: u32,
    address: SocketAddr,
    script: PathBuf,
    server: Server,
}

struct Run {
    size: u32,
    round: u32,
    measured: Measured,
    cpu: Duration,
}

impl Run {
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.measured.requests as f64
    }
}

pub(crate) fn measure(session: &Session, grown: Grown) -> Result<Part> {
    let name = grown.name();
    let subjects =
        grown.sizes().iter().map(|size| start(session, grown, *size)).collect::<Result<Vec<_>>>()?;
    let mut runs = Vec::new();
    session.rounds(&subjects, |round, subject| {
        let before = subject.server.cpu_time()?;
        let url = format!("http://{}/", subject.address);
        let measured = session.load.drive_script(&url, CONNECTIONS, &subject.script)?;
        let cpu = subject.server.cpu_time()?.saturating_sub(before);
        let run = Run { size: subject.size, round, measured, cpu };
        eprintln!("{:>6} {name}, round {}, {:.2} µs/request", run.size, round + 1, run.cpu_us());
        runs.push(run);
        Ok(())
    })?;
    Ok(Part {
        name,
        table: table(&runs, grown),
        runs: runs.iter().map(raw).collect(),
        errors: runs.iter().map(|run| run.measured.errors).sum(),
        versions: Vec::new(),
    })
}

fn start(session: &Session, grown: Grown, size: u32) -> Result<Subject> {
    let directory = session.directory.join(format!("{}-{size}", grown.name()));
    fs::create_dir(&directory)?;
    let address = process::free_address()?;
    let backend = session.backend.address;
    let place = Place { address, backend, front: Front::Http1, tls: None, directory: &directory };
    let server = gateway::start_with("gateway", &session.gateway, &place, grown.configuration(size))?;
    let script = write_script(&directory, "requests.lua", &grown.script(size))?;
    let subject = Subject { size, address, script, server };
    // Each at least once, so that everything is cached.
    let url = format!("http://{address}/");
    for seconds in [1, 5, 20, 60] {
        let measured = session.load.wrk(&url, CONNECTIONS, Duration::from_secs(seconds), &subject.script)?;
        if measured.errors > 0 {
            return Err(format!("{size} {}: {} errors", grown.name(), measured.errors).into());
        }
        if measured.requests > 2 * u64::from(size) {
            return Ok(subject);
        }
    }
    Err(format!("{size} {} take more than 60 s to warm up", grown.name()).into())
}

fn raw(run: &Run) -> Value {
    json!({
        "size": run.size,
        "round": run.round,
        "measured": run.measured,
        "cpu_us": run.cpu.as_micros() as u64,
    })
}

fn table(runs: &[Run], grown: Grown) -> String {
    let mut table = format!(
        "| {} | CPU µs/request | × {} | requests/s | errors |\n|---:|---:|---:|---:|---:|\n",
        grown.name(),
        grown.sizes()[0]
    );
    let series = |size: u32, figure: &dyn Fn(&Run) -> f64| -> Vec<f64> {
        runs.iter().filter(|run| run.size == size).map(figure).collect()
    };
    for size in grown.sizes() {
        let cpu = series(*size, &Run::cpu_us);
        let _ = writeln!(
            table,
            "| {size} | {:.1} | {} | {:.0} | {} |",
            median(cpu.clone()),
            ratio(&cpu, &series(grown.sizes()[0], &Run::cpu_us)),
            median(series(*size, &|run| run.measured.per_second())),
            series(*size, &|run| run.measured.errors as f64).iter().sum::<f64>(),
        );
    }
    table
}
