//! Tunnels of upgraded connections, and the periodic decisions on them.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::Gateway;
use crate::backend::tunnel::{self, Client, Traffic};
use crate::client::pool::Upgraded;
use crate::downstream::Downstream;
use crate::downstream::state::Shutdown;
use crate::policy::bearer::KeptToken;
use crate::policy::decision::{self, Step};
use crate::policy::path::CanonicalPath;
use crate::policy::refusal::{Reason, Refusal};
use crate::response::record::{Recorder, RequestRecord, TokenLookup};
use crate::tokens::lookup::CachedToken;

/// Shortest pause between two decisions on a tunnel. A verdict of this age is always acceptable.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Time limit of a decision on an open tunnel. With the pause before it, a tunnel closes within 5 s of its token's end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Passes a tunnel to the code that serves its connection.
pub type Switch = Cell<Option<Box<Tunnel>>>;

/// The request of a tunnel, as far as later decisions need it.
pub(super) struct UpgradeRequest {
    pub(super) path: CanonicalPath<'static>,
    /// `None` on a public route.
    pub(super) caller: Option<(KeptToken, Rc<CachedToken>)>,
}

/// A tunnel that the backend has accepted.
pub struct Tunnel {
    pub(super) asked: UpgradeRequest,
    /// The gateway of the latest decision.
    pub(super) decided_by: Rc<Gateway>,
    pub(super) record: Box<RequestRecord>,
    /// The backend's connection, which counts as active until it is dropped.
    pub(super) backend: Upgraded,
}

/// Why a tunnel ended.
enum Ended {
    /// Both sides closed it, or one failed.
    ByItself(io::Result<()>),
    /// No byte was sent for `limits.tunnel_idle_timeout`.
    Idle,
    /// Its request would now be refused.
    Refused(Refusal),
    /// A revocation named its token, even if introspection reports it as active.
    Revoked,
    /// Its client did not read for too long.
    Blocked,
}

/// Counts an open tunnel until it is dropped.
struct Open<'a>(&'a Recorder);

impl<'a> Open<'a> {
    fn new(recorder: &'a Recorder) -> Self {
        recorder.metrics.tunnels(1);
        Self(recorder)
    }
}

impl Drop for Open<'_> {
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
        let Self { mut asked, decided_by, mut record, backend } = self;
        // However it ends, the client got its 101.
        record.mark_complete();
        let recorder = Rc::clone(decided_by.recorder());
        let _open = Open::new(&recorder);
        let traffic = Traffic::default();
        let ended = tokio::select! {
            ended = tunnel::copy(Client::new(client, early, &traffic), backend) => Ended::ByItself(ended),
            ended = watch(&mut asked, decided_by, &traffic.moved, gateway) => ended,
            () = blocked(downstream) => Ended::Blocked,
        };
        record.add_tunnelled(traffic.from_client.get(), traffic.to_client.get());
        let id = record.request_id.to_str().unwrap_or("-").to_owned();
        match ended {
            Ended::ByItself(Ok(())) => {}
            Ended::ByItself(Err(error)) => {
                tracing::debug!(
                    request_id = id,
                    error = &error as &dyn std::error::Error,
                    "a tunnel broke off"
                );
            }
            Ended::Idle => record.mark_truncated(Reason::Limited, "nothing came through the tunnel in time"),
            Ended::Blocked => {
                record.mark_truncated(Reason::ClientGone, "the client took nothing from the tunnel")
            }
            Ended::Revoked => {
                tracing::info!(request_id = id, "a tunnel was closed whose token was revoked");
                record.mark_truncated(Reason::InactiveToken, "the tunnel's token was revoked");
            }
            Ended::Refused(refusal) => {
                let reason = refusal.reason();
                tracing::info!(
                    request_id = id,
                    reason = reason.as_str(),
                    "a tunnel was closed that would be refused"
                );
                record.mark_truncated(reason, "the tunnel would be refused by now");
            }
        }
    }
}

impl Gateway {
    /// Decides on an open tunnel as on a new request, without rate limits.
    async fn decide_again(&self, asked: &mut UpgradeRequest, now: Instant) -> Result<(), Refusal> {
        let map = &self.settings.abilities;
        // A reload may have changed the map.
        map.check_path(&asked.path)?;
        let routed = decision::route(map, &Method::GET, &asked.path);
        let forgiven = |refusal| self.forgiven(routed, refusal);
        let Step::NeedsToken(needs_token) = routed.next() else { return Ok(()) };
        let token = asked.caller.as_mut().ok_or(Refusal::MissingToken);
        let needs_verdict = match needs_token.with_token(token.as_ref().map(drop).map_err(Clone::clone)) {
            Ok(((), needs_verdict)) => Some(needs_verdict),
            // In shadow mode the token must still be active.
            Err(refusal) => {
                forgiven(refusal)?;
                None
            }
        };
        let Ok((token, held)) = token else { return Ok(()) };
        let mut lookup = TokenLookup::default();
        let since = needs_verdict.and_then(|it| self.oldest_acceptable(it.requirement(), now, PAUSE));
        match self.verdict(token.token(), now, since, None, &mut lookup).await {
            Ok(verdict) => *held = verdict,
            Err(refusal) => return forgiven(refusal),
        }
        let Some(needs_verdict) = needs_verdict else { return Ok(()) };
        match self.authorize(token.token(), held, needs_verdict, None, &mut lookup).await {
            Ok(_permit) => Ok(()),
            Err(refusal) => match self.by_what_is_known(needs_verdict, held, &refusal, now) {
                Some(known) => forgiven(known).map_err(|_| refusal),
                None => forgiven(refusal),
            },
        }
    }
}

/// Checks about once a second whether the tunnel has been idle for too long and whether its request is still allowed.
async fn watch(
    asked: &mut UpgradeRequest,
    mut decided_by: Rc<Gateway>,
    moved: &Cell<bool>,
    gateway: impl Fn() -> Rc<Gateway>,
) -> Ended {
    let idle_timeout = decided_by.settings().limits.tunnel_idle_timeout;
    let pause = (idle_timeout / 4).clamp(Duration::from_millis(10), PAUSE);
    let mut last_moved = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        let now = Instant::now();
        if moved.take() {
            last_moved = now;
        } else if now.duration_since(last_moved) >= idle_timeout {
            return Ended::Idle;
        }
        if let Some((_, held)) = &asked.caller
            && decided_by.lookup().was_named_in_revocation(held)
        {
            return Ended::Revoked;
        }
        let gateway = gateway();
        if Rc::ptr_eq(&gateway, &decided_by) && is_settled(&gateway, asked, now) {
            continue;
        }
        let before = asked.caller.as_ref().map(|(_, held)| Rc::clone(held));
        let decided = tokio::time::timeout(PATIENCE, gateway.decide_again(asked, now)).await;
        // Also during the decision: the new verdict may be younger than the revocation.
        if before.is_some_and(|held| gateway.lookup().was_named_in_revocation(&held)) {
            return Ended::Revoked;
        }
        match decided.unwrap_or(Err(Refusal::NoVerdict)) {
            Ok(()) => decided_by = gateway,
            Err(refusal) => return Ended::Refused(refusal),
        }
    }
}

/// Whether a new decision by the same gateway would have the same result.
fn is_settled(gateway: &Gateway, asked: &UpgradeRequest, now: Instant) -> bool {
    asked.caller.as_ref().is_none_or(|(_, held)| {
        let routed = decision::route(&gateway.settings.abilities, &Method::GET, &asked.path);
        let since = routed
            .with_any_token()
            .and_then(|needs_verdict| gateway.oldest_acceptable(needs_verdict.requirement(), now, PAUSE));
        held.is_introspected_since(since) && gateway.lookup().is_fresh(held, now)
    })
}

/// Ready when the sweep has found that the client does not read. A drain does not end a tunnel before `drain_timeout`.
async fn blocked(downstream: &Downstream) {
    poll_fn(|context| {
        downstream.state.set_waker(context.waker());
        if downstream.state.shutdown() == Shutdown::Immediate { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
