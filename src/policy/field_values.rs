//! Reads the values of header fields.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The value of a field; `None` if the field is missing or repeated, since two parsers could read different lines.
pub(super) fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = fields.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The list members in all lines of a field.
pub(super) fn options<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    fields.get_all(name).iter().flat_map(members)
}

/// The list members in a line.
pub(super) fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}
