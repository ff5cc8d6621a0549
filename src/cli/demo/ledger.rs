//! Where the demo's ledger is: a directory of its own that goes with it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Of this demo only, since it opens the page.
    pub(super) admin_token: String,
}

impl Folder {
    /// A directory that only its owner enters, under a name that nobody else can have taken.
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (name, token) = random.split_at(8);
        let path = std::env::temp_dir().join(format!("stockaj-gateway-demo-{}", hex::encode(name)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, admin_token: hex::encode(token) })
    }

    /// The ledger.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join("usage.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is the system's to clear.
        let _ = fs::remove_dir_all(&self.path);
    }
}
