//! Detects changes of files.
//!
//! The files are polled with one `stat` each. Kernel notifications would be faster, but miss changes: Kubernetes
//! swaps a symlink two directories away from the file, some file systems send none, and a file that is mounted alone
//! has no directory to watch.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A set of files, and their signatures at the last poll.
#[derive(Debug, Default)]
pub struct FileWatcher(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// The signature when the last change was reported.
    reported: Option<FileSignature>,
    /// The signature at the last poll.
    polled: Option<FileSignature>,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        let now = file_signature(&path);
        Self { path, reported: now, polled: now }
    }
}

/// Differs between two states of a file, and between two files of the same name. Symlinks are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSignature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Returns `None` if the file does not exist or its metadata cannot be read.
pub fn file_signature(path: &Path) -> Option<FileSignature> {
    let metadata = fs::metadata(path).ok()?;
    Some(FileSignature {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The SHA-256 of the contents of a file, which may hold a key. Returns `None` if the file cannot be read.
pub fn content_hash(path: &Path) -> Option<[u8; 32]> {
    fs::read(path).ok().map(|bytes| Sha256::digest(&*Zeroizing::new(bytes)).into())
}

impl FileWatcher {
    /// Watches `paths`. Call it before reading the files, so that no change is missed in between.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(Watched::new).collect())
    }

    /// Watches `paths` from now on. Files that were watched before keep their state.
    pub fn replace(&mut self, paths: &[PathBuf]) {
        self.0.retain(|file| paths.contains(&file.path));
        for path in paths {
            if !self.0.iter().any(|file| file.path == *path) {
                self.0.push(Watched::new(path.clone()));
            }
        }
    }

    /// Marks the current state of all files as reported, since the caller reads them now.
    pub fn mark_reported(&mut self) {
        for file in &mut self.0 {
            file.polled = file_signature(&file.path);
            file.reported = file.polled;
        }
    }

    /// Returns the files that differ from their last reported state. Returns nothing if a file has changed since the
    /// last poll: it may be half written, or a certificate may arrive before its key.
    pub fn changed(&mut self) -> Vec<PathBuf> {
        let mut settled = true;
        for file in &mut self.0 {
            let now = file_signature(&file.path);
            settled &= now == file.polled;
            file.polled = now;
        }
        if !settled {
            return Vec::new();
        }
        let changed = self.0.iter_mut().filter(|file| file.polled != file.reported).map(|file| {
            file.reported = file.polled;
            file.path.clone()
        });
        changed.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn change_is_reported_once_and_only_after_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        fs::write(&one, "1").unwrap();
        let mut watch = FileWatcher::new([one.clone(), other.clone()]);
        let nothing: [PathBuf; 0] = [];
        assert_eq!(watch.changed(), nothing);
        assert_eq!(watch.changed(), nothing);
        fs::write(&one, "12").unwrap();
        assert_eq!(watch.changed(), nothing, "it may be half written");
        fs::write(&other, "appears").unwrap();
        assert_eq!(watch.changed(), nothing, "the other one is new");
        assert_eq!(watch.changed(), [one.clone(), other.clone()]);
        assert_eq!(watch.changed(), nothing);
        fs::remove_file(&other).unwrap();
        assert_eq!(watch.changed(), nothing);
        assert_eq!(watch.changed().first(), Some(&other));
        // Same size and time, as a renamed file may have.
        let times = fs::metadata(&one).unwrap().modified().unwrap();
        fs::write(&other, "34").unwrap();
        fs::File::open(&other).unwrap().set_modified(times).unwrap();
        fs::rename(&other, &one).unwrap();
        assert_eq!(watch.changed(), nothing);
        assert_eq!(watch.changed(), [one]);
    }

    #[test]
    fn symlink_swap_of_a_kubernetes_volume_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, text) in [("..first", "1"), ("..second", "2")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), text).unwrap();
        }
        symlink("..first", at("..data")).unwrap();
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        let mut watch = FileWatcher::new([at("tls.crt")]);
        symlink("..second", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [at("tls.crt")]);
    }
}
