//! `envoy.service.auth.v3.Authorization/Check` by gRPC over HTTP/2.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, HeaderName, LINK, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message as _;
use zeroize::Zeroizing;

use super::messages::{self, CheckRequest, CheckResponse, HeaderValueOption, HttpRequest};
use super::{DescribedGrant, DescribedRequest, lines, note_described, warn_of_description};
use crate::downstream::Downstream;
use crate::gateway::Gateway;
use crate::gateway::context::begin_record;
use crate::gateway::respond::discard_rest;
use crate::policy::described::{
    AUTHORIZATION_SERVICE, CHECK, CheckedRequest, DescriptionError, announces_body,
};
use crate::policy::framing::Bounds;
use crate::policy::headers::trusted_request_id;
use crate::policy::refusal::Refusal;
use crate::policy::target::OTHER;
use crate::policy::{client, grant};
use crate::response::body::ResponseBody;
use crate::response::own;
use crate::response::record::RequestRecord;

/// The longest message, in bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;
/// The length of what precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Why a call is malformed.
const NOT_ONE_MESSAGE: &str = "call without exactly one message";

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Why a call has no response. The gRPC client refuses the request then.
#[derive(Debug)]
struct Fault {
    status: GrpcStatus,
    /// The reason in the log.
    refusal: Refusal,
    message: &'static str,
}

/// A status of gRPC other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GrpcStatus {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Fault {
    const fn invalid(message: &'static str) -> Self {
        Self { status: GrpcStatus::InvalidArgument, refusal: Refusal::BadRequest(message), message }
    }
}

/// Whether this is a call of the service. No other request is: the answer to a call has status 200 even if it allows
/// nothing, and the fields of a request over HTTP are those of a client.
pub(super) fn is_grpc(head: &Parts) -> bool {
    head.version == Version::HTTP_2
        && head.method == Method::POST
        && head.uri.path().starts_with(AUTHORIZATION_SERVICE)
        && head.headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc_type(value.as_bytes()))
}

fn is_grpc_type(media_type: &[u8]) -> bool {
    let rest = media_type.strip_prefix(b"application/grpc".as_slice());
    let rest = rest.map(|rest| rest.strip_prefix(b"+proto".as_slice()).unwrap_or(rest));
    rest.is_some_and(|rest| matches!(rest, [] | [b';', ..]))
}

impl Gateway {
    /// Answers a call of the service.
    pub(super) async fn answer_grpc(
        &self,
        downstream: &Rc<Downstream>,
        head: &Parts,
        mut body: Incoming,
    ) -> Response<ResponseBody> {
        // The fields of a call are the proxy's own.
        let mut record = begin_record(self, downstream, head, downstream.trusted);
        record.method = OTHER;
        let checked = if head.uri.path() == CHECK {
            self.read_check(downstream, &mut body).await
        } else {
            let refusal = Refusal::BadRequest("method that the gRPC service does not have");
            Err(Fault { status: GrpcStatus::Unimplemented, refusal, message: "only Check is implemented" })
        };
        discard_rest(Version::HTTP_2, body, downstream);
        let response = match checked {
            Ok(checked) => self.check(head, checked, &mut record).await,
            Err(fault) => Err(fault),
        };
        match response {
            Ok(response) => send(&response, record),
            Err(fault) => {
                if let (GrpcStatus::InvalidArgument, Refusal::BadRequest(why)) =
                    (fault.status, &fault.refusal)
                {
                    warn_of_description(downstream, why);
                }
                send_fault(&fault, record)
            }
        }
    }

    /// Reads the request of a call.
    async fn read_check(&self, downstream: &Downstream, body: &mut Incoming) -> Result<CheckRequest, Fault> {
        let time_limit = self.settings.limits.header_timeout;
        let message = tokio::time::timeout(time_limit, read_message(downstream, body)).await;
        let message = message.unwrap_or(Err(Fault {
            status: GrpcStatus::DeadlineExceeded,
            refusal: Refusal::RequestTimeout,
            message: "the message did not arrive in time",
        }))?;
        CheckRequest::decode(message).map_err(|_| Fault::invalid("CheckRequest that cannot be decoded"))
    }

    /// Decides on the request that the message describes. `call` is the head of the call.
    async fn check(
        &self,
        call: &Parts,
        checked: CheckRequest,
        record: &mut RequestRecord,
    ) -> Result<CheckResponse, Fault> {
        let attributes = checked.attributes.ok_or(Fault::invalid("CheckRequest without attributes"))?;
        let http = attributes.request.and_then(|request| request.http);
        let http = http.ok_or(Fault::invalid("CheckRequest without attributes.request.http"))?;
        let source = attributes.source.and_then(|source| source.address?.socket_address);
        let source: Option<IpAddr> = source.and_then(|source| source.address.parse().ok());
        let size = http.size;
        let version = described_version(&http.protocol);
        record.note_version(version);
        let mut head = match described_head(http, &self.settings.limits.bounds()) {
            Ok(head) => head,
            Err(DescriptionError::Incomplete(why)) => return Err(Fault::invalid(why)),
            Err(DescriptionError::Refused(refusal)) => {
                return Ok(denied(&self.deny(&refusal, call, record)));
            }
        };
        let translated = self.translate(&mut head);
        note_described(record, &head, trusted_request_id(&head.headers));
        record.note_version(version);
        let trusted = source.is_some_and(|source| self.forwards_for(source));
        record.client = source.map(|source| source.to_canonical());
        if let Some(source) = source.filter(|_| trusted) {
            let forwarded = client::forwarded(&head.headers, source, |address| self.forwards_for(address));
            record.client = Some(forwarded.nearest);
            record.has_unknown_client = forwarded.is_unknown;
        }
        let decided = match translated {
            Ok(()) => {
                let has_body = size > 0 || announces_body(&head.headers);
                let described = DescribedRequest { head: &head, has_body, trusted };
                self.decide_described(&described, record).await
            }
            Err(refusal) => Err(refusal),
        };
        match decided {
            Ok(allowed) => Ok(self.allowed(allowed, head.uri.query(), record)),
            Err(refusal) => Ok(denied(&self.deny(&refusal, &head, record))),
        }
    }

    /// The response that allows a request.
    fn allowed(
        &self,
        allowed: DescribedGrant<'_>,
        query: Option<&str>,
        record: &mut RequestRecord,
    ) -> CheckResponse {
        let DescribedGrant { path, grant, reason, deprecation } = allowed;
        let mut to_client = HeaderMap::new();
        self.add_rate_limit_fields(record, query, &mut to_client);
        if let Some((deprecation, origin)) = deprecation {
            self.announce(deprecation, origin, &mut to_client);
        }
        record.note_response(StatusCode::OK, reason, Instant::now());
        let path = (grant::X_CANONICAL_PATH, path);
        let set = grant.set.into_iter().chain([path]);
        CheckResponse {
            status: Some(messages::Status { code: 0 }),
            denied_response: None,
            ok_response: Some(messages::OkHttpResponse {
                headers: set.map(|(name, value)| option(name.as_str(), value, false)).collect(),
                headers_to_remove: grant.removed.iter().map(|name| name.as_str().to_owned()).collect(),
                response_headers_to_add: options(&to_client, &JOINED),
            }),
        }
    }
}

/// Reads the one message of a call.
async fn read_message(downstream: &Downstream, body: &mut Incoming) -> Result<Bytes, Fault> {
    let mut first = Bytes::new();
    let mut longest = PREFIX + LONGEST_MESSAGE;
    // Never grows, so that no part of a token is left in memory.
    let mut joined: Option<Zeroizing<Vec<u8>>> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::invalid("message that is not complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        if let Some(connection) = downstream.connection() {
            connection.data_read(data.len());
        }
        let received = joined.as_ref().map_or(first.len(), |joined| joined.len());
        if received == 0 {
            longest = announced(&data).map_or(longest, |announced| longest.min(PREFIX + announced));
            first = data;
            continue;
        }
        if received + data.len() > longest {
            let is_too_long = longest == PREFIX + LONGEST_MESSAGE;
            return Err(if is_too_long { too_long() } else { Fault::invalid(NOT_ONE_MESSAGE) });
        }
        let joined = joined.get_or_insert_with(|| {
            let mut joined = Zeroizing::new(Vec::with_capacity(longest));
            joined.extend_from_slice(&first);
            joined
        });
        joined.extend_from_slice(&data);
    }
    unframe(joined.map_or(first, Bytes::from_owner))
}

/// The length of the message that begins with `framed`; `None` if its prefix is not complete.
fn announced(framed: &[u8]) -> Option<usize> {
    let [_, length @ ..] = *framed.first_chunk::<PREFIX>()?;
    Some(u32::from_be_bytes(length) as usize)
}

/// The message in the bytes of a call with one message.
fn unframe(mut framed: Bytes) -> Result<Bytes, Fault> {
    let (Some(length), [is_compressed, ..]) = (announced(&framed), &*framed) else {
        return Err(Fault::invalid("call without a message"));
    };
    if *is_compressed != 0 {
        return Err(Fault {
            status: GrpcStatus::Unimplemented,
            refusal: Refusal::BadRequest("compressed message"),
            message: "messages must not be compressed",
        });
    }
    if length > LONGEST_MESSAGE {
        return Err(too_long());
    }
    if length != framed.len() - PREFIX {
        return Err(Fault::invalid(NOT_ONE_MESSAGE));
    }
    Ok(framed.split_off(PREFIX))
}

const fn too_long() -> Fault {
    Fault {
        status: GrpcStatus::ResourceExhausted,
        refusal: Refusal::PayloadTooLarge,
        message: "the message is longer than 64 KiB",
    }
}

/// The head of the described request.
fn described_head(http: HttpRequest, bounds: &Bounds) -> Result<Parts, DescriptionError> {
    let HttpRequest { method, headers, path, host, scheme, header_map, .. } = http;
    let raw = header_map.map(|map| map.headers).unwrap_or_default();
    if !headers.is_empty() && !raw.is_empty() {
        return Err(DescriptionError::Incomplete("both headers and header_map"));
    }
    if raw.iter().any(|field| !field.value.is_empty() && !field.raw_value.is_empty()) {
        return Err(DescriptionError::Incomplete("field with both value and raw_value"));
    }
    let request = CheckedRequest { method: &method, target: &path, host: &host, scheme: &scheme };
    let joined = headers.into_iter().map(|field| (field.key, field.value));
    let raw = raw.into_iter().map(|field| {
        let value = if field.raw_value.is_empty() { field.value } else { field.raw_value };
        (field.key, value)
    });
    request.head(joined.chain(raw), bounds)
}

/// The version in a text such as `HTTP/1.1`; `None` if it is not known.
fn described_version(protocol: &[u8]) -> Option<Version> {
    match protocol {
        b"HTTP/1.0" => Some(Version::HTTP_10),
        b"HTTP/1.1" => Some(Version::HTTP_11),
        b"HTTP/2" => Some(Version::HTTP_2),
        b"HTTP/3" => Some(Version::HTTP_3),
        _ => None,
    }
}

/// The response that refuses a request with this response to its client.
fn denied(response: &Response<Bytes>) -> CheckResponse {
    let code = match response.status() {
        StatusCode::UNAUTHORIZED => GrpcStatus::Unauthenticated,
        StatusCode::BAD_REQUEST => GrpcStatus::InvalidArgument,
        StatusCode::TOO_MANY_REQUESTS => GrpcStatus::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => GrpcStatus::Unavailable,
        StatusCode::INTERNAL_SERVER_ERROR => GrpcStatus::Internal,
        _ => GrpcStatus::PermissionDenied,
    };
    // Envoy replaces its own lines of a name by all lines that are not appended, and drops the others.
    let headers = lines(response.headers()).map(|(name, value)| option(name, value.clone(), false));
    CheckResponse {
        status: Some(messages::Status { code: code as i32 }),
        denied_response: Some(messages::DeniedHttpResponse {
            status: Some(messages::HttpStatus { code: response.status().as_u16().into() }),
            headers: headers.collect(),
            body: response.body().clone(),
        }),
        ok_response: None,
    }
}

/// Fields that do not replace those of the backend: their lines form one list.
const JOINED: [HeaderName; 3] = [ACCESS_CONTROL_EXPOSE_HEADERS, LINK, VARY];

/// The fields as options. The first line of a name replaces that of Envoy or the backend, and further ones are appended.
/// All lines of the names in `joined` are appended.
fn options(fields: &HeaderMap, joined: &[HeaderName]) -> Vec<HeaderValueOption> {
    let mut previous = "";
    let option = |(name, value): (&str, &HeaderValue)| option(name, value.clone(), false);
    let mut options: Vec<HeaderValueOption> = lines(fields).map(option).collect();
    for (option, (name, _)) in options.iter_mut().zip(lines(fields)) {
        let is_appended = name == previous || joined.iter().any(|it| it == name);
        option.append = Some(messages::BoolValue { value: is_appended });
        previous = name;
    }
    options
}

fn option(name: &str, value: HeaderValue, append: bool) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(messages::HeaderValue {
            key: Bytes::copy_from_slice(name.as_bytes()),
            value: Bytes::from_owner(value),
            raw_value: Bytes::new(),
        }),
        append: Some(messages::BoolValue { value: append }),
    }
}

/// A response of gRPC without its message and status.
fn grpc_response(record: &RequestRecord) -> Response<Bytes> {
    let mut response = own::allow(record.request_id.clone());
    *response.version_mut() = Version::HTTP_2;
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn send(message: &CheckResponse, record: Box<RequestRecord>) -> Response<ResponseBody> {
    let length = message.encoded_len();
    // It may contain a token.
    let mut framed = Zeroizing::new(Vec::with_capacity(PREFIX + length));
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(&mut *framed);
    let response = grpc_response(&record).map(|_| Bytes::from_owner(framed));
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    ResponseBody::message(response, trailers, record)
}

fn send_fault(fault: &Fault, mut record: Box<RequestRecord>) -> Response<ResponseBody> {
    let mut response = grpc_response(&record);
    let fields = response.headers_mut();
    fields.insert(GRPC_STATUS, (fault.status as u16).into());
    fields.insert(GRPC_MESSAGE, HeaderValue::from_static(fault.message));
    record.note_refusal(&fault.refusal, own::status(&fault.refusal), Instant::now());
    ResponseBody::own_to(false, response, record)
}

#[cfg(test)]
mod tests;
