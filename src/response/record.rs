//! The record of one request, from its head to the end of its response.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::backend::body::{Upload, UploadFault};
use crate::config::settings::Settings;
use crate::downstream::{ClientListener, Downstream};
use crate::limits::counter::CountGuard;
use crate::policy::client;
use crate::policy::headers::{self, X_REQUEST_ID};
use crate::policy::network::{ClientAddress, NetworkRule};
use crate::policy::query::QueryCheck;
use crate::policy::refusal::{Cause, Reason, Refusal};
use crate::telemetry::access::{AccessLog, RequestFields};
use crate::telemetry::metrics::{ConnectionUse, RouteLabel, TimedPhase, WorkerMetrics};
use crate::telemetry::spans::{Trace, Tracer};
use crate::telemetry::unmapped::{MissingPart, Uncovered, UncoveredToken, WorkerUncovered};
use crate::tokens::lookup::{CachedToken, LookupStats};
use crate::usage::count::WorkerUsage;
use crate::usage::rules::RuleNumbers;

mod access_line;
mod request_id;
mod shadow;
mod spans;
mod usage;

pub use request_id::new_request_id;
pub use shadow::ShadowResult;

/// Records the requests of one worker.
pub struct Recorder {
    /// The worker's metrics.
    pub metrics: WorkerMetrics,
    /// The access log.
    pub access: AccessLog,
    /// Counts requests that the map does not cover.
    pub uncovered: WorkerUncovered,
    /// Creates spans; `None` if traces are off.
    pub tracer: Option<Rc<Tracer>>,
    /// Counts usage; `None` if the ledger is off.
    pub usage: Option<UsageCount>,
}

/// Counts the usage of one worker by the rules of one map.
pub struct UsageCount {
    /// The worker's counters.
    pub worker: Rc<WorkerUsage>,
    /// The numbers of the map's rules.
    pub rules: RuleNumbers,
}

/// The record of one request. When it is dropped with the response's body, it is written to metrics, log, usage and traces
/// exactly once, however the request ended.
pub struct RequestRecord {
    recorder: Rc<Recorder>,
    settings: Arc<Settings>,
    downstream: Rc<Downstream>,
    started: Instant,
    /// The address for limits and logs: that of the connection, or the one that a trusted proxy reports.
    pub client: Option<IpAddr>,
    /// Whether `client` is a proxy that does not know the address of its client.
    pub has_unknown_client: bool,
    /// The method of the decision, after an override.
    pub method: Method,
    /// The request id: a new one, or that of a trusted proxy.
    pub request_id: HeaderValue,
    /// The trace; `None` if traces are off.
    pub trace: Option<Rc<Trace>>,
    /// The route's label in metrics.
    pub route: RouteLabel,
    /// The route's number in the map.
    pub route_number: Option<usize>,
    /// The verdict of the request's token.
    pub token: Option<Rc<CachedToken>>,
    /// Counts the request as in flight, until the record is dropped; `None` if it does not count.
    pub in_flight: Option<CountGuard>,
    /// The decision in shadow mode, if it differs.
    pub shadow: Option<Box<ShadowResult>>,
    /// How the token was looked up.
    pub lookup: LookupStats,
    /// Time from the first attempt to reach the backend to the head of its response.
    pub backend: Duration,
    /// The address that the request was sent to; inside, `None` for a Unix socket.
    pub upstream: Option<Option<IpAddr>>,
    /// The status of the backend's response.
    pub upstream_status: Option<StatusCode>,
    /// The progress of the request's body.
    pub upload: Option<Rc<Upload>>,
    /// The missing rule, if the map does not cover the request.
    pub uncovered: Option<Box<MissingRule>>,
    version: Option<Version>,
    /// `None` if the access log is off.
    fields: Option<Rc<RequestFields>>,
    client_request_id: Option<HeaderValue>,
    bytes_in: u64,
    bytes_out: u64,
    response_arrived_at: Option<Instant>,
    outcome: Option<(StatusCode, Reason)>,
    /// Whether the gateway refused the request.
    is_refused: bool,
    /// What refused the request, if its reason alone does not say it.
    cause: Option<Cause>,
    detail: Option<&'static str>,
    /// The number of the [requirement](QueryRules::requirement) of a query parameter that refuses the request, or would.
    denied_parameter: Option<usize>,
    /// The numbers of the requirements of its query's parameters that its token satisfies; `None` if usage is not counted.
    parameters: Option<Box<[usize]>>,
    /// The networks that refuse the request, or would.
    wrong_network: Option<NetworkRule>,
    /// Whether the outcome is final.
    is_settled: bool,
    plain_http: bool,
}

/// A request that no rule of the map covers.
#[derive(Debug)]
pub struct MissingRule {
    /// The masked path; `None` if a route matches it, which then lacks the method.
    pub path: Option<Box<str>>,
    /// The method that is counted; `None` if the request is not.
    pub method: Option<Method>,
}

/// nginx's status for a client that left before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The detail in the log of an upload that was too slow.
pub(super) const TOO_SLOW: &str = "the request body arrived more slowly than limits.body_rate";

impl RequestRecord {
    /// The record of a request with a complete head. Boxed, since it moves with the response's body several times.
    pub fn new(
        recorder: &Rc<Recorder>,
        settings: &Arc<Settings>,
        downstream: &Rc<Downstream>,
        method: &Method,
        request_id: HeaderValue,
        now: Instant,
    ) -> Box<Self> {
        if downstream.begin_request(now) {
            recorder.metrics.client_connections(ConnectionUse::Idle, -1);
            recorder.metrics.client_connections(ConnectionUse::Active, 1);
        }
        Box::new(Self {
            recorder: Rc::clone(recorder),
            settings: Arc::clone(settings),
            downstream: Rc::clone(downstream),
            started: now,
            client: downstream.address,
            has_unknown_client: downstream.has_unknown_client,
            method: method.clone(),
            request_id,
            trace: None,
            route: RouteLabel::None,
            route_number: None,
            token: None,
            in_flight: None,
            shadow: None,
            detail: None,
            denied_parameter: None,
            parameters: None,
            wrong_network: None,
            lookup: LookupStats::default(),
            backend: Duration::ZERO,
            upstream: None,
            upstream_status: None,
            upload: None,
            uncovered: None,
            version: None,
            fields: None,
            client_request_id: None,
            bytes_in: 0,
            bytes_out: 0,
            response_arrived_at: None,
            outcome: None,
            is_refused: false,
            cause: None,
            is_settled: false,
            plain_http: false,
        })
    }

    /// Sets the version in the access line; `None` if it is not known.
    pub const fn note_version(&mut self, version: Option<Version>) {
        self.version = version;
    }

    /// Keeps the fields of the access line; only the version if the access log is off.
    pub fn note_head(&mut self, head: &Parts) {
        self.version = Some(head.version);
        if !self.recorder.access.is_on() {
            return;
        }
        let (mut host, mut user_agent, mut has_request_id) = (None, None, false);
        // One pass costs less than three lookups. The first of several lines counts.
        for (name, value) in &head.headers {
            if *name == HOST {
                host.get_or_insert(value.as_bytes());
            } else if *name == USER_AGENT {
                user_agent.get_or_insert(value.as_bytes());
            } else if *name == X_REQUEST_ID {
                has_request_id = true;
            }
        }
        let authority = || Some(head.uri.authority()?.as_str().as_bytes());
        self.fields = self.recorder.access.request_fields(host.or_else(authority), user_agent);
        if has_request_id {
            let id = headers::client_request_id(&head.headers);
            self.client_request_id = id.filter(|id| **id != self.request_id).cloned();
        }
    }

    /// Counts bytes of the response's body that the connection took.
    pub const fn add_sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Bytes of the response's body that the connection has taken.
    pub const fn sent(&self) -> u64 {
        self.bytes_out
    }

    /// Counts the bytes of a tunnel.
    pub const fn add_tunnelled(&mut self, from_client: u64, to_client: u64) {
        self.bytes_in += from_client;
        self.bytes_out += to_client;
    }

    /// Notes whether the request came over plain HTTP, if usage is counted.
    pub fn note_scheme(&mut self, fields: &HeaderMap) {
        if self.recorder.usage.is_some() {
            let Downstream { trusted, encrypted, address, .. } = *self.downstream;
            self.plain_http = address.is_some_and(|address| {
                let is_local = address.to_canonical().is_loopback();
                client::is_plain_http(fields, trusted, encrypted, is_local)
            });
        }
    }

    /// When the request's head was complete.
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Notes when the head of the backend's response arrived, or the attempt failed.
    pub fn note_upstream_response(&mut self, sent_at: Instant, now: Instant) {
        self.backend = now.duration_since(sent_at);
        self.response_arrived_at = Some(now);
    }

    /// When the backend responded; now if the request was not forwarded.
    pub fn response_arrived(&self) -> Instant {
        self.response_arrived_at.unwrap_or_else(Instant::now)
    }

    /// Notes the head of the response before it is sent.
    pub fn note_response(&mut self, status: StatusCode, reason: Reason, now: Instant) {
        self.outcome = Some((status, reason));
        let metrics = &self.recorder.metrics;
        let waited = self.backend + self.lookup.waited;
        metrics.phase(TimedPhase::Gateway, now.duration_since(self.started).saturating_sub(waited));
        if !self.backend.is_zero() {
            metrics.phase(TimedPhase::Backend, self.backend);
        }
    }

    /// Notes a refusal.
    pub fn note_refusal(&mut self, refusal: &Refusal, status: StatusCode, now: Instant) {
        match refusal {
            Refusal::BadRequest(why) => self.detail = Some(why),
            Refusal::RequestTimeout if self.upload_fault() == Some(UploadFault::TooSlow) => {
                self.detail = Some(TOO_SLOW);
            }
            Refusal::BackendTimeout => self.detail = Some(self.exceeded_timeout()),
            _ => self.note_cause(refusal),
        }
        self.is_refused = true;
        self.note_response(status, refusal.reason(), now);
    }

    /// Notes the limit, the claim or the rule that refuses the request, or closes its tunnel.
    pub const fn note_cause(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::TooManyAttempts(exceeded) => self.cause = Some(Cause::Limit(exceeded.limit)),
            Refusal::UnexpectedClaim(claim) => self.cause = Some(Cause::Claim(*claim)),
            _ => self.note_denied_rule(refusal),
        }
    }

    /// Records a tunnel under the map that closes it, which a reload may have put in the place of that of the handshake.
    /// `route` is the label of its route there, and `number` the route's number.
    pub fn follow(
        &mut self,
        recorder: &Rc<Recorder>,
        settings: &Arc<Settings>,
        route: RouteLabel,
        number: Option<usize>,
    ) {
        self.recorder = Rc::clone(recorder);
        self.settings = Arc::clone(settings);
        (self.route, self.route_number) = (route, number);
        // Findings of the handshake, with the numbers of its map.
        (self.shadow, self.uncovered) = (None, None);
        (self.parameters, self.denied_parameter, self.wrong_network) = (None, None, None);
    }

    /// Which limit a response exceeded that did not begin in time.
    fn exceeded_timeout(&self) -> &'static str {
        match self.settings.abilities.options_of(self.route_number).timeout {
            Some(_) => "the backend took longer than the route's timeout",
            None => "the backend took longer than backend.timeout",
        }
    }

    /// Notes the cause of a refusal in detail, for the log.
    pub const fn note_detail(&mut self, detail: &'static str) {
        self.detail = Some(detail);
    }

    /// The fault that ended the request's body.
    pub fn upload_fault(&self) -> Option<UploadFault> {
        self.upload.as_ref()?.fault()
    }

    /// Records the requirement of a query parameter, or the networks, that refuse the request, or would without shadow
    /// mode.
    pub const fn note_denied_rule(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::QueryDenied { rule, .. } => self.denied_parameter = Some(*rule),
            Refusal::WrongNetwork(rule) => self.wrong_network = Some(*rule),
            _ => {}
        }
    }

    /// The client's address for networks.
    #[inline]
    pub fn client_address(&self) -> ClientAddress {
        if self.has_unknown_client { ClientAddress::Unknown } else { self.client.into() }
    }

    /// Notes the requirements of the parameters of a permitted request's query, if usage is counted.
    #[cold]
    pub fn note_query(&mut self, query: &QueryCheck<'_>) {
        if self.recorder.usage.is_some() {
            let numbers = query.numbers();
            self.parameters = if numbers.is_empty() { None } else { Some(numbers.into()) };
        }
    }

    /// The client's connection, or its stream.
    pub const fn downstream(&self) -> &Rc<Downstream> {
        &self.downstream
    }

    /// The HTTP/2 stream of the response.
    pub fn stream(&self) -> Option<&Rc<Downstream>> {
        Some(&self.downstream).filter(|downstream| downstream.is_stream())
    }

    /// Records that the response's body is complete.
    pub const fn mark_complete(&mut self) {
        self.is_settled = true;
    }

    /// Records that the response's body was truncated, and why.
    pub const fn mark_truncated(&mut self, reason: Reason, detail: &'static str) {
        self.is_settled = true;
        self.detail = Some(detail);
        if let Some((_, noted)) = &mut self.outcome {
            *noted = reason;
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let now = Instant::now();
        let metrics = &self.recorder.metrics;
        if self.downstream.end_request(now) {
            metrics.client_connections(ConnectionUse::Active, -1);
            metrics.client_connections(ConnectionUse::Idle, 1);
        }
        let left = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST);
        let (status, reason) = match self.outcome {
            Some((status, reason)) if self.is_settled => (status, reason),
            Some((status, _)) if self.downstream.state.is_reclaimed() => {
                self.detail = Some("the client stalled while other requests waited for a connection");
                (status, Reason::Overloaded)
            }
            Some((status, _)) => (status, Reason::ClientGone),
            None => (left, Reason::ClientGone),
        };
        let duration = now.duration_since(self.started);
        match self.downstream.listener {
            ClientListener::Proxy => metrics.request(self.route, &self.method, status, reason, duration),
            ClientListener::Decision => {
                metrics.described_request(self.route, &self.method, status, reason, duration);
            }
        }
        if let Some(usage) = &self.recorder.usage {
            self.count_usage(usage, now);
        }
        if self.uncovered.is_some() {
            self.record_uncovered();
        }
        if self.shadow.is_some() || self.recorder.access.wants(reason, status.as_u16()) {
            self.write_access_line(status, reason, now);
        }
        if let Some(trace) = &self.trace {
            self.send_spans(trace, reason, now);
        }
    }
}

impl RequestRecord {
    /// The verdict of the request's token, also if only the candidate map needed it.
    fn any_token(&self) -> Option<&Rc<CachedToken>> {
        self.token.as_ref().or_else(|| self.shadow.as_deref()?.token.as_ref())
    }

    /// Records the missing rule for the operator.
    #[cold]
    fn record_uncovered(&self) {
        let Some(MissingRule { path, method: Some(method) }) = self.uncovered.as_deref() else { return };
        let route = self.route_number.and_then(|number| self.settings.abilities.route(number));
        let (path, missing) = match (path, route) {
            (Some(path), _) => (&**path, MissingPart::Route),
            (None, Some(route)) => (route.template(), MissingPart::Method),
            (None, None) => return,
        };
        let token = self
            .any_token()
            .map(|token| UncoveredToken { id: &token.verdict.id, name: token.verdict.name.as_ref() });
        self.recorder.uncovered.record(&Uncovered { path, missing, method, token, now: SystemTime::now() });
    }
}
