//! What the others have yet to be told, and what they may have to be told again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::tokens::revocation::Revocation;

/// How many revocations are kept while Redis is away. More than that become one that says so.
const MOST_WAITING: usize = 10_000;
/// How many are remembered once they are told. Again, more than that become one.
const MOST_TOLD: usize = 1_000;
/// For how long. A Redis loses what it took in the seconds before its end; one without a log, since its last snapshot.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The orders that are passed on: in the order in which they came, and none left out.
#[derive(Debug)]
pub(super) struct Outbox {
    orders: UnboundedReceiver<Revocation>,
    /// Oldest first.
    waiting: VecDeque<Revocation>,
    /// With the time at which Redis took it.
    told: VecDeque<(Instant, Revocation)>,
}

impl Outbox {
    /// Of what is ordered here.
    pub(super) const fn new(orders: UnboundedReceiver<Revocation>) -> Self {
        Self { orders, waiting: VecDeque::new(), told: VecDeque::new() }
    }

    /// Keeps the next order, once it comes. To drop the future loses nothing.
    pub(super) async fn collect(&mut self) {
        match self.orders.recv().await {
            Some(order) => self.keep(order),
            None => std::future::pending().await,
        }
    }

    /// Keeps what was ordered until now.
    pub(super) fn collect_all(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.keep(order);
        }
    }

    /// What is to be told next.
    pub(super) fn next(&self) -> Option<&Revocation> {
        self.waiting.front()
    }

    /// Notes that Redis took the next one.
    pub(super) fn took(&mut self, now: Instant) {
        let Some(taken) = self.waiting.pop_front() else { return };
        if self.told.len() >= MOST_TOLD {
            self.told.clear();
            self.told.push_back((now, Revocation::Missed));
        }
        self.told.push_back((now, taken));
    }

    /// Is to tell again what Redis may have lost.
    pub(super) fn again(&mut self, now: Instant) {
        for (at, order) in std::mem::take(&mut self.told) {
            if now.duration_since(at) < REMEMBERED {
                self.keep(order);
            }
        }
    }

    fn keep(&mut self, order: Revocation) {
        let Self { waiting, .. } = self;
        if waiting.len() >= MOST_WAITING {
            // One that closes tunnels is not weakened.
            let all = waiting.contains(&Revocation::All);
            waiting.clear();
            waiting.push_back(if all { Revocation::All } else { Revocation::Missed });
        }
        waiting.push_back(order);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn outbox() -> Outbox {
        Outbox::new(unbounded_channel().1)
    }

    fn id(number: usize) -> Revocation {
        Revocation::Id(number.to_string().into())
    }

    fn drain(outbox: &mut Outbox, now: Instant) -> Vec<Revocation> {
        std::iter::from_fn(|| {
            let next = outbox.next().cloned();
            outbox.took(now);
            next
        })
        .collect()
    }

    #[test]
    fn what_waits_is_bounded_and_the_latest_is_kept() {
        let mut outbox = outbox();
        for number in 0..MOST_WAITING {
            outbox.keep(id(number));
        }
        assert_eq!((outbox.waiting.len(), outbox.next()), (MOST_WAITING, Some(&id(0))));
        outbox.keep(id(7));
        assert_eq!(outbox.waiting, [Revocation::Missed, id(7)]);
        outbox.keep(Revocation::All);
        for number in 0..MOST_WAITING {
            outbox.keep(id(number));
        }
        assert_eq!(outbox.waiting[0], Revocation::All, "which closes tunnels, too");
        assert!(outbox.waiting.len() < 10);
    }

    #[test]
    fn what_may_be_lost_is_told_again_and_not_for_ever() {
        let (mut outbox, begin) = (outbox(), Instant::now());
        outbox.again(begin);
        assert_eq!(outbox.next(), None);
        outbox.keep(id(1));
        assert_eq!(drain(&mut outbox, begin), [id(1)]);
        let later = begin + REMEMBERED / 2;
        outbox.keep(id(2));
        assert_eq!(drain(&mut outbox, later), [id(2)]);
        outbox.keep(id(3));
        outbox.again(begin + REMEMBERED);
        assert_eq!(drain(&mut outbox, later), [id(3), id(2)]);
        for number in 0..=MOST_TOLD {
            outbox.keep(id(number));
        }
        drain(&mut outbox, later);
        outbox.again(later);
        let again = drain(&mut outbox, later);
        assert!(again.contains(&Revocation::Missed) && again.contains(&id(MOST_TOLD)) && again.len() < 10);
    }
}
