//! Introspections in flight, which requests join.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::Inactivity;
use super::entry::CacheEntry;
use crate::tokens::introspection::NoVerdict;

/// The outcome of an introspection, for all requests that wait for it.
#[derive(Clone, Debug)]
pub enum IntrospectionResult {
    /// Active, and now in the cache.
    Active(Arc<CacheEntry>),
    /// Not active.
    Inactive(Inactivity),
    /// No verdict.
    NoVerdict(Arc<NoVerdict>),
    /// The limiter did not permit it in time.
    Overloaded,
}

/// A completed introspection.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Its outcome.
    pub outcome: IntrospectionResult,
    /// When it began, or was given up before it began.
    pub introspected_at: Instant,
}

/// An introspection in flight, for a request that waits for it.
pub type InFlight = watch::Receiver<Option<Completed>>;

/// The task's side of an introspection in flight.
pub type Publisher = Arc<watch::Sender<Option<Completed>>>;

/// Whether a request joins an introspection or has to start it.
#[derive(Debug)]
pub enum Join {
    /// One is in flight.
    Joined(InFlight),
    /// There is none. The caller runs it, calls [`TokenCache::complete`] however it ends, and publishes.
    Started(InFlight, Publisher),
}
