//! The revocations to publish, and those to publish again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::tokens::revocation::Revocation;

/// How many revocations wait while Redis is unreachable. More are replaced by one that revokes all.
const MAX_QUEUED: usize = 10_000;
/// How many published revocations are kept. More are replaced by one that revokes all.
const MAX_SENT: usize = 1_000;
/// How long published revocations are kept. After a crash, Redis lacks the last seconds of its log, or everything
/// since its last snapshot.
const RESEND_WINDOW: Duration = Duration::from_secs(600);

/// The revocations of this replica, in their order.
#[derive(Debug)]
pub(super) struct Outbox {
    revocations: UnboundedReceiver<Revocation>,
    /// Oldest first.
    waiting: VecDeque<Revocation>,
    /// With the time at which Redis acknowledged each.
    sent: VecDeque<(Instant, Revocation)>,
}

impl Outbox {
    /// Reads from `revocations`.
    pub(super) const fn new(revocations: UnboundedReceiver<Revocation>) -> Self {
        Self { revocations, waiting: VecDeque::new(), sent: VecDeque::new() }
    }

    /// Waits for the next local revocation and queues it. Cancel-safe.
    pub(super) async fn collect(&mut self) {
        match self.revocations.recv().await {
            Some(revocation) => self.push(revocation),
            None => std::future::pending().await,
        }
    }

    /// Queues all local revocations up to now.
    pub(super) fn collect_all(&mut self) {
        while let Ok(revocation) = self.revocations.try_recv() {
            self.push(revocation);
        }
    }

    /// The next revocation to publish.
    pub(super) fn next(&self) -> Option<&Revocation> {
        self.waiting.front()
    }

    /// Records that Redis acknowledged the next revocation.
    pub(super) fn mark_sent(&mut self, now: Instant) {
        let Some(taken) = self.waiting.pop_front() else { return };
        if self.sent.len() >= MAX_SENT {
            self.sent.clear();
            self.sent.push_back((now, Revocation::Missed));
        }
        self.sent.push_back((now, taken));
    }

    /// Queues the recently published revocations again, since Redis may have lost them.
    pub(super) fn queue_resend(&mut self, now: Instant) {
        for (at, revocation) in std::mem::take(&mut self.sent) {
            if now.duration_since(at) < RESEND_WINDOW {
                self.push(revocation);
            }
        }
    }

    fn push(&mut self, revocation: Revocation) {
        let Self { waiting, .. } = self;
        if waiting.len() >= MAX_QUEUED {
            // `All` also closes tunnels, so `Missed` cannot replace it.
            let all = waiting.contains(&Revocation::All);
            waiting.clear();
            waiting.push_back(if all { Revocation::All } else { Revocation::Missed });
        }
        waiting.push_back(revocation);
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
            outbox.mark_sent(now);
            next
        })
        .collect()
    }

    #[test]
    fn queue_is_bounded_and_keeps_the_latest_revocation() {
        let mut outbox = outbox();
        for number in 0..MAX_QUEUED {
            outbox.push(id(number));
        }
        assert_eq!((outbox.waiting.len(), outbox.next()), (MAX_QUEUED, Some(&id(0))));
        outbox.push(id(7));
        assert_eq!(outbox.waiting, [Revocation::Missed, id(7)]);
        outbox.push(Revocation::All);
        for number in 0..MAX_QUEUED {
            outbox.push(id(number));
        }
        assert_eq!(outbox.waiting[0], Revocation::All, "All also closes tunnels");
        assert!(outbox.waiting.len() < 10);
    }

    #[test]
    fn published_revocations_are_published_again_for_a_limited_time() {
        let (mut outbox, begin) = (outbox(), Instant::now());
        outbox.queue_resend(begin);
        assert_eq!(outbox.next(), None);
        outbox.push(id(1));
        assert_eq!(drain(&mut outbox, begin), [id(1)]);
        let later = begin + RESEND_WINDOW / 2;
        outbox.push(id(2));
        assert_eq!(drain(&mut outbox, later), [id(2)]);
        outbox.push(id(3));
        outbox.queue_resend(begin + RESEND_WINDOW);
        assert_eq!(drain(&mut outbox, later), [id(3), id(2)]);
        for number in 0..=MAX_SENT {
            outbox.push(id(number));
        }
        drain(&mut outbox, later);
        outbox.queue_resend(later);
        let resent = drain(&mut outbox, later);
        assert!(resent.contains(&Revocation::Missed) && resent.contains(&id(MAX_SENT)) && resent.len() < 10);
    }
}
