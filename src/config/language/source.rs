//! The text of files, and places in it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use zeroize::Zeroizing;

/// The largest configuration or map file, in bytes: the full map of Stockaj takes 8 KiB.
pub const LARGEST: u64 = 1024 * 1024;

/// A range of bytes in one of a report's sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// The source's index.
    pub(crate) source: usize,
    /// The first byte.
    pub(crate) start: usize,
    /// One past the last byte.
    pub(crate) end: usize,
}

/// The text of a file.
pub(crate) struct Source {
    /// The file as it was named.
    pub(crate) name: Arc<str>,
    /// The directory that relative paths in it are relative to.
    pub(crate) directory: PathBuf,
    /// Zeroed on drop, because it may contain secrets.
    pub(crate) text: Zeroizing<String>,
    /// Bytes that no report shows.
    pub(crate) secrets: Vec<Range<usize>>,
    /// Built by the first look-up of a position.
    index: OnceLock<Index>,
}

/// Checkpoints in a text, so that the look-up of a position in a large document does not scan it from its start.
#[derive(Debug)]
struct Index(Vec<Checkpoint>);

/// The counts of everything before a block of [`BLOCK`] bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpoint {
    newlines: usize,
    characters: usize,
}

const BLOCK: usize = 1024;

impl Index {
    fn new(text: &[u8]) -> Self {
        let mut before = Checkpoint::default();
        let blocks = text.chunks(BLOCK).map(|block| {
            let checkpoint = before;
            before.newlines += newlines(block);
            before.characters += characters(block);
            checkpoint
        });
        let mut checkpoints: Vec<Checkpoint> = blocks.collect();
        if checkpoints.is_empty() {
            checkpoints.push(Checkpoint::default());
        }
        Self(checkpoints)
    }

    /// The checkpoint of the block that holds `byte`, and where that block starts.
    fn before(&self, byte: usize) -> (Checkpoint, usize) {
        let number = (byte / BLOCK).min(self.0.len() - 1);
        (self.0[number], number * BLOCK)
    }

    /// Like [`before`](Self::before), for the last block whose `count` is at most `most`.
    fn before_count(&self, most: usize, count: impl Fn(&Checkpoint) -> usize) -> (Checkpoint, usize) {
        let number = self.0.partition_point(|checkpoint| count(checkpoint) <= most).saturating_sub(1);
        (self.0[number], number * BLOCK)
    }
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

/// The number of UTF-8 characters that start in these bytes.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| starts_character(byte)).count()
}

const fn starts_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is a directory")]
    Directory,
    #[error("it is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
    #[error("it is not UTF-8: line {line} has an invalid byte")]
    NotText { line: usize },
}

/// Without the text, which may contain secrets.
impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    /// Reads a file of at most `largest` bytes.
    pub(crate) fn read(path: &Path, largest: u64) -> Result<Self, ReadError> {
        let mut bytes = read(path, largest)?;
        let text = String::from_utf8(mem::take(&mut *bytes)).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let bytes = Zeroizing::new(error.into_bytes());
            let line = bytes[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
            ReadError::NotText { line }
        })?;
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { directory, ..Self::of_text(&path.display().to_string(), text) })
    }

    /// Wraps a text that comes from no file.
    pub(crate) fn of_text(name: &str, text: String) -> Self {
        Self {
            name: name.into(),
            directory: PathBuf::new(),
            text: Zeroizing::new(text),
            secrets: Vec::new(),
            index: OnceLock::new(),
        }
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(self.text.as_bytes()))
    }

    /// The line and column of a byte, both from 1, the column in characters.
    pub(crate) fn position(&self, byte: usize) -> (usize, usize) {
        let byte = byte.min(self.text.len());
        let (checkpoint, start) = self.index().before(byte);
        let lines_before = checkpoint.newlines + newlines(&self.text.as_bytes()[start..byte]);
        let in_line = self.characters_before(byte) - self.characters_before(self.start_of_line(lines_before));
        (lines_before + 1, in_line + 1)
    }

    /// The byte at a line and column, both from 1; `None` if the line does not exist.
    pub(crate) fn offset(&self, line: usize, column: usize) -> Option<usize> {
        let (lines_before, in_line) = (line.checked_sub(1)?, column.checked_sub(1)?);
        if lines_before > newlines(self.text.as_bytes()) {
            return None;
        }
        let before = self.characters_before(self.start_of_line(lines_before)) + in_line;
        let (checkpoint, start) = self.index().before_count(before, |checkpoint| checkpoint.characters);
        let bytes = self.text.as_bytes()[start..].iter().enumerate();
        let mut starts = bytes.filter(|&(_, &byte)| starts_character(byte)).map(|(offset, _)| start + offset);
        Some(starts.nth(before - checkpoint.characters).unwrap_or(self.text.len()))
    }

    /// The first byte of the line with `lines_before` lines before it.
    fn start_of_line(&self, lines_before: usize) -> usize {
        let Some(wanted) = lines_before.checked_sub(1) else { return 0 };
        let (checkpoint, start) = self.index().before_count(wanted, |checkpoint| checkpoint.newlines);
        let bytes = self.text.as_bytes()[start..].iter().enumerate();
        let mut ends = bytes.filter(|&(_, &byte)| byte == b'\n').map(|(offset, _)| start + offset);
        ends.nth(wanted - checkpoint.newlines).map_or(self.text.len(), |end| end + 1)
    }

    fn characters_before(&self, byte: usize) -> usize {
        let (checkpoint, start) = self.index().before(byte);
        checkpoint.characters + characters(&self.text.as_bytes()[start..byte])
    }

    /// The range of the line with `byte`, without its newline.
    pub(crate) fn line_around(&self, byte: usize) -> Range<usize> {
        let lines_before = self.position(byte).0 - 1;
        let (start, next) = (self.start_of_line(lines_before), self.start_of_line(lines_before + 1));
        let end = if self.text[..next].ends_with('\n') && next > start { next - 1 } else { next };
        start..end
    }

    /// Whether any of these bytes is secret.
    pub(crate) fn is_secret(&self, span: Span) -> bool {
        self.secrets
            .iter()
            .any(|secret| secret.start < span.end.max(span.start + 1) && span.start < secret.end)
    }
}

/// Reads a file of at most `largest` bytes, which are zeroed on drop.
pub(crate) fn read(path: &Path, largest: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ReadError::Directory);
    }
    // Enough capacity for all bytes: growing would leave a copy behind.
    let room = usize::try_from(metadata.len().min(largest) + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(ReadError::TooLarge(largest));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Scans the text from its start.
    fn slow_position(text: &str, byte: usize) -> (usize, usize) {
        let before = &text[..byte];
        let line = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
    }

    proptest! {
        #[test]
        fn positions_equal_those_of_a_scan(
            pieces in prop::collection::vec(("[a🦀é\n]{0,3}", prop_oneof![Just(1), 1_usize..900]), 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let text: String = pieces.iter().map(|(piece, times)| piece.repeat(*times)).collect();
            let source = Source::of_text("a", text.clone());
            let boundaries: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
            let byte = *at.get(&boundaries);
            let (line, column) = source.position(byte);
            prop_assert_eq!((line, column), slow_position(&text, byte));
            prop_assert_eq!(source.offset(line, column), Some(byte));
            let start = text[..byte].rfind('\n').map_or(0, |newline| newline + 1);
            let end = text[byte..].find('\n').map_or(text.len(), |newline| byte + newline);
            prop_assert_eq!(source.line_around(byte), start..end);
            prop_assert_eq!(source.offset(text.matches('\n').count() + 2, 1), None);
        }
    }
}
