//! Paths of files.

use std::fs::File;
use std::path::PathBuf;

use schemars::json_schema;

use super::decode::{Decode, Decoder};
use super::diagnostics::Diagnostic;
use super::document::Node;
use super::scalars::leaf_schema;
use super::source::ReadError;

/// The path of a file that belongs to the configuration. Relative paths start at the file that names them.
#[derive(Debug)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Decode for FilePath {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let path = path(node, decoder)?;
        decoder.files.push(path.clone());
        Some(Self(path))
    }
}

fn path(node: &Node, decoder: &mut Decoder<'_>) -> Option<PathBuf> {
    const PATH: &str = "the path of a file";
    let text = decoder.string(node, PATH)?;
    if text.contains("-----BEGIN ") {
        decoder.hide(node);
        let error =
            Diagnostic::error("invalid path").at(node.span, "found a PEM block, expected the path of a file");
        return decoder.reject(error.hint("write the block to a file and use its path here"));
    }
    if text.is_empty() || text.contains('\0') {
        return decoder.mismatch(node, "invalid path", PATH);
    }
    Some(decoder.directory(node).join(&*text))
}

leaf_schema!(FilePath, json_schema!({"type": "string", "minLength": 1}));

/// The path of a file that the gateway itself writes; its changes cause no reload.
#[derive(Debug)]
pub(crate) struct PrivatePath(pub(crate) PathBuf);

impl Decode for PrivatePath {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        path(node, decoder).map(Self)
    }
}

leaf_schema!(PrivatePath, json_schema!({"type": "string", "minLength": 1}));

/// The path of a file that can be opened. Its contents are validated where it is used.
#[derive(Debug)]
pub(crate) struct ReadableFile(pub(crate) PathBuf);

impl Decode for ReadableFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let FilePath(path) = FilePath::decode(node, decoder)?;
        let opened = File::open(&path).and_then(|file| file.metadata()).map_err(ReadError::from);
        let error = match opened {
            Ok(metadata) if metadata.is_dir() => ReadError::Directory,
            Ok(_) => return Some(Self(path)),
            Err(error) => error,
        };
        decoder.reject(Diagnostic::error("cannot read the file").at(node.span, error.to_string()))
    }
}

leaf_schema!(ReadableFile, json_schema!({"type": "string", "minLength": 1}));
