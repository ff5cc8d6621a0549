//! A sharded hash table that drops idle values.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

/// Each shard has its own lock, so that a sweep blocks one sixteenth of the requests.
const SHARDS: usize = 16;

/// The number of values that a shard holds before its first sweep.
const MIN_CAPACITY: usize = 64;

/// A concurrent map. A full shard first drops its idle values. Sweeps have amortised constant cost per insertion.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    /// The maximum number of values in a shard.
    max: usize,
}

#[derive(Debug)]
struct Shard<K, V> {
    values: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Creates an empty table for at most `max` values. A shard whose values are all in use is cleared when it is
    /// full.
    pub(super) fn new(max: usize) -> Self {
        let shard = |_| Mutex::new(Shard { values: HashMap::new(), capacity: MIN_CAPACITY });
        Self {
            shards: std::array::from_fn(shard),
            hasher: RandomState::new(),
            max: (max / SHARDS).max(MIN_CAPACITY),
        }
    }

    /// Passes the value of `key` to `then`, and inserts `new()` first if there is none. `is_idle` must return `true`
    /// only if nothing holds the value and it equals a new one.
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
        if shard.values.len() >= shard.capacity {
            self.sweep(&mut shard, is_idle);
        }
        then(shard.values.entry(key).or_insert_with(new))
    }

    /// Passes every value to `then`, locking a shard at a time.
    pub(super) fn for_each(&self, mut then: impl FnMut(&V)) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).values.values().for_each(&mut then);
        }
    }

    fn sweep(&self, shard: &mut Shard<K, V>, is_idle: impl Fn(&V) -> bool) {
        let Shard { values, capacity } = shard;
        values.retain(|_, value| !is_idle(value));
        if values.len() >= self.max {
            values.clear();
        }
        *capacity = values.len().saturating_mul(2).clamp(MIN_CAPACITY, self.max);
        values.shrink_to(*capacity);
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
    fn idle_values_are_dropped_and_others_stay() {
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
    fn table_never_exceeds_its_maximum() {
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
