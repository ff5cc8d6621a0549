//! Rate limits by token and by client address.
//!
//! All workers share the buckets, so that a client gains nothing by spreading requests over connections.

pub mod addresses;
pub mod bucket;
mod table;
pub mod tokens;

use self::addresses::AddressLimits;
use self::tokens::TokenLimits;
use crate::config::settings::Settings;

/// The request limits, shared by all workers. A limit that is off is `None`.
#[derive(Debug)]
pub struct Limiter {
    /// `rate_limit`
    pub tokens: Option<TokenLimits>,
    /// `limits.requests_per_address`
    pub addresses: Option<AddressLimits>,
}

impl Limiter {
    /// Creates empty limits from `settings`.
    pub fn new(settings: &Settings) -> Self {
        Self {
            tokens: settings.rate_limit.clone().map(TokenLimits::new),
            addresses: settings.limits.requests_per_address.map(AddressLimits::new),
        }
    }
}

#[cfg(test)]
fn rate(requests_per_second: u32, burst: u32) -> crate::config::settings::Rate {
    crate::config::settings::Rate {
        requests_per_second: requests_per_second.try_into().unwrap(),
        burst: burst.try_into().unwrap(),
    }
}
