//! Encodes responses that hyper does not write.

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// The bytes of the last response on an HTTP/1.1 connection. A response to HEAD has no body.
pub(super) fn encode(response: &Response<Bytes>, to_head: bool) -> Vec<u8> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()) {
        bytes.extend_from_slice(format!("date: {date}\r\n").as_bytes());
    }
    let length = response.body().len();
    bytes.extend_from_slice(format!("content-length: {length}\r\nconnection: close\r\n\r\n").as_bytes());
    if !to_head {
        bytes.extend_from_slice(response.body());
    }
    bytes
}
