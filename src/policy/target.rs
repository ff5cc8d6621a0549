//! From a request's line and Host field to what is asked for.

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::path::CanonicalPath;
use super::refusal::Refusal;

/// The methods that are served, in the order in which they are listed.
pub const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// The place of a method in [`METHODS`]; none for one that is not served. Byte for byte: `get` is not `GET`.
pub(super) fn method_number(method: &Method) -> Option<usize> {
    METHODS.iter().position(|served| served == method)
}

/// What a request asks for, read in the one way that every parser would.
#[derive(Debug)]
pub struct Target<'a> {
    /// The path, canonical.
    pub path: CanonicalPath<'a>,
    /// The query, byte for byte and without its `?`.
    pub query: Option<&'a str>,
    /// The Host field, which is the authority of an absolute target too.
    pub host: &'a HeaderValue,
}

impl<'a> Target<'a> {
    /// The target of an HTTP/1 request (RFC 9112 section 3.2).
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for a method that is not served; for no Host, several or a malformed one; for an
    /// absolute target with another authority than Host; for an authority alone, or `*` without OPTIONS; for a
    /// path that has [no canonical form](CanonicalPath::new).
    pub fn read(method: &Method, uri: &'a Uri, fields: &'a HeaderMap) -> Result<Self, Refusal> {
        let host = host(fields)?;
        match (uri.scheme(), uri.authority()) {
            (None, None) => {}
            (Some(scheme), Some(authority)) => {
                let default_port = default_port(scheme)?;
                let named = split_authority(authority.as_str().as_bytes())
                    .ok_or(Refusal::BadRequest("malformed authority in the target"))?;
                // Checked when the field was read.
                let sent = split_authority(host.as_bytes()).ok_or(MALFORMED_HOST)?;
                if !named.0.eq_ignore_ascii_case(sent.0)
                    || named.1.unwrap_or(default_port) != sent.1.unwrap_or(default_port)
                {
                    return Err(Refusal::BadRequest("target and Host name different authorities"));
                }
            }
            _ => return Err(Refusal::BadRequest("authority as a target")),
        }
        Ok(Self { path: read_path(method, uri.path())?, query: uri.query(), host })
    }
}

/// The canonical path of a request, of which `raw` is the target without its query.
///
/// # Errors
/// As for [`Target::read`].
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

const MALFORMED_HOST: Refusal = Refusal::BadRequest("malformed Host");

/// The one Host field (RFC 9112 section 3.2), well-formed.
fn host(fields: &HeaderMap) -> Result<&HeaderValue, Refusal> {
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

/// Host and port of an authority. Narrower than RFC 3986: names of letters, digits, `-`, `.` and `_`, IPv4
/// addresses, IPv6 addresses in brackets; no user, no `%XX`, no empty port.
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
        [] => None,
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
