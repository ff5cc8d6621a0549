//! Fields about the client and the caller, and whose are forwarded.

use super::*;

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
fn client_request_id_is_visible_ascii_of_at_most_128_bytes() {
    let longest = "a".repeat(MAX_REQUEST_ID);
    let too_long = "a".repeat(MAX_REQUEST_ID + 1);
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
    let long = "a".repeat(MAX_REQUEST_ID + 1);
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
