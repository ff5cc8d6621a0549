//! From the head of an HTTP/2 request (RFC 9113 section 8.3) to that of the HTTP/1.1 request that says the same.
//!
//! What follows then decides on either in the same way. h2 has refused what breaks the rules of frames and of
//! fields; here it is what HTTP/1 refuses of a head, by the same code and within the same bounds.

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};

use super::framing::{self, Bounds};
use super::refusal::Refusal;
use super::singleton::join_lines;
use super::target;

/// Of a line of a head: a name's `: ` and the line's end.
const LINE: usize = 4;
/// Of a request line and a head: two spaces, the version, and the ends of the line and of the head.
const REQUEST_LINE: usize = 14;

/// Stands among a request's extensions if h2 has dropped a part of its head: the refusal's text, for the log.
#[derive(Clone, Copy, Debug)]
pub struct DroppedPart(pub &'static str);

/// Turns the head into that of HTTP/1.1: an origin-form target, `Host` for `:authority`, one Cookie field.
///
/// # Errors
/// [`Refusal::BadRequest`] if a part of the head was [dropped](DroppedPart); for an `:authority` that is malformed or
/// differs from Host, for a `:path` that is no path, for white space around a field's value, and for a Content-Length
/// that HTTP/1 would refuse; [`Refusal::UriTooLong`] and [`Refusal::HeaderFieldsTooLarge`] for what is beyond `bounds`,
/// of which the head is measured as it would be in HTTP/1.1.
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
    // RFC 9113 section 8.2.3: a client may send each cookie in a field of its own. Measured is what is forwarded.
    join_lines(&mut head.headers);
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| target::MALFORMED_AUTHORITY)?;
        if head.headers.contains_key(HOST) {
            target::check_authority(&head.uri, target::host(&head.headers)?)?;
        } else {
            target::check_authority(&head.uri, &host)?;
        }
        // RFC 9113 section 8.3.1: whatever spelling Host had.
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

/// What a reader of lines would take for another value or another length.
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
