//! The compiled configuration, which the request path uses. All text in it is parsed. Secrets are [`SecretString`]s,
//! whose `Debug` is redacted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
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
use crate::policy::deprecation::Deprecation;
use crate::policy::described::DescriptionStyle;
use crate::policy::expected_claims::ExpectedClaims;
use crate::policy::framing::Bounds;
use crate::policy::identity::IdentityHeader;
use crate::policy::map::AbilityMap;
use crate::policy::method::MethodOverride;
use crate::policy::shadow::Mode;
use crate::policy::trusted_fields::TrustedFields;

/// A valid `gateway.yaml`.
#[derive(Debug)]
pub struct Settings {
    /// The proxy listener.
    pub listen: Listen,
    /// The admin listener.
    pub admin: Admin,
    /// The decision listener.
    pub decision: Decision,
    /// Where permitted requests go.
    pub backend: Backend,
    /// The introspector.
    pub introspection: Introspection,
    /// `identity_headers`: fields that tell the backend about a token.
    pub identity_headers: Box<[IdentityHeader]>,
    /// Cross-origin requests of browsers.
    pub cors: Cors,
    /// Fields of a response that rejects a token for a missing ability.
    pub denials: Denials,
    /// The lifetime of verdicts.
    pub cache: Cache,
    /// Tokens that are refused, whatever introspection says.
    pub blocked: Blocked,
    /// Bounds on what a client may send or hold.
    pub limits: Limits,
    /// The limits of each token; `None` if there are none.
    pub rate_limit: Option<RateLimit>,
    /// The file of `rate_limit.quota`; `None` without quotas.
    pub quota: Option<QuotaStore>,
    /// The Redis for revocations of other replicas; `None` if the gateway runs alone.
    pub redis: Option<Redis>,
    /// Webhooks of Stockaj about changed and deleted tokens; `None` if off.
    pub webhook: Option<Webhook>,
    /// Spans for a collector; `None` if off.
    pub traces: Option<Traces>,
    /// The usage ledger; `None` if off.
    pub usage: Option<Usage>,
    /// The number of threads that serve requests, at least 1: `runtime.threads`, or for 0 the available cores, up to 4.
    pub threads: usize,
    /// The log.
    pub log: Log,
    /// The ability map.
    pub abilities: Arc<AbilityMap>,
    /// Decisions that are not enforced; `None` if all are enforced and there is no candidate map.
    pub shadow: Option<Shadow>,
    /// The effective configuration for people, with defaults and without secrets.
    pub effective: Value,
}

impl Settings {
    /// The templates of the routes by which requests are counted: those of the ability map by their numbers, then those
    /// of the candidate.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        let candidate = self.shadow.iter().flat_map(|shadow| &shadow.candidate);
        self.abilities.templates().chain(candidate.flat_map(|map| map.templates()))
    }
}

/// `shadow_authentication` and `shadow`. The mode itself is the ability map's.
#[derive(Debug)]
pub struct Shadow {
    /// `shadow_authentication`: [`Mode::Shadow`] if true.
    pub authentication: Mode,
    /// `shadow`: the candidate map, which is evaluated beside the enforced one.
    pub candidate: Option<AbilityMap>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port; for port 0 the system chooses one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// In the syntax of `gateway.yaml`.
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
    /// `listen.tls`: empty for plain HTTP; the first is the default.
    pub tls: Box<[ListenTls]>,
    /// `listen.redirect_address`: redirects plain HTTP to https.
    pub redirect_address: Option<ListenAddress>,
    /// `listen.hsts`: the value of the field; `None` if off.
    pub hsts: Option<HeaderValue>,
    /// `listen.trusted_proxies`: peers whose forwarding fields are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// `listen.trusted_fields`: identity fields that trusted proxies may set.
    pub trusted_fields: TrustedFields,
    /// `listen.proxy_protocol`: whether trusted proxies start their connections with a PROXY header.
    pub proxy_protocol: bool,
    /// `listen.h2c`: whether clients may use HTTP/2 without TLS.
    pub h2c: bool,
    /// `listen.drain_delay`: from SIGTERM to closing the listener.
    pub drain_delay: Duration,
    /// `listen.drain_timeout`: the time for requests in flight after that.
    pub drain_timeout: Duration,
}

impl Listen {
    /// Whether the forwarding fields of a peer with this address are trusted.
    pub fn trusts(&self, address: IpAddr) -> bool {
        contain(&self.trusted_proxies, address)
    }
}

/// Whether one of the networks contains the address.
fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// `decision`: the listener for proxies that ask for decisions and forward requests themselves.
#[derive(Debug)]
pub struct Decision {
    /// `decision.address`; `None` if the listener is off.
    pub address: Option<ListenAddress>,
    /// `decision.tls`: empty for plain HTTP; the first is the default.
    pub tls: Box<[ListenTls]>,
    /// `decision.trusted_proxies`: the peers that may ask.
    pub trusted_proxies: Vec<IpNet>,
    /// `decision.style` and `decision.path_prefix`
    pub style: DescriptionStyle,
    /// `decision.answer`
    pub answer: AnswerStyle,
}

impl Decision {
    /// Whether a peer with this address may ask. File permissions control who can connect to a Unix socket, whose peers
    /// have no address.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|address| contain(&self.trusted_proxies, address))
    }
}

/// Where an answer over HTTP has the status of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerStyle {
    /// The status of the answer itself.
    Status,
    /// X-Decision-Status; the answer itself always has 200.
    Header,
}

/// `listen.tls` and `decision.tls`: PEM files, read when the listener is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
    /// The authorities of client certificates; `None` if clients need none.
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
    /// `admin.token_file` or `admin.token`; if absent, only `/metrics`, `/healthz` and `/readyz` are served.
    pub token: Option<SecretString>,
}

/// The destination of an outgoing connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A host name or IP address (IPv6 without brackets) and a port, by TCP.
    Tcp {
        /// The name to resolve, or an address.
        host: Box<str>,
        /// The port of the URL, by default 80 or 443.
        port: u16,
        /// Whether to use TLS, as for https.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// The `tls` of a section with outgoing connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// `roots`: the trusted authorities if there is no `ca_file`.
    pub roots: Roots,
    /// `ca_file`: a PEM bundle that replaces the roots.
    pub ca_file: Option<PathBuf>,
    /// `certificate` and `private_key`: for servers that request a client certificate.
    pub identity: Option<ClientCertificate>,
    /// `minimum_version`
    pub minimum_version: TlsVersion,
    /// `server_name`: the name that the certificate must be for, if it is not the host of the URL.
    pub server_name: Option<Box<str>>,
    /// `danger_accept_any_certificate`: disables the verification of certificates.
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

/// Trusted certificate authorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// Those of Mozilla, compiled in.
    #[default]
    Bundled,
    /// Those of the operating system.
    Platform,
}

/// The `Host` field of a forwarded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendHost {
    /// The field of the client.
    Preserve,
    /// The authority of the backend's URL.
    Backend,
}

/// `backend`
#[derive(Debug)]
pub struct Backend {
    /// From `backend.url`.
    pub destination: Destination,
    /// The authority of `backend.url`, for `Host`; `localhost` for a Unix socket.
    pub authority: HeaderValue,
    /// The path of `backend.url` without a trailing `/`; prepended to every forwarded path.
    pub path_prefix: Box<str>,
    /// `backend.host`
    pub host: BackendHost,
    /// `backend.method_override`
    pub method_override: MethodOverride,
    /// `backend.cookies`: whether cookies pass on routes that require a token.
    pub cookies: bool,
    /// `backend.tls`
    pub tls: ClientTls,
    /// `backend.http2`
    pub http2: bool,
    /// `backend.connect_timeout`: name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// `backend.timeout`: from the end of the request body to the first byte of the response.
    pub timeout: Duration,
    /// `backend.idle_timeout`: of a kept connection.
    pub idle_timeout: Duration,
    /// `backend.max_connections`, over all workers; `None` if unbounded.
    pub max_connections: Option<NonZeroUsize>,
    /// `backend.max_share`: the part of the connections that a caller keeps while others wait, from 0 to 1.
    pub max_share: f64,
    /// `backend.queue_timeout`: longest wait for one of the connections.
    pub queue_timeout: Duration,
}

/// The style of introspection requests.
#[derive(Debug)]
pub enum IntrospectionStyle {
    /// GET with the token of the caller.
    Bearer,
    /// RFC 7662: POST `token=…`, with HTTP Basic client credentials if configured.
    Rfc7662 {
        /// `client_id`
        client_id: Option<Box<str>>,
        /// `client_secret` or `client_secret_file`
        client_secret: Option<SecretString>,
    },
}

impl IntrospectionStyle {
    /// The method of the request.
    pub const fn method(&self) -> Method {
        match self {
            Self::Bearer => Method::GET,
            Self::Rfc7662 { .. } => Method::POST,
        }
    }
}

/// A JSON Pointer (RFC 6901) as its unescaped reference tokens. If empty, it points to the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(pub Box<[Box<str>]>);

impl JsonPointer {
    /// The value that it points to in `document` (RFC 6901 section 4).
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get(&**token),
            Value::Array(items) => index(token).and_then(|index| items.get(index)),
            _ => None,
        })
    }
}

/// Parses a decimal number without a sign or leading zeros.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    plain.then(|| token.parse().ok()).flatten()
}

/// In the syntax of `gateway.yaml`.
impl fmt::Display for JsonPointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|token| write!(formatter, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// Compares the exposed secrets.
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

/// Pointers into the response of the introspector.
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
    /// `allowed_from`
    pub allowed_from: Option<JsonPointer>,
}

/// `introspection`
#[derive(Debug)]
pub struct Introspection {
    /// From `introspection.url`.
    pub destination: Destination,
    /// The authority of `introspection.url`, for `Host`.
    pub authority: HeaderValue,
    /// The path and query of `introspection.url`.
    pub target: Uri,
    /// `introspection.style`
    pub style: IntrospectionStyle,
    /// `introspection.tls`
    pub tls: ClientTls,
    /// `introspection.timeout`: of a request, and of the wait for a permit.
    pub timeout: Duration,
    /// `introspection.max_concurrent`, at least 1.
    pub max_concurrent: usize,
    /// `introspection.response`
    pub response: ResponsePointers,
    /// `introspection.expect`; empty for `bearer`.
    pub expect: ExpectedClaims,
}

/// `cache`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// `cache.ttl`: the lifetime of active verdicts.
    pub ttl: Duration,
    /// `cache.negative_ttl`: the lifetime of inactive verdicts.
    pub negative_ttl: Duration,
    /// `cache.max_tokens`: the largest number of active verdicts.
    pub max_tokens: u64,
    /// `cache.max_bytes`: memory for active verdicts.
    pub max_bytes: u64,
    /// `cache.stale_if_error`: how long after `ttl` a verdict may be used while the introspector is unavailable.
    pub stale_if_error: Duration,
    /// `cache.max_age`: by ability.
    pub max_age: HashMap<Box<str>, Duration>,
}

impl Cache {
    /// The oldest verdict that may satisfy `requirement`: the lowest `max_age` of its abilities; `None` if unbounded.
    pub fn max_age(&self, requirement: &Requirement) -> Option<Duration> {
        requirement.abilities().filter_map(|ability| self.max_age.get(ability)).min().copied()
    }
}

/// `blocked`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// `blocked.path`: the file of the blocks of the admin listener.
    pub path: PathBuf,
    /// `blocked.ids`
    pub ids: Box<[Box<str>]>,
    /// `blocked.names`
    pub names: Box<[Box<str>]>,
}

/// `webhook`
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `webhook.secret` or `webhook.secret_file`: at least one. An event is valid if it is signed with any of them.
    pub secrets: Box<[SecretString]>,
    /// `webhook.events`: the names of events that invalidate a verdict. At least one.
    pub events: Box<[Box<str>]>,
    /// `webhook.id`: points to the token's id in the body.
    pub id: JsonPointer,
}

/// `redis`
#[derive(Clone, Debug)]
pub struct Redis {
    /// From `redis.url`.
    pub destination: Destination,
    /// The user of its access control list; `None` for the default one.
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

/// Compares the exposed secrets.
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

/// `traces` with an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The collector, from `traces.otlp_endpoint`.
    pub destination: Destination,
    /// The authority of `traces.otlp_endpoint`, for `Host`.
    pub authority: HeaderValue,
    /// The path for spans.
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
    /// `limits.header_bytes`: of a request head.
    pub header_bytes: usize,
    /// `limits.header_count`: fields in a request head.
    pub header_count: usize,
    /// `limits.target_bytes`: of a request target.
    pub target_bytes: usize,
    /// `limits.token_bytes`: of a bearer token.
    pub token_bytes: usize,
    /// `limits.body`: of a request body, in bytes, inclusive.
    pub body: u64,
    /// `limits.connections`: of all clients.
    pub connections: usize,
    /// `limits.connections_per_address`; `None` if unbounded.
    pub connections_per_address: Option<usize>,
    /// `limits.requests_per_address`, per second and as a burst; `None` if unbounded.
    pub requests_per_address: Option<Rate>,
    /// `limits.failures_per_address`, per second and as a burst; `None` if unbounded.
    pub failures_per_address: Option<Rate>,
    /// `limits.tunnels`, of all clients; `None` if unbounded.
    pub tunnels: Option<NonZeroU32>,
    /// `limits.tunnels_per_token`, on public routes per client address; `None` if unbounded.
    pub tunnels_per_token: Option<NonZeroU32>,
    /// `limits.header_timeout`: from the first to the last byte of a head.
    pub header_timeout: Duration,
    /// `limits.idle_timeout`: of a client connection between requests.
    pub idle_timeout: Duration,
    /// `limits.body_idle_timeout`: between two chunks of a body, in either direction.
    pub body_idle_timeout: Duration,
    /// `limits.body_rate`: least rate of a request's body, in bytes per second; `None` if unbounded.
    pub body_rate: Option<NonZeroU64>,
    /// `limits.tunnel_idle_timeout`: of a tunnel without data from either side.
    pub tunnel_idle_timeout: Duration,
}

impl Limits {
    /// The bounds of a request head.
    pub const fn bounds(&self) -> Bounds {
        Bounds { head: self.header_bytes, fields: self.header_count, target: self.target_bytes }
    }
}

/// A request rate: the average per second, and the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// `requests_per_second`
    pub requests_per_second: NonZeroU32,
    /// `burst`
    pub burst: NonZeroU32,
}

impl Rate {
    /// The lower value of each field.
    pub fn min(self, other: Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second.min(other.requests_per_second),
            burst: self.burst.min(other.burst),
        }
    }
}

/// The limits of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Its request rate.
    pub rate: Rate,
    /// `in_flight`; `None` if unlimited.
    pub in_flight: Option<NonZeroU32>,
    /// `quota`: requests in each window; `None` if unlimited.
    pub quota: Option<NonZeroU32>,
    /// Whether `by_id` sets its rate, so that it does not share that of its workspace.
    pub has_own_rate: bool,
}

impl Allowance {
    /// The lower value of each field.
    pub fn min(self, other: Self) -> Self {
        let lower = |one: Option<NonZeroU32>, other| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            rate: self.rate.min(other.rate),
            in_flight: lower(self.in_flight, other.in_flight),
            quota: lower(self.quota, other.quota),
            ..self
        }
    }
}

/// `rate_limit`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// For tokens without an allowance of their own.
    pub default: Allowance,
    /// `rate_limit.by_name`: these only lower the allowance, as token owners choose the names.
    pub by_name: HashMap<Box<str>, Allowance>,
    /// `rate_limit.by_id`: instead of the default.
    pub by_id: HashMap<Box<str>, Allowance>,
    /// `rate_limit.by_ability`: of each token, in addition.
    pub by_ability: Box<[(Box<str>, Rate)]>,
    /// `rate_limit.by_workspace`: whether the tokens of a workspace share the default rate, in addition.
    pub by_workspace: bool,
    /// `rate_limit.quota.per`; `None` without quotas.
    pub quota_period: Option<QuotaPeriod>,
    /// `rate_limit.shared`: whether replicas share the rates through Redis.
    pub shared: bool,
    /// `rate_limit.fields`: whether responses have the fields of the IETF draft.
    pub has_fields: bool,
}

#[cfg(test)]
impl RateLimit {
    /// The same limits for each token, and no others.
    pub fn of_each(default: Allowance) -> Self {
        Self {
            default,
            by_name: Default::default(),
            by_id: Default::default(),
            by_ability: Default::default(),
            by_workspace: false,
            quota_period: None,
            shared: false,
            has_fields: false,
        }
    }
}

/// `rate_limit.quota.per`: a window of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaPeriod {
    /// From minute 0 to minute 0.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first to the first.
    Month,
}

/// `rate_limit.quota`: where its counts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStore {
    /// `path`
    pub path: PathBuf,
    /// `per`
    pub period: QuotaPeriod,
    /// `flush_interval`
    pub flush_interval: Duration,
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

/// `usage.findings`: the thresholds of findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingRules {
    /// `rotation_age`: the highest age of a token; `None` if unlimited.
    pub rotation_age: Option<Duration>,
    /// `silent_after`: the longest time without a request; `None` if unlimited.
    pub silent_after: Option<Duration>,
    /// `addresses`: a token with this many addresses in one day is shared; `None` if off.
    pub addresses: Option<u64>,
    /// `denials`: this many denied requests are no accident; `None` if off.
    pub denials: Option<u64>,
    /// `least_age`: younger tokens are not judged.
    pub least_age: Duration,
    /// `naming` and `environments`: the valid ends of token names, beside versions; `None` if names are not checked.
    pub environments: Option<Box<[Box<str>]>>,
    /// The routes of the map that are deprecated, by their templates.
    pub deprecated: Arc<BTreeMap<Box<str>, Arc<Deprecation>>>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// The lowest severity that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Faults.
    Error,
    /// Likely faults.
    Warn,
    /// Events for operators.
    Info,
    /// Events for developers.
    Debug,
    /// Everything else.
    Trace,
}

/// `log`
#[derive(Clone, Debug)]
pub struct Log {
    /// `log.level`
    pub level: LogLevel,
    /// `log.format`
    pub format: LogFormat,
    /// `log.access`: one line per request.
    pub access: bool,
    /// `log.access_sample`: one in this many forwarded requests without an error has a line; all others have one. At
    /// least 1.
    pub access_sample: u32,
}
