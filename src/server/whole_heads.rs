//! A client's HTTP/2 connection, whose heads are looked at before h2 drops a part of them.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::{Zeroize, Zeroizing};

use super::header_blocks::{HeaderBlocks, OddHead, Readable};
use super::http2_flood::{Counted, Fault, Frames, PREFACE, Piece};
use crate::policy::hpack::Malformed;

/// A transport whose frames are counted and whose heads are looked at.
pub(super) struct WholeHeads {
    inner: Counted,
    frames: Frames,
    blocks: HeaderBlocks,
    odd_head: Rc<OddHead>,
    /// What came and is not for h2 to read yet: the last byte of an odd head, then what was not looked at. It may hold
    /// a token.
    held: Zeroizing<Vec<u8>>,
}

impl WholeHeads {
    /// A connection over which nothing was read, and where to tell of odd heads.
    pub(super) fn new(inner: Counted, odd_head: Rc<OddHead>) -> Self {
        Self {
            inner,
            frames: Frames::after(PREFACE.len() as u32),
            blocks: HeaderBlocks::default(),
            odd_head,
            held: Zeroizing::default(),
        }
    }

    /// Looks at what came, up to the end of a head of which h2 would drop a part: how many bytes that is, and what
    /// would be dropped.
    fn look(&mut self, bytes: &[u8]) -> Result<(usize, Option<&'static str>), Malformed> {
        let Self { frames, blocks, .. } = self;
        let mut seen = 0;
        while seen < bytes.len() {
            let (length, piece) = frames.step(&bytes[seen..]);
            match piece {
                Piece::Other => {}
                Piece::Header(frame) => blocks.begin(frame),
                Piece::Payload => blocks.read(&bytes[seen..seen + length])?,
            }
            seen += length;
            if frames.is_between()
                && let Some(dropped) = blocks.end()?
            {
                return Ok((seen, Some(dropped)));
            }
        }
        Ok((seen, None))
    }

    /// Hands out what was held, at most so many bytes.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>, most: usize) {
        let length = self.held.len().min(buffer.remaining()).min(most);
        buffer.put_slice(&self.held[..length]);
        self.held.drain(..length);
        if self.held.is_empty() {
            self.held.zeroize();
        }
    }
}

impl AsyncRead for WholeHeads {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.odd_head.readable() {
            Readable::All => {}
            // Whoever drives the connection polls it again.
            Readable::Nothing => return Poll::Pending,
            Readable::Byte => {
                this.hand_out(buffer, 1);
                return Poll::Ready(Ok(()));
            }
        }
        let before = buffer.filled().len();
        if this.held.is_empty() {
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        } else {
            this.hand_out(buffer, usize::MAX);
        }
        let came = &buffer.filled()[before..];
        match this.look(came) {
            Ok((_, None)) => Poll::Ready(Ok(())),
            Ok((seen, Some(why))) => {
                this.odd_head.found(why);
                // Of a head at least one byte was seen.
                let clear = seen - 1;
                this.held = Zeroizing::new([&came[clear..], &this.held].concat());
                buffer.set_filled(before + clear);
                if clear > 0 {
                    return Poll::Ready(Ok(()));
                }
                // It has asked for more already.
                let _ = this.odd_head.readable();
                Poll::Pending
            }
            Err(Malformed) => {
                buffer.set_filled(before);
                Poll::Ready(Err(io::Error::other(this.inner.fail(Fault::HeaderBlock))))
            }
        }
    }
}

impl AsyncWrite for WholeHeads {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
