//! Probes the servers of a configuration: backend, introspection, and a request through the gateway.
//!
//! The probe sends HEAD to the backend, and introspects, which Sanctum saves as a use of the token. [`advice`], [`request`]
//! and [`step`] are pure; this file and [`gateway`] do the I/O.

mod advice;
mod gateway;
mod request;
mod step;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use tokio::runtime::{self, LocalOptions};

use self::advice::BackendFault;
use self::gateway::ProbedGateway;
use self::request::{Trial, allowed, public_path, refused};
use self::step::Outcome;
pub(super) use self::step::{Fault, Step, failures};
use super::token_input::GivenToken;
use super::token_state::{TokenState, difference, holder, valid_from};
use crate::client::Connector;
use crate::client::call::Call;
use crate::client::pool::Pool;
use crate::config::settings::{self, Destination, Settings};
use crate::policy::ability::Abilities;
use crate::policy::bearer::Token;
use crate::sanitize::sanitize;
use crate::tokens::introspection::{Inactive, IntrospectionResponse, NoVerdict};
use crate::tokens::introspector::Introspector;

/// The time limit of a request, if the configuration allows more.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The length of the random part of a token of Sanctum.
const TOKEN_LENGTH: usize = 40;

/// Performs every step. Each has a time limit, and no response is read that could be large.
pub(super) fn probe(settings: Settings, token: Option<&GivenToken>) -> Vec<Step> {
    let map = Arc::clone(&settings.abilities);
    let introspection = &settings.introspection;
    let mut steps = vec![Step { name: "backend", outcome: backend(&settings) }];
    let unknown = Introspector::introspect_once(introspection, &unknown_token());
    let has_verdicts =
        matches!(unknown, Ok(IntrospectionResponse::Active(_) | IntrospectionResponse::Inactive { .. }));
    steps.push(Step { name: "unknown token", outcome: advice::unknown_token(introspection, unknown) });

    let mut abilities = None;
    let outcome = match token {
        None => Outcome::Skipped("no token given: `--token-file FILE` or STOCKAJ_GATEWAY_TOKEN".to_owned()),
        Some(_) if !has_verdicts => Outcome::Skipped("introspection does not work yet".to_owned()),
        Some(token) => given_token(&settings, token, &mut abilities),
    };
    steps.push(Step { name: "given token", outcome });

    let trials = [
        ("allowed request", allowed(&map, abilities.as_ref())),
        ("refused request", refused(&map, abilities.as_ref())),
    ];
    let needs_gateway = abilities.is_some() && trials.iter().any(|(_, trial)| trial.is_ok());
    let authority = settings.backend.authority.clone();
    let gateway = needs_gateway.then(|| ProbedGateway::start(settings));
    for (name, trial) in trials {
        let outcome = match (trial, &gateway) {
            (Err(outcome), _) => outcome,
            (Ok(trial), None) => trial.decided(),
            (Ok(trial), Some(Ok(gateway))) => tried(gateway, &trial, token, &authority),
            (Ok(_), Some(Err(error))) => Outcome::Failed(Fault {
                key: None,
                place: "the gateway in this process".to_owned(),
                message: error.to_string(),
                help: "free the port or raise the limit that the message names".to_owned(),
            }),
        };
        steps.push(Step { name, outcome });
    }
    steps
}

/// Connects to the backend and requests a public path, or `/`.
fn backend(settings: &Settings) -> Outcome {
    let path = public_path(&settings.abilities).unwrap_or_else(|| "/".to_owned());
    let answer = on_runtime(async { head_backend(&settings.backend, &path).await });
    let answer = answer.unwrap_or_else(|error| Err(BackendFault::System(error.to_string())));
    advice::backend(&settings.backend, &path, answer)
}

/// The status of the response to HEAD; `None` for HTTP/2, for which the handshake suffices.
async fn head_backend(settings: &settings::Backend, path: &str) -> Result<Option<StatusCode>, BackendFault> {
    let limit = settings.connect_timeout;
    let mut connector = Connector::new(&settings.destination, &settings.tls, limit)?;
    if settings.http2 {
        connector = connector.with_http2(limit);
    }
    let pool = Pool::new(Arc::new(connector), Duration::ZERO, None, limit);
    let mut lease = pool.connect(None).await?;
    if settings.http2 {
        return Ok(None);
    }
    let request = Request::head(format!("{}{path}", settings.path_prefix))
        .header(HOST, settings.authority.clone())
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .body(())?;
    let mut call = Call::new(&Method::HEAD, Full::<Bytes>::default());
    let limit = settings.timeout.min(LONGEST_WAIT);
    let response = tokio::time::timeout(limit, lease.send(&request, &mut call)).await;
    Ok(Some(response.map_err(|_| BackendFault::TimedOut(limit))??.status()))
}

/// Runs a future on a runtime of its own.
fn on_runtime<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    Ok(runtime.block_on(future))
}

/// A token that no application has issued, in Sanctum's shape.
fn unknown_token() -> String {
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(TOKEN_LENGTH).collect();
    format!("0|{random}")
}

/// Introspects the given token. Sets `abilities` if it is active.
fn given_token(settings: &Settings, token: &GivenToken, abilities: &mut Option<Abilities>) -> Outcome {
    let introspection = &settings.introspection;
    let (fields, source) = (token.fields(), token.source());
    let Some(token) = fields.as_ref().and_then(|it| Token::from_fields(it, settings.limits.token_bytes).ok())
    else {
        return advice::malformed_token(source, settings.limits.token_bytes);
    };
    match TokenState::introspect(introspection, &settings.blocked, &token) {
        Ok(TokenState::Expired(verdict)) => advice::expired_token(&holder(&verdict)),
        Ok(TokenState::Active(verdict)) => {
            let names: Vec<String> = verdict.abilities.names().map(sanitize).collect();
            let names = if names.is_empty() { "no abilities".to_owned() } else { names.join(", ") };
            let networks = verdict.allowed_from.as_ref();
            let networks = networks.map(|it| format!("; only from [{}]", it.summary())).unwrap_or_default();
            let text = format!("active: {}; {names}{networks}", holder(&verdict));
            *abilities = Some(verdict.abilities);
            Outcome::Passed(text)
        }
        Ok(TokenState::Blocked(verdict)) => {
            let place = verdict.as_ref().map_or_else(|| source.to_owned(), holder);
            advice::blocked_token(place)
        }
        Ok(TokenState::Inactive(Inactive::Reported)) => advice::inactive_token(introspection),
        Ok(TokenState::Inactive(Inactive::NotYetValid(from))) => {
            advice::token_not_yet_valid(introspection, &valid_from(from))
        }
        Ok(TokenState::Inactive(Inactive::UnexpectedClaim(mismatch))) => {
            advice::unexpected_claim(introspection, &difference(&mismatch, &introspection.expect))
        }
        Ok(TokenState::NoVerdict(error)) => advice::no_verdict(introspection, &error),
        Err(error) => advice::introspection_setup(introspection, &error.to_string()),
    }
}

/// Sends a trial through the gateway.
fn tried(
    gateway: &ProbedGateway,
    trial: &Trial,
    token: Option<&GivenToken>,
    authority: &HeaderValue,
) -> Outcome {
    if let Some(outcome) = trial.in_shadow_mode() {
        return outcome;
    }
    let mut fields = HeaderMap::new();
    if trial.sends_token
        && let Some(with_token) = token.and_then(GivenToken::fields)
    {
        fields.extend(with_token);
    }
    fields.insert(HOST, authority.clone());
    match gateway.head(&trial.path, fields, LONGEST_WAIT) {
        Ok(answer) => trial.answered(&answer),
        Err(error) => Outcome::Failed(Fault {
            key: None,
            place: format!("HEAD {}", trial.path),
            message: error.to_string(),
            help: "the backend did not answer in time: see its log, and `backend.timeout`".to_owned(),
        }),
    }
}

/// Whether the introspector gave an answer that is not a verdict because of its content.
fn is_malformed(error: &NoVerdict) -> bool {
    error.kind() == "malformed"
}

/// The URL of a destination without a query, for reports.
fn url(destination: &Destination, authority: &HeaderValue, path: &str) -> String {
    match destination {
        Destination::Tcp { tls, .. } => {
            let scheme = if *tls { "https" } else { "http" };
            format!("{scheme}://{}{path}", String::from_utf8_lossy(authority.as_bytes()))
        }
        Destination::Unix(socket) => format!("unix:{}", socket.display()),
    }
}
