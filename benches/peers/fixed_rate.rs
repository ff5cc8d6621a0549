//! Latency of every proxy at a fixed rate: half of the maximum throughput of nginx.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::Result;
use crate::front::Front;
use crate::open_loop::{Latencies, Schedule, drive};
use crate::peer::{Cpu, Peer, PeerKind, TOKEN};
use crate::session::{Part, Session};
use crate::statistics::{median, ratio};

const CONNECTIONS: u32 = 64;

#[derive(Clone, Debug)]
struct Run {
    peer: PeerKind,
    round: u32,
    latencies: Latencies,
    cpu: Cpu,
}

impl Run {
    fn cpu_us(&self) -> f64 {
        (self.cpu.proxy + self.cpu.authorizer).as_secs_f64() * 1e6 / self.latencies.answered() as f64
    }

    fn percentile_ms(&self, percent: f64) -> f64 {
        self.latencies.percentile(percent) as f64 / 1e3
    }
}

pub(crate) fn measure(session: &Session) -> Result<Part> {
    let options = &session.options;
    let peers = session.start_peers("fixed-rate", &options.only, Front::Http1)?;
    let rate = match options.rate {
        Some(rate) => f64::from(rate),
        None => half_of_nginx(session)?,
    };
    eprintln!("fixed rate: {rate:.0} requests/s over {CONNECTIONS} connections");
    let duration = Duration::from_secs(options.seconds);
    let mut runs = Vec::new();
    session.rounds(&peers, |round, peer| {
        let request = request(peer);
        let schedule = Schedule {
            address: peer.address,
            request: request.as_bytes(),
            rate,
            connections: CONNECTIONS,
            duration,
        };
        let (latencies, cpu) = peer.during(|| drive(&schedule))?;
        let run = Run { peer: peer.kind, round, latencies, cpu };
        eprintln!(
            "fixed rate, round {}, {:<29} p99 {:>7.2} ms, {} answered",
            round + 1,
            run.peer,
            run.percentile_ms(99.0),
            run.latencies.answered()
        );
        runs.push(run);
        Ok(())
    })?;
    Ok(Part {
        name: "fixed-rate",
        table: table(&runs, &peers, rate, duration),
        runs: runs.iter().map(|run| raw(run, rate)).collect(),
        errors: runs.iter().map(|run| run.latencies.errors).sum(),
        versions: peers.into_iter().map(|peer| (peer.kind, peer.version)).collect(),
    })
}

/// Half of the median of the maximum throughput of nginx.
fn half_of_nginx(session: &Session) -> Result<f64> {
    let nginx = session.start_peers("fixed-rate-maximum", &[PeerKind::Nginx], Front::Http1)?;
    let mut rates = Vec::new();
    session.rounds(&nginx, |_, nginx| {
        rates.push(session.load.drive(nginx, CONNECTIONS)?.per_second());
        Ok(())
    })?;
    Ok(median(rates) / 2.0)
}

fn request(peer: &Peer) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nAccept: application/json\r\n\r\n",
        peer.target(),
        peer.address
    )
}

fn raw(run: &Run, rate: f64) -> serde_json::Value {
    json!({
        "peer": run.peer.to_string(),
        "rate": rate,
        "round": run.round,
        "answered": run.latencies.answered(),
        "errors": run.latencies.errors,
        "unsent": run.latencies.unsent,
        "p50_us": run.latencies.percentile(50.0),
        "p99_us": run.latencies.percentile(99.0),
        "p99.9_us": run.latencies.percentile(99.9),
        "proxy_cpu_us": run.cpu.proxy.as_micros() as u64,
        "authorizer_cpu_us": run.cpu.authorizer.as_micros() as u64,
    })
}

fn table(runs: &[Run], peers: &[Peer], rate: f64, duration: Duration) -> String {
    let mut table = format!(
        "At {rate:.0} requests/s over {CONNECTIONS} connections, HTTP/1.1:

| proxy | p50 ms | p99 ms | p99.9 ms | p99 × nginx | CPU µs/request | × nginx | answered/s | errors |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
"
    );
    let series = |peer: PeerKind, figure: &dyn Fn(&Run) -> f64| -> Vec<f64> {
        runs.iter().filter(|run| run.peer == peer).map(figure).collect()
    };
    for peer in peers.iter().map(|peer| peer.kind) {
        let middle = |figure: &dyn Fn(&Run) -> f64| median(series(peer, figure));
        let times =
            |figure: &dyn Fn(&Run) -> f64| ratio(&series(peer, figure), &series(PeerKind::Nginx, figure));
        let sum = |figure: &dyn Fn(&Run) -> f64| series(peer, figure).iter().sum::<f64>();
        let unsent = sum(&|run| run.latencies.unsent as f64);
        let overloaded = unsent > sum(&|run| run.latencies.answered() as f64) / 100.0;
        let _ = writeln!(
            table,
            "| {peer}{} | {:.2} | {:.2} | {:.2} | {} | {:.1} | {} | {:.0} | {} |",
            if overloaded { " (overloaded)" } else { "" },
            middle(&|run| run.percentile_ms(50.0)),
            middle(&|run| run.percentile_ms(99.0)),
            middle(&|run| run.percentile_ms(99.9)),
            times(&|run| run.percentile_ms(99.0)),
            middle(&Run::cpu_us),
            times(&Run::cpu_us),
            middle(&|run| run.latencies.answered() as f64 / duration.as_secs_f64()),
            sum(&|run| run.latencies.errors as f64),
        );
    }
    table
}
