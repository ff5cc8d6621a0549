//! Header fields for the tests of this directory.

use std::borrow::Borrow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The fields with these names and values, in this order. Panics if one is malformed.
pub(super) fn fields<'a>(lines: impl IntoIterator<Item: Borrow<(&'a str, &'a str)>>) -> HeaderMap {
    let field = |line: (&str, &str)| {
        (line.0.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(line.1.as_bytes()).unwrap())
    };
    lines.into_iter().map(|line| field(*line.borrow())).collect()
}
