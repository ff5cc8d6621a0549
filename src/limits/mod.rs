//! How often one caller may come: by token, by address.
//!
//! All cores share the buckets: whoever spreads requests over many connections gains nothing.

pub mod addresses;
pub mod bucket;
mod table;
pub mod tokens;

use self::addresses::Addresses;
use self::tokens::Tokens;
use crate::config::settings::Settings;

/// The limits that count requests, for all cores; what is off is none.
#[derive(Debug)]
pub struct Limiter {
    /// `rate_limit`
    pub tokens: Option<Tokens>,
    /// `limits.requests_per_address`
    pub addresses: Option<Addresses>,
}

impl Limiter {
    /// As `settings` say.
    pub fn new(settings: &Settings) -> Self {
        Self {
            tokens: settings.rate_limit.clone().map(Tokens::new),
            addresses: settings.limits.requests_per_address.map(Addresses::new),
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
