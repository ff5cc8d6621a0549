//! Secrets in the configuration, the environment or files. Reports quote no part of them.

use schemars::json_schema;
use secrecy::{ExposeSecret, SecretString};

use super::decode::{Decode, Decoder};
use super::diagnostics::Diagnostic;
use super::document::{Node, Value};
use super::files::FilePath;
use super::scalars::{FROM_ENVIRONMENT, leaf_schema};
use super::source::read;
use crate::secrets::text::{BYTE_ORDER_MARK, decode};

/// The largest file with a secret, in bytes.
const LARGEST: u64 = 64 * 1024;

/// The shortest secret that authenticates others, in bytes: 128 random bits cannot be guessed.
pub(crate) const MIN_CREDENTIAL: usize = 16;

/// A secret that authenticates the gateway to others, who decide about its strength.
#[derive(Clone, Debug)]
pub(crate) struct Secret(pub(crate) SecretString);

/// A [`Secret`] in a file.
#[derive(Debug)]
pub(crate) struct SecretFile(pub(crate) SecretString);

/// A secret that authenticates others to the gateway; at least [`MIN_CREDENTIAL`] bytes.
#[derive(Clone, Debug)]
pub(crate) struct Credential(pub(crate) SecretString);

/// A [`Credential`] in a file.
#[derive(Debug)]
pub(crate) struct CredentialFile(pub(crate) SecretString);

impl Decode for Secret {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        inline(node, decoder).map(Self)
    }
}

impl Decode for SecretFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        in_file(node, decoder).map(Self)
    }
}

impl Decode for Credential {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let secret = inline(node, decoder)?;
        strong(secret, "the secret", node, decoder).map(Self)
    }
}

impl Decode for CredentialFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let secret = in_file(node, decoder)?;
        strong(secret, "the secret in the file", node, decoder).map(Self)
    }
}

/// A secret in the configuration or the environment.
fn inline(node: &Node, decoder: &mut Decoder<'_>) -> Option<SecretString> {
    decoder.hide(node);
    let text = decoder.string(node, "text")?;
    trimmed(&text).or_else(|| decoder.mismatch(node, "empty secret", "a secret"))
}

fn in_file(node: &Node, decoder: &mut Decoder<'_>) -> Option<SecretString> {
    let FilePath(path) = FilePath::decode(node, decoder)?;
    let bytes = match read(&path, LARGEST) {
        Ok(bytes) => bytes,
        Err(error) => {
            let error = Diagnostic::error("cannot read the file").at(node.span, error.to_string());
            if is_path(node) {
                decoder.record(error);
            } else {
                decoder.hide(node);
                decoder.record(error.hint("set this key to the path of a file, not to the secret itself"));
            }
            return None;
        }
    };
    match decode(&bytes) {
        Ok(text) => trimmed(text),
        Err(error) => {
            decoder.reject(Diagnostic::error("invalid secret").at(node.span, format!("in the file: {error}")))
        }
    }
}

/// Whether a value looks like a path, and not like a secret in place of one.
fn is_path(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, .. } if text.contains("${")
        || text.contains(['/', '.']) && !text.contains(['+', '=', '|']))
}

/// The secret in a text, without a byte order mark and without line breaks at its end; `None` if nothing is left.
fn trimmed(text: &str) -> Option<SecretString> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_end_matches(['\r', '\n']);
    (!text.is_empty()).then(|| SecretString::from(text.to_owned()))
}

/// Rejects a secret that can be guessed.
fn strong(
    secret: SecretString,
    what: &'static str,
    node: &Node,
    decoder: &mut Decoder<'_>,
) -> Option<SecretString> {
    // White space around a secret makes it no harder to guess.
    if secret.expose_secret().trim().len() >= MIN_CREDENTIAL {
        return Some(secret);
    }
    let label = format!("{what} is shorter than {MIN_CREDENTIAL} bytes and could be guessed");
    let error = Diagnostic::error("weak secret").at(node.span, label);
    decoder.reject(error.hint("generate one with `openssl rand -hex 32`"))
}

leaf_schema!(Secret, json_schema!({"type": "string", "minLength": 1, "writeOnly": true}));
leaf_schema!(SecretFile, json_schema!({"type": "string", "minLength": 1}));
// JSON Schema counts characters, `check` counts bytes.
leaf_schema!(
    Credential,
    json_schema!({
        "type": "string", "minLength": 1, "writeOnly": true,
        "pattern": format!(r"^\s*\S[\s\S]{{14,}}\S\s*$|[^\x00-\x7f]|{FROM_ENVIRONMENT}"),
    })
);

leaf_schema!(CredentialFile, json_schema!({"type": "string", "minLength": 1}));
