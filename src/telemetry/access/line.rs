//! The content of an access line.

use std::cell::OnceCell;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::settings::Destination;
use crate::policy::ability::{Abilities, Requirement};
use crate::policy::expected_claims::Expectation;
use crate::policy::refusal::{Limit, Reason};
use crate::policy::shadow::Change;
use crate::telemetry::metrics::LookupResult;

/// The content of an access line, without tokens, raw paths and queries.
#[derive(Clone, Copy)]
pub struct AccessLine<'a> {
    /// `X-Request-Id`
    pub request_id: &'a [u8],
    /// The `X-Request-Id` that an untrusted client sent.
    pub client_request_id: Option<&'a [u8]>,
    /// The listener, if it is not the proxy's.
    pub listener: Option<&'static str>,
    /// The client of the connection.
    pub client: Client<'a>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`; `None` if the gateway rejected the message before it read the version.
    pub protocol: Option<&'static str>,
    /// The version of TLS, such as `1.3`; `None` without TLS.
    pub tls_version: Option<&'static str>,
    /// The Host field or `:authority`, and the User-Agent field; `None` if the gateway rejected the message before it
    /// read them.
    pub request: Option<&'a RequestFields>,
    /// The method; `other` for an unsupported one, which could be any text, even a token.
    pub method: &'a str,
    /// The route's template, `unmapped` or `none`: the same word as in metrics.
    pub route: &'a str,
    /// The masked path of a request that no route matches.
    pub path: Option<&'a str>,
    /// The status of the response; 499 if the client left before it.
    pub status: u16,
    /// Why the request ended as it did.
    pub reason: Reason,
    /// What refused the request, if `reason` alone does not say it.
    pub cause: Option<LoggedCause<'a>>,
    /// The rule that denied the request, or would have in shadow mode.
    pub denied_by: Option<DeniedBy<'a>>,
    /// The cause in detail: the place of the rule, or what is wrong with the request.
    pub detail: Option<&'a dyn Display>,
    /// The request's token, if its verdict is known.
    pub token: Option<LoggedToken<'a>>,
    /// The result of the cache lookup; `None` if there was none.
    pub cache: Option<LookupResult>,
    /// From the request head to the end of the response.
    pub duration: Duration,
    /// Time spent waiting for introspection; zero if it did not wait.
    pub introspection_duration: Duration,
    /// From the first attempt to reach the backend to the head of its response; zero without an attempt.
    pub upstream_duration: Duration,
    /// The upstream; `None` if there was no connection.
    pub upstream: Option<Upstream<'a>>,
    /// The status of the backend's response.
    pub upstream_status: Option<u16>,
    /// Bytes of the request body that the gateway forwarded. For a tunnel, bytes from the client.
    pub bytes_in: u64,
    /// Bytes of the response body that the gateway wrote to the connection. For a tunnel, bytes to the client.
    pub bytes_out: u64,
    /// How the decision would change if the unenforced rule were enforced.
    pub shadow: Option<Change>,
    /// The unenforced rule.
    pub shadow_rule: Option<&'a str>,
}

/// What refused a request.
#[derive(Clone, Copy)]
pub enum LoggedCause<'a> {
    /// The limit that a 429 exceeded.
    Limit(Limit),
    /// The claim of the token that is not the expected one.
    Claim(Expectation<'a>),
}

/// The requirement that a request did not satisfy.
#[derive(Clone, Copy)]
pub struct DeniedBy<'a> {
    /// The requirement as written in the map.
    pub requirement: &'a Requirement,
    /// The token's abilities.
    pub abilities: Option<&'a Abilities>,
}

/// The upstream of a request.
#[derive(Clone, Copy)]
pub struct Upstream<'a> {
    /// The remote address; `None` for a Unix socket.
    pub address: Option<IpAddr>,
    /// The configured destination.
    pub destination: &'a Destination,
}

impl Display for Upstream<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.destination) {
            (Some(address), Destination::Tcp { port, .. }) => SocketAddr::new(address, *port).fmt(formatter),
            (None, Destination::Tcp { host, port, .. }) => write!(formatter, "{host}:{port}"),
            (_, Destination::Unix(path)) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl fmt::Debug for AccessLine<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AccessLine")
            .field("request_id", &self.request_id)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// The token in an access line.
#[derive(Clone, Copy)]
pub struct LoggedToken<'a> {
    /// As introspected.
    pub id: &'a str,
    /// As introspected.
    pub name: Option<&'a str>,
    /// The fields of the token, encoded by its first line.
    pub fields: &'a OnceCell<TokenFields>,
}

/// The fields `token_id` and `token_name` in the log's format, bounded and escaped.
#[derive(Debug)]
pub struct TokenFields(pub(super) Box<[u8]>);

/// The client of a connection.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The client's address that a trusted proxy named, if it is not the peer's.
    pub forwarded: Option<IpAddr>,
    /// The peer's address; `None` for a Unix socket.
    pub peer: Option<IpAddr>,
    /// The subject of the client's certificate.
    pub subject: Option<&'a str>,
    /// The fields of the peer, encoded by the connection's first line.
    pub fields: &'a OnceCell<Box<[u8]>>,
}

#[cfg(test)]
impl Client<'_> {
    /// Of a Unix socket.
    pub(super) fn unknown() -> Self {
        let fields = Box::leak(Box::default());
        Self { forwarded: None, peer: None, subject: None, fields }
    }
}

/// The fields `host` and `user_agent` of a request, encoded.
#[derive(Debug)]
pub struct RequestFields {
    /// The length of Host as sent.
    pub(super) host: Option<usize>,
    /// The length of User-Agent as sent.
    pub(super) user_agent: Option<usize>,
    /// Host and User-Agent as sent, then encoded.
    pub(super) bytes: Box<[u8]>,
    /// The start of the encoded fields in `bytes`.
    pub(super) encoded: usize,
}

impl RequestFields {
    pub(super) fn sent(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        let (host, user_agent) = self.bytes[..self.encoded].split_at(self.host.unwrap_or(0));
        (self.host.map(|_| host), self.user_agent.map(|_| user_agent))
    }

    pub(super) fn encoded(&self) -> &[u8] {
        &self.bytes[self.encoded..]
    }
}

#[cfg(test)]
impl AccessLine<'static> {
    /// The line of `GET /up` without optional fields.
    pub(crate) fn minimal() -> Self {
        Self {
            request_id: b"7f3a",
            client_request_id: None,
            listener: None,
            client: Client::unknown(),
            protocol: None,
            tls_version: None,
            request: None,
            method: "GET",
            route: "/up",
            path: None,
            status: 200,
            reason: Reason::Public,
            cause: None,
            denied_by: None,
            detail: None,
            token: None,
            cache: None,
            duration: Duration::ZERO,
            introspection_duration: Duration::ZERO,
            upstream_duration: Duration::ZERO,
            upstream: None,
            upstream_status: None,
            bytes_in: 0,
            bytes_out: 0,
            shadow: None,
            shadow_rule: None,
        }
    }
}
