//! Bytes both ways, once a connection has become a tunnel.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use crate::client::pool::Upgraded;

/// Of the buffer of one direction, in bytes: that is all that a tunnel holds for someone who does not read.
const BUFFER: usize = 8 * 1024;

/// Copies both ways until both sides have ended. The end of one is passed on to the other, which may yet speak.
///
/// # Errors
/// As soon as one side breaks.
pub async fn copy<C>(mut client: Client<'_, C>, mut backend: Upgraded) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await?;
    Ok(())
}

/// The bytes that have gone through a tunnel.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Set whenever a byte goes through, either way.
    pub moved: Cell<bool>,
    /// Bytes that the client sent.
    pub from_client: Cell<u64>,
    /// Bytes that the client took.
    pub to_client: Cell<u64>,
}

impl Traffic {
    fn count(&self, counter: &Cell<u64>, bytes: usize) {
        if bytes > 0 {
            self.moved.set(true);
            counter.set(counter.get() + bytes as u64);
        }
    }
}

/// A tunnel's client. All that goes through the tunnel goes by here, so this is where it is noted.
pub struct Client<'a, C> {
    connection: C,
    /// What it said before it was answered; how much of it was read.
    early: Zeroizing<Vec<u8>>,
    read: usize,
    traffic: &'a Traffic,
}

impl<'a, C> Client<'a, C> {
    /// The client at the other end of `connection`, which has said `early` already. `traffic` counts what goes through.
    pub const fn new(connection: C, early: Zeroizing<Vec<u8>>, traffic: &'a Traffic) -> Self {
        Self { connection, early, read: 0, traffic }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Client<'_, C> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let early = this.early.get(this.read..).unwrap_or_default();
        if !early.is_empty() {
            let length = early.len().min(buffer.remaining());
            buffer.put_slice(&early[..length]);
            this.read += length;
            this.traffic.count(&this.traffic.from_client, length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.connection).poll_read(context, buffer);
        this.traffic.count(&this.traffic.from_client, buffer.filled().len() - before);
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Client<'_, C> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            this.traffic.count(&this.traffic.to_client, bytes);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(context)
    }
}
