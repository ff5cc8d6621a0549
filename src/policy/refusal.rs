//! Why a request stops.

use std::sync::Arc;

use super::ability::Missing;

/// Why a request ended as it did: the word that log lines, metrics and tests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Forwarded: the token's abilities satisfied the requirement.
    Allowed,
    /// Forwarded: the route asks for no token.
    Public,
    /// No Bearer credentials at all.
    MissingToken,
    /// Credentials that are not one well-formed bearer token.
    MalformedToken,
    /// Introspection said that the token is unknown or revoked.
    InactiveToken,
    /// The token's own expiry has passed.
    ExpiredToken,
    /// No route matches the path.
    Unmapped,
    /// The most specific route that matches the path lacks the method.
    MethodNotMapped,
    /// The route says `deny`.
    Denied,
    /// The token lacks an ability that the route requires.
    MissingAbility,
    /// The introspector gave no verdict.
    NoVerdict,
    /// More introspections wait than may run.
    Overloaded,
    /// Two parsers could read the request differently.
    BadRequest,
    /// A limit was exceeded.
    Limited,
    /// No connection to the backend.
    BackendUnreachable,
    /// The backend's answer was malformed or broke off.
    BackendBroken,
    /// The backend took too long.
    BackendTimeout,
    /// The client left before its answer was complete.
    ClientGone,
    /// A fault of ours.
    InternalError,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Allowed,
        Self::Public,
        Self::MissingToken,
        Self::MalformedToken,
        Self::InactiveToken,
        Self::ExpiredToken,
        Self::Unmapped,
        Self::MethodNotMapped,
        Self::Denied,
        Self::MissingAbility,
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

    /// The word for it in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Public => "public",
            Self::MissingToken => "missing_token",
            Self::MalformedToken => "malformed_token",
            Self::InactiveToken => "inactive_token",
            Self::ExpiredToken => "expired_token",
            Self::Unmapped => "unmapped",
            Self::MethodNotMapped => "method_not_mapped",
            Self::Denied => "denied",
            Self::MissingAbility => "missing_ability",
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

/// What a caller is told who comes too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// How many requests it has at once.
    pub limit: u32,
    /// In how many seconds it may come again: at least one.
    pub retry_after: u64,
    /// When that is, in seconds of the epoch.
    pub resets_at: u64,
}

/// Why the gateway answers a request itself instead of the backend.
///
/// A status is chosen in one place, `answer.rs`; a variant says what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Two parsers could read the request differently: 400. The text says what, for the log only.
    BadRequest(&'static str),
    /// No Bearer credentials at all: 401.
    MissingToken,
    /// Credentials that are not exactly one well-formed bearer token: 401.
    MalformedToken,
    /// Unknown, revoked or otherwise inactive: 401.
    InactiveToken,
    /// Past its own expiry: 401.
    ExpiredToken,
    /// No route matches the path: 403.
    Unmapped,
    /// The most specific route that matches the path lacks the method: 403.
    MethodNotMapped,
    /// The route says `deny`: 403.
    Denied,
    /// An ability is missing: 403 with this advice.
    MissingAbility(Arc<Missing>),
    /// The introspector gave no verdict: 503.
    NoVerdict,
    /// Too much is waiting already: 503.
    Overloaded,
    /// The request's body did not come in time: 408.
    RequestTimeout,
    /// The request's body is too large: 413.
    PayloadTooLarge,
    /// The request's target is too long: 414.
    UriTooLong,
    /// The request's head is too large, or has too many fields: 431.
    HeaderFieldsTooLarge,
    /// The request's version of HTTP is not served: 505.
    VersionNotSupported,
    /// The handshake is not of WebSocket version 13: 400 that names the version (RFC 6455 section 4.4).
    WebSocketVersion,
    /// A token or an address comes too often: 429.
    TooManyAttempts(Exceeded),
    /// No connection to the backend could be made: 502.
    BackendUnreachable,
    /// The backend's answer broke off or made no sense: 502.
    BackendBroken,
    /// The backend did not answer in time: 504.
    BackendTimeout,
    /// A fault of ours: 500.
    InternalError,
}

impl Refusal {
    /// Whether it is decided by the ability map and the token: no fault of the request, of others or of ours, and no
    /// limit.
    pub const fn is_of_a_map(&self) -> bool {
        matches!(
            self.reason(),
            Reason::MissingToken
                | Reason::MalformedToken
                | Reason::InactiveToken
                | Reason::ExpiredToken
                | Reason::Unmapped
                | Reason::MethodNotMapped
                | Reason::Denied
                | Reason::MissingAbility
        )
    }

    /// The word for it in metrics and logs.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::BadRequest(_) | Self::VersionNotSupported | Self::WebSocketVersion => Reason::BadRequest,
            Self::MissingToken => Reason::MissingToken,
            Self::MalformedToken => Reason::MalformedToken,
            Self::InactiveToken => Reason::InactiveToken,
            Self::ExpiredToken => Reason::ExpiredToken,
            Self::Unmapped => Reason::Unmapped,
            Self::MethodNotMapped => Reason::MethodNotMapped,
            Self::Denied => Reason::Denied,
            Self::MissingAbility(_) => Reason::MissingAbility,
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
