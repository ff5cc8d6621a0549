//! What a core has counted since it last handed over: a row a token.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::addresses::Addresses;
use super::report::Verdict;
use crate::policy::ability::Abilities;

/// How many tokens a batch has at most. More are counted in the next one.
pub const MOST_TOKENS: usize = 16 * 1024;
/// How many counters a batch has at most.
pub(super) const MOST_COUNTERS: usize = 256 * 1024;
/// From how many bytes of descriptions on there is no room for a further token: as many as [`MOST_TOKENS`] of Stockaj's
/// have. What introspection tells of one may be long.
pub(super) const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How many different rules are counted for a token until the next batch.
const MOST_RULES: usize = 4096;

/// What introspection told of a token; a clone shares it.
#[derive(Clone, Debug)]
pub struct Description {
    /// The introspected id.
    pub id: Arc<str>,
    /// The name that its owner gave it.
    pub name: Option<Arc<str>>,
    /// User or instance, in the introspector's words.
    pub context: Option<Arc<str>>,
    /// The workspace that it belongs to.
    pub workspace_id: Option<Arc<str>>,
    /// What it may do.
    pub abilities: Abilities,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// From when on it is no longer valid.
    pub expires_at: Option<SystemTime>,
}

impl Description {
    /// About how much room it takes, in bytes.
    pub fn size(&self) -> usize {
        let texts = [&self.name, &self.context, &self.workspace_id].into_iter().flatten();
        let texts: usize = texts.map(|text| text.len()).sum();
        let abilities: usize = self.abilities.names().map(|name| name.len() + size_of::<Box<str>>()).sum();
        size_of::<Self>() + self.id.len() + texts + abilities
    }
}

/// What the map said of a request, and what another mode or map would have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Its token satisfies the requirement.
    Allowed = 0,
    /// It does not: 403.
    Denied = 1,
    /// As [`Outcome::Allowed`], and the candidate map would deny it.
    AllowedWouldDeny = 2,
    /// As [`Outcome::Denied`], and the candidate map would allow it, or shadow mode has let it pass.
    DeniedShadowed = 3,
}

impl Outcome {
    /// Those of a counter's key.
    pub const fn of(key: u32) -> Self {
        match key & 3 {
            0 => Self::Allowed,
            1 => Self::Denied,
            2 => Self::AllowedWouldDeny,
            _ => Self::DeniedShadowed,
        }
    }

    /// What the enforced map said.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Allowed | Self::AllowedWouldDeny => Verdict::Allowed,
            Self::Denied | Self::DeniedShadowed => Verdict::Denied,
        }
    }

    /// Whether another mode or map said otherwise.
    pub const fn is_shadowed(self) -> bool {
        matches!(self, Self::AllowedWouldDeny | Self::DeniedShadowed)
    }
}

/// One request of a token.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The rule that decided it, from [`super::rules::RuleNumbers`].
    pub rule: u32,
    /// What it came to.
    pub outcome: Outcome,
    /// Whose it was; none over a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether it came by plain HTTP, as far as that can be told.
    pub plain_http: bool,
    /// When it ended.
    pub now: Instant,
}

/// What a core has counted since the last one.
#[derive(Debug)]
pub struct Batch {
    /// Tells the slots of this batch from those of others.
    pub(super) epoch: u32,
    /// When its first request was counted, by both clocks.
    pub began: (Instant, SystemTime),
    /// A row a token.
    pub rows: Vec<Row>,
    by_id: HashMap<Arc<str>, u32>,
    pub(super) counters: usize,
    /// Of all descriptions.
    pub(super) bytes: usize,
    /// How many requests found no room.
    pub dropped: u64,
}

/// What one token did.
#[derive(Debug)]
pub struct Row {
    /// The token.
    pub token: Description,
    /// By rule and outcome, as [`key`] makes one of both.
    pub counts: Vec<(u32, u32)>,
    /// Requests by plain HTTP.
    pub plain_http: u32,
    /// Where they came from.
    pub addresses: Addresses,
    /// The first request's end.
    pub first: Instant,
    /// The last request's end.
    pub last: Instant,
    /// The address that was noted last, which most often is the next one's too.
    noted: Option<IpAddr>,
}

#[cfg(test)]
impl Row {
    /// What a token did at one moment.
    pub fn with_counts(token: Description, counts: Vec<(u32, u32)>, at: Instant) -> Self {
        let addresses = Addresses::default();
        Self { token, counts, plain_http: 0, addresses, first: at, last: at, noted: None }
    }
}

/// A rule and an outcome in one number.
pub const fn key(rule: u32, outcome: Outcome) -> u32 {
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

    /// Counts a request, and says whether the batch has grown. `slot` is where its token was counted last.
    pub(super) fn count(
        &mut self,
        slot: &Cell<u64>,
        request: &Request,
        describe: impl FnOnce() -> Description,
    ) -> bool {
        let known = slot.get();
        let index =
            if (known >> 32) as u32 == self.epoch { known as u32 } else { self.seat(request.now, describe) };
        let Some(row) = self.rows.get_mut(index as usize) else {
            self.dropped += 1;
            return false;
        };
        slot.set(u64::from(self.epoch) << 32 | u64::from(index));
        row.last = request.now;
        row.plain_http += u32::from(request.plain_http);
        if row.noted != request.client
            && let Some(address) = request.client
        {
            row.noted = request.client;
            row.addresses.note(address);
        }
        let key = key(request.rule, request.outcome);
        if let Some((_, count)) = row.counts.iter_mut().find(|(known, _)| *known == key) {
            *count = count.saturating_add(1);
            return false;
        }
        if row.counts.len() == MOST_RULES || self.counters >= MOST_COUNTERS {
            self.dropped += 1;
            return false;
        }
        row.counts.push((key, 1));
        self.counters += 1;
        true
    }

    /// The index of a token's row; beyond the last where there is no room for one.
    #[cold]
    fn seat(&mut self, now: Instant, describe: impl FnOnce() -> Description) -> u32 {
        let token = describe();
        if let Some(index) = self.by_id.get(&token.id) {
            if let Some(row) = self.rows.get_mut(*index as usize) {
                // Another spelling, or a later verdict.
                self.bytes = self.bytes.saturating_sub(row.token.size()) + token.size();
                row.token = token;
            }
            return *index;
        }
        if self.rows.is_empty() {
            // A core may have had nothing to count for days.
            self.began = (Instant::now(), SystemTime::now());
        }
        let index = self.rows.len() as u32;
        if self.rows.len() < MOST_TOKENS && self.bytes < MOST_BYTES {
            self.bytes += token.size();
            self.by_id.insert(Arc::clone(&token.id), index);
            self.rows.push(Row {
                token,
                counts: Vec::new(),
                plain_http: 0,
                addresses: Addresses::default(),
                first: now,
                last: now,
                noted: None,
            });
        }
        index
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MOST_TOKENS || self.counters >= MOST_COUNTERS || self.bytes >= MOST_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.dropped == 0
    }
}
