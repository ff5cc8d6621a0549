//! Routes and authenticates the requests of the admin listener.

use std::convert::Infallible;
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::audit::{Action, Actor, unavailable};
use super::response::{AdminResponse, json, message, not_allowed, text};
use super::{Admin, ReadinessState, blocks, tokens, unmapped, usage, webhook};
use crate::listener::connections::ConnectionSlot;
use crate::policy::headers::X_REQUEST_ID;
use crate::response::record::new_request_id;
use crate::telemetry::lines::AuditPriority;
use crate::telemetry::metrics::CONTENT_TYPE as METRICS;

/// The largest request body, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// Handles one request. The response and the request's audit line have the same `X-Request-Id`.
pub(super) async fn handle(
    admin: &Admin,
    client: &str,
    place: &ConnectionSlot,
    request: Request<Incoming>,
) -> Result<AdminResponse, Infallible> {
    let request_id = new_request_id();
    let mut response = respond(admin, client, &request_id, place, request).await;
    response.headers_mut().insert(X_REQUEST_ID, request_id);
    Ok(response)
}

async fn respond(
    admin: &Admin,
    client: &str,
    request_id: &HeaderValue,
    place: &ConnectionSlot,
    request: Request<Incoming>,
) -> AdminResponse {
    let settings = admin.settings.load_full();
    let actor = |credential| Actor { credential, client, request_id };
    match (request.uri().path(), &settings.webhook) {
        ("/metrics", _) => public(request.method(), || text(METRICS, admin.metrics.render())),
        ("/healthz", _) => public(request.method(), || json(StatusCode::OK, r#"{"status":"ok"}"#)),
        ("/readyz", _) => public(request.method(), || readyz(admin.readiness.get())),
        ("/webhook", Some(webhook)) if *request.method() == Method::POST => match read_body(request).await {
            Ok(request) => webhook::receive(
                admin,
                webhook,
                actor("webhook signature"),
                request.headers(),
                request.body(),
            ),
            Err(rejection) => *rejection,
        },
        ("/webhook", Some(_)) => not_allowed("POST"),
        // Not 401, which would suggest a wrong secret to the sender.
        ("/webhook", None) => message(StatusCode::NOT_FOUND, "Not Found."),
        (path, _) => match authenticate(settings.admin.token.as_ref(), request.method(), request.headers()) {
            Ok(credential) => {
                place.authenticated();
                match read_body(request).await {
                    Ok(request) => authenticated(admin, actor(credential), &request).await,
                    Err(rejection) => *rejection,
                }
            }
            Err(AuthenticationError::NotConfigured) => message(StatusCode::NOT_FOUND, "Not Found."),
            Err(error) => {
                let now = Instant::now();
                if !is_challenge(request.method(), path, request.headers()) {
                    admin.refused.record(path, client, now);
                }
                let rejection = unauthenticated(request.method());
                match error {
                    AuthenticationError::Wrong => admin.throttle.limit(client, now, rejection),
                    _ => rejection,
                }
            }
        },
    }
}

fn readyz(state: ReadinessState) -> AdminResponse {
    match state {
        ReadinessState::Starting => json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"starting"}"#),
        ReadinessState::Ready => json(StatusCode::OK, r#"{"status":"ready"}"#),
        ReadinessState::Draining => json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#),
    }
}

/// Handles a request with the admin token.
async fn authenticated(admin: &Admin, actor: Actor<'_>, request: &Request<Bytes>) -> AdminResponse {
    let method = request.method();
    let is_read = is_read(method);
    match request.uri().path() {
        "/tokens" if is_read => tokens::list(admin, actor),
        "/config" if is_read => match admin.audit.reserve(AuditPriority::Read) {
            Ok(slot) => {
                actor.record(slot, Action { action: "show configuration", subject: None, count: None });
                json(StatusCode::OK, admin.settings.load().effective.to_string())
            }
            Err(_) => unavailable(),
        },
        "/" if is_read => redirect(if admin.settings.load().usage.is_some() { "/usage" } else { "/config" }),
        "/usage" if is_read => usage::show(admin, actor, request).await,
        "/unmapped" if is_read => unmapped::show(admin, actor, request),
        "/" | "/tokens" | "/config" | "/usage" | "/unmapped" => not_allowed("GET, HEAD"),
        "/tokens/revoke" if *method == Method::POST => tokens::revoke(admin, actor, request.body()),
        "/tokens/revoke" => not_allowed("POST"),
        "/tokens/block" if is_read => blocks::list(admin, actor),
        "/tokens/block" if *method == Method::POST => blocks::block(admin, actor, request.body()).await,
        "/tokens/block" if *method == Method::DELETE => blocks::unblock(admin, actor, request.body()).await,
        "/tokens/block" => not_allowed("GET, HEAD, POST, DELETE"),
        _ => message(StatusCode::NOT_FOUND, "Not Found."),
    }
}

fn redirect(path: &'static str) -> AdminResponse {
    let mut response = text("text/plain; charset=utf-8", "");
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    response
}

/// Reads the whole body.
///
/// # Errors
/// The response to a body that is too large or malformed.
async fn read_body(request: Request<Incoming>) -> Result<Request<Bytes>, Box<AdminResponse>> {
    let (head, body) = request.into_parts();
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Ok(Request::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Box::new(message(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large.")))
        }
        Err(_) => Err(Box::new(message(StatusCode::BAD_REQUEST, "Bad Request."))),
    }
}

enum AuthenticationError {
    /// The configuration has no admin token.
    NotConfigured,
    /// The request has no credentials, such as the first request of a browser, or the right token in a scheme that is
    /// not accepted for its method.
    Missing,
    /// The request has other credentials: a guess.
    Wrong,
}

/// The credential for the audit line, if the request has the admin token.
fn authenticate(
    token: Option<&SecretString>,
    method: &Method,
    fields: &HeaderMap,
) -> Result<&'static str, AuthenticationError> {
    let token = token.map(ExposeSecret::expose_secret).filter(|token| !token.is_empty());
    let token = token.ok_or(AuthenticationError::NotConfigured)?;
    if !fields.contains_key(AUTHORIZATION) {
        return Err(AuthenticationError::Missing);
    }
    // Browsers attach Basic credentials to every request, also to a form that another site submits. They are accepted
    // for reads only.
    let (credential, given) = match credentials(fields) {
        Some(Credentials::Bearer(given)) => (Some("admin token (Bearer)"), given),
        Some(Credentials::Basic(given)) => (is_read(method).then_some("admin token (Basic)"), given),
        None => return Err(AuthenticationError::Wrong),
    };
    // Comparing hashes in constant time reveals neither the length of the token nor of a common prefix.
    let hash = |token: &[u8]| -> [u8; 32] { Sha256::digest(token).into() };
    if bool::from(hash(&given).ct_eq(&hash(token.as_bytes()))) {
        credential.ok_or(AuthenticationError::Missing)
    } else {
        Err(AuthenticationError::Wrong)
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// 401 with a challenge for the scheme that the method accepts.
fn unauthenticated(method: &Method) -> AdminResponse {
    let mut rejection = message(StatusCode::UNAUTHORIZED, "Unauthenticated.");
    let challenge = if is_read(method) {
        HeaderValue::from_static(r#"Basic realm="stockaj-gateway admin", charset="UTF-8""#)
    } else {
        HeaderValue::from_static(r#"Bearer realm="stockaj-gateway admin""#)
    };
    rejection.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    rejection
}

/// Whether a 401 is the challenge to a browser's first request for a page. It is no attempt to authenticate.
fn is_challenge(method: &Method, path: &str, fields: &HeaderMap) -> bool {
    const PAGES: [&str; 5] = ["/", "/config", "/tokens", "/unmapped", "/usage"];
    is_read(method) && PAGES.contains(&path) && !fields.contains_key(AUTHORIZATION)
}

enum Credentials {
    Bearer(Zeroizing<Vec<u8>>),
    /// The password (RFC 7617). Any user name is accepted.
    Basic(Zeroizing<Vec<u8>>),
}

fn credentials(fields: &HeaderMap) -> Option<Credentials> {
    let mut values = fields.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    let credentials = credentials.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("Bearer") {
        Some(Credentials::Bearer(Zeroizing::new(credentials.as_bytes().to_vec())))
    } else if scheme.eq_ignore_ascii_case("Basic") {
        let decoded = Zeroizing::new(BASE64_STANDARD.decode(credentials).ok()?);
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        Some(Credentials::Basic(Zeroizing::new(decoded[colon + 1..].to_vec())))
    } else {
        None
    }
}

/// Handles a request for a path that needs no credentials.
fn public(method: &Method, response: impl FnOnce() -> AdminResponse) -> AdminResponse {
    if is_read(method) { response() } else { not_allowed("GET, HEAD") }
}
