//! Hands accepted connections to workers, within the limits on connections.

use std::convert::Infallible;
use std::io::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::acceptor::Accepted;
use super::configuration::Configuration;
use super::decision_slots::{DecisionConnections, DecisionSlot, Peer};
use super::rejected::{RejectedConnections, TooManyConnections, overload_response};
use crate::config::settings::Settings;
use crate::downstream::ClientListener;
use crate::limits::addresses::{AddressConnections, ConnectionGuard};

/// A connection that no limit has rejected.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) accepted: Accepted,
    pub(super) listener: ClientListener,
    pub(super) count: AddressCount,
    /// `None` for connections to the proxy listener.
    pub(super) slot: Option<DecisionSlot>,
}

/// Whether a connection counts for `limits.connections_per_address`.
#[derive(Debug)]
pub(super) enum AddressCount {
    /// It does not.
    None,
    /// It counts until the guard is dropped.
    Counted(#[expect(dead_code, reason = "held, not read")] ConnectionGuard),
    /// It will count for the address in its PROXY header.
    Pending(AddressLimit),
}

impl AddressCount {
    /// Counts a connection whose PROXY header reports `address`.
    ///
    /// # Errors
    /// [`TooManyConnections`] if the address has as many connections as it may.
    pub(super) fn proxied(self, address: IpAddr) -> Result<Self, TooManyConnections> {
        match self {
            Self::Pending(limit) => admit(&limit, address).map(Self::Counted),
            count => Ok(count),
        }
    }
}

/// `limits.connections_per_address`, shared by the dispatcher and the workers, which read PROXY headers.
type AddressLimit = Arc<Mutex<AddressConnections>>;

fn address_limit(max: usize) -> AddressLimit {
    Arc::new(Mutex::new(AddressConnections::new(max)))
}

fn admit(limit: &AddressLimit, address: IpAddr) -> Result<ConnectionGuard, TooManyConnections> {
    limit.lock().unwrap_or_else(PoisonError::into_inner).admit(address).ok_or(TooManyConnections)
}

/// A command for a worker.
pub(super) enum WorkerCommand {
    /// Serves a connection.
    Serve(Admitted),
    /// Ends each present connection after its next response.
    AnnounceShutdown,
    /// Applies a configuration to connections and requests that begin later.
    Apply {
        configuration: Arc<Configuration>,
        /// Dropped when the worker has applied it.
        applied: mpsc::Sender<Infallible>,
    },
}

/// A worker, as the dispatcher sees it.
pub(super) struct WorkerHandle {
    /// The number of connections that the worker has or will be handed.
    pub(super) load: Arc<AtomicUsize>,
    pub(super) commands: UnboundedSender<WorkerCommand>,
}

impl WorkerHandle {
    /// Sends a command. Returns whether the worker still runs.
    fn send(&self, command: WorkerCommand) -> bool {
        self.commands.send(command).is_ok()
    }
}

/// Spreads connections evenly over the workers. SO_REUSEPORT would spread them by a hash of their addresses: of four
/// connections one worker may get all.
pub(super) struct Dispatcher {
    workers: Vec<WorkerHandle>,
    /// The worker that is next if several have the fewest connections.
    next: usize,
    settings: Arc<Settings>,
    address_limit: Option<AddressLimit>,
    /// `None` if there is no decision listener.
    decisions: Option<DecisionConnections>,
    rejected: RejectedConnections,
}

impl Dispatcher {
    pub(super) fn new(
        workers: Vec<WorkerHandle>,
        settings: Arc<Settings>,
        rejected: RejectedConnections,
    ) -> Self {
        let address_limit = settings.limits.connections_per_address.map(address_limit);
        let decisions = settings.decision.address.as_ref().map(|_| DecisionConnections::default());
        Self { workers, next: 0, settings, address_limit, decisions, rejected }
    }

    /// The current settings.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Applies a configuration here and in all workers. Connections that are dispatched later are served by it.
    pub(super) fn apply(&mut self, configuration: &Arc<Configuration>, applied: &mpsc::Sender<Infallible>) {
        self.settings = Arc::clone(&configuration.settings);
        match (&mut self.address_limit, self.settings.limits.connections_per_address) {
            (Some(limit), Some(max)) => limit.lock().unwrap_or_else(PoisonError::into_inner).set_max(max),
            (limit, max) => *limit = max.map(address_limit),
        }
        for worker in &self.workers {
            let (configuration, applied) = (Arc::clone(configuration), applied.clone());
            worker.send(WorkerCommand::Apply { configuration, applied });
        }
    }

    /// Makes clients connect elsewhere: each present connection ends after its next response.
    pub(super) fn announce_shutdown(&self) {
        for worker in &self.workers {
            worker.send(WorkerCommand::AnnounceShutdown);
        }
    }

    /// Hands a connection to the worker with the fewest connections; in turn if several have the fewest.
    pub(super) fn dispatch(&mut self, accepted: Accepted, listener: ClientListener) {
        let loads: Vec<usize> =
            self.workers.iter().map(|worker| worker.load.load(Ordering::Relaxed)).collect();
        let total = loads.iter().sum();
        let peer = self.peer(&accepted, listener);
        let Ok(slot) = self.admit(peer, total) else { return self.reject(accepted, listener) };
        let Ok(count) = self.count(&accepted, peer) else { return self.reject(accepted, listener) };
        let workers = loads.len();
        let best = (0..workers).map(|step| (self.next + step) % workers).min_by_key(|&index| loads[index]);
        let Some(worker) = best.and_then(|index| self.workers.get(index)) else { return };
        self.next = best.map_or(0, |index| index + 1);
        worker.load.fetch_add(1, Ordering::Relaxed);
        if !worker.send(WorkerCommand::Serve(Admitted { accepted, listener, count, slot })) {
            worker.load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The kind of peer of a connection.
    fn peer(&self, accepted: &Accepted, listener: ClientListener) -> Peer {
        let address = match accepted {
            Accepted::Tcp(_, address) => Some(address.ip()),
            Accepted::Unix(_) => None,
        };
        match listener {
            ClientListener::Proxy => Peer::Client,
            ClientListener::Decision if self.settings.decision.trusts(address) => Peer::Proxy,
            ClientListener::Decision => Peer::Rejected,
        }
    }

    /// Admits a connection beside `total` others.
    fn admit(&self, peer: Peer, total: usize) -> Result<Option<DecisionSlot>, TooManyConnections> {
        let max = self.settings.limits.connections;
        match &self.decisions {
            Some(decisions) => decisions.admit(peer, total, max),
            None if total < max => Ok(None),
            None => Err(TooManyConnections),
        }
    }

    /// Counts a connection for `limits.connections_per_address`, which does not apply to the proxies of the decision
    /// listener.
    fn count(&self, accepted: &Accepted, peer: Peer) -> Result<AddressCount, TooManyConnections> {
        let Some(limit) = self.address_limit.as_ref().filter(|_| peer != Peer::Proxy) else {
            return Ok(AddressCount::None);
        };
        let listen = &self.settings.listen;
        match accepted {
            Accepted::Tcp(_, address) if !listen.trusts(address.ip()) => {
                admit(limit, address.ip()).map(AddressCount::Counted)
            }
            _ if listen.proxy_protocol => Ok(AddressCount::Pending(Arc::clone(limit))),
            Accepted::Tcp(..) | Accepted::Unix(_) => Ok(AddressCount::None),
        }
    }

    fn reject(&mut self, accepted: Accepted, listener: ClientListener) {
        self.rejected.count(Instant::now());
        // A client that waits for a TLS handshake could not read the response.
        let tls = match listener {
            ClientListener::Proxy => &self.settings.listen.tls,
            ClientListener::Decision => &self.settings.decision.tls,
        };
        if tls.is_empty() {
            let response = overload_response();
            // The dispatcher does not wait for a client that does not read.
            let _ = match accepted {
                Accepted::Tcp(mut stream, _) => stream.write(&response),
                Accepted::Unix(mut stream) => stream.write(&response),
            };
        }
    }
}
