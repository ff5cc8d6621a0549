//! A token of the application, given to a command. It is never printed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::{Exit, MAX_LINE, memory, prompt, report};

/// The environment variable with a token.
const VARIABLE: &str = "STOCKAJ_GATEWAY_TOKEN";

/// `--token-file`
#[derive(Debug, clap::Args)]
pub(super) struct TokenArguments {
    /// A file with a token of the application to probe with, instead of the environment variable STOCKAJ_GATEWAY_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A token and where it is from.
pub(super) struct GivenToken {
    text: Zeroizing<String>,
    source: String,
}

impl GivenToken {
    /// The field that a client sends; `None` if the token is not valid in a field.
    pub(super) fn fields(&self) -> Option<HeaderMap> {
        bearer_fields(&self.text)
    }

    /// Where the token is from.
    pub(super) fn source(&self) -> &str {
        &self.source
    }
}

impl TokenArguments {
    /// Whether the option names a file.
    pub(super) const fn is_given(&self) -> bool {
        self.token_file.is_some()
    }

    /// The token of the file, the environment, or a prompt on a terminal; `None` if there is none.
    ///
    /// # Errors
    /// [`Exit::Failure`] if the file cannot be read, after a report.
    pub(super) fn read(&self) -> Result<Option<GivenToken>, Exit> {
        for (what, error) in memory::protect() {
            report(format_args!("warning: {what}: {error}"));
        }
        let fail = |what: &dyn std::fmt::Display, error: &io::Error| {
            report(format_args!("error: cannot read {what}: {error}"));
            Exit::Failure
        };
        let (text, source) = if let Some(path) = &self.token_file {
            let source = format!("`{}`", path.display());
            (first_line(path).map_err(|error| fail(&source, &error))?, source)
        } else if let Ok(text) = std::env::var(VARIABLE) {
            (Zeroizing::new(text), VARIABLE.to_owned())
        } else if prompt::is_interactive() {
            let text = prompt::secret("A token of the application (not shown; Enter: none)");
            (text.map_err(|error| fail(&"the token", &error))?, "the terminal".to_owned())
        } else {
            return Ok(None);
        };
        let text = Zeroizing::new(text.trim().to_owned());
        Ok((!text.is_empty() || self.is_given()).then_some(GivenToken { text, source }))
    }
}

/// The first line of a file.
fn first_line(path: &Path) -> io::Result<Zeroizing<String>> {
    // A buffer that grows would leave a copy of the token in memory that is not erased.
    let mut text = Zeroizing::new(String::with_capacity(MAX_LINE as usize + 1));
    File::open(path)?.take(MAX_LINE).read_to_string(&mut text)?;
    let end = text.find('\n').unwrap_or(text.len());
    text.truncate(end);
    Ok(text)
}

/// The Authorization field with a token; `None` if the token is not valid in a field.
pub(super) fn bearer_fields(token: &str) -> Option<HeaderMap> {
    let field = Zeroizing::new([b"Bearer ", token.as_bytes()].concat());
    let mut field = HeaderValue::from_maybe_shared(Bytes::from_owner(field)).ok()?;
    field.set_sensitive(true);
    Some(HeaderMap::from_iter([(AUTHORIZATION, field)]))
}
