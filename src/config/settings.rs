//! The compiled configuration: the only one that the request path sees.
//!
//! Nothing here is text that still has to be parsed. Secrets are [`SecretString`]s, whose `Debug` is
//! redacted.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::policy::ability::Requirement;
use crate::policy::cors::Cors;
use crate::policy::denials::Denials;
use crate::policy::framing::Bounds;
use crate::policy::identity::IdentityHeader;
use crate::policy::map::AbilityMap;
use crate::policy::method::MethodOverride;
use crate::policy::shadow::Mode;
use crate::policy::trusted_fields::TrustedFields;

/// A whole `gateway.yaml`, valid and resolved.
#[derive(Debug)]
pub struct Settings {
    /// The proxy's own listener.
    pub listen: Listen,
    /// The admin listener.
    pub admin: Admin,
    /// Where permitted requests go.
    pub backend: Backend,
    /// Who knows the tokens.
    pub introspection: Introspection,
    /// `identity_headers`: what of a token the backend is told.
    pub identity_headers: Box<[IdentityHeader]>,
    /// What browsers are told of cross-origin requests.
    pub cors: Cors,
    /// What a caller is told who lacks an ability.
    pub denials: Denials,
    /// How long a verdict lives.
    pub cache: Cache,
    /// Bounds on what a client may send or hold.
    pub limits: Limits,
    /// How often one token may come; none: as often as it likes.
    pub rate_limit: Option<RateLimit>,
    /// Where other replicas are told of revocations; none: there are none.
    pub redis: Option<Redis>,
    /// How Stockaj tells that a token was changed or deleted; none: it does not.
    pub webhook: Option<Webhook>,
    /// Where spans go, and of which requests; none: nowhere.
    pub traces: Option<Traces>,
    /// What is kept of what each token does; none: nothing.
    pub usage: Option<Usage>,
    /// How many runtimes serve requests, at least 1: `runtime.threads`, or for 0 the available cores and
    /// 4 at most.
    pub threads: usize,
    /// What is logged.
    pub log: Log,
    /// The ability map.
    pub abilities: Arc<AbilityMap>,
    /// What is decided and not enforced; none: nothing is.
    pub shadow: Option<Shadow>,
    /// All of it as people are shown it: what is written, defaults filled in, secrets left out.
    pub effective: Value,
}

impl Settings {
    /// The templates of every route by which requests are counted: those of the ability map by their numbers, then those
    /// of the candidate.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        let candidate = self.shadow.iter().flat_map(|shadow| &shadow.candidate);
        self.abilities.templates().chain(candidate.flat_map(|map| map.templates()))
    }
}

/// `shadow_authentication` and `shadow`. The mode itself is the ability map's.
#[derive(Debug)]
pub struct Shadow {
    /// `shadow_authentication`: [`Mode::Shadow`] where it is true.
    pub authentication: Mode,
    /// `shadow`: the map that is decided beside the enforced one.
    pub candidate: Option<AbilityMap>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// As `gateway.yaml` writes it.
impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// `listen`
#[derive(Debug)]
pub struct Listen {
    /// `listen.address`
    pub address: ListenAddress,
    /// `listen.tls`: none serves plain HTTP; the first is for clients that name no other.
    pub tls: Box<[ListenTls]>,
    /// `listen.redirect_address`: where plain HTTP is sent on to https.
    pub redirect_address: Option<ListenAddress>,
    /// `listen.hsts`, as the field says it; none: off.
    pub hsts: Option<HeaderValue>,
    /// `listen.trusted_proxies`: peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `listen.trusted_fields`: what else trusted proxies may say about the caller.
    pub trusted_fields: TrustedFields,
    /// `listen.proxy_protocol`: whether trusted proxies begin their connections with a PROXY header.
    pub proxy_protocol: bool,
    /// `listen.h2c`: whether clients may speak HTTP/2 without TLS.
    pub h2c: bool,
    /// `listen.drain_delay`: from SIGTERM to closing the listener.
    pub drain_delay: Duration,
    /// `listen.drain_timeout`: how long requests in flight may take after that.
    pub drain_timeout: Duration,
}

impl Listen {
    /// Whether the forwarding headers of a peer with this address are believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// `listen.tls`: PEM files, read when the listener is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
    /// Those whose certificates clients must show; none: clients show none.
    pub client_ca: Option<PathBuf>,
}

impl ListenTls {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.private_key].into_iter().chain(&self.client_ca)
    }
}

/// `admin`
#[derive(Debug)]
pub struct Admin {
    /// `admin.address`
    pub address: ListenAddress,
    /// `admin.token_file` or `admin.token`; without it only `/metrics`, `/healthz` and `/readyz` are served.
    pub token: Option<SecretString>,
}

/// Where a connection out goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A host name or IP address (IPv6 without brackets) and a port, by TCP.
    Tcp {
        /// The name to resolve, or an address.
        host: Box<str>,
        /// 80 or 443 unless the URL named one.
        port: u16,
        /// Whether TLS is spoken: the URL's scheme was https.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// A `tls` section of `backend` or `introspection`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// `roots`: whose certificates are believed when `ca_file` is not given.
    pub roots: Roots,
    /// `ca_file`: a PEM bundle that replaces the roots.
    pub ca_file: Option<PathBuf>,
    /// `certificate` and `private_key`: what the gateway shows where it is asked who it is.
    pub identity: Option<ClientCertificate>,
    /// `minimum_version`
    pub minimum_version: TlsVersion,
    /// `server_name`: what the certificate must be for, where it is not the URL's host.
    pub server_name: Option<Box<str>>,
    /// `danger_accept_any_certificate`: whether strangers are spoken to, tokens and all.
    pub danger_accept_any_certificate: bool,
}

impl ClientTls {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity =
            self.identity.iter().flat_map(|identity| [&identity.certificate, &identity.private_key]);
        self.ca_file.iter().chain(identity).map(PathBuf::as_path)
    }
}

/// A client's certificate: PEM files, read when the connector is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    #[default]
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// Whose server certificates are believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// Mozilla's, compiled in.
    #[default]
    Bundled,
    /// The operating system's.
    Platform,
}

/// What the `Host` field of a forwarded request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendHost {
    /// What the client sent.
    Preserve,
    /// The backend URL's authority.
    Backend,
}

/// `backend`
#[derive(Debug)]
pub struct Backend {
    /// Where it is, from `backend.url`.
    pub destination: Destination,
    /// The authority of `backend.url`, for `Host`; `localhost` for a Unix socket.
    pub authority: HeaderValue,
    /// The path of `backend.url` without a trailing `/`; empty for none. Stands before every forwarded path.
    pub path_prefix: Box<str>,
    /// `backend.host`
    pub host: BackendHost,
    /// `backend.method_override`
    pub method_override: MethodOverride,
    /// `backend.cookies`: whether they pass on routes that ask for a token.
    pub cookies: bool,
    /// `backend.tls`
    pub tls: ClientTls,
    /// `backend.http2`
    pub http2: bool,
    /// `backend.connect_timeout`: name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// `backend.timeout`: from the end of the request's body to the first byte of the answer.
    pub timeout: Duration,
    /// `backend.idle_timeout`: of a kept connection.
    pub idle_timeout: Duration,
    /// `backend.max_connections`, over all cores; none: no bound.
    pub max_connections: Option<usize>,
}

/// How the introspector is asked.
#[derive(Debug)]
pub enum IntrospectionStyle {
    /// GET with the caller's own token.
    Bearer,
    /// RFC 7662: POST `token=…`, with HTTP Basic client credentials where given.
    Rfc7662 {
        /// `client_id`
        client_id: Option<Box<str>>,
        /// `client_secret` or `client_secret_file`
        client_secret: Option<SecretString>,
    },
}

impl IntrospectionStyle {
    /// The method that it asks with.
    pub const fn method(&self) -> Method {
        match self {
            Self::Bearer => Method::GET,
            Self::Rfc7662 { .. } => Method::POST,
        }
    }
}

/// A JSON Pointer (RFC 6901), parsed: the unescaped reference tokens. Empty: the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(pub Box<[Box<str>]>);

impl JsonPointer {
    /// What it points to in `document` (RFC 6901 section 4).
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get(&**token),
            Value::Array(items) => index(token).and_then(|index| items.get(index)),
            _ => None,
        })
    }
}

/// Decimal without a sign or leading zeros.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| token.parse().ok()).flatten()
}

/// As `gateway.yaml` writes it.
impl fmt::Display for JsonPointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|token| write!(formatter, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// Two secrets are equal where what they hold is.
impl PartialEq for IntrospectionStyle {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bearer, Self::Bearer) => true,
            (
                Self::Rfc7662 { client_id, client_secret },
                Self::Rfc7662 { client_id: other_id, client_secret: other_secret },
            ) => {
                client_id == other_id
                    && client_secret.as_ref().map(SecretString::expose_secret)
                        == other_secret.as_ref().map(SecretString::expose_secret)
            }
            _ => false,
        }
    }
}

/// Where in the introspector's answer a thing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponsePointers {
    /// `abilities`
    pub abilities: JsonPointer,
    /// `expires_at`
    pub expires_at: JsonPointer,
    /// `id`
    pub id: JsonPointer,
    /// `name`
    pub name: JsonPointer,
    /// `context`: user or instance
    pub context: Option<JsonPointer>,
    /// `created_at`
    pub created_at: Option<JsonPointer>,
    /// `workspace_id`
    pub workspace_id: Option<JsonPointer>,
}

/// `introspection`
#[derive(Debug)]
pub struct Introspection {
    /// Where it is, from `introspection.url`.
    pub destination: Destination,
    /// The authority of `introspection.url`, for `Host`.
    pub authority: HeaderValue,
    /// The path and query of `introspection.url`: the request's target.
    pub target: Uri,
    /// `introspection.style`
    pub style: IntrospectionStyle,
    /// `introspection.tls`
    pub tls: ClientTls,
    /// `introspection.timeout`: of one call, and of the wait for its turn.
    pub timeout: Duration,
    /// `introspection.max_concurrent`, at least 1.
    pub max_concurrent: usize,
    /// `introspection.response`
    pub response: ResponsePointers,
}

/// `cache`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// `cache.ttl`: how long an active verdict is believed.
    pub ttl: Duration,
    /// `cache.negative_ttl`: how long 'inactive' is believed.
    pub negative_ttl: Duration,
    /// `cache.max_tokens`: active verdicts kept.
    pub max_tokens: u64,
    /// `cache.max_bytes`: memory for active verdicts.
    pub max_bytes: u64,
    /// `cache.stale_if_error`: how long after `ttl` a verdict may still serve while the introspector is out.
    pub stale_if_error: Duration,
    /// `cache.max_age`: by ability.
    pub max_age: HashMap<Box<str>, Duration>,
}

impl Cache {
    /// How old a verdict may be that allows what `requirement` asks for, at most; none: as old as it is believed.
    /// Where several of its abilities have a bound it is the lowest.
    pub fn max_age(&self, requirement: &Requirement) -> Option<Duration> {
        if self.max_age.is_empty() {
            return None;
        }
        requirement.abilities().filter_map(|ability| self.max_age.get(ability)).min().copied()
    }
}

/// `webhook`
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `webhook.secret` or `webhook.secret_file`: whatever is signed with one of them counts. At least one.
    pub secrets: Box<[SecretString]>,
    /// `webhook.events`: the names of those that say that a verdict is out of date. At least one.
    pub events: Box<[Box<str>]>,
    /// `webhook.id`: where in the body the token's id stands.
    pub id: JsonPointer,
}

/// `redis`
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where it is, from `redis.url`.
    pub destination: Destination,
    /// The user of its access control list; none: the default one.
    pub user: Option<Box<str>>,
    /// The user's password.
    pub password: Option<SecretString>,
    /// The number of the database.
    pub database: u16,
    /// `redis.tls`
    pub tls: ClientTls,
    /// `redis.channel`
    pub channel: Box<str>,
}

/// Two secrets are equal where what they hold is.
impl PartialEq for Redis {
    fn eq(&self, other: &Self) -> bool {
        let Self { destination, user, password, database, tls, channel } = self;
        let exposed = |password: &Option<SecretString>| -> Option<Box<str>> {
            password.as_ref().map(|password| password.expose_secret().into())
        };
        *destination == other.destination
            && *user == other.user
            && exposed(password) == exposed(&other.password)
            && *database == other.database
            && *tls == other.tls
            && *channel == other.channel
    }
}

/// `traces`, where there is an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// Where the collector is, from `traces.otlp_endpoint`.
    pub destination: Destination,
    /// What Host says there.
    pub authority: HeaderValue,
    /// The path that spans are sent to.
    pub target: Uri,
    /// `traces.secret_headers` or `traces.secret_headers_file`; their `Debug` is redacted.
    pub headers: HeaderMap,
    /// `traces.sample_ratio`, from 0 to 1.
    pub sample_ratio: f64,
    /// `traces.max_per_second`
    pub max_per_second: u32,
    /// `traces.service_name`
    pub service_name: Box<str>,
    /// `traces.flush_interval`
    pub flush_interval: Duration,
    /// `traces.timeout`
    pub timeout: Duration,
    /// `traces.tls`
    pub tls: ClientTls,
}

/// `limits`
#[derive(Clone, Debug)]
pub struct Limits {
    /// `limits.header_bytes`: of a request's head.
    pub header_bytes: usize,
    /// `limits.header_count`: fields in a request's head.
    pub header_count: usize,
    /// `limits.target_bytes`: of a request's target.
    pub target_bytes: usize,
    /// `limits.token_bytes`: of a bearer token.
    pub token_bytes: usize,
    /// `limits.body`: of a request's body, in bytes, inclusive.
    pub body: u64,
    /// `limits.connections`: of all clients.
    pub connections: usize,
    /// `limits.connections_per_address`; none: no bound.
    pub connections_per_address: Option<usize>,
    /// `limits.requests_per_address`, in a second and at once; none: no bound.
    pub requests_per_address: Option<Rate>,
    /// `limits.header_timeout`: from a head's first byte to its last.
    pub header_timeout: Duration,
    /// `limits.idle_timeout`: of a client's connection between requests.
    pub idle_timeout: Duration,
    /// `limits.body_idle_timeout`: between two pieces of a body, in either direction.
    pub body_idle_timeout: Duration,
    /// `limits.tunnel_idle_timeout`: of a tunnel through which nothing comes, from either side.
    pub tunnel_idle_timeout: Duration,
}

impl Limits {
    /// What a client may send in one head.
    pub const fn bounds(&self) -> Bounds {
        Bounds { head: self.header_bytes, fields: self.header_count, target: self.target_bytes }
    }
}

/// How many requests a second are served in the long run, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// `requests_per_second`
    pub requests_per_second: NonZeroU32,
    /// `burst`
    pub burst: NonZeroU32,
}

impl Rate {
    /// The lower of both, in each respect.
    pub fn min(self, other: Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second.min(other.requests_per_second),
            burst: self.burst.min(other.burst),
        }
    }
}

/// `rate_limit`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// For every token that is not named below.
    pub default: Rate,
    /// `rate_limit.by_name`: names are the token owner's choice, so that these only lower.
    pub by_name: HashMap<Box<str>, Rate>,
    /// `rate_limit.by_id`: instead of the default.
    pub by_id: HashMap<Box<str>, Rate>,
}

/// `usage`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `usage.path`
    pub path: PathBuf,
    /// `usage.flush_interval`
    pub flush_interval: Duration,
    /// `usage.retention`
    pub retention: Duration,
    /// `usage.max_size`, in bytes.
    pub max_size: u64,
    /// `usage.findings`
    pub findings: FindingRules,
}

/// `usage.findings`: from when on something is a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingRules {
    /// `rotation_age`: how old a token may get; none: as old as it likes.
    pub rotation_age: Option<Duration>,
    /// `silent_after`: for how long a token may go unused; none: for as long as it likes.
    pub silent_after: Option<Duration>,
    /// `addresses`: from how many addresses in one day on a token is shared; none: no number says so.
    pub addresses: Option<u64>,
    /// `denials`: from how many denied requests on it is no accident; none: no number says so.
    pub denials: Option<u64>,
    /// `least_age`: how old a token is before it is judged; zero judges every token.
    pub least_age: Duration,
    /// `naming` and `environments`: what a token's name may end with, beside a version; none: names are not looked at.
    pub environments: Option<Box<[Box<str>]>>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The least severity that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing at all.
    Off,
    /// Faults.
    Error,
    /// Faults to come.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// What else there is.
    Trace,
}

/// `log`
#[derive(Clone, Debug)]
pub struct Log {
    /// `log.level`
    pub level: LogLevel,
    /// `log.format`
    pub format: LogFormat,
    /// `log.access`: one line a request.
    pub access: bool,
    /// `log.access_sample`: of forwarded requests that ended well, one in this many has its line; every
    /// other request always has one. At least 1.
    pub access_sample: u32,
}
