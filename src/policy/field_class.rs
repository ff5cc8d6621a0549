//! Classifies the fields of clients by name: which pass, which are dropped, and which only trusted proxies may set.

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

/// The gateway's treatment of a client's field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldClass {
    /// Forwarded.
    Passes,
    /// Concerns one connection only (RFC 9110 section 7.6.1).
    HopByHop,
    /// Describes the client and its connection to a proxy. Forwarded from trusted peers.
    Forwarding,
    /// An [identity field](super::claims). Forwarded from trusted peers if `listen.trusted_fields` lists it.
    Claim,
    /// Always dropped.
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

/// Classifies a field. Compares no bytes if the name is a common one.
#[inline]
pub(super) fn classify_field(name: &HeaderName) -> FieldClass {
    macro_rules! is_one_of {
        ($($common:ident),+) => { matches!(*name, $($common)|+) };
    }
    if with_common!(is_one_of) { FieldClass::Passes } else { classify(name.as_str()) }
}

/// Classifies a name in lower case, as [`HeaderName`] stores it.
///
/// CGI maps `X-User` and `X_User` to one variable, PHP also `X.User`, and lighttpd all names that have the same letters
/// and digits. So the gateway drops names with an underscore, and names with another odd character if the folded name is
/// not an ordinary one.
pub(super) fn classify(name: &str) -> FieldClass {
    if !is_odd(name) {
        return classify_plain(name);
    }
    if name.contains('_') {
        return FieldClass::NeverSent;
    }
    let folded = folded(name);
    // For the backend, another spelling of a singleton field would be a second line of it.
    let is_special =
        classify_plain(&folded) != FieldClass::Passes || is_kept(&folded) || is_singleton(&folded);
    if is_special { FieldClass::NeverSent } else { FieldClass::Passes }
}

/// Whether a name has a character that is neither a letter nor a digit nor `-`.
pub(super) fn is_odd(name: &str) -> bool {
    // Without a branch per byte: this runs for every field of every message.
    name.bytes().fold(false, |odd, byte| odd | ODD[usize::from(byte)])
}

/// The name after folding by a backend, with `-` between words.
pub(super) fn folded(name: &str) -> String {
    name.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' }).collect()
}

/// Whether a backend such as PHP or lighttpd may read both names as one.
pub(super) fn fold_alike(one: &str, other: &str) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| fold(one) == fold(other))
}

/// Whether `Connection` cannot remove the field: fields that identify the caller or the target, that belong to a
/// preflight, that frame the body, and that the gateway sets.
pub(super) fn is_kept(name: &str) -> bool {
    [AUTHORIZATION, HOST, ORIGIN, CONTENT_LENGTH, COOKIE, VIA, FORWARDED]
        .iter()
        .any(|it: &HeaderName| it == name)
        || name.starts_with("content-")
        || name.starts_with("access-control-")
        || matches!(classify_plain(name), FieldClass::Forwarding | FieldClass::Claim | FieldClass::NeverSent)
}

/// All bytes except letters, digits and `-`.
const ODD: [bool; 256] = {
    let mut odd = [true; 256];
    let mut byte = 0;
    while byte < 256 {
        odd[byte] = !((byte as u8).is_ascii_alphanumeric() || byte as u8 == b'-');
        byte += 1;
    }
    odd
};

/// Classifies a name without odd characters.
fn classify_plain(name: &str) -> FieldClass {
    match special(name) {
        FieldClass::Passes if is_claim(name) => FieldClass::Claim,
        class => class,
    }
}

/// Classifies the names that concern the gateway, or the routing and framing of requests.
fn special(name: &str) -> FieldClass {
    match name.as_bytes() {
        [b'x', b'-', ..] => special_extension(&name[2..]),
        [b'c', ..] if name == "connection" => FieldClass::HopByHop,
        // The gateway sets it again if the client waits for 100 (Continue).
        [b'e', ..] if name == "expect" => FieldClass::HopByHop,
        [b'f', ..] if name == "forwarded" => FieldClass::Forwarding,
        [b'h', ..] if name == "http2-settings" => FieldClass::HopByHop,
        [b'k', ..] if name == "keep-alive" => FieldClass::HopByHop,
        [b'p', ..] => match name {
            "proxy-connection" | "proxy-authenticate" | "proxy-authorization" => FieldClass::HopByHop,
            // CGI maps it to HTTP_PROXY, which HTTP clients in the backend obey.
            "proxy" => FieldClass::NeverSent,
            // Symfony derives a missing Authorization field from these (ServerBag).
            "php-auth-user" | "php-auth-pw" | "php-auth-digest" => FieldClass::NeverSent,
            _ => FieldClass::Passes,
        },
        [b't', ..] if matches!(name, "te" | "transfer-encoding") => FieldClass::HopByHop,
        [b'u', ..] if name == "upgrade" => FieldClass::HopByHop,
        _ => FieldClass::Passes,
    }
}

/// The same as [`special`] for the part of a name after `x-`.
fn special_extension(name: &str) -> FieldClass {
    match name.as_bytes() {
        // With X-Sendfile-Type, Symfony derives from it the path that nginx serves (BinaryFileResponse).
        [b'a', ..] if name.starts_with("accel-") => FieldClass::NeverSent,
        [b'f', ..] => match name.strip_prefix("forwarded") {
            None => FieldClass::Passes,
            Some(
                "" | "-for" | "-proto" | "-protocol" | "-host" | "-port" | "-server" | "-scheme" | "-ssl"
                | "-by",
            ) => FieldClass::Forwarding,
            // They would contradict the request line.
            Some("-prefix" | "-uri" | "-path" | "-method") => FieldClass::NeverSent,
            // All others may identify the caller: X-Forwarded-User, -Email, -Groups, -Client-Cert, -Access-Token.
            Some(_) => FieldClass::Claim,
        },
        [b'h', ..] => match name {
            // Symfony reads only the first of these, other frameworks the others.
            "http-method-override" | "http-method" => FieldClass::NeverSent,
            "host" | "http-host-override" => FieldClass::NeverSent,
            _ => FieldClass::Passes,
        },
        [b'm', ..] if name == "method-override" => FieldClass::NeverSent,
        // X-Original-URL of IIS, which Symfony once obeyed (CVE-2018-14773); -URI, -Method, -Host of nginx.
        [b'o', ..] if name.starts_with("original-") => FieldClass::NeverSent,
        [b'r', ..] => match name {
            "rewrite-url" => FieldClass::NeverSent,
            "real-ip" | "request-id" => FieldClass::Forwarding,
            _ => FieldClass::Passes,
        },
        [b's', ..] if name == "sendfile-type" => FieldClass::NeverSent,
        // The gateway's own identity headers, also if they are not configured.
        [b't', ..] if matches!(name, "token-id" | "token-name" | "token-abilities") => FieldClass::NeverSent,
        [b'w', ..] if name == "workspace-id" => FieldClass::NeverSent,
        _ => FieldClass::Passes,
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
                    assert_eq!(classify(name.as_str()), FieldClass::Passes, "{name}");
                }
            };
        }
        with_common!(check);
    }
}
