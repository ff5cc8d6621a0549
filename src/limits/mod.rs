//! Limits on requests and tunnels, by token and by client address.
//!
//! All workers share them, so that a client gains nothing by spreading requests over connections.

pub mod addresses;
pub mod bucket;
pub mod counter;
pub mod failures;
pub mod fields;
pub mod quota;
pub mod reported;
pub mod share;
mod table;
pub mod tokens;
pub mod tunnels;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::addresses::AddressLimits;
use self::bucket::SharedBuckets;
use self::failures::FailureLimits;
use self::quota::QuotaCounts;
use self::tokens::{TokenCounts, TokenLimits};
use self::tunnels::TunnelCounts;
use crate::config::settings::Settings;
use crate::policy::refusal::{Exceeded, Limit};

/// The limits on requests and tunnels, shared by all workers. A limit that is off is `None`.
#[derive(Debug)]
pub struct Limiter {
    /// `rate_limit`
    pub tokens: Option<Arc<TokenLimits>>,
    /// `limits.requests_per_address`
    pub addresses: Option<Arc<AddressLimits>>,
    /// `limits.failures_per_address`
    pub failures: Option<Arc<FailureLimits>>,
    /// `limits.tunnels` and `limits.tunnels_per_token`
    pub tunnels: Arc<TunnelCounts>,
    counts: Arc<TokenCounts>,
}

impl Limiter {
    /// The limits of the first configuration of a process.
    pub fn new(settings: &Settings) -> Self {
        Self::with(settings, None)
    }

    /// The limits of the next configuration. What is in progress stays counted, and buckets are full again only if their
    /// section changes.
    pub fn next_from(&self, settings: &Settings) -> Self {
        Self::with(settings, Some(self))
    }

    fn with(settings: &Settings, before: Option<&Self>) -> Self {
        let counts = before.map(|before| Arc::clone(&before.counts)).unwrap_or_default();
        let tokens = settings.rate_limit.as_ref().map(|rate_limit| {
            let kept = before.and_then(|before| before.tokens.as_ref());
            let shared = SharedBuckets::next_from(kept.and_then(|kept| kept.shared()).map(|it| &**it));
            let new = || Arc::new(TokenLimits::new(rate_limit.clone(), Arc::clone(&counts), shared));
            kept.filter(|kept| kept.settings() == rate_limit).map_or_else(new, Arc::clone)
        });
        let addresses = settings.limits.requests_per_address.map(|rate| {
            let kept = before.and_then(|before| before.addresses.as_ref());
            kept.filter(|kept| kept.rate() == rate)
                .map_or_else(|| Arc::new(AddressLimits::new(rate)), Arc::clone)
        });
        let failures = settings.limits.failures_per_address.map(|rate| {
            let kept = before.and_then(|before| before.failures.as_ref());
            kept.filter(|kept| kept.rate() == rate)
                .map_or_else(|| Arc::new(FailureLimits::new(rate)), Arc::clone)
        });
        let tunnels = before.map(|before| Arc::clone(&before.tunnels)).unwrap_or_default();
        Self { tokens, addresses, failures, tunnels, counts }
    }

    /// The counts of `rate_limit.quota`, which belong to the process.
    pub fn quotas(&self) -> Arc<QuotaCounts> {
        Arc::clone(&self.counts.quotas)
    }

    /// Whether the limits that verdicts hold are those of `other`.
    pub fn has_tokens_of(&self, other: &Self) -> bool {
        match (&self.tokens, &other.tokens) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }
}

/// The report of a limit of `allowed`, under which a request is allowed after `wait`.
fn exceeded(limit: Limit, allowed: NonZeroU32, wait: Duration, now: SystemTime) -> Exceeded {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let retry_after = seconds.max(1);
    let epoch = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Exceeded { limit, allowed: allowed.get(), retry_after, resets_at: epoch + retry_after }
}

#[cfg(test)]
fn rate(requests_per_second: u32, burst: u32) -> crate::config::settings::Rate {
    crate::config::settings::Rate {
        requests_per_second: requests_per_second.try_into().unwrap(),
        burst: burst.try_into().unwrap(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_to_at_least_a_second() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        for (wait, retry_after) in [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            let wait = Duration::from_millis(wait);
            let found = exceeded(Limit::InFlight, NonZeroU32::MIN, wait, now);
            let resets_at = 1_700_000_000 + retry_after;
            assert_eq!(found, Exceeded { limit: Limit::InFlight, allowed: 1, retry_after, resets_at });
        }
    }
}
