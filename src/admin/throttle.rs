//! How often wrong credentials may be presented.
//!
//! The right credentials are verified first and are never throttled: an attacker cannot lock the operator out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Instant;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use super::response::{Answer, message};
use crate::config::settings::Rate;
use crate::limits::addresses::AddressLimits;
use crate::limits::bucket::Bucket;
use crate::policy::refusal::Exceeded;

/// Attempts of one address (IPv6: of one /64): one a second, and 20 at once.
const OF_ADDRESS: Rate = rate(1, 20);
/// Attempts of all addresses together: 10 a second, and 100 at once.
const OF_ALL: Rate = rate(10, 100);

const fn rate(requests_per_second: u32, burst: u32) -> Rate {
    Rate { requests_per_second: at_least_one(requests_per_second), burst: at_least_one(burst) }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// Counts wrong credentials by address and overall. Remembers a bounded number of addresses.
#[derive(Debug)]
pub struct Throttle {
    addresses: AddressLimits,
    all: Bucket,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { addresses: AddressLimits::new(OF_ADDRESS), all: Bucket::new(OF_ALL, Instant::now()) }
    }
}

impl Throttle {
    /// Answers an attempt with wrong credentials that `client`, an address and a port or `unix`, made at `now`: as
    /// `refusal` says, or with 429 if there were too many.
    pub(super) fn answer(&self, client: &str, now: Instant, refusal: Answer) -> Answer {
        match self.take(client, now) {
            Ok(()) => refusal,
            Err(exceeded) => {
                let mut refusal = message(StatusCode::TOO_MANY_REQUESTS, "Too Many Attempts.");
                refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from(exceeded.retry_after));
                refusal
            }
        }
    }

    fn take(&self, client: &str, now: Instant) -> Result<(), Exceeded> {
        // All clients of a Unix socket share one address.
        let address = client.parse().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer: SocketAddr| peer.ip());
        // An address that is over its own limit takes nothing from the others.
        self.addresses.take(address, now)?;
        self.all.take(now)
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
    fn addresses_are_throttled_by_themselves_and_together() {
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
            // The last of what all may have.
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
