//! wrk and h2load: measure the maximum throughput of a proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::backend::BODY;
use crate::front::Front;
use crate::install;
use crate::peer::{Peer, TOKEN};

/// Prints wrk's unrounded figures, once, after the load.
const RESULT: &str = r#"
done = function(summary, latency)
   local e = summary.errors
   io.write(string.format(
      'RESULT {"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d}\n',
      summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
"#;

/// Streams that an HTTP/2 client has open at a time on each connection.
const STREAMS: u32 = 10;

/// The tools, and where they write.
#[derive(Debug)]
pub(crate) struct Load {
    wrk: PathBuf,
    h2load: PathBuf,
    script: PathBuf,
    /// Where h2load writes a line per request.
    log: PathBuf,
    duration: Duration,
}

/// Result of one run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    /// Responses above 399, and failed requests.
    pub(crate) errors: u64,
    pub(crate) duration_us: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 * 1e6 / self.duration_us as f64
    }
}

impl Load {
    pub(crate) fn prepare(directory: &Path, duration: Duration) -> Result<Self> {
        let script = write_script(directory, "result.lua", "")?;
        let log = directory.join("h2load.log");
        Ok(Self { wrk: install::find("wrk")?, h2load: install::find("h2load")?, script, log, duration })
    }

    /// Expects the backend's response to one request, and fills pools and caches.
    pub(crate) fn warm_up(&self, peer: &Peer) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        // Traefik listens before it has its routes.
        while let Err(error) = self.probe(peer) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.run(peer, 64, Duration::from_secs(1)).map(drop)
    }

    /// One run against a proxy.
    pub(crate) fn drive(&self, peer: &Peer, connections: u32) -> Result<Measured> {
        self.run(peer, connections, self.duration)
    }

    /// One run of wrk with a script of [`write_script`].
    pub(crate) fn drive_script(&self, url: &str, connections: u32, script: &Path) -> Result<Measured> {
        self.wrk(url, connections, self.duration, script)
    }

    fn probe(&self, peer: &Peer) -> Result<()> {
        let version = if peer.front == Front::Http2 { "--http2" } else { "--http1.1" };
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", "--max-time", "5", version])
            .args(["--write-out", "%{http_code} %{http_version}"])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .arg(peer.url())
            .output()?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let expected = if peer.front == Front::Http2 { "200 2" } else { "200 1.1" };
        if answer == format!("{BODY}{expected}") {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} answers the first request with:\n{answer}{errors}", peer.kind).into())
    }

    fn run(&self, peer: &Peer, connections: u32, duration: Duration) -> Result<Measured> {
        match peer.front {
            Front::Http1 | Front::Tls => self.wrk(&peer.url(), connections, duration, &self.script),
            Front::Http2 => self.h2load(&peer.url(), connections, duration),
        }
    }

    /// One run of wrk.
    pub(crate) fn wrk(
        &self,
        url: &str,
        connections: u32,
        duration: Duration,
        script: &Path,
    ) -> Result<Measured> {
        let output = bounded(&self.wrk, duration)
            .args(["--threads", "1", "--latency", "--timeout", "10s"])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{}s", duration.as_secs())])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--header", "Accept: application/json"])
            .arg("--script")
            .arg(script)
            .arg(url)
            .stdin(Stdio::null())
            .output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let result = printed.lines().find_map(|line| line.strip_prefix("RESULT "));
        let result = result.ok_or_else(|| {
            format!("wrk against {url} failed: {printed}{}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(serde_json::from_str(result)?)
    }

    fn h2load(&self, url: &str, connections: u32, duration: Duration) -> Result<Measured> {
        let _ = fs::remove_file(&self.log);
        let output = bounded(&self.h2load, duration)
            .args(["--threads", "1", "--max-concurrent-streams", &STREAMS.to_string()])
            .args(["--clients", &connections.to_string()])
            .args(["--duration", &duration.as_secs().to_string()])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
            .args(["--header", "Accept: application/json"])
            .arg(format!("--log-file={}", self.log.display()))
            .arg(url)
            .stdin(Stdio::null())
            .output()?;
        // A line per request: when it began, its status, and its duration in microseconds.
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
        let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied();
        let (Some(p50_us), Some(p99_us)) = (at(50), at(99)) else {
            let printed = [output.stdout, output.stderr].concat();
            return Err(format!("h2load against {url} failed: {}", String::from_utf8_lossy(&printed)).into());
        };
        let duration_us = duration.as_micros() as u64;
        Ok(Measured { requests: times.len() as u64, errors, duration_us, p50_us, p99_us })
    }
}

/// A tool that is killed if it runs a minute longer than its load.
fn bounded(tool: &Path, duration: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg(format!("{}s", duration.as_secs() + 60)).arg(tool);
    command
}

/// A script for wrk that has `requests`, Lua code that defines `request`, and prints what was measured.
pub(crate) fn write_script(directory: &Path, name: &str, requests: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, format!("{requests}{RESULT}"))?;
    Ok(path)
}
