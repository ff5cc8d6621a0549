//! A scripted trace collector that decodes OTLP with OpenTelemetry's own definitions.

use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use super::client::PATIENCE;
use super::upstream::{Answer, Upstream};

/// A collector that accepts every request by default.
pub struct Collector(pub Upstream);

impl Collector {
    /// Listens on a free port.
    pub fn start() -> Self {
        Self(Upstream::answering(|_| Self::taken()))
    }

    /// The response that accepts spans.
    pub fn taken() -> Answer {
        Answer::with(200, &[("Content-Type", "application/x-protobuf")], b"")
    }

    /// A `traces` section that exports to this collector with a short delay.
    pub fn yaml(&self) -> String {
        format!("traces:\n  otlp_endpoint: {}\n  flush_interval: 20ms\n{}", self.0.url(), self.0.client_tls())
    }

    /// The received export requests.
    pub fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        let decode = |body: &[u8]| ExportTraceServiceRequest::decode(body).expect("OTLP");
        self.0.requests().iter().map(|request| decode(&request.body)).collect()
    }

    /// The received spans.
    pub fn spans(&self) -> Vec<ExportedSpan> {
        let resources = self.exports().into_iter().flat_map(|export| export.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).map(ExportedSpan).collect()
    }

    /// Waits until there are exactly `count` spans and returns them; panics if there are more.
    pub fn wait(&self, count: usize) -> Vec<ExportedSpan> {
        let end = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans();
            assert!(spans.len() <= count, "more than {count}: {spans:#?}");
            if spans.len() == count {
                return spans;
            }
            assert!(Instant::now() < end, "{} spans instead of {count}: {spans:#?}", spans.len());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A received span.
#[derive(Clone, Debug)]
pub struct ExportedSpan(pub Span);

impl ExportedSpan {
    /// The trace id in hexadecimal.
    pub fn trace(&self) -> String {
        hexadecimal(&self.0.trace_id)
    }

    /// The span id in hexadecimal.
    pub fn id(&self) -> String {
        hexadecimal(&self.0.span_id)
    }

    /// The parent's span id in hexadecimal; empty for a root span.
    pub fn parent(&self) -> String {
        hexadecimal(&self.0.parent_span_id)
    }

    /// The `traceparent` of a request sent within this span.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace(), self.id())
    }

    pub fn is_server(&self) -> bool {
        self.0.kind == i32::from(SpanKind::Server)
    }

    pub fn is_client(&self) -> bool {
        self.0.kind == i32::from(SpanKind::Client)
    }

    pub fn has_failed(&self) -> bool {
        self.0.status.as_ref().is_some_and(|status| status.code == i32::from(StatusCode::Error))
    }

    /// The duration in nanoseconds.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.0.end_time_unix_nano.checked_sub(self.0.start_time_unix_nano).unwrap())
    }

    /// An attribute as text; empty if absent.
    pub fn attribute(&self, key: &str) -> String {
        attribute(&self.0.attributes, key)
    }

    /// The attribute names, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.attributes.iter().map(|it| &*it.key).collect();
        names.sort_unstable();
        names
    }
}

/// The value of the only attribute with that name, as text; empty if absent.
pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let mut found = attributes.iter().filter(|it| it.key == key);
    let value = found.next().and_then(|it| it.value.clone()?.value);
    assert!(found.next().is_none(), "{key} twice in {attributes:?}");
    match value {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
