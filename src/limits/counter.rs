//! Counts what is in progress.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A number of things in progress, which all workers change.
#[derive(Debug, Default)]
pub struct Counter(AtomicU32);

/// Counts one thing until it is dropped.
#[derive(Debug)]
pub struct CountGuard(Arc<Counter>);

impl Counter {
    /// Counts one more thing. Returns `None` if there are `max` already.
    pub fn admit(self: &Arc<Self>, max: NonZeroU32) -> Option<CountGuard> {
        let next = |count: u32| (count < max.get()).then_some(count + 1);
        let counted = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        counted.is_ok().then(|| CountGuard(Arc::clone(self)))
    }

    /// The number of things in progress.
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn max(max: u32) -> NonZeroU32 {
        max.try_into().unwrap()
    }

    #[test]
    fn guards_count_until_they_are_dropped() {
        let counter = Arc::new(Counter::default());
        let mut guards: Vec<_> = (0..3).map_while(|_| counter.admit(max(3))).collect();
        assert_eq!((guards.len(), counter.count()), (3, 3));
        assert!(counter.admit(max(3)).is_none());
        assert!(counter.admit(max(4)).is_some(), "a raised maximum holds at once");
        assert_eq!(counter.count(), 3, "a refused request does not count, and that guard is gone");
        guards.pop();
        assert!(counter.admit(max(2)).is_none(), "a lowered maximum ends nothing");
        guards.pop();
        assert!(counter.admit(max(2)).is_some());
        drop(guards);
        assert_eq!(counter.count(), 0);
    }

    #[test]
    fn threads_never_exceed_the_maximum() {
        let counter = Arc::new(Counter::default());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let guard = counter.admit(max(2));
                        assert!(counter.count() <= 2);
                        drop(guard);
                    }
                });
            }
        });
        assert_eq!(counter.count(), 0);
    }
}
