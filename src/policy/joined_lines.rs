//! Joins the lines of lists that no reader may read in part.

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

use super::field_class::{FieldClass, classify};

/// The lists that must not be read in part, with their separators: RFC 9113 section 8.2.3 for cookies, RFC 9110 section
/// 5.3 for the others.
const WHOLE_LISTS: [(HeaderName, &str); 3] = [(COOKIE, "; "), (IF_MATCH, ", "), (IF_NONE_MATCH, ", ")];

/// Joins several lines of a list that must not be read in part, or of a forwarding field. Returns the first line and the
/// joined one; `None` for other fields and for a single line.
#[cold]
pub(super) fn joined_line<'a>(
    fields: &'a HeaderMap,
    name: &HeaderName,
) -> Option<(&'a HeaderValue, HeaderValue)> {
    let separator = match WHOLE_LISTS.iter().find(|(list, _)| list == name) {
        Some((_, separator)) => separator,
        None if classify(name.as_str()) == FieldClass::Forwarding => ", ",
        None => return None,
    };
    let lines = fields.get_all(name);
    let first = lines.iter().next()?;
    let lines: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&lines.join(separator.as_bytes())).ok()?;
    (lines.len() > 1).then_some((first, joined))
}

/// Replaces several lines of each list that must not be read in part by one. The check is one comparison unless some
/// field has several lines.
pub(super) fn join_lines(fields: &mut HeaderMap) {
    if fields.len() != fields.keys_len() {
        for (name, _) in &WHOLE_LISTS {
            if let Some((_, joined)) = joined_line(fields, name) {
                fields.insert(name, joined);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::test_fields::fields;

    #[test]
    fn cookies_and_preconditions_become_one_line() {
        let mut sent = fields([
            ("if-match", "\"a\""),
            ("cookie", "a=b"),
            ("accept", "x"),
            ("if-none-match", "\"c\", \"d\""),
            ("cookie", "c=d; e=f"),
            ("if-match", "\"b\""),
            ("if-none-match", "W/\"e\""),
            ("accept", "y"),
        ]);
        join_lines(&mut sent);
        let joined = fields([
            ("if-match", "\"a\", \"b\""),
            ("cookie", "a=b; c=d; e=f"),
            ("if-none-match", "\"c\", \"d\", W/\"e\""),
            ("accept", "x"),
            ("accept", "y"),
        ]);
        assert_eq!(sent, joined);
    }
}
