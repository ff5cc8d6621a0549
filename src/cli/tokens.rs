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

/// Forget verdicts, so that the next request with the token is asked about, and close its tunnels
///
/// It forgets, it does not ban: delete the token in Stockaj first.
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
    /// Of the token with this id, however it is spelled
    #[arg(long)]
    id: Option<String>,
    /// Of every token with this name
    #[arg(long)]
    name: Option<String>,
    /// Of all tokens
    #[arg(long)]
    all: bool,
    /// Of the token that is the first line of standard input
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
        let verdicts = if revoked == 1 { "verdict" } else { "verdicts" };
        Ok(output(Exit::Fine, |out| writeln!(out, "{revoked} {verdicts} forgotten")))
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
