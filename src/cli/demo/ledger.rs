//! The temporary directory of the demo's ledger.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Removes the directory when dropped.
#[derive(Debug)]
pub(super) struct LedgerDirectory {
    path: PathBuf,
    /// Random, since it gives access to the usage page.
    pub(super) admin_token: String,
}

impl LedgerDirectory {
    /// Creates a directory that only its owner can access. Its random name cannot be taken in advance.
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (name, token) = random.split_at(8);
        let path = std::env::temp_dir().join(format!("stockaj-gateway-demo-{}", hex::encode(name)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, admin_token: hex::encode(token) })
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.join("usage.redb")
    }
}

impl Drop for LedgerDirectory {
    fn drop(&mut self) {
        // If this fails, the operating system cleans its temporary directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}
