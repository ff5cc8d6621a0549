//! Accepts client connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use crate::listener::{Listener, Socket, SocketFile};

/// Pause after a failed accept, as while no file descriptor is left.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// An accepted connection, which no runtime owns yet.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// A listening socket, registered with the runtime that accepts.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Listens on a bound socket. Returns also the socket's file, which must be kept while the socket is open.
    pub(super) fn open(listener: Listener) -> io::Result<(Self, Option<SocketFile>)> {
        let (socket, file) = listener.into_parts();
        let acceptor = match socket {
            Socket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        };
        Ok((acceptor, file))
    }

    /// The next connection. It does not belong to this runtime, so that a worker can take it.
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
