//! One request on its way through the gateway.

use std::rc::Rc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use hyper::body::Incoming;

use super::Gateway;
use super::tunnel::UpgradeRequest;
use crate::backend::body::RequestBody;
use crate::backend::response::UpstreamResponse;
use crate::client::call::Call;
use crate::client::pool::CallerAccount;
use crate::downstream::Downstream;
use crate::policy::client;
use crate::policy::decision::RouteInputs;
use crate::policy::headers;
use crate::policy::network::ClientAddress;
use crate::policy::target::Target;
use crate::policy::upgrade::Handshake;
use crate::response::record::{RequestRecord, new_request_id};
use crate::telemetry::spans::Trace;

/// The state of a request. The phases pass it by reference and fill in the results: they are large, and each move copies
/// them.
pub(super) struct RequestContext<'a> {
    pub(super) downstream: &'a Rc<Downstream>,
    /// The client's body, until forwarding takes it.
    pub(super) body: Option<Incoming>,
    pub(super) record: Box<RequestRecord>,
    /// The account of the caller in the queue for the backend; `None` if `backend.max_connections` is not set.
    pub(super) account: Option<Rc<CallerAccount>>,
    pub(super) forwarded: Forwarded,
}

/// The results of forwarding a request.
#[derive(Default)]
pub(super) struct Forwarded {
    /// The request, of which the body may still be in transit.
    pub(super) call: Option<Call<RequestBody>>,
    /// The backend's response.
    pub(super) response: Option<UpstreamResponse>,
    /// The data for later decisions on the tunnel, if the request asks for one.
    pub(super) upgrade: Option<Box<UpgradeRequest>>,
}

/// A request that has been read.
pub(super) struct ReadRequest<'a> {
    pub(super) head: &'a Parts,
    pub(super) target: Target<'a>,
    pub(super) has_body: bool,
    /// The client's address.
    pub(super) client: ClientAddress,
    /// Whether the client waits for a 100 (Continue) before it sends the body.
    pub(super) expects_continue: bool,
    /// The handshake, if the request asks for a tunnel.
    pub(super) handshake: Option<Handshake>,
}

impl ReadRequest<'_> {
    /// The inputs of its route's options.
    pub(super) fn route_inputs(&self) -> RouteInputs<'_> {
        let has_unexpected_body = self.has_body && matches!(self.head.method, Method::GET | Method::HEAD);
        RouteInputs { client: self.client, query: self.target.query, has_unexpected_body }
    }
}

impl<'a> RequestContext<'a> {
    /// The state of a request whose head has arrived. Begins its record.
    pub(super) fn new(
        gateway: &Gateway,
        downstream: &'a Rc<Downstream>,
        head: &Parts,
        body: Incoming,
    ) -> Self {
        let mut record = begin_record(gateway, downstream, head, downstream.trusted);
        if downstream.trusted
            && let Some(address) = downstream.address
        {
            let trusts = |address| gateway.settings.listen.trusts(address);
            let forwarded = client::forwarded(&head.headers, address, trusts);
            record.client = Some(forwarded.nearest);
            record.has_unknown_client = forwarded.is_unknown;
        }
        Self { downstream, body: Some(body), record, account: None, forwarded: Forwarded::default() }
    }
}

/// Begins the record of a request whose head has arrived. Its client is the peer. `continues_trace`: whether the peer, and
/// not its client, wrote the trace context.
pub(super) fn begin_record(
    gateway: &Gateway,
    downstream: &Rc<Downstream>,
    head: &Parts,
    continues_trace: bool,
) -> Box<RequestRecord> {
    let Gateway { recorder, settings, .. } = gateway;
    let now = downstream.state.take_arrival().unwrap_or_else(Instant::now);
    let id = request_id(downstream, &head.headers);
    let mut record = RequestRecord::new(recorder, settings, downstream, &head.method, id, now);
    if let Some(tracer) = &recorder.tracer {
        record.trace = Some(Trace::begin(tracer, head, continues_trace, now));
    }
    record.note_head(head);
    record.note_scheme(&head.headers);
    record
}

/// The id that a trusted proxy sent, or a new one.
fn request_id(downstream: &Downstream, fields: &HeaderMap) -> HeaderValue {
    if downstream.trusted
        && let Some(id) = headers::trusted_request_id(fields)
    {
        return id.clone();
    }
    new_request_id()
}
