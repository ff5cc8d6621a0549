//! How long a body may stand still.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Bounds the wait for the next piece of a body. A body whose pieces are all there sets no timer.
pub struct IdleTimer {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl IdleTimer {
    /// At most `timeout` between two pieces.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, sleep: None, waiting: false }
    }

    /// A piece came.
    pub const fn progressed(&mut self) {
        self.waiting = false;
    }

    /// None came; ready when that has been so for too long.
    pub fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(Instant::now() + self.timeout);
        }
        sleep.as_mut().poll(context)
    }
}
