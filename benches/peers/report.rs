//! The table, and the raw figures in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::Result;
use crate::front::Front;
use crate::load::Run;
use crate::peer::PeerKind;

/// Writes every run to `benches/results/peers-<seconds since 1970>.json`.
pub(crate) fn save(runs: &[Run], peers: &[(PeerKind, String)]) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    fs::create_dir_all(&directory)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = directory.join(format!("peers-{now}.json"));
    let machine = Machine::look();
    let raw = json!({
        "machine": {"cpu": machine.cpu, "cores": machine.cores, "kernel": machine.kernel},
        "peers": peers.iter().map(|(kind, version)| json!({"peer": kind.to_string(), "version": version}))
            .collect::<Vec<_>>(),
        "runs": runs.iter().map(|run| json!({
            "peer": run.peer.to_string(),
            "front": run.front.to_string(),
            "round": run.round,
            "connections": run.connections,
            "requests": run.requests,
            "errors": run.errors,
            "duration_us": run.duration_us,
            "cpu_us": run.cpu.as_micros(),
            "p50_us": run.p50_us,
            "p99_us": run.p99_us,
        })).collect::<Vec<_>>(),
    });
    fs::write(&path, serde_json::to_string_pretty(&raw)?)?;
    Ok(path)
}

/// Prints a Markdown table: medians over the rounds, and medians of the ratios within a round.
pub(crate) fn print(runs: &[Run], fronts: &[Front], connections: &[u32], peers: &[PeerKind]) {
    let machine = Machine::look();
    println!("\n{}, {} cores, Linux {}\n", machine.cpu, machine.cores, machine.kernel);
    println!(
        "| clients speak | connections | proxy              | CPU µs/request | × nginx | × haproxy | × relay |  p50 ms |  p99 ms | p99 × nginx | requests/s | errors |"
    );
    println!("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (front, connections) in fronts.iter().flat_map(|front| connections.iter().map(move |it| (front, it)))
    {
        for peer in peers.iter().filter(|peer| peer.speaks(*front)) {
            let row = Row { runs, front: *front, connections: *connections, peer: *peer };
            println!(
                "| {front:<13} | {connections:>11} | {peer:<18} | {:>14.2} | {:>7} | {:>9} | {:>7} | {:>7.2} | {:>7.2} | {:>11} | {:>10.0} | {:>6} |",
                row.median(Run::cpu_us),
                row.ratio(PeerKind::Nginx, Run::cpu_us),
                row.ratio(PeerKind::Haproxy, Run::cpu_us),
                row.ratio(PeerKind::Relay, Run::cpu_us),
                row.median(|run| run.p50_us as f64 / 1e3),
                row.median(|run| run.p99_us as f64 / 1e3),
                row.ratio(PeerKind::Nginx, |run| run.p99_us as f64),
                row.median(|run| run.requests as f64 * 1e6 / run.duration_us as f64),
                row.errors(),
            );
        }
    }
}

struct Row<'a> {
    runs: &'a [Run],
    front: Front,
    connections: u32,
    peer: PeerKind,
}

impl Row<'_> {
    /// The runs of `peer` at this row's connections, in the order of the rounds.
    fn of(&self, peer: PeerKind) -> impl Iterator<Item = &Run> {
        let (front, connections) = (self.front, self.connections);
        let is_one =
            move |run: &&Run| run.peer == peer && run.front == front && run.connections == connections;
        self.runs.iter().filter(is_one)
    }

    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.of(self.peer).map(figure).collect())
    }

    fn ratio(&self, to: PeerKind, figure: impl Fn(&Run) -> f64) -> String {
        let ratios: Vec<_> =
            self.of(self.peer).zip(self.of(to)).map(|(run, other)| figure(run) / figure(other)).collect();
        if ratios.is_empty() { "–".to_owned() } else { format!("{:.2}", median(ratios)) }
    }

    fn errors(&self) -> u64 {
        self.of(self.peer).map(|run| run.errors).sum()
    }
}

/// Of at least one figure.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
}

/// Where it was measured.
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
}

impl Machine {
    fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown CPU".to_owned(), |(_, model)| model.to_owned());
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}
