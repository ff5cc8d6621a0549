//! The file of blocks, which survives restarts.
//!
//! A write replaces the whole file: a new file is written, flushed to the disk and renamed, and so is its directory.
//! A process that is killed at any moment leaves the old file or the new one. A gateway that starts must not lose a
//! block silently, so a file that cannot be read or parsed is an error, while a missing file has no blocks.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::record::{BlockRecord, StoredRecord};
use crate::watch::{FileSignature, file_signature};

/// Largest file that is read, in bytes: several times that of a full list.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The version of the format.
const FORMAT: u32 = 1;

/// How often, and how many times, a process waits while another one writes the file.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const LOCK_ATTEMPTS: usize = 50;

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlockFileError {
    /// The error of the system.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The file has other contents than blocks.
    #[error("{}:{line}:{column}: {message}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// Another version has written the file.
    #[error("{}:1:1: the format is {format}; this version supports {FORMAT}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        format: u32,
    },
}

impl BlockFileError {
    /// Whether the file may be fine, and this process may only not read it.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// The contents of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    blocks: Vec<StoredRecord>,
}

/// The part of the file that all formats share.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// The file of one process.
#[derive(Debug)]
pub struct BlockFile {
    path: PathBuf,
    /// The file as it was last read or written by this process.
    seen: Option<FileSignature>,
    /// Whether the latest attempt to read it failed.
    is_unreadable: bool,
}

impl BlockFile {
    /// Reads the file at `path`, which may be missing.
    ///
    /// # Errors
    /// If it cannot be read, or has other contents.
    pub fn open(path: &Path) -> Result<(Self, Vec<BlockRecord>), BlockFileError> {
        let mut file = Self { path: path.to_owned(), seen: None, is_unreadable: false };
        let records = file.read()?;
        Ok((file, records))
    }

    /// Whether another process has written the file since this one last read or wrote it.
    pub fn has_changed(&self) -> bool {
        file_signature(&self.path) != self.seen
    }

    /// Whether the file did not exist when it was last read.
    pub const fn is_missing(&self) -> bool {
        self.seen.is_none()
    }

    /// Whether the latest attempt to read it failed.
    pub const fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    /// Reads the records. After an error the file still [has changed](Self::has_changed): it may have blocks of another
    /// process, which a write would lose.
    ///
    /// # Errors
    /// If the file exists and cannot be read, or has other contents.
    pub fn read(&mut self) -> Result<Vec<BlockRecord>, BlockFileError> {
        // Before reading: a later change is noticed.
        let signature = file_signature(&self.path);
        let records = self.read_records();
        self.is_unreadable = records.is_err();
        if records.is_ok() {
            self.seen = signature;
        }
        records
    }

    fn read_records(&self) -> Result<Vec<BlockRecord>, BlockFileError> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 > MAX_BYTES => {
                let error = io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than 64 MiB");
                return Err(BlockFileError::io(&self.path)(error));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(BlockFileError::io(&self.path)(error)),
        }
        self.parse(&bytes)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Vec<BlockRecord>, BlockFileError> {
        let content = |line, column, message| BlockFileError::Content {
            path: self.path.clone(),
            line,
            column,
            message,
        };
        let parsed = serde_json::from_slice::<Contents>(bytes);
        let format = match &parsed {
            Ok(contents) => Some(contents.format),
            // Another format may have other fields.
            Err(_) => serde_json::from_slice::<Header>(bytes).ok().map(|header| header.format),
        };
        if let Some(format) = format.filter(|format| *format != FORMAT) {
            return Err(BlockFileError::Format { path: self.path.clone(), format });
        }
        let contents = parsed.map_err(|error| {
            let message = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            content(error.line(), error.column(), message.trim_end_matches(&place).to_owned())
        })?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        // As written: one record in a line.
        let is_as_written = lines == contents.blocks.len() + 2;
        let read = contents.blocks.into_iter().enumerate().map(|(index, stored)| {
            BlockRecord::try_from(stored).map_err(|error| {
                let line = if is_as_written { index + 2 } else { 1 };
                content(line, 1, format!("block {}: {error}", index + 1))
            })
        });
        read.collect()
    }

    /// Locks the file against other processes until the result is dropped; `None` if the file system has no locks.
    ///
    /// # Errors
    /// If another process has held the lock for a second, or the directory cannot be created.
    pub fn lock(&self) -> Result<Option<File>, BlockFileError> {
        let directory = self.directory();
        let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        let opened = created.and_then(|()| File::open(directory)).map_err(BlockFileError::io(directory))?;
        for _ in 0..LOCK_ATTEMPTS {
            match opened.try_lock() {
                Ok(()) => return Ok(Some(opened)),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
        let error =
            io::Error::new(io::ErrorKind::ResourceBusy, "another process holds the lock of this directory");
        Err(BlockFileError::io(directory)(error))
    }

    /// Keeps the contents of a damaged file as `<name>.damaged`, in place of those of an earlier one. The file itself stays
    /// until it is [replaced](Self::write), so that a gateway that starts in between does not miss its blocks.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn keep_damaged(&self) -> Result<(), BlockFileError> {
        let damaged = self.beside(".damaged");
        let removed = match fs::remove_file(&damaged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        // Some file systems have no links.
        let link =
            || fs::hard_link(&self.path, &damaged).or_else(|_| fs::copy(&self.path, &damaged).map(drop));
        removed.and_then(|()| link()).map_err(BlockFileError::io(&damaged))
    }

    /// Replaces the file, which must be [locked](Self::lock). When this returns, the records survive a crash of the machine.
    ///
    /// # Errors
    /// If it cannot be written. The previous file is unchanged.
    pub fn write(&mut self, records: &[BlockRecord]) -> Result<(), BlockFileError> {
        let temporary = self.temporary();
        let written = self.write_and_rename(&temporary, records);
        if written.is_err() {
            // It may have filled the disk.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(BlockFileError::io(&self.path))?;
        (self.seen, self.is_unreadable) = (file_signature(&self.path), false);
        Ok(())
    }

    /// Checks that the file can be written: that its directory exists or can be created, and a file can be created in it.
    ///
    /// # Errors
    /// If not.
    pub fn probe(&self) -> Result<(), BlockFileError> {
        let _lock = self.lock()?;
        let temporary = self.temporary();
        create(&temporary).and_then(|_| fs::remove_file(&temporary)).map_err(BlockFileError::io(&self.path))
    }

    fn write_and_rename(&self, temporary: &Path, records: &[BlockRecord]) -> io::Result<()> {
        let mut file = create(temporary)?;
        file.write_all(&encode(records)?)?;
        file.sync_all()?;
        drop(file);
        fs::rename(temporary, &self.path)?;
        File::open(self.directory())?.sync_all()
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn temporary(&self) -> PathBuf {
        self.beside(".new")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }
}

/// Creates an empty file that only its owner can access.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // It may have existed.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// The contents of a file with these records, one in each line.
fn encode(records: &[BlockRecord]) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = format!("{{\"format\": {FORMAT}, \"blocks\": [").into_bytes();
    for (index, record) in records.iter().enumerate() {
        bytes.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        serde_json::to_writer(&mut bytes, record)?;
    }
    bytes.extend_from_slice(b"\n]}\n");
    Ok(bytes)
}

#[cfg(test)]
mod tests;
