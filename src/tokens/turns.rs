//! Whose introspection may run.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The bound on introspections that run at a time, over all cores.
///
/// A quarter is kept for tokens that had an active verdict before: a flood of unknown tokens can fill the
/// rest and no more.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    strangers: Semaphore,
}

/// The right to run one introspection, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _stranger: Option<SemaphorePermit<'a>>,
    _one: SemaphorePermit<'a>,
}

impl Turns {
    /// At most `bound` at a time; at least one.
    pub fn new(bound: usize) -> Self {
        let bound = bound.clamp(1, Semaphore::MAX_PERMITS);
        Self { all: Semaphore::new(bound), strangers: Semaphore::new(bound - bound / 4) }
    }

    /// Waits for a turn, for as long as it takes. `known`: the token had an active verdict before.
    pub async fn wait(&self, known: bool) -> Option<Turn<'_>> {
        let stranger = if known { None } else { Some(self.strangers.acquire().await.ok()?) };
        Some(Turn { _stranger: stranger, _one: self.all.acquire().await.ok()? })
    }

    /// A turn, if one is free now, for work that nobody waits for.
    pub fn try_now(&self) -> Option<Turn<'_>> {
        Some(Turn { _stranger: None, _one: self.all.try_acquire().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_leave_a_quarter_to_the_known() {
        let turns = Turns::new(8);
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(turns.wait(false).await);
        }
        assert!(timeout(Duration::from_secs(9), turns.wait(false)).await.is_err());
        held.push(turns.wait(true).await);
        held.push(turns.wait(true).await);
        assert!(timeout(Duration::from_secs(9), turns.wait(true)).await.is_err());
        assert!(turns.try_now().is_none());
        drop(held);
        assert!(turns.try_now().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_turn_serves_all() {
        let turns = Turns::new(1);
        drop(turns.wait(false).await);
        let held = turns.wait(true).await;
        assert!(timeout(Duration::from_secs(9), turns.wait(false)).await.is_err());
        drop(held);
    }
}
