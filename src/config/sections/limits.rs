//! `limits`: bounds on what a client may send or hold.

use std::num::NonZeroU32;

use super::rate_limit::MAX_REQUESTS;
use crate::config::language::{ANY, ByteRate, Size, Timeout, Whole, section};
use crate::config::settings;

section! {
    /// Limits on the size, duration and number of requests and connections.
    Limits {
        /// Largest request head, in bytes.
        header_bytes: Size = "16KiB",
        /// Largest number of header fields in a request.
        header_count: Whole<1, 10_000> = 100,
        /// Largest request target, in bytes.
        target_bytes: Size = "8KiB",
        /// Largest bearer token, in bytes.
        token_bytes: Size = "1KiB",
        /// Largest request body, in bytes.
        body: Size = "100MiB",
        /// Largest number of client connections. With `decision.address`, a tenth is reserved for each of the two listeners:
        /// neither clients nor proxies can take all.
        connections: Whole<1, ANY> = 10_000,
        /// Largest number of connections per client address (IPv6: per /64 network); 0: unlimited. Connections of
        /// trusted proxies do not count.
        connections_per_address: Whole<0, ANY> = 0,
        /// Largest number of requests per second and client address (IPv6: per /64 network), which is also the burst;
        /// 0: unlimited. Behind a trusted proxy the client address is the right-most one in X-Forwarded-For that is not
        /// itself trusted.
        requests_per_address: Whole<0, MAX_REQUESTS> = 0,
        /// Largest number of requests with inactive tokens per second and client address (IPv6: per /64 network), which
        /// is also the burst; 0: unlimited. Requests over it get 429 and cause no introspection. Tokens that are known
        /// to be active are not limited.
        failures_per_address: Whole<0, MAX_REQUESTS> = 0,
        /// Largest number of open tunnels (WebSocket) of all clients; 0: unlimited.
        tunnels: Whole<0, ANY> = 0,
        /// Largest number of open tunnels per token id, and on public routes per client address (IPv6: per /64
        /// network); 0: unlimited.
        tunnels_per_token: Whole<0, ANY> = 0,
        /// Longest time from the first to the last byte of a request head.
        header_timeout: Timeout = "10s",
        /// How long a client connection may be idle between requests.
        idle_timeout: Timeout = "75s",
        /// Longest pause between two pieces of a body, in either direction.
        body_idle_timeout: Timeout = "30s",
        /// Least average rate of a request body while the gateway waits for it, after 5s, in bytes per second; 0: none.
        body_rate: ByteRate = 0,
        /// Longest pause in a tunnel (WebSocket) without data in either direction.
        tunnel_idle_timeout: Timeout = "5m",
    }
}

/// A rate whose burst is that of one second; `None` if unlimited.
fn per_second(number: u32) -> Option<settings::Rate> {
    NonZeroU32::new(number).map(|number| settings::Rate { requests_per_second: number, burst: number })
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
        requests_per_address: per_second(raw.requests_per_address.0),
        failures_per_address: per_second(raw.failures_per_address.0),
        tunnels: NonZeroU32::new(raw.tunnels.0),
        tunnels_per_token: NonZeroU32::new(raw.tunnels_per_token.0),
        header_timeout: raw.header_timeout.0,
        idle_timeout: raw.idle_timeout.0,
        body_idle_timeout: raw.body_idle_timeout.0,
        body_rate: raw.body_rate.0,
        tunnel_idle_timeout: raw.tunnel_idle_timeout.0,
    }
}
