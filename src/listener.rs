//! A bound socket, of the proxy or of the admin listener, and the connections of one that answers short requests.

pub mod connections;

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::{env, ffi, fmt, fs, io, net, os::linux::net::SocketAddrExt, os::unix::net as unix, process};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Type};

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
    inherited: bool,
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

    /// Whether somebody else listened before this process, and goes on after it.
    pub const fn is_inherited(&self) -> bool {
        self.inherited
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
    Ok(Listener { socket: Socket::Tcp(listener), address, file: None, inherited: false })
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
    let address = ListenAddress::Unix(path.to_owned());
    Ok(Listener { socket: Socket::Unix(listener), address, file, inherited: false })
}

fn is_dead_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && unix::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `listen.address`
    Proxy,
    /// `admin.address`
    Admin,
    /// `listen.redirect_address`
    Redirect,
}

impl Role {
    /// In the order in which sockets without names are taken.
    const ALL: [Self; 3] = [Self::Proxy, Self::Admin, Self::Redirect];

    /// The word for it in logs, and the name of its socket.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Admin => "admin",
            Self::Redirect => "redirect",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Sockets that whoever started this process listens on already: systemd's socket activation (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Role, Listener)>);

/// Why the sockets that were passed cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// `LISTEN_FDS` is not a number, or larger than there are listeners.
    #[error(
        "LISTEN_FDS is `{0}`: expected the number of sockets that are passed, 3 at most: proxy, admin, redirect"
    )]
    Count(String),
    /// As many names as sockets are needed.
    #[error("LISTEN_FDNAMES has {names} names for {sockets} sockets")]
    Names {
        /// In `LISTEN_FDNAMES`.
        names: usize,
        /// In `LISTEN_FDS`.
        sockets: usize,
    },
    /// A name is known beside one that is not.
    #[error(
        "LISTEN_FDNAMES names a socket `{0}`: expected `proxy`, `admin` or `redirect`, or none of these at all"
    )]
    Unknown(String),
    /// A name is there twice.
    #[error("LISTEN_FDNAMES names two sockets `{0}`")]
    Twice(Role),
    /// A socket is not one of those that can be listened on.
    #[error("the socket that is passed for `{role}` (file descriptor {number}) cannot be used: {source}")]
    Socket {
        /// What it is passed for.
        role: Role,
        /// Its file descriptor.
        number: usize,
        /// What is wrong with it.
        source: io::Error,
    },
    /// TLS is for TCP alone.
    #[error("a Unix socket is passed for `proxy`, but listen.tls is set")]
    Unencrypted,
    /// Nothing says that it is to be served.
    #[error("a socket is passed for `redirect`, but listen.redirect_address is not set")]
    NotConfigured,
}

impl Inherited {
    /// Takes what the environment says was passed; nothing where it says nothing. To be called once, before there
    /// are other threads: it changes the environment.
    ///
    /// # Errors
    /// Where what was passed is not what can be served on.
    pub fn take() -> Result<Self, InheritError> {
        let sockets = count()?;
        let names = env::var("LISTEN_FDNAMES").ok().filter(|names| !names.is_empty());
        let roles = roles(sockets, names.as_deref())?;
        let mut passed = if sockets == 0 { ListenFd::empty() } else { ListenFd::from_env() };
        let take = |(index, role): (usize, Role)| match inherit(&mut passed, index) {
            Ok(listener) => Ok((role, listener)),
            Err(source) => Err(InheritError::Socket { role, number: 3 + index, source }),
        };
        roles.into_iter().enumerate().map(take).collect::<Result<_, _>>().map(Self)
    }

    /// The one for that, if it was passed.
    pub fn remove(&mut self, role: Role) -> Option<Listener> {
        let index = self.0.iter().position(|(its, _)| *its == role)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// How many sockets were passed to this process.
fn count() -> Result<usize, InheritError> {
    let other = |id: String| !id.is_empty() && id != process::id().to_string();
    let Some(count) = env::var_os("LISTEN_FDS") else { return Ok(0) };
    // Passed to a parent of ours, which did not clean up.
    if env::var("LISTEN_PID").is_ok_and(other) {
        return Ok(0);
    }
    let number = count.to_str().and_then(|count| count.parse().ok());
    number
        .filter(|number| *number <= Role::ALL.len())
        .ok_or_else(|| InheritError::Count(count.to_string_lossy().into_owned()))
}

/// What each of so many sockets is for. systemd names a socket after its unit unless it is told otherwise: where no
/// name is one of ours, their order counts.
fn roles(sockets: usize, names: Option<&str>) -> Result<Vec<Role>, InheritError> {
    let names: Vec<&str> =
        names.filter(|_| sockets > 0).map_or_else(Vec::new, |names| names.split(':').collect());
    let known = |name: &&str| Role::ALL.into_iter().find(|role| role.name() == *name);
    if !names.is_empty() && names.len() != sockets {
        return Err(InheritError::Names { names: names.len(), sockets });
    }
    if !names.iter().any(|name| known(name).is_some()) {
        return Ok(Role::ALL.into_iter().take(sockets).collect());
    }
    let mut roles = Vec::new();
    for name in &names {
        let role = known(name).ok_or_else(|| InheritError::Unknown((*name).to_owned()))?;
        if roles.contains(&role) {
            return Err(InheritError::Twice(role));
        }
        roles.push(role);
    }
    Ok(roles)
}

fn inherit(passed: &mut ListenFd, index: usize) -> io::Result<Listener> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let (socket, address) = if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
        listener.set_nonblocking(true)?;
        let address = ListenAddress::Tcp(listener.local_addr()?);
        (Socket::Tcp(listener), address)
    } else {
        let listener = passed
            .take_unix_listener(index)
            .map_err(|_| wrong("it is neither a TCP socket nor a Unix stream socket"))?
            .ok_or_else(|| wrong("it is not there"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let abstract_name = || Some([b"@", address.as_abstract_name()?].concat());
        let path = address.as_pathname().map(Path::to_owned);
        let path = path.or_else(|| Some(ffi::OsString::from_vec(abstract_name()?).into()));
        (Socket::Unix(listener), ListenAddress::Unix(path.unwrap_or_default()))
    };
    let listens = match &socket {
        Socket::Tcp(listener) => SockRef::from(listener).is_listener(),
        Socket::Unix(listener) => SockRef::from(listener).is_listener(),
    };
    if !listens? {
        return Err(wrong("it does not listen"));
    }
    // Its file is whoever's who bound it.
    Ok(Listener { socket, address, file: None, inherited: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_socket_is_for() {
        use Role::{Admin, Proxy, Redirect};
        for (sockets, names, expected) in [
            (0, None, &[][..]),
            (0, Some("of:another:process"), &[]),
            (1, None, &[Proxy]),
            (2, None, &[Proxy, Admin]),
            (3, None, &[Proxy, Admin, Redirect]),
            (1, Some("stockaj-gateway.socket"), &[Proxy]),
            (2, Some("stockaj-gateway.socket:stockaj-gateway-admin.socket"), &[Proxy, Admin]),
            (2, Some("unknown:unknown"), &[Proxy, Admin]),
            (1, Some("admin"), &[Admin]),
            (2, Some("redirect:proxy"), &[Redirect, Proxy]),
        ] {
            assert_eq!(roles(sockets, names).unwrap(), expected, "{sockets} {names:?}");
        }
        for (sockets, names, expected) in [
            (2, "proxy", "LISTEN_FDNAMES has 1 names for 2 sockets"),
            (1, "proxy:admin", "LISTEN_FDNAMES has 2 names for 1 sockets"),
            (2, "proxy:admni", "LISTEN_FDNAMES names a socket `admni`"),
            (2, "proxy:proxy", "LISTEN_FDNAMES names two sockets `proxy`"),
        ] {
            let error = roles(sockets, Some(names)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
