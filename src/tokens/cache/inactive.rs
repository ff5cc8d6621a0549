//! Tokens that are not active, which the cache keeps for `negative_ttl`.

use std::time::SystemTime;

use super::TokenCache;
use crate::policy::expected_claims::Claim;
use crate::tokens::hash::TokenHash;
use crate::tokens::revocation::Subject;

/// Why a token is not active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inactivity {
    /// Unknown or revoked.
    Inactive,
    /// Past its own expiry.
    Expired,
    /// Before its own `nbf`.
    NotYetValid,
    /// Issued for another service, by another issuer, or to another client.
    UnexpectedClaim(Claim),
    /// On the block list, whatever introspection said.
    Blocked,
}

/// A token that is not active.
#[derive(Clone, Copy, Debug)]
pub(super) struct InactiveEntry {
    why: Inactivity,
    /// The generation at which its introspection began.
    generation: u64,
    /// When the token becomes valid by its `nbf`, and so the end of this entry.
    valid_from: Option<SystemTime>,
    /// A number of the block list, read before the token was looked up in it: of its
    /// [removals](crate::tokens::blocklist::BlockList::removals) if it had the token, else of its
    /// [additions](crate::tokens::blocklist::BlockList::additions).
    block_changes: u64,
}

impl TokenCache {
    /// Whether it was found less than `negative_ttl` ago that the token is not active, and why.
    pub fn inactive(&self, hash: &TokenHash) -> Option<Inactivity> {
        let InactiveEntry { why, generation, valid_from, block_changes } = self.inactive.get(hash)?;
        let current = match why {
            Inactivity::Blocked => self.blocks.removals(),
            _ => self.blocks.additions(),
        };
        if block_changes != current || valid_from.is_some_and(|from| from <= SystemTime::now()) {
            return None;
        }
        let subject = Subject { hash, secret: None, id: None, written_id: None, name: None };
        (!self.revocations.is_revoked_since(generation, subject)).then_some(why)
    }

    /// Stores that a token is not active, by an introspection that began at `generation`. Returns the reason: `why`, or
    /// that the block list has it.
    pub fn store_inactive(&self, token: Subject<'_>, why: Inactivity, generation: u64) -> Inactivity {
        self.insert_unless_blocked(token, why, None, generation)
    }

    /// The same for a token that is not valid before `valid_from`.
    pub fn store_not_yet_valid(
        &self,
        token: Subject<'_>,
        valid_from: SystemTime,
        generation: u64,
    ) -> Inactivity {
        self.insert_unless_blocked(token, Inactivity::NotYetValid, Some(valid_from), generation)
    }

    fn insert_unless_blocked(
        &self,
        token: Subject<'_>,
        why: Inactivity,
        valid_from: Option<SystemTime>,
        generation: u64,
    ) -> Inactivity {
        // Read before the list: after a later addition the token is looked up again.
        let block_changes = self.blocks.additions();
        let blocked = self.blocked_entry(token, generation);
        let entry = blocked.unwrap_or(InactiveEntry { why, generation, valid_from, block_changes });
        self.insert_inactive(token.hash, entry)
    }

    pub(super) fn insert_inactive(&self, hash: &TokenHash, entry: InactiveEntry) -> Inactivity {
        self.forget_entry(hash);
        self.inactive.insert(*hash, entry);
        entry.why
    }

    /// The inactive entry of a blocked token; `None` if it is not blocked.
    pub(super) fn blocked_entry(&self, token: Subject<'_>, generation: u64) -> Option<InactiveEntry> {
        // Read before the list: a token that is unblocked meanwhile is looked up again.
        let block_changes = self.blocks.removals();
        let blocked = InactiveEntry { why: Inactivity::Blocked, generation, valid_from: None, block_changes };
        self.is_blocked(token).then_some(blocked)
    }
}
