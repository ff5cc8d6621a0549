//! Spans: what is told of a request to those who follow it through several services.
//!
//! A request of which nothing is told costs a branch where traces are off. Where they are on its spans are plain
//! values, handed over when it has ended to the thread that sends them; where that is behind they are dropped and
//! counted, and nobody waits.

use std::cell::Cell;
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

/// A part of a trace that has ended.
#[derive(Debug)]
pub struct Span {
    /// The trace, and this span in it.
    pub context: TraceContext,
    /// The span that it is a part of; none: the trace begins with it.
    pub parent: Option<Parent>,
    /// Another trace that had to do with it.
    pub link: Option<TraceContext>,
    /// `tracestate`, as it came.
    pub state: Option<HeaderValue>,
    /// Which side of an exchange it is.
    pub kind: Kind,
    /// Of few values.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it came to nothing.
    pub failed: bool,
}

/// The span that another is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub span: u64,
    /// Whether it is of another process.
    pub is_remote: bool,
}

/// Which side of an exchange a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That which answers.
    Server,
    /// That which asks.
    Client,
}

/// What an attribute says.
#[derive(Debug)]
pub enum Value {
    /// One of few words.
    Word(&'static str),
    /// Any text.
    Text(String),
    /// A number.
    Number(i64),
    /// A time, in seconds.
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

    /// Adds whom it asks.
    pub fn note_server(&mut self, destination: &Destination) {
        match destination {
            Destination::Tcp { host, port, .. } => {
                self.note("server.address", host.to_string());
                self.note("server.port", *port);
            }
            Destination::Unix(path) => self.note("server.address", path.display().to_string()),
        }
    }

    /// Adds that it came to nothing, and why, in one of few words.
    pub fn fail(&mut self, why: impl Into<Value>) {
        self.failed = true;
        self.note("error.type", why);
    }
}

/// Where one core's spans go, and of which requests there are any.
#[derive(Debug)]
pub struct Tracer {
    sender: Sender<Span>,
    metrics: Arc<Metrics>,
    /// Of random numbers of 64 bits, those below it are sampled.
    threshold: u128,
    max_per_second: u32,
    second: Cell<Instant>,
    traced: Cell<u32>,
}

impl Tracer {
    /// Spans go to `sender`: of the share `ratio` of the traces that begin here, and of those that a trusted peer has
    /// sampled, but of no more than `max_per_second` requests.
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

    /// Whether there is room for another request in this second.
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

/// Not 0, which is no id.
fn new_id() -> u64 {
    fastrand::u64(1..)
}

/// The trace of one request.
#[derive(Debug)]
pub struct Trace {
    tracer: Rc<Tracer>,
    /// The request's span; where it is not recorded, what others are told.
    context: TraceContext,
    origin: Origin,
    /// Where it is recorded.
    recording: Option<Recording>,
}

#[derive(Debug)]
enum Origin {
    /// A trusted peer's trace goes on: the span that the request is for it, and `tracestate`.
    Peer { span: u64, state: Option<HeaderValue> },
    /// It began here, and somebody's has ended.
    Here { ended: Option<TraceContext> },
}

#[derive(Debug)]
struct Recording {
    began: Instant,
    wall: SystemTime,
    version: Version,
    host: Option<Authority>,
    /// Under which id the backend was asked, and when.
    backend: Cell<Option<(u64, Instant)>>,
}

impl Trace {
    /// The trace of a request whose head has come. A trusted peer's goes on, and is recorded where it says so. That of
    /// anybody else ends here, so that a stranger decides nothing about what is recorded and adds to no trace of
    /// others: another one begins, with a link to it.
    pub fn begin(tracer: &Rc<Tracer>, head: &Parts, trusted: bool, now: Instant) -> Rc<Self> {
        let told = TraceContext::read(&head.headers);
        let (context, origin, is_recorded) = match told {
            Some(told) if trusted => {
                let origin = Origin::Peer { span: told.span, state: joined(&head.headers) };
                match told.is_sampled() && tracer.has_room(now) {
                    true => (told.below(new_id(), true), origin, true),
                    false => (told, origin, false),
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
            host: authority(head),
            backend: Cell::default(),
        });
        Rc::new(Self { tracer: Rc::clone(tracer), context, origin, recording })
    }

    /// The fields that tell the backend of the request's span, which begins `now`; `None` if those of the client stay.
    pub fn mark_request(&self, now: Instant) -> Option<TraceFields> {
        let context = match (&self.recording, &self.origin) {
            (Some(recording), _) => {
                let id = new_id();
                recording.backend.set(Some((id, now)));
                self.context.below(id, true)
            }
            (None, Origin::Here { .. }) => self.context,
            // As it came, with what a later version may say.
            (None, Origin::Peer { .. }) => return None,
        };
        let drop_tracestate = matches!(self.origin, Origin::Here { .. });
        Some(TraceFields { traceparent: context.field(), drop_tracestate })
    }

    /// The introspector is about to be asked.
    pub fn question(&self) -> Question<'_> {
        Question { trace: self, id: new_id(), began: Instant::now() }
    }

    /// The request's span, if it is recorded, which ends `now`.
    pub fn request(&self, name: String, now: Instant) -> Option<Span> {
        let recording = self.recording.as_ref()?;
        let mut span = self.span(recording, name, (recording.began, now));
        span.kind = Kind::Server;
        span.context = self.context;
        span.parent = None;
        match &self.origin {
            Origin::Peer { span: parent, .. } => {
                span.parent = Some(Parent { span: *parent, is_remote: true })
            }
            Origin::Here { ended } => span.link = *ended,
        }
        span.note("network.protocol.version", version(recording.version));
        if let Some(host) = &recording.host {
            span.note("server.address", host.host().to_owned());
            if let Some(port) = host.port_u16() {
                span.note("server.port", port);
            }
        }
        Some(span)
    }

    /// The span of what the backend was asked, if it was, which ends `now`.
    pub fn backend(&self, name: String, now: Instant) -> Option<Span> {
        let recording = self.recording.as_ref()?;
        let (id, began) = recording.backend.get()?;
        let mut span = self.span(recording, name, (began, now));
        span.context = self.context.below(id, true);
        Some(span)
    }

    /// Hands a span over.
    pub fn send(&self, span: Span) {
        self.tracer.send(span);
    }

    /// That of a client, below the request's.
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
            kind: Kind::Client,
            name,
            began: at(began),
            ended: at(ended),
            attributes: Vec::with_capacity(16),
            failed: false,
        }
    }
}

/// What the introspector is asked for a request.
#[derive(Debug)]
pub struct Question<'a> {
    trace: &'a Trace,
    id: u64,
    began: Instant,
}

impl Question<'_> {
    /// Tells the introspector.
    pub fn mark(&self, fields: &mut HeaderMap) {
        let Trace { context, origin, recording, .. } = self.trace;
        let context = if recording.is_some() { context.below(self.id, true) } else { *context };
        fields.insert(TRACEPARENT, context.field());
        if let Origin::Peer { state: Some(state), .. } = origin {
            fields.insert(TRACESTATE, state.clone());
        }
    }

    /// Hands its span over, if it is recorded, which ends now: as `describe` completes it.
    pub fn answered(self, name: String, describe: impl FnOnce(&mut Span)) {
        let Self { trace, id, began } = self;
        let Some(recording) = &trace.recording else { return };
        let mut span = trace.span(recording, name, (began, Instant::now()));
        span.context = trace.context.below(id, true);
        describe(&mut span);
        trace.send(span);
    }
}

/// Every line of `tracestate` in one.
fn joined(fields: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> = fields.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() { None } else { HeaderValue::from_bytes(&lines.join(&b","[..])).ok() }
}

/// Whom the client asks; none where that cannot be told, or holds more than a host and a port.
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
