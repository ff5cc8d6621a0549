//! Limits a panic to its request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future panicked. The log has the place, but not the message: see [`crate::telemetry::panics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Turns a panic of a future into a result. Allocates nothing, and takes a pinned future by reference, so that the future is
/// not moved.
///
/// All state that the future can reach must be valid wherever it may panic: guards release in `Drop` what they acquired.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CatchPanic<'a, F>(pub Pin<&'a mut F>);

impl<F: Future> Future for CatchPanic<'_, F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.get_mut().0.as_mut();
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn result_without_panic_is_returned() {
        let later = async {
            tokio::task::yield_now().await;
            5
        };
        assert_eq!(CatchPanic(pin!(later)).await, Ok(5));
    }

    #[tokio::test]
    async fn panic_becomes_an_error_and_values_are_dropped() {
        struct Guard<'a>(&'a Cell<u32>);

        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }

        let dropped = Cell::new(0);
        let outer = Guard(&dropped);
        let panics = async {
            let _inner = Guard(&dropped);
            let _outer = outer;
            tokio::task::yield_now().await;
            poll_fn(|_| -> Poll<()> { panic!("on purpose") }).await;
        };
        let mut panics = pin!(panics);
        assert_eq!(CatchPanic(panics.as_mut()).await, Err(Panicked));
        assert_eq!(dropped.get(), 2, "before the future itself is dropped");
    }
}
