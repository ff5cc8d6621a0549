//! From a host name to its addresses.
//!
//! The order is glibc's: what `/etc/hosts` knows is never asked of a name server, for neither family.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::Name;
use tokio::runtime;

use crate::watch::{Signature, signature};

#[cfg(test)]
mod tests;

/// How long one question to one name server may take: short enough that a lost datagram is asked again
/// within the default `connect_timeout`.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a name has no addresses. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It cannot stand in a DNS question.
    #[error("not a host name: {0}")]
    Name(#[source] NetError),
    /// `/etc/hosts` does not know it, and there is no usable `/etc/resolv.conf`.
    #[error("not in /etc/hosts, and /etc/resolv.conf is of no use: {0}")]
    NoNameServers(#[source] NetError),
    /// The name servers did not answer, or with an error.
    #[error("{0}")]
    Lookup(#[source] NetError),
    /// The name servers know no such name.
    #[error("no such name")]
    NoSuchName,
    /// There is such a name, without an address.
    #[error("the name has no address")]
    NoAddresses,
}

impl From<NetError> for ResolveError {
    fn from(error: NetError) -> Self {
        if error.is_nx_domain() {
            Self::NoSuchName
        } else if error.is_no_records_found() {
            Self::NoAddresses
        } else {
            Self::Lookup(error)
        }
    }
}

thread_local! {
    /// The system's view of names, for the runtime of this thread. hickory keeps sockets to
    /// name servers and drives them by tasks on the runtime that first asked: with one resolver for several
    /// current-thread runtimes, a lookup on an idle one waits until the busy first one comes round to it.
    static SYSTEM: RefCell<Option<(runtime::Id, System)>> = const { RefCell::new(None) };
}

/// The addresses of `host`, IPv4 first. An IP address is its own; `localhost` is loopback (RFC 6761
/// section 6.3) whatever the files say.
pub(super) async fn resolve(host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if is_localhost(host) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let found = current().lookup(host).await;
    if found.is_err() {
        forget();
    }
    found
}

/// After a lookup that failed or took too long: the files may have changed meanwhile, and a remembered "no
/// such name" would delay a recovery.
pub(super) fn forget() {
    SYSTEM.take();
}

/// Whether a host is a name whose addresses may change.
pub(super) fn is_looked_up(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && !is_localhost(host)
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    last.eq_ignore_ascii_case("localhost")
}

fn current() -> System {
    let id = runtime::Handle::current().id();
    SYSTEM.with_borrow_mut(|slot| match slot {
        Some((of, system)) if *of == id && system.files == files() => system.clone(),
        _ => {
            let system = System::read();
            *slot = Some((id, system.clone()));
            system
        }
    })
}

fn set_options(options: &mut ResolverOpts) {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(QUESTION_TIMEOUT);
    options.use_hosts_file = ResolveHosts::Never;
}

/// `/etc/hosts` and `/etc/resolv.conf`, read.
#[derive(Clone)]
struct System {
    files: Files,
    hosts: Arc<Hosts>,
    name_servers: Result<TokioResolver, NetError>,
}

/// How the two files look from outside.
type Files = [Option<Signature>; 2];

fn files() -> Files {
    ["/etc/hosts", "/etc/resolv.conf"].map(|path| signature(Path::new(path)))
}

/// The addresses of each lower-case name, IPv4 first. hickory has such a type too, which leaves out names
/// with a `_` in them.
type Hosts = HashMap<String, Vec<IpAddr>>;

impl System {
    fn read() -> Self {
        Self {
            // Before they are read: what changes meanwhile is read again the next time.
            files: files(),
            hosts: Arc::new(
                std::fs::read("/etc/hosts").map_or_else(|_| Hosts::new(), |text| read_hosts(&text)),
            ),
            name_servers: TokioResolver::builder_tokio().and_then(|mut builder| {
                set_options(builder.options_mut());
                builder.build()
            }),
        }
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let plain = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if let Some(known) = self.hosts.get(&plain) {
            return Ok(known.clone());
        }
        let name_servers =
            self.name_servers.as_ref().map_err(|error| ResolveError::NoNameServers(error.clone()))?;
        // Relaxed: containers may well be called `my_app`.
        let name = Name::from_str_relaxed(host).map_err(|error| ResolveError::Name(error.into()))?;
        let found: Vec<IpAddr> = name_servers.lookup_ip(name).await?.iter().collect();
        if found.is_empty() { Err(ResolveError::NoAddresses) } else { Ok(found) }
    }
}

fn read_hosts(text: &[u8]) -> Hosts {
    let mut hosts = Hosts::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            hosts.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    hosts.values_mut().for_each(|addresses| addresses.sort_by_key(IpAddr::is_ipv6));
    hosts
}
