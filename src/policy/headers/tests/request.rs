//! Fields of requests.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

#[test]
fn request_for_websocket_has_the_gateways_own_upgrade_fields() {
    let sent = fields(&[
        ("te", "trailers"),
        ("connection", "te, Upgrade, keep-alive"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "x"),
        ("expect", "x"),
    ]);
    let written = written(&sent, |forwarding| forwarding.upgrades = true);
    let found: Vec<_> = lines(&written).into_iter().filter(|(name, _)| !name.starts_with("x-")).collect();
    let expected = [
        ("connection", "Upgrade"),
        ("sec-websocket-key", "x"),
        ("upgrade", "websocket"),
        ("via", "1.1 stockaj-gateway"),
    ];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn body_of_unknown_length_is_chunked_and_keeps_its_expectation() {
    let sent = fields(&[("transfer-encoding", "chunked"), ("expect", "100-continue")]);
    let written = written(&sent, |forwarding| {
        forwarding.chunked = true;
        forwarding.expects_continue = true;
    });
    assert_eq!(written.get_all("transfer-encoding").iter().collect::<Vec<_>>(), ["chunked"]);
    assert_eq!(written.get_all("expect").iter().collect::<Vec<_>>(), ["100-continue"]);
}

#[test]
fn trace_context_of_the_gateway_replaces_that_of_the_client() {
    let sent = fields(&[
        ("traceparent", "a"),
        ("traceparent", "b"),
        ("tracestate", "c"),
        ("connection", "traceparent"),
    ]);
    for (drop_tracestate, states) in [(true, 0), (false, 1)] {
        let traceparent = HeaderValue::from_static("own");
        let written = written(&sent, |forwarding| {
            forwarding.trace = Some(TraceFields { traceparent, drop_tracestate })
        });
        assert_eq!(written.get_all("traceparent").iter().collect::<Vec<_>>(), ["own"]);
        assert_eq!(written.get_all("tracestate").iter().count(), states);
    }
}

/// The upstream fields of a public GET with `fields`, modified by `change`.
fn written(fields: &HeaderMap, change: impl FnOnce(&mut Forwarding<'_>)) -> HeaderMap {
    let (client, request_id) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("r1"));
    let trusted_fields = TrustedFields::default();
    let mut forwarding = Forwarding {
        method: &Method::GET,
        decided: &Method::GET,
        version: Version::HTTP_11,
        client: &client,
        encrypted: false,
        trusted: false,
        trusted_fields: &trusted_fields,
        request_id: &request_id,
        host: None,
        credentials: Credentials::AsSent,
        trace: None,
        chunked: false,
        expects_continue: false,
        upgrades: false,
    };
    change(&mut forwarding);
    let mut written = HeaderMap::new();
    UpstreamFields::new(fields, forwarding).unwrap().write(&mut written);
    written
}

#[test]
fn hop_by_hop_and_named_fields_are_dropped_and_others_forwarded() {
    for (sent, passes) in [
        (&[][..], &[][..]),
        (
            &[
                ("Accept", "a"),
                ("Accept", "b"),
                ("X-Custom", "c"),
                ("X-Colour", "d"),
                ("X.Colour", "e"),
                ("Range", "f"),
            ],
            &[
                ("accept", "a"),
                ("accept", "b"),
                ("x-custom", "c"),
                ("x-colour", "d"),
                ("x.colour", "e"),
                ("range", "f"),
            ],
        ),
        // On a public route, Authorization and cookies are forwarded unchanged.
        (
            &[("Authorization", "bEARER  x"), ("Cookie", "s=1")],
            &[("authorization", "bEARER  x"), ("cookie", "s=1")],
        ),
        (
            &[
                ("Connection", "keep-alive"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("Proxy-Authenticate", "Basic"),
                ("Proxy-Authorization", "Basic x"),
                ("TE", "gzip"),
                ("Transfer-Encoding", "chunked"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "x"),
                ("Expect", "100-continue"),
            ],
            &[],
        ),
        (
            &[("Trailer", "X-Checksum"), ("Content-Length", "3")],
            &[("trailer", "X-Checksum"), ("content-length", "3")],
        ),
        (&[("TE", "gzip;q=1, Trailers"), ("Connection", "TE")], &[("te", "trailers"), ("connection", "te")]),
        // Fields that the lines of Connection name.
        (
            &[
                ("Connection", "close, X-A,,x-b "),
                ("Connection", "X-C"),
                ("X-A", "1"),
                ("X-B", "2"),
                ("X-C", "3"),
                ("X-D", "4"),
            ],
            &[("x-d", "4")],
        ),
        (&[("Connection", "\"x-a\", é, ,"), ("X-A", "1")], &[("x-a", "1")]),
        // Fields that Connection cannot remove.
        (
            &[
                ("Connection", "authorization, Host, content-length, content-type, cookie, via, origin"),
                ("Connection", "access-control-request-method"),
                ("Origin", "https://a"),
                ("Access-Control-Request-Method", "PUT"),
                ("Connection", "x-forwarded-for, x-request-id, x-token-id, x-http-method-override"),
                ("Authorization", "Basic x"),
                ("Content-Length", "3"),
                ("Content-Type", "t"),
                ("Cookie", "s=1"),
            ],
            &[
                ("authorization", "Basic x"),
                ("origin", "https://a"),
                ("access-control-request-method", "PUT"),
                ("content-length", "3"),
                ("content-type", "t"),
                ("cookie", "s=1"),
            ],
        ),
        (&[("Via", "1.0 far")], &[("via", "1.0 far"), ("via", "1.1 stockaj-gateway")]),
    ] {
        assert_eq!(PUBLIC.prepare(sent), set_and(passes), "{sent:?}");
    }
}

#[test]
fn connection_with_more_than_100_options_is_an_error() {
    let line = |count: usize| vec!["x"; count].join(",");
    for (lines, fits) in [
        (&[line(100)][..], true),
        (&[line(101)], false),
        (&[line(7500)], false),
        (&[",".repeat(99)], true),
        (&[",".repeat(100)], false),
        (&[line(50), line(50)], true),
        (&[line(50), line(51)], false),
    ] {
        let sent: Vec<_> = lines.iter().map(|line| ("Connection", &**line)).collect();
        let expected = if fits { Ok(()) } else { Err(Refusal::BadRequest(TOO_MANY_CONNECTION_OPTIONS)) };
        assert_eq!(PUBLIC.prepare_fields(&mut fields(&sent)).map(|_| ()), expected);
        let expected = if fits { Ok(()) } else { Err(TOO_MANY_CONNECTION_OPTIONS) };
        assert_eq!(prepare_response(StatusCode::OK, &mut fields(&sent)), expected);
    }
}

#[test]
fn fields_of_the_gateway_and_fields_that_rewrite_requests_never_pass() {
    for name in [
        "X-Token-Id",
        "X-Token-Name",
        "X-Token-Abilities",
        "X-Workspace-Id",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Prefix",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-URI",
        "X-Original-Method",
        "X-Original-Host",
        "X-Forwarded-URI",
        "X-Forwarded-Path",
        "X-Forwarded-Method",
        "X-Host",
        "X-HTTP-Host-Override",
        "X-Sendfile-Type",
        "X-Accel-Mapping",
        "X-Accel-Redirect",
        "PHP-Auth-User",
        "PHP-Auth-PW",
        "PHP-Auth-Digest",
        "Proxy",
        // These fold into dropped names.
        "X_Token_Id",
        "X_Token-Id",
        "X-Token_Abilities",
        "X.Token.Id",
        "X.Token-Name",
        "X.Forwarded.For",
        "X-Forwarded.Proto",
        "X_Forwarded_For",
        "X.Request.Id",
        "X_Original_URL",
        "X.HTTP.Method.Override",
        "Content_Length",
        "Content.Length",
        "Content.Type",
        "Transfer.Encoding",
        "Transfer_Encoding",
        "Proxy.Authorization",
        // lighttpd folds more than PHP.
        "X-Token+Id",
        "X*Token|Id",
        "X-HTTP-Method!Override",
        "X.Remote~User",
        "PHP.Auth.Digest",
        "Content+Length",
        "Access.Control.Request.Method",
        "Transfer#Encoding",
        "Any_Thing",
        "_",
    ] {
        for trusted in [false, true] {
            assert_eq!(
                Case { trusted, ..PUBLIC }.prepare(&[(name, "1"), (name, "2")]),
                set_and(&[]),
                "{name}"
            );
        }
    }
}

#[test]
fn token_route_forwards_the_token_and_no_cookie() {
    let case = Case { credentials: token("Bearer 17|x"), ..PUBLIC };
    let sent = [("Authorization", "bearer   17|x"), ("Cookie", "s=1"), ("Cookie", "t=2")];
    assert_eq!(case.prepare(&sent), set_and(&[("authorization", "Bearer 17|x")]));

    let authorization = HeaderValue::from_static("Bearer 17|x");
    let credentials = Credentials::Token { authorization, identity: None, cookies: true };
    let expected = [("authorization", "Bearer 17|x"), ("cookie", "s=1; t=2")];
    assert_eq!(Case { credentials, ..PUBLIC }.prepare(&sent), set_and(&expected), "with backend.cookies");
}

#[test]
fn preflight_is_forwarded_without_credentials() {
    let case = Case { method: Method::OPTIONS, credentials: Credentials::None, ..PUBLIC };
    let sent = [
        ("Authorization", "Bearer 17|x"),
        ("Cookie", "s=1"),
        ("PHP-Auth-Digest", "Bearer 17|x"),
        ("Origin", "https://a"),
        ("Access-Control-Request-Method", "PUT"),
    ];
    let expected = [("origin", "https://a"), ("access-control-request-method", "PUT")];
    assert_eq!(case.prepare(&sent), set_and(&expected));
}

#[test]
fn ordinary_field_names_are_forwarded() {
    for name in [
        "X-Token",
        "X-Token-Type",
        "X-Workspace",
        "X-User-Agent",
        "X-User-Language",
        "X-Requested-With",
        "X-CSRF-Token",
        "X-XSRF-Token",
        "X-Socket-Id",
        "X-Inertia",
        "X-Livewire",
        "X-Inertia-Version",
        "X-Inertia-Partial-Data",
        "X-Api-Key",
        "X-Auth-Token",
        "X-Access-Token",
        "X-Client-Version",
        "X-Client-Id",
        "X-Hub-Signature-256",
        "X-GitHub-Event",
        "X-Gitlab-Token",
        "X-Vault-Token",
        "X-Amz-Date",
        "X-Amzn-Trace-Id",
        "X-Cloud-Trace-Context",
        "X-B3-TraceId",
        "X-MS-Client-Request-Id",
        "X-Datadog-Trace-Id",
        "X-Request-Start",
        "X-Requestor",
        "X-Rolling",
        "X-Grouping",
        "X-Emails",
        "CF-Ray",
        "CF-IPCountry",
        "CloudFront-Viewer-Country",
        "Authority",
        "Baggage",
        "Tracestate",
        "Cache-Control",
        "If-None-Match",
        "If-Modified-Since",
        "Sec-Fetch-Site",
        "Sec-Ch-Ua",
        "Sec-WebSocket-Protocol",
        "DNT",
        "From",
        "Turbo-Frame",
        "HX-Request",
        "X-Stockaj-Signature",
        "X-Stockaj-Event",
        "X-Originator",
        "X-Correlation-Id",
        "X-HTTP-Anything",
        "X-Hostname",
        "X-Rewrite",
        "X-Acceleration",
        "X-Sslmode",
        "X-WAP-Profile",
        "Idempotency-Key",
        "Traceparent",
        "Range",
        "Referer",
        "Client-Version",
        "PHP-Version",
        "Prefer",
        "Content-MD5",
        "Content-Language",
        "X",
        "X-",
        "X.Colour",
        "X!Y",
    ] {
        let passes = [(&*name.to_ascii_lowercase(), "1")];
        assert_eq!(PUBLIC.prepare(&[(name, "1")]), set_and(&passes), "{name}");
        let token = Case { credentials: token("Bearer 1"), ..PUBLIC };
        let connected = [("Connection", "close"), (name, "1")];
        assert_eq!(
            token.prepare(&connected),
            set_and(&[("authorization", "Bearer 1"), passes[0]]),
            "{name} on a route that asks for a token"
        );
    }
}

/// Names of clients that a backend might read as one of the gateway's fields.
fn spelling() -> impl Strategy<Value = String> {
    const NAMES: [&str; 8] = [
        "x-token-id",
        "x-token-name",
        "x-token-abilities",
        "x-workspace-id",
        "x-http-method-override",
        "x-forwarded-for",
        "cookie",
        "x-custom",
    ];
    let character = (select(b"-_.!#$%&'*+^`|~".to_vec()), any::<bool>());
    (select(NAMES.to_vec()), prop::collection::vec(character, 24)).prop_map(|(name, choices)| {
        let characters = name.chars().zip(choices).map(|(character, (separator, upper))| match character {
            '-' => char::from(separator),
            letter if upper => letter.to_ascii_uppercase(),
            letter => letter,
        });
        characters.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn folding_backend_sees_only_the_fields_of_the_gateway(
        sent in prop::collection::vec((spelling(), "[a-z]{0,3}"), 0..8),
        named in prop::collection::vec(spelling(), 0..4),
        trusted: bool,
        public: bool,
        wanted in prop::sample::subsequence(IDENTITY.map(|(wanted, ..)| wanted).to_vec(), 0..=4),
    ) {
        let mut fields = HeaderMap::new();
        for (name, value) in &sent {
            fields.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        fields.append(HOST, HeaderValue::from_static("app"));
        fields.append(CONNECTION, HeaderValue::from_str(&named.join(", ")).unwrap());
        let credentials = match public {
            true => Credentials::AsSent,
            false => Credentials::Token {
                authorization: HeaderValue::from_static("Bearer 17|x"),
                identity: Some(identity(&wanted)),
                cookies: false,
            },
        };
        Case { trusted, method: Method::POST, credentials, ..PUBLIC }.prepare_fields(&mut fields).unwrap();
        let seen = |folded: &str| -> Vec<&str> {
            let fold = |name: &HeaderName| name.as_str().replace(|it: char| !it.is_ascii_alphanumeric(), "_");
            let fields = fields.iter().filter(|(name, _)| fold(name) == folded);
            fields.map(|(_, value)| value.to_str().unwrap()).collect()
        };
        for (it, name, value) in IDENTITY {
            let expected: &[&str] = if public || !wanted.contains(&it) { &[] } else { &[value] };
            prop_assert_eq!(seen(&name.replace('-', "_")), expected, "{}", name);
        }
        prop_assert_eq!(seen("x_http_method_override"), ["POST"]);
        let chain = seen("x_forwarded_for");
        prop_assert!(chain.len() == 1 && chain[0].ends_with("192.0.2.1"), "{:?}", chain);
        prop_assert!(public || seen("cookie").is_empty());
    }
}

#[test]
fn post_is_forwarded_with_the_decided_method_override() {
    let sent = [("X-HTTP-Method-Override", "DELETE"), ("X-HTTP-Method-Override", "PUT")];
    for (method, expected) in [
        (Method::POST, &[("x-http-method-override", "POST")][..]),
        (Method::GET, &[]),
        (Method::PUT, &[]),
        (Method::DELETE, &[]),
    ] {
        assert_eq!(Case { method, ..PUBLIC }.prepare(&sent), set_and(expected));
    }
    for decided in [Method::PUT, Method::PATCH, Method::DELETE] {
        let expected = [("x-http-method-override", decided.as_str())];
        let case = Case { method: Method::POST, decided: Some(decided.clone()), ..PUBLIC };
        assert_eq!(case.prepare(&sent), set_and(&expected));
    }
}

#[test]
fn configured_host_replaces_that_of_the_client() {
    let case = Case { host: Some(HeaderValue::from_static("backend:8000")), ..PUBLIC };
    assert_eq!(case.prepare(&[]), set_and(&[("host", "backend:8000"), ("x-forwarded-host", "app")]));
}

#[test]
fn empty_port_of_host_is_dropped() {
    for (sent, forwarded) in [("app:", "app"), ("[::1]:", "[::1]"), ("app:80", "app:80"), ("app", "app")] {
        for (trusted, others, told) in [
            (false, &[][..], forwarded),
            (true, &[], forwarded),
            (true, &[("x-forwarded-host", "edge")], "edge"),
        ] {
            let mut fields = fields(others);
            fields.insert(HOST, HeaderValue::from_static(sent));
            Case { trusted, ..PUBLIC }.prepare_fields(&mut fields).unwrap();
            assert_eq!(fields[HOST], forwarded, "{sent}");
            assert_eq!(fields[X_FORWARDED_HOST], told, "{sent}");
        }
    }
}
