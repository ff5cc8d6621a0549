//! Which spellings of a token are cached.
//!
//! `17|secret`, `0017|secret` and `secret` are one token in Sanctum, and each has a verdict of its own, since the
//! introspector alone knows what a spelling is worth. Only so many are kept that a token cannot fill the cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::CacheEntry;

/// How many spellings of one introspected id are cached. A client uses one.
pub(super) const MAX_SPELLINGS: usize = 8;

/// The cached entries by introspected id.
#[derive(Debug, Default)]
pub(super) struct Spellings {
    by_id: Mutex<HashMap<Arc<str>, Vec<Arc<CacheEntry>>>>,
}

impl Spellings {
    /// Adds the entry of a spelling in place of its earlier one. Returns the oldest spelling if it has to go.
    pub(super) fn add(&self, entry: &Arc<CacheEntry>) -> Option<Arc<CacheEntry>> {
        let mut by_id = self.lock();
        // Few tokens have a second spelling.
        let known = by_id.entry(Arc::clone(&entry.verdict.id)).or_insert_with(|| Vec::with_capacity(1));
        known.retain(|other| other.hash != entry.hash);
        let oldest = (known.len() >= MAX_SPELLINGS).then(|| known.remove(0));
        known.push(Arc::clone(entry));
        oldest
    }

    /// Removes an entry that has left the cache.
    pub(super) fn remove(&self, entry: &Arc<CacheEntry>) {
        let mut by_id = self.lock();
        if let Some(known) = by_id.get_mut(&entry.verdict.id) {
            known.retain(|other| !Arc::ptr_eq(other, entry));
            if known.is_empty() {
                by_id.remove(&entry.verdict.id);
            }
        }
    }

    /// The latest entry of a token.
    pub(super) fn latest(&self, id: &str) -> Option<Arc<CacheEntry>> {
        self.lock().get(id)?.last().cloned()
    }

    /// Every entry of a token.
    pub(super) fn of(&self, id: &str) -> Vec<Arc<CacheEntry>> {
        self.lock().get(id).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Arc<CacheEntry>>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
