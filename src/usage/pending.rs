//! The counted usage that is not written to the ledger yet.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::addresses::AddressSketch;
use super::batch::{Batch, Row, TokenDescription};
use super::record::{MAX_ID_BYTES, TokenRecord, token_key};

/// Days since 1970, in UTC.
pub type Day = u32;

/// The most tokens kept while the ledger cannot be written. Further tokens are not counted.
pub const MAX_TOKENS: usize = 200_000;
/// The most counters.
const MAX_COUNTERS: usize = 4_000_000;
/// The maximum total size of the token descriptions, in bytes: more than [`MAX_TOKENS`] tokens of Stockaj have.
const MAX_BYTES: usize = 256 * 1024 * 1024;

const DAY: u64 = 24 * 60 * 60;

/// The day of `at`.
pub fn day(at: SystemTime) -> Day {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (since.as_secs() / DAY) as Day
}

/// Unwritten usage by token.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// By the keys of the ledger, so that the order is the same.
    tokens: BTreeMap<Box<[u8]>, PendingToken>,
    counters: usize,
    /// The total size of the descriptions, in bytes.
    bytes: usize,
}

/// The unwritten usage of one token.
#[derive(Clone, Debug)]
pub struct PendingToken {
    /// The latest description.
    pub token: TokenDescription,
    /// In milliseconds since 1970.
    pub first_seen: i64,
    /// In milliseconds since 1970.
    pub last_seen: i64,
    /// Counts by day.
    pub days: BTreeMap<Day, Counts>,
}

impl PendingToken {
    /// The record to write, given the `known` one. A last use in the future is corrected later, once the clock can be
    /// trusted.
    pub(super) fn record(&self, known: Option<&TokenRecord>) -> TokenRecord {
        let text = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string);
        let TokenDescription { name, context, workspace_id, abilities, created_at, expires_at, .. } =
            &self.token;
        TokenRecord {
            name: text(name),
            context: text(context),
            workspace_id: text(workspace_id),
            abilities: abilities.names().map(str::to_owned).collect(),
            created_at: created_at.map(milliseconds),
            expires_at: expires_at.map(milliseconds),
            first_seen: known.map_or(self.first_seen, |it| it.first_seen.min(self.first_seen)),
            last_seen: known.map_or(self.last_seen, |it| it.last_seen.max(self.last_seen)),
        }
    }
}

/// The requests of one token on one day.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Counts by rule and outcome ([`super::batch::key`]), with the rule numbers of this process.
    pub by_key: HashMap<u32, u64>,
    /// The number of requests over plain HTTP.
    pub plain_http: u64,
    /// The number of requests from outside the networks of their token or route.
    pub wrong_network: u64,
    /// The client addresses.
    pub addresses: AddressSketch,
}

impl Pending {
    /// Adds a batch, which counts for the day of its first request. Returns the number of requests that were dropped
    /// for lack of room.
    pub fn add(&mut self, batch: Batch) -> u64 {
        let began = batch.began;
        let today = day(began.1);
        let mut dropped = batch.dropped;
        for row in batch.rows {
            let known = self.tokens.contains_key(token_key(&row.token.id).as_slice());
            if row.token.id.len() <= MAX_ID_BYTES && (known || self.has_room()) {
                dropped += self.add_row(row, began, today);
            } else {
                dropped += row.counts.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
            }
        }
        dropped
    }

    fn has_room(&self) -> bool {
        self.tokens.len() < MAX_TOKENS && self.counters < MAX_COUNTERS && self.bytes < MAX_BYTES
    }

    fn add_row(&mut self, row: Row, began: (Instant, SystemTime), today: Day) -> u64 {
        let first = wall_clock(row.first, began);
        let last = wall_clock(row.last, began);
        let size = row.token.size();
        let entry = self.tokens.entry(token_key(&row.token.id).into()).or_insert_with(|| {
            self.bytes += size;
            PendingToken {
                token: row.token.clone(),
                first_seen: first,
                last_seen: last,
                days: BTreeMap::new(),
            }
        });
        entry.first_seen = entry.first_seen.min(first);
        if last >= entry.last_seen {
            entry.last_seen = last;
            let before = entry.token.size();
            if size <= before || self.bytes < MAX_BYTES {
                self.bytes = self.bytes.saturating_sub(before) + size;
                entry.token = row.token;
            }
        }
        let counts = entry.days.entry(today).or_default();
        counts.plain_http = counts.plain_http.saturating_add(row.plain_http.into());
        counts.wrong_network = counts.wrong_network.saturating_add(row.wrong_network.into());
        counts.addresses.merge(&row.addresses);
        let mut dropped = 0;
        for (key, count) in row.counts {
            let count = u64::from(count);
            match counts.by_key.entry(key) {
                Entry::Occupied(mut sum) => {
                    let sum = sum.get_mut();
                    *sum = sum.saturating_add(count);
                }
                Entry::Vacant(_) if self.counters >= MAX_COUNTERS => dropped += count,
                Entry::Vacant(sum) => {
                    self.counters += 1;
                    sum.insert(count);
                }
            }
        }
        dropped
    }

    /// Adds the usage of a token that was computed elsewhere.
    pub fn insert(&mut self, other: PendingToken) {
        let key: Box<[u8]> = token_key(&other.token.id).into();
        let Some(known) = self.tokens.get_mut(&key) else {
            self.counters += other.days.values().map(|counts| counts.by_key.len()).sum::<usize>();
            self.tokens.insert(key, other);
            return;
        };
        known.first_seen = known.first_seen.min(other.first_seen);
        known.last_seen = known.last_seen.max(other.last_seen);
        for (day, more) in other.days {
            let counts = known.days.entry(day).or_default();
            counts.plain_http = counts.plain_http.saturating_add(more.plain_http);
            counts.wrong_network = counts.wrong_network.saturating_add(more.wrong_network);
            counts.addresses.merge(&more.addresses);
            for (key, count) in more.by_key {
                let sum = counts.by_key.entry(key).or_insert_with(|| {
                    self.counters += 1;
                    0
                });
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens in the order of the ledger: numeric ids first and in numeric order.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &PendingToken)> {
        self.tokens.values().map(|token| (&*token.token.id, token))
    }

    /// The token with this id.
    pub fn token(&self, id: &str) -> Option<&PendingToken> {
        self.tokens.get(token_key(id).as_slice())
    }
}

/// Converts an instant of the batch, in milliseconds since 1970.
fn wall_clock(at: Instant, (began, began_at): (Instant, SystemTime)) -> i64 {
    let at = match at.checked_duration_since(began) {
        Some(after) => began_at.checked_add(after),
        None => began_at.checked_sub(began.duration_since(at)),
    };
    at.map_or(0, milliseconds)
}

/// Milliseconds since 1970; 0 before.
pub fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Pending {
    /// Adds `count` requests of a token on a day.
    pub fn insert_count(&mut self, id: &str, on: Day, key: u32, count: u64) {
        let at = i64::from(on) * 24 * 60 * 60 * 1000;
        let token = TokenDescription {
            id: id.into(),
            name: Some(format!("{id}-prod").into()),
            context: None,
            workspace_id: None,
            abilities: crate::policy::ability::Abilities::new(["a"]),
            created_at: None,
            expires_at: None,
        };
        let token = PendingToken { token, first_seen: at, last_seen: at, days: BTreeMap::new() };
        let token = self.tokens.entry(token_key(id).into()).or_insert(token);
        token.first_seen = token.first_seen.min(at);
        token.last_seen = token.last_seen.max(at);
        *token.days.entry(on).or_default().by_key.entry(key).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::Abilities;

    /// A batch of tokens with these ids, each with two counters of one request.
    fn batch(ids: impl IntoIterator<Item = String>, ability: &str) -> Batch {
        let mut batch = Batch::new(1);
        let (now, abilities) = (batch.began.0, Abilities::new([ability]));
        batch.rows.extend(ids.into_iter().map(|id| {
            let token = TokenDescription {
                id: id.into(),
                name: None,
                context: None,
                workspace_id: None,
                abilities: abilities.clone(),
                created_at: None,
                expires_at: None,
            };
            Row::with_counts(token, vec![(4, 1), (8, 1)], now)
        }));
        batch
    }

    #[test]
    fn pending_descriptions_are_bounded_in_bytes() {
        let long = "a".repeat(64 * 1024);
        let mut pending = Pending::default();
        let ids = |range: std::ops::Range<u32>| range.map(|number| number.to_string());
        let max = (MAX_BYTES / long.len()) as u32;
        assert!(pending.add(batch(ids(0..max + 100), &long)) >= 200);
        assert!(pending.bytes <= MAX_BYTES + 2 * long.len(), "{}", pending.bytes);
        assert!(pending.tokens.len() > max as usize - 100);
        // Known tokens are still counted, and their descriptions may shrink.
        let before = pending.bytes;
        assert_eq!(pending.add(batch(ids(0..100), &long)), 0);
        assert!(pending.bytes <= before);
        assert_eq!(pending.add(batch(ids(0..100), "a")), 0);
        assert!(pending.bytes < before - 99 * long.len());
        assert_eq!(pending.add(batch(["new".to_owned()], "a")), 0);
        assert_eq!(pending.add(batch(["i".repeat(MAX_ID_BYTES + 1)], "a")), 2);
        assert!(pending.token(&"i".repeat(MAX_ID_BYTES + 1)).is_none());
    }

    #[test]
    fn pending_counters_are_bounded() {
        let mut pending = Pending { counters: MAX_COUNTERS - 3, ..Pending::default() };
        assert_eq!(pending.add(batch(["1".to_owned(), "2".to_owned(), "3".to_owned()], "a")), 3);
        assert_eq!(pending.add(batch(["1".to_owned()], "a")), 0);
        assert_eq!(pending.counters, MAX_COUNTERS);
    }
}
