//! Throttles received revocations, so that a writer to Redis cannot keep the introspector busy.
//!
//! No revocation is dropped: excess ones are merged into one [`Revocation::Missed`] or [`Revocation::All`], which
//! takes effect half a second later at most.

use std::time::{Duration, Instant};

use crate::tokens::revocation::Revocation;

/// All verdicts are revoked at most once per window. It is shorter than the second within which a revocation must
/// take effect everywhere.
const WINDOW: Duration = Duration::from_millis(500);
/// How many single tokens or names can be revoked per window.
const MAX_SINGLE: usize = 500;

/// The revocations applied in the current window, and the one that is deferred to its end.
#[derive(Debug, Default)]
pub(super) struct RevocationThrottle {
    ends: Option<Instant>,
    single: usize,
    revoked_all: bool,
    deferred: Option<Revocation>,
}

impl RevocationThrottle {
    /// Returns `revocation` if it takes effect now. Otherwise it is deferred.
    pub(super) fn admit(&mut self, revocation: Revocation, now: Instant) -> Option<Revocation> {
        if self.deferred.is_none() && self.ends.is_none_or(|ends| now >= ends) {
            *self = Self { ends: Some(now + WINDOW), ..Self::default() };
        }
        match revocation {
            Revocation::All | Revocation::Missed if !self.revoked_all => {
                self.revoked_all = true;
                Some(revocation)
            }
            // The deferred revocation also covers the single tokens that were deferred.
            Revocation::All => {
                self.deferred = Some(revocation);
                None
            }
            Revocation::Missed => {
                self.deferred.get_or_insert(revocation);
                None
            }
            _ if self.single < MAX_SINGLE => {
                self.single += 1;
                Some(revocation)
            }
            _ => {
                self.deferred.get_or_insert(Revocation::Missed);
                None
            }
        }
    }

    /// When the deferred revocation takes effect; `None` if there is none.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends.filter(|_| self.deferred.is_some())
    }

    /// Takes the deferred revocation, which starts a new window.
    pub(super) fn take(&mut self, now: Instant) -> Option<Revocation> {
        let deferred = self.deferred.take()?;
        *self = Self { ends: Some(now + WINDOW), revoked_all: true, ..Self::default() };
        Some(deferred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Revocation {
        Revocation::Id(number.to_string().into())
    }

    #[test]
    fn rare_revocations_take_effect_at_once() {
        let (mut throttle, mut now) = (RevocationThrottle::default(), Instant::now());
        for _ in 0..3 {
            for revocation in [Revocation::Missed, id(1), id(2)] {
                assert_eq!(throttle.admit(revocation.clone(), now), Some(revocation));
            }
            assert_eq!((throttle.due(), throttle.take(now)), (None, None));
            now += WINDOW;
        }
    }

    #[test]
    fn excess_revocations_are_merged_into_one_at_the_end_of_the_window() {
        let table: [(&[Revocation], Revocation); 4] = [
            (&[Revocation::Missed], Revocation::Missed),
            (&[Revocation::All], Revocation::All),
            (&[Revocation::Missed, Revocation::All], Revocation::All),
            (&[Revocation::All, Revocation::Missed], Revocation::All),
        ];
        for (more, deferred) in table {
            let (mut throttle, now) = (RevocationThrottle::default(), Instant::now());
            assert_eq!(throttle.admit(Revocation::All, now), Some(Revocation::All));
            for revocation in more.iter().cycle().take(1000) {
                assert_eq!(throttle.admit(revocation.clone(), now), None);
            }
            assert_eq!(throttle.admit(id(1), now), Some(id(1)), "a single token is not throttled");
            assert_eq!(throttle.due(), Some(now + WINDOW));
            // A late call does not lose it.
            assert_eq!(throttle.admit(Revocation::Missed, now + 3 * WINDOW), None);
            assert_eq!(throttle.take(now + WINDOW), Some(deferred));
            assert_eq!(throttle.admit(Revocation::Missed, now + WINDOW), None, "at most one per window");
        }
    }

    #[test]
    fn too_many_single_revocations_become_one_of_all() {
        let (mut throttle, now) = (RevocationThrottle::default(), Instant::now());
        for number in 0..MAX_SINGLE {
            assert_eq!(throttle.admit(id(number), now), Some(id(number)));
        }
        assert_eq!(throttle.admit(id(0), now), None);
        assert_eq!(throttle.take(now + WINDOW), Some(Revocation::Missed));
    }
}
