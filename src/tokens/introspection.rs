//! The introspection request, and the interpretation of its response. Both are pure: the cache decides when and how
//! often to introspect.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Body as _;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Number, Value};
use zeroize::Zeroizing;

pub use self::expected::Mismatch;
use super::verdict::Verdict;
use crate::client::ExchangeError;
use crate::client::LeaseError;
use crate::config::settings::{Introspection, IntrospectionStyle, JsonPointer};
use crate::policy::ability::Abilities;
use crate::policy::network::{MOST_NETWORKS, Networks, parse_network};

mod expected;
#[cfg(test)]
mod tests;

/// Largest response, in bytes; a larger one is [`NoVerdict::TooLarge`].
pub const MAX_ANSWER: usize = 64 * 1024;

/// Longest id, context and workspace id of a token, and longest name of an ability, in bytes. The cache, the limits and
/// the ledger store them for every token, and Laravel's columns hold no more.
pub const MAX_TEXT: usize = 255;

/// Longest name of a token, in characters: the capacity of a VARCHAR(255).
pub const MAX_NAME: usize = 255;

/// Largest number of abilities of a token.
pub const MOST_ABILITIES: usize = 1024;

/// Longest list of abilities, in bytes of all their names.
pub const LONGEST_ABILITIES: usize = 16 * 1024;

/// The result of an introspection.
#[derive(Debug)]
pub enum IntrospectionResponse {
    /// The token is active. The caller must check whether it has expired.
    Active(Verdict),
    /// The token is not active, or must be treated so.
    Inactive {
        /// The reason.
        why: Inactive,
        /// As [`Verdict::id`].
        id: Arc<str>,
        /// As [`Verdict::name`], if the response has it.
        name: Option<Arc<str>>,
    },
    /// The introspection failed: a 503, never a 401 or an allowed request.
    NoVerdict(NoVerdict),
}

/// Why a token is not active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inactive {
    /// It is unknown to the introspector, or no longer active.
    Reported,
    /// It is not valid before this time.
    NotYetValid(SystemTime),
    /// It was issued for another service, by another issuer, or to another client.
    UnexpectedClaim(Mismatch),
}

/// Why an introspection failed. `Display` includes the cause and nothing of the token.
#[derive(Debug, thiserror::Error)]
pub enum NoVerdict {
    /// The request cannot be written.
    #[error("the introspection request cannot be written: {0}")]
    Request(#[from] http::Error),
    /// There is no connection to the introspector.
    #[error("the introspector cannot be reached: {0}")]
    Connect(#[from] LeaseError),
    /// The connection broke, or the response is not HTTP.
    #[error("the introspector's response is truncated or malformed: {0}")]
    Transport(#[from] ExchangeError),
    /// Two parsers would frame the response differently.
    #[error("the introspector's response is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// `introspection.timeout` passed.
    #[error("the introspector took longer than {0:?}")]
    TimedOut(Duration),
    /// The response is larger than [`MAX_ANSWER`].
    #[error("the introspector's response is longer than {MAX_ANSWER} bytes")]
    TooLarge,
    /// A redirect. Redirects are never followed.
    #[error("the introspector responded with {0}, a redirect: check `introspection.url`")]
    Redirect(StatusCode),
    /// 401 or 403 for the gateway's own credentials (RFC 7662 section 2.3).
    #[error("the introspector rejected the gateway's client credentials with {0}")]
    ClientRefused(StatusCode),
    /// Any other status that is not a verdict.
    #[error("the introspector responded with {0}")]
    Status(StatusCode),
    /// A signed response (RFC 9701). Its claims would be in `token_introspection`, and nobody has verified the signature.
    #[error(
        "the introspector's response is signed (application/token-introspection+jwt, RFC 9701); the gateway reads \
         application/json only"
    )]
    Signed,
    /// The response is not JSON.
    #[error("the introspector's response is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// RFC 7662 section 2.2: `active` is a required boolean.
    #[error("`active` in the introspector's response is {0}, not true or false")]
    ActiveNotBoolean(Found),
    /// Neither a list of strings, an object of strings, one string, nor null.
    #[error("the abilities in the introspector's response are {0}, not a list of strings or one string")]
    Abilities(Found),
    /// JSON inside a string: the abilities were encoded twice.
    #[error(
        "the abilities in the introspector's response are JSON inside a string: they must be encoded once (in Laravel, \
         cast the column to `array` or `json`)"
    )]
    EncodedAbilities,
    /// A member of the list is not a string.
    #[error("ability {position} in the introspector's response is {found}, not a string")]
    Ability {
        /// Its index in the list, from 0.
        position: usize,
        /// The type of the value.
        found: Found,
    },
    /// The abilities are an object with a value that is not a string.
    #[error(
        "the abilities in the introspector's response are an object with a value that is {0}, not a string"
    )]
    AbilityValue(Found),
    /// A value is too long to be stored for a token.
    #[error("the {what} in the introspector's response is longer than {limit}")]
    TooLong {
        /// The value.
        what: &'static str,
        /// The limit, with its unit.
        limit: &'static str,
    },
    /// Neither a list nor null.
    #[error("the networks in the introspector's response are {0}, not a list of strings or null")]
    Networks(Found),
    /// A member of the list is no address and no network.
    #[error(
        "network {position} in the introspector's response ({found}) is not an address or a network such as `10.0.0.0/8`"
    )]
    Network {
        /// Its index in the list, from 0.
        position: usize,
        /// The type of the value.
        found: Found,
    },
    /// Neither RFC 3339, seconds since 1970, nor null.
    #[error("the expiry in the introspector's response is {0}, not RFC 3339, epoch seconds or null")]
    Expiry(Found),
    /// As [`NoVerdict::Expiry`].
    #[error("`nbf` in the introspector's response is {0}, not RFC 3339, epoch seconds or null")]
    NotBefore(Found),
}

impl NoVerdict {
    /// Whether an operator must act: the introspector does not accept the gateway itself.
    pub const fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::ClientRefused(_))
    }

    /// The kind of failure, in one of a few words.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "unreachable",
            Self::Transport(_) => "broken",
            Self::TimedOut(_) => "timeout",
            Self::Redirect(_) | Self::ClientRefused(_) | Self::Status(_) => "status",
            Self::Request(_)
            | Self::Ambiguous(_)
            | Self::TooLarge
            | Self::Signed
            | Self::NotJson(_)
            | Self::ActiveNotBoolean(_)
            | Self::Abilities(_)
            | Self::EncodedAbilities
            | Self::Ability { .. }
            | Self::AbilityValue(_)
            | Self::TooLong { .. }
            | Self::Networks(_)
            | Self::Network { .. }
            | Self::Expiry(_)
            | Self::NotBefore(_) => "malformed",
        }
    }
}

/// The type of an unexpected value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No value.
    Absent,
    /// `null`
    Null,
    /// A boolean.
    Boolean,
    /// A number; where numbers are expected, one out of range.
    Number,
    /// A string; where strings are expected, an unreadable one.
    String,
    /// A list.
    Array,
    /// An object.
    Object,
}

impl Found {
    const fn of(value: Option<&Value>) -> Self {
        match value {
            None => Self::Absent,
            Some(Value::Null) => Self::Null,
            Some(Value::Bool(_)) => Self::Boolean,
            Some(Value::Number(_)) => Self::Number,
            Some(Value::String(_)) => Self::String,
            Some(Value::Array(_)) => Self::Array,
            Some(Value::Object(_)) => Self::Object,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Absent => "absent",
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "a list",
            Self::Object => "an object",
        })
    }
}

/// The introspection request for a token. The gateway's copies of the token and the credentials in it are zeroed when
/// the request is dropped.
///
/// # Errors
/// [`NoVerdict::Request`] if `token` is not valid in a header field; every [`Token`](crate::policy::bearer::Token) is.
pub fn request(settings: &Introspection, token: &str) -> Result<Request<Full<Bytes>>, NoVerdict> {
    let request = Request::builder()
        .uri(settings.target.clone())
        .header(HOST, settings.authority.clone())
        .header(ACCEPT, HeaderValue::from_static("application/json"));
    let request = request.method(settings.style.method());
    let request = match &settings.style {
        IntrospectionStyle::Bearer => {
            request.header(AUTHORIZATION, authorization("Bearer ", token)?).body(Full::default())
        }
        IntrospectionStyle::Rfc7662 { client_id, client_secret } => {
            let mut request =
                request.header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            if let Some(id) = client_id {
                let credentials = basic(id, client_secret.as_ref());
                request = request.header(AUTHORIZATION, authorization("Basic ", &credentials)?);
            }
            let form = form(token);
            request.header(CONTENT_LENGTH, form.size_hint().exact().unwrap_or_default()).body(form)
        }
    };
    Ok(request?)
}

fn authorization(scheme: &str, credentials: &str) -> Result<HeaderValue, http::Error> {
    let field = Zeroizing::new([scheme.as_bytes(), credentials.as_bytes()].concat());
    let mut field = HeaderValue::from_maybe_shared(Bytes::from_owner(field))?;
    field.set_sensitive(true);
    Ok(field)
}

/// RFC 6749 section 2.3.1: both form-urlencoded, then HTTP Basic.
fn basic(id: &str, secret: Option<&SecretString>) -> Zeroizing<String> {
    let secret = secret.map_or("", |secret| secret.expose_secret());
    let mut pair = Zeroizing::new(String::with_capacity(3 * (id.len() + secret.len()) + 1));
    push_form_urlencoded(&mut pair, id);
    pair.push(':');
    push_form_urlencoded(&mut pair, secret);
    Zeroizing::new(BASE64.encode(pair.as_bytes()))
}

/// The form of RFC 7662 section 2.1.
fn form(token: &str) -> Full<Bytes> {
    const NAME: &str = "token=";
    const HINT: &str = "&token_type_hint=access_token";
    let mut form = Zeroizing::new(String::with_capacity(NAME.len() + 3 * token.len() + HINT.len()));
    form.push_str(NAME);
    push_form_urlencoded(&mut form, token);
    form.push_str(HINT);
    Full::new(Bytes::from_owner(form))
}

/// The urlencoded serializer of the URL standard. Its buffer must not grow, which would leave an unzeroed copy behind.
fn push_form_urlencoded(buffer: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => buffer.push(byte.into()),
            b' ' => buffer.push('+'),
            _ => {
                buffer.push('%');
                buffer.push(HEX[usize::from(byte >> 4)].into());
                buffer.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
}

/// A response of the introspector.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedResponse<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub fields: &'a HeaderMap,
    /// Its body.
    pub body: &'a [u8],
}

impl ReceivedResponse<'_> {
    /// Whether it is a signed response (RFC 9701 section 5).
    fn is_signed(&self) -> bool {
        const SIGNED: &[u8] = b"application/token-introspection+jwt";
        self.fields.get_all(CONTENT_TYPE).iter().any(|value| {
            let media_type = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
            media_type.trim_ascii().eq_ignore_ascii_case(SIGNED)
        })
    }
}

/// The result of an introspection with this response at the time `now`, for the token with the SHA-256 `token_hash`.
pub fn read(
    settings: &Introspection,
    response: &ReceivedResponse<'_>,
    token_hash: &[u8; 32],
    now: SystemTime,
) -> IntrospectionResponse {
    let status = response.status;
    let read = match (&settings.style, status) {
        (_, StatusCode::OK) if response.is_signed() => Err(NoVerdict::Signed),
        (_, StatusCode::OK) => read_body(settings, response.body, token_hash, now),
        (IntrospectionStyle::Bearer, StatusCode::UNAUTHORIZED) => Ok(IntrospectionResponse::Inactive {
            why: Inactive::Reported,
            id: hex::encode(token_hash).into(),
            name: None,
        }),
        (IntrospectionStyle::Rfc7662 { .. }, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(NoVerdict::ClientRefused(status))
        }
        _ if status.is_redirection() => Err(NoVerdict::Redirect(status)),
        _ => Err(NoVerdict::Status(status)),
    };
    read.unwrap_or_else(IntrospectionResponse::NoVerdict)
}

/// Reads the body of a 200.
fn read_body(
    settings: &Introspection,
    body: &[u8],
    token_hash: &[u8; 32],
    now: SystemTime,
) -> Result<IntrospectionResponse, NoVerdict> {
    if body.len() > MAX_ANSWER {
        return Err(NoVerdict::TooLarge);
    }
    let answer: Value = serde_json::from_slice(body)?;
    let pointers = &settings.response;
    let id = pointers.id.find(&answer).and_then(identifier).unwrap_or_else(|| hex::encode(token_hash).into());
    let name = pointers.name.find(&answer).and_then(text);
    if let Some(why) = find_inactivity(settings, &answer, now)? {
        return Ok(IntrospectionResponse::Inactive { why, id, name });
    }
    let optional = |pointer: &Option<JsonPointer>| pointer.as_ref().and_then(|pointer| pointer.find(&answer));
    let verdict = Verdict {
        id,
        name,
        abilities: abilities(pointers.abilities.find(&answer))?,
        expires_at: optional_time(pointers.expires_at.find(&answer), NoVerdict::Expiry)?,
        context: optional(&pointers.context).and_then(text),
        created_at: optional(&pointers.created_at).and_then(time),
        workspace_id: optional(&pointers.workspace_id).and_then(identifier),
        allowed_from: networks(optional(&pointers.allowed_from))?,
    };
    check_lengths(&verdict)?;
    Ok(IntrospectionResponse::Active(verdict))
}

/// Why the token is inactive by RFC 7662; `None` if it is active, and in `bearer` style. Needs none of the fields of a
/// verdict: the response about a token for another service may lack them.
fn find_inactivity(
    settings: &Introspection,
    answer: &Value,
    now: SystemTime,
) -> Result<Option<Inactive>, NoVerdict> {
    if matches!(settings.style, IntrospectionStyle::Bearer) {
        return Ok(None);
    }
    match answer.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(Some(Inactive::Reported)),
        other => return Err(NoVerdict::ActiveNotBoolean(Found::of(other))),
    }
    if let Some(mismatch) = expected::find_mismatch(&settings.expect, answer) {
        return Ok(Some(Inactive::UnexpectedClaim(mismatch)));
    }
    let from = optional_time(answer.get("nbf"), NoVerdict::NotBefore)?;
    Ok(from.filter(|from| *from > now).map(Inactive::NotYetValid))
}

/// Rejects texts that are too long to be stored for each token. A truncated id or name could be that of another token.
fn check_lengths(verdict: &Verdict) -> Result<(), NoVerdict> {
    let Verdict { id, name, context, workspace_id, .. } = verdict;
    for (what, text) in [
        ("token's id", Some(&**id)),
        ("token's context", context.as_deref()),
        ("token's workspace id", workspace_id.as_deref()),
    ] {
        if text.is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(NoVerdict::TooLong { what, limit: "255 bytes" });
        }
    }
    if name.as_ref().is_some_and(|name| name.chars().nth(MAX_NAME).is_some()) {
        return Err(NoVerdict::TooLong { what: "token's name", limit: "255 characters" });
    }
    Ok(())
}

fn abilities(value: Option<&Value>) -> Result<Abilities, NoVerdict> {
    match value {
        Some(Value::Null) => Ok(Abilities::default()),
        // Split at its spaces, `["items:read"]` would be the ability `["items:read"]`, which no route requires.
        Some(Value::String(names)) if names.trim_start().starts_with(['[', '{', '"']) => {
            Err(NoVerdict::EncodedAbilities)
        }
        Some(Value::String(names)) => bounded(names.split(' ').filter(|name| !name.is_empty()).map(Ok)),
        Some(Value::Array(items)) => bounded(items.iter().enumerate().map(|(position, item)| {
            item.as_str().ok_or(NoVerdict::Ability { position, found: Found::of(Some(item)) })
        })),
        // PHP encodes an array with holes, such as one that `array_filter` left, as an object.
        Some(Value::Object(members)) => bounded(
            members
                .values()
                .map(|value| value.as_str().ok_or(NoVerdict::AbilityValue(Found::of(Some(value))))),
        ),
        other => Err(NoVerdict::Abilities(Found::of(other))),
    }
}

/// The abilities with these names, within the limits.
fn bounded<'a>(names: impl Iterator<Item = Result<&'a str, NoVerdict>>) -> Result<Abilities, NoVerdict> {
    let names: Vec<&str> = names.collect::<Result<_, _>>()?;
    if names.len() > MOST_ABILITIES {
        return Err(NoVerdict::TooLong { what: "list of abilities", limit: "1024 abilities" });
    }
    if names.iter().any(|name| name.len() > MAX_TEXT) {
        return Err(NoVerdict::TooLong { what: "name of an ability", limit: "255 bytes" });
    }
    if names.iter().map(|name| name.len()).sum::<usize>() > LONGEST_ABILITIES {
        return Err(NoVerdict::TooLong { what: "list of abilities", limit: "16384 bytes" });
    }
    Ok(Abilities::new(names))
}

/// Parses the networks of a token. An absent list is like null: the token may be used from anywhere. One malformed member
/// invalidates the list, which would otherwise restrict the token more or less than its owner meant.
fn networks(value: Option<&Value>) -> Result<Option<Networks>, NoVerdict> {
    let members = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(members)) if members.len() <= MOST_NETWORKS => members,
        Some(Value::Array(_)) => {
            return Err(NoVerdict::TooLong { what: "list of networks", limit: "256 networks" });
        }
        other => return Err(NoVerdict::Networks(Found::of(other))),
    };
    let parsed = members.iter().enumerate().map(|(position, member)| {
        let network = member.as_str().and_then(parse_network);
        network.ok_or(NoVerdict::Network { position, found: Found::of(Some(member)) })
    });
    parsed.collect::<Result<_, _>>().map(Some)
}

/// Parses the expiry or `nbf`. If it is absent, as RFC 7662 has it, or null, it does not limit the token.
fn optional_time(
    value: Option<&Value>,
    malformed: fn(Found) -> NoVerdict,
) -> Result<Option<SystemTime>, NoVerdict> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => time(value).map(Some).ok_or_else(|| malformed(Found::of(Some(value)))),
    }
}

/// RFC 3339 text, or seconds since 1970 (with a fraction or without), clamped to what a [`Timestamp`] can represent:
/// some systems write "never" as the last second of the year 9999, or as the largest integer.
fn time(value: &Value) -> Option<SystemTime> {
    let time = match value {
        Value::String(text) if is_rfc3339(text) => match text.parse() {
            Ok(time) => time,
            Err(_) if is_beyond_the_last(text) => Timestamp::MAX,
            Err(_) => return None,
        },
        Value::Number(seconds) => from_seconds(seconds)?,
        _ => return None,
    };
    time.try_into().ok()
}

/// Whether a text of RFC 3339's shape is a valid time after [`Timestamp::MAX`], which leaves room for every offset
/// before the end of the year 9999.
fn is_beyond_the_last(text: &str) -> bool {
    const DATE: usize = "0000-00-00".len();
    let Some((date, time)) = text.split_at_checked(DATE) else { return false };
    date.starts_with("9999-12-3")
        && date.parse::<Date>().is_ok()
        && format!("2000-01-01{time}").parse::<Timestamp>().is_ok()
}

fn from_seconds(seconds: &Number) -> Option<Timestamp> {
    let is_negative = seconds.as_f64()? < 0.0;
    let time = match seconds.as_i64() {
        Some(seconds) => Timestamp::from_second(seconds),
        None => SignedDuration::try_from_secs_f64(seconds.as_f64()?).and_then(Timestamp::from_duration),
    };
    Some(time.unwrap_or(if is_negative { Timestamp::MIN } else { Timestamp::MAX }))
}

/// Whether this has the form of RFC 3339 section 5.6; jiff also parses other forms of ISO 8601.
fn is_rfc3339(text: &str) -> bool {
    fn shaped(text: &[u8], shape: &[u8]) -> bool {
        text.len() == shape.len()
            && text.iter().zip(shape).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b't' | b' '),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte == other,
            })
    }
    let Some((time, rest)) = text.as_bytes().split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let offset = match rest.strip_prefix(b".") {
        // At least one digit.
        Some(fraction) => match fraction.iter().position(|byte| !byte.is_ascii_digit()) {
            None | Some(0) => return false,
            Some(end) => &fraction[end..],
        },
        None => rest,
    };
    shaped(time, b"0000-00-00T00:00:00") && (matches!(offset, b"Z" | b"z") || shaped(offset, b"+00:00"))
}

fn text(value: &Value) -> Option<Arc<str>> {
    value.as_str().map(Into::into)
}

/// A non-empty string, or an integer. A float would have lost digits.
pub fn identifier(value: &Value) -> Option<Arc<str>> {
    match value {
        Value::String(id) if !id.is_empty() => Some(id.as_str().into()),
        Value::Number(id) if id.is_u64() || id.is_i64() => Some(id.to_string().into()),
        _ => None,
    }
}
