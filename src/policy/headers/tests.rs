use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::ability::Abilities;
use crate::policy::identity::{Described, IdentityHeader};
use crate::policy::test_fields::fields;

fn lines(fields: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
        .collect();
    lines.sort();
    lines
}

/// The fields that the gateway sets on a GET from 192.0.2.1 for `Host: app`, in order.
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
    trusted_fields: &'static [&'static str],
    method: Method,
    /// `None` for the method of the request line.
    decided: Option<Method>,
    credentials: Credentials,
    host: Option<HeaderValue>,
}

const PUBLIC: Case = Case {
    trusted: false,
    trusted_fields: &[],
    method: Method::GET,
    decided: None,
    credentials: Credentials::AsSent,
    host: None,
};

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

    fn prepare_and_tell(self, sent: &[(&str, &str)]) -> (Vec<(String, String)>, Dropped) {
        let mut fields = fields(sent);
        fields.append(HOST, HeaderValue::from_static("app"));
        let dropped = self.prepare_fields(&mut fields).unwrap();
        (lines(&fields), dropped)
    }

    fn prepare_fields(self, fields: &mut HeaderMap) -> Result<Dropped, Refusal> {
        let trusted_fields = TrustedFields::new(self.trusted_fields.iter().map(|name| name.parse().unwrap()));
        let forwarding = Forwarding {
            method: &self.method,
            decided: self.decided.as_ref().unwrap_or(&self.method),
            version: Version::HTTP_11,
            client: &HeaderValue::from_static("192.0.2.1"),
            encrypted: false,
            trusted: self.trusted,
            trusted_fields: &trusted_fields,
            request_id: &HeaderValue::from_static("r1"),
            host: self.host.as_ref(),
            credentials: self.credentials,
            trace: None,
            chunked: false,
            expects_continue: false,
            upgrades: false,
        };
        let mut written = HeaderMap::new();
        let dropped = UpstreamFields::new(fields, forwarding)?.write(&mut written);
        *fields = written;
        Ok(dropped)
    }
}

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
fn forwarding_and_identity_fields_of_an_untrusted_peer_are_reported() {
    for (name, noticed) in [
        ("X-Forwarded-Proto", true),
        ("Forwarded", true),
        ("X-Real-IP", true),
        ("X-Forwarded", true),
        ("CF-Connecting-IP", true),
        ("Remote-User", true),
        ("X-Forwarded-User", true),
        ("X-Our-Own", true),
        ("X-Forwarded-Prefix", false),
        ("X-Request-Id", false),
        ("X-Token-Id", false),
        ("Accept", false),
    ] {
        let stranger = Case { trusted_fields: &["x-our-own"], ..PUBLIC };
        let dropped = stranger.prepare_and_tell(&[(name, "a")]).1;
        assert_eq!((dropped.untrusted, dropped.unlisted), (noticed, None), "{name}");
        let trusted = Case { trusted: true, ..PUBLIC };
        assert!(!trusted.prepare_and_tell(&[(name, "a")]).1.untrusted, "{name} of a trusted peer");
    }
}

#[test]
fn unlisted_identity_field_of_a_trusted_proxy_is_reported() {
    for (name, reported) in [
        ("Remote-User", false),
        ("Remote-Groups", true),
        ("X-Forwarded-User", true),
        ("X-Forwarded-For", false),
        ("X-Request-Id", false),
        ("X-Token-Id", false),
        ("Accept", false),
    ] {
        let trusted = Case { trusted: true, trusted_fields: &["remote-user"], ..PUBLIC };
        let unlisted = trusted.prepare_and_tell(&[(name, "a")]).1.unlisted;
        assert_eq!(unlisted, reported.then(|| name.parse().unwrap()), "{name}");
    }
}

/// [`SET`] with these lines in place of those with the same name.
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

const FORWARDING: [&str; 14] = [
    "Forwarded",
    "X-Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Protocol",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-By",
    "X-Real-IP",
    "X-Request-Id",
    "X-FORWARDED-PORT",
];

/// Identity fields, grouped by the software that sets them.
const CLAIMS: [(&str, &[&str]); 14] = [
    (
        "CGI",
        &[
            "Remote-User",
            "Remote-Ident",
            "Remote-Addr",
            "Remote-Host",
            "Auth-User",
            "Auth-Type",
            "REMOTE-USER",
        ],
    ),
    (
        "a server that verified a certificate",
        &[
            "SSL-Client-Verify",
            "Ssl-Client-Cert",
            "Ssl-Client-Subject-Dn",
            "SSL-Client-S-DN",
            "X-SSL-Client-Verify",
            "X-SSL-Client-CN",
            "X-SSL-Cert",
            "X-Client-Cert",
            "X-Client-Cert-Present",
            "X-Client-DN",
            "X-Client-Verify",
            "Client-Cert",
            "Client-Cert-Chain",
            "X-ARR-ClientCert",
            "X-Forwarded-Client-Cert",
            "X-Forwarded-Tls-Client-Cert",
            "X-Forwarded-Tls-Client-Cert-Info",
            "X-TLS-Client-Subject",
            "X-Amzn-Mtls-Clientcert-Subject",
            "Cf-Cert-Verified",
        ],
    ),
    (
        "a proxy that knows the client's address",
        &[
            "Client-IP",
            "X-Client-IP",
            "True-Client-IP",
            "X-True-Client-IP",
            "X-Cluster-Client-IP",
            "CF-Connecting-IP",
            "CF-Connecting-IPv6",
            "CF-Pseudo-IPv4",
            "Fastly-Client-IP",
            "Fly-Client-IP",
            "X-Azure-ClientIP",
            "X-Azure-SocketIP",
            "X-Appengine-User-IP",
            "X-Envoy-External-Address",
            "X-Originating-IP",
            "X-Remote-IP",
            "X-Remote-Addr",
            "X-ProxyUser-Ip",
            "WL-Proxy-Client-IP",
            "CloudFront-Viewer-Address",
            "Forwarded-For",
            "X-Forwarded-Whatever",
            "X-Real-Port",
            "$WSRA",
        ],
    ),
    ("a proxy that knows the scheme by another name", &["Front-End-Https", "X-Scheme", "X-Url-Scheme"]),
    (
        "oauth2-proxy and Keycloak's gatekeeper",
        &[
            "X-Auth-Request-User",
            "X-Auth-Request-Email",
            "X-Auth-Request-Access-Token",
            "X-Forwarded-User",
            "X-Forwarded-Email",
            "X-Forwarded-Groups",
            "X-Forwarded-Preferred-Username",
            "X-Forwarded-Access-Token",
            "X-Auth-Username",
            "X-Auth-Userid",
            "X-Auth-Email",
            "X-Auth-Roles",
            "X-Auth-Subject",
        ],
    ),
    (
        "Authelia, Authentik, Pomerium, Vouch",
        &[
            "Remote-Groups",
            "Remote-Name",
            "Remote-Email",
            "X-authentik-username",
            "X-Authentik-Jwt",
            "X-Pomerium-Jwt-Assertion",
            "X-Pomerium-Claim-Email",
            "X-Vouch-User",
        ],
    ),
    (
        "Google",
        &[
            "X-Goog-Authenticated-User-Email",
            "X-Goog-Authenticated-User-Id",
            "X-Goog-Iap-Jwt-Assertion",
            "X-Appengine-User-Email",
            "X-Appengine-Inbound-Appid",
            "X-Endpoint-API-UserInfo",
            "X-Apigateway-Api-Userinfo",
        ],
    ),
    (
        "AWS",
        &[
            "X-Amzn-Oidc-Data",
            "X-Amzn-Oidc-Identity",
            "X-Amzn-Oidc-Accesstoken",
            "X-Amzn-Request-Context",
            "X-Amzn-Ava-User-Context",
        ],
    ),
    (
        "Azure App Service",
        &["X-MS-Client-Principal", "X-MS-CLIENT-PRINCIPAL-NAME", "X-MS-Token-AAD-Id-Token"],
    ),
    (
        "Cloudflare Access and Tailscale",
        &[
            "Cf-Access-Jwt-Assertion",
            "Cf-Access-Authenticated-User-Email",
            "Tailscale-User-Login",
            "Tailscale-User-Name",
            "Tailscale-Headers-Info",
        ],
    ),
    (
        "Kong, APISIX, WSO2, Envoy, Istio, Linkerd",
        &[
            "X-Consumer-Id",
            "X-Consumer-Username",
            "X-Credential-Identifier",
            "X-Anonymous-Consumer",
            "X-Authenticated-Userid",
            "X-Authenticated-Scope",
            "X-Userinfo",
            "X-JWT-Assertion",
            "X-Jwt-Payload",
            "X-Envoy-Attempt-Count",
            "Sec-Istio-Auth-Userinfo",
            "l5d-client-id",
        ],
    ),
    (
        "Kubernetes and Elasticsearch",
        &[
            "X-Remote-User",
            "X-Remote-Group",
            "X-Remote-Extra-Scopes",
            "Impersonate-User",
            "Impersonate-Extra-Scopes",
            "es-security-runas-user",
        ],
    ),
    (
        "single sign-on",
        &[
            "X-WEBAUTH-USER",
            "OIDC-Claim-Email",
            "Shib-Identity-Provider",
            "Eppn",
            "Mellon-NameID",
            "SM-User",
            "SM-UserDN",
            "iv-user",
            "iv-groups",
            "Osso-User-Dn",
            "CAS-User",
            "X-SSO-User",
        ],
    ),
    (
        "guides and applications",
        &[
            "X-User",
            "X-User-Id",
            "X-User-Email",
            "X-User-Roles",
            "X-Username",
            "X-UserID",
            "X-Email",
            "X-Roles",
            "X-Groups",
            "X-Identity",
            "X-Principal-Id",
            "X-Token-User-Email",
            "X-Impersonate-User",
            "X-Current-User",
        ],
    ),
];

fn claims() -> impl Iterator<Item = &'static str> {
    CLAIMS.iter().flat_map(|(_, names)| *names).copied()
}

#[test]
fn forwarding_fields_pass_from_trusted_peers_only() {
    for name in FORWARDING {
        assert_eq!(PUBLIC.prepare(&[(name, "1"), (name, "2")]), set_and(&[]), "{name}");
        let trusted = Case { trusted: true, ..PUBLIC }.prepare(&[(name, "1")]);
        // The gateway sets its own request id, and appends the peer to X-Forwarded-For.
        if !matches!(name, "X-Request-Id" | "X-Forwarded-For") {
            assert_eq!(trusted, set_and(&[(&*name.to_ascii_lowercase(), "1")]), "{name}");
        }
    }
}

#[test]
fn identity_fields_pass_from_trusted_peers_only_if_listed() {
    let connection = claims().collect::<Vec<_>>().join(", ");
    for name in claims() {
        for trusted in [false, true] {
            let case = Case { trusted, trusted_fields: &["x-other-claim"], ..PUBLIC };
            assert_eq!(case.prepare(&[(name, "1"), (name, "2")]), set_and(&[]), "{name}, trusted: {trusted}");
        }
        for separator in ["_", ".", "+", "~"] {
            let folded = name.replace('-', separator);
            if folded == name {
                continue;
            }
            let case = Case { trusted: true, trusted_fields: &[], ..PUBLIC };
            assert_eq!(case.prepare(&[(&folded, "1")]), set_and(&[]), "{folded}");
        }
        let lower = name.to_ascii_lowercase();
        let case =
            Case { trusted: true, trusted_fields: vec![lower.clone().leak() as &str].leak(), ..PUBLIC };
        assert!(TrustedFields::check(&lower.parse().unwrap()).is_ok(), "{name}");
        // Connection cannot remove it.
        let first = connection.split(", ").take(50).chain([name]).collect::<Vec<_>>().join(", ");
        let sent = [(name, "1"), ("Connection", &*first)];
        assert_eq!(case.prepare(&sent), set_and(&[(&lower, "1")]), "{name} is listed");
    }
}

#[test]
fn listed_field_with_any_name_is_dropped_from_untrusted_peers() {
    let case = |trusted| Case { trusted, trusted_fields: &["x-our-own", "oidc_claim_email"], ..PUBLIC };
    let sent = [
        ("X-Our-Own", "1"),
        ("X_Our_Own", "2"),
        ("X.Our-Own", "3"),
        ("OIDC_CLAIM_email", "4"),
        ("OIDC-CLAIM-email", "5"),
        ("OIDC_CLAIM_name", "6"),
        ("X-Our-Owner", "7"),
        ("Connection", "X-Our-Own, OIDC_CLAIM_email"),
    ];
    assert_eq!(case(false).prepare(&sent), set_and(&[("x-our-owner", "7")]));
    let listed = [("x-our-own", "1"), ("oidc_claim_email", "4"), ("x-our-owner", "7")];
    assert_eq!(case(true).prepare(&sent), set_and(&listed));

    let mut trailers =
        fields(&[("X-Our-Own", "1"), ("X.Our.Own", "2"), ("Remote-User", "3"), ("Digest", "4")]);
    prepare_trailers(&mut trailers, &TrustedFields::new(["x-our-own".parse().unwrap()]));
    assert_eq!(lines(&trailers), [("digest".to_owned(), "4".to_owned())]);
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
        assert_eq!(prepare_answer(StatusCode::OK, &mut fields(&sent)), expected);
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
fn trusted_peer_sets_forwarding_fields_and_is_appended_to_the_chain() {
    let trusted = Case { trusted: true, ..PUBLIC };
    let sent = [
        ("forwarded", "for=1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outside"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "198.51.100.7"),
    ];
    let chains = [("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "203.0.113.1, 203.0.113.2")];
    let named_away =
        [("Connection", "X-Forwarded-For, X-Forwarded-Proto, Forwarded, X-Real-IP, X-Forwarded-Port")];
    let mut expected = sent.to_vec();
    expected.push(("x-forwarded-for", "198.51.100.7, 203.0.113.1, 203.0.113.2, 192.0.2.1"));
    assert_eq!(trusted.prepare(&[&sent[..], &chains, &named_away].concat()), set_and(&expected));
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
fn identity_headers_describe_the_token() {
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
        let found = prepare_answer(StatusCode::from_u16(status).unwrap(), &mut answer).err();
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
fn valid_request_id_of_a_trusted_peer_is_used() {
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
