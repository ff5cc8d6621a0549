//! Files as they were read, and places in them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

/// The largest file that is read, in bytes: the full map of Stockaj takes 8 KiB.
pub(super) const LARGEST: u64 = 1024 * 1024;

/// The largest OpenAPI document, in bytes: with all its schemas it may be long.
const LARGEST_DOCUMENT: u64 = 8 * LARGEST;

/// A range of bytes in one of a report's sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    /// The source's index.
    pub(super) source: usize,
    /// The first byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
}

/// A configuration file's text.
pub(super) struct Source {
    /// The file as it was named.
    pub(super) name: Arc<str>,
    /// What relative paths in it are relative to.
    pub(super) directory: PathBuf,
    /// Zeroed when it is dropped: secrets may stand in it.
    pub(super) text: Zeroizing<String>,
    /// Bytes that no report shows.
    pub(super) secrets: Vec<Range<usize>>,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is a directory")]
    Directory,
    #[error("it is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
    #[error("it is not UTF-8: line {line} has an invalid byte")]
    NotText { line: usize },
}

/// Without the text, which may hold secrets.
impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, ReadError> {
        Self::read_at_most(path, LARGEST)
    }

    /// An OpenAPI document.
    pub(super) fn read_document(path: &Path) -> Result<Self, ReadError> {
        Self::read_at_most(path, LARGEST_DOCUMENT)
    }

    fn read_at_most(path: &Path, largest: u64) -> Result<Self, ReadError> {
        let mut bytes = read(path, largest)?;
        let text = String::from_utf8(mem::take(&mut *bytes)).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let bytes = Zeroizing::new(error.into_bytes());
            let line = bytes[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
            ReadError::NotText { line }
        })?;
        Ok(Self {
            name: path.display().to_string().into(),
            directory: path.parent().map(Path::to_owned).unwrap_or_default(),
            text: Zeroizing::new(text),
            secrets: Vec::new(),
        })
    }

    /// The line and column of a byte, both from 1, the column in characters.
    pub(super) fn position(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Whether any of these bytes is secret.
    pub(super) fn is_secret(&self, span: Span) -> bool {
        self.secrets
            .iter()
            .any(|secret| secret.start < span.end.max(span.start + 1) && span.start < secret.end)
    }
}

/// The bytes of a file that has at most `largest` of them; zeroed when they are dropped.
pub(super) fn read(path: &Path, largest: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ReadError::Directory);
    }
    // Room for all: growing would leave a copy behind.
    let room = usize::try_from(metadata.len().min(largest) + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(ReadError::TooLarge(largest));
    }
    Ok(bytes)
}
