use http::HeaderMap;

use super::*;
use crate::policy::test_fields::fields;

const BOUNDS: Bounds = Bounds { head: 16 * 1024, fields: 100, target: 64 };

fn head(method: &str, target: &str, lines: &[(&str, &str)]) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method.parse().unwrap();
    head.uri = target.parse().unwrap();
    head.headers = fields(lines);
    head
}

fn by_fields(lines: &[(&str, &str)]) -> Result<Parts, DescriptionError> {
    let mut head = head("POST", "/auth?x", lines);
    head.headers.insert(HOST, HeaderValue::from_static("proxy"));
    describe(&mut head, &DescriptionStyle::Forwarded, &BOUNDS).map(|()| head)
}

const FORWARDED: [(&str, &str); 4] = [
    ("x-forwarded-method", "PUT"),
    ("x-forwarded-uri", "/a/b?c=d"),
    ("x-forwarded-host", "stockaj.example"),
    ("x-forwarded-proto", "https"),
];
const ORIGINAL: [(&str, &str); 2] = [("x-original-method", "PUT"), ("x-original-uri", "/a/b?c=d")];

#[test]
fn each_set_of_fields_describes_a_request() {
    for (lines, host) in [(&FORWARDED[..], "stockaj.example"), (&ORIGINAL[..], "proxy")] {
        let head = by_fields(lines).unwrap();
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("PUT", "/a/b?c=d".to_owned()));
        assert_eq!(head.headers.get_all(HOST).iter().collect::<Vec<_>>(), [host]);
    }
}

#[test]
fn each_required_field_must_be_there_exactly_once() {
    let shown = |name: &str| match name {
        "x-original-uri" => "X-Original-URI".to_owned(),
        name => {
            let word = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
            name.split('-').map(word).collect::<Vec<_>>().join("-")
        }
    };
    for set in [&FORWARDED[..], &ORIGINAL[..]] {
        for (number, (name, value)) in set.iter().enumerate() {
            let mut without = set.to_vec();
            without.remove(number);
            let expected = format!("no {}", shown(name));
            match by_fields(&without).unwrap_err() {
                DescriptionError::Incomplete(why) => assert_eq!(why, expected),
                other => panic!("{other:?}"),
            }
            for second in [*value, "other"] {
                let mut twice = set.to_vec();
                twice.push((name, second));
                let expected = format!("several {} fields", shown(name));
                match by_fields(&twice).unwrap_err() {
                    DescriptionError::Incomplete(why) => assert_eq!(why, expected),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn two_sets_of_fields_are_never_mixed() {
    let mixed = "both X-Forwarded-Method or -Uri and X-Original-Method or -URI";
    for forwarded in &FORWARDED[..2] {
        for original in &ORIGINAL {
            assert_eq!(by_fields(&[*forwarded, *original]).unwrap_err(), DescriptionError::Incomplete(mixed));
        }
        let all = [&ORIGINAL[..], &[*forwarded]].concat();
        assert_eq!(by_fields(&all).unwrap_err(), DescriptionError::Incomplete(mixed));
    }
    assert!(by_fields(&[&ORIGINAL[..], &FORWARDED[2..]].concat()).is_ok(), "nginx sets these as well");
    let neither = "neither X-Forwarded-Method and X-Forwarded-Uri nor X-Original-Method and X-Original-URI";
    assert_eq!(by_fields(&FORWARDED[2..]).unwrap_err(), DescriptionError::Incomplete(neither));
}

#[test]
fn described_target_is_one_of_a_request_line() {
    for target in ["/", "/a?b", "*", "/a%2fb", "/a/", "/a?", "/a|b[c]"] {
        let head = by_fields(&[ORIGINAL[0], ("x-original-uri", target)]).unwrap();
        assert_eq!(head.uri.path_and_query().unwrap().as_str(), target);
    }
    let long = format!("/{}", "a".repeat(64));
    for target in ["", "a", "?a", "/a#b", "/a b", "http://h/a", "//h/a b", "/a\u{e9}", "**", &long] {
        let refused = by_fields(&[ORIGINAL[0], ("x-original-uri", target)]).unwrap_err();
        let DescriptionError::Refused(refusal) = refused else { panic!("{target}: {refused:?}") };
        let expected = if target.len() > 64 { "UriTooLong" } else { "BadRequest" };
        assert!(format!("{refusal:?}").starts_with(expected), "{target}: {refusal:?}");
    }
    let refused = by_fields(&[("x-original-method", "P T"), ORIGINAL[1]]).unwrap_err();
    assert_eq!(refused, DescriptionError::Refused(Refusal::BadRequest("method that is not served")));
}

#[test]
fn path_below_the_prefix_is_described() {
    let style = DescriptionStyle::PathPrefix("/decision".into());
    for (target, expected) in [
        ("/decision/a?b", Some("/a?b")),
        ("/decision/", Some("/")),
        ("/decision/decision/a", Some("/decision/a")),
        ("/decision//a", Some("//a")),
        ("/decision", None),
        ("/decision?a", None),
        ("/decisions/a", None),
        ("/a", None),
        ("*", None),
        ("http://h/decision/a", None),
    ] {
        let mut head = head("PUT", target, &[("host", "h")]);
        let described = describe(&mut head, &style, &BOUNDS);
        assert_eq!(described.is_ok(), expected.is_some(), "{target}: {described:?}");
        assert_eq!(head.uri.to_string(), expected.unwrap_or(target));
        assert_eq!(head.method, Method::PUT);
    }
}

#[test]
fn prefix_is_plain_and_no_part_of_the_grpc_service() {
    for text in
        ["/decision", "/a/b-c.d_e~f", "/envoy.service.auth.v3.Authorization2", "/envoy.service.auth.v3"]
    {
        assert!(is_path_prefix(text), "{text}");
    }
    for text in [
        "",
        "/",
        "decision",
        "/decision/",
        "/a//b",
        "/a/../b",
        "/.",
        "/a?b",
        "/a%20b",
        "/é",
        "/a:b",
        "/envoy.service.auth.v3.Authorization",
        "/envoy.service.auth.v3.Authorization/Check",
        "/envoy.service.auth.v3.Authorization/Check/a",
        "/envoy.service.auth.v3.Authorization/C",
    ] {
        assert!(!is_path_prefix(text), "{text}");
    }
}

fn checked(
    request: CheckedRequest<'_>,
    lines: &[(&'static str, &'static str)],
) -> Result<Parts, DescriptionError> {
    request.head(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), &BOUNDS)
}

const REQUEST: CheckedRequest<'_> =
    CheckedRequest { method: "PUT", target: "/a?b", host: "stockaj.example:81", scheme: "https" };

#[test]
fn check_request_becomes_a_head_of_http_2() {
    let lines = [
        (":method", "PUT"),
        (":path", "/a?b"),
        (":authority", "stockaj.example:81"),
        (":scheme", "https"),
        ("accept", "x"),
        ("accept", "y"),
    ];
    let head = checked(REQUEST, &lines).unwrap();
    assert_eq!(head.method, Method::PUT);
    assert_eq!(head.uri.to_string(), "https://stockaj.example:81/a?b");
    assert_eq!(head.version, Version::HTTP_2);
    assert_eq!(head.headers, fields([("accept", "x"), ("accept", "y")]));
}

#[test]
fn ambiguous_check_request_is_refused() {
    for lines in [
        &[(":method", "GET")][..],
        &[(":path", "/a")],
        &[(":authority", "stockaj.example")],
        &[("a b", "c")],
        &[("", "c")],
        &[("a", "b\r\nc: d")],
        &[("a", "b\0")],
    ] {
        let refused = checked(REQUEST, lines);
        assert!(matches!(refused, Err(DescriptionError::Incomplete(_))), "{lines:?}: {refused:?}");
    }
    for request in [
        CheckedRequest { method: "", ..REQUEST },
        CheckedRequest { method: "P T", ..REQUEST },
        CheckedRequest { target: "", ..REQUEST },
        CheckedRequest { target: "/a#b", ..REQUEST },
        CheckedRequest { target: "a", ..REQUEST },
        CheckedRequest { host: "", ..REQUEST },
        CheckedRequest { host: "a b", ..REQUEST },
        CheckedRequest { scheme: "ftp", ..REQUEST },
    ] {
        let refused = checked(request, &[]);
        assert!(matches!(refused, Err(DescriptionError::Refused(_))), "{request:?}: {refused:?}");
    }
}

#[test]
fn announced_body_is_recognised() {
    for (lines, expected) in [
        (&[][..], false),
        (&[("content-length", "0")], false),
        (&[("content-length", "00")], false),
        (&[("content-length", "1")], true),
        (&[("content-length", "0"), ("content-length", "7")], true),
        (&[("content-length", "x")], true),
        (&[("transfer-encoding", "chunked")], true),
    ] {
        let fields: HeaderMap = fields(lines);
        assert_eq!(announces_body(&fields), expected, "{lines:?}");
    }
}

#[test]
fn names_that_a_backend_may_misread_are_refused() {
    let trusted = TrustedFields::new([HeaderName::from_static("oidc_claim_email")]);
    for name in [
        "x_token_id",
        "x.token.id",
        "x-token.id",
        "x~forwarded~for",
        "x_http_method_override",
        "authorization_",
        "php.auth.user",
        "coo_kie",
        "content.type",
        "remote+user",
        "tailscale.user.login",
        "any_name",
        "oidc.claim.email",
        "$wsru",
    ] {
        let refused = check_spellings(&fields(&[("accept", "a"), (name, "1")]), &trusted);
        assert!(matches!(refused, Err(Refusal::BadRequest(_))), "{name}");
    }
    for name in
        ["x-token-id", "authorization", "cookie", "remote-user", "any.name", "x~y", "oidc_claim_email"]
    {
        assert_eq!(check_spellings(&fields(&[(name, "1")]), &trusted), Ok(()), "{name}");
    }
}
