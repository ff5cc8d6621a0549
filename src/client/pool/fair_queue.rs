//! The requests that wait for a connection, in an order that is fair to their callers. A pure structure.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// Largest number of waiting requests. Each holds some 100 bytes here, beside its own state.
pub(super) const MAX_WAITING: usize = 1024;

/// Largest number of waiting requests of one caller.
pub(super) const MAX_WAITING_PER_CALLER: usize = MAX_WAITING / 4;

/// Identifies a waiting request. Later requests have larger tickets.
pub(super) type Ticket = u64;

/// The number of a caller.
pub(super) type CallerNumber = u64;

/// Waiting requests, by caller, in the order of their arrival.
#[derive(Debug)]
pub(super) struct FairQueue<W> {
    callers: HashMap<CallerNumber, VecDeque<(Ticket, W)>>,
    length: usize,
    next_ticket: Ticket,
}

/// A request that does not wait: the queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<W> FairQueue<W> {
    pub(super) fn new() -> Self {
        Self { callers: HashMap::new(), length: 0, next_ticket: 0 }
    }

    /// The number of waiting requests.
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// Whether a request of `caller` waits.
    pub(super) fn has(&self, caller: CallerNumber) -> bool {
        self.callers.contains_key(&caller)
    }

    /// The first waiting request of each caller.
    pub(super) fn heads(&self) -> impl Iterator<Item = &W> {
        self.callers.values().filter_map(|waiting| waiting.front()).map(|(_, waiter)| waiter)
    }

    /// Adds a request at the end of those of `caller`. In a full queue it replaces the newest request of the caller that
    /// has the most, if that has more than `caller` would have; the replaced one is returned.
    ///
    /// # Errors
    /// [`Full`] if `caller` has [`MAX_WAITING_PER_CALLER`] already, or all others have no more than it.
    pub(super) fn push(&mut self, caller: CallerNumber, waiter: W) -> Result<(Ticket, Option<W>), Full> {
        let count = |waiting: &VecDeque<_>| waiting.len();
        let own = self.callers.get(&caller).map_or(0, count);
        if own >= MAX_WAITING_PER_CALLER {
            return Err(Full);
        }
        let replaced = if self.length < MAX_WAITING {
            None
        } else {
            let most = self.callers.iter().max_by_key(|(_, waiting)| waiting.len());
            let (&other, _) = most.filter(|(_, waiting)| waiting.len() > own + 1).ok_or(Full)?;
            let newest = self.callers.get(&other).and_then(VecDeque::back).map(|(ticket, _)| *ticket);
            newest.and_then(|ticket| self.remove(other, ticket))
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.callers.entry(caller).or_default().push_back((ticket, waiter));
        self.length += 1;
        Ok((ticket, replaced))
    }

    /// The request whose caller has the lowest rank, and of those the one that has waited longest. `rank` is `None` for
    /// callers that get nothing now; only requests that `suits` accepts are considered.
    pub(super) fn best(
        &self,
        mut rank: impl FnMut(&W) -> Option<usize>,
        suits: impl Fn(&W) -> bool,
    ) -> Option<Candidate<'_, W>> {
        self.callers
            .iter()
            .filter_map(|(&caller, waiting)| {
                let (ticket, waiter) = waiting.iter().find(|(_, waiter)| suits(waiter))?;
                Some(Candidate { caller, ticket: *ticket, rank: rank(waiter)?, waiter })
            })
            .min_by_key(|candidate| (candidate.rank, candidate.ticket))
    }

    /// Removes a waiting request; `None` if it no longer waits.
    pub(super) fn remove(&mut self, caller: CallerNumber, ticket: Ticket) -> Option<W> {
        let waiting = self.callers.get_mut(&caller)?;
        let place = waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        let (_, waiter) = waiting.remove(place)?;
        if waiting.is_empty() {
            self.callers.remove(&caller);
        }
        self.length -= 1;
        Some(waiter)
    }
}

/// A waiting request that may be served.
#[derive(Debug)]
pub(super) struct Candidate<'a, W> {
    pub(super) caller: CallerNumber,
    pub(super) ticket: Ticket,
    pub(super) rank: usize,
    pub(super) waiter: &'a W,
}

/// The number of connections, of `capacity`, that a caller may keep while others wait: an equal part among the callers
/// that are `present`, and at most `share`. All of them if that is its share, 0 if there are more callers than
/// connections.
pub(super) fn fair_part(capacity: NonZeroUsize, share: NonZeroUsize, present: usize) -> usize {
    if share == capacity {
        return capacity.get();
    }
    share.get().min(capacity.get() / present.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        /// Grants the best request, if the number of connections in use allows it.
        Grant,
        /// Ends an exchange of a caller.
        End(u64),
        /// Gives up the waiting request at this place in the order of arrival.
        GiveUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..6u64).prop_map(Step::Push),
            3 => Just(Step::Grant),
            2 => (0..6u64).prop_map(Step::End),
            1 => (0..20usize).prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// A list in the order of arrival, searched as a whole for every grant.
        #[test]
        fn queue_agrees_with_a_list(steps in steps()) {
            let mut queue = FairQueue::new();
            let mut list: Vec<(Ticket, u64)> = Vec::new();
            let mut in_use = [0usize; 6];
            for step in steps {
                match step {
                    Step::Push(caller) => {
                        let (ticket, replaced) = queue.push(caller, caller).unwrap();
                        prop_assert_eq!(replaced, None);
                        list.push((ticket, caller));
                    }
                    Step::Grant => {
                        // CallerAccount 5 gets nothing beyond two connections.
                        let rank = |caller: u64| {
                            let used = in_use[caller as usize];
                            (caller != 5 || used < 2).then_some(used)
                        };
                        let expected = list
                            .iter()
                            .filter_map(|&(ticket, caller)| Some((rank(caller)?, ticket, caller)))
                            .min();
                        let found = queue.best(|&caller| rank(caller), |_| true);
                        let found = found.map(|it| (it.rank, it.ticket, it.caller));
                        prop_assert_eq!(found, expected);
                        if let Some((_, ticket, caller)) = found {
                            prop_assert_eq!(queue.remove(caller, ticket), Some(caller));
                            list.retain(|(it, _)| *it != ticket);
                            in_use[caller as usize] += 1;
                        }
                    }
                    Step::End(caller) => {
                        let used = &mut in_use[caller as usize];
                        *used = used.saturating_sub(1);
                    }
                    Step::GiveUp(place) => {
                        if place < list.len() {
                            let (ticket, caller) = list.remove(place);
                            prop_assert_eq!(queue.remove(caller, ticket), Some(caller));
                            prop_assert_eq!(queue.remove(caller, ticket), None);
                        }
                    }
                }
                prop_assert_eq!(queue.len(), list.len());
                for caller in 0..6 {
                    prop_assert_eq!(queue.has(caller), list.iter().any(|(_, it)| *it == caller));
                }
                prop_assert_eq!(queue.heads().count(), (0..6).filter(|it| queue.has(*it)).count());
            }
        }

        /// Whatever the others do, a caller with one waiting request and no connection is served next.
        #[test]
        fn caller_without_a_connection_is_served_before_callers_that_have_some(
            others in prop::collection::vec((1..50u64, 1..20usize), 1..30),
        ) {
            let mut queue = FairQueue::new();
            let used: HashMap<u64, usize> = others.iter().copied().collect();
            for (caller, _) in &others {
                for _ in 0..3 {
                    queue.push(*caller, *caller).unwrap();
                }
            }
            let (ticket, _) = queue.push(0, 0).unwrap();
            let best = queue.best(|caller| Some(used.get(caller).copied().unwrap_or(0)), |_| true).unwrap();
            prop_assert_eq!((best.caller, best.ticket), (0, ticket));
        }
    }

    #[test]
    fn only_suitable_requests_are_considered() {
        let mut queue = FairQueue::new();
        for (caller, waiter) in [(1, "http1"), (1, "any"), (2, "http1")] {
            queue.push(caller, waiter).unwrap();
        }
        let best = queue.best(|_| Some(0), |waiter| *waiter == "any").unwrap();
        assert_eq!((best.caller, best.ticket, *best.waiter), (1, 1, "any"));
        assert!(queue.best(|_| Some(0), |waiter| *waiter == "stream").is_none());
    }

    #[test]
    fn full_queue_is_shared_by_its_callers() {
        let mut queue = FairQueue::new();
        for caller in 0..4 {
            for _ in 0..MAX_WAITING_PER_CALLER {
                assert_eq!(queue.push(caller, caller).map(|(_, replaced)| replaced), Ok(None));
            }
            assert_eq!(queue.push(caller, caller), Err(Full), "the part of caller {caller} is used up");
        }
        assert_eq!(queue.len(), MAX_WAITING);
        // Later callers replace the newest requests of those that have the most.
        for caller in 10..20 {
            for _ in 0..10 {
                let (_, replaced) = queue.push(caller, caller).unwrap();
                assert!(replaced.is_some_and(|replaced| replaced < 4));
            }
        }
        assert_eq!(queue.len(), MAX_WAITING);
        for caller in 100..2000 {
            let _ = queue.push(caller, caller);
        }
        assert_eq!(queue.len(), MAX_WAITING);
        assert!((10..20).all(|caller| queue.has(caller)));
    }

    #[test]
    fn part_of_a_caller_falls_with_the_number_of_callers() {
        let count = |count| NonZeroUsize::new(count).unwrap();
        for (capacity, share, present, expected) in
            [(8, 4, 1, 4), (8, 4, 2, 4), (8, 4, 3, 2), (8, 8, 1, 8), (8, 8, 3, 8), (8, 4, 9, 0), (1, 1, 0, 1)]
        {
            assert_eq!(
                fair_part(count(capacity), count(share), present),
                expected,
                "{capacity} {share} {present}"
            );
        }
    }
}
