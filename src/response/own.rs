//! The gateway's own responses: to refusals, by one exhaustive match, and to preflights.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};

use crate::policy::headers::X_REQUEST_ID;
use crate::policy::refusal::Refusal;

const NO_CREDENTIALS: HeaderValue = HeaderValue::from_static("Bearer realm=\"stockaj\"");
const INVALID_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"stockaj\", error=\"invalid_token\"");
const INSUFFICIENT_SCOPE: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"stockaj\", error=\"insufficient_scope\"");
// Laravel's names.
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Retry-After of a 503, in seconds. Each request to a failed introspector starts another introspection.
const RETRY_AFTER_ONE_SECOND: HeaderValue = HeaderValue::from_static("1");

struct ResponseParts {
    status: StatusCode,
    body: &'static str,
    field: Option<(HeaderName, HeaderValue)>,
}

impl ResponseParts {
    const fn new(status: StatusCode, body: &'static str) -> Self {
        Self { status, body, field: None }
    }

    fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { field: Some((name, value)), ..self }
    }
}

fn unauthenticated(challenge: HeaderValue) -> ResponseParts {
    ResponseParts::new(StatusCode::UNAUTHORIZED, r#"{"message":"Unauthenticated."}"#)
        .with(WWW_AUTHENTICATE, challenge)
}

fn unauthorized(challenge: HeaderValue) -> ResponseParts {
    ResponseParts::new(StatusCode::FORBIDDEN, r#"{"message":"This action is unauthorized."}"#)
        .with(WWW_AUTHENTICATE, challenge)
}

fn unavailable() -> ResponseParts {
    ResponseParts::new(StatusCode::SERVICE_UNAVAILABLE, r#"{"message":"Service Unavailable."}"#)
        .with(RETRY_AFTER, RETRY_AFTER_ONE_SECOND)
}

fn parts(refusal: &Refusal) -> ResponseParts {
    match refusal {
        Refusal::BadRequest(_) => {
            ResponseParts::new(StatusCode::BAD_REQUEST, r#"{"message":"Bad Request."}"#)
        }
        Refusal::MissingToken => unauthenticated(NO_CREDENTIALS),
        Refusal::MalformedToken
        | Refusal::InactiveToken
        | Refusal::ExpiredToken
        | Refusal::NotYetValid
        | Refusal::UnexpectedClaim(_)
        | Refusal::Blocked => unauthenticated(INVALID_TOKEN),
        Refusal::Unmapped | Refusal::MethodNotMapped | Refusal::Denied | Refusal::WrongNetwork(_) => {
            unauthorized(INSUFFICIENT_SCOPE)
        }
        Refusal::MissingAbility(missing) | Refusal::QueryDenied { missing, .. } => {
            unauthorized(missing.challenge.clone())
        }
        Refusal::RequestTimeout => {
            ResponseParts::new(StatusCode::REQUEST_TIMEOUT, r#"{"message":"Request Timeout."}"#)
        }
        Refusal::PayloadTooLarge => {
            ResponseParts::new(StatusCode::PAYLOAD_TOO_LARGE, r#"{"message":"Payload Too Large."}"#)
        }
        Refusal::UriTooLong => ResponseParts::new(StatusCode::URI_TOO_LONG, r#"{"message":"URI Too Long."}"#),
        Refusal::HeaderFieldsTooLarge => ResponseParts::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            r#"{"message":"Request Header Fields Too Large."}"#,
        ),
        Refusal::VersionNotSupported => ResponseParts::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            r#"{"message":"HTTP Version Not Supported."}"#,
        ),
        Refusal::WebSocketVersion => {
            ResponseParts::new(StatusCode::BAD_REQUEST, r#"{"message":"Bad Request."}"#)
                .with(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
        }
        Refusal::TooManyAttempts(exceeded) => {
            ResponseParts::new(StatusCode::TOO_MANY_REQUESTS, r#"{"message":"Too Many Attempts."}"#)
                .with(RETRY_AFTER, exceeded.retry_after.into())
        }
        Refusal::InternalError => {
            ResponseParts::new(StatusCode::INTERNAL_SERVER_ERROR, r#"{"message":"Server Error"}"#)
        }
        Refusal::BackendUnreachable | Refusal::BackendBroken => {
            ResponseParts::new(StatusCode::BAD_GATEWAY, r#"{"message":"Bad Gateway."}"#)
        }
        Refusal::NoVerdict | Refusal::Overloaded => unavailable(),
        Refusal::BackendTimeout => {
            ResponseParts::new(StatusCode::GATEWAY_TIMEOUT, r#"{"message":"Gateway Timeout."}"#)
        }
    }
}

/// The status of a refused request.
pub fn status(refusal: &Refusal) -> StatusCode {
    parts(refusal).status
}

/// The response to a refused request.
pub fn refuse(refusal: &Refusal, request_id: HeaderValue) -> Response<Bytes> {
    let ResponseParts { status, body, field } = parts(refusal);
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_REQUEST_ID, request_id);
    if let Some((name, value)) = field {
        fields.insert(name, value);
    }
    if let Refusal::TooManyAttempts(exceeded) = refusal {
        fields.insert(X_RATELIMIT_LIMIT, exceeded.allowed.into());
        fields.insert(X_RATELIMIT_REMAINING, HeaderValue::from_static("0"));
        fields.insert(X_RATELIMIT_RESET, exceeded.resets_at.into());
    }
    response
}

/// The response to a CORS preflight, without fields that allow anything.
pub fn preflight(request_id: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_REQUEST_ID, request_id);
    response
}

/// The answer to a proxy that may forward a request, without fields for that request.
pub fn allow(request_id: HeaderValue) -> Response<Bytes> {
    let mut response = preflight(request_id);
    *response.status_mut() = StatusCode::OK;
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::expected_claims::Claim;
    use crate::policy::network::NetworkRule;
    use crate::policy::refusal::{Exceeded, Limit, Missing};

    #[test]
    fn rate_limit_response_equals_that_of_laravel() {
        let limit = Limit::RequestsPerSecond;
        let exceeded = Exceeded { limit, allowed: 100, retry_after: 3, resets_at: 1_700_000_003 };
        let response = refuse(&Refusal::TooManyAttempts(exceeded), HeaderValue::from_static("17"));
        assert_eq!(response.status(), 429);
        assert_eq!(*response.body(), r#"{"message":"Too Many Attempts."}"#);
        for (name, value) in [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("retry-after", "3"),
            ("x-ratelimit-limit", "100"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1700000003"),
        ] {
            assert_eq!(response.headers().get(name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn every_refusal_has_its_status_body_and_field() {
        let missing = Arc::new(Missing {
            challenge: HeaderValue::from_static("Bearer realm=\"stockaj\", scope=\"a b\""),
            required: HeaderValue::from_static("a, b"),
        });
        let invalid = Some(("www-authenticate", r#"Bearer realm="stockaj", error="invalid_token""#));
        let insufficient =
            Some(("www-authenticate", r#"Bearer realm="stockaj", error="insufficient_scope""#));
        let retry = Some(("retry-after", "1"));
        let table = [
            (Refusal::BadRequest("why"), 400, "Bad Request.", None),
            (
                Refusal::MissingToken,
                401,
                "Unauthenticated.",
                Some(("www-authenticate", r#"Bearer realm="stockaj""#)),
            ),
            (Refusal::MalformedToken, 401, "Unauthenticated.", invalid),
            (Refusal::InactiveToken, 401, "Unauthenticated.", invalid),
            (Refusal::ExpiredToken, 401, "Unauthenticated.", invalid),
            (Refusal::NotYetValid, 401, "Unauthenticated.", invalid),
            (Refusal::UnexpectedClaim(Claim::Issuer), 401, "Unauthenticated.", invalid),
            (Refusal::Blocked, 401, "Unauthenticated.", invalid),
            (Refusal::Unmapped, 403, "This action is unauthorized.", insufficient),
            (Refusal::MethodNotMapped, 403, "This action is unauthorized.", insufficient),
            (Refusal::Denied, 403, "This action is unauthorized.", insufficient),
            (Refusal::WrongNetwork(NetworkRule::Route), 403, "This action is unauthorized.", insufficient),
            (Refusal::WrongNetwork(NetworkRule::Token), 403, "This action is unauthorized.", insufficient),
            (
                Refusal::MissingAbility(Arc::clone(&missing)),
                403,
                "This action is unauthorized.",
                Some(("www-authenticate", r#"Bearer realm="stockaj", scope="a b""#)),
            ),
            (
                Refusal::QueryDenied { rule: 0, missing },
                403,
                "This action is unauthorized.",
                Some(("www-authenticate", r#"Bearer realm="stockaj", scope="a b""#)),
            ),
            (Refusal::RequestTimeout, 408, "Request Timeout.", None),
            (Refusal::PayloadTooLarge, 413, "Payload Too Large.", None),
            (Refusal::UriTooLong, 414, "URI Too Long.", None),
            (Refusal::HeaderFieldsTooLarge, 431, "Request Header Fields Too Large.", None),
            (Refusal::VersionNotSupported, 505, "HTTP Version Not Supported.", None),
            (Refusal::WebSocketVersion, 400, "Bad Request.", Some(("sec-websocket-version", "13"))),
            (Refusal::InternalError, 500, "Server Error", None),
            (Refusal::BackendUnreachable, 502, "Bad Gateway.", None),
            (Refusal::BackendBroken, 502, "Bad Gateway.", None),
            (Refusal::NoVerdict, 503, "Service Unavailable.", retry),
            (Refusal::Overloaded, 503, "Service Unavailable.", retry),
            (Refusal::BackendTimeout, 504, "Gateway Timeout.", None),
        ];
        for (refusal, status, message, field) in table {
            let response = refuse(&refusal, HeaderValue::from_static("17"));
            assert_eq!(response.status(), status, "{refusal:?}");
            assert_eq!(*response.body(), format!(r#"{{"message":"{message}"}}"#), "{refusal:?}");
            let mut fields = vec![
                ("content-type", "application/json"),
                ("cache-control", "no-store"),
                ("x-request-id", "17"),
            ];
            fields.extend(field);
            fields.sort_unstable();
            let mut sent: Vec<_> = response
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            sent.sort_unstable();
            assert_eq!(sent, fields, "{refusal:?}");
        }
    }
}
