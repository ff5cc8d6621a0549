//! The OTLP messages of `opentelemetry/proto/collector/trace/v1`, as far as they are sent.
//!
//! Omitted fields have their default. The tests decode the messages with OpenTelemetry's own definitions, whose crate
//! needs its whole SDK.

use std::time::SystemTime;

use prost::{Enumeration, Message, Oneof};

use crate::policy::trace_context::TraceContext;
use crate::telemetry::spans;

/// `ExportTraceServiceRequest`
#[derive(Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`
#[derive(Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`
#[derive(Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "SpanKind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
enum SpanKind {
    Unspecified = 0,
    Server = 2,
    Client = 3,
}

#[derive(Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(fixed32, tag = "6")]
    flags: u32,
}

#[derive(Message)]
struct Status {
    #[prost(enumeration = "StatusCode", tag = "3")]
    code: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
enum StatusCode {
    Unset = 0,
    Error = 2,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3, 4")]
    value: Option<Value>,
}

#[derive(Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
    #[prost(double, tag = "4")]
    Fraction(f64),
}

/// `SpanFlags`: whether the parent is remote is known, and the parent is remote.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The semantic conventions of the attribute names.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The request that exports `spans` of the service `name`, whose instance id is `instance`.
pub(super) fn request(
    spans: impl IntoIterator<Item = spans::Span>,
    name: &str,
    instance: &str,
) -> ExportRequest {
    let version = env!("CARGO_PKG_VERSION");
    let attribute = |key: &str, value: &str| attribute(key, Value::Text(value.to_owned()));
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    attribute("service.name", name),
                    attribute("service.version", version),
                    attribute("service.instance.id", instance),
                ],
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: env!("CARGO_PKG_NAME").to_owned(),
                    version: version.to_owned(),
                }),
                spans: spans.into_iter().map(Span::from).collect(),
                schema_url: SCHEMA.to_owned(),
            }],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

impl From<spans::Value> for Value {
    fn from(value: spans::Value) -> Self {
        match value {
            spans::Value::Word(word) => Self::Text(word.to_owned()),
            spans::Value::Text(text) => Self::Text(text),
            spans::Value::Number(number) => Self::Number(number),
            spans::Value::Seconds(seconds) => Self::Fraction(seconds),
        }
    }
}

impl From<TraceContext> for Link {
    fn from(context: TraceContext) -> Self {
        let TraceContext { trace, span, .. } = context;
        Self {
            trace_id: trace.to_be_bytes().into(),
            span_id: span.to_be_bytes().into(),
            flags: u32::from(context.flags()) | HAS_IS_REMOTE | IS_REMOTE,
        }
    }
}

impl From<spans::Span> for Span {
    fn from(span: spans::Span) -> Self {
        let spans::Span { context, parent, link, state, kind, name, began, ended, attributes, failed } = span;
        let remote = parent.filter(|parent| parent.is_remote).map_or(0, |_| IS_REMOTE);
        Self {
            trace_id: context.trace.to_be_bytes().into(),
            span_id: context.span.to_be_bytes().into(),
            trace_state: state.and_then(|state| state.to_str().ok().map(str::to_owned)).unwrap_or_default(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span.to_be_bytes().into()),
            flags: u32::from(context.flags()) | HAS_IS_REMOTE | remote,
            name,
            kind: match kind {
                spans::OtlpKind::Server => SpanKind::Server,
                spans::OtlpKind::Client => SpanKind::Client,
            }
            .into(),
            start_time_unix_nano: nanoseconds(began),
            end_time_unix_nano: nanoseconds(ended),
            attributes: attributes.into_iter().map(|(key, value)| attribute(key, value.into())).collect(),
            links: link.into_iter().map(Link::from).collect(),
            status: failed.then_some(Status { code: StatusCode::Error.into() }),
        }
    }
}

/// Nanoseconds since 1970. They last until 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
