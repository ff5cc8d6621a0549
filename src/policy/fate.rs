//! What a field's name means between a client, the proxies and a backend: whether it passes.

use http::HeaderName;
use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES,
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AGE, ALLOW, AUTHORIZATION, CACHE_CONTROL,
    CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, DATE, DNT, ETAG, EXPIRES, FORWARDED, HOST, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LINK, LOCATION, ORIGIN,
    PRAGMA, RANGE, REFERER, REFERRER_POLICY, RETRY_AFTER, SERVER, SET_COOKIE, STRICT_TRANSPORT_SECURITY,
    UPGRADE_INSECURE_REQUESTS, USER_AGENT, VARY, VIA, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS, X_XSS_PROTECTION,
};

use super::claims::is_claim;
use super::singleton::is_singleton;

/// What the gateway does with a field that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// Concerns one connection only (RFC 9110 section 7.6.1).
    HopByHop,
    /// Says for whom, and how received, a proxy forwards the request: passes from trusted peers.
    Forwarding,
    /// [Claims](super::claims) who is calling: passes from trusted peers if `listen.trusted_fields` names it.
    Claim,
    /// Passes from nobody.
    NeverSent,
}

/// Calls a macro with the names of common fields, which all pass. [`HeaderName`] keeps them as numbers.
macro_rules! with_common {
    ($macro:ident) => {
        $macro!(
            ACCEPT,
            ACCEPT_CHARSET,
            ACCEPT_ENCODING,
            ACCEPT_LANGUAGE,
            ACCEPT_RANGES,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_HEADERS,
            ACCESS_CONTROL_REQUEST_METHOD,
            AGE,
            ALLOW,
            AUTHORIZATION,
            CACHE_CONTROL,
            CONTENT_DISPOSITION,
            CONTENT_ENCODING,
            CONTENT_LANGUAGE,
            CONTENT_LENGTH,
            CONTENT_LOCATION,
            CONTENT_RANGE,
            CONTENT_SECURITY_POLICY,
            CONTENT_TYPE,
            COOKIE,
            DATE,
            DNT,
            ETAG,
            EXPIRES,
            HOST,
            IF_MATCH,
            IF_MODIFIED_SINCE,
            IF_NONE_MATCH,
            IF_RANGE,
            IF_UNMODIFIED_SINCE,
            LAST_MODIFIED,
            LINK,
            LOCATION,
            ORIGIN,
            PRAGMA,
            RANGE,
            REFERER,
            REFERRER_POLICY,
            RETRY_AFTER,
            SERVER,
            SET_COOKIE,
            STRICT_TRANSPORT_SECURITY,
            UPGRADE_INSECURE_REQUESTS,
            USER_AGENT,
            VARY,
            VIA,
            WWW_AUTHENTICATE,
            X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
            X_XSS_PROTECTION
        )
    };
}

/// [`fate`] of a field, without a look at its name's bytes if it is a common one.
#[inline]
pub(super) fn fate_of_field(name: &HeaderName) -> Fate {
    macro_rules! is_one_of {
        ($($common:ident),+) => { matches!(*name, $($common)|+) };
    }
    if with_common!(is_one_of) { Fate::Passes } else { fate(name.as_str()) }
}

/// `name` is in lower case, as [`HeaderName`] keeps it.
///
/// CGI makes one variable of `X-User` and `X_User`, PHP of `X.User` too, and lighttpd of all names that differ
/// in no letter or digit. So a name with an underscore is dropped, and a name with another odd character is dropped
/// if the name that it folds into means something here.
pub(super) fn fate(name: &str) -> Fate {
    if !is_odd(name) {
        return fate_of(name);
    }
    if name.contains('_') {
        return Fate::NeverSent;
    }
    let folded = folded(name);
    // A second spelling of a field that has one line would be a second line behind the gateway.
    let means_something = fate_of(&folded) != Fate::Passes || is_kept(&folded) || is_singleton(&folded);
    if means_something { Fate::NeverSent } else { Fate::Passes }
}

/// Whether a name has a character that is neither a letter nor a digit nor `-`.
pub(super) fn is_odd(name: &str) -> bool {
    // Without a branch for each byte: this is done to every name of every message.
    name.bytes().fold(false, |odd, byte| odd | ODD[usize::from(byte)])
}

/// A name as backends that fold see it, its words separated by `-`.
pub(super) fn folded(name: &str) -> String {
    name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect()
}

/// Whether a backend takes both names for one, as PHP and lighttpd do.
pub(super) fn fold_alike(one: &str, other: &str) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| fold(one) == fold(other))
}

/// Whether `Connection` cannot name the field away: fields that identify the caller or the target, that make a
/// preflight, that frame the body, and that the gateway sets.
pub(super) fn is_kept(name: &str) -> bool {
    [AUTHORIZATION, HOST, ORIGIN, CONTENT_LENGTH, COOKIE, VIA, FORWARDED]
        .iter()
        .any(|it: &HeaderName| it == name)
        || name.starts_with("content-")
        || name.starts_with("access-control-")
        || matches!(fate_of(name), Fate::Forwarding | Fate::Claim | Fate::NeverSent)
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
    match special(name) {
        Fate::Passes if is_claim(name) => Fate::Claim,
        fate => fate,
    }
}

/// What a name means to the gateway itself, or to what routes and frames requests.
fn special(name: &str) -> Fate {
    match name.as_bytes() {
        [b'x', b'-', ..] => special_extension(&name[2..]),
        [b'c', ..] if name == "connection" => Fate::HopByHop,
        // The gateway sets it again if it may be sent.
        [b'e', ..] if name == "expect" => Fate::HopByHop,
        [b'f', ..] if name == "forwarded" => Fate::Forwarding,
        [b'h', ..] if name == "http2-settings" => Fate::HopByHop,
        [b'k', ..] if name == "keep-alive" => Fate::HopByHop,
        [b'p', ..] => match name {
            "proxy-connection" | "proxy-authenticate" | "proxy-authorization" => Fate::HopByHop,
            // CGI makes HTTP_PROXY of it, which HTTP clients of the backend obey.
            "proxy" => Fate::NeverSent,
            // Symfony makes an Authorization field of these if there is none (ServerBag).
            "php-auth-user" | "php-auth-pw" | "php-auth-digest" => Fate::NeverSent,
            _ => Fate::Passes,
        },
        [b't', ..] if matches!(name, "te" | "transfer-encoding") => Fate::HopByHop,
        [b'u', ..] if name == "upgrade" => Fate::HopByHop,
        _ => Fate::Passes,
    }
}

/// As [`special`], of what follows `x-`.
fn special_extension(name: &str) -> Fate {
    match name.as_bytes() {
        // With X-Sendfile-Type, Symfony takes from it what path nginx is to serve (BinaryFileResponse).
        [b'a', ..] if name.starts_with("accel-") => Fate::NeverSent,
        [b'f', ..] => match name.strip_prefix("forwarded") {
            None => Fate::Passes,
            Some(
                "" | "-for" | "-proto" | "-protocol" | "-host" | "-port" | "-server" | "-scheme" | "-ssl"
                | "-by",
            ) => Fate::Forwarding,
            // The request line says what the client requested.
            Some("-prefix" | "-uri" | "-path" | "-method") => Fate::NeverSent,
            // X-Forwarded-User, -Email, -Groups, -Client-Cert, -Access-Token: all others may say who is calling.
            Some(_) => Fate::Claim,
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
        [b'r', ..] => match name {
            "rewrite-url" => Fate::NeverSent,
            "real-ip" | "request-id" => Fate::Forwarding,
            _ => Fate::Passes,
        },
        [b's', ..] if name == "sendfile-type" => Fate::NeverSent,
        // What the gateway itself says about a token, enabled or not.
        [b't', ..] if matches!(name, "token-id" | "token-name" | "token-abilities") => Fate::NeverSent,
        [b'w', ..] if name == "workspace-id" => Fate::NeverSent,
        _ => Fate::Passes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_fields_pass() {
        macro_rules! check {
            ($($common:ident),+) => {
                for name in [$($common),+] {
                    assert_eq!(fate(name.as_str()), Fate::Passes, "{name}");
                }
            };
        }
        with_common!(check);
    }
}
