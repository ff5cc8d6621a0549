//! `limits`, `rate_limit` and `quota`.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::framing::Bounds;

/// `limits`
#[derive(Clone, Debug)]
pub struct Limits {
    /// `limits.header_bytes`: of a request head.
    pub header_bytes: usize,
    /// `limits.header_count`: fields in a request head.
    pub header_count: usize,
    /// `limits.target_bytes`: of a request target.
    pub target_bytes: usize,
    /// `limits.token_bytes`: of a bearer token.
    pub token_bytes: usize,
    /// `limits.body`: of a request body, in bytes, inclusive.
    pub body: u64,
    /// `limits.connections`: of all clients.
    pub connections: usize,
    /// `limits.connections_per_address`; `None` if unbounded.
    pub connections_per_address: Option<usize>,
    /// `limits.requests_per_address`, per second and as a burst; `None` if unbounded.
    pub requests_per_address: Option<Rate>,
    /// `limits.failures_per_address`, per second and as a burst; `None` if unbounded.
    pub failures_per_address: Option<Rate>,
    /// `limits.tunnels`, of all clients; `None` if unbounded.
    pub tunnels: Option<NonZeroU32>,
    /// `limits.tunnels_per_token`, on public routes per client address; `None` if unbounded.
    pub tunnels_per_token: Option<NonZeroU32>,
    /// `limits.header_timeout`: from the first to the last byte of a head.
    pub header_timeout: Duration,
    /// `limits.idle_timeout`: of a client connection between requests.
    pub idle_timeout: Duration,
    /// `limits.body_idle_timeout`: between two chunks of a body, in either direction.
    pub body_idle_timeout: Duration,
    /// `limits.body_rate`: least rate of a request's body, in bytes per second; `None` if unbounded.
    pub body_rate: Option<NonZeroU64>,
    /// `limits.tunnel_idle_timeout`: of a tunnel without data from either side.
    pub tunnel_idle_timeout: Duration,
}

impl Limits {
    /// The bounds of a request head.
    pub const fn bounds(&self) -> Bounds {
        Bounds { head: self.header_bytes, fields: self.header_count, target: self.target_bytes }
    }
}

/// A request rate: the average per second, and the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// `requests_per_second`
    pub requests_per_second: NonZeroU32,
    /// `burst`
    pub burst: NonZeroU32,
}

impl Rate {
    /// The lower value of each field.
    pub fn min(self, other: Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second.min(other.requests_per_second),
            burst: self.burst.min(other.burst),
        }
    }
}

/// The limits of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Its request rate.
    pub rate: Rate,
    /// `in_flight`; `None` if unlimited.
    pub in_flight: Option<NonZeroU32>,
    /// `quota`: requests in each window; `None` if unlimited.
    pub quota: Option<NonZeroU32>,
    /// Whether `by_id` sets its rate, so that it does not share that of its workspace.
    pub has_own_rate: bool,
}

impl Allowance {
    /// The lower value of each field.
    pub fn min(self, other: Self) -> Self {
        let lower = |one: Option<NonZeroU32>, other| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            rate: self.rate.min(other.rate),
            in_flight: lower(self.in_flight, other.in_flight),
            quota: lower(self.quota, other.quota),
            ..self
        }
    }
}

/// `rate_limit`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// For tokens without an allowance of their own.
    pub default: Allowance,
    /// `rate_limit.by_name`: these only lower the allowance, as token owners choose the names.
    pub by_name: HashMap<Box<str>, Allowance>,
    /// `rate_limit.by_id`: instead of the default.
    pub by_id: HashMap<Box<str>, Allowance>,
    /// `rate_limit.by_ability`: of each token, in addition.
    pub by_ability: Box<[(Box<str>, Rate)]>,
    /// `rate_limit.by_workspace`: whether the tokens of a workspace share the default rate, in addition.
    pub by_workspace: bool,
    /// `rate_limit.quota.per`; `None` without quotas.
    pub quota_period: Option<QuotaPeriod>,
    /// `rate_limit.shared`: whether replicas share the rates through Redis.
    pub shared: bool,
    /// `rate_limit.fields`: whether responses have the fields of the IETF draft.
    pub has_fields: bool,
}

#[cfg(test)]
impl RateLimit {
    /// The same limits for each token, and no others.
    pub fn of_each(default: Allowance) -> Self {
        Self {
            default,
            by_name: Default::default(),
            by_id: Default::default(),
            by_ability: Default::default(),
            by_workspace: false,
            quota_period: None,
            shared: false,
            has_fields: false,
        }
    }
}

/// `rate_limit.quota.per`: a window of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaPeriod {
    /// From minute 0 to minute 0.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first to the first.
    Month,
}

/// `rate_limit.quota`: where its counts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStore {
    /// `path`
    pub path: PathBuf,
    /// `per`
    pub period: QuotaPeriod,
    /// `flush_interval`
    pub flush_interval: Duration,
}
