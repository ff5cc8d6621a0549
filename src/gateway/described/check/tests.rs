use super::*;

fn framed(bytes: &[u8]) -> Result<Vec<u8>, GrpcStatus> {
    let message = unframe(Bytes::copy_from_slice(bytes));
    message.map(|message| message.to_vec()).map_err(|fault| fault.status)
}

#[test]
fn call_has_exactly_one_uncompressed_message() {
    use GrpcStatus::{InvalidArgument, ResourceExhausted, Unimplemented};
    let longest = u32::try_from(LONGEST_MESSAGE).unwrap();
    let too_long = [&[0][..], &(longest + 1).to_be_bytes()].concat();
    for (bytes, expected) in [
        (&[0, 0, 0, 0, 0][..], Ok(vec![])),
        (&[0, 0, 0, 0, 2, 7, 8], Ok(vec![7, 8])),
        (&[], Err(InvalidArgument)),
        (&[0, 0, 0, 0], Err(InvalidArgument)),
        (&[0, 0, 0, 0, 3, 7, 8], Err(InvalidArgument)),
        (&[0, 0, 0, 0, 1, 7, 8], Err(InvalidArgument)),
        (&[0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0], Err(InvalidArgument)),
        (&[1, 0, 0, 0, 1, 7], Err(Unimplemented)),
        (&[2, 0, 0, 0, 1, 7], Err(Unimplemented)),
        (&too_long, Err(ResourceExhausted)),
        (&[0, 0xff, 0xff, 0xff, 0xff], Err(ResourceExhausted)),
    ] {
        assert_eq!(framed(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn only_calls_of_the_service_are_grpc() {
    let head = |method: &str, path: &str, media_type: &str, version: Version| {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = method.parse().unwrap();
        head.uri = path.parse().unwrap();
        head.version = version;
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_str(media_type).unwrap());
        head
    };
    for (method, path, media_type, version, expected) in [
        ("POST", CHECK, "application/grpc", Version::HTTP_2, true),
        ("POST", CHECK, "application/grpc+proto", Version::HTTP_2, true),
        ("POST", CHECK, "application/grpc;charset=x", Version::HTTP_2, true),
        ("POST", "/envoy.service.auth.v3.Authorization/Other", "application/grpc", Version::HTTP_2, true),
        ("POST", CHECK, "application/grpc+json", Version::HTTP_2, false),
        ("POST", CHECK, "application/grpc-web", Version::HTTP_2, false),
        ("POST", CHECK, "application/json", Version::HTTP_2, false),
        ("GET", CHECK, "application/grpc", Version::HTTP_2, false),
        ("POST", CHECK, "application/grpc", Version::HTTP_11, false),
        ("POST", "/api/v2/items", "application/grpc", Version::HTTP_2, false),
        (
            "POST",
            "/decision/envoy.service.auth.v3.Authorization/Check",
            "application/grpc",
            Version::HTTP_2,
            false,
        ),
    ] {
        assert_eq!(
            is_grpc(&head(method, path, media_type, version)),
            expected,
            "{method} {path} {media_type}"
        );
    }
}

#[test]
fn repeated_field_replaces_once_and_then_appends() {
    let mut fields = HeaderMap::new();
    for (name, value) in [("vary", "a"), ("link", "l"), ("x-one", "1"), ("vary", "b")] {
        fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut shown: Vec<(Bytes, Bytes, bool)> = options(&fields, &[LINK])
        .into_iter()
        .map(|option| {
            let header = option.header.unwrap();
            (header.key, header.value, option.append.unwrap().value)
        })
        .collect();
    shown.sort();
    let row = |name: &'static str, value: &'static str, append| (name.into(), value.into(), append);
    let expected =
        [row("link", "l", true), row("vary", "a", false), row("vary", "b", true), row("x-one", "1", false)];
    assert_eq!(shown, expected);
}

#[test]
fn message_shares_its_memory_with_the_fields() {
    let field = |key: &str, value: &str| {
        let mut field = vec![10, u8::try_from(key.len()).unwrap()];
        field.extend(key.as_bytes());
        field.extend([18, u8::try_from(value.len()).unwrap()]);
        field.extend(value.as_bytes());
        field
    };
    let nested = |tag: u8, inner: Vec<u8>| {
        let mut bytes = vec![tag << 3 | 2, u8::try_from(inner.len()).unwrap()];
        bytes.extend(inner);
        bytes
    };
    let http = nested(3, field("authorization", "Bearer 17|x"));
    let message = Bytes::from(nested(1, nested(4, nested(2, http))));
    let range = message.as_ptr_range();
    let checked = CheckRequest::decode(message.clone()).unwrap();
    let http = checked.attributes.unwrap().request.unwrap().http.unwrap();
    let [entry] = &http.headers[..] else { panic!("{:?}", http.headers) };
    assert_eq!((&*entry.key, &*entry.value), (&b"authorization"[..], &b"Bearer 17|x"[..]));
    assert!(range.contains(&entry.value.as_ptr()), "a copy of the token");
}
