//! The target of a request: its method, authority, path and query.

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::path::CanonicalPath;
use super::refusal::Refusal;

/// The supported methods, in the order of listings.
pub const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Represents every unsupported method; `other` in logs and metrics.
pub const OTHER: Method = Method::CONNECT;

/// The index of a method in [`METHODS`]; `None` if it is not supported. Methods are case-sensitive.
pub fn method_number(method: &Method) -> Option<usize> {
    METHODS.iter().position(|served| served == method)
}

/// The target of a request that every parser reads in the same way.
#[derive(Debug)]
pub struct Target<'a> {
    /// The canonical path.
    pub path: CanonicalPath<'a>,
    /// The query as sent, without its `?`.
    pub query: Option<&'a str>,
    /// The Host field. The authority of an absolute target equals it.
    pub host: &'a HeaderValue,
}

impl<'a> Target<'a> {
    /// Reads the target of an HTTP/1 request (RFC 9112 section 3.2).
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for an unsupported method; for no Host, several or a malformed one; for an absolute target
    /// with an authority other than Host; for an authority alone, or `*` without OPTIONS; for a path that has
    /// [no canonical form](CanonicalPath::new).
    pub fn read(method: &Method, uri: &'a Uri, fields: &'a HeaderMap) -> Result<Self, Refusal> {
        let host = host(fields)?;
        check_authority(uri, host)?;
        Ok(Self { path: read_path(method, uri.path())?, query: uri.query(), host })
    }
}

impl Target<'_> {
    /// The target as an https URL with the default port, for redirects from plain HTTP.
    pub fn by_https(&self) -> String {
        let host = split_authority(self.host.as_bytes()).map_or(&[][..], |(host, _)| host);
        // Not lossy: the host is ASCII.
        let mut url = format!("https://{}", String::from_utf8_lossy(host));
        url.push_str(if self.path.is_asterisk() { "/" } else { self.path.as_str() });
        if let Some(query) = self.query {
            url.push('?');
            url.push_str(query);
        }
        url
    }
}

/// Checks that an absolute target has the authority of the Host field.
pub(super) fn check_authority(uri: &Uri, host: &HeaderValue) -> Result<(), Refusal> {
    match (uri.scheme(), uri.authority()) {
        (None, None) => Ok(()),
        (Some(scheme), Some(authority)) => {
            let default_port = default_port(scheme)?;
            let named = split_authority(authority.as_str().as_bytes()).ok_or(MALFORMED_AUTHORITY)?;
            let sent = split_authority(host.as_bytes()).ok_or(MALFORMED_HOST)?;
            if !named.0.eq_ignore_ascii_case(sent.0)
                || named.1.unwrap_or(default_port) != sent.1.unwrap_or(default_port)
            {
                return Err(Refusal::BadRequest("target and Host name different authorities"));
            }
            Ok(())
        }
        _ => Err(Refusal::BadRequest("authority as a target")),
    }
}

/// The canonical path of a request. `raw` is the target without its query.
///
/// # Errors
/// [`Refusal::BadRequest`] for an unsupported method, `*` without OPTIONS, or a path without a canonical form.
pub fn read_path<'a>(method: &Method, raw: &'a str) -> Result<CanonicalPath<'a>, Refusal> {
    if method_number(method).is_none() {
        return Err(Refusal::BadRequest("method that is not served"));
    }
    if raw == "*" && *method == Method::OPTIONS {
        Ok(CanonicalPath::asterisk())
    } else {
        CanonicalPath::new(raw)
    }
}

/// Adds the missing Host of an HTTP/1.0 request: the authority of its target, or else `default`.
///
/// HTTP/1.0 has no such field, and RFC 9112 section 3.2 requires its refusal in HTTP/1.1 only. Health checks of load
/// balancers lack it.
pub fn add_missing_host(uri: &Uri, fields: &mut HeaderMap, default: &HeaderValue) {
    if !fields.contains_key(HOST) {
        let named = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        fields.insert(HOST, named.unwrap_or_else(|| default.clone()));
    }
}

/// The Host without the `:` of an empty port; `None` if it has no empty port.
pub(super) fn without_empty_port(host: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(host.as_bytes().strip_suffix(b":")?).ok()
}

pub(super) const MALFORMED_AUTHORITY: Refusal = Refusal::BadRequest("malformed authority in the target");
const MALFORMED_HOST: Refusal = Refusal::BadRequest("malformed Host");

/// The Host field (RFC 9112 section 3.2).
///
/// # Errors
/// If it is missing, repeated or malformed.
pub(super) fn host(fields: &HeaderMap) -> Result<&HeaderValue, Refusal> {
    let mut values = fields.get_all(HOST).iter();
    let host = values.next().ok_or(Refusal::BadRequest("no Host"))?;
    if values.next().is_some() {
        return Err(Refusal::BadRequest("several Host fields"));
    }
    split_authority(host.as_bytes()).map(|_| host).ok_or(MALFORMED_HOST)
}

fn default_port(scheme: &Scheme) -> Result<u16, Refusal> {
    match scheme.as_str() {
        "http" => Ok(80),
        "https" => Ok(443),
        _ => Err(Refusal::BadRequest("scheme that is not served")),
    }
}

/// Splits an authority into host and port. Stricter than RFC 3986: names of letters, digits, `-`, `.` and `_`, IPv4
/// addresses, IPv6 addresses in brackets; no user, no `%XX`. An empty port counts as none (RFC 3986 section 3.2.3).
fn split_authority(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let length = if authority.first() == Some(&b'[') {
        let end = authority.iter().position(|&byte| byte == b']')?;
        let is_address = |&byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        let address = &authority[1..end];
        if address.is_empty() || !address.iter().all(is_address) {
            return None;
        }
        end + 1
    } else {
        let is_name = |&byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        authority.iter().position(|byte| !is_name(byte)).unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(length);
    let port = match port {
        [] | [b':'] => None,
        [b':', digits @ ..] => Some(port_number(digits)?),
        _ => return None,
    };
    (!host.is_empty()).then_some((host, port))
}

fn port_number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 {
        return None;
    }
    let number = digits.iter().try_fold(0u32, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0'))
    })?;
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_url_keeps_the_target_and_drops_the_port() {
        for (target, host, expected) in [
            ("/", "a.example", "https://a.example/"),
            ("/api/v2/items?a=%2F&b", "A.example:8080", "https://A.example/api/v2/items?a=%2F&b"),
            ("/%7Ea/", "[::1]:80", "https://[::1]/~a"),
            ("/", "a.example:", "https://a.example/"),
            ("http://a.example/x", "a.example", "https://a.example/x"),
            ("//evil.example/x", "a.example", ""),
            ("/a", "a.example@evil.example", ""),
        ] {
            let uri: Uri = target.parse().unwrap();
            let fields = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            let read = Target::read(&Method::GET, &uri, &fields);
            assert_eq!(read.map_or(String::new(), |target| target.by_https()), expected, "{target} {host}");
        }
    }

    #[test]
    fn missing_host_is_taken_from_the_target_or_the_default() {
        for (target, sent, expected) in [
            ("/up", None, "backend:8000"),
            ("*", None, "backend:8000"),
            ("http://h:81/up", None, "h:81"),
            ("/up", Some("a"), "a"),
            ("http://h/up", Some("a"), "a"),
            ("/up", Some(""), ""),
        ] {
            let mut fields: HeaderMap =
                sent.into_iter().map(|host| (HOST, HeaderValue::from_static(host))).collect();
            add_missing_host(
                &target.parse().unwrap(),
                &mut fields,
                &HeaderValue::from_static("backend:8000"),
            );
            assert_eq!(fields.get_all(HOST).iter().collect::<Vec<_>>(), [expected], "{target} {sent:?}");
        }
    }

    /// The path and the query, or the refusal.
    fn read(method: &str, target: &str, hosts: &[&str]) -> Result<(String, Option<String>), Refusal> {
        let uri: Uri = target.parse().unwrap();
        let fields: HeaderMap =
            hosts.iter().map(|host| (HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap())).collect();
        let target = Target::read(&method.parse().unwrap(), &uri, &fields)?;
        Ok((target.path.as_str().to_owned(), target.query.map(str::to_owned)))
    }

    #[test]
    fn valid_targets_are_read() {
        for (method, target, host, path, query) in [
            ("GET", "/", "h", "/", None),
            ("GET", "/a/", "h", "/a", None),
            ("HEAD", "/a?", "h", "/a", Some("")),
            (
                "GET",
                "/a?filter[name]=x&b=%2F%2e%zz//..;\\",
                "h",
                "/a",
                Some("filter[name]=x&b=%2F%2e%zz//..;\\"),
            ),
            ("POST", "/a??b", "h", "/a", Some("?b")),
            ("PUT", "http://h/a", "h", "/a", None),
            ("PATCH", "http://h", "h", "/", None),
            ("DELETE", "HTTP://H:80/%61?b", "h", "/a", Some("b")),
            ("GET", "http://h/a", "H:80", "/a", None),
            ("GET", "https://h/a", "h:443", "/a", None),
            ("GET", "https://h:443/a", "h", "/a", None),
            ("GET", "http://h:8080/a", "h:8080", "/a", None),
            ("GET", "http://[::1]:8080/a", "[::1]:8080", "/a", None),
            ("GET", "/a", "h:", "/a", None),
            ("GET", "/a", "[::1]:", "/a", None),
            ("GET", "http://h:/a", "h", "/a", None),
            ("GET", "http://h/a", "h:", "/a", None),
            ("GET", "http://h:80/a", "h:", "/a", None),
            ("OPTIONS", "/", "h", "/", None),
            ("OPTIONS", "*", "h", "*", None),
            ("GET", "/a", "app.stockaj.com", "/a", None),
            ("GET", "/a", "127.0.0.1:8080", "/a", None),
            ("GET", "/a", "[2001:db8::1]", "/a", None),
            ("GET", "/a", "my_service:65535", "/a", None),
        ] {
            let expected = Ok((path.to_owned(), query.map(str::to_owned)));
            assert_eq!(read(method, target, &[host]), expected, "{method} {target} of {host}");
        }
    }

    #[test]
    fn ambiguous_targets_are_refused() {
        for (why, method, target, hosts) in [
            ("method that is not served", "TRACE", "/", &["h"][..]),
            ("method that is not served", "CONNECT", "/", &["h"]),
            ("method that is not served", "get", "/", &["h"]),
            ("method that is not served", "GETS", "/", &["h"]),
            ("method that is not served", "PROPFIND", "/", &["h"]),
            ("no Host", "GET", "/", &[]),
            ("no Host", "GET", "http://h/", &[]),
            ("several Host fields", "GET", "/", &["h", "h"]),
            ("several Host fields", "GET", "/", &["h", "i"]),
            ("malformed Host", "GET", "/", &[""]),
            ("malformed Host", "GET", "/", &["h::"]),
            ("malformed Host", "GET", "/", &[":"]),
            ("target and Host name different authorities", "GET", "http://h:/", &["h:81"]),
            ("malformed Host", "GET", "/", &[":80"]),
            ("malformed Host", "GET", "/", &["h:80x"]),
            ("malformed Host", "GET", "/", &["h:65536"]),
            ("malformed Host", "GET", "/", &["h:000080"]),
            ("malformed Host", "GET", "/", &["h:+80"]),
            ("malformed Host", "GET", "/", &["h:80:80"]),
            ("malformed Host", "GET", "/", &["u@h"]),
            ("malformed Host", "GET", "/", &["h/a"]),
            ("malformed Host", "GET", "/", &["h, i"]),
            ("malformed Host", "GET", "/", &["h i"]),
            ("malformed Host", "GET", "/", &["h%2e"]),
            ("malformed Host", "GET", "/", &["é"]),
            ("malformed Host", "GET", "/", &["::1"]),
            ("malformed Host", "GET", "/", &["[::1"]),
            ("malformed Host", "GET", "/", &["[]"]),
            ("malformed Host", "GET", "/", &["[::1]x"]),
            ("malformed Host", "GET", "/", &["[h]"]),
            ("target and Host name different authorities", "GET", "http://h/", &["i"]),
            ("target and Host name different authorities", "GET", "http://h/", &["h:443"]),
            ("target and Host name different authorities", "GET", "https://h/", &["h:80"]),
            ("target and Host name different authorities", "GET", "http://h:81/", &["h"]),
            ("target and Host name different authorities", "GET", "http://h./", &["h"]),
            ("malformed authority in the target", "GET", "http://u@h/", &["h"]),
            ("malformed authority in the target", "GET", "http://h@i/", &["i"]),
            ("scheme that is not served", "GET", "ftp://h/", &["h"]),
            ("authority as a target", "GET", "h:80", &["h:80"]),
            ("authority as a target", "OPTIONS", "h", &["h"]),
            ("path does not begin with a slash", "GET", "*", &["h"]),
            ("dot segment in the path", "GET", "http://h/../a", &["h"]),
            ("empty segment in the path", "GET", "//h/a", &["h"]),
        ] {
            assert_eq!(
                read(method, target, hosts),
                Err(Refusal::BadRequest(why)),
                "{method} {target} of {hosts:?}"
            );
        }
    }
}
