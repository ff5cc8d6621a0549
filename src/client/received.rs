//! The body of an answer, as it comes.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::fault::ExchangeError;

/// The body of an answer, over whichever version of HTTP it comes.
#[derive(Debug)]
pub enum Received {
    /// Over a connection of its own.
    Http1(Incoming),
    /// Over a stream, one of several of its connection.
    Http2(Box<Stream>),
}

/// See [`Received::Http2`]. At most its flow control window is held in memory: what was handed on makes room for more
/// when the next piece is asked for.
#[derive(Debug)]
pub struct Stream {
    stream: RecvStream,
    data_is_over: bool,
    /// Of the window, in bytes: handed on, and not yet given back.
    taken: usize,
    /// What Content-Length leaves to come. h2 sees to it that it is true.
    left: Option<u64>,
    heard: Rc<Cell<bool>>,
}

impl Stream {
    pub(super) fn new(stream: RecvStream, length: Option<u64>, heard: Rc<Cell<bool>>) -> Self {
        Self { stream, data_is_over: false, taken: 0, left: length, heard }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        if self.taken > 0 {
            // Fails where the stream is over, and with it its window.
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
        if !self.data_is_over {
            if let Some(data) = ready!(self.stream.poll_data(context)) {
                let data = data?;
                self.heard.set(true);
                self.taken = data.len();
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.data_is_over = true;
        }
        let trailers = ready!(self.stream.poll_trailers(context))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match self.get_mut() {
            Self::Http1(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(ExchangeError::Http1)))
            }
            Self::Http2(stream) => stream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(stream) => stream.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(stream) => match stream.left {
                Some(left) => SizeHint::with_exact(left),
                None if stream.stream.is_end_stream() => SizeHint::with_exact(0),
                None => SizeHint::default(),
            },
        }
    }
}
