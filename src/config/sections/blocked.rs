//! `blocked`: tokens that are refused, whatever introspection says.

use schemars::json_schema;

use crate::config::language::{
    Decode, Decoder, Diagnostic, Node, PrivatePath, Spanned, leaf_schema, section,
};
use crate::config::settings;

/// Longest list of ids or names. Other blocks have the same limit of their own.
const MAX_BLOCKS: usize = 10_000;

/// Longest id, in bytes, and longest name, in characters, as for introspected tokens.
const MAX_TEXT: usize = 255;

section! {
    /// The block list: tokens that are refused, whatever introspection says.
    Blocked {
        /// File of the blocks that `tokens block` makes. The gateway creates a missing directory. Only a restart applies
        /// a change of the path.
        path: PrivatePath = "/var/lib/stockaj-gateway/blocked.json",
        /// Ids of blocked tokens, as introspection returns them.
        ids: Spanned<Vec<BlockedId>> = [],
        /// Names of blocked tokens, as introspection returns them.
        names: Spanned<Vec<BlockedName>> = [],
    }
}

/// `blocked.ids[]`
#[derive(Clone, Debug)]
struct BlockedId(Box<str>);

/// `blocked.names[]`
#[derive(Clone, Debug)]
struct BlockedName(Box<str>);

impl Decode for BlockedId {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const ID: &str = "the id of a token, such as 17";
        if node.is_null() {
            return decoder.mismatch(node, "wrong type", ID);
        }
        let text: Box<str> = decoder.scalar(node, ID)?.text.into();
        reject_token(&text, node, decoder)?;
        if text.is_empty() || text.len() > MAX_TEXT {
            return decoder.mismatch(node, "invalid id", "1 to 255 bytes");
        }
        Some(Self(text))
    }
}

impl Decode for BlockedName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text: Box<str> = decoder.string(node, "the name of a token")?.into();
        reject_token(&text, node, decoder)?;
        if text.is_empty() || text.chars().nth(MAX_TEXT).is_some() {
            return decoder.mismatch(node, "invalid name", "1 to 255 characters");
        }
        Some(Self(text))
    }
}

/// Rejects a token in place of its id or name, which would block nothing.
fn reject_token(text: &str, node: &Node, decoder: &mut Decoder<'_>) -> Option<()> {
    let id = text.split_once('|').map(|(id, _)| id);
    if !id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())) {
        return Some(());
    }
    decoder.hide(node);
    let error =
        Diagnostic::error("a token in place of its id").at(node.span, "expected an id or a name, no token");
    decoder
        .reject(error.hint("use the number before the `|` in `blocked.ids`, or `tokens block --token-stdin`"))
}

leaf_schema!(BlockedId, json_schema!({"type": ["string", "integer"], "minLength": 1, "maxLength": MAX_TEXT}));
leaf_schema!(BlockedName, json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_TEXT}));

pub(crate) fn compile(raw: Blocked, decoder: &mut Decoder<'_>) -> settings::Blocked {
    for (key, span, length) in [
        ("blocked.ids", raw.ids.span, raw.ids.value.len()),
        ("blocked.names", raw.names.span, raw.names.value.len()),
    ] {
        if length > MAX_BLOCKS {
            let error = Diagnostic::error("too many blocks").key(key);
            decoder.record(error.at(span, format!("found {length}, expected {MAX_BLOCKS} at most")));
        }
    }
    settings::Blocked {
        path: raw.path.0,
        ids: raw.ids.value.into_iter().map(|id| id.0).collect(),
        names: raw.names.value.into_iter().map(|name| name.0).collect(),
    }
}
