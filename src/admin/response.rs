//! Builds the responses of the admin listener.

use std::io;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};

/// A whole body, or one that is streamed while it is written.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

pub(super) type AdminResponse = Response<Body>;

pub(super) fn not_allowed(allowed: &'static str) -> AdminResponse {
    let mut rejection = message(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed.");
    rejection.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    rejection
}

/// `{"message": …}`, the shape of the gateway's own responses.
pub(super) fn message(status: StatusCode, text: &str) -> AdminResponse {
    json(status, serde_json::json!({ "message": text }).to_string())
}

pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> AdminResponse {
    let mut response = text("application/json", body);
    *response.status_mut() = status;
    response
}

pub(super) fn text(content_type: &'static str, body: impl Into<Bytes>) -> AdminResponse {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
