//! A connection that lets no more through than somebody has an eye on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What may come between two things that were understood, in bytes. The parser behind it has no bound of its own.
const MOST: usize = 4 * 1024 * 1024;

/// How much has come since [`Eye::open`]ed last.
#[derive(Clone, Debug, Default)]
pub(super) struct Eye(Arc<AtomicUsize>);

impl Eye {
    /// What came so far was understood.
    pub(super) fn open(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    eye: Eye,
}

impl<S> Bounded<S> {
    /// Breaks `stream` off when too much has come unseen.
    pub(super) const fn new(stream: S, eye: Eye) -> Self {
        Self { stream, eye }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let came = buffer.filled().len() - before;
        if self.eye.0.fetch_add(came, Ordering::Relaxed).saturating_add(came) > MOST {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "more than 4 MiB at once")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
