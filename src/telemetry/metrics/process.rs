//! Metrics of the process from Linux's `/proc`. Absent on other systems.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// The available values.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
    /// Seconds since 1970.
    pub(super) start_time: Option<f64>,
}

/// Clock ticks per second in `/proc`: Linux's USER_HZ, which is 100 on every target that Rust supports at tier 1.
const TICKS: f64 = 100.0;

pub(super) fn read() -> Process {
    let stat = fs::read_to_string("/proc/self/stat").ok();
    // proc_pid_stat(5) counts fields from 1; the second is the name in parentheses, which may hold spaces.
    let fields: Vec<&str> = stat
        .as_deref()
        .and_then(|text| text.rsplit_once(')'))
        .map(|(_, rest)| rest.split_ascii_whitespace().collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
        resident_bytes: resident_bytes(),
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
        max_fds: getrlimit(Resource::Nofile).current.map(|limit| limit as f64),
        start_time: field(22).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS),
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = line(&status, "VmRSS:")?.trim_end_matches("kB").trim_end();
    Some(kibibytes.parse::<f64>().ok()? * 1024.0)
}

fn boot_time() -> Option<f64> {
    line(&fs::read_to_string("/proc/stat").ok()?, "btime")?.parse().ok()
}

/// The rest of the line that starts with `key`.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}
