//! Copies the bytes of a tunnel in both directions.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use crate::client::pool::Upgraded;

/// Buffer of each direction, in bytes: the most that a tunnel holds for a side that does not read.
const BUFFER: usize = 8 * 1024;

/// Copies in both directions until both sides have ended. Forwards the end of one side to the other, which may still send.
///
/// # Errors
/// The first I/O error of either side.
pub async fn copy<C>(mut client: Client<'_, C>, mut backend: Upgraded) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await?;
    Ok(())
}

/// The traffic of a tunnel.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Set by each byte in either direction.
    pub moved: Cell<bool>,
    /// Bytes that the client sent.
    pub from_client: Cell<u64>,
    /// Bytes that were written to the client.
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

/// The client of a tunnel. It counts the traffic, all of which passes here.
pub struct Client<'a, C> {
    connection: C,
    /// Bytes that it sent before the response, and how many of them were read.
    early: Zeroizing<Vec<u8>>,
    read: usize,
    traffic: &'a Traffic,
}

impl<'a, C> Client<'a, C> {
    /// The client of `connection`, which has sent `early` already. `traffic` counts the bytes.
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
