//! The requests that a worker has counted since its last batch, with one row per token.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::addresses::AddressSketch;
use super::report::Verdict;
use crate::policy::ability::Abilities;

/// The most tokens in a batch. Further tokens are counted in the next one.
pub const MAX_TOKENS: usize = 16 * 1024;
/// The most counters in a batch.
pub(super) const MAX_COUNTERS: usize = 256 * 1024;
/// A batch whose descriptions exceed this size, in bytes, accepts no further tokens. It suffices for [`MAX_TOKENS`]
/// tokens of Stockaj, but an introspection endpoint may send long descriptions.
pub(super) const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most rules counted per token and batch.
const MAX_RULES: usize = 4096;

/// The introspected fields of a token. Clones share their texts.
#[derive(Clone, Debug)]
pub struct TokenDescription {
    /// The introspected id.
    pub id: Arc<str>,
    /// The name chosen by its owner.
    pub name: Option<Arc<str>>,
    /// User or instance, as the introspection endpoint calls it.
    pub context: Option<Arc<str>>,
    /// The workspace of the token.
    pub workspace_id: Option<Arc<str>>,
    /// The abilities of the token.
    pub abilities: Abilities,
    /// When the token was created.
    pub created_at: Option<SystemTime>,
    /// When the token expires.
    pub expires_at: Option<SystemTime>,
}

impl TokenDescription {
    /// The approximate size in bytes.
    pub fn size(&self) -> usize {
        let texts = [&self.name, &self.context, &self.workspace_id].into_iter().flatten();
        let texts: usize = texts.map(|text| text.len()).sum();
        let abilities: usize = self.abilities.names().map(|name| name.len() + size_of::<Box<str>>()).sum();
        size_of::<Self>() + self.id.len() + texts + abilities
    }
}

/// The decision of the enforced map, and whether the candidate map or shadow mode differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CountedOutcome {
    /// The token satisfies the requirement.
    Allowed = 0,
    /// The token does not satisfy the requirement: 403.
    Denied = 1,
    /// Allowed, but the candidate map would deny it.
    AllowedWouldDeny = 2,
    /// Denied, but the candidate map would allow it, or shadow mode let it pass.
    DeniedShadowed = 3,
}

impl CountedOutcome {
    /// The outcome in a key of [`key`].
    pub const fn from_key(key: u32) -> Self {
        match key & 3 {
            0 => Self::Allowed,
            1 => Self::Denied,
            2 => Self::AllowedWouldDeny,
            _ => Self::DeniedShadowed,
        }
    }

    /// The decision of the enforced map.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Allowed | Self::AllowedWouldDeny => Verdict::Allowed,
            Self::Denied | Self::DeniedShadowed => Verdict::Denied,
        }
    }

    /// Whether the candidate map or shadow mode differs.
    pub const fn is_shadowed(self) -> bool {
        matches!(self, Self::AllowedWouldDeny | Self::DeniedShadowed)
    }
}

/// A request to count.
#[derive(Clone, Copy, Debug)]
pub struct CountedRequest {
    /// The number of the rule that decided, from [`super::rules::RuleNumbers`].
    pub rule: u32,
    /// The decision.
    pub outcome: CountedOutcome,
    /// The client address; `None` over a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether it came over plain HTTP, as far as the gateway knows.
    pub plain_http: bool,
    /// Whether it came from outside the networks of its token or route.
    pub wrong_network: bool,
    /// When the request ended.
    pub now: Instant,
}

/// The counts of one worker.
#[derive(Debug)]
pub struct Batch {
    /// Identifies the batch in the slots of tokens.
    pub(super) epoch: u32,
    /// The time of the first request, by both clocks.
    pub began: (Instant, SystemTime),
    /// One row per token.
    pub rows: Vec<Row>,
    by_id: HashMap<Arc<str>, u32>,
    pub(super) counters: usize,
    /// The total size of the descriptions, in bytes.
    pub(super) bytes: usize,
    /// The number of requests that were not counted for lack of room.
    pub dropped: u64,
}

/// The requests of one token.
#[derive(Debug)]
pub struct Row {
    /// The latest description of the token.
    pub token: TokenDescription,
    /// Pairs of a [`key`] and its count.
    pub counts: Vec<(u32, u32)>,
    /// The number of requests over plain HTTP.
    pub plain_http: u32,
    /// The number of requests from outside the networks of their token or route.
    pub wrong_network: u32,
    /// The client addresses.
    pub addresses: AddressSketch,
    /// The end of the first request.
    pub first: Instant,
    /// The end of the last request.
    pub last: Instant,
    /// The last inserted address. Most often it is also the next one.
    last_address: Option<IpAddr>,
}

#[cfg(test)]
impl Row {
    /// A row whose requests all ended at `at`.
    pub fn with_counts(token: TokenDescription, counts: Vec<(u32, u32)>, at: Instant) -> Self {
        let addresses = AddressSketch::default();
        Self {
            token,
            counts,
            plain_http: 0,
            wrong_network: 0,
            addresses,
            first: at,
            last: at,
            last_address: None,
        }
    }
}

/// Packs a rule number and an outcome into one number.
pub const fn key(rule: u32, outcome: CountedOutcome) -> u32 {
    (rule << 2) | outcome as u32
}

impl Batch {
    pub(super) fn new(epoch: u32) -> Self {
        Self {
            epoch,
            began: (Instant::now(), SystemTime::now()),
            rows: Vec::new(),
            by_id: HashMap::new(),
            counters: 0,
            bytes: 0,
            dropped: 0,
        }
    }

    /// Counts a request. Returns whether the batch has grown. `slot` holds the epoch of a batch and the index of the
    /// row of the token in it.
    pub(super) fn count(
        &mut self,
        slot: &Cell<u64>,
        request: &CountedRequest,
        describe: impl FnOnce() -> TokenDescription,
    ) -> bool {
        let stored = slot.get();
        let index = if (stored >> 32) as u32 == self.epoch {
            stored as u32
        } else {
            self.row_index(request.now, describe)
        };
        let Some(row) = self.rows.get_mut(index as usize) else {
            self.dropped += 1;
            return false;
        };
        slot.set(u64::from(self.epoch) << 32 | u64::from(index));
        row.last = request.now;
        row.plain_http += u32::from(request.plain_http);
        row.wrong_network += u32::from(request.wrong_network);
        if row.last_address != request.client
            && let Some(address) = request.client
        {
            row.last_address = request.client;
            row.addresses.insert(address);
        }
        self.add(index, key(request.rule, request.outcome))
    }

    /// Counts the rule of a query parameter, for the request that was counted just before. Returns whether the batch has
    /// grown.
    pub(super) fn count_parameter(&mut self, slot: &Cell<u64>, rule: u32, outcome: CountedOutcome) -> bool {
        let stored = slot.get();
        (stored >> 32) as u32 == self.epoch && self.add(stored as u32, key(rule, outcome))
    }

    /// Increments the counter of `key` in a row. Returns whether the batch has grown.
    fn add(&mut self, index: u32, key: u32) -> bool {
        let Some(row) = self.rows.get_mut(index as usize) else { return false };
        if let Some((_, count)) = row.counts.iter_mut().find(|(stored, _)| *stored == key) {
            *count = count.saturating_add(1);
            return false;
        }
        if row.counts.len() == MAX_RULES || self.counters >= MAX_COUNTERS {
            self.dropped += 1;
            return false;
        }
        row.counts.push((key, 1));
        self.counters += 1;
        true
    }

    /// The index of the row of a token, or an index past the end if there is no room for it.
    #[cold]
    fn row_index(&mut self, now: Instant, describe: impl FnOnce() -> TokenDescription) -> u32 {
        let token = describe();
        if let Some(index) = self.by_id.get(&token.id) {
            if let Some(row) = self.rows.get_mut(*index as usize) {
                // Another spelling of the token, or a newer verdict.
                self.bytes = self.bytes.saturating_sub(row.token.size()) + token.size();
                row.token = token;
            }
            return *index;
        }
        if self.rows.is_empty() {
            // The worker may have been idle for days.
            self.began = (Instant::now(), SystemTime::now());
        }
        let index = self.rows.len() as u32;
        if self.rows.len() < MAX_TOKENS && self.bytes < MAX_BYTES {
            self.bytes += token.size();
            self.by_id.insert(Arc::clone(&token.id), index);
            self.rows.push(Row {
                token,
                counts: Vec::new(),
                plain_http: 0,
                wrong_network: 0,
                addresses: AddressSketch::default(),
                first: now,
                last: now,
                last_address: None,
            });
        }
        index
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_TOKENS || self.counters >= MAX_COUNTERS || self.bytes >= MAX_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.dropped == 0
    }
}
