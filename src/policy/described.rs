//! Requests that a proxy describes in order to ask for a decision.
//!
//! A description becomes the head of the described request, in the form of an HTTP/1.1 or HTTP/2 head. All later code
//! reads it in the same way as the head of a client's own request.

use http::header::{CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::field_class::{FieldClass, is_odd};
use super::framing::{self, Bounds};
use super::headers::{X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::path::CanonicalPath;
use super::refusal::Refusal;
use super::target::MALFORMED_AUTHORITY;
use super::trusted_fields::TrustedFields;

/// The path of the method `Check` of Envoy's gRPC service.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The path of that service, before the name of a method.
pub const AUTHORIZATION_SERVICE: &str = "/envoy.service.auth.v3.Authorization/";

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");

/// `decision.style`: how a proxy describes a request over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptionStyle {
    /// By X-Forwarded-Method, -Uri, -Host and -Proto, or by X-Original-Method and X-Original-URI.
    Forwarded,
    /// By the method of the proxy's own request and the target below this prefix.
    PathPrefix(Box<str>),
}

/// Why there is no described request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptionError {
    /// The description is incomplete or ambiguous, which is a fault of the proxy's configuration. Names the field.
    Incomplete(&'static str),
    /// The described request is refused.
    Refused(Refusal),
}

impl From<Refusal> for DescriptionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<DescriptionError> for Refusal {
    fn from(error: DescriptionError) -> Self {
        match error {
            DescriptionError::Incomplete(why) => Self::BadRequest(why),
            DescriptionError::Refused(refusal) => refusal,
        }
    }
}

/// Whether `text` can be `decision.path_prefix`: canonical, not `/`, and of unreserved characters only. No described
/// request may have the path of the gRPC service, whose answers have status 200 also if they allow nothing.
pub fn is_path_prefix(text: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~');
    let is_service = || format!("{text}/").starts_with(AUTHORIZATION_SERVICE);
    text.len() > 1
        && text.bytes().all(is_plain)
        && CanonicalPath::new(text).is_ok_and(|path| path.is_borrowed())
        && !is_service()
}

/// Turns the head of a proxy's request, in the form of HTTP/1.1, into that of the request that it describes.
///
/// # Errors
/// [`DescriptionError`]. The head is then unchanged.
pub fn describe(head: &mut Parts, style: &DescriptionStyle, bounds: &Bounds) -> Result<(), DescriptionError> {
    match style {
        DescriptionStyle::Forwarded => describe_by_fields(head, bounds),
        DescriptionStyle::PathPrefix(prefix) => {
            let target = head.uri.path_and_query().filter(|_| head.uri.authority().is_none());
            let below = target.and_then(|target| target.as_str().strip_prefix(&**prefix));
            let below = below.filter(|below| below.starts_with('/'));
            let below = below.ok_or(DescriptionError::Incomplete("no path below decision.path_prefix"))?;
            required_host(&head.headers)?;
            head.uri = origin_form(below.as_bytes(), bounds)?;
            Ok(())
        }
    }
}

fn describe_by_fields(head: &mut Parts, bounds: &Bounds) -> Result<(), DescriptionError> {
    let fields = &head.headers;
    let has = |name: &HeaderName| fields.contains_key(name);
    let is_forwarded = has(&X_FORWARDED_METHOD) || has(&X_FORWARDED_URI);
    let is_original = has(&X_ORIGINAL_METHOD) || has(&X_ORIGINAL_URI);
    let (method, target, host) = match (is_forwarded, is_original) {
        (true, false) => {
            let method = required(
                fields,
                &X_FORWARDED_METHOD,
                "no X-Forwarded-Method",
                "several X-Forwarded-Method fields",
            )?;
            let target =
                required(fields, &X_FORWARDED_URI, "no X-Forwarded-Uri", "several X-Forwarded-Uri fields")?;
            let host = required(
                fields,
                &X_FORWARDED_HOST,
                "no X-Forwarded-Host",
                "several X-Forwarded-Host fields",
            )?;
            required(fields, &X_FORWARDED_PROTO, "no X-Forwarded-Proto", "several X-Forwarded-Proto fields")?;
            (method, target, Some(host.clone()))
        }
        (false, true) => {
            let method = required(
                fields,
                &X_ORIGINAL_METHOD,
                "no X-Original-Method",
                "several X-Original-Method fields",
            )?;
            let target =
                required(fields, &X_ORIGINAL_URI, "no X-Original-URI", "several X-Original-URI fields")?;
            required_host(fields)?;
            (method, target, None)
        }
        (true, true) => {
            return Err(DescriptionError::Incomplete(
                "both X-Forwarded-Method or -Uri and X-Original-Method or -URI",
            ));
        }
        (false, false) => {
            return Err(DescriptionError::Incomplete(
                "neither X-Forwarded-Method and X-Forwarded-Uri nor X-Original-Method and X-Original-URI",
            ));
        }
    };
    let (method, uri) = (read_method(method.as_bytes())?, origin_form(target.as_bytes(), bounds)?);
    (head.method, head.uri) = (method, uri);
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    Ok(())
}

/// Refuses names that a backend may read as those of other fields, such as `X_Token_Id` and `X.Token.Id`.
///
/// The gateway drops them from requests that it forwards itself. A proxy that describes requests by fields forwards
/// them: it removes fields by name, and every name has many such spellings.
///
/// # Errors
/// [`Refusal::BadRequest`] if there is such a name.
pub fn check_spellings(fields: &HeaderMap, trusted_fields: &TrustedFields) -> Result<(), Refusal> {
    let is_misread =
        |name: &HeaderName| is_odd(name.as_str()) && trusted_fields.classify(name) == FieldClass::NeverSent;
    if fields.keys().any(is_misread) {
        return Err(Refusal::BadRequest("name that a backend may read as that of another field"));
    }
    Ok(())
}

/// The value of a field that a description must have exactly once.
fn required<'a>(
    fields: &'a HeaderMap,
    name: &HeaderName,
    missing: &'static str,
    repeated: &'static str,
) -> Result<&'a HeaderValue, DescriptionError> {
    let mut values = fields.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(DescriptionError::Incomplete(missing)),
        (Some(_), Some(_)) => Err(DescriptionError::Incomplete(repeated)),
    }
}

/// The Host field of a proxy's request, which is that of the described request.
fn required_host(fields: &HeaderMap) -> Result<&HeaderValue, DescriptionError> {
    required(fields, &HOST, "no Host", "several Host fields")
}

fn read_method(name: &[u8]) -> Result<Method, Refusal> {
    Method::from_bytes(name).map_err(|_| Refusal::BadRequest("method that is not served"))
}

/// A target as in a request line: a path with its query, or `*`.
fn origin_form(target: &[u8], bounds: &Bounds) -> Result<Uri, Refusal> {
    read_target(target, bounds).map(Uri::from)
}

fn read_target(target: &[u8], bounds: &Bounds) -> Result<PathAndQuery, Refusal> {
    const NO_PATH: Refusal = Refusal::BadRequest("described target that is no path");
    framing::check_target(target, bounds)?;
    let read = PathAndQuery::try_from(target).map_err(|_| NO_PATH)?;
    // `http` drops a fragment, and replaces an empty target.
    let is_same = read.as_str().as_bytes() == target && matches!(target, [b'/', ..] | b"*");
    if is_same { Ok(read) } else { Err(NO_PATH) }
}

/// The attributes of a request in a `CheckRequest` of Envoy.
#[derive(Clone, Copy, Debug)]
pub struct CheckedRequest<'a> {
    /// `method`
    pub method: &'a str,
    /// `path`, which contains the query.
    pub target: &'a str,
    /// `host`
    pub host: &'a str,
    /// `scheme`
    pub scheme: &'a str,
}

impl CheckedRequest<'_> {
    /// The head of the described request, in the form of HTTP/2. `fields` may contain pseudo-fields. Those of the method, the
    /// target and the host must equal the attributes; others, such as `:scheme`, are not read.
    ///
    /// # Errors
    /// [`DescriptionError::Incomplete`] for a name or a value that no field can have, and for pseudo-fields that differ
    /// from the attributes; [`Refusal::BadRequest`] and [`Refusal::UriTooLong`] for the method and the target.
    pub fn head<T: AsRef<[u8]> + 'static>(
        &self,
        fields: impl Iterator<Item = (T, T)>,
        bounds: &Bounds,
    ) -> Result<Parts, DescriptionError> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = name.as_ref();
            if let [b':', ..] = name {
                self.check_pseudo_field(name, value.as_ref())?;
                continue;
            }
            let name = HeaderName::from_bytes(name)
                .map_err(|_| DescriptionError::Incomplete("malformed name of a field"))?;
            // Shares the memory of `Bytes`.
            let value = HeaderValue::from_maybe_shared(value)
                .map_err(|_| DescriptionError::Incomplete("malformed value of a field"))?;
            let appended = headers.try_append(name, value);
            appended.map_err(|_| DescriptionError::Refused(Refusal::HeaderFieldsTooLarge))?;
        }
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = read_method(self.method.as_bytes())?;
        head.version = Version::HTTP_2;
        head.headers = headers;
        let target = read_target(self.target.as_bytes(), bounds)?;
        let authority = Authority::try_from(self.host).map_err(|_| MALFORMED_AUTHORITY)?;
        let scheme = match self.scheme {
            "https" => Scheme::HTTPS,
            // Old versions of Envoy do not always know it.
            "http" | "" => Scheme::HTTP,
            _ => return Err(Refusal::BadRequest("scheme that is not served").into()),
        };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target);
        head.uri = uri.build().map_err(|_| Refusal::BadRequest("malformed target"))?;
        Ok(head)
    }

    fn check_pseudo_field(&self, name: &[u8], value: &[u8]) -> Result<(), DescriptionError> {
        let expected = match name {
            b":method" => self.method,
            b":path" => self.target,
            b":authority" => self.host,
            _ => return Ok(()),
        };
        if value == expected.as_bytes() {
            Ok(())
        } else {
            Err(DescriptionError::Incomplete("pseudo-field that differs from its attribute"))
        }
    }
}

/// Whether the fields of a described request announce a body.
pub fn announces_body(fields: &HeaderMap) -> bool {
    let has_length = |length: &HeaderValue| length.as_bytes().iter().any(|digit| *digit != b'0');
    fields.contains_key(TRANSFER_ENCODING) || fields.get_all(CONTENT_LENGTH).iter().any(has_length)
}

#[cfg(test)]
mod tests;
