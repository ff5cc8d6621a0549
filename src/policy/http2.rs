//! Translates the head of an HTTP/2 request (RFC 9113 section 8.3) to that of the equivalent HTTP/1.1 request.
//!
//! So all later code handles both versions in the same way. h2 has already refused violations of HTTP/2's rules for frames
//! and fields. This module refuses what HTTP/1 refuses in a head, with the same code and the same limits.

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};

use super::framing::{self, Bounds};
use super::joined_lines::join_lines;
use super::refusal::Refusal;
use super::target;

/// The bytes of a field line in addition to name and value: `: ` and CRLF.
const LINE: usize = 4;
/// The bytes of a request line and a head in addition to method and target: two spaces, the version, and two CRLFs.
const REQUEST_LINE: usize = 14;

/// A request extension: h2 has dropped a part of the head. Holds the reason of the refusal, for the log.
#[derive(Clone, Copy, Debug)]
pub struct DroppedPart(pub &'static str);

/// Translates a head to HTTP/1.1: an origin-form target, `Host` for `:authority`, one Cookie field.
///
/// # Errors
/// [`Refusal::BadRequest`] if a part of the head was [dropped](DroppedPart), if `:authority` is malformed or differs from
/// Host, if `:path` is no path, if white space surrounds a field's value, and for a Content-Length that HTTP/1 refuses.
/// [`Refusal::UriTooLong`] and [`Refusal::HeaderFieldsTooLarge`] if `bounds` are exceeded by the size that the head has in
/// HTTP/1.1.
pub fn translate(head: &mut Parts, bounds: &Bounds) -> Result<(), Refusal> {
    if let Some(DroppedPart(why)) = head.extensions.get() {
        return Err(Refusal::BadRequest(why));
    }
    let path = head.uri.path_and_query().ok_or(NO_PATH)?.clone();
    framing::check_target(path.as_str().as_bytes(), bounds)?;
    if !path.as_str().starts_with(['/', '*']) {
        return Err(NO_PATH);
    }
    check_values(&head.headers)?;
    // RFC 9113 section 8.2.3: a client may send each cookie in a field of its own. Joined first, since the limits hold for
    // the forwarded fields.
    join_lines(&mut head.headers);
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| target::MALFORMED_AUTHORITY)?;
        if head.headers.contains_key(HOST) {
            target::check_authority(&head.uri, target::host(&head.headers)?)?;
        } else {
            target::check_authority(&head.uri, &host)?;
        }
        // RFC 9113 section 8.3.1: `:authority` replaces Host.
        head.headers.insert(HOST, host);
    }
    let fields: usize =
        head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE).sum();
    let bytes = REQUEST_LINE + head.method.as_str().len() + path.as_str().len() + fields;
    if head.headers.len() > bounds.fields || bytes > bounds.head {
        return Err(Refusal::HeaderFieldsTooLarge);
    }
    head.uri = Uri::from(path);
    Ok(())
}

const NO_PATH: Refusal = Refusal::BadRequest("`:path` that is no path");

/// Refuses values and lengths that an HTTP/1 parser would read differently.
fn check_values(fields: &HeaderMap) -> Result<(), Refusal> {
    for value in fields.values() {
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(Refusal::BadRequest("white space around a field's value"));
        }
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        framing::content_length(length.as_bytes())?;
    }
    if lengths.next().is_some() { Err(framing::SEVERAL_LENGTHS) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
