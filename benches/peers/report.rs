//! The tables, the raw figures, and a description of the machine.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::session::Part;
use crate::{Result, install};

/// The line that names the machine, and a table per part.
pub(crate) fn tables(parts: &[Part], machine: &Machine) -> String {
    let mut text = format!("{}, {} cores, Linux {}\n", machine.cpu, machine.cores, machine.kernel);
    for part in parts {
        text += &format!("\n## {}\n\n{}", part.name, part.table);
    }
    text
}

/// Writes every run to `benches/results/peers-<seconds since 1970>.json`, and the tables beside it.
pub(crate) fn save(parts: &[Part], machine: &Machine, tables: &str) -> Result<PathBuf> {
    let directory = install::root().join("benches/results");
    fs::create_dir_all(&directory)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = directory.join(format!("peers-{now}.json"));
    let versions: Map<String, Value> = parts
        .iter()
        .flat_map(|part| &part.versions)
        .map(|(kind, version)| (kind.to_string(), json!(version)))
        .collect();
    let runs: Map<String, Value> =
        parts.iter().map(|part| (part.name.to_owned(), part.runs.clone())).collect();
    let raw = json!({
        "machine": {"cpu": machine.cpu, "cores": machine.cores, "kernel": machine.kernel},
        "versions": versions,
        "runs": runs,
    });
    fs::write(&path, serde_json::to_string_pretty(&raw)?)?;
    fs::write(path.with_extension("md"), tables)?;
    Ok(path)
}

/// The machine of the measurements.
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
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
