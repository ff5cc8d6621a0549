use http::header::COOKIE;
use http::{Method, Request};
use proptest::prelude::*;

use super::*;
use crate::policy::framing::{Scan, Scanner};
use crate::policy::target::Target;

const BOUNDS: Bounds = Bounds { head: 400, fields: 5, target: 40 };

fn head(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    request.into_parts().0
}

fn translated(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Parts, Refusal> {
    let mut head = head(method, uri, fields);
    translate(&mut head, &BOUNDS)?;
    Ok(head)
}

#[test]
fn authority_becomes_host() {
    for (uri, fields, host) in [
        ("http://h/a?b", &[][..], "h"),
        ("https://H:8443/a", &[], "H:8443"),
        ("http://h/a", &[("host", "h")], "h"),
        ("http://h:80/a", &[("host", "H")], "h:80"),
        ("https://h/a", &[("host", "h:443")], "h"),
        ("/a", &[("host", "h")], "h"),
        ("http://h:/a", &[("host", "h")], "h:"),
    ] {
        let head = translated("GET", uri, fields).unwrap();
        assert_eq!(head.headers.get_all(HOST).iter().collect::<Vec<_>>(), [host], "{uri} {fields:?}");
        assert_eq!((head.uri.scheme(), head.uri.authority()), (None, None), "{uri}");
        assert_eq!(head.uri.path(), "/a");
    }
}

#[test]
fn cookie_fields_are_joined() {
    for (crumbs, joined) in [
        (&[][..], None),
        (&[("cookie", "a=b")], Some("a=b")),
        (&[("cookie", "a=b"), ("cookie", "c=d; e=f"), ("cookie", "g")], Some("a=b; c=d; e=f; g")),
    ] {
        let head = translated("GET", "http://h/", crumbs).unwrap();
        assert_eq!(head.headers.get(COOKIE).map(HeaderValue::as_bytes), joined.map(str::as_bytes));
        assert!(head.headers.get_all(COOKIE).iter().count() < 2);
    }
}

#[test]
fn heads_that_http_1_refuses_are_refused() {
    let long = "x".repeat(400);
    let too_long = format!("http://h/{}", "x".repeat(40));
    let six = [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", ""), ("f", "")];
    for (why, uri, fields) in [
        ("malformed authority in the target", "http://u@h/", &[][..]),
        ("target and Host name different authorities", "http://h:/", &[("host", "h:81")]),
        ("scheme that is not served", "ftp://h/", &[]),
        ("target and Host name different authorities", "http://h/", &[("host", "i")]),
        ("target and Host name different authorities", "https://h/", &[("host", "h:80")]),
        ("several Host fields", "http://h/", &[("host", "h"), ("host", "h")]),
        ("malformed Host", "http://h/", &[("host", "")]),
        ("`:path` that is no path", "http://h?x", &[]),
        ("character that a target cannot hold", "http://h/\u{e9}", &[]),
        ("character that a target cannot hold", "http://h/?\u{e9}", &[]),
        ("several Content-Length fields", "http://h/", &[("content-length", "1"), ("content-length", "1")]),
        ("malformed Content-Length", "http://h/", &[("content-length", "01")]),
        ("malformed Content-Length", "http://h/", &[("content-length", "+1")]),
        ("white space around a field's value", "http://h/", &[("authorization", " Bearer x")]),
        ("white space around a field's value", "http://h/", &[("a", "b\t")]),
        ("white space around a field's value", "http://h/", &[("a", " ")]),
        ("URI too long", &too_long, &[]),
        ("head too large", "http://h/", &[("a", &long)]),
        ("head too large", "http://h/", &six),
    ] {
        let refusal = translated("GET", uri, fields).unwrap_err();
        let expected = match why {
            "URI too long" => Refusal::UriTooLong,
            "head too large" => Refusal::HeaderFieldsTooLarge,
            why => Refusal::BadRequest(why),
        };
        assert_eq!(refusal, expected, "{uri} {fields:?}");
    }
}

#[test]
fn limits_apply_to_the_size_in_http_1() {
    let spent = "GET /a HTTP/1.1\r\nhost: h\r\nb: \r\n\r\n".len();
    let fits = "x".repeat(BOUNDS.head - spent);
    assert!(translated("GET", "http://h/a", &[("b", &fits)]).is_ok());
    let refusal = translated("GET", "http://h/a", &[("b", &(fits + "x"))]).unwrap_err();
    assert_eq!(refusal, Refusal::HeaderFieldsTooLarge);
}

/// The inputs of the decision on a head: method, path, query and host; or the refusal.
fn asked(head: &Parts) -> Result<(String, String, Option<String>, String), Refusal> {
    let target = Target::read(&head.method, &head.uri, &head.headers)?;
    Ok((
        head.method.to_string(),
        target.path.as_str().to_owned(),
        target.query.map(str::to_owned),
        String::from_utf8_lossy(target.host.as_bytes()).into_owned(),
    ))
}

/// The same request over HTTP/1.1: scanned, then parsed by the `http` crate.
fn over_http_1(
    method: &str,
    path: &str,
    host: &str,
    fields: &[(String, String)],
) -> Result<(String, String, Option<String>, String), Refusal> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in fields {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let Scan { fault, .. } = Scanner::new(BOUNDS).scan(text.as_bytes());
    match fault {
        None => {}
        Some(framing::FramingFault::Head(refusal)) => return Err(refusal),
        Some(framing::FramingFault::Body(why)) => panic!("{why}"),
    }
    let mut request = Request::builder().method(method).uri(path).header(HOST, host).body(()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    asked(&request.into_parts().0)
}

proptest! {
    /// A request has the same target or refusal over HTTP/1 and HTTP/2.
    #[test]
    fn both_versions_have_the_same_target_or_refusal(
        method in "(GET|POST|OPTIONS|TRACE|get|X)",
        path in "(/|\\*|/[a-c./%2eF5;\\[\\]|{}^é\\\\-]{0,12}(\\?[a-c?/=%é\"<^]{0,6})?|/a{30,45})",
        host in "(h|h:80|H|u@h|h:|\\[::1\\]|h h)",
        fields in prop::collection::vec(("[a-d]", "([!-~]([ -~]{0,8}[!-~])?)?"), 0..6),
        lengths in prop::collection::vec("(0|5|05|x)", 0..2),
    ) {
        let mut fields: Vec<(String, String)> = fields;
        fields.extend(lengths.iter().map(|length| ("content-length".to_owned(), length.clone())));
        let mut named: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // h2 itself refuses a target that is no `Uri`.
        prop_assume!(path.parse::<http::uri::PathAndQuery>().is_ok());
        let authority = host.parse::<http::uri::Authority>();
        let uri = match &authority {
            Ok(authority) => Uri::builder()
                .scheme("http")
                .authority(authority.clone())
                .path_and_query(path.as_str())
                .build()
                .unwrap(),
            // Only in Host.
            Err(_) => {
                named.push(("host", &host));
                Uri::builder().path_and_query(path.as_str()).build().unwrap()
            }
        };
        let mut head = head(&method, "/", &named);
        head.uri = uri;
        let over_http_2 = translate(&mut head, &BOUNDS).and_then(|()| asked(&head));
        match (over_http_2, over_http_1(&method, &path, &host, &fields)) {
            (Ok(one), Ok(other)) => prop_assert_eq!(one, other),
            // If a request has several faults, the versions may report different ones.
            (Err(_), Err(_)) => {}
            (one, other) => prop_assert!(false, "{:?} over HTTP/2, {:?} over HTTP/1", one, other),
        }
    }
}

#[test]
fn connect_request_is_refused() {
    let mut head = head("CONNECT", "h:443", &[]);
    assert_eq!(head.method, Method::CONNECT);
    assert!(translate(&mut head, &BOUNDS).and_then(|()| asked(&head).map(drop)).is_err());
}
