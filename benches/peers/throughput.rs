//! CPU time per request and latency of every proxy at its maximum throughput.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::Result;
use crate::front::Front;
use crate::load::Measured;
use crate::peer::{Cpu, PeerKind};
use crate::session::{Part, Session};
use crate::statistics::{difference, median, ratio};

/// One run of one proxy.
#[derive(Clone, Copy, Debug)]
struct Run {
    peer: PeerKind,
    front: Front,
    round: u32,
    connections: u32,
    measured: Measured,
    cpu: Cpu,
}

impl Run {
    /// CPU time per request in microseconds: of the proxy, and of its authorizer.
    fn cpu_us(&self) -> f64 {
        self.per_request(self.cpu.proxy + self.cpu.authorizer)
    }

    fn authorizer_us(&self) -> f64 {
        self.per_request(self.cpu.authorizer)
    }

    fn per_request(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.measured.requests as f64
    }
}

pub(crate) fn measure(session: &Session) -> Result<Part> {
    let options = &session.options;
    let mut runs = Vec::new();
    let mut versions = Vec::new();
    for front in &options.fronts {
        let peers = session.start_peers("throughput", &options.only, *front)?;
        for connections in &options.connections {
            session.rounds(&peers, |round, peer| {
                let (measured, cpu) = peer.during(|| session.load.drive(peer, *connections))?;
                let run =
                    Run { peer: peer.kind, front: *front, round, connections: *connections, measured, cpu };
                eprintln!(
                    "{front:<13}, round {}, {connections:>3} connections, {:<29} {:>6.2} µs/request, {} requests",
                    round + 1,
                    run.peer,
                    run.cpu_us(),
                    measured.requests
                );
                runs.push(run);
                Ok(())
            })?;
        }
        versions.extend(peers.into_iter().map(|peer| (peer.kind, peer.version)));
    }
    Ok(Part {
        name: "throughput",
        table: table(&runs, session),
        runs: runs.iter().map(raw).collect(),
        errors: runs.iter().map(|run| run.measured.errors).sum(),
        versions,
    })
}

fn raw(run: &Run) -> serde_json::Value {
    json!({
        "peer": run.peer.to_string(),
        "front": run.front.to_string(),
        "round": run.round,
        "connections": run.connections,
        "measured": run.measured,
        "proxy_cpu_us": run.cpu.proxy.as_micros() as u64,
        "authorizer_cpu_us": run.cpu.authorizer.as_micros() as u64,
    })
}

fn table(runs: &[Run], session: &Session) -> String {
    let options = &session.options;
    let mut table = "\
| clients speak | connections | proxy | CPU µs/request | of it authorizer | more than no check | × nginx | × nginx, access log | × haproxy | × relay | × public route | p50 ms | p99 ms | p99 × nginx | requests/s | errors |
|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
"
    .to_owned();
    for front in &options.fronts {
        for connections in &options.connections {
            let series = |peer: PeerKind, figure: &dyn Fn(&Run) -> f64| -> Vec<f64> {
                let is_one =
                    |run: &&Run| run.peer == peer && run.front == *front && run.connections == *connections;
                runs.iter().filter(is_one).map(figure).collect()
            };
            for peer in options.only.iter().filter(|peer| peer.speaks(*front)) {
                let middle = |figure: &dyn Fn(&Run) -> f64| median(series(*peer, figure));
                let cpu = series(*peer, &Run::cpu_us);
                let times = |other| ratio(&cpu, &series(other, &Run::cpu_us));
                let p99 = |run: &Run| run.measured.p99_us as f64 / 1e3;
                let authorizer = middle(&Run::authorizer_us);
                let authorizer = if authorizer > 0.0 { format!("{authorizer:.1}") } else { "–".to_owned() };
                let check = peer.without_check().map(|plain| difference(&cpu, &series(plain, &Run::cpu_us)));
                let check = check.unwrap_or_else(|| "–".to_owned());
                let _ = writeln!(
                    table,
                    "| {front} | {connections} | {peer} | {:.1} | {authorizer} | {check} | {} | {} | {} | {} | {} | {:.2} | {:.2} | {} | {:.0} | {} |",
                    middle(&Run::cpu_us),
                    times(PeerKind::Nginx),
                    times(PeerKind::NginxLog),
                    times(PeerKind::Haproxy),
                    times(PeerKind::Relay),
                    times(PeerKind::GatewayPublic),
                    middle(&|run| run.measured.p50_us as f64 / 1e3),
                    middle(&p99),
                    ratio(&series(*peer, &p99), &series(PeerKind::Nginx, &p99)),
                    middle(&|run| run.measured.per_second()),
                    series(*peer, &|run| run.measured.errors as f64).iter().sum::<f64>(),
                );
            }
        }
    }
    table
}
