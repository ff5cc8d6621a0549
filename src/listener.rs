//! Bound listening sockets, and the connection slots of listeners that serve short requests.

pub mod connections;

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::{env, ffi, fmt, fs, io, net, os::linux::net::SocketAddrExt, os::unix::net as unix, process};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Type};

use crate::config::settings::ListenAddress;

/// The length of the accept queue. The kernel may cap it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// An address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The configured address.
    pub address: ListenAddress,
    /// The error of the system.
    pub source: io::Error,
}

/// A bound socket that does not accept connections yet.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: ListenAddress,
    file: Option<SocketFile>,
    inherited: bool,
}

/// A non-blocking listening socket.
#[derive(Debug)]
pub enum Socket {
    /// A TCP socket.
    Tcp(net::TcpListener),
    /// A Unix socket, bound to a file or an abstract name.
    Unix(unix::UnixListener),
}

/// Removes the file of a Unix socket when dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds `address`. Replaces the file of a Unix socket that no process listens on.
    ///
    /// # Errors
    /// Returns an error if the address is in use, is not one of this host, or may not be bound.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        let bound = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address),
            ListenAddress::Unix(path) => bind_unix(path),
        };
        bound.map_err(|source| BindError { address: address.clone(), source })
    }

    /// The bound address, with the port that the system chose for port 0.
    pub const fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Whether the process that started this one bound the socket, which then outlives this process.
    pub const fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The socket, and a guard to keep while the socket is used.
    pub fn into_parts(self) -> (Socket, Option<SocketFile>) {
        (self.socket, self.file)
    }
}

fn bind_tcp(address: net::SocketAddr) -> io::Result<Listener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Otherwise connections in TIME_WAIT of a previous process would block the address.
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

/// The purpose of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `listen.address`
    Proxy,
    /// `admin.address`
    Admin,
    /// `listen.redirect_address`
    Redirect,
    /// `decision.address`
    Decision,
}

impl Role {
    /// The order in which inherited sockets without names are assigned.
    const ALL: [Self; 4] = [Self::Proxy, Self::Admin, Self::Redirect, Self::Decision];

    /// The name in logs and in `LISTEN_FDNAMES`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Admin => "admin",
            Self::Redirect => "redirect",
            Self::Decision => "decision",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Listening sockets of the parent process: systemd's socket activation (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Role, Listener)>);

/// The inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// `LISTEN_FDS` is not a number, or exceeds the number of listeners.
    #[error(
        "LISTEN_FDS is `{0}`: expected the number of sockets that are passed, 4 at most: proxy, admin, redirect, \
         decision"
    )]
    Count(String),
    /// The number of names differs from the number of sockets.
    #[error("LISTEN_FDNAMES has {names} names for {sockets} sockets")]
    Names {
        /// The number of names in `LISTEN_FDNAMES`.
        names: usize,
        /// The value of `LISTEN_FDS`.
        sockets: usize,
    },
    /// One name is a listener's, another is unknown.
    #[error(
        "LISTEN_FDNAMES names a socket `{0}`: expected `proxy`, `admin`, `redirect` or `decision`, or none of these \
         at all"
    )]
    Unknown(String),
    /// Two sockets have the same name.
    #[error("LISTEN_FDNAMES names two sockets `{0}`")]
    Twice(Role),
    /// A file descriptor is not a listening TCP or Unix stream socket.
    #[error("the socket that is passed for `{role}` (file descriptor {number}) cannot be used: {source}")]
    Socket {
        /// The listener that the socket is for.
        role: Role,
        /// The file descriptor.
        number: usize,
        /// What is wrong with the socket.
        source: io::Error,
    },
    /// TLS is supported on TCP only.
    #[error("a Unix socket is passed for `{0}`, but {1} is set")]
    Unencrypted(Role, &'static str),
    /// A listener that is off has no configuration.
    #[error("a socket is passed for `{0}`, but {1} is not set")]
    NotConfigured(Role, &'static str),
}

impl Inherited {
    /// Takes the sockets that `LISTEN_FDS` announces; none if it is unset. Call it once, before other threads exist:
    /// it changes the environment.
    ///
    /// # Errors
    /// [`InheritError`]
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

    /// Takes the socket for `role`, if one was inherited.
    pub fn remove(&mut self, role: Role) -> Option<Listener> {
        let index = self.0.iter().position(|(its, _)| *its == role)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// The number of sockets that were passed to this process.
fn count() -> Result<usize, InheritError> {
    let other = |id: String| !id.is_empty() && id != process::id().to_string();
    let Some(count) = env::var_os("LISTEN_FDS") else { return Ok(0) };
    // The variables were meant for a parent process that did not remove them.
    if env::var("LISTEN_PID").is_ok_and(other) {
        return Ok(0);
    }
    let number = count.to_str().and_then(|count| count.parse().ok());
    number
        .filter(|number| *number <= Role::ALL.len())
        .ok_or_else(|| InheritError::Count(count.to_string_lossy().into_owned()))
}

/// The role of each of `sockets` sockets. systemd names a socket after its unit by default: if no name is the name of
/// a listener, the order of the sockets decides.
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
    // The process that bound the socket owns its file.
    Ok(Listener { socket, address, file: None, inherited: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherited_sockets_get_their_role_by_name_or_order() {
        use Role::{Admin, Decision, Proxy, Redirect};
        for (sockets, names, expected) in [
            (0, None, &[][..]),
            (0, Some("of:another:process"), &[]),
            (1, None, &[Proxy]),
            (2, None, &[Proxy, Admin]),
            (4, None, &[Proxy, Admin, Redirect, Decision]),
            (1, Some("stockaj-gateway.socket"), &[Proxy]),
            (2, Some("stockaj-gateway.socket:stockaj-gateway-admin.socket"), &[Proxy, Admin]),
            (2, Some("unknown:unknown"), &[Proxy, Admin]),
            (1, Some("admin"), &[Admin]),
            (2, Some("redirect:proxy"), &[Redirect, Proxy]),
            (2, Some("proxy:decision"), &[Proxy, Decision]),
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
