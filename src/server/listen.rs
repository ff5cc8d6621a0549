//! Where clients connect, and which core gets whom.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::UnboundedSender;

use crate::listener::{Listener, Socket, SocketFile};

/// A connection on its way to a core.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// The listening socket, on the runtime that accepts.
pub(super) enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
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
pub(super) struct Seat {
    pub(super) load: Arc<AtomicUsize>,
    pub(super) sender: UnboundedSender<Accepted>,
}

/// Spreads connections evenly over the cores. SO_REUSEPORT would spread them by a hash of their addresses:
/// of four connections one core may get all.
pub(super) struct Seating {
    seats: Vec<Seat>,
    next: usize,
    bound: usize,
}

impl Seating {
    pub(super) const fn new(seats: Vec<Seat>, bound: usize) -> Self {
        Self { seats, next: 0, bound }
    }

    /// Gives a connection to the core that has the fewest; in turn where several have.
    pub(super) fn seat(&mut self, accepted: Accepted) {
        let loads: Vec<usize> = self.seats.iter().map(|seat| seat.load.load(Ordering::Relaxed)).collect();
        if loads.iter().sum::<usize>() >= self.bound {
            turn_away(accepted);
            return;
        }
        let count = loads.len();
        let best = (0..count).map(|step| (self.next + step) % count).min_by_key(|&index| loads[index]);
        let Some(seat) = best.and_then(|index| self.seats.get(index)) else { return };
        self.next = best.map_or(0, |index| index + 1);
        seat.load.fetch_add(1, Ordering::Relaxed);
        if seat.sender.send(accepted).is_err() {
            seat.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Tells a client that there are too many, if it can be told without waiting.
fn turn_away(accepted: Accepted) {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\n\
        content-type: application/json\r\ncache-control: no-store\r\nretry-after: 1\r\n\
        x-request-id: {:032x}\r\ncontent-length: 34\r\nconnection: close\r\n\r\n\
        {{\"message\":\"Service Unavailable.\"}}",
        fastrand::u128(..)
    );
    let _ = match accepted {
        Accepted::Tcp(mut stream, _) => stream.write(answer.as_bytes()),
        Accepted::Unix(mut stream) => stream.write(answer.as_bytes()),
    };
}

/// How long to wait after an accept that failed, as it does while no file descriptor is left.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(50);
