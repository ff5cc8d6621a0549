//! Secrets: in the configuration, in the environment, or in files. Reports quote no part of them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::SecretString;

use super::decode::{Decode, Decoder};
use super::files::FilePath;
use super::report::Mistake;
use super::source::read;
use super::tree::{Node, Value};
use super::values::{FROM_ENVIRONMENT, leaf_schema};
use crate::secrets::text::{BYTE_ORDER_MARK, decode};

/// The largest file with a secret, in bytes.
const LARGEST: u64 = 64 * 1024;

/// The shortest secret that the gateway accepts from others, in bytes: 128 bits cannot be guessed, if they are
/// random.
pub(super) const SHORTEST_CREDENTIAL: usize = 16;

/// A secret that the gateway shows to others, who decide whether it is good enough.
#[derive(Clone, Debug)]
pub(super) struct Secret(pub(super) SecretString);

/// The same, in a file.
#[derive(Debug)]
pub(super) struct SecretFile(pub(super) SecretString);

/// A secret by which others authenticate themselves to the gateway; at least [`SHORTEST_CREDENTIAL`] bytes.
#[derive(Clone, Debug)]
pub(super) struct Credential(pub(super) SecretString);

/// The same, in a file.
#[derive(Debug)]
pub(super) struct CredentialFile(pub(super) SecretString);

impl Decode for Secret {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        written(node, decoder).map(Self)
    }
}

impl Decode for SecretFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        in_file(node, decoder).map(Self)
    }
}

impl Decode for Credential {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let secret = written(node, decoder)?;
        strong(secret, "the secret", node, decoder).map(Self)
    }
}

impl Decode for CredentialFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let secret = in_file(node, decoder)?;
        strong(secret, "the secret in the file", node, decoder).map(Self)
    }
}

/// A secret in the configuration, or in the environment.
fn written(node: &Node, decoder: &mut Decoder<'_>) -> Option<SecretString> {
    decoder.hide(node);
    let text = decoder.string(node, "text")?;
    let secret = trimmed(&text);
    if secret.is_none() {
        decoder.mismatch(node, "an empty secret", "a secret");
    }
    secret
}

fn in_file(node: &Node, decoder: &mut Decoder<'_>) -> Option<SecretString> {
    let FilePath(path) = FilePath::decode(node, decoder)?;
    let bytes = match read(&path, LARGEST) {
        Ok(bytes) => bytes,
        Err(error) => {
            let mistake = Mistake::error("cannot read the file").at(node.span, error.to_string());
            if is_path(node) {
                decoder.record(mistake);
            } else {
                decoder.hide(node);
                decoder.record(mistake.hint("this key is for the path of a file, not for the secret itself"));
            }
            return None;
        }
    };
    match decode(&bytes) {
        Ok(text) => trimmed(text),
        Err(error) => {
            decoder.record(Mistake::error("not a secret").at(node.span, format!("of the file: {error}")));
            None
        }
    }
}

/// Whether what is written looks like a path, and not like a secret in the place of its file.
fn is_path(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, .. } if text.contains("${")
        || text.contains(['/', '.']) && !text.contains(['+', '=', '|']))
}

/// The secret in a text, without a byte order mark and without line breaks at its end; `None` if nothing is left.
fn trimmed(text: &str) -> Option<SecretString> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_end_matches(['\r', '\n']);
    (!text.is_empty()).then(|| SecretString::from(text.to_owned()))
}

/// Refuses a secret that can be guessed.
fn strong(
    secret: SecretString,
    what: &'static str,
    node: &Node,
    decoder: &mut Decoder<'_>,
) -> Option<SecretString> {
    use secrecy::ExposeSecret as _;

    // White space around a secret makes it no harder to guess.
    if secret.expose_secret().trim().len() >= SHORTEST_CREDENTIAL {
        return Some(secret);
    }
    let label = format!("{what} is shorter than {SHORTEST_CREDENTIAL} bytes and can be guessed");
    let mistake = Mistake::error("a weak secret").at(node.span, label);
    decoder.record(mistake.hint("`openssl rand -hex 32` prints a good one"));
    None
}

leaf_schema!(Secret, json_schema!({"type": "string", "minLength": 1, "writeOnly": true}));
leaf_schema!(SecretFile, json_schema!({"type": "string", "minLength": 1}));
// JSON Schema counts characters: a shorter text of 16 bytes is for `check` to accept.
leaf_schema!(
    Credential,
    json_schema!({
        "type": "string", "minLength": 1, "writeOnly": true,
        "pattern": format!(r"^\s*\S[\s\S]{{14,}}\S\s*$|[^\x00-\x7f]|{FROM_ENVIRONMENT}"),
    })
);
leaf_schema!(CredentialFile, json_schema!({"type": "string", "minLength": 1}));
