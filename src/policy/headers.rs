//! Header fields: which the gateway forwards, drops and sets.
//!
//! The fields of an upstream request are written in one pass over the client's fields. These are not modified, so that a
//! retried request can be written again. The gateway's own fields follow, and no field of a client can replace them (RFC
//! 9110 section 7.6).

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::expectation;
use super::field_class::{FieldClass, classify_field};
use super::field_values::{members, only, options};
use super::framing::{MAX_CONNECTION_OPTIONS, TOO_MANY_CONNECTION_OPTIONS};
use super::identity::Identity;
use super::joined_lines::joined_line;
use super::refusal::Refusal;
use super::singleton::is_singleton;
use super::target::without_empty_port;
use super::trace_context::{TRACEPARENT, TRACESTATE};
use super::trusted_fields::TrustedFields;
use super::upgrade::WEBSOCKET;

#[cfg(test)]
mod tests;

/// `X-Request-Id`
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-HTTP-Method-Override`
pub const X_HTTP_METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// The longest `X-Request-Id` that the gateway uses or logs, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The properties of a request that determine the gateway's own fields.
#[derive(Debug)]
pub struct Forwarding<'a> {
    /// The method that the client sent.
    pub method: &'a Method,
    /// The method of the decision, which a POST may override.
    pub decided: &'a Method,
    /// The version that the client sent, for `Via`.
    pub version: Version,
    /// The peer's address as text.
    pub client: &'a HeaderValue,
    /// Whether the client's connection is encrypted.
    pub encrypted: bool,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// The identity fields that trusted proxies may set.
    pub trusted_fields: &'a TrustedFields,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The Host of the upstream request; `None` for the client's.
    pub host: Option<&'a HeaderValue>,
    /// The credentials of the upstream request.
    pub credentials: Credentials,
    /// The fields of the request's trace.
    pub trace: Option<TraceFields>,
    /// Whether the body is chunked, since it has no Content-Length.
    pub chunked: bool,
    /// Whether the client waits for 100 (Continue).
    pub expects_continue: bool,
    /// Whether the request is a WebSocket handshake.
    pub upgrades: bool,
}

/// The W3C Trace Context fields that replace the client's.
#[derive(Clone, Debug)]
pub struct TraceFields {
    /// `traceparent`
    pub traceparent: HeaderValue,
    /// Whether the client's `tracestate` is dropped.
    pub drop_tracestate: bool,
}

/// Receives the fields of an upstream request.
pub trait FieldSink {
    /// Adds a field. Fields with the same name must keep their order.
    fn field(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl FieldSink for HeaderMap {
    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }
}

/// The credentials of an upstream request.
#[derive(Debug)]
pub enum Credentials {
    /// On a `public` route: Authorization and Cookie are forwarded unchanged.
    AsSent,
    /// The authorised token.
    Token {
        /// [The forwarded field](super::bearer::Token::authorization).
        authorization: HeaderValue,
        /// The identity headers, if configured.
        identity: Option<Identity>,
        /// Whether the client's cookies are forwarded. A backend may prefer a session to a token.
        cookies: bool,
    },
    /// An unauthenticated request that shadow mode forwards: Authorization is forwarded unchanged.
    Unauthenticated {
        /// Whether the client's cookies are forwarded.
        cookies: bool,
    },
    /// Neither Authorization nor Cookie is forwarded.
    None,
}

/// Reports fields that were dropped because of the peer that sent them.
#[derive(Debug, Default)]
pub struct Dropped {
    /// An untrusted peer sent a forwarding or identity field.
    pub untrusted: bool,
    /// A trusted peer sent this identity field, which `listen.trusted_fields` does not list.
    pub unlisted: Option<HeaderName>,
}

/// The fields of an upstream request.
#[derive(Debug)]
pub struct UpstreamFields<'a> {
    fields: &'a HeaderMap,
    forwarding: Forwarding<'a>,
    /// The fields that Connection names and can remove.
    named: Vec<HeaderName>,
}

impl<'a> UpstreamFields<'a> {
    /// The upstream fields for the client's `fields`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] if Connection names too many fields.
    pub fn new(fields: &'a HeaderMap, forwarding: Forwarding<'a>) -> Result<Self, Refusal> {
        let mut named = Vec::new();
        if fields.contains_key(CONNECTION) {
            name_options(fields, forwarding.trusted_fields, &mut named).map_err(Refusal::BadRequest)?;
        }
        Ok(Self { fields, forwarding, named })
    }

    /// Writes the fields to `sink`.
    pub fn write(&self, sink: &mut impl FieldSink) -> Dropped {
        let Forwarding { trusted, trusted_fields, credentials, .. } = &self.forwarding;
        let mut dropped = Dropped::default();
        let mut kept = ClientFields::default();
        let mut wants_trailers = false;
        let repeats = self.fields.len() != self.fields.keys_len();
        let (passes_authorization, passes_cookie) = credentials.pass();
        for (name, value) in self.fields {
            match trusted_fields.classify(name) {
                FieldClass::HopByHop => {
                    wants_trailers |=
                        *name == TE && members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                }
                _ if !self.named.is_empty() && self.named.contains(name) => {}
                FieldClass::Passes => {
                    let passes = match *name {
                        AUTHORIZATION => passes_authorization,
                        COOKIE => passes_cookie,
                        HOST => {
                            kept.host = without_empty_port(value).or_else(|| Some(value.clone()));
                            false
                        }
                        _ => !self.is_traced(name),
                    };
                    if !passes {
                        continue;
                    }
                    self.write_line(name, value, repeats, sink);
                }
                FieldClass::Forwarding if *trusted => {
                    if *name == X_FORWARDED_FOR {
                        kept.chain.get_or_insert_default().push(value.as_bytes());
                    } else if *name != X_REQUEST_ID {
                        kept.proto |= *name == X_FORWARDED_PROTO;
                        kept.forwarded_host |= *name == X_FORWARDED_HOST;
                        self.write_line(name, value, repeats, sink);
                    }
                }
                // Not reported: many clients send a request id.
                FieldClass::Forwarding => dropped.untrusted |= *name != X_REQUEST_ID,
                FieldClass::Claim if *trusted => dropped.unlisted = Some(name.clone()),
                FieldClass::Claim => dropped.untrusted = true,
                FieldClass::NeverSent => {}
            }
        }
        self.write_own(sink, kept, wants_trailers);
        dropped
    }

    /// Writes a line. Of several lines that no reader may pick from, writes one [joined line](joined_line) in place of
    /// the first and skips the others.
    #[inline]
    fn write_line(&self, name: &HeaderName, value: &HeaderValue, repeats: bool, sink: &mut impl FieldSink) {
        let joined = if repeats { joined_line(self.fields, name) } else { None };
        match joined {
            None => sink.field(name, value),
            Some((first, joined)) if std::ptr::eq(first, value) => sink.field(name, &joined),
            Some(_) => {}
        }
    }

    /// Whether the trace context of the gateway replaces a field.
    fn is_traced(&self, name: &HeaderName) -> bool {
        self.forwarding
            .trace
            .as_ref()
            .is_some_and(|trace| *name == TRACEPARENT || trace.drop_tracestate && *name == TRACESTATE)
    }

    fn write_own(&self, sink: &mut impl FieldSink, kept: ClientFields<'_>, wants_trailers: bool) {
        let forwarding = &self.forwarding;
        if forwarding.upgrades {
            sink.field(&CONNECTION, &HeaderValue::from_static("Upgrade"));
            sink.field(&UPGRADE, &HeaderValue::from_static(WEBSOCKET));
        } else if wants_trailers {
            // RFC 9110 section 10.1.4: TE goes with a Connection option of its name.
            sink.field(&TE, &HeaderValue::from_static("trailers"));
            sink.field(&CONNECTION, &HeaderValue::from_static("te"));
        }
        let via = match forwarding.version {
            Version::HTTP_10 => "1.0 stockaj-gateway",
            Version::HTTP_2 => "2 stockaj-gateway",
            _ => "1.1 stockaj-gateway",
        };
        sink.field(&VIA, &HeaderValue::from_static(via));
        match kept.chain {
            None => sink.field(&X_FORWARDED_FOR, forwarding.client),
            // One line: a recipient that reads only the first or the last of several lines would lose the chain.
            Some(mut chain) => {
                chain.push(forwarding.client.as_bytes());
                let chain = HeaderValue::from_bytes(&chain.join(&b", "[..]));
                sink.field(&X_FORWARDED_FOR, chain.as_ref().unwrap_or(forwarding.client));
            }
        }
        if !kept.proto {
            let proto = if forwarding.encrypted { "https" } else { "http" };
            sink.field(&X_FORWARDED_PROTO, &HeaderValue::from_static(proto));
        }
        if let Some(host) = forwarding.host.or(kept.host.as_ref()) {
            sink.field(&HOST, host);
        }
        if !kept.forwarded_host
            && let Some(host) = &kept.host
        {
            sink.field(&X_FORWARDED_HOST, host);
        }
        sink.field(&X_REQUEST_ID, forwarding.request_id);
        if let Credentials::Token { authorization, identity, .. } = &forwarding.credentials {
            sink.field(&AUTHORIZATION, authorization);
            if let Some(identity) = identity {
                identity.fields().iter().for_each(|(name, value)| sink.field(name, value));
            }
        }
        // Laravel reads the method from this field first, then from `_method` in the query or the body.
        if *forwarding.method == Method::POST {
            sink.field(&X_HTTP_METHOD_OVERRIDE, &method_field(forwarding.decided));
        }
        if let Some(trace) = &forwarding.trace {
            sink.field(&TRACEPARENT, &trace.traceparent);
        }
        if forwarding.chunked {
            sink.field(&TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
        }
        if forwarding.expects_continue {
            sink.field(&EXPECT, &expectation::CONTINUE);
        }
    }
}

/// The client's fields on which the gateway's own fields depend.
#[derive(Default)]
struct ClientFields<'a> {
    /// The client's Host without an empty port.
    host: Option<HeaderValue>,
    /// The X-Forwarded-For lines of a trusted proxy.
    chain: Option<Vec<&'a [u8]>>,
    proto: bool,
    forwarded_host: bool,
}

impl Credentials {
    /// Whether the client's Authorization and its Cookie are forwarded.
    pub(super) const fn pass(&self) -> (bool, bool) {
        match self {
            Self::AsSent => (true, true),
            Self::Token { cookies, .. } => (false, *cookies),
            Self::Unauthenticated { cookies } => (true, *cookies),
            Self::None => (false, false),
        }
    }
}

/// Removes the hop-by-hop fields of the backend's response. All other fields are forwarded unchanged.
///
/// # Errors
/// The reason why the response must not be forwarded: two parsers could disagree where it ends.
pub fn prepare_response(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    let mut removed: Vec<HeaderName> = Vec::new();
    let (mut has_connection, mut names_options, mut has_coding) = (false, false, false);
    let mut lengths = Lengths::default();
    for (name, value) in fields.iter() {
        if *name == CONTENT_LENGTH {
            lengths.add(value);
        } else if *name == CONNECTION {
            has_connection = true;
            // The usual values name no fields, so only Connection itself is removed.
            names_options |= !matches!(value.as_bytes(), b"keep-alive" | b"close");
        } else if classify_field(name) == FieldClass::HopByHop {
            has_coding |= *name == TRANSFER_ENCODING;
            removed.push(name.clone());
        }
    }
    if has_coding {
        check_coding(status, fields, lengths.count > 0)?;
    } else if lengths.count > 0 {
        lengths.check(status)?;
        if status == StatusCode::NO_CONTENT {
            // RFC 9110 section 8.6: a 204 must not have a Content-Length.
            fields.remove(CONTENT_LENGTH);
        }
    }
    if has_connection {
        if names_options {
            name_options(fields, &TrustedFields::default(), &mut removed)?;
        }
        fields.remove(CONNECTION);
    }
    for name in &removed {
        fields.remove(name);
    }
    Ok(())
}

/// The Content-Length fields of a response. hyper merges equal ones, and ignores them in a response to HEAD.
#[derive(Default)]
struct Lengths {
    count: usize,
    malformed: bool,
    is_zero: bool,
}

impl Lengths {
    fn add(&mut self, value: &HeaderValue) {
        let digits = value.as_bytes();
        self.count += 1;
        // Every number of 19 digits fits into 64 bits.
        self.malformed |= digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit);
        self.is_zero = digits.iter().all(|&digit| digit == b'0');
    }

    fn check(&self, status: StatusCode) -> Result<(), &'static str> {
        match self {
            Self { count: 2.., .. } => Err("several Content-Length fields"),
            Self { malformed: true, .. } => Err("malformed Content-Length"),
            Self { is_zero: false, .. } if status == StatusCode::NO_CONTENT => Err("204 with a body"),
            _ => Ok(()),
        }
    }
}

/// Checks the framing of a response with Transfer-Encoding. hyper accepts any coding before or instead of `chunked`, and
/// would forward the encoded body without naming the coding.
fn check_coding(status: StatusCode, fields: &HeaderMap, has_length: bool) -> Result<(), &'static str> {
    if has_length {
        return Err("both Content-Length and Transfer-Encoding");
    }
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(_), None) if status == StatusCode::NO_CONTENT => Err("204 with Transfer-Encoding"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err("Transfer-Encoding other than chunked"),
    }
}

/// The `X-Request-Id` of a trusted peer: one field of at most 128 letters, digits, `-`, `_`, `.`, `:`, `/`, `+` and `=`.
pub fn trusted_request_id(fields: &HeaderMap) -> Option<&HeaderValue> {
    let value = only(fields, &X_REQUEST_ID)?;
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let bytes = value.as_bytes();
    ((1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(is_fit)).then_some(value)
}

/// The `X-Request-Id` of a client, for the log only: one field of at most 128 bytes of visible ASCII.
pub fn client_request_id(fields: &HeaderMap) -> Option<&HeaderValue> {
    let value = only(fields, &X_REQUEST_ID)?;
    let bytes = value.as_bytes();
    ((1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)).then_some(value)
}

/// Removes the trailer fields that must not be forwarded, in either direction. A trusted field in trailers is removed,
/// too: an authenticating proxy sets its fields in the head.
pub fn prepare_trailers(trailers: &mut HeaderMap, trusted_fields: &TrustedFields) {
    let removed: Vec<HeaderName> =
        trailers.keys().filter(|name| !trailer_allowed(name, trusted_fields)).cloned().collect();
    for name in &removed {
        trailers.remove(name);
    }
}

/// Whether a trailer field may be forwarded (RFC 9110 section 6.5.1): no field that frames, routes, authenticates or
/// controls a message, and none that is dropped in a head.
fn trailer_allowed(field: &HeaderName, trusted_fields: &TrustedFields) -> bool {
    let name = field.as_str();
    !name.starts_with("content-")
        && !name.starts_with("if-")
        && !name.starts_with("access-control-")
        && trusted_fields.classify(field) == FieldClass::Passes
        // A reader that merges trailers into the head would get a second line.
        && !is_singleton(name)
        && !matches!(
            name,
            "accept-encoding"
                | "age"
                | "authorization"
                | "cache-control"
                | "cookie"
                | "date"
                | "expires"
                | "host"
                | "location"
                | "max-forwards"
                | "origin"
                | "pragma"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "strict-transport-security"
                | "trailer"
                | "vary"
                | "via"
                | "warning"
                | "www-authenticate"
        )
}

/// Adds the fields that Connection names (RFC 9110 section 7.6.1) to `removed`.
///
/// # Errors
/// For more than [`MAX_CONNECTION_OPTIONS`]: each costs a lookup, and no message has that many fields.
fn name_options(
    fields: &HeaderMap,
    trusted_fields: &TrustedFields,
    removed: &mut Vec<HeaderName>,
) -> Result<(), &'static str> {
    for (number, option) in options(fields, &CONNECTION).enumerate() {
        if number == MAX_CONNECTION_OPTIONS {
            return Err(TOO_MANY_CONNECTION_OPTIONS);
        }
        if option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(option)
            && fields.contains_key(&name)
            && !trusted_fields.keep(name.as_str())
        {
            removed.push(name);
        }
    }
    Ok(())
}

/// The value of X-HTTP-Method-Override in a POST that was decided on as `method`.
pub(super) fn method_field(method: &Method) -> HeaderValue {
    HeaderValue::from_static(match *method {
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "POST",
    })
}
