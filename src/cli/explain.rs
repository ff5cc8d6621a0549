//! `explain`: one decision, step by step.

use super::{ConfigArgument, Exit, report};

/// Explain the decision on a request; exit 0 when it is allowed, 1 when it is denied
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The method, such as GET
    method: String,
    /// The path, such as /api/v2/items
    path: String,
    #[command(flatten)]
    config: ConfigArgument,
    /// The token's abilities, separated by commas; without them the request carries no token
    #[arg(long, value_delimiter = ',', value_name = "ABILITIES", conflicts_with = "token_stdin")]
    abilities: Option<Vec<String>>,
    /// Read a token from standard input and ask the introspector about it
    #[arg(long)]
    token_stdin: bool,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        report(format_args!("error: `explain` is not built yet ({self:?})"));
        Exit::Wrong
    }
}
