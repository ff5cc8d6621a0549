//! `limits.connections` of two listeners: neither the clients of the proxy listener nor the proxies of the decision
//! listener can take all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rejected::TooManyConnections;

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A client of the proxy listener.
    Client,
    /// A trusted proxy of the decision listener.
    Proxy,
    /// An untrusted peer of the decision listener, which gets 403.
    Rejected,
}

/// A connection to the decision listener, counted until it is dropped.
#[derive(Debug)]
pub(super) struct DecisionSlot(Arc<AtomicUsize>);

impl DecisionSlot {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for DecisionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The numbers of connections to the decision listener.
#[derive(Debug, Default)]
pub(super) struct DecisionConnections {
    proxies: Arc<AtomicUsize>,
    rejected: Arc<AtomicUsize>,
}

impl DecisionConnections {
    /// Admits a connection beside `total` others, of which there may be `max`. A tenth of `max` is reserved for each
    /// listener. Untrusted peers can take half of that: if
    /// there can be five connections, one of them can get the 403 that says why.
    ///
    /// # Errors
    /// [`TooManyConnections`] if it may not be served.
    pub(super) fn admit(
        &self,
        peer: Peer,
        total: usize,
        max: usize,
    ) -> Result<Option<DecisionSlot>, TooManyConnections> {
        let least = if max < 5 { 1 } else { 2 };
        let reserved = max.div_ceil(10).max(least).min(max.saturating_sub(1));
        let (proxies, rejected) =
            (self.proxies.load(Ordering::Relaxed), self.rejected.load(Ordering::Relaxed));
        let (present, most) = match peer {
            Peer::Client => (total.saturating_sub(proxies + rejected), max - reserved),
            Peer::Proxy => (proxies, max - reserved),
            Peer::Rejected => (rejected, reserved / 2),
        };
        if total >= max || present >= most {
            return Err(TooManyConnections);
        }
        Ok(match peer {
            Peer::Client => None,
            Peer::Proxy => Some(DecisionSlot::take(&self.proxies)),
            Peer::Rejected => Some(DecisionSlot::take(&self.rejected)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits peers of one kind beside others, as many as possible.
    fn fill(
        connections: &DecisionConnections,
        peer: Peer,
        max: usize,
        slots: &mut Vec<Option<DecisionSlot>>,
    ) {
        while let Ok(slot) = connections.admit(peer, slots.len(), max) {
            slots.push(slot);
        }
    }

    #[test]
    fn no_peers_can_take_all_connections() {
        use Peer::{Client, Proxy, Rejected};
        for max in [2, 3, 4, 5, 9, 10, 11, 20, 100, 10_000] {
            for (others, peer) in [
                ([Client, Rejected], Proxy),
                ([Rejected, Client], Proxy),
                ([Proxy, Rejected], Client),
                ([Rejected, Proxy], Client),
            ] {
                let (connections, mut slots) = (DecisionConnections::default(), Vec::new());
                others.into_iter().for_each(|other| fill(&connections, other, max, &mut slots));
                let taken = slots.len();
                fill(&connections, peer, max, &mut slots);
                let left = slots.len() - taken;
                assert_eq!(slots.len(), max, "{max} {others:?}");
                assert!(left >= (max / 20).max(1), "{max} {others:?}: {left}");
            }
        }
    }

    #[test]
    fn slots_are_free_when_connections_end() {
        let (connections, mut slots) = (DecisionConnections::default(), Vec::new());
        fill(&connections, Peer::Proxy, 100, &mut slots);
        assert_eq!(slots.len(), 90);
        slots.clear();
        fill(&connections, Peer::Rejected, 100, &mut slots);
        assert_eq!(slots.len(), 5);
        slots.clear();
        fill(&connections, Peer::Client, 100, &mut slots);
        assert_eq!(slots.len(), 90);
        let one = DecisionConnections::default();
        assert!(one.admit(Peer::Proxy, 0, 1).is_ok() && one.admit(Peer::Client, 0, 1).is_ok());
    }
}
