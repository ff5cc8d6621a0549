//! Values that name files, which are read or opened where they are named.

use std::fs::File;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::SecretString;

use super::decode::{Decode, Decoder};
use super::report::Mistake;
use super::source::{ReadError, read};
use super::tree::Node;
use super::values::{leaf_schema, secret_of};

/// The most of a secret's file that is read, in bytes.
const LARGEST_SECRET: u64 = 64 * 1024;

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

/// The secret in a file, without line breaks at its end.
#[derive(Debug)]
pub(super) struct SecretFile(pub(super) SecretString);

impl Decode for SecretFile {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let FilePath(path) = FilePath::decode(node, decoder)?;
        let bytes = match read(&path, LARGEST_SECRET) {
            Ok(bytes) => bytes,
            Err(error) => {
                decoder.record(Mistake::error("cannot read the file").at(node.span, error.to_string()));
                return None;
            }
        };
        let secret = std::str::from_utf8(&bytes).ok().and_then(secret_of);
        if secret.is_none() {
            let label = "the file is empty, or holds more than one line of text";
            decoder.record(Mistake::error("not a secret").at(node.span, label));
        }
        secret.map(Self)
    }
}

leaf_schema!(SecretFile, json_schema!({"type": "string", "minLength": 1}));
