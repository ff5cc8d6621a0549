//! What the admin listener answers.

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

use super::audit::{Action, Caller, unavailable};
use super::response::{Answer, json, message, not_allowed, text};
use super::{Admin, State, tokens, unmapped, usage, webhook};
use crate::exchange::new_request_id;
use crate::listener::connections::ConnectionSlot;
use crate::policy::headers::X_REQUEST_ID;
use crate::telemetry::lines::AuditPriority;
use crate::telemetry::metrics::CONTENT_TYPE as METRICS;

/// The largest body of a request, in bytes.
const BODY: usize = 64 * 1024;

/// Answers one request. The id of the answer is also in the audit line of what the request did.
pub(super) async fn answer(
    admin: &Admin,
    client: &str,
    place: &ConnectionSlot,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let request_id = new_request_id();
    let mut answer = answer_to(admin, client, &request_id, place, request).await;
    answer.headers_mut().insert(X_REQUEST_ID, request_id);
    Ok(answer)
}

async fn answer_to(
    admin: &Admin,
    client: &str,
    request_id: &HeaderValue,
    place: &ConnectionSlot,
    request: Request<Incoming>,
) -> Answer {
    let settings = admin.settings.load_full();
    let caller = |credential| Caller { credential, client, request_id };
    match (request.uri().path(), &settings.webhook) {
        ("/metrics", _) => open(request.method(), || text(METRICS, admin.metrics.render())),
        ("/healthz", _) => open(request.method(), || json(StatusCode::OK, r#"{"status":"ok"}"#)),
        ("/readyz", _) => open(request.method(), || readyz(admin.readiness.get())),
        ("/webhook", Some(webhook)) if *request.method() == Method::POST => match read(request).await {
            Ok(request) => webhook::receive(
                admin,
                webhook,
                caller("webhook signature"),
                request.headers(),
                request.body(),
            ),
            Err(refusal) => *refusal,
        },
        ("/webhook", Some(_)) => not_allowed("POST"),
        // Not 401: whoever signs would look for the mistake in the secret.
        ("/webhook", None) => message(StatusCode::NOT_FOUND, "Not Found."),
        (path, _) => match permitted(settings.admin.token.as_ref(), request.method(), request.headers()) {
            Ok(credential) => {
                place.authenticated();
                match read(request).await {
                    Ok(request) => behind_token(admin, caller(credential), &request).await,
                    Err(refusal) => *refusal,
                }
            }
            Err(Unpermitted::NoToken) => message(StatusCode::NOT_FOUND, "Not Found."),
            Err(reason) => {
                let now = Instant::now();
                if !is_challenge(request.method(), path, request.headers()) {
                    admin.refused.note(path, client, now);
                }
                let refusal = unauthenticated(request.method());
                match reason {
                    Unpermitted::Wrong => admin.throttle.answer(client, now, refusal),
                    _ => refusal,
                }
            }
        },
    }
}

fn readyz(state: State) -> Answer {
    match state {
        State::Starting => json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"starting"}"#),
        State::Ready => json(StatusCode::OK, r#"{"status":"ready"}"#),
        State::Draining => json(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#),
    }
}

/// What only the holder of the token sees and does.
async fn behind_token(admin: &Admin, caller: Caller<'_>, request: &Request<Bytes>) -> Answer {
    let method = request.method();
    let reads = reads(method);
    match request.uri().path() {
        "/tokens" if reads => tokens::list(admin, caller),
        "/config" if reads => match admin.audit.reserve(AuditPriority::Read) {
            Ok(slot) => {
                caller.did(slot, Action { action: "show configuration", subject: None, count: None });
                json(StatusCode::OK, admin.settings.load().effective.to_string())
            }
            Err(_) => unavailable(),
        },
        "/" if reads => go_to(if admin.settings.load().usage.is_some() { "/usage" } else { "/config" }),
        "/usage" if reads => usage::show(admin, caller, request).await,
        "/unmapped" if reads => unmapped::show(admin, caller, request),
        "/" | "/tokens" | "/config" | "/usage" | "/unmapped" => not_allowed("GET, HEAD"),
        "/tokens/revoke" if *method == Method::POST => tokens::revoke(admin, caller, request.body()),
        "/tokens/revoke" => not_allowed("POST"),
        _ => message(StatusCode::NOT_FOUND, "Not Found."),
    }
}

/// Redirects to what a browser can show.
fn go_to(path: &'static str) -> Answer {
    let mut answer = text("text/plain; charset=utf-8", "");
    *answer.status_mut() = StatusCode::FOUND;
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    answer
}

/// The request with its whole body.
async fn read(request: Request<Incoming>) -> Result<Request<Bytes>, Box<Answer>> {
    let (head, body) = request.into_parts();
    match Limited::new(body, BODY).collect().await {
        Ok(body) => Ok(Request::from_parts(head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Box::new(message(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large.")))
        }
        Err(_) => Err(Box::new(message(StatusCode::BAD_REQUEST, "Bad Request."))),
    }
}

/// Why a request may not do what needs the token.
enum Unpermitted {
    /// There is no token to show.
    NoToken,
    /// The request has no credentials, as a browser's first one; or the right ones, in a scheme that does not count for
    /// its method.
    Missing,
    /// The request has other credentials: a guess.
    Wrong,
}

/// How the token came, if the credentials are the token's.
fn permitted(
    token: Option<&SecretString>,
    method: &Method,
    fields: &HeaderMap,
) -> Result<&'static str, Unpermitted> {
    let token = token.map(ExposeSecret::expose_secret).filter(|token| !token.is_empty());
    let token = token.ok_or(Unpermitted::NoToken)?;
    if !fields.contains_key(AUTHORIZATION) {
        return Err(Unpermitted::Missing);
    }
    // Basic credentials are sent by browsers by themselves, also with a form of another site: reading only.
    let (how, given) = match credentials(fields) {
        Some(Credentials::Bearer(given)) => (Some("admin token (Bearer)"), given),
        Some(Credentials::Basic(given)) => (reads(method).then_some("admin token (Basic)"), given),
        None => return Err(Unpermitted::Wrong),
    };
    // By their hashes: neither how much of them is alike nor their length shows in the time that it takes.
    let hash = |token: &[u8]| -> [u8; 32] { Sha256::digest(token).into() };
    if bool::from(hash(&given).ct_eq(&hash(token.as_bytes()))) {
        how.ok_or(Unpermitted::Missing)
    } else {
        Err(Unpermitted::Wrong)
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// 401 with the scheme that counts for the method.
fn unauthenticated(method: &Method) -> Answer {
    let mut refusal = message(StatusCode::UNAUTHORIZED, "Unauthenticated.");
    let challenge = if reads(method) {
        HeaderValue::from_static(r#"Basic realm="stockaj-gateway admin", charset="UTF-8""#)
    } else {
        HeaderValue::from_static(r#"Bearer realm="stockaj-gateway admin""#)
    };
    refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    refusal
}

/// Whether a 401 is the challenge that a browser's first request for a page gets: nobody has tried anything yet.
fn is_challenge(method: &Method, path: &str, fields: &HeaderMap) -> bool {
    const PAGES: [&str; 5] = ["/", "/config", "/tokens", "/unmapped", "/usage"];
    matches!(*method, Method::GET | Method::HEAD)
        && PAGES.contains(&path)
        && !fields.contains_key(AUTHORIZATION)
}

enum Credentials {
    Bearer(Zeroizing<Vec<u8>>),
    /// The password of RFC 7617; the user does not matter.
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

fn open(method: &Method, answer: impl FnOnce() -> Answer) -> Answer {
    if reads(method) {
        return answer();
    }
    not_allowed("GET, HEAD")
}
