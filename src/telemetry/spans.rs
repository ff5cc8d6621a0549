//! Trace spans of requests.
//!
//! With traces off a request costs one branch. With traces on its spans are plain values, sent to the exporter's thread
//! when the request ends. If that thread is behind, spans are dropped and counted; no request waits for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Version};
use tokio::sync::mpsc::Sender;

use super::metrics::{Metrics, SpanOutcome};
use crate::config::settings::Destination;
use crate::policy::headers::TraceFields;
use crate::policy::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};

/// A span that has ended.
#[derive(Debug)]
pub struct Span {
    /// The trace id and the span id.
    pub context: TraceContext,
    /// The parent span; `None` if the trace begins with this one.
    pub parent: Option<Parent>,
    /// A related span of another trace.
    pub link: Option<TraceContext>,
    /// `tracestate` as received.
    pub state: Option<HeaderValue>,
    /// The kind of span.
    pub kind: OtlpKind,
    /// A name of low cardinality.
    pub name: String,
    /// Start time.
    pub began: SystemTime,
    /// End time.
    pub ended: SystemTime,
    /// The attributes.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether the operation failed.
    pub failed: bool,
}

/// The parent of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The span id.
    pub span: u64,
    /// Whether it belongs to another process.
    pub is_remote: bool,
}

/// The kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpKind {
    /// The gateway received the request.
    Server,
    /// The gateway sent the request.
    Client,
}

/// The value of an attribute.
#[derive(Debug)]
pub enum Value {
    /// One of a few words.
    Word(&'static str),
    /// Any text.
    Text(String),
    /// A number.
    Number(i64),
    /// A duration, in seconds.
    Seconds(f64),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<Duration> for Value {
    fn from(duration: Duration) -> Self {
        Self::Seconds(duration.as_secs_f64())
    }
}

impl Span {
    /// Adds an attribute.
    pub fn note(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push((name, value.into()));
    }

    /// Adds the server's address and port.
    pub fn note_server(&mut self, destination: &Destination) {
        match destination {
            Destination::Tcp { host, port, .. } => {
                self.note("server.address", host.to_string());
                self.note("server.port", *port);
            }
            Destination::Unix(path) => self.note("server.address", path.display().to_string()),
        }
    }

    /// Marks the span as failed and sets `error.type`, which has low cardinality.
    pub fn fail(&mut self, why: impl Into<Value>) {
        self.failed = true;
        self.note("error.type", why);
    }
}

/// Samples traces on one worker and sends their spans.
#[derive(Debug)]
pub struct Tracer {
    sender: Sender<Span>,
    metrics: Arc<Metrics>,
    /// A random 64-bit number below this is sampled.
    threshold: u128,
    max_per_second: u32,
    second: Cell<Instant>,
    traced: Cell<u32>,
}

impl Tracer {
    /// Sends spans to `sender`: of the fraction `ratio` of the traces that begin here, and of those that a trusted peer
    /// has sampled, but of at most `max_per_second` requests.
    pub fn new(sender: Sender<Span>, metrics: Arc<Metrics>, ratio: f64, max_per_second: u32) -> Self {
        Self {
            sender,
            metrics,
            // 0 to 2^64: exact at both ends.
            threshold: (ratio * 2_f64.powi(64)) as u128,
            max_per_second,
            second: Cell::new(Instant::now()),
            traced: Cell::new(0),
        }
    }

    /// Whether another request may be traced in this second.
    fn has_room(&self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second.get()) >= Duration::from_secs(1) {
            self.second.set(now);
            self.traced.set(0);
        }
        let room = self.traced.get() < self.max_per_second;
        self.traced.set(self.traced.get() + u32::from(room));
        room
    }

    fn send(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.metrics.spans(SpanOutcome::Dropped, 1);
        }
    }
}

/// An id that is not 0, which is invalid.
fn new_id() -> u64 {
    fastrand::u64(1..)
}

/// The trace of one request.
#[derive(Debug)]
pub struct Trace {
    tracer: Rc<Tracer>,
    /// The request's span; if it is not recorded, the context that is propagated.
    context: TraceContext,
    origin: Origin,
    /// `None` if the trace is not recorded.
    recording: Option<Recording>,
}

#[derive(Debug)]
enum Origin {
    /// Continues a trusted peer's trace: the parent span, and `tracestate`.
    Peer { span: u64, state: Option<HeaderValue> },
    /// Begins here; `ended` is the trace of an untrusted client.
    Here { ended: Option<TraceContext> },
}

#[derive(Debug)]
struct Recording {
    began: Instant,
    wall: SystemTime,
    version: Version,
    host: RefCell<Option<Authority>>,
    /// The span id and the start of the request to the backend.
    backend: Cell<Option<(u64, Instant)>>,
}

impl Trace {
    /// The trace of a request whose head has arrived. Continues the trace of a trusted peer with its sampling decision.
    /// Any other trace ends here and a new one with a link to it begins, so that an untrusted client can neither decide
    /// what is recorded nor add to other traces.
    pub fn begin(tracer: &Rc<Tracer>, head: &Parts, trusted: bool, now: Instant) -> Rc<Self> {
        let received = TraceContext::read(&head.headers);
        let (context, origin, is_recorded) = match received {
            Some(received) if trusted => {
                let origin = Origin::Peer { span: received.span, state: joined(&head.headers) };
                match received.is_sampled() && tracer.has_room(now) {
                    true => (received.below(new_id(), true), origin, true),
                    false => (received, origin, false),
                }
            }
            ended => {
                let sampled = u128::from(fastrand::u64(..)) < tracer.threshold && tracer.has_room(now);
                let context = TraceContext::new(fastrand::u128(1..), new_id(), sampled);
                (context, Origin::Here { ended }, sampled)
            }
        };
        let recording = is_recorded.then(|| Recording {
            began: now,
            wall: SystemTime::now(),
            version: head.version,
            host: RefCell::new(authority(head)),
            backend: Cell::default(),
        });
        Rc::new(Self { tracer: Rc::clone(tracer), context, origin, recording })
    }

    /// Replaces the host by that of another head, which describes the request.
    pub fn note_host(&self, head: &Parts) {
        if let Some(recording) = &self.recording {
            recording.host.replace(authority(head));
        }
    }

    /// The trace fields of the request to the backend, whose span starts `now`; `None` if those of the client are
    /// forwarded.
    pub fn mark_request(&self, now: Instant) -> Option<TraceFields> {
        let context = match (&self.recording, &self.origin) {
            (Some(recording), _) => {
                let id = new_id();
                recording.backend.set(Some((id, now)));
                self.context.below(id, true)
            }
            (None, Origin::Here { .. }) => self.context,
            // As received, with whatever a later version adds.
            (None, Origin::Peer { .. }) => return None,
        };
        let drop_tracestate = matches!(self.origin, Origin::Here { .. });
        Some(TraceFields { traceparent: context.field(), drop_tracestate })
    }

    /// Starts the span of an introspection.
    pub fn begin_introspection(&self) -> IntrospectionSpan<'_> {
        IntrospectionSpan { trace: self, id: new_id(), began: Instant::now() }
    }

    /// Ends the request's span `now`; `None` if it is not recorded.
    pub fn request(&self, name: String, now: Instant) -> Option<Span> {
        let recording = self.recording.as_ref()?;
        let mut span = self.span(recording, name, (recording.began, now));
        span.kind = OtlpKind::Server;
        span.context = self.context;
        span.parent = None;
        match &self.origin {
            Origin::Peer { span: parent, .. } => {
                span.parent = Some(Parent { span: *parent, is_remote: true })
            }
            Origin::Here { ended } => span.link = *ended,
        }
        span.note("network.protocol.version", version(recording.version));
        if let Some(host) = &*recording.host.borrow() {
            span.note("server.address", host.host().to_owned());
            if let Some(port) = host.port_u16() {
                span.note("server.port", port);
            }
        }
        Some(span)
    }

    /// Ends the span of the request to the backend `now`; `None` if there was none or it is not recorded.
    pub fn backend(&self, name: String, now: Instant) -> Option<Span> {
        let recording = self.recording.as_ref()?;
        let (id, began) = recording.backend.get()?;
        let mut span = self.span(recording, name, (began, now));
        span.context = self.context.below(id, true);
        Some(span)
    }

    /// Sends a span to the exporter.
    pub fn send(&self, span: Span) {
        self.tracer.send(span);
    }

    /// A client span below the request's span.
    fn span(&self, recording: &Recording, name: String, (began, ended): (Instant, Instant)) -> Span {
        let at = |time: Instant| recording.wall + time.saturating_duration_since(recording.began);
        Span {
            context: self.context,
            parent: Some(Parent { span: self.context.span, is_remote: false }),
            link: None,
            state: match &self.origin {
                Origin::Peer { state, .. } => state.clone(),
                Origin::Here { .. } => None,
            },
            kind: OtlpKind::Client,
            name,
            began: at(began),
            ended: at(ended),
            attributes: Vec::with_capacity(16),
            failed: false,
        }
    }
}

/// The span of an introspection.
#[derive(Debug)]
pub struct IntrospectionSpan<'a> {
    trace: &'a Trace,
    id: u64,
    began: Instant,
}

impl IntrospectionSpan<'_> {
    /// Adds the trace fields to the introspection request.
    pub fn mark(&self, fields: &mut HeaderMap) {
        let Trace { context, origin, recording, .. } = self.trace;
        let context = if recording.is_some() { context.below(self.id, true) } else { *context };
        fields.insert(TRACEPARENT, context.field());
        if let Origin::Peer { state: Some(state), .. } = origin {
            fields.insert(TRACESTATE, state.clone());
        }
    }

    /// Ends the span now, if it is recorded, and sends it as completed by `describe`.
    pub fn finish(self, name: String, describe: impl FnOnce(&mut Span)) {
        let Self { trace, id, began } = self;
        let Some(recording) = &trace.recording else { return };
        let mut span = trace.span(recording, name, (began, Instant::now()));
        span.context = trace.context.below(id, true);
        describe(&mut span);
        trace.send(span);
    }
}

/// All lines of `tracestate`, joined.
fn joined(fields: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> = fields.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() { None } else { HeaderValue::from_bytes(&lines.join(&b","[..])).ok() }
}

/// The authority of the request; `None` if it is ambiguous, or more than a host and a port.
fn authority(head: &Parts) -> Option<Authority> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(head.headers.get(HOST)?.as_bytes()).ok()?,
    };
    (!authority.as_str().contains('@')).then_some(authority)
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
