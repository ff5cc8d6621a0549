//! Whether files have changed.
//!
//! They are looked at once in a while: a `stat` a file. Notifications of the kernel would tell sooner, but not of
//! every change: Kubernetes swaps a symlink two directories away from the file, some file systems have none, and a
//! file that is mounted alone has no directory to watch.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Files, as they were when they were last looked at.
#[derive(Debug, Default)]
pub struct Watch(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// As it was when it was last reported.
    known: Option<Signature>,
    /// As it was at the last look.
    seen: Option<Signature>,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        let now = signature(&path);
        Self { path, known: now, seen: now }
    }
}

/// What differs between two states of a file, or between two files of one name, symlinks followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How a file looks from outside. None: there is no such file, or it cannot be seen.
pub fn signature(path: &Path) -> Option<Signature> {
    let metadata = fs::metadata(path).ok()?;
    Some(Signature {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// SHA-256 of what is in a file, which may be a key; none where it cannot be read. It may be another file under the
/// same name, and the same contents in another file.
pub fn contents(path: &Path) -> Option<[u8; 32]> {
    fs::read(path).ok().map(|bytes| Sha256::digest(&*Zeroizing::new(bytes)).into())
}

impl Watch {
    /// From now on these files. To be called before they are read, so that no change falls in between.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(Watched::new).collect())
    }

    /// From now on these, of which those that were watched before go on.
    pub fn replace(&mut self, paths: &[PathBuf]) {
        self.0.retain(|file| paths.contains(&file.path));
        for path in paths {
            if !self.0.iter().any(|file| file.path == *path) {
                self.0.push(Watched::new(path.clone()));
            }
        }
    }

    /// Takes the files as they are now as reported: for whoever reads them now anyway.
    pub fn take_as_known(&mut self) {
        for file in &mut self.0 {
            file.seen = signature(&file.path);
            file.known = file.seen;
        }
    }

    /// The files that are not as they were when they were last reported. Nothing is reported while one of them has
    /// changed since the last look: a file may be half written, and a certificate come without its key.
    pub fn changed(&mut self) -> Vec<PathBuf> {
        let mut settled = true;
        for file in &mut self.0 {
            let now = signature(&file.path);
            settled &= now == file.seen;
            file.seen = now;
        }
        if !settled {
            return Vec::new();
        }
        let changed = self.0.iter_mut().filter(|file| file.seen != file.known).map(|file| {
            file.known = file.seen;
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
    fn a_change_is_reported_once_and_when_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        fs::write(&one, "1").unwrap();
        let mut watch = Watch::new([one.clone(), other.clone()]);
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
        // Of the same size and time, as a file that is moved into place may be.
        let times = fs::metadata(&one).unwrap().modified().unwrap();
        fs::write(&other, "34").unwrap();
        fs::File::open(&other).unwrap().set_modified(times).unwrap();
        fs::rename(&other, &one).unwrap();
        assert_eq!(watch.changed(), nothing);
        assert_eq!(watch.changed(), [one]);
    }

    #[test]
    fn the_symlinks_of_a_kubernetes_volume_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, text) in [("..first", "1"), ("..second", "2")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), text).unwrap();
        }
        symlink("..first", at("..data")).unwrap();
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        let mut watch = Watch::new([at("tls.crt")]);
        symlink("..second", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [at("tls.crt")]);
    }
}
