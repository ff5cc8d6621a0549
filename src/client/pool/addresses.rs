//! The addresses of the destination's name, by which connections are retired.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Pool;
use crate::client::connect::Addresses;

/// Shortest time between two lookups of the destination's name while there are connections.
const RESOLVE_INTERVAL: Duration = Duration::from_millis(900);

impl Pool {
    /// Looks up the destination's name, and retires connections to addresses that it no longer has; their requests
    /// continue. Sends no query while the cached response is valid.
    pub(super) fn resolve_again(self: &Rc<Self>, now: Instant) {
        let due =
            self.resolved_at.get().is_none_or(|at| now.saturating_duration_since(at) >= RESOLVE_INTERVAL);
        if !due || !self.connector.has_name() || self.is_resolving.replace(true) {
            return;
        }
        self.resolved_at.set(Some(now));
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Some(addresses) = pool.connector.addresses().await {
                pool.set_addresses(addresses);
            }
            pool.is_resolving.set(false);
        });
    }

    pub(super) fn set_addresses(&self, addresses: Addresses) {
        let has = |address: Option<IpAddr>| address.is_none_or(|address| addresses.include(address));
        self.idle.borrow_mut().retain(|kept| has(kept.connection.address));
        if let Some(http2_pool) = &self.http2 {
            http2_pool.connections.borrow_mut().retain(|connection| {
                let stays = has(connection.remote_address());
                if !stays {
                    connection.retire();
                }
                stays
            });
        }
        *self.addresses.borrow_mut() = addresses;
    }

    /// Adds the address of a new connection to those of the name.
    pub(super) fn add_address(&self, address: Option<IpAddr>) {
        let mut addresses = self.addresses.borrow_mut();
        if let Some(address) = address
            && !addresses.known.is_empty()
            && !addresses.known.contains(&address)
        {
            addresses.known.push(address);
        }
    }

    /// Whether the destination's name is known to no longer have the address of a connection.
    pub(super) fn has_moved(&self, address: Option<IpAddr>) -> bool {
        let addresses = self.addresses.borrow();
        !addresses.known.is_empty() && address.is_some_and(|address| !addresses.include(address))
    }
}
