//! What tokens do, as the ledger has it.

use std::io::{self, Write};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Either;
use http_body_util::channel::{Channel, Sender};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::Admin;
use super::audit::{Action, Caller};
use super::response::{Answer, json, message};
use super::tokens::is_token;
use crate::config::settings::FindingRules;
use crate::usage::question::Question;
use crate::usage::tell::{TellError, Telling};
use crate::usage::writer::View;

/// How much of a report is made before it is sent, in bytes.
const PIECE: usize = 64 * 1024;
/// How many pieces wait for a slow reader.
const PIECES: usize = 2;

/// A report, from a ledger that goes on being written. It is made as it is read, so that it may be longer than memory.
pub(super) async fn show(admin: &Admin, caller: Caller<'_>, request: &Request<Bytes>) -> Answer {
    let question = match Question::parse(request.uri().query().unwrap_or_default()) {
        Ok(question) => question,
        Err(error) => return message(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if question.token.as_deref().is_some_and(is_token) {
        return message(
            StatusCode::BAD_REQUEST,
            "That is a token: ask by its id, which stands before the `|`.",
        );
    }
    let Some(view) = admin.usage.view().await else {
        return message(StatusCode::NOT_FOUND, "No usage is kept: `usage` is not configured.");
    };
    let token = question.token.as_deref().map(|token| ("id", token));
    caller.did(Action { action: "show usage", subject: token, count: None });
    let rules = admin.settings.load().usage.as_ref().map(|usage| usage.findings.clone()).unwrap_or_default();
    let (sender, body) = Channel::new(PIECES);
    let runtime = Handle::current();
    let mut pieces = Pieces { sender, runtime, piece: Vec::with_capacity(PIECE) };
    spawn_blocking(move || {
        if let Err(error) = tell(&view, &question, &rules, &mut pieces) {
            pieces.give_up(error);
        }
    });
    let mut answer = json(StatusCode::OK, Bytes::new());
    *answer.body_mut() = Either::Right(body);
    answer
}

fn tell(
    view: &View,
    question: &Question,
    rules: &FindingRules,
    pieces: &mut Pieces,
) -> Result<(), TellError> {
    Telling::new(view, question, rules, Timestamp::now())?.write_json(pieces)
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
