//! Tokens that are not active, which the cache keeps for `negative_ttl`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use jiff::Timestamp;

use super::TokenCache;
use crate::policy::expected_claims::Claim;
use crate::tokens::blocklist::record::BlockSubject;
use crate::tokens::hash::TokenHash;
use crate::tokens::revocation::Subject;
use crate::tokens::verdict::ALLOCATION;

/// Memory of an inactive entry without what blocks select its token by, in bytes: the entry, its allocations, and moka's
/// nodes.
pub(super) const INACTIVE_BYTES: u64 = 472;

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
#[derive(Debug)]
pub(super) struct InactiveEntry {
    why: Inactivity,
    /// The generation at which its introspection began.
    generation: u64,
    /// When the token becomes valid by its `nbf`, and so the end of this entry.
    valid_from: Option<SystemTime>,
    /// A number of the block list, read before the token was last looked up in it: of its
    /// [removals](crate::tokens::blocklist::BlockList::removals) if it had the token, else of its
    /// [additions](crate::tokens::blocklist::BlockList::additions).
    block_changes: AtomicU64,
    /// The properties by which blocks select the token. An id that is only the hash of its text is left out.
    subjects: Box<[BlockSubject]>,
}

impl InactiveEntry {
    fn new(token: Subject<'_>, why: Inactivity, generation: u64, block_changes: u64) -> Self {
        let own_id = String::from(*token.hash);
        let ids = [token.id, token.written_id].into_iter().flatten().filter(|id| **id != own_id);
        let secret = token.secret.map(|secret| BlockSubject::Token(*secret));
        let name = token.name.and_then(BlockSubject::of_name);
        let subjects = ids.filter_map(BlockSubject::of_id).chain(secret).chain(name).collect();
        Self { why, generation, valid_from: None, block_changes: block_changes.into(), subjects }
    }

    /// Estimated memory with moka's share, in bytes.
    pub(super) fn bytes(&self) -> u32 {
        let text = |subject: &BlockSubject| match subject {
            BlockSubject::Id(id) => id.len() + ALLOCATION,
            BlockSubject::Name(_) | BlockSubject::Token(_) => 0,
        };
        let texts: usize = self.subjects.iter().map(text).sum();
        let bytes = INACTIVE_BYTES + (size_of_val(&*self.subjects) + texts) as u64;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl TokenCache {
    /// Whether it was found less than `negative_ttl` ago that the token is not active, and why.
    pub fn inactive(&self, hash: &TokenHash) -> Option<Inactivity> {
        let entry = self.inactive.get(hash)?;
        let is_valid = entry.valid_from.is_some_and(|from| from <= SystemTime::now());
        if is_valid || !self.agrees_with_blocks(hash, &entry) {
            return None;
        }
        let subject = Subject { hash, secret: None, id: None, written_id: None, name: None };
        (!self.revocations.is_revoked_since(entry.generation, subject)).then_some(entry.why)
    }

    /// Whether the block list still has the token of `entry`, or still does not have it. Looks it up only after the list
    /// has changed.
    fn agrees_with_blocks(&self, hash: &TokenHash, entry: &InactiveEntry) -> bool {
        let was_blocked = entry.why == Inactivity::Blocked;
        // Read before the list: after a later change the token is looked up again.
        let changes = if was_blocked { self.blocks.removals() } else { self.blocks.additions() };
        if entry.block_changes.load(Ordering::Relaxed) == changes {
            return true;
        }
        let own_id = BlockSubject::of_id(&String::from(*hash));
        if self.blocks.blocks_any(entry.subjects.iter().chain(&own_id), Timestamp::now()) != was_blocked {
            return false;
        }
        entry.block_changes.fetch_max(changes, Ordering::Relaxed);
        true
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
        let additions = self.blocks.additions();
        let entry = self.blocked_entry(token, generation).unwrap_or_else(|| InactiveEntry {
            valid_from,
            ..InactiveEntry::new(token, why, generation, additions)
        });
        self.insert_inactive(token.hash, entry)
    }

    pub(super) fn insert_inactive(&self, hash: &TokenHash, entry: InactiveEntry) -> Inactivity {
        let why = entry.why;
        self.forget_entry(hash);
        self.inactive.insert(*hash, Arc::new(entry));
        why
    }

    /// The inactive entry of a blocked token; `None` if it is not blocked.
    pub(super) fn blocked_entry(&self, token: Subject<'_>, generation: u64) -> Option<InactiveEntry> {
        // Read before the list: a token that is unblocked meanwhile is looked up again.
        let removals = self.blocks.removals();
        let is_blocked = self.is_blocked(token);
        is_blocked.then(|| InactiveEntry::new(token, Inactivity::Blocked, generation, removals))
    }
}
