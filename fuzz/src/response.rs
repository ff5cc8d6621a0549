//! The responses of a hostile backend: however its bytes are split into reads, the client parses the same response or
//! rejects it, and the response has nothing that the backend did not send.
//!
//! The first byte of `data` is the method (`H`: HEAD), the second how many bytes are read at once; the rest is what the
//! backend sends before it closes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::Empty;
use stockaj_gateway::internals::client::http1::{
    Connection, Http1Error, MAX_FIELDS, MAX_HEAD, Outgoing, RequestHead,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A backend that reads everything, sends its bytes in pieces, and closes.
struct Backend<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Backend<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = this.piece.min(this.bytes.len()).min(buffer.remaining());
        let (piece, rest) = this.bytes.split_at(length);
        buffer.put_slice(piece);
        this.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Backend<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Status, fields, data, trailers, and whether the connection is kept.
type Read = (u16, HeaderMap, Vec<u8>, HeaderMap, bool);

fn read(bytes: &[u8], piece: usize, method: &Method) -> Result<Read, Http1Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = Connection::new(Backend { bytes, piece });
        let mut outgoing = Outgoing::new(RequestHead::new(method, ["/"]), Some(Empty::<Bytes>::new()));
        connection.begin();
        let head = poll_fn(|context| connection.poll_response(context, &mut outgoing)).await?;
        assert!(head.fields.len() <= MAX_FIELDS);
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = poll_fn(|context| connection.poll_frame(context, Some(&mut outgoing))).await {
            match frame?.into_data() {
                Ok(more) => data.extend_from_slice(&more),
                Err(frame) => trailers.extend(frame.into_trailers().ok().into_iter().flatten()),
            }
        }
        let status = head.status.as_u16();
        if status == 101 {
            data = connection.into_stream().1.to_vec();
            return Ok((status, head.fields, Vec::new(), trailers, data.is_empty()));
        }
        Ok((status, head.fields, data, trailers, connection.is_reusable(Some(&outgoing))))
    })
}

pub fn check(data: &[u8]) {
    let [method, piece, bytes @ ..] = data else { return };
    let method = if *method == b'H' { Method::HEAD } else { Method::GET };
    let whole = read(bytes, usize::MAX, &method);
    let cut = read(bytes, usize::from(*piece).max(1), &method);
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => {
            // Bytes after the response may not have been read when it ends, so `kept` may differ.
            assert_eq!((whole.0, &whole.1, &whole.2, &whole.3), (cut.0, &cut.1, &cut.2, &cut.3));
            assert!(whole.2.len() <= bytes.len());
            let longest: usize = whole.1.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(longest <= MAX_HEAD);
            if whole.0 == 204 || whole.0 == 304 || method == Method::HEAD {
                assert!(whole.2.is_empty());
            }
        }
        (Err(whole), Err(cut)) => {
            let kind = |error: &Http1Error| std::mem::discriminant(error);
            assert_eq!(kind(&whole), kind(&cut), "{whole} and {cut}");
        }
        (whole, cut) => panic!("{:?} whole, {:?} cut", whole.map(|it| it.0), cut.map(|it| it.0)),
    }
}
