//! The compiled configuration, which the request path uses. All text in it is parsed. Secrets are [`SecretString`]s,
//! whose `Debug` is redacted.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::policy::ability::Requirement;
use crate::policy::cors::Cors;
use crate::policy::denials::Denials;
use crate::policy::deprecation::Deprecation;
use crate::policy::identity::IdentityHeader;
use crate::policy::map::AbilityMap;
use crate::policy::method::MethodOverride;
use crate::policy::shadow::Mode;

mod introspection;
mod limits;
mod listen;

pub use self::introspection::{Introspection, IntrospectionStyle, JsonPointer, ResponsePointers};
pub use self::limits::{Allowance, Limits, QuotaPeriod, QuotaStore, Rate, RateLimit};
pub use self::listen::{Admin, AnswerStyle, Decision, Listen, ListenAddress, ListenTls};

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

/// Deprecated routes by their templates.
pub type DeprecatedRoutes = BTreeMap<Box<str>, Arc<Deprecation>>;

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
    /// The routes of the map that are deprecated, by their templates; `None` if the map is not known.
    pub deprecated: Option<Arc<DeprecatedRoutes>>,
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
