//! The idle time of a body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Limits the wait for the next piece of a body. Sets no timer until a piece has to be waited for.
pub struct IdleTimer {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl IdleTimer {
    /// A timer of `timeout` between two pieces.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, sleep: None, waiting: false }
    }

    /// Notes that a piece arrived.
    pub const fn progressed(&mut self) {
        self.waiting = false;
    }

    /// Ready when no piece has arrived for the time limit.
    pub fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_waiting_for(self.timeout, context)
    }

    /// Ready when no piece has arrived for the time limit, or for `limit` if that is shorter.
    pub fn poll_waiting_for(&mut self, limit: Duration, context: &mut Context<'_>) -> Poll<()> {
        let timeout = self.timeout.min(limit);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(Instant::now() + timeout);
        }
        sleep.as_mut().poll(context)
    }
}
