//! What tokens do, as the ledger has it.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::header::{RETRY_AFTER, VARY};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Either;
use http_body_util::channel::{Channel, Sender};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::Admin;
use super::accept::accepts_html;
use super::audit::{Action, Caller};
use super::response::{Answer, json, message};
use super::tokens::is_token;
use super::usage_page;
use crate::config::settings::FindingRules;
use crate::telemetry::lines::AuditPriority;
use crate::usage::message::{NoView, Turn, View};
use crate::usage::question::Question;
use crate::usage::tell::{TellError, Telling};

/// How much of a report is made before it is sent, in bytes.
const PIECE: usize = 64 * 1024;
/// How many pieces wait for a slow reader.
const PIECES: usize = 2;

/// What is asked, and what there is to answer it from.
pub(super) struct Asked {
    pub(super) view: View,
    pub(super) question: Question,
    pub(super) rules: FindingRules,
    pub(super) now: Timestamp,
    #[expect(dead_code, reason = "held until the report is made")]
    pub(super) turn: Turn,
}

/// Usage, as a page for browsers and as JSON for everybody else.
pub(super) async fn show(admin: &Admin, caller: Caller<'_>, request: &Request<Bytes>) -> Answer {
    let mut answer = match (asked(admin, caller, request).await, accepts_html(request.headers())) {
        (Ok(asked), true) => usage_page::show(asked).await,
        (Ok(asked), false) => tell_all(asked),
        (Err((status, text)), is_page) => {
            let mut answer =
                if is_page { usage_page::problem(status, &text) } else { message(status, &text) };
            if status == StatusCode::SERVICE_UNAVAILABLE {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            answer
        }
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    answer
}

async fn asked(
    admin: &Admin,
    caller: Caller<'_>,
    request: &Request<Bytes>,
) -> Result<Asked, (StatusCode, String)> {
    let question = Question::parse(request.uri().query().unwrap_or_default())
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    if question.token.as_deref().is_some_and(is_token) {
        let text = "That is a token: ask by its id, which stands before the `|`.";
        return Err((StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let (view, turn) = admin.usage.view().await.map_err(|error| match error {
        NoView::NotKept => (StatusCode::NOT_FOUND, error.to_string()),
        NoView::Busy => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let slot = admin
        .audit
        .reserve(AuditPriority::Read)
        .map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable.".to_owned()))?;
    let (action, subject) = match question.token.as_deref() {
        // What is nobody's id may be a token that was pasted in the wrong place.
        Some(id) if !view.knows(id) => ("show usage of an unknown token", None),
        id => ("show usage", id.map(|id| ("id", id))),
    };
    caller.did(slot, Action { action, subject, count: None });
    let rules = admin.settings.load().usage.as_ref().map(|usage| usage.findings.clone()).unwrap_or_default();
    Ok(Asked { view, question, rules, now: Timestamp::now(), turn })
}

/// A report, from a ledger that goes on being written. It is made as it is read, so that it may be longer than memory.
fn tell_all(asked: Asked) -> Answer {
    let body = in_pieces(move |pieces| tell(&asked, pieces));
    let mut answer = json(StatusCode::OK, Bytes::new());
    *answer.body_mut() = Either::Right(body);
    answer
}

/// What `tell` writes, as it does so.
fn in_pieces(
    tell: impl FnOnce(&mut Pieces) -> Result<(), TellError> + Send + 'static,
) -> Channel<Bytes, io::Error> {
    let (sender, body) = Channel::new(PIECES);
    let runtime = Handle::current();
    let mut pieces = Pieces { sender, runtime, piece: Vec::with_capacity(PIECE) };
    spawn_blocking(move || {
        // A damaged file can make the library panic, which has told of itself: no reader takes what came for all.
        let told = catch_unwind(AssertUnwindSafe(|| tell(&mut pieces)));
        match told.unwrap_or_else(|_| Err(io::Error::other("the report could not be made").into())) {
            Ok(()) => {}
            Err(error) => pieces.give_up(error),
        }
    });
    body
}

fn tell(asked: &Asked, pieces: &mut Pieces) -> Result<(), TellError> {
    let Asked { view, question, rules, now, .. } = asked;
    Telling::new(view, question, rules, *now)?.write_json(pieces)
}

/// What is written, sent in pieces.
struct Pieces {
    sender: Sender<Bytes, io::Error>,
    runtime: Handle,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.runtime.block_on(self.sender.send_data(piece.into()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Breaks the answer off, which its reader can tell from its end.
    fn give_up(self, error: TellError) {
        if let TellError::Ledger(error) = &error {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "usage: the ledger cannot be read");
        }
        self.sender.abort(io::Error::other(error));
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_breaks_off_does_not_look_whole() {
        let whole = in_pieces(|pieces| Ok(pieces.write_all(b"[]").and_then(|()| pieces.flush())?));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "[]");
        let failed = in_pieces(|pieces| {
            pieces.write_all(&[b'['; PIECE])?;
            Err(io::Error::other("gone").into())
        });
        assert!(failed.collect().await.is_err());
        let panicked = in_pieces(|pieces| {
            pieces.write_all(&[b'['; PIECE])?;
            panic!("damaged")
        });
        assert!(panicked.collect().await.is_err());
    }
}
