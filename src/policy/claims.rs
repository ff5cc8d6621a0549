//! Identity fields: header fields that state the user, its groups, the client's certificate or its address.
//!
//! An authenticating proxy, a load balancer or a content delivery network sets such a field, and the application
//! behind it trusts the field. The gateway forwards one only if [`listen.trusted_fields`](super::trusted_fields) names it
//! and a trusted proxy sent it.
//!
//! In doubt the table contains a name: an operator can accept a field, but cannot know which ones to drop.

/// A name or a prefix of names, in lower case with `-` between words.
#[derive(Clone, Copy)]
enum Rule {
    Name(&'static str),
    Prefix(&'static str),
}
use Rule::{Name, Prefix};

/// All known identity fields. At most 255: [`Index`] numbers them in a byte.
const RULES: &[Rule] = &[
    // CGI variables (RFC 3875) and web servers' names for them: REMOTE_USER, REMOTE_IDENT, REMOTE_ADDR, AUTH_TYPE. Also
    // Authelia's Remote-Groups, Remote-Name and Remote-Email.
    Prefix("remote-"),
    Prefix("auth-user"),
    Prefix("auth-group"),
    Prefix("auth-role"),
    Name("auth-type"),
    Name("auth-email"),
    Name("auth-name"),
    Name("auth-dn"),
    // A verified client certificate: mod_ssl and ingress-nginx (SSL-Client-*), RFC 9440 (Client-Cert and
    // Client-Cert-Chain), HAProxy's manual (X-SSL-*), Google's load balancer (X-Client-Cert-*), Azure
    // (X-ARR-ClientCert), and nginx as most guides configure it (X-Client-Verify, X-Client-DN).
    Prefix("ssl-"),
    Prefix("tls-"),
    Prefix("x-ssl-"),
    Prefix("x-tls-"),
    Prefix("x-mtls-"),
    Prefix("client-cert"),
    Prefix("client-ssl"),
    Prefix("client-tls"),
    Prefix("client-verif"),
    Name("client-dn"),
    Name("client-cn"),
    Name("client-subject"),
    Prefix("x-cert-"),
    Prefix("x-peer-cert"),
    Prefix("x-client-cert"),
    Prefix("x-client-ssl"),
    Prefix("x-client-tls"),
    Prefix("x-client-verif"),
    Prefix("x-client-subject"),
    Prefix("x-client-issuer"),
    Prefix("x-client-serial"),
    Prefix("x-client-fingerprint"),
    Prefix("x-client-s-dn"),
    Prefix("x-client-i-dn"),
    Prefix("x-client-user"),
    Prefix("x-client-principal"),
    Name("x-client-dn"),
    Name("x-client-cn"),
    Name("x-subject-dn"),
    Prefix("x-arr-clientcert"),
    Prefix("x-spiffe-"),
    Prefix("spiffe-"),
    // The client's address, other than in the forwarding fields. Much PHP reads Client-IP before X-Forwarded-For.
    Prefix("client-ip"),
    Prefix("client-addr"),
    Prefix("x-client-ip"),
    Prefix("x-client-addr"),
    Prefix("x-client-port"),
    Prefix("x-client-real"),
    Prefix("true-client-"),
    Prefix("x-true-client-"),
    Prefix("x-cluster-client-"),
    Prefix("x-originating-"),
    Prefix("x-proxyuser"),
    Prefix("x-real-"),
    Name("x-ip"),
    Name("x-ip-address"),
    Prefix("x-source-ip"),
    Prefix("x-src-ip"),
    Prefix("x-peer-ip"),
    Prefix("x-peer-addr"),
    Prefix("x-connecting-ip"),
    Prefix("x-http-client-ip"),
    Prefix("x-forward-for"),
    Prefix("x-forwarder-for"),
    Name("forwarded-for"),
    Name("forwarded-for-ip"),
    Prefix("cf-connecting-"),
    Prefix("cf-pseudo-"),
    Prefix("cloudfront-viewer-address"),
    Prefix("fastly-client"),
    Prefix("fly-client-"),
    Prefix("fly-forwarded-"),
    Prefix("incap-client-"),
    Prefix("do-connecting-"),
    Prefix("eo-client-"),
    Prefix("eo-connecting-"),
    Prefix("cdn-src-"),
    Prefix("cdn-client-"),
    Prefix("ali-cdn-real-"),
    Prefix("x-sucuri-client"),
    Prefix("x-nf-client-"),
    Prefix("x-vercel-forwarded-"),
    Prefix("x-vercel-proxied-"),
    Prefix("x-vercel-oidc-"),
    Prefix("x-azure-clientip"),
    Prefix("x-azure-socketip"),
    Prefix("x-ms-forwarded-client-"),
    Prefix("x-ms-adfs-"),
    // The client's scheme, under names other than those of the forwarding fields.
    Name("front-end-https"),
    Name("cf-visitor"),
    Name("fastly-ssl"),
    Name("x-arr-ssl"),
    Name("x-scheme"),
    Name("x-url-scheme"),
    // WebLogic's and WebSphere's plug-ins for web servers. The latter's begin with `$WS`.
    Prefix("wl-proxy-"),
    Prefix("proxy-client-"),
    Prefix("proxy-remote-"),
    Prefix("proxy-user"),
    Prefix("-ws"),
    // Authenticating proxies: oauth2-proxy and Gatekeeper (X-Auth-*), Authentik, Pomerium, Vouch, Teleport, ngrok,
    // Tailscale, Grafana's convention (X-WEBAUTH-USER), Apache NiFi, Superset.
    Prefix("x-auth-request-"),
    Prefix("x-auth-user"),
    Prefix("x-auth-email"),
    Prefix("x-auth-mail"),
    Prefix("x-auth-group"),
    Prefix("x-auth-role"),
    Prefix("x-auth-sub"),
    Prefix("x-auth-audience"),
    Prefix("x-auth-principal"),
    Prefix("x-auth-identity"),
    Prefix("x-auth-couchdb-"),
    Name("x-auth-name"),
    Name("x-auth-id"),
    Prefix("x-authenticated"),
    Prefix("x-authentik-"),
    Prefix("x-pomerium-"),
    Prefix("x-vouch-"),
    Prefix("x-webauth-"),
    Prefix("teleport-"),
    Prefix("ngrok-auth-"),
    Prefix("tailscale-"),
    Prefix("x-proxy-user"),
    Prefix("x-proxy-remote-"),
    Prefix("x-proxied-"),
    Prefix("x-proxiedentit"),
    // The same as cloud services: Google (IAP, App Engine, API Gateway, Cloud Tasks), AWS (load balancer, API
    // Gateway, Lambda, Verified Access), Azure App Service, Cloudflare Access, CloudFront, Replit, Snowflake, Posit.
    Prefix("x-goog-authenticated-"),
    Prefix("x-goog-iap-"),
    Prefix("x-appengine-"),
    Prefix("x-endpoint-api-"),
    Prefix("x-apigateway-api-"),
    Prefix("x-cloudtasks-"),
    Prefix("x-cloudscheduler"),
    Prefix("x-amzn-oidc-"),
    Prefix("x-amzn-mtls-"),
    Prefix("x-amzn-ava-"),
    Name("x-amzn-request-context"),
    Name("x-amzn-lambda-context"),
    Prefix("x-ms-client-principal"),
    Prefix("x-ms-token-"),
    Prefix("cf-access-"),
    Prefix("cf-cert-"),
    Prefix("cf-client-"),
    Prefix("cloudfront-viewer-cert"),
    Prefix("x-replit-user-"),
    Prefix("sf-context-"),
    Prefix("rstudio-connect-"),
    // API gateways and meshes: Kong and APISIX (X-Consumer-*, X-Credential-*, X-Userinfo), WSO2 (X-JWT-Assertion),
    // KrakenD, Ory Oathkeeper, Zitadel, Hasura, Envoy (X-Envoy-*, which also controls routing and timeouts of an Envoy
    // behind the gateway), Istio, Linkerd.
    Prefix("x-consumer-"),
    Prefix("x-credential-"),
    Prefix("x-anonymous-consumer"),
    Prefix("x-jwt-"),
    Name("x-jwt"),
    Prefix("x-kong-"),
    Prefix("x-krakend-"),
    Prefix("x-oathkeeper-"),
    Prefix("ory-"),
    Prefix("x-zitadel-"),
    Prefix("x-hasura-"),
    Prefix("x-envoy-"),
    Prefix("x-istio-"),
    Prefix("sec-istio-"),
    Prefix("l5d-"),
    // Single sign-on: mod_auth_openidc (OIDC_CLAIM_*), Shibboleth and its attributes, mod_auth_mellon, SiteMinder
    // (SM_USER, SMUSER), WebSEAL (iv-user), Oracle, CAS, OpenAM, Okta, Kerberos, and IIS (LOGON_USER).
    Prefix("oidc-"),
    Prefix("shib-"),
    Prefix("ajp-"),
    Name("eppn"),
    Name("eptid"),
    Name("persistent-id"),
    Name("targeted-id"),
    Prefix("mellon-"),
    Prefix("sm-"),
    Prefix("smuser"),
    Name("affiliation"),
    Name("unscoped-affiliation"),
    Name("entitlement"),
    Name("mail"),
    Name("displayname"),
    Name("givenname"),
    Name("uid"),
    Prefix("logon-user"),
    Prefix("x-cas-"),
    Prefix("x-kerberos-"),
    Prefix("x-ntlm-"),
    Prefix("x-oauth-"),
    Prefix("x-okta-"),
    Prefix("iv-"),
    Prefix("oam-"),
    Prefix("osso-"),
    Prefix("cas-"),
    Prefix("x-openam-"),
    // Impersonation: Kubernetes (also X-Remote-User, -Group and -Extra-*), Elasticsearch.
    Prefix("impersonate-"),
    Prefix("x-impersonate"),
    Prefix("x-remote-"),
    Prefix("x-act-as"),
    Prefix("x-on-behalf-"),
    Prefix("on-behalf-"),
    Prefix("es-security-runas-"),
    // Names that guides and applications use for a user that a proxy has authenticated.
    Prefix("x-user"),
    Prefix("authenticated-"),
    Prefix("x-orig-user"),
    Prefix("x-nginx-user"),
    Prefix("x-grafana-user"),
    Prefix("x-google-groups"),
    Prefix("x-certificate"),
    Prefix("x-is-admin"),
    Name("x-admin"),
    Name("x-cert"),
    Name("x-cn"),
    Name("x-dn"),
    Name("x-scope"),
    Name("x-scopes"),
    Name("x-uid"),
    Prefix("x-current-user"),
    Prefix("x-logged-in-user"),
    Prefix("x-sso-"),
    Prefix("x-saml-"),
    Prefix("x-oidc-"),
    Prefix("x-ldap-"),
    Prefix("x-cognito-"),
    Prefix("x-claim-"),
    Name("x-claims"),
    Prefix("x-identity"),
    Prefix("x-principal"),
    Prefix("x-token-user"),
    Name("x-token-subject"),
    Name("x-id-token"),
    Name("x-login"),
    Name("x-email"),
    Name("x-mail"),
    Name("x-subject"),
    Name("x-sub"),
    Name("x-role"),
    Name("x-roles"),
    Name("x-group"),
    Name("x-groups"),
    Name("x-permissions"),
    // A subscriber of a mobile network.
    Name("msisdn"),
    Name("x-msisdn"),
    Name("x-nokia-msisdn"),
    Name("x-up-calling-line-id"),
];

/// Names with a prefix of the table that are no identity fields: properties and preferences of clients.
const ORDINARY: [&str; 4] = ["x-user-agent", "x-user-language", "x-user-locale", "x-user-timezone"];

/// Whether a field is an identity field. `name` is in lower case, with `-` between words.
pub(super) fn is_claim(name: &str) -> bool {
    // Called for every field of every request, of which hardly any is an identity field. One load decides most names.
    let (group, bit) = place(name.as_bytes());
    INDEX.third_letters[group] >> bit & 1 != 0 && is_listed(name, group)
}

#[inline(never)]
fn is_listed(name: &str, group: usize) -> bool {
    let rules = usize::from(INDEX.starts[group])..usize::from(INDEX.starts[group + 1]);
    INDEX.rules[rules].iter().any(|rule| match *rule {
        Name(listed) => name == listed,
        Prefix(prefix) => name.starts_with(prefix) && !ORDINARY.contains(&name),
    })
}

/// The rules grouped by first letter, with the set of third letters of each group.
struct Index {
    rules: [Rule; RULES.len()],
    /// The start of each group in `rules`.
    starts: [u8; GROUPS + 1],
    third_letters: [u32; GROUPS],
}

/// A group for each first letter, and one for each first letter after `x-`.
const GROUPS: usize = 64;

static INDEX: Index = {
    let mut index =
        Index { rules: [RULES[0]; RULES.len()], starts: [0; GROUPS + 1], third_letters: [0; GROUPS] };
    let (mut group, mut count) = (0, 0);
    while group < GROUPS {
        index.starts[group] = count;
        let mut number = 0;
        while number < RULES.len() {
            let (Name(text) | Prefix(text)) = RULES[number];
            let (of, bit) = place(text.as_bytes());
            if of == group {
                index.rules[count as usize] = RULES[number];
                index.third_letters[group] |= 1 << bit;
                count += 1;
            }
            number += 1;
        }
        group += 1;
    }
    index.starts[GROUPS] = count;
    index
};

/// The group of a name and the bit of its third letter, not counting `x-`. Shorter names have bit 0.
const fn place(name: &[u8]) -> (usize, u32) {
    let (group, stem) = match name {
        [b'x', b'-', stem @ ..] => (GROUPS / 2, stem),
        stem => (0, stem),
    };
    match stem {
        [first, _, third, ..] => (group + (*first & 31) as usize, (*third & 31) as u32),
        _ => (group, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::field_class::{FieldClass, classify};

    #[test]
    fn every_rule_is_unique_in_lower_case_and_found() {
        for rule in RULES {
            let (Name(text) | Prefix(text)) = rule;
            assert!(
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
            let stem = text.strip_prefix("x-").unwrap_or(text);
            assert!(
                stem.len() >= 3 || matches!(rule, Name(_)),
                "{text} would not be found by its third letter"
            );
            assert!(is_claim(text), "{text}");
            let longer = format!("{text}z");
            assert!(is_claim(&longer) || matches!(rule, Name(_)), "{longer}");
        }
        let listed = |name: &str| {
            RULES.iter().filter(|rule| matches!(rule, Name(it) | Prefix(it) if *it == name)).count()
        };
        for rule in RULES {
            let (Name(text) | Prefix(text)) = rule;
            assert_eq!(listed(text), 1, "{text}");
        }
    }

    #[test]
    fn ordinary_names_are_no_identity_fields() {
        for name in
            ORDINARY.into_iter().chain(["", "x", "x-", "x-a", "x-ab", "te", "id", "x-us", "remote", "host"])
        {
            assert!(!is_claim(name), "{name}");
        }
        for prefix in ORDINARY {
            assert!(
                RULES.iter().any(|rule| matches!(rule, Prefix(it) if prefix.starts_with(it))),
                "{prefix}"
            );
        }
    }

    /// Names outside of the table that clients must not send either: see `field_class`.
    const OTHERS: [&str; 15] = [
        "forwarded",
        "php-auth-digest",
        "php-auth-pw",
        "php-auth-user",
        "proxy",
        "x-accel-",
        "x-forwarded",
        "x-host",
        "x-http-host-override",
        "x-http-method",
        "x-method-override",
        "x-original-",
        "x-request-id",
        "x-rewrite-url",
        "x-sendfile-type",
    ];
    /// Prefixes of names that proxies set themselves, which their lists must go around.
    const SET: [&str; 8] = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-real-ip",
        "x-token-abilities",
        "x-workspace-id",
    ];

    /// All names that begin like those that a client must not send, up to the first letter that differs.
    fn unwanted() -> Vec<String> {
        let rules = RULES.iter().map(|(Name(text) | Prefix(text))| *text);
        let starts = SET.iter().flat_map(|name| (0..name.len()).map(|end| &name[..end]));
        let stems: Vec<&str> = rules.chain(OTHERS).chain(SET).chain(starts).collect();
        let letters = ('a'..='z').chain('0'..='9').chain(['-']).map(String::from).chain([String::new()]);
        let names = letters.flat_map(|letter| stems.iter().map(move |stem| format!("{stem}{letter}")));
        let names = names.flat_map(|name| [format!("{name}zz"), name]);
        names.filter(|name| !matches!(classify(name), FieldClass::Passes | FieldClass::HopByHop)).collect()
    }

    fn proxy_file(name: &str) -> String {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/proxies/");
        std::fs::read_to_string(format!("{directory}{name}")).unwrap()
    }

    /// Proxies that ask the decision listener and do not remove fields by its answer.
    #[test]
    fn shipped_proxies_remove_every_identity_field() {
        let caddy = proxy_file("Caddyfile").to_lowercase();
        let caddy: Vec<&str> =
            caddy.lines().filter_map(|line| line.trim().strip_prefix("request_header -")).collect();
        let in_caddy = |name: &str| {
            caddy.iter().any(|listed| match listed.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *listed == name,
            })
        };
        let traefik = proxy_file("traefik-routes.yaml");
        let (_, names) = traefik.split_once("authResponseHeadersRegex: \"(?i)").unwrap();
        let (names, _) = names.split_once('"').unwrap();
        let traefik = regex::Regex::new(&names.replace([' ', '\n', '\\'], "")).unwrap();
        let unwanted = unwanted();
        assert!(unwanted.len() > 10_000, "{}", unwanted.len());
        let missing = |is_in: &dyn Fn(&str) -> bool| {
            let mut missing: Vec<&str> = unwanted.iter().map(|it| &**it).filter(|it| !is_in(it)).collect();
            missing.sort_unstable();
            missing.dedup();
            missing
        };
        assert_eq!(missing(&in_caddy), [""; 0], "in Caddyfile");
        // Traefik sets these itself, and drops those of its clients.
        assert_eq!(missing(&|name| traefik.is_match(name)), SET[..6], "in traefik-routes.yaml");
    }
}
