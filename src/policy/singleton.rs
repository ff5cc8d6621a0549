//! Singleton fields: fields that a request may have at most once.
//!
//! RFC 9110 section 5.3 allows several lines only for fields that are defined as lists. Of two lines of another field,
//! PHP-FPM and Apache keep the last or join them, nginx and Symfony keep the first, and caches vary. So the gateway
//! refuses two lines of a field in this table, also equal ones, which a reader could join.
//!
//! These have checks elsewhere and are not in the table: Host ([`target`](super::target)),
//! Content-Length ([`framing`](super::framing), [`http2`](super::http2)), Expect
//! ([`expectation`](super::expectation)) and Authorization ([`bearer`](super::bearer)). Fields that never reach the
//! backend, such as `X-HTTP-Method-Override`, need none.
//!
//! Lists may have several lines, which mean the same as one line with all members:
//! - `Accept`, `Accept-*`, `Cache-Control`, `Content-Language`, `Pragma`, `Prefer`, `Priority` and similar fields choose
//!   among responses that the token may get in any case.
//! - `If-Match` and `If-None-Match` decide whether a write happens, and `Cookie` selects the session. They are
//!   [forwarded as one line](super::joined_lines), so that no reader behind the gateway can pick one.
//! - `Forwarded` and `X-Forwarded-*` pass from trusted proxies, each as [one line](super::joined_lines), so that a backend that
//!   reads one line reads the first proxy's value.
//! - `Via` and `Connection` are for proxies: the gateway reads all lines.
//! - `traceparent` is no list, but a second one, which instrumented proxies add, only loses the trace (W3C Trace Context
//!   section 3.2: a receiver starts a new one).

use http::HeaderMap;

use super::refusal::Refusal;

/// The fields, sorted, in lower case. The text is the reason of the refusal, for the log: what the field decides.
const SINGLETONS: [(&str, &str); 36] = [
    (
        "access-control-request-headers",
        "several Access-Control-Request-Headers fields: what a preflight asks for",
    ),
    (
        "access-control-request-method",
        "several Access-Control-Request-Method fields: what a preflight asks for",
    ),
    (
        "access-control-request-private-network",
        "several Access-Control-Request-Private-Network fields: what a preflight asks for",
    ),
    ("content-disposition", "several Content-Disposition fields: how the body is read"),
    // A list, but in practice all codings are in one line, and a reader of one line would skip a decoding.
    ("content-encoding", "several Content-Encoding fields: how the body is read"),
    ("content-location", "several Content-Location fields: what the body stands for"),
    ("content-md5", "several Content-MD5 fields: whether the body is intact"),
    ("content-range", "several Content-Range fields: which part of a resource is written"),
    ("content-transfer-encoding", "several Content-Transfer-Encoding fields: how the body is read"),
    ("content-type", "several Content-Type fields: how the body is read"),
    ("date", "several Date fields: how old the request is"),
    ("dnt", "several DNT fields: what the user consents to"),
    ("from", "several From fields: who sends the request"),
    ("idempotency-key", "several Idempotency-Key fields: whether a write is repeated"),
    ("if-modified-since", "several If-Modified-Since fields: whether the answer has a body"),
    ("if-range", "several If-Range fields: whether the answer is a part"),
    ("if-unmodified-since", "several If-Unmodified-Since fields: whether a write happens"),
    ("last-event-id", "several Last-Event-ID fields: where an event stream resumes"),
    ("max-forwards", "several Max-Forwards fields: which server answers"),
    ("origin", "several Origin fields: which site's script sends the request"),
    ("range", "several Range fields: which part the answer holds"),
    ("referer", "several Referer fields: whether Sanctum takes the request for one of its own pages"),
    ("sec-fetch-dest", "several Sec-Fetch-Dest fields: what made the browser send the request"),
    ("sec-fetch-mode", "several Sec-Fetch-Mode fields: what made the browser send the request"),
    ("sec-fetch-site", "several Sec-Fetch-Site fields: which site sends the request"),
    ("sec-fetch-user", "several Sec-Fetch-User fields: what made the browser send the request"),
    ("sec-gpc", "several Sec-GPC fields: what the user consents to"),
    // RFC 6455 sections 11.3.1 and 11.3.5
    ("sec-websocket-key", "several Sec-WebSocket-Key fields: what proves the handshake"),
    ("sec-websocket-version", "several Sec-WebSocket-Version fields: which protocol follows the handshake"),
    (
        "upgrade-insecure-requests",
        "several Upgrade-Insecure-Requests fields: whether the answer is a redirect",
    ),
    ("user-agent", "several User-Agent fields: which program sends the request"),
    ("x-csrf-token", "several X-CSRF-TOKEN fields: whether a form is the user's own"),
    ("x-pjax", "several X-PJAX fields: whether Laravel answers with JSON or a redirect"),
    ("x-requested-with", "several X-Requested-With fields: whether Laravel answers with JSON or a redirect"),
    ("x-socket-id", "several X-Socket-ID fields: which client Laravel does not broadcast to"),
    ("x-xsrf-token", "several X-XSRF-TOKEN fields: whether a form is the user's own"),
];

fn row(name: &str) -> Option<&'static (&'static str, &'static str)> {
    SINGLETONS.binary_search_by_key(&name, |(name, _)| name).ok().map(|index| &SINGLETONS[index])
}

/// Whether the field is a singleton. `name` is in lower case.
pub(super) fn is_singleton(name: &str) -> bool {
    row(name).is_some()
}

/// Refuses several lines of a singleton field. The check is one comparison unless some field has several lines.
///
/// # Errors
/// [`Refusal::BadRequest`] with the first such field of the table.
pub fn check(fields: &HeaderMap) -> Result<(), Refusal> {
    if fields.len() == fields.keys_len() { Ok(()) } else { check_each(fields) }
}

#[cold]
fn check_each(fields: &HeaderMap) -> Result<(), Refusal> {
    let is_repeated = |name: &str| fields.get_all(name).iter().nth(1).is_some();
    match SINGLETONS.iter().find(|(name, _)| is_repeated(name)) {
        Some((_, why)) => Err(Refusal::BadRequest(why)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::policy::test_fields::fields;

    #[test]
    fn table_is_sorted_and_in_lower_case() {
        assert!(SINGLETONS.is_sorted_by(|(one, _), (other, _)| one < other));
        for (name, why) in SINGLETONS {
            assert_eq!(name, name.to_ascii_lowercase());
            let prefix = format!("several {name} fields: ");
            assert!(why.to_ascii_lowercase().starts_with(&prefix), "{name}: {why}");
        }
    }

    #[test]
    fn second_line_of_a_singleton_is_rejected_whether_equal_or_not() {
        for (name, why) in SINGLETONS {
            assert_eq!(check(&fields([(name, "a"), ("accept", "a")])), Ok(()), "{name}");
            for second in ["a", "b", ""] {
                let lines = fields([("accept", "a"), (name, "a"), ("accept", "b"), (name, second)]);
                assert_eq!(check(&lines), Err(Refusal::BadRequest(why)), "{name}: {second:?}");
            }
        }
    }

    #[test]
    fn lists_and_unknown_fields_may_have_several_lines() {
        for name in [
            "accept",
            "accept-charset",
            "accept-encoding",
            "accept-language",
            "baggage",
            "cache-control",
            "connection",
            "content-language",
            "cookie",
            "forwarded",
            "if-match",
            "if-none-match",
            "pragma",
            "prefer",
            "te",
            "trailer",
            "traceparent",
            "tracestate",
            "upgrade",
            "via",
            "warning",
            "x-forwarded-for",
            "x-own",
            "sec-websocket-protocol",
            "sec-websocket-extensions",
            "sec-ch-ua",
            "authorization",
            "x-http-method-override",
        ] {
            assert_eq!(check(&fields([(name, "a"), (name, "b")])), Ok(()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn check_agrees_with_counting_each_name(
            names in proptest::collection::vec(
                select(&["accept", "content-type", "Content-TYPE", "cookie", "date", "origin", "x-own", "x-csrf-token"][..]),
                0..8,
            ),
        ) {
            let lower: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
            let is_repeated =
                |name: &String| is_singleton(name) && lower.iter().filter(|it| *it == name).count() > 1;
            let found = check(&fields(names.iter().map(|name| (*name, "a"))));
            prop_assert_eq!(found.is_err(), lower.iter().any(is_repeated));
        }
    }
}
