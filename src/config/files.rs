//! Values that name files, which are read or opened where they are named.

use std::fs::File;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Decoder};
use super::report::Mistake;
use super::source::ReadError;
use super::tree::Node;
use super::values::leaf_schema;

/// A path, relative to the file that names it.
#[derive(Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

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
        let mistake =
            Mistake::error("not a path").at(node.span, "found a PEM block, expected the path of a file");
        decoder.record(mistake.hint("put the block into a file and name it here"));
        return None;
    }
    if text.is_empty() || text.contains('\0') {
        decoder.mismatch(node, "not a path", PATH);
        return None;
    }
    Some(decoder.directory(node).join(&*text))
}

leaf_schema!(FilePath, json_schema!({"type": "string", "minLength": 1}));

/// The path of a file of the gateway's own, which changes without a reload.
#[derive(Debug)]
pub(super) struct PrivatePath(pub(super) PathBuf);

impl Decode for PrivatePath {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        path(node, decoder).map(Self)
    }
}

leaf_schema!(PrivatePath, json_schema!({"type": "string", "minLength": 1}));

/// A file that can be read; what is in it is judged by who uses it.
#[derive(Debug)]
pub(super) struct ReadableFile(pub(super) PathBuf);

impl Decode for ReadableFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let FilePath(path) = FilePath::decode(node, decoder)?;
        let opened = File::open(&path).and_then(|file| file.metadata()).map_err(ReadError::from);
        let error = match opened {
            Ok(metadata) if metadata.is_dir() => ReadError::Directory,
            Ok(_) => return Some(Self(path)),
            Err(error) => error,
        };
        decoder.record(Mistake::error("cannot read the file").at(node.span, error.to_string()));
        None
    }
}

leaf_schema!(ReadableFile, json_schema!({"type": "string", "minLength": 1}));
