//! `GET /usage`: a page for browsers, JSON for other clients.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::header::{RETRY_AFTER, VARY};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Either;
use http_body_util::channel::{Channel, Sender};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::Admin;
use super::accept::accepts_html;
use super::audit::Actor;
use super::response::{AdminResponse, json, message};
use super::usage_page;
use super::usage_query::{UsageQuery, open};
use crate::usage::report_stream::{ReportError, ReportStream};

/// The size of a chunk of the streamed report, in bytes.
const CHUNK: usize = 64 * 1024;
/// The number of chunks that are buffered for a slow client.
const BUFFERED_CHUNKS: usize = 2;

pub(super) async fn show(admin: &Admin, actor: Actor<'_>, request: &Request<Bytes>) -> AdminResponse {
    let mut response = match (open(admin, actor, request).await, accepts_html(request.headers())) {
        (Ok(query), true) => usage_page::show(query).await,
        (Ok(query), false) => stream_json(query),
        (Err((status, text)), is_page) => {
            let mut response =
                if is_page { usage_page::problem(status, &text) } else { message(status, &text) };
            if status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            response
        }
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Streams the report while the ledger is read, since it may exceed the memory.
fn stream_json(query: UsageQuery) -> AdminResponse {
    let body = stream(move |chunks| {
        let UsageQuery { view, report_query, rules, now, .. } = &query;
        ReportStream::new(view, report_query, rules, *now)?.write_json(chunks)
    });
    let mut response = json(StatusCode::OK, Bytes::new());
    *response.body_mut() = Either::Right(body);
    response
}

/// A body with what `write` writes on a thread for blocking work. The body ends with an error if `write` fails.
fn stream(
    write: impl FnOnce(&mut Chunks) -> Result<(), ReportError> + Send + 'static,
) -> Channel<Bytes, io::Error> {
    let (sender, body) = Channel::new(BUFFERED_CHUNKS);
    let runtime = Handle::current();
    let mut chunks = Chunks { sender, runtime, chunk: Vec::with_capacity(CHUNK) };
    spawn_blocking(move || {
        // A damaged ledger can make its library panic, which the panic hook logs. The body must not look complete.
        let result = catch_unwind(AssertUnwindSafe(|| write(&mut chunks)));
        match result.unwrap_or_else(|_| Err(io::Error::other("the report could not be written").into())) {
            Ok(()) => {}
            Err(error) => chunks.abort(error),
        }
    });
    body
}

/// Sends what is written as the chunks of a body.
struct Chunks {
    sender: Sender<Bytes, io::Error>,
    runtime: Handle,
    chunk: Vec<u8>,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let sent = self.runtime.block_on(self.sender.send_data(chunk.into()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Ends the body with an error, so that the client can tell that it is incomplete.
    fn abort(self, error: ReportError) {
        if let ReportError::Ledger(error) = &error {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "usage: the ledger cannot be read");
        }
        self.sender.abort(io::Error::other(error));
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() { Ok(()) } else { self.send() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn failed_or_panicked_report_ends_its_body_with_an_error() {
        let whole = stream(|chunks| Ok(chunks.write_all(b"[]").and_then(|()| chunks.flush())?));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "[]");
        let failed = stream(|chunks| {
            chunks.write_all(&[b'['; CHUNK])?;
            Err(io::Error::other("gone").into())
        });
        assert!(failed.collect().await.is_err());
        let panicked = stream(|chunks| {
            chunks.write_all(&[b'['; CHUNK])?;
            panic!("damaged")
        });
        assert!(panicked.collect().await.is_err());
    }
}
