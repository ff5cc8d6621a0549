//! From a host name to its addresses.
//!
//! The order is glibc's: what `/etc/hosts` knows is never asked of a name server, for neither family.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{IntoName, Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::runtime;

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
    /// The name servers did not answer, or not with addresses.
    #[error("{0}")]
    Lookup(#[source] NetError),
    /// There is such a name, without an address.
    #[error("the name has no address")]
    NoAddresses,
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
    let system = current();
    let found = system.lookup(host).await;
    if found.is_err() {
        // The files may have changed, and a remembered "no such name" would delay a recovery.
        SYSTEM.take();
    }
    found
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    last.eq_ignore_ascii_case("localhost")
}

fn current() -> System {
    let id = runtime::Handle::current().id();
    SYSTEM.with_borrow_mut(|slot| match slot {
        Some((of, system)) if *of == id => system.clone(),
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
    hosts: Arc<Hosts>,
    name_servers: Result<TokioResolver, NetError>,
}

impl System {
    fn read() -> Self {
        Self {
            hosts: Hosts::from_system().unwrap_or_default().into(),
            name_servers: TokioResolver::builder_tokio().and_then(|mut builder| {
                set_options(builder.options_mut());
                builder.build()
            }),
        }
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let name = host.into_name().map_err(|error| ResolveError::Name(error.into()))?;
        let known = self.in_hosts(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        let name_servers =
            self.name_servers.as_ref().map_err(|error| ResolveError::NoNameServers(error.clone()))?;
        let found: Vec<IpAddr> =
            name_servers.lookup_ip(name).await.map_err(ResolveError::Lookup)?.iter().collect();
        if found.is_empty() { Err(ResolveError::NoAddresses) } else { Ok(found) }
    }

    fn in_hosts(&self, name: &Name) -> Vec<IpAddr> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|family| self.hosts.lookup_static_host(&Query::query(name.clone(), family)))
            .flat_map(|found| {
                found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
            })
            .collect()
    }
}
