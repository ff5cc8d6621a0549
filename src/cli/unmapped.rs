//! `unmapped`: lists the requests that the ability map of a running gateway does not cover.

use std::cmp::Reverse;
use std::io::{self, Write};

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::admin_client::{AdminError, send_authenticated};
use super::table::Align::{Left, Right};
use super::{ConfigArgument, Exit, output, print_json, report, show, table};
use crate::config;
use crate::config::settings::Admin;
use crate::sanitize::sanitize;

/// List the requests that the map of a running gateway does not cover, most frequent first
///
/// Identifiers and secrets in paths are masked as {id}. `--format yaml` prints a map to paste and complete.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    format: UnmappedFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum UnmappedFormat {
    /// Aligned columns for people
    #[default]
    Table,
    /// JSON for programs
    Json,
    /// A map file in which every rule says `deny`, to paste and complete
    Yaml,
}

#[derive(Debug, thiserror::Error)]
enum UnmappedError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the response is not a list of unmapped requests")]
    Response,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let admin = match self.config.path().and_then(|path| config::load_admin(&path)) {
            Ok(admin) => admin,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Failure;
            }
        };
        self.print(&admin).unwrap_or_else(|error| {
            report(format_args!("error: {}: {error}", admin.address));
            Exit::Failure
        })
    }

    fn print(&self, admin: &Admin) -> Result<Exit, UnmappedError> {
        let path = match self.format {
            UnmappedFormat::Yaml => "/unmapped?format=yaml",
            UnmappedFormat::Table | UnmappedFormat::Json => "/unmapped?format=json",
        };
        let response = send_authenticated(admin, Request::get(path), Bytes::new())?;
        if self.format == UnmappedFormat::Yaml {
            let text = str::from_utf8(response.body()).map_err(|_| UnmappedError::Response)?;
            return Ok(output(Exit::Success, |out| {
                text.lines().try_for_each(|line| writeln!(out, "{}", sanitize(line)))
            }));
        }
        let listing: Value = serde_json::from_slice(response.body()).map_err(|_| UnmappedError::Response)?;
        let rows = listing.get("unmapped").and_then(Value::as_array).ok_or(UnmappedError::Response)?;
        let evicted = listing.get("evicted_paths").and_then(Value::as_u64).unwrap_or_default();
        if evicted > 0 {
            report(format_args!("warning: the list is incomplete: {evicted} paths did not fit"));
        }
        Ok(output(Exit::Success, |out| match self.format {
            UnmappedFormat::Json => print_json(&listing, out),
            UnmappedFormat::Table | UnmappedFormat::Yaml => table(rows, out),
        }))
    }
}

fn table(rows: &[Value], output: &mut dyn Write) -> io::Result<()> {
    let text = |value: Option<&Value>| sanitize(value.and_then(Value::as_str).unwrap_or("-"));
    let rows: Vec<[String; 6]> = rows
        .iter()
        .map(|row| {
            let methods = row.get("methods").and_then(Value::as_object).into_iter().flatten();
            let mut methods: Vec<(&String, u64)> =
                methods.map(|(method, count)| (method, count.as_u64().unwrap_or_default())).collect();
            methods.sort_by_key(|(_, count)| Reverse(*count));
            let methods: Vec<String> =
                methods.iter().map(|(method, count)| format!("{}={count}", sanitize(method))).collect();
            let tokens = row.get("tokens").and_then(Value::as_array).into_iter().flatten();
            let name = |token: &Value| {
                text(token.get("name").filter(|name| name.is_string()).or_else(|| token.get("id")))
            };
            let mut tokens: Vec<String> = tokens.map(name).collect();
            if row.get("other_tokens_count").and_then(Value::as_u64).is_some_and(|count| count > 0) {
                tokens.push("…".to_owned());
            }
            [
                row.get("count").and_then(Value::as_u64).unwrap_or_default().to_string(),
                text(row.get("path")),
                methods.join(" "),
                text(row.get("reason")),
                tokens.join(", "),
                text(row.get("last_seen")),
            ]
        })
        .collect();
    let columns = [
        ("COUNT", Right),
        ("PATH", Left),
        ("METHODS", Left),
        ("REASON", Left),
        ("TOKENS", Left),
        ("LAST SEEN", Left),
    ];
    table::write(columns, &rows, output)
}
