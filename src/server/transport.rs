//! The byte stream of a client's connection. It records the connection state, by which the sweep enforces time limits.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use crate::downstream::Downstream;

/// The socket of a connection, with or without TLS.
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    // Boxed because it is large.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Whether the client has ended its side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientEnd {
    /// It has not ended it.
    Open,
    /// It sends nothing more; unread bytes may be left.
    Finished,
    /// It does not read either: the connection was reset or, if it is a Unix socket, closed.
    Gone,
}

/// The end of a socket according to the runtime's readiness, without a system call and without reading. Wakes the task when
/// the socket becomes readable.
macro_rules! socket_end {
    ($stream:expr, $context:expr) => {{
        let _ = $stream.poll_read_ready($context);
        let ready = pin!($stream.ready(Interest::READABLE | Interest::WRITABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) if ready.is_write_closed() => ClientEnd::Gone,
            Poll::Ready(Ok(ready)) if ready.is_read_closed() => ClientEnd::Finished,
            Poll::Ready(Ok(_)) | Poll::Pending => ClientEnd::Open,
            // The runtime has ended.
            Poll::Ready(Err(_)) => ClientEnd::Gone,
        }
    }};
}

impl Transport {
    /// Whether the client has ended its side. Consumes nothing that it has sent. If it has not, wakes the task when the
    /// socket becomes readable.
    pub(super) fn client_end(&mut self, context: &mut Context<'_>, mid_message: bool) -> ClientEnd {
        match self {
            Self::Tcp(stream) => socket_end!(stream, context),
            Self::Unix(stream) => socket_end!(stream, context),
            Self::Tls(stream) => {
                let end = socket_end!(stream.get_ref().0, context);
                if mid_message || end == ClientEnd::Gone {
                    return end;
                }
                match Pin::new(&mut **stream).poll_fill_buf(context) {
                    // A close_notify alert; the socket may stay open.
                    Poll::Ready(Ok([])) => ClientEnd::Finished,
                    // The next message precedes the end.
                    Poll::Ready(Ok(_)) => end,
                    // Also an end without close_notify.
                    Poll::Ready(Err(_)) => ClientEnd::Gone,
                    Poll::Pending => ClientEnd::Open,
                }
            }
        }
    }

    /// Closes a TCP connection with a reset.
    pub(super) fn reset(self) {
        if let Self::Tcp(stream) = self {
            // If this fails, the client sees an ordinary end.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// A transport that records the connection state.
pub(super) struct RecordedIo {
    pub(super) transport: Transport,
    pub(super) downstream: Rc<Downstream>,
    /// Bytes that were read to detect the protocol. They may contain a token.
    pub(super) unread: Zeroizing<Vec<u8>>,
}

macro_rules! on_transport {
    ($transport:expr, $method:ident $(, $argument:expr)*) => {
        match $transport {
            Transport::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl RecordedIo {
    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        let state = &self.downstream.state;
        if let Poll::Ready(Ok(bytes)) = written {
            state.add_progress(*bytes);
        }
        state.note_write(written.is_pending(), Instant::now);
    }
}

impl AsyncRead for RecordedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let length = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread[..length]);
            this.unread.drain(..length);
            return Poll::Ready(Ok(()));
        }
        on_transport!(&mut this.transport, poll_read, context, buffer)
    }
}

impl AsyncWrite for RecordedIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = on_transport!(&mut this.transport, poll_write, context, buffer);
        this.note_written(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = on_transport!(&mut this.transport, poll_write_vectored, context, buffers);
        this.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = on_transport!(&mut this.transport, poll_flush, context);
        // TLS may have buffered a response that the client does not read.
        this.downstream.state.note_write(flushed.is_pending(), Instant::now);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(&mut self.get_mut().transport, poll_shutdown, context)
    }
}
