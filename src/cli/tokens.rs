//! `tokens`: what a running gateway knows of tokens, and forgetting it.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::ask_admin::{AdminError, ask_admin};
use super::{ConfigArgument, Exit, Format, output, report, show, token_from_stdin};
use crate::config;
use crate::config::settings::Admin;
use crate::shown::shown;

/// An order looks at every verdict; a list of very many takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

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
    #[error("neither `admin.token_file` nor `admin.token` is set, so that nobody may ask")]
    NoToken,
    #[error("the admin token cannot be sent")]
    Token(#[from] http::header::InvalidHeaderValue),
    #[error("the token cannot be read: {0}")]
    Input(#[from] io::Error),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(
        "the admin token of `admin.token_file` or `admin.token` is not the one that the gateway runs with"
    )]
    Unauthenticated,
    #[error("it runs without an admin token, or is no admin listener")]
    NotFound,
    #[error("it answers {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("the answer is not understood")]
    Answer,
}

impl List {
    fn execute(&self, admin: &Admin) -> Result<Exit, TokensError> {
        let answer = ask(admin, Request::get("/tokens"), Bytes::new())?;
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
        let answer = ask(admin, Request::post("/tokens/revoke"), order.to_string().into())?;
        let answer: Value = serde_json::from_slice(answer.body()).map_err(|_| TokensError::Answer)?;
        let revoked = answer.get("revoked").and_then(Value::as_u64).ok_or(TokensError::Answer)?;
        let verdicts = if revoked == 1 { "verdict" } else { "verdicts" };
        Ok(output(Exit::Fine, |out| writeln!(out, "{revoked} {verdicts} forgotten")))
    }
}

fn ask(admin: &Admin, request: http::request::Builder, body: Bytes) -> Result<Response<Bytes>, TokensError> {
    let token = admin.token.as_ref().ok_or(TokensError::NoToken)?;
    let bearer = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
    let mut credentials = HeaderValue::from_str(&bearer)?;
    credentials.set_sensitive(true);
    let request = request.header(AUTHORIZATION, credentials).body(Full::new(body));
    let answer = ask_admin(&admin.address, request.map_err(AdminError::from)?, PATIENCE)?;
    match answer.status().as_u16() {
        200 => Ok(answer),
        401 => Err(TokensError::Unauthenticated),
        404 => Err(TokensError::NotFound),
        status => {
            let said: Option<Value> = serde_json::from_slice(answer.body()).ok();
            let message = said.as_ref().and_then(|said| said.get("message")?.as_str()).unwrap_or("-");
            Err(TokensError::Refused { status, message: message.to_owned() })
        }
    }
}

fn table(tokens: &[Value], output: &mut dyn Write) -> io::Result<()> {
    const HEADING: Style = Style::new().bold();
    const NAMES: [&str; 5] = ["ID", "NAME", "AGE", "EXPIRES", "ABILITIES"];
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
    let width = |column: usize| {
        let texts = rows.iter().map(|row| row[column].as_str()).chain([NAMES[column]]);
        texts.map(|text| text.chars().count()).max().unwrap_or_default()
    };
    let [id, name, age, expires] = [0, 1, 2, 3].map(width);
    let [a, b, c, d, e] = NAMES;
    writeln!(output, "{HEADING}{a:id$}  {b:name$}  {c:>age$}  {d:expires$}  {e}{HEADING:#}")?;
    for [a, b, c, d, e] in &rows {
        writeln!(output, "{a:id$}  {b:name$}  {c:>age$}  {d:expires$}  {e}")?;
    }
    Ok(())
}
