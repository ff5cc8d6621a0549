use super::*;

fn parsed(head: &'static str, to_head: bool) -> Result<ResponseHead, Malformed> {
    parse(&Bytes::from_static(head.as_bytes()), to_head)
}

#[test]
fn end_of_a_body_follows_rfc_9112_section_6_3() {
    use Framing::{Chunked, Length, None, UntilClose};
    for (line, fields, framing, reusable) in [
        ("HTTP/1.1 200 OK", "Content-Length: 4\r\n", Length(4), true),
        ("HTTP/1.1 200 OK", "Content-Length: 0\r\n", None, true),
        ("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked\r\n", Chunked, true),
        ("HTTP/1.1 200 OK", "", UntilClose, false),
        ("HTTP/1.1 200 OK", "Content-Length: 4\r\nConnection: x, CLOSE\r\n", Length(4), false),
        ("HTTP/1.1 200 OK", "Content-Length: 4\r\nConnection: x\r\nConnection: close\r\n", Length(4), false),
        ("HTTP/1.1 200 OK", "Content-Length : 4\r\n", Length(4), false),
        ("HTTP/1.0 200 OK", "Content-Length: 4\r\n", Length(4), false),
        ("HTTP/1.0 200 OK", "Content-Length: 4\r\nConnection: keep-alive\r\n", Length(4), true),
        ("HTTP/1.1 204 No Content", "", None, true),
        ("HTTP/1.1 204 No Content", "Content-Length: 0\r\n", None, true),
        ("HTTP/1.1 204 No Content", "Content-Length: 3\r\n", None, false),
        ("HTTP/1.1 204 No Content", "Content-Length: 0\r\nContent-Length: 0\r\n", None, false),
        ("HTTP/1.1 204 No Content", "Transfer-Encoding: gzip, chunked\r\n", None, false),
        ("HTTP/1.1 304 Not Modified", "Content-Length: 9\r\n", None, true),
        ("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked\r\n", None, true),
        ("HTTP/1.1 101 Switching Protocols", "Content-Length: 0\r\n", None, true),
        ("HTTP/1.1 103 Early Hints", "Transfer-Encoding: chunked\r\n", None, false),
    ] {
        let head: &'static str = format!("{line}\r\n{fields}\r\n").leak();
        let found = parsed(head, false).unwrap();
        assert_eq!((found.framing, found.reusable), (framing, reusable), "{head}");
    }
}

#[test]
fn response_to_head_has_no_body() {
    for fields in ["Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        let head: &'static str = format!("HTTP/1.1 200 OK\r\n{fields}\r\n").leak();
        let found = parsed(head, true).unwrap();
        assert_eq!((found.framing, found.reusable), (Framing::None, true), "{head}");
    }
}

#[test]
fn fields_that_contradict_the_status_are_removed() {
    for status in ["204 No Content", "101 Switching Protocols", "103 Early Hints"] {
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nX-Own: 1\r\n\r\n");
        let found = parsed(head.leak(), false).unwrap();
        assert_eq!(found.fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-own"], "{status}");
    }
}

#[test]
fn ambiguous_and_malformed_heads_are_rejected() {
    for (head, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::TwoLengths),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n", Malformed::ManyContentLengths),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", Malformed::ContentLength),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Malformed::TransferEncoding),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Malformed::TransferEncoding,
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::TransferEncodingInHttp10),
        ("HTTP/1.1 099 Own\r\n\r\n", Malformed::StatusCode),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Malformed::Head(httparse::Error::HeaderName)),
    ] {
        assert_eq!(parsed(head, false).map(|_| ()), Err(expected), "{head}");
    }
}

#[test]
fn head_of_256_fields_is_parsed() {
    for (number, expected) in [(MAX_FIELDS, Ok(())), (MAX_FIELDS + 1, Err(Malformed::ManyFields))] {
        let head = format!("HTTP/1.1 204 No Content\r\n{}\r\n", "X-Own: 1\r\n".repeat(number));
        assert_eq!(parsed(head.leak(), false).map(|_| ()), expected, "{number}");
    }
}

#[test]
fn keep_alive_says_how_long_a_connection_may_be_idle() {
    for (value, seconds) in [
        ("timeout=5", Some(4)),
        ("timeout=5, max=100", Some(4)),
        ("max=100,TIMEOUT = \"65\"", Some(64)),
        ("timeout=0", Some(0)),
        ("timeout=1", Some(0)),
        ("timeout=x", None),
        ("timeout=-1", None),
        ("max=5", None),
    ] {
        let head = format!("HTTP/1.1 204 No Content\r\nKeep-Alive: {value}\r\n\r\n");
        let found = parsed(head.leak(), false).unwrap().idle_timeout;
        assert_eq!(found, seconds.map(Duration::from_secs), "{value}");
    }
}

#[test]
fn unusual_reason_phrase_is_kept() {
    for (line, expected) in [
        ("HTTP/1.1 200 OK", None),
        ("HTTP/1.1 200 Fine", Some("Fine")),
        ("HTTP/1.1 299 Own", Some("Own")),
        ("HTTP/1.1 200", None),
    ] {
        let found = parsed(format!("{line}\r\nContent-Length: 0\r\n\r\n").leak(), false).unwrap();
        assert_eq!(found.reason.as_ref().map(ReasonPhrase::as_bytes), expected.map(str::as_bytes), "{line}");
    }
}

#[test]
fn end_of_a_head_is_found_wherever_it_is_divided() {
    for head in
        ["HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest", "HTTP/1.1 200 OK\nA: b\n\nrest", "HTTP/1.1 200\n\r\nrest"]
    {
        let end = head.len() - 4;
        for cut in 0..head.len() {
            let first = end_of_head(&head.as_bytes()[..cut], 0);
            assert_eq!(first, (cut >= end).then_some(end), "{head:?} cut at {cut}");
            if first.is_none() {
                assert_eq!(end_of_head(head.as_bytes(), cut), Some(end), "{head:?} cut at {cut}");
            }
        }
    }
}
