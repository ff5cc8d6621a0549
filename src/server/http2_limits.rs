//! The limits of an HTTP/2 connection.
//!
//! The gateway closes a client's connection that resets many requests. A proxy on the decision listener sends the requests
//! of all its clients over one connection, and resets a request when its client disconnects. No client may end that
//! connection for the others: its limits bound memory and CPU, and a proxy that sends each request and at most one reset
//! for it never reaches them.

use std::cell::Cell;
use std::task::Poll;

use crate::config::settings::Limits;
use crate::downstream::{ClientListener, Downstream};

/// Largest number of concurrent requests of a client. RFC 9113 section 6.5.2 recommends at least 100.
const MAX_STREAMS: u32 = 100;
/// The same for a proxy: as many as Envoy opens on a connection before it has read the setting. Otherwise the gateway would
/// refuse some of them.
const MAX_PROXY_STREAMS: u32 = 1024;

/// Streams per connection that a client may make the gateway reset or refuse by protocol errors (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 100;
/// Streams that a client may reset before they are accepted (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// The same for a proxy: more than can be in the bytes of one [`ReadQuota`].
const MAX_PROXY_PENDING_RESETS: usize = 4096;

/// The largest budget of a client for frames without effect: a hundred resets, as of a browser that leaves a page.
const MAX_BUDGET: u32 = 1000;
/// The cost of a reset: the backend may have started to work (CVE-2023-44487).
pub(super) const RESET_COST: u32 = 10;
/// The largest budget of a proxy: all streams are reset at once, with as much for other frames.
const MAX_PROXY_BUDGET: u32 = 2 * RESET_COST * MAX_PROXY_STREAMS;
/// The budget that a proxy gains per request: a reset, and the two frames that some proxies send with it.
const PROXY_BUDGET_PER_REQUEST: u32 = RESET_COST + 2;

/// Overhead of each field in the size of a header list, beside its name and value (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// Pseudo-fields of a request.
const PSEUDO_FIELDS: usize = 4;
/// Least size of a header list that h2 reads from a proxy, in bytes. h2 closes the connection if a head is far larger than
/// its limit. Proxies accept heads of up to 60 KiB from their clients (Envoy's default); the gateway refuses these with 431.
const PROXY_HEADER_LIST: usize = 128 * 1024;

/// Bytes after which h2 reads no more before a proxy's requests are accepted. The last read may exceed it by less than 64
/// KiB, the most that h2 reads at once. A request with its reset takes more than 23 bytes.
const READ_QUOTA: usize = 16 * 1024;

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// Whether the peer is a trusted proxy on the decision listener.
    is_proxy: bool,
    /// Largest number of concurrent requests.
    pub(super) streams: u32,
    /// Streams that the gateway may reset or refuse because of protocol errors; `None` if unlimited. A client of a proxy can
    /// cause them, such as by a field `TE` that the proxy passes on.
    pub(super) local_resets: Option<usize>,
    /// Streams that may be reset before they are accepted.
    pub(super) pending_resets: usize,
    /// The largest budget for frames without effect.
    pub(super) budget: u32,
    /// The budget gained per request.
    pub(super) budget_per_request: u32,
}

impl ConnectionLimits {
    const CLIENT: Self = Self {
        is_proxy: false,
        streams: MAX_STREAMS,
        local_resets: Some(MAX_LOCAL_RESETS),
        pending_resets: MAX_PENDING_RESETS,
        budget: MAX_BUDGET,
        budget_per_request: 0,
    };

    const PROXY: Self = Self {
        is_proxy: true,
        streams: MAX_PROXY_STREAMS,
        local_resets: None,
        pending_resets: MAX_PROXY_PENDING_RESETS,
        budget: MAX_PROXY_BUDGET,
        budget_per_request: PROXY_BUDGET_PER_REQUEST,
    };

    /// The limits of a connection.
    pub(super) fn of(downstream: &Downstream) -> Self {
        match downstream.listener {
            ClientListener::Decision if downstream.trusted => Self::PROXY,
            ClientListener::Decision | ClientListener::Proxy => Self::CLIENT,
        }
    }

    /// The largest header list that h2 reads: that of the largest head within `limits`. h2 itself refuses larger ones,
    /// without a body.
    pub(super) fn header_list(&self, limits: &Limits) -> u32 {
        let list = limits.header_bytes + FIELD_OVERHEAD * (limits.header_count + PSEUDO_FIELDS);
        let list = if self.is_proxy { list.max(PROXY_HEADER_LIST) } else { list };
        u32::try_from(list).unwrap_or(u32::MAX)
    }

    /// The quota of a proxy's connection.
    pub(super) fn read_quota(&self) -> Option<ReadQuota> {
        self.is_proxy.then(ReadQuota::default)
    }
}

/// The bytes that h2 may read until the connection's task is polled again, and none while the proxy does not read.
///
/// h2 reads all that has arrived before it accepts a request: without a quota, the number of requests that are reset before
/// they are accepted has no limit. Nor has the number of frames that h2 queues in response to malformed requests.
#[derive(Debug, Default)]
pub(super) struct ReadQuota {
    read: Cell<usize>,
    /// Whether the latest write waits for the proxy.
    is_write_pending: Cell<bool>,
}

impl ReadQuota {
    /// Whether h2 must not read more in this turn. The connection's task polls it again.
    pub(super) const fn is_used_up(&self) -> bool {
        self.read.get() >= READ_QUOTA
    }

    /// Whether h2 must not read before the proxy does. The pending write wakes the connection's task.
    pub(super) const fn is_write_pending(&self) -> bool {
        self.is_write_pending.get()
    }

    /// Notes the result of a write.
    pub(super) fn note_write<T>(&self, written: &Poll<T>) {
        self.is_write_pending.set(written.is_pending());
    }

    /// Counts read bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.read.set(self.read.get().saturating_add(bytes));
    }

    /// Begins the next quota.
    pub(super) fn renew(&self) {
        self.read.set(0);
    }
}
