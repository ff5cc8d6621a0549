//! Where revocations come in, whoever orders them, and who else is told.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cache::CacheEntry;
use super::lookup::SharedVerdicts;
use super::revocation::Revocation;
use crate::telemetry::metrics::{Metrics, RevocationSource};

/// The one place that forgets verdicts by order. When a call returns, no request that begins afterwards on any core
/// believes what was asked before it.
pub struct Revoker {
    /// The verdicts of the configuration of now.
    verdicts: ArcSwap<SharedVerdicts>,
    metrics: Arc<Metrics>,
    /// Who passes revocations on to other replicas.
    told: Mutex<Vec<UnboundedSender<Revocation>>>,
}

impl Revoker {
    /// Of the verdicts in `shared`.
    pub fn new(shared: Arc<SharedVerdicts>, metrics: Arc<Metrics>) -> Self {
        Self { verdicts: ArcSwap::new(shared), metrics, told: Mutex::default() }
    }

    /// Replaces the verdicts. Revocations stay in force.
    pub fn set_shared(&self, shared: Arc<SharedVerdicts>) {
        self.verdicts.store(shared);
    }

    /// Forgets every verdict that one of `revocations` concerns, by order of the admin listener; says how many that were
    /// here. Looks at every verdict for that: 30 ms for 100,000.
    pub fn revoke(&self, mut revocations: Vec<Revocation>) -> usize {
        revocations.retain(Revocation::may_concern_a_token);
        let cache = &self.verdicts.load().cache;
        let forgotten = revocations.iter().map(|revocation| cache.revoke(revocation.clone())).sum();
        self.tell(revocations);
        self.metrics.revoked(RevocationSource::Admin);
        forgotten
    }

    /// Forgets them alike and does not count them: what costs nothing may come from a machine, a thousand times a second.
    pub fn forget(&self, mut revocations: Vec<Revocation>, source: RevocationSource) {
        revocations.retain(Revocation::may_concern_a_token);
        let known = Arc::clone(self.verdicts.load().cache.revocations());
        for revocation in &revocations {
            known.note(revocation.clone());
        }
        if source != RevocationSource::Redis {
            self.tell(revocations);
        }
        self.metrics.revoked(source);
    }

    /// Other replicas are told of what comes from this one.
    fn tell(&self, revocations: Vec<Revocation>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for revocation in revocations {
            told.retain(|tell| tell.send(revocation.clone()).is_ok());
        }
    }

    /// What forgetting `token` comes to.
    pub fn revocations_of(&self, token: &str) -> Vec<Revocation> {
        self.verdicts.load().cache.revocations_of(token)
    }

    /// Every active verdict that is believed now, in no order.
    pub fn entries(&self) -> Vec<Arc<CacheEntry>> {
        self.verdicts.load().cache.entries()
    }

    /// Every revocation from here on that other replicas have to know of.
    pub fn subscribe(&self) -> UnboundedReceiver<Revocation> {
        let (tell, told) = unbounded_channel();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
        told
    }
}
