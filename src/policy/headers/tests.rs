use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::ability::Abilities;
use crate::policy::identity::{Described, IdentityHeader};

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn lines(fields: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
        .collect();
    lines.sort();
    lines
}

/// What the gateway sets on a GET of 192.0.2.1 for `Host: app`, in order.
const SET: [(&str, &str); 6] = [
    ("host", "app"),
    ("via", "1.1 stockaj-gateway"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "app"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "r1"),
];

struct Case {
    trusted: bool,
    method: Method,
    /// None: that of the request line.
    decided: Option<Method>,
    credentials: Credentials,
    host: Option<HeaderValue>,
}

const PUBLIC: Case =
    Case { trusted: false, method: Method::GET, decided: None, credentials: Credentials::AsSent, host: None };

fn token(value: &str) -> Credentials {
    let authorization = HeaderValue::from_str(value).unwrap();
    Credentials::Token { authorization, identity: None, cookies: false }
}

/// Token 17 of workspace 3, whose name is hostile.
fn identity(wanted: &[IdentityHeader]) -> Identity {
    let abilities = Abilities::new(["rents:read", "items:read"]);
    let token = Described { id: "17", name: Some("a\r\nb"), abilities: &abilities, workspace_id: Some("3") };
    Identity::new(wanted, token).unwrap()
}

const IDENTITY: [(IdentityHeader, &str, &str); 4] = [
    (IdentityHeader::Id, "x-token-id", "17"),
    (IdentityHeader::Name, "x-token-name", "a%0D%0Ab"),
    (IdentityHeader::Abilities, "x-token-abilities", "items:read rents:read"),
    (IdentityHeader::WorkspaceId, "x-workspace-id", "3"),
];

impl Case {
    fn prepare(self, sent: &[(&str, &str)]) -> Vec<(String, String)> {
        self.prepare_and_tell(sent).0
    }

    fn prepare_and_tell(self, sent: &[(&str, &str)]) -> (Vec<(String, String)>, bool) {
        let mut fields = fields(sent);
        fields.append(HOST, HeaderValue::from_static("app"));
        let distrusted = self.prepare_fields(&mut fields);
        (lines(&fields), distrusted)
    }

    fn prepare_fields(self, fields: &mut HeaderMap) -> bool {
        prepare_request(
            fields,
            Forwarding {
                method: &self.method,
                decided: self.decided.as_ref().unwrap_or(&self.method),
                version: Version::HTTP_11,
                client: &HeaderValue::from_static("192.0.2.1"),
                encrypted: false,
                trusted: self.trusted,
                request_id: &HeaderValue::from_static("r1"),
                host: self.host.as_ref(),
                credentials: self.credentials,
            },
        )
    }
}

#[test]
fn what_a_stranger_tells_of_a_proxy_is_noticed() {
    for (name, noticed) in [
        ("X-Forwarded-Proto", true),
        ("Forwarded", true),
        ("X-Real-IP", true),
        ("X-Forwarded", true),
        ("CF-Connecting-IP", true),
        ("X-Forwarded-Prefix", false),
        ("X-Request-Id", false),
        ("X-Token-Id", false),
        ("Accept", false),
    ] {
        assert_eq!(PUBLIC.prepare_and_tell(&[(name, "a")]).1, noticed, "{name}");
        let trusted = Case { trusted: true, ..PUBLIC };
        assert!(!trusted.prepare_and_tell(&[(name, "a")]).1, "{name} of a trusted peer");
    }
}

/// [`SET`] with these lines instead of those of the same name.
fn set_and(others: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut expected: Vec<_> = SET
        .iter()
        .filter(|(name, _)| !others.iter().any(|(other, _)| other == name))
        .chain(others)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    expected.sort();
    expected
}

#[test]
fn what_passes_and_what_goes() {
    for (sent, passes) in [
        (&[][..], &[][..]),
        (
            &[
                ("Accept", "a"),
                ("Accept", "b"),
                ("X-Custom", "c"),
                ("X-User", "d"),
                ("X.User", "e"),
                ("Range", "f"),
            ],
            &[
                ("accept", "a"),
                ("accept", "b"),
                ("x-custom", "c"),
                ("x-user", "d"),
                ("x.user", "e"),
                ("range", "f"),
            ],
        ),
        // Authorization and cookies of a public route are as they came.
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
        // What each line of Connection names.
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
        // What Connection cannot name.
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
fn a_client_says_nothing_about_who_forwards_for_whom() {
    for name in [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Whatever",
        "X-Real-IP",
        "X-Request-Id",
        "X-Forwarded",
        "X-Forwarded-Server",
        "X-Forwarded-User",
        "X-Forwarded-Client-Cert",
        "Forwarded-For",
        "Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Fastly-Client-IP",
        "X-Originating-IP",
        "X-Remote-IP",
        "X-Remote-Addr",
        "X-Remote-User",
        "Remote-User",
        "Remote-Groups",
        "X-Auth-Request-User",
        "SSL-Client-Verify",
        "X-SSL-Client-Cert",
        "X-Envoy-External-Address",
        "Front-End-Https",
        "X-Scheme",
        "X-Url-Scheme",
    ] {
        assert_eq!(PUBLIC.prepare(&[(name, "1"), (name, "2")]), set_and(&[]), "{name}");
    }
}

#[test]
fn nobody_says_what_only_the_gateway_may_or_what_rewrites_the_request() {
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
        // Folded, these are others.
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
fn a_trusted_peer_is_believed() {
    let trusted = Case { trusted: true, ..PUBLIC };
    let sent = [
        ("forwarded", "for=1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outside"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "198.51.100.7"),
        ("cf-connecting-ip", "198.51.100.7"),
        ("remote-user", "ada"),
        ("x-envoy-attempt-count", "1"),
    ];
    let chains = [("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "203.0.113.1, 203.0.113.2")];
    let named_away =
        [("Connection", "X-Forwarded-For, X-Forwarded-Proto, Forwarded, X-Real-IP, X-Forwarded-Port")];
    let mut expected = sent.to_vec();
    expected.push(("x-forwarded-for", "198.51.100.7, 203.0.113.1, 203.0.113.2, 192.0.2.1"));
    assert_eq!(trusted.prepare(&[&sent[..], &chains, &named_away].concat()), set_and(&expected));
}

#[test]
fn a_token_route_sends_the_token_and_no_cookie() {
    let case = Case { credentials: token("Bearer 17|x"), ..PUBLIC };
    let sent = [("Authorization", "bearer   17|x"), ("Cookie", "s=1"), ("Cookie", "t=2")];
    assert_eq!(case.prepare(&sent), set_and(&[("authorization", "Bearer 17|x")]));

    let authorization = HeaderValue::from_static("Bearer 17|x");
    let credentials = Credentials::Token { authorization, identity: None, cookies: true };
    let expected = [("authorization", "Bearer 17|x"), ("cookie", "s=1"), ("cookie", "t=2")];
    assert_eq!(Case { credentials, ..PUBLIC }.prepare(&sent), set_and(&expected), "with backend.cookies");
}

#[test]
fn a_preflight_is_nobodys() {
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
fn the_backend_is_told_who_is_calling() {
    for (wanted, name, value) in IDENTITY {
        let authorization = HeaderValue::from_static("Bearer 17|x");
        let identity = Some(identity(&[wanted]));
        let case =
            Case { credentials: Credentials::Token { authorization, identity, cookies: false }, ..PUBLIC };
        let sent = IDENTITY.map(|(_, name, _)| (name, "1"));
        assert_eq!(
            case.prepare(&sent),
            set_and(&[("authorization", "Bearer 17|x"), (name, value)]),
            "{name}"
        );
    }
}

#[test]
fn ordinary_names_pass() {
    for name in [
        "X-Token",
        "X-Token-Type",
        "X-Workspace",
        "X-User",
        "X-Requested-With",
        "X-CSRF-Token",
        "X-XSRF-Token",
        "X-Socket-Id",
        "X-Inertia",
        "X-Livewire",
        "X-Api-Key",
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
        "Remote-Id",
        "Client-Version",
        "SSL-Clients",
        "PHP-Version",
        "Prefer",
        "Content-MD5",
        "Content-Language",
        "X",
        "X-",
        "X.User",
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

/// What a client might call a field that a backend takes for one of the gateway's.
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
    fn a_backend_that_folds_names_sees_the_gateways_fields_alone(
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
        Case { trusted, method: Method::POST, credentials, ..PUBLIC }.prepare_fields(&mut fields);
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
fn a_post_stays_a_post() {
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
fn another_host_behind_the_gateway() {
    let case = Case { host: Some(HeaderValue::from_static("backend:8000")), ..PUBLIC };
    assert_eq!(case.prepare(&[]), set_and(&[("host", "backend:8000"), ("x-forwarded-host", "app")]));
}

#[test]
fn an_answer_loses_what_concerns_the_connection_only() {
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
    assert_eq!(prepare_answer(StatusCode::OK, &mut answer), Ok(()));
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
fn an_answer_has_one_end() {
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
        let found = prepare_answer(StatusCode::from_u16(status).unwrap(), &mut answer).err();
        assert_eq!(found, why, "{status} {lines:?}");
        if why.is_none() {
            assert!(!answer.contains_key(CODING), "{status} {lines:?}");
            assert!(status != 204 || !answer.contains_key(LENGTH), "{lines:?}");
        }
    }
}

#[test]
fn trailers_that_may_not_pass() {
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
    ] {
        assert!(!trailer_allowed(&name.parse().unwrap()), "{name}");
    }
    for name in ["X-Checksum", "Digest", "Repr-Digest", "Server-Timing", "ETag", "grpc-status", "Signature"] {
        assert!(trailer_allowed(&name.parse().unwrap()), "{name}");
    }
}

#[test]
fn client_request_id_is_visible_ascii_of_at_most_128_bytes() {
    let longest = "a".repeat(LONGEST_REQUEST_ID);
    let too_long = "a".repeat(LONGEST_REQUEST_ID + 1);
    for (sent, expected) in [
        (&["order-17"][..], Some("order-17")),
        (&["~!@#$%^&*()[]{}<>|\\/\"'"], Some("~!@#$%^&*()[]{}<>|\\/\"'")),
        (&[&*longest], Some(&*longest)),
        (&[&*too_long], None),
        (&[""], None),
        (&["a b"], None),
        (&["a\tb"], None),
        (&["é"], None),
        (&["a", "b"], None),
        (&[], None),
    ] {
        let lines: Vec<_> = sent.iter().map(|id| ("x-request-id", *id)).collect();
        let fields = fields(&lines);
        let found = client_request_id(&fields).map(|id| id.to_str().unwrap());
        assert_eq!(found, expected, "{sent:?}");
    }
}

#[test]
fn a_request_id_is_taken_over_where_it_is_one() {
    let long = "a".repeat(LONGEST_REQUEST_ID + 1);
    for (sent, taken) in [
        (&[][..], false),
        (&["0123-abc_X.y:z/+="], true),
        (&[&long[1..]], true),
        (&[&*long], false),
        (&[""], false),
        (&["a b"], false),
        (&["a,b"], false),
        (&["a\"b"], false),
        (&["a", "a"], false),
    ] {
        let lines: Vec<_> = sent.iter().map(|id| ("x-request-id", *id)).collect();
        assert_eq!(trusted_request_id(&fields(&lines)).is_some(), taken, "{sent:?}");
    }
}
