//! The entry point of all revocations, which are shared with other replicas.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cache::CacheEntry;
use super::lookup::SharedVerdicts;
use super::revocation::Revocation;
use crate::telemetry::metrics::{Metrics, RevocationSource};

/// Revokes verdicts. When a call returns, no request that begins afterwards on any worker uses a verdict introspected
/// before it.
pub struct Revoker {
    /// The verdicts of the current configuration.
    verdicts: ArcSwap<SharedVerdicts>,
    metrics: Arc<Metrics>,
    /// The channels to tasks that publish revocations to other replicas.
    subscribers: Mutex<Vec<UnboundedSender<Revocation>>>,
}

impl Revoker {
    /// Revokes the verdicts in `shared`.
    pub fn new(shared: Arc<SharedVerdicts>, metrics: Arc<Metrics>) -> Self {
        Self { verdicts: ArcSwap::new(shared), metrics, subscribers: Mutex::default() }
    }

    /// Replaces the verdicts. Revocations stay in force.
    pub fn set_shared(&self, shared: Arc<SharedVerdicts>) {
        self.verdicts.store(shared);
    }

    /// Revokes verdicts for the admin listener, and returns the number of cached ones. Therefore it visits every entry:
    /// 30 ms for 100,000.
    pub fn revoke_and_count(&self, mut revocations: Vec<Revocation>) -> usize {
        revocations.retain(Revocation::may_concern_a_token);
        let cache = &self.verdicts.load().cache;
        let forgotten = revocations.iter().map(|revocation| cache.revoke(revocation.clone())).sum();
        self.publish(revocations);
        self.metrics.revoked(RevocationSource::Admin);
        forgotten
    }

    /// Like [`revoke_and_count`](Self::revoke_and_count), but neither counts nor removes the cached entries: cheap enough
    /// for a thousand calls per second.
    pub fn revoke(&self, mut revocations: Vec<Revocation>, source: RevocationSource) {
        revocations.retain(Revocation::may_concern_a_token);
        let known = Arc::clone(self.verdicts.load().cache.revocations());
        for revocation in &revocations {
            known.add(revocation.clone());
        }
        if source != RevocationSource::Redis {
            self.publish(revocations);
        }
        self.metrics.revoked(source);
    }

    /// Like [`revoke`](Self::revoke) for a change of the block list, which reaches other replicas by itself.
    pub fn invalidate(&self, revocation: Revocation) {
        self.verdicts.load().cache.revocations().add(revocation);
    }

    /// Sends revocations of this replica to the others.
    fn publish(&self, revocations: Vec<Revocation>) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        for revocation in revocations {
            subscribers.retain(|subscriber| subscriber.send(revocation.clone()).is_ok());
        }
    }

    /// The revocations that invalidate `token`.
    pub fn revocations_of(&self, token: &str) -> Vec<Revocation> {
        self.verdicts.load().cache.revocations_of(token)
    }

    /// All active verdicts that are usable at `now`, in any order.
    pub fn entries(&self, now: Instant) -> Vec<Arc<CacheEntry>> {
        self.verdicts.load().cache.entries(now)
    }

    /// Receives every later revocation that other replicas must apply.
    pub fn subscribe(&self) -> UnboundedReceiver<Revocation> {
        let (sender, receiver) = unbounded_channel();
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }
}
