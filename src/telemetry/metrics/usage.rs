//! Metrics of the usage ledger and of quotas. Only their own threads write them, and rarely.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::epoch_seconds;

/// The metrics of the usage ledger.
#[derive(Debug, Default)]
pub struct UsageMetrics {
    /// Whether there is a ledger. If not, its metrics are absent.
    kept: AtomicBool,
    /// Requests by ability and decision. At most as many as the maps have abilities.
    requests: Mutex<BTreeMap<(Box<str>, bool), u64>>,
    /// Findings by kind and severity.
    findings: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    pub(super) write_errors: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Seconds since 1970; 0 before the first write.
    pub(super) written_at: AtomicU64,
}

/// The metrics of quotas. Only the thread of their file writes them.
#[derive(Debug, Default)]
pub struct QuotaMetrics {
    /// Whether there are quotas. If not, their metrics are absent.
    kept: AtomicBool,
    pub(super) tokens: AtomicU64,
    pub(super) write_errors: AtomicU64,
}

impl QuotaMetrics {
    /// Sets whether there are quotas.
    pub fn set_enabled(&self, is_kept: bool) {
        self.kept.store(is_kept, Relaxed);
    }

    /// Sets the number of tokens with a count.
    pub fn set_tokens(&self, tokens: u64) {
        self.tokens.store(tokens, Relaxed);
    }

    /// Counts a failed attempt to read or write the file.
    pub fn write_failed(&self) {
        self.write_errors.fetch_add(1, Relaxed);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Relaxed)
    }
}

impl UsageMetrics {
    /// Sets whether there is a ledger.
    pub fn set_enabled(&self, is_kept: bool) {
        self.kept.store(is_kept, Relaxed);
    }

    /// Counts requests of tokens by the abilities that their route requires.
    pub fn counted(&self, abilities: &[Box<str>], is_allowed: bool, count: u64) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ability in abilities {
            match requests.get_mut(&(ability.clone(), is_allowed)) {
                Some(sum) => *sum = sum.saturating_add(count),
                None => {
                    requests.insert((ability.clone(), is_allowed), count);
                }
            }
        }
    }

    /// Counts requests that did not fit.
    pub fn dropped(&self, requests: u64) {
        self.dropped.fetch_add(requests, Relaxed);
    }

    /// Counts a failed write.
    pub fn write_failed(&self) {
        self.write_errors.fetch_add(1, Relaxed);
    }

    /// Records a successful write: its time, and the resulting number of tokens and bytes.
    pub fn written(&self, now: SystemTime, tokens: u64, bytes: u64) {
        self.tokens.store(tokens, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.written_at.store(epoch_seconds(now), Relaxed);
    }

    /// Sets the number of findings by kind and severity.
    pub fn set_findings(&self, findings: BTreeMap<(&'static str, &'static str), u64>) {
        *self.findings.lock().unwrap_or_else(PoisonError::into_inner) = findings;
    }

    pub(super) fn findings(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Relaxed)
    }

    pub(super) fn for_each_request(&self, mut each: impl FnMut(&str, bool, u64)) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().for_each(|((ability, is_allowed), count)| each(ability, *is_allowed, *count));
    }
}
