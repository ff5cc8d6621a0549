//! Checks the heads in a client's HTTP/2 connection before h2 drops parts of them.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::{Zeroize, Zeroizing};

use super::header_blocks::{HeaderBlocks, LossyHead, Readable};
use super::http2_flood::{FrameFault, FrameLimitedIo, FramePart, Frames, PREFACE};
use super::http2_limits::ReadQuota;
use crate::policy::hpack::Malformed;

/// A transport that counts frames and checks heads.
pub(super) struct CompleteHeads {
    inner: FrameLimitedIo,
    frames: Frames,
    blocks: HeaderBlocks,
    lossy_head: Rc<LossyHead>,
    /// Received bytes that h2 may not read yet: the last byte of an odd head, then unchecked bytes. They may contain a
    /// token.
    buffered: Zeroizing<Vec<u8>>,
    /// `None` if h2 may read all that arrives.
    quota: Option<Rc<ReadQuota>>,
}

impl CompleteHeads {
    /// A connection before its first read; `lossy_head` receives odd heads.
    pub(super) fn new(
        inner: FrameLimitedIo,
        lossy_head: Rc<LossyHead>,
        quota: Option<Rc<ReadQuota>>,
    ) -> Self {
        Self {
            inner,
            frames: Frames::after(PREFACE.len() as u32),
            blocks: HeaderBlocks::default(),
            lossy_head,
            buffered: Zeroizing::default(),
            quota,
        }
    }

    /// Checks received bytes up to the end of a head of which h2 would drop a part. Returns the number of checked
    /// bytes, and the part that would be dropped.
    fn scan_heads(&mut self, bytes: &[u8]) -> Result<(usize, Option<&'static str>), Malformed> {
        let Self { frames, blocks, .. } = self;
        let mut seen = 0;
        while seen < bytes.len() {
            let (length, piece) = frames.step(&bytes[seen..]);
            match piece {
                FramePart::Other => {}
                FramePart::Header(frame) => blocks.begin(frame),
                FramePart::Payload => blocks.read(&bytes[seen..seen + length])?,
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

    /// Copies at most `most` kept bytes to `buffer`.
    fn read_buffered(&mut self, buffer: &mut ReadBuf<'_>, most: usize) {
        let length = self.buffered.len().min(buffer.remaining()).min(most);
        buffer.put_slice(&self.buffered[..length]);
        self.buffered.drain(..length);
        if self.buffered.is_empty() {
            self.buffered.zeroize();
        }
    }
}

impl CompleteHeads {
    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        if let Some(quota) = &self.quota {
            quota.note_write(written);
        }
    }

    #[inline]
    fn read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.lossy_head.take_readable() {
            Readable::All => {}
            // The connection's task polls it again.
            Readable::Nothing => return Poll::Pending,
            Readable::Byte => {
                self.read_buffered(buffer, 1);
                return Poll::Ready(Ok(()));
            }
        }
        let before = buffer.filled().len();
        if self.buffered.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        } else {
            self.read_buffered(buffer, usize::MAX);
        }
        let received = &buffer.filled()[before..];
        match self.scan_heads(received) {
            Ok((_, None)) => Poll::Ready(Ok(())),
            Ok((seen, Some(why))) => {
                self.lossy_head.found(why);
                // At least one byte of the head was checked.
                let clear = seen - 1;
                self.buffered = Zeroizing::new([&received[clear..], &self.buffered].concat());
                buffer.set_filled(before + clear);
                if clear > 0 {
                    return Poll::Ready(Ok(()));
                }
                // h2 has already asked for more.
                let _ = self.lossy_head.take_readable();
                Poll::Pending
            }
            Err(Malformed) => {
                buffer.set_filled(before);
                Poll::Ready(Err(io::Error::other(self.inner.fail(FrameFault::HeaderBlock))))
            }
        }
    }
}

impl AsyncRead for CompleteHeads {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Without a waker: the connection's task or a pending write wakes it.
        if this.quota.as_ref().is_some_and(|quota| quota.is_used_up() || quota.is_write_pending()) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = this.read(context, buffer);
        if let Some(quota) = &this.quota {
            quota.add(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for CompleteHeads {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(context, buffer);
        this.note_write(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, buffers);
        this.note_write(&written);
        written
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
