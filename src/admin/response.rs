//! Answers of the admin listener, as responses.

use std::io;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};

/// A whole body, or one that is sent as it is made.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

pub(super) type Answer = Response<Body>;

pub(super) fn not_allowed(allowed: &'static str) -> Answer {
    let mut refusal = message(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed.");
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refusal
}

/// `{"message": …}`, as the gateway's own answers have it.
pub(super) fn message(status: StatusCode, text: &str) -> Answer {
    json(status, serde_json::json!({ "message": text }).to_string())
}

pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = text("application/json", body);
    *answer.status_mut() = status;
    answer
}

pub(super) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    let fields = answer.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
