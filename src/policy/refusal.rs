//! The outcomes of a request: [`Reason`] for all of them, [`Refusal`] for a response of the gateway itself.

use std::sync::Arc;

use http::HeaderValue;

use super::expected_claims::Claim;
use super::network::NetworkRule;

/// The outcome of a request. Logs, metrics and tests use the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Forwarded: the token's abilities satisfied the requirement.
    Allowed,
    /// Forwarded: the route requires no token.
    Public,
    /// No Bearer credentials.
    MissingToken,
    /// Bearer credentials other than exactly one well-formed token.
    MalformedToken,
    /// Introspection reported that the token is unknown or revoked.
    InactiveToken,
    /// The token's own expiry has passed.
    ExpiredToken,
    /// The token's `nbf` has not passed.
    NotYetValid,
    /// A claim of the token is not the one that `introspection.expect` names.
    UnexpectedClaim,
    /// The block list has the token.
    Blocked,
    /// No route matches the path.
    Unmapped,
    /// The most specific route that matches the path lacks the method.
    MethodNotMapped,
    /// The rule is `deny`.
    Denied,
    /// The token lacks an ability that the route requires.
    MissingAbility,
    /// The client's address is outside the networks of the route or of the token.
    WrongNetwork,
    /// A rule for a query parameter refuses the request.
    QueryDenied,
    /// The introspector gave no verdict.
    NoVerdict,
    /// A concurrency limit, such as that of introspections, is reached.
    Overloaded,
    /// Two parsers could read the request differently.
    BadRequest,
    /// A limit was exceeded.
    Limited,
    /// No connection to the backend.
    BackendUnreachable,
    /// The backend's response was malformed or incomplete.
    BackendBroken,
    /// The backend took too long.
    BackendTimeout,
    /// The client disconnected before its response was complete.
    ClientGone,
    /// A fault of the gateway.
    InternalError,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 24] = [
        Self::Allowed,
        Self::Public,
        Self::MissingToken,
        Self::MalformedToken,
        Self::InactiveToken,
        Self::ExpiredToken,
        Self::NotYetValid,
        Self::UnexpectedClaim,
        Self::Blocked,
        Self::Unmapped,
        Self::MethodNotMapped,
        Self::Denied,
        Self::MissingAbility,
        Self::WrongNetwork,
        Self::QueryDenied,
        Self::NoVerdict,
        Self::Overloaded,
        Self::BadRequest,
        Self::Limited,
        Self::BackendUnreachable,
        Self::BackendBroken,
        Self::BackendTimeout,
        Self::ClientGone,
        Self::InternalError,
    ];

    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Public => "public",
            Self::MissingToken => "missing_token",
            Self::MalformedToken => "malformed_token",
            Self::InactiveToken => "inactive_token",
            Self::ExpiredToken => "expired_token",
            Self::NotYetValid => "not_yet_valid",
            Self::UnexpectedClaim => "unexpected_claim",
            Self::Blocked => "blocked",
            Self::Unmapped => "unmapped",
            Self::MethodNotMapped => "method_not_mapped",
            Self::Denied => "denied",
            Self::MissingAbility => "missing_ability",
            Self::WrongNetwork => "wrong_network",
            Self::QueryDenied => "query_denied",
            Self::NoVerdict => "no_verdict",
            Self::Overloaded => "overloaded",
            Self::BadRequest => "bad_request",
            Self::Limited => "limited",
            Self::BackendUnreachable => "backend_unreachable",
            Self::BackendBroken => "backend_broken",
            Self::BackendTimeout => "backend_timeout",
            Self::ClientGone => "client_gone",
            Self::InternalError => "internal_error",
        }
    }
}

/// A limit of the configuration that answers 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.requests_per_address`
    RequestsPerAddress,
    /// `limits.failures_per_address`
    FailuresPerAddress,
    /// `limits.tunnels`
    Tunnels,
    /// `limits.tunnels_per_token`
    TunnelsPerToken,
    /// `rate_limit.requests_per_second` with its burst, or that of `rate_limit.by_id`.
    RequestsPerSecond,
    /// `rate_limit.by_name`
    ByName,
    /// `rate_limit.by_ability`
    ByAbility,
    /// `rate_limit.by_workspace`
    ByWorkspace,
    /// `rate_limit.in_flight`
    InFlight,
    /// `rate_limit.quota`
    Quota,
}

impl Limit {
    /// The word in logs: the last part of its key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerAddress => "requests_per_address",
            Self::FailuresPerAddress => "failures_per_address",
            Self::Tunnels => "tunnels",
            Self::TunnelsPerToken => "tunnels_per_token",
            Self::RequestsPerSecond => "requests_per_second",
            Self::ByName => "by_name",
            Self::ByAbility => "by_ability",
            Self::ByWorkspace => "by_workspace",
            Self::InFlight => "in_flight",
            Self::Quota => "quota",
        }
    }
}

/// What refused a request, if its reason alone does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The limit that a 429 exceeded.
    Limit(Limit),
    /// The claim that is not the expected one.
    Claim(Claim),
}

/// A limit that a request exceeds, for the response's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub limit: Limit,
    /// The largest number of requests at once.
    pub allowed: u32,
    /// Seconds until the next request is allowed; at least 1.
    pub retry_after: u64,
    /// The time of that, in seconds since the Unix epoch.
    pub resets_at: u64,
}

/// The fields of a response to a token that does not satisfy a requirement. Built once per requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `WWW-Authenticate`
    pub challenge: HeaderValue,
    /// `X-Required-Ability`: `a, b` if all are required, `a | b` if one is enough.
    pub required: HeaderValue,
}

/// Why the gateway itself responds to a request instead of the backend. `response::own` alone chooses the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Two parsers could read the request differently: 400. The text is for the log only.
    BadRequest(&'static str),
    /// No Bearer credentials: 401.
    MissingToken,
    /// Bearer credentials other than exactly one well-formed token: 401.
    MalformedToken,
    /// The token is unknown, revoked or otherwise inactive: 401.
    InactiveToken,
    /// The token's own expiry has passed: 401.
    ExpiredToken,
    /// The token's `nbf` has not passed: 401.
    NotYetValid,
    /// The token was issued for another service, by another issuer, or to another client: 401.
    UnexpectedClaim(Claim),
    /// The block list has the token: 401.
    Blocked,
    /// No route matches the path: 403.
    Unmapped,
    /// The most specific route that matches the path lacks the method: 403.
    MethodNotMapped,
    /// The rule is `deny`: 403.
    Denied,
    /// The token lacks an ability: 403 with these fields.
    MissingAbility(Arc<Missing>),
    /// The client's address is outside these networks: 403.
    WrongNetwork(NetworkRule),
    /// The rule of a query parameter refuses the token: 403 with these fields.
    QueryDenied {
        /// The number of the requirement in the [rules](super::query::QueryRules::requirement) of the route.
        rule: usize,
        /// The fields of the response.
        missing: Arc<Missing>,
    },
    /// The introspector gave no verdict: 503.
    NoVerdict,
    /// A concurrency limit is reached: 503.
    Overloaded,
    /// The request's body did not arrive in time: 408.
    RequestTimeout,
    /// The request's body is too large: 413.
    PayloadTooLarge,
    /// The request's target is too long: 414.
    UriTooLong,
    /// The request's head is too large, or has too many fields: 431.
    HeaderFieldsTooLarge,
    /// The HTTP version is not supported: 505.
    VersionNotSupported,
    /// The WebSocket version is not 13: 400 with the supported version (RFC 6455 section 4.4).
    WebSocketVersion,
    /// A token or an address exceeds one of its limits: 429.
    TooManyAttempts(Exceeded),
    /// No connection to the backend: 502.
    BackendUnreachable,
    /// The backend's response was malformed or incomplete: 502.
    BackendBroken,
    /// The backend did not respond in time: 504.
    BackendTimeout,
    /// A fault of the gateway: 500.
    InternalError,
}

impl Refusal {
    /// Whether the ability map and the token cause the refusal, rather than a fault or a limit.
    pub const fn is_authorization_refusal(&self) -> bool {
        matches!(
            self.reason(),
            Reason::MissingToken
                | Reason::MalformedToken
                | Reason::InactiveToken
                | Reason::ExpiredToken
                | Reason::NotYetValid
                | Reason::UnexpectedClaim
                | Reason::Unmapped
                | Reason::MethodNotMapped
                | Reason::Denied
                | Reason::MissingAbility
                | Reason::WrongNetwork
                | Reason::QueryDenied
        )
    }

    /// Whether introspection reported the token as inactive, or a verdict that counts as such, or the token is blocked.
    pub const fn is_inactive_token(&self) -> bool {
        matches!(
            self,
            Self::InactiveToken
                | Self::ExpiredToken
                | Self::NotYetValid
                | Self::UnexpectedClaim(_)
                | Self::Blocked
        )
    }

    /// The reason in metrics and logs.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::BadRequest(_) | Self::VersionNotSupported | Self::WebSocketVersion => Reason::BadRequest,
            Self::MissingToken => Reason::MissingToken,
            Self::MalformedToken => Reason::MalformedToken,
            Self::InactiveToken => Reason::InactiveToken,
            Self::ExpiredToken => Reason::ExpiredToken,
            Self::NotYetValid => Reason::NotYetValid,
            Self::UnexpectedClaim(_) => Reason::UnexpectedClaim,
            Self::Blocked => Reason::Blocked,
            Self::Unmapped => Reason::Unmapped,
            Self::MethodNotMapped => Reason::MethodNotMapped,
            Self::Denied => Reason::Denied,
            Self::MissingAbility(_) => Reason::MissingAbility,
            Self::WrongNetwork(_) => Reason::WrongNetwork,
            Self::QueryDenied { .. } => Reason::QueryDenied,
            Self::NoVerdict => Reason::NoVerdict,
            Self::Overloaded => Reason::Overloaded,
            Self::RequestTimeout
            | Self::PayloadTooLarge
            | Self::UriTooLong
            | Self::HeaderFieldsTooLarge
            | Self::TooManyAttempts(_) => Reason::Limited,
            Self::BackendUnreachable => Reason::BackendUnreachable,
            Self::BackendBroken => Reason::BackendBroken,
            Self::BackendTimeout => Reason::BackendTimeout,
            Self::InternalError => Reason::InternalError,
        }
    }
}
