//! Parses the head of a response and determines the framing of its body (RFC 9112 sections 4 to 6).

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::malformed::{MAX_FIELDS, Malformed};
use crate::client::recycled_fields;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// The body has this many bytes; at least one.
    Length(u64),
    /// The last chunk ends the body.
    Chunked,
    /// The end of the connection ends the body.
    UntilClose,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// Its status code.
    pub status: StatusCode,
    /// Its fields, except those that contradict [`ResponseHead::framing`], and Connection fields without options that
    /// name a field.
    pub fields: HeaderMap,
    /// The reason phrase, if it is not the standard one of the status code.
    pub reason: Option<ReasonPhrase>,
    /// The framing of its body.
    pub framing: Framing,
    /// Whether the connection can be reused after this exchange.
    pub reusable: bool,
    /// How long the server keeps the idle connection (`Keep-Alive: timeout`), minus one second for latency; `None` if
    /// unknown.
    pub idle_timeout: Option<Duration>,
}

impl ResponseHead {
    /// Converts it to a response, without information about the connection.
    pub fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.fields;
        if let Some(reason) = self.reason {
            response.extensions_mut().insert(reason);
        }
        response
    }

    /// Whether it is interim, so that another response to the request follows (RFC 9110 section 15.2). 101 is final.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// The length of the head at the start of `bytes`, of which the first `searched` were searched before; `None` if it is
/// incomplete.
pub(super) fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    // The end has up to three bytes before its last.
    let start = searched.saturating_sub(3);
    memchr::memchr_iter(b'\n', bytes.get(start..)?).map(|found| start + found + 1).find_map(
        |line| match bytes.get(line..)? {
            [b'\n', ..] => Some(line + 1),
            [b'\r', b'\n', ..] => Some(line + 2),
            _ => None,
        },
    )
}

/// Parses a complete head. `to_head`: the request's method is HEAD.
///
/// # Errors
/// [`Malformed`], if it is not HTTP/1 or the end of its body is ambiguous.
pub(super) fn parse(head: &Bytes, to_head: bool) -> Result<ResponseHead, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    // RFC 9112 section 5.1: a proxy removes white space between name and colon.
    let parsed = ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response_with_uninit_headers(&mut response, head, &mut fields);
    match parsed {
        Ok(Status::Complete(length)) if length == head.len() => {}
        // The end was found, so the head is complete, and it cannot end earlier either.
        Ok(_) => return Err(Malformed::NoStatusLine),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::ManyFields),
        Err(error) => return Err(Malformed::Head(error)),
    }
    let status =
        response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::StatusCode)?;
    let mut noted = Noted::default();
    let (fields, spaced) = collect(response.headers, head, |name, value| noted.note(name, value))?;
    let reason = response
        .reason
        .filter(|reason| !reason.is_empty() && status.canonical_reason() != Some(reason))
        .and_then(|reason| ReasonPhrase::try_from(head.slice_ref(reason.as_bytes())).ok());
    let is_http10 = response.version == Some(0);
    let persists = (!is_http10 || noted.keep_alive) && !noted.close;
    let mut head = ResponseHead {
        status,
        fields,
        reason,
        framing: Framing::None,
        reusable: !spaced && persists,
        idle_timeout: noted.idle_timeout,
    };
    noted.frame(&mut head, is_http10, to_head)?;
    Ok(head)
}

/// Collects the fields that `keep` accepts, which share the memory of `source`. Also returns whether there was white
/// space between a name and its colon.
pub(super) fn collect(
    parsed: &[httparse::Header<'_>],
    source: &Bytes,
    mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool,
) -> Result<(HeaderMap, bool), Malformed> {
    let mut fields = recycled_fields::take(parsed.len());
    let mut spaced = false;
    let base = source.as_ptr() as usize;
    for field in parsed {
        let after = field.name.as_ptr() as usize + field.name.len() - base;
        spaced |= source.get(after) != Some(&b':');
        let malformed = |_| Malformed::Head(httparse::Error::HeaderName);
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(malformed)?;
        let malformed = |_| Malformed::Head(httparse::Error::HeaderValue);
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(source.slice_ref(field.value)).map_err(malformed)?
        };
        if keep(&name, &value) {
            fields.append(name, value);
        }
    }
    Ok((fields, spaced))
}

/// The connection options and the body framing of a response, collected while its fields are read.
#[derive(Default)]
struct Noted {
    close: bool,
    keep_alive: bool,
    names_timeout: bool,
    idle_timeout: Option<Duration>,
    lengths: usize,
    /// Value of the first Content-Length; `None` if it is malformed.
    length: Option<u64>,
    /// Whether the first Content-Length is literally `0`.
    is_zero: bool,
    codings: usize,
    /// Whether the first Transfer-Encoding is `chunked`.
    is_chunked: bool,
}

impl Noted {
    /// Processes a field. Returns whether to keep it: a Connection field is dropped unless it names another field.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        let bytes = value.as_bytes();
        match *name {
            CONTENT_LENGTH => {
                if self.lengths == 0 {
                    (self.length, self.is_zero) = (content_length(bytes), bytes == b"0");
                }
                self.lengths += 1;
            }
            TRANSFER_ENCODING => {
                self.is_chunked |= self.codings == 0 && bytes.eq_ignore_ascii_case(b"chunked");
                self.codings += 1;
            }
            CONNECTION => {
                let mut names_field = false;
                for option in bytes.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    let (close, keep_alive) =
                        (option.eq_ignore_ascii_case(b"close"), option.eq_ignore_ascii_case(b"keep-alive"));
                    self.close |= close;
                    self.keep_alive |= keep_alive;
                    names_field |= !close && !keep_alive;
                }
                return names_field;
            }
            _ if *name == KEEP_ALIVE && !self.names_timeout => {
                (self.names_timeout, self.idle_timeout) = (true, keep_alive_timeout(value));
            }
            _ => {}
        }
        true
    }

    /// Determines the framing of the body (RFC 9112 section 6.3).
    fn frame(&self, head: &mut ResponseHead, is_http10: bool, to_head: bool) -> Result<(), Malformed> {
        let ResponseHead { status, fields, framing, reusable, .. } = head;
        let has_coding = self.codings > 0;
        if *status == StatusCode::NO_CONTENT || status.is_informational() {
            // Such a response has no body and must have neither field (RFC 9110 section 8.6, RFC 9112 section 6.1). A
            // server that sends one may also send the announced body.
            *reusable &= !has_coding && (self.lengths == 0 || self.lengths == 1 && self.is_zero);
            fields.remove(CONTENT_LENGTH);
            fields.remove(TRANSFER_ENCODING);
            return Ok(());
        }
        if has_coding {
            *framing = match (self.lengths, is_http10) {
                (1.., _) => return Err(Malformed::TwoLengths),
                (0, true) => return Err(Malformed::TransferEncodingInHttp10),
                (0, false) if self.is_chunked && self.codings == 1 => Framing::Chunked,
                (0, false) => return Err(Malformed::TransferEncoding),
            };
        } else if self.lengths > 0 {
            if self.lengths > 1 {
                return Err(Malformed::ManyContentLengths);
            }
            *framing = match self.length.ok_or(Malformed::ContentLength)? {
                0 => Framing::None,
                length => Framing::Length(length),
            };
        } else {
            *framing = Framing::UntilClose;
        }
        if to_head || *status == StatusCode::NOT_MODIFIED {
            *framing = Framing::None;
        }
        *reusable &= *framing != Framing::UntilClose;
        Ok(())
    }
}

/// Parses `timeout=5, max=100` as four seconds, since the server's timer started earlier.
fn keep_alive_timeout(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("timeout") {
            return None;
        }
        let seconds: u32 = value.trim().trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds.saturating_sub(1).into()))
    })
}

/// Up to 19 digits, which always fit 64 bits.
fn content_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests;
