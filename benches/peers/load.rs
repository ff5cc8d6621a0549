//! wrk, and what a run of it measured.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::Result;
use crate::peer::{Peer, PeerKind, TARGET, TOKEN};
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
    program: PathBuf,
    script: PathBuf,
    duration: Duration,
}

/// What one peer did in one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) peer: PeerKind,
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
            "round {}, {:>3} connections, {:<18} {:>6.2} µs/request, {} requests",
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
        Ok(Self { program: process::find("wrk")?, script, duration })
    }

    /// Fills pools and caches.
    pub(crate) fn warm_up(&self, peer: &Peer) -> Result<()> {
        self.wrk(peer, 64, Duration::from_secs(1)).map(drop)
    }

    /// One run.
    pub(crate) fn drive(&self, peer: &Peer, round: u32, connections: u32) -> Result<Run> {
        let before = peer.server.cpu_time()?;
        let result = self.wrk(peer, connections, self.duration)?;
        let cpu = peer.server.cpu_time()?.saturating_sub(before);
        let figure =
            |name: &str| result[name].as_u64().ok_or_else(|| format!("wrk told no {name}: {result}"));
        Ok(Run {
            peer: peer.kind,
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

    fn wrk(&self, peer: &Peer, connections: u32, duration: Duration) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(["--threads", "1", "--latency", "--timeout", "10s"])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{}s", duration.as_secs())])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--header", "Accept: application/json"])
            .arg("--script")
            .arg(&self.script)
            .arg(format!("http://{}{TARGET}", peer.address))
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
