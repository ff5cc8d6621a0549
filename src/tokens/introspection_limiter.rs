//! The bound on concurrent introspections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::hash::TokenHash;

/// Bounds the concurrent introspections of all workers.
///
/// A quarter is reserved for tokens that had an active verdict before, which a flood of unknown tokens cannot use. Each
/// token runs one introspection at a time, in whatever spelling, so that a few tokens cannot fill either part.
#[derive(Debug)]
pub struct IntrospectionLimiter {
    all: Semaphore,
    unknown_tokens: Semaphore,
    tokens: Tokens,
}

/// A permit for one introspection, until it is dropped.
#[derive(Debug)]
pub struct IntrospectionPermit<'a> {
    _unknown_token: Option<SemaphorePermit<'a>>,
    _one: SemaphorePermit<'a>,
    _tokens: [Option<TokenPermit<'a>>; 2],
}

/// Identifies a token before its introspection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenKey {
    /// [`TokenHash::of_spelling`].
    Spelling(TokenHash),
    /// The introspected id, if the token had an active verdict before.
    Id(Arc<str>),
}

/// One introspection at a time for each token. A token is listed while an introspection of it runs or waits.
#[derive(Debug, Default)]
struct Tokens {
    by_key: Mutex<HashMap<TokenKey, Gate>>,
}

#[derive(Debug)]
struct Gate {
    semaphore: Arc<Semaphore>,
    users: usize,
}

/// A permit for the one introspection of a token.
#[derive(Debug)]
struct TokenPermit<'a> {
    // Released before the token is taken off the list.
    _permit: OwnedSemaphorePermit,
    _listed: Listed<'a>,
}

/// Keeps a token listed.
#[derive(Debug)]
struct Listed<'a> {
    tokens: &'a Tokens,
    key: TokenKey,
}

impl Tokens {
    fn list(&self, key: TokenKey) -> (Listed<'_>, Arc<Semaphore>) {
        let mut by_key = self.lock();
        let gate = by_key
            .entry(key.clone())
            .or_insert_with(|| Gate { semaphore: Arc::new(Semaphore::new(1)), users: 0 });
        gate.users += 1;
        (Listed { tokens: self, key }, Arc::clone(&gate.semaphore))
    }

    async fn wait(&self, key: TokenKey) -> Option<TokenPermit<'_>> {
        let (listed, semaphore) = self.list(key);
        let permit = semaphore.acquire_owned().await.ok()?;
        Some(TokenPermit { _permit: permit, _listed: listed })
    }

    fn try_now(&self, key: TokenKey) -> Option<TokenPermit<'_>> {
        let (listed, semaphore) = self.list(key);
        let permit = semaphore.try_acquire_owned().ok()?;
        Some(TokenPermit { _permit: permit, _listed: listed })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenKey, Gate>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut by_key = self.tokens.lock();
        if let Some(gate) = by_key.get_mut(&self.key) {
            gate.users -= 1;
            if gate.users == 0 {
                by_key.remove(&self.key);
            }
        }
    }
}

impl IntrospectionLimiter {
    /// At most `bound` at a time; at least one.
    pub fn new(bound: usize) -> Self {
        let bound = bound.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Semaphore::new(bound),
            unknown_tokens: Semaphore::new(bound - bound / 4),
            tokens: Tokens::default(),
        }
    }

    /// Waits for a permit without a time limit: first for the token's own introspections, then for those of others. `id` is
    /// the token's id if it had an active verdict before.
    pub async fn acquire(
        &self,
        spelling: TokenHash,
        id: Option<Arc<str>>,
    ) -> Option<IntrospectionPermit<'_>> {
        let is_known = id.is_some();
        // Every caller acquires the permits in this order, so that there is no deadlock.
        let by_spelling = self.tokens.wait(TokenKey::Spelling(spelling)).await?;
        let by_id = match id {
            Some(id) => Some(self.tokens.wait(TokenKey::Id(id)).await?),
            None => None,
        };
        let unknown_token = if is_known { None } else { Some(self.unknown_tokens.acquire().await.ok()?) };
        let one = self.all.acquire().await.ok()?;
        Some(IntrospectionPermit {
            _unknown_token: unknown_token,
            _one: one,
            _tokens: [Some(by_spelling), by_id],
        })
    }

    /// A permit if one is free, for a refresh that no request waits for.
    pub fn try_acquire(&self, spelling: TokenHash, id: Arc<str>) -> Option<IntrospectionPermit<'_>> {
        let by_spelling = self.tokens.try_now(TokenKey::Spelling(spelling))?;
        let by_id = self.tokens.try_now(TokenKey::Id(id))?;
        let one = self.all.try_acquire().ok()?;
        Some(IntrospectionPermit {
            _unknown_token: None,
            _one: one,
            _tokens: [Some(by_spelling), Some(by_id)],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(9);

    fn token(number: u32) -> TokenHash {
        TokenHash::of(number.to_string())
    }

    fn id(number: u32) -> Arc<str> {
        number.to_string().into()
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_tokens_leave_a_quarter_to_known_ones() {
        let limiter = IntrospectionLimiter::new(8);
        let mut held = Vec::new();
        for number in 0..6 {
            held.push(limiter.acquire(token(number), None).await);
        }
        assert!(timeout(LONG, limiter.acquire(token(6), None)).await.is_err());
        held.push(limiter.acquire(token(7), Some(id(7))).await);
        held.push(limiter.acquire(token(8), Some(id(8))).await);
        assert!(timeout(LONG, limiter.acquire(token(9), Some(id(9)))).await.is_err());
        assert!(limiter.try_acquire(token(9), id(9)).is_none());
        drop(held);
        assert!(limiter.try_acquire(token(9), id(9)).is_some());
        assert!(limiter.tokens.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_permit_is_shared_by_all_tokens() {
        let limiter = IntrospectionLimiter::new(1);
        drop(limiter.acquire(token(1), None).await);
        let held = limiter.acquire(token(2), Some(id(2))).await;
        assert!(timeout(LONG, limiter.acquire(token(1), None)).await.is_err());
        drop(held);
        assert!(limiter.tokens.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_token_holds_one_permit() {
        let limiter = IntrospectionLimiter::new(4);
        for known in [None, Some(id(1))] {
            let held = limiter.acquire(token(1), known).await;
            assert!(timeout(LONG, limiter.acquire(token(1), None)).await.is_err());
            assert!(timeout(LONG, limiter.acquire(token(1), Some(id(1)))).await.is_err());
            assert!(limiter.try_acquire(token(1), id(1)).is_none());
            drop(held);
        }
        let held = limiter.acquire(token(1), Some(id(1))).await;
        assert!(
            timeout(LONG, limiter.acquire(token(2), Some(id(1)))).await.is_err(),
            "another spelling, the same id"
        );
        assert!(timeout(LONG, limiter.acquire(token(2), Some(id(2)))).await.is_ok());
        drop(held);
        assert!(limiter.tokens.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn queue_of_one_token_delays_no_other() {
        let limiter = IntrospectionLimiter::new(2);
        let held = limiter.acquire(token(1), None).await;
        let mut queued: Vec<_> = (0..100).map(|_| Box::pin(limiter.acquire(token(1), Some(id(1))))).collect();
        for waiting in &mut queued {
            assert!(timeout(Duration::from_millis(1), waiting).await.is_err());
        }
        assert!(timeout(Duration::from_millis(1), limiter.acquire(token(2), None)).await.is_ok());
        assert!(timeout(Duration::from_millis(1), limiter.acquire(token(2), Some(id(2)))).await.is_ok());
        drop((held, queued));
        assert!(limiter.tokens.lock().is_empty());
    }
}
