//! Fields of responses, and trailers.

use super::*;

#[test]
fn response_loses_its_hop_by_hop_fields() {
    let mut answer = fields(&[
        ("Connection", "X-Hop, Content-Length, close"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("Content-Length", "3"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Trailer", "X-Checksum"),
        ("Via", "1.1 php"),
        ("X-Forwarded-For", "x"),
        ("X_Odd", "y"),
        ("X-Request-Id", "z"),
    ]);
    assert_eq!(prepare_response(StatusCode::OK, &mut answer), Ok(()));
    let expected = fields(&[
        ("Content-Length", "3"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Trailer", "X-Checksum"),
        ("Via", "1.1 php"),
        ("X-Forwarded-For", "x"),
        ("X_Odd", "y"),
        ("X-Request-Id", "z"),
    ]);
    assert_eq!(lines(&answer), lines(&expected));
}

#[test]
fn response_with_ambiguous_framing_is_rejected() {
    const LENGTH: &str = "Content-Length";
    const CODING: &str = "Transfer-Encoding";
    for (why, status, lines) in [
        (None, 200, &[(LENGTH, "0")][..]),
        (None, 200, &[(LENGTH, "9999999999999999999")]),
        (None, 200, &[(CODING, "chunked")]),
        (None, 200, &[(CODING, "Chunked")]),
        (None, 200, &[]),
        (None, 204, &[]),
        (None, 204, &[(LENGTH, "0")]),
        (None, 304, &[(LENGTH, "5")]),
        (Some("both Content-Length and Transfer-Encoding"), 200, &[(LENGTH, "5"), (CODING, "chunked")]),
        (Some("both Content-Length and Transfer-Encoding"), 200, &[(CODING, "gzip"), (LENGTH, "5")]),
        (Some("several Content-Length fields"), 200, &[(LENGTH, "5"), (LENGTH, "5")]),
        (Some("malformed Content-Length"), 200, &[(LENGTH, "5, 5")]),
        (Some("malformed Content-Length"), 200, &[(LENGTH, "")]),
        (Some("malformed Content-Length"), 304, &[(LENGTH, "+5")]),
        (Some("malformed Content-Length"), 200, &[(LENGTH, "10000000000000000000")]),
        (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "gzip")]),
        (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "gzip, chunked")]),
        (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "chunked"), (CODING, "chunked")]),
        (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "")]),
        (Some("204 with Transfer-Encoding"), 204, &[(CODING, "chunked")]),
        (Some("204 with a body"), 204, &[(LENGTH, "5")]),
    ] {
        let mut answer = fields(lines);
        let found = prepare_response(StatusCode::from_u16(status).unwrap(), &mut answer).err();
        assert_eq!(found, why, "{status} {lines:?}");
        if why.is_none() {
            assert!(!answer.contains_key(CODING), "{status} {lines:?}");
            assert!(status != 204 || !answer.contains_key(LENGTH), "{lines:?}");
        }
    }
}

#[test]
fn forbidden_trailers_are_removed() {
    for name in [
        "Authorization",
        "Host",
        "Content-Length",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Transfer-Encoding",
        "Trailer",
        "TE",
        "Connection",
        "Cookie",
        "Set-Cookie",
        "Cache-Control",
        "Location",
        "If-Match",
        "Range",
        "Expect",
        "WWW-Authenticate",
        "Proxy-Authorization",
        "X-Forwarded-For",
        "Forwarded",
        "X-Request-Id",
        "X-Token-Id",
        "X-HTTP-Method-Override",
        "X_Checksum",
        "X.Token.Id",
        "Via",
        "Age",
        "Vary",
        "Access-Control-Allow-Origin",
        "User-Agent",
        "Referer",
        "X-CSRF-TOKEN",
        "X-Requested-With",
        "Idempotency-Key",
    ] {
        assert!(!trailer_allowed(&name.parse().unwrap(), &TrustedFields::default()), "{name}");
    }
    for name in ["X-Checksum", "Digest", "Repr-Digest", "Server-Timing", "ETag", "grpc-status", "Signature"] {
        assert!(trailer_allowed(&name.parse().unwrap(), &TrustedFields::default()), "{name}");
    }
}
