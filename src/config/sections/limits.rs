//! `limits`: bounds on what a client may send or hold.

use std::num::NonZeroU32;

use super::rate_limit::MOST_REQUESTS;
use crate::config::language::{ANY, Size, Timeout, Whole, section};
use crate::config::settings;

section! {
    /// Bounds on what a client may send or hold.
    Limits {
        /// Of a request's head.
        header_bytes: Size = "16KiB",
        /// Fields in a request's head.
        header_count: Whole<1, 10_000> = 100,
        /// Of a request's target.
        target_bytes: Size = "8KiB",
        /// Of a bearer token.
        token_bytes: Size = "1KiB",
        /// Of a request's body, inclusive.
        body: Size = "100MiB",
        /// Of all clients.
        connections: Whole<1, ANY> = 10_000,
        /// Of one client address (IPv6: of one /64); 0: no bound. Trusted proxies have none.
        connections_per_address: Whole<0, ANY> = 0,
        /// In a second, and at once, of one client address (IPv6: of one /64); 0: no bound. Behind a trusted
        /// proxy the address is the right-most in X-Forwarded-For that is not itself trusted.
        requests_per_address: Whole<0, MOST_REQUESTS> = 0,
        /// From a head's first byte to its last.
        header_timeout: Timeout = "10s",
        /// Of a client's connection between requests.
        idle_timeout: Timeout = "75s",
        /// Between two pieces of a body, in either direction.
        body_idle_timeout: Timeout = "30s",
        /// Of a tunnel (WebSocket) through which nothing comes, from either side.
        tunnel_idle_timeout: Timeout = "5m",
    }
}

pub(crate) fn compile(raw: Limits) -> settings::Limits {
    settings::Limits {
        header_bytes: raw.header_bytes.length(),
        header_count: raw.header_count.count(),
        target_bytes: raw.target_bytes.length(),
        token_bytes: raw.token_bytes.length(),
        body: raw.body.0,
        connections: raw.connections.count(),
        connections_per_address: raw.connections_per_address.positive_count(),
        requests_per_address: NonZeroU32::new(raw.requests_per_address.0)
            .map(|requests| settings::Rate { requests_per_second: requests, burst: requests }),
        header_timeout: raw.header_timeout.0,
        idle_timeout: raw.idle_timeout.0,
        body_idle_timeout: raw.body_idle_timeout.0,
        tunnel_idle_timeout: raw.tunnel_idle_timeout.0,
    }
}
