//! `tokens block`, `tokens unblock` and `tokens blocked`.

use std::io::{self, Write};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::TokensError;
use crate::cli::admin_client::send_authenticated;
use crate::cli::table::Align::Left;
use crate::cli::{ConfigArgument, Exit, Format, output, table, token_from_stdin};
use crate::config::parse_duration;
use crate::config::settings::Admin;
use crate::sanitize::sanitize;

/// Refuse tokens with 401 until they are unblocked, whatever the application says, and close their tunnels
///
/// It also works while the application is down. The block survives restarts and reaches all replicas through Redis. An
/// earlier block of the same tokens is replaced.
#[derive(Debug, clap::Args)]
pub(super) struct Block {
    #[command(flatten)]
    pub(super) config: ConfigArgument,
    #[command(flatten)]
    selection: Selection,
    /// How long the block lasts, such as 30m, 12h or 90d [default: until it is removed]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<String>,
    /// The reason, for people: at most 255 characters
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// The token with this id
    #[arg(long)]
    id: Option<String>,
    /// All tokens with this name
    #[arg(long)]
    name: Option<String>,
    /// The token in the first line of standard input; only a hash of it is kept
    #[arg(long)]
    token_stdin: bool,
}

/// Remove a block, so that the application decides about the tokens again
///
/// A block of `blocked` in gateway.yaml can only be removed there.
#[derive(Debug, clap::Args)]
pub(super) struct Unblock {
    #[command(flatten)]
    pub(super) config: ConfigArgument,
    #[command(flatten)]
    selection: BlockSelection,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct BlockSelection {
    /// The block of this id
    #[arg(long)]
    id: Option<String>,
    /// The block of this name
    #[arg(long)]
    name: Option<String>,
    /// The block of the token in the first line of standard input
    #[arg(long)]
    token_stdin: bool,
    /// The block of a token by its hash, as `tokens blocked` shows it
    #[arg(long, value_name = "DIGITS")]
    token_sha256: Option<String>,
    /// The block of a name by its hash, as `tokens blocked` shows it
    #[arg(long, value_name = "DIGITS")]
    name_sha256: Option<String>,
}

/// List the blocks in force
#[derive(Debug, clap::Args)]
pub(super) struct Blocked {
    #[command(flatten)]
    pub(super) config: ConfigArgument,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn duration(text: &str) -> Result<String, &'static str> {
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(text.to_owned()),
        _ => Err("expected a duration such as 30m, 12h or 90d"),
    }
}

impl Block {
    pub(super) fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let mut body = match &self.selection {
            Selection { id: Some(id), .. } => json!({ "id": id }),
            Selection { name: Some(name), .. } => json!({ "name": name }),
            Selection { .. } => json!({ "token": &*token_from_stdin()? }),
        };
        if let Some(duration) = &self.duration {
            body["for"] = json!(duration);
        }
        if let Some(reason) = &self.reason {
            body["reason"] = json!(reason);
        }
        let block = send(admin, Request::post("/tokens/block"), body.to_string().into())?;
        let block = block.get("blocked").ok_or(TokensError::Response)?;
        let end = match block.get("until").and_then(Value::as_str) {
            Some(until) => format!("until {}", sanitize(until)),
            None => "until it is removed".to_owned(),
        };
        Ok(output(Exit::Success, |out| writeln!(out, "blocked {end}: {}", tokens(block))))
    }
}

impl Unblock {
    pub(super) fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let body = match &self.selection {
            BlockSelection { id: Some(id), .. } => json!({ "id": id }),
            BlockSelection { name: Some(name), .. } => json!({ "name": name }),
            BlockSelection { token_sha256: Some(digits), .. } => json!({ "token_sha256": digits }),
            BlockSelection { name_sha256: Some(digits), .. } => json!({ "name_sha256": digits }),
            BlockSelection { .. } => json!({ "token": &*token_from_stdin()? }),
        };
        let response = send(admin, Request::delete("/tokens/block"), body.to_string().into())?;
        let removed = response.get("unblocked").and_then(Value::as_u64).ok_or(TokensError::Response)?;
        let outcome = match removed {
            0 => "no such block".to_owned(),
            1 => "1 block removed: the application decides again".to_owned(),
            count => format!("{count} blocks removed: the application decides again"),
        };
        Ok(output(Exit::Success, |out| writeln!(out, "{outcome}")))
    }
}

impl Blocked {
    pub(super) fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let listing = send(admin, Request::get("/tokens/block"), Bytes::new())?;
        let blocks = listing.get("blocked").and_then(Value::as_array).ok_or(TokensError::Response)?;
        Ok(output(Exit::Success, |out| match self.format {
            Format::Json => writeln!(out, "{listing:#}"),
            Format::Table => write(blocks, out),
        }))
    }
}

fn send(admin: &Admin, request: http::request::Builder, body: Bytes) -> Result<Value, TokensError> {
    let response = send_authenticated(admin, request, body)?;
    serde_json::from_slice(response.body()).map_err(|_| TokensError::Response)
}

fn text(block: &Value, key: &str) -> Option<String> {
    block.get(key).and_then(Value::as_str).map(sanitize)
}

/// The tokens of a block, for people.
fn tokens(block: &Value) -> String {
    let (id, name) = (text(block, "id"), text(block, "name"));
    match (id, name, text(block, "name_sha256"), text(block, "token_sha256")) {
        (Some(id), ..) => format!("token {id}"),
        (_, Some(name), ..) => format!("tokens named `{name}`"),
        (_, _, Some(hash), _) => format!("tokens whose name has the SHA-256 {hash}…"),
        (.., hash) => format!("the token with the SHA-256 {}…", hash.unwrap_or_default()),
    }
}

fn write(blocks: &[Value], output: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<[String; 5]> = blocks
        .iter()
        .map(|block| {
            let or_dash = |key| text(block, key).unwrap_or_else(|| "-".to_owned());
            [tokens(block), or_dash("until"), or_dash("created_at"), or_dash("source"), or_dash("reason")]
        })
        .collect();
    let columns = [("BLOCKED", Left), ("UNTIL", Left), ("SINCE", Left), ("SOURCE", Left), ("REASON", Left)];
    table::write(columns, &rows, output)
}
