//! State that all parts of the comparison share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::backend::Backend;
use crate::front::{Front, Identity};
use crate::load::Load;
use crate::peer::{Peer, PeerKind};
use crate::{Options, Result};

pub(crate) struct Session {
    pub(crate) options: Options,
    pub(crate) gateway: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) backend: Backend,
    pub(crate) identity: Identity,
    pub(crate) load: Load,
    pub(crate) interrupted: Arc<AtomicBool>,
}

/// Result of one part.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// A Markdown table.
    pub(crate) table: String,
    /// Every run.
    pub(crate) runs: Value,
    pub(crate) errors: u64,
    pub(crate) versions: Vec<(PeerKind, String)>,
}

impl Session {
    /// Starts the proxies that support `front`, and warms them up. Their files are in a directory of this part.
    pub(crate) fn start_peers(&self, part: &str, kinds: &[PeerKind], front: Front) -> Result<Vec<Peer>> {
        let directory = self.directory.join(part);
        let mut peers = Vec::new();
        for kind in kinds.iter().filter(|kind| kind.speaks(front)) {
            let peer = Peer::start(*kind, front, &self.gateway, &self.backend, &self.identity, &directory)?;
            self.load.warm_up(&peer)?;
            peers.push(peer);
        }
        Ok(peers)
    }

    /// Calls `drive` with each of `subjects` in each round, and starts each round with another one.
    pub(crate) fn rounds<T>(
        &self,
        subjects: &[T],
        mut drive: impl FnMut(u32, &T) -> Result<()>,
    ) -> Result<()> {
        for round in 0..self.options.rounds {
            let first = round as usize % subjects.len().max(1);
            for subject in subjects[first..].iter().chain(&subjects[..first]) {
                if self.interrupted.load(Ordering::Relaxed) {
                    return Err("interrupted".into());
                }
                drive(round, subject)?;
            }
        }
        Ok(())
    }
}
