//! What the answers of backend and introspector mean, and how to correct the configuration. Pure.

use std::error::Error;
use std::time::Duration;

use http::StatusCode;
use rustls::{AlertDescription, CertificateError};

use super::step::{Fault, Outcome};
use super::{is_malformed, url};
use crate::client::{ConnectError, ConnectStep, ConnectorError, ExchangeError, LeaseError, tls_fault};
use crate::config::settings::{Backend, Introspection, IntrospectionStyle};
use crate::tokens::introspection::{Inactive, IntrospectionResponse, NoVerdict};

/// Why there is no response of the backend. `Display` includes the cause.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendFault {
    /// TLS cannot be set up.
    #[error("{0}")]
    Setup(#[from] ConnectorError),
    /// There is no connection.
    #[error("the backend cannot be reached: {0}")]
    Connect(#[from] LeaseError),
    /// There is no valid response.
    #[error("the backend's response is truncated or malformed: {0}")]
    Exchange(#[from] ExchangeError),
    /// The backend does not answer.
    #[error("the backend took longer than {0:?}")]
    TimedOut(Duration),
    /// The request cannot be written.
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    /// The system provides no event queue.
    #[error("{0}")]
    System(String),
}

/// The outcome of HEAD `path` at the backend; `None` is an HTTP/2 handshake.
pub(super) fn backend(
    settings: &Backend,
    path: &str,
    answer: Result<Option<StatusCode>, BackendFault>,
) -> Outcome {
    let base = url(&settings.destination, &settings.authority, &settings.path_prefix);
    let (message, help) = match answer {
        Ok(None) => return Outcome::Passed(format!("{base} accepts connections")),
        Ok(Some(status)) if !status.is_server_error() => {
            return Outcome::Passed(format!("{base} answers HEAD {path} with {}", status.as_u16()));
        }
        Ok(Some(status)) => (
            format!("the backend answers HEAD {path} with {}", status.as_u16()),
            "see the log of the application: it fails without the gateway, too".to_owned(),
        ),
        Err(error) => {
            let help = match &error {
                BackendFault::Setup(_) => "correct the files in `backend.tls`".to_owned(),
                BackendFault::Connect(error) => connect("backend", "the application", error),
                BackendFault::Exchange(error) => exchange("backend", error),
                BackendFault::TimedOut(_) => {
                    "find out why the application is slow, or correct the port in `backend.url`".to_owned()
                }
                BackendFault::Request(_) => "correct the path of `backend.url`".to_owned(),
                BackendFault::System(_) => "raise the limit of open files".to_owned(),
            };
            (error.to_string(), help)
        }
    };
    Outcome::Failed(Fault { key: Some("backend.url"), place: base, message, help })
}

/// The outcome of introspecting a token that does not exist.
pub(super) fn unknown_token(
    settings: &Introspection,
    answer: Result<IntrospectionResponse, Box<dyn Error>>,
) -> Outcome {
    match answer {
        Ok(IntrospectionResponse::Inactive { why: Inactive::Reported, .. }) => {
            let answer = match settings.style {
                IntrospectionStyle::Bearer => "with 401",
                IntrospectionStyle::Rfc7662 { .. } => "that it is inactive",
            };
            Outcome::Passed(format!("{} answers {answer}", place_url(settings)))
        }
        // A claim of a token that does not exist was compared, so the introspector called it active.
        Ok(
            IntrospectionResponse::Active(_)
            | IntrospectionResponse::Inactive {
                why: Inactive::NotYetValid(_) | Inactive::UnexpectedClaim(_),
                ..
            },
        ) => failed(
            settings,
            "the introspector calls a token active that does not exist",
            match settings.style {
                IntrospectionStyle::Bearer => {
                    "the endpoint must authenticate the token that it gets (in Laravel: the middleware \
                     `auth:sanctum`); as it is, the gateway accepts any token"
                }
                IntrospectionStyle::Rfc7662 { .. } => {
                    "the endpoint must answer `{\"active\": false}` for this token; as it is, the gateway accepts any token"
                }
            },
        ),
        Ok(IntrospectionResponse::NoVerdict(error @ NoVerdict::Signed)) => no_verdict(settings, &error),
        Ok(IntrospectionResponse::NoVerdict(error)) if is_malformed(&error) => failed(
            settings,
            &format!("an unknown token gets 200: {error}"),
            match settings.style {
                IntrospectionStyle::Bearer => {
                    "an unknown token must get 401: check the path of `introspection.url`, and that the route requires \
                     authentication"
                }
                IntrospectionStyle::Rfc7662 { .. } => {
                    "an unknown token must get `{\"active\": false}`: check the path of `introspection.url`; for Sanctum, \
                     use `introspection.style: bearer`"
                }
            },
        ),
        Ok(IntrospectionResponse::NoVerdict(error)) => no_verdict(settings, &error),
        Err(error) => introspection_setup(settings, &error.to_string()),
    }
}

/// The outcome of an introspection without a verdict.
pub(super) fn no_verdict(settings: &Introspection, error: &NoVerdict) -> Outcome {
    let pointer = |name: &str, pointer: &dyn std::fmt::Display| {
        format!(
            "`introspection.response.{name}` is `{pointer}`: let it point to the value, or correct the response"
        )
    };
    let is_bearer = settings.style == IntrospectionStyle::Bearer;
    let help = match error {
        NoVerdict::Connect(error) => connect("introspection", "the introspector", error),
        NoVerdict::Transport(error) => exchange("introspection", error),
        NoVerdict::TimedOut(_) => {
            "find out why the endpoint is slow, or raise `introspection.timeout`".to_owned()
        }
        NoVerdict::TooLarge => "the endpoint must return the details of one token only".to_owned(),
        NoVerdict::Ambiguous(_) => {
            "the server, or a proxy in front of it, must send valid HTTP: correct it there".to_owned()
        }
        NoVerdict::Redirect(_) => "the endpoint must answer itself: correct the scheme, host and path of \
             `introspection.url`; Laravel redirects unknown paths and guests of web routes to its login page"
            .to_owned(),
        NoVerdict::ClientRefused(_) => {
            "`introspection.client_id` and `introspection.client_secret_file` must be those \
             that the introspector has for the gateway"
                .to_owned()
        }
        NoVerdict::Status(status) => self::status(*status, is_bearer),
        NoVerdict::Signed => {
            "let the introspector answer the gateway's client without a signature; the gateway sends \
             `Accept: application/json`, and TLS protects the response"
                .to_owned()
        }
        NoVerdict::NotJson(_) => {
            "the endpoint must answer with JSON: check the path of `introspection.url`".to_owned()
        }
        NoVerdict::ActiveNotBoolean(_) => {
            "`introspection.style: rfc7662` requires a boolean `active`; for Sanctum, use \
             `introspection.style: bearer`"
                .to_owned()
        }
        NoVerdict::Abilities(_)
        | NoVerdict::EncodedAbilities
        | NoVerdict::Ability { .. }
        | NoVerdict::AbilityValue(_) => pointer("abilities", &settings.response.abilities),
        NoVerdict::Networks(_) | NoVerdict::Network { .. } => {
            "the list must be addresses and networks such as `10.0.0.0/8`, or null: correct the response"
                .to_owned()
        }
        NoVerdict::Expiry(_) => pointer("expires_at", &settings.response.expires_at),
        NoVerdict::NotBefore(_) => "`nbf` must be seconds since 1970: correct the response".to_owned(),
        NoVerdict::TooLong { .. } => "the value must be shorter: correct the response".to_owned(),
        NoVerdict::Request(_) => "correct `introspection.url`".to_owned(),
    };
    failed(settings, &error.to_string(), &help)
}

/// What to do about a status that is no verdict.
fn status(status: StatusCode, is_bearer: bool) -> String {
    let (method, other) = if is_bearer { ("GET", "rfc7662") } else { ("POST", "bearer") };
    match status.as_u16() {
        400 | 405 | 415 => {
            format!(
                "the endpoint does not accept this {method} request: correct the path of `introspection.url`, or use \
                 `introspection.style: {other}`"
            )
        }
        403 => "an unknown token must get 401: the route must not require an ability, a verified email or an address"
            .to_owned(),
        404 => "correct the path of `introspection.url`; docs/guides/laravel.md has a route for Laravel".to_owned(),
        429 => "exempt the introspection route from rate limits (in Laravel: `throttle:api`)".to_owned(),
        500..=599 => "see the log of the introspector: it fails without the gateway, too".to_owned(),
        _ if is_bearer => "the endpoint must answer 200 for an active token and 401 for any other".to_owned(),
        _ => "the endpoint must answer 200 with `active` (RFC 7662)".to_owned(),
    }
}

/// The outcome if the TLS of the introspector cannot be set up.
pub(super) fn introspection_setup(settings: &Introspection, error: &str) -> Outcome {
    failed(settings, error, "correct the files in `introspection.tls`")
}

/// The outcome for a given token that is inactive.
pub(super) fn inactive_token(settings: &Introspection) -> Outcome {
    failed(
        settings,
        "the introspector does not know the given token",
        "give the whole token, with the part before `|`, of the application behind `introspection.url`; it may have been \
         deleted",
    )
}

/// The outcome for a given token that is not valid yet; `from` says when it will be.
pub(super) fn token_not_yet_valid(settings: &Introspection, from: &str) -> Outcome {
    failed(
        settings,
        &format!("the given token is not valid yet: {from}"),
        "give another token, or correct the clock of this machine",
    )
}

/// The outcome for a given token with a claim that is not the expected one.
pub(super) fn unexpected_claim(settings: &Introspection, difference: &str) -> Outcome {
    Outcome::Failed(Fault {
        key: Some("introspection.expect"),
        place: place_url(settings),
        message: format!("the given token is not for this service: {difference}"),
        help: "give a token that was issued for this service, or correct `introspection.expect`".to_owned(),
    })
}

/// The outcome for a given token that has expired.
pub(super) fn expired_token(holder: &str) -> Outcome {
    Outcome::Failed(Fault {
        key: None,
        place: holder.to_owned(),
        message: "the given token has expired".to_owned(),
        help: "create a new token and give that".to_owned(),
    })
}

/// The outcome for a given token that `blocked` names. `place` is its source or its holder.
pub(super) fn blocked_token(place: String) -> Outcome {
    Outcome::Failed(Fault {
        key: Some("blocked"),
        place,
        message: "the given token is blocked: the gateway answers 401 to it".to_owned(),
        help: "give another token, or remove its id or name from `blocked.ids` and `blocked.names`"
            .to_owned(),
    })
}

/// The outcome for a given token that no client can send.
pub(super) fn malformed_token(source: &str, longest: usize) -> Outcome {
    Outcome::Failed(Fault {
        key: None,
        place: source.to_owned(),
        message: "the given token is malformed".to_owned(),
        help: format!(
            "a token is one line of visible ASCII without spaces and commas, at most {longest} bytes (`limits.token_bytes`)"
        ),
    })
}

fn failed(settings: &Introspection, message: &str, help: &str) -> Outcome {
    Outcome::Failed(Fault {
        key: Some("introspection.url"),
        place: place_url(settings),
        message: message.to_owned(),
        help: help.to_owned(),
    })
}

/// The URL without its query, which may be secret.
fn place_url(settings: &Introspection) -> String {
    url(&settings.destination, &settings.authority, settings.target.path())
}

/// What to do if a server cannot be reached; `section` names its section in gateway.yaml.
fn connect(section: &str, server: &str, error: &LeaseError) -> String {
    let error = match error {
        LeaseError::Connect(error) => error,
        LeaseError::Joint(error) => return connect(section, server, error),
        LeaseError::Http2(_)
        | LeaseError::Http2Silent(_)
        | LeaseError::Http2Ended
        | LeaseError::Http2NoStreams => {
            return format!("{server} must support HTTP/2, or set `{section}.http2: false`");
        }
        LeaseError::Exhausted => return format!("raise `{section}.max_connections`"),
    };
    match error {
        ConnectError::Resolve { .. } => {
            format!(
                "correct the host in `{section}.url`, or the name server of this machine (/etc/resolv.conf)"
            )
        }
        ConnectError::Tcp { attempts, .. } => {
            let is_refused =
                attempts.iter().all(|it| it.error.kind() == std::io::ErrorKind::ConnectionRefused);
            match is_refused {
                true => format!("start {server}, or correct the host and port in `{section}.url`"),
                false => format!("correct the address in `{section}.url`, or let the network allow it"),
            }
        }
        ConnectError::Unix { .. } => {
            format!("start {server}, correct `{section}.url`, or allow this user to connect to the socket")
        }
        ConnectError::Tls { source, .. } => tls(section, source),
        ConnectError::TimedOut { step: ConnectStep::Tls, .. } => format!(
            "the server accepts the connection, but not TLS: write `http://` in `{section}.url`, or correct the port"
        ),
        ConnectError::TimedOut { .. } => {
            format!("correct the address in `{section}.url`; a firewall may drop the connection")
        }
    }
}

/// What to do about a failed TLS handshake.
fn tls(section: &str, error: &std::io::Error) -> String {
    use rustls::Error as Tls;
    match tls_fault(error) {
        Some(Tls::InvalidCertificate(CertificateError::UnknownIssuer)) => format!(
            "name the file with the CA's certificate in `{section}.tls.ca_file`, or set `{section}.tls.roots: platform` if \
             this machine trusts it"
        ),
        Some(Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!(
            "use a name of the certificate in `{section}.url`, or set it as `{section}.tls.server_name`"
        ),
        Some(Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "renew the certificate of the server, or correct the clock of this machine".to_owned(),
        Some(Tls::InvalidMessage(_)) => {
            format!(
                "the server does not use TLS on this port: write `http://` in `{section}.url`, or correct the port"
            )
        }
        Some(Tls::AlertReceived(AlertDescription::CertificateRequired)) => client_certificate(section),
        _ => format!("correct the certificate of the server, or `{section}.tls`: docs/operations/tls.md"),
    }
}

fn client_certificate(section: &str) -> String {
    format!(
        "the server requires a client certificate: set `certificate` and `private_key` in `{section}.tls`"
    )
}

/// What to do about a response that is not valid HTTP.
fn exchange(section: &str, error: &ExchangeError) -> String {
    if let Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) = tls_fault(error) {
        return client_certificate(section);
    }
    format!(
        "if the server expects TLS, write `https://` in `{section}.url`; otherwise correct the port, or see the server's log"
    )
}
