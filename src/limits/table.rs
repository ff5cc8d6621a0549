//! Values by key, for all cores, and no more of them than are of use.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

/// So many parts with a lock each: a sweep holds up a small part of those who ask.
const SHARDS: usize = 16;

/// How many values a shard has before it is first swept.
const LEAST_ROOM: usize = 64;

/// Values by key. Where a shard has no room for another, what is idle goes first: the sweeps cost, spread
/// over the insertions, a constant for each.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    /// The most values of a shard.
    most: usize,
}

#[derive(Debug)]
struct Shard<K, V> {
    values: HashMap<K, V>,
    room: usize,
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// An empty table, for `most` values at most. A shard that is full of values in use forgets them all.
    pub(super) fn new(most: usize) -> Self {
        let shard = |_| Mutex::new(Shard { values: HashMap::new(), room: LEAST_ROOM });
        Self {
            shards: std::array::from_fn(shard),
            hasher: RandomState::new(),
            most: (most / SHARDS).max(LEAST_ROOM),
        }
    }

    /// What `then` makes of the value of `key`, which is a `new` one where there is none. A value `is_idle`
    /// when it is no more than a new one and nobody holds it.
    pub(super) fn with<T>(
        &self,
        key: K,
        new: impl FnOnce() -> V,
        is_idle: impl Fn(&V) -> bool,
        then: impl FnOnce(&V) -> T,
    ) -> T {
        let number = self.hasher.hash_one(&key) as usize % SHARDS;
        let mut shard = self.shards[number].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = shard.values.get(&key) {
            return then(value);
        }
        if shard.values.len() >= shard.room {
            self.make_room(&mut shard, is_idle);
        }
        then(shard.values.entry(key).or_insert_with(new))
    }

    fn make_room(&self, shard: &mut Shard<K, V>, is_idle: impl Fn(&V) -> bool) {
        let Shard { values, room } = shard;
        values.retain(|_, value| !is_idle(value));
        if values.len() >= self.most {
            values.clear();
        }
        *room = values.len().saturating_mul(2).clamp(LEAST_ROOM, self.most);
        values.shrink_to(*room);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().values.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_idle_goes_and_the_rest_stays() {
        let table: Table<u32, Cell<bool>> = Table::new(usize::MAX);
        for key in 0..1000 {
            table.with(key, || Cell::new(false), Cell::get, |_| ());
        }
        for key in 1000..500_000 {
            table.with(key, || Cell::new(true), Cell::get, |_| ());
        }
        assert!((1000..6000).contains(&table.len()), "{}", table.len());
        for key in 0..1000 {
            table.with(key, || panic!("{key} is gone"), Cell::get, |_| ());
        }
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let table: Table<u32, ()> = Table::new(32_000);
        let mut largest = 0;
        for key in 0..500_000 {
            table.with(key, || (), |()| false, |()| ());
            if key % 1000 == 0 {
                largest = largest.max(table.len());
            }
        }
        assert!((16_000..=32_000).contains(&largest), "{largest}");
    }
}
