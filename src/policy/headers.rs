//! Which header fields are forwarded, which are dropped, and which the gateway sets.
//!
//! The fields of an upstream request are written in one pass over those of the client's, which stay as they are: a
//! request that is sent again is written again. Then the gateway's own fields are written, which no field of a client
//! can replace (RFC 9110 section 7.6).

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::expectation;
use super::fate::{Fate, fate_of_field};
use super::framing::{MOST_CONNECTION_OPTIONS, TOO_MANY_CONNECTION_OPTIONS};
use super::identity::Identity;
use super::refusal::Refusal;
use super::singleton::{is_singleton, joined_line};
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
/// `X-Real-IP`
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-HTTP-Method-Override`
pub const X_HTTP_METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// The longest `X-Request-Id` that the gateway uses or logs, in bytes.
const LONGEST_REQUEST_ID: usize = 128;

/// What the gateway knows of a request and says in the fields that it sets.
#[derive(Debug)]
pub struct Forwarding<'a> {
    /// As the client sent it.
    pub method: &'a Method,
    /// The method that was decided on, which a POST names.
    pub decided: &'a Method,
    /// As the client sent it, for `Via`.
    pub version: Version,
    /// The peer's address as text.
    pub client: &'a HeaderValue,
    /// Whether the client's connection is encrypted.
    pub encrypted: bool,
    /// Whether the peer is one whose forwarding fields are believed.
    pub trusted: bool,
    /// What else such a peer may say.
    pub trusted_fields: &'a TrustedFields,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// What Host says behind the gateway, where it is not what the client sent.
    pub host: Option<&'a HeaderValue>,
    /// In whose name the backend is asked.
    pub credentials: Credentials,
    /// The fields of the request's trace.
    pub trace: Option<TraceFields>,
    /// Whether the body has no Content-Length.
    pub chunked: bool,
    /// Whether the body waits for 100 (Continue).
    pub expects_continue: bool,
    /// Whether the request asks for WebSocket.
    pub upgrades: bool,
}

/// The fields of W3C trace context that replace those of the client.
#[derive(Clone, Debug)]
pub struct TraceFields {
    /// `traceparent`
    pub traceparent: HeaderValue,
    /// Whether the client's `tracestate` is dropped.
    pub drop_tracestate: bool,
}

/// Where the fields of an upstream request are written.
pub trait FieldSink {
    /// Adds a field. Fields of one name stay in their order.
    fn field(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl FieldSink for HeaderMap {
    fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }
}

/// In whose name the backend is asked.
#[derive(Debug)]
pub enum Credentials {
    /// As the client says: on a `public` route Authorization and Cookie pass as they came.
    AsSent,
    /// In that of the token that was decided on.
    Token {
        /// [Its field](super::bearer::Token::authorization).
        authorization: HeaderValue,
        /// Who it is, where the backend is told.
        identity: Option<Identity>,
        /// Whether the client's cookies pass, although a backend may put a session above a token.
        cookies: bool,
    },
    /// In that of whoever the backend takes the client for: without a good token, which only shadow mode forwards.
    /// Authorization passes as it came.
    Unproved {
        /// Whether the client's cookies pass, as beside a token.
        cookies: bool,
    },
    /// In nobody's: neither Authorization nor Cookie passes.
    None,
}

/// Fields that were dropped because of who sent them.
#[derive(Debug, Default)]
pub struct Dropped {
    /// A peer that is not trusted sent a field about forwarding or about the caller.
    pub untrusted: bool,
    /// A trusted peer sent this field about the caller, which `listen.trusted_fields` does not name.
    pub unlisted: Option<HeaderName>,
}

/// The fields of a client's request as the backend gets them.
#[derive(Debug)]
pub struct UpstreamFields<'a> {
    fields: &'a HeaderMap,
    forwarding: Forwarding<'a>,
    /// What the client's Connection fields name, except what they cannot remove.
    named: Vec<HeaderName>,
}

impl<'a> UpstreamFields<'a> {
    /// Those that come of `fields`.
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

    /// Writes them to `sink`. Returns what was dropped because of who sent it.
    pub fn write(&self, sink: &mut impl FieldSink) -> Dropped {
        let Forwarding { trusted, trusted_fields, credentials, .. } = &self.forwarding;
        let mut dropped = Dropped::default();
        let mut kept = Kept::default();
        let mut wants_trailers = false;
        let repeats = self.fields.len() != self.fields.keys_len();
        let (passes_authorization, passes_cookie) = credentials.pass();
        for (name, value) in self.fields {
            match trusted_fields.fate(name) {
                Fate::HopByHop => {
                    wants_trailers |=
                        *name == TE && members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                }
                _ if !self.named.is_empty() && self.named.contains(name) => {}
                Fate::Passes => {
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
                Fate::Forwarding if *trusted => {
                    if *name == X_FORWARDED_FOR {
                        kept.chain.get_or_insert_default().push(value.as_bytes());
                    } else if *name != X_REQUEST_ID {
                        kept.proto |= *name == X_FORWARDED_PROTO;
                        kept.forwarded_host |= *name == X_FORWARDED_HOST;
                        self.write_line(name, value, repeats, sink);
                    }
                }
                // Many clients name their requests; that does not suggest a proxy.
                Fate::Forwarding => dropped.untrusted |= *name != X_REQUEST_ID,
                Fate::Claim if *trusted => dropped.unlisted = Some(name.clone()),
                Fate::Claim => dropped.untrusted = true,
                Fate::NeverSent => {}
            }
        }
        self.write_own(sink, kept, wants_trailers);
        dropped
    }

    /// Writes a line, or in place of the first of several all of them as one if no reader may pick one.
    #[inline]
    fn write_line(&self, name: &HeaderName, value: &HeaderValue, repeats: bool, sink: &mut impl FieldSink) {
        let joined = if repeats { joined_line(self.fields, name) } else { None };
        match joined {
            None => sink.field(name, value),
            Some((first, joined)) if std::ptr::eq(first, value) => sink.field(name, &joined),
            Some(_) => {}
        }
    }

    /// Whether the trace of the request replaces a field.
    fn is_traced(&self, name: &HeaderName) -> bool {
        self.forwarding
            .trace
            .as_ref()
            .is_some_and(|trace| *name == TRACEPARENT || trace.drop_tracestate && *name == TRACESTATE)
    }

    fn write_own(&self, sink: &mut impl FieldSink, kept: Kept<'_>, wants_trailers: bool) {
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
            // One line: a recipient that reads only the first or the last of several would lose the chain.
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
        // Laravel takes the verb from here first, then from `_method` in the query or the body.
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

/// What the pass over a client's fields found that the gateway's own fields depend on.
#[derive(Default)]
struct Kept<'a> {
    /// As it is forwarded, unless the configuration names another.
    host: Option<HeaderValue>,
    /// The lines of X-Forwarded-For that a trusted proxy sent.
    chain: Option<Vec<&'a [u8]>>,
    proto: bool,
    forwarded_host: bool,
}

impl Credentials {
    /// Whether the client's Authorization and Cookie fields pass.
    const fn pass(&self) -> (bool, bool) {
        match self {
            Self::AsSent => (true, true),
            Self::Token { cookies, .. } => (false, *cookies),
            Self::Unproved { cookies } => (true, *cookies),
            Self::None => (false, false),
        }
    }
}

/// Turns the fields of the backend's answer into those that the client gets: hop-by-hop fields go, all else is
/// as it came.
///
/// # Errors
/// Says why the answer may not be passed on or believed: two parsers would find its end in different places.
pub fn prepare_answer(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    let mut going: Vec<HeaderName> = Vec::new();
    let (mut has_connection, mut names_options, mut has_coding) = (false, false, false);
    let mut lengths = Lengths::default();
    for (name, value) in fields.iter() {
        if *name == CONTENT_LENGTH {
            lengths.add(value);
        } else if *name == CONNECTION {
            has_connection = true;
            // What most backends send names nothing: it goes, and nothing else with it.
            names_options |= !matches!(value.as_bytes(), b"keep-alive" | b"close");
        } else if fate_of_field(name) == Fate::HopByHop {
            has_coding |= *name == TRANSFER_ENCODING;
            going.push(name.clone());
        }
    }
    if has_coding {
        check_coding(status, fields, lengths.count > 0)?;
    } else if lengths.count > 0 {
        lengths.check(status)?;
        if status == StatusCode::NO_CONTENT {
            // RFC 9110 section 8.6: it may not be there at all.
            fields.remove(CONTENT_LENGTH);
        }
    }
    if has_connection {
        if names_options {
            name_options(fields, &TrustedFields::default(), &mut going)?;
        }
        fields.remove(CONNECTION);
    }
    for name in &going {
        fields.remove(name);
    }
    Ok(())
}

/// The Content-Length fields of an answer. hyper merges equal ones, and reads none of them in an answer to HEAD.
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
        // As many as 64 bits have for sure.
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

/// Of an answer with Transfer-Encoding. hyper takes every coding before `chunked`, or in its place, and passes
/// the body on without its name.
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

/// The `X-Request-Id` that a trusted peer gave a request: one of letters, digits, `-`, `_`, `.`, `:`, `/`, `+`
/// and `=`, at most 128.
pub fn trusted_request_id(fields: &HeaderMap) -> Option<&HeaderValue> {
    let value = only(fields, &X_REQUEST_ID)?;
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let bytes = value.as_bytes();
    ((1..=LONGEST_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(is_fit)).then_some(value)
}

/// The `X-Request-Id` that a client chose, for the log alone: visible ASCII, at most 128 bytes.
pub fn client_request_id(fields: &HeaderMap) -> Option<&HeaderValue> {
    let value = only(fields, &X_REQUEST_ID)?;
    let bytes = value.as_bytes();
    ((1..=LONGEST_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic))
        .then_some(value)
}

/// The one value of a field; none where there are several, since two parsers could take two of them.
pub(super) fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = fields.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Removes the trailer fields that may not pass, in either direction. `trusted_fields` are for heads alone: a proxy
/// that authenticates a request does so before it sends the request on.
pub fn prepare_trailers(trailers: &mut HeaderMap, trusted_fields: &TrustedFields) {
    let going: Vec<HeaderName> =
        trailers.keys().filter(|name| !trailer_allowed(name, trusted_fields)).cloned().collect();
    for name in &going {
        trailers.remove(name);
    }
}

/// Whether a trailer field of this name may pass (RFC 9110 section 6.5.1): none that frames, routes,
/// authenticates or controls a message, and none that may not be in a head.
fn trailer_allowed(field: &HeaderName, trusted_fields: &TrustedFields) -> bool {
    let name = field.as_str();
    !name.starts_with("content-")
        && !name.starts_with("if-")
        && !name.starts_with("access-control-")
        && trusted_fields.fate(field) == Fate::Passes
        // A reader that merges trailers into the head would have two.
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

/// Adds the fields that `Connection` lines name (RFC 9110 section 7.6.1) to those that are `going`.
///
/// # Errors
/// For more than [`MOST_CONNECTION_OPTIONS`]: each costs a look-up, and no message has that many fields to name.
fn name_options(
    fields: &HeaderMap,
    trusted_fields: &TrustedFields,
    going: &mut Vec<HeaderName>,
) -> Result<(), &'static str> {
    for (number, option) in options(fields, &CONNECTION).enumerate() {
        if number == MOST_CONNECTION_OPTIONS {
            return Err(TOO_MANY_CONNECTION_OPTIONS);
        }
        if option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(option)
            && fields.contains_key(&name)
            && !trusted_fields.keep(name.as_str())
        {
            going.push(name);
        }
    }
    Ok(())
}

/// The members of a list in every line of a field, without parameters.
pub(super) fn options<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    fields.get_all(name).iter().flat_map(members)
}

fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

fn method_field(method: &Method) -> HeaderValue {
    HeaderValue::from_static(match *method {
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "POST",
    })
}
