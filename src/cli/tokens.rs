//! `tokens`: lists, revokes and blocks the tokens of a running gateway.

mod block;

use std::io::{self, Write};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::admin_client::{AdminError, send_authenticated};
use super::table::Align::{Left, Right};
use super::{ConfigArgument, Exit, Format, output, report, show, table, token_from_stdin};
use crate::config;
use crate::config::settings::Admin;
use crate::sanitize::sanitize;

/// List, revoke or block the tokens of a running gateway, through its admin listener
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Revoke(Revoke),
    Block(block::Block),
    Unblock(block::Unblock),
    Blocked(block::Blocked),
}

/// List the tokens with cached verdicts, by id and name
///
/// A verdict is listed while it may serve requests: for `cache.ttl`, and after that during an introspection outage as long
/// as `cache.stale_if_error` permits. A token that is not listed is introspected at its next request.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    config: ConfigArgument,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Remove tokens from the cache, so that each is introspected again at its next request, and close their tunnels
///
/// This does not block a token: as long as the application has it, its next request succeeds. Delete it there first, or
/// use `tokens block`.
#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    selection: Selection,
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
    /// All tokens
    #[arg(long)]
    all: bool,
    /// The token in the first line of standard input
    #[arg(long)]
    token_stdin: bool,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let config = match &self.command {
            Command::List(list) => &list.config,
            Command::Revoke(revoke) => &revoke.config,
            Command::Block(block) => &block.config,
            Command::Unblock(unblock) => &unblock.config,
            Command::Blocked(blocked) => &blocked.config,
        };
        let admin = match config.path().and_then(|path| config::load_admin(&path)) {
            Ok(admin) => admin,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Failure;
            }
        };
        let done = match &self.command {
            Command::List(list) => list.execute(&admin),
            Command::Revoke(revoke) => revoke.execute(&admin),
            Command::Block(block) => block.execute(&admin),
            Command::Unblock(unblock) => unblock.execute(&admin),
            Command::Blocked(blocked) => blocked.execute(&admin),
        };
        done.unwrap_or_else(|error| {
            report(format_args!("error: {}: {error}", admin.address));
            Exit::Failure
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum TokensError {
    #[error("the token cannot be read: {0}")]
    Input(#[from] io::Error),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the response is malformed")]
    Response,
}

impl List {
    fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let response = send_authenticated(admin, Request::get("/tokens"), Bytes::new())?;
        let listing: Value = serde_json::from_slice(response.body()).map_err(|_| TokensError::Response)?;
        let tokens = listing.get("tokens").and_then(Value::as_array).ok_or(TokensError::Response)?;
        Ok(output(Exit::Success, |out| match self.format {
            Format::Json => writeln!(out, "{listing:#}"),
            Format::Table => table(tokens, out),
        }))
    }
}

impl Revoke {
    fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let body = match &self.selection {
            Selection { id: Some(id), .. } => json!({ "id": id }),
            Selection { name: Some(name), .. } => json!({ "name": name }),
            Selection { all: true, .. } => json!({"all": true}),
            Selection { .. } => json!({ "token": &*token_from_stdin()? }),
        };
        let response = send_authenticated(admin, Request::post("/tokens/revoke"), body.to_string().into())?;
        let response: Value = serde_json::from_slice(response.body()).map_err(|_| TokensError::Response)?;
        let revoked = response.get("revoked").and_then(Value::as_u64).ok_or(TokensError::Response)?;
        Ok(output(Exit::Success, |out| writeln!(out, "{}", self.selection.outcome(revoked))))
    }
}

impl Selection {
    /// Describes the effect of revoking and its limits.
    fn outcome(&self, removed: u64) -> String {
        let (tokens, is_one) = match self {
            Self { id: Some(id), .. } => (format!("token {}", sanitize(id)), true),
            Self { name: Some(name), .. } => (format!("tokens named `{}`", sanitize(name)), false),
            Self { all: true, .. } => ("all tokens".to_owned(), false),
            Self { .. } => ("the token".to_owned(), true),
        };
        let count = match removed {
            0 => "nothing was cached".to_owned(),
            1 => "1 cached verdict removed".to_owned(),
            removed => format!("{removed} cached verdicts removed"),
        };
        let remains = match is_one {
            true => "at its next request; if the application has not deleted it, it still works",
            false => "at their next requests; those that the application has not deleted still work",
        };
        format!("{count}: {tokens} will be introspected again {remains}")
    }
}

fn table(tokens: &[Value], output: &mut dyn Write) -> io::Result<()> {
    let text = |token: &Value, key: &str| sanitize(token.get(key).and_then(Value::as_str).unwrap_or("-"));
    let rows: Vec<[String; 6]> = tokens
        .iter()
        .map(|token| {
            let age = token.get("verdict_age_seconds").and_then(Value::as_f64).unwrap_or_default();
            let abilities = token.get("abilities").and_then(Value::as_array).into_iter().flatten();
            let abilities: Vec<&str> = abilities.filter_map(Value::as_str).collect();
            let networks = token.get("allowed_from").and_then(Value::as_array);
            [
                text(token, "id"),
                text(token, "name"),
                format!("{age:.0}s"),
                text(token, "expires_at"),
                networks.map_or("anywhere".to_owned(), |networks| from(networks)),
                sanitize(&abilities.join(" ")),
            ]
        })
        .collect();
    let columns = [
        ("ID", Left),
        ("NAME", Left),
        ("AGE", Right),
        ("EXPIRES", Left),
        ("FROM", Left),
        ("ABILITIES", Left),
    ];
    table::write(columns, &rows, output)
}

/// The first two networks that a token may be used from, and the number of the others.
fn from(networks: &[Value]) -> String {
    let named: Vec<&str> = networks.iter().take(2).filter_map(Value::as_str).collect();
    match networks.len() {
        0 => "nowhere".to_owned(),
        1 | 2 => sanitize(&named.join(",")),
        many => format!("{} and {} more", sanitize(&named.join(",")), many - 2),
    }
}
