//! The metrics of rate limits that replicas share.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use super::{ShareExchange, epoch_seconds};

/// The metrics of shared rate limits. Absent while none are shared.
#[derive(Debug, Default)]
pub struct ShareMetrics {
    /// 0 while no limits are shared.
    pub(super) replicas: AtomicU64,
    pub(super) limits: AtomicU64,
    /// Seconds since 1970; 0 if there was none.
    pub(super) exchanged_at: AtomicU64,
    pub(super) exchanges: [AtomicU64; ShareExchange::ALL.len()],
}

impl ShareMetrics {
    /// Sets the number of replicas last seen, at least 1, and of limits that this replica reports.
    pub fn set(&self, replicas: u32, limits: usize) {
        self.replicas.store(replicas.into(), Relaxed);
        self.limits.store(limits as u64, Relaxed);
    }

    /// No limits are shared.
    pub fn set_off(&self) {
        self.replicas.store(0, Relaxed);
    }

    /// Counts an exchange.
    pub fn exchanged(&self, outcome: ShareExchange) {
        self.exchanges[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Sets the time of the last successful exchange.
    pub fn set_exchanged_at(&self, now: SystemTime) {
        self.exchanged_at.store(epoch_seconds(now), Relaxed);
    }
}
