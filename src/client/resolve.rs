//! Resolves host names.
//!
//! `/etc/hosts` comes first, as in glibc: a name in it is never queried, for neither family. Otherwise A and AAAA are
//! separate concurrent queries, so that a missing response to one costs [`RESOLUTION_DELAY`] and not the lookup (RFC
//! 8305 section 3).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{NetError, NoRecords};
use hickory_resolver::proto::op::{Query as Question, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::watch::{FileSignature, file_signature};

#[cfg(test)]
mod tests;

/// Name servers that are queried concurrently: as many as `/etc/resolv.conf` can have (`MAXNS` of glibc), so that an
/// unresponsive one does not use up `connect_timeout`.
const CONCURRENT_QUERIES: usize = 3;
/// Timeout of a query: the default of resolv.conf(5), which is also its maximum. It exceeds the default
/// `connect_timeout`, since hickory retransmits within it (three datagrams, 333 ms apart or more) and accepts a
/// response to each. A shorter one would discard the response of a slower name server at every retry.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first family's addresses wait for the second family (RFC 8305 section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Like [`RESOLUTION_DELAY`], for a family that has recently missed it: enough for a response from the cache.
const CACHE_DELAY: Duration = Duration::from_millis(5);
/// How long a family that missed [`RESOLUTION_DELAY`] only gets [`CACHE_DELAY`].
const LATE_MEMORY: Duration = Duration::from_secs(30);

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

impl Family {
    /// The family of `address`.
    pub(super) const fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    const fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) struct Resolved {
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
    /// The family whose query failed, so that it may have addresses that are not listed.
    pub(super) unanswered: Option<Family>,
    /// The query without a response so far.
    pub(super) late: Option<LateAnswer>,
}

impl Resolved {
    /// All addresses of both families.
    const fn complete(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, unanswered: None, late: None }
    }
}

/// A query that continues in the background. It ends after all retries; its response is then in the cache.
#[derive(Debug)]
pub(super) struct LateAnswer {
    /// Whether an earlier query of this name and family was late, too.
    pub(super) is_repeated: bool,
    query: Query,
}

impl LateAnswer {
    /// The addresses; `None` if the query failed.
    pub(super) async fn addresses(&mut self) -> Option<Vec<IpAddr>> {
        finish(&mut self.query)
            .await
            .or_else(|error| error.is_no_records_found().then(Vec::new).ok_or(error))
            .ok()
    }
}

type Query = JoinHandle<Result<Vec<IpAddr>, NetError>>;

async fn finish(query: &mut Query) -> Result<Vec<IpAddr>, NetError> {
    query.await.unwrap_or(Err(NetError::Message("the query was aborted")))
}

/// Why a name has no addresses. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name is not valid in DNS.
    #[error("invalid host name: {0}")]
    Name(#[source] NetError),
    /// The name is not in `/etc/hosts`, and `/etc/resolv.conf` is missing or unusable.
    #[error("not in /etc/hosts, and /etc/resolv.conf is unusable: {0}")]
    NoNameServers(#[source] NetError),
    /// Both queries failed for the same reason.
    #[error("{0}")]
    Lookup(#[source] NetError),
    /// The queries failed for different reasons, at least one of them other than a missing record.
    #[error("A: {}; AAAA: {}", describe(a), describe(aaaa))]
    Families {
        /// The error of the query for IPv4 addresses.
        a: Box<NetError>,
        /// The error of the query for IPv6 addresses.
        aaaa: Box<NetError>,
    },
    /// The name does not exist.
    #[error("no such name")]
    NoSuchName,
    /// The name exists but has no address.
    #[error("the name has no address")]
    NoAddresses,
}

fn describe(error: &NetError) -> String {
    if error.is_nx_domain() {
        "no such name".to_owned()
    } else if error.is_no_records_found() {
        "no address".to_owned()
    } else {
        error.to_string()
    }
}

impl ResolveError {
    fn of_families(a: NetError, aaaa: NetError) -> Self {
        if a.is_nx_domain() && aaaa.is_nx_domain() {
            Self::NoSuchName
        } else if a.is_no_records_found() && aaaa.is_no_records_found() {
            Self::NoAddresses
        } else if a.to_string() == aaaa.to_string() {
            Self::Lookup(a)
        } else {
            Self::Families { a: Box::new(a), aaaa: Box::new(aaaa) }
        }
    }

    /// Among several candidate names, the error with the highest rank is reported: a failing name server may hide an
    /// existing name.
    const fn rank(&self) -> u8 {
        match self {
            Self::NoSuchName => 0,
            Self::NoAddresses => 1,
            _ => 2,
        }
    }
}

thread_local! {
    /// The system's resolver configuration, for the runtime of this thread. hickory keeps sockets to name servers and
    /// drives them by tasks on the runtime that first used them: with one resolver for several current-thread runtimes,
    /// a lookup on an idle one would wait for the busy first one.
    static SYSTEM: RefCell<Option<(runtime::Id, System)>> = const { RefCell::new(None) };
}

/// The addresses of `host`. An IP address resolves to itself; `localhost` is loopback (RFC 6761 section 6.3) regardless
/// of the files.
pub(super) async fn resolve(host: &str) -> Result<Resolved, ResolveError> {
    if let Ok(address) = host.parse() {
        return Ok(Resolved::complete(vec![address]));
    }
    if is_localhost(host) {
        return Ok(Resolved::complete(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
    }
    let found = current().lookup(host).await;
    if found.is_err() {
        forget();
    }
    found
}

/// Drops the cache after a failed lookup or a timeout: the files may have changed, and a cached "no such name" would
/// delay recovery.
pub(super) fn forget() {
    SYSTEM.take();
}

/// Whether the host is a name whose addresses may change.
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

/// The name servers and what `/etc/resolv.conf` says about names.
#[derive(Clone)]
struct NameServers {
    resolver: TokioResolver,
    search: Arc<[Name]>,
    ndots: usize,
    /// When a query of this name and family last missed [`RESOLUTION_DELAY`]. At most one entry per configured name and
    /// search domain.
    late: Arc<Mutex<HashMap<(Name, Family), Instant>>>,
}

impl NameServers {
    fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, NetError> {
        options.timeout = options.timeout.min(QUERY_TIMEOUT);
        options.num_concurrent_reqs = CONCURRENT_QUERIES;
        options.use_hosts_file = ResolveHosts::Never;
        let ndots = options.ndots;
        let mut search: Vec<Name> = config.domain().into_iter().chain(config.search()).cloned().collect();
        search.dedup();
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self { resolver: builder.build()?, search: search.into(), ndots, late: Arc::default() })
    }

    /// The names to try, in order: `name` itself, and `name` in each search domain, by the rules of resolv.conf(5).
    /// hickory would apply them to each family alone, and could mix the addresses of two hosts.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let mut names: Vec<Name> = Vec::with_capacity(self.search.len() + 1);
        for domain in &*self.search {
            // A name that becomes too long cannot exist.
            if let Ok(candidate) = name.clone().append_domain(domain)
                && !names.contains(&candidate)
            {
                names.push(candidate);
            }
        }
        // A search domain may be the root.
        names.retain(|candidate| *candidate != absolute);
        let at = if usize::from(name.num_labels()) > self.ndots { 0 } else { names.len() };
        names.insert(at, absolute);
        names
    }

    async fn lookup(&self, name: &Name) -> Result<Resolved, ResolveError> {
        let mut worst = ResolveError::NoSuchName;
        for candidate in self.candidates(name) {
            match self.lookup_one(&candidate).await {
                Ok(found) => return Ok(found),
                Err(error) if error.rank() > worst.rank() => worst = error,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    async fn lookup_one(&self, name: &Name) -> Result<Resolved, ResolveError> {
        let (mut a, mut aaaa) = (self.query(name, Family::V4), self.query(name, Family::V6));
        let (first, family, mut other) = tokio::select! {
            found = finish(&mut a) => (found, Family::V4, aaaa),
            found = finish(&mut aaaa) => (found, Family::V6, a),
        };
        let mut addresses = match first {
            Ok(addresses) => addresses,
            Err(error) => {
                return match finish(&mut other).await {
                    Ok(addresses) => {
                        let unanswered = (!error.is_no_records_found()).then_some(family);
                        Ok(Resolved { addresses, unanswered, late: None })
                    }
                    Err(other) if family == Family::V4 => Err(ResolveError::of_families(error, other)),
                    Err(other) => Err(ResolveError::of_families(other, error)),
                };
            }
        };
        let missing = family.other();
        let is_repeated = self.was_late(name, missing);
        let delay = if is_repeated { CACHE_DELAY } else { RESOLUTION_DELAY };
        let mut found = Resolved::complete(Vec::new());
        match timeout(delay, finish(&mut other)).await {
            Ok(Ok(more)) => addresses.extend(more),
            Ok(Err(error)) => found.unanswered = (!error.is_no_records_found()).then_some(missing),
            Err(_) => {
                self.late().insert((name.clone(), missing), Instant::now());
                found.unanswered = Some(missing);
                found.late = Some(LateAnswer { is_repeated, query: other });
            }
        }
        found.addresses = addresses;
        Ok(found)
    }

    /// A query in its own task: dropping the handle leaves it to fill the cache.
    fn query(&self, name: &Name, family: Family) -> Query {
        let (servers, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            let found = servers.resolver.lookup(name.clone(), family.record_type()).await;
            let found = found.map(|lookup| {
                let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                addresses.filter(|address| Family::of(address) == family).collect::<Vec<_>>()
            });
            let is_answered = found.as_ref().map_or_else(NetError::is_no_records_found, |_| true);
            if !is_answered && let Err(error) = &found {
                let error: &dyn std::error::Error = error;
                tracing::warn!(host = %name, record = %family.record_type(), error, "DNS query failed");
            }
            match found {
                Ok(addresses) if addresses.is_empty() => {
                    let question = Question::query(name, family.record_type());
                    Err(NoRecords::new(question, ResponseCode::NoError).into())
                }
                found => found,
            }
        })
    }

    fn was_late(&self, name: &Name, family: Family) -> bool {
        let mut late = self.late();
        late.retain(|_, at| at.elapsed() < LATE_MEMORY);
        late.contains_key(&(name.clone(), family))
    }

    fn late(&self) -> MutexGuard<'_, HashMap<(Name, Family), Instant>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parsed `/etc/hosts` and `/etc/resolv.conf`.
#[derive(Clone)]
struct System {
    files: Files,
    hosts: Arc<Hosts>,
    name_servers: Result<NameServers, NetError>,
}

/// The signatures of the two files.
type Files = [Option<FileSignature>; 2];

fn files() -> Files {
    ["/etc/hosts", "/etc/resolv.conf"].map(|path| file_signature(Path::new(path)))
}

/// The addresses of each lower-case name. hickory's own type omits names with a `_`.
type Hosts = HashMap<String, Vec<IpAddr>>;

impl System {
    fn read() -> Self {
        Self {
            // Before the files are read, so that the next lookup detects a change in between.
            files: files(),
            hosts: Arc::new(
                std::fs::read("/etc/hosts").map_or_else(|_| Hosts::new(), |text| read_hosts(&text)),
            ),
            name_servers: read_system_conf().and_then(|(config, options)| NameServers::new(config, options)),
        }
    }

    async fn lookup(&self, host: &str) -> Result<Resolved, ResolveError> {
        let plain = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if let Some(known) = self.hosts.get(&plain) {
            return Ok(Resolved::complete(known.clone()));
        }
        let name_servers =
            self.name_servers.as_ref().map_err(|error| ResolveError::NoNameServers(error.clone()))?;
        // Relaxed: a container's name may have a `_`.
        let name = Name::from_str_relaxed(host).map_err(|error| ResolveError::Name(error.into()))?;
        name_servers.lookup(&name).await
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
    hosts
}
