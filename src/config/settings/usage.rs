//! `usage`, compiled.

use std::path::PathBuf;
use std::time::Duration;

use super::FindingRules;

/// `usage`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `usage.path`
    pub path: PathBuf,
    /// `usage.flush_interval`
    pub flush_interval: Duration,
    /// `usage.retention`
    pub retention: Duration,
    /// `usage.max_size`, in bytes.
    pub max_size: u64,
    /// `usage.findings`
    pub findings: FindingRules,
}
