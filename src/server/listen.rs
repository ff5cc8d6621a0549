//! Where clients connect, and which core gets whom.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::UnboundedSender;

use super::configuration::Configuration;
use super::last_answer::last_answer;
use super::reload::ApplyConfiguration;
use crate::config::settings::Settings;
use crate::limits::addresses::{AddressConnections, ConnectionGuard};
use crate::listener::{Listener, Socket, SocketFile};
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::target::OTHER;
use crate::response::own;
use crate::response::record::new_request_id;
use crate::telemetry::metrics::{CoreMetrics, RouteLabel};

/// A connection on its way to a core.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// A connection that no limit turned away.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) accepted: Accepted,
    pub(super) counted: Counted,
}

/// Whether a connection is counted as one of its address.
#[derive(Debug)]
pub(super) enum Counted {
    Not,
    As(#[expect(dead_code, reason = "held, not read")] ConnectionGuard),
    /// Of the address that its PROXY header tells, once that has come.
    AsTold(PerAddress),
}

impl Counted {
    /// Counts a connection of which `address` was told.
    ///
    /// # Errors
    /// Where that has as many as it may.
    pub(super) fn told(self, address: IpAddr) -> Result<Self, TooManyConnections> {
        match self {
            Self::AsTold(per_address) => admit(&per_address, address).map(Self::As),
            counted => Ok(counted),
        }
    }
}

/// `limits.connections_per_address`, for the thread that accepts, and for cores that are told addresses.
type PerAddress = Arc<Mutex<AddressConnections>>;

fn admit(per_address: &PerAddress, address: IpAddr) -> Result<ConnectionGuard, TooManyConnections> {
    per_address.lock().unwrap_or_else(PoisonError::into_inner).admit(address).ok_or(TooManyConnections)
}

/// An address has as many connections as it may.
#[derive(Debug)]
pub(super) struct TooManyConnections;

/// What a core is told.
pub(super) enum WorkerCommand {
    /// Serve a connection.
    Serve(Admitted),
    /// Have each connection of now end after its next answer.
    Announce,
    /// Serve by another configuration from now on.
    Adopt {
        configuration: Arc<Configuration>,
        /// To be dropped when that is done.
        adopted: mpsc::Sender<Infallible>,
    },
}

/// The listening socket, on the runtime that accepts.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Opens a bound socket; with it what is to be kept for as long as it is open.
    pub(super) fn open(listener: Listener) -> io::Result<(Self, Option<SocketFile>)> {
        let (socket, file) = listener.into_parts();
        let door = match socket {
            Socket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        };
        Ok((door, file))
    }

    /// The next connection, taken from this runtime so that another can have it.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream.into_std()?, address))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// A core, as the acceptor sees it.
pub(super) struct WorkerHandle {
    pub(super) load: Arc<AtomicUsize>,
    pub(super) sender: UnboundedSender<WorkerCommand>,
}

/// Spreads connections evenly over the cores. SO_REUSEPORT would spread them by a hash of their addresses:
/// of four connections one core may get all.
pub(super) struct Dispatcher {
    seats: Vec<WorkerHandle>,
    next: usize,
    settings: Arc<Settings>,
    per_address: Option<PerAddress>,
    rejected: RejectedConnections,
}

impl Dispatcher {
    pub(super) fn new(
        seats: Vec<WorkerHandle>,
        settings: Arc<Settings>,
        rejected: RejectedConnections,
    ) -> Self {
        let per_address = settings.limits.connections_per_address.map(count_each);
        Self { seats, next: 0, settings, per_address, rejected }
    }

    /// By what connections are seated.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Seats by another configuration from now on, and has every core serve by it. A connection that is seated
    /// after this is served by it as well.
    pub(super) fn adopt(&mut self, adoption: &ApplyConfiguration) {
        let ApplyConfiguration { configuration, adopted } = adoption;
        self.settings = Arc::clone(&configuration.settings);
        match (&mut self.per_address, self.settings.limits.connections_per_address) {
            (Some(connections), Some(most)) => {
                connections.lock().unwrap_or_else(PoisonError::into_inner).set_max(most);
            }
            (per_address, most) => *per_address = most.map(count_each),
        }
        for seat in &self.seats {
            let order =
                WorkerCommand::Adopt { configuration: Arc::clone(configuration), adopted: adopted.clone() };
            // A core that is gone serves nothing.
            let _ = seat.sender.send(order);
        }
    }

    /// Has clients go elsewhere: each connection of now ends after its next answer.
    pub(super) fn announce_the_end(&self) {
        for seat in &self.seats {
            // A core that is gone has no connection.
            let _ = seat.sender.send(WorkerCommand::Announce);
        }
    }

    /// Gives a connection to the core that has the fewest; in turn where several have.
    pub(super) fn seat(&mut self, accepted: Accepted) {
        let loads: Vec<usize> = self.seats.iter().map(|seat| seat.load.load(Ordering::Relaxed)).collect();
        if loads.iter().sum::<usize>() >= self.settings.limits.connections {
            return self.turn_away(accepted);
        }
        let Ok(counted) = self.count(&accepted) else { return self.turn_away(accepted) };
        let count = loads.len();
        let best = (0..count).map(|step| (self.next + step) % count).min_by_key(|&index| loads[index]);
        let Some(seat) = best.and_then(|index| self.seats.get(index)) else { return };
        self.next = best.map_or(0, |index| index + 1);
        seat.load.fetch_add(1, Ordering::Relaxed);
        if seat.sender.send(WorkerCommand::Serve(Admitted { accepted, counted })).is_err() {
            seat.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn count_each(most: usize) -> PerAddress {
    Arc::new(Mutex::new(AddressConnections::new(most)))
}

impl Dispatcher {
    fn count(&self, accepted: &Accepted) -> Result<Counted, TooManyConnections> {
        let Some(per_address) = &self.per_address else { return Ok(Counted::Not) };
        let listen = &self.settings.listen;
        match accepted {
            Accepted::Tcp(_, address) if !listen.trusts(address.ip()) => {
                admit(per_address, address.ip()).map(Counted::As)
            }
            _ if listen.proxy_protocol => Ok(Counted::AsTold(Arc::clone(per_address))),
            Accepted::Tcp(..) | Accepted::Unix(_) => Ok(Counted::Not),
        }
    }

    fn turn_away(&mut self, accepted: Accepted) {
        self.rejected.count(Instant::now());
        // A client that awaits a handshake could not read it.
        if self.settings.listen.tls.is_empty() {
            let answer = overload_response();
            // If it can be told without waiting.
            let _ = match accepted {
                Accepted::Tcp(mut stream, _) => stream.write(&answer),
                Accepted::Unix(mut stream) => stream.write(&answer),
            };
        }
    }
}

/// What becomes known of the connections that were turned away.
pub(super) struct RejectedConnections {
    metrics: CoreMetrics,
    unlogged: u64,
    logged_at: Option<Instant>,
}

impl RejectedConnections {
    /// `metrics` are those of the thread that turns them away.
    pub(super) const fn new(metrics: CoreMetrics) -> Self {
        Self { metrics, unlogged: 0, logged_at: None }
    }

    /// Counts one as the request that it did not get to send, and logs how many there were, once a second at
    /// most.
    pub(super) fn count(&mut self, now: Instant) {
        let (route, status) = (RouteLabel::None, StatusCode::SERVICE_UNAVAILABLE);
        self.metrics.request(route, &OTHER, status, Reason::Overloaded, Duration::ZERO);
        self.unlogged += 1;
        let pause = Duration::from_secs(1);
        if self.logged_at.is_none_or(|at| now.duration_since(at) >= pause) {
            self.logged_at = Some(now);
            tracing::warn!(
                connections = std::mem::take(&mut self.unlogged),
                "turned away: too many connections"
            );
        }
    }
}

/// What a client is told where there are too many.
pub(super) fn overload_response() -> Vec<u8> {
    last_answer(&own::refuse(&Refusal::Overloaded, new_request_id()), false)
}

/// How long to wait after an accept that failed, as it does while no file descriptor is left.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(50);
