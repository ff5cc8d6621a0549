//! `tokens`: what a running gateway knows of tokens, and forgetting it.

use std::io::{self, Write};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::ask_admin::{AdminError, ask_with_token};
use super::table::Side::{Left, Right};
use super::{ConfigArgument, Exit, Format, output, report, show, table, token_from_stdin};
use crate::config;
use crate::config::settings::Admin;
use crate::shown::shown;

/// List or revoke the tokens that a running gateway knows, by its admin listener
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Revoke(Revoke),
}

/// List the tokens whose verdicts are in the cache; never the tokens themselves
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    config: ConfigArgument,
    /// How they are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Remove tokens from the cache, so that each is introspected again at its next request, and close their tunnels
///
/// This does not block a token: while Stockaj has it, it works again at its next request. Delete it in Stockaj first.
#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    order: Order,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Order {
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
        };
        let admin = match config::load_admin(&config.path()) {
            Ok(admin) => admin,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Wrong;
            }
        };
        let done = match &self.command {
            Command::List(list) => list.execute(&admin),
            Command::Revoke(revoke) => revoke.execute(&admin),
        };
        done.unwrap_or_else(|error| {
            report(format_args!("error: {}: {error}", admin.address));
            Exit::Wrong
        })
    }
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
enum TokensError {
    #[error("the token cannot be read: {0}")]
    Input(#[from] io::Error),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the answer is not understood")]
    Answer,
}

impl List {
    fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let answer = ask_with_token(admin, Request::get("/tokens"), Bytes::new())?;
        let listing: Value = serde_json::from_slice(answer.body()).map_err(|_| TokensError::Answer)?;
        let tokens = listing.get("tokens").and_then(Value::as_array).ok_or(TokensError::Answer)?;
        Ok(output(Exit::Fine, |out| match self.format {
            Format::Json => writeln!(out, "{listing:#}"),
            Format::Table => table(tokens, out),
        }))
    }
}

impl Revoke {
    fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let order = match &self.order {
            Order { id: Some(id), .. } => json!({ "id": id }),
            Order { name: Some(name), .. } => json!({ "name": name }),
            Order { all: true, .. } => json!({"all": true}),
            Order { .. } => json!({ "token": &*token_from_stdin()? }),
        };
        let answer = ask_with_token(admin, Request::post("/tokens/revoke"), order.to_string().into())?;
        let answer: Value = serde_json::from_slice(answer.body()).map_err(|_| TokensError::Answer)?;
        let revoked = answer.get("revoked").and_then(Value::as_u64).ok_or(TokensError::Answer)?;
        Ok(output(Exit::Fine, |out| writeln!(out, "{}", self.order.outcome(revoked))))
    }
}

impl Order {
    /// The effect of revoking, and its limits.
    fn outcome(&self, removed: u64) -> String {
        let (tokens, is_one) = match self {
            Self { id: Some(id), .. } => (format!("token {}", shown(id)), true),
            Self { name: Some(name), .. } => (format!("tokens named `{}`", shown(name)), false),
            Self { all: true, .. } => ("all tokens".to_owned(), false),
            Self { .. } => ("the token".to_owned(), true),
        };
        let count = match removed {
            0 => "nothing was cached".to_owned(),
            1 => "1 cached verdict removed".to_owned(),
            removed => format!("{removed} cached verdicts removed"),
        };
        let remains = match is_one {
            true => "at its next request; if Stockaj has not deleted it, it still works",
            false => "at their next requests; those that Stockaj has not deleted still work",
        };
        format!("{count}: {tokens} will be introspected again {remains}")
    }
}

fn table(tokens: &[Value], output: &mut dyn Write) -> io::Result<()> {
    let text = |token: &Value, key: &str| shown(token.get(key).and_then(Value::as_str).unwrap_or("-"));
    let rows: Vec<[String; 5]> = tokens
        .iter()
        .map(|token| {
            let age = token.get("verdict_age_seconds").and_then(Value::as_f64).unwrap_or_default();
            let abilities = token.get("abilities").and_then(Value::as_array).into_iter().flatten();
            let abilities: Vec<&str> = abilities.filter_map(Value::as_str).collect();
            [
                text(token, "id"),
                text(token, "name"),
                format!("{age:.0}s"),
                text(token, "expires_at"),
                shown(&abilities.join(" ")),
            ]
        })
        .collect();
    let columns = [("ID", Left), ("NAME", Left), ("AGE", Right), ("EXPIRES", Left), ("ABILITIES", Left)];
    table::write(columns, &rows, output)
}
