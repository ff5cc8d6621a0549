//! A bound socket, of the proxy or of the admin listener.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::{fs, io, net, os::unix::net as unix};

use socket2::{Domain, Protocol, Type};

use crate::config::settings::ListenAddress;

/// Connections that may wait to be accepted; the system's own bound may be lower.
const BACKLOG: i32 = 4096;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// Where it was tried.
    pub address: ListenAddress,
    /// Why not.
    pub source: io::Error,
}

/// A bound socket that nothing is served on yet.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: ListenAddress,
    file: Option<SocketFile>,
}

/// A listening socket, not blocking.
#[derive(Debug)]
pub enum Socket {
    /// By TCP.
    Tcp(net::TcpListener),
    /// By a file.
    Unix(unix::UnixListener),
}

/// Removes the file of a Unix socket when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds `address`. A Unix socket that a dead process left behind is replaced.
    ///
    /// # Errors
    /// Where the address is in use, not ours, or not allowed.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        let bound = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address),
            ListenAddress::Unix(path) => bind_unix(path),
        };
        bound.map_err(|source| BindError { address: address.clone(), source })
    }

    /// Where it listens, with the port that the system chose.
    pub const fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// The socket, and what is to be kept for as long as it listens.
    pub fn into_parts(self) -> (Socket, Option<SocketFile>) {
        (self.socket, self.file)
    }
}

fn bind_tcp(address: net::SocketAddr) -> io::Result<Listener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process that has ended may linger; they keep nobody from listening.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = net::TcpListener::from(socket);
    let address = ListenAddress::Tcp(listener.local_addr()?);
    Ok(Listener { socket: Socket::Tcp(listener), address, file: None })
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    let listener = match unix::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead_socket(path) => {
            fs::remove_file(path)?;
            unix::UnixListener::bind(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    let file = Some(SocketFile(path.to_owned()));
    Ok(Listener { socket: Socket::Unix(listener), address: ListenAddress::Unix(path.to_owned()), file })
}

fn is_dead_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && unix::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
