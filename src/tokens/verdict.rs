//! What introspection said about a token.

use std::sync::Arc;
use std::time::SystemTime;

use crate::policy::ability::Abilities;

/// An active token, as the introspector described it. It is what the cache holds; what it allows is decided
/// anew for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The introspected id: what limits, reports and revocation know the token by, however it was spelled.
    /// Where the introspector named none, the hex of the token's SHA-256.
    pub id: Arc<str>,
    /// The name that its owner gave it.
    pub name: Option<Arc<str>>,
    /// What it may do.
    pub abilities: Abilities,
    /// From when on it is no longer valid; none: it does not expire.
    pub expires_at: Option<SystemTime>,
    /// User or instance, in the introspector's words.
    pub context: Option<Arc<str>>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// The workspace that it belongs to.
    pub workspace_id: Option<Arc<str>>,
}

impl Verdict {
    /// Takes over the parts of `previous` that are equal, so that they are in memory once. Requests in flight may hold
    /// many verdicts of one token.
    pub fn share(&mut self, previous: &Self) {
        fn share<T: Clone + PartialEq>(own: &mut T, previous: &T) {
            if own == previous {
                own.clone_from(previous);
            }
        }
        share(&mut self.id, &previous.id);
        share(&mut self.name, &previous.name);
        share(&mut self.abilities, &previous.abilities);
        share(&mut self.context, &previous.context);
        share(&mut self.workspace_id, &previous.workspace_id);
    }

    /// About how many bytes its texts take on the heap.
    pub fn heap_bytes(&self) -> usize {
        /// The counters of an [`Arc`], and what the allocator adds by rounding up.
        const ALLOCATION: usize = 24;
        let texts = [Some(&self.id), self.name.as_ref(), self.context.as_ref(), self.workspace_id.as_ref()];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len() + ALLOCATION).sum();
        let names = self.abilities.names();
        texts + names.map(|name| size_of::<Box<str>>() + name.len() + ALLOCATION / 2).sum::<usize>()
    }

    /// Whether the token's own expiry has been reached.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }
}
