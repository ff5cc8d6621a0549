//! wrk and h2load, and what a run of them measured.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::Result;
use crate::front::Front;
use crate::peer::{BACKEND_BODY, Peer, PeerKind, TOKEN};
use crate::process;

/// wrk rounds what it prints for people; this is what it knows. It runs once, after the load.
const SCRIPT: &str = r#"
done = function(summary, latency)
   local e = summary.errors
   io.write(string.format(
      'RESULT {"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d}\n',
      summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
"#;

/// How every peer is driven.
#[derive(Debug)]
pub(crate) struct Load {
    wrk: PathBuf,
    h2load: PathBuf,
    script: PathBuf,
    /// Where h2load writes a line a request.
    log: PathBuf,
    duration: Duration,
}

/// Streams that an HTTP/2 client has open at a time on each connection.
const STREAMS: u32 = 10;

/// What one peer did in one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) peer: PeerKind,
    pub(crate) front: Front,
    pub(crate) round: u32,
    pub(crate) connections: u32,
    pub(crate) requests: u64,
    /// Answers above 399, and what failed on the way.
    pub(crate) errors: u64,
    pub(crate) duration_us: u64,
    pub(crate) cpu: Duration,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Run {
    /// Microseconds of the proxy's CPU per request.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<13}, round {}, {:>3} connections, {:<18} {:>6.2} µs/request, {} requests",
            self.front,
            self.round + 1,
            self.connections,
            self.peer,
            self.cpu_us(),
            self.requests
        )
    }
}

impl Load {
    pub(crate) fn prepare(directory: &Path, duration: Duration) -> Result<Self> {
        let script = directory.join("result.lua");
        fs::write(&script, SCRIPT)?;
        let log = directory.join("h2load.log");
        Ok(Self { wrk: process::find("wrk")?, h2load: process::find("h2load")?, script, log, duration })
    }

    /// Fills pools and caches.
    pub(crate) fn warm_up(&self, peer: &Peer) -> Result<()> {
        self.run(peer, 64, Duration::from_secs(1)).map(drop)
    }

    /// One run.
    pub(crate) fn drive(&self, peer: &Peer, round: u32, connections: u32) -> Result<Run> {
        let before = peer.server.cpu_time()?;
        let result = self.run(peer, connections, self.duration)?;
        let cpu = peer.server.cpu_time()?.saturating_sub(before);
        let figure =
            |name: &str| result[name].as_u64().ok_or_else(|| format!("wrk told no {name}: {result}"));
        Ok(Run {
            peer: peer.kind,
            front: peer.front,
            round,
            connections,
            requests: figure("requests")?,
            errors: figure("errors")?,
            duration_us: figure("duration_us")?,
            cpu,
            p50_us: figure("p50_us")?,
            p99_us: figure("p99_us")?,
        })
    }

    /// One request whose answer must be the backend's.
    pub(crate) fn probe(&self, peer: &Peer) -> Result<()> {
        let version = if peer.front == Front::Http2 { "--http2" } else { "--http1.1" };
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--max-time", "5", version])
            .args(["--write-out", "%{http_code} %{http_version}"])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .arg(peer.url())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let expected = if peer.front == Front::Http2 { "200 2" } else { "200 1.1" };
        if said == format!("{BACKEND_BODY}{expected}") {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} answers the first request with:\n{said}{errors}", peer.kind).into())
    }

    fn run(&self, peer: &Peer, connections: u32, duration: Duration) -> Result<Value> {
        match peer.front {
            Front::Http1 | Front::Tls => self.wrk(peer, connections, duration),
            Front::Http2 => self.h2load(peer, connections, duration),
        }
    }

    fn h2load(&self, peer: &Peer, connections: u32, duration: Duration) -> Result<Value> {
        let _ = fs::remove_file(&self.log);
        let output = Command::new(&self.h2load)
            .args(["--threads", "1", "--max-concurrent-streams", &STREAMS.to_string()])
            .args(["--clients", &connections.to_string()])
            .args(["--duration", &duration.as_secs().to_string()])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--header", "Accept: application/json"])
            .arg(format!("--log-file={}", self.log.display()))
            .arg(peer.url())
            .stdin(Stdio::null())
            .output()?;
        // A line a request: when it began, its status, how long it took, in microseconds.
        let log = fs::read_to_string(&self.log)?;
        let mut errors = 0;
        let mut times = Vec::new();
        for line in log.lines() {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (status, time) = (words.next(), words.next().and_then(|time| time.parse::<u64>().ok()));
            match (status, time) {
                (Some("200"), Some(time)) => times.push(time),
                _ => errors += 1,
            }
        }
        times.sort_unstable();
        let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100).copied();
        if times.is_empty() {
            let said = [output.stdout, output.stderr].concat();
            return Err(
                format!("h2load against {} failed: {}", peer.kind, String::from_utf8_lossy(&said)).into()
            );
        }
        Ok(serde_json::json!({
            "requests": times.len(),
            "errors": errors,
            "duration_us": duration.as_micros() as u64,
            "p50_us": at(50),
            "p99_us": at(99),
        }))
    }

    fn wrk(&self, peer: &Peer, connections: u32, duration: Duration) -> Result<Value> {
        let output = Command::new(&self.wrk)
            .args(["--threads", "1", "--latency", "--timeout", "10s"])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{}s", duration.as_secs())])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--header", "Accept: application/json"])
            .arg("--script")
            .arg(&self.script)
            .arg(peer.url())
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let result = said.lines().find_map(|line| line.strip_prefix("RESULT "));
        let result = result.ok_or_else(|| {
            format!("wrk against {} failed: {said}{}", peer.kind, String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(serde_json::from_str(result)?)
    }
}
