//! The body of an HTTP/2 response.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Frame, SizeHint};

use super::error::ExchangeError;

/// The body of an HTTP/2 response. It buffers at most its flow control window: capacity is released when the next piece
/// is polled.
#[derive(Debug)]
pub(super) struct ResponseStream {
    stream: RecvStream,
    data_is_over: bool,
    /// Bytes of the window that were returned and not yet released.
    taken: usize,
    /// The rest of Content-Length, which h2 enforces.
    left: Option<u64>,
    received_any: Rc<Cell<bool>>,
}

impl ResponseStream {
    pub(super) fn new(stream: RecvStream, length: Option<u64>, received_any: Rc<Cell<bool>>) -> Self {
        Self { stream, data_is_over: false, taken: 0, left: length, received_any }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        if self.taken > 0 {
            // Fails if the stream has ended, and then the window does not matter.
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
        if !self.data_is_over {
            if let Some(data) = ready!(self.stream.poll_data(context)) {
                let data = data?;
                self.received_any.set(true);
                self.taken = data.len();
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.data_is_over = true;
        }
        let trailers = ready!(self.stream.poll_trailers(context))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
