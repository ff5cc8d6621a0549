//! The verdict of an introspection.

use std::sync::Arc;
use std::time::SystemTime;

use crate::limits::tokens::TokenIdentity;
use crate::policy::ability::Abilities;
use crate::policy::decision::TokenRights;
use crate::policy::network::Networks;

/// The counters of an [`Arc`], and the rounding of the allocator, in bytes.
pub(super) const ALLOCATION: usize = 24;

/// An active token, as introspected. The cache stores it; decisions are made anew for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The introspected id, by which limits, reports and revocations identify the token in every spelling. If the
    /// introspector returns none, the hex SHA-256 of the token.
    pub id: Arc<str>,
    /// The name, which its owner chose.
    pub name: Option<Arc<str>>,
    /// The abilities.
    pub abilities: Abilities,
    /// The expiry; `None` if it does not expire.
    pub expires_at: Option<SystemTime>,
    /// User or instance, as the introspector calls it.
    pub context: Option<Arc<str>>,
    /// The creation time.
    pub created_at: Option<SystemTime>,
    /// The workspace.
    pub workspace_id: Option<Arc<str>>,
    /// The networks that its requests must come from; `None` if they may come from anywhere.
    pub allowed_from: Option<Networks>,
}

impl Verdict {
    /// Shares the memory of the parts that are equal in `previous`, since requests in flight may hold many verdicts of
    /// one token.
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
        share(&mut self.allowed_from, &previous.allowed_from);
    }

    /// What decisions need.
    #[inline]
    pub const fn rights(&self) -> TokenRights<'_> {
        TokenRights { abilities: &self.abilities, allowed_from: self.allowed_from.as_ref() }
    }

    /// The token, as limits identify it.
    pub fn identity(&self) -> TokenIdentity<'_> {
        let Self { id, name, workspace_id, .. } = self;
        TokenIdentity { id, name: name.as_deref(), workspace_id: workspace_id.as_deref() }
    }

    /// The approximate heap size of its texts and lists, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let texts = [Some(&self.id), self.name.as_ref(), self.context.as_ref(), self.workspace_id.as_ref()];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len() + ALLOCATION).sum();
        let names = self.abilities.names();
        let networks = self.allowed_from.as_ref().map_or(0, |networks| networks.heap_bytes() + ALLOCATION);
        texts
            + networks
            + names.map(|name| size_of::<Box<str>>() + name.len() + ALLOCATION / 2).sum::<usize>()
    }

    /// Whether the token has expired.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= now)
    }
}
