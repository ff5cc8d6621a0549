//! The rate limit for wrong credentials.
//!
//! Credentials are verified first, and the right ones are never limited: an attacker cannot lock the operator out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Instant;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use super::response::{AdminResponse, message};
use crate::config::settings::Rate;
use crate::limits::addresses::AddressLimits;
use crate::limits::bucket::Bucket;

/// Attempts per address, or per /64 of IPv6: 1 per second, with bursts of 20.
const PER_ADDRESS: Rate = rate(1, 20);
/// Attempts of all addresses together: 10 per second, with bursts of 100.
const TOTAL: Rate = rate(10, 100);

const fn rate(requests_per_second: u32, burst: u32) -> Rate {
    Rate { requests_per_second: at_least_one(requests_per_second), burst: at_least_one(burst) }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// Counts wrong credentials per address and in total. The number of tracked addresses is bounded.
#[derive(Debug)]
pub struct Throttle {
    addresses: AddressLimits,
    total: Bucket,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { addresses: AddressLimits::new(PER_ADDRESS), total: Bucket::new(TOTAL, Instant::now()) }
    }
}

impl Throttle {
    /// The response to wrong credentials: `rejection`, or 429 if `client` exceeds a limit. `client` is an address with a
    /// port, or `unix`.
    pub(super) fn limit(&self, client: &str, now: Instant, rejection: AdminResponse) -> AdminResponse {
        match self.take(client, now) {
            Ok(()) => rejection,
            Err(retry_after) => {
                let mut rejection = message(StatusCode::TOO_MANY_REQUESTS, "Too Many Attempts.");
                rejection.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
                rejection
            }
        }
    }

    /// Takes one attempt.
    ///
    /// # Errors
    /// Seconds until the next one is allowed.
    fn take(&self, client: &str, now: Instant) -> Result<(), u64> {
        // All clients of a Unix socket share one address.
        let address = client.parse().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer: SocketAddr| peer.ip());
        // The address comes first: attempts above its limit do not count against the total.
        self.addresses.take(address, now).map_err(|exceeded| exceeded.retry_after)?;
        self.total.take(now).map_err(|wait| wait.as_secs() + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(throttle: &Throttle, client: &str, now: Instant) -> usize {
        (0..1000).take_while(|_| throttle.take(client, now).is_ok()).count()
    }

    #[test]
    fn wrong_credentials_are_limited_per_address_and_in_total() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for (client, expected) in [
            ("192.0.2.1:1", 20),
            ("192.0.2.1:2", 0),
            ("[::ffff:192.0.2.1]:1", 0),
            ("[2001:db8::1]:1", 20),
            ("[2001:db8::ffff:ffff:ffff:ffff]:1", 0),
            ("[2001:db8:0:1::1]:1", 20),
            ("unix", 20),
            // These use up the total.
            ("192.0.2.2:1", 20),
            ("192.0.2.3:1", 0),
        ] {
            assert_eq!(taken(&throttle, client, now), expected, "{client}");
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(taken(&throttle, "192.0.2.1:1", later), 2);
        assert_eq!(taken(&throttle, "192.0.2.4:1", later), 18, "20 for all in two seconds");
    }
}
