//! Tunnels of upgraded connections, and the periodic decisions on them.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::{Caller, Gateway};
use crate::backend::tunnel::{self, Client, Traffic};
use crate::client::pool::Upgraded;
use crate::downstream::Downstream;
use crate::downstream::state::Shutdown;
use crate::limits::tunnels::TunnelGuard;
use crate::policy::bearer::{KeptToken, Token};
use crate::policy::decision::{self, NextStep, RouteInputs};
use crate::policy::network::{ClientAddress, NetworkRule};
use crate::policy::path::CanonicalPath;
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::target::Target;
use crate::response::record::{Recorder, RequestRecord};
use crate::tokens::lookup::{CachedToken, LookupRequest, LookupStats};

/// Shortest pause between two decisions on a tunnel. A verdict of this age is always acceptable.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Time limit of a decision on an open tunnel. With the pause before it, a tunnel closes within 5 s of its token's end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Passes a tunnel to the code that serves its connection.
pub type TunnelSlot = Cell<Option<Box<Tunnel>>>;

/// The request of a tunnel, as far as later decisions need it.
pub(super) struct UpgradeRequest {
    pub(super) path: CanonicalPath<'static>,
    /// The client's address.
    client: ClientAddress,
    /// The query, which may contain credentials; `None` without one.
    query: Option<Zeroizing<String>>,
    /// `None` on a public route, and if shadow mode has forwarded a request without one.
    token: Option<TunnelToken>,
    /// Whether shadow mode has forwarded an Authorization field in which the backend may read a token that the gateway does
    /// not.
    is_unreadable: bool,
    /// Counts the tunnel.
    _counted: Box<TunnelGuard>,
}

/// The token of a tunnel.
struct TunnelToken {
    kept: KeptToken,
    /// The latest active verdict; `None` if shadow mode has forwarded an inactive token.
    verdict: Option<Rc<CachedToken>>,
    /// The number of additions to the block list before the latest decision. Until the first one it is 0, so that a block
    /// during the handshake is found.
    block_additions: u64,
}

impl TunnelToken {
    fn new(authorization: &HeaderValue, verdict: Option<&Rc<CachedToken>>) -> Self {
        Self { kept: KeptToken::new(authorization), verdict: verdict.map(Rc::clone), block_additions: 0 }
    }
}

impl UpgradeRequest {
    pub(super) fn new(
        gateway: &Gateway,
        (fields, target, client): (&HeaderMap, &Target<'_>, ClientAddress),
        caller: &Caller,
        counted: Box<TunnelGuard>,
    ) -> Self {
        let token = match caller {
            Caller::Public => None,
            Caller::Token(cached, authorization) => Some(TunnelToken::new(authorization, Some(cached))),
            Caller::Unauthenticated(_) => {
                let token = Token::from_fields(fields, gateway.settings.limits.token_bytes);
                token.ok().map(|token| TunnelToken::new(&token.authorization(), None))
            }
        };
        let has_credentials =
            matches!(caller, Caller::Unauthenticated(_)) && fields.contains_key(AUTHORIZATION);
        Self {
            path: target.path.clone().into_owned(),
            client,
            query: target.query.map(|query| Zeroizing::new(query.to_owned())),
            is_unreadable: has_credentials && token.is_none(),
            token,
            _counted: counted,
        }
    }

    /// The latest active verdict of its token.
    fn verdict(&self) -> Option<&Rc<CachedToken>> {
        self.token.as_ref()?.verdict.as_ref()
    }

    /// The inputs of its route's options. A request for a tunnel has no body.
    fn route_inputs(&self) -> RouteInputs<'_> {
        RouteInputs::of(self.query.as_ref().map(|query| query.as_str()), self.client)
    }
}

/// A tunnel that the backend has accepted.
pub struct Tunnel {
    pub(super) upgrade: UpgradeRequest,
    /// The gateway of the latest decision.
    pub(super) decided_by: Rc<Gateway>,
    pub(super) record: Box<RequestRecord>,
    /// The backend's connection, which counts as active until it is dropped.
    pub(super) backend: Upgraded,
}

/// Why a tunnel ended.
enum TunnelEnd {
    /// Both sides closed it, or one failed.
    Closed(io::Result<()>),
    /// No byte was sent for `limits.tunnel_idle_timeout`.
    Idle,
    /// This gateway would now refuse its request.
    Refused(Refusal, Rc<Gateway>),
    /// A revocation named its token, even if introspection reports it as active.
    Revoked,
    /// Its client did not read for too long.
    Blocked,
}

impl TunnelEnd {
    /// The end of a tunnel whose token a revocation has named: every block makes one, too.
    fn of_revoked(gateway: Rc<Gateway>, cached: &Rc<CachedToken>) -> Self {
        if gateway.lookup().is_blocked(cached) {
            Self::Refused(Refusal::Blocked, gateway)
        } else {
            Self::Revoked
        }
    }
}

/// Counts an open tunnel until it is dropped.
struct OpenTunnel<'a>(&'a Recorder);

impl<'a> OpenTunnel<'a> {
    fn new(recorder: &'a Recorder) -> Self {
        recorder.metrics.tunnels(1);
        Self(recorder)
    }
}

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.metrics.tunnels(-1);
    }
}

impl Tunnel {
    /// Copies bytes between `client`, which has sent `early` already, and the backend. Ends when one of them closes it, when
    /// no byte was sent for `limits.tunnel_idle_timeout`, or when its request would be refused. `gateway` returns the
    /// present gateway.
    pub async fn run<C>(
        self,
        client: C,
        early: Zeroizing<Vec<u8>>,
        downstream: &Downstream,
        gateway: impl Fn() -> Rc<Gateway>,
    ) where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { mut upgrade, decided_by, mut record, backend } = self;
        // However it ends, the client got its 101.
        record.mark_complete();
        let recorder = Rc::clone(decided_by.recorder());
        let _open = OpenTunnel::new(&recorder);
        let traffic = Traffic::default();
        let ended = tokio::select! {
            ended = tunnel::copy(Client::new(client, early, &traffic), backend) => TunnelEnd::Closed(ended),
            ended = watch(&mut upgrade, decided_by, &traffic.moved, gateway) => ended,
            () = blocked(downstream) => TunnelEnd::Blocked,
        };
        record.add_tunnelled(traffic.from_client.get(), traffic.to_client.get());
        let id = record.request_id.to_str().unwrap_or("-").to_owned();
        match ended {
            TunnelEnd::Closed(Ok(())) => {}
            TunnelEnd::Closed(Err(error)) => {
                tracing::debug!(request_id = id, error = &error as &dyn std::error::Error, "tunnel failed");
            }
            TunnelEnd::Idle => record.mark_truncated(Reason::Limited, "the tunnel was idle for too long"),
            TunnelEnd::Blocked => {
                record.mark_truncated(Reason::ClientGone, "the client did not read from the tunnel")
            }
            TunnelEnd::Revoked => {
                tracing::info!(request_id = id, "tunnel closed: its token was revoked");
                record.mark_truncated(Reason::InactiveToken, "the tunnel's token was revoked");
            }
            TunnelEnd::Refused(refusal, by) => {
                let reason = refusal.reason();
                let number = by.settings.abilities.find(&Method::GET, &upgrade.path).route();
                record.follow(&by.recorder, &by.settings, by.route_label(number), number);
                record.note_cause(&refusal);
                // The verdict that refuses it is newer than that of the request.
                if let Some(cached) = upgrade.verdict() {
                    record.token = Some(Rc::clone(cached));
                }
                tracing::info!(
                    request_id = id,
                    reason = reason.as_str(),
                    "tunnel closed: its request would be refused now"
                );
                record.mark_truncated(reason, "the request of the tunnel would be refused now");
            }
        }
    }
}

impl Gateway {
    /// Decides on an open tunnel as on a new request, without rate limits.
    async fn decide_again(&self, upgrade: &mut UpgradeRequest, now: Instant) -> Result<(), Refusal> {
        let map = &self.settings.abilities;
        // A reload may have changed the map.
        map.check_path(&upgrade.path)?;
        let UpgradeRequest { path, client, query, token, is_unreadable, .. } = upgrade;
        let inputs = RouteInputs::of(query.as_ref().map(|query| query.as_str()), *client);
        let routed = decision::route(map, &Method::GET, path, inputs);
        let enforce_unless_shadowed = |refusal| self.enforce_unless_shadowed(routed, refusal);
        let mut next = routed.next();
        if let NextStep::Refused(refusal @ Refusal::WrongNetwork(NetworkRule::Route)) = next {
            enforce_unless_shadowed(refusal)?;
            next = routed.without_networks().next();
        }
        let token = token.as_mut().ok_or(Refusal::MissingToken);
        // In shadow mode the token must still be active.
        let needs_verdict = match next {
            NextStep::Public(_) => return Ok(()),
            NextStep::Refused(refusal) => {
                enforce_unless_shadowed(refusal)?;
                None
            }
            NextStep::NeedsToken(needs_token) => {
                match needs_token.with_token(token.as_ref().map(drop).map_err(Clone::clone)) {
                    Ok(((), needs_verdict)) => Some(needs_verdict),
                    Err(refusal) => {
                        enforce_unless_shadowed(refusal)?;
                        None
                    }
                }
            }
        };
        let Ok(TunnelToken { kept, verdict, block_additions }) = token else {
            // As for a new request.
            let may_be_blocked = *is_unreadable && self.lookup.has_blocks();
            return if may_be_blocked { Err(Refusal::MalformedToken) } else { Ok(()) };
        };
        // Read before the lookup: a token that is blocked afterwards is looked up again.
        *block_additions = self.lookup.block_additions();
        let mut stats = LookupStats::default();
        let introspected_since = needs_verdict.and_then(|it| self.oldest_introspection(&it, now, PAUSE));
        let request = LookupRequest { token: kept.token(), now, introspected_since, trace: None };
        // Not a request: its failures are limited by the number of tunnels.
        let cached = match self.lookup.verdict(&request, None, &mut stats).await {
            Ok(newer) => verdict.insert(newer),
            Err(refusal) => return enforce_unless_shadowed(refusal),
        };
        if let Some(needs_verdict) = needs_verdict {
            let needs = (needs_verdict, &*client);
            match self.authorize_or_reintrospect(&request, cached, needs, &mut stats).await {
                Ok(_permit) => return Ok(()),
                Err(refusal) => match self.refusal_by_cached_verdict(needs, cached, &refusal, now) {
                    Some(known) => enforce_unless_shadowed(known).map_err(|_| refusal)?,
                    None => enforce_unless_shadowed(refusal)?,
                },
            }
        }
        // The networks of the token, which a refusal by the map may have preceded.
        cached.verdict.rights().check_networks(client).or_else(enforce_unless_shadowed)
    }
}

/// Checks about once a second whether the tunnel has been idle for too long and whether its request is still allowed.
async fn watch(
    upgrade: &mut UpgradeRequest,
    mut decided_by: Rc<Gateway>,
    moved: &Cell<bool>,
    gateway: impl Fn() -> Rc<Gateway>,
) -> TunnelEnd {
    let idle_timeout = decided_by.settings().limits.tunnel_idle_timeout;
    let pause = (idle_timeout / 4).clamp(Duration::from_millis(10), PAUSE);
    let mut last_moved = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        let now = Instant::now();
        if moved.take() {
            last_moved = now;
        } else if now.duration_since(last_moved) >= idle_timeout {
            return TunnelEnd::Idle;
        }
        if let Some(cached) = upgrade.verdict()
            && decided_by.lookup().was_named_in_revocation(cached)
        {
            return TunnelEnd::of_revoked(decided_by, cached);
        }
        let gateway = gateway();
        if Rc::ptr_eq(&gateway, &decided_by) && is_settled(&gateway, upgrade, now) {
            continue;
        }
        let before = upgrade.verdict().map(Rc::clone);
        let decided = tokio::time::timeout(PATIENCE, gateway.decide_again(upgrade, now)).await;
        // Also during the decision: the new verdict may be younger than the revocation.
        if let Some(cached) = before.filter(|cached| gateway.lookup().was_named_in_revocation(cached)) {
            return TunnelEnd::of_revoked(gateway, &cached);
        }
        match decided.unwrap_or(Err(Refusal::NoVerdict)) {
            Ok(()) => decided_by = gateway,
            Err(refusal) => return TunnelEnd::Refused(refusal, gateway),
        }
    }
}

/// Whether a new decision by the same gateway would have the same result.
fn is_settled(gateway: &Gateway, upgrade: &UpgradeRequest, now: Instant) -> bool {
    match &upgrade.token {
        None => !upgrade.is_unreadable || !gateway.lookup().has_blocks(),
        Some(TunnelToken { verdict: None, block_additions, .. }) => {
            *block_additions == gateway.lookup().block_additions()
        }
        Some(TunnelToken { verdict: Some(cached), .. }) => {
            let map = &gateway.settings.abilities;
            let routed = decision::route(map, &Method::GET, &upgrade.path, upgrade.route_inputs());
            let introspected_since = routed
                .with_any_token()
                .and_then(|needs_verdict| gateway.oldest_introspection(&needs_verdict, now, PAUSE));
            cached.is_introspected_since(introspected_since) && gateway.lookup().is_fresh(cached, now)
        }
    }
}

/// Ready when the sweep has found that the client does not read. A drain does not end a tunnel before `drain_timeout`.
async fn blocked(downstream: &Downstream) {
    poll_fn(|context| {
        downstream.state.set_waker(context.waker());
        if downstream.state.shutdown() == Shutdown::Immediate { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
