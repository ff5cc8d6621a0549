//! What a field's name means between a client, the proxies and a backend: whether it passes.

use http::HeaderName;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, ORIGIN, VIA};

/// What becomes of a client's field of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// Concerns one connection only (RFC 9110 section 7.6.1).
    HopByHop,
    /// Says who forwarded the request for whom, or who that is: believed from trusted peers.
    Forwarding,
    /// Passes from nobody.
    NeverSent,
}

/// `name` is in lower case, as [`HeaderName`] keeps it.
///
/// CGI makes one variable of `X-User` and `X_User`, PHP of `X.User` too, and lighttpd of every name that differs
/// in no letter or digit. So a name with an underscore goes, and one with another odd character goes where it
/// folds into a name that means something here.
pub(super) fn fate(name: &str) -> Fate {
    // Without a branch for each byte: this is done to every name of every message.
    if !name.bytes().fold(false, |odd, byte| odd | ODD[usize::from(byte)]) {
        return fate_of(name);
    }
    if name.contains('_') {
        return Fate::NeverSent;
    }
    let folded = folded(name);
    if fate_of(&folded) == Fate::Passes && !is_kept(&folded) { Fate::Passes } else { Fate::NeverSent }
}

/// A name as backends that fold see it, its words separated by `-`.
pub(super) fn folded(name: &str) -> String {
    name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect()
}

/// Whether `Connection` cannot name the field away: what decides who asks whom for what, what makes a preflight,
/// what frames the body, and what the gateway sets.
pub(super) fn is_kept(name: &str) -> bool {
    [AUTHORIZATION, HOST, ORIGIN, CONTENT_LENGTH, COOKIE, VIA, FORWARDED]
        .iter()
        .any(|it: &HeaderName| it == name)
        || name.starts_with("content-")
        || name.starts_with("access-control-")
        || matches!(fate_of(name), Fate::Forwarding | Fate::NeverSent)
}

/// What is neither a letter nor a digit nor `-`.
const ODD: [bool; 256] = {
    let mut odd = [true; 256];
    let mut byte = 0;
    while byte < 256 {
        odd[byte] = !((byte as u8).is_ascii_alphanumeric() || byte as u8 == b'-');
        byte += 1;
    }
    odd
};

/// Of a name without odd characters.
fn fate_of(name: &str) -> Fate {
    match name.as_bytes() {
        [b'x', b'-', ..] => fate_of_extension(&name[2..]),
        [b'c', ..] => match name {
            "connection" => Fate::HopByHop,
            // Much read by PHP, beside X-Forwarded-For; and Cloudflare's.
            "client-ip" | "cf-connecting-ip" => Fate::Forwarding,
            _ => Fate::Passes,
        },
        // Set anew where it is what it may be.
        [b'e', ..] if name == "expect" => Fate::HopByHop,
        [b'f', ..] => match name {
            "forwarded" | "forwarded-for" | "fastly-client-ip" | "front-end-https" => Fate::Forwarding,
            _ => Fate::Passes,
        },
        [b'h', ..] if name == "http2-settings" => Fate::HopByHop,
        [b'k', ..] if name == "keep-alive" => Fate::HopByHop,
        [b'p', ..] => match name {
            "proxy-connection" | "proxy-authenticate" | "proxy-authorization" => Fate::HopByHop,
            // CGI makes HTTP_PROXY of it, which HTTP clients of the backend obey.
            "proxy" => Fate::NeverSent,
            // Where there is no Authorization, Symfony makes one of these (ServerBag).
            "php-auth-user" | "php-auth-pw" | "php-auth-digest" => Fate::NeverSent,
            _ => Fate::Passes,
        },
        // Authelia's and its like: who an authenticating proxy found the user to be.
        [b'r', ..] => match name {
            "remote-user" | "remote-groups" | "remote-name" | "remote-email" => Fate::Forwarding,
            _ => Fate::Passes,
        },
        // ingress-nginx's: whom a client's certificate is for.
        [b's', ..] if name.starts_with("ssl-client-") => Fate::Forwarding,
        [b't', ..] => match name {
            "te" | "transfer-encoding" => Fate::HopByHop,
            "true-client-ip" => Fate::Forwarding,
            _ => Fate::Passes,
        },
        [b'u', ..] if name == "upgrade" => Fate::HopByHop,
        _ => Fate::Passes,
    }
}

/// Of what follows `x-`.
fn fate_of_extension(name: &str) -> Fate {
    match name.as_bytes() {
        // With X-Sendfile-Type, Symfony takes from it what path nginx is to serve (BinaryFileResponse).
        [b'a', ..] if name.starts_with("accel-") => Fate::NeverSent,
        // oauth2-proxy's.
        [b'a', ..] if name.starts_with("auth-request-") => Fate::Forwarding,
        [b'c', ..] if matches!(name, "client-ip" | "cluster-client-ip") => Fate::Forwarding,
        // They also tell a mesh's proxy behind us where to route and how long to wait.
        [b'e', ..] if name.starts_with("envoy-") => Fate::Forwarding,
        [b'f', ..] => match name {
            // What was asked for is what the request line says.
            "forwarded-prefix" | "forwarded-uri" | "forwarded-path" | "forwarded-method" => Fate::NeverSent,
            // X-Forwarded alone is one as well.
            _ if name.starts_with("forwarded") => Fate::Forwarding,
            _ => Fate::Passes,
        },
        [b'h', ..] => match name {
            // Symfony reads the first of them alone, other frameworks the others.
            "http-method-override" | "http-method" => Fate::NeverSent,
            "host" | "http-host-override" => Fate::NeverSent,
            _ => Fate::Passes,
        },
        [b'm', ..] if name == "method-override" => Fate::NeverSent,
        // X-Original-URL of IIS, which Symfony once obeyed (CVE-2018-14773); -URI, -Method, -Host of nginx.
        [b'o', ..] if name.starts_with("original-") => Fate::NeverSent,
        [b'o', ..] if name == "originating-ip" => Fate::Forwarding,
        [b'r', ..] => match name {
            "rewrite-url" => Fate::NeverSent,
            "real-ip" | "request-id" => Fate::Forwarding,
            // X-Remote-IP and -Addr; X-Remote-User and -Group, as of Kubernetes.
            _ if name.starts_with("remote-") => Fate::Forwarding,
            _ => Fate::Passes,
        },
        [b's', ..] => match name {
            "sendfile-type" => Fate::NeverSent,
            "scheme" => Fate::Forwarding,
            _ if name.starts_with("ssl-") => Fate::Forwarding,
            _ => Fate::Passes,
        },
        // What the gateway itself says of a token, switched on or not.
        [b't', ..] if matches!(name, "token-id" | "token-name" | "token-abilities") => Fate::NeverSent,
        [b'u', ..] if name == "url-scheme" => Fate::Forwarding,
        [b'w', ..] if name == "workspace-id" => Fate::NeverSent,
        _ => Fate::Passes,
    }
}
