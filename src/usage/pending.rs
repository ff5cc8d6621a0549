//! What has been counted and is not on disk yet.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::addresses::Addresses;
use super::batch::{Batch, Description, Row};
use super::record::{LONGEST_ID, TokenRecord, token_key};

/// Days since 1970, in UTC.
pub type Day = u32;

/// How many tokens are kept while the ledger cannot be written, at most. More are not counted then.
pub const MOST_TOKENS: usize = 200_000;
/// How many counters, at most.
const MOST_COUNTERS: usize = 4_000_000;
/// How much is kept of what introspection told, in bytes: more than as many of Stockaj's tokens have.
const MOST_BYTES: usize = 256 * 1024 * 1024;

const DAY: u64 = 24 * 60 * 60;

/// The day of a moment.
pub fn day(at: SystemTime) -> Day {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (since.as_secs() / DAY) as Day
}

/// By token.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// By the key of the ledger, so that they are written and told in its order.
    tokens: BTreeMap<Box<[u8]>, PendingToken>,
    counters: usize,
    /// Of all descriptions.
    bytes: usize,
}

/// What one token did since the ledger was written.
#[derive(Clone, Debug)]
pub struct PendingToken {
    /// The token, as introspection described it last.
    pub token: Description,
    /// Milliseconds of the epoch.
    pub first_seen: i64,
    /// Milliseconds of the epoch.
    pub last_seen: i64,
    /// Each day's part.
    pub days: BTreeMap<Day, Counts>,
}

impl PendingToken {
    /// What is known of the token by now, with what was `known` before: the latest description, and when it was
    /// first and last seen. A time in the future is corrected by the ledger once the clock can be trusted.
    pub(super) fn record(&self, known: Option<&TokenRecord>) -> TokenRecord {
        let text = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string);
        let Description { name, context, workspace_id, abilities, created_at, expires_at, .. } = &self.token;
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

/// Requests of one token on one day.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By the process's rule and outcome in one number: [`super::batch::key`].
    pub by_key: HashMap<u32, u64>,
    /// By plain HTTP.
    pub plain_http: u64,
    /// Where they came from.
    pub addresses: Addresses,
}

impl Pending {
    /// Adds a core's batch, which belongs to the day on which it was begun. Says how many requests found no room.
    pub fn add(&mut self, batch: Batch) -> u64 {
        let began = batch.began;
        let today = day(began.1);
        let mut dropped = batch.dropped;
        for row in batch.rows {
            let known = self.tokens.contains_key(token_key(&row.token.id).as_slice());
            if row.token.id.len() <= LONGEST_ID && (known || self.has_room()) {
                dropped += self.add_row(row, began, today);
            } else {
                dropped += row.counts.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
            }
        }
        dropped
    }

    fn has_room(&self) -> bool {
        self.tokens.len() < MOST_TOKENS && self.counters < MOST_COUNTERS && self.bytes < MOST_BYTES
    }

    fn add_row(&mut self, row: Row, began: (Instant, SystemTime), today: Day) -> u64 {
        let first = wall(row.first, began);
        let last = wall(row.last, began);
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
            if size <= before || self.bytes < MOST_BYTES {
                self.bytes = self.bytes.saturating_sub(before) + size;
                entry.token = row.token;
            }
        }
        let counts = entry.days.entry(today).or_default();
        counts.plain_http = counts.plain_http.saturating_add(row.plain_http.into());
        counts.addresses.add(&row.addresses);
        let mut dropped = 0;
        for (key, count) in row.counts {
            let count = u64::from(count);
            match counts.by_key.entry(key) {
                Entry::Occupied(mut sum) => {
                    let sum = sum.get_mut();
                    *sum = sum.saturating_add(count);
                }
                Entry::Vacant(_) if self.counters >= MOST_COUNTERS => dropped += count,
                Entry::Vacant(sum) => {
                    self.counters += 1;
                    sum.insert(count);
                }
            }
        }
        dropped
    }

    /// Adds days of a token that were counted elsewhere.
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
            counts.addresses.add(&more.addresses);
            for (key, count) in more.by_key {
                let sum = counts.by_key.entry(key).or_insert_with(|| {
                    self.counters += 1;
                    0
                });
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// By id, numbers first and in their order.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &PendingToken)> {
        self.tokens.values().map(|token| (&*token.token.id, token))
    }

    /// Those of one token.
    pub fn token(&self, id: &str) -> Option<&PendingToken> {
        self.tokens.get(token_key(id).as_slice())
    }
}

/// A moment of the batch by the wall clock, in milliseconds of the epoch.
fn wall(at: Instant, (began, began_at): (Instant, SystemTime)) -> i64 {
    let at = match at.checked_duration_since(began) {
        Some(after) => began_at.checked_add(after),
        None => began_at.checked_sub(began.duration_since(at)),
    };
    at.map_or(0, milliseconds)
}

/// Milliseconds of the epoch; 0 for all before it.
pub fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Pending {
    /// So many requests of a token on a day, which was the last that it was seen on so far.
    pub fn note(&mut self, id: &str, on: Day, key: u32, count: u64) {
        let at = i64::from(on) * 24 * 60 * 60 * 1000;
        let token = Description {
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

    /// A core's batch of tokens with these ids, each of which did two things once.
    fn batch(ids: impl IntoIterator<Item = String>, ability: &str) -> Batch {
        let mut batch = Batch::new(1);
        let (now, abilities) = (batch.began.0, Abilities::new([ability]));
        batch.rows.extend(ids.into_iter().map(|id| {
            let token = Description {
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
    fn what_nobody_writes_is_bounded_whatever_introspection_tells() {
        let long = "a".repeat(64 * 1024);
        let mut pending = Pending::default();
        let ids = |range: std::ops::Range<u32>| range.map(|number| number.to_string());
        let most = (MOST_BYTES / long.len()) as u32;
        assert!(pending.add(batch(ids(0..most + 100), &long)) >= 200);
        assert!(pending.bytes <= MOST_BYTES + 2 * long.len(), "{}", pending.bytes);
        assert!(pending.tokens.len() > most as usize - 100);
        // Those that are known are still counted, and may shrink.
        let before = pending.bytes;
        assert_eq!(pending.add(batch(ids(0..100), &long)), 0);
        assert!(pending.bytes <= before);
        assert_eq!(pending.add(batch(ids(0..100), "a")), 0);
        assert!(pending.bytes < before - 99 * long.len());
        assert_eq!(pending.add(batch(["new".to_owned()], "a")), 0);
        assert_eq!(pending.add(batch(["i".repeat(LONGEST_ID + 1)], "a")), 2);
        assert!(pending.token(&"i".repeat(LONGEST_ID + 1)).is_none());
    }

    #[test]
    fn counters_that_nobody_writes_are_bounded() {
        let mut pending = Pending { counters: MOST_COUNTERS - 3, ..Pending::default() };
        assert_eq!(pending.add(batch(["1".to_owned(), "2".to_owned(), "3".to_owned()], "a")), 3);
        assert_eq!(pending.add(batch(["1".to_owned()], "a")), 0);
        assert_eq!(pending.counters, MOST_COUNTERS);
    }
}
