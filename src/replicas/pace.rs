//! How often what is heard may take effect: whoever can write to Redis is not to keep the introspector busy.
//!
//! Nothing that is heard is dropped: what is too much at once is one [`Revocation::Missed`], or one
//! [`Revocation::All`], half a second later at most.

use std::time::{Duration, Instant};

use crate::tokens::revocation::Revocation;

/// Verdicts are forgotten wholesale once in this time: less than the second in which every replica has to know.
const WINDOW: Duration = Duration::from_millis(500);
/// How many tokens or names can be told of one by one in this time.
const ONE_BY_ONE: usize = 500;

/// What took effect in the window of now, and what is put off to its end.
#[derive(Debug, Default)]
pub(super) struct Pace {
    ends: Option<Instant>,
    one_by_one: usize,
    wholesale: bool,
    put_off: Option<Revocation>,
}

impl Pace {
    /// What takes effect now that `revocation` has come; the rest is put off.
    pub(super) fn pass(&mut self, revocation: Revocation, now: Instant) -> Option<Revocation> {
        if self.put_off.is_none() && self.ends.is_none_or(|ends| now >= ends) {
            *self = Self { ends: Some(now + WINDOW), ..Self::default() };
        }
        match revocation {
            Revocation::All | Revocation::Missed if !self.wholesale => {
                self.wholesale = true;
                Some(revocation)
            }
            // What takes effect at the end of the window, to which all of its tokens are put off, says this as well.
            Revocation::All => {
                self.put_off = Some(revocation);
                None
            }
            Revocation::Missed => {
                self.put_off.get_or_insert(revocation);
                None
            }
            _ if self.one_by_one < ONE_BY_ONE => {
                self.one_by_one += 1;
                Some(revocation)
            }
            _ => {
                self.put_off.get_or_insert(Revocation::Missed);
                None
            }
        }
    }

    /// When something that was put off takes effect.
    pub(super) fn due(&self) -> Option<Instant> {
        self.ends.filter(|_| self.put_off.is_some())
    }

    /// What was put off, which takes effect now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Revocation> {
        let put_off = self.put_off.take()?;
        *self = Self { ends: Some(now + WINDOW), wholesale: true, ..Self::default() };
        Some(put_off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Revocation {
        Revocation::Id(number.to_string().into())
    }

    #[test]
    fn what_is_seldom_takes_effect_at_once() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..3 {
            for revocation in [Revocation::Missed, id(1), id(2)] {
                assert_eq!(pace.pass(revocation.clone(), now), Some(revocation));
            }
            assert_eq!((pace.due(), pace.take(now)), (None, None));
            now += WINDOW;
        }
    }

    #[test]
    fn what_is_too_much_is_one_at_the_end() {
        let table: [(&[Revocation], Revocation); 4] = [
            (&[Revocation::Missed], Revocation::Missed),
            (&[Revocation::All], Revocation::All),
            (&[Revocation::Missed, Revocation::All], Revocation::All),
            (&[Revocation::All, Revocation::Missed], Revocation::All),
        ];
        for (more, put_off) in table {
            let (mut pace, now) = (Pace::default(), Instant::now());
            assert_eq!(pace.pass(Revocation::All, now), Some(Revocation::All));
            for revocation in more.iter().cycle().take(1000) {
                assert_eq!(pace.pass(revocation.clone(), now), None);
            }
            assert_eq!(pace.pass(id(1), now), Some(id(1)), "one token is");
            assert_eq!(pace.due(), Some(now + WINDOW));
            // However late it is looked at, it is not lost.
            assert_eq!(pace.pass(Revocation::Missed, now + 3 * WINDOW), None);
            assert_eq!(pace.take(now + WINDOW), Some(put_off));
            assert_eq!(pace.pass(Revocation::Missed, now + WINDOW), None, "twice a second");
        }
    }

    #[test]
    fn very_many_tokens_are_all() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for number in 0..ONE_BY_ONE {
            assert_eq!(pace.pass(id(number), now), Some(id(number)));
        }
        assert_eq!(pace.pass(id(0), now), None);
        assert_eq!(pace.take(now + WINDOW), Some(Revocation::Missed));
    }
}
